//! Media of optical drives: inserted into and ejected from running and stopped VMs.
//!
//! The stored definition is changed first, then the running VM; a refusal puts the definition back.
//! A daemon that is killed between the two lets its successor put the definition back to what runs.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{VmService, check_if_match, condition, result_of, subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session, domain};
use crate::model::vm_request::DiskBus;
use crate::model::{
    Change, Disk, DiskDevice, Effect, MediaAction, MediaRequest, Plan, PoolState, Vm, VolumeRef,
};
use crate::service::adopt::interrupted;
use crate::service::gate::{Key, Work};
use crate::service::inventory::{Picture, VmRecord, VolumeRecord};
use crate::service::operation::blockers;
use crate::service::task::{End, Operation, QUICK_WAIT};
use crate::service::volume::{pool_key, writers};
use crate::service::{Context, IsoService, Outcome};
use crate::xml;
use crate::xml::domain::author::DiskSource;
use crate::xml::domain::media::{self, Medium};
use crate::xml::domain::view;

/// The step that keeps what was to be done, by which a restarted daemon judges it.
const MEDIA_STEP: &str = "media";

/// What is done to which drive; kept in the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Exchange {
    target: String,
    /// What is inserted; nothing is ejected.
    volume: Option<VolumeRef>,
    path: Option<String>,
}

/// An exchange of media, decided.
#[derive(Debug)]
struct Decision {
    exchange: Exchange,
    medium: Option<Medium>,
    /// What lies in the drive now.
    before: Option<String>,
    live: bool,
    stored: bool,
    /// The VM has no drive yet: it gets one on this bus.
    new_drive: Option<DiskBus>,
    force: bool,
}

impl VmService {
    /// Inserts a medium into an optical drive of a VM, or ejects it.
    ///
    /// A running VM sees it at once. A stopped one without an optical drive gets one.
    ///
    /// # Errors
    /// 404 for the VM, the drive, the image or the volume; 409 if it is so already, or the guest
    /// has locked the tray; 422 if the VM has no such drive or the volume cannot be a medium.
    pub async fn exchange_medium(
        &self,
        ctx: Context,
        id: &str,
        request: MediaRequest,
        isos: &IsoService,
    ) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.exchange_once(&ctx, id, request, isos)).await
    }

    async fn exchange_once(
        &self,
        ctx: &Context,
        id: &str,
        request: MediaRequest,
        isos: &IsoService,
    ) -> Result<Outcome> {
        let wanted = wanted(&request, isos)?;
        let kind = match request.action {
            MediaAction::Insert => "vm.media.insert",
            MediaAction::Eject => "vm.media.eject",
        };
        let record = self.target(ctx, id).await?;
        let (uuid, name) = (record.vm.uuid, record.vm.name.clone());
        let decide =
            |record: &VmRecord| decide(&self.tools.inventory.picture(), record, &request, &wanted);
        if ctx.dry_run {
            let decided = decide(&record);
            let admitted =
                self.tools.gate.would_admit(&name, uuid, Work::Update, condition(&record.vm));
            return Ok(Outcome::Planned(Box::new(plan(kind, &record, decided, admitted)?)));
        }
        decide(&record)?;
        self.need_libvirt(Some(uuid)).await?;
        let claim = self.tools.tasks.claim(kind, ctx);
        let hold = self
            .tools
            .gate
            .enter(&name, uuid, Work::Update, || self.condition(uuid), &claim)
            .await?;
        // The medium is only read, and must stay while it is put in.
        let held = wanted.iter().flat_map(|volume| {
            [Key::Volume(volume.pool.clone(), volume.volume.clone()), pool_key(&volume.pool)]
        });
        let kept = self.tools.gate.take_beside(Vec::new(), held.collect(), &claim)?;
        let record = self.get(&uuid.to_string())?;
        check_if_match(ctx, &record)?;
        let decision = decide(&record)?;
        let step = serde_json::to_value(&decision.exchange).map_err(Error::internal)?;
        let operation =
            Operation { claim, subject: subject(&record.vm), cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                task.intend(vec![(MEDIA_STEP.to_owned(), step)]).await?;
                let done = service
                    .act(uuid, Lane::Slow, move |session| apply(session, uuid, &name, &decision))
                    .await;
                drop(kept);
                service.verdict(&task, done).await
            })
            .await
    }

    /// The verdict over an exchange that was cut off: done if the running VM and its next boot both
    /// have it; else the stored definition is put back to what runs.
    pub(super) async fn judge_media(
        &self,
        uuid: Uuid,
        name: &str,
        step: Option<Value>,
    ) -> Result<End> {
        let exchange = step.and_then(|step| serde_json::from_value::<Exchange>(step).ok());
        let Some(exchange) = exchange else {
            return Err(interrupted(format!("the medium of VM {name:?} was never exchanged")));
        };
        let record = self.fresh(uuid).await?;
        let Some(found) = &record else {
            return Err(interrupted(format!("VM {name:?} is gone")));
        };
        let next = view::parse(&found.definition().text()?)?;
        let now = has(&found.whole()?, &exchange);
        if now && (!found.vm.persistent || has(&next, &exchange)) {
            return result_of(record.as_ref());
        }
        let target = exchange.target.clone();
        if !now && found.vm.state.is_active() && has(&next, &exchange) {
            let title = name.to_owned();
            self.act(uuid, Lane::Slow, move |session| {
                let running = domain::xml(session, uuid, false, true)?;
                let stored = domain::xml(session, uuid, true, true)?;
                let back = media::with_medium_of(&stored, &running, &target)?;
                domain::define(session, &title, &back).map(drop)
            })
            .await?;
        }
        Err(interrupted(format!(
            "the exchange of the medium in drive {} of VM {name:?} was cut off; the drive is as \
             it was",
            exchange.target
        )))
    }
}

/// The volume that is to be inserted.
fn wanted(request: &MediaRequest, isos: &IsoService) -> Result<Option<VolumeRef>> {
    match (request.action, &request.iso, &request.volume) {
        (MediaAction::Eject, None, None) => Ok(None),
        (MediaAction::Eject, _, _) => Err(Error::new(
            Kind::Impossible,
            "what is ejected lies in the drive: say neither iso nor volume",
        )
        .with_field("iso", "contradicts eject")),
        (MediaAction::Insert, Some(iso), None) => isos.volume_of(iso).map(Some),
        (MediaAction::Insert, None, Some(volume)) => Ok(Some(volume.clone())),
        (MediaAction::Insert, _, _) => {
            Err(Error::new(Kind::Impossible, "say either iso or volume to be inserted")
                .with_field("iso", "this or volume is required, and not both"))
        }
    }
}

fn drives(vm: &Vm) -> impl Iterator<Item = &Disk> {
    vm.disks.iter().filter(|disk| disk.device == DiskDevice::Cdrom)
}

fn decide(
    picture: &Picture,
    record: &VmRecord,
    request: &MediaRequest,
    wanted: &Option<VolumeRef>,
) -> Result<Decision> {
    let volume = wanted.as_ref().map(|volume| medium_volume(picture, volume)).transpose()?;
    let vm = &record.whole()?;
    let active = vm.state.is_active();
    let next = view::parse(&record.definition().text()?)?;
    let place = choose(vm, request)?;
    let (target, new_drive) = match place {
        Some(drive) => (drive.target.clone(), None),
        None if active => {
            return Err(Error::new(
                Kind::Impossible,
                format!(
                    "VM {:?} has no optical drive, and none can be added while it runs",
                    vm.name
                ),
            )
            .with_hint("stop it first: inserting into a stopped VM adds a drive"));
        }
        None => {
            let (bus, target) = new_place(vm);
            (target, Some(bus))
        }
    };
    let before = place.and_then(|drive| drive.source.clone());
    let stored = vm.persistent && drives(&next).any(|drive| drive.target == target);
    let exchange = Exchange {
        target,
        volume: wanted.clone(),
        path: volume.as_ref().map(|volume| volume.path.clone()),
    };
    let is_so = has(vm, &exchange) && (!stored || has(&next, &exchange));
    if is_so && new_drive.is_none() {
        let (kind, what) = match request.action {
            MediaAction::Insert => (Kind::MediumAlreadyInserted, "has this medium already"),
            MediaAction::Eject => (Kind::DriveEmpty, "is empty"),
        };
        let drive = &exchange.target;
        return Err(Error::new(kind, format!("drive {drive} of VM {:?} {what}", vm.name))
            .with_detail("target", drive.as_str()));
    }
    Ok(Decision {
        medium: volume.as_deref().map(medium),
        before,
        live: active,
        stored: stored || new_drive.is_some(),
        new_drive,
        force: request.force,
        exchange,
    })
}

/// The drive that is meant; `None` if there is none and one could be added.
fn choose<'v>(vm: &'v Vm, request: &MediaRequest) -> Result<Option<&'v Disk>> {
    let missing = |what: String| {
        let known: Vec<&str> = drives(vm).map(|drive| drive.target.as_str()).collect();
        Error::new(Kind::DiskNotFound, what).with_detail("drives", json!(known))
    };
    let name = &vm.name;
    if let Some(target) = &request.target {
        return match vm.disks.iter().find(|disk| disk.target == *target) {
            Some(disk) if disk.device == DiskDevice::Cdrom => Ok(Some(disk)),
            Some(_) => Err(Error::new(
                Kind::Impossible,
                format!("{target} of VM {name:?} is not an optical drive"),
            )
            .with_field("target", "is a disk whose medium cannot be exchanged")),
            None => Err(missing(format!("VM {name:?} has no drive {target}"))),
        };
    }
    let all: Vec<&Disk> = drives(vm).collect();
    let (empty, full): (Vec<&Disk>, Vec<&Disk>) =
        all.iter().copied().partition(|drive| drive.source.is_none());
    match (request.action, empty.as_slice(), full.as_slice()) {
        (MediaAction::Insert, [], []) => Ok(None),
        (MediaAction::Eject, [], []) => Err(missing(format!("VM {name:?} has no optical drive"))),
        (MediaAction::Insert, [first, ..], _) => Ok(Some(first)),
        (MediaAction::Insert, [], [only]) | (MediaAction::Eject, _, [only]) => Ok(Some(only)),
        (MediaAction::Eject, [first, ..], []) => Ok(Some(first)),
        (_, _, several) => {
            let names: Vec<&str> = several.iter().map(|drive| drive.target.as_str()).collect();
            Err(Error::new(
                Kind::Impossible,
                format!("VM {name:?} has a medium in each of {}", names.join(", ")),
            )
            .with_field("target", "is required to say which drive")
            .with_detail("drives", json!(names)))
        }
    }
}

/// A volume as a medium: in an active pool, and nobody's disk that is written to.
fn medium_volume(picture: &Picture, volume: &VolumeRef) -> Result<std::sync::Arc<VolumeRecord>> {
    let pool = picture.pool(&volume.pool)?;
    if pool.pool.state == PoolState::Inactive {
        let message = format!("the pool {:?} is not active", volume.pool);
        return Err(Error::new(Kind::PoolInactive, message));
    }
    let found = picture.volume(&volume.pool, &volume.volume)?;
    let writers: Vec<String> =
        writers(picture, &found)?.iter().map(|record| record.vm.name.clone()).collect();
    if writers.is_empty() {
        return Ok(found);
    }
    Err(Error::new(
        Kind::VolumeInUse,
        format!("the volume {volume} is a disk of {}, which writes to it", writers.join(", ")),
    )
    .with_detail("vms", json!(writers)))
}

fn medium(volume: &VolumeRecord) -> Medium {
    let format = match volume.format.as_deref() {
        None | Some("iso" | "unknown" | "none") => "raw",
        Some(format) => format,
    };
    Medium {
        source: DiskSource::Volume {
            pool: volume.pool.clone(),
            volume: volume.name.clone(),
            path: volume.path.clone(),
            r#type: volume.r#type.clone(),
        },
        format: format.to_owned(),
    }
}

/// The bus that this machine has a controller for, and a free name on it.
fn new_place(vm: &Vm) -> (DiskBus, String) {
    let x86 = matches!(vm.os.architecture.as_str(), "x86_64" | "i686");
    let (bus, prefix) = match vm.os.machine.as_str() {
        machine if machine.contains("q35") => (DiskBus::Sata, "sd"),
        _ if x86 => (DiskBus::Ide, "hd"),
        _ => (DiskBus::Scsi, "sd"),
    };
    let free = ('a'..='z')
        .map(|letter| format!("{prefix}{letter}"))
        .find(|name| !vm.disks.iter().any(|disk| disk.target == *name));
    (bus, free.unwrap_or_else(|| format!("{prefix}aa")))
}

/// Whether the drive is as the exchange wants it.
fn has(vm: &Vm, exchange: &Exchange) -> bool {
    let Some(drive) = drives(vm).find(|drive| drive.target == exchange.target) else {
        return false;
    };
    match &exchange.volume {
        None => drive.source.is_none(),
        Some(volume) => {
            drive.volume.as_ref() == Some(volume)
                || (drive.source.is_some() && drive.source == exchange.path)
        }
    }
}

fn apply(session: &Session, uuid: Uuid, name: &str, decision: &Decision) -> Result<()> {
    let (target, medium) = (&decision.exchange.target, decision.medium.as_ref());
    let old = if decision.stored {
        // With its secrets, or redefining would lose them.
        let old = domain::xml(session, uuid, true, true)?;
        domain::define(session, name, &changed(&old, decision)?)?;
        Some(old)
    } else {
        None
    };
    if !decision.live {
        return Ok(());
    }
    let exchanged = domain::xml(session, uuid, false, true)
        .and_then(|running| media::drive_with(&running, target, medium))
        .and_then(|drive| domain::change_medium(session, uuid, &drive, decision.force));
    let Err(error) = exchanged else { return Ok(()) };
    let error = locked(error, name, target);
    if let Some(old) = old
        && let Err(failed) = domain::define(session, name, &old)
    {
        tracing::error!(vm = name, error = ?failed, "the old definition could not be put back");
        return Err(error.with_detail("not_put_back", "definition"));
    }
    Err(error)
}

/// The definition after the exchange.
fn changed(xml: &str, decision: &Decision) -> Result<String> {
    let target = &decision.exchange.target;
    match (decision.new_drive, &decision.medium) {
        (Some(bus), Some(medium)) => media::with_drive(xml, target, bus, medium),
        (_, medium) => media::with_medium(xml, target, medium.as_ref()),
    }
}

/// Says so if the guest keeps the tray shut.
fn locked(error: Error, name: &str, target: &str) -> Error {
    let text = error.details().get("libvirt").and_then(|libvirt| libvirt.get("text"));
    let text = text.and_then(Value::as_str).unwrap_or_default();
    if !(text.contains("is locked") || text.contains("tray")) {
        return error;
    }
    let message = format!("the guest of VM {name:?} keeps the tray of drive {target} shut");
    Error::new(Kind::MediumLocked, message).with_detail("target", target).with_source(error)
}

fn plan(
    operation: &str,
    record: &VmRecord,
    decided: Result<Decision>,
    admitted: Result<()>,
) -> Result<Plan> {
    let mut plan =
        Plan { blockers: blockers(admitted), ..Plan::of(operation, subject(&record.vm)) };
    match decided {
        // What does not exist or contradicts itself is an error of the request, plan or not.
        Err(error)
            if error.kind() != Kind::DriveEmpty
                && error.kind() != Kind::MediumAlreadyInserted
                && error.kind() != Kind::VolumeInUse
                && error.kind() != Kind::PoolInactive =>
        {
            return Err(error);
        }
        Err(error) => plan.blockers.extend(blockers(Err(error))),
        Ok(decision) => {
            let old = record.definition().text()?;
            if decision.stored {
                plan.xml_diff = xml::diff::unified(&old, &changed(&old, &decision)?);
            }
            if let Some(bus) = decision.new_drive {
                let (bus, target) = (bus.as_str(), &decision.exchange.target);
                plan.side_effects.push(format!("adds an optical drive {target} on the bus {bus}"));
            }
            plan.changes.push(Change {
                field: format!("disks.{}.source", decision.exchange.target),
                from: json!(decision.before),
                to: json!(decision.exchange.path),
                effect: Effect::Live,
                reason: None,
            });
        }
    }
    Ok(plan)
}
