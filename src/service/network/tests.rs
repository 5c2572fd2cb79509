//! What is refused, and what an update does, decided without libvirt.

use serde_json::{Value, json};
use uuid::Uuid;

use super::conflict;
use super::decide::{self, Decision};
use super::host::{HostNet, HostRoute};
use super::{check, etag};
use crate::error::{Error, Kind, Result};
use crate::libvirt::network::{Command, NetworkFacts, Section};
use crate::model::plan::Effect;
use crate::model::{CreateNetwork, Network, UpdateNetwork};
use crate::xml::network::{edit, parse_network};

const OWN: Uuid = Uuid::from_u128(1);

fn wanted(mut body: Value) -> UpdateNetwork {
    body["name"] = json!("x");
    serde_json::from_value::<CreateNetwork>(body).unwrap().into()
}

/// Every check of a creation that needs nobody else.
fn view(body: Value) -> Result<Network> {
    let mut request = wanted(body);
    check::parts(&mut request)?;
    let mut view = parse_network(&edit::author("x", OWN, &request)?)?;
    check::whole(&view)?;
    view.uuid = OWN;
    Ok(view)
}

fn fields(error: &Error) -> Vec<String> {
    let fields = error.details()["fields"].as_array().unwrap();
    fields.iter().map(|entry| entry["field"].as_str().unwrap().to_owned()).collect()
}

fn one_ip(dhcp: Value) -> Value {
    json!({"ips": [{"address": "10.201.0.1/24", "dhcp": dhcp}]})
}

#[test]
fn parts_that_cannot_be_are_refused_with_their_field() {
    let host = |host: Value| one_ip(json!({"hosts": [host]}));
    let v6 = |dhcp: Value| json!({"ips": [{"address": "fd20:1::1/64", "dhcp": dhcp}]});
    for (body, field) in [
        (json!({"ips": [{"address": "10.201.0.1"}]}), "ips[0].address"),
        (json!({"ips": [{"address": "10.201.0.1/33"}]}), "ips[0].address"),
        (json!({"ips": [{"address": "10.201.0.0/24"}]}), "ips[0].address"),
        (json!({"ips": [{"address": "10.201.0.255/24"}]}), "ips[0].address"),
        (json!({"ips": [{"address": "127.0.0.5/8"}]}), "ips[0].address"),
        (json!({"ips": [{"address": "224.0.0.5/8"}]}), "ips[0].address"),
        (json!({"ips": [{"address": "fe80::1/64"}]}), "ips[0].address"),
        (json!({"ips": [{"address": "10.0.0.1/0"}]}), "ips[0].address"),
        (
            json!({"ips": [{"address": "10.201.0.1/24"}, {"address": "10.201.0.129/25"}]}),
            "ips[1].address",
        ),
        (
            one_ip(json!({"ranges": [{"start": "10.201.1.5", "end": "10.201.1.9"}]})),
            "ips[0].dhcp.ranges[0].start",
        ),
        (
            one_ip(json!({"ranges": [{"start": "10.201.0.5", "end": "10.201.0.255"}]})),
            "ips[0].dhcp.ranges[0].end",
        ),
        (
            one_ip(json!({"ranges": [{"start": "10.201.0.9", "end": "10.201.0.5"}]})),
            "ips[0].dhcp.ranges[0]",
        ),
        (
            one_ip(json!({"ranges": [{"start": "10.201.0.1", "end": "10.201.0.9"}]})),
            "ips[0].dhcp.ranges[0]",
        ),
        (
            one_ip(json!({"ranges": [{"start": "10.201.0.5", "end": "fd00::1"}]})),
            "ips[0].dhcp.ranges[0].end",
        ),
        (
            one_ip(
                json!({"ranges": [{"start": "10.201.0.5", "end": "10.201.0.9"}, {"start": "10.201.0.9", "end": "10.201.0.20"}]}),
            ),
            "ips[0].dhcp.ranges[1]",
        ),
        (
            v6(json!({"ranges": [{"start": "fd20:1::10", "end": "fd20:1::1:0:0"}]})),
            "ips[0].dhcp.ranges[0]",
        ),
        (host(json!({"mac": "52:54:00:00:00:01", "ip": "10.202.0.5"})), "ips[0].dhcp.hosts[0].ip"),
        (host(json!({"mac": "52:54:00:00:00:01", "ip": "10.201.0.1"})), "ips[0].dhcp.hosts[0].ip"),
        (host(json!({"mac": "53:54:00:00:00:01", "ip": "10.201.0.5"})), "ips[0].dhcp.hosts[0].mac"),
        (host(json!({"ip": "10.201.0.5"})), "ips[0].dhcp.hosts[0].mac"),
        (host(json!({"id": "00:01", "name": "a", "ip": "10.201.0.5"})), "ips[0].dhcp.hosts[0].id"),
        (
            v6(json!({"hosts": [{"mac": "52:54:00:00:00:01", "name": "a", "ip": "fd20:1::5"}]})),
            "ips[0].dhcp.hosts[0].mac",
        ),
        (
            one_ip(
                json!({"hosts": [{"mac": "52:54:00:00:00:0a", "ip": "10.201.0.5"}, {"mac": "52:54:00:00:00:0A", "ip": "10.201.0.6"}]}),
            ),
            "ips[0].dhcp.hosts[1].mac",
        ),
        (
            one_ip(
                json!({"hosts": [{"mac": "52:54:00:00:00:01", "ip": "10.201.0.5"}, {"mac": "52:54:00:00:00:02", "ip": "10.201.0.5"}]}),
            ),
            "ips[0].dhcp.hosts[1].ip",
        ),
        (
            json!({"ips": [{"address": "10.201.0.1/24", "dhcp": {}}, {"address": "10.202.0.1/24", "dhcp": {}}]}),
            "ips[1].dhcp",
        ),
        (
            json!({"routes": [{"destination": "10.9.0.1/16", "gateway": "10.201.0.2"}]}),
            "routes[0].destination",
        ),
        (
            json!({"routes": [{"destination": "10.9.0.0/16", "gateway": "fd20:1::2"}]}),
            "routes[0].gateway",
        ),
        (json!({"mtu": 60}), "mtu"),
        (json!({"dns": {"forwarders": [{}]}}), "dns.forwarders[0]"),
        (json!({"dns": {"hosts": [{"ip": "x", "hostnames": ["a"]}]}}), "dns.hosts[0].ip"),
        (
            json!({"dns": {"srv": [{"service": "a", "protocol": "tcp", "port": 5}]}}),
            "dns.srv[0].target",
        ),
        (
            json!({"dns": {"txt": [{"name": "a", "value": "b"}, {"name": "A", "value": "c"}]}}),
            "dns.txt[1].name",
        ),
        (json!({"vlan": {"tags": [{"id": 1}, {"id": 2}]}}), "vlan.tags"),
        (json!({"bandwidth": {"inbound": {"average": 5, "peak": 4}}}), "bandwidth.inbound.peak"),
        (json!({"portgroups": [{"name": "a"}, {"name": "a"}]}), "portgroups[1].name"),
        (
            json!({"portgroups": [{"name": "a", "default": true}, {"name": "b", "default": true}]}),
            "portgroups[1].default",
        ),
    ] {
        let error = view(body.clone()).unwrap_err();
        assert_eq!(error.kind(), Kind::Impossible, "{body}: {error}");
        assert_eq!(fields(&error)[0], field, "{body}: {error}");
    }
}

#[test]
fn parts_that_contradict_each_other_are_impossible() {
    let forward = |forward: Value| json!({"forward": forward});
    for (body, field) in [
        (forward(json!({"mode": "bridge"})), "bridge"),
        (forward(json!({"mode": "private"})), "forward.devices"),
        (forward(json!({"mode": "passthrough"})), "forward.devices"),
        (forward(json!({"mode": "hostdev"})), "forward.physical_function"),
        (
            forward(
                json!({"mode": "hostdev", "physical_function": "a", "pci_addresses": ["0000:03:10.1"]}),
            ),
            "forward.physical_function",
        ),
        (forward(json!({"mode": "nat", "devices": ["a", "b"]})), "forward.devices"),
        (forward(json!({"mode": "open", "devices": ["a"]})), "forward.devices"),
        (forward(json!({"mode": "nat", "physical_function": "a"})), "forward.physical_function"),
        (
            json!({"forward": {"mode": "bridge"}, "bridge": "br0", "ips": [{"address": "10.201.0.1/24"}]}),
            "ips",
        ),
        (json!({"forward": {"mode": "bridge"}, "bridge": "br0", "mtu": 1400}), "mtu"),
        (json!({"forward": {"mode": "bridge"}, "bridge": "br0", "dns": {"enabled": false}}), "dns"),
        (json!({}), "ips"),
        (json!({"vlan": {"tags": [{"id": 5}]}}), "vlan"),
        (json!({"virtual_port": "openvswitch"}), "virtual_port"),
        (
            json!({"forward": {"mode": "private", "devices": ["a"]}, "port_isolation": true}),
            "port_isolation",
        ),
        (json!({"ips": [{"address": "fd20:1::1/64"}], "mtu": 1000}), "mtu"),
        (
            json!({"ips": [{"address": "10.201.0.1/24"}], "routes": [{"destination": "10.9.0.0/16", "gateway": "10.8.0.2"}]}),
            "routes[0].gateway",
        ),
        (
            json!({"ips": [{"address": "10.201.0.1/24"}], "routes": [{"destination": "10.201.0.0/16", "gateway": "10.201.0.2"}]}),
            "routes[0].destination",
        ),
    ] {
        let error = view(body.clone()).unwrap_err();
        assert_eq!(error.kind(), Kind::Impossible, "{body}: {error}");
        assert_eq!(fields(&error), [field], "{body}: {error}");
    }
}

#[test]
fn addresses_are_put_into_their_one_form() {
    let mut request = wanted(json!({"ips": [{"address": "FD20:1:0::1/64", "dhcp": {
        "ranges": [{"start": "fd20:1:0::00a0", "end": "FD20:1::B0"}]}}]}));
    check::parts(&mut request).unwrap();
    let ip = &request.ips.unwrap()[0];
    assert_eq!(ip.address, "fd20:1::1/64");
    assert_eq!(ip.dhcp.as_ref().unwrap().ranges[0].start, "fd20:1::a0");
}

fn other(name: &str, body: Value) -> Network {
    let mut view = view(body).unwrap();
    view.uuid = Uuid::new_v4();
    view.name = name.to_owned();
    view
}

#[test]
fn what_belongs_to_another_network_is_named() {
    let others = [
        other(
            "lab",
            json!({"bridge": "virbr7", "ips": [{"address": "10.201.5.1/24"}, {"address": "fd20:1:5::1/64"}]}),
        ),
        other("outside", json!({"forward": {"mode": "bridge"}, "bridge": "br0"})),
    ];
    let check = |body: Value| conflict::check(&view(body).unwrap(), OWN, &others, None);
    for address in ["10.201.5.129/25", "10.201.0.1/16", "fd20:1:5::2/80"] {
        let error = check(json!({"ips": [{"address": address}]})).unwrap_err();
        assert_eq!(
            (error.kind(), &error.details()["network"]),
            (Kind::NetworkConflict, &json!("lab"))
        );
        assert_eq!(fields(&error), ["ips[0].address"]);
    }
    check(json!({"ips": [{"address": "10.201.6.1/24"}]})).unwrap();
    let error = check(json!({"forward": {"mode": "isolated"}, "bridge": "virbr7"})).unwrap_err();
    assert_eq!((error.kind(), fields(&error)), (Kind::NetworkConflict, vec!["bridge".to_owned()]));
    check(json!({"forward": {"mode": "bridge"}, "bridge": "virbr7"})).unwrap_err();
    check(json!({"forward": {"mode": "bridge"}, "bridge": "br0"})).unwrap();
    let mut own = view(json!({"bridge": "virbr8", "ips": [{"address": "10.201.9.1/24"}]})).unwrap();
    own.name = "own".to_owned();
    conflict::check(&own, OWN, std::slice::from_ref(&own), None).unwrap();
}

#[test]
fn what_belongs_to_the_host_is_named() {
    let route = |text: &str, interface: &str, via_gateway| HostRoute {
        destination: text.parse().unwrap(),
        interface: interface.to_owned(),
        via_gateway,
    };
    let host = HostNet {
        links: ["eth0", "br0", "docker0", "virbr8"].map(str::to_owned).into(),
        bridges: ["br0", "docker0", "virbr8"].map(str::to_owned).into(),
        addresses: vec![
            ("eth0".to_owned(), "10.202.0.7/24".parse().unwrap()),
            ("virbr8".to_owned(), "10.201.8.1/24".parse().unwrap()),
        ],
        routes: vec![
            route("10.203.0.0/24", "docker0", false),
            route("10.0.0.0/8", "eth0", true),
            route("10.204.7.0/24", "eth0", true),
            route("10.201.8.0/24", "virbr8", false),
        ],
    };
    let mut own = view(json!({"bridge": "virbr8", "ips": [{"address": "10.201.8.1/24"}]})).unwrap();
    own.name = "own".to_owned();
    let networks = [own.clone()];
    let check = |network: &Network| conflict::check(network, OWN, &networks, Some(&host));
    check(&own).unwrap();
    for (address, link) in
        [("10.202.0.129/25", "eth0"), ("10.203.0.1/16", "docker0"), ("10.204.0.1/16", "eth0")]
    {
        let error = check(&view(json!({"ips": [{"address": address}]})).unwrap()).unwrap_err();
        assert_eq!(
            (error.kind(), &error.details()["interface"]),
            (Kind::NetworkConflict, &json!(link))
        );
    }
    // More special than a route by way of a gateway: that is what routing is for.
    check(&view(json!({"ips": [{"address": "10.205.0.1/16"}]})).unwrap()).unwrap();
    let error =
        check(&view(json!({"forward": {"mode": "isolated"}, "bridge": "docker0"})).unwrap())
            .unwrap_err();
    assert_eq!(error.kind(), Kind::NetworkConflict);
    let bridge = |name: &str| view(json!({"forward": {"mode": "bridge"}, "bridge": name})).unwrap();
    check(&bridge("br0")).unwrap();
    assert_eq!(check(&bridge("br1")).unwrap_err().kind(), Kind::Impossible);
    assert_eq!(check(&bridge("eth0")).unwrap_err().kind(), Kind::Impossible);
}

const DHCP: &str = "10.201.0.1/24";

fn facts(body: Value, active: bool, persistent: bool) -> NetworkFacts {
    let mut request = wanted(body);
    check::parts(&mut request).unwrap();
    let xml = edit::author("x", OWN, &request).unwrap();
    NetworkFacts {
        uuid: OWN,
        name: "x".to_owned(),
        active,
        persistent,
        autostart: false,
        inactive_xml: (active && persistent).then(|| xml.clone()),
        xml,
    }
}

fn decided(facts: &NetworkFacts, body: Value) -> Decision {
    decide::decide(facts, &serde_json::from_value(body).unwrap()).unwrap()
}

fn effects(decision: &Decision) -> Vec<(&str, Effect)> {
    decision.changes.iter().map(|change| (change.field.as_str(), change.effect)).collect()
}

fn base() -> Value {
    json!({
        "ips": [{"address": DHCP, "dhcp": {
            "ranges": [{"start": "10.201.0.100", "end": "10.201.0.150"}],
            "hosts": [{"mac": "52:54:00:00:00:01", "ip": "10.201.0.10"}]}}],
        "dns": {"hosts": [{"ip": "10.201.0.10", "hostnames": ["one"]}]},
        "portgroups": [{"name": "a", "default": true}],
    })
}

#[test]
fn a_running_network_takes_entries_at_once_and_the_rest_with_its_next_start() {
    let facts = facts(base(), true, true);
    let body = json!({
        "ips": [{"address": DHCP, "dhcp": {
            "ranges": [{"start": "10.201.0.100", "end": "10.201.0.150"}, {"start": "10.201.0.160", "end": "10.201.0.170"}],
            "hosts": [{"mac": "52:54:00:00:00:02", "ip": "10.201.0.11"}]}}],
        "dns": {"hosts": [{"ip": "10.201.0.11", "hostnames": ["one"]}], "txt": [{"name": "t", "value": "v"}]},
        "portgroups": [{"name": "a"}, {"name": "b", "default": true}],
        "mtu": 1400, "domain": {"name": "lab"}, "autostart": true,
    });
    let decision = decided(&facts, body.clone());
    assert_eq!(
        effects(&decision),
        [
            ("ips[0].dhcp.ranges", Effect::Live),
            ("ips[0].dhcp.hosts", Effect::Live),
            ("domain", Effect::NextStart),
            ("dns.hosts", Effect::Live),
            ("dns.txt", Effect::Live),
            ("mtu", Effect::NextStart),
            ("portgroups", Effect::Live),
            ("autostart", Effect::Live),
        ]
    );
    let steps: Vec<(Section, Command)> =
        decision.live.iter().map(|step| (step.section, step.command)).collect();
    assert_eq!(
        steps,
        [
            (Section::DhcpRange, Command::Add),
            (Section::DhcpHost, Command::Delete),
            (Section::DhcpHost, Command::Add),
            // The name moves to another address: the old entry goes first.
            (Section::DnsHost, Command::Delete),
            (Section::DnsHost, Command::Add),
            (Section::DnsTxt, Command::Add),
            (Section::PortGroup, Command::Modify),
            (Section::PortGroup, Command::Add),
        ]
    );
    assert!(decision.define.is_some());
    // Once it is so, there is nothing to be done, and nothing unmet.
    let mut met = facts.clone();
    met.inactive_xml.clone_from(&decision.define);
    met.xml = {
        let live =
            json!({"ips": body["ips"], "dns": body["dns"], "portgroups": body["portgroups"]});
        edit::apply(&facts.xml, &serde_json::from_value(live).unwrap()).unwrap()
    };
    met.autostart = true;
    let again = decided(&met, body.clone());
    assert_eq!((effects(&again), &again.define), (Vec::new(), &None));
    assert_eq!(again.live, []);
    let request: UpdateNetwork = serde_json::from_value(body).unwrap();
    assert_eq!(decide::unmet(&met, &request).unwrap(), [] as [&str; 0]);
    assert!(decide::unmet(&facts, &request).unwrap().contains(&"mtu".to_owned()));
}

#[test]
fn a_stopped_network_takes_everything() {
    let facts = facts(base(), false, true);
    let decision = decided(&facts, json!({"mtu": 1400, "ips": [{"address": "10.205.0.1/24"}]}));
    assert!(decision.changes.iter().all(|change| change.effect == Effect::Live));
    assert!(decision.live.is_empty() && decision.define.is_some());
}

#[test]
fn a_transient_network_has_no_next_start() {
    let facts = facts(base(), true, false);
    let decision = decided(&facts, json!({"mtu": 1400, "autostart": true}));
    assert_eq!(
        effects(&decision),
        [("mtu", Effect::Impossible), ("autostart", Effect::Impossible)]
    );
    assert_eq!(fields(&decide::impossible(&decision).unwrap_err()), ["mtu", "autostart"]);
    let decision = decided(&facts, json!({"dns": {"hosts": []}}));
    assert_eq!(effects(&decision), [("dns.hosts", Effect::Live)]);
    assert!(decision.define.is_none());
}

#[test]
fn what_libvirt_could_not_tell_apart_waits_for_the_next_start() {
    let facts = facts(base(), true, true);
    // One name for an IPv4 and an IPv6 address.
    let both = json!({"dns": {"hosts": [{"ip": "10.201.0.10", "hostnames": ["one"]}, {"ip": "fd20:1::10", "hostnames": ["one"]}]}});
    let decision = decided(&facts, both);
    assert_eq!(effects(&decision), [("dns.hosts", Effect::NextStart)]);
    assert!(decision.live.is_empty() && decision.define.is_some());
}

#[test]
fn a_new_subnet_waits_while_the_old_one_changes_at_once() {
    let facts = facts(base(), true, true);
    let mut body = base();
    body["ips"][0]["dhcp"]["hosts"] = json!([]);
    body["ips"].as_array_mut().unwrap().push(json!({"address": "10.206.0.1/24"}));
    let decision = decided(&facts, json!({"ips": body["ips"]}));
    assert_eq!(
        effects(&decision),
        [("ips", Effect::NextStart), ("ips[0].dhcp.hosts", Effect::Live)]
    );
}

#[test]
fn a_tag_is_of_the_content_alone() {
    let mut network = view(base()).unwrap();
    let tag = etag(&network).unwrap();
    network.generation += 1;
    assert_eq!(etag(&network).unwrap(), tag);
    network.mtu = Some(1400);
    assert_ne!(etag(&network).unwrap(), tag);
}
