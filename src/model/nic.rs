//! Network interfaces of VMs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::vm_request::{Bandwidth, DirectMode};

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
    /// How a direct NIC shares its device. Like the rest below it is shown for one VM, not in lists,
    /// and absent where libvirt's default holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<DirectMode>,
    /// The VLAN that the guest's frames are tagged with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// What the guest may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<Bandwidth>,
    /// What the guest may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<Bandwidth>,
    /// Whether it is kept from other isolated NICs on the same bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
}
