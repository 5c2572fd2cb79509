//! Made, started, seen, stopped, deleted; refused where something would be lost.

use serde_json::json;

use crate::support::{BOOT, SOON, V, World, eventually, guest};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_is_made_started_seen_stopped_and_deleted() {
    let Some(world) = World::start("life").await else { return };
    let (client, lab) = (&world.client, &world.lab);

    let mut body = guest::body("one");
    body["description"] = json!("a <first> & \"quoted\" one");
    body["labels"] = json!({"tier": "test"});
    body["graphics"] = json!([{"type": "vnc"}]);
    let made = client.post(V, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let vm = made.data();
    let uuid = vm["uuid"].as_str().expect("a UUID").to_owned();
    assert_eq!(made.header("location"), Some(format!("{V}/{uuid}").as_str()));
    assert_eq!(vm["state"], "shutoff");
    assert_eq!(vm["description"], body["description"]);
    assert_eq!(vm["labels"]["tier"], "test");
    assert_eq!(vm["disks"][0]["volume"]["pool"], "lab");
    assert_eq!(vm["disks"][0]["capacity_bytes"], 1u64 << 30);
    assert_eq!(vm["runtimeDetails"], json!(null));
    assert_eq!(lab.volumes().len(), 1);
    assert_eq!(lab.virsh(&["domuuid", "one"]), uuid);

    // What a new VM is promised, as libvirt has it.
    let xml = lab.virsh(&["dumpxml", "one"]);
    for part in [
        "org.qemu.guest_agent.0",
        "<rng model='virtio'>",
        "machine='pc-q35",
        "<console type='pty'>",
        "listen='127.0.0.1'",
        "bus='virtio'",
        "<model type='virtio'/>",
    ] {
        assert!(xml.contains(part), "{part} is not in {xml}");
    }
    let ports = xml.matches("model='pcie-root-port'").count();
    assert!(ports >= 8, "{ports} root ports");
    assert!(!xml.contains("0.0.0.0"), "{xml}");

    let again = client.post(V, &body).await.refused(409, "VM_ALREADY_EXISTS");
    assert_eq!(again.details()["vm"], "one");
    assert_eq!(lab.volumes().len(), 1, "a refused creation leaves nothing");

    let started = client.done("one", "start").await;
    assert_eq!(started["state"], "running");
    assert_eq!(lab.virsh(&["domstate", "one"]), "running");
    let vm = world.booted("one").await;
    let details = &vm["runtimeDetails"];
    assert_eq!(details["guest_agent"], "connected");
    assert_eq!(details["hostname"], "one");
    assert_eq!(details["os_id"], "vapor-tiny");
    assert_eq!(details["os_name"], "Vapor tiny guest 1");
    let address = details["primary_address"].as_str().expect("an address");
    assert!(address.starts_with("192.168.123."), "{address}");
    let told = lab.virsh(&["domifaddr", "one", "--source", "agent"]);
    assert!(told.contains(address), "{address} is not in {told}");
    client.act("one", "start").await.refused(409, "VM_ALREADY_RUNNING");
    client.delete(format!("{V}/one")).await.refused(409, "VM_RUNNING");
    assert_eq!(lab.virsh(&["domstate", "one"]), "running");

    // A graceful stop takes as long as the guest does, so it answers at once.
    let stopping = client.act_with("one", json!({"action": "stop", "timeout": 60})).await;
    assert_eq!(stopping.status, 202, "{stopping:?}");
    let id = stopping.data()["task"]["id"].as_str().expect("a task").to_owned();
    assert_eq!(stopping.header("location"), Some(format!("/api/v1/tasks/{id}").as_str()));
    let task = client.finished(&id, BOOT).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    assert_eq!(task["result"]["state"], "shutoff");
    assert_eq!(lab.virsh(&["domstate", "one"]), "shut off");
    let vm = client.vm("one").await;
    assert_eq!((&vm["state"], &vm["runtimeDetails"]), (&json!("shutoff"), &json!(null)));
    client.act("one", "stop").await.refused(409, "VM_ALREADY_STOPPED");

    let gone = client.delete(format!("{V}/{uuid}?remove_disks=true")).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    client.get(format!("{V}/one")).await.refused(404, "VM_NOT_FOUND");
    assert!(lab.names(&["list", "--all", "--name"]).is_empty());
    assert!(lab.volumes().is_empty(), "{:?}", lab.volumes());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flat_body_makes_a_vm_whose_disk_outlives_it() {
    let Some(world) = World::start("flat").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let body = json!({
        "name": "flat", "memory": 64, "vcpus": 1, "disk_size": 2, "pool": "lab",
        "os_type": "linux", "network": {"type": "network", "source": "lab", "model": "e1000e"},
        "start": true,
    });
    let reply = client.post(V, &body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let vm = reply.data();
    assert_eq!(vm["state"], "running", "it was to be started");
    assert_eq!(vm["networks"][0]["model"], "e1000e");
    assert_eq!(vm["disks"][0]["capacity_bytes"], 2u64 << 30);
    let volumes = lab.volumes();
    assert_eq!(volumes.len(), 1);
    client.done("flat", "force-stop").await;
    assert_eq!(client.delete(format!("{V}/flat")).await.status, 204);
    assert_eq!(lab.volumes(), volumes, "a disk stays unless it is to go");

    // The same volume, attached to the next VM.
    let body = json!({
        "name": "next", "memory": 64, "vcpus": 1, "graphics": [{"type": "none"}],
        "storage": {"disks": [{"action": "attach", "path": lab.pool_file(&volumes[0])}]},
    });
    let reply = client.post(V, &body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.data()["disks"][0]["volume"], json!({"pool": "lab", "volume": volumes[0]}));
    let mut other = body.clone();
    other["name"] = json!("thief");
    let refused = client.post(V, &other).await.refused(409, "VOLUME_IN_USE");
    assert_eq!(refused.details()["vms"], json!(["next"]));
    other["storage"]["disks"][0]["path"] = json!("/etc/passwd");
    client.post(V, &other).await.refused(404, "VOLUME_NOT_FOUND");
    // A copy is nobody's.
    other["storage"] = json!({"disks": [{"action": "clone", "pool": "lab",
        "source": {"pool": "lab", "volume": volumes[0]}}]});
    let reply = client.call("POST", V).header("prefer", "wait=60").json(&other).send().await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(lab.volumes().len(), 2);
    for name in ["next", "thief"] {
        let reply = client.delete(format!("{V}/{name}?remove_disks=true")).await;
        assert_eq!(reply.status, 204, "{reply:?}");
    }
    assert!(lab.volumes().is_empty(), "{:?}", lab.volumes());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_whose_start_fails_leaves_nothing() {
    let Some(world) = World::start("undo").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let mut body = guest::body("huge");
    // More than QEMU can address, so that libvirt defines it and QEMU refuses to start.
    body["memory"] = json!(67_108_864);
    body["start"] = json!(true);
    let reply = client.post(V, &body).await.refused(422, "LIBVIRT_REFUSED");
    assert!(reply.details()["libvirt"]["text"].is_string(), "{reply:?}");
    let task = client.task(&reply.task().expect("a task")).await;
    assert_eq!((&task["kind"], &task["status"]), (&json!("vm.create"), &json!("failed")));
    client.get(format!("{V}/huge")).await.refused(404, "VM_NOT_FOUND");
    assert!(lab.names(&["list", "--all", "--name"]).is_empty());
    assert!(lab.volumes().is_empty(), "{:?}", lab.volumes());
    // The name and the volume are free again.
    body["memory"] = json!(64);
    body["start"] = json!(false);
    let reply = client.post(V, &body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deletion_would_lose_has_to_be_given_up_by_name() {
    let Some(world) = World::start("delete").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let mut body = guest::body("kept");
    body["memory"] = json!(128);
    body["start"] = json!(true);
    assert_eq!(client.post(V, &body).await.status, 201);

    // A snapshot that Vapor had no part in, made while the VM runs: even with force nothing may
    // happen to it by halves.
    lab.virsh(&["snapshot-create-as", "kept", "first"]);
    client.delete(format!("{V}/kept?force=true")).await.refused(409, "VM_HAS_SNAPSHOTS");
    assert_eq!(lab.virsh(&["domstate", "kept"]), "running", "a refusal changes nothing");
    let seen = client.vm("kept").await;
    assert_eq!((&seen["snapshot_count"], &seen["state"]), (&json!(1), &json!("running")));

    let saved = client.done("kept", "save").await;
    assert_eq!((&saved["state"], &saved["has_saved_state"]), (&json!("shutoff"), &json!(true)));
    client.delete(format!("{V}/kept")).await.refused(409, "VM_HAS_SNAPSHOTS");
    client
        .delete(format!("{V}/kept?remove_snapshots=true"))
        .await
        .refused(409, "VM_HAS_SAVED_STATE");
    client
        .delete(format!("{V}/kept?remove_saved_state=true"))
        .await
        .refused(409, "VM_HAS_SNAPSHOTS");
    assert_eq!(lab.names(&["snapshot-list", "kept", "--name"]), ["first"]);
    assert!(lab.virsh(&["dominfo", "kept"]).contains("Managed save:   yes"));
    assert_eq!(lab.volumes().len(), 1);

    let all = "remove_snapshots=true&remove_saved_state=true&remove_disks=true";
    let gone = client.delete(format!("{V}/kept?{all}")).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert!(lab.names(&["list", "--all", "--name"]).is_empty());
    assert!(lab.volumes().is_empty());

    // And a running one, with everything at once.
    body["name"] = json!("brief");
    assert_eq!(client.post(V, &body).await.status, 201);
    let gone = client.delete(format!("{V}/brief?force=true&remove_disks=true")).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert!(lab.names(&["list", "--all", "--name"]).is_empty());
    assert!(lab.volumes().is_empty());
    eventually("the pool is empty in the API, too", SOON, async || {
        let pool = client.get("/api/v1/virtualization/storages/pools/lab").await;
        (pool.data()["volume_count"] == 0).then_some(())
    })
    .await;
    world.finish().await;
}
