//! What both kinds of upload do with the bytes that arrive: the first ones are held back until they
//! have told what the image is, all are hashed and written through one stream of libvirt.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest, Sha256};

use super::Target;
use super::image::{HEAD, ImageFormat, Verdict, inspect};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Hypervisor, VolumeWriter};
use crate::model::{Progress, VolumeRef};
use crate::store::UploadRow;

/// A request's body as it arrives.
pub type Arriving = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// How a body goes on.
pub(super) enum Next {
    Piece(Bytes),
    End,
    /// Its client is gone, or sends nothing any more: it would not read a reply either way.
    Cut(Error),
    /// Nobody wants it any more.
    Closed,
}

/// Waits for the next piece of a body, until `closed`.
pub(super) async fn next(
    body: &mut Arriving,
    stall: Duration,
    closed: impl Future<Output = ()>,
) -> Next {
    let piece = tokio::select! {
        biased;
        () = closed => return Next::Closed,
        piece = tokio::time::timeout(stall, body.next()) => piece,
    };
    match piece {
        Ok(Some(Ok(piece))) => Next::Piece(piece),
        Ok(Some(Err(error))) => Next::Cut(error),
        Ok(None) => Next::End,
        Err(_) => Next::Cut(Error::new(
            Kind::RequestTimeout,
            format!("nothing has arrived for {} s", stall.as_secs_f32()),
        )),
    }
}

/// What has been taken in of one upload.
pub(super) struct Intake {
    volume: VolumeRef,
    length: u64,
    declared: Option<ImageFormat>,
    /// How many bytes: the offset of the next one.
    pub(super) at: u64,
    head: Vec<u8>,
    /// None where nobody wants to hear it.
    digest: Option<Sha256>,
    pub(super) format: Option<ImageFormat>,
    writer: Option<VolumeWriter>,
}

impl Intake {
    /// Of an upload that begins.
    pub(super) fn new(target: &Target) -> Self {
        Intake {
            volume: target.volume(),
            length: target.length,
            declared: target.declared,
            at: 0,
            head: Vec::new(),
            digest: target.is_hashed().then(Sha256::new),
            format: None,
            writer: None,
        }
    }

    /// Of an upload that goes on where its row says.
    pub(super) fn resume(target: &Target, row: &UploadRow) -> Result<Self> {
        Ok(Intake {
            at: row.position,
            head: row.head.clone(),
            digest: target.is_hashed().then(|| digest_of(&row.digest)).transpose()?,
            format: row.format.as_deref().and_then(ImageFormat::parse),
            ..Intake::new(target)
        })
    }

    /// Writes down how far it is; what was taken must have been synced.
    pub(super) fn note(&self, row: &mut UploadRow) {
        row.position = self.at;
        row.head.clone_from(&self.head);
        let state = self.digest.as_ref().map(|digest| digest.serialize().to_vec());
        row.digest = state.unwrap_or_default();
        row.format = self.format.map(|format| format.as_str().to_owned());
    }

    /// The SHA-256 of everything taken, if it is wanted.
    pub(super) fn sha256(&self) -> Option<[u8; 32]> {
        self.digest.clone().map(|digest| digest.finalize().into())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// `PayloadTooLarge` if they are more than was announced; `ImageRefused`; what libvirt cannot
    /// write with.
    pub(super) async fn take(&mut self, hypervisor: &Hypervisor, data: Bytes) -> Result<()> {
        let end = self.at + data.len() as u64;
        if end > self.length {
            return Err(too_large(self.length));
        }
        if let Some(digest) = &mut self.digest {
            digest.update(&data);
        }
        self.at = end;
        if self.format.is_some() {
            return self.write(hypervisor, end - data.len() as u64, data).await;
        }
        self.head.extend_from_slice(&data);
        if self.head.len() < HEAD && end < self.length {
            return Ok(());
        }
        self.format = Some(judge(&self.head, self.declared)?);
        let head = std::mem::take(&mut self.head);
        self.write(hypervisor, 0, head.into()).await
    }

    async fn write(&mut self, hypervisor: &Hypervisor, offset: u64, data: Bytes) -> Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                let opened = hypervisor.write_volume(&self.volume, offset, self.length).await?;
                self.writer.insert(opened)
            }
        };
        writer.write(data).await
    }

    /// Waits until everything taken is written, but for a head that is still held back.
    pub(super) async fn sync(&mut self) -> Result<()> {
        match &mut self.writer {
            Some(writer) => writer.sync().await,
            None => Ok(()),
        }
    }

    /// Whether all that was announced is here.
    pub(super) fn is_whole(&self) -> bool {
        self.at == self.length
    }
}

/// The state of the digest of a row.
fn digest_of(state: &[u8]) -> Result<Sha256> {
    if state.is_empty() {
        return Ok(Sha256::new());
    }
    let unreadable = || Error::internal("the state of an upload's digest cannot be read");
    let state = state.try_into().map_err(|_| unreadable())?;
    Sha256::deserialize(&state).map_err(|_| unreadable())
}

pub(super) fn too_large(length: u64) -> Error {
    Error::new(
        Kind::PayloadTooLarge,
        format!("more arrives than the {length} bytes that were announced"),
    )
    .with_hint("announce the true length")
    .with_detail("limit_bytes", length)
}

/// The format of an image, if it may be used as what it is declared to be.
///
/// # Errors
/// `ImageRefused`.
pub(super) fn judge(head: &[u8], declared: Option<ImageFormat>) -> Result<ImageFormat> {
    let format = match inspect(head) {
        Verdict::Fine(format) => format,
        Verdict::Refused(why) => {
            return Err(Error::new(Kind::ImageRefused, format!("the image {why}")));
        }
    };
    match declared {
        Some(declared) if !format.is(declared) => Err(Error::new(
            Kind::ImageRefused,
            format!(
                "the image is declared to be {}, and its content is {}",
                declared.as_str(),
                format.as_str()
            ),
        )
        .with_detail("declared", declared.as_str())
        .with_detail("format", format.as_str())),
        _ => Ok(format),
    }
}

/// Turns bytes and time into a task's progress, at most a few times a second.
pub(super) struct Pace {
    phase: &'static str,
    begun: Instant,
    from: u64,
    total: u64,
    told: Option<Instant>,
}

impl Pace {
    pub(super) fn new(phase: &'static str, from: u64, total: u64) -> Self {
        Pace { phase, begun: Instant::now(), from, total, told: None }
    }

    /// The progress at `done` bytes, unless one was told a moment ago.
    pub(super) fn at(&mut self, done: u64) -> Option<Progress> {
        if self.told.is_some_and(|told| told.elapsed() < Duration::from_millis(250)) {
            return None;
        }
        self.told = Some(Instant::now());
        let seconds = self.begun.elapsed().as_secs_f64();
        let rate = done.saturating_sub(self.from) as f64 / seconds.max(0.001);
        let rate = (seconds > 0.2 && rate >= 1.0).then_some(rate as u64);
        let percent = done.saturating_mul(100).checked_div(self.total).unwrap_or(100).min(100);
        Some(Progress {
            phase: self.phase.to_owned(),
            percent: u8::try_from(percent).ok(),
            bytes_done: Some(done),
            bytes_total: Some(self.total),
            bytes_per_second: rate,
            eta_seconds: rate.map(|rate| self.total.saturating_sub(done) / rate.max(1)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_digest_survives_its_row() {
        let mut digest = Sha256::new();
        digest.update([7; 1000]);
        let mut again = digest_of(&digest.serialize()).unwrap();
        digest.update([8; 77]);
        again.update([8; 77]);
        assert_eq!(digest.finalize(), again.finalize());
        assert!(digest_of(&[1, 2, 3]).is_err());
        assert_eq!(digest_of(&[]).unwrap().finalize(), Sha256::digest([]));
    }

    #[test]
    fn content_must_be_what_it_is_declared_to_be() {
        let raw = [0; 512];
        assert_eq!(judge(&raw, None).unwrap(), ImageFormat::Raw);
        assert_eq!(judge(&raw, Some(ImageFormat::Raw)).unwrap(), ImageFormat::Raw);
        for declared in [ImageFormat::Qcow2, ImageFormat::Iso, ImageFormat::Vhdx] {
            let error = judge(&raw, Some(declared)).unwrap_err();
            assert_eq!(error.kind(), Kind::ImageRefused);
        }
        let mut qcow2 = [0; 512];
        qcow2[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
        assert_eq!(judge(&qcow2, None).unwrap(), ImageFormat::Qcow2);
        let error = judge(&qcow2, Some(ImageFormat::Raw)).unwrap_err();
        assert_eq!(error.details()["format"], "qcow2");
    }

    #[test]
    fn progress_is_told_with_percent_and_not_too_often() {
        let mut pace = Pace::new("receiving", 0, 200);
        let progress = pace.at(50).unwrap();
        assert_eq!((progress.percent, progress.bytes_total), (Some(25), Some(200)));
        assert_eq!(pace.at(60), None);
    }
}
