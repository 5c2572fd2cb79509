//! The end of an upload: everything is in the volume, and it is looked at as what it will be used as.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::image::{HEAD, ImageFormat};
use super::intake::judge;
use super::{RegisterUploaded, Target, TransferService};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, VolumeReader, pool};
use crate::model::{UploadPurpose, Uploaded, Volume, VolumeRef};
use crate::service::operation::SLOW_CALL;
use crate::service::task::TaskHandle;

/// How long a place among the streams, or a pool that is busy, is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

impl TransferService {
    /// Checks what was received, and has libvirt look at it.
    ///
    /// # Errors
    /// `DigestMismatch`, `ImageRefused`: the volume must not stay. What libvirt fails with.
    pub(super) async fn settle(
        &self,
        task: &TaskHandle,
        target: &Target,
        format: ImageFormat,
        sha256: Option<[u8; 32]>,
    ) -> Result<Value> {
        task.phase("checking the image");
        if let Some(expected) = target.sha256.filter(|expected| Some(*expected) != sha256) {
            let found = sha256.ok_or_else(|| Error::internal("an upload was not hashed"))?;
            return Err(Error::new(
                Kind::DigestMismatch,
                format!("the SHA-256 of what arrived is {}", hex(&found)),
            )
            .with_detail("sha256", hex(&found))
            .with_detail("expected", hex(&expected)));
        }
        let mut reader = self.reader(&target.volume()).await?;
        let head = reader.read(0, HEAD as u64).await?;
        let stored = judge(&head[..head.len().min(whole(target.length))], target.declared)?;
        if stored == ImageFormat::Vhdx {
            // What it depends on stands behind its first bytes.
            super::unpack::open(&mut reader).await?;
        }
        drop(reader);
        if stored != format {
            return Err(Error::new(
                Kind::ImageRefused,
                format!(
                    "what lies in the volume is {}, and what was uploaded {}",
                    stored.as_str(),
                    format.as_str()
                ),
            ));
        }
        let volume = self.probed(&target.pool, &target.name).await?;
        if let Some(backing) = &volume.backing_path {
            return Err(Error::new(Kind::ImageRefused, "the image has a backing file")
                .with_detail("backing", backing.as_str()));
        }
        let iso = self.enter_iso(task, target, sha256).await?;
        let uploaded = Uploaded {
            volume,
            size_bytes: target.length,
            sha256: sha256.as_ref().map(|sha256| hex(sha256)),
            format: format.as_str().to_owned(),
            iso,
        };
        serde_json::to_value(uploaded).map_err(Error::internal)
    }

    async fn enter_iso(
        &self,
        task: &TaskHandle,
        target: &Target,
        sha256: Option<[u8; 32]>,
    ) -> Result<Option<Uuid>> {
        let sink = match target.purpose {
            UploadPurpose::Iso => self.isos.get(),
            UploadPurpose::Volume => None,
        };
        let Some(sink) = sink else { return Ok(None) };
        task.phase("entering it into the ISO library");
        let entered = sink.register(RegisterUploaded {
            pool: target.pool.clone(),
            volume: target.name.clone(),
            name: target.name.clone(),
            size_bytes: target.length,
            sha256,
        });
        entered.await.map(Some)
    }

    /// A reader of the volume; waits for a place among the streams.
    pub(super) async fn reader(&self, volume: &VolumeRef) -> Result<VolumeReader> {
        let begun = Instant::now();
        loop {
            match self.tools.hypervisor.read_volume(volume).await {
                Err(error)
                    if error.kind() == Kind::TooManyRequests && begun.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                opened => return opened,
            }
        }
    }

    /// The volume after libvirt has probed its format anew (`virStoragePoolRefresh`).
    pub(super) async fn probed(&self, pool_name: &str, name: &str) -> Result<Volume> {
        let begun = Instant::now();
        loop {
            let in_pool = pool_name.to_owned();
            let refreshed = self
                .tools
                .hypervisor
                .run_to_end(Lane::Slow, SLOW_CALL, move |session| pool::refresh(session, &in_pool))
                .await;
            match refreshed {
                Ok(()) => break,
                // libvirt refuses while it makes another volume there.
                Err(error)
                    if error.kind() == Kind::LibvirtRefused && begun.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(error) => return Err(error),
            }
        }
        self.tools.inventory.refresh_pool(pool_name).await?;
        let picture = self.tools.inventory.picture();
        picture.volume(pool_name, name)?.whole()
    }
}

/// A device may have more bytes than were uploaded.
fn whole(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
