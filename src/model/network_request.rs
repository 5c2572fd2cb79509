//! What clients send to create and to change networks. What a schema cannot say (which fields
//! belong together, what overlaps) is checked by `service/network`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::network::{
    DnsForwarder, DnsHost, DnsSrv, DnsTxt, NetworkBandwidth, NetworkDomain, NetworkIp, NetworkNat,
    NetworkRoute, NetworkVlan, PortGroup,
};
use super::{DeviceName, NetworkName};

/// How a network shall reach the outside: libvirt's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForwardMode {
    /// Through the host, behind its addresses.
    #[default]
    Nat,
    /// Through the host, with the guests' own addresses.
    Route,
    /// Through the host, which adds no rules of its own to its firewall.
    Open,
    /// Not at all: guests reach each other and the host.
    Isolated,
    /// An existing bridge (`bridge`), or macvtap in bridge mode on `forward.devices`.
    Bridge,
    /// Macvtap: guests do not reach each other.
    Private,
    /// Macvtap: everything goes through a switch that sends it back.
    Vepa,
    /// Macvtap: each guest has a device of the host for itself.
    Passthrough,
    /// A pool of PCI devices, such as virtual functions of SR-IOV.
    Hostdev,
}

impl ForwardMode {
    /// The word in the API; libvirt's own but for `isolated`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ForwardMode::Nat => "nat",
            ForwardMode::Route => "route",
            ForwardMode::Open => "open",
            ForwardMode::Isolated => "isolated",
            ForwardMode::Bridge => "bridge",
            ForwardMode::Private => "private",
            ForwardMode::Vepa => "vepa",
            ForwardMode::Passthrough => "passthrough",
            ForwardMode::Hostdev => "hostdev",
        }
    }

    /// The mode with this word.
    pub fn parse(word: &str) -> Option<Self> {
        [
            ForwardMode::Nat,
            ForwardMode::Route,
            ForwardMode::Open,
            ForwardMode::Isolated,
            ForwardMode::Bridge,
            ForwardMode::Private,
            ForwardMode::Vepa,
            ForwardMode::Passthrough,
            ForwardMode::Hostdev,
        ]
        .into_iter()
        .find(|mode| mode.as_str() == word)
    }

    /// Whether libvirt makes the bridge, gives it addresses and serves DHCP and DNS on it.
    pub const fn is_managed(self) -> bool {
        match self {
            ForwardMode::Nat | ForwardMode::Route | ForwardMode::Open | ForwardMode::Isolated => {
                true
            }
            ForwardMode::Bridge
            | ForwardMode::Private
            | ForwardMode::Vepa
            | ForwardMode::Passthrough
            | ForwardMode::Hostdev => false,
        }
    }
}

/// How a network shall reach the outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwardRequest {
    pub mode: ForwardMode,
    /// The host's interfaces: of `nat` and `route` the only way out (at most one), of the macvtap
    /// modes what guests are plugged into.
    #[serde(default)]
    #[schema(max_items = 256)]
    pub devices: Vec<DeviceName>,
    /// `hostdev` and `passthrough`: the device whose virtual functions are the pool.
    #[serde(default)]
    pub physical_function: Option<DeviceName>,
    /// `hostdev`: the PCI devices of the pool.
    #[serde(default)]
    #[schema(max_items = 256)]
    pub pci_addresses: Vec<PciAddress>,
    /// `hostdev`: take the devices from the host's driver and give them back; true if absent.
    #[serde(default)]
    pub managed: Option<bool>,
    #[serde(default)]
    pub nat: Option<NetworkNat>,
}

/// Where a PCI device is: `domain:bus:slot.function` in hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, pattern = "^([0-9A-Fa-f]{4}:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f][.][0-7]$", example = "0000:03:10.1")]
pub struct PciAddress(pub String);

/// The type of virtual port a network is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum VirtualPort {
    /// The bridge is one of Open vSwitch.
    Openvswitch,
    /// None: in an update, to take it away.
    None,
}

/// What shall be known to, and asked by, the network's DNS server. What is absent stays; a list
/// replaces the one that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DnsRequest {
    pub enabled: Option<bool>,
    #[schema(max_items = 64)]
    pub forwarders: Option<Vec<DnsForwarder>>,
    #[schema(max_items = 4096)]
    pub hosts: Option<Vec<DnsHost>>,
    #[schema(max_items = 256)]
    pub srv: Option<Vec<DnsSrv>>,
    #[schema(max_items = 256)]
    pub txt: Option<Vec<DnsTxt>>,
}

/// The body of `POST …/networks`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CreateNetwork {
    #[schema(required)]
    pub name: Option<NetworkName>,
    /// `nat` if absent.
    pub forward: Option<ForwardRequest>,
    /// `bridge`: the existing bridge. Where libvirt makes the bridge: its name, chosen by libvirt if
    /// absent.
    pub bridge: Option<DeviceName>,
    #[schema(max_items = 16)]
    pub ips: Option<Vec<NetworkIp>>,
    #[schema(max_items = 256)]
    pub routes: Option<Vec<NetworkRoute>>,
    pub domain: Option<NetworkDomain>,
    pub dns: Option<DnsRequest>,
    /// Bytes; the kernel's own if absent.
    #[schema(minimum = 68, maximum = 65535)]
    pub mtu: Option<u32>,
    pub vlan: Option<NetworkVlan>,
    pub virtual_port: Option<VirtualPort>,
    pub bandwidth: Option<NetworkBandwidth>,
    /// Keep guests from reaching each other.
    pub port_isolation: Option<bool>,
    #[schema(max_items = 256)]
    pub portgroups: Option<Vec<PortGroup>>,
    /// Start with the host; true if absent.
    pub autostart: Option<bool>,
    /// Start as soon as it is made; true if absent.
    pub start: Option<bool>,
}

/// The body of PUT: what is absent stays as it is, and a list replaces the one that is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpdateNetwork {
    /// With the next start; the devices of a macvtap network at once.
    pub forward: Option<ForwardRequest>,
    /// With the next start.
    pub bridge: Option<DeviceName>,
    /// Addresses with the next start; what DHCP does in them at once.
    #[schema(max_items = 16)]
    pub ips: Option<Vec<NetworkIp>>,
    /// With the next start.
    #[schema(max_items = 256)]
    pub routes: Option<Vec<NetworkRoute>>,
    /// With the next start; an empty name takes it away.
    pub domain: Option<NetworkDomain>,
    /// Hosts, services and texts at once; the rest with the next start.
    pub dns: Option<DnsRequest>,
    /// Bytes, with the next start; 0 for the kernel's own.
    #[schema(minimum = 0, maximum = 65535)]
    pub mtu: Option<u32>,
    /// With the next start; no tags to take it away.
    pub vlan: Option<NetworkVlan>,
    /// With the next start.
    pub virtual_port: Option<VirtualPort>,
    /// With the next start; empty to take it away.
    pub bandwidth: Option<NetworkBandwidth>,
    /// With the next start.
    pub port_isolation: Option<bool>,
    /// At once, for what is plugged in from then on.
    #[schema(max_items = 256)]
    pub portgroups: Option<Vec<PortGroup>>,
    /// Start with the host.
    pub autostart: Option<bool>,
}

impl From<CreateNetwork> for UpdateNetwork {
    fn from(new: CreateNetwork) -> Self {
        UpdateNetwork {
            forward: Some(new.forward.unwrap_or_default()),
            bridge: new.bridge,
            ips: new.ips,
            routes: new.routes,
            domain: new.domain,
            dns: new.dns,
            mtu: new.mtu,
            vlan: new.vlan,
            virtual_port: new.virtual_port,
            bandwidth: new.bandwidth,
            port_isolation: new.port_isolation,
            portgroups: new.portgroups,
            autostart: new.autostart,
        }
    }
}
