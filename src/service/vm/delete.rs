//! Deleting a VM, with or without its disks. Everything that could stop it half-way is checked
//! first; the disks go last, so that no VM is ever left without them.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use super::seed::told_by;
use super::{SLOW_CALL, VmService, check_if_match, condition, fetch_if_there, subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session, domain, volume};
use crate::model::{DiskDevice, Plan, VolumeRef};
use crate::service::adopt::judge_after_loss;
use crate::service::gate::{self, Condition, Key, Work};
use crate::service::inventory::{Picture, VmRecord};
use crate::service::operation::blockers;
use crate::service::task::{End, Operation, QUICK_WAIT, TaskHandle};
use crate::service::volume::{pool_key, refuse_used_but_by};
use crate::service::{Context, Outcome};

/// The step of a volume to be deleted; names pool and volume.
pub(super) const DELETE_VOLUME_STEP: &str = "delete-volume";

/// What goes with the VM.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeleteVm {
    /// Delete the volumes of its disks too.
    pub remove_disks: bool,
    /// Cut its power if it runs.
    pub force: bool,
    /// Delete it although it has snapshots; their metadata goes with it.
    pub remove_snapshots: bool,
    /// Delete it although it has a saved state, which goes with it.
    pub remove_saved_state: bool,
}

impl DeleteVm {
    fn work(self) -> Work {
        Work::Delete {
            force: self.force,
            remove_snapshots: self.remove_snapshots,
            remove_saved_state: self.remove_saved_state,
        }
    }
}

impl VmService {
    /// Deletes a VM.
    ///
    /// # Errors
    /// 404; 409 if it runs, has snapshots or a saved state and the request does not say that they
    /// may go, or if a disk to be deleted is used by others; 422 if a disk cannot be deleted.
    pub async fn delete(&self, ctx: Context, id: &str, request: DeleteVm) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.delete_once(&ctx, id, request)).await
    }

    async fn delete_once(&self, ctx: &Context, id: &str, request: DeleteVm) -> Result<Outcome> {
        let record = self.target(ctx, id).await?;
        let (uuid, name) = (record.vm.uuid, record.vm.name.clone());
        let work = request.work();
        if ctx.dry_run {
            let picture = self.tools.inventory.picture();
            let volumes = removable(&picture, &record, request.remove_disks);
            let admitted = self.tools.gate.would_admit(&name, uuid, work, condition(&record.vm));
            return Ok(Outcome::Planned(Box::new(plan(
                &picture, &record, request, volumes, admitted,
            )?)));
        }
        self.need_libvirt(Some(uuid)).await?;
        let claim = self.tools.tasks.claim("vm.delete", ctx);
        let hold =
            self.tools.gate.enter(&name, uuid, work, || self.condition(uuid), &claim).await?;
        let present = self.get(&uuid.to_string())?;
        check_if_match(ctx, &present)?;
        let volumes = self.removable_now(&present, request.remove_disks).await?;
        // Nobody begins to use the volumes, nor works on them, until they are gone.
        let keys: Vec<Key> = volumes
            .iter()
            .map(|volume| Key::Volume(volume.pool.clone(), volume.volume.clone()))
            .collect();
        let pools: BTreeSet<&str> = volumes.iter().map(|volume| volume.pool.as_str()).collect();
        let beside = pools.into_iter().map(pool_key).collect();
        let hold = hold.with(self.tools.gate.take_beside(keys, beside, &claim)?);
        self.tools.inventory.settled().await?;
        let present = self.get(&uuid.to_string())?;
        let picture = self.tools.inventory.picture();
        let volumes = removable(&picture, &present, request.remove_disks)?;
        let left = left_behind(&picture, &name, &volumes);
        drop(picture);
        let operation =
            Operation { claim, subject: subject(&record.vm), cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                let done = service.remove(&task, &record, request, volumes).await?;
                for volume in left {
                    task.warn(&volume).await;
                }
                Ok(done)
            })
            .await
    }

    /// What goes with the VM. A disk whose volume is not in the picture may be one that others have
    /// made since the pools were read, so they are read once more before it is refused.
    async fn removable_now(&self, record: &VmRecord, disks: bool) -> Result<Vec<VolumeRef>> {
        match removable(&self.tools.inventory.picture(), record, disks) {
            Err(error) if error.kind() == Kind::Impossible => {
                self.tools.inventory.refresh_storage().await?;
                let record = self.get(&record.vm.uuid.to_string())?;
                removable(&self.tools.inventory.picture(), &record, disks)
            }
            decided => decided,
        }
    }

    async fn remove(
        &self,
        task: &TaskHandle,
        record: &VmRecord,
        request: DeleteVm,
        volumes: Vec<VolumeRef>,
    ) -> Result<End> {
        let steps = volumes
            .iter()
            .map(|volume| (DELETE_VOLUME_STEP.to_owned(), json!(volume)))
            .collect::<Vec<_>>();
        if !steps.is_empty() {
            task.intend(steps).await?;
        }
        let uuid = record.vm.uuid;
        let name = record.vm.name.clone();
        let has_volumes = !volumes.is_empty();
        let in_closure = task.clone();
        let tickets = self.tools.inventory.tickets();
        let done = self
            .tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                in_closure.phase("removing the definition");
                let removed = remove_domain(session, uuid, &name, request).and_then(|()| {
                    in_closure.phase("deleting disks");
                    remove_volumes(session, &volumes)
                });
                let ticket = tickets.draw();
                Ok((removed, ticket, fetch_if_there(session, uuid)))
            })
            .await;
        let (removed, ticket, fetched) = match done {
            Ok(done) => done,
            Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                return judge_after_loss(self, task, error).await;
            }
            Err(error) => return Err(error),
        };
        if let Ok(fetched) = fetched {
            self.tools.inventory.apply(uuid, fetched, ticket).await?;
        }
        if has_volumes && let Err(error) = self.tools.inventory.refresh_storage().await {
            tracing::warn!(error = ?error, "the deleted volumes will vanish with the next refresh");
        }
        match removed {
            Ok(()) => Ok(End::Done(Value::Null)),
            Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                judge_after_loss(self, task, error).await
            }
            Err(error) => Err(error),
        }
    }
}

/// Looks once more, because what others did may not be in the picture: a snapshot that comes to
/// light after the power has been cut would leave the VM half deleted.
fn remove_domain(session: &Session, uuid: Uuid, name: &str, request: DeleteVm) -> Result<()> {
    let Some(found) = fetch_if_there(session, uuid)? else { return Ok(()) };
    let condition = Condition {
        state: found.brief.state,
        persistent: found.brief.persistent,
        has_saved_state: found.brief.has_saved_state,
        snapshot_count: found.snapshot_count,
    };
    gate::allowed(name, request.work(), condition)?;
    let (active, persistent) = (condition.state.is_active(), condition.persistent);
    if active {
        domain::cut_power(session, uuid)?;
    }
    if !persistent {
        return Ok(());
    }
    domain::undefine(
        session,
        uuid,
        domain::UndefineFlags {
            saved_state: request.remove_saved_state,
            snapshots_metadata: request.remove_snapshots,
            checkpoints_metadata: true,
            nvram: true,
            tpm: true,
        },
    )
}

/// Deletes every volume it can; an error names what is left.
fn remove_volumes(session: &Session, volumes: &[VolumeRef]) -> Result<()> {
    let mut left = Vec::new();
    let mut first = None;
    for volume in volumes {
        match volume::delete(session, &volume.pool, &volume.volume) {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::VolumeNotFound => {}
            Err(error) => {
                left.push(format!("{}/{}", volume.pool, volume.volume));
                first.get_or_insert(error);
            }
        }
    }
    match first {
        None => Ok(()),
        Some(error) => Err(Error::new(
            error.kind(),
            format!("the VM is deleted, but these volumes are left: {}", left.join(", ")),
        )
        .with_detail("left", left)
        .with_source(error)),
    }
}

/// What goes with the VM: what its guest was told by, and the volumes of its own disks if they shall, as long as each
/// can be deleted without harm to anybody.
fn removable(picture: &Picture, record: &VmRecord, disks: bool) -> Result<Vec<VolumeRef>> {
    let mut volumes = told_by(picture, record)?;
    if !disks {
        return Ok(volumes);
    }
    for disk in record.whole()?.disks {
        if disk.device != DiskDevice::Disk || disk.read_only || disk.shareable {
            continue;
        }
        if disk.source.is_none() {
            continue;
        }
        let reference = disk.volume.clone().ok_or_else(|| {
            Error::new(
                Kind::Impossible,
                format!(
                    "the disk {} of VM {:?} is not a volume of a known, active pool",
                    disk.target, record.vm.name
                ),
            )
            .with_hint("start or define the pool that holds it, or delete the VM without its disks")
            .with_detail("disk", disk.target.as_str())
        })?;
        let volume = picture.volume(&reference.pool, &reference.volume)?;
        refuse_used_but_by(&volume, |user| user == record.vm.name)?;
        if record.vm.snapshot_count > 0 && !volume.backing_chain.is_empty() {
            return Err(Error::new(
                Kind::NotSupported,
                format!(
                    "the disk {} of VM {:?} is a chain of snapshots; delete the snapshots first",
                    disk.target, record.vm.name
                ),
            ));
        }
        if !volumes.contains(&reference) {
            volumes.push(reference);
        }
    }
    Ok(volumes)
}

/// What nobody would read any more once these volumes of a VM are gone, as far as its disks stood on it
/// and it is no template's. It may be an image for further VMs, or have been this VM's own disk until
/// others were cloned from it: nothing tells, so it stays.
fn left_behind(picture: &Picture, vm: &str, volumes: &[VolumeRef]) -> Vec<String> {
    let mut going: BTreeSet<VolumeRef> = volumes.iter().cloned().collect();
    let mut left = Vec::new();
    for reference in volumes {
        let Ok(volume) = picture.volume(&reference.pool, &reference.volume) else { continue };
        for below in &volume.backing_chain {
            let (Some(pool), Some(name)) = (&below.pool, &below.volume) else { break };
            let Ok(base) = picture.volume(pool, name) else { break };
            let is_free = base.template.is_none()
                && base.used_as.keys().all(|user| user == vm)
                && base.backing_of.iter().all(|user| going.contains(user));
            if !is_free {
                break;
            }
            if going.insert(base.reference()) {
                left.push(format!(
                    "the volume {} stays, and nothing uses it any more",
                    base.reference()
                ));
            }
        }
    }
    left
}

fn plan(
    picture: &Picture,
    record: &VmRecord,
    request: DeleteVm,
    volumes: Result<Vec<VolumeRef>>,
    admitted: Result<()>,
) -> Result<Plan> {
    let vm = &record.vm;
    let mut side_effects = Vec::new();
    if vm.state.is_active() && request.force {
        side_effects.push("cuts the VM's power".to_owned());
    }
    if vm.has_saved_state && request.remove_saved_state {
        side_effects.push("deletes its saved state".to_owned());
    }
    if vm.snapshot_count > 0 && request.remove_snapshots {
        side_effects.push(format!("forgets its {} snapshots", vm.snapshot_count));
    }
    let whole = record.whole()?;
    if whole.os.nvram.is_some() {
        side_effects.push("deletes its firmware's variables".to_owned());
    }
    if whole.tpm.is_some_and(|tpm| tpm.backend == "emulator") {
        side_effects.push("deletes its TPM's state".to_owned());
    }
    for volume in volumes.iter().flatten() {
        side_effects.push(format!("deletes the volume {}/{}", volume.pool, volume.volume));
    }
    let warnings = left_behind(picture, &vm.name, volumes.as_deref().unwrap_or_default());
    let mut blockers = blockers(admitted);
    blockers.extend(self::blockers(volumes.map(drop)));
    Ok(Plan {
        xml_diff: crate::xml::diff::unified(&record.definition().text()?, ""),
        side_effects,
        warnings,
        blockers,
        ..Plan::of("vm.delete", subject(vm))
    })
}
