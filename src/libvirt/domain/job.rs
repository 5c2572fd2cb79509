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
    let operation = operation(&params);
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

/// What a job does, by libvirt's number for it.
fn operation(params: &ffi::typed::Params) -> &'static str {
    match params.u64("operation").and_then(|number| u32::try_from(number).ok()) {
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
    }
}

/// A job that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedJob {
    /// As in [`JobInfo`].
    pub operation: &'static str,
    /// Whether it did all it was to do.
    pub completed: bool,
}

/// The last job that ended, as long as libvirt remembers it; with `forget` it does not any more.
/// `virDomainGetJobStats` with `COMPLETED`.
pub fn ended_job(session: &Session, uuid: Uuid, forget: bool) -> Result<Option<EndedJob>> {
    let keep = if forget { 0 } else { sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED };
    let flags = sys::VIR_DOMAIN_JOB_STATS_COMPLETED | keep;
    let (kind, params) = with(session, uuid, "read the last job of", |domain| {
        ffi::domain::job_stats(domain, flags)
    })?;
    if kind == sys::VIR_DOMAIN_JOB_NONE {
        return Ok(None);
    }
    let completed = kind == sys::VIR_DOMAIN_JOB_COMPLETED;
    Ok(Some(EndedJob { operation: operation(&params), completed }))
}

/// Asks the job to end; it ends with an error soon after.
///
/// # Errors
/// `VmWrongState` if there is none.
pub fn abort_job(session: &Session, uuid: Uuid) -> Result<()> {
    with(session, uuid, "abort the job of", ffi::domain::abort_job)
}
