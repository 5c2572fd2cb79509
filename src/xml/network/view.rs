//! What a network's definition says.

use std::net::{IpAddr, Ipv4Addr};

use uuid::Uuid;

use crate::error::Result;
use crate::model::network::{
    BandwidthLimit, DhcpHost, DhcpRange, DnsForwarder, DnsHost, DnsName, DnsSrv, DnsTxt, Network,
    NetworkBandwidth, NetworkDhcp, NetworkDns, NetworkDomain, NetworkForward, NetworkIp,
    NetworkNat, NetworkRoute, NetworkVlan, PortGroup, PortRange, VlanTag,
};
use crate::xml::tree::{Document, Element};

/// The network that an XML describes; whether it is active, persistent and started with the host
/// is not known here.
pub fn parse_network(xml: &str) -> Result<Network> {
    let document = Document::parse(xml)?;
    let network = document.expect("network")?;
    let ips: Vec<NetworkIp> = network.children("ip").filter_map(ip).collect();
    let ranges = ips.iter().filter_map(|ip| ip.dhcp.as_ref()).flat_map(|dhcp| &dhcp.ranges);
    Ok(Network {
        uuid: network
            .find_text("uuid")
            .and_then(|text| Uuid::parse_str(&text).ok())
            .unwrap_or_default(),
        name: network.child("name").map(|name| name.text().into_owned()).unwrap_or_default(),
        bridge: network.find_attr("bridge", "name"),
        forward: forward(network),
        addresses: ips.iter().map(|ip| ip.address.clone()).collect(),
        dhcp_ranges: ranges.cloned().collect(),
        routes: network.children("route").filter_map(route).collect(),
        domain: network.child("domain").and_then(domain),
        dns: dns(network.child("dns")),
        mtu: network.find_attr("mtu", "size").and_then(|size| size.parse().ok()),
        mac: network.find_attr("mac", "address"),
        vlan: network.child("vlan").map(vlan),
        virtual_port: network.find_attr("virtualport", "type"),
        bandwidth: network.child("bandwidth").map(bandwidth),
        port_isolation: network.find_attr("port", "isolated").is_some_and(|word| word == "yes"),
        portgroups: network.children("portgroup").filter_map(portgroup).collect(),
        ips,
        ..Network::default()
    })
}

fn attr(element: &Element<'_>, name: &str) -> Option<String> {
    element.attr(name).map(|value| value.into_owned())
}

fn number<T: std::str::FromStr>(element: &Element<'_>, name: &str) -> Option<T> {
    element.attr(name)?.parse().ok()
}

fn is_yes(element: &Element<'_>, name: &str) -> bool {
    element.attr(name).is_some_and(|value| value == "yes")
}

/// An address in its one form, or what stands there instead of one.
fn address(text: &str) -> String {
    text.parse::<IpAddr>().map_or_else(|_| text.to_owned(), |address| address.to_string())
}

fn forward(network: &Element<'_>) -> NetworkForward {
    let Some(forward) = network.child("forward") else {
        return NetworkForward { mode: "isolated".to_owned(), ..NetworkForward::default() };
    };
    let mut devices: Vec<String> =
        forward.children("interface").filter_map(|interface| attr(interface, "dev")).collect();
    if let Some(device) = attr(forward, "dev").filter(|device| !devices.contains(device)) {
        devices.insert(0, device);
    }
    NetworkForward {
        // libvirt's own default for an element that names none.
        mode: attr(forward, "mode").unwrap_or_else(|| "nat".to_owned()),
        device: devices.first().cloned(),
        devices,
        physical_function: forward.find_attr("pf", "dev"),
        pci_addresses: forward.children("address").filter_map(pci_address).collect(),
        managed: is_yes(forward, "managed"),
        nat: forward.child("nat").map(nat),
    }
}

/// A PCI address as the API writes it.
pub(super) fn pci_address(element: &Element<'_>) -> Option<String> {
    let part = |name: &str| {
        let text = element.attr(name)?;
        match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }
    };
    let domain = part("domain").unwrap_or(0);
    Some(format!("{domain:04x}:{:02x}:{:02x}.{:x}", part("bus")?, part("slot")?, part("function")?))
}

fn nat(element: &Element<'_>) -> NetworkNat {
    NetworkNat {
        ipv6: is_yes(element, "ipv6"),
        addresses: element.child("address").and_then(range),
        ports: element.child("port").and_then(|port| {
            Some(PortRange { start: number(port, "start")?, end: number(port, "end")? })
        }),
    }
}

/// A subnet. Without prefix and mask libvirt takes the class of an IPv4 address, and 64 for an
/// IPv6 address.
pub(super) fn ip(element: &Element<'_>) -> Option<NetworkIp> {
    let address: IpAddr = element.attr("address")?.parse().ok()?;
    let stated = number::<u8>(element, "prefix");
    let prefix = match (stated, element.attr("netmask"), address) {
        (Some(prefix), _, _) => prefix,
        (None, Some(mask), IpAddr::V4(_)) => prefix_of(mask.parse().ok()?)?,
        (None, _, IpAddr::V6(_)) => 64,
        (None, None, IpAddr::V4(address)) => match address.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        },
    };
    let dhcp = element.child("dhcp").map(|dhcp| NetworkDhcp {
        ranges: dhcp.children("range").filter_map(range).collect(),
        hosts: dhcp.children("host").filter_map(dhcp_host).collect(),
    });
    Some(NetworkIp { address: format!("{address}/{prefix}"), dhcp })
}

fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    if bits.checked_shl(ones).unwrap_or(0) != 0 {
        return None;
    }
    u8::try_from(ones).ok()
}

pub(super) fn range(element: &Element<'_>) -> Option<DhcpRange> {
    Some(DhcpRange { start: address(&element.attr("start")?), end: address(&element.attr("end")?) })
}

pub(super) fn dhcp_host(element: &Element<'_>) -> Option<DhcpHost> {
    Some(DhcpHost {
        mac: element.attr("mac").map(|mac| mac.to_ascii_lowercase()),
        id: element.attr("id").map(|id| id.to_ascii_lowercase()),
        name: attr(element, "name"),
        ip: address(&element.attr("ip")?),
    })
}

pub(super) fn route(element: &Element<'_>) -> Option<NetworkRoute> {
    let NetworkIp { address: destination, .. } = ip(element)?;
    Some(NetworkRoute {
        destination,
        gateway: address(&element.attr("gateway")?),
        metric: number(element, "metric"),
    })
}

fn domain(element: &Element<'_>) -> Option<NetworkDomain> {
    Some(NetworkDomain { name: attr(element, "name")?, local_only: is_yes(element, "localOnly") })
}

fn dns(element: Option<&Element<'_>>) -> NetworkDns {
    let Some(dns) = element else {
        return NetworkDns { enabled: true, ..NetworkDns::default() };
    };
    NetworkDns {
        enabled: dns.attr("enable").is_none_or(|word| word != "no"),
        forwarders: dns.children("forwarder").filter_map(forwarder).collect(),
        hosts: dns.children("host").filter_map(dns_host).collect(),
        srv: dns.children("srv").filter_map(srv).collect(),
        txt: dns.children("txt").filter_map(txt).collect(),
    }
}

pub(super) fn forwarder(element: &Element<'_>) -> Option<DnsForwarder> {
    Some(DnsForwarder {
        address: element.attr("addr").map(|text| address(&text)),
        domain: attr(element, "domain"),
    })
}

pub(super) fn dns_host(element: &Element<'_>) -> Option<DnsHost> {
    Some(DnsHost {
        ip: address(&element.attr("ip")?),
        hostnames: element
            .children("hostname")
            .map(|name| DnsName(name.text().trim().to_owned()))
            .collect(),
    })
}

pub(super) fn srv(element: &Element<'_>) -> Option<DnsSrv> {
    Some(DnsSrv {
        service: attr(element, "service")?,
        protocol: attr(element, "protocol")?,
        domain: attr(element, "domain"),
        target: attr(element, "target"),
        port: number(element, "port"),
        priority: number(element, "priority"),
        weight: number(element, "weight"),
    })
}

pub(super) fn txt(element: &Element<'_>) -> Option<DnsTxt> {
    Some(DnsTxt { name: attr(element, "name")?, value: attr(element, "value")? })
}

pub(super) fn vlan(element: &Element<'_>) -> NetworkVlan {
    let tag = |tag: &Element<'_>| {
        Some(VlanTag { id: number(tag, "id")?, native_mode: attr(tag, "nativeMode") })
    };
    NetworkVlan {
        trunk: is_yes(element, "trunk"),
        tags: element.children("tag").filter_map(tag).collect(),
    }
}

pub(super) fn bandwidth(element: &Element<'_>) -> NetworkBandwidth {
    let limit = |name: &str| {
        let limit = element.child(name)?;
        Some(BandwidthLimit {
            average: number(limit, "average")?,
            peak: number(limit, "peak"),
            burst: number(limit, "burst"),
        })
    };
    NetworkBandwidth { inbound: limit("inbound"), outbound: limit("outbound") }
}

pub(super) fn portgroup(element: &Element<'_>) -> Option<PortGroup> {
    Some(PortGroup {
        name: attr(element, "name")?,
        default: is_yes(element, "default"),
        vlan: element.child("vlan").map(vlan),
        bandwidth: element.child("bandwidth").map(bandwidth),
    })
}
