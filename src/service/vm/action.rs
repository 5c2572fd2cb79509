//! Power: start, stop and what lies between.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use uuid::Uuid;

use super::follow::GracefulStop;
use super::{SLOW_CALL, VmService, check_if_match, condition, result_of, subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, domain};
use crate::model::{ActionRequest, Change, Effect, Plan, Progress, VmAction, VmState};
use crate::service::adopt::judge_after_loss;
use crate::service::gate::Work;
use crate::service::inventory::VmRecord;
use crate::service::operation::blockers;
use crate::service::task::{End, Operation, QUICK_WAIT, TaskHandle};
use crate::service::{Context, Outcome};

/// Seconds that a guest gets to shut down, unless the client says otherwise.
const DEFAULT_TIMEOUT: u32 = 300;

/// How long a guest has to answer that it will shut down, before its stop is waited for anyway.
const ANSWER: Duration = Duration::from_secs(2);

/// The step that keeps a graceful stop's request in the journal.
pub(super) const GRACEFUL_STEP: &str = "graceful-stop";

/// The kind of the task that an action becomes. Words that mean the same share one.
pub(super) const fn task_kind(action: VmAction) -> &'static str {
    match action {
        VmAction::Start => "vm.start",
        VmAction::Stop | VmAction::Shutdown => "vm.stop",
        VmAction::ForceStop | VmAction::Destroy => "vm.force-stop",
        VmAction::Restart => "vm.restart",
        VmAction::Reboot => "vm.reboot",
        VmAction::Reset => "vm.reset",
        VmAction::Pause | VmAction::Suspend => "vm.pause",
        VmAction::Resume => "vm.resume",
        VmAction::Save => "vm.save",
        VmAction::RestoreSaved => "vm.restore-saved",
    }
}

/// The state an action leads to from this one.
const fn goal(action: VmAction, state: VmState) -> VmState {
    match action {
        // The reset button of a VM that is paused leaves it paused.
        VmAction::Reset => state,
        VmAction::Start
        | VmAction::Restart
        | VmAction::Reboot
        | VmAction::Resume
        | VmAction::RestoreSaved => VmState::Running,
        VmAction::Stop
        | VmAction::Shutdown
        | VmAction::ForceStop
        | VmAction::Destroy
        | VmAction::Save => VmState::Shutoff,
        VmAction::Pause | VmAction::Suspend => VmState::Paused,
    }
}

/// Whether the action waits for the guest.
const fn is_graceful(action: VmAction) -> bool {
    matches!(action, VmAction::Stop | VmAction::Shutdown | VmAction::Restart)
}

impl VmService {
    /// Does what the action says.
    ///
    /// # Errors
    /// 404; 409 where the state does not allow it or another operation holds the VM; what libvirt
    /// refuses with; `GUEST_TIMEOUT` if a guest does not stop and no force was asked for.
    pub async fn action(&self, ctx: Context, id: &str, request: ActionRequest) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.action_once(&ctx, id, request)).await
    }

    async fn action_once(
        &self,
        ctx: &Context,
        id: &str,
        request: ActionRequest,
    ) -> Result<Outcome> {
        let action = request.action;
        if request.timeout.is_some_and(|timeout| !(1..=86_400).contains(&timeout)) {
            return Err(Error::field("timeout", "must be between 1 and 86400 seconds"));
        }
        let record = self.target(ctx, id).await?;
        let (uuid, name) = (record.vm.uuid, record.vm.name.clone());
        let work = Work::Action { action, force: request.force };
        let kind = task_kind(action);
        if ctx.dry_run {
            let blocked = self.tools.gate.would_admit(&name, uuid, work, condition(&record.vm));
            return Ok(Outcome::Planned(Box::new(plan(&record, &request, blocked))));
        }
        self.need_libvirt(Some(uuid)).await?;
        let claim = self.tools.tasks.claim(kind, ctx);
        let hold =
            self.tools.gate.enter(&name, uuid, work, || self.condition(uuid), &claim).await?;
        // Again under the hold: an earlier holder may have changed the VM meanwhile.
        let present = self.get(&uuid.to_string())?;
        check_if_match(ctx, &present)?;
        let wait = if is_graceful(action) { Duration::ZERO } else { QUICK_WAIT };
        let operation = Operation {
            claim,
            subject: subject(&record.vm),
            cancellable: is_graceful(action) || action == VmAction::Save,
            wait,
        };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                service.perform(&task, uuid, &name, &request).await
            })
            .await
    }

    async fn perform(
        &self,
        task: &TaskHandle,
        uuid: Uuid,
        name: &str,
        request: &ActionRequest,
    ) -> Result<End> {
        let action = request.action;
        task.phase(action.as_str());
        let done = match action {
            VmAction::Start | VmAction::RestoreSaved => {
                self.act(uuid, Lane::Slow, move |session| domain::start(session, uuid)).await
            }
            VmAction::Stop | VmAction::Shutdown | VmAction::Restart => {
                return match self.stop_gracefully(task, uuid, name, request).await {
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        judge_after_loss(self, task, error).await
                    }
                    ended => ended,
                };
            }
            VmAction::ForceStop | VmAction::Destroy => {
                self.act(uuid, Lane::Slow, move |session| domain::cut_power(session, uuid)).await
            }
            VmAction::Reboot => {
                self.act(uuid, Lane::Agent, move |session| {
                    domain::reboot(session, uuid, domain::ShutdownMode::Default)
                })
                .await
            }
            VmAction::Reset => {
                self.act(uuid, Lane::Slow, move |session| domain::reset(session, uuid)).await
            }
            VmAction::Pause | VmAction::Suspend => {
                self.act(uuid, Lane::Slow, move |session| domain::suspend(session, uuid)).await
            }
            VmAction::Resume => {
                self.act(uuid, Lane::Slow, move |session| match domain::resume(session, uuid) {
                    Err(error) if error.kind() == Kind::VmWrongState => {
                        domain::pm_wakeup(session, uuid)
                    }
                    other => other,
                })
                .await
            }
            VmAction::Save => self.save(task, uuid).await,
        };
        match done {
            Ok(record) => result_of(record.as_ref()),
            // libvirt went away in the middle: whether it took effect is looked up when it is back.
            Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                judge_after_loss(self, task, error).await
            }
            // libvirt knows better than the picture did; by now the picture knows, too.
            Err(error) if error.kind() == Kind::VmWrongState => {
                let state = self.condition(uuid)?.state;
                Err(error.with_detail("state", state.as_str()).with_detail("vm", name))
            }
            Err(error) => Err(error),
        }
    }

    /// Asks the guest, then waits for it. The request is journalled first, so that a restarted
    /// daemon goes on waiting instead of asking again.
    async fn stop_gracefully(
        &self,
        task: &TaskHandle,
        uuid: Uuid,
        name: &str,
        request: &ActionRequest,
    ) -> Result<End> {
        let timeout_seconds = request.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let stop = GracefulStop {
            until: Timestamp::now() + SignedDuration::from_secs(i64::from(timeout_seconds)),
            force: request.force,
            start: request.action == VmAction::Restart,
            timeout_seconds,
        };
        let value = serde_json::to_value(&stop).map_err(Error::internal)?;
        task.intend(vec![(GRACEFUL_STEP.to_owned(), value)]).await?;
        let state = self.condition(uuid)?.state;
        if matches!(state, VmState::Paused | VmState::Suspended | VmState::Crashed) {
            // Only with force: such a guest cannot react, so there is nothing to wait for.
            let now = GracefulStop { until: Timestamp::now(), ..stop };
            return self.follow_stop(task, uuid, name, &now).await;
        }
        let asking =
            self.tools.hypervisor.run(Lane::Agent, Duration::from_secs(30), move |session| {
                domain::shutdown(session, uuid, domain::ShutdownMode::Default)
            });
        // The call goes on without its caller. An agent may answer as late as with the end of its
        // guest, and until then the stop has to be what it is: a wait that gives way.
        let Ok(asked) = tokio::time::timeout(ANSWER, asking).await else {
            task.log("the guest has been asked and has not answered yet").await;
            return self.follow_stop(task, uuid, name, &stop).await;
        };
        match asked {
            Ok(()) => {}
            // An agent that hangs must not keep the stop from its time-out and force.
            Err(error)
                if request.force
                    || matches!(
                        error.kind(),
                        Kind::LibvirtTimeout | Kind::GuestAgentUnavailable
                    ) =>
            {
                task.warn(&format!("the guest could not be asked: {error}")).await;
            }
            Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                task.log("libvirt went away while the guest was asked").await;
            }
            Err(error) => return Err(error),
        }
        self.follow_stop(task, uuid, name, &stop).await
    }

    /// Saves with progress; `virDomainAbortJob` is the way out.
    async fn save(
        &self,
        task: &TaskHandle,
        uuid: Uuid,
    ) -> Result<Option<std::sync::Arc<VmRecord>>> {
        let saving = self.act(uuid, Lane::Slow, move |session| domain::managed_save(session, uuid));
        tokio::pin!(saving);
        let mut aborted = false;
        loop {
            tokio::select! {
                done = &mut saving => {
                    return match done {
                        Err(error) if aborted && error.kind() != Kind::LibvirtUnavailable => {
                            Err(Error::new(Kind::Cancelled, "the save was cancelled; the VM goes on")
                                .with_source(error))
                        }
                        done => done,
                    };
                }
                () = task.cancelled().cancelled(), if !aborted => {
                    aborted = true;
                    let abort = self
                        .tools.hypervisor
                        .run_to_end(Lane::Quick, SLOW_CALL, move |session| {
                            domain::abort_job(session, uuid)
                        })
                        .await;
                    if let Err(error) = abort {
                        tracing::info!(error = ?error, "the save could not be aborted");
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(500)) => {
                    let info = self
                        .tools.hypervisor
                        .run(Lane::Quick, Duration::from_secs(2), move |session| {
                            domain::job_info(session, uuid)
                        })
                        .await;
                    if let Ok(Some(info)) = info {
                        task.progress(progress_of(&info));
                    }
                }
            }
        }
    }
}

/// A libvirt job's numbers as a task's.
fn progress_of(info: &domain::JobInfo) -> Progress {
    let known = info.bytes_total > 0;
    let percent = (info.bytes_done * 100).checked_div(info.bytes_total);
    let seconds = info.elapsed.as_secs();
    let rate = info.bytes_done.checked_div(seconds).filter(|rate| *rate > 0);
    let left = info.bytes_total.saturating_sub(info.bytes_done);
    Progress {
        phase: info.operation.to_owned(),
        percent: percent.and_then(|percent| u8::try_from(percent.min(100)).ok()),
        bytes_done: Some(info.bytes_done),
        bytes_total: known.then_some(info.bytes_total),
        bytes_per_second: rate,
        eta_seconds: rate.filter(|_| known).map(|rate| left / rate),
    }
}

fn plan(record: &VmRecord, request: &ActionRequest, blocked: Result<()>) -> Plan {
    let action = request.action;
    let vm = &record.vm;
    let to = goal(action, vm.state);
    let changes = if vm.state == to {
        Vec::new()
    } else {
        vec![Change {
            field: "state".to_owned(),
            from: json!(vm.state),
            to: json!(to),
            effect: Effect::Live,
            reason: None,
        }]
    };
    let mut side_effects = Vec::new();
    match action {
        VmAction::ForceStop | VmAction::Destroy | VmAction::Reset => {
            side_effects.push("the guest loses what it has not written to disk".to_owned());
        }
        VmAction::Stop | VmAction::Shutdown | VmAction::Restart => {
            let seconds = request.timeout.unwrap_or(DEFAULT_TIMEOUT);
            let then = if request.force { "its power is cut" } else { "the operation fails" };
            side_effects.push(format!(
                "the guest is asked to shut down; if it has not within {seconds} s, {then}"
            ));
        }
        VmAction::Start | VmAction::RestoreSaved if vm.has_saved_state => {
            side_effects.push("the saved state is restored and removed".to_owned());
        }
        VmAction::Start
        | VmAction::RestoreSaved
        | VmAction::Reboot
        | VmAction::Pause
        | VmAction::Suspend
        | VmAction::Resume
        | VmAction::Save => {}
    }
    if action == VmAction::Restart && vm.has_pending {
        side_effects.push("the pending changes take hold".to_owned());
    }
    Plan {
        changes,
        side_effects,
        blockers: blockers(blocked),
        ..Plan::of(task_kind(action), subject(vm))
    }
}
