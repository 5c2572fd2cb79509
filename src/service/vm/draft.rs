//! From a client's request to a specification that can be carried out on this host: checked,
//! resolved and completed, without a side effect.
//!
//! What new VMs are made of (emulator, machine, CPU, video) comes from libvirt's capabilities;
//! pools, volumes and networks are looked up in the picture, so that a typo is a 404 before
//! anything exists.

pub(super) mod check;
pub(super) mod cpu;
pub(super) mod devices;
pub(super) mod disks;
pub(super) mod firmware;
mod flat;
pub(super) mod graphics;
pub(super) mod host;
pub(super) mod nics;
pub(super) mod variant;

use std::collections::BTreeMap;

use jiff::Timestamp;
use uuid::Uuid;

use self::check::not_supported;
use self::cpu::{cpu, memory};
use self::devices::{clock, devices};
use self::disks::Disks;
use self::flat::flatten;
use self::graphics::{graphics, video_model};
use self::host::{choose_domain_type, cpu_mode, guest, is_machine, preferred_machine};
use self::nics::nics;
use self::variant::{GuestOs, overcommit};
use super::seed::Content;
use crate::config::{DomainType, Limits, Security};
use crate::error::{Error, Kind, Result};
use crate::model::vm_request::{BootDevice, DirectBoot};
use crate::model::{CreateVm, DiskDevice, OsVariant, ResourceName, VmDirectBoot, VolumeRef};
use crate::service::inventory::Picture;
use crate::xml::domain::author::{DiskSpec, DomainSpec};

/// PCIe root ports beyond those that the devices take, for devices plugged in later.
const SPARE_PORTS: u8 = 8;

/// What a new volume is for, which learns the volume's path when it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The disk at this place in `spec.disks`.
    Disk(usize),
    /// The config that Ignition reads from fw_cfg.
    Ignition,
}

/// A volume that has to be made.
#[derive(Clone, Debug)]
pub(super) struct NewVolume {
    pub purpose: Purpose,
    pub pool: String,
    pub name: String,
    pub xml: String,
    pub clone_of: Option<VolumeRef>,
    /// The volume that it stands on, which must not change.
    pub linked_to: Option<VolumeRef>,
    /// What is written into it.
    pub content: Option<Content>,
}

/// A VM that can be made.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// Complete but for the paths of the new volumes, which are guesses until they exist.
    pub spec: DomainSpec,
    pub volumes: Vec<NewVolume>,
    pub autostart: bool,
    pub start: bool,
    /// What is merged into the definition at the end.
    pub custom: Option<String>,
    /// What should be thought about, for the plan and the task's log.
    pub warnings: Vec<String>,
}

/// Where a VM is to be made, and for whom.
pub(super) struct Site<'a> {
    pub picture: &'a Picture,
    pub domain_type: DomainType,
    pub limits: &'a Limits,
    pub security: &'a Security,
    /// The volume of an image of the library.
    pub isos: &'a (dyn Fn(&str) -> Result<VolumeRef> + Sync),
    /// The system that `os.variant` names, where libosinfo's database is installed.
    pub variant: Option<&'a OsVariant>,
    pub owner: &'a str,
}

/// Checks what a request says by itself, without a look at the host; it may leave out what a template
/// may leave out.
///
/// # Errors
/// 400 for values out of range; 422 for what contradicts itself.
pub(crate) fn check_shape(request: &CreateVm) -> Result<()> {
    let mut request = request.clone();
    if request.name.is_none() {
        request.name = Some(crate::model::VmName::try_from("template".to_owned())?);
    }
    request.memory.get_or_insert(16);
    request.vcpus.get_or_insert(1);
    flatten(request).map(drop)
}

/// Checks, resolves and completes a request.
///
/// # Errors
/// 400 for values out of range, with every field at once; 404 for what is named and not there;
/// 409 for what exists or is in use; 422 for what this host cannot do or what contradicts itself.
pub(super) fn draft(request: CreateVm, site: &Site<'_>) -> Result<Draft> {
    let (request, name) = flatten(request)?;
    let (picture, variant) = (site.picture, site.variant);
    let capabilities = picture.capabilities.as_deref().ok_or_else(|| {
        Error::new(Kind::LibvirtUnavailable, "libvirt's capabilities are not known yet")
            .with_retry_after(std::time::Duration::from_secs(2))
    })?;
    let os = request.os.clone().unwrap_or_default();
    let guest = guest(capabilities, os.architecture.as_ref(), os.machine.as_ref())?;
    let domain_type = choose_domain_type(site.domain_type, guest)?;
    let preferred = Some(&capabilities.preferred)
        .filter(|preferred| preferred.architecture == guest.architecture);
    let machine =
        os.machine.clone().map(String::from).or_else(|| preferred_machine(guest, preferred));
    let made_for =
        firmware::For { architecture: &guest.architecture, machine: machine.as_deref(), preferred };
    let efi = firmware::firmware(&os, &made_for)?;
    let tpm = firmware::tpm(request.tpm, &made_for)?;
    let storage = request.storage.clone().unwrap_or_default();
    let default_pool = storage.default_pool.as_ref().map_or("default", ResourceName::as_str);
    // Another machine has other buses; those libvirt checks itself.
    let same_machine = preferred.filter(|found| {
        machine.as_deref().is_none_or(|machine| is_machine(guest, machine, &found.machine))
    });
    let guest_os = GuestOs::of(variant, machine.as_deref().unwrap_or_default());
    let bus = guest_os.disk_bus;
    let mut disks = Disks::new(picture, &name, same_machine, default_pool, bus, site.isos);
    disks.reserve(&storage.disks);
    for (index, disk) in storage.disks.iter().enumerate() {
        disks.add(index, disk)?;
    }
    let (disk_specs, volumes) = disks.done();
    let start = request.start.unwrap_or(false);
    let nics =
        nics(request.networks.as_deref().unwrap_or_default(), picture, start, guest_os.nic_model)?;
    let graphics = graphics(request.graphics.as_deref(), preferred)?;
    let direct_boot = match &os.direct_boot {
        None => None,
        Some(DirectBoot { kernel, initrd, cmdline }) => {
            Some(direct_boot(picture, kernel, initrd.as_ref(), cmdline.clone())?)
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
    let max_memory_mib = request.max_memory.unwrap_or(memory_mib);
    let max_vcpus = request.max_vcpus.unwrap_or(vcpus);
    let wanted = request.devices.unwrap_or_default();
    let by_request = devices(
        &wanted,
        machine.as_deref().unwrap_or_default(),
        preferred,
        &site.security.virtiofs_roots,
    )?;
    let memory = memory(
        &request.memory_options.unwrap_or_default(),
        (memory_mib, max_memory_mib),
        !by_request.filesystems.is_empty(),
        capabilities,
    )?;
    let usual_mode = cpu_mode(&domain_type, preferred);
    let cpu = cpu(
        &request.cpu.unwrap_or_default(),
        usual_mode,
        (max_vcpus, max_memory_mib),
        capabilities,
        preferred,
    )?;
    let has_random = preferred
        .is_some_and(|preferred| preferred.rng_backends.iter().any(|backend| backend == "random"));
    if wanted.rng == Some(true) && !has_random {
        return Err(not_supported("devices.rng", "this host has no random numbers for guests"));
    }
    let mut warnings = Vec::new();
    overcommit(site.limits, max_memory_mib, capabilities, &mut warnings)?;
    guest_os.needs(&guest.architecture, (vcpus, memory_mib), &mut warnings);
    let video = video_model(wanted.video.as_ref(), preferred)?;
    let spec = DomainSpec {
        name,
        uuid: Uuid::new_v4(),
        title: request.title.unwrap_or_default(),
        description: request.description.unwrap_or_default(),
        memory_mib,
        max_memory_mib,
        vcpus,
        max_vcpus,
        cpu,
        memory,
        clock: clock(&request.clock.unwrap_or_default())?,
        devices: by_request,
        domain_type,
        architecture: guest.architecture.clone(),
        machine,
        emulator: Some(guest.emulator.clone()).filter(|emulator| !emulator.is_empty()),
        os_type_word: os.r#type.filter(|word| !word.is_empty()).or_else(|| guest_os.word()),
        variant: variant
            .map(|variant| variant.id.clone())
            .or(os.variant)
            .filter(|variant| !variant.is_empty()),
        boot,
        efi,
        direct_boot,
        disks: disk_specs,
        nics,
        graphics,
        video_model: video,
        tpm,
        rng: wanted.rng.unwrap_or(has_random),
        labels: request
            .labels
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect::<BTreeMap<String, String>>(),
        owner: Some(site.owner.to_owned()),
        created_at: Timestamp::now(),
        seed: None,
        ignition: None,
        spare_ports: SPARE_PORTS,
    };
    Ok(Draft {
        custom: request.custom_xml,
        warnings,
        spec,
        volumes,
        autostart: request.autostart.unwrap_or(false),
        start,
    })
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

/// What is booted without a boot loader, by the paths of its volumes.
///
/// # Errors
/// 404 for a volume that is not there.
pub(super) fn direct_boot(
    picture: &Picture,
    kernel: &VolumeRef,
    initrd: Option<&VolumeRef>,
    cmdline: Option<String>,
) -> Result<VmDirectBoot> {
    let path = |volume: &VolumeRef| {
        picture.volume(&volume.pool, &volume.volume).map(|volume| volume.path.clone())
    };
    Ok(VmDirectBoot { kernel: path(kernel)?, initrd: initrd.map(path).transpose()?, cmdline })
}
