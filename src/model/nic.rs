//! Network interfaces of VMs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a NIC is plugged into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NicSourceType {
    /// A libvirt network.
    #[default]
    Network,
    /// A bridge on the host.
    Bridge,
    /// A host device, through macvtap.
    Direct,
    /// QEMU's user-mode networking.
    User,
}

/// The source of a NIC as libvirt has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NicSource {
    /// `network`, `bridge`, `direct`, `user`, or another type of libvirt's.
    pub r#type: String,
    /// The network's, bridge's or device's name; null where the type has none.
    pub name: Option<String>,
}

/// One network interface of a VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Nic {
    /// Lower-case, with colons.
    pub mac: String,
    pub source: NicSource,
    /// `virtio`, `e1000e`, …
    pub model: Option<String>,
    /// The device on the host while the VM runs, such as `vnet3`.
    pub target: Option<String>,
    /// Whether the link is up.
    pub link_up: bool,
    pub boot_order: Option<u32>,
    pub alias: Option<String>,
}
