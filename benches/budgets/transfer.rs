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
/// Bytes that a client reads and writes at once, as many as virsh does. It is what a row tells of
/// otherwise: with 8 KiB, as by `std::io::copy`, an upload takes twice as long, and a file that is written
/// in pieces that are whole pages gets larger folios, which takes half as long again where free memory
/// is the host's.
const PIECE: usize = 262_120;
/// Rounds that count.
const ROUNDS: usize = 7;
const POOL: &str = "/api/v1/virtualization/storages/pools/lab";

/// Whose turn it is.
#[derive(Clone, Copy)]
enum Turn {
    /// A client of the API's that does nothing besides, as virsh does.
    Ours,
    /// `vapor`, which compares the SHA-256 of what it uploads.
    Cli,
    Theirs,
}

/// The times of one direction.
#[derive(Default)]
struct Row {
    ours: Times,
    cli: Times,
    theirs: Times,
}

impl Row {
    /// Takes the time of each in turn: once that does not count, and then in rounds, of which each
    /// begins with another one, so that what others do on the machine meets all.
    ///
    /// Each finds the memory that the one before it has given back a moment ago. Without that a row
    /// tells of the machine alone: where it is a virtual one whose host takes back what is free, the
    /// pages of a new file cost up to five times as much as these.
    fn measure(
        &mut self,
        mut time: impl FnMut(Turn) -> Result<Duration, Failure>,
    ) -> Result<(), Failure> {
        const TURNS: [Turn; 3] = [Turn::Ours, Turn::Cli, Turn::Theirs];
        for turn in TURNS {
            time(turn)?;
        }
        for round in 0..ROUNDS {
            for place in 0..TURNS.len() {
                let turn = TURNS[(round + place) % TURNS.len()];
                let took = time(turn)?;
                match turn {
                    Turn::Ours => self.ours.add(took),
                    Turn::Cli => self.cli.add(took),
                    Turn::Theirs => self.theirs.add(took),
                }
            }
        }
        Ok(())
    }

    fn report(&self, report: &mut Report, what: &str, checked: &str, mib: usize) {
        let took = |times: &Times| {
            let (median, least) = (times.median(), times.percentile(0.0));
            let rate = number(mib as f64 / (median / 1000.0));
            let (median, least) = (number(median / 1000.0), number(least / 1000.0));
            format!("{median} s, {rate} MiB/s, least {least} s")
        };
        let row = format!("{what} of {mib} MiB, against virsh");
        let more = format!(
            "median of {ROUNDS} rounds; {}; virsh vol-{what} {}",
            took(&self.ours),
            took(&self.theirs)
        );
        report.at_least(&row, 1.0, self.theirs.against(&self.ours), &more);
        let row = format!("the same by `vapor volume {what}`{checked} against virsh");
        report.shown(&row, "times", self.theirs.against(&self.cli), &took(&self.cli));
    }
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
    let (from, to) = (source.display().to_string(), copy.display().to_string());
    let size = length.to_string();
    let before = vapord.memory_mib("VmRSS")?;
    let mut most: f64 = 0.0;
    let mut up = Row::default();
    up.measure(|turn| {
        let took = match turn {
            Turn::Ours => {
                settle()?;
                let (took, resident) = watched(vapord, || upload(&vapord.socket, &source, length))?;
                most = most.max(resident);
                took
            }
            Turn::Cli => {
                settle()?;
                vapor(vapord, &["volume", "upload", &from, "lab/bench.img"])?
            }
            Turn::Theirs => {
                // virsh, too, has its room before it begins.
                lab.virsh(1, &["vol-create-as", "lab", "bench.img", &size, "--allocation", &size])?;
                settle()?;
                timed(|| lab.virsh(1, &["vol-upload", "--pool", "lab", "bench.img", &from]))?
            }
        };
        lab.virsh(1, &["vol-delete", "--pool", "lab", "bench.img"])?;
        Ok(took)
    })?;
    upload(&vapord.socket, &source, length)?;
    let mut down = Row::default();
    down.measure(|turn| {
        settle()?;
        let took = match turn {
            Turn::Ours => {
                let (took, resident) = watched(vapord, || download(&vapord.socket, &copy, length))?;
                most = most.max(resident);
                took
            }
            Turn::Cli => vapor(vapord, &["volume", "download", "lab/bench.img", &to])?,
            Turn::Theirs => {
                timed(|| lab.virsh(1, &["vol-download", "--pool", "lab", "bench.img", &to]))?
            }
        };
        same_size(&copy, length)?;
        std::fs::remove_file(&copy)?;
        Ok(took)
    })?;
    download(&vapord.socket, &copy, length)?;
    run(Command::new("cmp").arg(&source).arg(&copy))?;
    up.report(report, "upload", ", which compares the SHA-256,", mib);
    down.report(report, "download", "", mib);
    let more = format!("before {} MiB", number(before));
    report.at_most("resident memory while it streams", 40.0, "MiB", most, &more);
    Ok(())
}

fn same_size(file: &Path, length: u64) -> Result<(), Failure> {
    match std::fs::metadata(file)?.len() {
        found if found == length => Ok(()),
        found => Err(format!("{found} bytes instead of {length}").into()),
    }
}

fn timed<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<Duration, Failure> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
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
    let mut reader = BufReader::with_capacity(PIECE, stream);
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
    let vapor = env!("CARGO_BIN_EXE_vapor");
    timed(|| run(Command::new(vapor).arg("--socket").arg(&vapord.socket).args(words)))
}

/// Without a checksum of the whole, as virsh does it; with as much room in the socket as `vapor` has.
fn upload(socket: &Path, source: &Path, length: u64) -> Result<(), Failure> {
    let mut stream = UnixStream::connect(socket)?;
    setsockopt(&stream, SndBuf, &(1 << 20))?;
    let head = format!(
        "POST {POOL}/volumes/bench.img/upload HTTP/1.1\r\nhost: bench\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    let mut file = File::open(source)?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => return answered(stream, "201").map(drop),
            read => stream.write_all(&piece[..read])?,
        }
    }
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
