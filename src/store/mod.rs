//! The only room that names `rusqlite`: what libvirt does not keep, in one SQLite file.
//!
//! It owns the database file, its lock, one writer thread and a few read-only connections. The
//! service room calls it for tasks, idempotency keys and VM rows, the bus for events, the daemon
//! for opening and closing. One file per aggregate: [`task`], [`event`], [`vm`], [`upload`],
//! [`iso`], [`template`], [`definition`], [`idempotency`];
//! `writer` and `reader` are the machinery, `open` guards the file.
//!
//! Every change is one transaction, and is on the disk when its call returns (with `synchronous =
//! full`; with `normal` a power cut may take the last changes, a crash of the daemon none).

mod codec;
pub mod definition;
mod error;
pub mod event;
pub mod idempotency;
pub mod iso;
mod open;
mod reader;
pub mod task;
pub mod template;
#[cfg(test)]
mod tests;
pub mod upload;
pub mod vm;
mod writer;

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

pub use self::definition::{DefinitionCause, DefinitionChange, NewDefinition};
pub use self::event::{EventQuery, NewEvent};
pub use self::idempotency::Idempotency;
pub use self::iso::IsoRow;
use self::reader::Readers;
pub use self::task::{Begun, Step, StepState, TaskQuery};
pub use self::template::TemplateRow;
pub use self::upload::UploadRow;
pub use self::vm::VmRow;
pub use self::writer::EventSink;
use self::writer::Writer;
use crate::error::{Error, Kind, Result};
use crate::model::{DefinitionContent, DefinitionVersion, Event, Task, TaskLogLine};

/// Rows that [`Store::prune`] deletes in one transaction, so that others get their turn.
const PRUNE_CHUNK: u64 = 500;
/// After a successful write younger than this, [`Store::check`] writes nothing.
const CHECK_WRITES_EVERY: Duration = Duration::from_secs(10);

/// When SQLite waits for the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// With every commit: nothing that was answered is lost, not even by a power cut.
    #[default]
    Full,
    /// Now and then: a power cut may take the last commits, never the file.
    Normal,
}

impl Synchronous {
    /// SQLite's word, which is also that of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Synchronous::Full => "full",
            Synchronous::Normal => "normal",
        }
    }
}

/// How to open a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Read-only connections, 1 to 64.
    pub readers: usize,
    pub synchronous: Synchronous,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions { readers: 4, synchronous: Synchronous::Full }
    }
}

/// What [`Store::prune`] deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub tasks: u64,
    pub events: u64,
    pub keys: u64,
}

/// A cheap handle to the open database; clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    path: PathBuf,
    writer: Writer,
    readers: Readers,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens `path`, making folder (0700) and file (0600) where there are none, and brings the
    /// schema up to date. Blocks; call it before there are requests.
    ///
    /// `DatabaseUnavailable`, with what to do in the hint, if another daemon uses the file, if it
    /// is damaged, another program's or of a newer schema: it is then left as it is.
    pub fn open(path: &Path, options: StoreOptions) -> Result<Store> {
        let (connection, lock) = open::open(path, &options)?;
        let last_seq = event::last_seq(&connection)?;
        let writer = Writer::start(connection, lock)?;
        writer.shared.last_seq.store(last_seq, Ordering::Release);
        let readers = Readers::open(path, options.readers)?;
        Ok(Store(Arc::new(Inner { path: path.to_owned(), writer, readers })))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Has `sink` called with the events of every transaction, after its COMMIT and before the
    /// callers get their answer, in the order of their numbers. It runs on the writer's thread and
    /// must not block. There is one; a later one replaces it.
    pub fn set_event_sink(&self, sink: EventSink) {
        self.0.writer.shared.set_sink(sink);
    }

    /// Whether the last write failed. Asks nothing of the disk.
    pub fn failing(&self) -> bool {
        self.0.writer.shared.failing()
    }

    /// Transactions committed since the start, for `/metrics`.
    pub fn commits(&self) -> u64 {
        self.0.writer.shared.commits()
    }

    /// Writes a new task with its events before its first side effect.
    ///
    /// With a key that began a task within the last 24 hours, nothing is written: the same request
    /// gets that task, a different one `IdempotencyKeyReused`.
    pub async fn begin_task(
        &self,
        task: &Task,
        idempotency: Option<&Idempotency>,
        events: Vec<NewEvent>,
    ) -> Result<Begun> {
        let (task, key) = (task.clone(), idempotency.cloned());
        self.0
            .writer
            .run(move |tx| task::begin(tx, &task, key.as_ref(), events, Timestamp::now()))
            .await
    }

    /// The task that this key began within the last 24 hours, if it did: what a repeated request
    /// is answered with. `IdempotencyKeyReused` if it was for another request.
    pub async fn replay(&self, idempotency: &Idempotency) -> Result<Option<Task>> {
        let key = idempotency.clone();
        self.0.readers.run(move |connection| task::replay(connection, &key, Timestamp::now())).await
    }

    /// Writes a task's present state with its events. `TaskFinished` if it had ended already (a
    /// finished task is final), `TaskNotFound` if it was never begun.
    pub async fn update_task(&self, task: &Task, events: Vec<NewEvent>) -> Result<()> {
        let task = task.clone();
        self.0.writer.run(move |tx| task::update(tx, &task, events)).await
    }

    /// Writes the given steps of a task; its other steps stay.
    pub async fn save_steps(&self, task: Uuid, steps: &[Step]) -> Result<()> {
        let steps = steps.to_vec();
        self.0.writer.run(move |tx| task::save_steps(tx.connection, task, &steps)).await
    }

    /// A task's steps in their order.
    pub async fn steps(&self, task: Uuid) -> Result<Vec<Step>> {
        self.0.readers.run(move |connection| task::steps(connection, task)).await
    }

    /// Adds a line, timed now, to a task's log; the last [`task::LOG_LINES`] are kept.
    pub async fn append_log(&self, task: Uuid, message: impl Into<String>) -> Result<()> {
        let line = TaskLogLine { time: Timestamp::now(), message: message.into() };
        self.0.writer.run(move |tx| task::append_log(tx.connection, task, &line)).await
    }

    /// Adds a warning to a task, and, timed now, to its log.
    pub async fn append_warning(&self, task: Uuid, message: impl Into<String>) -> Result<()> {
        let line = TaskLogLine { time: Timestamp::now(), message: message.into() };
        self.0.writer.run(move |tx| task::append_warning(tx.connection, task, &line)).await
    }

    /// A task's log, oldest line first.
    pub async fn log(&self, task: Uuid) -> Result<Vec<TaskLogLine>> {
        self.0.readers.run(move |connection| task::log(connection, task)).await
    }

    /// The task with this id.
    pub async fn task(&self, id: Uuid) -> Result<Option<Task>> {
        self.0.readers.run(move |connection| task::get(connection, id)).await
    }

    /// The tasks that `query` asks for, newest first, and how many match without its `limit` and
    /// `before`. `InvalidCursor` if the task in `before` is not there.
    pub async fn tasks(&self, query: &TaskQuery) -> Result<(Vec<Task>, u64)> {
        let query = query.clone();
        self.0.readers.run(move |connection| task::list(connection, &query)).await
    }

    /// The tasks that are queued or running, oldest first: what a start has to adopt or to end.
    pub async fn unfinished_tasks(&self) -> Result<Vec<Task>> {
        self.0.readers.run(task::unfinished).await
    }

    /// Writes events, numbers them, and has the sink called.
    pub async fn append_events(&self, events: Vec<NewEvent>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        self.0.writer.run(move |tx| event::append(tx, events)).await
    }

    /// The events that `query` asks for, in the order of their numbers.
    pub async fn events(&self, query: &EventQuery) -> Result<Vec<Event>> {
        let query = query.clone();
        self.0.readers.run(move |connection| event::list(connection, &query)).await
    }

    /// [`first_seq`](Self::first_seq) and [`events`](Self::events) of one moment: whoever asked for
    /// events since a number below the first one knows that some are gone.
    pub async fn event_page(&self, query: &EventQuery) -> Result<(u64, Vec<Event>)> {
        let query = query.clone();
        self.0.readers.run(move |connection| event::page(connection, &query)).await
    }

    /// The number of the newest committed event that ever was; 0 if there was none.
    pub fn last_seq(&self) -> u64 {
        self.0.writer.shared.last_seq.load(Ordering::Acquire)
    }

    /// The number of the oldest event that is kept; one more than [`last_seq`](Self::last_seq) if
    /// none is.
    pub async fn first_seq(&self) -> Result<u64> {
        self.0.readers.run(event::first_seq).await
    }

    /// What was kept of the VMs.
    pub async fn vm_rows(&self) -> Result<Vec<VmRow>> {
        self.0.readers.run(vm::list).await
    }

    /// Writes and removes rows of VMs in one transaction.
    pub async fn save_vm_rows(&self, upserts: Vec<VmRow>, deleted: Vec<Uuid>) -> Result<()> {
        if upserts.is_empty() && deleted.is_empty() {
            return Ok(());
        }
        self.0.writer.run(move |tx| vm::save(tx.connection, &upserts, &deleted)).await
    }

    /// The hash of the newest version of each VM's definition.
    pub async fn definition_heads(&self) -> Result<Vec<(Uuid, u64)>> {
        self.0.readers.run(definition::heads).await
    }

    /// Writes what happened to definitions, in its order and in one transaction, and keeps at most
    /// `keep` versions of each VM concerned.
    pub async fn save_definitions(&self, changes: Vec<DefinitionChange>, keep: u64) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.0.writer.run(move |tx| definition::save(tx.connection, &changes, keep)).await
    }

    /// Removes all versions of all definitions.
    pub async fn clear_definitions(&self) -> Result<bool> {
        self.0.writer.run(|tx| definition::clear(tx.connection)).await
    }

    /// The versions of a VM's definition with lower numbers than `before`, newest first and at most
    /// `limit`, and how many there are in all.
    pub async fn definitions(
        &self,
        vm: Uuid,
        before: Option<u64>,
        limit: u32,
    ) -> Result<(Vec<DefinitionVersion>, u64)> {
        self.0.readers.run(move |connection| definition::list(connection, vm, before, limit)).await
    }

    /// One version of a VM's definition.
    pub async fn definition(&self, vm: Uuid, number: u64) -> Result<Option<DefinitionContent>> {
        self.0.readers.run(move |connection| definition::get(connection, vm, number)).await
    }

    /// The library of ISO images.
    pub async fn isos(&self) -> Result<Vec<IsoRow>> {
        self.0.readers.run(iso::list).await
    }

    /// Writes an image's row, new or changed.
    pub async fn save_iso(&self, row: &IsoRow) -> Result<()> {
        let row = row.clone();
        self.0.writer.run(move |tx| iso::save(tx.connection, &row)).await
    }

    /// Removes an image's row.
    pub async fn delete_iso(&self, id: Uuid) -> Result<()> {
        self.0.writer.run(move |tx| iso::delete(tx.connection, id)).await
    }

    /// Every template.
    pub async fn templates(&self) -> Result<Vec<TemplateRow>> {
        self.0.readers.run(template::list).await
    }

    /// Writes a template's row, new or changed.
    pub async fn save_template(&self, row: &TemplateRow) -> Result<()> {
        let row = row.clone();
        self.0.writer.run(move |tx| template::save(tx.connection, &row)).await
    }

    /// Removes a template's row.
    pub async fn delete_template(&self, id: Uuid) -> Result<()> {
        self.0.writer.run(move |tx| template::delete(tx.connection, id)).await
    }

    /// The uploads under way, oldest first.
    pub async fn uploads(&self) -> Result<Vec<UploadRow>> {
        self.0.readers.run(upload::list).await
    }

    /// Writes how far an upload is.
    pub async fn save_upload(&self, row: &UploadRow) -> Result<()> {
        let row = row.clone();
        self.0.writer.run(move |tx| upload::save(tx.connection, &row)).await
    }

    /// Removes an upload's row.
    pub async fn delete_upload(&self, id: Uuid) -> Result<()> {
        self.0.writer.run(move |tx| upload::delete(tx.connection, id)).await
    }

    /// Removes the rows of uploads whose tasks are over.
    pub async fn prune_uploads(&self) -> Result<usize> {
        self.0.writer.run(|tx| upload::prune(tx.connection)).await
    }

    /// Deletes tasks that finished before `tasks_older`, all but the newest `events_keep` events,
    /// and expired idempotency keys, in small transactions.
    pub async fn prune(&self, tasks_older: Timestamp, events_keep: u64) -> Result<Pruned> {
        let writer = &self.0.writer;
        let mut pruned = Pruned::default();
        let keys = writer.run(|tx| idempotency::prune(tx.connection, Timestamp::now())).await?;
        pruned.keys = keys as u64;
        loop {
            let chunk =
                writer.run(move |tx| task::prune(tx.connection, tasks_older, PRUNE_CHUNK)).await?;
            pruned.tasks += chunk;
            if chunk < PRUNE_CHUNK {
                break;
            }
        }
        loop {
            let chunk =
                writer.run(move |tx| event::prune(tx.connection, events_keep, PRUNE_CHUNK)).await?;
            pruned.events += chunk;
            if chunk < PRUNE_CHUNK {
                return Ok(pruned);
            }
        }
    }

    /// Whether the writer and a reader answer; it writes, too, if the last write failed or was more
    /// than ten seconds ago.
    pub async fn check(&self) -> Result<()> {
        let recently = self.0.writer.shared.wrote_within(CHECK_WRITES_EVERY);
        let now = codec::nanos(Timestamp::now());
        self.0
            .writer
            .run(move |tx| {
                if !recently {
                    tx.connection.execute("UPDATE health SET checked_at = ?1", [now])?;
                }
                Ok(())
            })
            .await?;
        self.0
            .readers
            .run(|connection| {
                Ok(connection.query_row("SELECT checked_at FROM health", [], |_| Ok(()))?)
            })
            .await
    }

    /// Returns when the writer's thread has come to a job of no effect, however long that takes and
    /// whatever becomes of it: a full disk is told by [`check`](Self::check), a thread that hangs
    /// by not returning here. Writes nothing. `DatabaseUnavailable` if the thread has ended.
    pub async fn respond(&self) -> Result<()> {
        self.0.writer.respond().await
    }

    /// Writes a consistent copy to `path`, which must not exist, while the store is in use.
    pub async fn backup(&self, path: &Path) -> Result<()> {
        let (source, target) = (self.0.path.clone(), path.to_owned());
        let copy = move || open::copy(&source, &target);
        tokio::task::spawn_blocking(copy).await.map_err(|cause| {
            Error::internal(format!("copying the database ended early: {cause}"))
        })?
    }

    /// A consistent copy as a file without a name, at its beginning, while the store is in use. It
    /// takes as much room beside the database as the database does until it is closed.
    pub async fn snapshot(&self) -> Result<File> {
        let source = self.0.path.clone();
        let copy = move || open::copy_nameless(&source);
        tokio::task::spawn_blocking(copy).await.map_err(|cause| {
            Error::internal(format!("copying the database ended early: {cause}"))
        })?
    }

    /// Finishes what is queued, writes the log into the file and lets go of it. Later calls answer
    /// `DatabaseUnavailable`.
    pub async fn close(self) {
        self.0.readers.close().await;
        self.0.writer.close().await;
    }
}

/// The failure of a copy whose target cannot be used.
fn copy_failed(path: &Path, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    let cause = cause.into();
    Error::new(
        Kind::DatabaseUnavailable,
        format!("the database cannot be copied to {}: {cause}", path.display()),
    )
    .with_source(cause)
}
