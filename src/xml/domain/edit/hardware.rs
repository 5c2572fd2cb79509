//! Changes to what kind of machine it is, how its memory is kept, its clock, and the devices that a
//! VM has one of.
//!
//! A device that changes its model is exchanged for one as creation makes it: addresses and aliases
//! are libvirt's to assign. Devices that Vapor has no word for stay.

use super::{DEVICES_ORDER, DOMAIN_ORDER, OS_ORDER, impossible};
use crate::error::Result;
use crate::model::vm_request::{PciAddress, SoundModel, WatchdogAction, WatchdogModel};
use crate::model::{GraphicsType, VmDirectBoot};
use crate::xml::domain::LIBOSINFO_URI;
use crate::xml::domain::author::{
    self as author_domain, ClockSpec, EfiSpec, FilesystemSpec, MemorySpec, TpmSpec, VsockSpec,
    cpu as author_cpu, devices as author, firmware as author_firmware,
};
use crate::xml::domain::view::details;
use crate::xml::tree::Element;

/// The order of what stands in `<memoryBacking>`.
const BACKING_ORDER: &[&str] =
    &["hugepages", "nosharepages", "locked", "source", "access", "allocation", "discard"];

/// What shall change; what is absent stays, and an empty inner value takes the device away.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HardwareEdit {
    pub machine: Option<String>,
    /// UEFI instead of what there is, which must have no variables of its own.
    pub efi: Option<EfiSpec>,
    /// As a whole.
    pub memory: Option<MemorySpec>,
    pub clock: Option<ClockSpec>,
    pub video: Option<String>,
    pub sound: Option<Option<SoundModel>>,
    pub watchdog: Option<Option<(WatchdogModel, WatchdogAction)>>,
    pub rng: Option<bool>,
    pub vsock: Option<VsockSpec>,
    /// All directories that are shared through virtiofs; one that is there already stays as it is.
    pub filesystems: Option<Vec<FilesystemSpec>>,
    /// All PCI devices of the host; one that is there already stays as it is.
    pub pci: Option<Vec<PciAddress>>,
    pub direct_boot: Option<Option<VmDirectBoot>>,
    /// libosinfo's id.
    pub variant: Option<Option<String>>,
    /// All consoles; of a type that is there already it stays as it is.
    pub graphics: Option<Vec<GraphicsType>>,
    pub tpm: Option<Option<TpmSpec>>,
}

/// `Impossible` for a definition without the elements that a change concerns.
pub(super) fn apply(domain: &mut Element<'_>, edit: &HardwareEdit) -> Result<()> {
    if let Some(machine) = &edit.machine {
        let Some(r#type) = domain.child_mut("os").and_then(|os| os.child_mut("type")) else {
            return Err(impossible("the definition does not say what machine it is".to_owned()));
        };
        r#type.set_attr("machine", machine);
    }
    if let Some(efi) = edit.efi {
        firmware(domain, efi)?;
    }
    if let Some(wanted) = &edit.memory {
        memory(domain, wanted);
    }
    if let Some(wanted) = &edit.clock {
        clock(domain, wanted);
    }
    if let Some(wanted) = &edit.direct_boot {
        direct_boot(domain, wanted.as_ref())?;
    }
    if let Some(wanted) = &edit.variant {
        variant(domain, wanted.as_deref());
    }
    let Some(devices) = domain.child_mut("devices") else { return Ok(()) };
    if let Some(balloon) = edit.memory.as_ref().map(|memory| !memory.fixed) {
        set_balloon(devices, balloon);
    }
    if let Some(wanted) = &edit.graphics {
        graphics(devices, wanted, edit.video.as_deref());
    } else if edit.video.is_some() {
        set_video(devices, edit.video.as_deref());
    }
    if let Some(wanted) = edit.sound {
        exchange(devices, "sound", wanted.map(author::sound));
    }
    if let Some(wanted) = edit.watchdog {
        watchdog(devices, wanted);
    }
    match edit.rng {
        Some(true) if devices.child("rng").is_none() => {
            devices.insert_child_in_order(author::rng(), DEVICES_ORDER);
        }
        Some(false) => exchange(devices, "rng", None),
        _ => {}
    }
    if let Some(wanted) = &edit.vsock {
        exchange(devices, "vsock", Some(author::vsock(wanted)));
    }
    if let Some(wanted) = &edit.filesystems {
        filesystems(devices, wanted);
    }
    if let Some(wanted) = &edit.pci {
        pci(devices, wanted);
    }
    if let Some(wanted) = edit.tpm {
        exchange(devices, "tpm", wanted.map(author_firmware::emulated));
    }
    Ok(())
}

/// One device of this kind, or none.
fn exchange(devices: &mut Element<'_>, name: &str, new: Option<Element<'static>>) {
    devices.retain_elements(|element| !element.is(name));
    if let Some(new) = new {
        devices.insert_child_in_order(new, DEVICES_ORDER);
    }
}

fn direct_boot(domain: &mut Element<'_>, wanted: Option<&VmDirectBoot>) -> Result<()> {
    let Some(os) = domain.child_mut("os") else {
        return Err(impossible("the definition has no <os> to put a kernel in".to_owned()));
    };
    for old in ["kernel", "initrd", "cmdline"] {
        os.remove_child(old);
    }
    for new in wanted.into_iter().flat_map(author_domain::direct_boot) {
        os.insert_child_in_order(new, OS_ORDER);
    }
    Ok(())
}

fn variant(domain: &mut Element<'_>, wanted: Option<&str>) {
    if domain.child("metadata").is_none() {
        domain.insert_child_in_order(Element::new("metadata"), DOMAIN_ORDER);
    }
    let Some(metadata) = domain.child_mut("metadata") else { return };
    metadata.retain_elements(|element| !element.is_in(LIBOSINFO_URI, "libosinfo"));
    if let Some(id) = wanted {
        metadata.push_child(author_domain::variant(id));
    }
}

fn filesystems(devices: &mut Element<'_>, wanted: &[FilesystemSpec]) {
    let mut left: Vec<&FilesystemSpec> = wanted.iter().collect();
    devices.retain_elements(|element| {
        let Some(there) = details::filesystem(element).filter(|_| element.is("filesystem")) else {
            return true;
        };
        let same = left.iter().position(|new| {
            let new = (&new.source, &new.tag, new.read_only);
            (&there.source, &there.tag, there.read_only) == new
        });
        same.map(|at| left.remove(at)).is_some()
    });
    for new in left {
        devices.insert_child_in_order(author::filesystem(new), DEVICES_ORDER);
    }
}

fn pci(devices: &mut Element<'_>, wanted: &[PciAddress]) {
    let mut left: Vec<&PciAddress> = wanted.iter().collect();
    devices.retain_elements(|element| {
        let Some(there) = details::hostdev(element).filter(|_| element.is("hostdev")) else {
            return true;
        };
        left.iter().position(|new| **new == there).map(|at| left.remove(at)).is_some()
    });
    for new in left {
        devices.insert_child_in_order(author::hostdev(new), DEVICES_ORDER);
    }
}

/// libvirt gives every q35 machine its `itco`, and puts it back if it is taken away.
fn watchdog(devices: &mut Element<'_>, wanted: Option<(WatchdogModel, WatchdogAction)>) {
    let itco = WatchdogModel::Itco.as_str();
    let is_itco = |element: &Element<'_>| element.attr("model").as_deref() == Some(itco);
    devices.retain_elements(|element| !element.is("watchdog") || is_itco(element));
    let Some((model, action)) = wanted else { return };
    // QEMU knows one action for all of them.
    let present = devices.child_mut("watchdog");
    let known = present.is_some();
    if let Some(present) = present {
        present.set_attr("action", action.as_str());
    }
    if !known || model != WatchdogModel::Itco {
        devices.insert_child_in_order(author::watchdog((model, action)), DEVICES_ORDER);
    }
}

fn firmware(domain: &mut Element<'_>, efi: EfiSpec) -> Result<()> {
    let Some(os) = domain.child_mut("os") else {
        return Err(impossible("the definition has no <os> to put a firmware in".to_owned()));
    };
    // The image of the old firmware; libvirt chooses the new one.
    for old in ["firmware", "loader", "nvram", "varstore"] {
        os.remove_child(old);
    }
    os.set_attr("firmware", "efi");
    os.insert_child_in_order(author_firmware::wanted(efi), OS_ORDER);
    if efi.secure_boot && efi.smm {
        if domain.child("features").is_none() {
            domain.insert_child_in_order(Element::new("features"), DOMAIN_ORDER);
        }
        if let Some(features) = domain.child_mut("features") {
            features.remove_child("smm");
            features.push_child(Element::new("smm").with_attr("state", "on"));
        }
    }
    Ok(())
}

fn memory(domain: &mut Element<'_>, wanted: &MemorySpec) {
    if domain.child("memoryBacking").is_none() {
        if !wanted.hugepages && !wanted.shared {
            return;
        }
        domain.insert_child_in_order(Element::new("memoryBacking"), DOMAIN_ORDER);
    }
    let Some(backing) = domain.child_mut("memoryBacking") else { return };
    backing.remove_child("hugepages");
    if wanted.hugepages {
        backing.insert_child_in_order(author_cpu::hugepages(wanted.hugepage_kib), BACKING_ORDER);
    }
    let shared = backing.find_attr("access", "mode").as_deref() == Some("shared");
    if wanted.shared && !shared {
        backing.remove_child("access");
        if backing.child("source").is_none() {
            let source = Element::new("source").with_attr("type", "memfd");
            backing.insert_child_in_order(source, BACKING_ORDER);
        }
        let access = Element::new("access").with_attr("mode", "shared");
        backing.insert_child_in_order(access, BACKING_ORDER);
    }
    if !wanted.shared && shared {
        backing.remove_child("access");
        if backing.find_attr("source", "type").as_deref() == Some("memfd") {
            backing.remove_child("source");
        }
    }
    if backing.elements().next().is_none() {
        domain.remove_child("memoryBacking");
    }
}

/// With a balloon the guest's memory can shrink; without an element libvirt adds one.
fn set_balloon(devices: &mut Element<'_>, wanted: bool) {
    let present = devices.find_attr("memballoon", "model").as_deref() != Some("none");
    if present != wanted {
        let model = if wanted { "virtio" } else { "none" };
        let balloon = Element::new("memballoon").with_attr("model", model);
        exchange(devices, "memballoon", Some(balloon));
    }
}

/// Timers stay; what was said of the old offset says nothing of the new one.
fn clock(domain: &mut Element<'_>, wanted: &ClockSpec) {
    let Some(offset) = wanted.offset else { return };
    if domain.child("clock").is_none() {
        domain.insert_child_in_order(Element::new("clock"), DOMAIN_ORDER);
    }
    let Some(clock) = domain.child_mut("clock") else { return };
    for old in ["adjustment", "basis", "start", "timezone"] {
        clock.remove_attr(old);
    }
    clock.set_attr("offset", offset.as_str());
    if let Some(zone) = &wanted.timezone {
        clock.set_attr("timezone", zone);
    }
}

/// The first video device, in its place: it is the one that boots.
fn set_video(devices: &mut Element<'_>, model: Option<&str>) {
    let new = author::video(model);
    match devices.child_mut("video") {
        Some(first) => *first = new,
        None => devices.insert_child_in_order(new, DEVICES_ORDER),
    }
}

/// Consoles, with what goes with them: a video device and a tablet for those that show something, and
/// what only SPICE carries.
fn graphics(devices: &mut Element<'_>, wanted: &[GraphicsType], video: Option<&str>) {
    let wants = |word: &str| wanted.iter().any(|kind| kind.as_str() == word);
    devices.retain_elements(|element| {
        !element.is("graphics") || element.attr("type").is_some_and(|word| wants(&word))
    });
    for kind in wanted {
        let is_it = |element: &Element<'_>| element.attr("type").as_deref() == Some(kind.as_str());
        if !devices.children("graphics").any(is_it)
            && let Some(new) = author::graphics(kind)
        {
            devices.insert_child_in_order(new, DEVICES_ORDER);
        }
    }
    let of_spice = |element: &Element<'_>| {
        let r#type = element.attr("type").map(|word| word.into_owned());
        match element.name() {
            "channel" | "redirdev" | "smartcard" => r#type.as_deref() == Some("spicevmc"),
            "audio" => r#type.as_deref() == Some("spice"),
            _ => false,
        }
    };
    if !wants("spice") {
        devices.retain_elements(|element| !of_spice(element));
    } else if !devices.elements().any(|element| element.is("channel") && of_spice(element)) {
        let channel = author::channel("spicevmc", "com.redhat.spice.0");
        devices.insert_child_in_order(channel, DEVICES_ORDER);
    }
    let shows = wanted.iter().any(|kind| *kind != GraphicsType::None);
    if !shows {
        devices.retain_elements(|element| !element.is("video"));
        return;
    }
    if video.is_some() || devices.child("video").is_none() {
        set_video(devices, video);
    }
    if !devices.children("input").any(|input| input.attr("type").as_deref() == Some("tablet")) {
        devices.insert_child_in_order(author::tablet(), DEVICES_ORDER);
    }
}
