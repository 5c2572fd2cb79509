//! What clients send to make a VM like another one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{LabelKey, LabelValue, ResourceName, VmName, VolumeName};

/// The body of `POST V/{id}/clone`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneVm {
    /// The new VM's name.
    pub name: VmName,
    /// Make overlays on top of the source's disks instead of copies. The source must be stopped, and
    /// gets overlays of its own: what both have in common does not change any more.
    #[serde(default)]
    pub linked: bool,
    /// The pool of the new disks; that of each disk's source if absent.
    #[serde(default)]
    pub pool: Option<ResourceName>,
    /// Where single disks go, by their targets such as `vda`.
    #[serde(default)]
    pub disks: Option<BTreeMap<String, CloneDisk>>,
    /// The source's if absent.
    #[serde(default)]
    #[schema(max_length = 8192, pattern = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]*$")]
    pub description: Option<String>,
    /// Replaces the source's labels; those are kept if absent.
    #[serde(default)]
    pub labels: Option<BTreeMap<LabelKey, LabelValue>>,
    /// Start with the host.
    #[serde(default)]
    pub autostart: bool,
    /// Start as soon as it is made.
    #[serde(default)]
    pub start: bool,
}

/// The body of `POST V/clone`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneVmFrom {
    /// The UUID or the name of the VM to be cloned.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$", example = "web1")]
    pub source: String,
    /// The new VM's name.
    pub name: VmName,
    /// Make overlays on top of the source's disks instead of copies. The source must be stopped, and
    /// gets overlays of its own: what both have in common does not change any more.
    #[serde(default)]
    pub linked: bool,
    /// The pool of the new disks; that of each disk's source if absent.
    #[serde(default)]
    pub pool: Option<ResourceName>,
    /// Where single disks go, by their targets such as `vda`.
    #[serde(default)]
    pub disks: Option<BTreeMap<String, CloneDisk>>,
    /// The source's if absent.
    #[serde(default)]
    #[schema(max_length = 8192, pattern = r"^[^\x00-\x08\x0B\x0C\x0E-\x1F\uFFFE\uFFFF]*$")]
    pub description: Option<String>,
    /// Replaces the source's labels; those are kept if absent.
    #[serde(default)]
    pub labels: Option<BTreeMap<LabelKey, LabelValue>>,
    /// Start with the host.
    #[serde(default)]
    pub autostart: bool,
    /// Start as soon as it is made.
    #[serde(default)]
    pub start: bool,
}

impl CloneVmFrom {
    /// The source, and what is to be made of it.
    pub fn split(self) -> (String, CloneVm) {
        let clone = CloneVm {
            name: self.name,
            linked: self.linked,
            pool: self.pool,
            disks: self.disks,
            description: self.description,
            labels: self.labels,
            autostart: self.autostart,
            start: self.start,
        };
        (self.source, clone)
    }
}

/// Where one disk of a clone goes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CloneDisk {
    /// The pool of the new volume.
    pub pool: Option<ResourceName>,
    /// The name of the new volume; made from the VM's name if absent.
    pub name: Option<VolumeName>,
}
