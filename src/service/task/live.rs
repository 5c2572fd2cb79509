//! A task while it runs: its state for those who wait, and the handle of its work.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::{Progress, Task};
use crate::service::gate::Hold;
use crate::store::{Step, StepState, Store};

/// How the work of a task ended, where it did not fail.
#[derive(Debug)]
pub enum End {
    /// With this result.
    Done(Value),
    /// The daemon stops, and the next one goes on.
    Parked,
}

/// A running task.
pub(super) struct Live {
    state: watch::Sender<(Task, bool)>,
    cancel: CancellationToken,
    stopping: CancellationToken,
}

impl Live {
    pub(super) fn new(task: Task, stopping: CancellationToken) -> Self {
        Live {
            state: watch::Sender::new((task, false)),
            cancel: CancellationToken::new(),
            stopping,
        }
    }

    /// The task as it stands.
    pub(super) fn task(&self) -> Task {
        self.state.borrow().0.clone()
    }

    /// The last state: nothing changes after it.
    pub(super) fn publish(&self, task: Task) {
        self.state.send_replace((task, true));
    }

    /// Waits until the task is over, at most this long.
    pub(super) async fn wait(&self, wait: Duration) -> Task {
        let mut state = self.state.subscribe();
        // Neither a time-out nor a closed channel matters: the present state is the answer.
        let _ = tokio::time::timeout(wait, state.wait_for(|(_, over)| *over)).await;
        self.task()
    }

    /// Asks for the end. False if the task cannot be cancelled now.
    pub(super) fn cancel(&self) -> bool {
        let cancellable = self.state.borrow().0.cancellable;
        if cancellable {
            self.cancel.cancel();
        }
        cancellable
    }
}

/// What the work of an operation has in hand. Cheap to clone, also into a libvirt closure.
#[derive(Clone)]
pub struct TaskHandle {
    live: Arc<Live>,
    store: Store,
    hold: Arc<Hold>,
}

impl TaskHandle {
    pub(super) fn new(live: Arc<Live>, store: Store, hold: Hold) -> Self {
        TaskHandle { live, store, hold: Arc::new(hold) }
    }

    /// The task's id.
    pub fn id(&self) -> Uuid {
        self.live.state.borrow().0.id
    }

    /// The task as it stands.
    pub fn task(&self) -> Task {
        self.live.task()
    }

    /// The hold on what the operation works on.
    pub fn hold(&self) -> Arc<Hold> {
        self.hold.clone()
    }

    /// Says what is being done.
    pub fn phase(&self, phase: &str) {
        self.live.state.send_modify(|(task, _)| {
            if task.progress.phase != phase {
                task.progress = Progress { phase: phase.to_owned(), ..Progress::default() };
            }
        });
    }

    /// Says how far it is.
    pub fn progress(&self, progress: Progress) {
        self.live.state.send_modify(|(task, _)| task.progress = progress);
    }

    /// Cancelled when a client asks for the end of this task.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.live.cancel
    }

    /// An error if somebody has asked for the end.
    pub fn check_cancelled(&self) -> Result<()> {
        if self.live.cancel.is_cancelled() {
            return Err(Error::new(Kind::Cancelled, "the operation was cancelled"));
        }
        Ok(())
    }

    /// From here on the operation cannot be cancelled.
    pub fn point_of_no_return(&self) -> Result<()> {
        self.live.state.send_modify(|(task, _)| task.cancellable = false);
        self.check_cancelled()
    }

    /// Cancelled when the daemon stops: an operation that only waits parks itself.
    pub fn stopping(&self) -> &CancellationToken {
        &self.live.stopping
    }

    /// Journals steps before they are taken, each with what undoes it.
    pub async fn intend(&self, steps: Vec<(String, Value)>) -> Result<Vec<Step>> {
        let steps: Vec<Step> = steps
            .into_iter()
            .zip(0..)
            .map(|((action, undo), seq)| Step { seq, action, undo, state: StepState::Intended })
            .collect();
        self.store.save_steps(self.id(), &steps).await?;
        Ok(steps)
    }

    /// Journals that the operation's one step has been taken.
    pub async fn done(&self, action: &str, undo: Value) -> Result<()> {
        let step = Step { seq: 0, action: action.to_owned(), undo, state: StepState::Done };
        self.store.save_steps(self.id(), &[step]).await
    }

    /// Tells whoever asked of something that does not keep the operation from being done.
    pub async fn warn(&self, warning: &str) {
        tracing::warn!("{warning}");
        self.live.state.send_modify(|(task, _)| task.warnings.push(warning.to_owned()));
        if let Err(error) = self.store.append_warning(self.id(), warning).await {
            tracing::warn!(error = ?error, "the task's warning could not be written");
        }
    }

    /// Adds a line to the task's log. A log that cannot be written does not fail the operation.
    pub async fn log(&self, line: &str) {
        tracing::info!("{line}");
        if let Err(error) = self.store.append_log(self.id(), line).await {
            tracing::warn!(error = ?error, "the task's log could not be written");
        }
    }
}
