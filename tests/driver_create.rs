//! Creating and deleting VMs through HTTP, on libvirt's test driver: what is made, what is refused
//! with which code and field, and that a refusal leaves nothing behind.

#[path = "support/driver.rs"]
mod driver;

use driver::{POOLS, VMS, WEB2, World, text};
use http::Method;
use serde_json::{Value, json};

/// A body that is accepted, with these members over it.
fn body(over: Value) -> Value {
    let mut body = json!({"name": "new1", "memory": 256, "vcpus": 1});
    for (key, value) in over.as_object().expect("an object") {
        body[key] = value.clone();
    }
    body
}

fn with_disk(disk: Value) -> Value {
    body(json!({"storage": {"disks": [disk]}}))
}

fn with_nic(nic: Value) -> Value {
    body(json!({"networks": [nic]}))
}

async fn volumes(world: &World, pool: &str) -> Vec<String> {
    let reply = world.get(&format!("{POOLS}/{pool}/volumes")).await;
    reply.column("volumes", "name").iter().map(text).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flat_body_makes_a_vm_with_one_disk_and_one_nic() {
    let world = World::new().await;
    let request = json!({"name": "new1", "memory": 256, "max_memory": 512, "vcpus": 1, "max_vcpus": 4,
        "disk_size": 2, "pool": "images", "os_type": "linux", "description": "<b>&amp;\"'",
        "network": {"type": "network", "source": "lab", "model": "e1000e"},
        "labels": {"tier": "web"}});
    let reply = world.post(VMS, &request).await;
    let vm = reply.expect(201);
    assert_eq!(reply.header("location"), format!("{VMS}/{}", text(&vm["uuid"])));
    assert_eq!((&vm["name"], &vm["state"]), (&json!("new1"), &json!("shutoff")));
    assert_eq!((&vm["memory"], &vm["max_memory"]), (&json!(256), &json!(512)));
    assert_eq!((&vm["vcpus"], &vm["max_vcpus"]), (&json!(1), &json!(4)));
    assert_eq!(vm["description"], "<b>&amp;\"'");
    assert_eq!(vm["labels"], json!({"tier": "web"}));
    assert_eq!(vm["persistent"], true);
    assert!(text(&vm["owner"]).starts_with("unix:"), "{vm:#}");
    let disk = &vm["disks"][0];
    assert_eq!(disk["volume"], json!({"pool": "images", "volume": "new1.qcow2"}));
    assert_eq!((&disk["capacity_bytes"], &disk["target"]), (&json!(2_u64 << 30), &json!("vda")));
    let nic = &vm["networks"][0];
    assert_eq!((&nic["source"]["name"], &nic["model"]), (&json!("lab"), &json!("e1000e")));
    assert_eq!(volumes(&world, "images").await, ["new1.qcow2"]);
    assert_eq!(world.vm("new1").await, vm, "the reply is what a read shows");
    let volume = world.get(&format!("{POOLS}/images/volumes/new1.qcow2")).await.expect(200);
    assert_eq!(volume["used_by"], json!(["new1"]));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_full_body_makes_attaches_and_clones_disks_and_starts() {
    let world = World::new().await;
    let request = json!({"name": "new1", "memory": 256, "vcpus": 2, "start": true, "autostart": true,
        "os": {"type": "linux", "variant": "debian11"},
        "storage": {"default_pool": "images", "disks": [
            {"action": "create", "size": 1},
            {"action": "create", "size": 3, "format": "raw", "volume": "data.img", "pool": "default",
             "bus": "sata", "serial": "DATA-1"},
            {"action": "clone", "source": {"pool": "default", "volume": "base.qcow2"}, "size": 4,
             "pool": "default"},
            {"action": "attach", "path": "/pool/default/cd.iso", "device": "cdrom"},
            {"action": "create", "device": "cdrom"}]},
        "networks": [{}, {"type": "user"}, {"source": "lab", "mac": "52:54:00:AA:bb:01",
            "link_up": false}]});
    for path in [VMS.to_owned(), format!("{VMS}/create-enhanced")] {
        let vm = world.post(&path, &request).await.expect(201);
        assert_eq!((&vm["state"], &vm["autostart"]), (&json!("running"), &json!(true)));
        let variant = text(&vm["os"]["variant"]);
        assert!(
            ["debian11", "http://debian.org/debian/11"].contains(&variant.as_str()),
            "{variant}"
        );
        let disks = vm["disks"].as_array().expect("disks");
        let volumes_of: Vec<String> = disks
            .iter()
            .map(|disk| match disk["volume"].as_object() {
                Some(volume) => format!("{}/{}", text(&volume["pool"]), text(&volume["volume"])),
                None => "empty".to_owned(),
            })
            .collect();
        let mut found = volumes_of.clone();
        found.sort();
        let wanted = [
            "default/cd.iso",
            "default/data.img",
            "default/new1-2.qcow2",
            "empty",
            "images/new1.qcow2",
        ];
        assert_eq!(found, wanted);
        let data = disks.iter().find(|disk| disk["serial"] == "DATA-1").expect("the data disk");
        assert_eq!((&data["bus"], &data["format"]), (&json!("sata"), &json!("raw")));
        assert_eq!(vm["networks"].as_array().map(Vec::len), Some(3));
        let lab = vm["networks"]
            .as_array()
            .expect("NICs")
            .iter()
            .find(|nic| nic["mac"] == "52:54:00:aa:bb:01");
        assert_eq!(lab.map(|nic| &nic["link_up"]), Some(&json!(false)), "{vm:#}");
        assert_eq!(volumes(&world, "images").await, ["new1.qcow2"]);
        let gone = world.delete(&format!("{VMS}/new1?force=true&remove_disks=true")).await;
        gone.expect(204);
        assert_eq!(volumes(&world, "images").await, Vec::<String>::new());
        assert_eq!(
            volumes(&world, "default").await,
            ["base.qcow2", "cd.iso", "shared.qcow2", "web2.qcow2"]
        );
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_a_creation_has_its_code_and_field_and_leaves_nothing() {
    let world = World::new().await;
    let disk = |over: Value| {
        let mut disk = json!({"action": "create", "size": 1});
        for (key, value) in over.as_object().expect("an object") {
            disk[key] = value.clone();
        }
        with_disk(disk)
    };
    let long = "x".repeat(8193);
    let cases: Vec<(Value, u16, &str, &[&str])> = vec![
        // Malformed: every wrong field at once.
        (json!({}), 400, "INVALID_REQUEST", &["name", "memory", "vcpus"]),
        (json!([]), 400, "INVALID_REQUEST", &["body"]),
        (body(json!({"memory": 15})), 400, "INVALID_REQUEST", &["memory"]),
        (body(json!({"memory": -1})), 400, "INVALID_REQUEST", &["memory"]),
        (body(json!({"memory": 67_108_865_u64})), 400, "INVALID_REQUEST", &["memory"]),
        (body(json!({"memory": 1e30})), 400, "INVALID_REQUEST", &["memory"]),
        (body(json!({"memory": "256"})), 400, "INVALID_REQUEST", &["memory"]),
        (body(json!({"max_memory": 1})), 400, "INVALID_REQUEST", &["max_memory"]),
        (body(json!({"vcpus": 0})), 400, "INVALID_REQUEST", &["vcpus"]),
        (body(json!({"vcpus": 1.5})), 400, "INVALID_REQUEST", &["vcpus"]),
        (body(json!({"max_vcpus": 1025})), 400, "INVALID_REQUEST", &["max_vcpus"]),
        (body(json!({"disk_size": 0})), 400, "INVALID_REQUEST", &["disk_size"]),
        (body(json!({"description": long})), 400, "INVALID_REQUEST", &["description"]),
        (body(json!({"description": "a\u{1}"})), 400, "INVALID_REQUEST", &["description"]),
        (body(json!({"os_type": "a b"})), 400, "INVALID_REQUEST", &["os_type"]),
        (body(json!({"os": {"variant": "<x>"}})), 400, "INVALID_REQUEST", &["os.variant"]),
        (body(json!({"os": {"boot": ["usb"]}})), 400, "INVALID_REQUEST", &["os.boot[0]"]),
        (body(json!({"labels": {"tier": "a\nb"}})), 400, "INVALID_REQUEST", &["labels.tier"]),
        (body(json!({"disc_size": 2})), 400, "INVALID_REQUEST", &["disc_size"]),
        (disk(json!({"sise": 1})), 400, "INVALID_REQUEST", &["storage.disks[0].sise"]),
        (disk(json!({"action": "make"})), 400, "INVALID_REQUEST", &["storage.disks[0].action"]),
        (disk(json!({"size": 65_537})), 400, "INVALID_REQUEST", &["storage.disks[0].size"]),
        (disk(json!({"boot_order": 0})), 400, "INVALID_REQUEST", &["storage.disks[0].boot_order"]),
        (disk(json!({"boot_order": 33})), 400, "INVALID_REQUEST", &["storage.disks[0].boot_order"]),
        (disk(json!({"serial": "a b"})), 400, "INVALID_REQUEST", &["storage.disks[0].serial"]),
        (
            disk(json!({"path": "/pool/default/cd.iso"})),
            422,
            "IMPOSSIBLE",
            &["storage.disks[0].source"],
        ),
        (with_disk(json!({"action": "create"})), 422, "IMPOSSIBLE", &["storage.disks[0].size"]),
        (with_disk(json!({"action": "attach"})), 422, "IMPOSSIBLE", &["storage.disks[0].volume"]),
        (
            with_disk(json!({"action": "attach", "volume": "cd.iso", "size": 1})),
            422,
            "IMPOSSIBLE",
            &["storage.disks[0].action"],
        ),
        (
            with_disk(
                json!({"action": "attach", "volume": "cd.iso", "path": "/pool/default/cd.iso"}),
            ),
            422,
            "IMPOSSIBLE",
            &["storage.disks[0].path"],
        ),
        (with_disk(json!({"action": "clone"})), 422, "IMPOSSIBLE", &["storage.disks[0].source"]),
        (
            with_disk(json!({"action": "clone", "path": "/pool/default/base.qcow2",
            "source": {"pool": "default", "volume": "base.qcow2"}})),
            422,
            "IMPOSSIBLE",
            &["storage.disks[0].path"],
        ),
        (with_nic(json!({"type": "bridge"})), 422, "IMPOSSIBLE", &["networks[0].source"]),
        (with_nic(json!({"type": "direct"})), 422, "IMPOSSIBLE", &["networks[0].source"]),
        (with_nic(json!({"mac": "52:54:00:00:00"})), 400, "INVALID_REQUEST", &["networks[0].mac"]),
        (with_nic(json!({"boot_order": 33})), 400, "INVALID_REQUEST", &["networks[0].boot_order"]),
        // Parts of the flat and of the full form that speak of the same thing.
        (
            body(json!({"disk_size": 1, "storage": {"disks": []}})),
            422,
            "IMPOSSIBLE",
            &["disk_size"],
        ),
        (body(json!({"pool": "images", "storage": {"disks": []}})), 422, "IMPOSSIBLE", &["pool"]),
        (body(json!({"network": {}, "networks": []})), 422, "IMPOSSIBLE", &["network"]),
        (body(json!({"os_type": "a", "os": {"type": "b"}})), 422, "IMPOSSIBLE", &["os_type"]),
        // Names.
        (body(json!({"name": ""})), 400, "INVALID_NAME", &["name"]),
        (body(json!({"name": "a/b"})), 400, "INVALID_NAME", &["name"]),
        (body(json!({"name": ".."})), 400, "INVALID_NAME", &["name"]),
        (body(json!({"name": "<name>"})), 400, "INVALID_NAME", &["name"]),
        (body(json!({"name": "🦀"})), 400, "INVALID_NAME", &["name"]),
        (body(json!({"name": "x".repeat(10_000)})), 400, "INVALID_NAME", &["name"]),
        (body(json!({"name": "a\u{0}"})), 400, "INVALID_NAME", &["name"]),
        (body(json!({"labels": {"a b": "x"}})), 400, "INVALID_REQUEST", &["labels.a b"]),
        (
            disk(json!({"volume": "../x"})),
            400,
            "INVALID_NAME",
            &["name", "storage.disks[0].volume"],
        ),
        // What is named and not there.
        (body(json!({"disk_size": 1, "pool": "nowhere"})), 404, "POOL_NOT_FOUND", &[]),
        (disk(json!({"pool": "nowhere"})), 404, "POOL_NOT_FOUND", &[]),
        (with_disk(json!({"action": "attach", "volume": "no.img"})), 404, "VOLUME_NOT_FOUND", &[]),
        (
            with_disk(json!({"action": "attach", "path": "/etc/passwd"})),
            404,
            "VOLUME_NOT_FOUND",
            &[],
        ),
        (
            with_disk(json!({"action": "attach", "path": "/pool/default/../default/cd.iso"})),
            404,
            "VOLUME_NOT_FOUND",
            &[],
        ),
        (
            with_disk(json!({"action": "clone", "source": {"pool": "default", "volume": "no"}})),
            404,
            "VOLUME_NOT_FOUND",
            &[],
        ),
        (with_nic(json!({"source": "none"})), 404, "NETWORK_NOT_FOUND", &[]),
        (
            body(
                json!({"os": {"direct_boot": {"kernel": {"pool": "default", "volume": "vmlinuz"}}}}),
            ),
            404,
            "VOLUME_NOT_FOUND",
            &[],
        ),
        // What exists or is in use.
        (body(json!({"name": "web1"})), 409, "VM_ALREADY_EXISTS", &[]),
        (
            disk(json!({"volume": "base.qcow2"})),
            409,
            "VOLUME_ALREADY_EXISTS",
            &["storage.disks[0].volume"],
        ),
        (with_disk(json!({"action": "attach", "volume": "web2.qcow2"})), 409, "VOLUME_IN_USE", &[]),
        // Well-formed and impossible.
        (body(json!({"max_memory": 128})), 422, "IMPOSSIBLE", &["max_memory"]),
        (body(json!({"vcpus": 4, "max_vcpus": 2})), 422, "IMPOSSIBLE", &["max_vcpus"]),
        (
            body(json!({"storage": {"disks": [{"action": "attach", "volume": "base.qcow2"},
            {"action": "attach", "path": "/pool/default/base.qcow2"}]}})),
            422,
            "IMPOSSIBLE",
            &["storage.disks[1].volume"],
        ),
        (
            disk(json!({"device": "cdrom", "bus": "virtio"})),
            422,
            "IMPOSSIBLE",
            &["storage.disks[0].bus"],
        ),
        (
            disk(json!({"device": "floppy", "bus": "sata"})),
            422,
            "IMPOSSIBLE",
            &["storage.disks[0].bus"],
        ),
        (disk(json!({"bus": "fdc"})), 422, "IMPOSSIBLE", &["storage.disks[0].bus"]),
        (
            with_disk(json!({"action": "clone", "size": 1,
            "source": {"pool": "default", "volume": "base.qcow2"}})),
            422,
            "IMPOSSIBLE",
            &["storage.disks[0].size"],
        ),
        (
            with_nic(json!({"type": "user", "source": "default"})),
            422,
            "IMPOSSIBLE",
            &["networks[0].source"],
        ),
        (with_nic(json!({"mac": "01:00:5e:00:00:01"})), 422, "IMPOSSIBLE", &["networks[0].mac"]),
        (with_nic(json!({"mac": "00:00:00:00:00:00"})), 422, "IMPOSSIBLE", &["networks[0].mac"]),
        (
            body(json!({"networks": [{"mac": "52:54:00:00:00:0a"}, {"mac": "52:54:00:00:00:0A"}]})),
            422,
            "IMPOSSIBLE",
            &["networks[1].mac"],
        ),
        (
            body(json!({"graphics": [{"type": "none"}, {"type": "vnc"}]})),
            422,
            "IMPOSSIBLE",
            &["graphics"],
        ),
        (
            body(json!({"graphics": [{"type": "vnc"}, {"type": "vnc"}]})),
            422,
            "IMPOSSIBLE",
            &["graphics"],
        ),
        (
            body(json!({"os": {"boot": ["hd"]}, "networks": [{"boot_order": 1}]})),
            422,
            "IMPOSSIBLE",
            &[],
        ),
        // What this version or this host cannot do is said, never ignored.
        (with_nic(json!({"vlan": 7})), 422, "NOT_SUPPORTED", &["networks[0].vlan"]),
        (with_nic(json!({"vlan": 4095})), 400, "INVALID_REQUEST", &["networks[0].vlan"]),
        (with_nic(json!({"mode": "vepa"})), 422, "IMPOSSIBLE", &["networks[0].mode"]),
        (
            with_nic(json!({"inbound": {"average": 9, "peak": 1}})),
            422,
            "IMPOSSIBLE",
            &["networks[0].inbound.peak"],
        ),
        (disk(json!({"io": "native"})), 422, "IMPOSSIBLE", &["storage.disks[0].io"]),
        (
            disk(json!({"iothread": 1, "bus": "sata"})),
            422,
            "IMPOSSIBLE",
            &["storage.disks[0].iothread"],
        ),
        (disk(json!({"linked": true})), 422, "IMPOSSIBLE", &["storage.disks[0].linked"]),
        (disk(json!({"shareable": true})), 422, "IMPOSSIBLE", &["storage.disks[0].shareable"]),
        (disk(json!({"target": "sda"})), 422, "IMPOSSIBLE", &["storage.disks[0].target"]),
        (
            body(json!({"storage": {"disks": [{"action": "create", "size": 1, "target": "vdb"},
                {"action": "create", "size": 1, "target": "vdb"}]}})),
            422,
            "IMPOSSIBLE",
            &["storage.disks[1].target"],
        ),
        (
            with_disk(json!({"action": "attach", "iso": "none", "device": "cdrom"})),
            404,
            "ISO_NOT_FOUND",
            &[],
        ),
        (
            body(json!({"cpu": {"topology": {"sockets": 2, "cores": 2}}})),
            422,
            "IMPOSSIBLE",
            &["cpu.topology"],
        ),
        (
            body(json!({"memory_options": {"ballooning": false}, "max_memory": 512})),
            422,
            "IMPOSSIBLE",
            &["memory_options.ballooning"],
        ),
        (
            body(json!({"devices": {"filesystems": [{"source": "/etc", "tag": "a"}]}})),
            422,
            "NOT_SUPPORTED",
            &["devices.filesystems[0].source"],
        ),
        (
            body(json!({"devices": {"pci": ["0000:ff:1f.7"]}})),
            422,
            "NOT_SUPPORTED",
            &["devices.pci"],
        ),
        (body(json!({"devices": {"pci": ["ff"]}})), 400, "INVALID_REQUEST", &["devices.pci[0]"]),
        (
            body(json!({"custom_xml": "<domain><name>x</name></domain>"})),
            422,
            "INVALID_DEFINITION",
            &["custom_xml"],
        ),
        (body(json!({"cloud_init": {"user_data": "x"}})), 422, "NOT_SUPPORTED", &["cloud_init"]),
        (body(json!({"template": {"id": "x"}})), 422, "NOT_SUPPORTED", &["template"]),
        (body(json!({"os": {"firmware": "efi"}})), 422, "NOT_SUPPORTED", &["os.firmware"]),
        (body(json!({"os": {"secure_boot": true}})), 422, "NOT_SUPPORTED", &["os.firmware"]),
        (body(json!({"tpm": true})), 422, "NOT_SUPPORTED", &["tpm"]),
        (body(json!({"tpm": {"model": "tpm-tis"}})), 422, "NOT_SUPPORTED", &["tpm"]),
        (
            body(json!({"os": {"firmware": "bios", "secure_boot": true}})),
            422,
            "IMPOSSIBLE",
            &["os.secure_boot"],
        ),
        (body(json!({"os": {"enrolled_keys": true}})), 422, "IMPOSSIBLE", &["os.enrolled_keys"]),
        (body(json!({"os": {"firmware": "<efi>"}})), 400, "INVALID_REQUEST", &[]),
        (body(json!({"tpm": {"model": "tpm-x"}})), 400, "INVALID_REQUEST", &[]),
        (body(json!({"tpm": {"version": "1.2"}})), 400, "INVALID_REQUEST", &[]),
        (
            body(json!({"os": {"architecture": "sparc"}})),
            422,
            "NOT_SUPPORTED",
            &["os.architecture"],
        ),
        (body(json!({"os": {"machine": "pc-none"}})), 422, "NOT_SUPPORTED", &["os.machine"]),
    ];
    let before = world.get(VMS).await.expect(200);
    let stored = volumes(&world, "default").await;
    let mut wrong = Vec::new();
    for (request, status, code, fields) in &cases {
        let shown: String = request.to_string().chars().take(120).collect();
        for query in ["", "?dry_run=true"] {
            let reply = world.post(&format!("{VMS}{query}"), request).await;
            // What only the moment stands against is no error of a plan, but its blocker.
            if *code == "VM_ALREADY_EXISTS" && !query.is_empty() {
                if reply.expect(200)["blockers"][0]["code"] != *code {
                    wrong.push(format!("{shown}{query}: {reply}"));
                }
                continue;
            }
            let fits = reply.status == *status && reply.error()["code"] == *code;
            if !fits {
                wrong.push(format!("{shown}{query}: should be {status} {code}: {reply}"));
                continue;
            }
            if !fields.is_empty() && reply.fields() != *fields {
                wrong.push(format!("{shown}{query}: should name {fields:?}: {reply}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(world.get(VMS).await.expect(200), before);
    assert_eq!(volumes(&world, "default").await, stored);
    assert_eq!(world.get("/api/v1/tasks").await.expect(200)["total"], 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_json_are_refused_before_anything_else() {
    let world = World::new().await;
    for (media, body, status, code) in [
        ("application/json", "{", 400, "INVALID_REQUEST"),
        ("application/json", "", 400, "INVALID_REQUEST"),
        (
            "application/json",
            "{\"name\":\"a\",\"name\":\"b\",\"memory\":64,\"vcpus\":1}",
            400,
            "INVALID_REQUEST",
        ),
        ("application/json", "\u{feff}nonsense", 400, "INVALID_REQUEST"),
        ("text/plain", "{}", 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("application/xml", "<domain/>", 415, "UNSUPPORTED_MEDIA_TYPE"),
    ] {
        let reply = world.request(Method::POST, VMS, &[], Some((media, body.to_owned()))).await;
        reply.refused(status, code);
    }
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(2 << 20));
    let reply = world.request(Method::POST, VMS, &[], Some(("application/json", large))).await;
    reply.refused(413, "PAYLOAD_TOO_LARGE");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_of_a_creation_tells_the_plan_and_makes_nothing() {
    let world = World::new().await;
    let request = body(json!({"disk_size": 2, "start": true}));
    let plan = world.post(&format!("{VMS}?dry_run=true"), &request).await.expect(200);
    assert_eq!(plan["operation"], "vm.create");
    let effects = json!(["creates the volume default/new1.qcow2", "starts the VM"]);
    assert_eq!(plan["side_effects"], effects);
    assert!(text(&plan["xml_diff"]).contains("+  <name>new1</name>"), "{plan:#}");
    assert_eq!(plan["blockers"], json!([]));
    world.get(&format!("{VMS}/new1")).await.refused(404, "VM_NOT_FOUND");
    assert_eq!(volumes(&world, "default").await.len(), 4);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_creation_had_made_is_undone() {
    let world = World::new().await;
    // The test driver cannot clone from one pool into another: by then the first disk is made.
    let request = body(json!({"storage": {"default_pool": "images", "disks": [
        {"action": "create", "size": 1},
        {"action": "clone", "source": {"pool": "default", "volume": "base.qcow2"}}]}}));
    let reply = world.post(VMS, &request).await;
    reply.refused(404, "VOLUME_NOT_FOUND");
    assert_eq!(volumes(&world, "images").await, Vec::<String>::new());
    world.get(&format!("{VMS}/new1")).await.refused(404, "VM_NOT_FOUND");
    let tasks = world.get("/api/v1/tasks").await;
    assert_eq!(tasks.column("tasks", "status"), ["failed"]);
    // The name and the volumes are free again.
    world.post(VMS, &body(json!({"disk_size": 1, "pool": "images"}))).await.expect(201);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_creations_of_one_name_one_wins() {
    let world = std::sync::Arc::new(World::new().await);
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let world = world.clone();
        all.spawn(async move { world.post(VMS, &body(json!({"disk_size": 1}))).await });
    }
    let mut won = 0;
    while let Some(reply) = all.join_next().await {
        let reply = reply.expect("no panic");
        match reply.status {
            201 => won += 1,
            409 => {
                let code = text(&reply.error()["code"]);
                let honest = ["VM_ALREADY_EXISTS", "VM_BUSY", "VOLUME_ALREADY_EXISTS"];
                assert!(honest.contains(&code.as_str()), "{reply}");
            }
            _ => panic!("{reply}"),
        }
    }
    assert_eq!(won, 1);
    assert_eq!(volumes(&world, "default").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_takes_the_disks_only_if_told() {
    let world = World::new().await;
    let plan =
        world.delete(&format!("{VMS}/web2?dry_run=true&remove_disks=true")).await.expect(200);
    assert_eq!(plan["side_effects"], json!(["deletes the volume default/web2.qcow2"]));
    assert_eq!(plan["blockers"], json!([]));
    world.delete(&format!("{VMS}/web2")).await.expect(204);
    world.get(&format!("{VMS}/{WEB2}")).await.refused(404, "VM_NOT_FOUND");
    assert!(volumes(&world, "default").await.contains(&"web2.qcow2".to_owned()));
    let request = with_disk(json!({"action": "attach", "volume": "web2.qcow2"}));
    world.post(VMS, &request).await.expect(201);
    world.delete(&format!("{VMS}/new1?remove_disks=true")).await.expect(204);
    assert!(!volumes(&world, "default").await.contains(&"web2.qcow2".to_owned()));
    world.delete(&format!("{VMS}/new1")).await.refused(404, "VM_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_and_a_saved_one_are_deleted_only_if_told() {
    let world = World::new().await;
    world.delete(&format!("{VMS}/web1")).await.refused(409, "VM_RUNNING");
    assert_eq!(world.state("web1").await, "running");
    world.act("web1", &json!({"action": "save"})).await.expect(200);
    assert_eq!(world.vm("web1").await["has_saved_state"], true);
    world.delete(&format!("{VMS}/web1")).await.refused(409, "VM_HAS_SAVED_STATE");
    world.delete(&format!("{VMS}/web1?force=true")).await.refused(409, "VM_HAS_SAVED_STATE");
    world.delete(&format!("{VMS}/web1?remove_saved_state=true")).await.expect(204);
    world.delete(&format!("{VMS}/db1?force=true")).await.expect(204);
    assert_eq!(world.get(VMS).await.column("vms", "name"), ["web2"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_made_and_deleted_unless_a_vm_uses_it() {
    let world = World::new().await;
    let path = format!("{POOLS}/images/volumes");
    let reply = world.post(&path, &json!({"name": "a.qcow2", "size": 1})).await;
    assert_eq!(reply.expect(201)["capacity_bytes"], 1 << 30);
    assert_eq!(reply.header("location"), format!("{path}/a.qcow2"));
    let again = world.post(&path, &json!({"name": "a.qcow2", "size": 1})).await;
    again.refused(409, "VOLUME_ALREADY_EXISTS");
    world.post(&path, &json!({"name": "b"})).await.refused(422, "IMPOSSIBLE");
    let nowhere = format!("{POOLS}/nowhere/volumes");
    world.post(&nowhere, &json!({"name": "b", "size": 1})).await.refused(404, "POOL_NOT_FOUND");
    world.delete(&format!("{path}/a.qcow2?dry_run=true")).await.expect(200);
    world.delete(&format!("{path}/a.qcow2")).await.expect(204);
    world.delete(&format!("{path}/a.qcow2")).await.refused(404, "VOLUME_NOT_FOUND");
    let used = world.delete(&format!("{POOLS}/default/volumes/web2.qcow2")).await;
    assert_eq!(used.refused(409, "VOLUME_IN_USE")["details"]["vms"], json!(["web2"]));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processors_memory_and_devices_are_as_asked_for_and_macs_are_planned() {
    let world = World::new().await;
    let request = body(json!({"vcpus": 4, "memory": 512,
        "cpu": {"topology": {"sockets": 1, "cores": 2, "threads": 2},
            "numa": [{"cpus": "0-1", "memory": 256}, {"cpus": "2-3", "memory": 256}]},
        "memory_options": {"shared": true, "ballooning": false},
        "devices": {"watchdog": {"model": "i6300esb", "action": "poweroff"}, "vsock": {}},
        "clock": {"timezone": "Europe/Berlin"},
        "storage": {"disks": [{"action": "create", "size": 1, "cache": "none", "io": "native",
            "iothread": 1, "target": "vdc"}]},
        "networks": [{"inbound": {"average": 100}, "isolated": true}],
        "custom_xml": "<domain><features><pmu state='off'/></features>\
            <devices><input type='mouse' bus='ps2'/></devices></domain>"}));
    let plan = world.post(&format!("{VMS}?dry_run=true"), &request).await.expect(200);
    let diff = text(&plan["xml_diff"]);
    for wanted in [
        "<topology sockets='1' dies='1' cores='2' threads='2'/>",
        "<cell id='1' cpus='2-3' memory='262144' unit='KiB'/>",
        "<source type='memfd'/>",
        "<iothreads>1</iothreads>",
        "cache='none' io='native'",
        "<watchdog model='i6300esb' action='poweroff'/>",
        "timezone='Europe/Berlin'",
        "<port isolated='yes'/>",
        "<pmu state='off'/>",
        "address='52:54:00:",
    ] {
        assert!(diff.contains(wanted), "{wanted} in {diff}");
    }
    let vm = world.post(VMS, &request).await.expect(201);
    assert_eq!(vm["disks"][0]["target"], "vdc");
    let kinds: Vec<String> =
        vm["devices"].as_array().expect("devices").iter().map(|d| text(&d["kind"])).collect();
    assert!(kinds.contains(&"watchdog".to_owned()), "{kinds:?}");
    let mac = text(&vm["networks"][0]["mac"]);
    assert!(mac.starts_with("52:54:00:"), "{mac}");
    let mut second = with_nic(json!({"mac": mac.to_uppercase()}));
    second["name"] = json!("new2");
    let error = world.post(VMS, &second).await.refused(409, "MAC_IN_USE");
    assert_eq!(error["details"]["vm"], "new1");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_of_a_creation_leaves_nothing() {
    let world = World::new().await;
    let request = body(json!({"start": true, "autostart": true,
        "storage": {"disks": [{"action": "create", "size": 1},
            {"action": "clone", "source": {"pool": "default", "volume": "base.qcow2"}},
            {"action": "create", "size": 1, "pool": "images"}]}}));
    let all = async || {
        let vms = world.get(VMS).await.column("vms", "name");
        (vms, volumes(&world, "default").await, volumes(&world, "images").await)
    };
    let before = all().await;
    for step in ["volume-0", "volume-1", "volume-2", "define", "autostart", "start", "end"] {
        vapor::service::vm::faults::fail_at("new1", step);
        let error = world.post(VMS, &request).await.refused(422, "LIBVIRT_REFUSED");
        assert!(text(&error["message"]).contains(step), "{error:#}");
        assert_eq!(all().await, before, "after a failure at {step}");
        world.get(&format!("{VMS}/new1")).await.refused(404, "VM_NOT_FOUND");
    }
    world.post(VMS, &request).await.expect(201);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ignition_config_is_read_before_anything_is_made() {
    let world = World::new().await;
    let good = json!({"ignition": {"version": "3.4.0"}, "sesame": 1});
    for ignition in [
        json!(format!("{good}{}", " ".repeat(524_288))),
        json!("{"),
        json!(7),
        json!([]),
        json!({}),
        json!({"ignition": {}}),
        json!({"ignition": {"version": "1.0.0"}}),
        json!({"ignition": {"version": "4.0.0"}}),
    ] {
        let reply = world.post(VMS, &body(json!({"ignition": ignition}))).await;
        let error = reply.refused(400, "INVALID_REQUEST");
        let field = text(&error["details"]["fields"][0]["field"]);
        assert!(field.starts_with("ignition"), "{error:#}");
    }
    let both = body(json!({"ignition": good, "cloud_init": {"hostname": "x"}}));
    let error = world.post(VMS, &both).await.refused(422, "IMPOSSIBLE");
    assert_eq!(error["details"]["fields"][0]["field"], "ignition", "{error:#}");
    // libvirt's test driver cannot write it into a volume, which is said.
    for ignition in [good.clone(), json!(good.to_string())] {
        let error = world
            .post(VMS, &body(json!({"ignition": ignition})))
            .await
            .refused(422, "NOT_SUPPORTED");
        assert_eq!(error["details"]["fields"][0]["field"], "ignition", "{error:#}");
        assert!(!error.to_string().contains("sesame"), "{error:#}");
    }
    // It is each machine's own: no template has one.
    let template = json!({"name": "t", "settings": {"memory": 64, "vcpus": 1, "ignition": good}});
    let templates = format!("{VMS}/templates");
    world.post(&templates, &template).await.refused(400, "INVALID_REQUEST");
    assert_eq!(world.get(VMS).await.column("vms", "name").len(), 3);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_ask_for_one_mac_at_once_one_gets_it() {
    let world = World::new().await;
    let requests: Vec<Value> = (0..8)
        .map(|n| {
            json!({"name": format!("same{n}"), "memory": 16, "vcpus": 1,
            "networks": [{"mac": if n % 2 == 0 { "52:54:00:0A:0b:01" } else { "52:54:00:0a:0B:01" }}]})
        })
        .collect();
    let replies =
        futures_util::future::join_all(requests.iter().map(|request| world.post(VMS, request)))
            .await;
    let made = replies.iter().filter(|reply| reply.status == 201).count();
    assert_eq!(made, 1, "{replies:?}");
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        let code = text(&reply.error()["code"]);
        assert_eq!(reply.status, 409, "{reply}");
        assert!(["MAC_IN_USE", "VM_BUSY"].contains(&code.as_str()), "{reply}");
    }
    assert_eq!(world.get(VMS).await.column("vms", "name").len(), 4);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_vms_are_created_at_once() {
    let world = World::new().await;
    let requests: Vec<Value> = (0..50)
        .map(|n| {
            json!({"name": format!("many{n}"), "memory": 16, "vcpus": 1, "disk_size": 1,
            "network": {}})
        })
        .collect();
    let replies =
        futures_util::future::join_all(requests.iter().map(|request| world.post(VMS, request)))
            .await;
    let mut macs = std::collections::BTreeSet::new();
    for reply in replies {
        let vm = reply.expect(201);
        assert!(macs.insert(text(&vm["networks"][0]["mac"])), "{vm:#}");
    }
    assert_eq!(macs.len(), 50);
    world.stop().await;
}
