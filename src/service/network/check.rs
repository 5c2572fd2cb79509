//! What is wrong with a request, before anything is asked of libvirt: first each part by itself
//! (400 with every field), then the network that would come of it as a whole (422).

use std::collections::HashSet;
use std::net::IpAddr;

use crate::error::{Error, Kind, Result};
use crate::model::network::{
    DhcpHost, DhcpRange, DnsName, Network, NetworkBandwidth, NetworkDhcp, NetworkIp, NetworkVlan,
};
use crate::model::network_request::{DnsRequest, ForwardMode};
use crate::model::subnet::number;
use crate::model::{Subnet, UpdateNetwork};

/// The most addresses of one range: libvirt's limit.
const MAX_RANGE: u128 = 65_535;

/// The least that IPv6 can live with (RFC 8200).
const MIN_MTU_IPV6: u32 = 1280;

/// What is wrong, each with its field.
#[derive(Default)]
struct Problems(Vec<(String, String)>);

impl Problems {
    fn add(&mut self, field: impl Into<String>, problem: impl Into<String>) {
        self.0.push((field.into(), problem.into()));
    }

    fn into_result(self, kind: Kind) -> Result<()> {
        let Some((field, problem)) = self.0.first() else { return Ok(()) };
        let error = Error::new(kind, format!("{field}: {problem}"));
        Err(self
            .0
            .into_iter()
            .take(20)
            .fold(error, |error, (field, problem)| error.with_field(field, problem)))
    }
}

/// Puts every address into its one form and refuses what no network could have.
///
/// # Errors
/// `Impossible` with every field: what the schema can say has been refused before.
pub fn parts(request: &mut UpdateNetwork) -> Result<()> {
    let mut problems = Problems::default();
    if let Some(ips) = &mut request.ips {
        check_ips(&mut problems, ips);
    }
    for (at, route) in request.routes.iter_mut().flatten().enumerate() {
        let field = |name: &str| format!("routes[{at}].{name}");
        let destination = cidr(&mut problems, field("destination"), &mut route.destination);
        let gateway = address(&mut problems, field("gateway"), &mut route.gateway);
        let (Some(destination), Some(gateway)) = (destination, gateway) else { continue };
        if destination.address() != destination.first() {
            let whole = destination.network();
            problems.add(field("destination"), format!("is no subnet; the subnet is {whole}"));
        }
        if destination.is_ipv4() != gateway.is_ipv4() {
            problems.add(field("gateway"), "is of another family than the destination");
        }
    }
    if request.mtu.is_some_and(|mtu| (1..68).contains(&mtu)) {
        problems.add("mtu", "must be at least 68 bytes");
    }
    if let Some(dns) = &mut request.dns {
        check_dns(&mut problems, dns);
    }
    if let Some(addresses) = forward_nat_addresses(request) {
        let field = "forward.nat.addresses";
        if let Some((start, end)) = ends(&mut problems, field, addresses)
            && number(start) > number(end)
        {
            problems.add(field, "ends before it starts");
        }
    }
    if let Some(forward) = &mut request.forward {
        let ports = forward.nat.as_ref().and_then(|nat| nat.ports.as_ref());
        if ports.is_some_and(|ports| ports.start > ports.end) {
            problems.add("forward.nat.ports", "ends before it starts");
        }
        let mut seen = HashSet::new();
        for (at, device) in forward.devices.iter().enumerate() {
            if !seen.insert(device.as_str()) {
                problems.add(format!("forward.devices[{at}]"), "stands there twice");
            }
        }
        let mut seen = HashSet::new();
        for (at, pci) in forward.pci_addresses.iter_mut().enumerate() {
            pci.0.make_ascii_lowercase();
            if pci.0.matches(':').count() == 1 {
                pci.0.insert_str(0, "0000:");
            }
            if !seen.insert(pci.0.clone()) {
                problems.add(format!("forward.pci_addresses[{at}]"), "stands there twice");
            }
        }
    }
    if let Some(vlan) = &request.vlan {
        check_vlan(&mut problems, "vlan", vlan);
    }
    if let Some(limits) = &request.bandwidth {
        check_bandwidth(&mut problems, "bandwidth", limits);
    }
    let (mut names, mut defaults) = (HashSet::new(), 0);
    for (at, group) in request.portgroups.iter().flatten().enumerate() {
        let field = |name: &str| format!("portgroups[{at}].{name}");
        if !names.insert(group.name.as_str()) {
            problems.add(field("name"), "stands there twice");
        }
        defaults += u32::from(group.default);
        if group.default && defaults > 1 {
            problems.add(field("default"), "can be said of one group alone");
        }
        if let Some(vlan) = &group.vlan {
            if vlan.tags.is_empty() {
                problems.add(field("vlan.tags"), "is empty");
            }
            check_vlan(&mut problems, &field("vlan"), vlan);
        }
        if let Some(limits) = &group.bandwidth {
            check_bandwidth(&mut problems, &field("bandwidth"), limits);
        }
    }
    problems.into_result(Kind::Impossible)
}

fn forward_nat_addresses(request: &mut UpdateNetwork) -> Option<&mut DhcpRange> {
    request.forward.as_mut()?.nat.as_mut()?.addresses.as_mut()
}

/// Reads an address and puts it into its one form.
fn address(problems: &mut Problems, field: String, text: &mut String) -> Option<IpAddr> {
    match text.parse::<IpAddr>() {
        Ok(address) => {
            *text = address.to_string();
            Some(address)
        }
        Err(_) => {
            problems.add(field, "is not an IP address");
            None
        }
    }
}

fn cidr(problems: &mut Problems, field: String, text: &mut String) -> Option<Subnet> {
    match text.parse::<Subnet>() {
        Ok(subnet) => {
            *text = subnet.to_string();
            Some(subnet)
        }
        Err(problem) => {
            problems.add(field, problem);
            None
        }
    }
}

fn ends(problems: &mut Problems, field: &str, range: &mut DhcpRange) -> Option<(IpAddr, IpAddr)> {
    let start = address(problems, format!("{field}.start"), &mut range.start);
    let end = address(problems, format!("{field}.end"), &mut range.end);
    let (start, end) = (start?, end?);
    if start.is_ipv4() != end.is_ipv4() {
        problems.add(format!("{field}.end"), "is of another family than the start");
        return None;
    }
    Some((start, end))
}

fn check_ips(problems: &mut Problems, ips: &mut [NetworkIp]) {
    let mut subnets: Vec<(usize, Subnet)> = Vec::new();
    let mut served = [false, false];
    for (at, ip) in ips.iter_mut().enumerate() {
        let field = format!("ips[{at}].address");
        let subnet = cidr(problems, field.clone(), &mut ip.address);
        let Some(subnet) = subnet else { continue };
        if let Some(problem) = no_host_address(&subnet) {
            problems.add(field, problem);
            continue;
        }
        if let Some((other, _)) = subnets.iter().find(|(_, other)| other.overlaps(&subnet)) {
            problems.add(field, format!("overlaps with ips[{other}].address"));
        }
        subnets.push((at, subnet));
        if let Some(dhcp) = &mut ip.dhcp {
            let family = usize::from(subnet.is_ipv4());
            if served[family] {
                let word = if subnet.is_ipv4() { "IPv4" } else { "IPv6" };
                let problem =
                    format!("is one too many: one {word} subnet of a network can have it");
                problems.add(format!("ips[{at}].dhcp"), problem);
            }
            served[family] = true;
            if !subnet.is_ipv4() && subnet.prefix() < 64 {
                problems.add(format!("ips[{at}].dhcp"), "needs a prefix of 64 or longer");
            }
            check_dhcp(problems, &format!("ips[{at}].dhcp"), &subnet, dhcp);
        }
    }
}

/// Why the host cannot have this address in its subnet.
fn no_host_address(subnet: &Subnet) -> Option<&'static str> {
    let address = subnet.address();
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
        }
    };
    if subnet.prefix() == 0 {
        Some("has the prefix 0, which is everything there is")
    } else if address.is_loopback()
        || address.is_multicast()
        || address.is_unspecified()
        || link_local
    {
        Some("is of a kind that no network can have")
    } else if !subnet.is_usable(address) {
        Some("names the subnet itself, or all of it, and not the host in it")
    } else {
        None
    }
}

fn check_dhcp(problems: &mut Problems, field: &str, subnet: &Subnet, dhcp: &mut NetworkDhcp) {
    let mut known: Vec<(u128, u128)> = Vec::new();
    for (at, range) in dhcp.ranges.iter_mut().enumerate() {
        let field = format!("{field}.ranges[{at}]");
        let Some((start, end)) = ends(problems, &field, range) else { continue };
        let before = problems.0.len();
        for (name, address) in [("start", start), ("end", end)] {
            if !subnet.is_usable(address) {
                problems.add(
                    format!("{field}.{name}"),
                    format!("{address} is no machine's address in {}", subnet.network()),
                );
            }
        }
        if problems.0.len() > before {
            continue;
        }
        let (low, high) = (number(start), number(end));
        let own = number(subnet.address());
        if low > high {
            problems.add(field, "ends before it starts");
        } else if high - low > MAX_RANGE {
            problems.add(field, format!("has more than {} addresses", MAX_RANGE + 1));
        } else if (low..=high).contains(&own) {
            problems.add(field, format!("holds {}, the host's own address", subnet.address()));
        } else if known.iter().any(|(start, end)| low <= *end && *start <= high) {
            problems.add(field, "overlaps with another range");
        } else {
            known.push((low, high));
        }
    }
    let mut seen: HashSet<(&'static str, String)> = HashSet::new();
    for (at, host) in dhcp.hosts.iter_mut().enumerate() {
        check_dhcp_host(problems, &format!("{field}.hosts[{at}]"), subnet, host);
        let marks = [
            ("mac", host.mac.clone()),
            ("id", host.id.clone()),
            ("name", host.name.as_ref().map(|name| name.to_ascii_lowercase())),
            ("ip", Some(host.ip.clone())),
        ];
        for (name, mark) in marks {
            if let Some(mark) = mark
                && !seen.insert((name, mark))
            {
                problems.add(format!("{field}.hosts[{at}].{name}"), "stands there twice");
            }
        }
    }
}

fn check_dhcp_host(problems: &mut Problems, field: &str, subnet: &Subnet, host: &mut DhcpHost) {
    if let Some(ip) = address(problems, format!("{field}.ip"), &mut host.ip) {
        if !subnet.is_usable(ip) {
            let problem = format!("{ip} is no machine's address in {}", subnet.network());
            problems.add(format!("{field}.ip"), problem);
        } else if ip == subnet.address() {
            problems.add(format!("{field}.ip"), "is the host's own address");
        }
    }
    for text in [&mut host.mac, &mut host.id].into_iter().flatten() {
        text.make_ascii_lowercase();
    }
    if let Some(mac) = &host.mac {
        let group = u8::from_str_radix(mac.get(..2).unwrap_or_default(), 16)
            .is_ok_and(|first| first & 1 == 1);
        if group || mac == "00:00:00:00:00:00" {
            problems.add(format!("{field}.mac"), "is not the address of one machine");
        }
    }
    match subnet.is_ipv4() {
        true if host.id.is_some() => {
            problems.add(format!("{field}.id"), "is for IPv6; an IPv4 host has a MAC address");
        }
        false if host.mac.is_some() => {
            problems.add(format!("{field}.mac"), "is for IPv4; an IPv6 host has an id or a name");
        }
        true if host.mac.is_none() && host.name.is_none() => {
            problems.add(format!("{field}.mac"), "or a name must be given");
        }
        false if host.id.is_none() && host.name.is_none() => {
            problems.add(format!("{field}.id"), "or a name must be given");
        }
        _ => {}
    }
}

fn check_dns(problems: &mut Problems, dns: &mut DnsRequest) {
    for (at, forwarder) in dns.forwarders.iter_mut().flatten().enumerate() {
        let field = format!("dns.forwarders[{at}]");
        match &mut forwarder.address {
            Some(text) => {
                address(problems, format!("{field}.address"), text);
            }
            None if forwarder.domain.is_none() => {
                problems.add(field, "has neither an address nor a domain");
            }
            None => {}
        }
    }
    let mut seen = HashSet::new();
    for (at, host) in dns.hosts.iter_mut().flatten().enumerate() {
        address(problems, format!("dns.hosts[{at}].ip"), &mut host.ip);
        if !seen.insert(host.ip.clone()) {
            problems.add(format!("dns.hosts[{at}].ip"), "stands there twice");
        }
        let mut names: HashSet<&DnsName> = HashSet::new();
        for (index, name) in host.hostnames.iter().enumerate() {
            if !names.insert(name) {
                problems.add(format!("dns.hosts[{at}].hostnames[{index}]"), "stands there twice");
            }
        }
    }
    for (at, srv) in dns.srv.iter().flatten().enumerate() {
        let numbers = srv.port.is_some() || srv.priority.is_some() || srv.weight.is_some();
        if srv.target.is_none() && numbers {
            problems
                .add(format!("dns.srv[{at}].target"), "is needed for port, priority and weight");
        }
        if dns.srv.iter().flatten().take(at).any(|other| other == srv) {
            problems.add(format!("dns.srv[{at}]"), "stands there twice");
        }
    }
    let mut seen = HashSet::new();
    for (at, txt) in dns.txt.iter().flatten().enumerate() {
        if !seen.insert(txt.name.to_ascii_lowercase()) {
            problems.add(format!("dns.txt[{at}].name"), "stands there twice");
        }
    }
}

fn check_vlan(problems: &mut Problems, field: &str, vlan: &NetworkVlan) {
    let mut seen = HashSet::new();
    for (at, tag) in vlan.tags.iter().enumerate() {
        if !seen.insert(tag.id) {
            problems.add(format!("{field}.tags[{at}].id"), "stands there twice");
        }
        if tag.native_mode.is_some() && !vlan.trunk {
            problems.add(format!("{field}.tags[{at}].native_mode"), "needs trunk");
        }
    }
    if vlan.tags.len() > 1 && !vlan.trunk {
        problems.add(format!("{field}.tags"), "can be more than one with trunk alone");
    }
    if vlan.tags.iter().filter(|tag| tag.native_mode.is_some()).count() > 1 {
        problems.add(format!("{field}.tags"), "can have one native VLAN");
    }
}

fn check_bandwidth(problems: &mut Problems, field: &str, limits: &NetworkBandwidth) {
    for (name, limit) in [("inbound", &limits.inbound), ("outbound", &limits.outbound)] {
        if let Some(limit) = limit
            && limit.peak.is_some_and(|peak| peak < limit.average)
        {
            problems.add(format!("{field}.{name}.peak"), "is less than average");
        }
    }
}

/// Refuses a network whose parts contradict each other. `network` is the view of what would be
/// defined.
///
/// # Errors
/// `Impossible` with every field.
pub fn whole(network: &Network) -> Result<()> {
    let mut problems = Problems::default();
    let forward = &network.forward;
    // A mode that Vapor does not know is another tool's, which knows what it needs.
    let Some(mode) = ForwardMode::parse(&forward.mode) else { return Ok(()) };
    let word = mode.as_str();
    let (devices, pf) = (forward.devices.len(), forward.physical_function.is_some());
    match mode {
        ForwardMode::Nat | ForwardMode::Route => {
            if devices > 1 {
                problems.add("forward.devices", format!("can be one alone with the mode {word}"));
            }
        }
        ForwardMode::Open | ForwardMode::Isolated => {
            if devices > 0 {
                problems.add("forward.devices", format!("has no place in the mode {word}"));
            }
        }
        ForwardMode::Bridge => {
            if devices > 0 && network.bridge.is_some() {
                problems.add("forward.devices", "are for macvtap; there is a bridge already");
            } else if devices == 0 && network.bridge.is_none() {
                problems.add("bridge", "or forward.devices must be given with the mode bridge");
            }
        }
        ForwardMode::Private | ForwardMode::Vepa => {
            if devices == 0 {
                problems.add("forward.devices", format!("must be given with the mode {word}"));
            }
        }
        ForwardMode::Passthrough => {
            if devices == 0 && !pf {
                let problem =
                    "or forward.physical_function must be given with the mode passthrough";
                problems.add("forward.devices", problem);
            }
        }
        ForwardMode::Hostdev => {
            if devices > 0 {
                let problem =
                    "has no place in the mode hostdev; use physical_function or pci_addresses";
                problems.add("forward.devices", problem);
            }
            if pf != forward.pci_addresses.is_empty() {
                problems.add(
                    "forward.physical_function",
                    "or else forward.pci_addresses must be given with the mode hostdev",
                );
            }
        }
    }
    let pooled = matches!(mode, ForwardMode::Hostdev | ForwardMode::Passthrough);
    if pf && !pooled {
        problems.add("forward.physical_function", format!("has no place in the mode {word}"));
    }
    if !forward.pci_addresses.is_empty() && mode != ForwardMode::Hostdev {
        problems.add("forward.pci_addresses", format!("has no place in the mode {word}"));
    }
    if forward.nat.is_some() && mode != ForwardMode::Nat {
        problems.add("forward.nat", format!("has no place in the mode {word}"));
    }
    let on_bridge = mode.is_managed() || (mode == ForwardMode::Bridge && network.bridge.is_some());
    if !on_bridge && network.bridge.is_some() && mode != ForwardMode::Bridge {
        problems.add("bridge", format!("has no place in the mode {word}"));
    }
    if !mode.is_managed() {
        let why = format!("has no place in the mode {word}, in which libvirt serves nothing");
        let dns = &network.dns;
        let answers = !(dns.enabled
            && dns.forwarders.is_empty()
            && dns.hosts.is_empty()
            && dns.srv.is_empty()
            && dns.txt.is_empty());
        for (field, is_there) in [
            ("ips", !network.ips.is_empty()),
            ("routes", !network.routes.is_empty()),
            ("domain", network.domain.is_some()),
            ("dns", answers),
            ("mtu", network.mtu.is_some()),
        ] {
            if is_there {
                problems.add(field, why.as_str());
            }
        }
    }
    if network.port_isolation && !on_bridge {
        problems.add("port_isolation", format!("needs a bridge, which the mode {word} has not"));
    }
    if network.virtual_port.is_some() && (mode.is_managed() || mode == ForwardMode::Hostdev) {
        problems.add("virtual_port", format!("has no place in the mode {word}"));
    }
    let tagged = pooled || mode == ForwardMode::Bridge;
    if network.vlan.is_some() && !tagged {
        problems.add("vlan", format!("cannot be had in the mode {word}"));
    }
    if network.bandwidth.is_some() && mode == ForwardMode::Hostdev {
        problems.add("bandwidth", "cannot be limited: guests have the device for themselves");
    }
    let subnets: Vec<Subnet> =
        network.ips.iter().filter_map(|ip| ip.address.parse().ok()).collect();
    for (at, route) in network.routes.iter().enumerate() {
        let reached = route.gateway.parse::<IpAddr>().is_ok_and(|gateway| {
            subnets.iter().any(|subnet| subnet.contains(gateway) && subnet.address() != gateway)
        });
        if !reached {
            let problem = "is no machine's address in a subnet of this network";
            problems.add(format!("routes[{at}].gateway"), problem);
        }
        let own = route.destination.parse::<Subnet>();
        if own.is_ok_and(|own| subnets.iter().any(|subnet| subnet.overlaps(&own))) {
            let problem = "overlaps with a subnet of this network";
            problems.add(format!("routes[{at}].destination"), problem);
        }
    }
    if network.mtu.is_some_and(|mtu| mtu < MIN_MTU_IPV6) && subnets.iter().any(|net| !net.is_ipv4())
    {
        problems.add("mtu", format!("must be at least {MIN_MTU_IPV6} bytes for IPv6"));
    }
    let forwards = matches!(mode, ForwardMode::Nat | ForwardMode::Route);
    if forwards && network.ips.is_empty() && problems.0.is_empty() {
        problems.add("ips", format!("must be given with the mode {word}"));
    }
    problems.into_result(Kind::Impossible)
}
