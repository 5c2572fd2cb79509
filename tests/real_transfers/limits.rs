//! What goes wrong in the middle, and what one transfer may cost the others.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::images::{POOL, bytes, sha256};
use super::support::{BOOT, SOON, World, eventually};

const MIB: usize = 1 << 20;
const SMALL: &str = "/api/v1/virtualization/storages/pools/small";

/// A pool of 16 MiB.
async fn small_pool(world: &World) -> String {
    let folder = world.lab.folder().join("small").display().to_string();
    std::fs::create_dir(&folder).unwrap();
    world.lab.exec(&["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", &folder]);
    world.lab.virsh(&["pool-define-as", "small", "dir", "--target", &folder]);
    world.lab.virsh(&["pool-start", "small"]);
    eventually("Vapor sees the pool", SOON, async || {
        let reply = world.client.get(SMALL).await;
        (reply.status == 200 && reply.data()["state"] == "running").then_some(())
    })
    .await;
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_hurts_no_upload_that_has_begun_and_lets_none_begin() {
    let Some(world) = World::start("full").await else { return };
    let client = &world.client;
    let folder = small_pool(&world).await;
    let content = bytes(21, 12 * MIB);
    let fill = |mib: &str| {
        let count = format!("count={mib}");
        let into = format!("of={folder}/filler{mib}");
        world.lab.exec(&["dd", "if=/dev/zero", &into, "bs=1M", &count, "status=none"]);
    };
    let uploads = format!("{SMALL}/volumes/uploads");
    let begin = || {
        client
            .call("POST", uploads.clone())
            .header("tus-resumable", "1.0.0")
            .header("upload-length", &content.len().to_string())
            .header("upload-metadata", &super::tus::metadata(&[("filename", "parts.img")]))
    };
    // what has begun has its room, whatever becomes of the rest
    let reply = begin().send().await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let upload = reply.header("location").expect("a place").to_owned();
    fill("3");
    let append = |from: usize, to: usize| {
        client
            .call("PATCH", upload.clone())
            .header("tus-resumable", "1.0.0")
            .header("upload-offset", &from.to_string())
            .header("content-type", "application/offset+octet-stream")
            .bytes(content[from..to].to_vec())
    };
    assert_eq!(append(0, 4 * MIB).send().await.status, 204);
    assert_eq!(append(4 * MIB, 12 * MIB).send().await.status, 204);
    let whole = client.get(format!("{SMALL}/volumes/parts.img/download")).await;
    assert_eq!(sha256(&whole.bytes), sha256(&content));
    assert_eq!(client.delete(format!("{SMALL}/volumes/parts.img")).await.status, 204);
    // what has no room does not begin, also where libvirt believed that there was some
    fill("10");
    let path = format!("{SMALL}/volumes/full.img/upload");
    let reply = client.call("POST", path).bytes(content.clone()).send().await;
    reply.refused(422, "INSUFFICIENT_SPACE");
    begin().send().await.refused(422, "INSUFFICIENT_SPACE");
    let listed = client.get(format!("{SMALL}/volumes")).await;
    assert!(!listed.text.contains(".img"), "{listed:?}");
    assert_eq!(world.lab.exec(&["ls", &folder]), "filler10\nfiller3");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_pool_is_removed_says_what_stays_and_goes_on_when_it_is_back() {
    let Some(world) = World::start("removed").await else { return };
    let client = &world.client;
    let folder = small_pool(&world).await;
    let begin = async |name: &str| {
        let call = client.call("POST", format!("{SMALL}/volumes/uploads"));
        let call = call.header("tus-resumable", "1.0.0").header("upload-length", "8192");
        let metadata = super::tus::metadata(&[("filename", name)]);
        let reply = call.header("upload-metadata", &metadata).send().await;
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.header("location").expect("a place").to_owned()
    };
    let append = async |path: &str, offset: &str| {
        let call = client.call("PATCH", path.to_owned());
        let call = call.header("tus-resumable", "1.0.0").header("upload-offset", offset);
        let call = call.header("content-type", "application/offset+octet-stream");
        call.bytes(vec![7; 4096]).send().await
    };
    let (kept, given_up) = (begin("kept.img").await, begin("given-up.img").await);
    assert_eq!(append(&kept, "0").await.status, 204);
    assert_eq!(append(&given_up, "0").await.status, 204);
    world.lab.virsh(&["pool-destroy", "small"]);
    world.lab.virsh(&["pool-undefine", "small"]);
    append(&kept, "4096").await.refused(404, "POOL_NOT_FOUND");
    let reply = client.call("DELETE", given_up.clone()).header("tus-resumable", "1.0.0");
    assert_eq!(reply.send().await.status, 204);
    let id = given_up.rsplit('/').next().expect("an id");
    let task = client.get(format!("/api/v1/tasks/{id}")).await;
    assert_eq!(task.data()["error"]["details"]["left"], "given-up.img", "{task:?}");
    assert_eq!(world.lab.exec(&["ls", &folder]), "given-up.img\nkept.img");
    // whoever defines the pool anew finds both, and one of them can still be finished
    world.lab.virsh(&["pool-define-as", "small", "dir", "--target", &folder]);
    world.lab.virsh(&["pool-start", "small"]);
    eventually("the upload goes on", SOON, async || {
        (append(&kept, "4096").await.status == 204).then_some(())
    })
    .await;
    let whole = client.get(format!("{SMALL}/volumes/kept.img/download")).await;
    assert_eq!(whole.bytes, vec![7; 8192]);
    assert_eq!(client.delete(format!("{SMALL}/volumes/given-up.img")).await.status, 204);
    world.finish().await;
}

/// Asks for a download and reads only its beginning.
async fn unread(world: &World, path: &str) -> UnixStream {
    let socket = &world.daemon.settings().socket;
    let mut stream = UnixStream::connect(socket).await.expect("the socket");
    let head = format!("GET {path}/download HTTP/1.1\r\nHost: vapor\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut some = [0; 1000];
    stream.read_exact(&mut some).await.expect("the beginning");
    assert!(some.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&some));
    stream
}

fn threads(world: &World) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", world.daemon.pid())).expect("a process").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_delays_nobody_and_leaves_nothing() {
    let Some(world) = World::with("unread", |settings| {
        settings.more = "[limits]\ntransfers = 2\n".to_owned();
    })
    .await
    else {
        return;
    };
    let client = &world.client;
    let path = format!("{POOL}/volumes/long.img");
    let reply = client.call("POST", format!("{path}/upload")).bytes(vec![0; 64 * MIB]).send().await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let before = threads(&world);
    let first = unread(&world, &path).await;
    let second = unread(&world, &path).await;
    let reply = client.get(format!("{path}/download")).await.refused(429, "TOO_MANY_REQUESTS");
    assert!(reply.header("retry-after").is_some());
    client.delete(path.clone()).await.refused(409, "VOLUME_BUSY");
    // a mutation and a read go on as if there were no streams
    let begun = Instant::now();
    let body = serde_json::json!({"name": "other.qcow2", "size": 1});
    assert_eq!(client.post(format!("{POOL}/volumes"), &body).await.status, 201);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    drop((first, second));
    eventually("the threads have ended", SOON, async || (threads(&world) <= before).then_some(()))
        .await;
    assert_eq!(client.delete(path).await.status, 204);
    world.finish().await;
}

/// Resident memory of the daemon, KiB.
fn resident(world: &World) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.daemon.pid()));
    let status = status.expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.split_ascii_whitespace().next().and_then(|text| text.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_client_has_not_taken_waits_in_libvirt_and_not_in_the_daemon() {
    let Some(world) = World::with("slow", |settings| {
        settings.more = "[limits]\ntransfers = 4\n".to_owned();
    })
    .await
    else {
        return;
    };
    let path = format!("{POOL}/volumes/slow.img");
    let content = bytes(5, 64 * MIB);
    let upload = world.client.call("POST", format!("{path}/upload"));
    let reply = upload.bytes(content.clone()).send().await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let before = resident(&world);
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(unread(&world, &path).await);
    }
    // As long as it takes to read all of it: another client does.
    streams.pop();
    let whole = eventually("a place is free", SOON, async || {
        let reply = world.client.get(format!("{path}/download")).await;
        (reply.status == 200).then_some(reply)
    })
    .await;
    assert_eq!(sha256(&whole.bytes), sha256(&content));
    let grown = resident(&world).saturating_sub(before);
    assert!(grown < 12 << 10, "{grown} KiB more for four streams of 64 MiB");
    drop(streams);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_running_vm_writes_to_is_not_read_unasked() {
    let Some(world) = World::start("rundown").await else { return };
    let client = &world.client;
    let mut body = super::support::guest::body("writer");
    body["start"] = true.into();
    let reply = client.post(super::support::V, &body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let size = serde_json::json!({"name": "data.qcow2", "size": 1});
    assert_eq!(client.post(format!("{POOL}/volumes"), &size).await.status, 201);
    client.act("writer", "force-stop").await;
    world.in_state("writer", "shutoff", BOOT).await;
    let disk = world.lab.pool_file("data.qcow2");
    let words = ["attach-disk", "writer", &disk, "vdz", "--subdriver", "qcow2", "--config"];
    world.lab.virsh(&words);
    client.done("writer", "start").await;
    let path = format!("{POOL}/volumes/data.qcow2/download");
    eventually("the picture shows the disk", SOON, async || {
        let vm = client.vm("writer").await;
        vm["disks"].to_string().contains("data.qcow2").then_some(())
    })
    .await;
    let reply = client.get(path.clone()).await.refused(409, "VOLUME_IN_USE");
    assert_eq!(reply.details()["vms"][0], "writer");
    let forced = client.get(format!("{path}?force=true")).await;
    assert_eq!(forced.status, 200, "{}", forced.status);
    assert!(forced.bytes.starts_with(b"QFI\xfb"));
    world.finish().await;
}
