//! Resumable uploads, as any client of the tus protocol asks for them.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::Digest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::images::{POOL, assert_content, bytes, image, sha256};
use super::support::{Client, Reply, SOON, World, eventually};

const MIB: usize = 1 << 20;
const ISOS: &str = "/api/v1/virtualization/isos";

/// `Upload-Metadata` of these pairs.
pub fn metadata(pairs: &[(&str, &str)]) -> String {
    let pair = |(key, value): &(&str, &str)| format!("{key} {}", STANDARD.encode(value));
    pairs.iter().map(pair).collect::<Vec<_>>().join(",")
}

async fn begin_at(client: &Client, path: &str, length: usize, pairs: &[(&str, &str)]) -> Reply {
    client
        .call("POST", path)
        .header("tus-resumable", "1.0.0")
        .header("upload-length", &length.to_string())
        .header("upload-metadata", &metadata(pairs))
        .send()
        .await
}

/// Begins an upload; returns its path.
async fn begin(client: &Client, name: &str, length: usize, more: &[(&str, &str)]) -> String {
    let mut pairs = vec![("filename", name)];
    pairs.extend_from_slice(more);
    let reply = begin_at(client, &format!("{POOL}/volumes/uploads"), length, &pairs).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.header("tus-resumable"), Some("1.0.0"));
    assert!(reply.header("upload-expires").is_some_and(|time| time.ends_with(" GMT")));
    reply.header("location").expect("a place").to_owned()
}

async fn append(client: &Client, path: &str, offset: usize, part: &[u8]) -> Reply {
    client
        .call("PATCH", path)
        .header("tus-resumable", "1.0.0")
        .header("upload-offset", &offset.to_string())
        .header("content-type", "application/offset+octet-stream")
        .bytes(part.to_vec())
        .send()
        .await
}

async fn offset(client: &Client, path: &str) -> Reply {
    client.call("HEAD", path).header("tus-resumable", "1.0.0").send().await
}

#[track_caller]
fn stands_at(reply: &Reply, offset: usize) {
    let text = offset.to_string();
    assert_eq!(reply.header("upload-offset"), Some(text.as_str()), "{reply:?}");
}

/// Sends the head of a PATCH and a part of its body, and leaves the connection open. The upload is
/// this request's when it returns: the daemon asks for a body only then.
async fn half(world: &World, path: &str, offset: usize, length: usize, part: &[u8]) -> UnixStream {
    let socket = &world.daemon.settings().socket;
    let mut stream = UnixStream::connect(socket).await.expect("the socket");
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: vapor\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {offset}\r\n\
         Content-Type: application/offset+octet-stream\r\nContent-Length: {length}\r\n\
         Expect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut asked = *b"HTTP/1.1 100 Continue\r\n\r\n";
    stream.read_exact(&mut asked).await.expect("asked for the body");
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(part).await.expect("sent");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_by_parts_is_whole_at_its_end() {
    let Some(world) = World::start("tusparts").await else { return };
    let client = &world.client;
    let uploads = format!("{POOL}/volumes/uploads");
    let options = client.call("OPTIONS", uploads.clone()).send().await;
    assert_eq!((options.status, options.header("tus-version")), (204, Some("1.0.0")));
    let extensions = options.header("tus-extension").expect("extensions");
    for extension in ["creation", "creation-with-upload", "expiration", "checksum", "termination"] {
        assert!(extensions.split(',').any(|known| known == extension), "{extensions}");
    }
    let content = image(&world.daemon.settings().folder, "qcow2", 8, &[]);
    let digest = sha256(&content);
    let path = begin(client, "parts.qcow2", content.len(), &[("sha256", &digest)]).await;
    let listed = client.get(uploads.clone()).await;
    assert_eq!(listed.data()["uploads"][0]["volume"], "parts.qcow2");
    assert_eq!(listed.data()["uploads"][0]["length_bytes"], content.len());
    // parts that end within the header, and at odd places
    let mut at = 0;
    for end in [1, 11, 100, 70_000, content.len() - 1, content.len()] {
        let reply = append(client, &path, at, &content[at..end]).await;
        assert_eq!(reply.status, 204, "{reply:?}");
        stands_at(&reply, end);
        at = end;
        stands_at(&offset(client, &path).await, end);
    }
    let volume = client.get(format!("{POOL}/volumes/parts.qcow2")).await;
    assert_eq!(volume.data()["format"], "qcow2", "{volume:?}");
    assert_eq!(volume.data()["capacity_bytes"], 8 * MIB);
    assert_content(&world, "parts.qcow2", "qcow2", 8);
    let id = path.rsplit('/').next().expect("an id");
    let task = client.task(id).await;
    assert_eq!((&task["kind"], &task["status"]), (&json!("volume.upload"), &json!("succeeded")));
    assert_eq!(task["result"]["sha256"], digest);
    assert_eq!(client.get(uploads).await.data()["count"], 0);
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_protocol_forbids_is_refused_and_moves_nothing() {
    let Some(world) = World::start("tusrefuse").await else { return };
    let client = &world.client;
    let content = bytes(3, 2 * MIB);
    let path = begin(client, "a.img", content.len(), &[]).await;
    let patch = || client.call("PATCH", path.clone()).header("upload-offset", "0");
    let stream = "application/offset+octet-stream";
    let reply = patch().header("content-type", stream).bytes("x").send().await;
    let reply = reply.refused(412, "TUS_VERSION_UNSUPPORTED");
    assert_eq!(reply.header("tus-version"), Some("1.0.0"));
    let tus = || patch().header("tus-resumable", "1.0.0");
    tus().json(&json!({})).send().await.refused(415, "UNSUPPORTED_MEDIA_TYPE");
    append(client, &path, 7, b"x").await.refused(409, "UPLOAD_OFFSET_MISMATCH");
    let more = [&content[..], b"x"].concat();
    append(client, &path, 0, &more).await.refused(413, "PAYLOAD_TOO_LARGE");
    let sum = format!("sha1 {}", STANDARD.encode(sha1::Sha1::digest(b"other")));
    let part = tus().header("content-type", stream).header("upload-checksum", &sum);
    part.bytes(content[..MIB].to_vec()).send().await.refused(460, "CHECKSUM_MISMATCH");
    stands_at(&offset(client, &path).await, 0);
    let sum = format!("sha1 {}", STANDARD.encode(sha1::Sha1::digest(&content[..MIB])));
    let part = tus().header("content-type", stream).header("upload-checksum", &sum);
    stands_at(&part.bytes(content[..MIB].to_vec()).send().await, MIB);
    // two at once
    let held = half(&world, &path, MIB, MIB, &content[MIB..MIB + 1000]).await;
    append(client, &path, MIB, b"x").await.refused(423, "UPLOAD_BUSY");
    drop(held);
    let stands = eventually("what arrived is kept", SOON, async || {
        let reply = offset(client, &path).await;
        let at: usize = reply.header("upload-offset")?.parse().ok()?;
        (at > MIB).then_some(at)
    })
    .await;
    let reply = append(client, &path, stands, &content[stands..]).await;
    assert_eq!(reply.status, 204, "{reply:?}");
    let whole = client.get(format!("{POOL}/volumes/a.img/download")).await;
    assert!(whole.bytes == content, "the bytes differ");
    // one name, twice
    let uploads = format!("{POOL}/volumes/uploads");
    begin(client, "b.img", MIB, &[]).await;
    let second = begin_at(client, &uploads, MIB, &[("filename", "b.img")]).await;
    assert_eq!(second.status, 409, "{second:?}");
    client
        .call("POST", format!("{POOL}/volumes/b.img/upload"))
        .bytes("x")
        .send()
        .await
        .refused(409, "VOLUME_ALREADY_EXISTS");
    // a bad name
    let reply = begin_at(client, &uploads, MIB, &[("filename", "../../etc/passwd")]).await;
    reply.refused(400, "INVALID_NAME");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_terminated_or_expires_is_deleted() {
    let Some(world) = World::with("tusend", |settings| {
        settings.more =
            "[limits]\nupload_expire_seconds = 3\nupload_stall_seconds = 1\n".to_owned();
    })
    .await
    else {
        return;
    };
    let before = world.lab.volumes();
    let client = &world.client;
    let content = bytes(4, 2 * MIB);
    let path = begin(client, "gone.img", content.len(), &[]).await;
    append(client, &path, 0, &content[..MIB]).await;
    assert_eq!(world.lab.volumes().len(), before.len() + 1);
    let reply = client.call("DELETE", path.clone()).header("tus-resumable", "1.0.0").send().await;
    assert_eq!(reply.status, 204, "{reply:?}");
    assert_eq!(offset(client, &path).await.status, 404);
    assert_eq!(world.lab.volumes(), before);
    // a client that stalls is hung up on, and what it sent is kept
    let path = begin(client, "stalls.img", content.len(), &[]).await;
    let _stalled = half(&world, &path, 0, content.len(), &content[..MIB]).await;
    eventually("the stalled part is acknowledged", SOON, async || {
        (offset(client, &path).await.header("upload-offset")? == MIB.to_string()).then_some(())
    })
    .await;
    // and when nothing more comes, it expires
    eventually("the upload expires", SOON, async || {
        (offset(client, &path).await.status == 404).then_some(())
    })
    .await;
    assert_eq!(world.lab.volumes(), before);
    let id = path.rsplit('/').next().expect("an id");
    assert_eq!(client.task(id).await["status"], "cancelled");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_survives_the_death_of_the_daemon() {
    let Some(mut world) = World::start("tuskill").await else { return };
    let content = image(&world.daemon.settings().folder, "qcow2", 16, &[]);
    let (first, second) = (100, content.len() / 2);
    let digest = sha256(&content);
    let path = begin(&world.client, "killed.qcow2", content.len(), &[("sha256", &digest)]).await;
    // acknowledged, and not enough to tell the format
    stands_at(&append(&world.client, &path, 0, &content[..first]).await, first);
    world.daemon.kill9();
    world.daemon.start_again().await;
    stands_at(&offset(&world.client, &path).await, first);
    let busy = world.client.delete(format!("{POOL}/volumes/killed.qcow2")).await;
    busy.refused(409, "VOLUME_BUSY");
    stands_at(&append(&world.client, &path, first, &content[first..second]).await, second);
    let held = half(&world, &path, second, content.len() - second, &content[second..][..999]).await;
    world.daemon.kill9();
    drop(held);
    world.daemon.start_again().await;
    stands_at(&offset(&world.client, &path).await, second);
    let reply = append(&world.client, &path, second, &content[second..]).await;
    assert_eq!(reply.status, 204, "{reply:?}");
    assert_content(&world, "killed.qcow2", "qcow2", 16);
    // a stop in order keeps what has arrived as well
    let path = begin(&world.client, "stopped.img", 2 * MIB, &[]).await;
    let part = bytes(5, MIB);
    let held = half(&world, &path, 0, 2 * MIB, &part).await;
    eventually("the part arrives", SOON, async || {
        let id = path.rsplit('/').next()?;
        (world.client.task(id).await["progress"]["bytes_done"].as_u64()? > 0).then_some(())
    })
    .await;
    let status = world.daemon.terminate(Duration::from_secs(45)).await;
    assert_eq!(status.code(), Some(0));
    drop(held);
    world.daemon.start_again().await;
    let reply = offset(&world.client, &path).await;
    let at: usize = reply.header("upload-offset").expect("an offset").parse().expect("a number");
    assert!(at > 0, "{reply:?}");
    // an upload in one request that was cut off leaves nothing
    let volumes = world.lab.volumes();
    let socket = &world.daemon.settings().socket;
    let mut stream = UnixStream::connect(socket).await.expect("the socket");
    let head = format!(
        "POST {POOL}/volumes/cut.img/upload HTTP/1.1\r\nHost: vapor\r\nContent-Length: 9999999\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(&part).await.expect("sent");
    eventually("its volume is there", SOON, async || {
        world.lab.volumes().contains(&"cut.img".to_owned()).then_some(())
    })
    .await;
    world.daemon.kill9();
    world.daemon.start_again().await;
    eventually("its volume is gone", SOON, async || (world.lab.volumes() == volumes).then_some(()))
        .await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_name_other_files_are_refused_before_they_are_written() {
    let Some(world) = World::start("tusimage").await else { return };
    let client = &world.client;
    let folder = world.daemon.settings().folder.clone();
    let before = world.lab.volumes();
    std::fs::write(folder.join("secret"), bytes(6, MIB)).unwrap();
    let secret = folder.join("secret").display().to_string();
    let backed = folder.join("backed.qcow2");
    let mut command = std::process::Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &secret]).arg(&backed);
    super::support::lab::run(&mut command);
    let backed = std::fs::read(backed).unwrap();
    let data = folder.join("data").display().to_string();
    let option = format!("data_file={data},data_file_raw=on");
    let external = image(&folder, "qcow2", 4, &["-o", &option]);
    let flat = image(&folder, "vmdk", 4, &["-o", "subformat=monolithicFlat"]);
    let plain = image(&folder, "qcow2", 4, &[]);
    for (content, format) in [
        (&backed, "qcow2"),
        (&external, "qcow2"),
        (&flat, "vmdk"),
        (&plain, "raw"),
        (&bytes(7, MIB), "qcow2"),
    ] {
        let path = begin(client, "bad.img", content.len(), &[("format", format)]).await;
        let mut at = 0;
        let mut refused = None;
        // in small parts, so that the first ones alone cannot be judged
        for end in [10, 90, content.len().min(30_000), content.len()] {
            let reply = append(client, &path, at, &content[at..end]).await;
            if reply.status != 204 {
                refused = Some(reply);
                break;
            }
            at = end;
        }
        let reply = refused.expect("it is taken");
        reply.refused(422, "IMAGE_REFUSED");
        assert_eq!(offset(client, &path).await.status, 404);
        assert_eq!(world.lab.volumes(), before);
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iso_is_uploaded_to_the_library() {
    let Some(world) = World::start("tusiso").await else { return };
    let client = &world.client;
    let iso = std::fs::read(world.lab.guest_file("tiny.iso")).expect("the guest's CD");
    let uploads = format!("{ISOS}/uploads?pool=lab");
    assert_eq!(client.call("OPTIONS", format!("{ISOS}/uploads")).send().await.status, 204);
    let reply = begin_at(client, &uploads, iso.len(), &[("filename", "cd.iso")]).await;
    let path = reply.header("location").expect("a place").to_owned();
    assert!(path.starts_with(&format!("{ISOS}/uploads/")), "{path}");
    let listed = client.get(format!("{ISOS}/uploads")).await;
    assert_eq!(listed.data()["uploads"][0]["purpose"], "iso");
    stands_at(&append(client, &path, 0, &iso[..1000]).await, 1000);
    stands_at(&offset(client, &path).await, 1000);
    let id = path.rsplit('/').next().expect("an id");
    // under a pool's path there is no such upload
    assert_eq!(offset(client, &format!("{POOL}/volumes/uploads/{id}")).await.status, 404);
    stands_at(&append(client, &path, 1000, &iso[1000..]).await, iso.len());
    let task = client.task(id).await;
    assert_eq!(task["result"]["format"], "iso", "{task}");
    assert_eq!(task["result"]["sha256"], sha256(&iso));
    let reply = begin_at(client, &uploads, MIB, &[("filename", "no.iso")]).await;
    let path = reply.header("location").expect("a place").to_owned();
    append(client, &path, 0, &bytes(8, MIB)).await.refused(422, "IMAGE_REFUSED");
    let reply = begin_at(client, &uploads, MIB, &[("filename", "end.iso")]).await;
    let path = reply.header("location").expect("a place").to_owned();
    let reply = client.call("DELETE", path).header("tus-resumable", "1.0.0").send().await;
    assert_eq!(reply.status, 204, "{reply:?}");
    world.finish().await;
}
