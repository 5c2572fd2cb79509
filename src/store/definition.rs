//! The history of VMs' definitions: numbered versions with who and when, the oldest pruned.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::codec::{nanos, optional_uuid, signed, time, unsigned, uuid};
use crate::error::Result;
use crate::model::{DefinitionContent, DefinitionVersion};

/// A version before it has its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDefinition {
    pub vm: Uuid,
    pub at: Timestamp,
    /// Whose work it is; `None` for what was done outside of Vapor.
    pub cause: Option<DefinitionCause>,
    /// Of the XML, to tell whether another one differs.
    pub hash: u64,
    /// Without secrets.
    pub xml: String,
}

/// Whose work a version is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefinitionCause {
    pub principal: String,
    pub task: Uuid,
    /// The task's kind, such as `vm.update`.
    pub operation: String,
}

/// What happened to definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DefinitionChange {
    New(NewDefinition),
    /// The VM is gone, and its history with it.
    Gone(Uuid),
}

/// The hash of each VM's newest version.
pub(super) fn heads(connection: &Connection) -> Result<Vec<(Uuid, u64)>> {
    let mut statement = connection.prepare_cached("SELECT vm, hash FROM definition_head")?;
    statement
        .query_and_then([], |row| {
            Ok((uuid(row, "vm")?, row.get::<_, i64>("hash")?.cast_unsigned()))
        })?
        .collect()
}

/// Writes what happened, in its order, and keeps at most `keep` versions of each VM.
pub(super) fn save(connection: &Connection, changes: &[DefinitionChange], keep: u64) -> Result<()> {
    for change in changes {
        match change {
            DefinitionChange::New(new) => {
                add(connection, new)?;
                prune(connection, new.vm, keep)?;
            }
            DefinitionChange::Gone(vm) => {
                connection
                    .prepare_cached("DELETE FROM definition_head WHERE vm = ?1")?
                    .execute([vm.as_bytes()])?;
            }
        }
    }
    Ok(())
}

/// One operation makes one version: what it stores in between is replaced by what it stores last, and
/// if that is what was there before it, it made none.
fn add(connection: &Connection, new: &NewDefinition) -> Result<()> {
    let head: Option<i64> = connection
        .prepare_cached("SELECT number FROM definition_head WHERE vm = ?1")?
        .query_row([new.vm.as_bytes()], |row| row.get(0))
        .optional()?;
    let newest = connection
        .prepare_cached(
            "SELECT seq, task, hash FROM definition WHERE vm = ?1 ORDER BY number DESC LIMIT 2",
        )?
        .query_and_then([new.vm.as_bytes()], |row| {
            let hash = row.get::<_, i64>("hash")?.cast_unsigned();
            Ok((row.get::<_, i64>("seq")?, optional_uuid(row, "task")?, hash))
        })?
        .collect::<Result<Vec<_>>>()?;
    let task = new.cause.as_ref().map(|cause| cause.task);
    let same_work = newest.first().filter(|(_, made_by, _)| task.is_some() && *made_by == task);
    let number = head.unwrap_or(0) + i64::from(same_work.is_none());
    connection
        .prepare_cached(
            "INSERT INTO definition_head (vm, number, hash) VALUES (?1, ?2, ?3)
             ON CONFLICT (vm) DO UPDATE SET number = ?2, hash = ?3",
        )?
        .execute(params![new.vm.as_bytes(), number, new.hash.cast_signed()])?;
    match same_work {
        Some((seq, ..)) if newest.get(1).is_some_and(|(.., before)| *before == new.hash) => {
            connection.prepare_cached("DELETE FROM definition WHERE seq = ?1")?.execute([seq])?;
        }
        Some((seq, ..)) => {
            connection
                .prepare_cached(
                    "UPDATE definition SET at = ?2, hash = ?3, bytes = ?4, xml = ?5 WHERE seq = ?1",
                )?
                .execute(params![
                    seq,
                    nanos(new.at),
                    new.hash.cast_signed(),
                    signed(new.xml.len() as u64),
                    new.xml,
                ])?;
        }
        None => {
            let cause = new.cause.as_ref();
            connection
                .prepare_cached(
                    "INSERT INTO definition
                         (vm, number, at, principal, task, operation, hash, bytes, xml)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
                )?
                .execute(params![
                    new.vm.as_bytes(),
                    number,
                    nanos(new.at),
                    cause.map(|cause| &cause.principal),
                    cause.map(|cause| cause.task.as_bytes()),
                    cause.map(|cause| &cause.operation),
                    new.hash.cast_signed(),
                    signed(new.xml.len() as u64),
                    new.xml,
                ])?;
        }
    }
    Ok(())
}

fn prune(connection: &Connection, vm: Uuid, keep: u64) -> Result<()> {
    connection
        .prepare_cached(
            "DELETE FROM definition WHERE vm = ?1 AND number <= (
                 SELECT number FROM definition WHERE vm = ?1
                 ORDER BY number DESC LIMIT 1 OFFSET ?2)",
        )?
        .execute(params![vm.as_bytes(), signed(keep)])?;
    Ok(())
}

/// Removes every version of every VM. Returns whether there were any.
pub(super) fn clear(connection: &Connection) -> Result<bool> {
    Ok(connection.execute("DELETE FROM definition_head", [])? > 0)
}

/// The versions of a VM, newest first and with lower numbers than `before`, and how many there are
/// in all.
pub(super) fn list(
    connection: &Connection,
    vm: Uuid,
    before: Option<u64>,
    limit: u32,
) -> Result<(Vec<DefinitionVersion>, u64)> {
    // One snapshot for both statements: the total belongs to the page.
    let snapshot = connection.unchecked_transaction()?;
    let total: i64 = snapshot
        .prepare_cached("SELECT count(*) FROM definition WHERE vm = ?1")?
        .query_row([vm.as_bytes()], |row| row.get(0))?;
    let mut statement = snapshot.prepare_cached(
        "SELECT number, at, principal, task, operation, bytes FROM definition
         WHERE vm = ?1 AND number < ?2 ORDER BY number DESC LIMIT ?3",
    )?;
    let before = before.map_or(i64::MAX, signed);
    let versions = statement
        .query_and_then(params![vm.as_bytes(), before, limit], read)?
        .collect::<Result<Vec<_>>>()?;
    Ok((versions, unsigned(total)))
}

/// One version of a VM with its XML.
pub(super) fn get(
    connection: &Connection,
    vm: Uuid,
    number: u64,
) -> Result<Option<DefinitionContent>> {
    let mut statement = connection.prepare_cached(
        "SELECT number, at, principal, task, operation, bytes, xml FROM definition
         WHERE vm = ?1 AND number = ?2",
    )?;
    statement
        .query_and_then(params![vm.as_bytes(), signed(number)], |row| {
            Ok(DefinitionContent { version: read(row)?, xml: row.get("xml")? })
        })?
        .next()
        .transpose()
}

fn read(row: &Row<'_>) -> Result<DefinitionVersion> {
    Ok(DefinitionVersion {
        number: unsigned(row.get("number")?),
        at: time(row.get("at")?)?,
        by: row.get("principal")?,
        task: optional_uuid(row, "task")?,
        operation: row.get("operation")?,
        bytes: unsigned(row.get("bytes")?),
    })
}
