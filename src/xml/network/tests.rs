//! Definitions there and back, and what edits leave alone.

use std::io::Write;
use std::process::Command;

use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{edit, parse_network};
use crate::model::{CreateNetwork, UpdateNetwork};

fn update(body: Value) -> UpdateNetwork {
    serde_json::from_value(body).unwrap()
}

fn author(mut body: Value) -> String {
    body["name"] = json!("x");
    let new: CreateNetwork = serde_json::from_value(body).unwrap();
    edit::author("a & <b>", Uuid::nil(), &new.into()).unwrap()
}

const FOREIGN: &str =
    "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0' connections='2'>
  <name>default</name>
  <uuid>dd8fe884-6c02-601e-7551-cca97df1c5df</uuid>
  <metadata><other:thing xmlns:other='http://other.example/1.0' kept='yes'/></metadata>
  <forward mode='nat' dev='eth0'>
    <nat><port start='1024' end='65535'/></nat>
    <interface dev='eth0'/>
  </forward>
  <bridge name='virbr0' stp='on' delay='0' macTableManager='libvirt'/>
  <mac address='52:54:00:8f:aa:bb'/>
  <dns forwardPlainNames='yes'><host ip='192.168.122.5'><hostname>old</hostname></host></dns>
  <ip address='192.168.122.1' netmask='255.255.255.0' localPtr='yes'>
    <tftp root='/srv/tftp'/>
    <dhcp>
      <!-- by hand -->
      <range start='192.168.122.2' end='192.168.122.254'><lease expiry='0'/></range>
      <host mac='52:54:00:00:00:01' ip='192.168.122.10'/>
      <bootp file='pxelinux.0'/>
    </dhcp>
  </ip>
  <ip family='ipv6' address='2001:db8:ca2:2::1' prefix='64'/>
  <portgroup name='all' trustGuestRxFilters='yes'/>
  <dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options>
</network>
";

#[test]
fn the_default_network_is_read() {
    let network = parse_network(FOREIGN).unwrap();
    assert_eq!(network.name, "default");
    assert_eq!(network.uuid.to_string(), "dd8fe884-6c02-601e-7551-cca97df1c5df");
    assert_eq!(network.bridge.as_deref(), Some("virbr0"));
    assert_eq!(network.forward.mode, "nat");
    assert_eq!(network.forward.device.as_deref(), Some("eth0"));
    assert_eq!(network.forward.devices, ["eth0"]);
    assert_eq!(network.addresses, ["192.168.122.1/24", "2001:db8:ca2:2::1/64"]);
    assert_eq!(network.dhcp_ranges[0].end, "192.168.122.254");
    let dhcp = network.ips[0].dhcp.as_ref().unwrap();
    assert_eq!((dhcp.ranges.len(), dhcp.hosts[0].ip.as_str()), (1, "192.168.122.10"));
    assert_eq!(network.dns.hosts[0].hostnames[0].0, "old");
    assert_eq!(network.portgroups[0].name, "all");
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
    let pool = "<network><forward mode='hostdev' managed='yes'><address type='pci' domain='0x0000' \
                bus='0x03' slot='0x10' function='0x1'/></forward></network>";
    let network = parse_network(pool).unwrap();
    assert_eq!(network.forward.pci_addresses, ["0000:03:10.1"]);
    assert!(network.forward.managed);
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
    assert!(edit::apply("<domain/>", &UpdateNetwork::default()).is_err());
}

#[test]
fn an_edit_of_nothing_changes_no_byte() {
    assert_eq!(edit::apply(FOREIGN, &UpdateNetwork::default()).unwrap(), FOREIGN);
    // Neither does one that says what is the case already.
    let network = parse_network(FOREIGN).unwrap();
    let same = update(json!({
        "forward": {"mode": "nat", "devices": ["eth0"]}, "bridge": "virbr0", "ips": network.ips,
        "routes": [], "mtu": 0, "domain": {"name": ""}, "port_isolation": false,
        "dns": {"enabled": true, "hosts": network.dns.hosts, "srv": [], "txt": []},
        "portgroups": network.portgroups, "vlan": {"tags": []}, "bandwidth": {},
    }));
    assert_eq!(edit::apply(FOREIGN, &same).unwrap(), FOREIGN);
}

#[test]
fn what_an_edit_does_not_name_keeps_its_place() {
    let mut network = parse_network(FOREIGN).unwrap();
    let dhcp = network.ips[0].dhcp.as_mut().unwrap();
    dhcp.hosts.push(
        serde_json::from_value(json!({"mac": "52:54:00:00:00:02", "ip": "192.168.122.11"}))
            .unwrap(),
    );
    let new = edit::apply(FOREIGN, &update(json!({"ips": network.ips}))).unwrap();
    let line = "      <host mac='52:54:00:00:00:01' ip='192.168.122.10'/>\n";
    let added = "      <host mac='52:54:00:00:00:02' ip='192.168.122.11'/>\n";
    assert_eq!(new, FOREIGN.replace(line, &format!("{line}{added}")));

    let all = update(json!({
        "forward": {"mode": "route"}, "mtu": 9000, "domain": {"name": "lab.example", "local_only": true},
        "dns": {"hosts": [{"ip": "192.168.122.6", "hostnames": ["new"]}], "txt": [{"name": "a", "value": "b"}]},
        "portgroups": [{"name": "all", "default": true, "vlan": {"tags": [{"id": 5}]}}, {"name": "other"}],
        "ips": [{"address": "192.168.122.1/24", "dhcp": {}}, {"address": "10.1.2.1/24"}],
    }));
    let new = edit::apply(FOREIGN, &all).unwrap();
    for kept in [
        "<other:thing xmlns:other='http://other.example/1.0' kept='yes'/>",
        "macTableManager='libvirt'",
        "forwardPlainNames='yes'",
        "<tftp root='/srv/tftp'/>",
        "<!-- by hand -->",
        "<bootp file='pxelinux.0'/>",
        "localPtr='yes'",
        "trustGuestRxFilters='yes'",
        "<dnsmasq:option value='no-ping'/>",
    ] {
        assert!(new.contains(kept), "{kept} in {new}");
    }
    for gone in ["eth0", "<nat>", "old", "2001:db8", "192.168.122.254", "192.168.122.10"] {
        assert!(!new.contains(gone), "{gone} in {new}");
    }
    let network = parse_network(&new).unwrap();
    assert_eq!((network.mtu, network.forward.mode.as_str()), (Some(9000), "route"));
    assert_eq!(network.addresses, ["192.168.122.1/24", "10.1.2.1/24"]);
    assert_eq!((network.portgroups.len(), network.portgroups[0].default), (2, true));
}

#[test]
fn markup_in_names_stays_text() {
    let xml = author(json!({"domain": {"name": "x'/><evil a='"}}));
    assert!(xml.contains("<name>a &amp; &lt;b&gt;</name>"), "{xml}");
    let network = parse_network(&xml).unwrap();
    assert_eq!(network.domain.unwrap().name, "x'/><evil a='");
}

/// One body for every mode, with everything that libvirt's schema allows in it.
fn bodies() -> Vec<Value> {
    let full = json!({
        "domain": {"name": "lab.example", "local_only": true}, "mtu": 1400, "port_isolation": true,
        "dns": {"forwarders": [{"address": "192.0.2.53"}, {"domain": "corp.example", "address": "2001:db8::53"}],
            "hosts": [{"ip": "10.201.0.5", "hostnames": ["a", "b.lab.example"]}],
            "srv": [{"service": "ldap", "protocol": "tcp", "domain": "lab.example", "target": "a.lab.example",
                "port": 389, "priority": 1, "weight": 2}],
            "txt": [{"name": "note.lab.example", "value": "by hand"}]},
        "ips": [
            {"address": "10.201.0.1/24", "dhcp": {"ranges": [{"start": "10.201.0.100", "end": "10.201.0.200"}],
                "hosts": [{"mac": "52:54:00:00:00:01", "name": "db1", "ip": "10.201.0.10"}]}},
            {"address": "fd20:1::1/64", "dhcp": {"ranges": [{"start": "fd20:1::100", "end": "fd20:1::1ff"}],
                "hosts": [{"id": "00:03:00:01:52:54:00:00:00:01", "name": "db1", "ip": "fd20:1::10"}]}},
            {"address": "10.202.0.1/16"}],
        "routes": [{"destination": "10.209.0.0/16", "gateway": "10.201.0.2", "metric": 5}],
        "bandwidth": {"inbound": {"average": 1000, "peak": 5000, "burst": 1024}, "outbound": {"average": 128}},
    });
    let mut all = Vec::new();
    for mode in ["nat", "route", "open", "isolated"] {
        let mut body = full.clone();
        body["forward"] = json!({"mode": mode});
        body["bridge"] = json!("vtest0");
        if mode == "nat" {
            body["forward"]["devices"] = json!(["eth0"]);
            body["forward"]["nat"] = json!({"ipv6": true, "ports": {"start": 1024, "end": 2048},
                "addresses": {"start": "192.0.2.5", "end": "192.0.2.6"}});
        }
        all.push(body);
    }
    all.push(json!({"dns": {"enabled": false}, "ips": [{"address": "10.203.0.1/24"}]}));
    let vlan = json!({"trunk": true, "tags": [{"id": 1, "native_mode": "untagged"}, {"id": 4094}]});
    all.push(json!({"forward": {"mode": "bridge"}, "bridge": "br0"}));
    all.push(
        json!({"forward": {"mode": "bridge"}, "bridge": "ovs0", "virtual_port": "openvswitch",
        "vlan": vlan, "portgroups": [{"name": "red", "default": true, "vlan": {"tags": [{"id": 3}]},
            "bandwidth": {"inbound": {"average": 5}}}, {"name": "blue"}]}),
    );
    for mode in ["bridge", "private", "vepa", "passthrough"] {
        all.push(json!({"forward": {"mode": mode, "devices": ["eth0", "eth1"]}}));
    }
    all.push(json!({"forward": {"mode": "passthrough", "physical_function": "eth2"}}));
    all.push(json!({"forward": {"mode": "hostdev", "physical_function": "eth2"}, "vlan": {"tags": [{"id": 42}]}}));
    all.push(json!({"forward": {"mode": "hostdev", "managed": false,
        "pci_addresses": ["0000:03:10.1", "0000:03:1f.7"]}}));
    all
}

#[test]
fn what_is_authored_is_read_back() {
    for body in bodies() {
        let network = parse_network(&author(body.clone())).unwrap();
        assert_eq!(network.name, "a & <b>");
        for (field, value) in body.as_object().unwrap() {
            let shown = serde_json::to_value(&network).unwrap();
            contains(&shown[field], value, field);
        }
    }
}

/// Whether what was asked for is shown; more may be.
fn contains(shown: &Value, asked: &Value, at: &str) {
    match (shown, asked) {
        (Value::Object(shown), Value::Object(asked)) => {
            for (name, value) in asked {
                contains(&shown[name], value, &format!("{at}.{name}"));
            }
        }
        (Value::Array(shown), Value::Array(asked)) => {
            assert_eq!(shown.len(), asked.len(), "{at}: {shown:?}");
            for (shown, asked) in shown.iter().zip(asked) {
                contains(shown, asked, at);
            }
        }
        (shown, asked) => assert_eq!(shown, asked, "{at}"),
    }
}

#[test]
fn libvirts_schema_accepts_every_mode() {
    let tool = Command::new("virt-xml-validate").arg("--version").output();
    if tool.is_err() {
        assert!(std::env::var_os("VAPOR_TEST_NO_SKIP").is_none(), "needs virt-xml-validate");
        println!("skipped: needs virt-xml-validate");
        return;
    }
    for body in bodies() {
        let xml = author(body);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(xml.as_bytes()).unwrap();
        let checked =
            Command::new("virt-xml-validate").arg(file.path()).arg("network").output().unwrap();
        let errors = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{errors}\n{xml}");
    }
}

proptest! {
    /// Whatever lists of hosts and ranges stand there and are wanted, afterwards the wanted ones do.
    #[test]
    fn lists_become_what_is_wanted(old in proptest::collection::btree_set(10_u8..60, 0..6),
                                   new in proptest::collection::btree_set(10_u8..60, 0..6)) {
        let ips = |set: &std::collections::BTreeSet<u8>| {
            let hosts: Vec<Value> = set.iter()
                .map(|n| json!({"mac": format!("52:54:00:00:00:{n:02x}"), "ip": format!("10.201.0.{n}")}))
                .collect();
            json!({"ips": [{"address": "10.201.0.1/24", "dhcp": {"hosts": hosts}}]})
        };
        let xml = author(ips(&old));
        let after = parse_network(&edit::apply(&xml, &update(ips(&new))).unwrap()).unwrap();
        let mut found: Vec<u8> = after.ips[0].dhcp.as_ref().unwrap().hosts.iter()
            .map(|host| host.ip.rsplit('.').next().unwrap().parse().unwrap()).collect();
        found.sort_unstable();
        prop_assert_eq!(found, new.into_iter().collect::<Vec<_>>());
    }
}
