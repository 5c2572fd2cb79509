//! Storage pools: what they are, and what clients send to make and to change them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::ResourceName;

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

impl PoolState {
    /// Whether its volumes can be reached.
    pub const fn is_active(self) -> bool {
        match self {
            PoolState::Inactive => false,
            PoolState::Building
            | PoolState::Running
            | PoolState::Degraded
            | PoolState::Inaccessible => true,
        }
    }

    /// The word in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            PoolState::Inactive => "inactive",
            PoolState::Building => "building",
            PoolState::Running => "running",
            PoolState::Degraded => "degraded",
            PoolState::Inaccessible => "inaccessible",
        }
    }
}

/// What a pool stands on. Which of them a host can do is told by its capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PoolType {
    /// A folder.
    #[default]
    Dir,
    /// A file system on a block device, mounted.
    Fs,
    /// A file system of another host, mounted: NFS, CIFS, GlusterFS.
    Netfs,
    /// An LVM volume group.
    Logical,
    /// A disk with partitions.
    Disk,
    /// A target of an iSCSI server, logged in by this host.
    Iscsi,
    /// The same, spoken to by QEMU itself.
    IscsiDirect,
    /// A SCSI or Fibre Channel adapter.
    Scsi,
    /// The multipath devices of this host.
    Mpath,
    /// A pool of a Ceph cluster.
    Rbd,
    Sheepdog,
    /// A volume of a Gluster cluster, spoken to by QEMU itself.
    Gluster,
    /// A ZFS pool or dataset.
    Zfs,
    /// A Virtuozzo storage cluster.
    Vstorage,
}

impl PoolType {
    /// Every type, in libvirt's order.
    pub const ALL: [PoolType; 14] = [
        PoolType::Dir,
        PoolType::Fs,
        PoolType::Netfs,
        PoolType::Logical,
        PoolType::Disk,
        PoolType::Iscsi,
        PoolType::IscsiDirect,
        PoolType::Scsi,
        PoolType::Mpath,
        PoolType::Rbd,
        PoolType::Sheepdog,
        PoolType::Gluster,
        PoolType::Zfs,
        PoolType::Vstorage,
    ];

    /// libvirt's word, and the API's.
    pub const fn as_str(self) -> &'static str {
        match self {
            PoolType::Dir => "dir",
            PoolType::Fs => "fs",
            PoolType::Netfs => "netfs",
            PoolType::Logical => "logical",
            PoolType::Disk => "disk",
            PoolType::Iscsi => "iscsi",
            PoolType::IscsiDirect => "iscsi-direct",
            PoolType::Scsi => "scsi",
            PoolType::Mpath => "mpath",
            PoolType::Rbd => "rbd",
            PoolType::Sheepdog => "sheepdog",
            PoolType::Gluster => "gluster",
            PoolType::Zfs => "zfs",
            PoolType::Vstorage => "vstorage",
        }
    }

    /// The type with this word.
    pub fn parse(word: &str) -> Option<Self> {
        PoolType::ALL.into_iter().find(|r#type| r#type.as_str() == word)
    }
}

/// A server that a pool's storage is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolHost {
    /// A host name or an address.
    #[schema(
        min_length = 1,
        max_length = 253,
        pattern = "^[A-Za-z0-9.:_-]+$",
        example = "nas1.example.org"
    )]
    pub name: String,
    /// The service's own port if absent.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
}

/// A device that a pool's storage is on: a block device by its path, or an iSCSI target by its
/// name (`iqn.…`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolDevice {
    #[schema(
        min_length = 1,
        max_length = 4095,
        pattern = r"^[^\x00-\x1F\x7F]+$",
        example = "/dev/vdb"
    )]
    pub path: String,
}

/// The kind of an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdapterType {
    #[default]
    ScsiHost,
    FcHost,
}

/// A SCSI or Fibre Channel adapter of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PoolAdapter {
    pub r#type: AdapterType,
    /// `scsi_host`: its name, such as `scsi_host1`; required.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_]+$")]
    pub name: Option<String>,
    /// `fc_host`: the name of the adapter that the virtual one is made on.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_]+$")]
    pub parent: Option<String>,
    /// `fc_host`: whether libvirt removes the virtual adapter when the pool stops.
    pub managed: Option<bool>,
    /// `fc_host`: its world-wide node name; required.
    #[schema(pattern = "^[0-9a-fA-F]{16}$")]
    pub wwnn: Option<String>,
    /// `fc_host`: its world-wide port name; required.
    #[schema(pattern = "^[0-9a-fA-F]{16}$")]
    pub wwpn: Option<String>,
}

/// How a pool proves to a server who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthType {
    /// iSCSI.
    Chap,
    /// Ceph.
    Ceph,
}

impl AuthType {
    /// libvirt's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            AuthType::Chap => "chap",
            AuthType::Ceph => "ceph",
        }
    }
}

/// A secret that libvirt keeps, by its UUID or its usage; one of the two. Its value is never here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SecretRef {
    #[schema(value_type = Option<String>, format = Uuid)]
    pub uuid: Option<Uuid>,
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$")]
    pub usage: Option<String>,
}

/// Who the pool is to a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolAuth {
    pub r#type: AuthType,
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$")]
    pub username: String,
    pub secret: SecretRef,
}

/// Where a pool's storage comes from. Which members there are depends on the type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PoolSource {
    /// `netfs`, `iscsi`, `iscsi-direct`, `rbd`, `sheepdog`, `gluster`.
    #[schema(max_items = 16)]
    pub hosts: Vec<PoolHost>,
    /// `fs`, `disk`, `zfs` (block devices), `iscsi`, `iscsi-direct` (a target); `logical`: what a new
    /// volume group is made on, which is found by its name alone afterwards.
    #[schema(max_items = 64)]
    pub devices: Vec<PoolDevice>,
    /// `netfs`: what the server exports; `gluster`: a folder of the volume.
    #[schema(
        min_length = 1,
        max_length = 4095,
        pattern = r"^[^\x00-\x1F\x7F]+$",
        example = "/srv/vms"
    )]
    pub dir: Option<String>,
    /// `logical`: the volume group (the pool's name if absent); `rbd`, `sheepdog`, `gluster`, `zfs`,
    /// `vstorage`: the name of the pool, volume or cluster.
    #[schema(min_length = 1, max_length = 255, pattern = "^[A-Za-z0-9_.+:/-]+$", example = "vg0")]
    pub name: Option<String>,
    /// `fs`, `netfs`, `logical`, `disk`: a word of the host's capabilities, such as `ext4` or `nfs`.
    #[schema(min_length = 1, max_length = 32, pattern = "^[A-Za-z0-9_+-]+$")]
    pub format: Option<String>,
    /// `scsi`.
    pub adapter: Option<PoolAdapter>,
    /// `iscsi`, `iscsi-direct`: the name (`iqn.…`) that this host calls itself.
    #[schema(min_length = 1, max_length = 223, pattern = "^[A-Za-z0-9.:-]+$")]
    pub initiator: Option<String>,
    /// `iscsi`, `iscsi-direct`, `rbd`.
    pub auth: Option<PoolAuth>,
    /// `netfs`: the version of NFS, such as `4` or `4.2`.
    #[schema(min_length = 1, max_length = 8, pattern = r"^[0-9]+(\.[0-9]+)?$")]
    pub protocol_version: Option<String>,
}

/// The mode and the owner of a pool's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PoolPermissions {
    /// Octal, such as `0711`.
    #[schema(pattern = "^0?[0-7]{3}$", example = "0711")]
    pub mode: Option<String>,
    /// A user's number.
    #[schema(maximum = 4294967294_i64, format = Int64)]
    pub owner: Option<u32>,
    /// A group's number.
    #[schema(maximum = 4294967294_i64, format = Int64)]
    pub group: Option<u32>,
}

/// Where a pool is on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PoolTarget {
    /// Absolute and normalised. `dir`, `fs`, `netfs`, `vstorage`: required, and no other pool's;
    /// others: chosen by the type if absent.
    #[schema(
        min_length = 2,
        max_length = 4095,
        pattern = r"^(/([^/.\x00-\x1F\x7F][^/\x00-\x1F\x7F]*|\.[^/.\x00-\x1F\x7F][^/\x00-\x1F\x7F]*|\.\.[^/\x00-\x1F\x7F]+))+$",
        example = "/var/lib/libvirt/images"
    )]
    pub path: Option<String>,
    pub permissions: Option<PoolPermissions>,
}

/// Further properties of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PoolFeatures {
    /// Copy-on-write of the folder's file system (btrfs); its own setting if null.
    pub cow: Option<bool>,
}

/// One storage pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pool {
    pub uuid: Uuid,
    pub name: String,
    /// `dir`, `logical`, `netfs`, …
    pub r#type: String,
    pub state: PoolState,
    /// What was wrong when it was last started or refreshed through Vapor, such as a folder that is
    /// gone; null if nothing was.
    pub problem: Option<String>,
    pub capacity_bytes: u64,
    pub allocation_bytes: u64,
    pub available_bytes: u64,
    /// Where it is on the host, if its type has a place; the same as `target.path`.
    pub target_path: Option<String>,
    pub source: PoolSource,
    pub target: PoolTarget,
    pub features: PoolFeatures,
    pub autostart: bool,
    pub persistent: bool,
    pub volume_count: u32,
    pub generation: u64,
}

/// How much room a pool has, and how much of it is promised.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolCapacity {
    pub name: String,
    pub state: PoolState,
    /// As libvirt saw it when the pool was last refreshed, as all sizes here.
    pub capacity_bytes: u64,
    pub allocation_bytes: u64,
    pub available_bytes: u64,
    pub volume_count: u32,
    /// What the volumes may grow to, all together.
    pub volumes_capacity_bytes: u64,
    /// What the volumes take now, all together.
    pub volumes_allocation_bytes: u64,
    /// `volumes_capacity_bytes` by `capacity_bytes`: more than 1 if more is promised than there is.
    /// Null while the capacity is not known.
    pub overcommit: Option<f64>,
}

/// The body of `POST …/pools`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreatePool {
    pub name: ResourceName,
    /// `dir` if absent.
    #[serde(default)]
    pub r#type: PoolType,
    #[serde(default)]
    pub source: Option<PoolSource>,
    #[serde(default)]
    pub target: Option<PoolTarget>,
    #[serde(default)]
    pub features: Option<PoolFeatures>,
    /// Make what the pool stands on. `dir`, `netfs`, `vstorage`: the folder, if it is missing, and
    /// true if absent. `fs`: the file system; `logical`: the volume group; `disk`: the partition
    /// table; `zfs`: the pool; false if absent. Others have nothing that could be made.
    #[serde(default)]
    pub build: Option<bool>,
    /// With `build` of `fs`, `logical` or `disk`: also where the device holds something, which is
    /// lost.
    #[serde(default)]
    pub overwrite: bool,
    /// Start it as soon as it is made; true if absent.
    #[serde(default)]
    pub start: Option<bool>,
    /// Start it with the host; true if absent.
    #[serde(default)]
    pub autostart: Option<bool>,
}

/// The body of `PUT …/pools/{pool}`: what is absent or empty stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpdatePool {
    /// Start it with the host.
    pub autostart: Option<bool>,
    /// Only while the pool is inactive.
    pub source: Option<PoolSource>,
    /// Only while the pool is inactive.
    pub target: Option<PoolTarget>,
    /// Only while the pool is inactive.
    pub features: Option<PoolFeatures>,
}
