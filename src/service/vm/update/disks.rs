//! Disks of an update: which one is meant, and when its change takes hold.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::draft::check::clash;
use super::super::draft::disks::{check_bus, check_tuning, free_target};
use super::decide::{Decision, Engine, unknown};
use super::host::Host;
use crate::error::{Error, Kind, Result};
use crate::model::vm_request::DiskBus;
use crate::model::vm_update::UpdateDisk;
use crate::model::{Disk, DiskDevice, VolumeRef};
use crate::service::inventory::Picture;
use crate::service::volume::{refuse_used_but_by, runs, writers};
use crate::xml::domain::edit::{DiskEdit, DomainEdit};

const GIB: u64 = 1 << 30;

/// A disk that grows: its volume, bytes before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Growth {
    pub(super) target: String,
    pub(super) pool: String,
    pub(super) volume: String,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Growth {
    /// The volume that grows.
    pub(super) fn volume(&self) -> VolumeRef {
        VolumeRef { pool: self.pool.clone(), volume: self.volume.clone() }
    }

    /// What a plan says of it.
    pub(super) fn words(&self, active: bool) -> String {
        let Growth { pool, volume, to, .. } = self;
        let guest = if active { ", which the running guest sees at once" } else { "" };
        format!("grows the volume {pool}/{volume} to {to} bytes{guest}; it cannot shrink again")
    }
}

/// Decides about the disks of a request, each named by its target.
///
/// # Errors
/// 422 for a target that the VM has not, or that is named twice; 409 if others use a volume that is
/// to grow.
pub(super) fn disks(
    engine: &mut Engine<'_>,
    picture: &Picture,
    host: &Host<'_>,
    requests: &[UpdateDisk],
    decision: &mut Decision,
) -> Result<()> {
    let mut seen = HashSet::new();
    for (index, request) in requests.iter().enumerate() {
        let target = request.target.as_str();
        let at = || format!("disks[{index}].target");
        if !seen.insert(target) {
            return Err(clash(at(), format!("{target} is named twice")));
        }
        let find = |disks: &[Disk]| disks.iter().find(|disk| disk.target == target).cloned();
        let (now, next) = (find(&engine.now.disks), find(&engine.next.disks));
        let Some(present) = now.as_ref().or(next.as_ref()) else {
            let names = engine.now.disks.iter().map(|disk| disk.target.as_str());
            return Err(unknown(at(), "disk", target, names));
        };
        if let Some(size) = request.size {
            grow(engine, picture, present, size, decision)?;
        }
        let mut edit = DiskEdit::default();
        let stored = next.as_ref().unwrap_or(present);
        if let Some(read_only) = request.read_only.filter(|wanted| *wanted != stored.read_only) {
            let field = format!("disks.{target}.read_only");
            if stored.device == DiskDevice::Cdrom {
                engine.impossible(&field, json!(true), json!(false), "a CD cannot be written to");
            } else {
                let why = "whether a disk can be written to is fixed while the VM runs";
                engine.note(&field, json!(stored.read_only), json!(read_only), Some(why));
                edit.read_only = Some(read_only);
            }
        }
        let serial = stored.serial.as_deref().unwrap_or_default();
        if let Some(wanted) = request.serial.as_ref().filter(|wanted| *wanted != serial) {
            let why = "the guest reads a disk's serial number when it boots";
            let field = format!("disks.{target}.serial");
            engine.note(&field, json!(stored.serial), json!(wanted), Some(why));
            edit.serial = Some(wanted.clone());
        }
        let moved = moved_to(engine, host, index, request, stored, &decision.config)?;
        tune(engine, index, request, stored, moved.as_ref().map(|(bus, _)| *bus), &mut edit)?;
        edit.bus = moved;
        if edit != DiskEdit::default() {
            decision.config.disks.insert(target.to_owned(), edit);
        }
    }
    Ok(())
}

/// Where a disk goes that changes its bus: the bus and the next free target on it.
fn moved_to(
    engine: &mut Engine<'_>,
    host: &Host<'_>,
    index: usize,
    request: &UpdateDisk,
    stored: &Disk,
    config: &DomainEdit,
) -> Result<Option<(DiskBus, String)>> {
    let Some(bus) = request.bus.filter(|bus| bus.as_str() != stored.bus) else { return Ok(None) };
    check_bus(&format!("disks[{index}].bus"), stored.device, bus, host.buses())?;
    let field = format!("disks.{}.bus", stored.target);
    if engine.next.cloud_init.as_ref().is_some_and(|seed| seed.target == stored.target) {
        let why = "the disk that cloud-init reads stays where it is";
        engine.impossible(&field, json!(stored.bus), json!(bus), why);
        return Ok(None);
    }
    let planned = |target: &str| {
        let mut moves = config.disks.values().filter_map(|edit| edit.bus.as_ref());
        moves.any(|(_, planned)| planned == target)
    };
    let (now, next) = (engine.now, engine.next);
    let target = free_target(bus, |target| {
        let mut disks = now.disks.iter().chain(&next.disks);
        planned(target) || disks.any(|disk| disk.target == target)
    });
    let why = "a disk stays on its bus while the VM runs";
    engine.note(&field, json!(stored.bus), json!(bus), Some(why));
    engine.note(
        &format!("disks.{}.target", stored.target),
        json!(stored.target),
        json!(target),
        Some("the target follows the bus"),
    );
    Ok(Some((bus, target)))
}

/// How QEMU drives a disk: fixed while the VM runs.
fn tune(
    engine: &mut Engine<'_>,
    index: usize,
    request: &UpdateDisk,
    stored: &Disk,
    moved: Option<DiskBus>,
    edit: &mut DiskEdit,
) -> Result<()> {
    let at = |part: &str| format!("disks[{index}].{part}");
    let bus = moved.map_or(stored.bus.as_str(), |bus| bus.as_str());
    let virtio = bus == DiskBus::Virtio.as_str();
    let iothread = request.iothread.or(stored.iothread).filter(|number| *number > 0);
    // What stands in a definition by others is not judged as long as nobody touches it.
    if request.iothread.is_some() || moved.is_some() {
        let bus = if virtio { DiskBus::Virtio } else { DiskBus::Sata };
        check_tuning(&at, (None, None), iothread, bus)
            .map_err(|error| error.with_hint("an iothread of 0 takes the present one away"))?;
    }
    if request.cache.is_some() || request.io.is_some() {
        let (cache, io) = (request.cache.or(stored.cache), request.io.or(stored.io));
        check_tuning(&at, (cache, io), None, DiskBus::Virtio)?;
    }
    let field = |part: &str| format!("disks.{}.{part}", stored.target);
    let why = "how QEMU drives a disk is fixed while the VM runs";
    let cache = request.cache.filter(|wanted| Some(*wanted) != stored.cache);
    if let Some(wanted) = cache {
        engine.note(&field("cache"), json!(stored.cache), json!(wanted), Some(why));
    }
    let io = request.io.filter(|wanted| Some(*wanted) != stored.io);
    if let Some(wanted) = io {
        engine.note(&field("io"), json!(stored.io), json!(wanted), Some(why));
    }
    let discard = request.discard.filter(|wanted| Some(*wanted) != stored.discard);
    if let Some(wanted) = discard {
        engine.note(&field("discard"), json!(stored.discard), json!(wanted), Some(why));
    }
    let present = stored.iothread.unwrap_or_default();
    let iothread = request.iothread.filter(|wanted| *wanted != present);
    if let Some(wanted) = iothread {
        let to = (wanted > 0).then_some(wanted);
        engine.note(&field("iothread"), json!(stored.iothread), json!(to), Some(why));
    }
    let order = engine.boot_order(&field("boot_order"), stored.boot_order, request.boot_order);
    *edit = DiskEdit { cache, io, discard, iothread, boot_order: order, ..std::mem::take(edit) };
    Ok(())
}

fn grow(
    engine: &mut Engine<'_>,
    picture: &Picture,
    disk: &Disk,
    size: u64,
    decision: &mut Decision,
) -> Result<()> {
    let field = format!("disks.{}.size", disk.target);
    let to = size * GIB;
    let mut refuse = |from: Value, why: &str| engine.impossible(&field, from, json!(size), why);
    if disk.device != DiskDevice::Disk {
        refuse(Value::Null, "only a disk has a size of its own");
        return Ok(());
    }
    let volume = disk.volume.as_ref().and_then(|of| picture.volume(&of.pool, &of.volume).ok());
    let Some(volume) = volume else {
        refuse(Value::Null, "what the disk lies on is no volume of a known pool");
        return Ok(());
    };
    let from = volume.capacity_bytes;
    #[allow(clippy::cast_precision_loss)]
    let shown = if from % GIB == 0 { json!(from / GIB) } else { json!(from as f64 / GIB as f64) };
    if to == from {
        return Ok(());
    }
    if to < from {
        let why = format!("a disk only grows, and it has {from} bytes");
        refuse(shown, &why);
        return Ok(());
    }
    if disk.read_only {
        refuse(shown, "it is read-only");
        return Ok(());
    }
    // Whoever else has it open keeps it from growing, or would not be told.
    let this = engine.now.uuid;
    let writers = writers(picture, &volume)?;
    let is_writer = |user: &str| writers.iter().any(|one| one.vm.name == user);
    refuse_used_but_by(&volume, is_writer)?;
    if let Some(other) = writers.iter().find(|user| user.vm.uuid != this && runs(user)) {
        return Err(Error::new(
            Kind::VolumeInUse,
            format!(
                "the running VM {:?} has the volume {}/{} open, too",
                other.vm.name, volume.pool, volume.name
            ),
        )
        .with_hint("stop it first"));
    }
    engine.note(&field, shown, json!(size), None);
    let (pool, name) = (volume.pool.clone(), volume.name.clone());
    let target = disk.target.clone();
    decision.growths.push(Growth { target, pool, volume: name, from, to });
    Ok(())
}
