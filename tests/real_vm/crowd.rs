//! Many creations at the same time, on a libvirt that keeps what it is told.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Reply, V, World};

async fn all_at_once(world: &World, bodies: &[Value]) -> Vec<Reply> {
    let calls = bodies
        .iter()
        .map(|body| world.client.call("POST", V).header("prefer", "wait=120").json(body).send());
    join_all(calls).await
}

fn body(name: &str) -> Value {
    json!({"name": name, "memory": 64, "vcpus": 1, "disk_size": 1, "pool": "lab",
        "network": {"source": "lab"}, "graphics": [{"type": "none"}]})
}

/// The replies of which exactly one may have made something; its name.
fn only_winner(replies: &[Reply], codes: &[&str]) -> String {
    let (won, lost): (Vec<&Reply>, Vec<&Reply>) =
        replies.iter().partition(|reply| reply.status == 201);
    assert_eq!(won.len(), 1, "{replies:?}");
    for reply in lost {
        assert_eq!(reply.status, 409, "{reply:?}");
        assert!(codes.contains(&reply.code()), "{reply:?}");
    }
    won[0].data()["name"].as_str().expect("a name").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_creations_at_once_all_come_about_and_who_asks_for_the_same_does_not() {
    let Some(world) = World::start("crowd").await else { return };
    let lab = &world.lab;
    let names: BTreeSet<String> = (0..50).map(|n| format!("many{n}")).collect();
    let bodies: Vec<Value> = names.iter().map(|name| body(name)).collect();
    let mut macs = BTreeSet::new();
    for reply in all_at_once(&world, &bodies).await {
        assert_eq!(reply.status, 201, "{reply:?}");
        let mac = reply.data()["networks"][0]["mac"].as_str().expect("a MAC").to_owned();
        assert!(macs.insert(mac), "{reply:?}");
    }
    let defined = || lab.names(&["list", "--all", "--name"]).into_iter().collect::<BTreeSet<_>>();
    let disks = |names: &BTreeSet<String>| -> Vec<String> {
        names.iter().map(|name| format!("{name}.qcow2")).collect()
    };
    assert_eq!(defined(), names);
    assert_eq!(lab.volumes(), disks(&names), "each has its disk, and there is no other");

    // One name, and with it one disk, for many.
    let same: Vec<Value> = (0..10).map(|_| body("one")).collect();
    let replies = all_at_once(&world, &same).await;
    let codes = ["VM_ALREADY_EXISTS", "VM_BUSY", "VOLUME_BUSY", "VOLUME_ALREADY_EXISTS"];
    let mut names = names;
    names.insert(only_winner(&replies, &codes));

    // One MAC address for many, which libvirt itself would give to all of them.
    let same: Vec<Value> = (0..10)
        .map(|n| {
            let mut body = body(&format!("mac{n}"));
            body.as_object_mut().expect("an object").remove("network");
            body["networks"] = json!([{"source": "lab", "mac": "52:54:00:0a:0b:0c"}]);
            body
        })
        .collect();
    let replies = all_at_once(&world, &same).await;
    names.insert(only_winner(&replies, &["MAC_IN_USE", "VM_BUSY"]));

    assert_eq!(defined(), names);
    assert_eq!(
        lab.volumes().into_iter().collect::<BTreeSet<_>>(),
        disks(&names).into_iter().collect()
    );
    world.finish().await;
}
