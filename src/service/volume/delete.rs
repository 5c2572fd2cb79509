//! Deletion of a volume that nobody needs.

use serde_json::Value;

use super::check::{check_if_match, refuse_used};
use super::{VolumeService, pool_key, step, volume_key, volume_subject};
use crate::error::{Kind, Result};
use crate::libvirt::volume;
use crate::service::adopt::judge_after_loss;
use crate::service::inventory::Picture;
use crate::service::operation::plan;
use crate::service::task::{End, Operation, QUICK_WAIT};
use crate::service::{Context, Outcome};

impl VolumeService {
    /// Deletes a volume that no VM uses and no other volume is based on. `virStorageVolDelete`.
    ///
    /// # Errors
    /// 404; 409 `VOLUME_IN_USE` with the names of the VMs and volumes.
    pub async fn delete(&self, ctx: Context, pool: &str, name: &str) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.delete_once(&ctx, pool, name)).await
    }

    async fn delete_once(&self, ctx: &Context, pool: &str, name: &str) -> Result<Outcome> {
        let unused = |picture: &Picture| refuse_used(&*picture.volume(pool, name)?);
        let blocked = self.tools.inventory.decide(unused).await.map(drop);
        let record = self.record(pool, name)?;
        check_if_match(ctx, &record)?;
        let subject = volume_subject(pool, name);
        if ctx.dry_run {
            let effect = format!("deletes the volume {pool}/{name}");
            return Ok(plan("volume.delete", subject, ("", ""), vec![effect], blocked));
        }
        blocked?;
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim("volume.delete", ctx);
        let keys = vec![volume_key(pool, name)];
        let hold = self.tools.gate.take_beside(keys, vec![pool_key(pool)], &claim)?;
        self.still_unused(pool, name).await?;
        check_if_match(ctx, &*self.record(pool, name)?)?;
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        let (pool, name) = (pool.to_owned(), name.to_owned());
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                service.journal(&task, step(&pool, &name, record.capacity_bytes)).await?;
                let (in_pool, in_name) = (pool.clone(), name.clone());
                let gone = service
                    .hop(&pool, &name, move |session| volume::delete(session, &in_pool, &in_name))
                    .await;
                match gone {
                    Ok(()) => Ok(End::Done(Value::Null)),
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        judge_after_loss(&service, &task, error).await
                    }
                    Err(error) => Err(error),
                }
            })
            .await
    }
}
