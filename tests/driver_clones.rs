//! Clones of VMs through HTTP, on libvirt's test driver: what is made, what is refused, and that a
//! refusal leaves nothing behind.

#[path = "support/driver.rs"]
mod driver;

use driver::{NODE, POOLS, VMS, WEB2, World, text};
use http::Method;
use serde_json::{Value, json};

async fn volumes(world: &World, pool: &str) -> Vec<String> {
    let reply = world.get(&format!("{POOLS}/{pool}/volumes")).await;
    reply.column("volumes", "name").iter().map(text).collect()
}

/// A clone that is waited for.
async fn cloned(world: &World, source: &str, body: &Value) -> Value {
    let path = format!("{VMS}/{source}/clone");
    let reply = world.send(Method::POST, &path, &[("prefer", "wait=30")], Some(body)).await;
    let vm = reply.expect(201);
    assert_eq!(reply.header("location"), format!("{VMS}/{}", text(&vm["uuid"])));
    vm
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_vm_is_cloned_with_an_identity_of_its_own() {
    let world = World::new().await;
    let nic = json!({"name": "src1", "memory": 64, "vcpus": 2, "description": "the source",
        "labels": {"tier": "web"}, "networks": [{"source": "default", "mac": "52:54:00:00:aa:01"}],
        "storage": {"disks": [{"action": "create", "size": 1},
            {"action": "create", "size": 2, "format": "raw", "bus": "sata"},
            {"action": "attach", "path": "/pool/default/cd.iso", "device": "cdrom"},
            {"action": "attach", "volume": "shared.qcow2", "read_only": true}]}});
    let source = world.post(VMS, &nic).await.expect(201);
    let vm = cloned(
        &world,
        "src1",
        // The test driver copies within a pool only.
        &json!({"name": "copy1", "disks": {"sda": {"pool": "default", "name": "data of copy1"}}}),
    )
    .await;
    assert_ne!(vm["uuid"], source["uuid"]);
    assert_eq!((&vm["name"], &vm["state"]), (&json!("copy1"), &json!("shutoff")));
    assert_eq!(vm["description"], "the source");
    assert_eq!(
        (&vm["labels"], &vm["memory"], &vm["vcpus"]),
        (&source["labels"], &json!(64), &json!(2))
    );
    let disk = |target: &str| {
        let disks = vm["disks"].as_array().unwrap().iter();
        disks.clone().find(|disk| disk["target"] == target).unwrap_or_else(|| panic!("{vm:#}"))
    };
    let volume = |name: &str| json!({"pool": "default", "volume": name});
    assert_eq!(disk("vda")["volume"], volume("copy1.qcow2"));
    assert_eq!(disk("vdb")["volume"], volume("shared.qcow2"));
    assert_eq!(disk("sda")["volume"], volume("data of copy1"));
    assert_eq!(disk("sda")["capacity_bytes"], 2_u64 << 30);
    assert_eq!(disk("sdb")["volume"], volume("cd.iso"), "media are shared");
    assert_ne!(vm["networks"][0]["mac"], "52:54:00:00:aa:01");
    assert_eq!(world.vm("src1").await, source, "the source stays as it was");
    let task = &world.get("/api/v1/tasks?limit=1").await.data()["tasks"][0];
    assert_eq!((&task["kind"], &task["subject"]["name"]), (&json!("vm.clone"), &json!("copy1")));
    // Both go, each with its own disks.
    for name in ["src1", "copy1"] {
        assert_eq!(world.delete(&format!("{VMS}/{name}?remove_disks=true")).await.status, 204);
    }
    let left = volumes(&world, "default").await;
    assert!(!left.iter().any(|name| name.contains("copy1") || name.contains("src1")), "{left:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_source_may_stand_in_the_body() {
    let world = World::new().await;
    let body = json!({"source": WEB2, "name": "copy1", "labels": {"env": "test"},
        "description": "", "start": true, "autostart": true});
    let headers = [("prefer", "wait=30"), ("idempotency-key", "once")];
    for path in [VMS.to_owned(), VMS.replace("virtualmachines", "computes")] {
        let path = format!("{path}/clone");
        let vm = world.send(Method::POST, &path, &headers[..1], Some(&body)).await.expect(201);
        assert_eq!((&vm["state"], &vm["autostart"]), (&json!("running"), &json!(true)));
        assert_eq!(vm["labels"], json!({"env": "test"}));
        let gone = world.delete(&format!("{VMS}/copy1?remove_disks=true&force=true")).await;
        assert_eq!(gone.status, 204, "{gone}");
    }
    let path = format!("{VMS}/clone");
    let first = world.send(Method::POST, &path, &headers, Some(&body)).await.expect(201);
    let again = world.send(Method::POST, &path, &headers, Some(&body)).await.expect(201);
    assert_eq!(first, again);
    let absent = json!({"source": "no-such", "name": "copy2"});
    world.post(&path, &absent).await.refused(404, "VM_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_is_a_task_unless_it_is_waited_for() {
    let world = World::new().await;
    let reply = world.post(&format!("{VMS}/web2/clone"), &json!({"name": "copy1"})).await;
    let task = world.finished(&reply).await;
    assert_eq!((&task["status"], &task["result"]["name"]), (&json!("succeeded"), &json!("copy1")));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linked_clone_freezes_what_both_have_in_common() {
    let world = World::new().await;
    let plain = json!({"name": "copy1", "linked": true});
    let vm = world.post(&format!("{VMS}/web2/clone"), &plain).await.expect(201);
    assert_eq!(vm["disks"][0]["volume"]["volume"], "copy1.qcow2");
    let source = world.vm("web2").await;
    assert_eq!(source["disks"][0]["volume"]["volume"], "web2.1.qcow2");
    assert_eq!(source["labels"], json!({"env": "prod", "tier": "web"}));
    let base = world.get(&format!("{POOLS}/default/volumes/web2.qcow2")).await.expect(200);
    let based: Vec<&Value> =
        base["backing_of"].as_array().unwrap().iter().map(|one| &one["volume"]).collect();
    assert_eq!(based, ["copy1.qcow2", "web2.1.qcow2"]);
    world
        .delete(&format!("{POOLS}/default/volumes/web2.qcow2"))
        .await
        .refused(409, "VOLUME_IN_USE");
    // Once more, on top of what the source has now.
    let again = json!({"name": "copy2", "linked": true});
    world.post(&format!("{VMS}/web2/clone"), &again).await.expect(201);
    assert_eq!(world.vm("web2").await["disks"][0]["volume"]["volume"], "web2.2.qcow2");
    for name in ["copy1", "copy2", "web2"] {
        let gone = world.delete(&format!("{VMS}/{name}?remove_disks=true")).await;
        assert_eq!(gone.status, 204, "{gone}");
    }
    let left = volumes(&world, "default").await;
    assert_eq!(left, ["base.qcow2", "cd.iso", "shared.qcow2", "web2.1.qcow2", "web2.qcow2"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_a_clone_would_do_and_does_nothing() {
    let world = World::new().await;
    let before = volumes(&world, "default").await;
    let path = format!("{VMS}/web2/clone?dry_run=true");
    let plan = world.post(&path, &json!({"name": "copy1", "linked": true})).await.expect(200);
    assert_eq!(
        (&plan["operation"], &plan["subject"]["name"]),
        (&json!("vm.clone"), &json!("copy1"))
    );
    let effects = plan["side_effects"].to_string();
    assert!(effects.contains("freezes the volume default/web2.qcow2"), "{effects}");
    assert!(text(&plan["xml_diff"]).contains("+  <name>copy1</name>"), "{plan:#}");
    assert_eq!(plan["blockers"], json!([]));
    let plan = world.post(&path, &json!({"name": "web1"})).await.expect(200);
    assert_eq!(plan["blockers"][0]["code"], "VM_ALREADY_EXISTS");
    assert_eq!(volumes(&world, "default").await, before);
    assert_eq!(world.get(VMS).await.expect(200)["total"], 3);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_cloned_is_refused_and_leaves_nothing() {
    let node = NODE.replace(
        "<name>db1</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa2</uuid>",
        "<name>odd</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa4</uuid>
         <memory>65536</memory><os><type>hvm</type></os>
         <devices><disk type='file' device='disk'><source file='/elsewhere/x.img'/>
           <target dev='vda' bus='virtio'/></disk></devices>
         <test:runstate>5</test:runstate></domain>
         <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
         <name>db1</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa2</uuid>",
    );
    let world = World::on(&node).await;
    let before = (volumes(&world, "default").await, world.get(VMS).await.json());
    let cases = [
        ("web2", json!({"name": "web1"}), 409, "VM_ALREADY_EXISTS", ""),
        ("web2", json!({"name": "web2"}), 409, "VM_ALREADY_EXISTS", ""),
        ("web2", json!({"name": "-rf"}), 400, "INVALID_NAME", "name"),
        ("web2", json!({}), 400, "INVALID_REQUEST", "name"),
        ("web2", json!({"name": "x", "pool": "nowhere"}), 404, "POOL_NOT_FOUND", ""),
        ("web2", json!({"name": "x", "disks": {"vdb": {}}}), 404, "DISK_NOT_FOUND", ""),
        (
            "web2",
            json!({"name": "x", "disks": {"vda": {"name": "base.qcow2"}}}),
            409,
            "VOLUME_ALREADY_EXISTS",
            "disks.vda.name",
        ),
        (
            "web2",
            json!({"name": "x", "disks": {"vda": {"name": "a/b"}}}),
            400,
            "INVALID_NAME",
            "disks.vda.name",
        ),
        ("web2", json!({"name": "x", "color": 1}), 400, "INVALID_REQUEST", "color"),
        ("web1", json!({"name": "x", "linked": true}), 422, "IMPOSSIBLE", "linked"),
        ("odd", json!({"name": "x"}), 422, "IMPOSSIBLE", ""),
        ("no-such", json!({"name": "x"}), 404, "VM_NOT_FOUND", ""),
    ];
    for (source, body, status, code, field) in cases {
        let reply = world.post(&format!("{VMS}/{source}/clone"), &body).await;
        reply.refused(status, code);
        if !field.is_empty() {
            assert_eq!(reply.fields(), [field], "{reply}");
        }
    }
    let stale = world
        .send(
            Method::POST,
            &format!("{VMS}/web2/clone"),
            &[("if-match", "\"0-0\"")],
            Some(&json!({"name": "x"})),
        )
        .await;
    stale.refused(412, "PRECONDITION_FAILED");
    assert_eq!((volumes(&world, "default").await, world.get(VMS).await.json()), before);
    world.stop().await;
}
