//! `vapor volume upload` and `vapor iso upload`: images from this machine's files to pools.
//!
//! An upload is sent by the tus protocol, so that one that was cut off can be gone on with; what has
//! arrived is asked of the daemon, nothing is kept here. The SHA-256 of the file is computed while it
//! is sent, and compared with that of what has arrived.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderName, Method, StatusCode};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::client::{Pieces, Reply, Request, escape};
use super::context::Context;
use super::failure::{Exit, Failure, Result};
use super::operation::{AWAY, interrupted, outcome, show_done};
use super::output::read;
use super::suggest::Meant;
use super::text::{bytes, quoted};
use super::transfer::{bar, file_failed};
use super::volume::{self, Name, volumes};
use crate::model::Task;

const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
/// Bytes that are read, hashed and sent at once.
const PIECE: usize = 256 << 10;
/// Pieces that are read ahead of the connection.
const AHEAD: usize = 4;
/// How often an upload is gone on with where the daemon says it stands, before that is a failure.
const STUMBLES: u32 = 5;

/// Which file becomes which volume.
#[derive(Args, Debug)]
pub struct UploadArgs {
    /// The image
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The volume to be; a pool alone gives it the file's name
    #[arg(value_name = "POOL[/NAME]", value_parser = place, default_value = "default")]
    pub place: Place,
    /// raw, qcow2, vmdk, vdi, vhdx, vpc or iso: refuse content of another format
    #[arg(long)]
    pub format: Option<String>,
    /// Go on with an upload of this volume that was cut off
    #[arg(long)]
    pub resume: bool,
}

/// Where an upload goes.
#[derive(Clone, Debug)]
pub struct Place {
    pub pool: String,
    /// The file's if absent.
    pub name: Option<String>,
}

/// Reads `POOL` or `POOL/NAME`.
fn place(text: &str) -> std::result::Result<Place, String> {
    if text.contains('/') {
        let Name { pool, volume } = volume::name(text)?;
        return Ok(Place { pool, name: Some(volume) });
    }
    match text {
        "" => Err("name the pool: POOL or POOL/NAME".to_owned()),
        pool => Ok(Place { pool: pool.to_owned(), name: None }),
    }
}

/// Which file becomes which image of the ISO library.
#[derive(Args, Debug)]
pub struct IsoUploadArgs {
    /// The image
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The pool
    #[arg(long, default_value = "default")]
    pub pool: String,
    /// The volume's name; the file's if absent
    #[arg(long)]
    pub name: Option<String>,
    /// Go on with an upload of this volume that was cut off
    #[arg(long)]
    pub resume: bool,
}

fn tus(method: Method, path: &str) -> Request {
    Request::new(method, path).header(TUS_RESUMABLE, "1.0.0")
}

fn offset(reply: &Reply) -> Option<u64> {
    reply.headers.get(UPLOAD_OFFSET)?.to_str().ok()?.parse().ok()
}

/// What is uploaded, and as what.
struct Wanted {
    file: PathBuf,
    name: Name,
    format: Option<String>,
    resume: bool,
    /// Whether the volume goes into the ISO library.
    iso: bool,
}

impl Wanted {
    /// Where uploads of this kind begin.
    fn uploads(&self) -> String {
        match self.iso {
            true => "/virtualization/isos/uploads".to_owned(),
            false => format!("{}/uploads", volumes(&self.name.pool)),
        }
    }
}

/// An upload at the daemon.
struct Remote {
    path: String,
    at: u64,
}

/// The name of a volume that is to be called as its file.
fn own_name(file: &Path, hint: &str) -> Result<String> {
    let own = file.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    own.ok_or_else(|| {
        Failure::new(Exit::Refused, "the file's name cannot be a volume's").with_hint(hint)
    })
}

/// `vapor volume upload`.
///
/// # Errors
/// What keeps the file from being read, and what the daemon reports.
pub async fn upload(cx: &mut Context, args: UploadArgs) -> Result<()> {
    let volume = match args.place.name {
        Some(name) => name,
        None => own_name(&args.file, "say POOL/NAME")?,
    };
    let name = Name { pool: args.place.pool, volume };
    let (format, resume) = (args.format, args.resume);
    transfer(cx, Wanted { file: args.file, name, format, resume, iso: false }).await
}

/// `vapor iso upload`.
///
/// # Errors
/// Those of [`upload`].
pub async fn upload_iso(cx: &mut Context, args: IsoUploadArgs) -> Result<()> {
    let volume = match args.name {
        Some(name) => name,
        None => own_name(&args.file, "say --name")?,
    };
    let name = Name { pool: args.pool, volume };
    let resume = args.resume;
    transfer(cx, Wanted { file: args.file, name, format: None, resume, iso: true }).await
}

async fn transfer(cx: &mut Context, wanted: Wanted) -> Result<()> {
    let failed = |error: std::io::Error| file_failed(&wanted.file, "read", &error);
    let mut file = File::open(&wanted.file).map_err(failed)?;
    let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
    let name = &wanted.name;
    let remote = match find(cx, &wanted, length).await? {
        Some(remote) => remote,
        None => {
            let begun = begin(cx, &wanted, length).await;
            Meant::Pool(&name.pool).checked(cx, begun).await?
        }
    };
    let id = remote.path.rsplit('/').next().unwrap_or_default().to_owned();
    let bar = bar(cx, remote.at, length);
    let sent = tokio::select! {
        sent = send(cx, file, length, remote, &bar) => sent,
        () = interrupted() => Err(Failure::new(Exit::Interrupted, "interrupted")),
    };
    bar.finish_and_clear();
    let digest = match sent {
        Ok(digest) => digest,
        Err(failure) if matches!(failure.exit, Exit::Interrupted | Exit::Unreachable) => {
            return Err(failure.with_hint("go on with the same command and --resume"));
        }
        Err(failure) => return Err(failure),
    };
    let task = cx.client.get(format!("/tasks/{}", escape(&id))).await?;
    let result = &task["result"];
    if result["sha256"] != digest.as_str() {
        return Err(Failure::new(
            Exit::Failed,
            format!("the volume {} has another SHA-256 than the file", quoted(&name.volume)),
        )
        .with_hint("did the file change meanwhile? delete the volume and upload it again"));
    }
    let size = bytes(length);
    let format = result["format"].as_str().unwrap_or_default().to_owned();
    let words = format!("is uploaded ({size}, {format})");
    show_done(cx, result, &name.to_string(), &words)
}

/// The upload that was cut off, if it is to be gone on with and there is one.
async fn find(cx: &Context, wanted: &Wanted, length: u64) -> Result<Option<Remote>> {
    if !wanted.resume {
        return Ok(None);
    }
    let (path, name) = (wanted.uploads(), &wanted.name);
    let listed = cx.client.get(path.clone()).await?;
    let uploads = listed["uploads"].as_array().cloned().unwrap_or_default();
    let Some(upload) = uploads.iter().find(|upload| {
        upload["volume"] == name.volume.as_str() && upload["pool"] == name.pool.as_str()
    }) else {
        return Ok(None);
    };
    if upload["length_bytes"] != length {
        let other = bytes(upload["length_bytes"].as_u64().unwrap_or(0));
        return Err(Failure::new(
            Exit::Conflict,
            format!("the upload of {} is of another file: it has {other}", quoted(&name.volume)),
        ));
    }
    let id = upload["id"].as_str().unwrap_or_default();
    let at = upload["offset_bytes"].as_u64().unwrap_or(0);
    Ok(Some(Remote { path: format!("{path}/{}", escape(id)), at }))
}

async fn begin(cx: &Context, wanted: &Wanted, length: u64) -> Result<Remote> {
    let mut metadata = format!("filename {}", STANDARD.encode(&wanted.name.volume));
    if let Some(format) = &wanted.format {
        metadata.push_str(&format!(",format {}", STANDARD.encode(format)));
    }
    if wanted.iso {
        metadata.push_str(&format!(",pool {}", STANDARD.encode(&wanted.name.pool)));
    }
    let request = tus(Method::POST, &wanted.uploads())
        .header(UPLOAD_LENGTH, &length.to_string())
        .header(UPLOAD_METADATA, &metadata)
        .header(HeaderName::from_static("idempotency-key"), &uuid::Uuid::new_v4().to_string());
    let reply = cx.client.send(&request).await?.checked()?;
    let place = reply.headers.get(LOCATION).and_then(|place| place.to_str().ok());
    let path = place.ok_or_else(|| Failure::unintelligible("it says no Location"))?;
    Ok(Remote { path: path.to_owned(), at: 0 })
}

/// The SHA-256 of the beginning of a file.
struct Hashed {
    digest: Sha256,
    /// How much of it that is.
    at: u64,
}

impl Hashed {
    /// Takes what of these bytes is new; they begin no later than what is hashed ends.
    fn take(&mut self, at: u64, data: &[u8]) {
        debug_assert!(at <= self.at, "a gap before {at}");
        let known = usize::try_from(self.at.saturating_sub(at)).unwrap_or(usize::MAX);
        if let Some(new) = data.get(known..) {
            self.digest.update(new);
            self.at += new.len() as u64;
        }
    }
}

/// Reads a file from `at` to `end` and hashes it, piece by piece, as long as the pieces are wanted.
fn read_on(
    file: &File,
    mut at: u64,
    end: u64,
    mut hashed: Hashed,
    mut wanted: impl FnMut(Vec<u8>) -> bool,
) -> Result<Hashed> {
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
        let mut piece = vec![0; most];
        let read = match file.read_at(&mut piece, at) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let what = format!("the file cannot be read: {error}");
                return Err(Failure::new(Exit::Failed, what));
            }
        };
        if read == 0 {
            return Err(Failure::new(Exit::Failed, "the file has become shorter"));
        }
        piece.truncate(read);
        hashed.take(at, &piece);
        at += read as u64;
        if !wanted(piece) {
            break;
        }
    }
    Ok(hashed)
}

/// Sends everything from where the upload stands; returns the file's SHA-256.
async fn send(
    cx: &Context,
    file: File,
    length: u64,
    remote: Remote,
    bar: &ProgressBar,
) -> Result<String> {
    let file = Arc::new(file);
    let mut at = remote.at;
    let mut hashed = Hashed { digest: Sha256::new(), at: 0 };
    let mut stumbles = 0;
    loop {
        // What is there already is only hashed, before the daemon waits for the rest.
        if hashed.at < at {
            let source = Arc::clone(&file);
            hashed = beside(move || read_on(&source, hashed.at, at, hashed, |_| true)).await?;
        }
        if at >= length {
            break;
        }
        let (pieces, arriving) = mpsc::channel(AHEAD);
        let source = Arc::clone(&file);
        let reading = tokio::spawn(beside(move || {
            read_on(&source, at, length, hashed, |piece| pieces.blocking_send(piece.into()).is_ok())
        }));
        let request = tus(Method::PATCH, &remote.path)
            .header(UPLOAD_OFFSET, &at.to_string())
            .header(CONTENT_TYPE, "application/offset+octet-stream");
        let (shown, begun) = (bar.clone(), at);
        let body = Pieces::new(arriving, length - at, move |sent| shown.set_position(begun + sent));
        let sent = cx.client.send_pieces(&request, body).await;
        // With the reply the body is gone, and nobody takes pieces any more.
        hashed = reading.await.map_err(Failure::unintelligible)??;
        match sent {
            Ok(reply) if reply.status.is_success() => {
                at = offset(&reply).unwrap_or(length);
                continue;
            }
            // A part was cut off, or sent twice: the daemon knows what it has.
            Ok(reply) if matches!(reply.status, StatusCode::CONFLICT | StatusCode::LOCKED) => {
                if stumbles >= STUMBLES {
                    return Err(reply.failure());
                }
            }
            Ok(reply) => return Err(reply.failure()),
            Err(failure) if failure.exit == Exit::Unreachable && stumbles < STUMBLES => {}
            Err(failure) => return Err(failure),
        }
        let stands = once_back(cx, &remote.path).await?;
        stumbles = if stands > at { 0 } else { stumbles + 1 };
        at = stands;
        bar.set_position(at);
    }
    Ok(hashed.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Does on another thread what would keep this one.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(Failure::unintelligible)?
}

/// How much of an upload the daemon has, as soon as it is back.
///
/// # Errors
/// It stays away; those of [`stands`].
async fn once_back(cx: &Context, path: &str) -> Result<u64> {
    let cut_off = Instant::now();
    loop {
        sleep(Duration::from_secs(1)).await;
        match stands(cx, path).await {
            Err(failure) if failure.exit == Exit::Unreachable && cut_off.elapsed() < AWAY => {}
            known => return known,
        }
    }
}

/// How much of an upload the daemon has.
///
/// # Errors
/// Why there is no such upload any more.
async fn stands(cx: &Context, path: &str) -> Result<u64> {
    let reply = cx.client.send(&tus(Method::HEAD, path)).await?;
    if matches!(reply.status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        // A refusal may have been lost with the connection; its task has kept it.
        let id = path.rsplit('/').next().unwrap_or_default();
        let task: Task = read(cx.client.get(format!("/tasks/{}", escape(id))).await?)?;
        outcome(task)?;
    }
    let reply = reply.checked()?;
    offset(&reply).ok_or_else(|| Failure::unintelligible("it says no offset"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn hashed(pieces: &[(u64, &[u8])]) -> (u64, Vec<u8>) {
        let mut hashed = Hashed { digest: Sha256::new(), at: 0 };
        for (at, piece) in pieces {
            hashed.take(*at, piece);
        }
        (hashed.at, hashed.digest.finalize().to_vec())
    }

    #[test]
    fn what_is_sent_again_is_hashed_once() {
        let whole = (6, Sha256::digest(b"abcdef").to_vec());
        assert_eq!(hashed(&[(0, b"abcdef")]), whole);
        assert_eq!(hashed(&[(0, b"abcd"), (0, b"ab"), (2, b"cdef")]), whole);
        assert_eq!(hashed(&[(0, b"abc"), (3, b"def"), (6, b"")]), whole);
    }

    #[test]
    fn a_file_is_read_from_anywhere_to_its_announced_end() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..PIECE * 2 + 100).map(|at| (at % 251) as u8).collect();
        file.write_all(&content).unwrap();
        let length = content.len() as u64;
        let start = || Hashed { digest: Sha256::new(), at: 0 };
        let ahead = read_on(&file, 0, 1000, start(), |_| true).unwrap();
        assert_eq!(ahead.at, 1000);
        let mut seen = Vec::new();
        let all = read_on(&file, 500, length, ahead, |piece| {
            seen.extend_from_slice(&piece);
            true
        });
        assert_eq!(seen, content[500..]);
        assert_eq!(all.unwrap().digest.finalize(), Sha256::digest(&content));
        let shorter = read_on(&file, 0, length + 1, start(), |_| true).err().unwrap();
        assert_eq!(shorter.message(), "the file has become shorter");
        let stopped = read_on(&file, 0, length, start(), |_| false).unwrap();
        assert_eq!(stopped.at, PIECE as u64);
    }
}
