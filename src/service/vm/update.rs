//! Partial update: one engine decides for each field whether it takes hold live, with the next
//! boot, or not at all, and the same decision is shown by a dry run and carried out by an update.
//!
//! Carried out, it is all or nothing: the stored definition is replaced first, then what can be
//! is changed live; a refusal puts back what was changed.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use uuid::Uuid;

use super::draft::check::{contradicts, fail, is_xml_char, range, text};
use super::{VmService, check_if_match, condition, result_of, subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session, domain};
use crate::model::{Change, Effect, Plan, UpdateVm, Vm};
use crate::service::gate::Work;
use crate::service::inventory::VmRecord;
use crate::service::storage::blockers;
use crate::service::task::{Operation, QUICK_WAIT};
use crate::service::{Context, Outcome};
use crate::xml;
use crate::xml::domain::edit::{self, DomainEdit};
use crate::xml::domain::{METADATA_PREFIX, METADATA_URI, view};

/// The step that keeps the request, by which a restarted daemon judges whether it was done.
pub(super) const UPDATE_STEP: &str = "update";

/// What an update does, decided.
#[derive(Debug)]
struct Decision {
    changes: Vec<Change>,
    /// For the stored definition; for a transient VM nothing.
    config: DomainEdit,
    live: LiveChanges,
    autostart: Option<bool>,
}

/// What is changed in the running VM, each with what puts it back.
#[derive(Clone, Debug, Default)]
struct LiveChanges {
    /// MiB: new and old.
    memory: Option<(u64, u64)>,
    vcpus: Option<(u32, u32)>,
    description: Option<(String, String)>,
    /// Vapor's metadata elements.
    labels: Option<(String, String)>,
}

impl VmService {
    /// Changes what the request names and leaves the rest.
    ///
    /// # Errors
    /// 400 for values out of range; 404; 409; 412; 422 for what is impossible for this VM; what
    /// libvirt refuses with, and then the VM is as it was.
    pub async fn update(&self, ctx: Context, id: &str, request: UpdateVm) -> Result<Outcome> {
        self.tasks.once(&ctx, self.update_once(&ctx, id, request)).await
    }

    async fn update_once(&self, ctx: &Context, id: &str, request: UpdateVm) -> Result<Outcome> {
        check(&request)?;
        let record = self.get(id)?;
        check_if_match(ctx, &record)?;
        let (uuid, name) = (record.vm.uuid, record.vm.name.clone());
        let decision = decide(&record, &request)?;
        if ctx.dry_run {
            let blocked = impossible(&decision).and_then(|()| {
                self.gate.would_admit(&name, uuid, Work::Update, condition(&record.vm))
            });
            return Ok(Outcome::Planned(Box::new(plan(&record, decision, blocked)?)));
        }
        impossible(&decision)?;
        self.need_libvirt(Some(uuid)).await?;
        let claim = self.tasks.claim("vm.update", ctx);
        let hold =
            self.gate.enter(&name, uuid, Work::Update, || self.condition(uuid), &claim).await?;
        // Decided anew under the hold, on what is the case now.
        let record = self.get(&uuid.to_string())?;
        check_if_match(ctx, &record)?;
        let decision = decide(&record, &request)?;
        impossible(&decision)?;
        let step = serde_json::to_value(&request).map_err(Error::internal)?;
        let operation =
            Operation { claim, subject: subject(&record.vm), cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tasks
            .submit(ctx, operation, hold, move |task| async move {
                task.intend(vec![(UPDATE_STEP.to_owned(), step)]).await?;
                let persistent = record.vm.persistent;
                let updated = service
                    .act(uuid, Lane::Slow, move |session| {
                        apply(session, uuid, &name, persistent, &decision)
                    })
                    .await;
                match updated {
                    Ok(updated) => result_of(updated.as_ref()),
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        service.judge_after_loss(&task, error).await
                    }
                    Err(error) => Err(error),
                }
            })
            .await
    }
}

fn check(request: &UpdateVm) -> Result<()> {
    let mut wrong = Vec::new();
    range(&mut wrong, "memory", request.memory, false, 16, 67_108_864);
    range(&mut wrong, "max_memory", request.max_memory, false, 16, 67_108_864);
    range(&mut wrong, "vcpus", request.vcpus.map(u64::from), false, 1, 1024);
    range(&mut wrong, "max_vcpus", request.max_vcpus.map(u64::from), false, 1, 1024);
    text(&mut wrong, "description", request.description.as_deref(), 8192, is_xml_char);
    if request.boot.as_ref().is_some_and(|boot| boot.len() > 4) {
        wrong.push(("boot", "has more than 4 entries".to_owned()));
    }
    if request.labels.as_ref().is_some_and(|labels| labels.len() > 64) {
        wrong.push(("labels", "has more than 64 entries".to_owned()));
    }
    fail(&wrong)?;
    contradicts("max_memory", request.max_memory, "memory", request.memory)?;
    let (max_vcpus, vcpus) = (request.max_vcpus.map(u64::from), request.vcpus.map(u64::from));
    contradicts("max_vcpus", max_vcpus, "vcpus", vcpus)
}

/// Builds up the decision, field by field.
struct Engine<'a> {
    /// The VM as it runs, or as it is defined.
    now: &'a Vm,
    /// The VM as it boots next.
    next: &'a Vm,
    active: bool,
    changes: Vec<Change>,
}

impl Engine<'_> {
    /// Notes a change; `why_not_live` is the reason if a running VM cannot take it up.
    fn note(&mut self, field: &str, from: Value, to: Value, why_not_live: Option<&str>) {
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
}

fn decide(record: &VmRecord, request: &UpdateVm) -> Result<Decision> {
    let now = &record.vm;
    let next = view::parse(&record.definition().text()?)?;
    let active = now.state.is_active();
    let mut engine = Engine { now, next: &next, active, changes: Vec::new() };
    let mut config = DomainEdit::default();
    let mut live = LiveChanges::default();
    memory(&mut engine, request, &mut config, &mut live);
    vcpus(&mut engine, request, &mut config, &mut live);
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
                let xml = record.xml.text()?;
                let new = edit::vapor_metadata(&xml, &labels)?;
                let old = edit::vapor_metadata(&xml, &now.labels)?;
                live.labels = Some((new, old));
            }
            config.labels = Some(labels);
        }
    }
    if let Some(boot) = &request.boot {
        let words: Vec<&str> = boot.iter().map(|device| device.as_str()).collect();
        if words != next.os.boot {
            engine.note(
                "boot",
                json!(next.os.boot),
                json!(words),
                Some("the boot order is read when the VM starts"),
            );
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
    Ok(Decision { changes: engine.changes, config, live, autostart })
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

/// 422 if one of the changes cannot be made at all.
fn impossible(decision: &Decision) -> Result<()> {
    let mut wrong = decision.changes.iter().filter(|change| change.effect == Effect::Impossible);
    let Some(first) = wrong.next() else { return Ok(()) };
    let reason = |change: &Change| change.reason.clone().unwrap_or_default();
    let error = Error::new(Kind::Impossible, format!("{}: {}", first.field, reason(first)))
        .with_field(&first.field, reason(first));
    Err(wrong.fold(error, |error, change| error.with_field(&change.field, reason(change))))
}

/// Changes the stored definition, then the running VM; puts everything back if one is refused.
fn apply(
    session: &Session,
    uuid: Uuid,
    name: &str,
    persistent: bool,
    decision: &Decision,
) -> Result<()> {
    // With its secrets, or redefining would lose them.
    let old = if persistent && decision.config != DomainEdit::default() {
        let old = domain::xml(session, uuid, true, true)?;
        domain::define(session, name, &edit::apply(&old, &decision.config)?)?;
        Some(old)
    } else {
        None
    };
    let mut undo: Vec<Box<dyn FnOnce() -> Result<()> + '_>> = Vec::new();
    let result = apply_live(session, uuid, decision, &mut undo);
    let Err(error) = result else { return Ok(()) };
    for step in undo.into_iter().rev() {
        if let Err(failed) = step() {
            tracing::warn!(vm = name, error = ?failed, "a live change could not be put back");
        }
    }
    if let Some(old) = old
        && let Err(failed) = domain::define(session, name, &old)
    {
        tracing::error!(vm = name, error = ?failed, "the old definition could not be put back");
        return Err(error.with_detail("not_put_back", "definition"));
    }
    Err(error)
}

fn apply_live<'a>(
    session: &'a Session,
    uuid: Uuid,
    decision: &Decision,
    undo: &mut Vec<Box<dyn FnOnce() -> Result<()> + 'a>>,
) -> Result<()> {
    let live = decision.live.clone();
    if let Some((new, old)) = live.memory {
        domain::set_memory(session, uuid, new * 1024, true, false)?;
        undo.push(Box::new(move || domain::set_memory(session, uuid, old * 1024, true, false)));
    }
    if let Some((new, old)) = live.vcpus {
        domain::set_vcpus(session, uuid, new, true, false)?;
        undo.push(Box::new(move || domain::set_vcpus(session, uuid, old, true, false)));
    }
    if let Some((new, old)) = live.description {
        domain::set_description(session, uuid, &new, true, false)?;
        undo.push(Box::new(move || domain::set_description(session, uuid, &old, true, false)));
    }
    if let Some((new, old)) = live.labels {
        let set = move |element: &str| {
            domain::set_metadata(
                session,
                uuid,
                METADATA_URI,
                METADATA_PREFIX,
                Some(element),
                true,
                false,
            )
        };
        set(&new)?;
        undo.push(Box::new(move || set(&old)));
    }
    if let Some(autostart) = decision.autostart {
        domain::set_autostart(session, uuid, autostart)?;
    }
    Ok(())
}

fn plan(record: &VmRecord, decision: Decision, blocked: Result<()>) -> Result<Plan> {
    let old = &record.definition().text()?;
    let xml_diff = if record.vm.persistent && decision.config != DomainEdit::default() {
        xml::diff::unified(old, &edit::apply(old, &decision.config)?)
    } else {
        String::new()
    };
    Ok(Plan {
        operation: "vm.update".to_owned(),
        subject: subject(&record.vm),
        changes: decision.changes,
        xml_diff,
        side_effects: Vec::new(),
        blockers: blockers(blocked),
    })
}

/// Which of the requested fields the VM does not have, neither now nor with the next boot: how a
/// restarted daemon judges an update that it finds unfinished.
pub(super) fn unmet(record: &VmRecord, request: &UpdateVm) -> Result<Vec<String>> {
    Ok(decide(record, request)?.changes.into_iter().map(|change| change.field).collect())
}
