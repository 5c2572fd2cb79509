//! After a restart: every task that the last daemon left unfinished is gone on with, or ended
//! with a verdict that is true. Each noun judges its own kinds of task; this is what they share.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::Services;
use super::gate::{Claim, Key};
use super::operation::Tools;
use super::task::{End, TaskHandle};
use crate::error::{Error, Kind, Result};
use crate::model::Task;
use crate::store::Step;

/// How long libvirt may be away in the middle of an operation before the verdict is given without
/// it.
const LOSS_PATIENCE: Duration = Duration::from_secs(120);

/// A service that ends what an earlier daemon began. Nothing is asked of libvirt a second time that
/// could happen twice.
pub(crate) trait Adopter: Clone + Send + Sync + 'static {
    /// The kinds of task it knows.
    const KINDS: &'static [&'static str];

    fn tools(&self) -> &Tools;

    /// What the task held, by itself and its steps: held again before any client is served.
    fn keys(&self, task: &Task, steps: &[Step]) -> Vec<Key>;

    /// What it held beside others, such as the pool of a volume.
    fn beside(&self, _: &Task) -> Vec<Key> {
        Vec::new()
    }

    /// The verdict, by what stands now; the work was cut off at `cut` or before.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] if the goal is not reached, and says what is the case; what libvirt
    /// answers with if that cannot be told.
    fn judge(
        &self,
        handle: &TaskHandle,
        task: &Task,
        cut: Instant,
    ) -> impl Future<Output = Result<End>> + Send;

    /// Whether [`judge`](Self::judge) looks after a stop of the daemon itself.
    fn parks_itself(&self, _: &Task) -> bool {
        false
    }
}

/// Takes over the unfinished tasks. What they work on is held from now on, before any client is
/// served, so that nothing new comes in between. Returns how many there are.
pub async fn adopt(services: &Services) -> Result<usize> {
    let unfinished = services.tasks.unfinished().await?;
    let count = unfinished.len();
    for task in unfinished {
        let kind = task.kind.as_str();
        if let Some(kind) = known::<super::VmService>(kind) {
            take_over(&services.vms, kind, task).await?;
        } else if let Some(kind) = known::<super::PoolService>(kind) {
            take_over(&services.pools, kind, task).await?;
        } else if let Some(kind) = known::<super::VolumeService>(kind) {
            take_over(&services.volumes, kind, task).await?;
        } else if let Some(kind) = known::<super::IsoService>(kind) {
            take_over(&services.isos, kind, task).await?;
        } else if let Some(kind) = known::<super::TemplateService>(kind) {
            take_over(&services.templates, kind, task).await?;
        } else if let Some(kind) = known::<super::TransferService>(kind) {
            take_over(&services.transfers, kind, task).await?;
        } else if let Some(kind) = known::<super::NetworkService>(kind) {
            take_over(&services.networks, kind, task).await?;
        } else {
            let message = format!("this version knows no operation {kind:?}");
            services.tasks.conclude(task, Err(interrupted(message))).await;
        }
    }
    Ok(count)
}

fn known<A: Adopter>(kind: &str) -> Option<&'static str> {
    A::KINDS.iter().copied().find(|known| *known == kind)
}

async fn take_over<A: Adopter>(adopter: &A, kind: &'static str, task: Task) -> Result<()> {
    let Tools { tasks, gate, .. } = adopter.tools();
    // What an adopted task still does to a VM is told as nobody's, unless its kind says it.
    let starts = matches!(kind, "vm.start" | "vm.restore-saved" | "vm.restart");
    let claim = Claim { task: task.id, kind, principal: task.principal.clone(), starts };
    let steps = tasks.store().steps(task.id).await?;
    let hold = match gate.take_beside(adopter.keys(&task, &steps), adopter.beside(&task), &claim) {
        Ok(hold) => hold,
        // Two unfinished tasks on one thing: the earlier one holds it, so this never began.
        Err(error) => {
            let verdict = Err(interrupted(format!("never begun: {error}")));
            tasks.conclude(task, verdict).await;
            return Ok(());
        }
    };
    let service = adopter.clone();
    let adopted = task.clone();
    let cut = Instant::now();
    tasks.resume(task, hold, move |handle| async move {
        handle.log("adopted after a restart of the daemon").await;
        tokio::select! {
            () = first_picture(service.tools()) => match judge(&service, &handle, &adopted, cut).await {
                Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                    judge_after_loss(&service, &handle, error).await
                }
                verdict => verdict,
            },
            () = handle.stopping().cancelled() => Ok(End::Parked),
        }
    });
    Ok(())
}

async fn first_picture(tools: &Tools) {
    while !tools.inventory.filled(Duration::from_secs(3600)).await {}
}

/// The verdict over a task whose work was cut off. Given up, to be taken up by the next daemon, if
/// this one stops meanwhile.
async fn judge<A: Adopter>(
    adopter: &A,
    handle: &TaskHandle,
    task: &Task,
    cut: Instant,
) -> Result<End> {
    let stopped = async {
        if adopter.parks_itself(task) {
            std::future::pending::<()>().await;
        }
        handle.stopping().cancelled().await;
    };
    tokio::select! {
        verdict = adopter.judge(handle, task, cut) => verdict,
        () = stopped => Ok(End::Parked),
    }
}

/// libvirt was lost while it worked for this task: waits for its return, then judges by what
/// stands, as a restarted daemon does.
pub(crate) async fn judge_after_loss<A: Adopter>(
    adopter: &A,
    handle: &TaskHandle,
    lost: Error,
) -> Result<End> {
    handle.phase("waiting for libvirt to come back");
    handle.log("libvirt went away in the middle; what stands is looked up when it is back").await;
    let (task, cut) = (handle.task(), Instant::now());
    let back = async {
        let mut status = adopter.tools().hypervisor.watch();
        loop {
            // An error is the end of the daemon.
            if status.wait_for(|status| status.connected).await.is_err() {
                std::future::pending::<()>().await;
            }
            match judge(adopter, handle, &task, cut).await {
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

/// The work was cut off, and this is the case now.
pub(crate) fn interrupted(message: String) -> Error {
    Error::new(Kind::Interrupted, message)
}
