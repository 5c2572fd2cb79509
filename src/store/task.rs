//! Tasks with their steps and log lines: the journal of what Vapor was asked to do.
//!
//! A finished task is final: no later write changes it, so a late progress report cannot bring a
//! task back to life.

use jiff::Timestamp;
use rusqlite::types::Value as Column;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use uuid::Uuid;

use super::codec::{
    blob, from_json, nanos, optional_json, optional_time, optional_uuid, subject, time, to_json,
    unreadable, unsigned, uuid,
};
use super::event::{self, NewEvent};
use super::idempotency::{self, Idempotency};
use super::writer::Tx;
use crate::error::{Error, Kind, Result};
use crate::model::{SubjectType, Task, TaskLogLine, TaskStatus};

/// Log lines kept of one task; older ones make room.
pub const LOG_LINES: u32 = 1_000;

/// What became of a request to begin a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Begun {
    /// The task is in the journal; its work may begin.
    Started,
    /// The same request began this task earlier; nothing is to be done.
    Replayed(Box<Task>),
}

/// How far a step of a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// About to be done; after a crash it may or may not have happened.
    Intended,
    Done,
    Undone,
}

impl StepState {
    /// The word in the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            StepState::Intended => "intended",
            StepState::Done => "done",
            StepState::Undone => "undone",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [StepState::Intended, StepState::Done, StepState::Undone]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// One step of a task, with what is needed to undo it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its place within the task.
    pub seq: u32,
    /// What is done, such as `create-volume`.
    pub action: String,
    /// What undoing it needs to know.
    pub undo: serde_json::Value,
    pub state: StepState,
}

/// Which tasks, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskQuery {
    pub status: Option<TaskStatus>,
    /// A kind; `vm.*` stands for every kind that begins with `vm.`.
    pub kind: Option<String>,
    pub subject_type: Option<SubjectType>,
    pub subject_id: Option<String>,
    pub principal: Option<String>,
    /// How many at most.
    pub limit: u32,
    /// Only tasks begun before this one.
    pub before: Option<Uuid>,
}

impl Default for TaskQuery {
    fn default() -> Self {
        TaskQuery {
            status: None,
            kind: None,
            subject_type: None,
            subject_id: None,
            principal: None,
            limit: 100,
            before: None,
        }
    }
}

/// Writes a new task, its events and its idempotency key; or finds what the key began.
pub(super) fn begin(
    tx: &mut Tx<'_>,
    task: &Task,
    key: Option<&Idempotency>,
    events: Vec<NewEvent>,
    now: Timestamp,
) -> Result<Begun> {
    if let Some(key) = key
        && let Some(earlier) = replay(tx.connection, key, now)?
    {
        return Ok(Begun::Replayed(Box::new(earlier)));
    }
    let seq = tx
        .connection
        .prepare_cached(
            "INSERT INTO task (id, kind, status, subject_type, subject_id, subject_name, principal,
                 request_id, created_at, started_at, finished_at, progress, cancellable, parent,
                 result, error)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?
        .insert(params![
            task.id.as_bytes(),
            task.kind,
            task.status.as_str(),
            task.subject.r#type.as_str(),
            task.subject.id,
            task.subject.name,
            task.principal,
            task.request_id,
            nanos(task.created_at),
            task.started_at.map(nanos),
            task.finished_at.map(nanos),
            to_json(&task.progress)?,
            task.cancellable,
            task.parent.as_ref().map(Uuid::as_bytes),
            task.result.as_ref().map(to_json).transpose()?,
            task.error.as_ref().map(to_json).transpose()?,
        ])?;
    if let Some(key) = key {
        idempotency::remember(tx.connection, key, seq, now)?;
    }
    event::append(tx, events)?;
    Ok(Begun::Started)
}

/// Writes the task's present state and its events. `TaskFinished` if it had ended already,
/// `TaskNotFound` if it was never begun.
pub(super) fn update(tx: &mut Tx<'_>, task: &Task, events: Vec<NewEvent>) -> Result<()> {
    let changed = tx
        .connection
        .prepare_cached(
            "UPDATE task SET status = ?2, subject_type = ?3, subject_id = ?4, subject_name = ?5,
                 started_at = ?6, finished_at = ?7, progress = ?8, cancellable = ?9, result = ?10,
                 error = ?11
             WHERE id = ?1 AND status IN ('queued', 'running')",
        )?
        .execute(params![
            task.id.as_bytes(),
            task.status.as_str(),
            task.subject.r#type.as_str(),
            task.subject.id,
            task.subject.name,
            task.started_at.map(nanos),
            task.finished_at.map(nanos),
            to_json(&task.progress)?,
            task.cancellable,
            task.result.as_ref().map(to_json).transpose()?,
            task.error.as_ref().map(to_json).transpose()?,
        ])?;
    if changed == 0 {
        row_of(tx.connection, task.id)?;
        return Err(Error::new(
            Kind::TaskFinished,
            format!("the task {} has finished already", task.id),
        ));
    }
    event::append(tx, events)
}

/// The row number of a task; `TaskNotFound` if there is none.
fn row_of(connection: &Connection, id: Uuid) -> Result<i64> {
    connection
        .prepare_cached("SELECT seq FROM task WHERE id = ?1")?
        .query_row([id.as_bytes()], |row| row.get(0))
        .optional()?
        .ok_or_else(|| Error::new(Kind::TaskNotFound, format!("no task with id {id}")))
}

fn get_by_seq(connection: &Connection, seq: i64) -> Result<Option<Task>> {
    let mut statement = connection.prepare_cached("SELECT * FROM task WHERE seq = ?1")?;
    statement.query_and_then([seq], read)?.next().transpose()
}

/// The task that this key began, if it did.
pub(super) fn replay(
    connection: &Connection,
    key: &Idempotency,
    now: Timestamp,
) -> Result<Option<Task>> {
    match idempotency::find(connection, key, now)? {
        None => Ok(None),
        Some(seq) => get_by_seq(connection, seq)?
            .map(Some)
            .ok_or_else(|| Error::internal("an idempotency key without its task")),
    }
}

pub(super) fn get(connection: &Connection, id: Uuid) -> Result<Option<Task>> {
    let mut statement = connection.prepare_cached("SELECT * FROM task WHERE id = ?1")?;
    statement.query_and_then([id.as_bytes()], read)?.next().transpose()
}

/// The tasks that `query` asks for, newest first, and how many there are without its `limit` and
/// `before`.
pub(super) fn list(connection: &Connection, query: &TaskQuery) -> Result<(Vec<Task>, u64)> {
    let mut filter = "WHERE 1".to_owned();
    let mut values = Vec::new();
    if let Some(status) = query.status {
        // The literal lets SQLite use the index of the unfinished ones.
        if !status.is_finished() {
            filter.push_str(" AND status IN ('queued', 'running')");
        }
        filter.push_str(" AND status = ?");
        values.push(Column::Text(status.as_str().to_owned()));
    }
    match query.kind.as_deref().map(|kind| (kind, kind.strip_suffix('*'))) {
        Some((_, Some(prefix))) => {
            filter.push_str(" AND substr(kind, 1, ?) = ?");
            let length = i64::try_from(prefix.chars().count()).unwrap_or(i64::MAX);
            values.push(Column::Integer(length));
            values.push(Column::Text(prefix.to_owned()));
        }
        Some((kind, None)) => {
            filter.push_str(" AND kind = ?");
            values.push(Column::Text(kind.to_owned()));
        }
        None => {}
    }
    let texts = [
        (" AND subject_type = ?", query.subject_type.map(SubjectType::as_str)),
        (" AND subject_id = ?", query.subject_id.as_deref()),
        (" AND principal = ?", query.principal.as_deref()),
    ];
    for (condition, text) in texts {
        if let Some(text) = text {
            filter.push_str(condition);
            values.push(Column::Text(text.to_owned()));
        }
    }
    // One snapshot for both statements: the total belongs to the page.
    let snapshot = connection.unchecked_transaction()?;
    let total: i64 = snapshot
        .prepare_cached(&format!("SELECT count(*) FROM task {filter}"))?
        .query_row(params_from_iter(&values), |row| row.get(0))?;
    if let Some(before) = query.before {
        let known: Option<i64> = snapshot
            .prepare_cached("SELECT seq FROM task WHERE id = ?1")?
            .query_row([before.as_bytes()], |row| row.get(0))
            .optional()?;
        if known.is_none() {
            return Err(Error::new(
                Kind::InvalidCursor,
                format!("the cursor names the task {before}, which there is not, or not any more"),
            ));
        }
        filter.push_str(" AND seq < (SELECT seq FROM task WHERE id = ?)");
        values.push(blob(before));
    }
    values.push(Column::Integer(i64::from(query.limit)));
    let mut statement = snapshot
        .prepare_cached(&format!("SELECT * FROM task {filter} ORDER BY seq DESC LIMIT ?"))?;
    let tasks = statement
        .query_and_then(params_from_iter(&values), read)?
        .collect::<Result<Vec<Task>>>()?;
    Ok((tasks, unsigned(total)))
}

/// Tasks that are queued or running, oldest first.
pub(super) fn unfinished(connection: &Connection) -> Result<Vec<Task>> {
    let mut statement = connection
        .prepare_cached("SELECT * FROM task WHERE status IN ('queued', 'running') ORDER BY seq")?;
    statement.query_and_then([], read)?.collect()
}

fn read(row: &Row<'_>) -> Result<Task> {
    let status: String = row.get("status")?;
    let status = TaskStatus::parse(&status)
        .ok_or_else(|| unreadable("status", format!("unknown word {status:?}")))?;
    Ok(Task {
        id: uuid(row, "id")?,
        kind: row.get("kind")?,
        status,
        subject: subject(row)?,
        principal: row.get("principal")?,
        request_id: row.get("request_id")?,
        created_at: time(row.get("created_at")?)?,
        started_at: optional_time(row, "started_at")?,
        finished_at: optional_time(row, "finished_at")?,
        progress: from_json(row, "progress")?,
        cancellable: row.get("cancellable")?,
        parent: optional_uuid(row, "parent")?,
        warnings: from_json(row, "warnings")?,
        result: optional_json(row, "result")?,
        error: optional_json(row, "error")?,
    })
}

/// Writes the given steps; others of the task stay. `TaskNotFound` if there is no such task.
pub(super) fn save_steps(connection: &Connection, task: Uuid, steps: &[Step]) -> Result<()> {
    let row = row_of(connection, task)?;
    let mut upsert = connection.prepare_cached(
        "INSERT OR REPLACE INTO task_step (task, seq, action, undo, state)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for step in steps {
        upsert.execute(params![
            row,
            step.seq,
            step.action,
            to_json(&step.undo)?,
            step.state.as_str()
        ])?;
    }
    Ok(())
}

/// The task's steps in their order; none if there is no such task.
pub(super) fn steps(connection: &Connection, task: Uuid) -> Result<Vec<Step>> {
    let mut statement = connection.prepare_cached(
        "SELECT task_step.* FROM task_step JOIN task ON task.seq = task_step.task
         WHERE task.id = ?1 ORDER BY task_step.seq",
    )?;
    let rows = statement.query_and_then([task.as_bytes()], |row| {
        let state: String = row.get("state")?;
        Ok(Step {
            seq: row.get("seq")?,
            action: row.get("action")?,
            undo: from_json(row, "undo")?,
            state: StepState::parse(&state)
                .ok_or_else(|| unreadable("state", format!("unknown word {state:?}")))?,
        })
    })?;
    rows.collect()
}

/// Adds one line to the task's log. `TaskNotFound` if there is no such task.
pub(super) fn append_log(connection: &Connection, task: Uuid, line: &TaskLogLine) -> Result<()> {
    let row = row_of(connection, task)?;
    let last: Option<i64> = connection
        .prepare_cached("SELECT max(seq) FROM task_log WHERE task = ?1")?
        .query_row([row], |found| found.get(0))?;
    let seq = last.unwrap_or(0).saturating_add(1);
    connection
        .prepare_cached("INSERT INTO task_log (task, seq, time, message) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![row, seq, nanos(line.time), line.message])?;
    connection
        .prepare_cached("DELETE FROM task_log WHERE task = ?1 AND seq <= ?2")?
        .execute(params![row, seq.saturating_sub(i64::from(LOG_LINES))])?;
    Ok(())
}

/// Adds one warning to the task, and to its log. `TaskNotFound` if there is no such task.
pub(super) fn append_warning(
    connection: &Connection,
    task: Uuid,
    line: &TaskLogLine,
) -> Result<()> {
    let logged = TaskLogLine { message: format!("warning: {}", line.message), ..line.clone() };
    append_log(connection, task, &logged)?;
    connection
        .prepare_cached(
            "UPDATE task SET warnings = json_insert(warnings, '$[#]', ?2) WHERE id = ?1",
        )?
        .execute(params![task.as_bytes(), line.message])?;
    Ok(())
}

/// The task's log, oldest line first; none if there is no such task.
pub(super) fn log(connection: &Connection, task: Uuid) -> Result<Vec<TaskLogLine>> {
    let mut statement = connection.prepare_cached(
        "SELECT task_log.time, task_log.message FROM task_log JOIN task ON task.seq = task_log.task
         WHERE task.id = ?1 ORDER BY task_log.seq",
    )?;
    let rows = statement.query_and_then([task.as_bytes()], |row| {
        Ok(TaskLogLine { time: time(row.get("time")?)?, message: row.get("message")? })
    })?;
    rows.collect()
}

/// Deletes at most `limit` tasks that finished before `older`, with their steps and logs. A task
/// that an idempotency key still leads to stays.
pub(super) fn prune(connection: &Connection, older: Timestamp, limit: u64) -> Result<u64> {
    let deleted = connection
        .prepare_cached(
            "DELETE FROM task WHERE seq IN (
                 SELECT seq FROM task
                 WHERE finished_at IS NOT NULL AND finished_at < ?1
                     AND status NOT IN ('queued', 'running')
                     AND NOT EXISTS (SELECT 1 FROM idempotency WHERE idempotency.task = task.seq)
                 LIMIT ?2)",
        )?
        .execute(params![nanos(older), super::codec::signed(limit)])?;
    Ok(deleted as u64)
}
