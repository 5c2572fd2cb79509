//! Waiting for a guest: the part of a stop or a restart that takes as long as the guest likes,
//! may be cancelled, preempted by a force-stop, parked while the daemon restarts, and gone on with.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::action::GRACEFUL_STEP;
use super::{VmService, result_of};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, domain};
use crate::model::{Progress, VmState};
use crate::service::inventory::VmRecord;
use crate::service::task::{End, TaskHandle};

/// The journalled request of a graceful stop: all that a later daemon needs to go on with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GracefulStop {
    /// When the guest's time is up.
    pub until: Timestamp,
    /// Cut the power then.
    pub force: bool,
    /// Start again after the stop.
    pub start: bool,
    pub timeout_seconds: u32,
}

/// The rhythm of the progress; the end is seen as soon as the picture changes.
const BEAT: Duration = Duration::from_millis(500);

/// How long after the first request the guest is asked a second time: a guest that was still
/// booting ignored the first.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// How the wait ended.
enum Waited {
    Stopped,
    TimeUp,
    Parked,
    Preempted,
    Cancelled,
}

impl VmService {
    /// Waits until the guest is down, then does the rest of the request.
    pub(super) async fn follow_stop(
        &self,
        task: &TaskHandle,
        uuid: Uuid,
        name: &str,
        request: &GracefulStop,
    ) -> Result<End> {
        task.phase("waiting for the guest to shut down");
        let hold = task.hold();
        let give_way = hold.waiting();
        let waited = self.wait_stopped(task, uuid, request, &give_way).await;
        let still_ours = hold.working();
        match waited {
            // Done, even if somebody has asked for this operation's place in the last moment.
            Waited::Stopped if !request.start => self.after_stop(task, uuid, request).await,
            _ if !still_ours => Err(Error::new(
                Kind::Cancelled,
                format!("a force-stop took the place of this operation on VM {name:?}"),
            )),
            Waited::Preempted => Err(Error::internal("a wait was preempted by nobody")),
            Waited::Parked => Ok(End::Parked),
            Waited::Cancelled => Err(Error::new(
                Kind::Cancelled,
                format!("the wait for VM {name:?} was cancelled; its guest may still stop"),
            )),
            Waited::Stopped => self.after_stop(task, uuid, request).await,
            Waited::TimeUp => self.time_is_up(task, uuid, name, request).await,
        }
    }

    /// The guest's time is over, unless it has stopped and only the news of it is late.
    async fn time_is_up(
        &self,
        task: &TaskHandle,
        uuid: Uuid,
        name: &str,
        request: &GracefulStop,
    ) -> Result<End> {
        if is_stopped(self.fresh(uuid).await?.as_deref()) {
            return self.after_stop(task, uuid, request).await;
        }
        if !request.force {
            return Err(Error::new(
                Kind::GuestTimeout,
                format!(
                    "the guest of VM {name:?} did not shut down within {} s",
                    request.timeout_seconds
                ),
            )
            .with_detail("timeout_seconds", request.timeout_seconds));
        }
        task.warn("the guest did not stop in time; its power is cut").await;
        task.phase("cutting the power");
        self.act(uuid, Lane::Slow, move |session| domain::cut_power(session, uuid)).await?;
        self.after_stop(task, uuid, request).await
    }

    async fn after_stop(
        &self,
        task: &TaskHandle,
        uuid: Uuid,
        request: &GracefulStop,
    ) -> Result<End> {
        if request.start {
            task.phase("starting");
            task.point_of_no_return()?;
            // From here on a later daemon must not take the VM that runs for one yet to stop. A
            // journal that cannot be written is no reason to leave the VM off.
            let stopped = serde_json::to_value(request).map_err(Error::internal)?;
            if let Err(error) = task.done(GRACEFUL_STEP, stopped).await {
                tracing::warn!(error = ?error, "the stop before the start is not in the journal");
            }
            let record =
                self.act(uuid, Lane::Slow, move |session| domain::start(session, uuid)).await?;
            return result_of(record.as_ref());
        }
        let record = self.refreshed(uuid).await;
        result_of(record.as_ref())
    }

    /// Goes on with a restart whose stop is done: starts the VM unless the last daemon's start
    /// took effect.
    pub(super) async fn start_after_stop(
        &self,
        cut: Instant,
        uuid: Uuid,
        name: &str,
    ) -> Result<End> {
        let running = |record: Option<&VmRecord>| {
            record.is_some_and(|record| record.vm.state == VmState::Running)
        };
        match self.settle(cut, uuid, name, running).await {
            Err(error) if error.kind() == Kind::Interrupted => {}
            ended => return ended,
        }
        let record =
            self.act(uuid, Lane::Slow, move |session| match domain::start(session, uuid) {
                Err(error) if error.kind() == Kind::VmAlreadyRunning => Ok(()),
                other => other,
            });
        result_of(record.await?.as_ref())
    }

    /// The VM as libvirt has it now; as last seen if this VM alone cannot be read.
    ///
    /// # Errors
    /// [`Kind::LibvirtUnavailable`]: then nothing can be said about it.
    pub(super) async fn fresh(&self, uuid: Uuid) -> Result<Option<Arc<VmRecord>>> {
        match self.tools.inventory.refresh(uuid, Duration::from_secs(5)).await {
            Err(error) if error.kind() != Kind::LibvirtUnavailable => {
                Ok(self.tools.inventory.picture().by_uuid.get(&uuid).cloned())
            }
            other => other,
        }
    }

    /// The record as fresh as can be had; a libvirt that does not answer costs only freshness.
    pub(super) async fn refreshed(&self, uuid: Uuid) -> Option<Arc<VmRecord>> {
        match self.tools.inventory.refresh(uuid, Duration::from_secs(5)).await {
            Ok(record) => record,
            Err(_) => self.tools.inventory.picture().by_uuid.get(&uuid).cloned(),
        }
    }

    async fn wait_stopped(
        &self,
        task: &TaskHandle,
        uuid: Uuid,
        request: &GracefulStop,
        give_way: &tokio_util::sync::CancellationToken,
    ) -> Waited {
        let begun = Instant::now();
        let mut asked_again = false;
        let mut changes = self.tools.inventory.changes();
        loop {
            let gone = match self.tools.inventory.picture().by_uuid.get(&uuid) {
                Some(record) => record.vm.state == VmState::Shutoff,
                // A transient VM vanishes with its stop.
                None => true,
            };
            if gone {
                return Waited::Stopped;
            }
            let left = request.until.duration_since(Timestamp::now());
            if left.is_negative() || left.is_zero() {
                return Waited::TimeUp;
            }
            task.progress(Progress {
                phase: "waiting for the guest to shut down".to_owned(),
                eta_seconds: u64::try_from(left.as_secs()).ok(),
                ..Progress::default()
            });
            if !asked_again && begun.elapsed() > ASK_AGAIN {
                asked_again = true;
                let asked = self
                    .tools
                    .hypervisor
                    .run(Lane::Agent, Duration::from_secs(10), move |session| {
                        domain::shutdown(session, uuid, domain::ShutdownMode::Default)
                    })
                    .await;
                if let Err(error) = asked {
                    tracing::debug!(vm = %uuid, error = ?error, "the guest was not asked again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(BEAT) => {}
                Ok(()) = changes.changed() => {}
                () = give_way.cancelled() => return Waited::Preempted,
                () = task.cancelled().cancelled() => return Waited::Cancelled,
                () = task.stopping().cancelled() => return Waited::Parked,
            }
        }
    }
}

/// Whether a VM is down; a transient one vanishes with its stop.
fn is_stopped(record: Option<&VmRecord>) -> bool {
    record.is_none_or(|record| record.vm.state == VmState::Shutoff)
}
