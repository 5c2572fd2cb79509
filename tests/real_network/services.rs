//! What a network's DNS and DHCP server answer, before and after live changes.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{NETWORKS, SOON, World, eventually};

/// What the server at this address says to a question.
fn ask(world: &World, server: &str, kind: &str, name: &str) -> String {
    let kind = format!("-type={kind}");
    let words = ["busybox", "nslookup", kind.as_str(), name, server];
    world.lab.try_exec(&words).unwrap_or_else(|error| error)
}

/// What a reply says, without what it says to be absent.
fn said(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let there = members.iter().filter(|(_, value)| !value.is_null());
            there.map(|(name, value)| (name.clone(), said(value))).collect()
        }
        Value::Array(items) => items.iter().map(said).collect(),
        other => other.clone(),
    }
}

async fn until_answered(world: &World, server: &str, kind: &str, name: &str, wanted: &str) {
    eventually(&format!("{name} is answered with {wanted}"), SOON, async || {
        ask(world, server, kind, name).contains(wanted).then_some(())
    })
    .await;
}

/// A machine of its own beside the guests, at the end of a cable: asks for an address.
fn lease_of(world: &World, bridge: &str, cable: &str, mac: &str) -> String {
    plugged(world, bridge, cable, mac, |inner| {
        let asked = format!("busybox udhcpc -i {inner} -n -q -f -t 20 -T 1 -s /bin/true 2>&1");
        world.lab.exec(&["sh", "-c", &asked])
    })
}

/// The same for an IPv6 address, by the identifier that the machine tells.
fn lease6_of(world: &World, bridge: &str, cable: &str, mac: &str, duid: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/dhcp6.py");
    plugged(world, bridge, cable, mac, |inner| world.lab.exec(&["python3", script, inner, duid]))
}

/// Plugs one end of a cable into the bridge, and has something done at the other.
fn plugged(
    world: &World,
    bridge: &str,
    cable: &str,
    mac: &str,
    work: impl FnOnce(&str) -> String,
) -> String {
    let (inner, outer) = (format!("{cable}a"), format!("{cable}b"));
    let lab = &world.lab;
    lab.exec(&[
        "ip", "link", "add", &inner, "address", mac, "type", "veth", "peer", "name", &outer,
    ]);
    lab.exec(&["ip", "link", "set", &outer, "master", bridge, "up"]);
    lab.exec(&["ip", "link", "set", &inner, "up"]);
    let asked = work(&inner);
    lab.exec(&["ip", "link", "delete", &inner]);
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nat_network_answers_what_it_was_told_also_live() {
    let Some(world) = World::on_one_host("netdns").await else { return };
    let client = &world.client;
    let body = json!({
        "name": "das Netz <1>",
        "bridge": "vdns0",
        "domain": {"name": "lab.example", "local_only": true},
        "mtu": 1400,
        "ips": [
            {"address": "10.201.0.1/24", "dhcp": {
                "ranges": [{"start": "10.201.0.100", "end": "10.201.0.110"}],
                "hosts": [{"mac": "52:54:00:20:10:01", "name": "one", "ip": "10.201.0.11"}]}},
            {"address": "fd20:1:0:1::1/64", "dhcp": {
                "ranges": [{"start": "fd20:1:0:1::100", "end": "fd20:1:0:1::1ff"}],
                "hosts": [{"id": "00:03:00:01:52:54:00:20:10:01", "name": "one", "ip": "fd20:1:0:1::11"}]}},
        ],
        "dns": {
            "hosts": [{"ip": "10.201.0.5", "hostnames": ["store.lab.example", "store"]},
                {"ip": "fd20:1:0:1::5", "hostnames": ["six.lab.example"]}],
            "srv": [{"service": "ldap", "protocol": "tcp", "domain": "lab.example",
                "target": "store.lab.example", "port": 389, "priority": 3, "weight": 4}],
            "txt": [{"name": "note.lab.example", "value": "made by hand"}]},
    });
    let made = client.post(NETWORKS, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let path = made.header("location").expect("a place").to_owned();
    let path = path.as_str();
    let network = made.data().clone();
    assert_eq!((&network["name"], &network["bridge"]), (&body["name"], &json!("vdns0")));
    assert_eq!((&network["active"], &network["pending"]), (&json!(true), &Value::Null));
    assert_eq!(said(&network["ips"]), body["ips"]);
    let links = world.lab.exec(&["ip", "-o", "addr", "show", "dev", "vdns0"]);
    for part in ["10.201.0.1/24", "fd20:1:0:1::1/64"] {
        assert!(links.contains(part), "{links}");
    }
    assert!(world.lab.exec(&["ip", "link", "show", "vdns0"]).contains("mtu 1400"));

    let server = "10.201.0.1";
    until_answered(&world, server, "a", "store.lab.example", "10.201.0.5").await;
    until_answered(&world, server, "srv", "_ldap._tcp.lab.example", "389").await;
    until_answered(&world, server, "txt", "note.lab.example", "made by hand").await;
    until_answered(&world, server, "aaaa", "six.lab.example", "fd20:1:0:1::5").await;
    let lease = lease_of(&world, "vdns0", "vdns1", "52:54:00:20:10:01");
    assert!(lease.contains("10.201.0.11"), "{lease}");
    until_answered(&world, server, "a", "one.lab.example", "10.201.0.11").await;
    // By its identifier the one, from the range another.
    let known = "00:03:00:01:52:54:00:20:10:01";
    let lease = lease6_of(&world, "vdns0", "vdns4", "52:54:00:20:10:01", known);
    assert_eq!(lease, "fd20:1:0:1::11");
    let other = "00:03:00:01:52:54:00:20:10:77";
    let lease = lease6_of(&world, "vdns0", "vdns5", "52:54:00:20:10:77", other);
    assert!(lease.starts_with("fd20:1:0:1::1"), "{lease}");
    let leases = client.get(format!("{path}/dhcp-leases")).await;
    let leases = leases.data()["leases"].as_array().expect("leases").clone();
    for (address, duid) in [("fd20:1:0:1::11", known), (lease.as_str(), other)] {
        let found = leases.iter().find(|lease| lease["address"] == address);
        let found = found.unwrap_or_else(|| panic!("{address} is not in {leases:#?}"));
        assert_eq!((&found["family"], &found["client_id"]), (&json!("ipv6"), &json!(duid)));
    }

    // A plan says what is live, and changes nothing.
    let change = json!({
        "ips": [
            {"address": "10.201.0.1/24", "dhcp": {
                "ranges": [{"start": "10.201.0.120", "end": "10.201.0.120"}],
                "hosts": [{"mac": "52:54:00:20:10:02", "name": "two", "ip": "10.201.0.12"}]}},
            body["ips"][1],
        ],
        "dns": {
            "hosts": [{"ip": "10.201.0.6", "hostnames": ["store.lab.example"]}],
            "srv": [{"service": "ldap", "protocol": "tcp", "domain": "lab.example",
                "target": "store.lab.example", "port": 636}],
            "txt": [{"name": "note.lab.example", "value": "changed"}]},
    });
    let plan = client.put(format!("{path}?dry_run=true"), &change).await;
    let changes = plan.data()["changes"].as_array().expect("changes").clone();
    let fields: BTreeSet<&str> = changes.iter().filter_map(|one| one["field"].as_str()).collect();
    let all = ["dns.hosts", "dns.srv", "dns.txt", "ips[0].dhcp.hosts", "ips[0].dhcp.ranges"];
    assert_eq!(fields, BTreeSet::from(all));
    assert!(changes.iter().all(|one| one["effect"] == "live"), "{plan:?}");
    assert_eq!(client.get(path).await.data(), &network);

    let changed = client.put(path, &change).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let now = changed.data();
    assert_eq!(said(&now["ips"]), change["ips"]);
    assert_eq!((&now["dns"]["txt"], &now["pending"]), (&change["dns"]["txt"], &Value::Null));
    assert!(now["generation"].as_u64() > network["generation"].as_u64());
    until_answered(&world, server, "a", "store.lab.example", "10.201.0.6").await;
    until_answered(&world, server, "srv", "_ldap._tcp.lab.example", "636").await;
    until_answered(&world, server, "txt", "note.lab.example", "changed").await;
    let lease = lease_of(&world, "vdns0", "vdns2", "52:54:00:20:10:02");
    assert!(lease.contains("10.201.0.12"), "{lease}");
    let lease = lease_of(&world, "vdns0", "vdns3", "52:54:00:20:10:99");
    assert!(lease.contains("10.201.0.120"), "{lease}");
    let leases = client.get(format!("{path}/dhcp-leases")).await;
    let leases = leases.data()["leases"].as_array().expect("leases");
    let found = leases.iter().find(|lease| lease["address"] == "10.201.0.12");
    assert_eq!(found.expect("the lease")["mac"], "52:54:00:20:10:02", "{leases:#?}");
    for which in
        [&["net-dumpxml", "das Netz <1>"][..], &["net-dumpxml", "das Netz <1>", "--inactive"]]
    {
        let xml = world.lab.virsh(which);
        assert!(
            xml.contains("52:54:00:20:10:02") && !xml.contains("mac='52:54:00:20:10:01'"),
            "{xml}"
        );
    }

    // What cannot be live waits, is shown, and comes with the next start.
    let tag = changed.header("etag").expect("a tag").to_owned();
    let later = json!({"mtu": 1300, "domain": {"name": "other.example"}, "routes":
        [{"destination": "10.202.0.0/16", "gateway": "10.201.0.7"}],
        "bandwidth": {"inbound": {"average": 10_000}}});
    let reply = client.call("PUT", path).header("if-match", "\"0\"").json(&later).send().await;
    reply.refused(412, "PRECONDITION_FAILED");
    let reply = client.call("PUT", path).header("if-match", &tag).json(&later).send().await;
    let waiting = reply.data();
    assert_eq!(waiting["mtu"], 1400, "{waiting:#}");
    let pending: BTreeSet<&str> = waiting["pending"]["changes"]
        .as_array()
        .expect("pending")
        .iter()
        .filter_map(|change| change["field"].as_str())
        .collect();
    assert_eq!(pending, BTreeSet::from(["bandwidth", "domain", "mtu", "routes"]));
    // Taken back again: not every kernel can limit a bridge.
    let reply = client.put(path, &json!({"bandwidth": {}})).await;
    let left = reply.data()["pending"]["changes"].as_array().map(Vec::len);
    assert_eq!(left, Some(3), "{reply:?}");
    let stopped = client.post(format!("{path}/stop"), &json!({})).await;
    assert_eq!(stopped.data()["active"], false);
    let started = client.post(format!("{path}/start"), &json!({})).await;
    let started = started.data();
    assert_eq!((&started["mtu"], &started["pending"]), (&json!(1300), &Value::Null));
    assert!(world.lab.exec(&["ip", "link", "show", "vdns0"]).contains("mtu 1300"));
    assert!(world.lab.exec(&["ip", "route"]).contains("10.202.0.0/16 via 10.201.0.7"));
    until_answered(&world, server, "a", "two.other.example", "10.201.0.12").await;

    let gone = client.delete(path).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert_eq!(world.lab.names(&["net-list", "--all", "--name"]), ["lab"]);
    assert!(world.lab.try_exec(&["ip", "link", "show", "vdns0"]).is_err());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_into_a_definition_survives() {
    let Some(world) = World::on_one_host("netkeep").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let xml = "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
  <name>hand</name>
  <metadata><other:thing xmlns:other='http://other.example/1.0' kept='yes'/></metadata>
  <forward mode='route'/>
  <bridge name='vkeep0' stp='off' delay='3' zone=''/>
  <dns forwardPlainNames='no'/>
  <ip address='10.202.1.1' netmask='255.255.255.0' localPtr='yes'>
    <tftp root='/srv'/>
    <dhcp><range start='10.202.1.10' end='10.202.1.20'><lease expiry='5' unit='hours'/></range>
      <bootp file='pxe.0'/></dhcp>
  </ip>
  <portgroup name='all' trustGuestRxFilters='yes'/>
  <dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options>
</network>";
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), xml.replace(" zone=''", "")).expect("written");
    lab.virsh(&["net-define", &file.path().display().to_string()]);
    lab.virsh(&["net-start", "hand"]);
    let path = format!("{NETWORKS}/hand");
    let seen = eventually("the network of another tool appears", SOON, async || {
        let reply = client.get(path.clone()).await;
        (reply.status == 200 && reply.data()["active"] == true).then(|| reply.data().clone())
    })
    .await;
    let mut ips = seen["ips"].clone();
    ips[0]["dhcp"]["hosts"] = json!([{"mac": "52:54:00:20:21:01", "ip": "10.202.1.5"}]);
    let change = json!({"ips": ips, "mtu": 1450, "portgroups": [{"name": "all", "default": true}],
        "dns": {"txt": [{"name": "a.b", "value": "c"}]}});
    let changed = client.put(&path, &change).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    for (which, mtu) in
        [(&["net-dumpxml", "hand"][..], false), (&["net-dumpxml", "hand", "--inactive"], true)]
    {
        let xml = lab.virsh(which);
        for kept in [
            "other:thing",
            "kept=\"yes\"",
            "delay='3'",
            "forwardPlainNames='no'",
            "localPtr='yes'",
            "root='/srv'",
            "expiry='5'",
            "pxe.0",
            "trustGuestRxFilters='yes'",
            "no-ping",
            "10.202.1.5",
            "default='yes'",
        ] {
            let other = kept.replace('"', "'");
            assert!(xml.contains(kept) || xml.contains(&other), "{kept} in {xml}");
        }
        assert_eq!(xml.contains("1450"), mtu, "{xml}");
    }
    // Behind Vapor's back.
    lab.virsh(&["net-destroy", "hand"]);
    eventually("the stop is seen", SOON, async || {
        (client.get(path.clone()).await.data()["active"] == false).then_some(())
    })
    .await;
    lab.virsh(&["net-undefine", "hand"]);
    eventually("the end is seen", SOON, async || {
        (client.get(path.clone()).await.status == 404).then_some(())
    })
    .await;
    client.put(&path, &json!({"mtu": 1400})).await.refused(404, "NETWORK_NOT_FOUND");
    world.finish().await;
}
