//! Copies of a running domain's disks, all of one moment.

use uuid::Uuid;
use virt::sys;

use super::super::ffi;
use super::super::session::{Session, without_nul};
use super::with;
use crate::error::Result;

/// Begins to copy disks into volumes that exist (`virDomainBackupBegin`); the copies are of the
/// moment in which this returns. The job is followed by [`job_info`](super::job_info), ended early by
/// [`abort_job`](super::abort_job), and told of afterwards by [`ended_job`](super::ended_job).
///
/// # Errors
/// `VmBusy` if a job is under way; `NotSupported`; `VmNotRunning`.
pub fn backup_begin(session: &Session, uuid: Uuid, xml: &str) -> Result<()> {
    without_nul("xml", xml)?;
    with(session, uuid, "copy the disks of", |domain| {
        ffi::backup::begin(domain, xml, sys::VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
    })
}

/// The backup under way, with the files it writes to. `virDomainBackupGetXMLDesc`.
///
/// # Errors
/// `LibvirtRefused` if there is none.
pub fn backup_xml(session: &Session, uuid: Uuid) -> Result<String> {
    with(session, uuid, "read the backup of", ffi::backup::describe)
}

/// Has the guest's agent write out and freeze its file systems; how many there are. A frozen guest
/// writes nothing until [`thaw`], so little may lie between the two. For libvirt's bound on the
/// agent's answer see [`limit_wait`](super::super::agent::limit_wait).
pub fn freeze(session: &Session, uuid: Uuid) -> Result<u32> {
    with(session, uuid, "freeze the file systems of", ffi::backup::freeze)
}

/// Lets the guest write again.
pub fn thaw(session: &Session, uuid: Uuid) -> Result<u32> {
    with(session, uuid, "thaw the file systems of", ffi::backup::thaw)
}
