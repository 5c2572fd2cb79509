//! What a clone is to be: decided by what is known, before anything is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use uuid::Uuid;

use super::{ClonePlan, NewDisk, OwnOverlay, Way};
use crate::error::{Error, Kind, Result};
use crate::model::vm_request::DiskFormat;
use crate::model::{
    CloneDisk, CloneVm, CloneVolume, Disk, DiskDevice, ResourceName, VmState, VolumeName, VolumeRef,
};
use crate::service::gate::Key;
use crate::service::inventory::{Picture, PoolRecord, VmRecord, VolumeRecord};
use crate::service::volume::copy::{self, Copy};
use crate::service::volume::{active, holds_files, new_name, pool_key, volume_key, writers};
use crate::xml::domain::clone::{self, placed};
use crate::xml::domain::media::Medium;
use crate::xml::domain::view;

/// A clone that can be made.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub plan: ClonePlan,
    /// By target: what is copied, or what an overlay is put on.
    pub copies: BTreeMap<String, Copy>,
    /// The same for the source's own overlays.
    pub own: BTreeMap<String, Copy>,
    /// The targets of all disks of the running source.
    pub targets: Vec<String>,
    /// Whether the agent of the running source has its channel open.
    pub has_agent: bool,
    /// Other VMs that could write to what is copied.
    pub others: Vec<Uuid>,
}

impl Draft {
    /// Decides.
    ///
    /// # Errors
    /// 404, 409 and 422 as the request deserves.
    pub(super) fn of(
        picture: &Picture,
        source: &VmRecord,
        request: &CloneVm,
        owner: &str,
    ) -> Result<Draft> {
        let runs = source.vm.state != VmState::Shutoff;
        let way = match (runs, request.linked) {
            (false, false) => Way::Copied,
            (false, true) => Way::Linked,
            (true, false) => Way::Live,
            (true, true) => {
                return Err(Error::new(
                    Kind::Impossible,
                    format!(
                        "VM {:?} writes to its disks, so nothing can be based on them",
                        source.vm.name
                    ),
                )
                .with_field("linked", "is possible only while the source is stopped")
                .with_hint(
                    "stop it first, copy it without linking, or make a template of a copy",
                ));
            }
        };
        if way == Way::Linked && source.vm.snapshot_count > 0 {
            return Err(Error::new(
                Kind::Impossible,
                format!(
                    "VM {:?} has snapshots, which belong to its disks as they are",
                    source.vm.name
                ),
            )
            .with_field("linked", "is possible only for a VM without snapshots")
            .with_hint("delete the snapshots first, or copy it without linking"));
        }
        let vm = source.whole()?;
        let definition = source.definition().text()?;
        let moving = own_disks(&vm.disks)?;
        if runs {
            same_next_boot(source, &moving, &view::parse(&definition)?.disks)?;
        }
        let unknown = request.disks.iter().flatten().map(|(target, _)| target);
        if let Some(target) =
            unknown.into_iter().find(|target| moving.iter().all(|disk| disk.target != **target))
        {
            let shown: String = target.chars().take(40).collect();
            let copied: Vec<&str> = moving.iter().map(|disk| disk.target.as_str()).collect();
            return Err(Error::new(
                Kind::DiskNotFound,
                format!("VM {:?} has no disk {shown:?} that is copied", source.vm.name),
            )
            .with_hint(format!("disks that are copied: {}", copied.join(", ")))
            .with_detail("disks", copied));
        }
        let mut names = Names::default();
        let mut draft = Draft {
            plan: ClonePlan {
                source: source.vm.uuid,
                source_name: source.vm.name.clone(),
                uuid: Uuid::new_v4(),
                name: request.name.as_str().to_owned(),
                description: request.description.clone(),
                labels: request.labels.clone().map(|labels| {
                    labels.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
                }),
                owner: owner.to_owned(),
                created_at: Timestamp::now(),
                way,
                disks: BTreeMap::new(),
                own: BTreeMap::new(),
                autostart: request.autostart,
                start: request.start,
            },
            copies: BTreeMap::new(),
            own: BTreeMap::new(),
            targets: vm.disks.iter().map(|disk| disk.target.clone()).collect(),
            has_agent: source.guest_agent == crate::model::GuestAgentState::Connected,
            others: Vec::new(),
        };
        for (place, disk) in moving.iter().enumerate() {
            let volume = volume_of(picture, &source.vm.name, disk)?;
            draft.writers(picture, source, &volume)?;
            let default = CloneDisk::default();
            let wanted = request
                .disks
                .as_ref()
                .and_then(|disks| disks.get(&disk.target))
                .unwrap_or(&default);
            draft.add(picture, &mut names, place, disk, &volume, wanted, request)?;
        }
        // What cannot be said in XML fails here.
        draft.definition(picture, &definition)?;
        Ok(draft)
    }

    fn writers(
        &mut self,
        picture: &Picture,
        source: &VmRecord,
        volume: &VolumeRecord,
    ) -> Result<()> {
        if self.plan.way != Way::Live {
            // Its own VM is stopped.
            copy::may_be_copied(picture, volume, false)?;
        }
        let all = writers(picture, volume)?;
        let others: Vec<&Arc<VmRecord>> =
            all.iter().filter(|record| record.vm.uuid != source.vm.uuid).collect();
        if self.plan.way == Way::Linked && !others.is_empty() {
            let names: Vec<&str> = others.iter().map(|record| record.vm.name.as_str()).collect();
            return Err(Error::new(
                Kind::VolumeInUse,
                format!(
                    "the volume {} is a disk that {} may write to, and a base must not change",
                    volume.reference(),
                    names.join(", ")
                ),
            )
            .with_hint("copy it without linking, or detach it there first")
            .with_detail("vms", names));
        }
        self.others.extend(others.iter().map(|record| record.vm.uuid));
        self.others.sort_unstable();
        self.others.dedup();
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "all of it says what one disk is to be")]
    fn add(
        &mut self,
        picture: &Picture,
        names: &mut Names,
        place: usize,
        disk: &Disk,
        volume: &VolumeRecord,
        wanted: &CloneDisk,
        request: &CloneVm,
    ) -> Result<()> {
        let linked = self.plan.way == Way::Linked;
        let pool = wanted.pool.as_ref().or(request.pool.as_ref());
        let pool = picture.pool(pool.map_or(volume.pool.as_str(), ResourceName::as_str))?;
        active(&pool)?;
        active(&*picture.pool(&volume.pool)?)?;
        let field = format!("disks.{}.name", disk.target);
        let name = match &wanted.name {
            Some(name) => name.as_str().to_owned(),
            None => {
                let suffix = if place == 0 { String::new() } else { format!("-{place}") };
                let extension = match holds_files(&pool.pool) {
                    true if linked => ".qcow2".to_owned(),
                    true => format!(".{}", own_format(volume).as_str()),
                    false => String::new(),
                };
                format!("{}{suffix}{extension}", self.plan.name)
            }
        };
        new_name(&pool, &name)
            .map_err(|error| error.with_field(field.clone(), "cannot be the new volume's"))?;
        names.take(&pool, &name).map_err(|error| error.with_field(field, "is there twice"))?;
        let copy = copied(picture, volume, &pool, name, linked)?;
        if linked {
            let home = picture.pool(&volume.pool)?;
            let own = (1..)
                .map(|number| {
                    format!(
                        "{}{}.{number}.qcow2",
                        self.plan.source_name,
                        match place {
                            0 => String::new(),
                            place => format!("-{place}"),
                        }
                    )
                })
                .find(|name| home.volume(name).is_none() && names.take(&home, name).is_ok())
                .unwrap_or_default();
            let own = copied(picture, volume, &home, own, true)?;
            self.plan.own.insert(
                disk.target.clone(),
                OwnOverlay {
                    volume: own.to.clone(),
                    base: volume.reference(),
                    base_format: disk.format.clone().unwrap_or_else(|| "raw".to_owned()),
                },
            );
            self.own.insert(disk.target.clone(), own);
        }
        let new = NewDisk { volume: copy.to.clone(), format: copy.format.as_str().to_owned() };
        self.plan.disks.insert(disk.target.clone(), new);
        self.copies.insert(disk.target.clone(), copy);
        Ok(())
    }

    /// What must stay as it is, and may serve others as well: pools, and the volumes that are read.
    pub(super) fn beside(&self) -> Vec<Key> {
        let read: BTreeSet<&VolumeRef> = self.copies.values().map(|copy| &copy.source).collect();
        let pools: BTreeSet<&str> = read
            .iter()
            .map(|volume| volume.pool.as_str())
            .chain(self.plan.volumes().map(|volume| volume.pool.as_str()))
            .collect();
        let volumes = read.iter().map(|volume| volume_key(&volume.pool, &volume.volume));
        volumes.chain(pools.into_iter().map(pool_key)).collect()
    }

    /// The clone's definition, with the places that its volumes will probably have.
    pub(super) fn definition(&self, picture: &Picture, source: &str) -> Result<String> {
        let mut disks: BTreeMap<String, Medium> = BTreeMap::new();
        for (target, disk) in &self.plan.disks {
            let pool = picture.pool(&disk.volume.pool)?;
            let folder = pool.pool.target_path.clone().unwrap_or_default();
            let path = format!("{}/{}", folder.trim_end_matches('/'), disk.volume.volume);
            let r#type = if holds_files(&pool.pool) { "file" } else { "block" };
            let (pool, volume) = (&disk.volume.pool, &disk.volume.volume);
            disks.insert(target.clone(), placed(pool, volume, &path, r#type, &disk.format));
        }
        clone::apply(source, &self.plan.identity(), &disks)
    }

    /// What happens, in words.
    pub(super) fn effects(&self) -> Vec<String> {
        let mut effects = Vec::new();
        for (target, copy) in &self.own {
            effects.push(format!(
                "freezes the volume {}, and gives VM {:?} the overlay {} as its disk {target}",
                copy.source, self.plan.source_name, copy.to
            ));
        }
        for copy in self.copies.values() {
            effects.push(match copy.linked {
                true => format!("bases the new volume {} on {}", copy.to, copy.source),
                false => {
                    format!("copies the {} bytes of {} to {}", copy.bytes, copy.source, copy.to)
                }
            });
        }
        if self.plan.way == Way::Live && self.has_agent {
            effects
                .push("freezes the guest's file systems for the moment that is copied".to_owned());
        }
        if self.plan.start {
            effects.push("starts the clone".to_owned());
        }
        effects
    }
}

/// Names that this clone takes itself.
#[derive(Default)]
struct Names(BTreeSet<(String, String)>);

impl Names {
    fn take(&mut self, pool: &PoolRecord, name: &str) -> Result<()> {
        let pool = &pool.pool.name;
        if self.0.insert((pool.clone(), name.to_owned())) {
            return Ok(());
        }
        let message = format!("two disks would be the volume {pool}/{name}");
        Err(Error::new(Kind::VolumeAlreadyExists, message))
    }
}

/// The disks that the clone cannot share with its source: those that are written to.
pub(crate) fn own_disks(disks: &[Disk]) -> Result<Vec<&Disk>> {
    let own: Vec<&Disk> = disks
        .iter()
        .filter(|disk| {
            let media = disk.device == DiskDevice::Cdrom || disk.source.is_none();
            !(media || disk.read_only || disk.shareable)
        })
        .collect();
    match own.iter().find(|disk| disk.device == DiskDevice::Lun) {
        None => Ok(own),
        Some(lun) => Err(Error::new(
            Kind::Impossible,
            format!(
                "the disk {} is a whole SCSI device of the host, which cannot be copied",
                lun.target
            ),
        )
        .with_detail("disk", lun.target.as_str())),
    }
}

/// The volume behind a disk.
pub(crate) fn volume_of(picture: &Picture, vm: &str, disk: &Disk) -> Result<Arc<VolumeRecord>> {
    let reference = disk.volume.as_ref().ok_or_else(|| {
        Error::new(
            Kind::Impossible,
            format!(
                "the disk {} of VM {vm:?} is not a volume of a known, active pool",
                disk.target
            ),
        )
        .with_hint("start or define the pool that holds it, or make the disk read-only")
        .with_detail("disk", disk.target.as_str())
    })?;
    picture.volume(&reference.pool, &reference.volume)
}

/// A running VM is copied with its disks as they are, but defined as its next boot is.
fn same_next_boot(source: &VmRecord, moving: &[&Disk], next: &[Disk]) -> Result<()> {
    let next = own_disks(next)?;
    let word = |disk: &Disk| (disk.target.clone(), disk.source.clone());
    let now: BTreeSet<_> = moving.iter().map(|disk| word(disk)).collect();
    let then: BTreeSet<_> = next.iter().map(|disk| word(disk)).collect();
    let Some((target, _)) = now.symmetric_difference(&then).next() else { return Ok(()) };
    Err(Error::new(
        Kind::Impossible,
        format!(
            "the disk {target} of VM {:?} will be another one with its next boot",
            source.vm.name
        ),
    )
    .with_hint("restart it first, or clone it while it is stopped")
    .with_detail("disk", target.as_str()))
}

/// The format of a copy: the source's own, where Vapor makes such volumes.
fn own_format(volume: &VolumeRecord) -> DiskFormat {
    match volume.format.as_deref() {
        Some("raw" | "iso" | "unknown" | "none") | None => DiskFormat::Raw,
        Some(_) => DiskFormat::Qcow2,
    }
}

fn copied(
    picture: &Picture,
    volume: &VolumeRecord,
    pool: &PoolRecord,
    name: String,
    linked: bool,
) -> Result<Copy> {
    let to = VolumeRef::new(pool.pool.name.as_str(), name.as_str());
    let request =
        CloneVolume { name: VolumeName::try_from(name)?, pool: None, format: None, linked };
    copy::copy(picture, volume, to, &request)
}
