//! The one background job a domain can have: save, migration, backup, snapshot.

use std::time::Duration;

use uuid::Uuid;
use virt::sys;

use super::super::ffi;
use super::super::session::Session;
use super::with;
use crate::error::Result;

/// A job that is under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobInfo {
    /// What it does: `start`, `save`, `restore`, `migration-in`, `migration-out`, `snapshot`,
    /// `snapshot-revert`, `dump`, `backup`, `snapshot-delete`, or `unknown`.
    pub operation: &'static str,
    /// Bytes transferred.
    pub bytes_done: u64,
    /// Bytes to transfer as far as known; 0 if unknown. It can grow while a guest writes.
    pub bytes_total: u64,
    pub elapsed: Duration,
}

/// The job under way, or `None`.
pub fn job_info(session: &Session, uuid: Uuid) -> Result<Option<JobInfo>> {
    let (kind, params) =
        with(session, uuid, "read the job of", |domain| ffi::domain::job_stats(domain, 0))?;
    if !matches!(kind, sys::VIR_DOMAIN_JOB_BOUNDED | sys::VIR_DOMAIN_JOB_UNBOUNDED) {
        return Ok(None);
    }
    let operation = match params.u64("operation").and_then(|number| u32::try_from(number).ok()) {
        Some(sys::VIR_DOMAIN_JOB_OPERATION_START) => "start",
        Some(sys::VIR_DOMAIN_JOB_OPERATION_SAVE) => "save",
        Some(sys::VIR_DOMAIN_JOB_OPERATION_RESTORE) => "restore",
        Some(sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN) => "migration-in",
        Some(sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT) => "migration-out",
        Some(sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT) => "snapshot",
        Some(sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT) => "snapshot-revert",
        Some(sys::VIR_DOMAIN_JOB_OPERATION_DUMP) => "dump",
        Some(sys::VIR_DOMAIN_JOB_OPERATION_BACKUP) => "backup",
        Some(sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE) => "snapshot-delete",
        _ => "unknown",
    };
    // A save counts memory, a backup counts disks, a migration counts both and sums them up.
    let sum = |suffix: &str| {
        params.u64(&format!("data_{suffix}")).unwrap_or_else(|| {
            params.u64(&format!("memory_{suffix}")).unwrap_or(0)
                + params.u64(&format!("disk_{suffix}")).unwrap_or(0)
        })
    };
    Ok(Some(JobInfo {
        operation,
        bytes_done: sum("processed"),
        bytes_total: sum("total"),
        elapsed: Duration::from_millis(params.u64("time_elapsed").unwrap_or(0)),
    }))
}

/// Asks the job to end; it ends with an error soon after.
///
/// # Errors
/// `VmWrongState` if there is none.
pub fn abort_job(session: &Session, uuid: Uuid) -> Result<()> {
    with(session, uuid, "abort the job of", ffi::domain::abort_job)
}
