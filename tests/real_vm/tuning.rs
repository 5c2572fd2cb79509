//! Tuning of a running guest, seen by libvirt and the kernel, and what waits for its next boot.

use serde_json::{Value, json};

use crate::support::{BOOT, TASKS, V, World, eventually, guest};

const MAC: &str = "52:54:00:77:00:11";

async fn changed(world: &World, body: &Value) -> Value {
    let reply = world.client.patch(format!("{V}/one"), body).await;
    assert_eq!(reply.status, 200, "{body}: {reply:?}");
    reply.data().clone()
}

/// The value of one line that libvirt tells of the NIC's limits.
fn limit(world: &World, config: bool, name: &str) -> String {
    let which = if config { "--config" } else { "--live" };
    let text = world.lab.virsh(&["domiftune", "one", MAC, which]);
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{text}"));
    line.rsplit(' ').next().expect("a value").to_owned()
}

/// Where libvirt says that the first virtual CPU runs.
fn pinned(world: &World, which: &[&str]) -> String {
    let text = world.lab.virsh(&[&["vcpupin", "one", "--vcpu", "0"], which].concat());
    let line = text.lines().find(|line| line.trim_start().starts_with('0'));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    line.split_whitespace().last().expect("CPUs").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_pinning_take_hold_at_once_and_are_put_back_if_the_last_is_refused() {
    let Some(world) = World::on_one_host("tuning").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let path = format!("{V}/one");
    let mut body = guest::body("one");
    body["vcpus"] = json!(2);
    body["networks"] = json!([{"type": "network", "source": "lab", "mac": MAC}]);
    body["start"] = json!(true);
    let made = client.post(V, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    world.booted("one").await;

    let limits = json!({"title": "limited", "networks": [{"mac": MAC,
        "inbound": {"average": 1000, "peak": 2000}, "outbound": {"average": 500}}]});
    let plan = client.call("PATCH", format!("{path}?dry_run=true")).json(&limits).send().await;
    let changes = plan.data()["changes"].as_array().expect("changes").clone();
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert!(changes.iter().all(|change| change["effect"] == "live"), "{changes:?}");
    assert_eq!(limit(&world, false, "inbound.average"), "0", "a plan changes nothing");
    let before = guest::without_runtime(&client.vm("one").await);
    let reply = client.patch(&path, &limits).await;
    let limited = reply.is_success();
    if limited {
        let vm = reply.data();
        assert_eq!(vm["networks"][0]["inbound"]["peak"], 2000, "{vm}");
        assert_eq!((&vm["title"], &vm["pending"]), (&json!("limited"), &json!(null)), "{vm}");
    } else {
        // A kernel without the disciplines that libvirt limits by: all is put back.
        let error = reply.refused(422, "LIBVIRT_REFUSED");
        assert!(format!("{error:?}").contains("(tc "), "{error:?}");
        eventually("the VM is shown as it was", BOOT, async || {
            (guest::without_runtime(&client.vm("one").await) == before).then_some(())
        })
        .await;
    }
    let (average, peak, out) = if limited { ("1000", "2000", "500") } else { ("0", "0", "0") };
    for config in [false, true] {
        assert_eq!(limit(&world, config, "inbound.average"), average);
        assert_eq!(limit(&world, config, "inbound.peak"), peak);
        assert_eq!(limit(&world, config, "outbound.average"), out);
    }
    let vm = changed(&world, &json!({"networks": [{"mac": MAC, "isolated": true}]})).await;
    assert_eq!((&vm["networks"][0]["isolated"], &vm["pending"]), (&json!(true), &json!(null)));
    let tap = vm["networks"][0]["target"].as_str().expect("a tap").to_owned();
    let isolated = format!("/sys/class/net/{tap}/brport/isolated");
    assert_eq!(lab.exec(&["cat", &isolated]).trim(), "1");

    // Pinned, in libvirt's words and in the scheduler's.
    let everywhere = pinned(&world, &["--live"]);
    let vm = changed(&world, &json!({"cpu": {"pinning": [{"vcpu": 0, "cpus": "1"}]}})).await;
    assert_eq!(vm["cpu"]["pinning"], json!([{"vcpu": 0, "cpus": "1"}]), "{vm}");
    assert_eq!(vm["pending"], json!(null), "{vm}");
    assert_eq!(
        (pinned(&world, &["--live"]), pinned(&world, &["--config"])),
        ("1".into(), "1".into())
    );
    let info = lab.virsh(&["vcpuinfo", "one"]);
    let affinity = info.lines().find(|line| line.starts_with("CPU Affinity:")).expect("affinity");
    assert!(affinity.trim_end().ends_with("-y"), "{info}");

    // The last of several live changes is refused: limits and pinning are as they were.
    let wrong = json!({"cpu": {"pinning": [{"vcpu": 0, "cpus": "0"}]}, "title": "never",
        "networks": [{"mac": MAC, "isolated": false, "type": "bridge", "source": "nobridge9"}]});
    let before = guest::without_runtime(&client.vm("one").await);
    let refused = client.patch(&path, &wrong).await;
    assert!(!refused.is_success(), "{refused:?}");
    assert_eq!(
        (pinned(&world, &["--live"]), pinned(&world, &["--config"])),
        ("1".into(), "1".into())
    );
    assert_eq!(lab.exec(&["cat", &isolated]).trim(), "1");
    eventually("the VM is shown as it was", BOOT, async || {
        (guest::without_runtime(&client.vm("one").await) == before).then_some(())
    })
    .await;

    // And all of it taken away again.
    let vm = changed(
        &world,
        &json!({"cpu": {"pinning": []}, "networks": [{"mac": MAC, "inbound": {"average": 0},
            "outbound": {"average": 0}, "isolated": false}]}),
    )
    .await;
    assert_eq!(vm["pending"], json!(null), "{vm}");
    assert!(vm["networks"][0].get("inbound").is_none(), "{vm}");
    assert_eq!(limit(&world, false, "inbound.average"), "0");
    assert_eq!(pinned(&world, &["--live"]), everywhere);
    assert_eq!(lab.exec(&["cat", &isolated]).trim(), "0");
    assert_eq!(world.booted("one").await["state"], "running");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_memory_than_the_host_has_comes_with_a_warning() {
    let Some(world) = World::start("tunemuch").await else { return };
    let client = &world.client;
    world.make("one", false).await;
    let much = json!({"max_memory": 60_000_000});
    let path = format!("{V}/one");
    let plan = client.call("PATCH", format!("{path}?dry_run=true")).json(&much).send().await;
    let warnings = plan.data()["warnings"].to_string();
    assert!(warnings.contains("60000000 MiB are more than"), "{plan:?}");
    let reply = client.call("PATCH", &path).json(&much).send().await;
    assert_eq!(reply.data()["max_memory"], 60_000_000, "{reply:?}");
    let told = reply.header("warning").expect("a warning");
    assert!(told.starts_with("299 - \"60000000 MiB are more than"), "{told}");
    let task = format!("{TASKS}/{}", reply.task().expect("a task"));
    let warnings = client.get(&task).await.data()["warnings"].to_string();
    assert!(warnings.contains("60000000 MiB"), "{warnings}");
    let log = client.get(format!("{task}/log")).await.data().to_string();
    assert!(log.contains("warning: 60000000 MiB"), "{log}");
    let less = json!({"max_memory": 1024});
    let plan = client.call("PATCH", format!("{path}?dry_run=true")).json(&less).send().await;
    assert_eq!(plan.data()["warnings"], json!([]), "{plan:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_the_next_boot_is_pending_and_then_is_so() {
    let Some(world) = World::start("tuneboot").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let mut body = guest::body("one");
    body["vcpus"] = json!(2);
    body["start"] = json!(true);
    let made = client.post(V, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    world.booted("one").await;
    let wanted = json!({
        "disks": [{"target": "vda", "cache": "none", "io": "native", "iothread": 1}],
        "cpu": {"topology": {"sockets": 1, "cores": 2},
            "numa": [{"cpus": "0-1", "memory": 256}]},
        "memory_options": {"shared": true},
        "clock": {"offset": "localtime"},
        "graphics": [{"type": "vnc"}],
        "devices": {"watchdog": {"model": "i6300esb", "action": "pause"}, "rng": false},
    });
    let vm = changed(&world, &wanted).await;
    let pending: Vec<&str> = vm["pending"]["changes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|change| change["field"].as_str())
        .collect();
    for field in [
        "disks.vda.cache",
        "disks.vda.io",
        "disks.vda.iothread",
        "cpu.topology",
        "cpu.numa",
        "memory_options",
        "clock",
        "graphics",
        "devices",
    ] {
        assert!(pending.contains(&field), "{field} is not in {pending:?}");
    }
    let running = lab.virsh(&["dumpxml", "one"]);
    assert!(!running.contains("iothread"), "{running}");
    client.done("one", "force-stop").await;
    client.done("one", "start").await;
    let vm = world.booted("one").await;
    assert_eq!(vm["pending"], json!(null), "{vm}");
    assert_eq!(
        (&vm["disks"][0]["cache"], &vm["disks"][0]["iothread"]),
        (&json!("none"), &json!(1))
    );
    assert_eq!(vm["cpu"]["numa"], wanted["cpu"]["numa"], "{vm}");
    assert_eq!(vm["hardware"]["watchdog"], wanted["devices"]["watchdog"], "{vm}");
    let running = lab.virsh(&["dumpxml", "one"]);
    for part in ["cache='none' io='native'", "cores='2'", "memfd", "i6300esb", "type='vnc'"] {
        assert!(running.contains(part), "{part} is not in {running}");
    }

    // Another version of the machine, and another bus; a stopped VM has them at once.
    client.done("one", "force-stop").await;
    let vm = changed(
        &world,
        &json!({"disks": [{"target": "vda", "iothread": 0, "bus": "sata"}],
        "cpu": {"numa": []}, "os": {"machine": "pc-q35-9.0"}}),
    )
    .await;
    assert_eq!(
        (&vm["os"]["machine"], &vm["disks"][0]["target"]),
        (&json!("pc-q35-9.0"), &json!("sda"))
    );
    client.done("one", "start").await;
    world.booted("one").await;
    client.done("one", "force-stop").await;
    client
        .patch(format!("{V}/one"), &json!({"os": {"machine": "pc"}}))
        .await
        .refused(422, "IMPOSSIBLE");

    // UEFI with variables of its own, which then stays.
    let vm = changed(&world, &json!({"os": {"firmware": "efi"}, "tpm": true})).await;
    let (uuid, nvram) = (vm["uuid"].as_str().expect("a UUID"), vm["os"]["nvram"].as_str());
    assert_eq!(vm["os"]["firmware"], "efi", "{vm}");
    assert!(nvram.is_some_and(|path| path.contains(uuid)), "{vm}");
    assert_eq!(vm["tpm"]["backend"], "emulator", "{vm}");
    client.done("one", "start").await;
    client.done("one", "force-stop").await;
    for body in [json!({"os": {"firmware": "bios"}}), json!({"tpm": false})] {
        client.patch(format!("{V}/one"), &body).await.refused(422, "IMPOSSIBLE");
    }
    let after = client.vm("one").await;
    assert_eq!(after["os"]["firmware"], "efi");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_vm_boots_and_what_is_installed_can_change() {
    let Some(world) = World::start("tuneos").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    world.make("one", false).await;
    let kernel = lab.guest_file("vmlinuz");
    let before = client.vm("one").await["os"]["direct_boot"].clone();
    assert_eq!(before["kernel"], kernel.as_str(), "{before}");
    let vm = changed(&world, &json!({"os": {"direct_boot": {}, "variant": "debian11"}})).await;
    assert!(vm["os"].get("direct_boot").is_none(), "{vm}");
    assert_eq!(vm["os"]["variant"], "http://debian.org/debian/11", "{vm}");
    assert!(!lab.virsh(&["dumpxml", "one"]).contains("<kernel>"));
    let back = json!({"os": {"variant": "", "direct_boot": {
        "kernel": {"pool": "guest", "volume": "vmlinuz"},
        "initrd": {"pool": "guest", "volume": "initrd.img"},
        "cmdline": before["cmdline"]}}});
    let vm = changed(&world, &back).await;
    assert_eq!((&vm["os"]["direct_boot"], &vm["os"]["variant"]), (&before, &Value::Null), "{vm}");
    client.done("one", "start").await;
    world.booted("one").await;
    let other = json!({"os": {"direct_boot": {"kernel": {"pool": "guest", "volume": "vmlinuz"}}}});
    let vm = changed(&world, &other).await;
    assert_eq!(vm["pending"]["changes"][0]["field"], "os.direct_boot", "{vm}");
    assert_eq!(vm["os"]["direct_boot"], before, "as it runs");
    let none = json!({"devices": {"pci": ["ffff:1f:00.0"]}});
    let refused = client.patch(format!("{V}/one"), &none).await;
    let error = refused.refused(422, "NOT_SUPPORTED");
    assert_eq!(error.details()["fields"][0]["field"], "devices.pci", "{error:?}");
    let half = json!({"os": {"direct_boot": {"cmdline": "x"}}});
    client.patch(format!("{V}/one"), &half).await.refused(422, "IMPOSSIBLE");
    world.finish().await;
}
