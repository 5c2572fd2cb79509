//! ISO images and media on a private libvirtd: images made by genisoimage, drives of real guests.

#[path = "support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use support::{BOOT, Client, Lab, SOON, V, World, eventually, guest};

const ISOS: &str = "/api/v1/virtualization/isos";

/// An image with this label and so many MiB of content, as a volume of the pool `lab`.
fn image(lab: &Lab, name: &str, label: &str, mebibytes: usize) {
    let content = tempfile::tempdir().expect("a folder");
    let mut bytes = vec![0u8; mebibytes << 20];
    // Not all alike, so that a part in the wrong place would be noticed.
    bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at >> 12) as u8);
    std::fs::write(content.path().join("DATA"), bytes).expect("written");
    support::lab::run(
        Command::new("genisoimage")
            .args(["-quiet", "-V", label, "-publisher", "VAPOR TESTS", "-sysid", "LINUX", "-o"])
            .arg(lab.pool_file(name))
            .arg(content.path()),
    );
    lab.virsh(&["pool-refresh", "lab"]);
}

fn sha256sum(path: impl AsRef<Path>) -> String {
    let said = support::lab::run(Command::new("sha256sum").arg(path.as_ref()));
    said.split_whitespace().next().expect("a sum").to_owned()
}

async fn known(client: &Client, volume: &str) {
    let path = format!("/api/v1/virtualization/storages/pools/lab/volumes/{volume}");
    // The files came behind the daemon's back, and a refresh of the pool is an event.
    eventually(&format!("{volume} is in the picture"), SOON, async || {
        (client.get(path.as_str()).await.status == 200).then_some(())
    })
    .await;
}

async fn register(client: &Client, volume: &str, name: &str) -> Value {
    known(client, volume).await;
    let body = json!({"pool": "lab", "volume": volume, "name": name});
    let reply = client.post(ISOS, &body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let location = reply.header("location").expect("a place").to_owned();
    assert_eq!(client.get(location).await.data()["name"], name);
    reply.data().clone()
}

async fn summed(client: &Client, name: &str) -> Value {
    eventually(&format!("{name} has its checksum"), BOOT, async || {
        let iso = client.get(format!("{ISOS}/{name}")).await.data().clone();
        (iso["checksum"]["status"] != "pending").then_some(iso)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_lives_from_its_registration_to_its_deletion() {
    let Some(world) = World::start("isos").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    image(lab, "debian.iso", "Debian 11.5.0 amd64 n", 3);
    image(lab, "plain.iso", "VAPOR_PLAIN", 1);
    std::fs::write(lab.pool_file("text.iso"), "no file system at all").expect("written");
    std::fs::write(lab.pool_file("zeroes.iso"), vec![0u8; 1 << 20]).expect("written");
    lab.virsh(&["pool-refresh", "lab"]);

    let iso = register(client, "debian.iso", "debian").await;
    let header = &iso["header"];
    assert_eq!((&header["format"], &header["bootable"]), (&json!("iso9660"), &json!(false)));
    assert_eq!(header["volume_id"], "Debian 11.5.0 amd64 n");
    assert_eq!(
        (&header["publisher"], &header["system_id"]),
        (&json!("VAPOR TESTS"), &json!("LINUX"))
    );
    let size = std::fs::metadata(lab.pool_file("debian.iso")).expect("a file").len();
    assert_eq!((&iso["size_bytes"], &iso["state"]), (&json!(size), &json!("available")));
    if Path::new("/usr/share/osinfo/os").is_dir() {
        assert_eq!(
            (&iso["os_variant"], &iso["detected_os"]["architecture"]),
            (&json!("debian11"), &json!("x86_64"))
        );
    }
    let iso = summed(client, "debian").await;
    assert_eq!(iso["checksum"]["sha256"], sha256sum(lab.pool_file("debian.iso")));

    // Said by the one who registers, and of a self-booting image.
    known(client, "plain.iso").await;
    let body = json!({"pool": "lab", "volume": "plain.iso", "os_variant": "no-such-os"});
    if Path::new("/usr/share/osinfo/os").is_dir() {
        client.post(ISOS, &body).await.refused(422, "NOT_SUPPORTED");
    }
    let body = json!({"pool": "lab", "volume": "plain.iso", "os_variant": "debian10",
        "description": "two\nlines"});
    let plain = client.post(ISOS, &body).await;
    assert_eq!(plain.status, 201, "{plain:?}");
    let plain = plain.data();
    assert_eq!((&plain["name"], &plain["os_variant"]), (&json!("plain.iso"), &json!("debian10")));
    assert_eq!(
        (&plain["detected_os"], &plain["description"]),
        (&Value::Null, &json!("two\nlines"))
    );
    let body = json!({"pool": "guest", "volume": "tiny.iso"});
    let tiny = client.post(ISOS, &body).await;
    assert_eq!(tiny.data()["header"]["bootable"], true, "{tiny:?}");
    assert_eq!(tiny.data()["header"]["volume_id"], "VAPOR_TINY");

    for volume in ["text.iso", "zeroes.iso"] {
        known(client, volume).await;
        let body = json!({"pool": "lab", "volume": volume});
        let refused = client.post(ISOS, &body).await.refused(422, "NOT_AN_ISO");
        assert!(format!("{refused:?}").contains(volume), "{refused:?}");
        client.get(format!("{ISOS}/{volume}")).await.refused(404, "ISO_NOT_FOUND");
    }
    // A name is taken, a volume is taken; the same key is the same registration.
    let body = json!({"pool": "lab", "volume": "zeroes.iso", "name": "debian"});
    client.post(ISOS, &body).await.refused(409, "ISO_ALREADY_EXISTS");
    image(lab, "twice.iso", "TWICE", 1);
    known(client, "twice.iso").await;
    let body = json!({"pool": "lab", "volume": "twice.iso"});
    let both = async || {
        client.call("POST", ISOS).header("idempotency-key", "one").json(&body).send().await
    };
    let (first, second) = tokio::join!(both(), both());
    assert_eq!((first.status, second.status), (201, 201), "{first:?} {second:?}");
    assert_eq!(first.data()["id"], second.data()["id"]);

    // Content that changes is noticed by its size, and summed anew when asked.
    summed(client, "twice.iso").await;
    image(lab, "twice.iso", "TWICE", 2);
    eventually("the image is told as changed", SOON, async || {
        let iso = client.get(format!("{ISOS}/twice.iso")).await.data().clone();
        (iso["state"] == "changed").then_some(())
    })
    .await;
    let again = client.call("POST", format!("{ISOS}/twice.iso/checksum"));
    let again = again.header("prefer", "wait=60").send().await;
    assert_eq!(
        again.data()["checksum"]["sha256"],
        sha256sum(lab.pool_file("twice.iso")),
        "{again:?}"
    );

    // A volume that vanishes is missing, and its image can go all the same.
    std::fs::remove_file(lab.pool_file("plain.iso")).expect("removed");
    lab.virsh(&["pool-refresh", "lab"]);
    eventually("the image is told as missing", SOON, async || {
        let iso = client.get(format!("{ISOS}/plain.iso")).await.data().clone();
        (iso["state"] == "missing").then_some(())
    })
    .await;
    assert_eq!(client.delete(format!("{ISOS}/plain.iso")).await.status, 204);
    assert_eq!(client.delete(format!("{ISOS}/debian")).await.status, 204);
    assert!(Path::new(&lab.pool_file("debian.iso")).exists(), "the volume stays");
    assert_eq!(client.delete(format!("{ISOS}/twice.iso?delete_volume=true")).await.status, 204);
    assert!(!Path::new(&lab.pool_file("twice.iso")).exists(), "the volume goes");
    let left = client.get(ISOS).await;
    assert_eq!(left.data()["total"], 1, "{left:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_uploaded_into_the_library_and_downloaded() {
    let Some(world) = World::start("isoup").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name);
    image(lab, "made.iso", "UPLOADED", 3);
    // Perhaps to another file system.
    std::fs::copy(lab.pool_file("made.iso"), file("up.iso")).expect("copied");
    std::fs::remove_file(lab.pool_file("made.iso")).expect("removed");
    lab.virsh(&["pool-refresh", "lab"]);
    let vapor = |words: &[&str]| {
        let socket = world.daemon.settings().socket.clone();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vapor"));
        command.env("VAPOR_SOCKET", socket).args(words).current_dir(folder.path());
        command.output().expect("vapor runs")
    };
    let done = vapor(&["iso", "upload", "up.iso", "--pool", "lab"]);
    assert!(done.status.success(), "{done:?}");
    let iso = client.get(format!("{ISOS}/up.iso")).await.data().clone();
    let sum = sha256sum(file("up.iso"));
    assert_eq!(iso["checksum"], json!({"status": "done", "sha256": sum}), "{iso}");
    assert_eq!((&iso["pool"], &iso["header"]["volume_id"]), (&json!("lab"), &json!("UPLOADED")));
    let done = vapor(&["iso", "download", "up.iso", "down.iso"]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(sha256sum(file("down.iso")), sum);
    let shown = vapor(&["iso", "show", "up.iso"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(&sum), "{shown:?}");
    let part = client.call("GET", format!("{ISOS}/up.iso/download"));
    let part = part.header("range", "bytes=32769-32773").send().await;
    assert_eq!((part.status, part.text.as_str()), (206, "CD001"), "{part:?}");
    let missing = client.get(format!("{ISOS}/none/download")).await;
    missing.refused(404, "ISO_NOT_FOUND");

    // What is no image leaves neither a volume nor an entry.
    std::fs::write(file("text.iso"), vec![b'x'; 100_000]).expect("written");
    let refused = vapor(&["iso", "upload", "text.iso", "--pool", "lab"]);
    assert!(!refused.status.success(), "{refused:?}");
    assert_eq!(lab.volumes(), ["up.iso"]);
    assert_eq!(client.get(ISOS).await.data()["total"], 1);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checksum_that_was_cut_off_starts_anew() {
    let Some(mut world) = World::start("isosum").await else { return };
    image(&world.lab, "large.iso", "LARGE", 768);
    register(&world.client, "large.iso", "large").await;
    let running = |tasks: Vec<Value>| {
        tasks.into_iter().find(|task| task["kind"] == "iso.checksum" && task["status"] == "running")
    };
    let task = eventually("the checksum is being computed", SOON, async || {
        running(world.client.tasks().await).filter(|task| {
            task["progress"]["bytes_done"].as_u64() > Some(0)
                || task["progress"]["phase"] == "reading"
        })
    })
    .await;
    world.daemon.kill9();
    world.daemon.start_again().await;
    let client = world.daemon.client();
    // Whether it was parked or adopted, it is the same task, and it ends.
    let id = task["id"].as_str().expect("an id");
    let ended = client.finished(id, Duration::from_secs(180)).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let wanted = sha256sum(world.lab.pool_file("large.iso"));
    let iso = client.get(format!("{ISOS}/large")).await.data().clone();
    assert_eq!(iso["checksum"], json!({"status": "done", "sha256": wanted}));

    // One that nobody wants any more makes room.
    let again = client.call("POST", format!("{ISOS}/large/checksum")).send().await;
    assert_eq!(again.status, 202, "{again:?}");
    let id = again.task().expect("a task");
    assert_eq!(client.delete(format!("{ISOS}/large?delete_volume=true")).await.status, 204);
    let ended = client.finished(&id, SOON).await;
    assert!(ended["status"] == "cancelled" || ended["status"] == "succeeded", "{ended}");
    assert!(world.lab.volumes().is_empty());
    world.finish().await;
}

/// What a command says inside the guest.
async fn inside(lab: &Lab, vm: &str, command: &str) -> String {
    let start = json!({"execute": "guest-exec", "arguments": {
        "path": "/bin/sh", "arg": ["-c", command], "capture-output": true}});
    let started = lab.virsh(&["qemu-agent-command", vm, &start.to_string()]);
    let started: Value = serde_json::from_str(&started).expect("JSON");
    let status =
        json!({"execute": "guest-exec-status", "arguments": {"pid": started["return"]["pid"]}});
    eventually("the command has ended", SOON, async || {
        let said = lab.virsh(&["qemu-agent-command", vm, &status.to_string()]);
        let said: Value = serde_json::from_str(&said).expect("JSON");
        (said["return"]["exited"] == true).then(|| {
            use base64::Engine as _;
            let bytes = said["return"]["out-data"].as_str().unwrap_or_default();
            let bytes = base64::engine::general_purpose::STANDARD.decode(bytes).expect("base64");
            String::from_utf8_lossy(&bytes).trim().to_owned()
        })
    })
    .await
}

/// The label of the disc that the guest sees; empty without one.
const LABEL: &str = "dd if=/dev/sr0 bs=1 skip=32808 count=32 2>/dev/null";

#[tokio::test(flavor = "multi_thread")]
async fn a_running_guest_sees_the_medium_that_is_inserted_and_loses_the_one_that_is_ejected() {
    let Some(world) = World::start("media").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    image(lab, "one.iso", "FIRST_DISC", 1);
    image(lab, "two.iso", "SECOND_DISC", 2);
    register(client, "one.iso", "one").await;
    let mut body = guest::body("cd");
    let disks = body["storage"]["disks"].as_array_mut().expect("disks");
    disks.push(json!({"action": "create", "device": "cdrom", "bus": "scsi"}));
    body["start"] = json!(true);
    let made = client.post(V, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    world.booted("cd").await;
    assert_eq!(inside(lab, "cd", LABEL).await, "");

    let media = format!("{V}/cd/media");
    client.post(&media, &json!({"action": "eject"})).await.refused(409, "DRIVE_EMPTY");
    let vm = client.post(&media, &json!({"action": "insert", "iso": "one"})).await;
    assert_eq!(vm.status, 200, "{vm:?}");
    assert_eq!(vm.data()["pending"], Value::Null, "live and stored alike: {vm:?}");
    assert_eq!(inside(lab, "cd", LABEL).await, "FIRST_DISC");
    for inactive in [&["domblklist", "cd"][..], &["domblklist", "cd", "--inactive"]] {
        let list = lab.virsh(inactive);
        assert!(list.contains("one.iso"), "{list}");
    }
    let iso = client.get(format!("{ISOS}/one")).await.data().clone();
    assert_eq!(iso["inserted_in"], json!(["cd"]));
    let refused = client.delete(format!("{ISOS}/one")).await.refused(409, "ISO_IN_USE");
    assert_eq!(refused.details()["vms"], json!(["cd"]));
    let again = client.post(&media, &json!({"action": "insert", "iso": "one"})).await;
    again.refused(409, "MEDIUM_ALREADY_INSERTED");

    // Another one in its place, by its volume.
    known(client, "two.iso").await;
    let two = json!({"action": "insert", "volume": {"pool": "lab", "volume": "two.iso"}});
    assert_eq!(client.post(&media, &two).await.status, 200);
    assert_eq!(inside(lab, "cd", LABEL).await, "SECOND_DISC");
    let size = std::fs::metadata(lab.pool_file("two.iso")).expect("a file").len();
    let sectors = inside(lab, "cd", "cat /sys/block/sr0/size").await;
    assert_eq!(sectors.parse::<u64>().ok(), Some(size / 512));

    // The guest locks the tray: only force opens it, and a refusal leaves everything as it was.
    inside(lab, "cd", "sleep 600 </dev/sr0 >/dev/null 2>&1 & sleep 1").await;
    let before = (lab.virsh(&["dumpxml", "cd", "--inactive"]), inside(lab, "cd", LABEL).await);
    let eject = json!({"action": "eject"});
    client.post(&media, &eject).await.refused(409, "MEDIUM_LOCKED");
    assert_eq!(
        (lab.virsh(&["dumpxml", "cd", "--inactive"]), inside(lab, "cd", LABEL).await),
        before
    );
    let forced = client.post(&media, &json!({"action": "eject", "force": true})).await;
    assert_eq!(forced.status, 200, "{forced:?}");
    eventually("the guest has no disc", SOON, async || {
        (inside(lab, "cd", LABEL).await.is_empty()).then_some(())
    })
    .await;
    let list = lab.virsh(&["domblklist", "cd", "--inactive"]);
    assert!(!list.contains(".iso"), "{list}");
    let vm = client.vm("cd").await;
    assert_eq!(vm["pending"], Value::Null, "{vm}");

    // What was inserted while it ran is there after a restart.
    assert_eq!(client.post(&media, &two).await.status, 200);
    client.done("cd", "force-stop").await;
    client.done("cd", "start").await;
    world.booted("cd").await;
    assert_eq!(inside(lab, "cd", LABEL).await, "SECOND_DISC");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_vm_gets_a_drive_and_boots_from_the_medium() {
    let Some(world) = World::start("cdboot").await else { return };
    let client = &world.client;
    let iso =
        client.post(ISOS, &json!({"pool": "guest", "volume": "tiny.iso", "name": "tiny"})).await;
    assert_eq!(iso.status, 201, "{iso:?}");
    let body = json!({"name": "boots", "memory": 256, "vcpus": 1, "os": {"boot": ["cdrom"]},
        "networks": [{"type": "network", "source": "lab"}], "graphics": [{"type": "none"}]});
    let made = client.post(V, &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let media = format!("{V}/boots/media");
    let plan = client
        .post(format!("{media}?dry_run=true"), &json!({"action": "insert", "iso": "tiny"}))
        .await;
    assert_eq!(plan.data()["changes"][0]["effect"], "live", "{plan:?}");
    let vm = client.post(&media, &json!({"action": "insert", "iso": "tiny"})).await;
    assert_eq!(
        (&vm.data()["disks"][0]["device"], &vm.data()["disks"][0]["bus"]),
        (&json!("cdrom"), &json!("sata")),
        "{vm:?}"
    );
    client.done("boots", "start").await;
    world.booted("boots").await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_host_tells_what_its_guests_can_have() {
    let Some(world) = World::start("host").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let path = "/api/v1/virtualization/capabilities";
    let all = client.get(path).await.data().clone();
    let guest = all["guests"].as_array().expect("guests").iter();
    let guest = guest.clone().find(|guest| guest["architecture"] == "x86_64").expect("one");
    let types = guest["machine_types"].as_array().expect("types");
    let q35 = types.iter().find(|one| one["name"] == "q35").expect("q35");
    assert!(q35["canonical"].as_str().is_some_and(|name| name.starts_with("pc-q35-")), "{q35}");
    assert!(all["hardware"]["cpu"]["cores"].as_u64() > Some(0), "{}", all["hardware"]);
    let one = client.get(format!("{path}?architecture=x86_64&machine=q35&domain_type=qemu")).await;
    let one = one.data()["preferred"].clone();
    assert_eq!((&one["machine"], &one["domain_type"]), (&q35["canonical"], &json!("qemu")));
    let told = lab.virsh(&["domcapabilities", "--machine", "q35", "--virttype", "qemu"]);
    for (word, list) in [("disk_buses", "bus"), ("video_models", "modelType")] {
        for value in one[word].as_array().expect("a list") {
            let value = format!("<value>{}</value>", value.as_str().expect("a word"));
            assert!(told.contains(&value), "{list}: {value}");
        }
    }
    let disk = one["devices"].as_array().expect("devices").iter();
    assert!(disk.clone().any(|device| device["name"] == "disk" && device["supported"] == true));
    let old = client.get(format!("{path}?machine=isapc&domain_type=qemu")).await;
    assert!(old.status == 200 || old.status == 422, "{old:?}");
    client.get(format!("{path}?machine=no-such")).await.refused(422, "NOT_SUPPORTED");
    let host = client.get("/api/v1/host").await.data().clone();
    assert_eq!(host["hardware"], all["hardware"]);
    let hostname = support::lab::run(&mut Command::new("hostname"));
    assert_eq!(host["hostname"], hostname.as_str());
    world.finish().await;
}
