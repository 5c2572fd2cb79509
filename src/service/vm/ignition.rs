//! The Ignition config of a new VM: a volume beside its disks, made with the VM and removed with it.
//!
//! QEMU hands the volume's file to the guest as it is (fw_cfg), so the definition holds a path and no
//! secret; where a machine has no fw_cfg, the volume is a small disk. The guest reads it at its first
//! boot alone, which is why an update cannot change it.

use super::VmService;
use super::draft::check::clash;
use super::draft::{Draft, NewVolume, Purpose};
use super::seed::{Content, Home, named_pool, pool_of, read_only_disk};
use crate::error::Result;
use crate::model::CreateVm;
use crate::model::vm_request::DiskBus;
use crate::service::ignition::{self, Config, Way};
use crate::service::inventory::Picture;
use crate::xml::domain::author::{IgnitionBy, IgnitionSpec};
use crate::xml::domain::ignition::DISK_SERIAL;

/// A config to be handed over.
#[derive(Debug)]
pub(super) struct ToBeTold {
    config: Config,
    /// The pool that the request names for the VM's disks.
    pool: Option<String>,
}

impl VmService {
    /// Takes the config out of a request, so that nothing else gets to see it.
    ///
    /// # Errors
    /// `Impossible` beside `cloud_init`; `NotSupported` where volumes cannot be written; those of
    /// [`ignition::check`].
    pub(super) fn prepare_ignition(&self, request: &mut CreateVm) -> Result<Option<ToBeTold>> {
        let Some(ignition) = request.ignition.take() else { return Ok(None) };
        if request.cloud_init.is_some() {
            return Err(clash("ignition", "contradicts cloud_init: say one of them"));
        }
        self.tools.hypervisor.can_stream().map_err(|error| {
            error.with_field("ignition", "needs a libvirt that can write volumes")
        })?;
        let config = ignition::check(&ignition)?;
        Ok(Some(ToBeTold { config, pool: named_pool(request) }))
    }
}

impl ToBeTold {
    /// The VM to be with its config: one more volume.
    ///
    /// # Errors
    /// 404 and 409 for the pool; 409 if it has a volume of that name; 422 if its volumes are no files,
    /// or the machine hands over nothing.
    pub(super) fn add_to(self, mut draft: Draft, picture: &Picture) -> Result<Draft> {
        let way = ignition::way(&draft.spec.architecture)?;
        let name = format!("{}.ign", draft.spec.name);
        let pool = self.pool.or_else(|| pool_of(&draft.spec.disks));
        let home = Home::of(picture, pool, "ignition", &name)?;
        let (content, by, purpose) = match way {
            Way::FwCfg if !home.files => {
                let problem = format!(
                    "needs a pool of files, which {:?} is not; name one with storage.default_pool",
                    home.pool
                );
                return Err(clash("ignition", problem));
            }
            Way::FwCfg => {
                (self.config.bytes(), IgnitionBy::FwCfg(home.path.clone()), Purpose::Ignition)
            }
            Way::Disk => {
                let bus = Some(DiskBus::Virtio);
                let targets = draft.spec.disks.iter().map(|disk| disk.target.as_str());
                let mut disk = read_only_disk(picture, targets, &home, bus);
                disk.serial = Some(DISK_SERIAL.to_owned());
                let (target, place) = (disk.target.clone(), draft.spec.disks.len());
                draft.spec.disks.push(disk);
                (self.config.sectors(), IgnitionBy::Disk(target), Purpose::Disk(place))
            }
        };
        draft.volumes.push(NewVolume {
            purpose,
            xml: home.volume(content.len())?,
            pool: home.pool,
            name,
            clone_of: None,
            linked_to: None,
            content: Some(Content::new(content, "the Ignition config")),
        });
        let version = self.config.version().to_owned();
        draft.spec.ignition = Some(IgnitionSpec { version, by });
        Ok(draft)
    }
}
