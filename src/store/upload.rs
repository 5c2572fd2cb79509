//! Uploads under way: how far each is, so that a restart of the daemon loses none.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde_json::Value;
use uuid::Uuid;

use super::codec::{from_json, nanos, signed, time, to_json, unreadable, unsigned, uuid};
use crate::error::Result;
use crate::model::UploadPurpose;

/// One upload's row.
#[derive(Clone, Debug, PartialEq)]
pub struct UploadRow {
    /// Also the id of its task.
    pub id: Uuid,
    pub pool: String,
    pub volume: String,
    pub purpose: UploadPurpose,
    /// What its client said about it.
    pub metadata: Value,
    /// Bytes that were announced.
    pub length: u64,
    /// Bytes that are acknowledged.
    pub position: u64,
    /// First bytes that are acknowledged, and not in the volume yet.
    pub head: Vec<u8>,
    /// The state of the digest over what is acknowledged.
    pub digest: Vec<u8>,
    /// The format that the first bytes told.
    pub format: Option<String>,
    pub created_at: Timestamp,
    pub expires_at: Timestamp,
}

/// Every row, oldest first.
pub(super) fn list(connection: &Connection) -> Result<Vec<UploadRow>> {
    let mut statement =
        connection.prepare_cached("SELECT * FROM upload ORDER BY created_at, id")?;
    statement.query_and_then([], read)?.collect()
}

fn read(row: &Row<'_>) -> Result<UploadRow> {
    let word = row.get_ref("purpose")?.as_str().map_err(|cause| unreadable("purpose", cause))?;
    Ok(UploadRow {
        id: uuid(row, "id")?,
        pool: row.get("pool")?,
        volume: row.get("volume")?,
        purpose: UploadPurpose::parse(word)
            .ok_or_else(|| unreadable("purpose", format!("unknown word {word:?}")))?,
        metadata: from_json(row, "metadata")?,
        length: unsigned(row.get("length")?),
        position: unsigned(row.get("position")?),
        head: row.get("head")?,
        digest: row.get("digest")?,
        format: row.get("format")?,
        created_at: time(row.get("created_at")?)?,
        expires_at: time(row.get("expires_at")?)?,
    })
}

/// Writes a row, new or anew.
pub(super) fn save(connection: &Connection, row: &UploadRow) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO upload (id, pool, volume, purpose, metadata, length, position,
                 head, digest, format, created_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            row.id.as_bytes(),
            row.pool,
            row.volume,
            row.purpose.as_str(),
            to_json(&row.metadata)?,
            signed(row.length),
            signed(row.position),
            row.head,
            row.digest,
            row.format,
            nanos(row.created_at),
            nanos(row.expires_at),
        ])?;
    Ok(())
}

/// Removes one row.
pub(super) fn delete(connection: &Connection, id: Uuid) -> Result<()> {
    connection.prepare_cached("DELETE FROM upload WHERE id = ?1")?.execute([id.as_bytes()])?;
    Ok(())
}

/// Removes the rows whose tasks are over. Returns how many.
pub(super) fn prune(connection: &Connection) -> Result<usize> {
    Ok(connection
        .prepare_cached(
            "DELETE FROM upload WHERE id NOT IN
                 (SELECT id FROM task WHERE status IN ('queued', 'running'))",
        )?
        .execute([])?)
}
