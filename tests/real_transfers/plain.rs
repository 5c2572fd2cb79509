//! Uploads in one request, and downloads.

use serde_json::{Value, json};

use super::images::{POOL, bytes, image, sha256};
use super::support::World;

const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_uploaded_is_downloaded() {
    let Some(world) = World::start("updown").await else { return };
    let content = bytes(1, 3 * MIB + 12_345);
    let path = format!("{POOL}/volumes/größe%20%281%29.img");
    let path = path.replace("öß", "%C3%B6%C3%9F");
    let reply = world
        .client
        .call("POST", format!("{path}/upload?sha256={}", sha256(&content)))
        .bytes(content.clone())
        .send()
        .await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let data = reply.data();
    assert_eq!(data["sha256"], sha256(&content));
    // One that nobody asks for is not computed.
    for (name, header, digest) in [
        ("unasked.img", ("accept", "application/json"), Value::Null),
        ("asked.img", ("want-repr-digest", "sha-256=1"), json!(sha256(&content))),
    ] {
        let reply = world
            .client
            .call("POST", format!("{POOL}/volumes/{name}/upload"))
            .header(header.0, header.1)
            .bytes(content.clone())
            .send()
            .await;
        assert_eq!((reply.status, &reply.data()["sha256"]), (201, &digest), "{reply:?}");
        let whole = world.client.get(format!("{POOL}/volumes/{name}/download")).await;
        assert_eq!(sha256(&whole.bytes), sha256(&content));
        assert_eq!(world.client.delete(format!("{POOL}/volumes/{name}")).await.status, 204);
    }
    assert_eq!((&data["size_bytes"], &data["format"]), (&json!(content.len()), &json!("raw")));
    assert_eq!(data["volume"]["capacity_bytes"], content.len());
    assert_eq!(reply.header("location"), Some(path.as_str()));
    let task = world.client.task(&reply.task().expect("a task")).await;
    assert_eq!((&task["kind"], &task["status"]), (&json!("volume.upload"), &json!("succeeded")));

    let whole = world.client.get(format!("{path}/download")).await;
    assert_eq!(whole.status, 200, "{whole:?}");
    assert!(whole.bytes == content, "the bytes differ");
    assert_eq!(whole.header("content-length"), Some(content.len().to_string().as_str()));
    assert_eq!(whole.header("content-type"), Some("application/octet-stream"));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let name = whole.header("content-disposition").expect("a name");
    assert!(name.ends_with("filename*=UTF-8''gr%C3%B6%C3%9Fe%20%281%29.img"), "{name}");

    let part = world
        .client
        .call("GET", format!("{path}/download"))
        .header("range", "bytes=1048577-2097155")
        .send()
        .await;
    assert_eq!(part.status, 206, "{part:?}");
    assert!(part.bytes == content[1_048_577..=2_097_155], "the bytes differ");
    let range = format!("bytes 1048577-2097155/{}", content.len());
    assert_eq!(part.header("content-range"), Some(range.as_str()));
    let behind = world
        .client
        .call("GET", format!("{path}/download"))
        .header("range", "bytes=99999999-")
        .send()
        .await
        .refused(416, "RANGE_NOT_SATISFIABLE");
    assert_eq!(behind.header("content-range"), Some(format!("bytes */{}", content.len()).as_str()));
    let head = world.client.call("HEAD", format!("{path}/download")).send().await;
    assert_eq!((head.status, head.bytes.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(content.len().to_string().as_str()));
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_fails_leaves_nothing() {
    let Some(world) = World::with("upfail", |settings| {
        settings.more = "[limits]\nupload_stall_seconds = 1\n".to_owned();
    })
    .await
    else {
        return;
    };
    let before = world.lab.volumes();
    let content = bytes(2, MIB);
    let upload = |name: &str, query: &str| format!("{POOL}/volumes/{name}/upload{query}");
    let wrong = "?sha256=".to_owned() + &"0f".repeat(32);
    let reply = world.client.call("POST", upload("a.img", &wrong)).bytes(content.clone());
    reply.send().await.refused(422, "DIGEST_MISMATCH");
    let qcow2 = image(world.daemon.settings().folder.as_path(), "qcow2", 4, &[]);
    let reply = world.client.call("POST", upload("a.img", "?format=raw")).bytes(qcow2);
    reply.send().await.refused(422, "IMAGE_REFUSED");
    for name in ["%2E.", "a%2Fb", "%3Cx%3E", "%20a"] {
        let reply = world.client.call("POST", upload(name, "")).bytes("x").send().await;
        assert_eq!(reply.status, 400, "{name}: {reply:?}");
    }
    world.client.call("POST", upload("a.img", "")).send().await.refused(400, "INVALID_REQUEST");
    let huge = world
        .client
        .call("POST", upload("a.img", ""))
        .header("transfer-encoding", "chunked")
        .header("upload-length", "9223372036854775807");
    huge.bytes("x").send().await.refused(422, "INSUFFICIENT_SPACE");
    assert_eq!(world.lab.volumes(), before);
    let there = world.client.call("POST", upload("b.img", "")).bytes(content.clone()).send().await;
    assert_eq!(there.status, 201, "{there:?}");
    let again = world.client.call("POST", upload("b.img", "")).bytes(content.clone()).send().await;
    again.refused(409, "VOLUME_ALREADY_EXISTS");
    let reply = world.client.call("POST", upload("c.img", "?dry_run=true")).bytes(content);
    assert_eq!(reply.send().await.data()["operation"], "volume.upload");
    assert_eq!(world.lab.volumes().len(), before.len() + 1);
    world.finish().await;
}
