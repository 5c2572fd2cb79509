//! What an update changes of the machine, its memory, its clock and the devices that a VM has one of:
//! all of it with the next boot, checked as for a new VM.

use serde_json::{Value, json};

use super::super::draft::check::{clash, not_supported};
use super::super::draft::cpu::memory;
use super::super::draft::devices::{check_pci, clock, filesystems, sound, vsock, watchdog};
use super::super::draft::direct_boot;
use super::super::draft::firmware::{self, For};
use super::super::draft::graphics::{graphics, video_model};
use super::super::draft::host::is_machine;
use super::decide::{Decision, Engine};
use super::host::Host;
use crate::error::Result;
use crate::model::firmware::{Firmware, TpmRequest};
use crate::model::host::Capabilities;
use crate::model::vm_request::{
    DevicesRequest, FilesystemRequest, MemoryRequest, SoundModel, WatchdogModel, WatchdogRequest,
};
use crate::model::vm_update::{UpdateDevices, UpdateDirectBoot, UpdateOs};
use crate::model::{GraphicsType, OsRequest, UpdateVm};
use crate::xml::domain::author::MemorySpec;
use crate::xml::domain::edit::HardwareEdit;

const FIXED: &str = "the guest's hardware is fixed while the VM runs";

/// Decides about everything of this kind that the request names.
///
/// # Errors
/// 400 for what is out of range; 422 for what contradicts itself or the VM, and what this host does
/// not have.
pub(super) fn decide(
    engine: &mut Engine<'_>,
    host: &Host<'_>,
    request: &UpdateVm,
    decision: &mut Decision,
) -> Result<()> {
    let mut edit = HardwareEdit::default();
    if let Some(os) = &request.os {
        machine(engine, host, os, &mut edit)?;
        boots_with(engine, host, os, &mut edit, &mut decision.side_effects)?;
        boots_directly(engine, host, os, &mut edit)?;
        variant(engine, os, &mut edit);
    }
    let shared = request.devices.as_ref().and_then(|devices| devices.filesystems.as_deref());
    let shares = match shared {
        Some(wanted) => !wanted.is_empty(),
        None => shared_now(engine).is_some_and(|present| !present.is_empty()),
    };
    // Directories are shared through the memory.
    let must_share = shared.is_some_and(|wanted| !wanted.is_empty());
    let usual = MemoryRequest::default();
    if let Some(wanted) = request.memory_options.as_ref().or(must_share.then_some(&usual)) {
        let config = &decision.config;
        let memory = (
            config.memory_mib.unwrap_or(engine.next.memory),
            config.max_memory_mib.unwrap_or(engine.next.max_memory),
        );
        kept(engine, host, wanted, memory, shares, &mut edit)?;
    }
    if let Some(wanted) = &request.clock {
        let spec = clock(wanted)?;
        let present = engine.next.clock.clone().unwrap_or_default();
        let differs = spec.offset != present.offset || spec.timezone != present.timezone;
        if spec.offset.is_some() && differs {
            let why = "the clock is set when the VM starts";
            let to = json!({"offset": spec.offset, "timezone": spec.timezone});
            engine.note("clock", json!(present), to, Some(why));
            edit.clock = Some(spec);
        }
    }
    let asked_video = request.devices.as_ref().and_then(|devices| devices.video.as_ref());
    if let Some(wanted) = &request.graphics {
        let chosen = graphics(Some(wanted), host.preferred)?;
        let present: Vec<&str> =
            engine.next.graphics.iter().map(|graphics| graphics.r#type.as_str()).collect();
        let words: Vec<&str> = chosen
            .iter()
            .filter(|kind| **kind != GraphicsType::None)
            .map(|kind| kind.as_str())
            .collect();
        let same = words.len() == present.len() && words.iter().all(|word| present.contains(word));
        if !same {
            engine.note("graphics", json!(present), json!(words), Some(FIXED));
            if !words.is_empty() && !has_video(engine) && asked_video.is_none() {
                edit.video = video_model(None, host.preferred)?;
            }
            edit.graphics = Some(chosen);
        }
    }
    if let Some(wanted) = &request.devices {
        devices(engine, host, wanted, &mut edit)?;
    }
    if let Some(wanted) = request.tpm {
        tpm(engine, host, wanted, &mut edit)?;
    }
    decision.config.hardware = edit;
    Ok(())
}

/// The directories of the host that the next boot shares.
fn shared_now<'a>(engine: &Engine<'a>) -> Option<&'a [FilesystemRequest]> {
    engine.next.hardware.as_deref()?.filesystems.as_deref()
}

fn has_video(engine: &Engine<'_>) -> bool {
    engine.next.devices.iter().any(|device| device.kind == "video")
}

/// Another version of the same kind of machine.
fn machine(
    engine: &mut Engine<'_>,
    host: &Host<'_>,
    os: &UpdateOs,
    edit: &mut HardwareEdit,
) -> Result<()> {
    let (present, Some(wanted)) = (engine.next.os.machine.clone(), &os.machine) else {
        return Ok(());
    };
    let wanted = wanted.as_str();
    if let Some(guest) = host.guest {
        if !guest.machines.iter().any(|known| known == wanted) {
            let problem = format!("this host has no machine type {wanted}");
            return Err(not_supported("os.machine", problem)
                .with_detail("machines", guest.machines.clone()));
        }
        if is_machine(guest, wanted, &present) {
            return Ok(());
        }
    }
    if wanted == present {
        return Ok(());
    }
    if kind(wanted) == kind(&present) {
        engine.note("os.machine", json!(present), json!(wanted), Some(FIXED));
        edit.machine = Some(wanted.to_owned());
    } else {
        let why = format!(
            "its devices have their places in a {present}: make a new VM of its disks instead"
        );
        engine.impossible("os.machine", json!(present), json!(wanted), &why);
    }
    Ok(())
}

/// A machine type without its version: `pc-q35-10.0` and `q35` are of one kind.
fn kind(machine: &str) -> &str {
    if machine.contains("q35") {
        return "q35";
    }
    if machine == "pc" || machine.contains("i440fx") {
        return "pc";
    }
    let end = machine.rfind('-').filter(|end| machine[end + 1..].starts_with(char::is_numeric));
    end.map_or(machine, |end| &machine[..end])
}

/// BIOS or UEFI. Variables of UEFI belong to the image that they were made for, and hold what the
/// guest wrote there, so a firmware that has them stays.
fn boots_with(
    engine: &mut Engine<'_>,
    host: &Host<'_>,
    os: &UpdateOs,
    edit: &mut HardwareEdit,
    side_effects: &mut Vec<String>,
) -> Result<()> {
    if os.firmware.is_none() && os.secure_boot.is_none() && os.enrolled_keys.is_none() {
        return Ok(());
    }
    let present = &engine.next.os;
    let was_efi = present.firmware == "efi";
    let to_bios = os.firmware == Some(Firmware::Bios);
    let secure_boot = os.secure_boot.unwrap_or(present.secure_boot && !to_bios);
    let wanted = OsRequest {
        firmware: os.firmware.or(was_efi.then_some(Firmware::Efi)),
        secure_boot: Some(secure_boot),
        enrolled_keys: os.enrolled_keys.or(present.enrolled_keys.filter(|_| secure_boot)),
        ..OsRequest::default()
    };
    let machine = edit.machine.as_deref().unwrap_or(&present.machine);
    let made_for = For {
        architecture: &present.architecture,
        machine: Some(machine).filter(|machine| !machine.is_empty()),
        preferred: host.preferred,
    };
    let efi = firmware::firmware(&wanted, &made_for)?;
    let word = if efi.is_some() { "efi" } else { "bios" };
    let keys = efi.filter(|efi| efi.secure_boot).map(|efi| efi.enrolled_keys);
    let mut changes: Vec<(&str, Value, Value)> = Vec::new();
    if was_efi != efi.is_some() {
        changes.push(("os.firmware", json!(present.firmware), json!(word)));
    }
    if present.secure_boot != keys.is_some() {
        changes.push(("os.secure_boot", json!(present.secure_boot), json!(keys.is_some())));
    }
    if os.enrolled_keys.is_some() && present.enrolled_keys != keys {
        changes.push(("os.enrolled_keys", json!(present.enrolled_keys), json!(keys)));
    }
    if changes.is_empty() {
        return Ok(());
    }
    for (field, from, to) in changes {
        if was_efi {
            let why = "its variables (NVRAM) belong to the firmware that it has: make a new VM of \
                       its disks instead";
            engine.impossible(field, from, to, why);
        } else {
            engine.note(field, from, to, Some("the firmware is what the VM boots with"));
        }
    }
    if !was_efi {
        side_effects.push(
            "gives it a new, empty file of firmware variables; a guest that was installed with BIOS \
             may not boot with UEFI"
                .to_owned(),
        );
        edit.efi = efi;
    }
    Ok(())
}

/// A kernel from volumes, or the boot loader again.
fn boots_directly(
    engine: &mut Engine<'_>,
    host: &Host<'_>,
    os: &UpdateOs,
    edit: &mut HardwareEdit,
) -> Result<()> {
    let Some(UpdateDirectBoot { kernel, initrd, cmdline }) = &os.direct_boot else { return Ok(()) };
    let wanted = match kernel {
        Some(kernel) => Some(direct_boot(host.picture, kernel, initrd.as_ref(), cmdline.clone())?),
        None if initrd.is_some() || cmdline.is_some() => {
            return Err(clash("os.direct_boot.kernel", "is missing: the rest goes with it"));
        }
        None => None,
    };
    let present = engine.next.os.direct_boot.as_deref();
    if wanted.as_ref() != present {
        let why = "the kernel is read when the VM starts";
        engine.note("os.direct_boot", json!(present), json!(wanted), Some(why));
        edit.direct_boot = Some(wanted);
    }
    Ok(())
}

/// What is noted of the system that is installed; what the VM is made of stays.
fn variant(engine: &mut Engine<'_>, os: &UpdateOs, edit: &mut HardwareEdit) {
    let Some(wanted) = &os.variant else { return };
    let wanted = Some(wanted.clone()).filter(|id| !id.is_empty());
    let present = engine.next.os.variant.clone();
    if wanted != present {
        let why = "it is noted in the definition";
        engine.note("os.variant", json!(present), json!(wanted), Some(why));
        edit.variant = Some(wanted);
    }
}

/// How the memory is kept: what is not named stays, and the whole is checked as for a new VM.
fn kept(
    engine: &mut Engine<'_>,
    host: &Host<'_>,
    wanted: &MemoryRequest,
    sizes: (u64, u64),
    shares: bool,
    edit: &mut HardwareEdit,
) -> Result<()> {
    let stored = engine.next.memory_options.clone().unwrap_or_default();
    let hugepages = wanted.hugepages.or(stored.hugepages).unwrap_or(false)
        || (wanted.hugepages.is_none() && wanted.hugepage_size.is_some());
    if wanted.hugepages == Some(false) && wanted.hugepage_size.is_some() {
        return Err(clash("memory_options.hugepage_size", "contradicts hugepages"));
    }
    let whole = MemoryRequest {
        hugepages: Some(hugepages),
        hugepage_size: wanted.hugepage_size.or(stored.hugepage_size).filter(|_| hugepages),
        shared: wanted
            .shared
            .or(stored.shared.filter(|shared| *shared || !shares))
            .or(Some(shares)),
        ballooning: wanted.ballooning.or(stored.ballooning),
    };
    let unknown = Capabilities::default();
    let spec = memory(&whole, sizes, shares, host.capabilities.unwrap_or(&unknown))?;
    let present = MemorySpec {
        hugepages: stored.hugepages.unwrap_or(false),
        hugepage_kib: stored.hugepage_size,
        shared: stored.shared.unwrap_or(false),
        fixed: stored.ballooning == Some(false),
    };
    let parts = [
        ("hugepages", json!(present.hugepages), json!(spec.hugepages)),
        ("hugepage_size", json!(present.hugepage_kib), json!(spec.hugepage_kib)),
        ("shared", json!(present.shared), json!(spec.shared)),
        ("ballooning", json!(!present.fixed), json!(!spec.fixed)),
    ];
    for (name, from, to) in parts {
        if from != to {
            let why = "how the memory is kept is fixed while the VM runs";
            engine.note(&format!("memory_options.{name}"), from, to, Some(why));
        }
    }
    edit.memory = Some(spec).filter(|spec| *spec != present);
    Ok(())
}

fn devices(
    engine: &mut Engine<'_>,
    host: &Host<'_>,
    wanted: &UpdateDevices,
    edit: &mut HardwareEdit,
) -> Result<()> {
    let usual = DevicesRequest::default();
    let stored = engine.next.hardware.as_deref().unwrap_or(&usual);
    let machine = edit.machine.clone().unwrap_or_else(|| engine.next.os.machine.clone());
    if let Some(model) = &wanted.video {
        let chosen = video_model(Some(model), host.preferred)?;
        let shows = edit
            .graphics
            .as_ref()
            .map(|kinds| kinds.iter().any(|kind| *kind != GraphicsType::None));
        let (from, to) = (json!(stored.video), json!(model));
        if !shows.unwrap_or_else(|| has_video(engine)) {
            let why = "a VM without consoles has no video device: give it graphics";
            engine.impossible("devices.video", from, to, why);
        } else if from != to {
            engine.note("devices.video", from, to, Some(FIXED));
            edit.video = chosen;
        }
    }
    if let Some(model) = wanted.sound {
        let chosen = sound(model, &machine)?;
        if chosen != stored.sound {
            let to = json!(chosen.unwrap_or(SoundModel::None));
            engine.note("devices.sound", json!(stored.sound), to, Some(FIXED));
            edit.sound = Some(chosen);
        }
    }
    if let Some(asked) = &wanted.watchdog {
        let present = stored.watchdog.as_ref();
        let model = asked.model.or(present.and_then(|present| present.model));
        let action = asked.action.or_else(|| {
            let same = model == present.and_then(|present| present.model);
            present.and_then(|present| present.action).filter(|_| same)
        });
        let chosen = watchdog(&WatchdogRequest { model, action }, &machine)?;
        let shown = chosen.map(|(model, action)| json!({"model": model, "action": action}));
        let from = json!(present);
        let to = json!(shown);
        let built_in = present.and_then(|present| present.model) == Some(WatchdogModel::Itco);
        if chosen.is_none() && built_in && machine.contains("q35") {
            let why = "itco is part of q35 machines; its action can be none";
            engine.impossible("devices.watchdog", from, to, why);
        } else if from != to {
            engine.note("devices.watchdog", from, to, Some(FIXED));
            edit.watchdog = Some(chosen);
        }
    }
    if let Some(rng) = wanted.rng.filter(|rng| *rng != stored.rng.unwrap_or(false)) {
        let backends = host.preferred.map(|known| known.rng_backends.as_slice());
        let has = |known: &[String]| known.iter().any(|backend| backend == "random");
        if rng && backends.is_some_and(|known| !has(known)) {
            return Err(not_supported("devices.rng", "this host has no random numbers for guests"));
        }
        engine.note("devices.rng", json!(!rng), json!(rng), Some(FIXED));
        edit.rng = Some(rng);
    }
    if let Some(asked) = &wanted.filesystems {
        let chosen = filesystems(asked, host.preferred, host.shareable)?;
        let present = shared_now(engine).unwrap_or_default();
        if present != asked {
            engine.note("devices.filesystems", json!(present), json!(asked), Some(FIXED));
            edit.filesystems = Some(chosen);
        }
    }
    if let Some(asked) = &wanted.pci {
        check_pci(asked)?;
        let present = stored.pci.as_deref().unwrap_or_default();
        if present != asked {
            engine.note("devices.pci", json!(present), json!(asked), Some(FIXED));
            edit.pci = Some(asked.clone());
        }
    }
    if let Some(asked) = &wanted.vsock {
        let spec = vsock(asked)?;
        if stored.vsock.as_ref() != Some(asked) {
            engine.note("devices.vsock", json!(stored.vsock), json!(asked), Some(FIXED));
            edit.vsock = Some(spec);
        }
    }
    Ok(())
}

/// A TPM where there is none, or another interface to it. What the guest has sealed with one would be
/// lost with it, so it is not taken away.
fn tpm(
    engine: &mut Engine<'_>,
    host: &Host<'_>,
    wanted: TpmRequest,
    edit: &mut HardwareEdit,
) -> Result<()> {
    let present = engine.next.tpm.clone();
    let made_for = For {
        architecture: &engine.next.os.architecture,
        machine: Some(engine.next.os.machine.as_str()).filter(|machine| !machine.is_empty()),
        preferred: host.preferred,
    };
    let chosen = firmware::tpm(Some(wanted), &made_for)?;
    let shown = chosen.map(|tpm| json!({"model": tpm.model, "version": tpm.version}));
    match (present, chosen) {
        (None, None) => {}
        (Some(present), None) => {
            let why = "what the guest has sealed with its TPM would be lost: make a new VM without \
                       one instead";
            engine.impossible("tpm", json!(present), json!(false), why);
        }
        // One that is there is what is asked for, unless the request says which.
        (Some(_), Some(_)) if wanted == TpmRequest::Simple(true) => {}
        (Some(present), Some(tpm)) => {
            let same = present.model == tpm.model.as_str()
                && present.version.as_deref().is_none_or(|known| known == tpm.version.as_str());
            if present.backend != "emulator" {
                let why = "its TPM is not one that Vapor made";
                engine.impossible("tpm", json!(present), json!(shown), why);
            } else if !same {
                engine.note("tpm", json!(present), json!(shown), Some(FIXED));
                edit.tpm = Some(chosen);
            }
        }
        (None, Some(_)) => {
            engine.note("tpm", Value::Null, json!(shown), Some(FIXED));
            edit.tpm = Some(chosen);
        }
    }
    Ok(())
}
