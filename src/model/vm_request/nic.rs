//! The NICs of a VM that is to be made.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{NetworkName, NicSourceType, ResourceName};

/// The NIC of the flat form.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FlatNetwork {
    #[serde(default)]
    pub r#type: NicSourceType,
    /// The network, bridge or device; the network `default` if absent.
    #[serde(default)]
    pub source: Option<NetworkName>,
    /// `virtio` if absent.
    #[serde(default)]
    pub model: Option<ResourceName>,
}

/// One NIC to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NicRequest {
    #[serde(default)]
    pub r#type: NicSourceType,
    /// The network, bridge or device; the network `default` if absent.
    #[serde(default)]
    pub source: Option<NetworkName>,
    /// `virtio` if absent.
    #[serde(default)]
    pub model: Option<ResourceName>,
    /// Chosen by Vapor, in 52:54:00, if absent.
    #[serde(default)]
    #[schema(pattern = "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$")]
    pub mac: Option<String>,
    #[serde(default)]
    #[schema(minimum = 1, maximum = 32)]
    pub boot_order: Option<u32>,
    /// Whether the link is up; up if absent.
    #[serde(default)]
    pub link_up: Option<bool>,
    /// How a direct NIC shares its device; `bridge` if absent.
    #[serde(default)]
    pub mode: Option<DirectMode>,
    /// Tags what the guest sends; for networks that libvirt can do it in (`openvswitch`, `hostdev`).
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4094)]
    pub vlan: Option<u16>,
    /// What the guest may receive.
    #[serde(default)]
    pub inbound: Option<Bandwidth>,
    /// What the guest may send.
    #[serde(default)]
    pub outbound: Option<Bandwidth>,
    /// Keeps it from talking to other isolated NICs on the same bridge.
    #[serde(default, skip_serializing_if = "is_false")]
    pub isolated: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

words! {
    /// How a macvtap device behaves among those of the same host device.
    DirectMode { Bridge = "bridge", Vepa = "vepa", Private = "private", Passthrough = "passthrough" }
}

/// A limit to one direction of a NIC's traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Bandwidth {
    /// KiB per second.
    #[schema(minimum = 1, maximum = 4294967295_u64)]
    pub average: u64,
    /// KiB per second in a burst; at least `average`.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4294967295_u64)]
    pub peak: Option<u64>,
    /// KiB that may go at the speed of `peak`.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4294967295_u64)]
    pub burst: Option<u64>,
}
