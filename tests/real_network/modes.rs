//! Every mode that can be had without special hardware, and one that cannot: nothing is left of it.

use serde_json::{Value, json};

use crate::support::{NETWORKS, World};

async fn make(world: &World, body: Value) -> Value {
    let made = world.client.post(NETWORKS, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.data().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_of_every_mode_start_and_go() {
    let Some(world) = World::on_one_host("netmodes").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    lab.exec(&["ip", "link", "add", "vmodbr", "type", "bridge"]);
    lab.exec(&["ip", "link", "add", "vmoddev", "type", "veth", "peer", "name", "vmoddevp"]);
    lab.exec(&["ip", "link", "set", "vmoddev", "up"]);
    let ip = |third: u8| json!([{"address": format!("10.203.{third}.1/24")}]);
    let bodies = [
        json!({"name": "isolated", "forward": {"mode": "isolated"}, "ips": ip(1), "port_isolation": true}),
        json!({"name": "nothing", "forward": {"mode": "isolated"}}),
        json!({"name": "open", "forward": {"mode": "open"}, "ips": ip(2)}),
        json!({"name": "route", "forward": {"mode": "route", "devices": ["vmoddev"]}, "ips": ip(3)}),
        json!({"name": "six", "ips": [{"address": "fd20:1:3::1/64"}], "forward": {"mode": "nat", "nat": {"ipv6": true}}}),
        json!({"name": "bridge", "forward": {"mode": "bridge"}, "bridge": "vmodbr"}),
        json!({"name": "macvtap", "forward": {"mode": "bridge", "devices": ["vmoddev"]}}),
        json!({"name": "private", "forward": {"mode": "private", "devices": ["vmoddev"]}}),
        json!({"name": "vepa", "forward": {"mode": "vepa", "devices": ["vmoddev"]}}),
        json!({"name": "passthrough", "forward": {"mode": "passthrough", "devices": ["vmoddev"]}}),
        json!({"name": "пример", "autostart": false, "start": false, "ips": ip(4)}),
    ];
    for body in &bodies {
        let network = make(&world, body.clone()).await;
        let name = body["name"].as_str().expect("a name");
        let starts = body["start"] != false;
        assert_eq!((&network["active"], &network["autostart"]), (&json!(starts), &json!(starts)));
        let wanted = body["forward"]["mode"].as_str().unwrap_or("nat");
        assert_eq!(network["forward"]["mode"], wanted, "{network:#}");
        assert_eq!(network["pending"], Value::Null, "{network:#}");
        assert!(
            lab.virsh(&["net-info", name])
                .contains(&format!("Active:         {}", if starts { "yes" } else { "no" }))
        );
    }
    let mut names: Vec<String> =
        bodies.iter().filter_map(|body| body["name"].as_str()).map(str::to_owned).collect();
    names.push("lab".to_owned());
    names.sort();
    assert_eq!(lab.names(&["net-list", "--all", "--name"]), names);

    // The devices of a macvtap network are changed while it runs.
    lab.exec(&["ip", "link", "add", "vmoddev2", "type", "veth", "peer", "name", "vmoddev2p"]);
    let devices = json!({"forward": {"mode": "bridge", "devices": ["vmoddev", "vmoddev2"]}});
    let changed = client.put(format!("{NETWORKS}/macvtap"), &devices).await;
    let changed = changed.data();
    assert_eq!(changed["forward"]["devices"], devices["forward"]["devices"]);
    assert_eq!(changed["pending"], Value::Null, "{changed:#}");
    // A mode is changed with the next start.
    let reply = client.put(format!("{NETWORKS}/open"), &json!({"forward": {"mode": "nat"}})).await;
    assert_eq!(reply.data()["pending"]["changes"][0]["field"], "forward.mode");
    assert_eq!(reply.data()["forward"]["mode"], "open");

    for name in names.iter().filter(|name| *name != "lab") {
        let path =
            format!("{NETWORKS}/{}", name.bytes().map(|b| format!("%{b:02X}")).collect::<String>());
        assert_eq!(client.delete(path).await.status, 204, "{name}");
    }
    assert_eq!(lab.names(&["net-list", "--all", "--name"]), ["lab"]);
    // The bridge was somebody else's, and is still there.
    lab.exec(&["ip", "link", "show", "vmodbr"]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_cannot_start_is_not_left_behind() {
    let Some(world) = World::on_one_host("netundo").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    // A pool of a device that has no virtual functions.
    lab.exec(&["ip", "link", "add", "vundodev", "type", "veth", "peer", "name", "vundodevp"]);
    let body =
        json!({"name": "pool", "forward": {"mode": "hostdev", "physical_function": "vundodev"}});
    let refused = client.post(NETWORKS, &body).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(refused.details()["libvirt"]["text"].is_string(), "{refused:?}");
    client.get(format!("{NETWORKS}/pool")).await.refused(404, "NETWORK_NOT_FOUND");
    assert_eq!(lab.names(&["net-list", "--all", "--name"]), ["lab"]);
    // One that was active keeps running if its update is refused, and its definition stays.
    let body = json!({"name": "kept", "ips": [{"address": "10.204.1.1/24"}], "bridge": "vundo0"});
    make(&world, body).await;
    let before = lab.virsh(&["net-dumpxml", "kept", "--inactive"]);
    let change = json!({"bridge": "labbr0", "mtu": 1400});
    client.put(format!("{NETWORKS}/kept"), &change).await.refused(409, "NETWORK_CONFLICT");
    let change = json!({"forward": {"mode": "bridge"}});
    client.put(format!("{NETWORKS}/kept"), &change).await.refused(422, "IMPOSSIBLE");
    assert_eq!(lab.virsh(&["net-dumpxml", "kept", "--inactive"]), before);
    world.finish().await;
}
