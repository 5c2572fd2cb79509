//! How values of the model stand in SQLite's columns: called by the files of the aggregates.

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::Value as Column;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::model::{Subject, SubjectType};

/// Nanoseconds since 1970; what lies outside 1677 to 2262 is moved to its edge.
pub(super) fn nanos(time: Timestamp) -> i64 {
    let nanos = time.as_nanosecond();
    i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
}

/// The way back from [`nanos`].
pub(super) fn time(nanos: i64) -> Result<Timestamp> {
    Timestamp::from_nanosecond(i128::from(nanos)).map_err(|cause| unreadable("a time", cause))
}

/// A sequence number or a count that SQLite keeps as a signed number.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A `u64` as SQLite's signed number; what does not fit is moved to the edge.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn blob(id: Uuid) -> Column {
    Column::Blob(id.as_bytes().to_vec())
}

pub(super) fn uuid(row: &Row<'_>, column: &str) -> Result<Uuid> {
    Ok(Uuid::from_bytes(row.get(column)?))
}

pub(super) fn optional_uuid(row: &Row<'_>, column: &str) -> Result<Option<Uuid>> {
    Ok(row.get::<_, Option<[u8; 16]>>(column)?.map(Uuid::from_bytes))
}

pub(super) fn optional_time(row: &Row<'_>, column: &str) -> Result<Option<Timestamp>> {
    row.get::<_, Option<i64>>(column)?.map(time).transpose()
}

pub(super) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|cause| Error::internal(format!("a value for the store has no JSON: {cause}")))
}

pub(super) fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<T> {
    let text = row.get_ref(column)?.as_str().map_err(|cause| unreadable(column, cause))?;
    serde_json::from_str(text).map_err(|cause| unreadable(column, cause))
}

pub(super) fn optional_json<T: DeserializeOwned>(row: &Row<'_>, column: &str) -> Result<Option<T>> {
    let text = row.get_ref(column)?.as_str_or_null().map_err(|cause| unreadable(column, cause))?;
    text.map(serde_json::from_str).transpose().map_err(|cause| unreadable(column, cause))
}

/// The columns `subject_type`, `subject_id` and `subject_name`.
pub(super) fn subject(row: &Row<'_>) -> Result<Subject> {
    let word =
        row.get_ref("subject_type")?.as_str().map_err(|cause| unreadable("subject", cause))?;
    let r#type = SubjectType::parse(word)
        .ok_or_else(|| unreadable("subject_type", format!("unknown word {word:?}")))?;
    Ok(Subject { r#type, id: row.get("subject_id")?, name: row.get("subject_name")? })
}

/// A row that this version did not write, or that was changed by hand.
pub(super) fn unreadable(what: &str, cause: impl std::fmt::Display) -> Error {
    Error::internal(format!("a row of the database cannot be read: {what}: {cause}"))
}
