//! Copies of a running VM's disks: one backup job, all of one moment.
//!
//! The guest's file systems are frozen for the moment in which the job begins, where its agent can;
//! otherwise the copy is as after a power cut. The job is QEMU's: it goes on while the daemon is
//! away.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::VmService;
use super::ClonePlan;
use super::draft::Draft;
use super::make::{Made, medium};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session, agent, domain, volume};
use crate::service::operation::SLOW_CALL;
use crate::service::task::TaskHandle;
use crate::service::volume::copy::{self, progress};
use crate::xml;
use crate::xml::domain::backup;

/// How often the job is looked at.
const BEAT: Duration = Duration::from_millis(500);

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(10);

/// How long the agent may take to write out what the guest has in memory, seconds.
const FREEZE: u32 = 20;

/// How a job stands.
pub(super) enum Job {
    Runs {
        done: u64,
        total: u64,
    },
    Completed,
    /// It failed, was ended, or nothing is known of it.
    Gone,
}

impl VmService {
    /// Copies the disks while the VM runs. False if the daemon stops meanwhile, and the job goes on.
    pub(super) async fn copy_live(
        &self,
        task: &TaskHandle,
        draft: &Draft,
        made: &mut Made,
    ) -> Result<bool> {
        if draft.copies.is_empty() {
            return Ok(true);
        }
        let source = draft.plan.source;
        for (target, copy) in &draft.copies {
            let (in_task, in_target, in_copy) = (task.clone(), target.clone(), copy.clone());
            self.tools
                .hypervisor
                .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                    in_task.check_cancelled()?;
                    let size = domain::block_info(session, source, &in_target)?;
                    copy::make_empty(session, &in_copy, size.capacity)
                })
                .await?;
            made.volumes.push(copy.to.clone());
        }
        let (in_task, in_draft) = (task.clone(), draft.clone());
        let frozen = self
            .tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| begin(session, &in_task, &in_draft))
            .await?;
        task.done(super::CLONE_STEP, serde_json::to_value(&draft.plan).map_err(Error::internal)?)
            .await?;
        match frozen {
            Some(_) => {
                task.log("the guest's file systems were frozen for the moment that is copied")
                    .await;
            }
            None => {
                task.warn("no agent could freeze the guest: the copy is as after a power cut")
                    .await;
            }
        }
        self.follow_copy(task, &draft.plan).await
    }

    /// Waits for the end of the job. False if the daemon stops meanwhile.
    pub(super) async fn follow_copy(&self, task: &TaskHandle, plan: &ClonePlan) -> Result<bool> {
        let hold = task.hold();
        let give_way = hold.waiting();
        let begun = Instant::now();
        let uuid = plan.source;
        let ended = loop {
            tokio::select! {
                () = tokio::time::sleep(BEAT) => {}
                () = task.cancelled().cancelled() => break Err("it was cancelled"),
                () = give_way.cancelled() => break Err("a force-stop took its place"),
                () = task.stopping().cancelled() => return Ok(false),
            }
            let look =
                self.tools.hypervisor.run(Lane::Quick, LOOK, move |session| job(session, uuid));
            match look.await {
                Ok(Job::Runs { done, total }) => {
                    let mut progress = progress(done, total, begun.elapsed());
                    // It grows while the guest writes.
                    progress.bytes_total = (total > 0).then_some(total);
                    task.progress(progress);
                }
                Ok(Job::Completed) => break Ok(()),
                Ok(Job::Gone) => {
                    return Err(Error::new(
                        Kind::LibvirtRefused,
                        format!(
                            "the copy of VM {:?} ended early: it was stopped, or a pool is full",
                            plan.source_name
                        ),
                    ));
                }
                // Its QEMU is busy, or libvirt is slow: looked at again.
                Err(error) if matches!(error.kind(), Kind::VmBusy | Kind::LibvirtTimeout) => {}
                Err(error) => return Err(error),
            }
        };
        // False if somebody has asked for this operation's place.
        let ours = hold.working();
        match ended {
            Ok(()) => Ok(true),
            Err(why) => {
                self.end_copy(uuid).await;
                let why = if ours { why } else { "a force-stop took its place" };
                Err(Error::new(
                    Kind::Cancelled,
                    format!("the copy of VM {:?} was ended: {why}", plan.source_name),
                ))
            }
        }
    }

    /// Has the job ended, and waits for QEMU to let go of what it wrote to.
    pub(super) async fn end_copy(&self, uuid: uuid::Uuid) {
        let ended = self
            .tools
            .hypervisor
            .run(Lane::Slow, LOOK, move |session| {
                let begun = Instant::now();
                if let Some(running) = domain::job_info(session, uuid)?
                    && running.operation == "backup"
                {
                    domain::abort_job(session, uuid)?;
                }
                while domain::job_info(session, uuid)?.is_some() && begun.elapsed() < LOOK {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Ok(())
            })
            .await;
        if let Err(error) = ended {
            tracing::debug!(vm = %uuid, error = ?error, "the copy had ended by itself");
        }
    }
}

/// How the source's job stands.
pub(super) fn job(session: &Session, uuid: uuid::Uuid) -> Result<Job> {
    let running = match domain::job_info(session, uuid) {
        Err(error) if is_stopped(&error) => return Ok(Job::Gone),
        other => other?,
    };
    if let Some(running) = running.filter(|running| running.operation == "backup") {
        return Ok(Job::Runs { done: running.bytes_done, total: running.bytes_total });
    }
    match domain::ended_job(session, uuid, false) {
        Err(error) if is_stopped(&error) => Ok(Job::Gone),
        Ok(Some(ended)) if ended.operation == "backup" && ended.completed => Ok(Job::Completed),
        Ok(_) => Ok(Job::Gone),
        Err(error) => Err(error),
    }
}

fn is_stopped(error: &Error) -> bool {
    matches!(error.kind(), Kind::VmNotFound | Kind::VmNotRunning | Kind::VmWrongState)
}

/// Begins the job, with the guest frozen if its agent can: how many file systems were.
fn begin(session: &Session, task: &TaskHandle, draft: &Draft) -> Result<Option<u32>> {
    let source = draft.plan.source;
    let mut media = BTreeMap::new();
    for (target, disk) in &draft.plan.disks {
        media.insert(target.clone(), medium(session, disk)?);
    }
    let text = backup::author(&draft.targets, &media)?;
    task.check_cancelled()?;
    // What an earlier job of another kind has left says nothing of this one.
    let _ = domain::ended_job(session, source, true);
    let mut frozen = None;
    if draft.has_agent {
        task.phase("freezing the guest's file systems");
        let answer = agent::limit_wait(session, source, FREEZE)
            .and_then(|()| domain::freeze(session, source));
        match answer {
            Ok(count) => frozen = Some(count),
            Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
            Err(error) => {
                tracing::warn!(vm = %source, error = ?error, "the guest is not frozen");
                // An agent that answered too late may have frozen it all the same.
                let _ = domain::thaw(session, source);
            }
        }
    }
    task.phase("copying");
    let begun = domain::backup_begin(session, source, &text);
    if frozen.is_some() {
        thaw(session, source);
    }
    begun.map(|()| frozen)
}

/// Lets the guest go on, whatever it takes.
pub(super) fn thaw(session: &Session, source: uuid::Uuid) {
    for _ in 0..3 {
        match domain::thaw(session, source) {
            Ok(_) => return,
            Err(error) if is_stopped(&error) || error.kind() == Kind::LibvirtUnavailable => return,
            Err(error) => {
                tracing::warn!(vm = %source, error = ?error, "the guest could not be thawed");
            }
        }
    }
}

/// Whether the backup under way is this clone's.
pub(super) fn is_ours(session: &Session, plan: &ClonePlan) -> Result<bool> {
    if plan.disks.is_empty() {
        return Ok(false);
    }
    let written = match domain::backup_xml(session, plan.source) {
        Ok(text) => xml::domain::backup::targets(&text)?,
        Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
        Err(_) => return Ok(false),
    };
    for disk in plan.disks.values() {
        match volume::facts(session, &disk.volume.pool, &disk.volume.volume) {
            Ok(facts) if written.contains(&facts.path) => {}
            Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
            _ => return Ok(false),
        }
    }
    Ok(true)
}
