//! The library of ISO images: one row per registered image.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use uuid::Uuid;

use super::codec::{
    from_json, nanos, optional_json, signed, time, to_json, unreadable, unsigned, uuid,
};
use crate::error::Result;
use crate::model::{ChecksumStatus, IsoChecksum, IsoHeader, IsoOs};

/// One image's row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IsoRow {
    pub id: Uuid,
    pub name: String,
    pub description: String,
    pub pool: String,
    pub volume: String,
    pub size_bytes: u64,
    /// As whoever registered it said.
    pub os_variant: Option<String>,
    pub detected_os: Option<IsoOs>,
    pub header: IsoHeader,
    pub checksum: IsoChecksum,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub generation: u64,
}

/// Every row, in the order of the names.
pub(super) fn list(connection: &Connection) -> Result<Vec<IsoRow>> {
    let mut statement = connection.prepare_cached("SELECT * FROM iso ORDER BY name")?;
    statement.query_and_then([], read)?.collect()
}

fn read(row: &Row<'_>) -> Result<IsoRow> {
    let word: String = row.get("checksum_status")?;
    let status = ChecksumStatus::parse(&word)
        .ok_or_else(|| unreadable("checksum_status", format!("unknown word {word:?}")))?;
    Ok(IsoRow {
        id: uuid(row, "id")?,
        name: row.get("name")?,
        description: row.get("description")?,
        pool: row.get("pool")?,
        volume: row.get("volume")?,
        size_bytes: unsigned(row.get("size_bytes")?),
        os_variant: row.get("os_variant")?,
        detected_os: optional_json(row, "detected_os")?,
        header: from_json(row, "header")?,
        checksum: IsoChecksum { status, sha256: row.get("sha256")? },
        created_at: time(row.get("created_at")?)?,
        updated_at: time(row.get("updated_at")?)?,
        generation: unsigned(row.get("generation")?),
    })
}

/// Writes a row, new or changed.
pub(super) fn save(connection: &Connection, row: &IsoRow) -> Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO iso (id, name, description, pool, volume, size_bytes, os_variant,
             detected_os, header, checksum_status, sha256, created_at, updated_at, generation)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
         ON CONFLICT (id) DO UPDATE SET name = ?2, description = ?3, size_bytes = ?6,
             os_variant = ?7, detected_os = ?8, header = ?9, checksum_status = ?10, sha256 = ?11,
             updated_at = ?13, generation = ?14",
    )?;
    upsert.execute(params![
        row.id.as_bytes(),
        row.name,
        row.description,
        row.pool,
        row.volume,
        signed(row.size_bytes),
        row.os_variant,
        row.detected_os.as_ref().map(to_json).transpose()?,
        to_json(&row.header)?,
        row.checksum.status.as_str(),
        row.checksum.sha256,
        nanos(row.created_at),
        nanos(row.updated_at),
        signed(row.generation),
    ])?;
    Ok(())
}

/// Removes a row; that there is none is no failure.
pub(super) fn delete(connection: &Connection, id: Uuid) -> Result<()> {
    connection.prepare_cached("DELETE FROM iso WHERE id = ?1")?.execute([id.as_bytes()])?;
    Ok(())
}
