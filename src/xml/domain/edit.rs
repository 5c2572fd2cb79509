//! Changes to an existing definition, in the places that they concern and nowhere else.
//!
//! `service/vm` applies an edit to the inactive XML and hands the result to `virDomainDefineXML`.
//! Everything that an edit does not name keeps its bytes: elements that Vapor does not know,
//! comments, other tools' metadata. A value that already is as it shall be is not touched either.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::vm_request::BootDevice;
use crate::xml::tree::{Document, Element};
use crate::xml::units;

use super::author::{self, DiskSpec, SeedSpec};
use super::{METADATA_URI, view};

mod cpu;
mod devices;
mod hardware;

pub use cpu::{CpuEdit, pins};
pub use devices::{DiskEdit, NicEdit, nic_alone};
pub use hardware::HardwareEdit;

/// The order of a domain's elements in libvirt's own output, as far as Vapor adds any.
const DOMAIN_ORDER: &[&str] = &[
    "name",
    "uuid",
    "genid",
    "title",
    "description",
    "metadata",
    "maxMemory",
    "memory",
    "currentMemory",
    "blkiotune",
    "memtune",
    "memoryBacking",
    "vcpu",
    "vcpus",
    "iothreads",
    "iothreadids",
    "defaultiothread",
    "throttlegroups",
    "cputune",
    "numatune",
    "resource",
    "sysinfo",
    "bootloader",
    "bootloader_args",
    "os",
    "idmap",
    "features",
    "cpu",
    "clock",
    "on_poweroff",
    "on_reboot",
    "on_crash",
    "on_lockfailure",
    "pm",
    "perf",
    "devices",
    "seclabel",
    "keywrap",
    "launchSecurity",
];

/// The same for what stands in `<os>`.
const OS_ORDER: &[&str] = &[
    "type",
    "firmware",
    "init",
    "initarg",
    "initenv",
    "initdir",
    "inituser",
    "initgroup",
    "loader",
    "nvram",
    "varstore",
    "kernel",
    "initrd",
    "cmdline",
    "shim",
    "dtb",
    "root",
    "acpi",
    "boot",
    "bootmenu",
    "bios",
    "smbios",
];

/// The same for what stands in `<devices>`.
const DEVICES_ORDER: &[&str] = &[
    "emulator",
    "disk",
    "controller",
    "lease",
    "filesystem",
    "interface",
    "smartcard",
    "serial",
    "parallel",
    "console",
    "channel",
    "input",
    "tpm",
    "graphics",
    "sound",
    "audio",
    "video",
    "hostdev",
    "redirdev",
    "redirfilter",
    "hub",
    "watchdog",
    "memballoon",
    "rng",
    "nvram",
    "panic",
    "shmem",
    "memory",
    "iommu",
    "vsock",
];

/// The most virtual CPUs that libvirt knows (`VIR_DOMAIN_CPUMASK_LEN`).
const MAX_VCPUS: u32 = 16_384;

/// What shall change; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DomainEdit {
    /// Empty removes it.
    pub title: Option<String>,
    /// Empty removes it.
    pub description: Option<String>,
    /// MiB.
    pub memory_mib: Option<u64>,
    /// MiB.
    pub max_memory_mib: Option<u64>,
    pub vcpus: Option<u32>,
    pub max_vcpus: Option<u32>,
    /// Replaces the list, and the boot orders of single devices, which libvirt does not allow
    /// beside it.
    pub boot: Option<Vec<BootDevice>>,
    /// Replaces all labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// By target.
    pub disks: BTreeMap<String, DiskEdit>,
    /// By MAC.
    pub nics: BTreeMap<String, NicEdit>,
    pub cpu: CpuEdit,
    pub hardware: HardwareEdit,
    /// A further disk, which cloud-init reads.
    pub seed: Option<(DiskSpec, SeedSpec)>,
}

/// The definition after the edit. `Impossible` if the values contradict each other or what the
/// definition fixes elsewhere (NUMA cells, CPU topology); `InvalidDefinition` if `xml` is not a
/// domain; `InvalidRequest` for characters XML cannot carry.
pub fn apply(xml: &str, edit: &DomainEdit) -> Result<String> {
    let mut document = Document::parse(xml)?;
    let domain = document.root_mut();
    view::expect_domain(domain)?;
    words(domain, "title", edit.title.as_deref());
    words(domain, "description", edit.description.as_deref());
    // What is replaced cannot stand against the memory and the number of CPUs.
    cpu::clear(domain, &edit.cpu);
    memory(domain, edit.memory_mib, edit.max_memory_mib)?;
    vcpus(domain, edit.vcpus, edit.max_vcpus)?;
    cpu::apply(domain, &edit.cpu);
    hardware::apply(domain, &edit.hardware)?;
    if let Some(devices) = &edit.boot {
        boot(domain, devices)?;
    }
    if let Some(wanted) = &edit.labels {
        labels(domain, wanted);
    }
    if let Some(new) = &edit.seed {
        seed(domain, new);
    }
    for (target, wanted) in &edit.disks {
        devices::disk(domain, target, wanted)?;
    }
    for (mac, wanted) in &edit.nics {
        devices::nic(domain, mac, wanted)?;
    }
    let orders = edit.disks.values().map(|disk| disk.boot_order);
    let mut orders = orders.chain(edit.nics.values().map(|nic| nic.boot_order)).flatten();
    // libvirt allows no list beside the orders of devices.
    if orders.any(|order| order > 0)
        && let Some(os) = domain.child_mut("os")
    {
        os.retain_elements(|element| !element.is("boot"));
    }
    document.to_xml()
}

/// The UUID and the name that a definition states, if it does. `InvalidDefinition` if the UUID is
/// none, or `xml` is not a domain.
pub fn identity(xml: &str) -> Result<(Option<Uuid>, Option<String>)> {
    let document = Document::parse(xml)?;
    let domain = document.root();
    view::expect_domain(domain)?;
    let uuid = match domain.find_text("uuid") {
        None => None,
        Some(text) => Some(Uuid::parse_str(&text).map_err(|cause| {
            let shown: String = text.chars().take(40).collect();
            Error::new(Kind::InvalidDefinition, format!("the XML has {shown:?} as UUID"))
                .with_source(cause)
        })?),
    };
    let name = domain.child("name").map(|name| name.text().into_owned());
    Ok((uuid, name.filter(|name| !name.is_empty())))
}

/// The definition with this UUID and name.
pub fn set_identity(xml: &str, uuid: Uuid, name: &str) -> Result<String> {
    let mut document = Document::parse(xml)?;
    let domain = document.root_mut();
    view::expect_domain(domain)?;
    let stated = domain.find_text("uuid").and_then(|text| Uuid::parse_str(&text).ok());
    if stated != Some(uuid) {
        set_child_text(domain, "uuid", uuid.to_string());
    }
    set_child_text(domain, "name", name.to_owned());
    document.to_xml()
}

/// Vapor's metadata element of a domain with these labels in it, for `virDomainSetMetadata` with
/// [`super::METADATA_PREFIX`] as key and [`METADATA_URI`]: libvirt puts the namespace on by itself,
/// and refuses an element that has it already. What else the element holds stays.
pub fn vapor_metadata(domain_xml: &str, wanted: &BTreeMap<String, String>) -> Result<String> {
    let mut document = Document::parse(domain_xml)?;
    let domain = document.root_mut();
    view::expect_domain(domain)?;
    labels(domain, wanted);
    let own = domain.child("metadata").and_then(|metadata| metadata.child_in(METADATA_URI, "vm"));
    let own = own.cloned().unwrap_or_else(|| Element::new("vm"));
    own.without_namespace(METADATA_URI).into_xml()
}

fn impossible(message: String) -> Error {
    Error::new(Kind::Impossible, message)
}

/// Sets the text of a child, which is added if it is not there.
fn set_child_text(domain: &mut Element<'_>, name: &'static str, text: String) {
    match domain.child_mut(name) {
        Some(child) => child.set_text(text),
        None => {
            domain.insert_child_in_order(Element::new(name).with_text(text), DOMAIN_ORDER);
        }
    }
}

fn words(domain: &mut Element<'_>, name: &'static str, text: Option<&str>) {
    match text {
        None => {}
        Some("") => drop(domain.remove_child(name)),
        Some(text) => set_child_text(domain, name, text.to_owned()),
    }
}

fn memory(domain: &mut Element<'_>, present: Option<u64>, max: Option<u64>) -> Result<()> {
    let (old_present, old_max) = view::memory(domain);
    let (new_present, new_max) = (present.unwrap_or(old_present), max.unwrap_or(old_max));
    if (new_present, new_max) == (old_present, old_max) {
        return Ok(());
    }
    if new_present > new_max {
        return Err(impossible(format!(
            "memory of {new_present} MiB is more than max_memory of {new_max} MiB"
        )));
    }
    if new_max != old_max {
        if has_numa_cells(domain) {
            return Err(fixed_by_numa("max_memory"));
        }
        let ceiling = domain.child("maxMemory").and_then(|e| units::bytes_of(e, 1024));
        if let Some(ceiling) = ceiling.map(|bytes| bytes >> 20).filter(|mib| *mib < new_max) {
            return Err(impossible(format!(
                "max_memory of {new_max} MiB is more than the definition's maxMemory of \
                 {ceiling} MiB"
            )));
        }
        // Without an element of its own the present memory would follow the maximum.
        let kib = domain.child("memory").and_then(|e| units::bytes_of(e, 1024)).map(|b| b >> 10);
        if domain.child("currentMemory").is_none() && new_present == old_present {
            set_kib(domain, "currentMemory", kib.unwrap_or_default());
        }
        set_kib(domain, "memory", new_max.saturating_mul(1024));
    }
    if new_present != old_present {
        set_kib(domain, "currentMemory", new_present.saturating_mul(1024));
    }
    Ok(())
}

fn set_kib(domain: &mut Element<'_>, name: &'static str, kib: u64) {
    match domain.child_mut(name) {
        Some(child) => {
            // KiB is what libvirt takes where none is stated.
            if child.attr("unit").is_some() {
                child.set_attr("unit", "KiB");
            }
            child.set_text(kib.to_string());
        }
        None => domain.insert_child_in_order(
            Element::new(name).with_attr("unit", "KiB").with_text(kib.to_string()),
            DOMAIN_ORDER,
        ),
    }
}

fn has_numa_cells(domain: &Element<'_>) -> bool {
    domain.find("cpu/numa/cell").is_some()
}

fn fixed_by_numa(field: &str) -> Error {
    impossible(format!("{field} is the sum of the NUMA cells in the definition"))
        .with_hint("change the cells and the sum together, with PUT …/xml")
}

fn vcpus(domain: &mut Element<'_>, present: Option<u32>, max: Option<u32>) -> Result<()> {
    let (old_present, old_max) = view::vcpus(domain);
    let (new_present, new_max) = (present.unwrap_or(old_present), max.unwrap_or(old_max));
    if (new_present, new_max) == (old_present, old_max) {
        return Ok(());
    }
    if new_present == 0 || new_present > new_max {
        return Err(impossible(format!(
            "vcpus of {new_present} is not between 1 and max_vcpus of {new_max}"
        )));
    }
    if new_max > MAX_VCPUS {
        return Err(impossible(format!("max_vcpus of {new_max} is more than {MAX_VCPUS}")));
    }
    if new_max != old_max {
        if has_numa_cells(domain) {
            return Err(fixed_by_numa("max_vcpus"));
        }
        topology(domain, new_max)?;
    }
    if domain.child("vcpu").is_none() {
        domain.insert_child_in_order(Element::new("vcpu").with_text("1"), DOMAIN_ORDER);
    }
    if let Some(vcpu) = domain.child_mut("vcpu") {
        if new_max != old_max {
            vcpu.set_text(new_max.to_string());
        }
        if new_present != new_max || vcpu.attr("current").is_some() {
            vcpu.set_attr("current", new_present.to_string());
        }
    }
    single_vcpus(domain, new_present, new_max);
    Ok(())
}

/// libvirt wants the topology's product to be the number of virtual CPUs; sockets make up for it.
fn topology(domain: &mut Element<'_>, max: u32) -> Result<()> {
    let Some(topology) = domain.child_mut("cpu").and_then(|cpu| cpu.child_mut("topology")) else {
        return Ok(());
    };
    let number = |name| topology.attr(name).and_then(|n| n.parse::<u32>().ok()).unwrap_or(1);
    let per_socket = ["dies", "clusters", "cores", "threads"]
        .into_iter()
        .try_fold(1_u32, |product, name| product.checked_mul(number(name)))
        .filter(|product| *product > 0);
    match per_socket {
        Some(per_socket) if max.is_multiple_of(per_socket) => {
            topology.set_attr("sockets", (max / per_socket).to_string());
            Ok(())
        }
        _ => Err(impossible(format!(
            "max_vcpus of {max} does not fill whole sockets of the definition's CPU topology"
        ))
        .with_hint("choose a multiple of a socket's CPUs, or change the topology with PUT …/xml")),
    }
}

/// Keeps a list of single virtual CPUs true: as many as there can be, as many enabled as there are.
fn single_vcpus(domain: &mut Element<'_>, present: u32, max: u32) {
    let Some(list) = domain.child_mut("vcpus") else { return };
    let id = |vcpu: &Element<'_>| vcpu.attr("id")?.parse::<u32>().ok();
    list.retain_elements(|vcpu| id(vcpu).is_none_or(|id| id < max));
    let known: BTreeSet<u32> = list.elements().filter_map(id).collect();
    for id in (0..max).filter(|id| !known.contains(id)) {
        list.push_child(
            Element::new("vcpu")
                .with_attr("id", id.to_string())
                .with_attr("enabled", "no")
                .with_attr("hotpluggable", "yes"),
        );
    }
    let enabled = |vcpu: &Element<'_>| vcpu.attr("enabled").as_deref() == Some("yes");
    let count = list.elements().filter(|vcpu| enabled(vcpu)).count();
    let present = usize::try_from(present).unwrap_or(usize::MAX);
    if count == present {
        return;
    }
    for vcpu in
        list.elements_mut().filter(|vcpu| !enabled(vcpu)).take(present.saturating_sub(count))
    {
        vcpu.set_attr("enabled", "yes");
    }
    // From behind: libvirt wants the first one to stay.
    let on: Vec<_> = list.elements_mut().filter(|vcpu| enabled(vcpu)).collect();
    for vcpu in on.into_iter().rev().take(count.saturating_sub(present)) {
        vcpu.set_attr("enabled", "no");
        vcpu.set_attr("hotpluggable", "yes");
    }
    // The order in which they were plugged in holds for all of them or for none.
    list.elements_mut().for_each(|vcpu| vcpu.remove_attr("order"));
}

fn boot(domain: &mut Element<'_>, wanted: &[BootDevice]) -> Result<()> {
    let words: Vec<&str> = wanted.iter().map(|device| device.as_str()).collect();
    if view::of(domain).vm.os.boot == words {
        return Ok(());
    }
    if let Some(devices) = domain.child_mut("devices") {
        for device in devices.elements_mut() {
            device.remove_child("boot");
        }
    }
    let Some(os) = domain.child_mut("os") else {
        return Err(impossible("the definition has no <os> to put boot devices in".to_owned()));
    };
    let mut missing = words.iter();
    os.retain_elements(|element| !element.is("boot") || missing.next().is_some());
    let mut words = words.iter();
    for (element, word) in os.elements_mut().filter(|element| element.is("boot")).zip(&mut words) {
        element.set_attr("dev", *word);
    }
    for word in words {
        os.insert_child_in_order(Element::new("boot").with_attr("dev", *word), OS_ORDER);
    }
    Ok(())
}

/// Vapor's own metadata, which are added where there are none.
fn own_metadata<'a, 'b>(domain: &'a mut Element<'b>) -> Option<&'a mut Element<'b>> {
    if domain.child("metadata").is_none() {
        domain.insert_child_in_order(Element::new("metadata"), DOMAIN_ORDER);
    }
    let metadata = domain.child_mut("metadata")?;
    if metadata.child_in(METADATA_URI, "vm").is_none() {
        metadata.push_child(Element::new_in(METADATA_URI, "vapor:vm", "xmlns:vapor"));
    }
    metadata.child_in_mut(METADATA_URI, "vm")
}

/// Adds a disk that cloud-init reads, and notes which it is.
fn seed(domain: &mut Element<'_>, new: &(DiskSpec, SeedSpec)) {
    let (disk, noted) = new;
    if let Some(devices) = domain.child_mut("devices") {
        devices.insert_child_in_order(author::disk(disk), DEVICES_ORDER);
    }
    if let Some(own) = own_metadata(domain) {
        // What is noted of a disk that is gone.
        own.retain_elements(|element| !element.is_in(METADATA_URI, "seed"));
        let element = noted.write_to(Element::new_beside(own, "seed"));
        own.push_child(element);
    }
}

fn labels(domain: &mut Element<'_>, wanted: &BTreeMap<String, String>) {
    if view::of(domain).vm.labels == *wanted {
        return;
    }
    let Some(own) = own_metadata(domain) else { return };
    let key = |label: &Element<'_>| label.attr("key").map(|key| key.into_owned());
    let mut seen: Vec<String> = Vec::new();
    own.retain_elements(|element| {
        if !element.is_in(METADATA_URI, "label") {
            return true;
        }
        match key(element) {
            Some(key) if wanted.contains_key(&key) && !seen.contains(&key) => {
                seen.push(key);
                true
            }
            _ => false,
        }
    });
    for label in own.elements_mut().filter(|element| element.is_in(METADATA_URI, "label")) {
        if let Some(value) = key(label).and_then(|key| wanted.get(&key)) {
            label.set_attr("value", value);
        }
    }
    for (key, value) in wanted.iter().filter(|(key, _)| !seen.contains(key)) {
        let label =
            Element::new_beside(own, "label").with_attr("key", key).with_attr("value", value);
        let name = label.name().to_owned();
        own.insert_child_in_order(label, &[&name]);
    }
}

#[cfg(test)]
mod tests;
