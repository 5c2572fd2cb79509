//! Operating systems that guests may run, as libosinfo's database describes them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where an operating system stands in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReleaseStatus {
    #[default]
    Released,
    Prerelease,
    /// A development snapshot.
    Snapshot,
    /// Without versions: it is renewed all the time.
    Rolling,
}

/// One operating system that a guest may run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OsVariant {
    /// libosinfo's id, such as `http://debian.org/debian/11`.
    pub id: String,
    /// The word that command lines use, such as `debian11`.
    pub short_id: String,
    pub name: String,
    pub version: Option<String>,
    pub vendor: Option<String>,
    /// `linux`, `winnt`, `freebsd`, …
    pub family: Option<String>,
    /// `debian`, `fedora`, `win`, …
    pub distro: Option<String>,
    pub codename: Option<String>,
    pub release_status: ReleaseStatus,
    /// As `2021-08-14`.
    pub release_date: Option<String>,
    /// When its support ends or ended, as `2024-07-01`.
    pub eol_date: Option<String>,
    /// The id of the system that it descends from.
    pub derives_from: Option<String>,
    /// The architectures that media or needs are known for.
    pub architectures: Vec<String>,
    /// What it needs, by architecture.
    pub resources: Vec<OsResources>,
    /// Which firmware it boots from or does not, where that is known.
    pub firmware: Vec<OsFirmware>,
    /// The virtual devices that it has drivers for, such as `virtio1.0-net`, as far as is known.
    pub devices: Vec<String>,
}

/// What an operating system needs on one architecture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OsResources {
    /// `all` where no architecture is named.
    pub architecture: String,
    pub minimum: Option<ResourceNeed>,
    pub recommended: Option<ResourceNeed>,
    pub maximum: Option<ResourceNeed>,
    /// What an installation over the network needs, where that is more.
    pub network_install: Option<ResourceNeed>,
}

/// An amount of everything a guest needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceNeed {
    pub vcpus: Option<u32>,
    /// MiB.
    pub memory: Option<u64>,
    pub storage_bytes: Option<u64>,
    /// Hz of one processor.
    pub cpu_hz: Option<u64>,
}

/// Whether an operating system boots from a firmware.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OsFirmware {
    pub architecture: String,
    /// `efi` or `bios`.
    pub r#type: String,
    pub supported: bool,
}
