//! Volumes as streams: an upload and a download through Vapor beside those of `virsh`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;

use crate::client::Failure;
use crate::host::{Lab, Vapord, run};
use crate::report::{Report, Times, number};

/// MiB of the image, unless `VAPOR_BENCH_TRANSFER_MIB` says less for a quick run.
const MIB: usize = 4096;
/// Rounds of each, taken in turns: what others do on the machine meets both.
const ROUNDS: usize = 5;
const POOL: &str = "/api/v1/virtualization/storages/pools/lab";

/// Times of both ways.
#[derive(Default)]
struct Both {
    up: Times,
    down: Times,
}

/// An upload and a download of one image, with the daemon's memory meanwhile.
pub fn streams(report: &mut Report, vapord: &Vapord, lab: &Lab) -> Result<(), Failure> {
    let mib = std::env::var("VAPOR_BENCH_TRANSFER_MIB").ok();
    let mib = mib.map_or(Ok(MIB), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("source.img");
    let copy = folder.path().join("copy.img");
    generate(&source, mib)?;
    let length = (mib as u64) << 20;
    let before = vapord.memory_mib("VmRSS")?;
    let mut most: f64 = 0.0;
    let (mut ours, mut cli, mut theirs) = (Both::default(), Both::default(), Both::default());
    for round in 0..ROUNDS {
        // Each comes first in turn: what one has left for the disk to do, another pays for.
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => {
                    settle()?;
                    let (took, resident) =
                        watched(vapord, || upload(&vapord.socket, &source, length))?;
                    ours.up.add(took);
                    most = most.max(resident);
                    settle()?;
                    let (took, resident) =
                        watched(vapord, || download(&vapord.socket, &copy, length))?;
                    ours.down.add(took);
                    most = most.max(resident);
                    if round == 0 {
                        run(Command::new("cmp").arg(&source).arg(&copy))?;
                    }
                    let path = format!("{POOL}/volumes/bench.img");
                    vapord.client()?.send("DELETE", &path, "", "")?.expect(204)?;
                }
                1 => {
                    let (from, to) = (source.display().to_string(), copy.display().to_string());
                    settle()?;
                    cli.up.add(vapor(vapord, &["volume", "upload", &from, "lab/cli.img"])?);
                    settle()?;
                    cli.down.add(vapor(vapord, &["volume", "download", "lab/cli.img", &to])?);
                    vapor(vapord, &["volume", "delete", "lab/cli.img", "--yes"])?;
                }
                _ => {
                    let size = length.to_string();
                    let (from, to) = (source.display().to_string(), copy.display().to_string());
                    // virsh, too, has its room before it begins.
                    lab.virsh(
                        1,
                        &["vol-create-as", "lab", "virsh.img", &size, "--allocation", &size],
                    )?;
                    settle()?;
                    let upload = ["vol-upload", "--pool", "lab", "virsh.img", from.as_str()];
                    theirs.up.add_ms(lab.virsh(1, &upload)?);
                    settle()?;
                    let download = ["vol-download", "--pool", "lab", "virsh.img", to.as_str()];
                    theirs.down.add_ms(lab.virsh(1, &download)?);
                    lab.virsh(1, &["vol-delete", "--pool", "lab", "virsh.img"])?;
                }
            }
            std::fs::remove_file(&copy)?;
        }
    }
    for (what, ours, cli, theirs) in
        [("upload", ours.up, cli.up, theirs.up), ("download", ours.down, cli.down, theirs.down)]
    {
        let rate = |millis: f64| number(mib as f64 / (millis / 1000.0));
        let took = |times: &Times| {
            let (median, least) = (times.median(), times.percentile(0.0));
            let (median_s, least_s) = (number(median / 1000.0), number(least / 1000.0));
            format!("{median_s} s, {} MiB/s, least {least_s} s", rate(median))
        };
        let row = format!("{what} of {mib} MiB, against virsh");
        let more = format!(
            "median of {ROUNDS} rounds; {}; virsh vol-{what} {}",
            took(&ours),
            took(&theirs)
        );
        report.at_least(&row, 1.0, theirs.against(&ours), &more);
        let checked = if what == "upload" { ", which compares the SHA-256," } else { "" };
        let row = format!("the same by `vapor volume {what}`{checked} against virsh");
        report.shown(&row, "times", theirs.against(&cli), &took(&cli));
    }
    let more = format!("before {} MiB", number(before));
    report.at_most("resident memory while it streams", 40.0, "MiB", most, &more);
    Ok(())
}

/// Bytes that are no holes, and not all alike.
fn generate(path: &Path, mib: usize) -> Result<(), Failure> {
    let mut file = File::create(path)?;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut piece = vec![0_u8; 1 << 20];
    for _ in 0..mib {
        for word in piece.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&piece)?;
    }
    Ok(())
}

/// What was written before is on the disk, and costs the next one nothing.
fn settle() -> Result<(), Failure> {
    run(&mut Command::new("sync"))?;
    Ok(())
}

/// How long it takes, and the most memory that the daemon has meanwhile.
fn watched(
    vapord: &Vapord,
    work: impl FnOnce() -> Result<(), Failure>,
) -> Result<(Duration, f64), Failure> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most: f64 = 0.0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(vapord.memory_mib("VmRSS").unwrap_or(0.0));
                std::thread::sleep(Duration::from_millis(50));
            }
            most
        });
        let begun = Instant::now();
        let worked = work();
        let took = begun.elapsed();
        done.store(true, Ordering::Relaxed);
        let most = sampler.join().map_err(|_| "the sampler panicked")?;
        worked?;
        Ok((took, most))
    })
}

/// Sends a head and reads the reply's; returns what follows, and its length.
fn answered(stream: UnixStream, status: &str) -> Result<(BufReader<UnixStream>, u64), Failure> {
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if reader.read_until(b'\n', &mut head)? == 0 {
            return Err("the daemon closed the connection".into());
        }
    }
    let head = String::from_utf8(head)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let length = length.ok_or("a reply without a length")?;
    if !head.starts_with(&format!("HTTP/1.1 {status}")) {
        let mut body = vec![0; usize::try_from(length).unwrap_or(0).min(4096)];
        reader.read_exact(&mut body)?;
        return Err(format!("{head}{}", String::from_utf8_lossy(&body)).into());
    }
    Ok((reader, length))
}

/// How long the command line takes.
fn vapor(vapord: &Vapord, words: &[&str]) -> Result<Duration, Failure> {
    let begun = Instant::now();
    run(Command::new(env!("CARGO_BIN_EXE_vapor")).arg("--socket").arg(&vapord.socket).args(words))?;
    Ok(begun.elapsed())
}

/// Without a checksum of the whole, as virsh does it; with as much room in the socket as `vapor` has.
fn upload(socket: &Path, source: &Path, length: u64) -> Result<(), Failure> {
    let mut stream = UnixStream::connect(socket)?;
    setsockopt(&stream, SndBuf, &(1 << 20))?;
    let head = format!(
        "POST {POOL}/volumes/bench.img/upload HTTP/1.1\r\nhost: bench\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    std::io::copy(&mut File::open(source)?, &mut stream)?;
    answered(stream, "201").map(drop)
}

fn download(socket: &Path, copy: &Path, length: u64) -> Result<(), Failure> {
    let mut stream = UnixStream::connect(socket)?;
    let head = format!("GET {POOL}/volumes/bench.img/download HTTP/1.1\r\nhost: bench\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    let (mut reader, announced) = answered(stream, "200")?;
    if announced != length {
        return Err(format!("{announced} bytes instead of {length}").into());
    }
    let mut file = File::create(copy)?;
    let mut left = length;
    while left > 0 {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            return Err("the download ended too early".into());
        }
        file.write_all(piece)?;
        let read = piece.len();
        reader.consume(read);
        left -= read as u64;
    }
    Ok(())
}
