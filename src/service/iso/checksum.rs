//! The checksum of an image: SHA-256 over the volume as libvirt streams it, beside all other work.
//!
//! It is a task of its own, `iso.checksum`. Nothing depends on its end, so what cuts it off lets it
//! start anew: a stop of the daemon parks it, and the next start computes from the beginning.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{IsoService, subject};
use crate::error::{Error, Kind, Result};
use crate::model::{ChecksumStatus, IsoChecksum, Progress, VolumeRef};
use crate::service::adopt::judge_after_loss;
use crate::service::gate::Key;
use crate::service::task::{End, Operation, TaskHandle};
use crate::service::volume::pool_key;
use crate::service::{Context, Outcome};
use crate::store::IsoRow;

/// How often the task tells how far it is.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// The pause before a place among the streams is asked for again.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// How long a client that asks for a checksum waits unless it says otherwise: it takes long.
const NO_WAIT: Duration = Duration::ZERO;

impl IsoService {
    /// Computes the checksum of an image anew.
    ///
    /// # Errors
    /// 404; 409 if its volume is being worked on; 503.
    pub async fn compute_checksum(&self, ctx: Context, id: &str) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.compute_once(&ctx, id)).await
    }

    async fn compute_once(&self, ctx: &Context, id: &str) -> Result<Outcome> {
        let row = self.row(id)?;
        let picture = self.tools.inventory.picture();
        let blocked = picture.volume(&row.pool, &row.volume).map(drop);
        if ctx.dry_run {
            let effect = format!("reads {}/{} as a whole", row.pool, row.volume);
            return Ok(crate::service::operation::plan(
                "iso.checksum",
                subject(&row),
                ("", ""),
                vec![effect],
                blocked,
            ));
        }
        blocked?;
        self.tools.need_libvirt()?;
        self.begin_checksum(ctx, &row).await
    }

    /// Begins the task.
    pub(super) async fn begin_checksum(&self, ctx: &Context, row: &IsoRow) -> Result<Outcome> {
        let claim = self.tools.tasks.claim("iso.checksum", ctx);
        let beside = vec![
            Key::Iso(row.id),
            Key::Volume(row.pool.clone(), row.volume.clone()),
            pool_key(&row.pool),
        ];
        let hold = self.tools.gate.take_beside(Vec::new(), beside, &claim)?;
        let operation =
            Operation { claim, subject: subject(row), cancellable: true, wait: NO_WAIT };
        let (service, id) = (self.clone(), row.id);
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                match service.checksum(&task, id).await {
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        judge_after_loss(&service, &task, error).await
                    }
                    ended => ended,
                }
            })
            .await
    }

    /// The work of the task, from the beginning.
    pub(super) async fn checksum(&self, task: &TaskHandle, id: Uuid) -> Result<End> {
        let row = self.row(&id.to_string())?;
        self.library.computing(id, Some(task.id()));
        let computed = tokio::select! {
            computed = self.digest(task, &row) => computed,
            () = task.cancelled().cancelled() => Err(Error::new(
                Kind::Cancelled,
                format!("the checksum of the ISO image {:?} is not computed", row.name),
            )),
            () = task.stopping().cancelled() => {
                self.library.computing(id, None);
                return Ok(End::Parked);
            }
        };
        self.library.computing(id, None);
        let checksum = match &computed {
            Ok(sha256) => {
                IsoChecksum { status: ChecksumStatus::Done, sha256: Some(sha256.clone()) }
            }
            // It goes on when libvirt is back.
            Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                return computed.map(|_| End::Parked);
            }
            Err(_) => IsoChecksum { status: ChecksumStatus::Failed, sha256: None },
        };
        let row = self.set_checksum(id, checksum).await?;
        computed?;
        self.result(&row)
    }

    /// SHA-256 of the whole volume, in hexadecimal.
    async fn digest(&self, task: &TaskHandle, row: &IsoRow) -> Result<String> {
        let volume = VolumeRef { pool: row.pool.clone(), volume: row.volume.clone() };
        let mut reader = loop {
            match self.tools.hypervisor.read_volume(&volume).await {
                // Everybody else's transfers come first.
                Err(error) if error.kind() == Kind::TooManyRequests => {
                    task.phase("waiting for other transfers");
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                opened => break opened?,
            }
        };
        let total = reader.size();
        // Hashing has a thread of its own; the few pieces between bound the memory.
        let (pieces, mut arriving) = mpsc::channel::<Bytes>(4);
        let hashing = tokio::task::spawn_blocking(move || {
            let mut hash = Sha256::new();
            while let Some(piece) = arriving.blocking_recv() {
                hash.update(&piece);
            }
            hash.finalize()
        });
        task.phase("reading");
        let (begun, mut told, mut done) = (Instant::now(), Instant::now(), 0u64);
        if total > 0 {
            reader.ask(0, total).await?;
            loop {
                let piece = reader.next().await?;
                if piece.is_empty() {
                    break;
                }
                done += piece.len() as u64;
                pieces.send(piece).await.map_err(|_| Error::internal("hashing ended early"))?;
                if told.elapsed() >= TELL_EVERY {
                    told = Instant::now();
                    task.progress(progress(done, total, begun.elapsed()));
                }
            }
        }
        drop(pieces);
        let hash = hashing.await.map_err(Error::internal)?;
        if done != total {
            return Err(Error::new(
                Kind::LibvirtRefused,
                format!("{done} of {total} bytes of {}/{} could be read", row.pool, row.volume),
            ));
        }
        task.progress(progress(done, total, begun.elapsed()));
        Ok(hex(&hash))
    }
}

fn progress(done: u64, total: u64, elapsed: Duration) -> Progress {
    let rate = (done as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    Progress {
        phase: "reading".to_owned(),
        percent: Some((done.saturating_mul(100) / total.max(1)).min(100) as u8),
        bytes_done: Some(done),
        bytes_total: Some(total),
        bytes_per_second: Some(rate),
        eta_seconds: Some(total.saturating_sub(done) / rate.max(1)),
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        text.extend(
            [byte >> 4, byte & 15]
                .map(|nibble| char::from_digit(u32::from(nibble), 16).unwrap_or('0')),
        );
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_hexadecimal() {
        assert_eq!(hex(&[0, 0x0a, 0xff]), "000aff");
    }

    #[test]
    fn progress_is_told_in_numbers() {
        let half = progress(50, 100, Duration::from_secs(1));
        assert_eq!(
            (half.percent, half.bytes_per_second, half.eta_seconds),
            (Some(50), Some(50), Some(1))
        );
        assert_eq!(progress(0, 0, Duration::ZERO).percent, Some(0));
    }
}
