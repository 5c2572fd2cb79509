//! Domain XML as a [`Vm`]: everything the XML knows, in one pass over the tree.
//!
//! The inventory calls this for each domain at start and for each changed one later. What XML does
//! not know (state, autostart, sizes of disks, runtime details) keeps its default. Elements that
//! are missing or strange become defaults too: a VM that others made is shown as far as it is
//! understood, never left out.

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::vm_request::{DiskCache, DiskDiscard, DiskIo};
use crate::model::{
    CloudInitState, Device, Disk, DiskDevice, Graphics, GuestAgentState, Nic, NicSource, Tpm, Vm,
    VmDirectBoot, VmOs, VolumeRef, VolumeUse,
};
use crate::xml::tree::{Document, Element, shown};
use crate::xml::units;

use super::{GUEST_AGENT_CHANNEL, LIBOSINFO_URI, METADATA_URI, ignition};

pub(super) mod details;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// A VM with what the model does not show of its definition.
#[derive(Clone, Debug, Default)]
pub struct DomainView {
    /// The VM.
    pub vm: Vm,
    /// `NotConfigured`, `NotConnected` or `Connected`, as the channel's state says.
    pub guest_agent: GuestAgentState,
    /// Vapor's word for the kind of guest, such as `linux`, if Vapor made the VM.
    pub os_type_word: Option<String>,
    /// What the VM reads besides its disks: the backing chains that libvirt tells, the targets of
    /// copies under way, and the file of its Ignition config.
    pub below: Vec<DiskPlace>,
}

/// Where a disk, or what it stands on, lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPlace {
    pub place: Place,
    pub r#as: VolumeUse,
}

/// A file, a device or a volume by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Path(Box<str>),
    Volume(Box<VolumeRef>),
}

/// The places of a VM's own disks.
pub fn places(disks: &[Disk]) -> impl Iterator<Item = Place> {
    disks.iter().filter_map(|disk| {
        let source = disk.source.as_deref()?;
        Some(match disk.volume.as_ref().filter(|_| disk.source_type == "volume") {
            Some(volume) => Place::Volume(Box::new(volume.clone())),
            None => Place::Path(source.into()),
        })
    })
}

/// The VM that a domain XML describes. `InvalidDefinition` if it is not a domain XML at all.
pub fn parse(xml: &str) -> Result<Vm> {
    Ok(read(xml)?.vm)
}

/// The same as [`parse`], with what else the definition tells.
pub fn read(xml: &str) -> Result<DomainView> {
    let document = Document::parse(xml)?;
    expect_domain(document.root())?;
    Ok(of(document.root()))
}

/// `InvalidDefinition` unless the element is a domain.
pub(super) fn expect_domain(root: &Element<'_>) -> Result<()> {
    if root.is("domain") {
        return Ok(());
    }
    Err(Error::new(
        Kind::InvalidDefinition,
        format!("the XML describes a <{}>, not a <domain>", shown(root.name())),
    ))
}

/// What a domain element says.
pub(super) fn of(domain: &Element<'_>) -> DomainView {
    let mut view = DomainView {
        guest_agent: GuestAgentState::NotConfigured,
        vm: Vm {
            uuid: domain
                .find_text("uuid")
                .and_then(|text| Uuid::parse_str(&text).ok())
                .unwrap_or_default(),
            name: domain.child("name").map(|name| name.text().into_owned()).unwrap_or_default(),
            title: domain
                .child("title")
                .map(|title| title.text().into_owned())
                .filter(|title| !title.is_empty()),
            description: domain
                .child("description")
                .map(|description| description.text().into_owned())
                .unwrap_or_default(),
            ..Vm::default()
        },
        os_type_word: None,
        below: Vec::new(),
    };
    (view.vm.memory, view.vm.max_memory) = memory(domain);
    (view.vm.vcpus, view.vm.max_vcpus) = vcpus(domain);
    devices(domain, &mut view);
    details::read(domain, &mut view.vm);
    view.vm.os = os(domain);
    if view.vm.os.boot.is_empty() {
        view.vm.os.boot = boot_by_order(&view.vm);
    }
    metadata(domain, &mut view);
    if let Some(file) = ignition::file(domain) {
        let place = Place::Path(file.into());
        view.below.push(DiskPlace { place, r#as: VolumeUse::Ignition });
    }
    view
}

/// Present and greatest memory, MiB. What is no whole number is rounded up, as libvirt does when it
/// starts a VM.
pub(super) fn memory(domain: &Element<'_>) -> (u64, u64) {
    let mib = |name: &str| Some(units::bytes_of(domain.child(name)?, KIB)?.div_ceil(MIB));
    let max = mib("memory").unwrap_or_default();
    (mib("currentMemory").unwrap_or(max), max)
}

/// Present and greatest number of virtual CPUs.
pub(super) fn vcpus(domain: &Element<'_>) -> (u32, u32) {
    let Some(vcpu) = domain.child("vcpu") else { return (1, 1) };
    let max = vcpu.text().trim().parse().unwrap_or(1);
    let current = vcpu.attr("current").and_then(|current| current.trim().parse().ok());
    (current.unwrap_or(max), max)
}

fn os(domain: &Element<'_>) -> VmOs {
    let text = |element: &Element<'_>, name| element.attr(name).map(Into::into).unwrap_or_default();
    let mut found = VmOs { domain_type: text(domain, "type"), ..VmOs::default() };
    let Some(os) = domain.child("os") else { return found };
    if let Some(r#type) = os.child("type") {
        found.r#type = r#type.text().trim().to_owned();
        found.architecture = text(r#type, "arch");
        found.machine = text(r#type, "machine");
    }
    let pflash = os.find_attr("loader", "type").as_deref() == Some("pflash");
    found.firmware = match os.attr("firmware") {
        Some(firmware) => firmware.into_owned(),
        None if pflash => "efi".to_owned(),
        None if found.r#type == "hvm" => "bios".to_owned(),
        None => String::new(),
    };
    firmware(os, &mut found);
    found.direct_boot = os.find_text("kernel").map(|kernel| {
        let text = |name: &str| os.find_text(name);
        Box::new(VmDirectBoot { kernel, initrd: text("initrd"), cmdline: text("cmdline") })
    });
    found.boot = os.children("boot").map(|boot| text(boot, "dev")).collect();
    found
}

/// What the firmware can do and where it keeps its variables: as libvirt's auto-selection says it,
/// and as others say it who name the images themselves.
fn firmware(os: &Element<'_>, found: &mut VmOs) {
    let feature = |name: &str| {
        let mut features = os.child("firmware")?.children("feature");
        let feature = features.find(|feature| feature.attr("name").as_deref() == Some(name))?;
        Some(feature.attr("enabled").as_deref() == Some("yes"))
    };
    let secure_loader = || os.find_attr("loader", "secure").as_deref() == Some("yes");
    found.secure_boot = feature("secure-boot").unwrap_or_else(secure_loader);
    found.enrolled_keys = feature("enrolled-keys").filter(|_| found.secure_boot);
    let store = os.find_attr("varstore", "path");
    let nvram = os.child("nvram").and_then(|nvram| {
        let source = nvram
            .child("source")
            .and_then(|source| source_name(&nvram.attr("type").unwrap_or_default(), source));
        let text = || Some(nvram.text().trim().to_owned()).filter(|path| !path.is_empty());
        source.or_else(text)
    });
    found.nvram = nvram.or(store);
}

/// The boot devices of a definition that numbers its devices instead of listing them.
fn boot_by_order(vm: &Vm) -> Vec<String> {
    let disks = vm.disks.iter().filter_map(|disk| {
        let word = match disk.device {
            DiskDevice::Disk | DiskDevice::Lun => "hd",
            DiskDevice::Cdrom => "cdrom",
            DiskDevice::Floppy => "fd",
        };
        Some((disk.boot_order?, word))
    });
    let nics = vm.networks.iter().filter_map(|nic| Some((nic.boot_order?, "network")));
    let mut ordered: Vec<_> = disks.chain(nics).collect();
    ordered.sort_by_key(|(order, _)| *order);
    let mut words: Vec<String> = Vec::new();
    for (_, word) in ordered {
        if !words.iter().any(|known| known == word) {
            words.push(word.to_owned());
        }
    }
    words
}

fn devices(domain: &Element<'_>, view: &mut DomainView) {
    let Some(devices) = domain.child("devices") else { return };
    for element in devices.elements().filter(|element| element.namespace().is_none()) {
        match element.name() {
            "disk" => {
                view.vm.disks.push(disk(element));
                below(element, &mut view.below);
            }
            "interface" => view.vm.networks.push(nic(element)),
            "graphics" => view.vm.graphics.push(graphics(element)),
            // The program that plays the devices, not one of them.
            "emulator" => {}
            name => {
                if name == "channel"
                    && element.find_attr("target", "name").as_deref() == Some(GUEST_AGENT_CHANNEL)
                {
                    view.guest_agent = match element.find_attr("target", "state").as_deref() {
                        Some("connected") => GuestAgentState::Connected,
                        _ => GuestAgentState::NotConnected,
                    };
                }
                if name == "tpm" {
                    view.vm.tpm = Some(tpm(element));
                }
                view.vm.devices.push(device(element));
            }
        }
    }
}

fn disk(element: &Element<'_>) -> Disk {
    let source_type = element.attr("type").unwrap_or_default();
    let source = element.child("source");
    let volume = source.filter(|_| source_type == "volume").and_then(|source| {
        let (pool, volume) = (source.attr("pool")?, source.attr("volume")?);
        Some(VolumeRef { pool: pool.into_owned(), volume: volume.into_owned() })
    });
    let path = match (&volume, source) {
        (Some(volume), _) => Some(volume.volume.clone()),
        (None, Some(source)) => source_name(&source_type, source),
        (None, None) => None,
    };
    Disk {
        target: element.find_attr("target", "dev").unwrap_or_default(),
        device: match element.attr("device").as_deref() {
            Some("cdrom") => DiskDevice::Cdrom,
            Some("floppy") => DiskDevice::Floppy,
            Some("lun") => DiskDevice::Lun,
            _ => DiskDevice::Disk,
        },
        bus: element.find_attr("target", "bus").unwrap_or_default(),
        source_type: match path {
            Some(_) => source_type.into_owned(),
            None => String::new(),
        },
        source: path,
        volume,
        format: element.find_attr("driver", "type"),
        capacity_bytes: None,
        allocation_bytes: None,
        read_only: element.child("readonly").is_some(),
        shareable: element.child("shareable").is_some(),
        boot_order: boot_order(element),
        serial: element.find_text("serial"),
        cache: details::driver(element, "cache", DiskCache::of),
        io: details::driver(element, "io", DiskIo::of),
        discard: details::driver(element, "discard", DiskDiscard::of),
        iothread: details::driver(element, "iothread", |number| number.parse().ok()),
    }
}

/// The chain under a disk or under the target of a copy.
fn below(element: &Element<'_>, places: &mut Vec<DiskPlace>) {
    for (name, r#as) in [("mirror", VolumeUse::Disk), ("backingStore", VolumeUse::Backing)] {
        let Some(layer) = element.child(name) else { continue };
        if let Some(source) = layer.child("source") {
            let names = (source.attr("pool"), source.attr("volume"));
            let r#type = layer.attr("type").unwrap_or_default();
            let place = match names {
                (Some(pool), Some(volume)) => {
                    Some(Place::Volume(Box::new(VolumeRef::new(pool, volume))))
                }
                _ => source_name(&r#type, source).map(|path| Place::Path(path.into())),
            };
            places.extend(place.map(|place| DiskPlace { place, r#as }));
        }
        below(layer, places);
    }
}

/// The path or name of a source, by the source's type.
fn source_name(r#type: &str, source: &Element<'_>) -> Option<String> {
    let attribute = match r#type {
        "file" => "file",
        "block" => "dev",
        "dir" => "dir",
        "network" => "name",
        "volume" => "volume",
        "bridge" => "bridge",
        "direct" | "vdpa" => "dev",
        "vhostuser" | "vhostvdpa" => {
            return source
                .attr("path")
                .or_else(|| source.attr("dev"))
                .map(|path| path.into_owned())
                .filter(|path| !path.is_empty());
        }
        "internal" => "name",
        "nvme" | "hostdev" => return pci_address(source.child("address")?),
        _ => return None,
    };
    source.attr(attribute).map(|name| name.into_owned()).filter(|name| !name.is_empty())
}

/// A PCI address as `lspci` writes it.
fn pci_address(address: &Element<'_>) -> Option<String> {
    let number = |name: &str| {
        let text = address.attr(name)?;
        u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
    };
    let domain = number("domain").unwrap_or_default();
    let (bus, slot, function) = (number("bus")?, number("slot")?, number("function")?);
    Some(format!("{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"))
}

fn boot_order(element: &Element<'_>) -> Option<u32> {
    element.find_attr("boot", "order")?.trim().parse().ok()
}

fn alias(element: &Element<'_>) -> Option<String> {
    element.find_attr("alias", "name")
}

fn nic(element: &Element<'_>) -> Nic {
    let r#type = element.attr("type").unwrap_or_default().into_owned();
    let source = element.child("source");
    // While the VM runs, a NIC in a network over a bridge or macvtap says type='bridge' or
    // type='direct', and names the network beside what it is plugged into.
    let source = match source.and_then(|source| source.attr("network")) {
        Some(network) => {
            NicSource { r#type: "network".to_owned(), name: Some(network.into_owned()) }
        }
        None => NicSource { name: source.and_then(|s| source_name(&r#type, s)), r#type },
    };
    Nic {
        mac: element.find_attr("mac", "address").unwrap_or_default().to_ascii_lowercase(),
        source,
        model: element.find_attr("model", "type"),
        target: element.find_attr("target", "dev"),
        link_up: element.find_attr("link", "state").as_deref() != Some("down"),
        boot_order: boot_order(element),
        alias: alias(element),
        mode: details::mode(element),
        vlan: details::vlan(element),
        inbound: details::limit(element, "inbound"),
        outbound: details::limit(element, "outbound"),
        isolated: (element.find_attr("port", "isolated").as_deref() == Some("yes")).then_some(true),
    }
}

fn graphics(element: &Element<'_>) -> Graphics {
    let listen = element.attr("listen").map(|listen| listen.into_owned()).or_else(|| {
        element
            .children("listen")
            .find_map(|listen| listen.attr("address").or_else(|| listen.attr("socket")))
            .map(|listen| listen.into_owned())
    });
    Graphics {
        r#type: element.attr("type").unwrap_or_default().into_owned(),
        listen: listen.filter(|listen| !listen.is_empty()),
        // libvirt writes -1 as long as it has not chosen one.
        port: element.attr("port").and_then(|port| port.parse().ok()).filter(|port| *port != 0),
        autoport: element.attr("autoport").as_deref() == Some("yes"),
    }
}

fn tpm(element: &Element<'_>) -> Tpm {
    let backend = |name| element.find_attr("backend", name);
    Tpm {
        model: element.attr("model").map(|model| model.into_owned()).unwrap_or_default(),
        backend: backend("type").unwrap_or_default(),
        version: backend("version").filter(|version| version != "default"),
    }
}

fn device(element: &Element<'_>) -> Device {
    let attr = |name: &str| element.attr(name).map(|value| value.into_owned());
    let model = match element.name() {
        "channel" => element.find_attr("target", "name").or_else(|| attr("type")),
        "video" => element.find_attr("model", "type"),
        "smartcard" => attr("mode"),
        _ => attr("model")
            .or_else(|| element.find_attr("model", "name"))
            .or_else(|| element.find_attr("model", "type"))
            .or_else(|| attr("type")),
    };
    Device { kind: element.name().to_owned(), model, alias: alias(element) }
}

fn metadata(domain: &Element<'_>, view: &mut DomainView) {
    let Some(metadata) = domain.child("metadata") else { return };
    view.vm.os.variant = metadata
        .child_in(LIBOSINFO_URI, "libosinfo")
        .and_then(|info| info.child_in(LIBOSINFO_URI, "os"))
        .and_then(|os| os.attr("id"))
        .map(|id| id.into_owned());
    let Some(own) = metadata.child_in(METADATA_URI, "vm") else { return };
    for element in own.elements().filter(|element| element.namespace() == Some(METADATA_URI)) {
        let text = || Some(element.text().trim().to_owned()).filter(|text| !text.is_empty());
        match element.local_name() {
            "label" => {
                if let (Some(key), Some(value)) = (element.attr("key"), element.attr("value")) {
                    view.vm.labels.insert(key.into_owned(), value.into_owned());
                }
            }
            "owner" => view.vm.owner = text(),
            "created" => view.vm.created_at = text().and_then(|text| text.parse().ok()),
            "os-type" => view.os_type_word = text(),
            "seed" => view.vm.cloud_init = seed(element, &view.vm.disks),
            "ignition" => {
                view.vm.ignition = ignition::state(element, domain, &view.vm.disks);
            }
            _ => {}
        }
    }
}

/// What cloud-init reads, as long as the disk is there.
fn seed(element: &Element<'_>, disks: &[Disk]) -> Option<CloudInitState> {
    let attr = |name: &str| element.attr(name).map(|value| value.into_owned());
    let target = attr("target")?;
    let disk = disks.iter().find(|disk| disk.target == target && disk.read_only)?;
    Some(CloudInitState {
        volume: disk.volume.clone(),
        target,
        instance_id: attr("instance-id").unwrap_or_default(),
        hostname: attr("hostname"),
    })
}
