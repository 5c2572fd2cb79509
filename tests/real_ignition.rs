//! Ignition through the API: a guest finds the config that it was told where Ignition looks for it,
//! nobody else sees it, and nothing of it is left when its VM is gone.

#[path = "support/mod.rs"]
mod support;

use std::process::Command;
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};
use vapor::config::Config;
use vapor::daemon::Daemon;

use crate::support::{BOOT, Client, Lab, Settings, V, World, eventually, guest};

/// Where the guest's kernel shows what it was handed.
const SEEN: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/com.coreos/config/raw";

/// Whether a text, or its base64, lies anywhere in a folder.
fn lies_in(folder: &str, text: &str) -> bool {
    Command::new("grep").args(["-rlaqF", text, folder]).status().expect("grep runs").success()
}

fn config(more: &str) -> Value {
    json!({"ignition": {"version": "3.4.0"}, "passwd": {"users": [{"name": "core",
        "passwordHash": "$6$sesame-hash"}]}, "storage": {"files": [{"path": "/etc/x",
        "contents": {"source": format!("data:,{more}")}}]}})
}

/// A file of the guest, through its agent.
fn guest_reads(lab: &Lab, vm: &str, path: &str) -> Option<String> {
    let agent = |order: Value| -> Option<Value> {
        let said = lab.try_virsh(&["qemu-agent-command", vm, &order.to_string()]).ok()?;
        Some(serde_json::from_str::<Value>(&said).ok()?["return"].take())
    };
    let handle = agent(json!({"execute": "guest-file-open",
        "arguments": {"path": path, "mode": "r"}}))?;
    let mut text = Vec::new();
    loop {
        let read = agent(json!({"execute": "guest-file-read",
            "arguments": {"handle": handle, "count": 4096}}))?;
        let piece = read["buf-b64"].as_str()?;
        text.extend(base64::engine::general_purpose::STANDARD.decode(piece).ok()?);
        if read["eof"] == true {
            return String::from_utf8(text).ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_finds_its_config_and_nobody_else_does() {
    let Some(world) = World::start("ignition").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    // Longer than a page, and with every character that XML would have to escape.
    let text = config(&"<&\"'ü]]>".repeat(1000)).to_string();
    let mut body = guest::body("core1");
    body["ignition"] = json!(text);
    body["start"] = json!(true);
    let made = client.post(V, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let file = lab.pool_file("core1.ign");
    let told = json!({"version": "3.4.0", "file": file, "target": null,
        "volume": {"pool": "lab", "volume": "core1.ign"}});
    assert_eq!(made.data()["ignition"], told, "{made:?}");
    assert_eq!(lab.volumes(), ["core1.ign", "core1.qcow2"]);

    let seen = eventually("the guest shows what it was told", BOOT, async || {
        guest_reads(lab, "core1", SEEN)
    })
    .await;
    assert_eq!(seen, text, "byte for byte");

    // Nothing of it is told, logged or written down, but in its volume.
    let whole = client.get(format!("{V}/core1")).await.data().to_string();
    let list = client.get(V).await.data().to_string();
    let tasks = client.get("/api/v1/tasks").await.data().to_string();
    let xml = lab.virsh(&["dumpxml", "core1", "--security-info"]);
    assert!(xml.contains("opt/com.coreos/config"), "{xml}");
    for (what, text) in [("VM", &whole), ("list", &list), ("tasks", &tasks), ("XML", &xml)] {
        assert!(!text.contains("sesame") && !text.contains("passwd"), "{what}: {text}");
    }
    let folder = world.daemon.settings().folder.display().to_string();
    assert!(!lies_in(&folder, "sesame"), "in the log or the database");

    // It is the VM's as long as that is there.
    let volumes = "/api/v1/virtualization/storages/pools/lab/volumes";
    let volume = client.get(format!("{volumes}/core1.ign")).await;
    assert_eq!(volume.data()["used_as"], json!({"core1": "ignition"}), "{volume:?}");
    let refused = client.delete(format!("{volumes}/core1.ign")).await;
    assert_eq!(refused.refused(409, "VOLUME_IN_USE").details()["vms"], json!(["core1"]));
    let change = json!({"ignition": text});
    let put = client.call("PUT", format!("{V}/core1")).json(&change).send().await;
    put.refused(400, "INVALID_REQUEST");

    // A clone has on its disks what the first boot made of it, and is told nothing itself.
    client.done("core1", "force-stop").await;
    let copy = client
        .call("POST", format!("{V}/core1/clone"))
        .header("prefer", "wait=60")
        .json(&json!({"name": "core2"}))
        .send()
        .await;
    assert_eq!(copy.status, 201, "{copy:?}");
    assert_eq!(copy.data()["ignition"], json!(null));
    let xml = lab.virsh(&["dumpxml", "core2"]);
    assert!(!xml.contains("fwcfg") && !xml.contains("vapor:ignition"), "{xml}");
    assert_eq!(client.delete(format!("{V}/core2?remove_disks=true")).await.status, 204);

    assert_eq!(client.delete(format!("{V}/core1")).await.status, 204);
    assert_eq!(lab.volumes(), ["core1.qcow2"], "the config goes with its VM, the disk does not");

    // Nor does a template keep it: neither its settings, nor the volume.
    let mut body = guest::body("core3");
    body["ignition"] = config("x");
    assert_eq!(client.post(V, &body).await.status, 201);
    let template = json!({"name": "golden", "convert": true});
    let made = client.post(format!("{V}/core3/template"), &template).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.data()["settings"]["ignition"], json!(null), "{made:?}");
    assert_eq!(lab.volumes(), ["core1.qcow2", "core3.qcow2"]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_or_fails_leaves_no_config() {
    let Some(world) = World::start("ignition-refused").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let with = |ignition: Value| {
        let mut body = guest::body("one");
        body["ignition"] = ignition;
        body
    };
    for bad in [
        json!("variant: fcos\nversion: 1.5.0\n"),
        json!("{\"ignition\": {\"version\": \"3.4.0\"}, \"sesame\": sesame}"),
        json!("{\"ignition\": {\"version\": \"1.0.0\"}}"),
        json!("[3]"),
        json!({"ignition": {"version": "4.0.0"}}),
    ] {
        let refused = client.post(V, &with(bad)).await.refused(400, "INVALID_REQUEST");
        let field = refused.details()["fields"][0]["field"].as_str().expect("a field");
        assert!(field.starts_with("ignition"), "{refused:?}");
        assert!(!refused.text.contains("sesame"), "{refused:?}");
    }
    let mut both = with(config("x"));
    both["cloud_init"] = json!({"hostname": "x"});
    client.post(V, &both).await.refused(422, "IMPOSSIBLE");
    assert!(lab.volumes().is_empty() && lab.names(&["list", "--all", "--name"]).is_empty());

    // A plan writes nothing and shows nothing.
    let plan = client.post(format!("{V}?dry_run=true"), &with(config("sesame"))).await;
    assert_eq!(plan.status, 200, "{plan:?}");
    let text = plan.data().to_string();
    assert!(text.contains("writes the Ignition config into lab/one.ign"), "{text}");
    assert!(!text.contains("sesame") && lab.volumes().is_empty(), "{text}");

    // More memory than QEMU can address: it is defined, and its start fails.
    let mut body = with(config("x"));
    body["memory"] = json!(67_108_864);
    body["start"] = json!(true);
    client.post(V, &body).await.refused(422, "LIBVIRT_REFUSED");
    assert!(lab.volumes().is_empty(), "{:?}", lab.volumes());
    assert!(lab.names(&["list", "--all", "--name"]).is_empty());

    // A volume of that name is there already, and stays as it is.
    lab.virsh(&["vol-create-as", "lab", "one.ign", "512", "--format", "raw"]);
    let pool = "/api/v1/virtualization/storages/pools/lab/refresh";
    assert_eq!(client.post(pool, &json!({})).await.status, 200);
    client.post(V, &with(config("x"))).await.refused(409, "VOLUME_ALREADY_EXISTS");
    assert_eq!(lab.volumes(), ["one.ign"]);
    world.finish().await;
}

/// Failures at each step are planned within the process, so the daemon is in this one.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_at_any_step_of_what_a_guest_is_told_leaves_nothing() {
    let Some(lab) = Lab::start("faults") else { return };
    let settings = Settings::new("faults", &lab.uri());
    let config_file = Config::load(Some(&settings.write())).expect("the configuration is valid");
    let daemon = Daemon::start(&config_file).await.expect("the daemon starts");
    let client = Client::new(settings.socket.clone());
    for (field, value) in [("ignition", config("x")), ("cloud_init", json!({"hostname": "told"}))] {
        let mut body = guest::body("told");
        body[field] = value;
        body["start"] = json!(true);
        for step in ["volume-0", "volume-1", "content", "define", "autostart", "start", "end"] {
            vapor::service::vm::faults::fail_at("told", step);
            let refused = client.post(V, &body).await.refused(422, "LIBVIRT_REFUSED");
            assert!(format!("{refused:?}").contains(step), "{refused:?}");
            assert!(lab.volumes().is_empty(), "{field} at {step}: {:?}", lab.volumes());
            assert!(lab.names(&["list", "--all", "--name"]).is_empty(), "{field} at {step}");
        }
        assert_eq!(client.post(V, &body).await.status, 201);
        assert_eq!(lab.volumes().len(), 2);
        let gone = client.delete(format!("{V}/told?force=true&remove_disks=true")).await;
        assert_eq!(gone.status, 204, "{gone:?}");
        assert!(lab.volumes().is_empty(), "{:?}", lab.volumes());
    }
    tokio::time::timeout(Duration::from_secs(60), daemon.stop()).await.expect("it stops");
    std::fs::remove_dir_all(settings.folder).expect("removed");
}
