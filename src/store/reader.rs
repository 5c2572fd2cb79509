//! Read-only connections: called by every query of the store.
//!
//! Each query borrows one of a bounded number of connections and runs on a blocking thread. In WAL
//! mode a reader neither waits for the writer nor makes it wait. A connection is opened when all that
//! are open are in use: each takes some 200 KiB, and one is nearly always enough.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::Semaphore;

use super::error::closed;
use crate::error::{Error, Result};

/// KiB of page cache per reader: the hot pages are in the kernel's cache anyway.
const CACHE_KIB: i64 = 512;

pub(super) struct Readers {
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    count: u32,
    path: PathBuf,
}

impl Readers {
    /// At most `count` connections (at least one) to a database that the writer has opened already.
    /// The first is opened at once, so that a database that cannot be read is known at the start.
    pub fn open(path: &Path, count: usize) -> Result<Readers> {
        let count = count.clamp(1, 64);
        let first = connect(path)?;
        Ok(Readers {
            idle: Arc::new(Mutex::new(vec![first])),
            permits: Arc::new(Semaphore::new(count)),
            count: u32::try_from(count).unwrap_or(1),
            path: path.to_owned(),
        })
    }

    /// Runs one query; waits while all connections are in use.
    pub async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| closed())?;
        let idle = self.idle.clone();
        let path = self.path.clone();
        let query = move || {
            let taken = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = taken.map_or_else(|| connect(&path), Ok)?;
            let outcome = query(&connection);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            outcome
        };
        tokio::task::spawn_blocking(query).await.map_err(|cause| {
            Error::internal(format!("a query of the store ended early: {cause}"))
        })?
    }

    /// Waits for the queries under way, and closes every connection.
    pub async fn close(&self) {
        let all = self.permits.acquire_many(self.count).await;
        self.permits.close();
        drop(all);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn connect(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}
