//! Changes to the processors: mode and model, features, arrangement, pinning, NUMA cells. Each is
//! replaced as a whole; what stands beside it (caches, address widths, pinning of QEMU's own threads)
//! stays.

use super::{DOMAIN_ORDER, view};
use crate::error::Result;
use crate::model::vm_request::{CpuFeature, CpuTopology};
use crate::xml::domain::author::{NumaSpec, cpu as author};
use crate::xml::tree::{Document, Element};

/// The order of what stands in `<cpu>`.
const CPU_ORDER: &[&str] =
    &["arch", "model", "vendor", "topology", "cache", "maxphysaddr", "feature", "numa"];

/// The same for `<cputune>`.
const TUNE_ORDER: &[&str] = &[
    "shares",
    "period",
    "quota",
    "global_period",
    "global_quota",
    "emulator_period",
    "emulator_quota",
    "iothread_period",
    "iothread_quota",
    "vcpupin",
    "emulatorpin",
    "iothreadpin",
    "vcpusched",
];

/// What shall change of the processors; what is absent stays, and what is empty goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuEdit {
    /// The mode, and the model that goes with `custom`.
    pub mode: Option<(String, Option<String>)>,
    pub features: Option<Vec<CpuFeature>>,
    pub topology: Option<CpuTopology>,
    /// Virtual CPUs and where each may run, in libvirt's notation.
    pub pins: Option<Vec<(u32, String)>>,
    pub numa: Option<Vec<NumaSpec>>,
}

/// Takes away what [`apply`] puts in anew.
pub(super) fn clear(domain: &mut Element<'_>, edit: &CpuEdit) {
    let Some(cpu) = domain.child_mut("cpu") else { return };
    if edit.topology.is_some() {
        cpu.remove_child("topology");
    }
    if edit.numa.is_some() {
        cpu.remove_child("numa");
    }
}

pub(super) fn apply(domain: &mut Element<'_>, edit: &CpuEdit) {
    let CpuEdit { mode, features, topology, pins: wanted, numa } = edit;
    if let Some(wanted) = wanted {
        pin(domain, wanted);
    }
    let adds = mode.is_some()
        || topology.is_some()
        || features.as_ref().is_some_and(|features| !features.is_empty())
        || numa.as_ref().is_some_and(|cells| !cells.is_empty());
    if adds && domain.child("cpu").is_none() {
        domain.insert_child_in_order(Element::new("cpu"), DOMAIN_ORDER);
    }
    let Some(cpu) = domain.child_mut("cpu") else { return };
    if let Some((mode, model)) = mode {
        // What was said of the old model says nothing of the new one.
        for old in ["model", "vendor"] {
            cpu.remove_child(old);
        }
        for old in ["match", "check", "migratable"] {
            cpu.remove_attr(old);
        }
        cpu.set_attr("mode", mode);
        if let Some(model) = model {
            cpu.set_attr("match", "exact");
            cpu.insert_child_in_order(author::model(model), CPU_ORDER);
        }
    }
    if let Some(features) = features {
        cpu.retain_elements(|element| !element.is("feature"));
        for feature in features {
            cpu.insert_child_in_order(author::feature(feature), CPU_ORDER);
        }
    }
    if let Some(topology) = topology {
        cpu.insert_child_in_order(author::topology(*topology), CPU_ORDER);
    }
    if let Some(numa) = numa.as_deref().and_then(author::numa) {
        cpu.insert_child_in_order(numa, CPU_ORDER);
    }
}

fn pin(domain: &mut Element<'_>, wanted: &[(u32, String)]) {
    if domain.child("cputune").is_none() && !wanted.is_empty() {
        domain.insert_child_in_order(Element::new("cputune"), DOMAIN_ORDER);
    }
    let Some(tune) = domain.child_mut("cputune") else { return };
    tune.retain_elements(|element| !element.is("vcpupin"));
    for pin in wanted {
        tune.insert_child_in_order(author::vcpupin(pin), TUNE_ORDER);
    }
    if tune.elements().next().is_none() {
        domain.remove_child("cputune");
    }
}

/// Where a definition's virtual CPUs may run, as it says itself.
///
/// # Errors
/// `InvalidDefinition` if `xml` is not a domain.
pub fn pins(xml: &str) -> Result<Vec<(u32, String)>> {
    let document = Document::parse(xml)?;
    view::expect_domain(document.root())?;
    let tune = document.root().child("cputune");
    let pins = tune.into_iter().flat_map(|tune| tune.children("vcpupin"));
    let pin = |element: &Element<'_>| {
        let vcpu = element.attr("vcpu")?.parse().ok()?;
        Some((vcpu, element.attr("cpuset")?.into_owned()))
    };
    Ok(pins.filter_map(pin).collect())
}
