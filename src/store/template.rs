//! Templates: one row per template.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde_json::Value;
use uuid::Uuid;

use super::codec::{from_json, nanos, signed, time, to_json, unsigned, uuid};
use crate::error::Result;
use crate::model::TemplateDisk;

/// One template's row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TemplateRow {
    pub id: Uuid,
    pub name: String,
    pub description: String,
    /// A request's body for a new VM, without its name and without members that are null.
    pub settings: Value,
    pub disks: Vec<TemplateDisk>,
    pub min_memory: Option<u64>,
    pub min_vcpus: Option<u32>,
    pub min_disk: Option<u64>,
    /// The name that the VM had of which it was made.
    pub source_vm: Option<String>,
    pub owner: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub generation: u64,
}

/// Every row, in the order of the names.
pub(super) fn list(connection: &Connection) -> Result<Vec<TemplateRow>> {
    let mut statement = connection.prepare_cached("SELECT * FROM template ORDER BY name")?;
    statement.query_and_then([], read)?.collect()
}

fn read(row: &Row<'_>) -> Result<TemplateRow> {
    let number =
        |name| -> Result<Option<u64>> { Ok(row.get::<_, Option<i64>>(name)?.map(unsigned)) };
    Ok(TemplateRow {
        id: uuid(row, "id")?,
        name: row.get("name")?,
        description: row.get("description")?,
        settings: from_json(row, "settings")?,
        disks: from_json(row, "disks")?,
        min_memory: number("min_memory")?,
        min_vcpus: row.get("min_vcpus")?,
        min_disk: number("min_disk")?,
        source_vm: row.get("source_vm")?,
        owner: row.get("owner")?,
        created_at: time(row.get("created_at")?)?,
        updated_at: time(row.get("updated_at")?)?,
        generation: unsigned(row.get("generation")?),
    })
}

/// Writes a row, new or changed.
pub(super) fn save(connection: &Connection, row: &TemplateRow) -> Result<()> {
    let mut upsert = connection.prepare_cached(
        "INSERT INTO template (id, name, description, settings, disks, min_memory, min_vcpus,
             min_disk, source_vm, owner, created_at, updated_at, generation)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (id) DO UPDATE SET name = ?2, description = ?3, settings = ?4, disks = ?5,
             min_memory = ?6, min_vcpus = ?7, min_disk = ?8, updated_at = ?12, generation = ?13",
    )?;
    upsert.execute(params![
        row.id.as_bytes(),
        row.name,
        row.description,
        to_json(&row.settings)?,
        to_json(&row.disks)?,
        row.min_memory.map(signed),
        row.min_vcpus,
        row.min_disk.map(signed),
        row.source_vm,
        row.owner,
        nanos(row.created_at),
        nanos(row.updated_at),
        signed(row.generation),
    ])?;
    Ok(())
}

/// Removes a row; that there is none is no failure.
pub(super) fn delete(connection: &Connection, id: Uuid) -> Result<()> {
    connection.prepare_cached("DELETE FROM template WHERE id = ?1")?.execute([id.as_bytes()])?;
    Ok(())
}
