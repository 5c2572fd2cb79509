//! What is known of a running guest, from its agent, the DHCP leases and libvirt's statistics.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether the guest agent can be spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GuestAgentState {
    /// The VM has no channel for an agent.
    NotConfigured,
    /// There is a channel, and nobody at its other end.
    #[default]
    NotConnected,
    /// The agent answers.
    Connected,
    /// The agent's end is open and it does not answer in time.
    NotResponding,
}

/// One address of the guest.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
pub struct GuestAddress {
    /// The address without its prefix.
    pub address: String,
    pub prefix: u8,
    /// `ipv4` or `ipv6`.
    pub family: String,
    pub mac: Option<String>,
    /// The guest's name of the interface, where the agent tells.
    pub interface: Option<String>,
    /// `agent` or `lease`.
    pub source: String,
}

/// Runtime details of one VM.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RuntimeDetails {
    pub guest_agent: GuestAgentState,
    /// The guest's host name.
    pub hostname: Option<String>,
    /// `debian`, `mswindows`, …, as the guest's os-release says.
    pub os_id: Option<String>,
    /// The name to show: `Debian GNU/Linux 12 (bookworm)`.
    pub os_name: Option<String>,
    pub os_version: Option<String>,
    pub kernel: Option<String>,
    pub machine: Option<String>,
    pub timezone: Option<String>,
    /// Addresses, loopback left out; sorted.
    pub addresses: Vec<GuestAddress>,
    /// The first address that another host could use.
    pub primary_address: Option<String>,
    /// When the VM was started, as far as Vapor saw it.
    pub started_at: Option<Timestamp>,
    /// When these details last changed.
    pub updated_at: Option<Timestamp>,
}
