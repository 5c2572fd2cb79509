//! Overwriting a volume that nobody needs any more.

use serde_json::json;
use std::time::Duration;

use super::check::{check_if_match, refuse_used};
use super::{VolumeService, pool_key, volume_key, volume_subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Session, volume};
use crate::model::vm_request::DiskFormat;
use crate::model::{WipeAlgorithm, WipeVolume};
use crate::service::adopt::judge_after_loss;
use crate::service::inventory::{Picture, VolumeRecord};
use crate::service::operation::plan;
use crate::service::task::Operation;
use crate::service::{Context, Outcome};
use crate::xml::volume::{VolumeSpec, author_volume};

impl VolumeService {
    /// Overwrites a volume; an image is empty afterwards. `virStorageVolWipePattern`.
    ///
    /// # Errors
    /// 404; 409 `VOLUME_IN_USE`; 422 for an algorithm that this host lacks, and for a volume whose
    /// format could not be made anew.
    pub async fn wipe(
        &self,
        ctx: Context,
        pool: &str,
        name: &str,
        request: WipeVolume,
    ) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.wipe_once(&ctx, pool, name, request)).await
    }

    async fn wipe_once(
        &self,
        ctx: &Context,
        pool: &str,
        name: &str,
        request: WipeVolume,
    ) -> Result<Outcome> {
        let unused = |picture: &Picture| refuse_used(&*picture.volume(pool, name)?);
        let blocked = self.tools.inventory.decide(unused).await.map(drop);
        let record = self.record(pool, name)?;
        check_if_match(ctx, &record)?;
        let subject = volume_subject(pool, name);
        let image = image(&record, self.record(pool, name)?.whole()?.encryption.as_deref())?;
        let algorithm = request.algorithm;
        if ctx.dry_run {
            let effect = format!("overwrites the volume {pool}/{name} with {}", algorithm.as_str());
            return Ok(plan("volume.wipe", subject, ("", ""), vec![effect], blocked));
        }
        blocked?;
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim("volume.wipe", ctx);
        let keys = vec![volume_key(pool, name)];
        let hold = self.tools.gate.take_beside(keys, vec![pool_key(pool)], &claim)?;
        self.still_unused(pool, name).await?;
        check_if_match(ctx, &*self.record(pool, name)?)?;
        // As long as the volume is large.
        let operation = Operation { claim, subject, cancellable: false, wait: Duration::ZERO };
        let service = self.clone();
        let (pool, name) = (pool.to_owned(), name.to_owned());
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                task.phase("overwriting");
                let step = json!({"pool": pool, "volume": name, "image": image});
                service.journal(&task, step).await?;
                let (in_pool, in_name) = (pool.clone(), name.clone());
                let wiped = service
                    .hop(&pool, &name, move |session| {
                        wipe(session, &in_pool, &in_name, algorithm, image.as_deref())
                    })
                    .await;
                match wiped {
                    Ok(()) => service.settled(&pool, &name),
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        judge_after_loss(&service, &task, error).await
                    }
                    Err(error) => Err(error),
                }
            })
            .await
    }
}

/// Overwrites it. Of an image nothing is left that libvirt would know again, so an empty one of
/// the same format and capacity takes its place.
fn wipe(
    session: &Session,
    pool: &str,
    name: &str,
    algorithm: WipeAlgorithm,
    image: Option<&str>,
) -> Result<()> {
    volume::wipe(session, pool, name, algorithm).map_err(|error| match error.kind() {
        Kind::NotSupported => error
            .with_hint(match algorithm {
                WipeAlgorithm::Zero | WipeAlgorithm::Trim => "use another algorithm",
                _ => "install scrub on the host, or use the algorithm zero",
            })
            .with_field("algorithm", "is not available for this volume on this host"),
        _ => error,
    })?;
    let Some(image) = image else { return Ok(()) };
    volume::delete(session, pool, name)?;
    volume::create(session, pool, name, image).map(drop)
}

/// The XML of the empty image that takes a wiped one's place; none for what has no format.
fn image(record: &VolumeRecord, encryption: Option<&str>) -> Result<Option<String>> {
    let cannot = |why: &str| {
        Error::new(
            Kind::NotSupported,
            format!("the volume {}/{} cannot be wiped: {why}", record.pool, record.name),
        )
        .with_hint("delete it instead")
    };
    if encryption.is_some() {
        return Err(cannot("its encryption could not be set up anew"));
    }
    if !record.backing_chain.is_empty() {
        return Err(cannot("it holds only what differs from its base"));
    }
    match record.format.as_deref() {
        None | Some("raw" | "iso" | "unknown" | "none") => Ok(None),
        Some("qcow2") => author_volume(&VolumeSpec {
            name: record.name.clone(),
            capacity_bytes: record.capacity_bytes,
            format: DiskFormat::Qcow2,
            sparse: true,
            backing: None,
        })
        .map(Some),
        Some(format) => Err(cannot(&format!("an empty {format} image could not be made"))),
    }
}
