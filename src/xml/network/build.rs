//! The elements that a network's definition is made of, one from each part of the model. The same
//! elements, as texts of their own, are what `virNetworkUpdate` takes.

use crate::error::Result;
use crate::model::network::{
    BandwidthLimit, DhcpHost, DhcpRange, DnsForwarder, DnsHost, DnsSrv, DnsTxt, NetworkBandwidth,
    NetworkNat, NetworkRoute, NetworkVlan, PortGroup,
};
use crate::xml::tree::Element;

/// One part of a network as XML.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    Range(&'a DhcpRange),
    DhcpHost(&'a DhcpHost),
    DnsHost(&'a DnsHost),
    Srv(&'a DnsSrv),
    Txt(&'a DnsTxt),
    PortGroup(&'a PortGroup),
    /// A device of the host that guests are plugged into.
    Interface(&'a str),
}

/// The text of one part. `InvalidRequest` for characters XML cannot carry.
pub fn text(part: Part<'_>) -> Result<String> {
    match part {
        Part::Range(one) => range("range", one),
        Part::DhcpHost(one) => dhcp_host(one),
        Part::DnsHost(one) => dns_host(one),
        Part::Srv(one) => srv(one),
        Part::Txt(one) => txt(one),
        Part::PortGroup(one) => portgroup(one),
        Part::Interface(device) => interface(device),
    }
    .into_xml()
}

pub(super) fn range<'a>(name: &'static str, range: &DhcpRange) -> Element<'a> {
    Element::new(name).with_attr("start", &range.start).with_attr("end", &range.end)
}

pub(super) fn dhcp_host<'a>(host: &DhcpHost) -> Element<'a> {
    Element::new("host")
        .with_attr_if("id", host.id.as_deref())
        .with_attr_if("mac", host.mac.as_deref())
        .with_attr_if("name", host.name.as_deref())
        .with_attr("ip", &host.ip)
}

pub(super) fn dns_host<'a>(host: &DnsHost) -> Element<'a> {
    let names = host.hostnames.iter().map(|name| Element::new("hostname").with_text(&name.0));
    Element::new("host").with_attr("ip", &host.ip).with_children(names)
}

pub(super) fn srv<'a>(srv: &DnsSrv) -> Element<'a> {
    let number = |number: Option<u16>| number.map(|number| number.to_string());
    Element::new("srv")
        .with_attr("service", &srv.service)
        .with_attr("protocol", &srv.protocol)
        .with_attr_if("domain", srv.domain.as_deref())
        .with_attr_if("target", srv.target.as_deref())
        .with_attr_if("port", number(srv.port))
        .with_attr_if("priority", number(srv.priority))
        .with_attr_if("weight", number(srv.weight))
}

pub(super) fn txt<'a>(txt: &DnsTxt) -> Element<'a> {
    Element::new("txt").with_attr("name", &txt.name).with_attr("value", &txt.value)
}

pub(super) fn forwarder<'a>(forwarder: &DnsForwarder) -> Element<'a> {
    Element::new("forwarder")
        .with_attr_if("domain", forwarder.domain.as_deref())
        .with_attr_if("addr", forwarder.address.as_deref())
}

pub(super) fn interface<'a>(device: &str) -> Element<'a> {
    Element::new("interface").with_attr("dev", device)
}

/// An element with the attributes of an address with its prefix.
pub(super) fn with_address<'a>(element: Element<'a>, text: &str) -> Element<'a> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    let family = if address.contains(':') { "ipv6" } else { "ipv4" };
    element.with_attr("family", family).with_attr("address", address).with_attr("prefix", prefix)
}

pub(super) fn route<'a>(route: &NetworkRoute) -> Element<'a> {
    with_address(Element::new("route"), &route.destination)
        .with_attr("gateway", &route.gateway)
        .with_attr_if("metric", route.metric.map(|metric| metric.to_string()))
}

pub(super) fn nat<'a>(nat: &NetworkNat) -> Element<'a> {
    let ports = nat.ports.as_ref().map(|ports| {
        Element::new("port")
            .with_attr("start", ports.start.to_string())
            .with_attr("end", ports.end.to_string())
    });
    Element::new("nat")
        .with_attr_if("ipv6", nat.ipv6.then_some("yes"))
        .with_children(nat.addresses.as_ref().map(|addresses| range("address", addresses)))
        .with_children(ports)
}

pub(super) fn vlan<'a>(vlan: &NetworkVlan) -> Element<'a> {
    let tags = vlan.tags.iter().map(|tag| {
        Element::new("tag")
            .with_attr("id", tag.id.to_string())
            .with_attr_if("nativeMode", tag.native_mode.as_deref())
    });
    Element::new("vlan").with_attr_if("trunk", vlan.trunk.then_some("yes")).with_children(tags)
}

pub(super) fn bandwidth<'a>(bandwidth: &NetworkBandwidth) -> Element<'a> {
    let limit = |name: &'static str, limit: &Option<BandwidthLimit>| {
        limit.as_ref().map(|limit| {
            Element::new(name)
                .with_attr("average", limit.average.to_string())
                .with_attr_if("peak", limit.peak.map(|peak| peak.to_string()))
                .with_attr_if("burst", limit.burst.map(|burst| burst.to_string()))
        })
    };
    Element::new("bandwidth")
        .with_children(limit("inbound", &bandwidth.inbound))
        .with_children(limit("outbound", &bandwidth.outbound))
}

pub(super) fn portgroup<'a>(group: &PortGroup) -> Element<'a> {
    Element::new("portgroup")
        .with_attr("name", &group.name)
        .with_attr_if("default", group.default.then_some("yes"))
        .with_children(group.vlan.as_ref().map(vlan))
        .with_children(group.bandwidth.as_ref().map(bandwidth))
}

/// A PCI device, from `0000:03:10.1`, or `03:10.1`.
pub(super) fn pci_address<'a>(text: &str) -> Element<'a> {
    let (place, function) = text.rsplit_once('.').unwrap_or((text, "0"));
    let mut parts: Vec<&str> = place.split(':').collect();
    if parts.len() == 2 {
        parts.insert(0, "0000");
    }
    let part =
        |at: usize| parts.get(at).map(|digits| ["0x", &digits.to_ascii_lowercase()].concat());
    Element::new("address")
        .with_attr("type", "pci")
        .with_attr_if("domain", part(0))
        .with_attr_if("bus", part(1))
        .with_attr_if("slot", part(2))
        .with_attr("function", ["0x", function].concat())
}
