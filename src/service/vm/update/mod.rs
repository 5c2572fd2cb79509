//! Partial update: one engine decides for each field whether it takes hold live, with the next
//! boot, or not at all, and the same decision is shown by a dry run and carried out by an update.
//!
//! Carried out, it is all or nothing: the stored definition is replaced first, then what can be
//! is changed live; a refusal puts back what was changed.

mod apply;
mod cpu;
mod decide;
mod disks;
mod hardware;
mod host;
mod nics;

use std::path::PathBuf;
use std::sync::Arc;

use uuid::Uuid;

use self::apply::apply;
use self::decide::{Decision, Facts, decide, impossible};
use self::disks::Growth;
use super::draft::check::{
    contradicts, count, fail, is_line_char, is_word, is_xml_char, range, text,
};
use super::draft::nics::check_mac;
use super::draft::variant::overcommit;
use super::reseed::Reseed;
use super::{VmService, check_if_match, condition, subject};
use crate::error::{Error, Result};
use crate::libvirt::Lane;
use crate::model::{Plan, UpdateVm, VolumeRef};
use crate::service::gate::{Key, Work};
use crate::service::inventory::{Picture, VmRecord};
use crate::service::operation::{SLOW_CALL, blockers};
use crate::service::task::{Operation, QUICK_WAIT};
use crate::service::volume::pool_key;
use crate::service::{Context, Outcome};
use crate::xml;
use crate::xml::domain::edit::{self, DomainEdit};

/// The step that keeps the request, by which a restarted daemon judges whether it was done.
pub(super) const UPDATE_STEP: &str = "update";

impl VmService {
    /// Changes what the request names and leaves the rest.
    ///
    /// # Errors
    /// 400 for values out of range; 404; 409; 412; 422 for what is impossible for this VM; what
    /// libvirt refuses with, and then the VM is as it was.
    pub async fn update(&self, ctx: Context, id: &str, request: UpdateVm) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.update_once(&ctx, id, request)).await
    }

    async fn update_once(&self, ctx: &Context, id: &str, mut request: UpdateVm) -> Result<Outcome> {
        check(&request)?;
        let record = self.target(ctx, id).await?;
        // Taken out before the request is written down anywhere.
        let reseed = self.prepare_reseed(&record, &mut request).await?;
        // Written down as libosinfo knows it.
        if let Some(name) = request.os.as_mut().and_then(|os| os.variant.as_mut())
            && !name.is_empty()
            && let Some(known) = self.ground.os_variants.resolve(name).await?
        {
            name.clone_from(&known.id);
        }
        let (uuid, name) = (record.vm.uuid, record.vm.name.clone());
        let picture = self.tools.inventory.picture();
        let decision = self.decided(&picture, &record, &request, reseed.as_ref())?;
        if ctx.dry_run {
            let (alone, beside) = more_keys(&name, &decision, reseed.as_ref());
            let gate = &self.tools.gate;
            let blocked = impossible(&decision)
                .and_then(|()| gate.would_admit(&name, uuid, Work::Update, condition(&record.vm)))
                .and_then(|()| gate.would_take(&alone, &beside));
            return Ok(Outcome::Planned(Box::new(plan(&record, decision, blocked)?)));
        }
        impossible(&decision)?;
        self.know_devices(decision.config.hardware.pci.as_deref().unwrap_or_default()).await?;
        self.need_libvirt(Some(uuid)).await?;
        let claim = self.tools.tasks.claim("vm.update", ctx);
        let hold = self
            .tools
            .gate
            .enter(&name, uuid, Work::Update, || self.condition(uuid), &claim)
            .await?;
        // Decided anew under the hold, on what is the case now.
        let record = self.get(&uuid.to_string())?;
        check_if_match(ctx, &record)?;
        let picture = self.tools.inventory.picture();
        let reseed = reseed.map(|reseed| reseed.anew(&picture, &record)).transpose()?;
        let decision = self.decided(&picture, &record, &request, reseed.as_ref())?;
        impossible(&decision)?;
        let (alone, beside) = more_keys(&name, &decision, reseed.as_ref());
        let hold = hold.with(self.tools.gate.take_beside(alone, beside, &claim)?);
        let step = serde_json::to_value(&request).map_err(Error::internal)?;
        let mut steps = vec![(UPDATE_STEP.to_owned(), step)];
        steps.extend(reseed.iter().flat_map(Reseed::steps));
        let operation =
            Operation { claim, subject: subject(&record.vm), cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                task.intend(steps).await?;
                for warning in &decision.warnings {
                    task.warn(warning).await;
                }
                let vm = (uuid, name, record.vm.persistent, record.vm.state.is_active());
                let growths = decision.growths.iter().map(Growth::volume);
                let changed = growths.chain(reseed.as_ref().and_then(Reseed::new_volume)).collect();
                let updated = service
                    .act(uuid, Lane::Slow, move |session| {
                        let (uuid, name, persistent, active) = vm;
                        let vm = (name.as_str(), uuid);
                        let before = match &reseed {
                            Some(reseed) => Some((reseed, reseed.apply(session, vm)?)),
                            None => None,
                        };
                        let applied = apply(session, uuid, &name, persistent, active, &decision);
                        applied.map_err(|error| match &before {
                            Some((reseed, before)) => reseed.put_back(session, vm, before, error),
                            None => error,
                        })
                    })
                    .await;
                let updated = service.with_volumes(uuid, changed, updated).await;
                service.verdict(&task, updated).await
            })
            .await
    }

    /// In which directories lies what guests may share.
    pub(super) fn shareable(&self) -> &[PathBuf] {
        &self.ground.security.virtiofs_roots
    }

    /// What the request comes to for this VM.
    fn decided(
        &self,
        picture: &Picture,
        record: &VmRecord,
        request: &UpdateVm,
        reseed: Option<&Reseed>,
    ) -> Result<Decision> {
        let mut decision = decide(picture, self.shareable(), &Facts::of(record)?, request)?;
        if let Some(reseed) = reseed {
            decision.changes.push(reseed.change());
            decision.side_effects.push(reseed.side_effect());
            decision.config.seed = reseed.disk();
        }
        if let (Some(max), Some(host)) = (decision.config.max_memory_mib, &picture.capabilities) {
            overcommit(&self.ground.limits.load(), max, host, &mut decision.warnings)?;
        }
        Ok(decision)
    }

    /// The record with its new volume, and with the sizes that its grown disks have now, whatever came
    /// of it.
    async fn with_volumes(
        &self,
        uuid: Uuid,
        changed: Vec<VolumeRef>,
        updated: Result<Option<Arc<VmRecord>>>,
    ) -> Result<Option<Arc<VmRecord>>> {
        if changed.is_empty() {
            return updated;
        }
        for VolumeRef { pool, volume } in changed {
            if let Err(error) = self.tools.inventory.refresh_volume(&pool, &volume).await {
                tracing::warn!(pool, volume, error = ?error, "it is seen later");
            }
        }
        match (self.tools.inventory.refresh(uuid, SLOW_CALL).await, updated) {
            (Ok(record), Ok(_)) => Ok(record),
            (_, updated) => updated,
        }
    }
}

/// What is held besides the VM: both names of one that is renamed; each volume that grows, and that of
/// its cloud-init if that is rewritten, and their pools beside others.
fn more_keys(name: &str, decision: &Decision, reseed: Option<&Reseed>) -> (Vec<Key>, Vec<Key>) {
    let of = |growth: &Growth| {
        (Key::Volume(growth.pool.clone(), growth.volume.clone()), pool_key(&growth.pool))
    };
    let (mut alone, mut beside): (Vec<Key>, Vec<Key>) = decision.growths.iter().map(of).unzip();
    if let Some((own, pools)) = reseed.map(Reseed::keys) {
        alone.extend(own);
        beside.extend(pools);
    }
    if let Some(new) = &decision.rename {
        alone.extend([Key::VmName(name.to_owned()), Key::VmName(new.clone())]);
    }
    (alone, beside)
}

fn check(request: &UpdateVm) -> Result<()> {
    let mut wrong = Vec::new();
    range(&mut wrong, "memory", request.memory, false, 16, 67_108_864);
    range(&mut wrong, "max_memory", request.max_memory, false, 16, 67_108_864);
    range(&mut wrong, "vcpus", request.vcpus.map(u64::from), false, 1, 1024);
    range(&mut wrong, "max_vcpus", request.max_vcpus.map(u64::from), false, 1, 1024);
    text(&mut wrong, "title", request.title.as_deref(), 255, is_line_char);
    text(&mut wrong, "description", request.description.as_deref(), 8192, is_xml_char);
    if request.boot.as_ref().is_some_and(|boot| boot.len() > 4) {
        wrong.push(("boot", "has more than 4 entries".to_owned()));
    }
    if request.labels.as_ref().is_some_and(|labels| labels.len() > 64) {
        wrong.push(("labels", "has more than 64 entries".to_owned()));
    }
    count(&mut wrong, "disks", request.disks.as_ref().map(Vec::len), 32);
    count(&mut wrong, "networks", request.networks.as_ref().map(Vec::len), 16);
    count(&mut wrong, "graphics", request.graphics.as_ref().map(Vec::len), 4);
    let pins = request.cpu.as_ref().and_then(|cpu| cpu.pinning.as_ref());
    count(&mut wrong, "cpu.pinning", pins.map(Vec::len), 1024);
    let cells = request.cpu.as_ref().and_then(|cpu| cpu.numa.as_ref());
    count(&mut wrong, "cpu.numa", cells.map(Vec::len), 64);
    for disk in request.disks.iter().flatten() {
        range(&mut wrong, "disks.size", disk.size, false, 1, 65_536);
        let plain = |c: char| is_word(c) || c == '+';
        text(&mut wrong, "disks.serial", disk.serial.as_deref(), 36, plain);
        range(&mut wrong, "disks.iothread", disk.iothread.map(u64::from), false, 0, 64);
        range(&mut wrong, "disks.boot_order", disk.boot_order.map(u64::from), false, 0, 32);
    }
    for nic in request.networks.iter().flatten() {
        range(&mut wrong, "networks.vlan", nic.vlan.map(u64::from), false, 0, 4094);
        range(&mut wrong, "networks.boot_order", nic.boot_order.map(u64::from), false, 0, 32);
    }
    fail(&wrong)?;
    for (index, nic) in request.networks.iter().flatten().enumerate() {
        check_mac(&format!("networks[{index}].mac"), &nic.mac)?;
    }
    contradicts("max_memory", request.max_memory, "memory", request.memory)?;
    let (max_vcpus, vcpus) = (request.max_vcpus.map(u64::from), request.vcpus.map(u64::from));
    contradicts("max_vcpus", max_vcpus, "vcpus", vcpus)
}

fn plan(record: &VmRecord, decision: Decision, blocked: Result<()>) -> Result<Plan> {
    let old = &record.definition().text()?;
    let xml_diff = if record.vm.persistent && decision.config != DomainEdit::default() {
        xml::diff::unified(old, &edit::apply(old, &decision.config)?)
    } else {
        String::new()
    };
    let active = record.vm.state.is_active();
    let mut side_effects = decision.side_effects;
    side_effects.extend(decision.growths.iter().map(|growth| growth.words(active)));
    if decision.growths.len() > 1 {
        side_effects.push(
            "grows the disks one after the other, the last of all changes: if one is refused, those \
             before it stay grown, and every other change is put back"
                .to_owned(),
        );
    }
    Ok(Plan {
        changes: decision.changes,
        xml_diff,
        side_effects,
        warnings: decision.warnings,
        blockers: blockers(blocked),
        ..Plan::of("vm.update", subject(&record.vm))
    })
}

/// Which of the requested fields the VM does not have, neither now nor with the next boot: how a
/// restarted daemon judges an update that it finds unfinished.
pub(super) fn unmet(
    picture: &Picture,
    shareable: &[PathBuf],
    record: &VmRecord,
    request: &UpdateVm,
) -> Result<Vec<String>> {
    let facts = Facts::of(record)?;
    let mut request = request.clone();
    // A disk that is on its new bus has another target now.
    let known = |target: &str| facts.next.disks.iter().any(|disk| disk.target == target);
    if let Some(disks) = &mut request.disks {
        disks.retain(|disk| disk.bus.is_none() || known(disk.target.as_str()));
    }
    Ok(decide(picture, shareable, &facts, &request)?
        .changes
        .into_iter()
        .map(|change| change.field)
        .collect())
}

#[cfg(test)]
mod tests;
