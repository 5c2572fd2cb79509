//! Volumes on a real libvirtd: formats and room, running guests and their chains, copies that are
//! watched, cancelled and cut off, and pools that are full, stopped or gone.

#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use serde_json::{Value, json};
use support::{Client, Reply, SOON, V, World, eventually, guest};

const POOLS: &str = "/api/v1/virtualization/storages/pools";
const LONG: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

fn volumes(pool: &str) -> String {
    format!("{POOLS}/{pool}/volumes")
}

fn volume(pool: &str, name: &str) -> String {
    let name: String = name
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect();
    format!("{POOLS}/{pool}/volumes/{name}")
}

async fn made(client: &Client, pool: &str, body: Value) -> Value {
    let reply = client.post(volumes(pool), &body).await;
    assert_eq!(reply.status, 201, "{body}: {reply:?}");
    reply.data().clone()
}

/// A change that is waited for.
async fn change(client: &Client, path: String, body: Value) -> Reply {
    client.call("POST", path).header("prefer", "wait=60").json(&body).send().await
}

async fn got(client: &Client, pool: &str, name: &str) -> Value {
    let reply = client.get(volume(pool, name)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.data().clone()
}

async fn names(client: &Client, pool: &str) -> Vec<String> {
    let reply = client.get(volumes(pool)).await;
    let volumes = reply.data()["volumes"].as_array().expect("an array").clone();
    volumes.iter().map(|volume| volume["name"].as_str().expect("a name").to_owned()).collect()
}

/// A raw volume of this size that is no run of zeros, made behind Vapor's back.
async fn stuffed(world: &World, name: &str, bytes: u64) {
    let file = std::fs::File::create(world.lab.pool_file(name)).expect("created");
    let mut source = std::io::Read::take(std::fs::File::open("/dev/urandom").expect("open"), bytes);
    std::io::copy(&mut source, &mut &file).expect("written");
    world.lab.virsh(&["pool-refresh", "lab"]);
    eventually(&format!("{name} is seen"), SOON, async || {
        (world.client.get(volume("lab", name)).await.status == 200).then_some(())
    })
    .await;
}

/// A small pool on a file system of its own, made behind Vapor's back.
async fn small(world: &World, size: &str) {
    let folder = world.lab.folder().join("small").display().to_string();
    world.lab.exec(&["mkdir", "-p", &folder]);
    world.lab.exec(&["mount", "-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", &folder]);
    world.lab.virsh(&["pool-create-as", "small", "dir", "--target", &folder]);
    seen(world, "small").await;
}

async fn seen(world: &World, pool: &str) {
    eventually(&format!("the pool {pool} is seen"), SOON, async || {
        let reply = world.client.get(format!("{POOLS}/{pool}")).await;
        (reply.status == 200 && reply.data()["state"] == "running").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_takes_its_room_grows_shrinks_is_wiped_and_goes() {
    let Some(world) = World::start("volume").await else { return };
    let client = &world.client;
    for (format, preallocation, least) in [
        ("qcow2", "off", 0),
        ("qcow2", "metadata", 0),
        ("qcow2", "falloc", 10 * MIB),
        ("raw", "off", 0),
        ("raw", "falloc", 10 * MIB),
        ("raw", "full", 10 * MIB),
    ] {
        let name = format!("{format}-{preallocation}");
        let body = json!({"name": name, "capacity_bytes": 10 * MIB, "format": format,
            "preallocation": preallocation});
        let new = made(client, "lab", body).await;
        let allocation = new["allocation_bytes"].as_u64().expect("a number");
        assert_eq!((&new["capacity_bytes"], &new["format"]), (&json!(10 * MIB), &json!(format)));
        assert!(allocation >= least && (least > 0 || allocation < MIB), "{new:#}");
        assert_eq!(new["permissions"]["mode"], "0600");
        assert!(new["modified_at"].is_string(), "{new:#}");
    }
    // Names that a file can have.
    for name in ["a b.c.qcow2", "ünï🦀.raw", "x,y:z", "-dash", "q'\"q", "100%41"] {
        let new = made(client, "lab", json!({"name": name, "size": 1})).await;
        assert_eq!(new["name"], name);
        assert_eq!(got(client, "lab", name).await, new);
        let grown = change(client, volume("lab", name) + "/resize", json!({"size": 2})).await;
        assert_eq!(grown.data()["capacity_bytes"], 2048 * MIB, "{grown:?}");
        assert_eq!(client.delete(volume("lab", name)).await.status, 204, "{name}");
    }
    let path = volume("lab", "qcow2-off") + "/resize";
    let grown = change(client, path.clone(), json!({"capacity_bytes": 20 * MIB})).await;
    assert_eq!((grown.status, &grown.data()["capacity_bytes"]), (200, &json!(20 * MIB)));
    let small = json!({"capacity_bytes": 5 * MIB});
    change(client, path.clone(), small).await.refused(422, "IMPOSSIBLE");
    let small = json!({"capacity_bytes": 5 * MIB, "shrink": true});
    let shrunk = change(client, path, small.clone()).await;
    assert_eq!((shrunk.status, &shrunk.data()["capacity_bytes"]), (200, &json!(5 * MIB)));
    // What is allocated of a raw volume is not cut off.
    let path = volume("lab", "raw-falloc") + "/resize";
    change(client, path, small).await.refused(422, "IMPOSSIBLE");
    let huge = json!({"name": "huge", "format": "raw", "capacity_bytes": 1_u64 << 52});
    client.post(volumes("lab"), &huge).await.refused(422, "IMPOSSIBLE");
    assert!(!world.lab.volumes().contains(&"huge".to_owned()));

    // A wiped image is an empty one of the same kind.
    let before = got(client, "lab", "qcow2-falloc").await;
    let wiped = change(client, volume("lab", "qcow2-falloc") + "/wipe", json!({})).await;
    assert_eq!(wiped.status, 200, "{wiped:?}");
    let after = wiped.data();
    for field in ["format", "capacity_bytes", "path"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert!(after["allocation_bytes"].as_u64() < Some(MIB), "{after:#}");
    std::fs::write(world.lab.pool_file("secret"), vec![7; 1 << 20]).expect("written");
    world.lab.virsh(&["pool-refresh", "lab"]);
    eventually("the secret is seen", SOON, async || {
        (client.get(volume("lab", "secret")).await.status == 200).then_some(())
    })
    .await;
    let wiped = change(client, volume("lab", "secret") + "/wipe", json!({})).await;
    assert_eq!(wiped.status, 200, "{wiped:?}");
    let content = std::fs::read(world.lab.pool_file("secret")).expect("read");
    assert!(content.len() == 1 << 20 && content.iter().all(|byte| *byte == 0));
    let trim = change(client, volume("lab", "secret") + "/wipe", json!({"algorithm": "trim"}));
    trim.await.refused(422, "NOT_SUPPORTED");
    // A file that libvirt does not know yet is not overwritten.
    std::fs::write(world.lab.pool_file("precious"), "precious").expect("written");
    let body = json!({"name": "precious", "size": 1});
    client.post(volumes("lab"), &body).await.refused(409, "VOLUME_ALREADY_EXISTS");
    assert_eq!(std::fs::read(world.lab.pool_file("precious")).expect("read"), b"precious");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_guests_chain_is_known_and_its_disk_grows_before_its_eyes() {
    let Some(world) = World::start("chain").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    made(client, "lab", json!({"name": "base", "capacity_bytes": 64 * MIB})).await;
    let backing = json!({"pool": "lab", "volume": "base"});
    made(client, "lab", json!({"name": "top", "capacity_bytes": 64 * MIB, "backing": backing}))
        .await;
    made(client, "lab", json!({"name": "other", "capacity_bytes": 65 * MIB, "backing": backing}))
        .await;
    let mut body = guest::empty_body("chained");
    body["storage"] = json!({"disks": [{"action": "attach", "pool": "lab", "volume": "top"}]});
    body["start"] = json!(true);
    let vm = client.post(V, &body).await;
    assert_eq!(vm.status, 201, "{vm:?}");
    let base = got(client, "lab", "base").await;
    assert_eq!(base["used_as"], json!({"chained": "backing"}));
    let dependents = json!([{"pool": "lab", "volume": "other"}, {"pool": "lab", "volume": "top"}]);
    assert_eq!(base["backing_of"], dependents);
    let refused = client.delete(volume("lab", "base")).await.refused(409, "VOLUME_IN_USE");
    assert_eq!(refused.details()["vms"], json!(["chained"]));
    assert_eq!(refused.details()["volumes"], json!(["lab/other", "lab/top"]));
    change(client, volume("lab", "base") + "/wipe", json!({})).await.refused(409, "VOLUME_IN_USE");
    let grow = json!({"capacity_bytes": 128 * MIB});
    change(client, volume("lab", "base") + "/resize", grow.clone())
        .await
        .refused(409, "VOLUME_IN_USE");
    // A copy of a disk that is being written to would be of no single moment.
    for linked in [false, true] {
        let copy = json!({"name": "copy", "linked": linked});
        let refused = change(client, volume("lab", "top") + "/clone", copy).await;
        let refused = refused.refused(409, "VOLUME_IN_USE");
        assert_eq!(refused.details()["vms"], json!(["chained"]));
    }

    let grown = change(client, volume("lab", "top") + "/resize", grow).await;
    assert_eq!(
        (grown.status, &grown.data()["capacity_bytes"]),
        (200, &json!(128 * MIB)),
        "{grown:?}"
    );
    let told = lab.virsh(&["domblkinfo", "chained", "vda"]);
    assert!(told.contains(&(128 * MIB).to_string()), "QEMU has {told}");
    assert_eq!(client.vm("chained").await["disks"][0]["capacity_bytes"], 128 * MIB);
    let shrink = json!({"capacity_bytes": 64 * MIB, "shrink": true});
    change(client, volume("lab", "top") + "/resize", shrink).await.refused(409, "VOLUME_IN_USE");

    // A snapshot by another hand puts a new layer on top, and no event tells of it: what it put
    // there is not deleted all the same.
    let spec = format!("vda,snapshot=external,file={}", lab.pool_file("layer"));
    let words = ["snapshot-create-as", "chained", "s1", "--disk-only", "--no-metadata"];
    lab.virsh(&[&words[..], &["--diskspec", &spec]].concat());
    lab.virsh(&["pool-refresh", "lab"]);
    eventually("the layer is seen", SOON, async || {
        (client.get(volume("lab", "layer")).await.status == 200).then_some(())
    })
    .await;
    let refused = client.delete(volume("lab", "layer")).await.refused(409, "VOLUME_IN_USE");
    assert_eq!(refused.details()["vms"], json!(["chained"]));
    let layer = got(client, "lab", "layer").await;
    assert_eq!(layer["used_as"], json!({"chained": "disk"}));
    let below: Vec<&Value> =
        layer["backing_chain"].as_array().expect("a chain").iter().map(|f| &f["volume"]).collect();
    assert_eq!(below, ["top", "base"]);
    for name in ["top", "base"] {
        let used_as = &got(client, "lab", name).await["used_as"];
        assert_eq!(used_as, &json!({"chained": "backing"}), "{name}");
    }
    client.delete(volume("lab", "top")).await.refused(409, "VOLUME_IN_USE");
    client.done("chained", "force-stop").await;
    assert_eq!(client.delete(format!("{V}/chained")).await.status, 204);
    // No VM any more, and still two volumes stand on it.
    let refused = client.delete(volume("lab", "base")).await.refused(409, "VOLUME_IN_USE");
    assert_eq!(refused.details()["vms"], json!([]));
    for name in ["other", "layer", "top", "base"] {
        assert_eq!(client.delete(volume("lab", name)).await.status, 204, "{name}");
    }
    assert!(lab.volumes().is_empty(), "{:?}", lab.volumes());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_tells_how_far_it_is_and_a_cancelled_one_is_gone() {
    let Some(world) = World::start("copy").await else { return };
    let client = &world.client;
    stuffed(&world, "big", 768 * MIB).await;
    let reply = client.post(volume("lab", "big") + "/clone", &json!({"name": "copy"})).await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let id = reply.task().expect("a task");
    let halfway = eventually("the copy tells how far it is", LONG, async || {
        let task = client.task(&id).await;
        assert!(task["status"] == "running", "{task:#}");
        let done = task["progress"]["bytes_done"].as_u64();
        done.is_some_and(|bytes| bytes > 0).then_some(task)
    })
    .await;
    let progress = &halfway["progress"];
    assert_eq!(
        (&progress["bytes_total"], &progress["phase"]),
        (&json!(768 * MIB), &json!("copying"))
    );
    assert!(progress["percent"].as_u64() < Some(100), "{progress}");
    // While it is copied nobody else works on it.
    client.delete(volume("lab", "big")).await.refused(409, "VOLUME_BUSY");
    let cancelled = client.call("POST", format!("/api/v1/tasks/{id}/cancel")).send().await;
    assert!(cancelled.status < 300, "{cancelled:?}");
    let task = client.finished(&id, LONG).await;
    assert_eq!(task["status"], "cancelled", "{task:#}");
    assert_eq!(world.lab.volumes(), ["big"]);
    assert_eq!(names(client, "lab").await, ["big"]);

    // Across pools and to its end.
    let reply = change(
        client,
        volume("lab", "big") + "/clone",
        json!({"name": "whole.qcow2", "pool": "guest", "format": "qcow2"}),
    )
    .await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let whole = reply.data();
    assert_eq!((&whole["pool"], &whole["format"]), (&json!("guest"), &json!("qcow2")));
    assert!(whole["allocation_bytes"].as_u64() >= Some(768 * MIB), "{whole:#}");
    assert_eq!(client.delete(volume("guest", "whole.qcow2")).await.status, 204);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_others_made_a_moment_ago_goes_with_its_vm() {
    let Some(world) = World::start("others").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    assert_eq!(client.post(V, &guest::empty_body("theirs")).await.status, 201);
    lab.virsh(&["vol-create-as", "lab", "theirs.img", "1M"]);
    let path = lab.pool_file("theirs.img");
    lab.virsh(&["attach-disk", "theirs", &path, "vdx", "--config", "--targetbus", "virtio"]);
    eventually("the disk is seen", SOON, async || {
        let vm = client.vm("theirs").await;
        vm["disks"].as_array()?.iter().find(|disk| disk["target"] == "vdx").map(drop)
    })
    .await;
    let reply = client.delete(format!("{V}/theirs?remove_disks=true")).await;
    assert_eq!(reply.status, 204, "{reply:?}");
    assert!(lab.volumes().is_empty(), "{:?}", lab.volumes());
    assert!(names(client, "lab").await.is_empty());
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_others_freed_a_moment_ago_is_free() {
    let Some(world) = World::start("freed").await else { return };
    let client = &world.client;
    let body = json!({"name": "one", "capacity_bytes": MIB, "format": "raw"});
    made(client, "lab", body.clone()).await;
    client.post(volumes("lab"), &body).await.refused(409, "VOLUME_ALREADY_EXISTS");
    let again: [(&str, Value); 2] =
        [("", body.clone()), ("/keep/clone", json!({"name": "one", "pool": "lab"}))];
    made(client, "lab", json!({"name": "keep", "capacity_bytes": MIB, "format": "raw"})).await;
    for (path, body) in again {
        world.lab.virsh(&["vol-delete", "--pool", "lab", "one"]);
        let path = volumes("lab") + path;
        let reply = client.call("POST", path).header("prefer", "wait=30").json(&body).send().await;
        assert_eq!(reply.status, 201, "{reply:?}");
    }
    world.lab.virsh(&["vol-delete", "--pool", "lab", "one"]);
    let upload = client.call("POST", volume("lab", "one") + "/upload").bytes("x").send().await;
    assert_eq!(upload.status, 201, "{upload:?}");
    // The disk of a VM's copy has a name that follows from the copy's.
    assert_eq!(client.post(V, &guest::body("web")).await.status, 201);
    let second = json!({"name": "web2.qcow2", "capacity_bytes": MIB});
    made(client, "lab", second).await;
    let copy = || {
        let clone = client.call("POST", format!("{V}/web/clone")).header("prefer", "wait=60");
        clone.json(&json!({"name": "web2"})).send()
    };
    copy().await.refused(409, "VOLUME_ALREADY_EXISTS");
    world.lab.virsh(&["vol-delete", "--pool", "lab", "web2.qcow2"]);
    let copied = copy().await;
    assert_eq!(copied.status, 201, "{copied:?}");
    // So have a new VM's and a template's disks, and what an image is converted into is named.
    let wishes = [
        (V.to_owned(), guest::body("web3"), "web3.qcow2"),
        (format!("{V}/web/template"), json!({"name": "base"}), "base.qcow2"),
        (volume("lab", "keep") + "/import", json!({"name": "new", "format": "qcow2"}), "new"),
    ];
    for (path, body, name) in wishes {
        made(client, "lab", json!({"name": name, "capacity_bytes": MIB})).await;
        let wish = || client.call("POST", &path).header("prefer", "wait=60").json(&body).send();
        wish().await.refused(409, "VOLUME_ALREADY_EXISTS");
        world.lab.virsh(&["vol-delete", "--pool", "lab", name]);
        let reply = wish().await;
        assert_eq!(reply.status, 201, "{path}: {reply:?}");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_layers_held_that_others_deleted_a_moment_ago_may_go() {
    let Some(world) = World::start("layers").await else { return };
    let client = &world.client;
    small(&world, "20M").await;
    // The layer is in another pool, so that deleting the base's pool would not take it along.
    let layered = async |base: &str| {
        made(client, "small", json!({"name": base, "size": 1})).await;
        let backing = json!({"pool": "small", "volume": base});
        made(client, "lab", json!({"name": "layer", "size": 1, "backing": backing})).await;
    };
    let unlayer = || world.lab.virsh(&["vol-delete", "--pool", "lab", "layer"]);
    layered("wiped").await;
    let wipe = || {
        client
            .call("POST", volume("small", "wiped") + "/wipe")
            .header("prefer", "wait=30")
            .json(&json!({}))
            .send()
    };
    wipe().await.refused(409, "VOLUME_IN_USE");
    unlayer();
    let reply = wipe().await;
    assert_eq!(reply.status, 200, "{reply:?}");

    layered("base").await;
    client.delete(volume("small", "base")).await.refused(409, "VOLUME_IN_USE");
    unlayer();
    let plan = client.call("DELETE", volume("small", "base") + "?dry_run=true").send().await;
    assert_eq!(plan.data()["blockers"], json!([]), "{plan:?}");
    let reply = client.delete(volume("small", "base")).await;
    assert_eq!(reply.status, 204, "{reply:?}");

    layered("again").await;
    let pool = format!("{POOLS}/small");
    client.delete(format!("{pool}?delete_volumes=true")).await.refused(409, "VOLUME_IN_USE");
    unlayer();
    for name in ["again", "wiped"] {
        client.delete(&*pool).await.refused(409, "POOL_NOT_EMPTY");
        world.lab.virsh(&["vol-delete", "--pool", "small", name]);
    }
    let reply = client.delete(&*pool).await;
    assert_eq!(reply.status, 204, "{reply:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_a_stopped_and_a_vanished_pool_leave_everything_as_it_was() {
    let Some(world) = World::start("full").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    stuffed(&world, "source", 40 * MIB).await;
    small(&world, "20M").await;
    made(client, "small", json!({"name": "kept", "size": 1})).await;
    for format in ["raw", "qcow2"] {
        let body = json!({"name": "copy", "pool": "small", "format": format});
        let reply = change(client, volume("lab", "source") + "/clone", body).await;
        let reply = reply.refused(422, "INSUFFICIENT_SPACE");
        assert_eq!(reply.details()["source"], "lab/source");
        let body = json!({"name": "new", "capacity_bytes": 40 * MIB, "format": format,
            "preallocation": "falloc"});
        client.post(volumes("small"), &body).await.refused(422, "INSUFFICIENT_SPACE");
        assert_eq!(names(client, "small").await, ["kept"], "{format}");
        lab.virsh(&["pool-refresh", "small"]);
        assert_eq!(lab.virsh(&["vol-list", "small"]).lines().count(), 1);
    }
    // The source's file goes without anybody being told.
    std::fs::remove_file(lab.pool_file("source")).expect("removed");
    let body = json!({"name": "copy", "format": "qcow2"});
    let reply = change(client, volume("lab", "source") + "/clone", body.clone()).await;
    let reply = reply.refused(404, "VOLUME_NOT_FOUND");
    assert!(reply.text.contains("source"), "{reply:?}");
    // Two of one name at once: one is made.
    let body = json!({"name": "one", "size": 1});
    let (one, other) =
        tokio::join!(client.post(volumes("lab"), &body), client.post(volumes("lab"), &body));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 409], "{one:?} {other:?}");
    // The pool's folder goes, then the pool.
    let gone = lab.folder().join("gone").display().to_string();
    lab.exec(&["mkdir", &gone]);
    lab.virsh(&["pool-create-as", "gone", "dir", "--target", &gone]);
    seen(&world, "gone").await;
    lab.exec(&["rmdir", &gone]);
    client.post(volumes("gone"), &body).await.refused(409, "POOL_INACTIVE");
    lab.virsh(&["pool-destroy", "gone"]);
    let reply = client.post(volumes("gone"), &body).await;
    assert!(matches!(reply.code(), "POOL_NOT_FOUND" | "POOL_INACTIVE"), "{reply:?}");
    eventually("the pool is gone", SOON, async || {
        (client.get(volumes("gone")).await.status == 404).then_some(())
    })
    .await;
    lab.virsh(&["pool-destroy", "small"]);
    lab.exec(&["umount", &lab.folder().join("small").display().to_string()]);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_each_verdict_on_a_volume_is_true() {
    let Some(mut world) = World::start("cut").await else { return };
    stuffed(&world, "big", 512 * MIB).await;
    let client = world.daemon.client();
    // The copy is under way: libvirt goes on with it, and the next daemon follows it to its end.
    let body = json!({"name": "followed"});
    let reply = client.post(volume("lab", "big") + "/clone", &body).await;
    let id = reply.task().expect("a task");
    eventually("libvirt copies", SOON, async || {
        world.lab.try_virsh(&["vol-info", "followed", "lab"]).ok()
    })
    .await;
    world.daemon.kill9();
    world.daemon.start_again().await;
    client.delete(volume("lab", "followed")).await.refused(409, "VOLUME_BUSY");
    let task = client.finished(&id, LONG).await;
    assert_eq!(task["status"], "succeeded", "{task:#}");
    assert_eq!(task["result"]["capacity_bytes"], 512 * MIB);

    // libvirt dies with it: what is there may be half, and goes.
    let reply = client.post(volume("lab", "big") + "/clone", &json!({"name": "half"})).await;
    let id = reply.task().expect("a task");
    eventually("libvirt copies", SOON, async || {
        world.lab.try_virsh(&["vol-info", "half", "lab"]).ok()
    })
    .await;
    world.daemon.kill9();
    world.lab.kill_libvirtd();
    world.lab.start_libvirtd();
    world.daemon.start_again().await;
    let task = client.finished(&id, LONG).await;
    assert_eq!(task["status"], "interrupted", "{task:#}");
    assert_eq!(world.lab.volumes(), ["big", "followed"]);

    // Quick ones: what is said is what is.
    for round in 0..6 {
        let name = format!("v{round}");
        let path = match round % 3 {
            0 => volumes("lab"),
            1 => volume("lab", "followed") + "/resize",
            _ => volume("lab", "followed") + "/wipe",
        };
        let wanted = (600 + round) * MIB;
        let body = match round % 3 {
            0 => json!({"name": name, "capacity_bytes": wanted, "format": "raw",
                "preallocation": "falloc"}),
            1 => json!({"capacity_bytes": wanted}),
            _ => json!({}),
        };
        let asked = client.call("POST", path).header("prefer", "respond-async").json(&body);
        let id = asked.send().await.task().expect("a task");
        world.daemon.kill9();
        world.daemon.start_again().await;
        let task = client.finished(&id, LONG).await;
        let status = task["status"].as_str().expect("a status").to_owned();
        match (round % 3, status.as_str()) {
            (0, "succeeded") => {
                assert_eq!(got(&client, "lab", &name).await["capacity_bytes"], wanted);
            }
            (0, "interrupted") => {
                assert!(!world.lab.volumes().contains(&name), "{task:#}");
            }
            (1, "succeeded") => {
                assert_eq!(got(&client, "lab", "followed").await["capacity_bytes"], wanted);
            }
            (1, "interrupted") => {
                assert_ne!(got(&client, "lab", "followed").await["capacity_bytes"], wanted);
            }
            (_, "interrupted" | "succeeded") => {
                assert_eq!(client.get(volume("lab", "followed")).await.status, 200);
            }
            other => panic!("{other:?}: {task:#}"),
        }
    }
    world.finish().await;
}
