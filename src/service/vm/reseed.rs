//! New documents for the cloud-init of a VM.
//!
//! Of one that has a seed, those that the request gives replace the present ones, which are read back
//! from the image; the others stay. The image is rewritten in its place, so that the next boot finds it,
//! also one that the guest does by itself; what was there comes back if anything after it is refused.
//! One that has none gets it: a new volume, and with the definition a further disk.

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::VmService;
use super::create::VOLUME_STEP;
use super::seed::{Content, DOCUMENTS, Home, read_only_disk, seed_name};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Session, contents, domain, volume};
use crate::model::{Change, CloudInitState, DiskDevice, Effect, UpdateVm, Vm, VolumeRef};
use crate::service::cloud_init::{self, Documents, Prepared};
use crate::service::gate::Key;
use crate::service::inventory::{Picture, VmRecord};
use crate::xml::domain::author::{DiskSpec, SeedSpec};
use crate::xml::domain::{METADATA_PREFIX, METADATA_URI, seed, view};

/// The step of documents to be written: by it a restarted daemon judges whether they were.
pub(super) const RESEED_STEP: &str = "cloud-init";

/// What such a step keeps; nothing of the documents.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ReseedStep {
    /// None where only the present documents tell what it comes to.
    pub instance_id: Option<String>,
    /// What the VM was known by before.
    pub before: Option<String>,
}

/// Documents to be written for a VM.
#[derive(Clone, Debug)]
pub(super) struct Reseed {
    documents: Prepared,
    way: Way,
    is_active: bool,
    is_persistent: bool,
}

#[derive(Clone, Debug)]
enum Way {
    /// Into the image that is there.
    Rewrite { volume: VolumeRef, instance_id: String },
    /// Into a new one.
    Add(Box<Addition>),
}

/// A seed to be, of a VM that has been without.
#[derive(Clone, Debug)]
struct Addition {
    volume: VolumeRef,
    xml: String,
    content: Content,
    disk: DiskSpec,
    noted: SeedSpec,
}

/// What has to be put back if something later is refused.
pub(super) enum Before {
    /// What a seed held.
    Image { image: Vec<u8>, identity: (String, Option<String>) },
    /// There was none.
    Nothing,
}

impl VmService {
    /// Takes the documents out of a request, so that nothing else gets to see them.
    ///
    /// # Errors
    /// `Impossible` if the VM can have no seed; `NotSupported` where volumes cannot be written; 404
    /// and 409 for the pool and the name of a new one; those of [`cloud_init::prepare`].
    pub(super) async fn prepare_reseed(
        &self,
        record: &VmRecord,
        request: &mut UpdateVm,
    ) -> Result<Option<Reseed>> {
        let Some(cloud_init) = request.cloud_init.take() else { return Ok(None) };
        self.tools.hypervisor.can_stream().map_err(|error| {
            error.with_field("cloud_init", "needs a libvirt that can write volumes")
        })?;
        // Before the documents are read, which takes longer.
        let volume = seed_in(&self.tools.inventory.picture(), record)?;
        if volume.is_none() && !record.vm.persistent {
            let problem = "the VM is transient, and has no next boot that could find a new disk";
            return Err(Error::new(
                Kind::Impossible,
                format!("VM {:?}: {problem}", record.vm.name),
            )
            .with_field("cloud_init", problem));
        }
        let documents = cloud_init::prepare(cloud_init).await?;
        let of = |picture: &Picture| Reseed::of(picture, record, documents.clone());
        self.tools.inventory.decide(of).await.map(|(_, reseed)| Some(reseed))
    }
}

/// The volume of the seed that a VM has, or will have with its next boot, and what cloud-init knows the
/// VM by.
fn seed_in(picture: &Picture, record: &VmRecord) -> Result<Option<(VolumeRef, String)>> {
    if let Some(CloudInitState { volume: Some(volume), instance_id, .. }) =
        record.whole()?.cloud_init
    {
        return Ok(Some((volume, instance_id)));
    }
    let next = view::parse(&record.definition().text()?)?;
    Ok(noted(picture, &next))
}

/// The same of a definition, which tells of most disks only where they are.
fn noted(picture: &Picture, vm: &Vm) -> Option<(VolumeRef, String)> {
    let seed = vm.cloud_init.as_ref()?;
    let disk = vm.disks.iter().find(|disk| disk.target == seed.target)?;
    let found = || Some(picture.paths.get(disk.source.as_deref()?)?.volume.clone());
    Some((disk.volume.clone().or_else(found)?, seed.instance_id.clone()))
}

impl Reseed {
    /// The same for the VM as it is by now: its state may have changed until it was held.
    ///
    /// # Errors
    /// As of the request itself.
    pub(super) fn anew(self, picture: &Picture, record: &VmRecord) -> Result<Self> {
        Reseed::of(picture, record, self.documents)
    }

    fn of(picture: &Picture, record: &VmRecord, documents: Prepared) -> Result<Self> {
        let way = match seed_in(picture, record)? {
            Some((volume, instance_id)) => Way::Rewrite { volume, instance_id },
            None => Way::Add(Box::new(Addition::to(picture, record, documents.clone())?)),
        };
        let (is_active, is_persistent) = (record.vm.state.is_active(), record.vm.persistent);
        Ok(Reseed { documents, way, is_active, is_persistent })
    }

    /// What a plan says of it.
    pub(super) fn change(&self) -> Change {
        let (from, to) = match &self.way {
            Way::Rewrite { instance_id, .. } => {
                (json!(instance_id), json!("the given documents, and an instance-id made of them"))
            }
            Way::Add(new) => (json!(null), json!(new.noted.instance_id)),
        };
        Change {
            field: "cloud_init".to_owned(),
            from,
            to,
            effect: if self.is_active { Effect::NextBoot } else { Effect::Live },
            reason: self.is_active.then(|| "cloud-init reads them when the guest boots".to_owned()),
        }
    }

    /// What a plan says of it besides.
    pub(super) fn side_effect(&self) -> String {
        match &self.way {
            Way::Rewrite { volume, .. } => format!("rewrites the volume {volume}"),
            Way::Add(new) => format!("creates the volume {}, with {DOCUMENTS}", new.volume),
        }
    }

    /// The disk that the definition gets, and what it notes of it.
    pub(super) fn disk(&self) -> Option<(DiskSpec, SeedSpec)> {
        match &self.way {
            Way::Rewrite { .. } => None,
            Way::Add(new) => Some((new.disk.clone(), new.noted.clone())),
        }
    }

    /// The volume that is made for it.
    pub(super) fn new_volume(&self) -> Option<VolumeRef> {
        match &self.way {
            Way::Rewrite { .. } => None,
            Way::Add(new) => Some(new.volume.clone()),
        }
    }

    /// What must be held while it is written.
    pub(super) fn keys(&self) -> (Vec<Key>, Vec<Key>) {
        let VolumeRef { pool, volume } = self.volume().clone();
        (vec![Key::Volume(pool.clone(), volume)], vec![Key::Pool(pool)])
    }

    /// What goes into the journal before it is written.
    pub(super) fn steps(&self) -> Vec<(String, serde_json::Value)> {
        let (instance_id, before) = match &self.way {
            Way::Rewrite { instance_id, .. } => (None, Some(instance_id.clone())),
            Way::Add(new) => (Some(new.noted.instance_id.clone()), None),
        };
        let mut steps = vec![(RESEED_STEP.to_owned(), json!(ReseedStep { instance_id, before }))];
        if let Way::Add(new) = &self.way {
            steps.push((VOLUME_STEP.to_owned(), json!(new.volume)));
        }
        steps
    }

    fn volume(&self) -> &VolumeRef {
        match &self.way {
            Way::Rewrite { volume, .. } => volume,
            Way::Add(new) => &new.volume,
        }
    }

    /// Writes the image. Into one that was there, also what the definition says of it; a new one's disk
    /// comes with the definition.
    ///
    /// # Errors
    /// What libvirt refuses with, and then all is as it was.
    pub(super) fn apply(&self, session: &Session, vm: (&str, Uuid)) -> Result<Before> {
        let VolumeRef { pool, volume: name } = self.volume();
        if let Way::Add(new) = &self.way {
            volume::create(session, pool, name, &new.xml)?;
            return match contents::write(session, pool, name, new.content.bytes()) {
                Ok(()) => Ok(Before::Nothing),
                Err(error) => Err(self.put_back(session, vm, &Before::Nothing, error)),
            };
        }
        let image = contents::read(session, pool, name, cloud_init::LARGEST)?;
        let present = self.readable(cloud_init::read_image(image.clone()), vm.0)?;
        let before = Before::Image { image, identity: present.identity() };
        let documents = self.documents.clone().complete(vm, Some(present))?;
        let new = cloud_init::image(&documents)?;
        let (capacity, _) = volume::sizes(session, pool, name)?;
        if new.len() as u64 > capacity {
            volume::resize(session, pool, name, new.len() as u64, false)?;
        }
        let (instance_id, hostname) = documents.identity();
        let written = contents::write(session, pool, name, &new)
            .and_then(|()| self.mark(session, vm, &instance_id, hostname.as_deref()));
        match written {
            Ok(()) => Ok(before),
            Err(error) => Err(self.put_back(session, vm, &before, error)),
        }
    }

    /// The present documents. Those of an image that was cut off in the middle are lost, which a request
    /// that says the most important one of them makes good.
    fn readable(&self, present: Result<Documents>, vm: &str) -> Result<Documents> {
        present.or_else(|error| {
            if !self.documents.has_user_data() {
                return Err(error.with_hint("say cloud_init.user_data: the present is unreadable"));
            }
            tracing::warn!(vm, error = ?error, "an unreadable seed is replaced as a whole");
            Ok(Documents::default())
        })
    }

    /// Writes what was there before, because of `error`; says so in it if that cannot be done.
    pub(super) fn put_back(
        &self,
        session: &Session,
        vm: (&str, Uuid),
        before: &Before,
        error: Error,
    ) -> Error {
        let VolumeRef { pool, volume: name } = self.volume();
        let undone = match before {
            Before::Image { image, identity: (instance_id, hostname) } => {
                contents::write(session, pool, name, image)
                    .and_then(|()| self.mark(session, vm, instance_id, hostname.as_deref()))
            }
            Before::Nothing => volume::delete_if_there(session, pool, name),
        };
        match undone {
            Ok(()) => error,
            Err(undo) => {
                tracing::warn!(vm = vm.0, error = ?undo, "the seed could not be put back");
                error.with_detail("not_put_back", "cloud_init")
            }
        }
    }

    fn mark(
        &self,
        session: &Session,
        (name, uuid): (&str, Uuid),
        instance_id: &str,
        hostname: Option<&str>,
    ) -> Result<()> {
        if self.is_persistent {
            // With its secrets, or redefining would lose them.
            let xml = domain::xml(session, uuid, true, true)?;
            domain::define(session, name, &seed::set_seed(&xml, instance_id, hostname)?)?;
        }
        if self.is_active {
            let xml = domain::xml(session, uuid, false, false)?;
            if let Some(element) = seed::seed_metadata(&xml, instance_id, hostname)? {
                let element = Some(element.as_str());
                let (uri, prefix) = (METADATA_URI, METADATA_PREFIX);
                domain::set_metadata(session, uuid, uri, prefix, element, true, false)?;
            }
        }
        Ok(())
    }
}

impl Addition {
    fn to(picture: &Picture, record: &VmRecord, documents: Prepared) -> Result<Addition> {
        let (now, next) = (record.whole()?, view::parse(&record.definition().text()?)?);
        let is_disk = |disk: &&crate::model::Disk| disk.device == DiskDevice::Disk;
        let beside = now.disks.iter().filter(is_disk).find_map(|disk| disk.volume.as_ref());
        let name = seed_name(&record.vm.name);
        let pool = beside.map(|volume| volume.pool.clone());
        let home = Home::of(picture, pool, "cloud_init", &name)?;
        let documents = documents.complete((&record.vm.name, record.vm.uuid), None)?;
        let image = cloud_init::image(&documents)?;
        let (instance_id, hostname) = documents.identity();
        let targets = next.disks.iter().map(|disk| disk.target.as_str());
        let disk = read_only_disk(picture, targets, &home, None);
        Ok(Addition {
            noted: SeedSpec { target: disk.target.clone(), instance_id, hostname },
            disk,
            xml: home.volume(image.len())?,
            volume: VolumeRef { pool: home.pool, volume: name },
            content: Content::new(image, DOCUMENTS),
        })
    }
}

/// Whether the documents of an interrupted update were written, by what the VM is known by now.
pub(super) fn was_written(record: &VmRecord, step: &ReseedStep) -> Result<bool> {
    let next = view::parse(&record.definition().text()?)?;
    let known = next.cloud_init.map(|seed| seed.instance_id);
    Ok(match &step.instance_id {
        Some(wanted) => known.as_deref() == Some(wanted),
        None => known != step.before,
    })
}
