//! One immutable picture, and how things are found in it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use uuid::Uuid;

use super::definition::Definition;
use super::outline::Outline;
use super::volumes::VolumeRecord;
use crate::error::{Error, Kind, Result};
use crate::libvirt::domain::DomainBrief;
use crate::model::host::{Capabilities, LibvirtStatus};
use crate::model::{GuestAgentState, Network, Pool, Vm, VolumeRef};
use crate::service::page::stable_hash;
use crate::xml::domain::view::{self, DiskPlace};

/// One VM in the picture.
#[derive(Debug)]
pub struct VmRecord {
    pub vm: Outline,
    /// The object as the API sends it.
    pub json: Bytes,
    pub etag: String,
    /// Of `etag`: what the tag of a list is made of, on every read of it.
    pub etag_hash: u64,
    /// What the bulk reconcile compares with.
    pub brief: DomainBrief,
    /// Whether the definition has a channel for the guest agent, and whether the guest opened it.
    pub guest_agent: GuestAgentState,
    /// The running definition, or the only one of a stopped VM. Without secrets.
    pub xml: Definition,
    /// The definition of the next boot, where the VM runs and is persistent.
    pub inactive_xml: Option<Definition>,
    /// [`definition_hash`](super::definition_hash) of [`definition`](Self::definition).
    pub definition_hash: u64,
    /// Where its disks lie, now and at the next boot, with the chains that libvirt tells.
    pub places: Box<[DiskPlace]>,
    /// Of everything that the definition shows, what `json` leaves out included.
    pub(super) details: u64,
    pub confirmed_at: Timestamp,
}

impl VmRecord {
    /// Everything that is known of the VM, read from its JSON in some microseconds.
    ///
    /// # Errors
    /// `Internal`: what was written can always be read, so a failure is a defect.
    pub fn whole(&self) -> Result<Vm> {
        serde_json::from_slice(&self.json).map_err(|error| {
            Error::internal(format!("the record of VM {:?} cannot be read", self.vm.name))
                .with_source(error)
        })
    }

    /// The same with what only the reply about one VM shows, read from the definition.
    ///
    /// # Errors
    /// `Internal`, as with [`VmRecord::whole`].
    pub fn detailed(&self) -> Result<Vm> {
        let mut vm = self.whole()?;
        vm.take_details(&mut view::parse(&self.xml.text()?)?);
        Ok(vm)
    }

    /// The definition of the next boot.
    pub fn definition(&self) -> &Definition {
        self.inactive_xml.as_ref().unwrap_or(&self.xml)
    }
}

/// One pool with its volumes.
#[derive(Debug, Default)]
pub struct PoolRecord {
    pub pool: Pool,
    /// Sorted by name.
    pub volumes: Vec<Arc<VolumeRecord>>,
}

impl PoolRecord {
    /// The volume of this name.
    pub fn volume(&self, name: &str) -> Option<Arc<VolumeRecord>> {
        let at = self.volumes.binary_search_by(|record| record.name.as_str().cmp(name)).ok()?;
        Some(self.volumes[at].clone())
    }
}

impl PoolRecord {
    /// The version of the pool itself, for `ETag` and `If-Match`.
    ///
    /// # Errors
    /// [`Kind::Internal`] if it cannot be written.
    pub fn etag(&self) -> Result<String> {
        let text = serde_json::to_vec(&self.pool).map_err(Error::internal)?;
        Ok(format!("\"{}-{:016x}\"", self.pool.generation, stable_hash(&text)))
    }
}

/// Everything known, as of one moment.
#[derive(Debug)]
pub struct Picture {
    /// Grows with every picture that differs.
    pub epoch: u64,
    /// Sorted by name.
    pub vms: Vec<Arc<VmRecord>>,
    pub by_uuid: HashMap<Uuid, Arc<VmRecord>>,
    /// Sorted by name.
    pub pools: Vec<Arc<PoolRecord>>,
    /// The volumes of all pools, sorted by name and pool.
    pub volumes: Arc<[Arc<VolumeRecord>]>,
    /// Where each path belongs: the index of requests that name a path.
    pub paths: Arc<HashMap<String, PathEntry>>,
    /// Sorted by name.
    pub networks: Vec<Arc<Network>>,
    pub capabilities: Option<Arc<Capabilities>>,
    pub libvirt: LibvirtStatus,
    /// Whether libvirt has ever answered since the start.
    pub filled: bool,
    pub confirmed_at: Option<Timestamp>,
}

/// The volume at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathEntry {
    pub volume: VolumeRef,
    pub capacity_bytes: u64,
}

impl Picture {
    /// The name of the VM that has a NIC with this MAC, written in lower case with colons. The text
    /// of the records is searched, so that only a VM that speaks of it is read as a whole.
    pub fn vm_with_mac(&self, mac: &str) -> Option<&str> {
        let quoted = format!("\"{mac}\"");
        let speaks = |record: &VmRecord| {
            record.json.windows(quoted.len()).any(|window| window == quoted.as_bytes())
        };
        let has = |record: &VmRecord| {
            record.whole().is_ok_and(|vm| vm.networks.iter().any(|nic| nic.mac == mac))
        };
        self.vms
            .iter()
            .find(|record| speaks(record) && has(record))
            .map(|record| record.vm.name.as_str())
    }

    /// A picture of nothing, before libvirt has answered.
    pub fn empty(libvirt: LibvirtStatus) -> Self {
        Picture {
            epoch: 0,
            vms: Vec::new(),
            by_uuid: HashMap::new(),
            pools: Vec::new(),
            volumes: Arc::default(),
            paths: Arc::default(),
            networks: Vec::new(),
            capabilities: None,
            libvirt,
            filled: false,
            confirmed_at: None,
        }
    }

    /// An error if there is nothing to be shown yet.
    pub fn ready(&self) -> Result<()> {
        if self.filled {
            return Ok(());
        }
        let reason = self.libvirt.reason.as_deref().unwrap_or("it has not answered yet");
        Err(Error::new(
            Kind::LibvirtUnavailable,
            format!("nothing is known of this host yet: libvirt at {} {reason}", self.libvirt.uri),
        )
        .with_retry_after(std::time::Duration::from_secs(2)))
    }

    /// The VM with this UUID or name; a VM named like another's UUID is found by its own.
    pub fn vm(&self, id: &str) -> Result<Arc<VmRecord>> {
        self.ready()?;
        if let Some(record) = Uuid::try_parse(id).ok().and_then(|uuid| self.by_uuid.get(&uuid)) {
            return Ok(record.clone());
        }
        match self.vms.binary_search_by(|record| record.vm.name.as_str().cmp(id)) {
            Ok(at) => Ok(self.vms[at].clone()),
            Err(_) => {
                let shown: String = id.chars().take(140).collect();
                let error =
                    Error::new(Kind::VmNotFound, format!("no VM with the name or UUID {shown:?}"));
                Err(match nearest(id, self.vms.iter().map(|record| record.vm.name.as_str())) {
                    Some(near) => error
                        .with_hint(format!("did you mean {near:?}?"))
                        .with_detail("nearest", near),
                    None => error,
                })
            }
        }
    }

    /// The pool with this name.
    pub fn pool(&self, name: &str) -> Result<Arc<PoolRecord>> {
        self.ready()?;
        self.pools
            .iter()
            .find(|record| record.pool.name == name)
            .cloned()
            .ok_or_else(|| missing(Kind::PoolNotFound, "storage pool", name))
    }

    /// The volume with this name in this pool.
    pub fn volume(&self, pool: &str, name: &str) -> Result<Arc<VolumeRecord>> {
        self.pool(pool)?
            .volume(name)
            .ok_or_else(|| missing(Kind::VolumeNotFound, "volume", &format!("{pool}/{name}")))
    }

    /// The network with this name.
    pub fn network(&self, name: &str) -> Result<Arc<Network>> {
        self.ready()?;
        self.networks
            .iter()
            .find(|network| network.name == name)
            .cloned()
            .ok_or_else(|| missing(Kind::NetworkNotFound, "network", name))
    }
}

fn missing(kind: Kind, what: &str, name: &str) -> Error {
    let shown: String = name.chars().take(140).collect();
    Error::new(kind, format!("no {what} {shown:?}"))
}

/// The name that a typo most likely meant.
pub fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if wanted.len() > 128 {
        return None;
    }
    names
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_the_nearest_name_and_nonsense_finds_none() {
        let names = ["web1", "web2", "database"];
        assert_eq!(nearest("databse", names.into_iter()), Some("database"));
        assert_eq!(nearest("zzz", names.into_iter()), None);
    }
}
