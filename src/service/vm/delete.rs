//! Deleting a VM, with or without its disks. Everything that could stop it half-way is checked
//! first; the disks go last, so that no VM is ever left without them.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{SLOW_CALL, VmService, check_if_match, condition, fetch_if_there, subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session, domain, storage};
use crate::model::{DiskDevice, Plan, Vm, VolumeRef};
use crate::service::gate::{self, Condition, Work};
use crate::service::inventory::{Picture, VmRecord};
use crate::service::storage::{blockers, in_use};
use crate::service::task::{End, Operation, QUICK_WAIT, TaskHandle};
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
        self.tasks.once(&ctx, self.delete_once(&ctx, id, request)).await
    }

    async fn delete_once(&self, ctx: &Context, id: &str, request: DeleteVm) -> Result<Outcome> {
        let record = self.get(id)?;
        check_if_match(ctx, &record)?;
        let (uuid, name) = (record.vm.uuid, record.vm.name.clone());
        let work = request.work();
        let volumes = if request.remove_disks {
            removable(&self.inventory.picture(), &record)
        } else {
            Ok(Vec::new())
        };
        if ctx.dry_run {
            let admitted = self.gate.would_admit(&name, uuid, work, condition(&record.vm));
            return Ok(Outcome::Planned(Box::new(plan(&record, request, volumes, admitted)?)));
        }
        self.need_libvirt(Some(uuid)).await?;
        let claim = self.tasks.claim("vm.delete", ctx);
        let hold = self.gate.enter(&name, uuid, work, || self.condition(uuid), &claim).await?;
        let present = self.get(&uuid.to_string())?;
        check_if_match(ctx, &present)?;
        let volumes = volumes?;
        let operation =
            Operation { claim, subject: subject(&record.vm), cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tasks
            .submit(ctx, operation, hold, move |task| async move {
                service.remove(&task, &record, request, volumes).await
            })
            .await
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
        let tickets = self.inventory.tickets();
        let done = self
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
                return self.judge_after_loss(task, error).await;
            }
            Err(error) => return Err(error),
        };
        if let Ok(fetched) = fetched {
            self.inventory.apply(uuid, fetched, ticket).await?;
        }
        if has_volumes && let Err(error) = self.inventory.refresh_storage().await {
            tracing::warn!(error = ?error, "the deleted volumes will vanish with the next refresh");
        }
        match removed {
            Ok(()) => Ok(End::Done(Value::Null)),
            Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                self.judge_after_loss(task, error).await
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
        match domain::destroy(session, uuid, false) {
            // It stopped by itself in the last moment.
            Err(error) if matches!(error.kind(), Kind::VmNotRunning | Kind::VmNotFound) => {}
            other => other?,
        }
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
        },
    )
}

/// Deletes every volume it can; an error names what is left.
pub(super) fn remove_volumes(session: &Session, volumes: &[VolumeRef]) -> Result<()> {
    let mut left = Vec::new();
    let mut first = None;
    for volume in volumes {
        match storage::delete_volume(session, &volume.pool, &volume.volume) {
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

/// The volumes of the VM's own disks, if each can be deleted without harm to anybody.
fn removable(picture: &Picture, record: &VmRecord) -> Result<Vec<VolumeRef>> {
    let mut volumes = Vec::new();
    for disk in &record.vm.disks {
        if disk.device != DiskDevice::Disk || disk.read_only || disk.shareable {
            continue;
        }
        let Some(source) = disk.source.as_deref() else { continue };
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
        let others: Vec<String> = picture
            .users_of(&reference, &volume.path)
            .into_iter()
            .filter(|user| *user != record.vm.name)
            .collect();
        if !others.is_empty() {
            return Err(in_use(&reference.pool, &reference.volume, &others));
        }
        let overlay = picture
            .pools
            .iter()
            .flat_map(|pool| &pool.volumes)
            .find(|other| other.backing_path.as_deref() == Some(source));
        if let Some(overlay) = overlay {
            return Err(Error::new(
                Kind::VolumeInUse,
                format!(
                    "the volume {}/{} is the base of {}/{}",
                    reference.pool, reference.volume, overlay.pool, overlay.name
                ),
            )
            .with_detail("volumes", json!([format!("{}/{}", overlay.pool, overlay.name)])));
        }
        if record.vm.snapshot_count > 0 && volume.backing_path.is_some() {
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

fn plan(
    record: &VmRecord,
    request: DeleteVm,
    volumes: Result<Vec<VolumeRef>>,
    admitted: Result<()>,
) -> Result<Plan> {
    let vm: &Vm = &record.vm;
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
    for volume in volumes.iter().flatten() {
        side_effects.push(format!("deletes the volume {}/{}", volume.pool, volume.volume));
    }
    let mut blockers = blockers(admitted);
    blockers.extend(self::blockers(volumes.map(drop)));
    Ok(Plan {
        operation: "vm.delete".to_owned(),
        subject: subject(vm),
        changes: Vec::new(),
        xml_diff: crate::xml::diff::unified(&record.definition().text()?, ""),
        side_effects,
        blockers,
    })
}
