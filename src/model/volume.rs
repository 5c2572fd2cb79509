//! Volumes of storage pools.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A volume by the names of its pool and itself: the only way a request reaches storage.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(deny_unknown_fields)]
pub struct VolumeRef {
    #[schema(min_length = 1, max_length = 255)]
    pub pool: String,
    #[schema(min_length = 1, max_length = 255)]
    pub volume: String,
}

impl VolumeRef {
    pub fn new(pool: impl Into<String>, volume: impl Into<String>) -> Self {
        VolumeRef { pool: pool.into(), volume: volume.into() }
    }
}

impl std::fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.pool, self.volume)
    }
}

/// What a VM has a volume for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VolumeUse {
    /// It is one of the VM's disks, hard or optical, now or at the next boot.
    Disk,
    /// One of the VM's disks reads from it what was never written to the disk itself.
    Backing,
    /// It holds the Ignition config that the VM's guest is told.
    Ignition,
}

/// One file of a backing chain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackingFile {
    /// As the file above it names it.
    pub path: String,
    /// `qcow2`, `raw`, …; null where libvirt does not tell.
    pub format: Option<String>,
    /// The pool and name of the volume there, if it is one of a known pool.
    pub pool: Option<String>,
    pub volume: Option<String>,
}

/// Whose file it is on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VolumePermissions {
    /// Octal.
    #[schema(example = "0600")]
    pub mode: String,
    pub owner: u32,
    pub group: u32,
    /// The security label.
    pub label: Option<String>,
}

/// One volume of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Volume {
    pub pool: String,
    pub name: String,
    /// libvirt's key, unique on this host.
    pub key: String,
    pub path: String,
    /// `file`, `block`, `dir`, `network`.
    pub r#type: String,
    /// `qcow2`, `raw`, `iso`, …
    pub format: Option<String>,
    /// What a guest sees.
    pub capacity_bytes: u64,
    /// What it takes of the pool now.
    pub allocation_bytes: u64,
    /// The length of the file or device; null where libvirt does not tell.
    pub physical_bytes: Option<u64>,
    /// The path of the backing file, for a volume that has one.
    pub backing_path: Option<String>,
    /// The backing file, its backing file, and so on, as far as they are volumes of known pools.
    pub backing_chain: Vec<BackingFile>,
    /// The volumes that read from this one what was never written to them.
    pub backing_of: Vec<VolumeRef>,
    /// `luks` or `qcow`; null if it is not encrypted.
    pub encryption: Option<String>,
    pub permissions: Option<VolumePermissions>,
    pub accessed_at: Option<Timestamp>,
    pub modified_at: Option<Timestamp>,
    pub changed_at: Option<Timestamp>,
    pub created_at: Option<Timestamp>,
    /// The name of the template that it is a base of: it does not change, and goes with that alone.
    pub template: Option<String>,
    /// The names of the VMs that have it as a disk, or below one in a backing chain.
    pub used_by: Vec<String>,
    /// What each of them has it for.
    pub used_as: BTreeMap<String, VolumeUse>,
}
