//! Idempotency keys: which request of whom began which task, for 24 hours.
//!
//! Read and written inside the transaction that begins the task, so that two requests with one
//! key, however close, begin one task.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::codec::nanos;
use crate::error::{Error, Kind, Result};

/// How long a key is remembered.
pub const LIFETIME: SignedDuration = SignedDuration::from_hours(24);

/// A request's `Idempotency-Key`, with what tells whether it is the same request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The header's value.
    pub key: String,
    /// Who asks: keys of different principals are different keys.
    pub principal: String,
    /// A digest of method, path and body.
    pub fingerprint: String,
}

/// The row number of the task that this key began, if it is still remembered.
/// `IdempotencyKeyReused` if it was for another request.
pub(super) fn find(
    connection: &Connection,
    idempotency: &Idempotency,
    now: Timestamp,
) -> Result<Option<i64>> {
    let row: Option<(String, i64)> = connection
        .prepare_cached(
            "SELECT fingerprint, task FROM idempotency
             WHERE principal = ?1 AND key = ?2 AND created_at > ?3",
        )?
        .query_row(params![idempotency.principal, idempotency.key, nanos(now - LIFETIME)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    match row {
        None => Ok(None),
        Some((fingerprint, task)) if fingerprint == idempotency.fingerprint => Ok(Some(task)),
        Some(_) => {
            let shown: String = idempotency.key.chars().take(64).collect();
            Err(Error::new(
                Kind::IdempotencyKeyReused,
                format!("the idempotency key {shown:?} was used for a different request"),
            ))
        }
    }
}

/// Remembers that this key began the task in row `task`; an expired entry is replaced.
pub(super) fn remember(
    connection: &Connection,
    idempotency: &Idempotency,
    task: i64,
    now: Timestamp,
) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO idempotency (principal, key, fingerprint, task, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            idempotency.principal,
            idempotency.key,
            idempotency.fingerprint,
            task,
            nanos(now)
        ])?;
    Ok(())
}

/// Forgets the keys that are older than [`LIFETIME`].
pub(super) fn prune(connection: &Connection, now: Timestamp) -> Result<usize> {
    Ok(connection
        .prepare_cached("DELETE FROM idempotency WHERE created_at <= ?1")?
        .execute([nanos(now - LIFETIME)])?)
}
