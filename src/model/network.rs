//! Virtual networks.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// How a network reaches the outside.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NetworkForward {
    /// `nat`, `route`, `open`, `bridge`, `private`, `vepa`, `passthrough`, `hostdev`, or `isolated`.
    pub mode: String,
    /// The first of `devices`.
    pub device: Option<String>,
    /// The host's interfaces: of `nat` and `route` the only way out, of the others what guests are
    /// plugged into.
    pub devices: Vec<String>,
    /// The device whose virtual functions are the pool.
    pub physical_function: Option<String>,
    /// The PCI devices of a pool, such as `0000:03:10.1`.
    pub pci_addresses: Vec<String>,
    /// Whether libvirt takes a pool's devices from the host's driver and gives them back.
    pub managed: bool,
    pub nat: Option<NetworkNat>,
}

/// How addresses are translated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkNat {
    /// Translate IPv6, too.
    pub ipv6: bool,
    /// The addresses guests appear as; the host's own if absent.
    pub addresses: Option<DhcpRange>,
    /// The ports guests appear at; 1024 to 65535 if absent.
    pub ports: Option<PortRange>,
}

/// Ports, both ends included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortRange {
    #[schema(minimum = 1, maximum = 65535)]
    pub start: u16,
    #[schema(minimum = 1, maximum = 65535)]
    pub end: u16,
}

/// A range of addresses, both ends included, such as DHCP gives out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DhcpRange {
    #[schema(max_length = 45, pattern = "^[0-9A-Fa-f:.]+$", example = "10.20.0.100")]
    pub start: String,
    #[schema(max_length = 45, pattern = "^[0-9A-Fa-f:.]+$", example = "10.20.0.200")]
    pub end: String,
}

/// An address that one machine always gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DhcpHost {
    /// By which it is known in IPv4; with colons.
    #[serde(default)]
    #[schema(pattern = "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$", example = "52:54:00:00:00:01")]
    pub mac: Option<String>,
    /// By which it is known in IPv6: its DHCP unique identifier, in hexadecimal with colons.
    #[serde(default)]
    #[schema(
        max_length = 391,
        pattern = "^0{1,2}:0?[1-4](:[0-9A-Fa-f]{1,2}){6,128}$",
        example = "00:03:00:01:52:54:00:00:00:01"
    )]
    pub id: Option<String>,
    /// The host name it is told, and is known by if neither of the others is given.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 253,
        pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$",
        example = "db1"
    )]
    pub name: Option<String>,
    #[schema(max_length = 45, pattern = "^[0-9A-Fa-f:.]+$", example = "10.20.0.10")]
    pub ip: String,
}

/// What the DHCP server of one subnet gives out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkDhcp {
    #[schema(max_items = 64)]
    pub ranges: Vec<DhcpRange>,
    #[schema(max_items = 4096)]
    pub hosts: Vec<DhcpHost>,
}

/// One subnet of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkIp {
    /// The host's own address in the subnet with the prefix, such as `10.20.0.1/24`.
    #[schema(max_length = 49, pattern = "^[0-9A-Fa-f:.]+/[0-9]{1,3}$", example = "10.20.0.1/24")]
    pub address: String,
    /// Null or absent for a subnet without DHCP.
    #[serde(default)]
    pub dhcp: Option<NetworkDhcp>,
}

/// A route of the host through a machine in the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkRoute {
    #[schema(max_length = 49, pattern = "^[0-9A-Fa-f:.]+/[0-9]{1,3}$", example = "10.30.0.0/16")]
    pub destination: String,
    #[schema(max_length = 45, pattern = "^[0-9A-Fa-f:.]+$", example = "10.20.0.254")]
    pub gateway: String,
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4294967295_i64)]
    pub metric: Option<u32>,
}

/// The domain of the network's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkDomain {
    /// Empty in an update to take it away.
    #[schema(
        max_length = 253,
        pattern = "^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$",
        example = "lab.example"
    )]
    pub name: String,
    /// Whether names of this domain are never asked of other servers.
    #[serde(default)]
    pub local_only: bool,
}

/// Where the network's DNS server asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsForwarder {
    /// The server; absent together with a `domain` that is not to be asked of anybody.
    #[serde(default)]
    #[schema(max_length = 45, pattern = "^[0-9A-Fa-f:.]+$", example = "192.0.2.53")]
    pub address: Option<String>,
    /// Only names of this domain are asked there.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 253,
        pattern = "^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
    )]
    pub domain: Option<String>,
}

/// Names of one address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsHost {
    #[schema(max_length = 45, pattern = "^[0-9A-Fa-f:.]+$", example = "10.20.0.10")]
    pub ip: String,
    #[schema(min_items = 1, max_items = 64)]
    pub hostnames: Vec<DnsName>,
}

/// A name in the DNS.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(transparent)]
#[schema(value_type = String, min_length = 1, max_length = 253, pattern = "^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9])?$", example = "db1.lab.example")]
pub struct DnsName(pub String);

/// Where a service is found (RFC 2782).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsSrv {
    /// Without its underscore.
    #[schema(min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9_-]+$", example = "ldap")]
    pub service: String,
    /// Without its underscore.
    #[schema(pattern = "^(tcp|udp)$", example = "tcp")]
    pub protocol: String,
    /// The network's own domain if absent.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 253,
        pattern = "^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
    )]
    pub domain: Option<String>,
    /// The host that offers it; absent to say that nobody does.
    #[serde(default)]
    #[schema(
        min_length = 1,
        max_length = 253,
        pattern = "^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
    )]
    pub target: Option<String>,
    #[serde(default)]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
    #[serde(default)]
    #[schema(maximum = 65535)]
    pub priority: Option<u16>,
    #[serde(default)]
    #[schema(maximum = 65535)]
    pub weight: Option<u16>,
}

/// A text record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DnsTxt {
    #[schema(
        min_length = 1,
        max_length = 253,
        pattern = "^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9])?$",
        example = "note.lab.example"
    )]
    pub name: String,
    /// Printable ASCII without quotation marks, backslashes and commas, which the server reads as
    /// its own.
    #[schema(max_length = 255, pattern = r"^[ -!#-+\--\[\]-~]*$", example = "made by hand")]
    pub value: String,
}

/// The network's DNS server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkDns {
    pub enabled: bool,
    pub forwarders: Vec<DnsForwarder>,
    pub hosts: Vec<DnsHost>,
    pub srv: Vec<DnsSrv>,
    pub txt: Vec<DnsTxt>,
}

/// The VLANs of what is plugged in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkVlan {
    /// Whether guests see the tags; needed for more than one.
    pub trunk: bool,
    #[schema(max_items = 64)]
    pub tags: Vec<VlanTag>,
}

/// One VLAN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VlanTag {
    #[schema(minimum = 1, maximum = 4094)]
    pub id: u16,
    /// `tagged` or `untagged` for the one VLAN of frames without tag.
    #[serde(default)]
    #[schema(pattern = "^(tagged|untagged)$")]
    pub native_mode: Option<String>,
}

/// Limits of throughput, as the bridge sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkBandwidth {
    pub inbound: Option<BandwidthLimit>,
    pub outbound: Option<BandwidthLimit>,
}

/// One direction's limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BandwidthLimit {
    /// KiB/s.
    #[schema(minimum = 1, maximum = 4194303)]
    pub average: u32,
    /// KiB/s; at least `average`.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4194303)]
    pub peak: Option<u32>,
    /// KiB at the peak's rate.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 4194303)]
    pub burst: Option<u32>,
}

/// A class of NICs within a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortGroup {
    #[schema(min_length = 1, max_length = 128, pattern = "^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}$")]
    pub name: String,
    /// Whether NICs that name no group are in this one.
    #[serde(default)]
    pub default: bool,
    #[serde(default)]
    pub vlan: Option<NetworkVlan>,
    #[serde(default)]
    pub bandwidth: Option<NetworkBandwidth>,
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
    /// The ranges of all `ips`.
    pub dhcp_ranges: Vec<DhcpRange>,
    /// The subnets with all that DHCP does in them.
    pub ips: Vec<NetworkIp>,
    pub routes: Vec<NetworkRoute>,
    pub domain: Option<NetworkDomain>,
    pub dns: NetworkDns,
    /// Bytes; null for the kernel's own.
    pub mtu: Option<u32>,
    /// The bridge's MAC address.
    pub mac: Option<String>,
    pub vlan: Option<NetworkVlan>,
    /// `openvswitch`, or another type of virtual port.
    pub virtual_port: Option<String>,
    pub bandwidth: Option<NetworkBandwidth>,
    /// Whether guests in it cannot reach each other.
    pub port_isolation: bool,
    pub portgroups: Vec<PortGroup>,
    /// What differs between the running network and its next start.
    pub pending: Option<NetworkPending>,
    pub generation: u64,
}

/// What differs between the running network and its next start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NetworkPending {
    pub changes: Vec<NetworkPendingChange>,
}

/// One field that changes with the next start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NetworkPendingChange {
    pub field: String,
    pub running: serde_json::Value,
    pub next_start: serde_json::Value,
}

/// One address that a network's DHCP server gave out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DhcpLease {
    pub mac: Option<String>,
    pub address: String,
    pub prefix: u8,
    /// `ipv4` or `ipv6`.
    pub family: String,
    pub hostname: Option<String>,
    /// The client's identifier; of IPv6 its DHCP unique identifier.
    pub client_id: Option<String>,
    /// The identity association of a DHCPv6 lease.
    pub iaid: Option<String>,
    /// Null for a lease that does not expire.
    pub expires_at: Option<Timestamp>,
    /// The VM with a NIC of this MAC address, if there is one.
    pub vm: Option<String>,
}

/// One NIC of a running VM that is plugged into a network.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NetworkPort {
    pub vm: String,
    pub vm_uuid: Uuid,
    pub mac: String,
    /// The device on the host, such as `vnet3`.
    pub target: Option<String>,
    pub model: Option<String>,
    pub link_up: bool,
    /// What the guest's agent or the leases tell of this NIC, with prefix.
    pub addresses: Vec<String>,
}
