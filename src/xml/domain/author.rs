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
use crate::model::vm_request::BootDevice;
use crate::model::{GraphicsType, VmDirectBoot};
use crate::xml::tree::Element;

use self::clock::clock;
use self::cpu::{cpu, cpu_tune, iothreads, memory, memory_backing, vcpu};
use self::devices::devices;
use super::{LIBOSINFO_URI, METADATA_URI};

mod clock;
pub(super) mod cpu;
pub(super) mod devices;
mod disk;
pub(super) mod firmware;
mod ignition;
mod nic;

pub use clock::ClockSpec;
pub use cpu::{CpuSpec, MemorySpec, NumaSpec};
pub use devices::{DeviceSpecs, FilesystemSpec, VsockSpec};
pub(super) use disk::disk;
pub use disk::{DiskSource, DiskSpec};
pub use firmware::{EfiSpec, TpmSpec};
pub use ignition::{IgnitionBy, IgnitionSpec};
pub use nic::NicSpec;
pub(super) use nic::limit;

/// A VM to be.
#[derive(Clone, Debug, Default)]
pub struct DomainSpec {
    pub name: String,
    pub uuid: Uuid,
    /// One line; empty for none.
    pub title: String,
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
    pub cpu: CpuSpec,
    pub memory: MemorySpec,
    pub clock: ClockSpec,
    pub devices: DeviceSpecs,
    /// `linux`, `windows`, …: kept with the VM; a Windows guest's clock is set to local time.
    pub os_type_word: Option<String>,
    /// A libosinfo id (a URI), kept with the VM.
    pub variant: Option<String>,
    /// Not together with a `boot_order` of a disk or NIC.
    pub boot: Vec<BootDevice>,
    /// BIOS if absent.
    pub efi: Option<EfiSpec>,
    pub direct_boot: Option<VmDirectBoot>,
    pub disks: Vec<DiskSpec>,
    pub nics: Vec<NicSpec>,
    pub graphics: Vec<GraphicsType>,
    /// Used if there are graphics; libvirt's default if absent.
    pub video_model: Option<String>,
    pub tpm: Option<TpmSpec>,
    /// Whether to add a random number generator fed by `/dev/urandom`.
    pub rng: bool,
    pub labels: BTreeMap<String, String>,
    pub owner: Option<String>,
    pub created_at: Timestamp,
    /// Which disk tells the guest's cloud-init what it shall do.
    pub seed: Option<SeedSpec>,
    /// What the guest's Ignition is told.
    pub ignition: Option<IgnitionSpec>,
    /// PCIe root ports beyond those that the devices take.
    pub spare_ports: u8,
}

/// What is noted about a disk that cloud-init reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedSpec {
    /// The disk's target.
    pub target: String,
    pub instance_id: String,
    pub hostname: Option<String>,
}

impl SeedSpec {
    /// The note in the metadata, into an element of Vapor's namespace.
    pub(super) fn write_to<'a>(&self, element: Element<'a>) -> Element<'a> {
        element
            .with_attr("target", &self.target)
            .with_attr("instance-id", &self.instance_id)
            .with_attr_if("hostname", self.hostname.as_ref())
    }
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
    let title = (!spec.title.is_empty()).then(|| Element::new("title").with_text(&spec.title));
    let description = (!spec.description.is_empty())
        .then(|| Element::new("description").with_text(&spec.description));
    Element::new("domain")
        .with_attr("type", &spec.domain_type)
        .with_child(Element::new("name").with_text(&spec.name))
        .with_child(Element::new("uuid").with_text(spec.uuid.to_string()))
        .with_children(title)
        .with_children(description)
        .with_child(metadata(spec))
        .with_children(memory(spec))
        .with_children(memory_backing(&spec.memory))
        .with_child(vcpu(spec))
        .with_children(iothreads(spec))
        .with_children(cpu_tune(&spec.cpu))
        .with_children(ignition::sysinfo(spec))
        .with_child(os(spec))
        .with_children(features(spec))
        .with_children(cpu(&spec.cpu))
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
        )
        .with_children(spec.seed.as_ref().map(|seed| seed.write_to(Element::new("vapor:seed"))))
        .with_children(ignition::mark(spec));
    let libosinfo = spec.variant.as_deref().map(variant);
    Element::new("metadata").with_children(libosinfo).with_child(own)
}

fn os(spec: &DomainSpec) -> Element<'static> {
    let r#type = Element::new("type")
        .with_attr("arch", &spec.architecture)
        .with_attr_if("machine", spec.machine.as_ref())
        .with_text("hvm");
    let os = Element::new("os")
        .with_attr_if("firmware", firmware::word(spec))
        .with_child(r#type)
        .with_children(firmware::features(spec));
    let os = os.with_children(spec.direct_boot.iter().flat_map(direct_boot));
    os.with_children(
        spec.boot.iter().map(|boot| Element::new("boot").with_attr("dev", boot.as_str())),
    )
}

/// What is booted without a boot loader: paths on the host that libvirt gave.
pub(super) fn direct_boot(direct: &VmDirectBoot) -> Vec<Element<'static>> {
    let text = |name, value: &String| Element::new(name).with_text(value);
    let initrd = direct.initrd.as_ref().map(|path| text("initrd", path));
    let cmdline = direct.cmdline.as_ref().map(|line| text("cmdline", line));
    [Some(text("kernel", &direct.kernel)), initrd, cmdline].into_iter().flatten().collect()
}

/// The system that is installed, for whoever knows libosinfo.
pub(super) fn variant(id: &str) -> Element<'static> {
    Element::new_in(LIBOSINFO_URI, "libosinfo:libosinfo", "xmlns:libosinfo")
        .with_child(Element::new("libosinfo:os").with_attr("id", id))
}

/// ACPI is what a graceful shutdown needs. On other architectures it needs UEFI, or does not exist.
fn features(spec: &DomainSpec) -> Option<Element<'static>> {
    is_x86(spec).then(|| {
        Element::new("features")
            .with_child(Element::new("acpi"))
            .with_child(Element::new("apic"))
            .with_children(firmware::smm(spec))
    })
}

/// A guest that puts itself to sleep looks stopped to everybody; x86 guests are told they cannot.
fn power_management(spec: &DomainSpec) -> Option<Element<'static>> {
    (is_x86(spec) && !is_test(spec)).then(|| {
        Element::new("pm")
            .with_child(Element::new("suspend-to-mem").with_attr("enabled", "no"))
            .with_child(Element::new("suspend-to-disk").with_attr("enabled", "no"))
    })
}

fn boot(order: Option<u32>) -> Option<Element<'static>> {
    order.map(|order| Element::new("boot").with_attr("order", order.to_string()))
}

#[cfg(test)]
mod tests;
