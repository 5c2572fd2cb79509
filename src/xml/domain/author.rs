//! New domain XML from a specification whose values are chosen already.
//!
//! `service/vm` chooses domain type, machine, emulator, CPU mode and video model from libvirt's
//! capabilities; this module puts them where libvirt's schema wants them, together with what every
//! VM of Vapor's gets: virtio devices, a guest agent channel, a serial console, a random number
//! generator, a balloon, and spare PCIe root ports, without which a running VM could not be given
//! another device later. Addresses and aliases are libvirt's to assign.

use std::collections::BTreeMap;

use jiff::Timestamp;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::vm_request::{BootDevice, DiskBus};
use crate::model::{DiskDevice, GraphicsType, NicSourceType};
use crate::xml::tree::Element;

use super::{GUEST_AGENT_CHANNEL, LIBOSINFO_URI, METADATA_URI};

/// A VM to be.
#[derive(Clone, Debug)]
pub struct DomainSpec {
    pub name: String,
    pub uuid: Uuid,
    /// Empty for none.
    pub description: String,
    pub memory_mib: u64,
    /// At least `memory_mib`.
    pub max_memory_mib: u64,
    pub vcpus: u32,
    /// At least `vcpus`.
    pub max_vcpus: u32,
    /// `kvm`, `qemu`, `test`.
    pub domain_type: String,
    /// `x86_64`, …
    pub architecture: String,
    /// libvirt's default if absent.
    pub machine: Option<String>,
    /// libvirt's default if absent.
    pub emulator: Option<String>,
    /// `host-passthrough`, `host-model` or `maximum`; libvirt's default if absent.
    pub cpu_mode: Option<String>,
    /// `linux`, `windows`, …: kept with the VM; a Windows guest's clock is set to local time.
    pub os_type_word: Option<String>,
    /// A libosinfo id (a URI), kept with the VM.
    pub variant: Option<String>,
    /// Not together with a `boot_order` of a disk or NIC.
    pub boot: Vec<BootDevice>,
    pub direct_boot: Option<DirectBootPaths>,
    pub disks: Vec<DiskSpec>,
    pub nics: Vec<NicSpec>,
    pub graphics: Vec<GraphicsType>,
    /// Used if there are graphics; libvirt's default if absent.
    pub video_model: Option<String>,
    /// Whether to add a random number generator fed by `/dev/urandom`.
    pub rng: bool,
    pub labels: BTreeMap<String, String>,
    pub owner: Option<String>,
    pub created_at: Timestamp,
    /// PCIe root ports beyond those that the devices take.
    pub spare_ports: u8,
}

/// What to boot without a boot loader: paths on the host that libvirt gave.
#[derive(Clone, Debug)]
pub struct DirectBootPaths {
    pub kernel: String,
    pub initrd: Option<String>,
    pub cmdline: Option<String>,
}

/// A disk to be.
#[derive(Clone, Debug)]
pub struct DiskSpec {
    pub device: DiskDevice,
    pub bus: DiskBus,
    /// Such as `vda`.
    pub target: String,
    /// libvirt's driver type, such as `qcow2` or `raw`; libvirt's default if absent.
    pub format: Option<String>,
    pub source: DiskSource,
    pub read_only: bool,
    pub serial: Option<String>,
    pub boot_order: Option<u32>,
}

/// What is in a disk.
#[derive(Clone, Debug)]
pub enum DiskSource {
    /// A volume, with its type (`file`, `block`, …) and its path as libvirt tells them.
    Volume { pool: String, volume: String, path: String, r#type: String },
    /// A file on the host that libvirt named.
    File(String),
    /// No medium.
    Empty,
}

/// A NIC to be.
#[derive(Clone, Debug)]
pub struct NicSpec {
    pub source_type: NicSourceType,
    /// The network, bridge or device; absent for `user`.
    pub source: Option<String>,
    pub model: String,
    /// Chosen by libvirt if absent.
    pub mac: Option<String>,
    pub boot_order: Option<u32>,
    pub link_up: bool,
}

/// The domain XML. `Impossible` if two kinds of boot order contradict each other,
/// `InvalidRequest` if a value holds a character XML cannot carry.
pub fn author(spec: &DomainSpec) -> Result<String> {
    let ordered = spec.disks.iter().any(|disk| disk.boot_order.is_some())
        || spec.nics.iter().any(|nic| nic.boot_order.is_some());
    if ordered && !spec.boot.is_empty() {
        return Err(Error::new(
            Kind::Impossible,
            format!(
                "VM {:?} cannot have both a list of boot devices and devices with a boot order",
                spec.name
            ),
        )
        .with_hint("say either os.boot, or boot_order of disks and NICs"));
    }
    let machine = Machine::of(spec);
    let description = (!spec.description.is_empty())
        .then(|| Element::new("description").with_text(&spec.description));
    Element::new("domain")
        .with_attr("type", &spec.domain_type)
        .with_child(Element::new("name").with_text(&spec.name))
        .with_child(Element::new("uuid").with_text(spec.uuid.to_string()))
        .with_children(description)
        .with_child(metadata(spec))
        .with_child(kib("memory", spec.max_memory_mib))
        .with_child(kib("currentMemory", spec.memory_mib))
        .with_child(vcpu(spec))
        .with_child(os(spec))
        .with_children(features(spec))
        .with_children(
            spec.cpu_mode.as_ref().map(|mode| Element::new("cpu").with_attr("mode", mode)),
        )
        .with_child(clock(spec))
        .with_child(Element::new("on_poweroff").with_text("destroy"))
        .with_child(Element::new("on_reboot").with_text("restart"))
        .with_child(Element::new("on_crash").with_text("destroy"))
        .with_children(power_management(spec))
        .with_child(devices(spec, &machine))
        .into_xml()
}

/// What the choice of devices depends on.
struct Machine {
    x86: bool,
    pcie: bool,
    test: bool,
}

impl Machine {
    fn of(spec: &DomainSpec) -> Machine {
        let machine = spec.machine.as_deref().unwrap_or_default();
        let virt = machine == "virt" || machine.starts_with("virt-");
        Machine { x86: is_x86(spec), pcie: machine.contains("q35") || virt, test: is_test(spec) }
    }
}

fn is_x86(spec: &DomainSpec) -> bool {
    matches!(spec.architecture.as_str(), "x86_64" | "i686")
}

fn is_test(spec: &DomainSpec) -> bool {
    spec.domain_type == "test"
}

fn is_graphical(spec: &DomainSpec) -> bool {
    spec.graphics.iter().any(|kind| *kind != GraphicsType::None)
}

fn is_windows(spec: &DomainSpec) -> bool {
    spec.os_type_word.as_deref().is_some_and(|word| word.to_ascii_lowercase().starts_with("win"))
}

fn kib(name: &'static str, mib: u64) -> Element<'static> {
    Element::new(name).with_attr("unit", "KiB").with_text(mib.saturating_mul(1024).to_string())
}

fn metadata(spec: &DomainSpec) -> Element<'static> {
    let mut own = Element::new_in(METADATA_URI, "vapor:vm", "xmlns:vapor");
    for (key, value) in &spec.labels {
        own = own.with_child(
            Element::new("vapor:label").with_attr("key", key).with_attr("value", value),
        );
    }
    let own = own
        .with_children(spec.owner.as_ref().map(|o| Element::new("vapor:owner").with_text(o)))
        .with_child(Element::new("vapor:created").with_text(spec.created_at.to_string()))
        .with_children(
            spec.os_type_word.as_ref().map(|word| Element::new("vapor:os-type").with_text(word)),
        );
    let libosinfo = spec.variant.as_ref().map(|variant| {
        Element::new_in(LIBOSINFO_URI, "libosinfo:libosinfo", "xmlns:libosinfo")
            .with_child(Element::new("libosinfo:os").with_attr("id", variant))
    });
    Element::new("metadata").with_children(libosinfo).with_child(own)
}

fn vcpu(spec: &DomainSpec) -> Element<'static> {
    Element::new("vcpu")
        .with_attr("placement", "static")
        .with_attr_if("current", (spec.vcpus < spec.max_vcpus).then(|| spec.vcpus.to_string()))
        .with_text(spec.max_vcpus.to_string())
}

fn os(spec: &DomainSpec) -> Element<'static> {
    let r#type = Element::new("type")
        .with_attr("arch", &spec.architecture)
        .with_attr_if("machine", spec.machine.as_ref())
        .with_text("hvm");
    let mut os = Element::new("os").with_child(r#type);
    if let Some(direct) = &spec.direct_boot {
        let text = |name, value: &String| Element::new(name).with_text(value);
        os = os
            .with_child(text("kernel", &direct.kernel))
            .with_children(direct.initrd.as_ref().map(|path| text("initrd", path)))
            .with_children(direct.cmdline.as_ref().map(|line| text("cmdline", line)));
    }
    os.with_children(
        spec.boot.iter().map(|boot| Element::new("boot").with_attr("dev", boot.as_str())),
    )
}

/// ACPI is what a graceful shutdown needs. On other architectures it needs UEFI, or does not exist.
fn features(spec: &DomainSpec) -> Option<Element<'static>> {
    is_x86(spec).then(|| {
        Element::new("features").with_child(Element::new("acpi")).with_child(Element::new("apic"))
    })
}

fn clock(spec: &DomainSpec) -> Element<'static> {
    let offset = if is_windows(spec) { "localtime" } else { "utc" };
    let clock = Element::new("clock").with_attr("offset", offset);
    if !is_x86(spec) || spec.domain_type != "kvm" {
        return clock;
    }
    let timer = |name: &str| Element::new("timer").with_attr("name", name);
    clock
        .with_child(timer("rtc").with_attr("tickpolicy", "catchup"))
        .with_child(timer("pit").with_attr("tickpolicy", "delay"))
        .with_child(timer("hpet").with_attr("present", "no"))
}

/// A guest that puts itself to sleep looks stopped to everybody; x86 guests are told they cannot.
fn power_management(spec: &DomainSpec) -> Option<Element<'static>> {
    (is_x86(spec) && !is_test(spec)).then(|| {
        Element::new("pm")
            .with_child(Element::new("suspend-to-mem").with_attr("enabled", "no"))
            .with_child(Element::new("suspend-to-disk").with_attr("enabled", "no"))
    })
}

fn devices(spec: &DomainSpec, machine: &Machine) -> Element<'static> {
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
            .with_child(Element::new("input").with_attr("type", "tablet").with_attr("bus", "usb"))
            .with_children(spec.graphics.iter().filter_map(graphics))
            .with_child(video(spec));
    }
    devices
        .with_child(Element::new("memballoon").with_attr("model", "virtio"))
        .with_children(spec.rng.then(rng))
}

fn channel(r#type: &str, name: &str) -> Element<'static> {
    Element::new("channel")
        .with_attr("type", r#type)
        .with_child(Element::new("target").with_attr("type", "virtio").with_attr("name", name))
}

fn rng() -> Element<'static> {
    let backend = Element::new("backend").with_attr("model", "random").with_text("/dev/urandom");
    Element::new("rng").with_attr("model", "virtio").with_child(backend)
}

fn video(spec: &DomainSpec) -> Element<'static> {
    let model = spec
        .video_model
        .as_ref()
        .map(|model| Element::new("model").with_attr("type", model).with_attr("heads", "1"));
    Element::new("video").with_children(model)
}

/// Consoles listen on loopback alone: who may see one is decided by the daemon.
fn graphics(kind: &GraphicsType) -> Option<Element<'static>> {
    let r#type = match kind {
        GraphicsType::Vnc => "vnc",
        GraphicsType::Spice => "spice",
        GraphicsType::None => return None,
    };
    Some(
        Element::new("graphics")
            .with_attr("type", r#type)
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
        let fixed = 2 + usize::from(machine.x86 || is_graphical(spec));
        let taken = disks + spec.nics.len() + usize::from(scsi) + usize::from(spec.rng) + fixed;
        // libvirt numbers them in order, and takes number 0 for the root complex.
        controllers.push(controller("pci", "pcie-root"));
        for _ in 0..taken + usize::from(spec.spare_ports) {
            controllers.push(controller("pci", "pcie-root-port"));
        }
    }
    controllers
}

fn disk(spec: &DiskSpec) -> Element<'static> {
    let device = match spec.device {
        DiskDevice::Disk => "disk",
        DiskDevice::Cdrom => "cdrom",
        DiskDevice::Floppy => "floppy",
        DiskDevice::Lun => "lun",
    };
    let (source_type, source) = match &spec.source {
        DiskSource::Volume { path, r#type, .. } if r#type == "file" => {
            ("file", Some(Element::new("source").with_attr("file", path)))
        }
        DiskSource::Volume { path, r#type, .. } if r#type == "block" => {
            ("block", Some(Element::new("source").with_attr("dev", path)))
        }
        // How a network volume is reached is the pool's knowledge.
        DiskSource::Volume { pool, volume, .. } => (
            "volume",
            Some(Element::new("source").with_attr("pool", pool).with_attr("volume", volume)),
        ),
        DiskSource::File(path) => ("file", Some(Element::new("source").with_attr("file", path))),
        DiskSource::Empty => ("file", None),
    };
    // What the guest frees is given back to the pool; a drive that is only read frees nothing.
    let writable = spec.device == DiskDevice::Disk && !spec.read_only;
    let driver = Element::new("driver")
        .with_attr("name", "qemu")
        .with_attr_if("type", spec.format.as_ref())
        .with_attr_if("discard", writable.then_some("unmap"));
    Element::new("disk")
        .with_attr("type", source_type)
        .with_attr("device", device)
        .with_child(driver)
        .with_children(source)
        .with_child(
            Element::new("target")
                .with_attr("dev", &spec.target)
                .with_attr("bus", spec.bus.as_str()),
        )
        .with_children(
            (spec.read_only || spec.device == DiskDevice::Cdrom).then(|| Element::new("readonly")),
        )
        .with_children(spec.serial.as_ref().map(|serial| Element::new("serial").with_text(serial)))
        .with_children(boot(spec.boot_order))
}

fn boot(order: Option<u32>) -> Option<Element<'static>> {
    order.map(|order| Element::new("boot").with_attr("order", order.to_string()))
}

fn nic(spec: &NicSpec) -> Element<'static> {
    let (r#type, attribute) = match spec.source_type {
        NicSourceType::Network => ("network", Some("network")),
        NicSourceType::Bridge => ("bridge", Some("bridge")),
        NicSourceType::Direct => ("direct", Some("dev")),
        NicSourceType::User => ("user", None),
    };
    let source = attribute.zip(spec.source.as_ref()).map(|(attribute, name)| {
        let bridged = (spec.source_type == NicSourceType::Direct).then_some("bridge");
        Element::new("source").with_attr(attribute, name).with_attr_if("mode", bridged)
    });
    Element::new("interface")
        .with_attr("type", r#type)
        .with_children(spec.mac.as_ref().map(|mac| Element::new("mac").with_attr("address", mac)))
        .with_children(source)
        .with_child(Element::new("model").with_attr("type", &spec.model))
        .with_children((!spec.link_up).then(|| Element::new("link").with_attr("state", "down")))
        .with_children(boot(spec.boot_order))
}

#[cfg(test)]
mod tests;
