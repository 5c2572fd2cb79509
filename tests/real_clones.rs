//! Clones and templates on a private libvirtd, with guests that write while they are copied.

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use support::{BOOT, Client, Lab, SOON, V, World, eventually, guest};

const VOLUMES: &str = "/api/v1/virtualization/storages/pools/lab/volumes";

/// A body of the tiny guest with two disks.
fn two_disks(name: &str) -> Value {
    let mut body = guest::body(name);
    body["storage"]["disks"] = json!([{"action": "create", "size": 1},
        {"action": "create", "size": 1, "format": "raw"}]);
    body
}

/// What a shell in the guest says to this.
async fn shell(lab: &Lab, vm: &str, script: &str) -> String {
    let ask = |request: Value| -> Value {
        let said = lab.virsh(&["qemu-agent-command", vm, &request.to_string()]);
        serde_json::from_str(&said).expect("JSON of the agent")
    };
    let begun = ask(json!({"execute": "guest-exec", "arguments": {
        "path": "/bin/sh", "arg": ["-c", script], "capture-output": true}}));
    let pid = begun["return"]["pid"].clone();
    eventually(&format!("{script:?} ends in {vm}"), BOOT, async || {
        let status = ask(json!({"execute": "guest-exec-status", "arguments": {"pid": pid}}));
        let status = &status["return"];
        (status["exited"] == true).then(|| {
            let out = status["out-data"].as_str().unwrap_or_default();
            let bytes = STANDARD.decode(out).expect("base64");
            String::from_utf8_lossy(&bytes).trim().to_owned()
        })
    })
    .await
}

/// Has the guest count up in the first block of both disks, the second one after the first, until
/// it stops.
async fn count(lab: &Lab, vm: &str) {
    let script = "n=0; while :; do n=$((n+1)); for d in vda vdb; do \
        printf '%-511s\\n' $n | dd of=/dev/$d bs=512 count=1 conv=notrunc,fsync 2>/dev/null; \
        done; done >/dev/null 2>&1 &";
    shell(lab, vm, script).await;
}

/// How far it has counted on this disk; 0 while it has not begun, and the block is empty.
async fn counted(lab: &Lab, vm: &str, disk: &str) -> u64 {
    let said = shell(lab, vm, &format!("dd if=/dev/{disk} bs=512 count=1 2>/dev/null")).await;
    if said.bytes().all(|byte| byte == 0) {
        return 0;
    }
    said.trim().parse().unwrap_or_else(|_| panic!("{disk} of {vm} holds {said:?}"))
}

async fn finished(client: &Client, path: String, body: &Value) -> Value {
    let reply = client.post(path, body).await;
    assert!(matches!(reply.status, 201 | 202), "{reply:?}");
    let id = reply.task().or_else(|| Some(reply.data()["task"]["id"].as_str()?.to_owned()));
    client.finished(&id.expect("a task"), Duration::from_secs(120)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_is_cloned_as_of_one_moment() {
    let Some(world) = World::start("clones-live").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let mut body = two_disks("src");
    body["start"] = true.into();
    assert_eq!(client.post(V, &body).await.status, 201);
    let source = world.booted("src").await;
    count(lab, "src").await;
    eventually("the guest has counted", BOOT, async || {
        (counted(lab, "src", "vdb").await > 3).then_some(())
    })
    .await;
    let task =
        finished(client, format!("{V}/src/clone"), &json!({"name": "live1", "start": true})).await;
    assert_eq!(task["status"], "succeeded", "{task:#}");
    assert_eq!(client.vm("src").await["state"], "running", "the source goes on");
    let copy = world.booted("live1").await;
    assert_ne!(copy["uuid"], source["uuid"]);
    assert_ne!(copy["networks"][0]["mac"], source["networks"][0]["mac"]);
    assert_ne!(
        copy["runtimeDetails"]["primary_address"],
        source["runtimeDetails"]["primary_address"]
    );
    // One moment: the second disk is never ahead of the first, nor more than one write behind.
    let (first, second) = (counted(lab, "live1", "vda").await, counted(lab, "live1", "vdb").await);
    assert!(first == second || first == second + 1, "{first} and {second}");
    assert!(counted(lab, "src", "vda").await > first, "the source has gone on");
    // Not linked: each goes with its own disks.
    for name in ["src", "live1"] {
        let gone = client.delete(format!("{V}/{name}?remove_disks=true&force=true")).await;
        assert_eq!(gone.status, 204, "{gone:?}");
    }
    assert_eq!(lab.volumes(), Vec::<String>::new());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_is_cancelled_leaves_nothing() {
    let Some(world) = World::start("clones-cancel").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let mut body = two_disks("src");
    body["start"] = true.into();
    assert_eq!(client.post(V, &body).await.status, 201);
    world.booted("src").await;
    shell(lab, "src", "dd if=/dev/urandom of=/dev/vda bs=1M count=300 conv=fsync 2>/dev/null")
        .await;
    let before = lab.volumes();
    let reply = client.post(format!("{V}/src/clone"), &json!({"name": "copy"})).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let id = reply.data()["task"]["id"].as_str().expect("a task").to_owned();
    client.post(format!("{V}/src/clone"), &json!({"name": "other"})).await.refused(409, "VM_BUSY");
    let asked = client.call("POST", format!("/api/v1/tasks/{id}/cancel")).send().await;
    let task = client.finished(&id, Duration::from_secs(60)).await;
    if asked.is_success() {
        assert_eq!(task["status"], "cancelled", "{task:#}");
        assert_eq!(lab.volumes(), before);
        client.get(format!("{V}/copy")).await.refused(404, "VM_NOT_FOUND");
    }
    assert_eq!(client.vm("src").await["state"], "running");
    // Free again.
    let task = finished(client, format!("{V}/src/clone"), &json!({"name": "again"})).await;
    assert_eq!(task["status"], "succeeded", "{task:#}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_copy_is_gone_on_with_after_kill_9() {
    let Some(mut world) = World::start("clones-kill9").await else { return };
    let mut body = two_disks("src");
    body["start"] = true.into();
    assert_eq!(world.client.post(V, &body).await.status, 201);
    world.booted("src").await;
    let fill = "dd if=/dev/urandom of=/dev/vda bs=1M count=128 conv=fsync 2>/dev/null; \
        dd if=/dev/vda bs=1M count=128 2>/dev/null | md5sum";
    let sum = shell(&world.lab, "src", fill).await;
    let reply = world.client.post(format!("{V}/src/clone"), &json!({"name": "copy"})).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let id = reply.data()["task"]["id"].as_str().expect("a task").to_owned();
    eventually("the copy has begun", SOON, async || {
        let task = world.client.task(&id).await;
        (task["progress"]["phase"] == "copying" || task["status"] != "running").then_some(())
    })
    .await;
    world.daemon.kill9();
    world.daemon.start_again().await;
    let task = world.client.finished(&id, Duration::from_secs(120)).await;
    let there = world.client.get(format!("{V}/copy")).await;
    match task["status"].as_str().expect("a status") {
        "succeeded" => {
            assert_eq!(there.status, 200);
            world.client.done("copy", "start").await;
            world.booted("copy").await;
            let read = "dd if=/dev/vda bs=1M count=128 2>/dev/null | md5sum";
            assert_eq!(shell(&world.lab, "copy", read).await, sum);
        }
        "interrupted" => {
            assert_eq!(there.status, 404, "{task:#}");
            let left: Vec<String> =
                world.lab.volumes().into_iter().filter(|name| name.starts_with("copy")).collect();
            assert!(left.is_empty(), "{left:?}: {task:#}");
        }
        other => panic!("{other}: {task:#}"),
    }
    // The guest writes: nobody left it frozen.
    shell(&world.lab, "src", "echo x | dd of=/dev/vdb conv=notrunc,fsync 2>/dev/null; echo ok")
        .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_and_linked_clones_hold_what_the_source_held() {
    let Some(world) = World::start("clones-stopped").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let mut body = two_disks("src");
    body["start"] = true.into();
    assert_eq!(client.post(V, &body).await.status, 201);
    world.booted("src").await;
    let write = |word: &str| {
        format!(
            "for d in vda vdb; do printf '%-511s\\n' {word} | dd of=/dev/$d conv=notrunc,fsync; done"
        )
    };
    let read = "for d in vda vdb; do dd if=/dev/$d bs=512 count=1 2>/dev/null; done";
    let words = |said: String| said.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    shell(lab, "src", &write("common")).await;
    client.done("src", "force-stop").await;
    let task = finished(client, format!("{V}/src/clone"), &json!({"name": "full"})).await;
    assert_eq!(task["status"], "succeeded", "{task:#}");
    let linked =
        client.post(format!("{V}/src/clone"), &json!({"name": "linked", "linked": true})).await;
    assert_eq!(linked.status, 201, "{linked:?}");
    for name in ["src", "full", "linked"] {
        client.done(name, "start").await;
        world.booted(name).await;
        assert_eq!(words(shell(lab, name, read).await), ["common", "common"], "{name}");
        shell(lab, name, &write(name)).await;
    }
    // What one writes is its own.
    for name in ["src", "full", "linked"] {
        assert_eq!(words(shell(lab, name, read).await), [name, name]);
    }
    // Nothing tells whose disk a base was: with its last VM it stays, and that is said.
    for (name, bases) in [("full", 0), ("linked", 0), ("src", 2)] {
        let path = format!("{V}/{name}?remove_disks=true&force=true");
        let plan = client.delete(format!("{path}&dry_run=true")).await;
        let planned = plan.data()["warnings"].as_array().map(Vec::len);
        assert_eq!(planned, Some(bases), "{name}: {plan:?}");
        let gone = client.delete(path).await;
        assert_eq!(gone.status, 204, "{gone:?}");
        let told = gone.header("warning").map(|text| text.contains("nothing uses it any more"));
        assert_eq!(told, (bases > 0).then_some(true), "{name}: {gone:?}");
    }
    let bases = lab.volumes();
    assert_eq!(bases.len(), 2, "{bases:?}");
    for base in bases {
        assert_eq!(client.delete(format!("{VOLUMES}/{base}")).await.status, 204, "{base}");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_of_a_template_boot_and_hold_it() {
    let Some(world) = World::start("templates").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    world.make("src", true).await;
    world.booted("src").await;
    let mark = "printf '%-511s\\n' golden | dd of=/dev/vda conv=notrunc,fsync; echo ok";
    shell(lab, "src", mark).await;
    client
        .post(format!("{V}/src/template"), &json!({"name": "t"}))
        .await
        .refused(409, "VM_RUNNING");
    client.done("src", "force-stop").await;
    let task = finished(client, format!("{V}/src/template"), &json!({"name": "t"})).await;
    assert_eq!(task["status"], "succeeded", "{task:#}");
    assert_eq!(task["result"]["problems"], json!([]));
    for name in ["one", "two"] {
        let body = json!({"template": "t", "name": name, "start": true});
        let reply = client.post(format!("{V}/from-template"), &body).await;
        assert_eq!(reply.status, 201, "{reply:?}");
    }
    let (one, two) = (world.booted("one").await, world.booted("two").await);
    assert_ne!(one["runtimeDetails"]["primary_address"], two["runtimeDetails"]["primary_address"]);
    for name in ["one", "two"] {
        let said = shell(lab, name, "dd if=/dev/vda bs=512 count=1 2>/dev/null").await;
        assert_eq!(said, "golden", "{name}");
    }
    let path = format!("{V}/templates/t?delete_volumes=true");
    let refused = client.delete(path.clone()).await.refused(409, "TEMPLATE_IN_USE");
    assert_eq!(refused.details()["vms"], json!(["one", "two"]));
    for name in ["one", "two"] {
        let gone = client.delete(format!("{V}/{name}?remove_disks=true&force=true")).await;
        assert_eq!(gone.status, 204, "{gone:?}");
    }
    assert_eq!(client.delete(path).await.status, 204);
    assert_eq!(lab.volumes(), ["src.qcow2"]);
    world.finish().await;
}
