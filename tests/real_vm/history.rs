//! The history of definitions on a real libvirtd: what `virsh` does is a version like Vapor's own, and
//! every one of them is gone back to.

use serde_json::{Value, json};

use crate::support::{Client, SOON, Settings, V, World, eventually, guest};

async fn versions(client: &Client, vm: &str) -> Vec<Value> {
    let reply = client.get(format!("{V}/{vm}/definitions")).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.data()["definitions"].as_array().expect("versions").clone()
}

fn operations(versions: &[Value]) -> Vec<&str> {
    versions.iter().map(|one| one["operation"].as_str().unwrap_or("outside")).collect()
}

/// Waits until there are so many versions, and looks that it stays so after another reconcile.
async fn counted(client: &Client, vm: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{vm} has {count} versions"), SOON, async || {
        let all = versions(client, vm).await;
        assert!(all.len() <= count, "{all:#?}");
        (all.len() == count).then_some(all)
    })
    .await
}

async fn rollback(client: &Client, vm: &str, number: u64, query: &str) -> crate::support::Reply {
    let path = format!("{V}/{vm}/definitions/{number}/rollback{query}");
    client.call("POST", path).send().await
}

fn said(xml: &str) -> String {
    xml.split_whitespace().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_virsh_changes_is_a_version_and_every_version_is_gone_back_to() {
    let adjust = |settings: &mut Settings| settings.reconcile_seconds = 1;
    let Some(mut world) = World::with("history", adjust).await else { return };
    let client = world.client.clone();
    world.make("one", false).await;
    let made = counted(&client, "one", 1).await;
    assert_eq!(operations(&made), ["vm.create"]);
    let first = world.lab.virsh(&["dumpxml", "one", "--inactive"]);

    // A change without an event, one with an event, and one of the whole definition.
    world.lab.virsh(&["setmem", "one", "192M", "--config"]);
    counted(&client, "one", 2).await;
    world.lab.virsh(&["desc", "one", "--config", "--new-desc", "by virsh"]);
    counted(&client, "one", 3).await;
    let edited = world.lab.virsh(&["dumpxml", "one", "--inactive"]);
    world.lab.define(&edited.replace("by virsh", "by virsh again"));
    let all = counted(&client, "one", 4).await;
    assert_eq!(operations(&all), ["outside", "outside", "outside", "vm.create"]);
    assert!(all[..3].iter().all(|one| one["by"].is_null() && one["task"].is_null()), "{all:#?}");
    let diff = client.get(format!("{V}/one/definitions/3/diff?to=4")).await;
    let lines = diff.data()["diff"].as_str().expect("a diff").to_owned();
    assert!(lines.contains("-  <description>by virsh</description>"), "{lines}");

    // Started, paused, gone on and stopped, it is the same.
    for action in ["start", "pause", "resume", "force-stop", "start"] {
        client.done("one", action).await;
    }
    let reply = client.patch(format!("{V}/one"), &json!({"labels": {"a": "b"}})).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let all = counted(&client, "one", 5).await;
    assert_eq!(operations(&all)[0], "vm.update");

    // Gone back to while it runs: with the next boot.
    let plan = rollback(&client, "one", 1, "?dry_run=true").await.data().clone();
    assert_eq!(plan["blockers"], json!([]), "{plan:#}");
    assert!(plan["xml_diff"].as_str().is_some_and(|diff| diff.contains("by virsh again")));
    let reply = rollback(&client, "one", 1, "").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let vm = reply.data();
    assert_eq!(vm["state"], "running");
    let pending = vm["pending"].to_string();
    assert!(pending.contains("description"), "{vm:#}");
    assert_eq!(said(&world.lab.virsh(&["dumpxml", "one", "--inactive"])), said(&first));
    assert!(world.lab.virsh(&["dumpxml", "one"]).contains("by virsh again"));
    let all = counted(&client, "one", 6).await;
    assert_eq!(operations(&all)[0], "vm.rollback");
    client.done("one", "force-stop").await;
    client.done("one", "start").await;
    let vm = client.vm("one").await;
    assert_eq!((&vm["pending"], &vm["labels"]), (&Value::Null, &json!({})), "{vm:#}");
    client.done("one", "force-stop").await;
    let reply = rollback(&client, "one", 4, "").await;
    assert_eq!(reply.data()["description"], "by virsh again", "{reply:?}");
    assert_eq!(
        said(&world.lab.virsh(&["dumpxml", "one", "--inactive"])),
        said(&edited.replace("by virsh", "by virsh again"))
    );
    let all = counted(&client, "one", 7).await;

    // Neither a restart of vapord nor one of libvirtd is a change; what happened meanwhile is.
    world.daemon.finish().await;
    world.daemon.start_again().await;
    let client = world.daemon.client();
    assert_eq!(versions(&client, "one").await, all);
    world.lab.kill_libvirtd();
    world.lab.start_libvirtd();
    eventually("libvirt is back", SOON, async || {
        client.vm("one").await["stale"].is_null().then_some(())
    })
    .await;
    assert_eq!(versions(&client, "one").await, all);
    world.daemon.finish().await;
    world.lab.virsh(&["desc", "one", "--config", "--new-desc", "while it was down"]);
    world.daemon.start_again().await;
    let client = world.daemon.client();
    let all = counted(&client, "one", 8).await;
    assert_eq!(operations(&all)[0], "outside");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_by_other_hands_is_gone_back_to_and_starts() {
    let adjust = |settings: &mut Settings| settings.reconcile_seconds = 1;
    let Some(world) = World::with("history-foreign", adjust).await else { return };
    let (client, lab) = (&world.client, &world.lab);
    lab.define(&guest::foreign_xml(lab, "hand"));
    eventually("the VM is listed", SOON, async || {
        (client.get(format!("{V}/hand")).await.status == 200).then_some(())
    })
    .await;
    let before = lab.virsh(&["dumpxml", "hand", "--inactive"]);
    let change = json!({"memory": 192, "vcpus": 2, "description": "new", "labels": {"k": "v"}});
    let reply = client.patch(format!("{V}/hand"), &change).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    lab.virsh(&["vol-create-as", "lab", "extra.raw", "16M"]);
    lab.virsh(&["pool-refresh", "lab"]);
    let file = lab.pool_file("extra.raw");
    lab.virsh(&["attach-disk", "hand", &file, "vdb", "--targetbus", "virtio", "--config"]);
    let all = counted(client, "hand", 3).await;
    assert_eq!(operations(&all), ["outside", "vm.update", "outside"]);
    let plan = rollback(client, "hand", 1, "?dry_run=true").await.data().clone();
    assert_eq!(plan["side_effects"], json!(["detach vdb; lab/extra.raw stays as it is"]));
    let reply = rollback(client, "hand", 1, "").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(said(&lab.virsh(&["dumpxml", "hand", "--inactive"])), said(&before));
    client.done("hand", "start").await;

    // The disk is gone: there is no way back to the time when it was there.
    lab.virsh(&["vol-delete", "extra.raw", "--pool", "lab"]);
    lab.virsh(&["pool-refresh", "lab"]);
    eventually("the way back is refused", SOON, async || {
        let reply = rollback(client, "hand", 3, "?dry_run=true").await;
        (reply.data()["blockers"][0]["code"] == "IMPOSSIBLE").then_some(())
    })
    .await;
    let reply = rollback(client, "hand", 3, "").await.refused(422, "IMPOSSIBLE");
    assert_eq!(reply.details()["gone"], json!(["the volume lab/extra.raw"]));

    // Undefined while it runs, it is transient: what is known of it stays until it stops.
    lab.virsh(&["undefine", "hand"]);
    eventually("it is transient", SOON, async || {
        (client.vm("hand").await["persistent"] == false).then_some(())
    })
    .await;
    assert_eq!(versions(client, "hand").await.len(), 4);
    rollback(client, "hand", 2, "").await.refused(422, "IMPOSSIBLE");
    lab.virsh(&["destroy", "hand"]);
    eventually("it is gone", SOON, async || {
        (client.get(format!("{V}/hand/definitions")).await.status == 404).then_some(())
    })
    .await;
    lab.define(&guest::foreign_xml(lab, "hand"));
    eventually("another of its name begins anew", SOON, async || {
        let reply = client.get(format!("{V}/hand/definitions")).await;
        (reply.status == 200 && reply.data()["total"] == 1).then_some(())
    })
    .await;
    world.finish().await;
}
