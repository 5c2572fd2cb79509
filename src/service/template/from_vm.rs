//! The settings of a template that is made of a VM: what the API shows of it, without what makes it
//! that one machine. UUID, MAC addresses, firmware variables, TPM state and serial numbers are left
//! out, and so is what cloud-init or Ignition told it.

use serde_json::{Map, Value, json};

use crate::error::{Error, Kind, Result};
use crate::model::vm_request::{CpuRequest, DevicesRequest, VsockRequest};
use crate::model::{Disk, DiskDevice, Tpm, Vm};
use crate::service::inventory::Picture;
use crate::xml::domain::view;

/// The settings; `definition` is that of the next boot.
///
/// # Errors
/// 422 for what a request cannot say.
pub(super) fn settings(picture: &Picture, vm: &Vm, definition: &str) -> Result<Value> {
    let mut settings = Map::new();
    let next = view::read(definition)?;
    for (field, value) in [
        ("memory", json!(next.vm.memory)),
        ("max_memory", json!(next.vm.max_memory)),
        ("vcpus", json!(next.vm.vcpus)),
        ("max_vcpus", json!(next.vm.max_vcpus)),
    ] {
        settings.insert(field.to_owned(), value);
    }
    if !next.vm.labels.is_empty() {
        settings.insert("labels".to_owned(), json!(next.vm.labels));
    }
    settings.insert("os".to_owned(), os(picture, &next.vm, &next)?);
    let networks = next.vm.networks.iter().map(|nic| {
        let kind = nic.source.r#type.as_str();
        if !matches!(kind, "network" | "bridge" | "direct" | "user") {
            return Err(Error::new(
                Kind::Impossible,
                format!(
                    "VM {:?} has a NIC of the type {kind}, which no template can have",
                    vm.name
                ),
            ));
        }
        let mut request = json!({"type": kind});
        if let Some(name) = &nic.source.name {
            request["source"] = json!(name);
        }
        if let Some(model) = &nic.model {
            request["model"] = json!(model);
        }
        if let Some(order) = nic.boot_order {
            request["boot_order"] = json!(order);
        }
        Ok(request)
    });
    settings.insert("networks".to_owned(), Value::Array(networks.collect::<Result<_>>()?));
    let graphics = next.vm.graphics.iter().map(|graphics| graphics.r#type.as_str());
    let mut graphics: Vec<Value> = graphics
        .filter(|kind| matches!(*kind, "vnc" | "spice"))
        .map(|kind| json!({"type": kind}))
        .collect();
    if graphics.is_empty() {
        graphics.push(json!({"type": "none"}));
    }
    settings.insert("graphics".to_owned(), graphics.into());
    // Its state is not taken along: each VM has a TPM of its own.
    let emulated = |tpm: &&Tpm| {
        tpm.backend == "emulator" && matches!(tpm.model.as_str(), "tpm-crb" | "tpm-tis")
    };
    if let Some(tpm) = next.vm.tpm.as_ref().filter(emulated) {
        settings.insert("tpm".to_owned(), json!({"model": tpm.model}));
    }
    hardware(&mut settings, &next.vm);
    // Each VM is told its own by cloud-init or Ignition.
    let seed = vm.cloud_init.as_ref().map(|seed| seed.target.as_str());
    let config = vm.ignition.as_ref().and_then(|told| told.target.as_deref());
    let media = vm.disks.iter().filter(|disk| {
        let target = Some(disk.target.as_str());
        target != seed && target != config
    });
    let media: Vec<Value> = media.filter_map(medium).collect();
    if !media.is_empty() {
        settings.insert("storage".to_owned(), json!({"disks": media}));
    }
    Ok(Value::Object(settings))
}

/// What its processors, memory and devices are like. Where the processors run, its vsock's address and
/// what it has of the host's directories and PCI devices are its own.
fn hardware(settings: &mut Map<String, Value>, vm: &Vm) {
    let mut put = |field: &str, value: Value| settings.insert(field.to_owned(), value);
    if let Some(cpu) = &vm.cpu {
        put("cpu", json!(CpuRequest { pinning: None, ..CpuRequest::clone(cpu) }));
    }
    if let Some(options) = &vm.memory_options {
        put("memory_options", json!(options));
    }
    if let Some(clock) = &vm.clock {
        put("clock", json!(clock));
    }
    if let Some(devices) = &vm.hardware {
        let mut devices = DevicesRequest::clone(devices);
        devices.vsock = devices.vsock.map(|_| VsockRequest::default());
        (devices.filesystems, devices.pci) = (None, None);
        // Without graphics there is nothing to show.
        devices.video = devices.video.filter(|_| !vm.graphics.is_empty());
        put("devices", json!(devices));
    }
}

fn os(picture: &Picture, vm: &Vm, next: &view::DomainView) -> Result<Value> {
    let mut os = Map::new();
    let mut put = |field: &str, value: Value| os.insert(field.to_owned(), value);
    for (field, word) in [("architecture", &vm.os.architecture), ("machine", &vm.os.machine)] {
        if !word.is_empty() {
            put(field, json!(word));
        }
    }
    if !matches!(vm.os.firmware.as_str(), "" | "bios") {
        put("firmware", json!(vm.os.firmware));
    }
    if vm.os.secure_boot {
        put("secure_boot", json!(true));
        if let Some(keys) = vm.os.enrolled_keys {
            put("enrolled_keys", json!(keys));
        }
    }
    if let Some(variant) = &vm.os.variant {
        put("variant", json!(variant));
    }
    if let Some(word) = &next.os_type_word {
        put("type", json!(word));
    }
    let ordered = vm.disks.iter().any(|disk| disk.boot_order.is_some())
        || vm.networks.iter().any(|nic| nic.boot_order.is_some());
    if !ordered && !vm.os.boot.is_empty() {
        put("boot", json!(vm.os.boot));
    }
    if let Some(direct) = &vm.os.direct_boot {
        let volume = |path: &String| match picture.paths.get(path) {
            Some(entry) => Ok(json!(entry.volume)),
            None => Err(Error::new(
                Kind::Impossible,
                format!("VM {:?} boots {path:?}, which is no volume of a known pool", vm.name),
            )
            .with_hint("define the pool that holds its kernel")),
        };
        let mut boot = json!({"kernel": volume(&direct.kernel)?});
        if let Some(initrd) = &direct.initrd {
            boot["initrd"] = volume(initrd)?;
        }
        if let Some(cmdline) = &direct.cmdline {
            boot["cmdline"] = json!(cmdline);
        }
        put("direct_boot", boot);
    }
    Ok(Value::Object(os))
}

/// A drive or a disk that is only read: the same for every VM of the template.
fn medium(disk: &Disk) -> Option<Value> {
    let device = match disk.device {
        DiskDevice::Cdrom => "cdrom",
        DiskDevice::Floppy => "floppy",
        DiskDevice::Disk if disk.read_only || disk.shareable => "disk",
        DiskDevice::Disk | DiskDevice::Lun => return None,
    };
    let mut request = match &disk.volume {
        Some(volume) => {
            json!({"action": "attach", "pool": volume.pool, "volume": volume.volume})
        }
        None if device == "disk" => return None,
        None => json!({"action": "create"}),
    };
    request["device"] = json!(device);
    request["bus"] = json!(disk.bus);
    if device == "disk" {
        request["read_only"] = json!(true);
    }
    if let Some(order) = disk.boot_order {
        request["boot_order"] = json!(order);
    }
    Some(request)
}
