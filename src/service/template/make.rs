//! A template of a stopped VM: copies of its disks, or these themselves.
//!
//! Copied, the VM stays as it is. Converted, the template is written down before the VM's
//! definition goes, so that its disks are never nobody's.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::{TemplateService, from_vm, proper, subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session, domain, volume};
use crate::model::vm_request::DiskBus;
use crate::model::{
    CloneVolume, Disk, MakeTemplate, ResourceName, TemplateDisk, VmState, VolumeName, VolumeRef,
};
use crate::service::adopt::judge_after_loss;
use crate::service::gate::{Key, Work};
use crate::service::inventory::{Picture, VmRecord};
use crate::service::operation::{SLOW_CALL, plan};
use crate::service::task::{End, Operation, QUICK_WAIT, TaskHandle};
use crate::service::vm::{own_disks, volume_of};
use crate::service::volume::copy::{self, Copy, Share};
use crate::service::volume::{
    active, holds_files, new_name, pool_key, refuse_used_but_by, volume_key,
};
use crate::service::{Context, Outcome};
use crate::store::TemplateRow;

/// The step of a volume to be made.
pub(super) const VOLUME_STEP: &str = "create-volume";
/// The step of a VM that goes because its disks have become the template's.
pub(super) const CONVERT_STEP: &str = "convert";

/// A VM whose disks become a template's, as the journal has it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Conversion {
    pub vm: Uuid,
    /// The volumes by which its guest is told something of its own.
    #[serde(default)]
    pub told: Vec<VolumeRef>,
}

/// A template that can be made.
struct Draft {
    row: TemplateRow,
    copies: Vec<Copy>,
}

impl TemplateService {
    /// Makes a template of a stopped VM.
    ///
    /// # Errors
    /// 404; 409 if the VM runs, or a name is taken; 422 for what a template cannot have.
    pub async fn make(&self, ctx: Context, id: &str, request: MakeTemplate) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.make_once(&ctx, id, request)).await
    }

    async fn make_once(&self, ctx: &Context, id: &str, request: MakeTemplate) -> Result<Outcome> {
        let record = self.vms.get(id)?;
        self.vms.check_version(ctx, &record)?;
        let (uuid, name) = (record.vm.uuid, record.vm.name.clone());
        let free = proper(request.name.as_str())
            .and_then(|()| self.library.is_free(request.name.as_str(), None))
            .and_then(|()| stopped(&record));
        let owner = ctx.principal.to_string();
        // Of a VM that runs, that is what matters; of a name, that it is taken.
        let free = if ctx.dry_run { free } else { Ok(free?) };
        let draft_on = |picture: &Picture| draft(picture, &record, &request, &owner);
        let (_, draft) = self.tools.inventory.decide(draft_on).await?;
        let work = work(&request);
        if ctx.dry_run {
            let admitted = self.vms.would_admit(&record, work);
            let effects = effects(&draft, &name, request.convert);
            let (blocked, subject) = (free.and(admitted), subject(&draft.row));
            return Ok(plan("template.make", subject, ("", ""), effects, blocked));
        }
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim("template.make", ctx);
        let hold = self.vms.enter(&record, work, &claim).await?;
        let record = self.vms.get(&uuid.to_string())?;
        self.vms.check_version(ctx, &record)?;
        stopped(&record)?;
        let draft = self::draft(&self.tools.inventory.picture(), &record, &request, &owner)?;
        let mut keys = vec![Key::Template(draft.row.id), Key::TemplateName(draft.row.name.clone())];
        keys.extend(draft.row.disks.iter().map(|disk| volume_key(&disk.pool, &disk.volume)));
        let sources = draft.copies.iter().map(|copy| &copy.source);
        let pools: BTreeSet<&str> = sources
            .clone()
            .map(|source| source.pool.as_str())
            .chain(draft.row.disks.iter().map(|disk| disk.pool.as_str()))
            .collect();
        let beside = sources
            .map(|source| volume_key(&source.pool, &source.volume))
            .chain(pools.into_iter().map(pool_key))
            .collect();
        let hold = hold.with(self.tools.gate.take_beside(keys, beside, &claim)?);
        let wait = if request.convert { QUICK_WAIT } else { Duration::ZERO };
        let operation =
            Operation { claim, subject: subject(&draft.row), cancellable: !request.convert, wait };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                let done = match request.convert {
                    true => service.convert(&task, draft, uuid).await,
                    false => service.copy(&task, draft).await,
                };
                match done {
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        judge_after_loss(&service, &task, error).await
                    }
                    done => done,
                }
            })
            .await
    }

    async fn copy(&self, task: &TaskHandle, draft: Draft) -> Result<End> {
        let steps = draft.copies.iter().map(|copy| (VOLUME_STEP.to_owned(), json!(copy.to)));
        task.intend(steps.collect()).await?;
        let total = draft.copies.iter().map(|copy| copy.bytes).sum();
        let (mut done, begun) = (0, Instant::now());
        let mut made: Vec<VolumeRef> = Vec::new();
        let mut copied = Ok(());
        for copy in &draft.copies {
            task.phase("copying");
            let (in_task, in_closure) = (task.clone(), copy.clone());
            let work = self.tools.hypervisor.run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                copy::make(session, &in_task, &in_closure, false).map(drop)
            });
            let share = Share { done, total, begun };
            copied = copy::watched(&self.tools.hypervisor, task, copy, share, work).await;
            if copied.is_err() {
                break;
            }
            made.push(copy.to.clone());
            done += copy.bytes;
        }
        let kept = match copied.and_then(|()| task.point_of_no_return()) {
            Ok(()) => {
                self.tools.inventory.refresh_storage().await?;
                self.library.insert(draft.row).await
            }
            Err(error) => Err(error),
        };
        match kept {
            Ok(row) => self.result(&row),
            Err(error) if error.kind() == Kind::LibvirtUnavailable => Err(error),
            Err(error) => {
                task.phase("undoing");
                let left = self.remove_copies(made).await?;
                Err(if left.is_empty() { error } else { error.with_detail("left", left) })
            }
        }
    }

    /// Removes copies that no template came of. Returns what could not be removed.
    pub(super) async fn remove_copies(&self, volumes: Vec<VolumeRef>) -> Result<Vec<String>> {
        let left = self
            .tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                let stay = volume::delete_all(session, volumes.iter())?;
                Ok(stay.iter().map(|volume| format!("the volume {volume}")).collect::<Vec<_>>())
            })
            .await?;
        self.tools.inventory.refresh_storage().await?;
        Ok(left)
    }

    async fn convert(&self, task: &TaskHandle, draft: Draft, vm: Uuid) -> Result<End> {
        let conversion = Conversion { vm, told: self.vms.told_by(vm)? };
        let undo = serde_json::to_value(&conversion).map_err(Error::internal)?;
        task.intend(vec![(CONVERT_STEP.to_owned(), undo)]).await?;
        let row = self.library.insert(draft.row).await?;
        match self.take_away(conversion).await {
            Ok(()) => self.result(&row),
            Err(error) if error.kind() == Kind::LibvirtUnavailable => Err(error),
            Err(error) => {
                self.library.remove(row.id).await?;
                Err(error)
            }
        }
    }

    /// Removes the definition of a VM whose disks are a template's now, and the volumes by which its
    /// guest was told something of its own, which no template has. Either may be gone already.
    ///
    /// # Errors
    /// The definition stays; `LibvirtUnavailable`.
    pub(super) async fn take_away(&self, conversion: Conversion) -> Result<()> {
        let Conversion { vm, told } = conversion;
        self.vms.act_on(vm, move |session| undefine(session, vm)).await?;
        match self.vms.remove_unused(told).await {
            Err(error) if error.kind() == Kind::LibvirtUnavailable => Err(error),
            // What stays is no reason to keep the template away.
            Err(error) => {
                tracing::warn!(%vm, error = ?error, "what a guest was told stays");
                Ok(())
            }
            Ok(left) => {
                for what in left.all() {
                    tracing::warn!(%vm, what, "what a guest was told stays");
                }
                Ok(())
            }
        }
    }
}

fn undefine(session: &Session, vm: Uuid) -> Result<()> {
    let flags = domain::UndefineFlags {
        checkpoints_metadata: true,
        nvram: true,
        ..domain::UndefineFlags::default()
    };
    match domain::undefine(session, vm, flags) {
        Err(error) if error.kind() == Kind::VmNotFound => Ok(()),
        other => other,
    }
}

fn work(request: &MakeTemplate) -> Work {
    match request.convert {
        true => Work::Delete { force: false, remove_snapshots: false, remove_saved_state: false },
        false => Work::Clone,
    }
}

fn stopped(record: &VmRecord) -> Result<()> {
    if record.vm.state == VmState::Shutoff {
        return Ok(());
    }
    Err(Error::new(
        Kind::VmRunning,
        format!("VM {:?} runs, and a template is made of a stopped one", record.vm.name),
    )
    .with_hint("stop it first, or clone it and make the template of the clone")
    .with_detail("state", record.vm.state.as_str()))
}

fn draft(
    picture: &Picture,
    record: &VmRecord,
    request: &MakeTemplate,
    owner: &str,
) -> Result<Draft> {
    if request.convert && request.pool.is_some() {
        return Err(Error::new(
            Kind::Impossible,
            "a VM that is converted keeps its disks where they are",
        )
        .with_field("pool", "contradicts convert: say one of them"));
    }
    let vm = record.whole()?;
    let now = Timestamp::now();
    let mut row = TemplateRow {
        id: Uuid::now_v7(),
        name: request.name.as_str().to_owned(),
        description: request.description.clone().unwrap_or_else(|| vm.description.clone()),
        settings: from_vm::settings(picture, &vm, &record.definition().text()?)?,
        disks: Vec::new(),
        min_memory: request.min_memory,
        min_vcpus: request.min_vcpus,
        min_disk: request.min_disk,
        source_vm: Some(vm.name.clone()),
        owner: owner.to_owned(),
        created_at: now,
        updated_at: now,
        generation: 1,
    };
    let mut copies: Vec<Copy> = Vec::new();
    for (place, disk) in own_disks(&vm.disks)?.into_iter().enumerate() {
        let source = volume_of(picture, &vm.name, disk)?;
        copy::may_be_copied(picture, &source, false)?;
        if request.convert {
            refuse_used_but_by(&source, |user| user == vm.name)?;
            row.disks.push(image(source.reference(), source.capacity_bytes, disk));
            continue;
        }
        let pool = request.pool.as_ref().map_or(source.pool.as_str(), ResourceName::as_str);
        let pool = picture.pool(pool)?;
        active(&pool)?;
        active(&*picture.pool(&source.pool)?)?;
        let suffix = if place == 0 { String::new() } else { format!("-{place}") };
        let extension = match (holds_files(&pool.pool), source.format.as_deref()) {
            (false, _) => "",
            (true, Some("raw" | "iso" | "unknown" | "none") | None) => ".raw",
            (true, Some(_)) => ".qcow2",
        };
        let name = format!("{}{suffix}{extension}", row.name);
        new_name(&pool, &name)?;
        let to = VolumeRef::new(pool.pool.name.as_str(), name.as_str());
        let name = VolumeName::try_from(name)?;
        let wanted = CloneVolume { name, pool: None, format: None, linked: false };
        let copy = copy::copy(picture, &source, to, &wanted)?;
        row.disks.push(image(copy.to.clone(), source.capacity_bytes, disk));
        copies.push(copy);
    }
    Ok(Draft { row, copies })
}

fn image(volume: VolumeRef, capacity_bytes: u64, disk: &Disk) -> TemplateDisk {
    let bus = serde_json::from_value::<DiskBus>(json!(disk.bus)).ok();
    let VolumeRef { pool, volume } = volume;
    TemplateDisk { pool, volume, capacity_bytes, bus, boot_order: disk.boot_order }
}

fn effects(draft: &Draft, vm: &str, convert: bool) -> Vec<String> {
    if convert {
        let disks = draft.row.disks.iter();
        let mut effects: Vec<String> = disks
            .map(|disk| format!("makes {}/{} a base of the template", disk.pool, disk.volume))
            .collect();
        effects.push(format!("removes VM {vm:?}, whose disks these were"));
        return effects;
    }
    let copies = draft.copies.iter();
    copies
        .map(|copy| format!("copies the {} bytes of {} to {}", copy.bytes, copy.source, copy.to))
        .collect()
}
