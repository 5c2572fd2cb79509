//! Operations: journalled before their first side effect, run detached, ended with a true verdict.
//!
//! ```text
//!   once ──▶ gate ──▶ submit ──▶ journal: running ──▶ run ──▶ journal: outcome ──▶ hold released
//!    │ key seen before                                │                          └▶ waiters told
//!    └▶ the earlier task's result                     └ daemon stops while it only waits:
//!                                                       parked, adopted at the next start
//! ```
//!
//! The outcome is in the journal before anybody is told of it, and the hold is released before a
//! waiter is told, so that a client may go on at once.

mod error_json;
mod keys;
mod live;

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::task::TaskLogLine;
use crate::model::{Progress, Subject, SubjectType, Task, TaskStatus};
use crate::service::gate::{Claim, Hold};
use crate::service::page::stable_hash;
use crate::service::{Context, Outcome, Page};
use crate::store::{Begun, NewEvent, Store, TaskQuery};

pub use error_json::{error_from_json, error_to_json};
pub use live::{End, TaskHandle};

use keys::KeyLocks;
use live::Live;

/// How long a quick operation is waited for, unless the client says otherwise.
pub const QUICK_WAIT: Duration = Duration::from_secs(30);

/// The longest pause before an outcome that the database refused is offered again.
const LATEST_RECORD: Duration = Duration::from_secs(2);

/// What an operation is, apart from its work.
pub struct Operation {
    pub claim: Claim,
    pub subject: Subject,
    pub cancellable: bool,
    /// How long the client waits unless it says otherwise.
    pub wait: Duration,
}

/// Starts, follows, lists and cancels tasks.
#[derive(Clone)]
pub struct TaskService {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    live: Mutex<HashMap<Uuid, Arc<Live>>>,
    keys: KeyLocks,
    tracker: TaskTracker,
    /// Cancelled when the daemon stops: no new work, and waits are parked.
    stopping: CancellationToken,
}

impl TaskService {
    /// A service over this journal.
    pub fn new(store: Store) -> Self {
        TaskService {
            inner: Arc::new(Inner {
                store,
                live: Mutex::default(),
                keys: KeyLocks::default(),
                tracker: TaskTracker::new(),
                stopping: CancellationToken::new(),
            }),
        }
    }

    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Arc<Live>>> {
        self.inner.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A claim for a new task of this kind.
    pub fn claim(&self, kind: &'static str, ctx: &Context) -> Claim {
        let starts = matches!(kind, "vm.start" | "vm.restore-saved" | "vm.restart");
        Claim { task: Uuid::now_v7(), kind, principal: ctx.principal.to_string(), starts }
    }

    /// Runs `work` unless this caller's idempotency key has been used: then the result is that of
    /// the task it led to. Requests with the same key take turns, so that the second one finds
    /// what the first one began.
    pub async fn once(
        &self,
        ctx: &Context,
        work: impl Future<Output = Result<Outcome>>,
    ) -> Result<Outcome> {
        if self.inner.stopping.is_cancelled() {
            return Err(Error::new(Kind::ShuttingDown, "the daemon is stopping")
                .with_retry_after(Duration::from_secs(5)));
        }
        let Some(key) = ctx.idempotency.as_ref().filter(|_| !ctx.dry_run) else {
            return work.await;
        };
        let _turn = self.inner.keys.lock(&key.principal, &key.key).await;
        match self.inner.store.replay(key).await? {
            Some(task) => self.outcome(task.id, ctx.wait.unwrap_or(QUICK_WAIT)).await,
            None => work.await,
        }
    }

    /// Journals the operation, runs it detached and waits as long as the client wants.
    ///
    /// # Errors
    /// What the operation fails with, if it fails within the wait; 503 if the journal cannot be
    /// written, and then nothing has been done.
    pub async fn submit<F, Fut>(
        &self,
        ctx: &Context,
        operation: Operation,
        hold: Hold,
        run: F,
    ) -> Result<Outcome>
    where
        F: FnOnce(TaskHandle) -> Fut + Send + 'static,
        Fut: Future<Output = Result<End>> + Send + 'static,
    {
        let now = Timestamp::now();
        let task = Task {
            id: operation.claim.task,
            kind: operation.claim.kind.to_owned(),
            status: TaskStatus::Running,
            subject: operation.subject,
            principal: operation.claim.principal,
            request_id: ctx.request_id.clone(),
            created_at: now,
            started_at: Some(now),
            finished_at: None,
            progress: Progress::default(),
            cancellable: operation.cancellable,
            parent: None,
            warnings: Vec::new(),
            result: None,
            error: None,
        };
        let id = task.id;
        let wait = ctx.wait.unwrap_or(operation.wait);
        let begun = self
            .inner
            .store
            .begin_task(&task, ctx.idempotency.as_ref(), vec![task_event("task.started", &task)])
            .await?;
        if let Begun::Replayed(earlier) = begun {
            drop(hold);
            return self.outcome(earlier.id, wait).await;
        }
        self.spawn(task, hold, run);
        self.outcome(id, wait).await
    }

    /// Goes on with a task of an earlier daemon.
    pub fn resume<F, Fut>(&self, task: Task, hold: Hold, run: F)
    where
        F: FnOnce(TaskHandle) -> Fut + Send + 'static,
        Fut: Future<Output = Result<End>> + Send + 'static,
    {
        self.spawn(task, hold, run);
    }

    fn spawn<F, Fut>(&self, task: Task, hold: Hold, run: F)
    where
        F: FnOnce(TaskHandle) -> Fut + Send + 'static,
        Fut: Future<Output = Result<End>> + Send + 'static,
    {
        let id = task.id;
        let span = tracing::info_span!(parent: None, "task", task = %id, kind = %task.kind,
            vm = vm_of(&task), subject = %task.subject.name, principal = %task.principal,
            request_id = %task.request_id);
        let live = Arc::new(Live::new(task, self.inner.stopping.clone()));
        self.live().insert(id, live.clone());
        let service = self.clone();
        let handle = TaskHandle::new(live.clone(), self.inner.store.clone(), hold);
        let work = async move {
            let held = handle.hold();
            let ended = AssertUnwindSafe(run(handle)).catch_unwind().await;
            let ended = ended.unwrap_or_else(|panic| Err(panic_error(panic.as_ref())));
            service.finish(&live, ended, held).await;
        };
        self.inner.tracker.spawn(tracing::Instrument::instrument(work, span));
    }

    async fn finish(&self, live: &Live, ended: Result<End>, hold: Arc<Hold>) {
        let mut task = live.task();
        let what = format!("{} of {:?}", task.kind, task.subject.name);
        match ended {
            Ok(End::Parked) => {
                tracing::info!("{what} is parked: the next start goes on with it");
                self.live().remove(&task.id);
                live.publish(task);
                return;
            }
            Ok(End::Done(result)) => {
                task.status = TaskStatus::Succeeded;
                task.result = Some(result);
                task.progress.percent = Some(100);
                tracing::info!("{what} succeeded");
            }
            Err(error) => {
                task.status = match error.kind() {
                    Kind::Cancelled => TaskStatus::Cancelled,
                    Kind::Interrupted => TaskStatus::Interrupted,
                    _ => TaskStatus::Failed,
                };
                if error.kind() == Kind::Internal {
                    tracing::error!(error = ?error, "{what} failed by a defect");
                } else {
                    tracing::info!(error = ?error, status = task.status.as_str(), "{what} failed");
                }
                task.error = Some(error_to_json(&error));
            }
        }
        task.cancellable = false;
        task.finished_at = Some(Timestamp::now());
        let recorded = self.record(&task).await;
        // In this order: the hold is free before anybody learns that the operation is over.
        drop(hold);
        live.publish(task.clone());
        if recorded.is_err() {
            self.record_late(&task).await;
        }
        self.live().remove(&task.id);
    }

    /// Ends a task of an earlier daemon that needs no more work.
    pub async fn conclude(&self, mut task: Task, verdict: Result<Value>) {
        match verdict {
            Ok(result) => {
                task.status = TaskStatus::Succeeded;
                task.result = Some(result);
            }
            Err(error) => {
                task.status = match error.kind() {
                    Kind::Interrupted => TaskStatus::Interrupted,
                    Kind::Cancelled => TaskStatus::Cancelled,
                    _ => TaskStatus::Failed,
                };
                task.error = Some(error_to_json(&error));
            }
        }
        task.cancellable = false;
        task.finished_at = Some(Timestamp::now());
        tracing::info!(task = %task.id, kind = %task.kind, vm = vm_of(&task),
            subject = %task.subject.name, status = task.status.as_str(),
            "adopted {} of {:?} ended", task.kind, task.subject.name);
        if self.record(&task).await.is_err() {
            tracing::error!(task = %task.id, "the next start judges it again");
        }
    }

    /// Writes the outcome down.
    async fn record(&self, task: &Task) -> Result<()> {
        let recorded = self.inner.store.update_task(task, vec![task_event("task.finished", task)]);
        recorded.await.inspect_err(|error| {
            tracing::error!(task = %task.id, error = ?error, "the outcome could not be recorded");
        })
    }

    /// Offers an outcome again until the database takes it. Until then the outcome is known to
    /// whoever asks this daemon; if it stops before, the next one adopts the task.
    async fn record_late(&self, task: &Task) {
        let mut pause = Duration::from_millis(100);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.inner.stopping.cancelled() => {
                    if self.record(task).await.is_err() {
                        tracing::error!(task = %task.id, "the next start adopts the task");
                    }
                    return;
                }
            }
            if self.record(task).await.is_ok() {
                return;
            }
            pause = (pause * 2).min(LATEST_RECORD);
        }
    }

    /// The outcome of a task, waited for up to `wait`.
    async fn outcome(&self, id: Uuid, wait: Duration) -> Result<Outcome> {
        let task = self.wait(id, wait).await?;
        match task.status {
            TaskStatus::Queued | TaskStatus::Running => Ok(Outcome::Accepted(Box::new(task))),
            TaskStatus::Succeeded => Ok(Outcome::Done(Box::new(task))),
            TaskStatus::Failed | TaskStatus::Cancelled | TaskStatus::Interrupted => {
                Err(error_from_json(task.error.as_ref()).with_detail("task", id.to_string()))
            }
        }
    }

    /// One task, live or from the journal.
    pub async fn get(&self, id: Uuid) -> Result<Task> {
        if let Some(live) = self.live().get(&id) {
            return Ok(live.task());
        }
        self.inner
            .store
            .task(id)
            .await?
            .ok_or_else(|| Error::new(Kind::TaskNotFound, format!("no task {id}")))
    }

    /// One task as soon as it has finished, or as it stands after `wait`.
    pub async fn wait(&self, id: Uuid, wait: Duration) -> Result<Task> {
        let live = self.live().get(&id).cloned();
        match live {
            Some(live) => Ok(live.wait(wait).await),
            None => self.get(id).await,
        }
    }

    /// Tasks, newest first; running ones with their present progress.
    pub async fn list(&self, query: &TaskQuery) -> Result<Page<Task>> {
        // One more than wanted tells whether there is a next page.
        let one_more = TaskQuery { limit: query.limit.saturating_add(1), ..query.clone() };
        let (mut tasks, total) = self.inner.store.tasks(&one_more).await?;
        let wanted = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let more = tasks.len() > wanted;
        tasks.truncate(wanted);
        let next = tasks.last().filter(|_| more).map(|task| task.id.to_string());
        let items: Vec<Arc<Task>> = {
            let live = self.live();
            tasks
                .into_iter()
                .map(|task| Arc::new(live.get(&task.id).map_or(task, |live| live.task())))
                .collect()
        };
        let text = serde_json::to_vec(&items).map_err(Error::internal)?;
        let etag = format!("\"{:016x}\"", stable_hash(&text));
        Ok(Page { items, total: usize::try_from(total).unwrap_or(usize::MAX), next, etag })
    }

    /// What a task has logged.
    pub async fn log(&self, id: Uuid) -> Result<Vec<TaskLogLine>> {
        self.get(id).await?;
        self.inner.store.log(id).await
    }

    /// Asks a running task to end, and waits a moment for it to have undone what it did.
    ///
    /// # Errors
    /// 409 if it has finished or cannot be cancelled.
    pub async fn cancel(&self, ctx: &Context, id: Uuid) -> Result<Task> {
        let live = self.live().get(&id).cloned();
        let Some(live) = live else {
            let task = self.get(id).await?;
            return Err(Error::new(
                Kind::TaskFinished,
                format!("task {id} has finished: {}", task.status.as_str()),
            )
            .with_detail("status", task.status.as_str()));
        };
        if ctx.dry_run {
            return Ok(live.task());
        }
        if !live.cancel() {
            return Err(Error::new(
                Kind::TaskNotCancellable,
                format!("task {id} cannot be cancelled now"),
            ));
        }
        tracing::info!(task = %id, principal = %ctx.principal, "cancellation asked for");
        Ok(live.wait(ctx.wait.unwrap_or(Duration::from_secs(5))).await)
    }

    /// How many tasks run.
    pub fn running(&self) -> usize {
        self.live().len()
    }

    /// Unfinished tasks of an earlier daemon.
    pub async fn unfinished(&self) -> Result<Vec<Task>> {
        self.inner.store.unfinished_tasks().await
    }

    /// The store, for operations that keep steps.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Takes no new work, parks what only waits, and waits up to `grace` for the rest. What is
    /// left is adopted by the next start.
    pub async fn stop(&self, grace: Duration) -> usize {
        self.inner.stopping.cancel();
        self.inner.tracker.close();
        if tokio::time::timeout(grace, self.inner.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.running(), "tasks still run; the next start adopts them");
        }
        self.running()
    }
}

/// The VM that a task is about, for the field that logs are filtered by.
fn vm_of(task: &Task) -> Option<&str> {
    (task.subject.r#type == SubjectType::Vm).then_some(task.subject.name.as_str())
}

/// The event of a task's transition.
fn task_event(kind: &str, task: &Task) -> NewEvent {
    NewEvent {
        kind: kind.to_owned(),
        subject: Subject {
            r#type: SubjectType::Task,
            id: task.id.to_string(),
            name: task.kind.clone(),
        },
        principal: Some(task.principal.clone()),
        task: Some(task.id),
        data: serde_json::json!({
            "status": task.status,
            "subject": task.subject,
            "error": task.error,
        }),
    }
}

fn panic_error(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned());
    Error::internal(format!("panic in an operation: {text}"))
}
