//! After a restart: every task that the last daemon left unfinished is gone on with, or ended
//! with a verdict that is true. Nothing is asked of libvirt a second time that could happen twice.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::action::GRACEFUL_STEP;
use super::create::{DEFINE_STEP, VOLUME_STEP};
use super::delete::{DELETE_VOLUME_STEP, remove_volumes};
use super::follow::GracefulStop;
use super::update::{UPDATE_STEP, unmet};
use super::{SLOW_CALL, VmService, result_of};
use crate::error::{Error, Kind, Result};
use crate::libvirt::Lane;
use crate::model::{SubjectType, Task, UpdateVm, VmState, VolumeRef};
use crate::service::gate::{Claim, Key};
use crate::service::inventory::VmRecord;
use crate::service::task::{End, TaskHandle};
use crate::store::{Step, StepState};

/// How long what the last daemon asked of libvirt may still take to show.
const SETTLE: Duration = Duration::from_secs(15);

/// How long a verdict is looked for at least, however long ago the work was cut off.
const LEAST_LOOK: Duration = Duration::from_secs(1);

/// The same for an update, whose calls are quick.
const SETTLE_UPDATE: Duration = Duration::from_secs(3);

/// How long libvirt may be away in the middle of an operation before the verdict is given without
/// it.
const LOSS_PATIENCE: Duration = Duration::from_secs(120);

/// Every kind of task there is.
const KINDS: [&str; 16] = [
    "vm.create",
    "vm.update",
    "vm.define",
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
    "volume.create",
    "volume.delete",
];

impl VmService {
    /// Takes over the unfinished tasks. Their VMs are held from now on, before any client is
    /// served, so that nothing new comes in between.
    pub async fn adopt(&self) -> Result<usize> {
        let unfinished = self.tasks.unfinished().await?;
        let count = unfinished.len();
        for task in unfinished {
            let Some(kind) = KINDS.into_iter().find(|kind| *kind == task.kind) else {
                let message = format!("this version knows no operation {:?}", task.kind);
                self.tasks.conclude(task, Err(interrupted(message))).await;
                continue;
            };
            // What an adopted task still does to a VM is told as nobody's, unless its kind says it.
            let starts = matches!(kind, "vm.start" | "vm.restore-saved" | "vm.restart");
            let claim = Claim { task: task.id, kind, principal: task.principal.clone(), starts };
            let mut keys = Vec::new();
            match task.subject.r#type {
                SubjectType::Vm => {
                    keys.extend(Uuid::try_parse(&task.subject.id).ok().map(Key::Vm));
                    if task.kind == "vm.create" {
                        keys.push(Key::VmName(task.subject.name.clone()));
                    }
                    // Its volumes may still have to be removed: nobody may make new ones of their
                    // names before that.
                    let steps = self.tasks.store().steps(task.id).await?;
                    keys.extend(
                        steps
                            .into_iter()
                            .filter_map(volume_of)
                            .map(|volume| Key::Volume(volume.pool, volume.volume)),
                    );
                }
                SubjectType::Volume => {
                    if let Some((pool, volume)) = task.subject.id.split_once('/') {
                        keys.push(Key::Volume(pool.to_owned(), volume.to_owned()));
                    }
                }
                SubjectType::Pool
                | SubjectType::Network
                | SubjectType::Device
                | SubjectType::Task
                | SubjectType::Host => {}
            }
            let hold = match self.gate.take(keys, &claim) {
                Ok(hold) => hold,
                // Two unfinished tasks on one VM: the earlier one holds it, so this never began.
                Err(error) => {
                    self.tasks
                        .conclude(task, Err(interrupted(format!("never begun: {error}"))))
                        .await;
                    continue;
                }
            };
            let service = self.clone();
            let adopted = task.clone();
            let cut = Instant::now();
            self.tasks.resume(task, hold, move |handle| async move {
                handle.log("adopted after a restart of the daemon").await;
                tokio::select! {
                    () = service.known() => match service.judge(&handle, &adopted, cut).await {
                        Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                            service.judge_after_loss(&handle, error).await
                        }
                        verdict => verdict,
                    },
                    () = handle.stopping().cancelled() => Ok(End::Parked),
                }
            });
        }
        Ok(count)
    }

    /// Waits for the first picture.
    async fn known(&self) {
        while !self.inventory.filled(Duration::from_secs(3600)).await {}
    }

    /// The verdict over a task whose work was cut off. Given up, to be taken up by the next daemon,
    /// if this one stops meanwhile.
    async fn judge(&self, handle: &TaskHandle, task: &Task, cut: Instant) -> Result<End> {
        tokio::select! {
            verdict = self.judge_by_kind(handle, task, cut) => verdict,
            () = stopped_in_judgement(handle, task) => Ok(End::Parked),
        }
    }

    /// libvirt was lost while it worked for this task: waits for its return, then judges by what
    /// stands, as a restarted daemon does.
    pub(in crate::service) async fn judge_after_loss(
        &self,
        handle: &TaskHandle,
        lost: Error,
    ) -> Result<End> {
        handle.phase("waiting for libvirt to come back");
        handle
            .log("libvirt went away in the middle; what stands is looked up when it is back")
            .await;
        let (task, cut) = (handle.task(), Instant::now());
        let back = async {
            let mut status = self.hypervisor.watch();
            loop {
                // An error is the end of the daemon.
                if status.wait_for(|status| status.connected).await.is_err() {
                    std::future::pending::<()>().await;
                }
                match self.judge(handle, &task, cut).await {
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        tokio::time::sleep(Duration::from_millis(300)).await;
                    }
                    verdict => return verdict,
                }
            }
        };
        tokio::select! {
            verdict = tokio::time::timeout(LOSS_PATIENCE, back) => verdict.unwrap_or_else(|_| {
                Err(interrupted(format!(
                    "libvirt went away during {} of {:?} and has not come back",
                    task.kind, task.subject.name
                ))
                .with_source(lost))
            }),
            () = handle.stopping().cancelled() => Ok(End::Parked),
        }
    }

    async fn judge_by_kind(&self, handle: &TaskHandle, task: &Task, cut: Instant) -> Result<End> {
        let steps = self.tasks.store().steps(task.id).await?;
        if task.subject.r#type == SubjectType::Volume {
            return self.judge_volume(task).await;
        }
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
                let request = step::<UpdateVm>(&steps, UPDATE_STEP);
                self.judge_update(uuid, name, request).await
            }
            "vm.create" => self.judge_create(task, cut, uuid, name, &steps).await,
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

    async fn judge_update(&self, uuid: Uuid, name: &str, request: Option<UpdateVm>) -> Result<End> {
        let deadline = Instant::now() + SETTLE_UPDATE;
        let unmet = loop {
            let record = self.fresh(uuid).await?;
            let (Some(found), Some(request)) = (&record, &request) else {
                return Err(interrupted(format!("the update of VM {name:?} was never begun")));
            };
            let unmet = unmet(found, request)?;
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
        .with_detail("fields", json!(unmet)))
    }

    async fn judge_create(
        &self,
        task: &Task,
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
        let mut left = Vec::new();
        // A copy that libvirt is still making can be removed only when it is done.
        for _ in 0..60 {
            left = self.undo_create(task.id, uuid).await?;
            if left.is_empty() {
                return Err(interrupted(format!(
                    "the creation of VM {name:?} was cut off; what had been \
                     made was undone"
                )));
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
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
        let volumes: Vec<VolumeRef> = steps
            .iter()
            .filter(|step| step.action == DELETE_VOLUME_STEP)
            .filter_map(|step| serde_json::from_value(step.undo.clone()).ok())
            .collect();
        if !volumes.is_empty() {
            self.hypervisor
                .run_to_end(Lane::Slow, SLOW_CALL, move |session| remove_volumes(session, &volumes))
                .await?;
            self.inventory.refresh_storage().await?;
        }
        Ok(End::Done(Value::Null))
    }

    async fn judge_volume(&self, task: &Task) -> Result<End> {
        self.inventory.refresh_storage().await?;
        let (pool, name) = task.subject.id.split_once('/').unwrap_or(("", ""));
        // The picture takes the refresh in before it answers the next question.
        let there = self.inventory.picture().volume(pool, name);
        match (task.kind.as_str(), there) {
            ("volume.create", Ok(volume)) => {
                Ok(End::Done(serde_json::to_value(&*volume).map_err(Error::internal)?))
            }
            ("volume.delete", Err(error)) if error.kind() == Kind::VolumeNotFound => {
                Ok(End::Done(Value::Null))
            }
            (kind, there) => Err(interrupted(format!(
                "{kind} of {pool}/{name} was cut off; it {}",
                if there.is_ok() { "is there" } else { "is not there" }
            ))),
        }
    }

    async fn state_word(&self, uuid: Uuid) -> &'static str {
        self.refreshed(uuid).await.map_or("gone", |record| record.vm.state.as_str())
    }
}

/// A stop of the daemon, for judgements that do not look after that themselves.
async fn stopped_in_judgement(handle: &TaskHandle, task: &Task) {
    if matches!(task.kind.as_str(), "vm.stop" | "vm.restart") {
        // The wait for a guest parks itself, after it has given back its place at the gate.
        std::future::pending::<()>().await;
    }
    handle.stopping().cancelled().await;
}

fn interrupted(message: String) -> Error {
    Error::new(Kind::Interrupted, message)
}

/// The volume that a step makes or removes.
fn volume_of(step: Step) -> Option<VolumeRef> {
    let about_one = matches!(step.action.as_str(), VOLUME_STEP | DELETE_VOLUME_STEP);
    serde_json::from_value(step.undo).ok().filter(|_| about_one)
}

fn step<T: serde::de::DeserializeOwned>(steps: &[Step], action: &str) -> Option<T> {
    let step = steps.iter().find(|step| step.action == action)?;
    serde_json::from_value(step.undo.clone()).ok()
}
