//! What an old definition needs that is gone, or has become another VM's: told by the picture.
//!
//! Only what the present definition does not have is looked at: that a disk is missing already is no
//! reason against a way back that changes something else.

use serde_json::json;

use crate::error::{Error, Kind, Result};
use crate::model::{Disk, DiskDevice, Vm, VolumeRef};
use crate::service::inventory::{Picture, VmRecord};
use crate::service::volume::refuse_used_but_by;
use crate::xml::domain::view::{Place, places};

/// What goes along with another definition.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Moves {
    /// Volumes that become disks again.
    pub(super) attached: Vec<VolumeRef>,
    /// Each move in words.
    pub(super) words: Vec<String>,
}

/// Which disks come and go between the definition of now and that of then.
pub(super) fn moves(picture: &Picture, now: &Vm, then: &Vm) -> Moves {
    let mut moves = Moves::default();
    for disk in only_in(&then.disks, &now.disks) {
        match volume_of(picture, disk) {
            Some(volume) => {
                moves.words.push(format!("attach {volume} as {} again", disk.target));
                moves.attached.push(volume);
            }
            None => moves.words.push(format!("attach {} again", words(disk))),
        }
    }
    for disk in only_in(&now.disks, &then.disks) {
        let source = volume_of(picture, disk)
            .map_or_else(|| disk.source.clone().unwrap_or_default(), |v| v.to_string());
        moves.words.push(format!("detach {}; {source} stays as it is", disk.target));
    }
    moves
}

/// Everything that stands against it, one error of each kind.
pub(super) fn obstacles(picture: &Picture, record: &VmRecord, now: &Vm, then: &Vm) -> Vec<Error> {
    let mut gone: Vec<(String, String)> = Vec::new();
    let mut found = Vec::new();
    for disk in only_in(&then.disks, &now.disks) {
        match volume_of(picture, disk) {
            Some(volume) => found.extend(taken(picture, record, disk, &volume).err()),
            None => gone.extend(missing(picture, disk).map(|what| (disk.target.clone(), what))),
        }
    }
    for nic in &then.networks {
        let known = now.networks.iter().any(|present| present.source == nic.source);
        let name = nic.source.name.as_deref().filter(|_| nic.source.r#type == "network" && !known);
        if let Some(name) = name
            && picture.network(name).is_err()
        {
            gone.push((nic.mac.clone(), format!("the network {name:?}")));
        }
        let own = now.networks.iter().any(|present| present.mac == nic.mac);
        if !own && let Some(user) = picture.vm_with_mac(&nic.mac).filter(|user| *user != now.name) {
            found.push(
                Error::new(Kind::MacInUse, format!("{} is a MAC address of VM {user:?}", nic.mac))
                    .with_detail("vm", user),
            );
        }
    }
    if !gone.is_empty() {
        let names: Vec<&str> = gone.iter().map(|(_, what)| what.as_str()).collect();
        let message = format!("that definition needs what is gone: {}", names.join(", "));
        let error = Error::new(Kind::Impossible, message)
            .with_hint("make it again, or take the rest over with PUT …/xml")
            .with_detail("gone", json!(names));
        let fields = gone.into_iter();
        found.insert(0, fields.fold(error, |error, (field, what)| error.with_field(field, what)));
    }
    found
}

/// Disks whose source the others do not have.
fn only_in<'a>(disks: &'a [Disk], others: &'a [Disk]) -> impl Iterator<Item = &'a Disk> {
    disks.iter().filter(|disk| {
        disk.source.is_some() && !others.iter().any(|other| place(other) == place(disk))
    })
}

fn place(disk: &Disk) -> Option<Place> {
    places(std::slice::from_ref(disk)).next()
}

fn words(disk: &Disk) -> String {
    format!("{} as {}", disk.source.as_deref().unwrap_or_default(), disk.target)
}

/// The volume that a disk is, as far as a pool knows it.
fn volume_of(picture: &Picture, disk: &Disk) -> Option<VolumeRef> {
    match place(disk)? {
        Place::Path(path) => Some(picture.paths.get(&*path)?.volume.clone()),
        Place::Volume(volume) => {
            picture.volume(&volume.pool, &volume.volume).is_ok().then_some(*volume)
        }
    }
}

/// What is gone, where that can be told: a volume of a pool, or a file in the folder of one.
fn missing(picture: &Picture, disk: &Disk) -> Option<String> {
    match place(disk)? {
        Place::Volume(volume) => Some(format!("the volume {volume}")),
        Place::Path(path) => {
            let (folder, name) = path.rsplit_once('/')?;
            let pool = picture.pools.iter().map(|record| &record.pool).find(|pool| {
                pool.state.is_active()
                    && pool.target_path.as_deref().map(|path| path.trim_end_matches('/'))
                        == Some(folder)
            })?;
            Some(format!("the volume {}/{name}", pool.name))
        }
    }
}

/// 409 if writing to the volume would spoil it for somebody else.
fn taken(picture: &Picture, record: &VmRecord, disk: &Disk, volume: &VolumeRef) -> Result<()> {
    let shared = disk.read_only || disk.shareable || disk.device == DiskDevice::Cdrom;
    if shared {
        return Ok(());
    }
    let volume = picture.volume(&volume.pool, &volume.volume)?;
    refuse_used_but_by(&volume, |user| user == record.vm.name)
}
