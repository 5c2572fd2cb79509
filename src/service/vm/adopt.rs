//! After a restart: every task that the last daemon left unfinished is gone on with, or ended
//! with a verdict that is true. Nothing is asked of libvirt a second time that could happen twice.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::action::GRACEFUL_STEP;
use super::clone;
use super::create::{DEFINE_STEP, VOLUME_STEP};
use super::delete::DELETE_VOLUME_STEP;
use super::follow::GracefulStop;
use super::history::{ROLLBACK_STEP, RollbackStep};
use super::reseed::{RESEED_STEP, ReseedStep, was_written};
use super::update::{UPDATE_STEP, unmet};
use super::{VmService, result_of};
use crate::error::{Error, Kind, Result};
use crate::libvirt::Lane;
use crate::model::{Task, UpdateVm, VmState, VolumeRef};
use crate::service::adopt::{Adopter, interrupted};
use crate::service::gate::Key;
use crate::service::inventory::VmRecord;
use crate::service::operation::Tools;
use crate::service::task::{End, TaskHandle};
use crate::store::{Step, StepState};

/// How long what the last daemon asked of libvirt may still take to show.
const SETTLE: Duration = Duration::from_secs(15);

/// How long a verdict is looked for at least, however long ago the work was cut off.
const LEAST_LOOK: Duration = Duration::from_secs(1);

/// The same for an update, whose calls are quick.
const SETTLE_UPDATE: Duration = Duration::from_secs(3);

impl Adopter for VmService {
    const KINDS: &'static [&'static str] = &[
        "vm.create",
        "vm.clone",
        "vm.update",
        "vm.define",
        "vm.rollback",
        "vm.delete",
        "vm.start",
        "vm.stop",
        "vm.force-stop",
        "vm.restart",
        "vm.reboot",
        "vm.reset",
        "vm.pause",
        "vm.resume",
        "vm.save",
        "vm.restore-saved",
        "vm.media.insert",
        "vm.media.eject",
    ];

    fn tools(&self) -> &Tools {
        &self.tools
    }

    fn keys(&self, task: &Task, steps: &[Step]) -> Vec<Key> {
        let mut keys: Vec<Key> =
            Uuid::try_parse(&task.subject.id).ok().map(Key::Vm).into_iter().collect();
        if matches!(task.kind.as_str(), "vm.create" | "vm.clone") {
            keys.push(Key::VmName(task.subject.name.clone()));
        }
        keys.extend(clone::source_of(steps));
        // Its volumes may still have to be removed: nobody may make new ones of their names before
        // that.
        let volumes = steps.iter().filter_map(volume_of);
        keys.extend(volumes.map(|volume| Key::Volume(volume.pool, volume.volume)));
        keys
    }

    fn parks_itself(&self, task: &Task) -> bool {
        // The wait for a guest parks itself, after it has given back its place at the gate.
        matches!(task.kind.as_str(), "vm.stop" | "vm.restart")
    }

    async fn judge(&self, handle: &TaskHandle, task: &Task, cut: Instant) -> Result<End> {
        self.judge_by_kind(handle, task, cut).await
    }
}

impl VmService {
    async fn judge_by_kind(&self, handle: &TaskHandle, task: &Task, cut: Instant) -> Result<End> {
        let steps = self.tools.tasks.store().steps(task.id).await?;
        let uuid = Uuid::try_parse(&task.subject.id).map_err(Error::internal)?;
        let name = task.subject.name.as_str();
        let state = |wanted: VmState| {
            move |record: Option<&VmRecord>| record.is_some_and(|record| record.vm.state == wanted)
        };
        let stopped = |record: Option<&VmRecord>| {
            record.is_none_or(|record| record.vm.state == VmState::Shutoff)
        };
        match task.kind.as_str() {
            "vm.start" | "vm.restore-saved" | "vm.resume" => {
                self.settle(cut, uuid, name, state(VmState::Running)).await
            }
            "vm.pause" => self.settle(cut, uuid, name, state(VmState::Paused)).await,
            "vm.force-stop" => self.settle(cut, uuid, name, stopped).await,
            "vm.save" => {
                self.settle(cut, uuid, name, |record| {
                    record.is_some_and(|record| {
                        record.vm.state == VmState::Shutoff && record.vm.has_saved_state
                    })
                })
                .await
            }
            "vm.restart" if steps.iter().any(|step| step.state == StepState::Done) => {
                self.start_after_stop(cut, uuid, name).await
            }
            "vm.stop" | "vm.restart" => match step::<GracefulStop>(&steps, GRACEFUL_STEP) {
                Some(request) => self.follow_stop(handle, uuid, name, &request).await,
                None => Err(interrupted(format!("the guest of VM {name:?} was never asked"))),
            },
            "vm.update" => {
                let done = self.judge_update(uuid, name, &steps).await;
                match self.remove_unused_seed(uuid, &steps).await {
                    // Judged again when libvirt is back.
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
                    Err(error) => tracing::warn!(vm = name, error = ?error, "its new seed stays"),
                    Ok(()) => {}
                }
                done
            }
            "vm.rollback" => {
                let wanted = step::<RollbackStep>(&steps, ROLLBACK_STEP);
                self.judge_rollback(uuid, name, wanted).await
            }
            "vm.media.insert" | "vm.media.eject" => {
                let step = steps.into_iter().next().map(|step| step.undo);
                self.judge_media(uuid, name, step).await
            }
            "vm.create" => self.judge_create(cut, uuid, name, &steps).await,
            "vm.clone" => self.judge_clone(handle, cut, name, &steps).await,
            "vm.delete" => self.judge_delete(cut, uuid, name, &steps).await,
            _ => {
                let state = self.state_word(uuid).await;
                Err(interrupted(format!(
                    "{} of VM {name:?} was cut off, and the VM is now {state}; \
                     whether it happened cannot be told",
                    task.kind
                )))
            }
        }
    }

    /// Waits a while for the goal; what libvirt was asked for when the work was cut off may still
    /// be on its way.
    pub(super) async fn settle(
        &self,
        cut: Instant,
        uuid: Uuid,
        name: &str,
        reached: impl Fn(Option<&VmRecord>) -> bool,
    ) -> Result<End> {
        let deadline = (cut + SETTLE).max(Instant::now() + LEAST_LOOK);
        loop {
            let record = self.fresh(uuid).await?;
            if reached(record.as_deref()) {
                return result_of(record.as_ref());
            }
            // A save that is still running is followed to its end.
            let busy = self
                .tools
                .hypervisor
                .run(Lane::Quick, Duration::from_secs(5), move |session| {
                    crate::libvirt::domain::job_info(session, uuid)
                })
                .await
                .is_ok_and(|job| job.is_some());
            if !busy && Instant::now() > deadline {
                let state = record.map_or("gone", |record| record.vm.state.as_str());
                return Err(interrupted(format!(
                    "the work was cut off in the middle; VM {name:?} is now {state}"
                ))
                .with_detail("state", state));
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    async fn judge_update(&self, uuid: Uuid, name: &str, steps: &[Step]) -> Result<End> {
        let request = step::<UpdateVm>(steps, UPDATE_STEP);
        let reseed = step::<ReseedStep>(steps, RESEED_STEP);
        let deadline = Instant::now() + SETTLE_UPDATE;
        let unmet = loop {
            let record = self.fresh(uuid).await?;
            let (Some(found), Some(request)) = (&record, &request) else {
                return Err(interrupted(format!("the update of VM {name:?} was never begun")));
            };
            let mut unmet =
                unmet(&self.tools.inventory.picture(), self.shareable(), found, request)?;
            if let Some(reseed) = &reseed
                && !was_written(found, reseed)?
            {
                unmet.push("cloud_init".to_owned());
            }
            if unmet.is_empty() {
                return result_of(record.as_ref());
            }
            if Instant::now() > deadline {
                break unmet;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        };
        Err(interrupted(format!(
            "the update of VM {name:?} was cut off; not as wanted: {}",
            unmet.join(", ")
        ))
        .with_hint("send it again: what it changed already stays as it is, the rest follows")
        .with_detail("fields", json!(unmet)))
    }

    /// Removes the volume that an interrupted update made for cloud-init, unless the VM has it.
    async fn remove_unused_seed(&self, uuid: Uuid, steps: &[Step]) -> Result<()> {
        let made = steps.iter().find(|step| step.action == VOLUME_STEP).and_then(volume_of);
        let (Some(made), Some(reseed)) = (made, step::<ReseedStep>(steps, RESEED_STEP)) else {
            return Ok(());
        };
        if let Some(record) = self.fresh(uuid).await?
            && was_written(&record, &reseed)?
        {
            return Ok(());
        }
        self.remove_unused(vec![made]).await.map(drop)
    }

    async fn judge_rollback(
        &self,
        uuid: Uuid,
        name: &str,
        wanted: Option<RollbackStep>,
    ) -> Result<End> {
        let deadline = Instant::now() + SETTLE_UPDATE;
        let number = loop {
            let record = self.fresh(uuid).await?;
            let (Some(found), Some(wanted)) = (&record, &wanted) else {
                return Err(interrupted(format!("the rollback of VM {name:?} was never begun")));
            };
            if found.definition_hash == wanted.hash {
                return result_of(record.as_ref());
            }
            if Instant::now() > deadline {
                break wanted.number;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        };
        Err(interrupted(format!(
            "the rollback of VM {name:?} was cut off; its definition is not that of version {number}"
        )))
    }

    async fn judge_create(
        &self,
        cut: Instant,
        uuid: Uuid,
        name: &str,
        steps: &[Step],
    ) -> Result<End> {
        if steps.is_empty() {
            return Err(interrupted(format!("the creation of VM {name:?} was never begun")));
        }
        let start = steps
            .iter()
            .find(|step| step.action == DEFINE_STEP)
            .and_then(|step| step.undo.get("start"))
            .and_then(Value::as_bool)
            .unwrap_or(false);
        let done = self
            .settle(cut, uuid, name, |record| {
                record.is_some_and(|record| !start || record.vm.state.is_active())
            })
            .await;
        match done {
            // Cut off, so undone; but not while libvirt cannot tell.
            Err(error) if error.kind() == Kind::Interrupted => {}
            done => return done,
        }
        let mut left = self.undo_create(steps, uuid).await?;
        // A copy that libvirt is still making can be removed only when it is done.
        for _ in 0..60 {
            if left.stuck.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
            left = self.undo_create(steps, uuid).await?;
        }
        let left = left.all();
        if left.is_empty() {
            return Err(interrupted(format!(
                "the creation of VM {name:?} was cut off; what had been made was undone"
            )));
        }
        Err(interrupted(format!("the creation of VM {name:?} left: {}", left.join(", ")))
            .with_detail("left", left))
    }

    async fn judge_delete(
        &self,
        cut: Instant,
        uuid: Uuid,
        name: &str,
        steps: &[Step],
    ) -> Result<End> {
        self.settle(cut, uuid, name, |record| record.is_none()).await?;
        let volumes = steps.iter().filter(|step| step.action == DELETE_VOLUME_STEP);
        let left = self.remove_unused(volumes.filter_map(volume_of).collect()).await?.all();
        if left.is_empty() {
            return Ok(End::Done(Value::Null));
        }
        Err(interrupted(format!("VM {name:?} is deleted, but this is left: {}", left.join(", ")))
            .with_detail("left", left))
    }

    async fn state_word(&self, uuid: Uuid) -> &'static str {
        self.refreshed(uuid).await.map_or("gone", |record| record.vm.state.as_str())
    }
}

/// The volume that a step makes or removes.
pub(super) fn volume_of(step: &Step) -> Option<VolumeRef> {
    let about_one = matches!(step.action.as_str(), VOLUME_STEP | DELETE_VOLUME_STEP);
    serde_json::from_value(step.undo.clone()).ok().filter(|_| about_one)
}

pub(super) fn step<T: serde::de::DeserializeOwned>(steps: &[Step], action: &str) -> Option<T> {
    let step = steps.iter().find(|step| step.action == action)?;
    serde_json::from_value(step.undo.clone()).ok()
}
