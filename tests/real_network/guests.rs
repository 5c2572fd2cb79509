//! A running guest keeps its link through every update that promises it.

use serde_json::{Value, json};

use crate::support::{BOOT, NETWORKS, SOON, V, World, eventually, guest};

/// The guest's tap, its master and whether it is up, as the kernel has it.
fn link(world: &World, tap: &str) -> String {
    let text = world.lab.exec(&["ip", "-o", "link", "show", "dev", tap]);
    assert!(text.contains("state UP") || text.contains("LOWER_UP"), "{text}");
    let master = text.split(" master ").nth(1).and_then(|rest| rest.split(' ').next());
    master.unwrap_or_else(|| panic!("no master: {text}")).to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_keeps_its_link_through_live_updates() {
    let Some(world) = World::on_one_host("netguest").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let path = format!("{NETWORKS}/das%20Kabel");
    let ips = json!([{"address": "10.207.1.1/24", "dhcp": {
        "ranges": [{"start": "10.207.1.100", "end": "10.207.1.150"}], "hosts": []}}]);
    let body = json!({"name": "das Kabel", "bridge": "vguest0", "ips": ips});
    let made = client.post(NETWORKS, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let mut vm = guest::body("one");
    vm["networks"] =
        json!([{"type": "network", "source": "das Kabel", "mac": "52:54:00:20:70:01"}]);
    vm["start"] = json!(true);
    let made = client.post(V, &vm).await;
    assert_eq!(made.status, 201, "{made:?}");
    let vm = world.booted("one").await;
    let address = vm["runtimeDetails"]["primary_address"].as_str().expect("an address").to_owned();
    assert!(address.starts_with("10.207.1.1"), "{address}");
    let ping = || lab.try_exec(&["busybox", "ping", "-c", "1", "-W", "5", &address]);
    ping().expect("the guest answers");

    let port = eventually("the port is listed with its address", BOOT, async || {
        let reply = client.get(format!("{path}/ports")).await;
        let port = reply.data()["ports"][0].clone();
        let listed = port["addresses"].as_array().is_some_and(|all| {
            all.iter().any(|one| one.as_str().is_some_and(|one| one.starts_with(&address)))
        });
        listed.then_some(port)
    })
    .await;
    assert_eq!((&port["vm"], &port["mac"]), (&json!("one"), &json!("52:54:00:20:70:01")));
    assert_eq!((&port["model"], &port["link_up"]), (&json!("virtio"), &json!(true)));
    let tap = port["target"].as_str().expect("a tap").to_owned();
    assert_eq!(link(&world, &tap), "vguest0");
    let index = lab.exec(&["cat", &format!("/sys/class/net/{tap}/ifindex")]);
    let leases = client.get(format!("{path}/dhcp-leases")).await;
    let lease = &leases.data()["leases"][0];
    assert_eq!((&lease["vm"], &lease["address"]), (&json!("one"), &json!(address)));

    let dhcp = |ranges: Value, hosts: Value| json!({"ips": [{"address": "10.207.1.1/24", "dhcp": {"ranges": ranges, "hosts": hosts}}]});
    let both = json!([{"start": "10.207.1.100", "end": "10.207.1.150"}, {"start": "10.207.1.200", "end": "10.207.1.210"}]);
    let other = json!([{"mac": "52:54:00:20:70:02", "name": "two", "ip": "10.207.1.20"}]);
    for change in [
        dhcp(both.clone(), json!([])),
        dhcp(both.clone(), other.clone()),
        dhcp(json!([{"start": "10.207.1.200", "end": "10.207.1.210"}]), other.clone()),
        dhcp(both, json!([])),
        json!({"dns": {"hosts": [{"ip": "10.207.1.5", "hostnames": ["five"]}],
            "srv": [{"service": "a", "protocol": "udp", "target": "five", "port": 5}],
            "txt": [{"name": "t", "value": "v"}]}}),
        json!({"dns": {"hosts": [], "srv": [], "txt": []}}),
        json!({"portgroups": [{"name": "red", "default": true, "bandwidth": {"inbound": {"average": 1000}}}]}),
        json!({"portgroups": []}),
        json!({"autostart": false}),
        json!({"mtu": 1400, "domain": {"name": "later.example"}}),
    ] {
        let changed = client.put(&path, &change).await;
        assert_eq!(changed.status, 200, "{change}: {changed:?}");
        assert_eq!(link(&world, &tap), "vguest0", "{change}");
        let still = lab.exec(&["cat", &format!("/sys/class/net/{tap}/ifindex")]);
        assert_eq!(still, index, "the same device: {change}");
        if let Err(error) = ping() {
            panic!("the guest does not answer after {change}: {error}");
        }
    }
    let network = client.get(path.clone()).await.data().clone();
    assert_eq!((&network["autostart"], &network["mtu"]), (&json!(false), &Value::Null));
    assert_eq!(network["pending"]["changes"].as_array().map(Vec::len), Some(2), "{network:#}");
    let vm = client.vm("one").await;
    assert_eq!(vm["runtimeDetails"]["primary_address"], json!(address));

    // Nobody takes the wire from a running guest by accident.
    for (method, rest) in [("DELETE", ""), ("POST", "/stop")] {
        let refused = client.call(method, format!("{path}{rest}")).send().await;
        let refused = refused.refused(409, "NETWORK_IN_USE");
        assert_eq!(refused.details()["vms"], json!(["one"]));
    }
    let plan = client.delete(format!("{path}?dry_run=true&force=true")).await;
    let effects = plan.data()["side_effects"].to_string();
    assert!(effects.contains("takes the link from VM one"), "{effects}");
    assert_eq!(lab.names(&["net-list", "--name"]), ["das Kabel", "lab"]);
    ping().expect("the guest answers");
    let stopped = client.call("POST", format!("{path}/stop?force=true")).send().await;
    assert_eq!(stopped.data()["active"], false);
    assert!(ping().is_err());
    client.done("one", "force-stop").await;
    eventually("nothing is plugged in", SOON, async || {
        let reply = client.get(format!("{path}/ports")).await;
        (reply.data()["ports"] == json!([])).then_some(())
    })
    .await;
    assert_eq!(client.delete(path).await.status, 204);
    world.finish().await;
}
