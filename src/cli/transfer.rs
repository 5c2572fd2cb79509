//! `vapor volume download` and `import`: images from pools to this machine's files, and from one
//! format to another. What goes the other way is in `upload.rs`.

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use http::header::{CONTENT_LENGTH, RANGE};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::client::{Reply, Request};
use super::context::Context;
use super::failure::{Exit, Failure, Result};
use super::operation::{ChangeArgs, change, interrupted};
use super::suggest::Meant;
use super::text::bytes;
use super::volume::{self, Name};

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

/// What is said of a file of this machine that cannot be used.
pub fn file_failed(path: &Path, doing: &str, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot {doing} {}: {error}", path.display()))
}

/// How far a transfer is, where there is a terminal to show it.
pub fn bar(cx: &Context, done: u64, total: u64) -> ProgressBar {
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
    let unmake = || {
        if from == 0 && !to_stdout {
            // It was made for this, and is empty.
            let _ = std::fs::remove_file(&target);
        }
    };
    let response = cx.client.stream(&request).await.inspect_err(|_| unmake())?;
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
        unmake();
        return Meant::Volume(&args.volume).checked(cx, Err(reply.failure())).await;
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
    let words = format!("is imported from {source}");
    change(cx, request, &args.change, Meant::Volume(source), &new.to_string(), &words).await
}
