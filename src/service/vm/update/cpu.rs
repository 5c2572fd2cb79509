//! Processors of an update: pinning takes hold at once, everything else with the next boot.

use std::collections::BTreeSet;

use serde_json::json;

use super::super::draft::check::clash;
use super::super::draft::cpu::{cpu, cpu_list};
use super::decide::{Decision, Engine};
use super::host::Host;
use crate::error::Result;
use crate::model::UpdateVm;
use crate::model::host::Capabilities;
use crate::model::vm_request::{CpuRequest, CpuTopology};
use crate::xml::domain::edit;

/// A virtual CPU that is pinned while the VM runs: CPUs of the host, new and old.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LivePin {
    pub(super) vcpu: u32,
    pub(super) new: BTreeSet<u32>,
    pub(super) old: BTreeSet<u32>,
}

const FIXED: &str = "the guest's processors are fixed while the VM runs";

/// Decides about the processors. `running` is the definition of the running VM.
///
/// # Errors
/// 400 for what is out of range; 422 for what does not add up, and what this host does not have.
pub(super) fn decide(
    engine: &mut Engine<'_>,
    host: &Host<'_>,
    running: &str,
    request: &UpdateVm,
    decision: &mut Decision,
) -> Result<()> {
    let Some(wanted) = &request.cpu else { return Ok(()) };
    let (next, config) = (engine.next, &mut decision.config);
    let unknown = Capabilities::default();
    let capabilities = host.capabilities.unwrap_or(&unknown);
    // What a guest can have depends on what runs it.
    let preferred = host.preferred.filter(|known| known.domain_type == next.os.domain_type);
    let most = (
        config.max_vcpus.unwrap_or(next.max_vcpus),
        config.max_memory_mib.unwrap_or(next.max_memory),
    );
    let spec = cpu(wanted, None, most, capabilities, preferred)?;
    let usual = CpuRequest::default();
    let stored = next.cpu.as_deref().unwrap_or(&usual);
    if let Some(mode) = spec.mode {
        let present = stored.mode.map(|mode| mode.as_str());
        let model = stored.model.as_ref().map(ToString::to_string);
        let new_mode = present != Some(mode.as_str());
        if new_mode {
            engine.note("cpu.mode", json!(present), json!(mode), Some(FIXED));
        }
        if model != spec.model {
            engine.note("cpu.model", json!(model), json!(spec.model), Some(FIXED));
        }
        if new_mode || model != spec.model {
            config.cpu.mode = Some((mode, spec.model));
        }
    }
    if let Some(features) = &wanted.features {
        let present = stored.features.clone().unwrap_or_default();
        let bare = stored.mode.is_none() && config.cpu.mode.is_none();
        if bare && !features.is_empty() {
            return Err(clash("cpu.features", "need a mode that they are added to")
                .with_hint("say a cpu.mode as well, such as host-model"));
        }
        if *features != present {
            engine.note("cpu.features", json!(present), json!(features), Some(FIXED));
            config.cpu.features = Some(features.clone());
        }
    }
    if let Some(topology) = wanted.topology
        && stored.topology.map(plain) != Some(plain(topology))
    {
        engine.note("cpu.topology", json!(stored.topology), json!(topology), Some(FIXED));
        config.cpu.topology = Some(topology);
    }
    if let Some(cells) = &wanted.numa {
        let present = stored.numa.clone().unwrap_or_default();
        if *cells != present {
            engine.note("cpu.numa", json!(present), json!(cells), Some(FIXED));
            config.cpu.numa = Some(spec.numa);
        }
    }
    if wanted.pinning.is_some() {
        pin(engine, capabilities, running, spec.pins, decision)?;
    }
    Ok(())
}

/// The same topology, however it is written.
fn plain(topology: CpuTopology) -> (u32, u32, u32, u32) {
    let CpuTopology { sockets, dies, cores, threads } = topology;
    (sockets, dies.unwrap_or(1), cores, threads.unwrap_or(1))
}

fn pin(
    engine: &mut Engine<'_>,
    capabilities: &Capabilities,
    running: &str,
    pins: Vec<(u32, String)>,
    decision: &mut Decision,
) -> Result<()> {
    let cells = capabilities.hardware.numa.iter();
    let all: BTreeSet<u32> = cells.flat_map(|cell| cell.cpus.iter().copied()).collect();
    let stored = engine.next.cpu.as_ref().and_then(|cpu| cpu.pinning.clone()).unwrap_or_default();
    let of = |pins: &[(u32, String)], vcpu: u32| -> Result<BTreeSet<u32>> {
        match pins.iter().find(|(pinned, _)| *pinned == vcpu) {
            Some((_, cpus)) => cpu_list("cpu.pinning", cpus),
            None => Ok(all.clone()),
        }
    };
    let before: Vec<_> = stored.iter().map(|pin| (pin.vcpu, pin.cpus.clone())).collect();
    let mut live = Vec::new();
    if engine.active {
        let now = edit::pins(running)?;
        for vcpu in 0..engine.now.max_vcpus {
            // What others wrote in a way that Vapor does not, such as `0-3,^2`, is left to them.
            let (Ok(old), new) = (of(&now, vcpu), of(&pins, vcpu)?) else { continue };
            if old != new && !new.is_empty() {
                live.push(LivePin { vcpu, new, old });
            }
        }
    }
    let same = before.len() == pins.len() && pins.iter().all(|pin| before.contains(pin));
    if same && live.is_empty() {
        return Ok(());
    }
    let shown: Vec<_> =
        pins.iter().map(|(vcpu, cpus)| json!({"vcpu": vcpu, "cpus": cpus})).collect();
    engine.note("cpu.pinning", json!(stored), json!(shown), None);
    if !same {
        decision.config.cpu.pins = Some(pins);
    }
    decision.live.pins = live;
    Ok(())
}
