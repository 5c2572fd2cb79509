//! Storage pools and volumes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

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

/// The state of a pool, after `virStoragePoolState`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolState {
    #[default]
    Inactive,
    Building,
    Running,
    Degraded,
    Inaccessible,
}

/// One storage pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pool {
    pub uuid: Uuid,
    pub name: String,
    /// `dir`, `logical`, `netfs`, …
    pub r#type: String,
    pub state: PoolState,
    pub capacity_bytes: u64,
    pub allocation_bytes: u64,
    pub available_bytes: u64,
    /// Where it is on the host, if its type has a place.
    pub target_path: Option<String>,
    pub autostart: bool,
    pub persistent: bool,
    pub volume_count: u32,
    pub generation: u64,
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
    pub capacity_bytes: u64,
    pub allocation_bytes: u64,
    /// The path of the backing file, for a volume that has one.
    pub backing_path: Option<String>,
    /// The names of the VMs that have it as a disk.
    pub used_by: Vec<String>,
}
