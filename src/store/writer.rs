//! The one writer: a thread that owns the only connection that may change the database.
//!
//! Called by every change of the store. Jobs come through a bounded queue; what is queued when the
//! thread looks goes into one transaction (group commit), each job in a savepoint of its own, so
//! that one bad job leaves the others alone. A caller gets its answer after COMMIT, and the event
//! sink sees the events of a transaction before any of its callers is answered, in the order of
//! their numbers.
//!
//! ```text
//! queue → BEGIN IMMEDIATE → job, job, … → COMMIT → sink(events) → answers → checkpoint if idle
//!                             └ failed: ROLLBACK TO its savepoint, answer it
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::error::{closed, overloaded, repeat};
use super::open::Lock;
use crate::error::{Error, Kind, Result};
use crate::model::Event;

/// Jobs that may wait. Beyond that a caller waits, [`ENQUEUE_TIMEOUT`] at most.
const QUEUE_DEPTH: usize = 1024;
/// Jobs in one transaction at most, so that the first one does not wait long for its answer.
const BATCH: usize = 256;
const ENQUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// WAL pages after which the writer moves them into the database as soon as nothing is queued …
const CHECKPOINT_IDLE_PAGES: u64 = 1_000;
/// … and after which it does so in any case.
const CHECKPOINT_PAGES: u64 = 2_500;

/// What is called with the events of each transaction after its COMMIT, in order.
pub type EventSink = Arc<dyn Fn(&[Arc<Event>]) + Send + Sync>;

/// A transaction as a job sees it.
pub(super) struct Tx<'a> {
    pub connection: &'a Connection,
    /// The events written so far, for the sink after COMMIT.
    pub events: &'a mut Vec<Arc<Event>>,
}

/// What the writer thread and the handles share.
#[derive(Default)]
pub(super) struct Shared {
    pub last_seq: AtomicU64,
    sink: RwLock<Option<EventSink>>,
    health: Mutex<Health>,
    wal_pages: AtomicU64,
    commits: AtomicU64,
}

#[derive(Default)]
struct Health {
    last_commit: Option<Instant>,
    failing: bool,
}

impl Shared {
    pub fn set_sink(&self, sink: EventSink) {
        *self.sink.write().unwrap_or_else(PoisonError::into_inner) = Some(sink);
    }

    /// Whether the last write succeeded, and not longer ago than `age`.
    pub fn wrote_within(&self, age: Duration) -> bool {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        !health.failing && health.last_commit.is_some_and(|at| at.elapsed() <= age)
    }

    /// Whether the last write failed.
    pub fn failing(&self) -> bool {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).failing
    }

    /// Transactions committed since the start.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    fn wrote(&self, failing: bool) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.failing = failing;
        if !failing {
            health.last_commit = Some(Instant::now());
        }
    }
}

pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Box<dyn Job>>>>,
    ended: Mutex<Option<oneshot::Receiver<()>>>,
    pub shared: Arc<Shared>,
}

impl Writer {
    /// Starts the thread; it holds `lock` until the connection is closed.
    pub fn start(mut connection: Connection, lock: Lock) -> Result<Writer> {
        let shared = Arc::new(Shared::default());
        let pages = shared.clone();
        // Replaces SQLite's own checkpoint, which would run inside somebody's COMMIT.
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, in_wal| {
            pages.wal_pages.store(u64::try_from(in_wal).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let (queue, jobs) = mpsc::channel(QUEUE_DEPTH);
        let (ending, ended) = oneshot::channel();
        let thread_shared = shared.clone();
        std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                serve(&connection, jobs, &thread_shared);
                if let Err((_, cause)) = connection.close() {
                    tracing::warn!(error = %cause, "closing the database failed");
                }
                drop(lock);
                let _ = ending.send(());
            })
            .map_err(|cause| {
                Error::new(Kind::DatabaseUnavailable, "the store's writer thread cannot be started")
                    .with_source(cause)
            })?;
        Ok(Writer { queue: Mutex::new(Some(queue)), ended: Mutex::new(Some(ended)), shared })
    }

    /// Runs `work` in a transaction and returns its value after COMMIT. Its change is whole or
    /// absent. It goes on if the caller stops waiting.
    pub async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
    {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let queue = queue.ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Call { work: Some(work), value: None, reply });
        match queue.send_timeout(job, ENQUEUE_TIMEOUT).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => return Err(overloaded()),
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(closed()),
        }
        drop(queue);
        answer.await.map_err(|_| closed())?
    }

    /// Waits, as long as it takes, until the thread has come to a job that does nothing.
    pub async fn respond(&self) -> Result<()> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let queue = queue.ok_or_else(closed)?;
        let (reply, answer) = oneshot::channel::<Result<()>>();
        let nothing = |_: &mut Tx<'_>| Ok(());
        let job = Box::new(Call { work: Some(nothing), value: None, reply });
        queue.send(job).await.map_err(|_| closed())?;
        drop(queue);
        // An answer of whatever kind is one.
        answer.await.map(drop).map_err(|_| closed())
    }

    /// Lets the queued jobs finish, then ends the thread, the connection and the lock.
    pub async fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ended) = ended {
            let _ = ended.await;
        }
    }
}

/// One change and the caller that waits for it.
trait Job: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<()>;
    fn answer(self: Box<Self>, outcome: Result<()>);
}

struct Call<T, F> {
    work: Option<F>,
    value: Option<T>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Job for Call<T, F>
where
    T: Send + 'static,
    F: FnOnce(&mut Tx<'_>) -> Result<T> + Send + 'static,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> Result<()> {
        let work =
            self.work.take().ok_or_else(|| Error::internal("a job of the store ran twice"))?;
        self.value = Some(work(tx)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<()>) {
        let value = self.value.ok_or_else(|| Error::internal("a job of the store has no value"));
        // A caller that no longer waits is no failure.
        let _ = self.reply.send(outcome.and(value));
    }
}

fn serve(connection: &Connection, mut jobs: mpsc::Receiver<Box<dyn Job>>, shared: &Shared) {
    while let Some(first) = jobs.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH
            && let Ok(job) = jobs.try_recv()
        {
            batch.push(job);
        }
        commit(connection, batch, shared);
        let pages = shared.wal_pages.load(Ordering::Relaxed);
        if pages >= CHECKPOINT_PAGES || (pages >= CHECKPOINT_IDLE_PAGES && jobs.is_empty()) {
            checkpoint(connection, shared);
        }
    }
}

fn checkpoint(connection: &Connection, shared: &Shared) {
    shared.wal_pages.store(0, Ordering::Relaxed);
    let outcome = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
    if let Err(cause) = outcome {
        tracing::warn!(error = %cause, "moving the write-ahead log into the database failed");
    }
}

/// Runs the jobs in one transaction; in several if SQLite ends one of them by itself.
fn commit(connection: &Connection, batch: Vec<Box<dyn Job>>, shared: &Shared) {
    let alone = batch.len() == 1;
    let mut waiting = batch.into_iter();
    while waiting.len() > 0 {
        if let Err(cause) = execute(connection, "BEGIN IMMEDIATE") {
            shared.wrote(true);
            answer_all(waiting, &cause);
            return;
        }
        let mut events = Vec::new();
        let mut done: Vec<Box<dyn Job>> = Vec::new();
        let mut lost = None;
        for mut job in waiting.by_ref() {
            let mark = events.len();
            let mut tx = Tx { connection, events: &mut events };
            let Err(error) = in_savepoint(connection, alone, || job.run(&mut tx)) else {
                done.push(job);
                continue;
            };
            events.truncate(mark);
            if connection.is_autocommit() {
                // SQLite gave the whole transaction up: out of disk, out of memory, an I/O error.
                lost = Some(repeat(&error));
                job.answer(Err(error));
                break;
            }
            if error.kind() == Kind::DatabaseUnavailable {
                shared.wrote(true);
            }
            job.answer(Err(error));
        }
        if let Some(error) = lost {
            shared.wrote(true);
            answer_all(done.into_iter(), &error);
            continue;
        }
        if done.is_empty() {
            rollback(connection);
            continue;
        }
        if let Err(error) = execute(connection, "COMMIT") {
            rollback(connection);
            shared.wrote(true);
            answer_all(done.into_iter(), &error);
            continue;
        }
        shared.wrote(false);
        shared.commits.fetch_add(1, Ordering::Relaxed);
        announce(shared, &events);
        for job in done {
            job.answer(Ok(()));
        }
    }
}

/// Runs one job so that its failure, and even its panic, undoes it alone.
fn in_savepoint(
    connection: &Connection,
    alone: bool,
    job: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if !alone {
        execute(connection, "SAVEPOINT job")?;
    }
    let outcome = catch_unwind(AssertUnwindSafe(job))
        .unwrap_or_else(|_| Err(Error::internal("a job of the store panicked")));
    if alone || connection.is_autocommit() {
        return outcome;
    }
    let ended = match &outcome {
        Ok(()) => execute(connection, "RELEASE job"),
        Err(_) => {
            execute(connection, "ROLLBACK TO job").and_then(|()| execute(connection, "RELEASE job"))
        }
    };
    if ended.is_err() {
        // Half of a job must not be committed: the whole transaction goes.
        rollback(connection);
    }
    outcome.and(ended)
}

fn announce(shared: &Shared, events: &[Arc<Event>]) {
    let Some(last) = events.last() else { return };
    shared.last_seq.store(last.seq, Ordering::Release);
    let sink = shared.sink.read().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(sink) = sink
        && catch_unwind(AssertUnwindSafe(|| sink(events))).is_err()
    {
        tracing::error!("the event sink panicked");
    }
}

fn rollback(connection: &Connection) {
    if !connection.is_autocommit()
        && let Err(error) = execute(connection, "ROLLBACK")
    {
        tracing::error!(?error, "rolling a transaction back failed");
    }
}

fn execute(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

fn answer_all(jobs: impl Iterator<Item = Box<dyn Job>>, error: &Error) {
    for job in jobs {
        job.answer(Err(repeat(error)));
    }
}
