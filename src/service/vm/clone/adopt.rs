//! After a restart, or after libvirt was lost: what became of a clone that was cut off.
//!
//! A copy of a running VM is gone on with, because QEMU goes on with it. Everything else is judged
//! by what stands: a clone that is there is done, and what there is of another one is removed.

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::super::VmService;
use super::super::adopt::step;
use super::make::Made;
use super::{CLONE_STEP, ClonePlan, Way, live};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, volume};
use crate::service::adopt::interrupted;
use crate::service::gate::Key;
use crate::service::inventory::VmRecord;
use crate::service::task::{End, TaskHandle};
use crate::store::{Step, StepState};

/// How often a volume that libvirt is still working on is looked at.
const BEAT: Duration = Duration::from_secs(1);

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(30);

/// What a clone holds besides itself: its source, which must not start, stop or change meanwhile.
pub(in crate::service::vm) fn source_of(steps: &[Step]) -> Option<Key> {
    step::<ClonePlan>(steps, CLONE_STEP).map(|plan| Key::Vm(plan.source))
}

impl VmService {
    pub(in crate::service::vm) async fn judge_clone(
        &self,
        task: &TaskHandle,
        cut: Instant,
        name: &str,
        steps: &[Step],
    ) -> Result<End> {
        let Some(plan) = step::<ClonePlan>(steps, CLONE_STEP) else {
            return Err(interrupted(format!("the clone {name:?} was never begun")));
        };
        let begun =
            steps.iter().any(|step| step.action == CLONE_STEP && step.state == StepState::Done);
        if plan.way == Way::Live
            && let Some(end) = self.go_on_live(task, &plan, begun).await?
        {
            return Ok(end);
        }
        let there = |record: Option<&VmRecord>| {
            record.is_some_and(|record| !plan.start || record.vm.state.is_active())
        };
        match self.settle(cut, plan.uuid, name, there).await {
            // Cut off, so undone; but not while libvirt cannot tell.
            Err(error) if error.kind() == Kind::Interrupted => {}
            done => return done,
        }
        self.wait_for_copies(task, &plan).await?;
        let ours = |user: &str| user == name || user == plan.source_name;
        let (volumes, used) = self.split_used(plan.volumes().cloned().collect(), ours).await?;
        let made = Made { volumes, rebased: !plan.own.is_empty(), defined: true };
        let left = [used, self.undo_made(&plan, &made).await?].concat();
        self.see_again(&plan).await?;
        if left.is_empty() {
            return Err(interrupted(format!(
                "the clone {name:?} was cut off; what had been made was undone"
            )));
        }
        Err(interrupted(format!("the clone {name:?} was cut off, and left: {}", left.join(", ")))
            .with_detail("left", left))
    }

    /// Follows a copy that QEMU goes on with, and completes the clone. Nothing if there is none.
    async fn go_on_live(
        &self,
        task: &TaskHandle,
        plan: &ClonePlan,
        begun: bool,
    ) -> Result<Option<End>> {
        let in_closure = plan.clone();
        let goes_on = self
            .tools
            .hypervisor
            .run(Lane::Slow, LOOK, move |session| {
                // The last daemon may have frozen the guest and not come to thaw it.
                if !begun {
                    live::thaw(session, in_closure.source);
                }
                let ended =
                    begun && matches!(live::job(session, in_closure.source)?, live::Job::Completed);
                Ok(ended || live::is_ours(session, &in_closure)?)
            })
            .await?;
        // It is defined last, so then it is judged by that.
        let defined = self.fresh(plan.uuid).await?.is_some();
        if !goes_on || defined {
            return Ok(None);
        }
        let volumes = plan.volumes().cloned().collect();
        let mut made = Made { volumes, rebased: false, defined: false };
        let done = match self.follow_copy(task, plan).await {
            Ok(true) => self.complete_clone(task, plan, &mut made).await,
            Ok(false) => return Ok(Some(End::Parked)),
            Err(error) => Err(error),
        };
        let Err(error) = done else {
            self.see_again(plan).await?;
            let picture = self.tools.inventory.picture();
            return super::result_of(picture.by_uuid.get(&plan.uuid)).map(Some);
        };
        if error.kind() == Kind::LibvirtUnavailable {
            return Err(error);
        }
        let left = self.undo_made(plan, &made).await?;
        self.see_again(plan).await?;
        Err(if left.is_empty() { error } else { error.with_detail("left", left) })
    }

    /// A copy that libvirt is still making can be removed only when it is done.
    async fn wait_for_copies(&self, task: &TaskHandle, plan: &ClonePlan) -> Result<()> {
        for reference in plan.volumes() {
            loop {
                let asked = reference.clone();
                let building = self
                    .tools
                    .hypervisor
                    .run(Lane::Slow, LOOK, move |session| {
                        match volume::is_building(session, &asked.pool, &asked.volume) {
                            Err(error) if is_absence(&error) => Ok(false),
                            other => other,
                        }
                    })
                    .await?;
                if !building {
                    break;
                }
                task.phase("waiting for libvirt to let go of a copy");
                tokio::time::sleep(BEAT).await;
            }
        }
        Ok(())
    }

    async fn see_again(&self, plan: &ClonePlan) -> Result<()> {
        let both: [Uuid; 2] = [plan.uuid, plan.source];
        for uuid in both {
            self.see(uuid).await?;
        }
        self.tools.inventory.refresh_storage().await
    }
}

fn is_absence(error: &Error) -> bool {
    matches!(error.kind(), Kind::VolumeNotFound | Kind::PoolNotFound | Kind::PoolInactive)
}
