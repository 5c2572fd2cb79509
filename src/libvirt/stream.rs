//! The bytes of volumes, as streams: `virStorageVolDownload` and `virStorageVolUpload`.
//!
//! Each [`VolumeReader`] and [`VolumeWriter`] has a thread and a connection of its own, so that a
//! stream, however long and however slow its client, delays no call of the lanes; how many there
//! are at once is bounded. Between the thread and whoever reads or writes lies a short channel of
//! [`Buffers`], and only the thread reads its connection's socket (`ffi/event_loop.rs`): a client that takes
//! nothing makes libvirt wait, and not the daemon's memory grow.
//!
//! ```text
//!   client ◀─▶ async task ◀─ a few pieces ─▶ thread ◀─▶ connection of its own ◀─▶ libvirtd ◀─▶ volume
//! ```
//!
//! Whatever is dropped before its end is aborted by its thread, which then closes its connection.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use virt::storage_vol::StorageVol;
use virt::stream::Stream;
use virt::sys;

use super::buffers::{Buffer, Buffers};
use super::connection::Link;
use super::error::What;
use super::hypervisor::{Hypervisor, HypervisorConfig, Shared};
use super::session::Session;
use super::{ffi, volume};
use crate::error::{Error, Kind, Result};
use crate::model::VolumeRef;
use crate::model::host::LibvirtStatus;

/// Bytes of a piece that is read: what libvirtd reads of a file at once. It sends them as two
/// messages, the second of which is tiny.
const READ: usize = 256 << 10;

/// Bytes of a piece that is written: whole pages of a file, within the most that one message of
/// libvirt's protocol carries of a stream (262,120).
pub const WRITTEN: usize = 252 << 10;

/// Pieces of this size are passed on as they are; smaller ones are gathered.
const LARGE: usize = 96 << 10;

/// Pieces between a thread and its other side, each of which has another one in hand.
const PIECES: usize = 2;

impl Hypervisor {
    /// Opens a volume for reading.
    ///
    /// # Errors
    /// `TooManyRequests` if as many streams as may be are under way; `NotSupported` by libvirt's
    /// test driver; `LibvirtUnavailable`, `PoolNotFound`, `PoolInactive`, `VolumeNotFound`.
    pub async fn read_volume(&self, volume: &VolumeRef) -> Result<VolumeReader> {
        let (ranges, wanted) = mpsc::channel(1);
        let (pieces, arriving) = mpsc::channel(PIECES);
        let (opened, answer) = oneshot::channel();
        let work = move |session: &Session, found: &StorageVol, volume: &VolumeRef| {
            let what = What::Volume { pool: &volume.pool, name: &volume.volume };
            let size = found
                .info_flags(sys::VIR_STORAGE_VOL_GET_PHYSICAL)
                .map(|info| info.allocation)
                .map_err(session.failed("read", what))?;
            if opened.send(size).is_ok() {
                let buffers = Buffers::new(READ);
                Source { session, found, volume, buffers, pieces }.serve(wanted);
            }
            Ok(())
        };
        let failed = self.on_a_thread(volume, work)?;
        match answer.await {
            Ok(size) => {
                let watch = Watch::new(self.shared());
                Ok(VolumeReader { size, watch, ranges, arriving })
            }
            Err(_) => Err(failed.await.unwrap_or_else(|_| died())),
        }
    }

    /// Opens a volume for writing, from `offset` on and up to `end`.
    ///
    /// # Errors
    /// Those of [`Hypervisor::read_volume`].
    pub async fn write_volume(
        &self,
        volume: &VolumeRef,
        offset: u64,
        end: u64,
    ) -> Result<VolumeWriter> {
        let (orders, arriving) = mpsc::channel(PIECES);
        let (opened, answer) = oneshot::channel();
        let work = move |session: &Session, found: &StorageVol, volume: &VolumeRef| {
            if opened.send(()).is_err() {
                return Ok(());
            }
            Pen { session, found, volume, stream: None, at: offset, end }.serve(arriving)
        };
        let failed = self.on_a_thread(volume, work)?;
        match answer.await {
            Ok(()) => Ok(VolumeWriter {
                watch: Watch::new(self.shared()),
                orders,
                failed,
                buffers: Buffers::new(WRITTEN),
                filling: None,
            }),
            Err(_) => Err(failed.await.unwrap_or_else(|_| died())),
        }
    }

    /// Refuses what needs a stream where there can be none, before anything is made for it.
    ///
    /// # Errors
    /// `NotSupported` by libvirt's test driver; `LibvirtUnavailable`.
    pub fn can_stream(&self) -> Result<()> {
        let shared = self.shared();
        if !shared.status.borrow().connected {
            return Err(shared.unavailable());
        }
        if shared.config.uri.starts_with("test:") {
            return Err(Error::new(
                Kind::NotSupported,
                "libvirt's test driver has no streams of volumes",
            ));
        }
        Ok(())
    }

    /// Runs `work` on a thread of its own, with a connection of its own. If it does not come to
    /// that, the receiver gets to know why.
    fn on_a_thread(
        &self,
        volume: &VolumeRef,
        work: impl FnOnce(&Session, &StorageVol, &VolumeRef) -> Result<()> + Send + 'static,
    ) -> Result<oneshot::Receiver<Error>> {
        self.can_stream()?;
        let shared = self.shared();
        let place = Arc::clone(&shared.streams).try_acquire_owned().map_err(|_| {
            Error::new(
                Kind::TooManyRequests,
                format!("{} uploads and downloads are under way", shared.config.streams),
            )
            .with_hint("wait for one of them to end; the limit is [limits] transfers in vapor.conf")
            .with_retry_after(Duration::from_secs(5))
        })?;
        let (failure, failed) = oneshot::channel();
        let (config, volume) = (shared.config.clone(), volume.clone());
        let run = move || {
            let _place: OwnedSemaphorePermit = place;
            let done = catch_unwind(AssertUnwindSafe(|| open(&config, &volume, work)));
            let error = match done {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(_) => {
                    tracing::error!(?volume, "the thread of a stream panicked");
                    died()
                }
            };
            // Whoever asked may be gone.
            let _ = failure.send(error);
        };
        let thread = std::thread::Builder::new().name("lv-stream".to_owned()).spawn(run);
        thread.map(|_| failed).map_err(Error::internal)
    }
}

fn open(
    config: &HypervisorConfig,
    volume: &VolumeRef,
    work: impl FnOnce(&Session, &StorageVol, &VolumeRef) -> Result<()>,
) -> Result<()> {
    let link = Link::open_apart(config).map_err(|error| {
        Error::new(Kind::LibvirtUnavailable, format!("libvirt at {} does not answer", config.uri))
            .with_retry_after(Duration::from_secs(1))
            .with_source(error)
    })?;
    let session = Session::new(Arc::new(link));
    let found = volume::find(&session, &volume.pool, &volume.volume)?;
    work(&session, &found, volume)
}

fn died() -> Error {
    Error::internal("the thread of a stream ended without an answer")
}

/// A stream that is under way; aborted unless it was finished.
struct Running(Option<Stream>);

impl Running {
    fn stream(&self) -> Option<&Stream> {
        self.0.as_ref()
    }

    fn finish(mut self) -> std::result::Result<(), virt::error::Error> {
        self.0.take().map_or(Ok(()), Stream::finish)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stream) = self.0.take()
            && let Err(error) = stream.abort()
        {
            tracing::debug!(%error, "a stream could not be aborted");
        }
    }
}

/// Tells when libvirt is away. A stream's own connection has no keepalive: what hangs with libvirtd is
/// given up by those who wait for its thread, which ends when libvirtd goes on or dies.
struct Watch(watch::Receiver<LibvirtStatus>);

impl Watch {
    fn new(shared: &Shared) -> Self {
        Watch(shared.status.subscribe())
    }

    /// What `work` comes to, unless libvirt is lost before.
    async fn over<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = work => done,
            Ok(status) = self.0.wait_for(|status| !status.connected) => Err(Error::new(
                Kind::LibvirtUnavailable,
                format!("libvirt at {} does not answer any more", status.uri),
            )
            .with_retry_after(Duration::from_secs(1))),
        }
    }
}

/// A volume that is open for reading. Dropping it ends its thread.
pub struct VolumeReader {
    size: u64,
    watch: Watch,
    ranges: mpsc::Sender<(u64, u64)>,
    arriving: mpsc::Receiver<Result<Bytes>>,
}

impl VolumeReader {
    /// How many bytes the volume's file or device has: what can be downloaded, not what a guest
    /// sees.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Asks for `length` bytes from `offset` on; what was asked for before must have been read.
    pub async fn ask(&self, offset: u64, length: u64) -> Result<()> {
        self.ranges.send((offset, length)).await.map_err(|_| died())
    }

    /// The next piece of what was asked for; an empty one is its end.
    pub async fn next(&mut self) -> Result<Bytes> {
        let next = async { self.arriving.recv().await.unwrap_or_else(|| Err(died())) };
        self.watch.over(next).await
    }

    /// A short range as a whole; less than `length` where the volume ends.
    pub async fn read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let length = length.min(self.size.saturating_sub(offset));
        let mut whole = Vec::new();
        if length == 0 {
            return Ok(whole);
        }
        self.ask(offset, length).await?;
        loop {
            let piece = self.next().await?;
            if piece.is_empty() {
                return Ok(whole);
            }
            whole.extend_from_slice(&piece);
        }
    }
}

/// The thread's side of a reader.
struct Source<'s> {
    session: &'s Session,
    found: &'s StorageVol,
    volume: &'s VolumeRef,
    buffers: Buffers,
    pieces: mpsc::Sender<Result<Bytes>>,
}

impl Source<'_> {
    /// Reads range after range until nobody asks any more.
    fn serve(&self, mut wanted: mpsc::Receiver<(u64, u64)>) {
        while let Some((offset, length)) = wanted.blocking_recv() {
            let end = match self.send_range(offset, length) {
                Ok(true) => Ok(Bytes::new()),
                Ok(false) => return,
                Err(error) => Err(error),
            };
            if self.pieces.blocking_send(end).is_err() {
                return;
            }
        }
    }

    /// False if nobody takes the pieces any more.
    fn send_range(&self, offset: u64, length: u64) -> Result<bool> {
        let what = What::Volume { pool: &self.volume.pool, name: &self.volume.volume };
        let failed = |error| self.session.failed("download", what)(error);
        let stream = Stream::new(self.session.connect(), 0).map_err(failed)?;
        self.found.download(&stream, offset, length, 0).map_err(failed)?;
        let running = Running(Some(stream));
        let mut left = length;
        while let Some(stream) = running.stream().filter(|_| left > 0) {
            let mut piece = self.buffers.take();
            let wanted = usize::try_from(left).unwrap_or(READ).min(READ);
            let received =
                ffi::stream::receive(stream, piece.data_mut(), wanted).map_err(failed)?;
            if received == 0 {
                break;
            }
            left = left.saturating_sub(received as u64);
            if self.pieces.blocking_send(Ok(piece.freeze())).is_err() {
                return Ok(false);
            }
        }
        running.finish().map_err(failed)?;
        Ok(true)
    }
}

/// Bytes of one message.
enum Piece {
    Gathered(Buffer),
    Shared(Bytes),
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        match self {
            Piece::Gathered(buffer) => buffer.data(),
            Piece::Shared(bytes) => bytes,
        }
    }
}

/// What a writer's thread is told.
enum Order {
    Write(Piece),
    /// Go on at this offset.
    Seek(u64),
    /// Say when all of it is written.
    Sync(oneshot::Sender<Result<()>>),
}

/// A volume that is open for writing. Dropping it ends its thread; what was not synced may or may
/// not have been written then.
pub struct VolumeWriter {
    watch: Watch,
    orders: mpsc::Sender<Order>,
    failed: oneshot::Receiver<Error>,
    buffers: Buffers,
    /// Small pieces are gathered: a message costs the same whatever it carries.
    filling: Option<Buffer>,
}

impl VolumeWriter {
    /// Writes after what was written before. A failure may be told by a later call.
    pub async fn write(&mut self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            if self.filling.is_none() && data.len() >= LARGE {
                let piece = data.split_to(data.len().min(WRITTEN));
                self.order(Order::Write(Piece::Shared(piece))).await?;
                continue;
            }
            let buffer = self.filling.get_or_insert_with(|| self.buffers.take());
            let taken = buffer.fill(&data);
            data.advance(taken);
            if buffer.room() == 0 {
                self.pass_on().await?;
            }
        }
        Ok(())
    }

    /// Goes on at `offset`.
    pub async fn seek(&mut self, offset: u64) -> Result<()> {
        self.pass_on().await?;
        self.order(Order::Seek(offset)).await
    }

    /// Waits until libvirt has written everything (`virStreamFinish`), and tells if it could not.
    pub async fn sync(&mut self) -> Result<()> {
        self.pass_on().await?;
        let (done, answer) = oneshot::channel();
        self.order(Order::Sync(done)).await?;
        let answer = self.watch.over(async { Ok(answer.await) }).await?;
        match answer {
            Ok(synced) => synced,
            Err(_) => Err(self.failure().await),
        }
    }

    async fn pass_on(&mut self) -> Result<()> {
        match self.filling.take() {
            Some(buffer) => self.order(Order::Write(Piece::Gathered(buffer))).await,
            None => Ok(()),
        }
    }

    async fn order(&mut self, order: Order) -> Result<()> {
        let sent = async { Ok(self.orders.send(order).await) };
        match self.watch.over(sent).await? {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    async fn failure(&mut self) -> Error {
        (&mut self.failed).await.unwrap_or_else(|_| died())
    }
}

/// The thread's side of a writer.
struct Pen<'s> {
    session: &'s Session,
    found: &'s StorageVol,
    volume: &'s VolumeRef,
    stream: Option<Running>,
    at: u64,
    end: u64,
}

impl Pen<'_> {
    /// Obeys until there are no more orders.
    fn serve(&mut self, mut orders: mpsc::Receiver<Order>) -> Result<()> {
        while let Some(order) = orders.blocking_recv() {
            match order {
                Order::Write(piece) => self.send(piece.as_ref())?,
                Order::Seek(offset) => {
                    self.finish()?;
                    self.at = offset;
                }
                Order::Sync(done) => {
                    let synced = self.finish();
                    let went_well = synced.is_ok();
                    // Whoever waited for it may be gone.
                    let _ = done.send(synced);
                    if !went_well {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn failed(&self, error: virt::error::Error) -> Error {
        let what = What::Volume { pool: &self.volume.pool, name: &self.volume.volume };
        self.session.failed("write to", what)(error)
    }

    fn send(&mut self, data: &[u8]) -> Result<()> {
        if self.stream.is_none() {
            let stream = Stream::new(self.session.connect(), 0).map_err(|e| self.failed(e))?;
            let left = self.end.saturating_sub(self.at);
            self.found.upload(&stream, self.at, left, 0).map_err(|error| self.failed(error))?;
            self.stream = Some(Running(Some(stream)));
        }
        if let Some(stream) = self.stream.as_ref().and_then(Running::stream) {
            ffi::stream::send_all(stream, data).map_err(|error| self.failed(error))?;
        }
        self.at += data.len() as u64;
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        match self.stream.take() {
            Some(running) => running.finish().map_err(|error| self.failed(error)),
            None => Ok(()),
        }
    }
}
