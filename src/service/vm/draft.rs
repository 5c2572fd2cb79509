//! From a client's request to a specification that can be carried out on this host: checked,
//! resolved and completed, without a side effect.
//!
//! What new VMs are made of (emulator, machine, CPU, video) comes from libvirt's capabilities;
//! pools, volumes and networks are looked up in the picture, so that a typo is a 404 before
//! anything exists.

pub(super) mod check;
mod disks;

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use uuid::Uuid;

use self::check::{
    clash, contradicts, count, fail, is_word, is_xml_char, not_supported, range, text,
};
use self::disks::Disks;
use crate::config::DomainType;
use crate::error::{Error, Kind, Result};
use crate::model::host::{Capabilities, DomainCapabilities, GuestCapabilities};
use crate::model::vm_request::BootDevice;
use crate::model::{
    CreateVm, DiskAction, DiskDevice, DiskRequest, GraphicsRequest, GraphicsType, NicRequest,
    NicSourceType, ResourceName, VolumeRef,
};
use crate::service::inventory::Picture;
use crate::service::kvm;
use crate::xml::domain::author::{DirectBootPaths, DiskSpec, DomainSpec, NicSpec};

/// PCIe root ports beyond those that the devices take, for devices plugged in later.
const SPARE_PORTS: u8 = 8;

/// A volume that has to be made for a disk.
#[derive(Clone, Debug)]
pub(super) struct NewVolume {
    /// The disk's place in `spec.disks`.
    pub disk: usize,
    pub pool: String,
    pub name: String,
    pub xml: String,
    pub clone_of: Option<VolumeRef>,
}

/// A VM that can be made.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// Complete but for the paths of the new volumes, which are guesses until they exist.
    pub spec: DomainSpec,
    pub volumes: Vec<NewVolume>,
    pub autostart: bool,
    pub start: bool,
}

/// Checks, resolves and completes a request.
///
/// # Errors
/// 400 for values out of range, with every field at once; 404 for what is named and not there;
/// 409 for what exists or is in use; 422 for what this host cannot do or what contradicts itself.
pub(super) fn draft(
    request: CreateVm,
    picture: &Picture,
    domain_type: DomainType,
    owner: &str,
) -> Result<Draft> {
    let (request, name) = flatten(request)?;
    let capabilities = picture.capabilities.as_deref().ok_or_else(|| {
        Error::new(Kind::LibvirtUnavailable, "libvirt's capabilities are not known yet")
            .with_retry_after(std::time::Duration::from_secs(2))
    })?;
    let os = request.os.clone().unwrap_or_default();
    if let Some(firmware) = os.firmware.as_ref().filter(|firmware| firmware.as_str() != "bios") {
        return Err(not_supported("os.firmware", format!("{firmware} is not supported yet")));
    }
    let guest = guest(capabilities, os.architecture.as_ref(), os.machine.as_ref())?;
    let domain_type = choose_domain_type(domain_type, guest)?;
    let preferred = Some(&capabilities.preferred)
        .filter(|preferred| preferred.architecture == guest.architecture);
    let storage = request.storage.clone().unwrap_or_default();
    let default_pool = storage.default_pool.as_ref().map_or("default", ResourceName::as_str);
    let mut disks = Disks::new(picture, &name, preferred, default_pool);
    for (index, disk) in storage.disks.iter().enumerate() {
        disks.add(index, disk)?;
    }
    let (disk_specs, volumes) = disks.done();
    let start = request.start.unwrap_or(false);
    let nics = nics(request.networks.as_deref().unwrap_or_default(), picture, start)?;
    let graphics = graphics(request.graphics.as_deref(), preferred)?;
    let direct_boot = match &os.direct_boot {
        None => None,
        Some(boot) => {
            let path = |volume: &VolumeRef| {
                picture.volume(&volume.pool, &volume.volume).map(|volume| volume.path.clone())
            };
            Some(DirectBootPaths {
                kernel: path(&boot.kernel)?,
                initrd: boot.initrd.as_ref().map(path).transpose()?,
                cmdline: boot.cmdline.clone(),
            })
        }
    };
    let ordered = disk_specs.iter().any(|disk| disk.boot_order.is_some())
        || nics.iter().any(|nic| nic.boot_order.is_some());
    let boot = match os.boot {
        Some(boot) => boot,
        None if ordered => Vec::new(),
        None => default_boot(&disk_specs),
    };
    let memory_mib = request.memory.unwrap_or_default();
    let vcpus = request.vcpus.unwrap_or_default();
    let spec = DomainSpec {
        name,
        uuid: Uuid::new_v4(),
        description: request.description.unwrap_or_default(),
        memory_mib,
        max_memory_mib: request.max_memory.unwrap_or(memory_mib),
        vcpus,
        max_vcpus: request.max_vcpus.unwrap_or(vcpus),
        cpu_mode: cpu_mode(&domain_type, preferred),
        domain_type,
        architecture: guest.architecture.clone(),
        machine: os.machine.map(String::from).or_else(|| preferred_machine(guest, preferred)),
        emulator: Some(guest.emulator.clone()).filter(|emulator| !emulator.is_empty()),
        os_type_word: os.r#type.filter(|word| !word.is_empty()),
        variant: os.variant.filter(|variant| !variant.is_empty()),
        boot,
        direct_boot,
        disks: disk_specs,
        nics,
        graphics,
        video_model: video_model(preferred),
        rng: preferred.is_some_and(|preferred| {
            preferred.rng_backends.iter().any(|backend| backend == "random")
        }),
        labels: request
            .labels
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect::<BTreeMap<String, String>>(),
        owner: Some(owner.to_owned()),
        created_at: Timestamp::now(),
        spare_ports: SPARE_PORTS,
    };
    Ok(Draft { spec, volumes, autostart: request.autostart.unwrap_or(false), start })
}

/// Turns the flat form into the full one and checks ranges; all wrong fields are told at once.
fn flatten(mut request: CreateVm) -> Result<(CreateVm, String)> {
    let mut wrong: Vec<(&str, String)> = Vec::new();
    let name = request.name.clone().map(String::from).unwrap_or_default();
    if name.is_empty() {
        wrong.push(("name", "is required".to_owned()));
    }
    range(&mut wrong, "memory", request.memory, true, 16, 67_108_864);
    range(&mut wrong, "max_memory", request.max_memory, false, 16, 67_108_864);
    range(&mut wrong, "vcpus", request.vcpus.map(u64::from), true, 1, 1024);
    range(&mut wrong, "max_vcpus", request.max_vcpus.map(u64::from), false, 1, 1024);
    range(&mut wrong, "disk_size", request.disk_size, false, 1, 65_536);
    text(&mut wrong, "description", request.description.as_deref(), 8192, is_xml_char);
    text(&mut wrong, "os_type", request.os_type.as_deref(), 64, is_word);
    if let Some(os) = &request.os {
        text(&mut wrong, "os.type", os.r#type.as_deref(), 64, is_word);
        text(&mut wrong, "os.variant", os.variant.as_deref(), 255, |c| {
            is_word(c) || ":/".contains(c)
        });
        if os.boot.as_ref().is_some_and(|boot| boot.len() > 4) {
            wrong.push(("os.boot", "has more than 4 entries".to_owned()));
        }
        let cmdline = os.direct_boot.as_ref().and_then(|boot| boot.cmdline.as_deref());
        text(&mut wrong, "os.direct_boot.cmdline", cmdline, 2048, is_xml_char);
    }
    count(&mut wrong, "networks", request.networks.as_ref().map(Vec::len), 16);
    count(&mut wrong, "graphics", request.graphics.as_ref().map(Vec::len), 4);
    count(
        &mut wrong,
        "storage.disks",
        request.storage.as_ref().map(|storage| storage.disks.len()),
        32,
    );
    count(&mut wrong, "labels", request.labels.as_ref().map(BTreeMap::len), 64);
    fail(&wrong)?;
    let mut clashes: Option<Error> = None;
    let mut together = |one: (&'static str, bool), other: (&'static str, bool)| {
        if one.1 && other.1 {
            let problem = format!("contradicts {}: say one of them", other.0);
            clashes = Some(match clashes.take() {
                None => clash(one.0, problem),
                Some(error) => error.with_field(one.0, problem),
            });
        }
    };
    let storage = ("storage", request.storage.is_some());
    together(("disk_size", request.disk_size.is_some()), storage);
    together(("pool", request.pool.is_some()), storage);
    together(("network", request.network.is_some()), ("networks", request.networks.is_some()));
    let os_type = request.os.as_ref().is_some_and(|os| os.r#type.is_some());
    together(("os_type", request.os_type.is_some()), ("os.type", os_type));
    clashes.map_or(Ok(()), Err)?;
    for (field, given) in [("cloud_init", &request.cloud_init), ("template", &request.template)] {
        if given.is_some() {
            return Err(not_supported(field, "is not supported yet"));
        }
    }
    contradicts("max_memory", request.max_memory, "memory", request.memory)?;
    let (max_vcpus, vcpus) = (request.max_vcpus.map(u64::from), request.vcpus.map(u64::from));
    contradicts("max_vcpus", max_vcpus, "vcpus", vcpus)?;
    if let Some(size) = request.disk_size.take() {
        let storage = request.storage.get_or_insert_default();
        storage.default_pool = request.pool.take();
        storage.disks.push(DiskRequest {
            action: DiskAction::Create,
            size: Some(size),
            format: None,
            pool: None,
            volume: None,
            path: None,
            source: None,
            device: DiskDevice::Disk,
            bus: None,
            boot_order: None,
            read_only: false,
            serial: None,
        });
    }
    if let Some(flat) = request.network.take() {
        request.networks = Some(vec![NicRequest {
            r#type: flat.r#type,
            source: flat.source,
            model: flat.model,
            mac: None,
            boot_order: None,
            link_up: None,
        }]);
    }
    if let Some(word) = request.os_type.take() {
        request.os.get_or_insert_default().r#type = Some(word);
    }
    Ok((request, name))
}

fn guest<'a>(
    capabilities: &'a Capabilities,
    architecture: Option<&ResourceName>,
    machine: Option<&ResourceName>,
) -> Result<&'a GuestCapabilities> {
    let wanted = architecture.map_or(capabilities.architecture.as_str(), ResourceName::as_str);
    let guest = capabilities
        .guests
        .iter()
        .find(|guest| guest.architecture == wanted)
        // Drivers without an emulator, such as the test driver, may name another architecture.
        .or_else(|| capabilities.guests.first().filter(|_| architecture.is_none()))
        .ok_or_else(|| {
            let known: Vec<_> =
                capabilities.guests.iter().map(|guest| guest.architecture.as_str()).collect();
            not_supported("os.architecture", format!("this host runs no {wanted} guests"))
                .with_hint(format!("this host runs {}", known.join(", ")))
        })?;
    if let Some(machine) = machine
        && !guest.machines.iter().any(|known| known == machine.as_str())
    {
        return Err(not_supported(
            "os.machine",
            format!("this host has no machine type {machine}"),
        )
        .with_detail("machines", guest.machines.clone()));
    }
    Ok(guest)
}

/// The domain type of new VMs: as configured, else KVM where it really works.
fn choose_domain_type(configured: DomainType, guest: &GuestCapabilities) -> Result<String> {
    let has = |wanted: &str| guest.domain_types.iter().any(|known| known == wanted);
    let wanted = match configured {
        DomainType::Kvm => "kvm",
        DomainType::Qemu => "qemu",
        DomainType::Auto if has("kvm") && kvm::obstacle().is_none() => "kvm",
        DomainType::Auto => {
            let other = guest.domain_types.iter().find(|known| *known != "kvm");
            return other.cloned().ok_or_else(|| {
                Error::new(
                    Kind::NotSupported,
                    "libvirt offers only KVM for new VMs, and KVM does not work on this host",
                )
                .with_detail("obstacle", kvm::obstacle().unwrap_or_default())
            });
        }
    };
    // A driver that knows neither, such as the test driver, decides for itself.
    if has(wanted) || !(has("kvm") || has("qemu")) {
        let kind = if has(wanted) { Some(wanted) } else { None };
        let first = guest.domain_types.first().map(String::as_str);
        return kind.or(first).map(str::to_owned).ok_or_else(|| {
            Error::new(Kind::NotSupported, "libvirt offers no domain type for new VMs")
        });
    }
    Err(Error::new(
        Kind::NotSupported,
        format!("[libvirt] domain_type is {wanted:?}, which libvirt does not offer here"),
    ))
}

fn cpu_mode(domain_type: &str, preferred: Option<&DomainCapabilities>) -> Option<String> {
    let wanted: &[&str] = match domain_type {
        "kvm" => &["host-model", "host-passthrough"],
        "qemu" => &["maximum"],
        _ => &[],
    };
    let modes = preferred.map(|preferred| preferred.cpu_modes.as_slice()).unwrap_or_default();
    wanted
        .iter()
        .find(|mode| modes.iter().any(|known| known == *mode))
        .map(|mode| (*mode).to_owned())
}

fn preferred_machine(
    guest: &GuestCapabilities,
    preferred: Option<&DomainCapabilities>,
) -> Option<String> {
    let q35 = guest.machines.iter().find(|machine| machine.as_str() == "q35");
    q35.cloned()
        .or_else(|| preferred.map(|preferred| preferred.machine.clone()))
        .filter(|machine| !machine.is_empty())
}

fn video_model(preferred: Option<&DomainCapabilities>) -> Option<String> {
    let models = &preferred?.video_models;
    ["virtio", "vga"]
        .into_iter()
        .find(|model| models.iter().any(|known| known == model))
        .map(str::to_owned)
}

fn graphics(
    request: Option<&[GraphicsRequest]>,
    preferred: Option<&DomainCapabilities>,
) -> Result<Vec<GraphicsType>> {
    let offered = preferred.map(|preferred| preferred.graphics.as_slice()).unwrap_or_default();
    let word = |graphics: GraphicsType| match graphics {
        GraphicsType::Vnc => "vnc",
        GraphicsType::Spice => "spice",
        GraphicsType::None => "none",
    };
    let has = |graphics| offered.iter().any(|known| known == word(graphics));
    let Some(request) = request else {
        return Ok(if has(GraphicsType::Vnc) { vec![GraphicsType::Vnc] } else { Vec::new() });
    };
    let mut chosen = Vec::new();
    for wanted in request.iter().map(|graphics| graphics.r#type) {
        if wanted == GraphicsType::None {
            if request.len() > 1 {
                return Err(Error::new(Kind::Impossible, "graphics: none contradicts the others")
                    .with_field("graphics", "none contradicts the others"));
            }
        } else if !offered.is_empty() && !has(wanted) {
            return Err(not_supported(
                "graphics",
                format!("this host has no {} graphics", word(wanted)),
            ));
        } else if chosen.contains(&wanted) {
            return Err(Error::new(Kind::Impossible, "graphics: the same type twice")
                .with_field("graphics", "the same type twice"));
        } else {
            chosen.push(wanted);
        }
    }
    Ok(chosen)
}

fn default_boot(disks: &[DiskSpec]) -> Vec<BootDevice> {
    let has = |device| disks.iter().any(|disk| disk.device == device);
    let mut boot = vec![BootDevice::Hd];
    if has(DiskDevice::Cdrom) {
        boot.push(BootDevice::Cdrom);
    }
    if has(DiskDevice::Floppy) {
        boot.push(BootDevice::Fd);
    }
    boot
}

fn nics(requests: &[NicRequest], picture: &Picture, start: bool) -> Result<Vec<NicSpec>> {
    let mut macs = HashSet::new();
    let mut nics = Vec::new();
    for (index, request) in requests.iter().enumerate() {
        let field = |name: &str| format!("networks[{index}].{name}");
        if request.boot_order.is_some_and(|order| !(1..=32).contains(&order)) {
            return Err(Error::field(field("boot_order"), "must be between 1 and 32"));
        }
        let source = request.source.as_ref().map(ToString::to_string);
        let source = match request.r#type {
            NicSourceType::Network => {
                let name = source.unwrap_or_else(|| "default".to_owned());
                let network = picture.network(&name)?;
                if start && !network.active {
                    return Err(Error::new(
                        Kind::NetworkInactive,
                        format!("the network {name:?} is not active"),
                    ));
                }
                Some(name)
            }
            NicSourceType::Bridge | NicSourceType::Direct => Some(source.ok_or_else(|| {
                clash(field("source"), "is required for a bridge or a direct NIC")
            })?),
            NicSourceType::User if source.is_some() => {
                return Err(Error::new(Kind::Impossible, "a user NIC has no source")
                    .with_field(field("source"), "must be absent for a user NIC"));
            }
            NicSourceType::User => None,
        };
        let mac = request.mac.as_ref().map(|mac| mac.to_ascii_lowercase());
        if let Some(mac) = &mac {
            check_mac(&field("mac"), mac)?;
            if !macs.insert(mac.clone()) {
                return Err(Error::new(Kind::Impossible, format!("the MAC {mac} twice"))
                    .with_field(field("mac"), "is that of another NIC of this VM"));
            }
        }
        nics.push(NicSpec {
            source_type: request.r#type,
            source,
            model: request.model.as_ref().map_or("virtio", ResourceName::as_str).to_owned(),
            mac,
            boot_order: request.boot_order,
            link_up: request.link_up.unwrap_or(true),
        });
    }
    Ok(nics)
}

fn check_mac(field: &str, mac: &str) -> Result<()> {
    let parts: Vec<&str> = mac.split(':').collect();
    let well_formed = parts.len() == 6
        && parts.iter().all(|part| part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit()));
    if !well_formed {
        return Err(Error::field(field, "is not six hexadecimal pairs with colons"));
    }
    let first = u8::from_str_radix(parts[0], 16).unwrap_or(1);
    if first & 1 == 1 || mac == "00:00:00:00:00:00" {
        return Err(Error::new(Kind::Impossible, format!("{mac} is not the address of one NIC"))
            .with_field(field, "is a multicast address or zero"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_field_is_told_at_once() {
        let request = CreateVm { memory: Some(1), ..CreateVm::default() };
        let error = flatten(request).unwrap_err();
        let fields: Vec<_> = error.details()["fields"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["field"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(fields, ["name", "memory", "vcpus"]);
    }

    #[test]
    fn a_multicast_address_is_no_nic() {
        assert_eq!(check_mac("mac", "01:00:5e:00:00:01").unwrap_err().kind(), Kind::Impossible);
        assert_eq!(check_mac("mac", "52:54:00:zz:00:01").unwrap_err().kind(), Kind::InvalidRequest);
        assert!(check_mac("mac", "52:54:00:12:34:56").is_ok());
    }

    #[test]
    fn kvm_is_taken_only_as_configured_or_where_it_is_offered() {
        let guest = |types: &[&str]| GuestCapabilities {
            domain_types: types.iter().map(|t| (*t).to_owned()).collect(),
            ..GuestCapabilities::default()
        };
        let choose = |configured, types: &[&str]| choose_domain_type(configured, &guest(types));
        assert_eq!(choose(DomainType::Qemu, &["qemu", "kvm"]).unwrap(), "qemu");
        assert_eq!(choose(DomainType::Kvm, &["qemu", "kvm"]).unwrap(), "kvm");
        assert_eq!(choose(DomainType::Kvm, &["qemu"]).unwrap_err().kind(), Kind::NotSupported);
        assert_eq!(choose(DomainType::Auto, &["qemu"]).unwrap(), "qemu");
        assert_eq!(choose(DomainType::Qemu, &["test"]).unwrap(), "test");
    }
}
