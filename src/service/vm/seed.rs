//! The seed: the small disk from which a guest's cloud-init reads its documents. It is a volume
//! beside the VM's other disks, made with the VM and removed with it; the definition says in Vapor's
//! metadata which disk it is, so that it is known whoever else handles the VM. Where such a volume
//! lies is the same for the config of [Ignition](super::ignition).

use std::fmt;
use std::sync::Arc;

use super::VmService;
use super::draft::disks::free_target;
use super::draft::{Draft, NewVolume, Purpose};
use crate::error::{Error, Kind, Result};
use crate::model::vm_request::{DiskBus, DiskFormat};
use crate::model::{CreateVm, DiskDevice, PoolState, VolumeRef};
use crate::service::cloud_init::{self, Prepared};
use crate::service::inventory::{Picture, VmRecord};
use crate::service::volume::{holds_files, refuse_used_but_by};
use crate::xml::domain::author::{DiskSource, DiskSpec, SeedSpec};
use crate::xml::volume::{VolumeSpec, author_volume};

/// What a seed holds, for people.
pub(super) const DOCUMENTS: &str = "the documents of cloud-init";

/// What is written into a new volume; secret.
#[derive(Clone)]
pub(super) struct Content {
    bytes: Arc<[u8]>,
    /// What it is, for people.
    what: &'static str,
}

impl Content {
    pub(super) fn new(bytes: Vec<u8>, what: &'static str) -> Self {
        Content { bytes: bytes.into(), what }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn what(&self) -> &'static str {
        self.what
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({})", self.what)
    }
}

/// Where the volume lies that a guest is told something by.
pub(super) struct Home {
    pub pool: String,
    name: String,
    /// Whether the pool's volumes are files.
    pub files: bool,
    /// Its path, as far as it can be known before it is there.
    pub path: String,
}

/// A seed to be.
#[derive(Debug)]
pub(super) struct Seed {
    documents: Prepared,
    /// The pool that the request names for the VM's disks.
    pool: Option<String>,
}

impl VmService {
    /// Takes the documents out of a request, so that nothing else gets to see them.
    ///
    /// # Errors
    /// `NotSupported` where volumes cannot be written; those of [`cloud_init::prepare`].
    pub(super) async fn prepare_seed(&self, request: &mut CreateVm) -> Result<Option<Seed>> {
        let Some(cloud_init) = request.cloud_init.take() else { return Ok(None) };
        self.tools.hypervisor.can_stream().map_err(|error| {
            error.with_field("cloud_init", "needs a libvirt that can write volumes")
        })?;
        let pool = named_pool(request);
        Ok(Some(Seed { documents: cloud_init::prepare(cloud_init).await?, pool }))
    }
}

/// Where a seed lies beside a VM's other disks.
pub(super) fn seed_name(vm: &str) -> String {
    format!("{vm}-cloud-init.img")
}

/// The pool of the first of a new VM's disks.
pub(super) fn pool_of(disks: &[DiskSpec]) -> Option<String> {
    disks.iter().find_map(|disk| match &disk.source {
        DiskSource::Volume { pool, .. } if disk.device == DiskDevice::Disk => Some(pool.clone()),
        _ => None,
    })
}

/// The pool that a request names for all new volumes.
pub(super) fn named_pool(request: &CreateVm) -> Option<String> {
    let named = request.storage.as_ref().and_then(|storage| storage.default_pool.clone());
    named.or_else(|| request.pool.clone()).map(String::from)
}

impl Home {
    /// The pool that is named, or the one that is called default.
    ///
    /// # Errors
    /// 404 and 409 for the pool; 409 with `field` if it has a volume of that name.
    pub(super) fn of(
        picture: &Picture,
        named: Option<String>,
        field: &str,
        name: &str,
    ) -> Result<Home> {
        let pool_name = named.unwrap_or_else(|| "default".to_owned());
        let pool = picture.pool(&pool_name)?;
        if pool.pool.state == PoolState::Inactive {
            return Err(Error::new(
                Kind::PoolInactive,
                format!("the pool {pool_name:?} is not active"),
            ));
        }
        if pool.volumes.iter().any(|volume| volume.name == name) {
            return Err(Error::new(
                Kind::VolumeAlreadyExists,
                format!("the pool {pool_name:?} has a volume {name:?} already"),
            )
            .with_field(field, "its volume exists already"));
        }
        let folder = pool.pool.target_path.clone().unwrap_or_default();
        Ok(Home {
            pool: pool_name,
            name: name.to_owned(),
            files: holds_files(&pool.pool),
            path: format!("{}/{name}", folder.trim_end_matches('/')),
        })
    }

    /// The definition of the volume that holds so many bytes.
    ///
    /// # Errors
    /// Those of [`author_volume`].
    pub(super) fn volume(&self, bytes: usize) -> Result<String> {
        author_volume(&VolumeSpec {
            name: self.name.clone(),
            capacity_bytes: bytes as u64,
            format: DiskFormat::Raw,
            // All its room at once: libvirt must not run out of it while it is written.
            sparse: false,
            backing: None,
        })
    }
}

/// A disk that the guest reads the volume from, on this bus or the best that this host has, beside
/// disks of these targets.
pub(super) fn read_only_disk<'a>(
    picture: &Picture,
    targets: impl Iterator<Item = &'a str>,
    home: &Home,
    bus: Option<DiskBus>,
) -> DiskSpec {
    let (bus, target) = place(picture, &targets.collect::<Vec<_>>(), bus);
    let r#type = if home.files { "file" } else { "block" }.to_owned();
    let (pool, volume, path) = (home.pool.clone(), home.name.clone(), home.path.clone());
    DiskSpec {
        device: DiskDevice::Disk,
        bus,
        target,
        format: Some("raw".to_owned()),
        source: DiskSource::Volume { pool, volume, path, r#type },
        read_only: true,
        serial: None,
        boot_order: None,
        shareable: false,
        cache: None,
        io: None,
        discard: None,
        iothread: None,
    }
}

impl Seed {
    /// The VM to be with its seed: one more volume and one more disk.
    ///
    /// # Errors
    /// 404 and 409 for the pool; 409 if it has a volume of that name; 413 if the documents are too
    /// large together.
    pub(super) fn add_to(self, mut draft: Draft, picture: &Picture) -> Result<Draft> {
        let spec = &mut draft.spec;
        let name = seed_name(&spec.name);
        let pool = self.pool.or_else(|| pool_of(&spec.disks));
        let home = Home::of(picture, pool, "cloud_init", &name)?;
        let documents = self.documents.complete((&spec.name, spec.uuid), None)?;
        let image = cloud_init::image(&documents)?;
        let (instance_id, hostname) = documents.identity();
        let targets = spec.disks.iter().map(|disk| disk.target.as_str());
        let disk = read_only_disk(picture, targets, &home, None);
        draft.volumes.push(NewVolume {
            purpose: Purpose::Disk(spec.disks.len()),
            xml: home.volume(image.len())?,
            pool: home.pool,
            name,
            clone_of: None,
            linked_to: None,
            content: Some(Content::new(image, DOCUMENTS)),
        });
        spec.seed = Some(SeedSpec { target: disk.target.clone(), instance_id, hostname });
        spec.disks.push(disk);
        Ok(draft)
    }
}

/// The bus, or the best that this host has for it, and a target that no other disk has.
fn place(picture: &Picture, targets: &[&str], bus: Option<DiskBus>) -> (DiskBus, String) {
    let offered =
        picture.capabilities.as_deref().map(|known| known.preferred.disk_buses.as_slice());
    let offered = offered.unwrap_or_default();
    let has = |bus: &DiskBus| offered.iter().any(|known| known == bus.as_str());
    let order = [DiskBus::Virtio, DiskBus::Scsi, DiskBus::Sata, DiskBus::Usb, DiskBus::Ide];
    let bus = bus.or_else(|| order.into_iter().find(has)).unwrap_or(DiskBus::Virtio);
    let target = free_target(bus, |target| targets.contains(&target));
    (bus, target)
}

/// The volumes that a VM has for what its guest is told, as long as nobody else uses them.
pub(super) fn told_by(picture: &Picture, record: &VmRecord) -> Result<Vec<VolumeRef>> {
    let vm = record.whole()?;
    let seed = vm.cloud_init.and_then(|seed| seed.volume);
    let config = vm.ignition.and_then(|ignition| ignition.volume);
    let own = seed.into_iter().chain(config).filter(|reference| {
        let volume = picture.volume(&reference.pool, &reference.volume);
        volume
            .is_ok_and(|volume| refuse_used_but_by(&volume, |user| user == record.vm.name).is_ok())
    });
    Ok(own.collect())
}
