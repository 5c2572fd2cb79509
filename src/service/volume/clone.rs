//! Copies of volumes, within a pool and across, and linked clones: as operations of their own.

use std::time::{Duration, Instant};

use super::check::{active, new_name, writers};
use super::copy::{self, Copy, Share, may_be_copied};
use super::{VolumeService, pool_key, step, volume_key, volume_subject};
use crate::error::{Kind, Result};
use crate::model::{CloneVolume, VolumeRef};
use crate::service::adopt::judge_after_loss;
use crate::service::gate::Key;
use crate::service::operation::plan;
use crate::service::task::{Operation, QUICK_WAIT, TaskHandle};
use crate::service::{Context, Outcome};

impl VolumeService {
    /// Makes a copy of a volume. `virStorageVolCreateXMLFrom`; `virStorageVolCreateXML` if linked.
    ///
    /// # Errors
    /// 404 for the source or the pool; 409 if the new name is taken or a running VM writes to the
    /// source; 422 for what the pool or libvirt cannot do.
    pub async fn clone_volume(
        &self,
        ctx: Context,
        pool: &str,
        name: &str,
        request: CloneVolume,
    ) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.clone_once(&ctx, pool, name, request)).await
    }

    async fn clone_once(
        &self,
        ctx: &Context,
        pool: &str,
        name: &str,
        request: CloneVolume,
    ) -> Result<Outcome> {
        let to_pool = request.pool.as_deref().unwrap_or(pool);
        let to = VolumeRef::new(to_pool, String::from(request.name.clone()));
        self.tools.inventory.look_again(&to.pool, &to.volume).await?;
        let picture = self.tools.inventory.picture();
        active(&*picture.pool(pool)?)?;
        let source = picture.volume(pool, name)?;
        let blocked = match new_name(&*picture.pool(to_pool)?, &to.volume) {
            Err(error) if error.kind() == Kind::InvalidName => return Err(error),
            blocked => blocked.and(may_be_copied(&picture, &source, request.linked)),
        };
        let copy = copy::copy(&picture, &source, to, &request)?;
        let subject = volume_subject(&copy.to.pool, &copy.to.volume);
        if ctx.dry_run {
            let verb = if copy.linked { "bases" } else { "copies" };
            let effect = if copy.linked {
                format!("{verb} the new volume {} on {}", copy.to, copy.source)
            } else {
                format!("{verb} the {} bytes of {} to {}", copy.bytes, copy.source, copy.to)
            };
            return Ok(plan("volume.clone", subject, ("", &copy.xml), vec![effect], blocked));
        }
        blocked?;
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim("volume.clone", ctx);
        let mut keys = vec![volume_key(&copy.to.pool, &copy.to.volume)];
        if !copy.linked {
            // Nobody starts a VM that would write to the source meanwhile.
            keys.extend(writers(&picture, &source)?.iter().map(|user| Key::Vm(user.vm.uuid)));
        }
        let mut beside = vec![pool_key(pool), volume_key(pool, name)];
        if to_pool != pool {
            beside.push(pool_key(to_pool));
        }
        let hold = self.tools.gate.take_beside(keys, beside, &claim)?;
        let picture = self.tools.inventory.picture();
        may_be_copied(&picture, &*picture.volume(pool, name)?, copy.linked)?;
        let wait = if copy.linked { QUICK_WAIT } else { Duration::ZERO };
        let operation = Operation { claim, subject, cancellable: !copy.linked, wait };
        let service = self.clone();
        let capacity = source.capacity_bytes;
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                let made = service.copy(&task, &copy, capacity).await;
                match made {
                    Ok(()) => service.settled(&copy.to.pool, &copy.to.volume),
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        judge_after_loss(&service, &task, error).await
                    }
                    Err(error) => Err(error),
                }
            })
            .await
    }

    async fn copy(&self, task: &TaskHandle, copy: &Copy, capacity: u64) -> Result<()> {
        let (pool, name) = (copy.to.pool.clone(), copy.to.volume.clone());
        self.journal(task, step(&pool, &name, capacity)).await?;
        task.phase(if copy.linked { "creating" } else { "copying" });
        let (in_closure, in_task) = (copy.clone(), task.clone());
        let work = self.hop(&pool, &name, move |session| {
            copy::make(session, &in_task, &in_closure, true).map(drop)
        });
        if copy.linked {
            return work.await;
        }
        let share = Share { done: 0, total: copy.bytes, begun: Instant::now() };
        copy::watched(&self.tools.hypervisor, task, copy, share, work).await
    }
}
