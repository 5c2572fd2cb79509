//! Subnets and bridges that belong to somebody else.

use serde_json::{Value, json};

use crate::support::{NETWORKS, World};

fn body(name: &str, address: &str) -> Value {
    json!({"name": name, "ips": [{"address": address}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn subnets_and_bridges_of_others_are_refused_by_name() {
    let Some(world) = World::on_one_host("netclash").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    lab.exec(&["ip", "link", "add", "vclash0", "type", "bridge"]);
    lab.exec(&["ip", "addr", "add", "10.205.7.1/24", "dev", "vclash0"]);
    lab.exec(&["ip", "-6", "addr", "add", "fd20:1:5::1/64", "dev", "vclash0", "nodad"]);
    lab.exec(&["ip", "link", "set", "vclash0", "up"]);
    lab.exec(&["ip", "route", "add", "10.206.0.0/24", "dev", "vclash0"]);

    // The lab's own network, which another tool made.
    let refused = client.post(NETWORKS, &body("a", "192.168.123.200/28")).await;
    let refused = refused.refused(409, "NETWORK_CONFLICT");
    assert_eq!(refused.details()["network"], "lab");
    assert_eq!(refused.details()["fields"][0]["field"], "ips[0].address");
    for address in ["10.205.7.129/25", "10.205.0.1/16", "fd20:1:5::9/80", "10.206.0.1/24"] {
        let refused = client.post(NETWORKS, &body("a", address)).await;
        let refused = refused.refused(409, "NETWORK_CONFLICT");
        assert_eq!(refused.details()["interface"], "vclash0", "{address}");
    }
    let plan = client.post(format!("{NETWORKS}?dry_run=true"), &body("a", "10.205.0.1/16")).await;
    assert_eq!(plan.data()["blockers"][0]["code"], "NETWORK_CONFLICT");
    for (bridge, mode, code) in [
        ("vclash0", "isolated", "NETWORK_CONFLICT"),
        ("labbr0", "open", "NETWORK_CONFLICT"),
        ("labbr0", "bridge", "NETWORK_CONFLICT"),
        ("vnowhere0", "bridge", "IMPOSSIBLE"),
        ("lo", "bridge", "IMPOSSIBLE"),
    ] {
        let body = json!({"name": "a", "bridge": bridge, "forward": {"mode": mode}});
        let refused = client.post(NETWORKS, &body).await;
        assert_eq!(refused.code(), code, "{bridge} {mode}: {refused:?}");
    }
    assert_eq!(lab.names(&["net-list", "--all", "--name"]), ["lab"]);

    // Two at once: one of them sees the other.
    let (one, other) = tokio::join!(
        client.call("POST", NETWORKS).json(&body("one", "10.205.9.1/24")).send(),
        client.call("POST", NETWORKS).json(&body("other", "10.205.9.129/25")).send(),
    );
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409], "{one:?} {other:?}");
    let there = if one.status == 201 { "one" } else { "other" };
    assert_eq!(lab.names(&["net-list", "--all", "--name"]), ["lab", there]);
    // A stopped network cannot be started over what has come meanwhile.
    client.post(format!("{NETWORKS}/{there}/stop"), &json!({})).await.data();
    lab.exec(&["ip", "addr", "add", "10.205.9.200/24", "dev", "vclash0"]);
    let refused = client.post(format!("{NETWORKS}/{there}/start"), &json!({})).await;
    assert_eq!(refused.refused(409, "NETWORK_CONFLICT").details()["interface"], "vclash0");
    world.finish().await;
}
