//! Opening the database file: who may, whether it is sound, and bringing its schema up to date.
//!
//! Called by [`Store::open`](super::Store::open) alone. A file that is damaged, newer than this
//! program or another program's is reported and left exactly as it is.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{StoreOptions, copy_failed};
use crate::error::{Error, Kind, Result};

/// `VAPR`: marks the file as ours, in its header (`PRAGMA application_id`).
const APPLICATION_ID: i64 = 0x5641_5052;

/// The schema's versions, oldest first; append only, a released one never changes.
const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001.sql"),
    include_str!("migrations/0002_uploads.sql"),
    include_str!("migrations/0003_isos.sql"),
    include_str!("migrations/0004_templates.sql"),
    include_str!("migrations/0005_definitions.sql"),
    include_str!("migrations/0006_task_warnings.sql"),
];

/// KiB of page cache of the writer: its hot pages are few, and the kernel keeps the rest.
const CACHE_KIB: i64 = 1024;

/// The WAL file stays this large after a checkpoint, so that it is overwritten, not grown anew:
/// writing inside a file's size needs no journal commit of the file system.
const WAL_BYTES: i64 = 64 * 1024 * 1024;

/// The lock that keeps a second daemon away, on a file of its own beside the database: SQLite's
/// own locks on the database file would be dropped if this process closed it elsewhere.
pub(super) struct Lock(#[expect(dead_code, reason = "held for its Drop")] Flock<File>);

/// Opens, locks, checks and migrates `path`.
pub(super) fn open(path: &Path, options: &StoreOptions) -> Result<(Connection, Lock)> {
    make_folder(path)?;
    let lock = lock(path)?;
    remove_begun_copies(path);
    make_file(path)?;
    let mut connection = connect(path)?;
    let version = inspect(&connection, path)?;
    prepare(&connection, path, options).map_err(|cause| explain(path, cause))?;
    migrate(&mut connection, version).map_err(|cause| explain(path, cause))?;
    Ok((connection, lock))
}

fn make_folder(path: &Path) -> Result<()> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|cause| {
        unusable(path, &format!("its folder {} cannot be made: {cause}", folder.display()))
            .with_source(cause)
    })
}

/// `vapor.db` → `vapor.db-wal` and the like.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn lock(path: &Path) -> Result<Lock> {
    let name = beside(path, ".lock");
    let cannot = |cause: std::io::Error| {
        unusable(path, &format!("its lock file {} cannot be opened: {cause}", name.display()))
            .with_source(cause)
    };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&name).map_err(cannot)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            // Only for the message below: a failure to write it harms nothing.
            let _ = held.set_len(0);
            let _ = held.rewind();
            let _ = writeln!(*held, "{}", std::process::id());
            Ok(Lock(held))
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = match holder.trim().parse::<u32>() {
                Ok(pid) => format!("another vapord (process {pid})"),
                Err(_) => "another vapord".to_owned(),
            };
            Err(unusable(path, &format!("{holder} uses it"))
                .with_hint("stop the other daemon, or give this one a [database] path of its own"))
        }
        Err((_, errno)) => Err(cannot(errno.into())),
    }
}

/// Creates an empty file that only its owner can read; SQLite gives `-wal` and `-shm` its mode.
fn make_file(path: &Path) -> Result<()> {
    let length = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => 0,
        Err(cause) if cause.kind() == std::io::ErrorKind::AlreadyExists => {
            let meta = std::fs::metadata(path)
                .map_err(|cause| unusable(path, &cause.to_string()).with_source(cause))?;
            if !meta.is_file() {
                return Err(unusable(path, "it is not a file"));
            }
            meta.len()
        }
        Err(cause) => {
            return Err(unusable(path, &format!("it cannot be made: {cause}")).with_source(cause));
        }
    };
    let wal = beside(path, "-wal");
    if length == 0 && std::fs::metadata(&wal).is_ok_and(|meta| meta.len() > 0) {
        // SQLite would throw the log away, and with it perhaps the only copy of the last changes.
        return Err(unusable(
            path,
            &format!("it is empty, while its log {} is not", wal.display()),
        )
        .with_hint(
            "put the database that belongs to this log back, or move the log away to start anew",
        ));
    }
    Ok(())
}

fn connect(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        // Until the file is known to be sound, closing must not write the log into it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "temp_store", "memory")?;
        connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(connection)
    };
    let connection = open().map_err(|cause| explain(path, cause))?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Checks whose file it is, how old and whether sound. Returns the schema's version, 0 if new.
fn inspect(connection: &Connection, path: &Path) -> Result<usize> {
    let number = |pragma: &str| -> rusqlite::Result<i64> {
        connection.pragma_query_value(None, pragma, |row| row.get(0))
    };
    let look = || -> rusqlite::Result<(i64, i64, i64, String)> {
        let tables =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0))?;
        let application = number("application_id")?;
        let version = number("user_version")?;
        let verdict = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        Ok((tables, application, version, verdict))
    };
    let (tables, application, version, verdict) = look().map_err(|cause| explain(path, cause))?;
    if application != APPLICATION_ID && (tables > 0 || application != 0 || version != 0) {
        return Err(unusable(path, "it is the database of another program")
            .with_hint("nothing was changed; name another file in [database] path"));
    }
    let known = MIGRATIONS.len();
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > known {
        return Err(unusable(
            path,
            &format!("its schema {version} is newer than this vapord, which knows up to {known}"),
        )
        .with_detail("schema", version)
        .with_detail("known", known)
        .with_hint("nothing was changed; install the newer vapord again, or restore a copy from before the upgrade"));
    }
    if verdict != "ok" {
        return Err(damaged(path, &verdict));
    }
    Ok(version)
}

fn prepare(connection: &Connection, path: &Path, options: &StoreOptions) -> Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if mode != "wal" {
        return Err(unusable(path, "its file system cannot share memory between processes")
            .with_hint("put [database] path on a local file system"));
    }
    connection.pragma_update(None, "synchronous", options.synchronous.as_str())?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES)?;
    Ok(())
}

fn migrate(connection: &mut Connection, version: usize) -> Result<()> {
    if version == MIGRATIONS.len() {
        return Ok(());
    }
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Exclusive)?;
    for sql in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(sql)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    let known = i64::try_from(MIGRATIONS.len()).map_err(Error::internal)?;
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    if version > 0 {
        tracing::info!(from = version, to = MIGRATIONS.len(), "the database's schema was upgraded");
    }
    Ok(())
}

/// Writes a consistent copy of the open database `source` to the new file `target`.
pub(super) fn copy(source: &Path, target: &Path) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(target)
        .map_err(|cause| copy_failed(target, cause))?;
    let name = target.to_str().ok_or_else(|| copy_failed(target, "its name is not UTF-8"))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let outcome = Connection::open_with_flags(source, flags)
        .and_then(|connection| connection.execute("VACUUM INTO ?1", [name]));
    outcome.map(drop).map_err(|cause| {
        // What was begun is of no use to anyone, and stands in the way of the next attempt.
        let _ = std::fs::remove_file(target);
        copy_failed(target, cause)
    })
}

/// What the names of copies that are being made end in, before a number.
const COPY: &str = ".copy-";

/// A consistent copy of the open database `source` that no folder knows any more.
pub(super) fn copy_nameless(source: &Path) -> Result<File> {
    let target = beside(source, &format!("{COPY}{}", uuid::Uuid::now_v7()));
    copy(source, &target)?;
    let opened = File::open(&target);
    let removed = std::fs::remove_file(&target);
    let file = opened.map_err(|cause| copy_failed(&target, cause))?;
    removed.map_err(|cause| copy_failed(&target, cause))?;
    Ok(file)
}

/// Removes copies that a process which was killed had begun. Only with the lock held.
fn remove_begun_copies(path: &Path) {
    let beginning = beside(path, COPY);
    let Some(folder) = path.parent().and_then(|folder| std::fs::read_dir(folder).ok()) else {
        return;
    };
    for entry in folder.flatten().map(|entry| entry.path()) {
        let ours = entry.as_os_str().as_encoded_bytes();
        if ours.starts_with(beginning.as_os_str().as_encoded_bytes())
            && let Err(cause) = std::fs::remove_file(&entry)
        {
            tracing::warn!(error = %cause, "a copy that was begun stays: {}", entry.display());
        }
    }
}

/// A failure while opening: with the path, which the messages of a running store leave out.
fn explain(path: &Path, cause: impl Into<Error>) -> Error {
    let cause = cause.into();
    let code = std::error::Error::source(&cause)
        .and_then(|source| source.downcast_ref::<rusqlite::Error>())
        .and_then(rusqlite::Error::sqlite_error_code);
    match code {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            let what = std::error::Error::source(&cause).map(ToString::to_string);
            damaged(path, &what.unwrap_or_default())
        }
        Some(_) => {
            let problem = cause.message().rsplit(": ").next().unwrap_or_default().to_owned();
            unusable(path, &problem).with_source(cause)
        }
        None => cause,
    }
}

fn damaged(path: &Path, what: &str) -> Error {
    let what = what.lines().last().unwrap_or_default();
    unusable(path, &format!("its file is damaged: {what}")).with_hint(format!(
        "nothing was changed; move {path} with its -wal and -shm aside, then restore a copy, or what \
         \"sqlite3 {path} .recover\" saves, or start without it: the virtual machines are libvirt's \
         and lose nothing, only past tasks, events and runtime details are in this file",
        path = path.display()
    ))
}

fn unusable(path: &Path, problem: &str) -> Error {
    Error::new(
        Kind::DatabaseUnavailable,
        format!("the database {} cannot be used: {problem}", path.display()),
    )
}
