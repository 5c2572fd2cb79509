//! `vapor volume upload`, `download` and `import`: images between this machine's files and pools.
//!
//! An upload is sent in parts by the tus protocol, so that one that was cut off can be gone on with;
//! what has arrived is asked of the daemon, nothing is kept here.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::header::{CONTENT_LENGTH, LOCATION, RANGE};
use http::{HeaderName, Method, StatusCode};
use http_body_util::BodyExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::client::{Reply, Request, escape};
use super::context::Context;
use super::failure::{Exit, Failure, Result};
use super::operation::{ChangeArgs, Ended, interrupted, perform, show_done};
use super::suggest;
use super::text::{bytes, quoted};
use super::volume::{self, Name};

const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
/// Bytes of one request.
const PART: usize = 32 << 20;
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

/// Which volume becomes which file.
#[derive(Args, Debug)]
pub struct DownloadArgs {
    #[arg(value_name = "POOL/NAME", value_parser = volume::name)]
    pub volume: Name,
    /// The file, which must not exist; the volume's name if absent, - for standard output
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Go on where the file ends
    #[arg(long)]
    pub resume: bool,
    /// Also while a running VM writes to it: what is read then is not of one moment
    #[arg(long)]
    pub force: bool,
}

/// Which image becomes which volume.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// The volume that holds the image
    #[arg(value_name = "POOL/NAME", value_parser = volume::name)]
    pub volume: Name,
    /// The name of the new volume, or POOL/NAME to have it in another pool
    #[arg(value_name = "NEW")]
    pub new: String,
    /// What it becomes: qcow2 or raw
    #[arg(long, default_value = "qcow2")]
    pub format: String,
    /// Delete the image afterwards
    #[arg(long)]
    pub remove_source: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

fn volumes(pool: &str) -> String {
    format!("/virtualization/storages/pools/{}/volumes", escape(pool))
}

fn file_failed(path: &Path, doing: &str, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot {doing} {}: {error}", path.display()))
}

fn bar(cx: &Context, done: u64, total: u64) -> ProgressBar {
    if !cx.terminal.err_is_tty {
        return ProgressBar::hidden();
    }
    let style = "[{bar:30}] {percent:>3}% {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar.set_position(done);
    bar.reset_eta();
    bar
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
        None => match begin(cx, &wanted, length).await {
            Ok(remote) => remote,
            Err(failure) => return Err(suggest::for_pool(cx, &name.pool, failure).await),
        },
    };
    let id = remote.path.rsplit('/').next().unwrap_or_default().to_owned();
    let bar = bar(cx, remote.at, length);
    let sent = tokio::select! {
        sent = send(cx, &mut file, length, remote, &bar) => sent,
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

/// Sends everything from where the upload stands; returns the file's SHA-256.
async fn send(
    cx: &Context,
    file: &mut File,
    length: u64,
    remote: Remote,
    bar: &ProgressBar,
) -> Result<String> {
    let failed = |error: std::io::Error| {
        Failure::new(Exit::Failed, format!("the file cannot be read: {error}"))
    };
    let mut digest = Sha256::new();
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    // What is there already is only hashed.
    let mut hashed = 0;
    let mut piece = vec![0; 1 << 20];
    while hashed < remote.at {
        let wanted = usize::try_from(remote.at - hashed).unwrap_or(usize::MAX).min(piece.len());
        let read = file.read(&mut piece[..wanted]).map_err(failed)?;
        if read == 0 {
            return Err(Failure::new(Exit::Failed, "the file has become shorter"));
        }
        digest.update(&piece[..read]);
        hashed += read as u64;
    }
    let mut at = remote.at;
    let mut stumbles = 0;
    while at < length {
        let mut part = Vec::new();
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        file.take(PART as u64).read_to_end(&mut part).map_err(failed)?;
        if part.is_empty() {
            return Err(Failure::new(Exit::Failed, "the file has become shorter"));
        }
        let end = at + part.len() as u64;
        if end > hashed {
            let fresh = usize::try_from(hashed - at).unwrap_or(0);
            digest.update(part.get(fresh..).unwrap_or_default());
            hashed = end;
        }
        let request = tus(Method::PATCH, &remote.path)
            .header(UPLOAD_OFFSET, &at.to_string())
            .body("application/offset+octet-stream", part);
        let reply = cx.client.send(&request).await?;
        if reply.status.is_success() {
            at = offset(&reply).unwrap_or(end);
            stumbles = 0;
        } else if matches!(reply.status, StatusCode::CONFLICT | StatusCode::LOCKED)
            && stumbles < STUMBLES
        {
            // A part was cut off, or sent twice: the daemon knows what it has.
            stumbles += 1;
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            let stands = cx.client.send(&tus(Method::HEAD, &remote.path)).await?.checked()?;
            at = offset(&stands).ok_or_else(|| Failure::unintelligible("it says no offset"))?;
        } else {
            return Err(reply.failure());
        }
        bar.set_position(at);
    }
    Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `vapor volume download`.
///
/// # Errors
/// What keeps the file from being written, and what the daemon reports.
pub async fn download(cx: &mut Context, args: DownloadArgs) -> Result<()> {
    let target = args.file.clone().unwrap_or_else(|| PathBuf::from(&args.volume.volume));
    let to_stdout = target.as_os_str() == "-";
    let (mut out, from): (Box<dyn Write>, u64) = if to_stdout {
        if cx.terminal.out_is_tty {
            let failure = Failure::new(Exit::Refused, "an image is nothing for a terminal");
            return Err(failure.with_hint("name a file, or send the output into one"));
        }
        (Box::new(std::io::stdout()), 0)
    } else {
        let mut options = OpenOptions::new();
        options.write(true);
        if args.resume {
            options.create(true)
        } else {
            options.create_new(true)
        };
        let mut file = options.open(&target).map_err(|error| {
            let failure = file_failed(&target, "write", &error);
            match error.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    failure.with_hint("say --resume to go on where it ends, or name another file")
                }
                _ => failure,
            }
        })?;
        let end = file.seek(SeekFrom::End(0)).map_err(|e| file_failed(&target, "write", &e))?;
        (Box::new(file), end)
    };
    let mut request = Request::get(args.volume.path("/download"))
        .header(http::header::ACCEPT, "application/octet-stream, application/json");
    if args.force {
        request = request.query("force", "true");
    }
    if from > 0 {
        request = request.header(RANGE, &format!("bytes={from}-"));
    }
    let response = cx.client.stream(&request).await?;
    let (parts, mut body) = response.into_parts();
    if !parts.status.is_success() {
        let whole = body.collect().await.map_err(Failure::unintelligible)?.to_bytes();
        let reply = Reply { status: parts.status, headers: parts.headers, body: whole };
        // The file has everything already.
        if reply.status == StatusCode::RANGE_NOT_SATISFIABLE {
            let size = serde_json::from_slice::<Value>(&reply.body).ok();
            if size.is_some_and(|body| body["error"]["details"]["size_bytes"] == from) {
                cx.note("the file is complete already");
                return Ok(());
            }
        }
        if from == 0 && !to_stdout {
            // It was made for this, and is empty.
            let _ = std::fs::remove_file(&target);
        }
        return Err(suggest::for_volume(cx, &args.volume, reply.failure()).await);
    }
    if from > 0 && parts.status != StatusCode::PARTIAL_CONTENT {
        return Err(Failure::new(Exit::Failed, "the daemon does not send from the middle on"));
    }
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length: u64 = length.and_then(|text| text.parse().ok()).unwrap_or(0);
    let bar = bar(cx, from, from + length);
    let mut done = 0;
    let mut stop = std::pin::pin!(interrupted());
    let copied: Result<()> = loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = &mut stop => break Err(Failure::new(Exit::Interrupted, "interrupted")),
        };
        match frame {
            None => break Ok(()),
            Some(Err(error)) => {
                break Err(Failure::new(Exit::Unreachable, format!("the download broke: {error}")));
            }
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                if let Err(error) = out.write_all(&data) {
                    break Err(file_failed(&target, "write", &error));
                }
                done += data.len() as u64;
                bar.set_position(from + done);
            }
        }
    };
    bar.finish_and_clear();
    let flushed = out.flush().map_err(|error| file_failed(&target, "write", &error));
    match copied.and(flushed) {
        Ok(()) if done == length => {}
        Ok(()) => {
            return Err(Failure::new(Exit::Unreachable, "the download ended too early")
                .with_hint("go on with the same command and --resume"));
        }
        Err(failure) if to_stdout => return Err(failure),
        Err(failure) => {
            return Err(failure.with_hint("go on with the same command and --resume"));
        }
    }
    if !to_stdout {
        cx.note(&format!("{} in {}", bytes(from + length), target.display()));
    }
    Ok(())
}

/// `vapor volume import`.
///
/// # Errors
/// What the daemon reports.
pub async fn import(cx: &mut Context, args: ImportArgs) -> Result<()> {
    let source = &args.volume;
    let new = match args.new.contains('/') {
        true => volume::name(&args.new).map_err(|why| Failure::new(Exit::Refused, why))?,
        false => Name { pool: source.pool.clone(), volume: args.new.clone() },
    };
    let body = json!({"name": new.volume, "pool": new.pool, "format": args.format,
        "remove_source": args.remove_source});
    let request = Request::new(Method::POST, source.path("/import")).json(&body);
    match perform(cx, request, &args.change).await {
        Ok(Ended::Done(data)) => {
            let words = format!("is imported from {source}");
            show_done(cx, &data, &new.to_string(), &words)
        }
        Ok(Ended::Planned | Ended::Accepted) => Ok(()),
        Err(failure) => Err(suggest::for_volume(cx, source, failure).await),
    }
}
