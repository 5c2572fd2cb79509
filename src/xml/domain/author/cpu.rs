//! Virtual CPUs and memory of a new domain XML.

use super::{DomainSpec, kib};
use crate::model::vm_request::{CpuFeature, CpuTopology};
use crate::xml::tree::Element;

/// What the guest sees of its processors.
#[derive(Clone, Debug, Default)]
pub struct CpuSpec {
    /// `host-passthrough`, `host-model`, `maximum` or `custom`; libvirt's default if absent.
    pub mode: Option<String>,
    /// For `custom`.
    pub model: Option<String>,
    pub features: Vec<CpuFeature>,
    pub topology: Option<CpuTopology>,
    /// Virtual CPUs and the CPUs of the host that each may run on, in libvirt's notation.
    pub pins: Vec<(u32, String)>,
    pub numa: Vec<NumaSpec>,
}

/// One NUMA cell of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumaSpec {
    /// In libvirt's notation.
    pub cpus: String,
    pub memory_mib: u64,
}

/// How the guest's memory is kept on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemorySpec {
    pub hugepages: bool,
    /// The host's default if absent.
    pub hugepage_kib: Option<u64>,
    /// From `memfd`, so that other processes may map it.
    pub shared: bool,
    /// Without a balloon it keeps its size while the guest runs.
    pub fixed: bool,
}

pub(super) fn vcpu(spec: &DomainSpec) -> Element<'static> {
    Element::new("vcpu")
        .with_attr("placement", "static")
        .with_attr_if("current", (spec.vcpus < spec.max_vcpus).then(|| spec.vcpus.to_string()))
        .with_text(spec.max_vcpus.to_string())
}

pub(super) fn memory_backing(spec: &MemorySpec) -> Option<Element<'static>> {
    (spec.hugepages || spec.shared).then(|| {
        Element::new("memoryBacking")
            .with_children(spec.hugepages.then(|| hugepages(spec.hugepage_kib)))
            .with_children(spec.shared.then(|| Element::new("source").with_attr("type", "memfd")))
            .with_children(spec.shared.then(|| Element::new("access").with_attr("mode", "shared")))
    })
}

pub(super) fn iothreads(spec: &DomainSpec) -> Option<Element<'static>> {
    let most = spec.disks.iter().filter_map(|disk| disk.iothread).max()?;
    Some(Element::new("iothreads").with_text(most.to_string()))
}

pub(super) fn cpu_tune(spec: &CpuSpec) -> Option<Element<'static>> {
    (!spec.pins.is_empty())
        .then(|| Element::new("cputune").with_children(spec.pins.iter().map(vcpupin)))
}

/// Where one virtual CPU runs.
pub(in crate::xml::domain) fn vcpupin((vcpu, cpus): &(u32, String)) -> Element<'static> {
    Element::new("vcpupin").with_attr("vcpu", vcpu.to_string()).with_attr("cpuset", cpus)
}

/// How virtual CPUs are arranged.
pub(in crate::xml::domain) fn topology(topology: CpuTopology) -> Element<'static> {
    Element::new("topology")
        .with_attr("sockets", topology.sockets.to_string())
        .with_attr("dies", topology.dies.unwrap_or(1).to_string())
        .with_attr("cores", topology.cores.to_string())
        .with_attr("threads", topology.threads.unwrap_or(1).to_string())
}

/// What is asked of one CPU feature.
pub(in crate::xml::domain) fn feature(feature: &CpuFeature) -> Element<'static> {
    Element::new("feature")
        .with_attr("policy", feature.policy.as_str())
        .with_attr("name", &feature.name)
}

/// The NUMA cells, if there are any.
pub(in crate::xml::domain) fn numa(cells: &[NumaSpec]) -> Option<Element<'static>> {
    let all = cells.iter().enumerate().map(|(id, cell)| {
        Element::new("cell")
            .with_attr("id", id.to_string())
            .with_attr("cpus", &cell.cpus)
            .with_attr("memory", cell.memory_mib.saturating_mul(1024).to_string())
            .with_attr("unit", "KiB")
    });
    (!cells.is_empty()).then(|| Element::new("numa").with_children(all))
}

/// A named model, which must be had as it is.
pub(in crate::xml::domain) fn model(model: &str) -> Element<'static> {
    Element::new("model").with_attr("fallback", "forbid").with_text(model)
}

/// Huge pages, of the host's default size if none is named.
pub(in crate::xml::domain) fn hugepages(kib: Option<u64>) -> Element<'static> {
    let page = kib.map(|size| {
        Element::new("page").with_attr("size", size.to_string()).with_attr("unit", "KiB")
    });
    Element::new("hugepages").with_children(page)
}

pub(super) fn cpu(spec: &CpuSpec) -> Option<Element<'static>> {
    let says_something = spec.mode.is_some()
        || !spec.features.is_empty()
        || spec.topology.is_some()
        || !spec.numa.is_empty();
    if !says_something {
        return None;
    }
    let custom = spec.mode.as_deref() == Some("custom");
    Some(
        Element::new("cpu")
            .with_attr_if("mode", spec.mode.as_ref())
            .with_attr_if("match", custom.then_some("exact"))
            .with_children(spec.model.as_deref().map(model))
            .with_children(spec.topology.map(topology))
            .with_children(spec.features.iter().map(feature))
            .with_children(numa(&spec.numa)),
    )
}

/// `<memory>` and `<currentMemory>`.
pub(super) fn memory(spec: &DomainSpec) -> [Element<'static>; 2] {
    [kib("memory", spec.max_memory_mib), kib("currentMemory", spec.memory_mib)]
}
