//! Power: what stops, what does not want to, what is asked for twice.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{BOOT, SOON, V, World, eventually, guest};

/// A running VM that is deaf to ACPI and has no agent.
async fn deaf(world: &World, name: &str) {
    let mut body = guest::empty_body(name);
    body["start"] = json!(true);
    let reply = world.client.post(V, &body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
}

/// Asks for a stop and hands back its task, which only waits by then.
async fn waiting_stop(world: &World, name: &str, request: Value) -> String {
    let reply = world.client.act_with(name, request).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let id = reply.data()["task"]["id"].as_str().expect("a task").to_owned();
    eventually("the stop waits for the guest", SOON, async || {
        let task = world.client.task(&id).await;
        let phase = task["progress"]["phase"].as_str().unwrap_or_default().to_owned();
        phase.contains("waiting").then_some(())
    })
    .await;
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_ignores_the_button_runs_into_its_time_or_loses_its_power() {
    let Some(world) = World::start("deaf").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    deaf(&world, "stone").await;

    let request = json!({"action": "stop", "timeout": 2});
    let begun = Instant::now();
    let path = format!("{V}/stone/action");
    let reply = client.call("POST", &path).header("prefer", "wait=60").json(&request).send().await;
    let reply = reply.refused(504, "GUEST_TIMEOUT");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(30), "{took:?}");
    let task = client.task(&reply.task().expect("a task")).await;
    assert_eq!(task["status"], "failed", "{task}");
    assert_eq!(lab.virsh(&["domstate", "stone"]), "running", "without force the power stays");

    let request = json!({"action": "stop", "timeout": 2, "force": true});
    let reply = client.call("POST", &path).header("prefer", "wait=60").json(&request).send().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.data()["state"], "shutoff");
    assert_eq!(lab.virsh(&["domstate", "stone"]), "shut off");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_stop_gives_way_to_a_force_stop_and_can_be_cancelled() {
    let Some(world) = World::start("preempt").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    deaf(&world, "stone").await;

    let first = waiting_stop(&world, "stone", json!({"action": "stop", "timeout": 300})).await;
    // Everything but the power switch is told who holds the VM.
    for action in ["pause", "stop", "restart", "reset", "save"] {
        let busy = client.act("stone", action).await.refused(409, "VM_BUSY");
        assert_eq!(busy.details()["task"], json!(first), "{busy:?}");
        assert_eq!(busy.details()["operation"], "vm.stop");
    }
    let busy = client.delete(format!("{V}/stone?force=true")).await.refused(409, "VM_BUSY");
    assert_eq!(busy.details()["task"], json!(first));
    client.patch(format!("{V}/stone"), &json!({"vcpus": 1})).await.refused(409, "VM_BUSY");

    let stopped = client.done("stone", "force-stop").await;
    assert_eq!(stopped["state"], "shutoff");
    let task = client.finished(&first, SOON).await;
    assert_eq!(task["status"], "cancelled", "{task}");
    let message = task["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("force-stop"), "{task}");

    client.done("stone", "start").await;
    let second = waiting_stop(&world, "stone", json!({"action": "stop", "timeout": 300})).await;
    let cancelled = client.post(format!("/api/v1/tasks/{second}/cancel"), &json!({})).await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    assert_eq!(cancelled.data()["status"], "cancelled");
    assert_eq!(lab.virsh(&["domstate", "stone"]), "running");
    client
        .post(format!("/api/v1/tasks/{second}/cancel"), &json!({}))
        .await
        .refused(409, "TASK_FINISHED");
    client.done("stone", "pause").await;
    client.act("stone", "stop").await.refused(409, "VM_WRONG_STATE");
    // With force there is nothing to wait for: a halted guest hears nothing.
    let begun = Instant::now();
    let request = json!({"action": "stop", "timeout": 300, "force": true});
    let path = format!("{V}/stone/action");
    let reply = client.call("POST", &path).header("prefer", "wait=60").json(&request).send().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(lab.virsh(&["domstate", "stone"]), "shut off");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_paused_saved_restored_rebooted_reset_and_restarted() {
    let Some(world) = World::start("power").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    world.make("one", true).await;
    world.booted("one").await;

    let paused = client.done("one", "pause").await;
    assert_eq!(paused["state"], "paused");
    assert_eq!(lab.virsh(&["domstate", "one"]), "paused");
    client.act("one", "suspend").await.refused(409, "VM_ALREADY_PAUSED");
    client.act("one", "start").await.refused(409, "VM_WRONG_STATE");
    assert_eq!(client.done("one", "resume").await["state"], "running");
    client.act("one", "resume").await.refused(409, "VM_ALREADY_RUNNING");

    let qemu = lab.qemu("one");
    let saved = client.done("one", "save").await;
    assert_eq!((&saved["state"], &saved["has_saved_state"]), (&json!("shutoff"), &json!(true)));
    assert!(lab.virsh(&["dominfo", "one"]).contains("Managed save:   yes"));
    let restored = client.done("one", "restore-saved").await;
    let has_saved = &restored["has_saved_state"];
    assert_eq!((&restored["state"], has_saved), (&json!("running"), &json!(false)));
    client.act("one", "restore-saved").await.refused(409, "VM_ALREADY_RUNNING");
    assert_ne!(lab.qemu("one"), qemu);
    // The guest goes on where it was: its agent answers at once, without a boot.
    world.booted("one").await;

    let qemu = lab.qemu("one");
    let since = last_event(&world).await;
    assert_eq!(client.done("one", "reboot").await["state"], "running");
    let event = event_after(&world, since, "vm.rebooted").await;
    assert_eq!(event["subject"]["name"], "one");
    world.booted("one").await;
    let since = last_event(&world).await;
    assert_eq!(client.done("one", "reset").await["state"], "running");
    event_after(&world, since, "vm.rebooted").await;
    assert_eq!(lab.qemu("one"), qemu, "neither makes a new QEMU");
    eventually("the agent is back after the reset", BOOT, async || {
        lab.try_virsh(&["qemu-agent-command", "one", "{\"execute\":\"guest-ping\"}"]).ok()
    })
    .await;

    let reply = client.act_with("one", json!({"action": "restart", "timeout": 60})).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let task = client.finished(&reply.task().expect("a task"), BOOT).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    assert_eq!(task["result"]["state"], "running");
    assert_ne!(lab.qemu("one"), qemu, "a restart makes a new QEMU");
    client.done("one", "force-stop").await;
    client.act("one", "reboot").await.refused(409, "VM_NOT_RUNNING");
    client.act("one", "restore-saved").await.refused(409, "VM_HAS_NO_SAVED_STATE");
    world.finish().await;
}

async fn last_event(world: &World) -> u64 {
    let reply = world.client.get("/api/v1/events?limit=1").await;
    reply.data()["total"].as_u64().expect("a number")
}

async fn event_after(world: &World, since: u64, kind: &str) -> Value {
    let path = format!("/api/v1/events?since={since}&kind={kind}&wait=20");
    eventually(kind, SOON, async || {
        let reply = world.client.get(path.clone()).await;
        reply.data()["events"].as_array().and_then(|events| events.first().cloned())
    })
    .await
}
