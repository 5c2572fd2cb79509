//! Templates through HTTP, on libvirt's test driver: what they keep, what is made of them, what
//! protects their images, and what is refused.

#[path = "support/driver.rs"]
mod driver;

use driver::{POOLS, VMS, World, text};
use http::Method;
use serde_json::{Value, json};

fn templates() -> String {
    format!("{VMS}/templates")
}

async fn volumes(world: &World, pool: &str) -> Vec<String> {
    let reply = world.get(&format!("{POOLS}/{pool}/volumes")).await;
    reply.column("volumes", "name").iter().map(text).collect()
}

/// A stopped VM with a disk of 1 GiB in `images`, a CD and a NIC.
async fn source(world: &World) -> Value {
    let body = json!({"name": "src1", "memory": 64, "vcpus": 2, "description": "the source",
        "cpu": {"topology": {"sockets": 1, "cores": 2, "threads": 1},
            "pinning": [{"vcpu": 0, "cpus": "0"}]},
        "clock": {"offset": "localtime"}, "memory_options": {"ballooning": false},
        "devices": {"watchdog": {"model": "i6300esb", "action": "reset"}},
        "labels": {"tier": "web"}, "os": {"type": "linux", "variant": "debian11"},
        "networks": [{"source": "default", "mac": "52:54:00:00:aa:01"}],
        "storage": {"default_pool": "images", "disks": [
            {"action": "create", "size": 1, "serial": "SECRET-1"},
            {"action": "attach", "path": "/pool/default/cd.iso", "device": "cdrom"}]}});
    world.post(VMS, &body).await.expect(201)
}

async fn made(world: &World, vm: &str, body: &Value) -> Value {
    let path = format!("{VMS}/{vm}/template");
    world.send(Method::POST, &path, &[("prefer", "wait=30")], Some(body)).await.expect(201)
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_live_from_their_creation_to_their_deletion() {
    let world = World::new().await;
    let body = json!({"name": "small", "description": "small ones", "min_memory": 128,
        "min_vcpus": 1, "min_disk": 2,
        "settings": {"memory": 256, "vcpus": 1, "disk_size": 2, "pool": "images",
            "network": {"source": "lab"}, "labels": {"a": "1", "b": "2"}}});
    let reply = world.post(&templates(), &body).await;
    let template = reply.expect(201);
    let id = text(&template["id"]);
    assert_eq!(reply.header("location"), format!("{VMS}/templates/{id}"));
    assert_eq!((&template["name"], &template["min_disk"]), (&json!("small"), &json!(2)));
    assert_eq!(template["settings"]["network"], json!({"type": "network", "source": "lab"}));
    assert_eq!((&template["disks"], &template["problems"]), (&json!([]), &json!([])));
    for found in ["small", &id] {
        assert_eq!(world.get(&format!("{VMS}/templates/{found}")).await.expect(200), template);
    }
    assert_eq!(world.get(&templates()).await.column("templates", "name"), ["small"]);
    world.post(&templates(), &body).await.refused(409, "TEMPLATE_ALREADY_EXISTS");

    // A VM of it, with other words for some of it.
    let request = json!({"template": "small", "name": "vm1", "memory": 512, "labels": {"b": "3"},
        "network": {"source": "default"}});
    let vm = world.post(&format!("{VMS}/from-template"), &request).await.expect(201);
    assert_eq!((&vm["memory"], &vm["vcpus"]), (&json!(512), &json!(1)));
    assert_eq!(vm["labels"], json!({"a": "1", "b": "3"}));
    assert_eq!(vm["networks"][0]["source"]["name"], "default");
    assert_eq!(vm["disks"][0]["volume"], json!({"pool": "images", "volume": "vm1.qcow2"}));

    let changed = world
        .put(&format!("{VMS}/templates/small"), &json!({"name": "tiny", "min_memory": 256}))
        .await
        .expect(200);
    assert_eq!((&changed["name"], &changed["generation"]), (&json!("tiny"), &json!(2)));
    assert_eq!(changed["settings"], template["settings"]);
    world.get(&format!("{VMS}/templates/small")).await.refused(404, "TEMPLATE_NOT_FOUND");
    assert_eq!(world.delete(&format!("{VMS}/templates/tiny")).await.status, 204);
    assert_eq!(world.get(&templates()).await.expect(200)["total"], 0);
    assert_eq!(world.vm("vm1").await["name"], "vm1", "what was made of it stays");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_outlive_the_daemon() {
    let world = World::new().await;
    let body = json!({"name": "kept", "settings": {"memory": 64, "vcpus": 1}});
    let template = world.post(&templates(), &body).await.expect(201);
    let world = world.restarted("").await;
    assert_eq!(world.get(&format!("{VMS}/templates/kept")).await.expect(200), template);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_vm_becomes_a_template_by_copy() {
    let world = World::new().await;
    let vm = source(&world).await;
    let template = made(&world, "src1", &json!({"name": "copied", "min_disk": 1})).await; // The test driver copies within a pool only.
    let settings = &template["settings"];
    let words = settings.to_string();
    for identity in ["52:54:00:00:aa:01", "SECRET-1", &text(&vm["uuid"])] {
        assert!(!words.contains(identity), "{identity} in {words}");
    }
    assert_eq!((&settings["memory"], &settings["vcpus"]), (&json!(64), &json!(2)));
    assert_eq!(
        (&settings["os"]["type"], &settings["labels"]["tier"]),
        (&json!("linux"), &json!("web"))
    );
    assert_eq!(settings["cpu"]["topology"]["cores"], 2);
    assert_eq!(settings["cpu"]["pinning"], json!(null), "where it runs is its own");
    assert_eq!(settings["clock"]["offset"], "localtime");
    assert_eq!(settings["memory_options"]["ballooning"], false);
    assert_eq!(settings["devices"]["watchdog"]["model"], "i6300esb");
    assert_eq!(template["source_vm"], "src1");
    assert_eq!(template["description"], "the source");
    let disk = &template["disks"][0];
    assert_eq!(disk["volume"], "copied.qcow2");
    assert_eq!((&disk["pool"], &disk["capacity_bytes"]), (&json!("images"), &json!(1 << 30)));
    assert_eq!(world.vm("src1").await, vm, "the VM stays as it was");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_protected_and_vms_are_linked_to_them() {
    let world = World::new().await;
    source(&world).await;
    made(&world, "src1", &json!({"name": "golden"})).await;
    let image = format!("{POOLS}/images/volumes/golden.qcow2");
    assert_eq!(world.get(&image).await.expect(200)["template"], "golden");
    let error = world.delete(&image).await.refused(409, "VOLUME_IN_USE");
    assert!(text(&error["message"]).contains("golden"), "{error:#}");
    assert_eq!(error["details"]["template"], "golden");
    let resize = world.post(&format!("{image}/resize"), &json!({"size": 9})).await;
    resize.refused(409, "VOLUME_IN_USE");
    let attach = json!({"name": "thief", "memory": 64, "vcpus": 1, "storage": {"disks": [
        {"action": "attach", "pool": "images", "volume": "golden.qcow2"}]}});
    world.post(VMS, &attach).await.refused(409, "VOLUME_IN_USE");

    let from = format!("{VMS}/from-template");
    let linked = json!({"template": "golden", "name": "one", "disk_size": 3});
    let vm = world.post(&from, &linked).await.expect(201);
    assert_eq!(vm["disks"][0]["capacity_bytes"], 3_u64 << 30);
    let volume = world.get(&format!("{POOLS}/images/volumes/one.qcow2")).await.expect(200);
    assert_eq!(volume["backing_chain"][0]["volume"], "golden.qcow2", "{volume:#}");
    assert_eq!(vm["disks"][1]["volume"]["volume"], "cd.iso");
    assert_ne!(vm["networks"][0]["mac"], "52:54:00:00:aa:01");
    let full = json!({"template": "golden", "name": "two", "linked": false, "memory": 128});
    world.post(&from, &full).await.expect(201);
    let volume = world.get(&format!("{POOLS}/images/volumes/two.qcow2")).await.expect(200);
    assert_eq!(volume["backing_chain"], json!([]));
    let template = world.get(&format!("{VMS}/templates/golden")).await.expect(200);
    assert_eq!(template["linked_clones"], json!(["one"]));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_goes_when_nobody_reads_from_it() {
    let world = World::new().await;
    source(&world).await;
    made(&world, "src1", &json!({"name": "golden"})).await;
    let from = format!("{VMS}/from-template");
    world.post(&from, &json!({"template": "golden", "name": "one"})).await.expect(201);
    let path = format!("{VMS}/templates/golden?delete_volumes=true");
    let error = world.delete(&path).await.refused(409, "TEMPLATE_IN_USE");
    assert_eq!(error["details"]["vms"], json!(["one"]));
    assert_eq!(error["details"]["volumes"], json!(["images/one.qcow2"]));
    let plan = world.delete(&format!("{path}&dry_run=true")).await.expect(200);
    assert_eq!(plan["blockers"][0]["code"], "TEMPLATE_IN_USE");
    assert_eq!(world.delete(&format!("{VMS}/one?remove_disks=true")).await.status, 204);
    assert_eq!(world.delete(&path).await.status, 204);
    assert_eq!(volumes(&world, "images").await, ["src1.qcow2"]);
    world.delete(&path).await.refused(404, "TEMPLATE_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_is_converted_and_its_disks_stay_where_they_are() {
    let world = World::new().await;
    source(&world).await;
    let body = json!({"name": "golden", "convert": true});
    let path = format!("{VMS}/src1/template");
    let plan = world.post(&format!("{path}?dry_run=true"), &body).await.expect(200);
    assert!(plan["side_effects"].to_string().contains("removes VM"), "{plan:#}");
    let template = world.post(&path, &body).await.expect(201);
    assert_eq!(template["disks"][0]["volume"], "src1.qcow2");
    world.get(&format!("{VMS}/src1")).await.refused(404, "VM_NOT_FOUND");
    let from = format!("{VMS}/from-template");
    world
        .post(&from, &json!({"template": "golden", "name": "src1"}))
        .await
        .refused(409, "VOLUME_ALREADY_EXISTS");
    world.post(&from, &json!({"template": "golden", "name": "one"})).await.expect(201);
    assert_eq!(volumes(&world, "images").await, ["one.qcow2", "src1.qcow2"]);
    // Without its images a template is forgotten, and they are volumes like any others.
    assert_eq!(world.delete(&format!("{VMS}/one?remove_disks=true")).await.status, 204);
    assert_eq!(world.delete(&format!("{VMS}/templates/golden")).await.status, 204);
    assert_eq!(world.delete(&format!("{POOLS}/images/volumes/src1.qcow2")).await.status, 204);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_tells_what_it_misses() {
    let world = World::new().await;
    let body = json!({"name": "broken", "settings": {"memory": 64, "vcpus": 1,
        "os": {"machine": "no-such-machine", "direct_boot": {"kernel": {"pool": "default", "volume": "vmlinuz"}}},
        "networks": [{}, {"source": "gone"}, {"type": "user"}],
        "storage": {"disks": [{"action": "create", "size": 1, "pool": "nowhere"},
            {"action": "attach", "pool": "default", "volume": "no.iso", "device": "cdrom"}]}}});
    let template = world.post(&templates(), &body).await.expect(201);
    let fields: Vec<String> = template["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| text(&problem["field"]))
        .collect();
    for field in [
        "settings.networks[1].source",
        "settings.storage.disks[0].pool",
        "settings.storage.disks[1].volume",
        "settings.os.direct_boot.kernel",
    ] {
        assert!(fields.contains(&field.to_owned()), "{field}: {fields:?}");
    }
    let from = format!("{VMS}/from-template");
    let refused = world.post(&from, &json!({"template": "broken", "name": "x"})).await;
    assert!(matches!(refused.status, 404 | 422), "{refused}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_template_is_refused_and_leaves_nothing() {
    let world = World::new().await;
    source(&world).await;
    let plain = json!({"memory": 64, "vcpus": 1});
    let cases = [
        (json!({"name": "x"}), 400, "INVALID_REQUEST"),
        (json!({"name": "-x", "settings": plain}), 400, "INVALID_NAME"),
        (json!({"name": "x", "settings": {"memory": 1}}), 400, "INVALID_REQUEST"),
        (json!({"name": "x", "settings": {"name": "vm"}}), 400, "INVALID_REQUEST"),
        (json!({"name": "x", "settings": {"cloud_init": {}}}), 400, "INVALID_REQUEST"),
        (json!({"name": "x", "settings": {"disk_size": 1, "storage": {}}}), 422, "IMPOSSIBLE"),
        (json!({"name": "x", "settings": plain, "min_disk": 0}), 400, "INVALID_REQUEST"),
    ];
    for (body, status, code) in cases {
        world.post(&templates(), &body).await.refused(status, code);
    }
    let make = format!("{VMS}/src1/template");
    let both = json!({"name": "x", "convert": true, "pool": "images"});
    assert_eq!(
        world.post(&make, &both).await.refused(422, "IMPOSSIBLE")["details"]["fields"][0]["field"],
        "pool"
    );
    let running = world.post(&format!("{VMS}/web1/template"), &json!({"name": "x"})).await;
    running.refused(409, "VM_RUNNING");
    world
        .post(&format!("{VMS}/no-such/template"), &json!({"name": "x"}))
        .await
        .refused(404, "VM_NOT_FOUND");
    let least = json!({"name": "least", "min_memory": 128, "min_vcpus": 2, "min_disk": 4,
        "settings": {"memory": 64, "vcpus": 1, "disk_size": 1}});
    world.post(&templates(), &least).await.expect(201);
    let from = format!("{VMS}/from-template");
    for (over, field) in [
        (json!({}), "memory"),
        (json!({"memory": 128}), "vcpus"),
        (json!({"memory": 128, "vcpus": 2}), "disk_size"),
    ] {
        let mut body = json!({"template": "least", "name": "vm1"});
        body.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        let reply = world.post(&from, &body).await;
        reply.refused(422, "IMPOSSIBLE");
        assert_eq!(reply.fields(), [field], "{reply}");
    }
    world
        .post(&from, &json!({"template": "none", "name": "x"}))
        .await
        .refused(404, "TEMPLATE_NOT_FOUND");
    world.post(&from, &json!({"name": "x"})).await.refused(400, "INVALID_REQUEST");
    world.post(&from, &json!({"template": "least"})).await.refused(400, "INVALID_REQUEST");
    assert_eq!(volumes(&world, "images").await, ["src1.qcow2"]);
    assert_eq!(world.get(&templates()).await.expect(200)["total"], 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_tag_changes_neither_a_template_nor_a_volume() {
    let world = World::new().await;
    world
        .post(&templates(), &json!({"name": "small", "settings": {"memory": 64}}))
        .await
        .expect(201);
    let volumes = format!("{POOLS}/images/volumes");
    let body = json!({"name": "a.qcow2", "capacity_bytes": 1 << 20});
    world.post(&volumes, &body).await.expect(201);
    let (template, volume) = (format!("{}/small", templates()), format!("{volumes}/a.qcow2"));
    let change = json!({"description": "changed"});

    let tag = world.get(&template).await.header("etag");
    let known = [("if-none-match", tag.as_str())];
    assert_eq!(world.send(Method::GET, &template, &known, None).await.status, 304);
    let first = [("if-match", tag.as_str())];
    world.send(Method::PUT, &template, &first, Some(&change)).await.expect(200);
    let grow = json!({"capacity_bytes": 2 << 20});
    for (method, path, body) in [
        (Method::PUT, template.clone(), Some(&change)),
        (Method::DELETE, template.clone(), None),
        (Method::DELETE, volume.clone(), None),
        (Method::POST, format!("{volume}/resize"), Some(&grow)),
        (Method::POST, format!("{volume}/wipe"), Some(&json!({}))),
        (Method::DELETE, format!("{volume}?dry_run=true"), None),
    ] {
        let reply = world.send(method, &path, &first, body).await;
        reply.refused(412, "PRECONDITION_FAILED");
    }
    for path in [template, volume] {
        let tag = world.get(&path).await.header("etag");
        let present = [("if-match", tag.as_str())];
        assert_eq!(world.send(Method::DELETE, &path, &present, None).await.status, 204);
    }
    world.stop().await;
}
