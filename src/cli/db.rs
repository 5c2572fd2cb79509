//! `vapor db …`: the daemon's own database.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use http::header::ACCEPT;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::client::{Request, refused};
use super::context::Context;
use super::failure::{Exit, Failure, Result};
use super::text::bytes;

/// How long the daemon may send nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// What can be done with the database.
#[derive(Subcommand, Debug)]
pub enum DbCommand {
    /// Copy the database into a new file, while the daemon goes on working
    Backup(BackupArgs),
}

/// Where the copy goes.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// The file, which must not exist; - for stdout
    pub file: PathBuf,
}

/// Runs one command.
///
/// # Errors
/// [`Exit::Conflict`] if the file exists; those of the client.
pub async fn run(cx: &mut Context, command: DbCommand) -> Result<()> {
    match command {
        DbCommand::Backup(args) => backup(cx, &args.file).await,
    }
}

async fn backup(cx: &mut Context, path: &Path) -> Result<()> {
    let request = Request::get("/database/backup").header(ACCEPT, "application/vnd.sqlite3");
    let response = cx.client.stream(&request).await?;
    if !response.status().is_success() {
        return Err(refused(response).await);
    }
    if path == Path::new("-") {
        let mut out = std::io::stdout();
        receive(response.into_body(), &mut out).await?;
        return Ok(out.flush()?);
    }
    // What it tells of is not for everybody.
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = opened.map_err(|error| unusable(path, &error))?;
    let written = whole(response.into_body(), &mut file).await;
    let size = written.inspect_err(|_| {
        // Half of a copy is none.
        let _ = fs::remove_file(path);
    })?;
    cx.note(&format!("{} written to {}", bytes(size), path.display()));
    Ok(())
}

fn unusable(path: &Path, error: &std::io::Error) -> Failure {
    let exists = error.kind() == std::io::ErrorKind::AlreadyExists;
    let exit = if exists { Exit::Conflict } else { Exit::Failed };
    Failure::new(exit, format!("cannot write {}: {error}", path.display()))
}

/// Takes everything, and has it on the disk.
async fn whole(body: Incoming, file: &mut File) -> Result<u64> {
    let size = receive(body, file).await?;
    file.sync_all()?;
    Ok(size)
}

async fn receive(mut body: Incoming, out: &mut impl Write) -> Result<u64> {
    let broke = |why: String| Failure::new(Exit::Unreachable, format!("the copy broke off: {why}"));
    let mut size = 0;
    loop {
        match timeout(SILENCE, body.frame()).await {
            Ok(None) => return Ok(size),
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                size += data.len() as u64;
                out.write_all(&data)?;
            }
            Ok(Some(Err(error))) => return Err(broke(error.to_string())),
            Err(_) => return Err(broke(format!("nothing came for {} s", SILENCE.as_secs()))),
        }
    }
}
