//! Another capacity for a volume. What a running VM has open grows through its QEMU, so that the
//! guest sees it; everything else through the pool.

use serde_json::json;
use uuid::Uuid;

use super::check::{
    capacity, check_if_match, refuse_used, refuse_used_but_by, runs, writers, written_by,
};
use super::{VolumeService, pool_key, step, volume_key, volume_subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Session, domain, volume};
use crate::model::plan::Effect;
use crate::model::{Change, ResizeVolume};
use crate::service::adopt::judge_after_loss;
use crate::service::gate::Key;
use crate::service::inventory::{Picture, VolumeRecord};
use crate::service::operation::{SLOW_CALL, plan};
use crate::service::task::{Operation, QUICK_WAIT};
use crate::service::{Context, Outcome};

/// The disk by which a running VM has the volume open.
type OpenDisk = (Uuid, String);

impl VolumeService {
    /// Changes a volume's capacity. `virStorageVolResize`; `virDomainBlockResize` if a running VM
    /// has it as a disk.
    ///
    /// # Errors
    /// 404; 409 `VOLUME_IN_USE` if it is to shrink and is used, if it is a base, or if several
    /// running VMs have it; 422 if it would shrink and the request does not say so.
    pub async fn resize(
        &self,
        ctx: Context,
        pool: &str,
        name: &str,
        request: ResizeVolume,
    ) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.resize_once(&ctx, pool, name, request)).await
    }

    async fn resize_once(
        &self,
        ctx: &Context,
        pool: &str,
        name: &str,
        request: ResizeVolume,
    ) -> Result<Outcome> {
        let (wanted, field) = capacity(request.size, request.capacity_bytes)?;
        let record = self.record(pool, name)?;
        check_if_match(ctx, &record)?;
        let present = record.capacity_bytes;
        if wanted < present && !request.shrink {
            return Err(Error::new(
                Kind::Impossible,
                format!("{wanted} bytes are less than the {present} bytes of {pool}/{name}"),
            )
            .with_field(field, format!("must be at least {present}, unless shrink is true"))
            .with_hint("say shrink=true if what lies beyond the new end may be lost"));
        }
        let open = |picture: &Picture| open_disk(picture, &*picture.volume(pool, name)?, wanted);
        let blocked = self.tools.inventory.decide(open).await.map(|(_, open)| open);
        let picture = self.tools.inventory.picture();
        let subject = volume_subject(pool, name);
        if ctx.dry_run {
            let verb = if wanted < present { "shrinks" } else { "grows" };
            let mut effects = vec![format!("{verb} the volume {pool}/{name} to {wanted} bytes")];
            if let Ok(Some(_)) = &blocked {
                effects.push("the running guest sees the new size at once".to_owned());
            }
            let change = Change {
                field: "capacity_bytes".to_owned(),
                from: json!(present),
                to: json!(wanted),
                effect: Effect::Live,
                reason: None,
            };
            let mut outcome = plan("volume.resize", subject, ("", ""), effects, blocked.map(drop));
            if let Outcome::Planned(plan) = &mut outcome {
                plan.changes.push(change);
            }
            return Ok(outcome);
        }
        blocked?;
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim("volume.resize", ctx);
        // Nobody starts or stops a VM that has it meanwhile.
        let users = writers(&picture, &record)?;
        let mut keys = vec![volume_key(pool, name)];
        keys.extend(users.iter().map(|user| Key::Vm(user.vm.uuid)));
        let hold = self.tools.gate.take_beside(keys, vec![pool_key(pool)], &claim)?;
        if wanted < present {
            self.still_unused(pool, name).await?;
        }
        let picture = self.tools.inventory.picture();
        let record = picture.volume(pool, name)?;
        check_if_match(ctx, &record)?;
        let open = open_disk(&picture, &record, wanted)?;
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        let (pool, name) = (pool.to_owned(), name.to_owned());
        let shrink = request.shrink && wanted < present;
        let content = matches!(record.format.as_deref(), None | Some("raw"));
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                service.journal(&task, step(&pool, &name, wanted)).await?;
                let vm = open.as_ref().map(|(uuid, _)| *uuid);
                let (in_pool, in_name) = (pool.clone(), name.clone());
                let resized = service
                    .hop(&pool, &name, move |session| match open {
                        Some((uuid, target)) => domain::resize_disk(session, uuid, &target, wanted),
                        None => resize(session, &in_pool, &in_name, wanted, shrink),
                    })
                    .await;
                if let Some(uuid) = vm
                    && let Err(error) = service.tools.inventory.refresh(uuid, SLOW_CALL).await
                {
                    tracing::warn!(vm = %uuid, error = ?error, "its disk's size is seen later");
                }
                match resized {
                    Ok(()) => service.settled(&pool, &name),
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        judge_after_loss(&service, &task, error).await
                    }
                    Err(error) if error.kind() == Kind::Impossible && shrink && content => {
                        Err(error
                            .with_field(field, "is less than what the volume takes of the pool")
                            .with_hint("a raw volume shrinks only as far as it is not allocated"))
                    }
                    Err(error) => Err(error),
                }
            })
            .await
    }
}

fn resize(session: &Session, pool: &str, name: &str, wanted: u64, shrink: bool) -> Result<()> {
    let (present, _) = volume::sizes(session, pool, name)?;
    if present == wanted {
        return Ok(());
    }
    volume::resize(session, pool, name, wanted, shrink)
}

/// By which running VM's disk the volume has to grow, if by one.
fn open_disk(picture: &Picture, record: &VolumeRecord, wanted: u64) -> Result<Option<OpenDisk>> {
    if wanted < record.capacity_bytes {
        refuse_used(record)?;
        return Ok(None);
    }
    let writers = writers(picture, record)?;
    let running: Vec<_> = writers.iter().filter(|user| runs(user)).collect();
    let names: Vec<String> = running.iter().map(|user| user.vm.name.clone()).collect();
    // Whoever reads from it keeps it from growing: QEMU has it locked, or counts on its size.
    let is_writer = |user: &str| writers.iter().any(|one| one.vm.name == user);
    refuse_used_but_by(record, is_writer)?;
    match running.as_slice() {
        [] => Ok(None),
        [one] => {
            let disk = written_by(picture, one, record)?.into_iter().next();
            Ok(disk.map(|disk| (one.vm.uuid, disk.target)))
        }
        _ => Err(Error::new(
            Kind::VolumeInUse,
            format!(
                "{} have the volume {}/{} open, and only one of them would be told",
                names.join(", "),
                record.pool,
                record.name
            ),
        )
        .with_hint("stop all of them but one")
        .with_detail("vms", names)),
    }
}
