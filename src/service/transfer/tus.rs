//! Resumable uploads, as the tus protocol 1.0 has them (<https://tus.io/protocols/resumable-upload>).
//!
//! What is acknowledged is written: the row in the store moves on only after libvirt has finished
//! the stream that carried the bytes. A long part is acknowledged piece by piece, so that a restart
//! costs little of it. A part that comes with a checksum is acknowledged as a whole or not at all:
//! what was written of it is overwritten by the next attempt, and the upload is not finished before
//! each byte has been acknowledged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::image::ImageFormat;
use super::intake::{Arriving, Intake, Next, Pace, next, too_large};
use super::part::{Check, Part};
use super::{Target, TransferService, UPLOAD};
use crate::error::{Error, Kind, Result};
use crate::model::{TaskStatus, Upload, UploadPurpose, Uploaded, VolumeName};
use crate::service::Context;
use crate::service::adopt::interrupted;
use crate::service::task::{End, Operation, TaskHandle, error_from_json};
use crate::store::UploadRow;

/// How much of a part is written before it is acknowledged.
const ACKNOWLEDGE: u64 = 128 << 20;

/// How long the last part's request waits for the upload to be settled.
const SETTLING: Duration = Duration::from_secs(3600);

/// A resumable upload under way.
pub(super) struct Live {
    target: Target,
    row: Mutex<UploadRow>,
    /// Held by the request that sends.
    sending: tokio::sync::Mutex<()>,
    offset: watch::Sender<u64>,
    /// Cancelled when nothing more is taken.
    closing: CancellationToken,
    /// Whether that is because the daemon stops.
    parked: AtomicBool,
    end: Mutex<Option<oneshot::Sender<Result<()>>>>,
    ended: Mutex<Option<oneshot::Receiver<Result<()>>>>,
}

impl Live {
    fn new(target: Target, row: UploadRow) -> Arc<Self> {
        let (end, ended) = oneshot::channel();
        Arc::new(Live {
            target,
            offset: watch::Sender::new(row.position),
            row: Mutex::new(row),
            sending: tokio::sync::Mutex::default(),
            closing: CancellationToken::new(),
            parked: AtomicBool::new(false),
            end: Mutex::new(Some(end)),
            ended: Mutex::new(Some(ended)),
        })
    }

    fn row(&self) -> UploadRow {
        // Replaced as a whole, so that a panic elsewhere leaves it sound.
        self.row.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_row(&self, row: UploadRow) {
        self.offset.send_replace(row.position);
        *self.row.lock().unwrap_or_else(PoisonError::into_inner) = row;
    }

    /// Everything is here, or the upload cannot be gone on with. Only the first verdict counts.
    fn finish(&self, verdict: Result<()>) {
        self.closing.cancel();
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(end) = end {
            // Its task may have ended already.
            let _ = end.send(verdict);
        }
    }

    /// Why nothing more is taken.
    fn closed(&self, id: Uuid) -> Error {
        if self.parked.load(Ordering::SeqCst) {
            return Error::new(Kind::ShuttingDown, "the daemon is stopping; go on when it is back");
        }
        missing(id)
    }

    fn shown(&self) -> Upload {
        let row = self.row();
        Upload {
            id: row.id,
            pool: row.pool,
            volume: row.volume,
            purpose: row.purpose,
            length_bytes: row.length,
            offset_bytes: row.position,
            created_at: row.created_at,
            expires_at: row.expires_at,
        }
    }
}

/// Where an upload stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    pub id: Uuid,
    pub offset: u64,
    pub length: u64,
    /// None once it is whole.
    pub expires_at: Option<Timestamp>,
    /// What its client said about it, as it said it.
    pub metadata: Option<String>,
}

impl Position {
    fn of(live: &Live) -> Self {
        let row = live.row();
        Position {
            id: row.id,
            offset: row.position,
            length: row.length,
            expires_at: Some(row.expires_at),
            metadata: row.metadata["metadata"].as_str().map(str::to_owned),
        }
    }
}

impl TransferService {
    /// Knows again the uploads of an earlier daemon; to be called before tasks are adopted.
    pub async fn load(&self) -> Result<()> {
        let store = self.tools.tasks.store();
        store.prune_uploads().await?;
        for row in store.uploads().await? {
            let text = |key: &str| row.metadata[key].as_str();
            let target = Target {
                pool: row.pool.clone(),
                name: row.volume.clone(),
                purpose: row.purpose,
                length: row.length,
                declared: text("declared").and_then(ImageFormat::parse),
                sha256: text("sha256").and_then(sha256_of),
                wants_sha256: true,
            };
            self.registry().insert(row.id, Live::new(target, row));
        }
        Ok(())
    }

    /// Begins a resumable upload; `metadata` is kept as its client sent it. Its volume is there
    /// when this returns.
    ///
    /// # Errors
    /// 409 if there is such a volume or somebody works on it; 422 `INSUFFICIENT_SPACE`.
    pub async fn begin(
        &self,
        ctx: Context,
        target: Target,
        metadata: Option<String>,
    ) -> Result<Position> {
        VolumeName::try_from(target.name.clone())?;
        if let Some(key) = &ctx.idempotency
            && let Some(task) = self.tools.tasks.store().replay(key).await?
        {
            return self.position(task.id).await;
        }
        self.tools.inventory.look_again(&target.pool, &target.name).await?;
        self.may_begin(&target)?;
        let text = Self::author(&target)?;
        let claim = self.tools.tasks.claim(UPLOAD, &ctx);
        let id = claim.task;
        let (alone, beside) = target.keys();
        let hold = self.tools.gate.take_beside(alone, beside, &claim)?;
        let now = Timestamp::now();
        let row = UploadRow {
            id,
            pool: target.pool.clone(),
            volume: target.name.clone(),
            purpose: target.purpose,
            metadata: json!({
                "metadata": metadata,
                "declared": target.declared,
                "sha256": target.sha256.map(|sha256| super::settle::hex(&sha256)),
            }),
            length: target.length,
            position: 0,
            head: Vec::new(),
            digest: Vec::new(),
            format: None,
            created_at: now,
            expires_at: self.expiry(now),
        };
        let subject = target.subject();
        let operation = Operation { claim, subject, cancellable: true, wait: Duration::ZERO };
        let (made, ready) = oneshot::channel();
        let service = self.clone();
        let ctx = Context { wait: Some(Duration::ZERO), ..ctx };
        let run = move |task: TaskHandle| async move {
            service.make_volume(&task, &target, text).await?;
            let live = Live::new(target, row.clone());
            if let Err(error) = service.tools.tasks.store().save_upload(&row).await {
                return Err(service.undo(&task, &row.pool, &row.volume, error).await);
            }
            service.registry().insert(id, live.clone());
            // The client may have gone; the upload waits for it until it expires.
            let _ = made.send(());
            service.attend(&task, &live).await
        };
        self.tools.tasks.submit(&ctx, operation, hold, run).await?;
        match ready.await {
            Ok(()) => self.position(id).await,
            Err(_) => match self.tools.tasks.wait(id, SETTLING).await?.error {
                Some(error) => Err(error_from_json(Some(&error))),
                None => self.position(id).await,
            },
        }
    }

    fn expiry(&self, now: Timestamp) -> Timestamp {
        let seconds = i64::try_from(self.limits.expire.as_secs()).unwrap_or(i64::MAX);
        now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
    }

    /// The uploads under way, oldest first: of one pool, or of one purpose.
    pub fn uploads(&self, pool: Option<&str>, purpose: UploadPurpose) -> Result<Vec<Upload>> {
        if let Some(pool) = pool {
            self.tools.inventory.picture().pool(pool)?;
        }
        let mut all: Vec<Upload> = self
            .registry()
            .values()
            .map(|live| live.shown())
            .filter(|upload| match pool {
                Some(pool) => upload.pool == pool,
                None => upload.purpose == purpose,
            })
            .collect();
        all.sort_by_key(|upload| (upload.created_at, upload.id));
        Ok(all)
    }

    /// The pool and the purpose of an upload, for paths that name them.
    pub fn belongs(&self, id: Uuid) -> Option<(String, UploadPurpose)> {
        self.find(id).map(|live| (live.target.pool.clone(), live.target.purpose))
    }

    /// Where an upload stands. One that was finished has all its bytes.
    ///
    /// # Errors
    /// `UploadNotFound`.
    pub async fn position(&self, id: Uuid) -> Result<Position> {
        if let Some(live) = self.find(id) {
            return Ok(Position::of(&live));
        }
        let task = self.tools.tasks.get(id).await.map_err(|error| match error.kind() {
            Kind::TaskNotFound => missing(id),
            _ => error,
        })?;
        let uploaded = (task.kind == UPLOAD && task.status == TaskStatus::Succeeded)
            .then(|| serde_json::from_value::<Uploaded>(task.result?).ok())
            .flatten();
        match uploaded {
            Some(uploaded) => Ok(Position {
                id,
                offset: uploaded.size_bytes,
                length: uploaded.size_bytes,
                expires_at: None,
                metadata: None,
            }),
            None => Err(missing(id)),
        }
    }

    /// Ends an upload and deletes its volume.
    ///
    /// # Errors
    /// `UploadNotFound`; 409 if it is being settled.
    pub async fn terminate(&self, ctx: Context, id: Uuid) -> Result<()> {
        if self.find(id).is_none() {
            return Err(missing(id));
        }
        let ctx = Context { wait: Some(Duration::from_secs(60)), ..ctx };
        match self.tools.tasks.cancel(&ctx, id).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::TaskFinished => Err(missing(id)),
            Err(error) => Err(error),
        }
    }

    /// Takes a part of an upload. Whatever has arrived when its client goes away is kept, unless
    /// the part has a checksum. After the last one the volume is as it will be used.
    ///
    /// # Errors
    /// `UploadNotFound`, `UploadBusy`, `UploadOffsetMismatch`, `PayloadTooLarge`,
    /// `ChecksumMismatch`; what the end of an upload fails with.
    pub async fn append(&self, id: Uuid, part: Part, mut body: Arriving) -> Result<Position> {
        let live = self.find(id).ok_or_else(|| missing(id))?;
        let sent = {
            let _sending = live.sending.try_lock().map_err(|_| {
                Error::new(Kind::UploadBusy, format!("another request sends to the upload {id}"))
            })?;
            if live.closing.is_cancelled() {
                return Err(live.closed(id));
            }
            let row = live.row();
            if part.offset != row.position {
                return Err(Error::new(
                    Kind::UploadOffsetMismatch,
                    format!("the upload stands at {}, and not at {}", row.position, part.offset),
                )
                .with_detail("offset", row.position));
            }
            if part.length.is_some_and(|length| length > row.length - row.position) {
                return Err(too_large(row.length));
            }
            self.receive_part(&live, part, &mut body).await
        };
        let acknowledged = live.row().position;
        live.offset.send_replace(acknowledged);
        let whole = acknowledged == live.target.length;
        match sent {
            Err(error) if error.kind() == Kind::ImageRefused => live.finish(Err(error)),
            _ if whole => live.finish(Ok(())),
            Err(error) => return Err(error),
            Ok(()) => return Ok(Position::of(&live)),
        }
        let task = self.tools.tasks.wait(id, SETTLING).await?;
        match task.status {
            TaskStatus::Succeeded => self.position(id).await,
            TaskStatus::Queued | TaskStatus::Running => {
                Err(Error::new(Kind::ShuttingDown, "the upload is whole and will be settled"))
            }
            _ => Err(error_from_json(task.error.as_ref()).with_detail("task", id.to_string())),
        }
    }

    async fn receive_part(&self, live: &Live, part: Part, body: &mut Arriving) -> Result<()> {
        let mut row = live.row();
        let mut intake = Intake::resume(&live.target, &row)?;
        let mut check = part.checksum.map(Check::new);
        let cut = loop {
            match next(body, self.limits.stall, live.closing.cancelled()).await {
                Next::Piece(piece) => {
                    if let Some(check) = &mut check {
                        check.update(&piece);
                    }
                    intake.take(&self.tools.hypervisor, piece).await?;
                }
                Next::End => break None,
                Next::Cut(error) => break Some(error),
                Next::Closed => break Some(live.closed(row.id)),
            }
            live.offset.send_replace(intake.at);
            if check.is_none() && intake.at - row.position >= ACKNOWLEDGE {
                self.acknowledge(live, &mut row, &mut intake).await?;
            }
        };
        match (check.map(Check::fits), cut) {
            // Not acknowledged: whether it is what was sent cannot be told.
            (Some(_), Some(error)) => Err(error),
            (Some(false), None) => Err(Error::new(
                Kind::ChecksumMismatch,
                "the part does not have the checksum that came with it",
            )
            .with_detail("offset", row.position)),
            (Some(true) | None, cut) => {
                self.acknowledge(live, &mut row, &mut intake).await?;
                cut.map_or(Ok(()), Err)
            }
        }
    }

    /// Waits until everything taken is written, and writes down that it is.
    async fn acknowledge(
        &self,
        live: &Live,
        row: &mut UploadRow,
        intake: &mut Intake,
    ) -> Result<()> {
        intake.sync().await?;
        intake.note(row);
        row.expires_at = self.expiry(Timestamp::now());
        self.tools.tasks.store().save_upload(row).await?;
        live.set_row(row.clone());
        Ok(())
    }

    /// Goes on with an upload of an earlier daemon.
    pub(super) async fn go_on(&self, task: &TaskHandle, live: &Arc<Live>) -> Result<End> {
        let row = live.row();
        match self.tools.inventory.refresh_pool(&row.pool).await {
            Err(error) if error.kind() != Kind::PoolNotFound => return Err(error),
            _ => {}
        }
        if let Err(error) = self.tools.inventory.picture().volume(&row.pool, &row.volume) {
            live.finish(Err(interrupted(format!("the volume of the upload is gone: {error}"))));
        } else if row.position == row.length {
            live.finish(Ok(()));
        }
        self.attend(task, live).await
    }

    /// Waits for the end of an upload, whatever it is.
    async fn attend(&self, task: &TaskHandle, live: &Arc<Live>) -> Result<End> {
        let ended = live.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut ended) = ended else {
            return Err(Error::internal("an upload that is attended twice"));
        };
        let id = live.row().id;
        let mut pace = Pace::new("receiving", live.row().position, live.target.length);
        let mut offset = live.offset.subscribe();
        let verdict = loop {
            let progress = pace.at(*offset.borrow_and_update());
            let more = progress.is_none();
            if let Some(progress) = progress {
                task.progress(progress);
            }
            let left = live.row().expires_at.duration_since(Timestamp::now());
            let left = Duration::try_from(left).unwrap_or_default();
            tokio::select! {
                verdict = &mut ended => {
                    break verdict.unwrap_or_else(|_| Err(Error::internal("an upload without end")));
                }
                changed = offset.changed() => {
                    if changed.is_err() {
                        break Err(Error::internal("an upload without end"));
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(250)), if more => {}
                () = task.cancelled().cancelled() => {
                    break Err(Error::new(Kind::Cancelled, "the upload was terminated"));
                }
                () = task.stopping().cancelled() => {
                    live.parked.store(true, Ordering::SeqCst);
                    live.closing.cancel();
                    // What has arrived is acknowledged before the daemon ends.
                    drop(live.sending.lock().await);
                    return Ok(End::Parked);
                }
                // One that is being sent to does not expire.
                () = tokio::time::sleep(left.max(Duration::from_millis(200))), if left.is_zero() => {
                    if live.sending.try_lock().is_ok() && live.row().expires_at <= Timestamp::now() {
                        break Err(Error::new(
                            Kind::Cancelled,
                            format!("the upload has expired: nothing came for {} s", self.limits.expire.as_secs()),
                        ));
                    }
                }
                () = tokio::time::sleep(left), if !left.is_zero() => {}
            }
        };
        live.closing.cancel();
        drop(live.sending.lock().await);
        let done = match verdict {
            Ok(()) => self.settle_upload(task, live).await,
            Err(error) => Err(error),
        };
        let end = match done {
            Ok(result) => Ok(End::Done(result)),
            // libvirt is away: what has arrived must not be lost by that.
            Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                self.settle_later(task, live, error).await
            }
            Err(error) => self.give_up(task, live, error).await,
        };
        if !matches!(end, Ok(End::Parked)) {
            self.registry().remove(&id);
        }
        end
    }

    async fn settle_upload(&self, task: &TaskHandle, live: &Live) -> Result<Value> {
        let intake = Intake::resume(&live.target, &live.row())?;
        self.settle_intake(task, &live.target, &intake).await
    }

    async fn settle_later(&self, task: &TaskHandle, live: &Live, lost: Error) -> Result<End> {
        task.phase("waiting for libvirt to come back");
        task.log(&format!("the upload is whole, and libvirt went away: {lost}")).await;
        let mut status = self.tools.hypervisor.watch();
        loop {
            tokio::select! {
                () = task.stopping().cancelled() => return Ok(End::Parked),
                back = status.wait_for(|status| status.connected) => {
                    if back.is_err() {
                        return Ok(End::Parked);
                    }
                }
            }
            match self.settle_upload(task, live).await {
                Ok(result) => return Ok(End::Done(result)),
                Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(error) => return self.give_up(task, live, error).await,
            }
        }
    }

    /// Deletes the volume of an upload that will not be whole, then its row.
    async fn give_up(&self, task: &TaskHandle, live: &Live, error: Error) -> Result<End> {
        let row = live.row();
        let error = self.undo(task, &row.pool, &row.volume, error).await;
        self.tools.tasks.store().delete_upload(row.id).await?;
        Err(error)
    }
}

fn missing(id: Uuid) -> Error {
    Error::new(Kind::UploadNotFound, format!("no upload {id}"))
}

/// 32 bytes of 64 hexadecimal digits.
pub fn sha256_of(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let bytes: Vec<u8> = digits?.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (text.len() == 64).then(|| bytes.try_into().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_hexadecimal_digits() {
        assert_eq!(sha256_of(&"0f".repeat(32)), Some([15; 32]));
        for bad in ["", "0f", &"0g".repeat(32), &"0f".repeat(33)] {
            assert_eq!(sha256_of(bad), None, "{bad}");
        }
    }
}
