//! The journal of events: numbered inside the transaction of the change they tell of.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::types::Value as Column;
use rusqlite::{Connection, Row, params, params_from_iter};
use uuid::Uuid;

use super::codec::{from_json, optional_uuid, signed, subject, time, to_json, unsigned};
use super::writer::Tx;
use crate::error::Result;
use crate::model::{Event, Subject, SubjectType};

/// An event before it has its number and its time.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvent {
    /// `vm.started`, `task.finished`, …
    pub kind: String,
    pub subject: Subject,
    pub principal: Option<String>,
    pub task: Option<Uuid>,
    pub data: serde_json::Value,
}

/// Which events, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventQuery {
    /// Events with a larger number only; 0 for all that are kept.
    pub since: u64,
    /// Events up to this number only.
    pub until: Option<u64>,
    /// How many at most.
    pub limit: u32,
    /// Kinds; `vm.*` stands for every kind that begins with `vm.`. None given: all.
    pub kinds: Vec<String>,
    pub subject_type: Option<SubjectType>,
    pub subject_id: Option<String>,
    /// Labels in the event's data, each of them.
    pub labels: Vec<(String, String)>,
}

impl Default for EventQuery {
    fn default() -> Self {
        EventQuery {
            since: 0,
            until: None,
            limit: 100,
            kinds: Vec::new(),
            subject_type: None,
            subject_id: None,
            labels: Vec::new(),
        }
    }
}

/// Writes `events` and leaves them, numbered, for the sink.
pub(super) fn append(tx: &mut Tx<'_>, events: Vec<NewEvent>) -> Result<()> {
    let mut insert = tx.connection.prepare_cached(
        "INSERT INTO event
             (time, kind, subject_type, subject_id, subject_name, principal, task, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    for event in events {
        let now = Timestamp::now();
        let seq = insert.insert(params![
            super::codec::nanos(now),
            event.kind,
            event.subject.r#type.as_str(),
            event.subject.id,
            event.subject.name,
            event.principal,
            event.task.as_ref().map(Uuid::as_bytes),
            to_json(&event.data)?,
        ])?;
        tx.events.push(Arc::new(Event {
            seq: unsigned(seq),
            time: now,
            kind: event.kind,
            subject: event.subject,
            principal: event.principal,
            task: event.task,
            data: event.data,
        }));
    }
    Ok(())
}

/// The events that `query` asks for, in the order of their numbers.
pub(super) fn list(connection: &Connection, query: &EventQuery) -> Result<Vec<Event>> {
    let mut sql = "SELECT * FROM event WHERE seq > ? AND seq <= ?".to_owned();
    let mut values = vec![
        Column::Integer(signed(query.since)),
        Column::Integer(query.until.map_or(i64::MAX, signed)),
    ];
    if !query.kinds.is_empty() {
        let mut alternatives = Vec::new();
        for kind in &query.kinds {
            match kind.strip_suffix('*') {
                Some(prefix) => {
                    alternatives.push("substr(kind, 1, ?) = ?");
                    let length = i64::try_from(prefix.chars().count()).unwrap_or(i64::MAX);
                    values.push(Column::Integer(length));
                    values.push(Column::Text(prefix.to_owned()));
                }
                None => {
                    alternatives.push("kind = ?");
                    values.push(Column::Text(kind.clone()));
                }
            }
        }
        sql.push_str(&format!(" AND ({})", alternatives.join(" OR ")));
    }
    if let Some(r#type) = query.subject_type {
        sql.push_str(" AND subject_type = ?");
        values.push(Column::Text(r#type.as_str().to_owned()));
    }
    if let Some(id) = &query.subject_id {
        sql.push_str(" AND subject_id = ?");
        values.push(Column::Text(id.clone()));
    }
    for (key, value) in &query.labels {
        // Compared as a row's text: a key with dots must not be taken for a path.
        sql.push_str(
            " AND EXISTS (SELECT 1 FROM json_each(event.data, '$.labels') AS label
                 WHERE label.key = ? AND label.value = ?)",
        );
        values.push(Column::Text(key.clone()));
        values.push(Column::Text(value.clone()));
    }
    sql.push_str(" ORDER BY seq LIMIT ?");
    values.push(Column::Integer(i64::from(query.limit)));
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_and_then(params_from_iter(values), read)?;
    rows.collect()
}

/// The same, with [`first_seq`] of the same moment, which tells whether pruning left a gap.
pub(super) fn page(connection: &Connection, query: &EventQuery) -> Result<(u64, Vec<Event>)> {
    let snapshot = connection.unchecked_transaction()?;
    Ok((first_seq(&snapshot)?, list(&snapshot, query)?))
}

fn read(row: &Row<'_>) -> Result<Event> {
    Ok(Event {
        seq: unsigned(row.get("seq")?),
        time: time(row.get("time")?)?,
        kind: row.get("kind")?,
        subject: subject(row)?,
        principal: row.get("principal")?,
        task: optional_uuid(row, "task")?,
        data: from_json(row, "data")?,
    })
}

/// The number of the newest event that ever was; 0 if there was none.
pub(super) fn last_seq(connection: &Connection) -> Result<u64> {
    let last: Option<i64> = connection
        .prepare_cached("SELECT max(seq) FROM sqlite_sequence WHERE name = 'event'")?
        .query_row([], |row| row.get(0))?;
    Ok(last.map_or(0, unsigned))
}

/// The number of the oldest event that is kept; one more than the last number if none is.
pub(super) fn first_seq(connection: &Connection) -> Result<u64> {
    let first: Option<i64> =
        connection.prepare_cached("SELECT min(seq) FROM event")?.query_row([], |row| row.get(0))?;
    match first {
        Some(first) => Ok(unsigned(first)),
        None => Ok(last_seq(connection)? + 1),
    }
}

/// Deletes at most `limit` of the oldest events, so that the newest `keep` numbers stay.
pub(super) fn prune(connection: &Connection, keep: u64, limit: u64) -> Result<u64> {
    let upto = last_seq(connection)?.saturating_sub(keep);
    let upto = upto.min(first_seq(connection)?.saturating_add(limit).saturating_sub(1));
    let deleted =
        connection.prepare_cached("DELETE FROM event WHERE seq <= ?1")?.execute([signed(upto)])?;
    Ok(deleted as u64)
}
