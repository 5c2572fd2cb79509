//! The engine: for each field, whether it takes hold live, with the next boot, or not at all.

use std::path::PathBuf;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::draft::check::clash;
use super::cpu::{self, LivePin};
use super::disks::{self, Growth};
use super::hardware;
use super::host::Host;
use super::nics::{self, LiveNic};
use crate::error::{Error, Kind, Result};
use crate::model::{Change, Effect, UpdateVm, Vm, VmName};
use crate::service::inventory::{Picture, VmRecord, nearest};
use crate::xml::domain::edit::{self, DomainEdit};
use crate::xml::domain::view;

const BOOTS_BY: &str = "the boot order is read when the VM starts";

/// What an update does, decided.
#[derive(Debug, Default)]
pub(super) struct Decision {
    pub(super) changes: Vec<Change>,
    /// For the stored definition; for a transient VM nothing.
    pub(super) config: DomainEdit,
    pub(super) live: LiveChanges,
    pub(super) autostart: Option<bool>,
    /// The new name.
    pub(super) rename: Option<String>,
    /// Carried out last: what has grown cannot shrink again without a loss.
    pub(super) growths: Vec<Growth>,
    /// What else happens, for the plan.
    pub(super) side_effects: Vec<String>,
    /// What should be thought about, for the plan and the task's log.
    pub(super) warnings: Vec<String>,
}

/// What is changed in the running VM, each with what puts it back.
#[derive(Clone, Debug, Default)]
pub(super) struct LiveChanges {
    /// MiB: new and old.
    pub(super) memory: Option<(u64, u64)>,
    pub(super) vcpus: Option<(u32, u32)>,
    pub(super) title: Option<(String, String)>,
    pub(super) description: Option<(String, String)>,
    /// Vapor's metadata elements.
    pub(super) labels: Option<(String, String)>,
    pub(super) pins: Vec<LivePin>,
    pub(super) nics: Vec<LiveNic>,
}

/// Builds up the decision, field by field.
pub(super) struct Engine<'a> {
    /// The VM as it runs, or as it is defined.
    pub(super) now: &'a Vm,
    /// The VM as it boots next.
    pub(super) next: &'a Vm,
    pub(super) active: bool,
    changes: Vec<Change>,
}

impl Engine<'_> {
    /// Notes a change; `why_not_live` is the reason if a running VM cannot take it up.
    pub(super) fn note(&mut self, field: &str, from: Value, to: Value, why_not_live: Option<&str>) {
        let (effect, reason) = match why_not_live {
            _ if !self.active => (Effect::Live, None),
            None => (Effect::Live, None),
            Some(why) if self.now.persistent => (Effect::NextBoot, Some(why.to_owned())),
            Some(why) => {
                (Effect::Impossible, Some(format!("{why}, and a transient VM has no next boot")))
            }
        };
        self.changes.push(Change { field: field.to_owned(), from, to, effect, reason });
    }

    /// A device's place in the boot order; 0 takes it away.
    pub(super) fn boot_order(
        &mut self,
        field: &str,
        stored: Option<u32>,
        wanted: Option<u32>,
    ) -> Option<u32> {
        let wanted = wanted.filter(|wanted| *wanted != stored.unwrap_or_default())?;
        let to = (wanted > 0).then_some(wanted);
        self.note(field, json!(stored), json!(to), Some(BOOTS_BY));
        Some(wanted)
    }

    /// Notes a change that cannot be made at all.
    pub(super) fn impossible(&mut self, field: &str, from: Value, to: Value, why: &str) {
        let (field, reason) = (field.to_owned(), Some(why.to_owned()));
        self.changes.push(Change { field, from, to, effect: Effect::Impossible, reason });
    }
}

/// What is known of the VM that is changed.
pub(super) struct Facts {
    /// As it runs, or as it is defined.
    pub(super) now: Vm,
    /// As it boots next.
    pub(super) next: Vm,
    /// The definition of the running VM, or the only one.
    pub(super) running: String,
}

impl Facts {
    pub(super) fn of(record: &VmRecord) -> Result<Facts> {
        let next = view::parse(&record.definition().text()?)?;
        Ok(Facts { now: record.detailed()?, next, running: record.xml.text()? })
    }
}

/// Decides about everything that the request names.
///
/// # Errors
/// 400 for what is out of range; 404 for what is named and not there; 409 for what is in use; 422 for
/// what contradicts itself, the VM or this host. What the VM cannot have is no error, but an impossible
/// change.
pub(super) fn decide(
    picture: &Picture,
    shareable: &[PathBuf],
    facts: &Facts,
    request: &UpdateVm,
) -> Result<Decision> {
    let Facts { now, next, running } = facts;
    let active = now.state.is_active();
    let mut engine = Engine { now, next, active, changes: Vec::new() };
    let mut decision = Decision::default();
    let Decision { config, live, .. } = &mut decision;
    let name = rename(&mut engine, picture, request)?;
    memory(&mut engine, request, config, live);
    vcpus(&mut engine, request, config, live);
    if let Some(title) = &request.title {
        let (stored, shown) = (next.title.clone(), now.title.clone());
        let (stored, shown) = (stored.unwrap_or_default(), shown.unwrap_or_default());
        if *title != stored || (active && *title != shown) {
            engine.note("title", json!(now.title), json!(title), None);
            config.title = Some(title.clone());
            live.title = active.then(|| (title.clone(), shown));
        }
    }
    if let Some(description) = &request.description
        && (*description != next.description || (active && *description != now.description))
    {
        engine.note("description", json!(now.description), json!(description), None);
        config.description = Some(description.clone());
        live.description = active.then(|| (description.clone(), now.description.clone()));
    }
    if let Some(labels) = &request.labels {
        let labels: BTreeMap<String, String> = labels
            .iter()
            .map(|(key, value)| (key.to_string(), value.as_str().to_owned()))
            .collect();
        if labels != next.labels || (active && labels != now.labels) {
            engine.note("labels", json!(now.labels), json!(labels), None);
            if active {
                let new = edit::vapor_metadata(running, &labels)?;
                let old = edit::vapor_metadata(running, &now.labels)?;
                live.labels = Some((new, old));
            }
            config.labels = Some(labels);
        }
    }
    if let Some(boot) = &request.boot {
        let words: Vec<&str> = boot.iter().map(|device| device.as_str()).collect();
        if words != next.os.boot {
            engine.note("boot", json!(next.os.boot), json!(words), Some(BOOTS_BY));
            config.boot = Some(boot.clone());
        }
    }
    let autostart = request.autostart.filter(|wanted| *wanted != now.autostart);
    if let Some(wanted) = autostart {
        engine.note("autostart", json!(now.autostart), json!(wanted), None);
        if !now.persistent
            && let Some(change) = engine.changes.last_mut()
        {
            change.effect = Effect::Impossible;
            change.reason = Some("a transient VM cannot start with the host".to_owned());
        }
    }
    decision.rename = name;
    decision.autostart = autostart;
    let host = Host::of(picture, shareable, next);
    hardware::decide(&mut engine, &host, request, &mut decision)?;
    cpu::decide(&mut engine, &host, running, request, &mut decision)?;
    let (disks, nics) = (request.disks.as_deref(), request.networks.as_deref());
    disks::disks(&mut engine, picture, &host, disks.unwrap_or_default(), &mut decision)?;
    nics::nics(&mut engine, picture, nics.unwrap_or_default(), &mut decision)?;
    boot_orders(next, request, &mut decision)?;
    decision.changes = engine.changes;
    Ok(decision)
}

fn memory(
    engine: &mut Engine<'_>,
    request: &UpdateVm,
    config: &mut DomainEdit,
    live: &mut LiveChanges,
) {
    let (now, next) = (engine.now, engine.next);
    // A VM whose maximum is its memory, as most are, grows and shrinks as a whole.
    let wanted_max = request.max_memory.or_else(|| {
        request.memory.filter(|memory| {
            *memory > next.max_memory || (next.max_memory == next.memory && !engine.active)
        })
    });
    if let Some(max) = wanted_max.filter(|max| *max != next.max_memory) {
        engine.note(
            "max_memory",
            json!(next.max_memory),
            json!(max),
            Some("the maximum is fixed while the VM runs"),
        );
        config.max_memory_mib = Some(max);
        if request.memory.is_none() && next.memory > max {
            config.memory_mib = Some(max);
        }
    }
    if let Some(memory) = request.memory
        && (memory != next.memory || (engine.active && memory != now.memory))
    {
        let fits = memory <= now.max_memory;
        let why = format!("the running VM can have at most {} MiB", now.max_memory);
        engine.note("memory", json!(now.memory), json!(memory), (!fits).then_some(why.as_str()));
        config.memory_mib = Some(memory);
        live.memory = (engine.active && fits).then_some((memory, now.memory));
    }
}

fn vcpus(
    engine: &mut Engine<'_>,
    request: &UpdateVm,
    config: &mut DomainEdit,
    live: &mut LiveChanges,
) {
    let (now, next) = (engine.now, engine.next);
    let wanted_max = request.max_vcpus.or_else(|| {
        request.vcpus.filter(|vcpus| {
            *vcpus > next.max_vcpus || (next.max_vcpus == next.vcpus && !engine.active)
        })
    });
    if let Some(max) = wanted_max.filter(|max| *max != next.max_vcpus) {
        engine.note(
            "max_vcpus",
            json!(next.max_vcpus),
            json!(max),
            Some("the maximum is fixed while the VM runs"),
        );
        config.max_vcpus = Some(max);
        if request.vcpus.is_none() && next.vcpus > max {
            config.vcpus = Some(max);
        }
    }
    if let Some(vcpus) = request.vcpus
        && (vcpus != next.vcpus || (engine.active && vcpus != now.vcpus))
    {
        let why = if vcpus > now.max_vcpus {
            Some(format!("the running VM can have at most {}", now.max_vcpus))
        } else if vcpus < now.vcpus {
            Some("vCPUs that the VM booted with cannot be unplugged".to_owned())
        } else {
            None
        };
        engine.note("vcpus", json!(now.vcpus), json!(vcpus), why.as_deref());
        config.vcpus = Some(vcpus);
        let changes_now = engine.active && why.is_none() && vcpus != now.vcpus;
        live.vcpus = changes_now.then_some((vcpus, now.vcpus));
    }
}

/// The new name, if it is another one: libvirt renames what is stopped and has nothing besides its
/// definition that names it.
fn rename(
    engine: &mut Engine<'_>,
    picture: &Picture,
    request: &UpdateVm,
) -> Result<Option<String>> {
    let now = engine.now;
    let (old, new) = (now.name.as_str(), request.name.as_ref().map(VmName::as_str));
    let Some(new) = new.filter(|new| *new != old) else { return Ok(None) };
    if picture.vms.binary_search_by(|other| other.vm.name.as_str().cmp(new)).is_ok() {
        let message = format!("a VM named {new:?} exists already");
        return Err(Error::new(Kind::VmAlreadyExists, message).with_detail("vm", new));
    }
    let why = if engine.active {
        Some("a running VM cannot be renamed: stop it first")
    } else if now.has_saved_state {
        Some("a VM with a saved state cannot be renamed: restore it, and stop it")
    } else if now.snapshot_count > 0 {
        Some("a VM with snapshots cannot be renamed: delete them first")
    } else {
        None
    };
    match why {
        Some(why) => engine.impossible("name", json!(old), json!(new), why),
        None => engine.note("name", json!(old), json!(new), None),
    }
    Ok(Some(new.to_owned()))
}

/// Whether the devices' places in the boot order, as they will be, are each had once, and the request
/// says them in one way.
fn boot_orders(next: &Vm, request: &UpdateVm, decision: &mut Decision) -> Result<()> {
    let config = &decision.config;
    let disks = next.disks.iter().map(|disk| {
        let edit = config.disks.get(&disk.target).and_then(|edit| edit.boot_order);
        (format!("disks.{}.boot_order", disk.target), edit, disk.boot_order)
    });
    let nics = next.networks.iter().map(|nic| {
        let edit = config.nics.get(&nic.mac).and_then(|edit| edit.boot_order);
        (format!("networks.{}.boot_order", nic.mac), edit, nic.boot_order)
    });
    let mut taken: BTreeMap<u32, String> = BTreeMap::new();
    let mut changed = None;
    for (field, edit, stored) in disks.chain(nics) {
        if edit.is_some_and(|order| order > 0) {
            changed.get_or_insert_with(|| field.clone());
        }
        let Some(order) = edit.or(stored).filter(|order| *order > 0) else { continue };
        if let Some(other) = taken.insert(order, field.clone()) {
            return Err(clash(field, format!("is {order}, as {other}")));
        }
    }
    let Some(field) = changed else { return Ok(()) };
    if request.boot.as_ref().is_some_and(|boot| !boot.is_empty()) {
        return Err(clash("boot", format!("contradicts {field}: say one of them")));
    }
    let ordered = next.disks.iter().any(|disk| disk.boot_order.is_some())
        || next.networks.iter().any(|nic| nic.boot_order.is_some());
    if !ordered && !next.os.boot.is_empty() {
        decision.side_effects.push(format!(
            "takes away the list of boot devices ({}), which cannot stand beside boot orders",
            next.os.boot.join(", ")
        ));
    }
    Ok(())
}

/// 422 if one of the changes cannot be made at all.
pub(super) fn impossible(decision: &Decision) -> Result<()> {
    let mut wrong = decision.changes.iter().filter(|change| change.effect == Effect::Impossible);
    let Some(first) = wrong.next() else { return Ok(()) };
    let reason = |change: &Change| change.reason.clone().unwrap_or_default();
    let error = Error::new(Kind::Impossible, format!("{}: {}", first.field, reason(first)))
        .with_field(&first.field, reason(first));
    Err(wrong.fold(error, |error, change| error.with_field(&change.field, reason(change))))
}

/// 422 for a device that the VM has not, with the name most likely meant, or all there are.
pub(super) fn unknown<'a>(
    field: String,
    what: &str,
    wanted: &str,
    known: impl Iterator<Item = &'a str>,
) -> Error {
    let known: Vec<&str> = known.collect();
    let hint = match nearest(wanted, known.iter().copied()) {
        Some(name) => format!("did you mean {name}?"),
        None if known.is_empty() => format!("the VM has no {what} at all"),
        None => format!("it has {}", known.join(", ")),
    };
    clash(field, format!("the VM has no {what} {wanted}")).with_hint(hint)
}
