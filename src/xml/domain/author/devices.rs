//! What stands in `<devices>` of a new domain XML.

use super::disk::disk;
use super::nic::nic;
use super::{DomainSpec, Machine, firmware, is_graphical};
use crate::model::GraphicsType;
use crate::model::vm_request::{DiskBus, PciAddress, SoundModel, WatchdogAction, WatchdogModel};
use crate::xml::domain::GUEST_AGENT_CHANNEL;
use crate::xml::tree::Element;

/// Devices by request.
#[derive(Clone, Debug, Default)]
pub struct DeviceSpecs {
    pub sound: Option<SoundModel>,
    pub watchdog: Option<(WatchdogModel, WatchdogAction)>,
    pub vsock: Option<VsockSpec>,
    pub filesystems: Vec<FilesystemSpec>,
    /// PCI devices of the host.
    pub pci: Vec<PciAddress>,
}

/// A socket between host and guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VsockSpec {
    /// Chosen by libvirt at each start if absent.
    pub cid: Option<u32>,
}

/// A directory of the host that is shared through virtiofs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesystemSpec {
    /// Allowed by the configuration, without links.
    pub source: String,
    pub tag: String,
    pub read_only: bool,
}

impl DeviceSpecs {
    /// How many PCIe root ports they take. For what is conventional PCI libvirt adds a bridge, with a
    /// port of its own.
    fn ports(&self) -> usize {
        self.filesystems.len()
            + self.pci.len()
            + usize::from(self.vsock.is_some())
            + usize::from(self.sound == Some(SoundModel::Virtio))
    }

    fn elements(&self) -> Vec<Element<'static>> {
        let sound = self.sound.map(sound);
        let watchdog = self.watchdog.map(watchdog);
        let vsock = self.vsock.as_ref().map(vsock);
        let filesystems = self.filesystems.iter().map(filesystem);
        let pci = self.pci.iter().map(hostdev);
        sound.into_iter().chain(watchdog).chain(vsock).chain(filesystems).chain(pci).collect()
    }
}

/// A sound device.
pub(in crate::xml::domain) fn sound(model: SoundModel) -> Element<'static> {
    Element::new("sound").with_attr("model", model.as_str())
}

/// A watchdog.
pub(in crate::xml::domain) fn watchdog(
    (model, action): (WatchdogModel, WatchdogAction),
) -> Element<'static> {
    Element::new("watchdog").with_attr("model", model.as_str()).with_attr("action", action.as_str())
}

/// A socket between host and guest.
pub(in crate::xml::domain) fn vsock(spec: &VsockSpec) -> Element<'static> {
    Element::new("vsock").with_attr("model", "virtio").with_child(
        Element::new("cid")
            .with_attr("auto", if spec.cid.is_some() { "no" } else { "yes" })
            .with_attr_if("address", spec.cid.map(|cid| cid.to_string())),
    )
}

/// A directory of the host.
pub(in crate::xml::domain) fn filesystem(spec: &FilesystemSpec) -> Element<'static> {
    Element::new("filesystem")
        .with_attr("type", "mount")
        .with_attr("accessmode", "passthrough")
        .with_child(Element::new("driver").with_attr("type", "virtiofs"))
        .with_child(Element::new("source").with_attr("dir", &spec.source))
        .with_child(Element::new("target").with_attr("dir", &spec.tag))
        .with_children(spec.read_only.then(|| Element::new("readonly")))
}

/// A PCI device of the host.
pub(in crate::xml::domain) fn hostdev(address: &PciAddress) -> Element<'static> {
    let PciAddress { domain, bus, slot, function } = address;
    let address = Element::new("address")
        .with_attr("domain", format!("0x{domain:04x}"))
        .with_attr("bus", format!("0x{bus:02x}"))
        .with_attr("slot", format!("0x{slot:02x}"))
        .with_attr("function", format!("0x{function:x}"));
    Element::new("hostdev")
        .with_attr("mode", "subsystem")
        .with_attr("type", "pci")
        .with_attr("managed", "yes")
        .with_child(Element::new("source").with_child(address))
}

pub(super) fn devices(spec: &DomainSpec, machine: &Machine) -> Element<'static> {
    let spice = spec.graphics.contains(&GraphicsType::Spice);
    let emulator =
        spec.emulator.as_ref().map(|emulator| Element::new("emulator").with_text(emulator));
    let mut devices =
        Element::new("devices")
            .with_children(emulator)
            .with_children(spec.disks.iter().map(disk))
            .with_children(controllers(spec, machine))
            .with_children(spec.nics.iter().map(nic))
            .with_child(
                Element::new("serial")
                    .with_attr("type", "pty")
                    .with_child(Element::new("target").with_attr("port", "0")),
            )
            .with_child(Element::new("console").with_attr("type", "pty").with_child(
                Element::new("target").with_attr("type", "serial").with_attr("port", "0"),
            ))
            .with_child(channel("unix", GUEST_AGENT_CHANNEL))
            .with_children(spice.then(|| channel("spicevmc", "com.redhat.spice.0")));
    if is_graphical(spec) {
        // Without a tablet the pointer on the console and the guest's drift apart.
        devices = devices
            .with_child(tablet())
            .with_children(spec.graphics.iter().filter_map(graphics))
            .with_child(video(spec.video_model.as_deref()));
    }
    let balloon = if spec.memory.fixed { "none" } else { "virtio" };
    devices
        .with_children(spec.devices.elements())
        .with_child(Element::new("memballoon").with_attr("model", balloon))
        .with_children(spec.rng.then(rng))
        .with_children(firmware::tpm(spec))
}

/// A channel of virtio-serial.
pub(in crate::xml::domain) fn channel(r#type: &str, name: &str) -> Element<'static> {
    Element::new("channel")
        .with_attr("type", r#type)
        .with_child(Element::new("target").with_attr("type", "virtio").with_attr("name", name))
}

/// A random number generator.
pub(in crate::xml::domain) fn rng() -> Element<'static> {
    let backend = Element::new("backend").with_attr("model", "random").with_text("/dev/urandom");
    Element::new("rng").with_attr("model", "virtio").with_child(backend)
}

/// A video device, of libvirt's default model if none is named.
pub(in crate::xml::domain) fn video(model: Option<&str>) -> Element<'static> {
    let model =
        model.map(|model| Element::new("model").with_attr("type", model).with_attr("heads", "1"));
    Element::new("video").with_children(model)
}

/// A pointer whose place on the screen is told, not its moves.
pub(in crate::xml::domain) fn tablet() -> Element<'static> {
    Element::new("input").with_attr("type", "tablet").with_attr("bus", "usb")
}

/// Consoles listen on loopback alone: who may see one is decided by the daemon.
pub(in crate::xml::domain) fn graphics(kind: &GraphicsType) -> Option<Element<'static>> {
    match kind {
        GraphicsType::None => return None,
        GraphicsType::EglHeadless => {
            return Some(Element::new("graphics").with_attr("type", kind.as_str()));
        }
        GraphicsType::Vnc | GraphicsType::Spice => {}
    }
    Some(
        Element::new("graphics")
            .with_attr("type", kind.as_str())
            .with_attr("port", "-1")
            .with_attr("autoport", "yes")
            .with_attr("listen", "127.0.0.1")
            .with_child(
                Element::new("listen")
                    .with_attr("type", "address")
                    .with_attr("address", "127.0.0.1"),
            ),
    )
}

fn controllers(spec: &DomainSpec, machine: &Machine) -> Vec<Element<'static>> {
    let controller = |r#type: &str, model: &str| {
        Element::new("controller").with_attr("type", r#type).with_attr("model", model)
    };
    let mut controllers = Vec::new();
    let scsi = spec.disks.iter().any(|disk| disk.bus == DiskBus::Scsi);
    if scsi && !machine.test {
        controllers.push(controller("scsi", "virtio-scsi"));
    }
    if machine.pcie && spec.spare_ports > 0 && !machine.test {
        // libvirt fills explicit ports before it adds any, so each device has one counted here.
        let disks = spec.disks.iter().filter(|disk| disk.bus == DiskBus::Virtio).count();
        // virtio-serial, the balloon, and USB, which libvirt adds to every x86 machine and to those
        // with a tablet.
        let balloon = usize::from(!spec.memory.fixed);
        let fixed = 1 + balloon + usize::from(machine.x86 || is_graphical(spec));
        let taken = disks + spec.nics.len() + usize::from(scsi) + usize::from(spec.rng) + fixed;
        let taken = taken + spec.devices.ports();
        // libvirt numbers them in order, and takes number 0 for the root complex.
        controllers.push(controller("pci", "pcie-root"));
        for _ in 0..taken + usize::from(spec.spare_ports) {
            controllers.push(controller("pci", "pcie-root-port"));
        }
    }
    controllers
}
