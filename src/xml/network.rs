//! Virtual networks.

use std::net::{IpAddr, Ipv4Addr};

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::{DhcpRange, Network, NetworkForward};

use super::tree::{Document, Element};

/// The network that an XML describes; whether it is active, persistent and started with the host
/// is not known here.
pub fn parse_network(xml: &str) -> Result<Network> {
    let document = Document::parse(xml)?;
    let network = document.root();
    if !network.is("network") {
        return Err(Error::new(
            Kind::InvalidDefinition,
            format!("the XML describes a <{}>, not a <network>", network.name()),
        ));
    }
    let attr = |element: &Element<'_>, name: &str| element.attr(name).map(|v| v.into_owned());
    let ranges = network
        .children("ip")
        .filter_map(|ip| ip.child("dhcp"))
        .flat_map(|dhcp| dhcp.elements().filter(|element| element.is("range")))
        .filter_map(|range| {
            Some(DhcpRange { start: attr(range, "start")?, end: attr(range, "end")? })
        });
    Ok(Network {
        uuid: network
            .find_text("uuid")
            .and_then(|text| Uuid::parse_str(&text).ok())
            .unwrap_or_default(),
        name: network.child("name").map(|name| name.text().into_owned()).unwrap_or_default(),
        bridge: network.find_attr("bridge", "name"),
        forward: forward(network),
        addresses: network.children("ip").filter_map(address).collect(),
        dhcp_ranges: ranges.collect(),
        ..Network::default()
    })
}

fn forward(network: &Element<'_>) -> NetworkForward {
    let Some(forward) = network.child("forward") else {
        return NetworkForward { mode: "isolated".to_owned(), device: None };
    };
    let attr = |name: &str| forward.attr(name).map(|value| value.into_owned());
    NetworkForward {
        // libvirt's own default for an element that names none.
        mode: attr("mode").unwrap_or_else(|| "nat".to_owned()),
        device: attr("dev").or_else(|| forward.find_attr("interface", "dev")),
    }
}

/// An address with its prefix. Without prefix and mask libvirt takes the class of an IPv4 address,
/// and 64 for an IPv6 address.
fn address(ip: &Element<'_>) -> Option<String> {
    let address: IpAddr = ip.attr("address")?.parse().ok()?;
    let stated = ip.attr("prefix").and_then(|prefix| prefix.parse::<u8>().ok());
    let prefix = match (stated, ip.attr("netmask"), address) {
        (Some(prefix), _, _) => prefix,
        (None, Some(mask), IpAddr::V4(_)) => prefix_of(mask.parse().ok()?)?,
        (None, _, IpAddr::V6(_)) => 64,
        (None, None, IpAddr::V4(address)) => match address.octets()[0] {
            0..=127 => 8,
            128..=191 => 16,
            _ => 24,
        },
    };
    Some(format!("{address}/{prefix}"))
}

fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let ones = bits.leading_ones();
    if bits.checked_shl(ones).unwrap_or(0) != 0 {
        return None;
    }
    u8::try_from(ones).ok()
}
