//! Import: a new volume of another format, made of an image that lies in a volume already.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::image::{HEAD, ImageFormat};
use super::intake::{Pace, judge};
use super::{IMPORT, TransferService, VOLUME_STEP, subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, volume};
use crate::model::vm_request::DiskFormat;
use crate::model::{ResourceName, Volume, VolumeRef};
use crate::service::gate::Key;
use crate::service::inventory::Picture;
use crate::service::operation::{SLOW_CALL, plan};
use crate::service::task::{End, Operation, TaskHandle};
use crate::service::volume::{pool_key, refuse_used};
use crate::service::{Context, Outcome};
use crate::xml;

/// The body of `POST …/volumes/{volume}/import`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportVolume {
    /// The new volume.
    pub name: ResourceName,
    /// The pool of the new volume; that of the image if absent.
    #[serde(default)]
    pub pool: Option<ResourceName>,
    /// What it becomes; `qcow2` if absent.
    #[serde(default)]
    pub format: DiskFormat,
    /// Delete the image once the new volume is there.
    #[serde(default)]
    pub remove_source: bool,
}

/// An import with everything looked up.
struct Import {
    source: VolumeRef,
    target: VolumeRef,
    format: DiskFormat,
    remove_source: bool,
}

impl TransferService {
    /// Converts the image in a volume into a new volume. `virStorageVolCreateXMLFrom`; a VHDX, which
    /// libvirt cannot read, is unpacked into a raw volume first.
    ///
    /// # Errors
    /// 404; 409 if the new volume exists or the image is a VM's disk; 422 `IMAGE_REFUSED`.
    pub async fn import(
        &self,
        ctx: Context,
        pool: &str,
        name: &str,
        request: ImportVolume,
    ) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.import_once(&ctx, pool, name, request)).await
    }

    async fn import_once(
        &self,
        ctx: &Context,
        pool: &str,
        name: &str,
        request: ImportVolume,
    ) -> Result<Outcome> {
        self.tools.inventory.picture().volume(pool, name)?;
        let source = VolumeRef { pool: pool.to_owned(), volume: name.to_owned() };
        let target = VolumeRef {
            pool: request.pool.map_or_else(|| pool.to_owned(), String::from),
            volume: request.name.into(),
        };
        let may_import = |picture: &Picture| {
            refuse_used(&*picture.volume(pool, name)?)?;
            self.may_create(&target.pool, &target.volume)
        };
        let blocked = self.tools.inventory.decide(may_import).await.map(drop);
        let about = subject(&target.pool, &target.volume);
        if ctx.dry_run {
            let mut effects = vec![format!(
                "creates the {} volume {}/{} of the image {pool}/{name}",
                request.format.as_str(),
                target.pool,
                target.volume
            )];
            if request.remove_source {
                effects.push(format!("deletes the volume {pool}/{name}"));
            }
            return Ok(plan(IMPORT, about, ("", ""), effects, blocked));
        }
        blocked?;
        let claim = self.tools.tasks.claim(IMPORT, ctx);
        let unpacked = unpacked_name(&target.volume);
        let mut alone = vec![
            Key::Volume(target.pool.clone(), target.volume.clone()),
            Key::Volume(target.pool.clone(), unpacked),
        ];
        let mut beside = vec![pool_key(&target.pool)];
        if source.pool != target.pool {
            beside.push(pool_key(&source.pool));
        }
        let image = Key::Volume(source.pool.clone(), source.volume.clone());
        if request.remove_source {
            alone.push(image)
        } else {
            beside.push(image)
        }
        let hold = self.tools.gate.take_beside(alone, beside, &claim)?;
        let operation =
            Operation { claim, subject: about, cancellable: false, wait: Duration::ZERO };
        let import =
            Import { source, target, format: request.format, remove_source: request.remove_source };
        let service = self.clone();
        let run = move |task: TaskHandle| async move { service.convert(&task, import).await };
        self.tools.tasks.submit(ctx, operation, hold, run).await
    }

    async fn convert(&self, task: &TaskHandle, import: Import) -> Result<End> {
        task.phase("checking the image");
        let mut reader = self.reader(&import.source).await?;
        let format = judge(&reader.read(0, HEAD as u64).await?, None)?;
        drop(reader);
        let made = if format == ImageFormat::Vhdx {
            self.convert_vhdx(task, &import).await
        } else {
            // libvirt converts what it has probed: that must be what the content is now.
            let image = self.probed(&import.source.pool, &import.source.volume).await?;
            check_convertible(&image, format)?;
            intend(task, &[&import.target]).await?;
            self.convert_image(task, &import, &import.source, &image).await
        };
        if let Err(error) = made {
            let VolumeRef { pool, volume } = &import.target;
            return Err(match error.kind() {
                Kind::VolumeAlreadyExists => error,
                _ => self.undo(task, pool, volume, error).await,
            });
        }
        if import.remove_source {
            task.phase("deleting the image");
            self.remove(&import.source.pool, &import.source.volume).await?;
        }
        let volume = self.probed(&import.target.pool, &import.target.volume).await?;
        Ok(End::Done(serde_json::to_value(volume).map_err(Error::internal)?))
    }

    /// Has libvirt convert the image in `source`, and tells how far it is.
    async fn convert_image(
        &self,
        task: &TaskHandle,
        import: &Import,
        source: &VolumeRef,
        image: &Volume,
    ) -> Result<()> {
        tokio::select! {
            made = self.create_from(import, source, image) => made,
            () = self.watch_conversion(task, import, image.allocation_bytes) => Ok(()),
        }
    }

    /// Unpacks a VHDX: the new volume itself if that is to be raw, else one that is converted then.
    async fn convert_vhdx(&self, task: &TaskHandle, import: &Import) -> Result<()> {
        if import.format == DiskFormat::Raw {
            intend(task, &[&import.target]).await?;
            return self.unpack(task, &import.source, &import.target).await;
        }
        let raw = VolumeRef {
            pool: import.target.pool.clone(),
            volume: unpacked_name(&import.target.volume),
        };
        self.tools.inventory.look_again(&raw.pool, &raw.volume).await?;
        self.may_create(&raw.pool, &raw.volume)?;
        intend(task, &[&import.target, &raw]).await?;
        let converted = match self.unpack(task, &import.source, &raw).await {
            Ok(()) => match self.probed(&raw.pool, &raw.volume).await {
                Ok(image) => self.convert_image(task, import, &raw, &image).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let removed = self.remove(&raw.pool, &raw.volume).await;
        converted.and(removed)
    }

    async fn create_from(&self, import: &Import, source: &VolumeRef, image: &Volume) -> Result<()> {
        let record = self.tools.inventory.picture().pool(&import.target.pool)?;
        let text = xml::volume::author_volume(&xml::volume::VolumeSpec {
            name: import.target.volume.clone(),
            capacity_bytes: image.capacity_bytes,
            format: import.format,
            sparse: record.pool.r#type != "logical",
            backing: None,
        })?;
        let (source, target) = (source.clone(), import.target.clone());
        self.tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                volume::create_from(
                    session,
                    &target.pool,
                    &target.volume,
                    &text,
                    &source.pool,
                    &source.volume,
                )
            })
            .await
            .map(drop)
    }

    /// Tells how much of the new volume is there, and never returns.
    async fn watch_conversion(&self, task: &TaskHandle, import: &Import, total: u64) {
        task.phase("converting");
        let mut pace = Pace::new("converting", 0, total);
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let target = import.target.clone();
            let facts = self
                .tools
                .hypervisor
                .run(Lane::Quick, Duration::from_secs(5), move |session| {
                    volume::facts(session, &target.pool, &target.volume)
                })
                .await;
            let now =
                facts.and_then(|facts| xml::volume::parse_volume(&import.target.pool, &facts.xml));
            if let Ok(now) = now
                && let Some(progress) = pace.at(now.allocation_bytes.min(total))
            {
                task.progress(progress);
            }
        }
    }
}

/// The raw volume that a VHDX is unpacked into on its way.
fn unpacked_name(name: &str) -> String {
    format!("{name}.unpacked")
}

/// Journals the volumes to be made.
async fn intend(task: &TaskHandle, volumes: &[&VolumeRef]) -> Result<()> {
    let step = |made: &&VolumeRef| {
        let undo = serde_json::json!({"pool": made.pool, "volume": made.volume});
        (VOLUME_STEP.to_owned(), undo)
    };
    task.intend(volumes.iter().map(step).collect()).await.map(drop)
}

/// Whether libvirt can convert an image, and sees in it what its content is.
fn check_convertible(image: &Volume, format: ImageFormat) -> Result<()> {
    let seen = image.format.as_deref().unwrap_or_default();
    if ImageFormat::parse(seen).is_none_or(|seen| !format.is(seen)) {
        return Err(Error::new(
            Kind::ImageRefused,
            format!("the image is {}, and libvirt takes it for {seen:?}", format.as_str()),
        ));
    }
    if let Some(backing) = &image.backing_path {
        return Err(Error::new(Kind::ImageRefused, "the image has a backing file")
            .with_detail("backing", backing.as_str()));
    }
    Ok(())
}
