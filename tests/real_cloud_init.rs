//! cloud-init through the API: a guest that has Debian's cloud-init takes what it was told, and
//! nothing of it is left when its VM is gone.

#[path = "support/mod.rs"]
mod support;

use std::process::Command;
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};

use crate::support::{Lab, V, World, eventually, guest, lab};

/// A boot of Debian in emulation, on a machine that has other things to do.
const LONG_BOOT: Duration = Duration::from_secs(240);
const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0dP0sY0t9Vm2cUuQ0nVYF3mZ6p7rS8tU9vW0xY1zA2 ann@example";

/// What a program in the guest prints, through the guest agent.
fn guest_runs(lab: &Lab, vm: &str, words: &[&str]) -> Option<String> {
    let agent = |order: Value| -> Option<Value> {
        let said = lab.try_virsh(&["qemu-agent-command", vm, &order.to_string()]).ok()?;
        Some(serde_json::from_str::<Value>(&said).ok()?["return"].take())
    };
    let started = agent(json!({"execute": "guest-exec", "arguments": {
        "path": words[0], "arg": &words[1..], "capture-output": true}}))?;
    for _ in 0..200 {
        let status = agent(json!({"execute": "guest-exec-status",
            "arguments": {"pid": started["pid"]}}))?;
        if status["exited"] == true {
            let data = status["out-data"].as_str().unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(data).ok()?;
            return Some(String::from_utf8_lossy(&bytes).trim().to_owned());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    None
}

/// Whether the guest has this file; where not, only after a moment, in which it has the processor.
async fn appears(lab: &Lab, file: &str) -> bool {
    let there = guest_runs(lab, "web1", &["/bin/ls", file]).is_some_and(|said| said == file);
    if !there {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    there
}

/// The body of a VM with the lab's Debian, on top of its image.
fn cloud_body(lab: &Lab, name: &str) -> Value {
    let built = lab::run(Command::new("bash").arg(lab::script("cloud/build.sh")));
    for file in ["cloud-vmlinuz", "cloud-initrd.img", "cloud.qcow2"] {
        lab::run(
            Command::new("cp")
                .arg("--reflink=auto")
                .arg(format!("{built}/{file}"))
                .arg(lab.guest_file(file)),
        );
    }
    lab.virsh(&["pool-refresh", "guest"]);
    json!({
        "name": name,
        "memory": 512,
        "vcpus": 1,
        "os": {"direct_boot": {
            "kernel": {"pool": "guest", "volume": "cloud-vmlinuz"},
            "initrd": {"pool": "guest", "volume": "cloud-initrd.img"},
            "cmdline": "console=ttyS0 quiet",
        }},
        "storage": {"default_pool": "lab", "disks": [
            {"action": "attach", "pool": "lab", "volume": format!("{name}.qcow2")},
        ]},
        "networks": [{"type": "network", "source": "lab"}],
        "graphics": [{"type": "none"}],
    })
}

/// A linked clone of the lab's Debian, once the API knows the image.
async fn clone_image(world: &World, name: &str) {
    let volumes = "/api/v1/virtualization/storages/pools/guest/volumes";
    world.client.post("/api/v1/virtualization/storages/pools/guest/refresh", &json!({})).await;
    let clone = json!({"name": format!("{name}.qcow2"), "pool": "lab", "linked": true});
    let reply = world
        .client
        .call("POST", format!("{volumes}/cloud.qcow2/clone"))
        .header("prefer", "wait=60")
        .json(&clone)
        .send()
        .await;
    assert_eq!(reply.status, 201, "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debian_takes_its_name_its_users_and_its_keys_and_later_others() {
    let Some(world) = World::start("cloud").await else { return };
    if !lab::there("debootstrap") {
        return lab::skip("debootstrap");
    }
    let (client, lab) = (&world.client, &world.lab);
    let mut body = cloud_body(lab, "web1");
    clone_image(&world, "web1").await;
    body["cloud_init"] = json!({
        "hostname": "web1-guest",
        "ssh_keys": [KEY],
        "password": "sesame-default",
        "users": [{"name": "ann", "groups": ["adm"], "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "ssh_keys": [KEY], "password": "sesame-ann"}],
        "write_files": [{"path": "/etc/vapor-was-here", "content": "a: \"b\" #c\n"}],
        "runcmd": [["touch", "/ran"]],
    });
    body["start"] = json!(true);
    let made = client.post(V, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let seed = json!({"pool": "lab", "volume": "web1-cloud-init.img"});
    let told = made.data()["cloud_init"].clone();
    assert_eq!((&told["volume"], &told["hostname"]), (&seed, &json!("web1-guest")), "{told}");
    assert_eq!(told["target"], "vdb");
    let first_id = told["instance_id"].as_str().expect("an id").to_owned();
    assert!(first_id.starts_with(made.data()["uuid"].as_str().expect("a UUID")), "{first_id}");
    let xml = lab.virsh(&["dumpxml", "web1"]);
    assert!(xml.contains("<vapor:seed") && xml.contains("<readonly/>"), "{xml}");

    lab.watch_console("web1");
    let runs = |words: &[&str]| guest_runs(lab, "web1", words);
    eventually("cloud-init has done its work", LONG_BOOT, async || {
        appears(lab, "/ran").await.then_some(())
    })
    .await;
    assert_eq!(runs(&["/bin/hostname"]).as_deref(), Some("web1-guest"));
    for user in ["ann", "debian"] {
        let file = format!("/home/{user}/.ssh/authorized_keys");
        assert_eq!(runs(&["/bin/cat", &file]).as_deref(), Some(KEY), "{user}");
    }
    let shadow = runs(&["/bin/cat", "/etc/shadow"]).expect("the hashes");
    for user in ["ann", "debian"] {
        assert!(shadow.contains(&format!("\n{user}:$6$")), "{shadow}");
    }
    assert_eq!(runs(&["/bin/cat", "/etc/vapor-was-here"]).as_deref(), Some("a: \"b\" #c"));
    assert!(runs(&["/usr/bin/id", "ann"]).expect("ann").contains("(adm)"));

    // Nothing of it is told, logged or written down.
    let whole = client.get(format!("{V}/web1")).await;
    let tasks = client.get("/api/v1/tasks").await;
    for (what, text) in
        [("the VM", whole.data().to_string()), ("the tasks", tasks.data().to_string())]
    {
        assert!(!text.contains("sesame") && !text.contains("$6$"), "{what}: {text}");
    }
    lab::run(Command::new("sh").arg("-c").arg(format!(
        "! grep -rlaE 'sesame-(ann|default)' {0}/pool/web1-cloud-init.img",
        lab.folder().display()
    )));

    // Other documents, for the next boot of the same machine: what is not named stays.
    let change = json!({"cloud_init": {"hostname": "renamed",
        "runcmd": [["touch", "/ran-again"]]}});
    let plan = client.call("PUT", format!("{V}/web1?dry_run=true")).json(&change).send().await;
    assert_eq!(plan.data()["changes"][0]["field"], "cloud_init", "{plan:?}");
    assert_eq!(plan.data()["changes"][0]["effect"], "next_boot", "{plan:?}");
    let put = client.call("PUT", format!("{V}/web1")).json(&change).send().await;
    assert_eq!(put.status, 200, "{put:?}");
    let told = put.data()["cloud_init"].clone();
    assert_eq!((&told["hostname"], &told["volume"]), (&json!("renamed"), &seed), "{told}");
    assert_ne!(told["instance_id"], first_id.as_str());
    assert_eq!(put.data()["pending"], json!(null), "{put:?}");
    client.done("web1", "reset").await;
    eventually("cloud-init has done its work again", LONG_BOOT, async || {
        appears(lab, "/ran-again").await.then_some(())
    })
    .await;
    assert_eq!(runs(&["/bin/hostname"]).as_deref(), Some("renamed"));

    client.done("web1", "force-stop").await;
    assert_eq!(client.delete(format!("{V}/web1")).await.status, 204);
    assert_eq!(lab.volumes(), ["web1.qcow2"], "the seed goes with its VM, the disk does not");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_or_fails_leaves_no_seed() {
    let Some(world) = World::start("seed").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let with = |cloud_init: Value| {
        let mut body = guest::body("one");
        body["cloud_init"] = cloud_init;
        body
    };
    let refused = client.post(V, &with(json!({"user_data": "#cloud-config\na: [\n"}))).await;
    let refused = refused.refused(400, "INVALID_REQUEST");
    assert_eq!(refused.details()["fields"][0]["field"], "cloud_init.user_data");
    assert!(refused.details()["line"].is_u64(), "{refused:?}");
    client.post(V, &with(json!({"user_data": "echo"}))).await.refused(400, "INVALID_REQUEST");
    let both = json!({"user_data": "#!/bin/sh\n", "packages": ["nginx"]});
    client.post(V, &with(both)).await.refused(422, "IMPOSSIBLE");
    assert!(lab.volumes().is_empty() && lab.names(&["list", "--all", "--name"]).is_empty());

    // A plan writes nothing and shows nothing.
    let plan = client.post(format!("{V}?dry_run=true"), &with(json!({"password": "sesame"}))).await;
    assert_eq!(plan.status, 200, "{plan:?}");
    let text = plan.data().to_string();
    assert!(text.contains("one-cloud-init.img") && !text.contains("sesame"), "{text}");
    assert!(!text.contains("$6$") && lab.volumes().is_empty());

    // More memory than QEMU can address: it is defined, and its start fails.
    let mut body = with(json!({"password": "sesame"}));
    body["memory"] = json!(67_108_864);
    body["start"] = json!(true);
    client.post(V, &body).await.refused(422, "LIBVIRT_REFUSED");
    assert!(lab.volumes().is_empty(), "{:?}", lab.volumes());
    assert!(lab.names(&["list", "--all", "--name"]).is_empty());

    body["memory"] = json!(64);
    body["start"] = json!(false);
    assert_eq!(client.post(V, &body).await.status, 201);
    assert_eq!(lab.volumes(), ["one-cloud-init.img", "one.qcow2"]);
    let image = lab.pool_file("one-cloud-init.img");
    let label = lab.exec(&["blkid", "-p", "-o", "export", &image]);
    assert!(label.contains("LABEL=CIDATA") && label.contains("TYPE=vfat"), "{label}");
    let gone = client.delete(format!("{V}/one?remove_disks=true")).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert!(lab.volumes().is_empty(), "{:?}", lab.volumes());
    world.finish().await;
}

/// What a seed's image holds, read by mtools.
fn document(world: &World, image: &str, name: &str) -> String {
    world.lab.exec(&["mtype", "-i", &world.lab.pool_file(image), &format!("::{name}")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_without_a_seed_gets_one_with_its_first_documents() {
    let Some(world) = World::start("late").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    world.make("one", false).await;
    let path = format!("{V}/one");
    let image = "one-cloud-init.img";
    let first = json!({"title": "told", "cloud_init": {"hostname": "late", "password": "sesame"}});

    let plan = client.call("PATCH", format!("{path}?dry_run=true")).json(&first).send().await;
    let text = plan.data().to_string();
    assert!(text.contains(image) && text.contains("+    <disk"), "{text}");
    assert!(!text.contains("sesame") && !text.contains("$6$"), "{text}");
    assert_eq!(lab.volumes(), ["one.qcow2"], "a plan makes nothing");
    let vm = client.patch(&path, &first).await;
    let vm = vm.data();
    let seed = json!({"pool": "lab", "volume": image});
    assert_eq!((&vm["title"], &vm["cloud_init"]["volume"]), (&json!("told"), &seed), "{vm}");
    assert_eq!(vm["cloud_init"]["hostname"], "late", "{vm}");
    assert_eq!(lab.volumes(), [image, "one.qcow2"]);
    let meta = document(&world, image, "meta-data");
    assert!(meta.contains("local-hostname") && meta.contains("late"), "{meta}");
    assert!(document(&world, image, "user-data").contains("$6$"));
    let id = vm["cloud_init"]["instance_id"].clone();

    // The second ones go into the same image, and what they do not speak of stays.
    let second = json!({"cloud_init": {"hostname": "later"}});
    let vm = client.patch(&path, &second).await.data().clone();
    assert_eq!(vm["cloud_init"]["volume"], seed, "{vm}");
    assert_ne!(vm["cloud_init"]["instance_id"], id, "{vm}");
    assert!(document(&world, image, "user-data").contains("$6$"));
    let meta = document(&world, image, "meta-data");
    assert!(meta.contains("later"), "{meta}");

    // An image that was cut off in the middle is replaced, by whoever says the whole.
    lab.exec(&["truncate", "-s", "0", &lab.pool_file(image)]);
    lab.exec(&["truncate", "-s", "65536", &lab.pool_file(image)]);
    let partly = client.patch(&path, &second).await;
    assert!(!partly.is_success(), "{partly:?}");
    let whole = json!({"cloud_init": {"hostname": "whole", "user_data": "#!/bin/sh\n"}});
    let vm = client.patch(&path, &whole).await;
    assert_eq!(vm.status, 200, "{vm:?}");
    assert_eq!(document(&world, image, "user-data").trim(), "#!/bin/sh");
    assert_eq!(client.delete(format!("{path}?remove_disks=true")).await.status, 204);
    assert!(lab.volumes().is_empty(), "{:?}", lab.volumes());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_finds_its_first_documents_with_its_next_boot_and_a_refusal_leaves_none() {
    let Some(world) = World::start("lateboot").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let mac = "52:54:00:77:00:21";
    let mut body = guest::body("one");
    body["networks"] = json!([{"type": "network", "source": "lab", "mac": mac}]);
    body["start"] = json!(true);
    assert_eq!(client.post(V, &body).await.status, 201);
    let path = format!("{V}/one");
    let told = json!({"cloud_init": {"hostname": "late"}});
    let mut wrong = told.clone();
    wrong["networks"] = json!([{"mac": mac, "type": "bridge", "source": "nobridge9"}]);
    let before = lab.virsh(&["dumpxml", "--inactive", "one"]);
    let refused = client.patch(&path, &wrong).await;
    assert!(!refused.is_success(), "{refused:?}");
    assert_eq!(lab.virsh(&["dumpxml", "--inactive", "one"]), before);
    assert_eq!(lab.volumes(), ["one.qcow2"]);

    // A volume of that name is somebody's.
    lab.virsh(&["vol-create-as", "lab", "one-cloud-init.img", "1M"]);
    lab.virsh(&["pool-refresh", "lab"]);
    client.post("/api/v1/virtualization/storages/pools/lab/refresh", &json!({})).await;
    client.patch(&path, &told).await.refused(409, "VOLUME_ALREADY_EXISTS");
    lab.virsh(&["vol-delete", "--pool", "lab", "one-cloud-init.img"]);

    let vm = client.patch(&path, &told).await;
    assert_eq!(vm.status, 200, "{vm:?}");
    let changes = vm.data()["pending"]["changes"].to_string();
    assert!(changes.contains("one-cloud-init.img"), "{changes}");
    // Once more before it boots: into the disk that it will have.
    let vm = client.patch(&path, &json!({"cloud_init": {"hostname": "later"}})).await;
    assert_eq!(vm.status, 200, "{vm:?}");
    assert_eq!(lab.volumes(), ["one-cloud-init.img", "one.qcow2"]);
    client.done("one", "force-stop").await;
    client.done("one", "start").await;
    let vm = client.vm("one").await;
    assert_eq!(vm["cloud_init"]["hostname"], "later", "{vm}");
    assert_eq!(vm["pending"], json!(null), "{vm}");
    assert!(lab.virsh(&["domblklist", "one"]).contains("one-cloud-init.img"));
    world.finish().await;
}
