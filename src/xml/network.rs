//! Virtual networks.

use std::net::{IpAddr, Ipv4Addr};

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::{DhcpRange, Network, NetworkForward};

use super::tree::{Document, Element, shown};

/// The network that an XML describes; whether it is active, persistent and started with the host
/// is not known here.
pub fn parse_network(xml: &str) -> Result<Network> {
    let document = Document::parse(xml)?;
    let network = document.root();
    if !network.is("network") {
        return Err(Error::new(
            Kind::InvalidDefinition,
            format!("the XML describes a <{}>, not a <network>", shown(network.name())),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_network_is_read() {
        let network = parse_network(
            "<network connections='2'>
  <name>default</name>
  <uuid>dd8fe884-6c02-601e-7551-cca97df1c5df</uuid>
  <forward mode='nat' dev='eth0'>
    <nat><port start='1024' end='65535'/></nat>
    <interface dev='eth0'/>
  </forward>
  <bridge name='virbr0' stp='on' delay='0'/>
  <mac address='52:54:00:8f:aa:bb'/>
  <ip address='192.168.122.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.122.2' end='192.168.122.254'><lease expiry='0'/></range>
      <host mac='52:54:00:00:00:01' ip='192.168.122.10'/>
    </dhcp>
  </ip>
  <ip family='ipv6' address='2001:db8:ca2:2::1' prefix='64'/>
</network>",
        )
        .unwrap();
        assert_eq!(network.name, "default");
        assert_eq!(network.uuid.to_string(), "dd8fe884-6c02-601e-7551-cca97df1c5df");
        assert_eq!(network.bridge.as_deref(), Some("virbr0"));
        assert_eq!(network.forward.mode, "nat");
        assert_eq!(network.forward.device.as_deref(), Some("eth0"));
        assert_eq!(network.addresses, ["192.168.122.1/24", "2001:db8:ca2:2::1/64"]);
        let range =
            DhcpRange { start: "192.168.122.2".to_owned(), end: "192.168.122.254".to_owned() };
        assert_eq!(network.dhcp_ranges, [range]);
    }

    #[test]
    fn how_a_network_reaches_the_outside_is_told() {
        let forward = |inner: &str| {
            let network = parse_network(&format!("<network>{inner}</network>")).unwrap();
            (network.forward.mode, network.forward.device)
        };
        assert_eq!(forward(""), ("isolated".to_owned(), None));
        assert_eq!(forward("<forward/>"), ("nat".to_owned(), None));
        assert_eq!(
            forward("<forward mode='passthrough'><interface dev='eth10'/></forward>"),
            ("passthrough".to_owned(), Some("eth10".to_owned()))
        );
    }

    #[test]
    fn addresses_have_libvirts_prefixes() {
        let addresses =
            |ip: &str| parse_network(&format!("<network><ip {ip}/></network>")).unwrap().addresses;
        assert_eq!(addresses("address='10.0.0.1' prefix='20'"), ["10.0.0.1/20"]);
        assert_eq!(addresses("address='10.0.0.1' netmask='255.255.255.255'"), ["10.0.0.1/32"]);
        assert_eq!(addresses("address='10.0.0.1' netmask='0.0.0.0'"), ["10.0.0.1/0"]);
        assert_eq!(addresses("address='10.0.0.1'"), ["10.0.0.1/8"]);
        assert_eq!(addresses("address='172.16.0.1'"), ["172.16.0.1/16"]);
        assert_eq!(addresses("family='ipv6' address='fd00::1'"), ["fd00::1/64"]);
        assert!(addresses("address='10.0.0.1' netmask='255.0.255.0'").is_empty());
        assert!(addresses("address='x'").is_empty());
    }

    #[test]
    fn another_document_is_refused() {
        assert!(parse_network("<networks/>").is_err());
    }
}
