//! SQLite's failures in the house's words: called wherever a statement of the store can fail.

use std::time::Duration;

use rusqlite::ErrorCode;

use crate::error::{Error, Kind};

/// When a caller may try again after a failure that can pass, such as a full disk.
const RETRY_AFTER: Duration = Duration::from_secs(5);

impl From<rusqlite::Error> for Error {
    fn from(cause: rusqlite::Error) -> Error {
        let code = cause.sqlite_error_code();
        let problem = match code {
            Some(ErrorCode::DiskFull) => "its disk is full",
            Some(ErrorCode::SystemIoFailure) => "reading or writing the file failed",
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => "its file is damaged",
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                "its file or folder is read-only"
            }
            Some(ErrorCode::CannotOpen) => "its file cannot be opened",
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "another process holds a lock on it"
            }
            Some(ErrorCode::OutOfMemory) => "there is not enough memory",
            Some(ErrorCode::FileLockingProtocolFailed) => "locking the file failed",
            // A statement of ours that breaks a constraint, or does not even parse, is a defect.
            _ => return Error::internal(format!("SQLite: {cause}")).with_source(cause),
        };
        let error = Error::new(
            Kind::DatabaseUnavailable,
            format!("the database cannot be used: {problem}"),
        );
        let error = match code {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => error
                .with_hint("stop vapord and restore [database] path from a copy; starting it again checks the file and says more"),
            _ => error.with_retry_after(RETRY_AFTER),
        };
        error.with_source(cause)
    }
}

/// The same failure once more, for the other callers that it hits: an [`Error`] is not `Clone`.
pub(super) fn repeat(error: &Error) -> Error {
    let mut copy = Error::new(error.kind(), error.message())
        .with_hint(error.hint())
        .with_source(format!("{error:?}"));
    if let Some(after) = error.retry_after() {
        copy = copy.with_retry_after(after);
    }
    copy
}

/// The store was closed, or its writer is gone.
pub(super) fn closed() -> Error {
    Error::new(Kind::DatabaseUnavailable, "the database is closed").with_retry_after(RETRY_AFTER)
}

/// More is waiting to be written than the disk takes.
pub(super) fn overloaded() -> Error {
    Error::new(
        Kind::DatabaseUnavailable,
        "the database does not keep up with what is to be written",
    )
    .with_retry_after(RETRY_AFTER)
}
