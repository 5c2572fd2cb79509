//! Virtual networks.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// How a network reaches the outside.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NetworkForward {
    /// `nat`, `route`, `bridge`, `open`, …, or `isolated`.
    pub mode: String,
    pub device: Option<String>,
}

/// A range of addresses that DHCP gives out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DhcpRange {
    pub start: String,
    pub end: String,
}

/// One libvirt network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Network {
    pub uuid: Uuid,
    pub name: String,
    pub active: bool,
    pub persistent: bool,
    pub autostart: bool,
    pub bridge: Option<String>,
    pub forward: NetworkForward,
    /// Addresses of the host in this network, with prefix, such as `192.168.122.1/24`.
    pub addresses: Vec<String>,
    pub dhcp_ranges: Vec<DhcpRange>,
    pub generation: u64,
}
