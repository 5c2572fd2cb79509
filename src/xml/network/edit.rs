//! Changes to a network's definition, in the places that they concern and nowhere else: elements
//! that Vapor does not know, comments and other tools' metadata keep their bytes. A new definition
//! is the edit of one that has nothing but a name.

use uuid::Uuid;

use super::{build, view};
use crate::error::Result;
use crate::model::UpdateNetwork;
use crate::model::network::{NetworkDhcp, NetworkIp, PortGroup};
use crate::model::network_request::{DnsRequest, ForwardMode, ForwardRequest, VirtualPort};
use crate::xml::tree::{Document, Element};

/// The order of a network's elements in libvirt's own output.
const ORDER: &[&str] = &[
    "name",
    "title",
    "description",
    "uuid",
    "metadata",
    "forward",
    "bridge",
    "mtu",
    "mac",
    "domain",
    "dns",
    "vlan",
    "bandwidth",
    "port",
    "ip",
    "route",
    "virtualport",
    "portgroup",
];
const FORWARD_ORDER: &[&str] = &["nat", "pf", "interface", "address"];
const DNS_ORDER: &[&str] = &["forwarder", "txt", "host", "srv"];
const IP_ORDER: &[&str] = &["tftp", "dhcp"];
const DHCP_ORDER: &[&str] = &["range", "host", "bootp"];
const PORTGROUP_ORDER: &[&str] = &["vlan", "virtualport", "bandwidth"];

/// The definition of a new network. `InvalidRequest` for characters XML cannot carry.
pub fn author(name: &str, uuid: Uuid, wanted: &UpdateNetwork) -> Result<String> {
    let empty = Element::new("network")
        .with_child(Element::new("name").with_text(name))
        .with_child(Element::new("uuid").with_text(uuid.to_string()))
        .into_xml()?;
    apply(&empty, wanted)
}

/// The definition after the edit; what `wanted` does not name stays. `InvalidDefinition` if `xml`
/// is not a network; `InvalidRequest` for characters XML cannot carry.
pub fn apply(xml: &str, wanted: &UpdateNetwork) -> Result<String> {
    let mut document = Document::parse(xml)?;
    document.expect("network")?;
    let network = document.root_mut();
    if let Some(request) = &wanted.forward {
        forward(network, request);
    }
    if let Some(bridge) = &wanted.bridge {
        child(network, "bridge", ORDER).set_attr("name", bridge.as_str());
    }
    match wanted.mtu {
        None => {}
        Some(0) => drop(network.remove_child("mtu")),
        Some(size) => child(network, "mtu", ORDER).set_attr("size", size.to_string()),
    }
    match &wanted.domain {
        None => {}
        Some(domain) if domain.name.is_empty() => drop(network.remove_child("domain")),
        Some(domain) => {
            let element = child(network, "domain", ORDER);
            element.set_attr("name", &domain.name);
            yes_or_absent(element, "localOnly", domain.local_only);
        }
    }
    if let Some(request) = &wanted.dns {
        dns(network, request);
    }
    if let Some(vlan) = &wanted.vlan {
        let wanted = (!vlan.tags.is_empty()).then_some(vlan);
        whole(network, "vlan", ORDER, wanted, view::vlan, build::vlan);
    }
    if let Some(limits) = &wanted.bandwidth {
        let any = limits.inbound.is_some() || limits.outbound.is_some();
        whole(
            network,
            "bandwidth",
            ORDER,
            any.then_some(limits),
            view::bandwidth,
            build::bandwidth,
        );
    }
    match wanted.port_isolation {
        None => {}
        Some(true) => child(network, "port", ORDER).set_attr("isolated", "yes"),
        Some(false) => drop(network.remove_child("port")),
    }
    if let Some(wanted) = &wanted.ips {
        ips(network, wanted);
    }
    if let Some(routes) = &wanted.routes {
        reconcile(network, "route", ORDER, routes, view::route, build::route);
    }
    match wanted.virtual_port {
        None => {}
        Some(VirtualPort::None) => drop(network.remove_child("virtualport")),
        Some(VirtualPort::Openvswitch) => {
            child(network, "virtualport", ORDER).set_attr("type", "openvswitch");
        }
    }
    if let Some(groups) = &wanted.portgroups {
        portgroups(network, groups);
    }
    document.to_xml()
}

/// The child of this name, made if it is not there.
fn child<'e, 'a>(
    parent: &'e mut Element<'a>,
    name: &'static str,
    order: &[&str],
) -> &'e mut Element<'a> {
    if parent.child(name).is_none() {
        parent.insert_child_in_order(Element::new(name), order);
    }
    let found = parent.elements_mut().find(|element| element.is(name));
    #[expect(clippy::expect_used, reason = "it has just been made")]
    found.expect("a child")
}

fn yes_or_absent(element: &mut Element<'_>, name: &'static str, yes: bool) {
    let is = element.attr(name).is_some_and(|word| word == "yes");
    if yes && !is {
        element.set_attr(name, "yes");
    } else if !yes && is {
        element.remove_attr(name);
    }
}

/// Replaces a child as a whole, unless it says the same already.
fn whole<'a, T: PartialEq>(
    parent: &mut Element<'a>,
    name: &'static str,
    order: &[&str],
    wanted: Option<&T>,
    read: impl Fn(&Element<'a>) -> T,
    make: impl Fn(&T) -> Element<'a>,
) {
    let present = parent.child(name).map(read);
    if present.as_ref() == wanted {
        return;
    }
    parent.remove_child(name);
    if let Some(wanted) = wanted {
        parent.insert_child_in_order(make(wanted), order);
    }
}

/// Lets the children of one name say what `wanted` holds: those that say one of it stay, the
/// others go, and what none says is added.
fn reconcile<'a, T: PartialEq>(
    parent: &mut Element<'a>,
    name: &'static str,
    order: &[&str],
    wanted: &[T],
    read: impl Fn(&Element<'a>) -> Option<T>,
    make: impl Fn(&T) -> Element<'a>,
) {
    let mut missing: Vec<&T> = wanted.iter().collect();
    parent.retain_elements(|element| {
        if !element.is(name) {
            return true;
        }
        let Some(said) = read(element) else { return false };
        match missing.iter().position(|one| **one == said) {
            Some(at) => {
                missing.remove(at);
                true
            }
            None => false,
        }
    });
    for one in missing {
        parent.insert_child_in_order(make(one), order);
    }
}

fn forward(network: &mut Element<'_>, request: &ForwardRequest) {
    if request.mode == ForwardMode::Isolated {
        network.remove_child("forward");
        return;
    }
    let forward = child(network, "forward", ORDER);
    forward.set_attr("mode", request.mode.as_str());
    let devices: Vec<String> =
        request.devices.iter().map(|name| name.as_str().to_owned()).collect();
    // libvirt makes this attribute of the first interface by itself.
    if forward
        .attr("dev")
        .is_some_and(|device| devices.first().is_none_or(|first| *first != device))
    {
        forward.remove_attr("dev");
    }
    let read = |element: &Element<'_>| element.attr("dev").map(|device| device.into_owned());
    reconcile(forward, "interface", FORWARD_ORDER, &devices, read, |device| {
        build::interface(device)
    });
    let pf: Vec<String> =
        request.physical_function.iter().map(|name| name.as_str().to_owned()).collect();
    reconcile(forward, "pf", FORWARD_ORDER, &pf, read, |device| {
        Element::new("pf").with_attr("dev", device)
    });
    let addresses: Vec<String> = request.pci_addresses.iter().map(|one| one.0.clone()).collect();
    reconcile(forward, "address", FORWARD_ORDER, &addresses, view::pci_address, |address| {
        build::pci_address(address)
    });
    let managed = request.mode == ForwardMode::Hostdev && request.managed.unwrap_or(true);
    yes_or_absent(forward, "managed", managed);
    if request.mode != ForwardMode::Hostdev {
        forward.remove_child("driver");
    }
    match &request.nat {
        Some(nat) if request.mode == ForwardMode::Nat => {
            forward.remove_child("nat");
            forward.insert_child_in_order(build::nat(nat), FORWARD_ORDER);
        }
        _ if request.mode != ForwardMode::Nat => drop(forward.remove_child("nat")),
        _ => {}
    }
}

fn dns(network: &mut Element<'_>, request: &DnsRequest) {
    let asks = request.enabled == Some(false)
        || request.forwarders.as_ref().is_some_and(|list| !list.is_empty())
        || request.hosts.as_ref().is_some_and(|list| !list.is_empty())
        || request.srv.as_ref().is_some_and(|list| !list.is_empty())
        || request.txt.as_ref().is_some_and(|list| !list.is_empty());
    if network.child("dns").is_none() && !asks {
        return;
    }
    let dns = child(network, "dns", ORDER);
    match request.enabled {
        None => {}
        Some(true) => dns.remove_attr("enable"),
        Some(false) => dns.set_attr("enable", "no"),
    }
    if let Some(list) = &request.forwarders {
        reconcile(dns, "forwarder", DNS_ORDER, list, view::forwarder, build::forwarder);
    }
    if let Some(list) = &request.txt {
        reconcile(dns, "txt", DNS_ORDER, list, view::txt, build::txt);
    }
    if let Some(list) = &request.hosts {
        reconcile(dns, "host", DNS_ORDER, list, view::dns_host, build::dns_host);
    }
    if let Some(list) = &request.srv {
        reconcile(dns, "srv", DNS_ORDER, list, view::srv, build::srv);
    }
}

fn ips(network: &mut Element<'_>, wanted: &[NetworkIp]) {
    let mut missing: Vec<&NetworkIp> = wanted.iter().collect();
    let find = |missing: &[&NetworkIp], element: &Element<'_>| {
        let said = view::ip(element)?;
        missing.iter().position(|one| one.address == said.address)
    };
    network.retain_elements(|element| !element.is("ip") || find(&missing, element).is_some());
    for element in network.elements_mut().filter(|element| element.is("ip")) {
        if let Some(at) = find(&missing, element) {
            let ip = missing.remove(at);
            dhcp(element, ip.dhcp.as_ref());
        }
    }
    for ip in missing {
        let mut element = build::with_address(Element::new("ip"), &ip.address);
        dhcp(&mut element, ip.dhcp.as_ref());
        network.insert_child_in_order(element, ORDER);
    }
}

fn dhcp(ip: &mut Element<'_>, wanted: Option<&NetworkDhcp>) {
    let Some(wanted) = wanted else {
        ip.remove_child("dhcp");
        return;
    };
    let dhcp = child(ip, "dhcp", IP_ORDER);
    let range = |range: &_| build::range("range", range);
    reconcile(dhcp, "range", DHCP_ORDER, &wanted.ranges, view::range, range);
    reconcile(dhcp, "host", DHCP_ORDER, &wanted.hosts, view::dhcp_host, build::dhcp_host);
}

fn portgroups(network: &mut Element<'_>, wanted: &[PortGroup]) {
    let mut missing: Vec<&PortGroup> = wanted.iter().collect();
    let find = |missing: &[&PortGroup], element: &Element<'_>| {
        let name = element.attr("name")?;
        missing.iter().position(|one| one.name == name)
    };
    network
        .retain_elements(|element| !element.is("portgroup") || find(&missing, element).is_some());
    for element in network.elements_mut().filter(|element| element.is("portgroup")) {
        if let Some(at) = find(&missing, element) {
            let group = missing.remove(at);
            yes_or_absent(element, "default", group.default);
            let (vlan, limits) = (group.vlan.as_ref(), group.bandwidth.as_ref());
            whole(element, "vlan", PORTGROUP_ORDER, vlan, view::vlan, build::vlan);
            whole(element, "bandwidth", PORTGROUP_ORDER, limits, view::bandwidth, build::bandwidth);
        }
    }
    for group in missing {
        network.insert_child_in_order(build::portgroup(group), ORDER);
    }
}

/// One part of a group as it stands in a definition, with what Vapor does not know of it: what
/// `virNetworkUpdate` puts in the old one's place.
pub fn portgroup_text(xml: &str, name: &str) -> Result<Option<String>> {
    let document = Document::parse(xml)?;
    let network = document.expect("network")?;
    let mut groups = network.children("portgroup");
    let group = groups.find(|group| group.attr("name").is_some_and(|found| found == name));
    group.map(|group| group.clone().into_xml()).transpose()
}
