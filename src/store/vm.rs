//! What Vapor keeps of a VM between two starts: its generation and its last runtime details.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::codec::{nanos, optional_json, signed, time, to_json, unsigned, uuid};
use crate::error::Result;

/// One VM's row.
#[derive(Clone, Debug, PartialEq)]
pub struct VmRow {
    pub uuid: Uuid,
    pub name: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub generation: u64,
    /// A digest of the definition, to tell at the next start whether it changed meanwhile.
    pub hash: u64,
    /// `RuntimeDetails` as JSON; null while the VM does not run.
    pub runtime: Option<serde_json::Value>,
}

/// Every row, in the order of the UUIDs.
pub(super) fn list(connection: &Connection) -> Result<Vec<VmRow>> {
    let mut statement = connection.prepare_cached("SELECT * FROM vm ORDER BY uuid")?;
    statement.query_and_then([], read)?.collect()
}

fn read(row: &Row<'_>) -> Result<VmRow> {
    Ok(VmRow {
        uuid: uuid(row, "uuid")?,
        name: row.get("name")?,
        created_at: time(row.get("created_at")?)?,
        updated_at: time(row.get("updated_at")?)?,
        generation: unsigned(row.get("generation")?),
        hash: row.get::<_, i64>("hash")?.cast_unsigned(),
        runtime: optional_json(row, "runtime")?,
    })
}

/// Writes `upserts` and removes `deleted`. A UUID in both is removed.
pub(super) fn save(connection: &Connection, upserts: &[VmRow], deleted: &[Uuid]) -> Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT OR REPLACE INTO vm (uuid, name, created_at, updated_at, generation, hash, runtime)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for row in upserts {
        upsert.execute(params![
            row.uuid.as_bytes(),
            row.name,
            nanos(row.created_at),
            nanos(row.updated_at),
            signed(row.generation),
            row.hash.cast_signed(),
            row.runtime.as_ref().map(to_json).transpose()?,
        ])?;
    }
    let mut delete = connection.prepare_cached("DELETE FROM vm WHERE uuid = ?1")?;
    for uuid in deleted {
        delete.execute([uuid.as_bytes()])?;
    }
    Ok(())
}
