//! ISO images and media, as the API shows them on libvirt's test driver, which has no streams: what
//! needs an image's bytes is tried on a real libvirtd.

#[path = "support/driver.rs"]
mod driver;

use driver::{VMS, World, text};
use http::Method;
use serde_json::{Value, json};

const ISOS: &str = "/api/v1/virtualization/isos";

/// Puts images into the library, as an earlier daemon did.
fn registered(world: &World, rows: &[(&str, &str, &str, u64)]) {
    let database = rusqlite::Connection::open(world.folder().join("vapor.db")).expect("it opens");
    for (index, (name, volume, os, size)) in rows.iter().enumerate() {
        let id = uuid::Uuid::from_u128(index as u128 + 1);
        let header = json!({"format": "iso9660", "volume_id": "LABEL", "system_id": null,
            "publisher": null, "application": null, "volume_size_bytes": 1, "bootable": true});
        database
            .execute(
                "INSERT INTO iso VALUES (?1, ?2, 'text', 'default', ?3, ?4, ?5, NULL, ?6, 'done',
                 ?7, 1, 2, 3)",
                rusqlite::params![
                    id.as_bytes(),
                    name,
                    volume,
                    i64::try_from(*size).expect("a size"),
                    os,
                    header.to_string(),
                    "ab".repeat(32),
                ],
            )
            .expect("a row");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_library_is_listed_and_its_images_are_looked_at() {
    let world = World::new().await;
    let empty = world.get(ISOS).await.expect(200);
    assert_eq!((&empty["isos"], &empty["total"]), (&json!([]), &json!(0)));
    registered(
        &world,
        &[
            ("debian", "cd.iso", "debian12", 2_000_000),
            ("gone", "no-such.iso", "fedora36", 7),
            ("other size", "base.qcow2", "debian11", 7),
        ],
    );
    let world = world.restarted("").await;
    let all = world.get(ISOS).await;
    assert_eq!(all.column("isos", "name"), ["debian", "gone", "other size"]);
    assert_eq!(all.column("isos", "state"), ["available", "missing", "changed"]);
    let one = world.get(&format!("{ISOS}/debian")).await;
    let iso = one.expect(200);
    assert_eq!((&iso["size_bytes"], &iso["os_variant"]), (&json!(2_000_000), &json!("debian12")));
    assert_eq!(iso["checksum"], json!({"status": "done", "sha256": "ab".repeat(32)}));
    assert_eq!((&iso["inserted_in"], &iso["generation"]), (&json!([]), &json!(3)));
    let tag = one.header("etag");
    let path = format!("{ISOS}/{}", text(&iso["id"]));
    let again = world.send(Method::GET, &path, &[("if-none-match", tag.as_str())], None).await;
    assert_eq!(again.status, 304);
    for (query, names) in [
        ("?name=d*", vec!["debian"]),
        ("?os=debian*", vec!["debian", "other size"]),
        ("?os=fedora36", vec!["gone"]),
        ("?sort=-size_bytes&limit=1", vec!["debian"]),
        ("?fields=name&name=gone", vec!["gone"]),
    ] {
        assert_eq!(world.get(&format!("{ISOS}{query}")).await.column("isos", "name"), names);
    }
    world.get(&format!("{ISOS}?sort=volume")).await.refused(400, "INVALID_REQUEST");
    world.get(&format!("{ISOS}/debain")).await.refused(404, "ISO_NOT_FOUND");
    assert_eq!(world.get(&format!("{ISOS}/uploads")).await.expect(200)["uploads"], json!([]));

    // What is in a drive is kept; what is gone can go.
    let body = json!({"action": "insert", "iso": "debian"});
    world.post(&format!("{VMS}/web2/media"), &body).await.expect(200);
    assert_eq!(world.get(&path).await.expect(200)["inserted_in"], json!(["web2"]));
    for query in ["", "?delete_volume=true"] {
        let reply = world.delete(&format!("{path}{query}")).await;
        let error = reply.refused(409, "ISO_IN_USE");
        assert_eq!(error["details"]["vms"], json!(["web2"]));
        assert!(text(&error["message"]).contains("web2"), "{error}");
    }
    let plan = world.delete(&format!("{path}?dry_run=true&delete_volume=true")).await.expect(200);
    assert_eq!(plan["blockers"][0]["code"], "ISO_IN_USE");
    assert_eq!(plan["side_effects"].as_array().map(Vec::len), Some(2), "{plan}");
    world.post(&format!("{VMS}/web2/media"), &json!({"action": "eject"})).await.expect(200);
    assert_eq!(world.delete(&format!("{path}?delete_volume=true")).await.status, 204);
    world.get(&path).await.refused(404, "ISO_NOT_FOUND");
    let volume = world.get(&format!("{}/default/volumes/cd.iso", driver::POOLS)).await;
    volume.refused(404, "VOLUME_NOT_FOUND");
    assert_eq!(world.delete(&format!("{ISOS}/gone?delete_volume=true")).await.status, 204);
    let world = world.restarted("").await;
    assert_eq!(world.get(ISOS).await.column("isos", "name"), ["other size"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_an_image_is_refused_before_anything_is_done() {
    let world = World::new().await;
    registered(&world, &[("taken", "cd.iso", "debian12", 2_000_000)]);
    let world = world.restarted("").await;
    let post = async |body: &Value| world.post(ISOS, body).await;
    for (body, status, code) in [
        (json!({"pool": "nowhere", "volume": "a"}), 404, "POOL_NOT_FOUND"),
        (json!({"pool": "default", "volume": "a"}), 404, "VOLUME_NOT_FOUND"),
        (json!({"pool": "default", "volume": "../../etc/passwd"}), 404, "VOLUME_NOT_FOUND"),
        (json!({"pool": "default", "volume": "cd.iso"}), 409, "ISO_ALREADY_EXISTS"),
        (
            json!({"pool": "default", "volume": "base.qcow2", "name": "taken"}),
            409,
            "ISO_ALREADY_EXISTS",
        ),
        (json!({"pool": "default", "volume": "base.qcow2", "name": "a/b"}), 400, "INVALID_REQUEST"),
        (
            json!({"pool": "default", "volume": "base.qcow2",
                "name": "00000000-0000-7000-8000-000000000000"}),
            400,
            "INVALID_REQUEST",
        ),
        (json!({"pool": "default"}), 400, "INVALID_REQUEST"),
        (json!({"pool": "default", "volume": "base.qcow2", "path": "/x"}), 400, "INVALID_REQUEST"),
        // This driver has no streams.
        (json!({"pool": "default", "volume": "base.qcow2"}), 422, "NOT_SUPPORTED"),
    ] {
        post(&body).await.refused(status, code);
    }
    let plan = world
        .post(&format!("{ISOS}?dry_run=true"), &json!({"pool": "default", "volume": "cd.iso"}))
        .await
        .expect(200);
    assert_eq!(plan["operation"], "iso.register");
    assert_eq!(plan["blockers"][0]["code"], "ISO_ALREADY_EXISTS");
    let path = format!("{ISOS}/taken/checksum");
    let plan = world.send(Method::POST, &format!("{path}?dry_run=true"), &[], None).await;
    assert_eq!(plan.expect(200)["operation"], "iso.checksum");
    let headers = [("prefer", "wait=10")];
    world.send(Method::POST, &path, &headers, None).await.refused(422, "NOT_SUPPORTED");
    let checksum = &world.get(&format!("{ISOS}/taken")).await.expect(200)["checksum"];
    assert_eq!(*checksum, json!({"status": "failed", "sha256": null}));
    assert_eq!(world.get(ISOS).await.column("isos", "name"), ["taken"]);
    world.stop().await;
}

fn drive(vm: &Value) -> &Value {
    let disks = vm["disks"].as_array().expect("disks");
    disks.iter().find(|disk| disk["device"] == "cdrom").unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn media_are_exchanged_in_a_stopped_vm() {
    let world = World::new().await;
    let path = format!("{VMS}/web2/media");
    let cd = json!({"pool": "default", "volume": "cd.iso"});
    let insert = json!({"action": "insert", "volume": cd});
    let eject = json!({"action": "eject"});

    world.post(&path, &eject).await.refused(404, "DISK_NOT_FOUND");
    let before = world.vm("web2").await;
    let plan = world.post(&format!("{path}?dry_run=true"), &insert).await.expect(200);
    assert_eq!(plan["operation"], "vm.media.insert");
    assert_eq!(plan["changes"][0]["to"], "/pool/default/cd.iso", "{plan:#}");
    assert!(text(&plan["side_effects"][0]).contains("adds an optical drive"), "{plan:#}");
    assert!(text(&plan["xml_diff"]).contains("cd.iso"), "{plan:#}");
    assert_eq!(world.vm("web2").await, before);

    let vm = world.post(&path, &insert).await.expect(200);
    assert_eq!(drive(&vm)["volume"], cd, "{vm:#}");
    assert_eq!((&drive(&vm)["read_only"], &drive(&vm)["format"]), (&json!(true), &json!("raw")));
    let target = text(&drive(&vm)["target"]);
    world.post(&path, &insert).await.refused(409, "MEDIUM_ALREADY_INSERTED");
    let volume = world.get(&format!("{}/default/volumes/cd.iso", driver::POOLS)).await.expect(200);
    assert_eq!(volume["used_by"], json!(["web2"]));

    let vm = world.post(&path, &json!({"action": "eject", "target": target})).await.expect(200);
    assert_eq!((&drive(&vm)["source"], &drive(&vm)["target"]), (&Value::Null, &json!(target)));
    let error = world.post(&path, &eject).await.refused(409, "DRIVE_EMPTY");
    assert!(text(&error["message"]).contains("web2"), "{error}");
    let plan = world.post(&format!("{path}?dry_run=true"), &eject).await.expect(200);
    assert_eq!(plan["blockers"][0]["code"], "DRIVE_EMPTY");
    // The drive is used again, not another one made.
    let vm = world.post(&path, &insert).await.expect(200);
    assert_eq!(vm["disks"].as_array().map(Vec::len), Some(2), "{vm:#}");

    for (body, status, code) in [
        (json!({"action": "insert"}), 422, "IMPOSSIBLE"),
        (json!({"action": "insert", "iso": "a", "volume": cd}), 422, "IMPOSSIBLE"),
        (json!({"action": "eject", "volume": cd}), 422, "IMPOSSIBLE"),
        (json!({"action": "insert", "iso": "none"}), 404, "ISO_NOT_FOUND"),
        (json!({"action": "insert", "volume": cd, "target": "vda"}), 422, "IMPOSSIBLE"),
        (json!({"action": "insert", "volume": cd, "target": "sdz"}), 404, "DISK_NOT_FOUND"),
        (
            json!({"action": "insert", "volume": {"pool": "default", "volume": "no"}}),
            404,
            "VOLUME_NOT_FOUND",
        ),
        (
            json!({"action": "insert", "volume": {"pool": "default", "volume": "web2.qcow2"}}),
            409,
            "VOLUME_IN_USE",
        ),
        (json!({"action": "open"}), 400, "INVALID_REQUEST"),
        (json!({"action": "insert", "path": "/etc/passwd"}), 400, "INVALID_REQUEST"),
    ] {
        world.post(&path, &body).await.refused(status, code);
    }
    // A running VM without a drive cannot get one.
    let reply = world.post(&format!("{VMS}/web1/media"), &insert).await;
    let error = reply.refused(422, "IMPOSSIBLE");
    assert!(text(&error["hint"]).contains("stop"), "{error}");
    world.post(&format!("{VMS}/nobody/media"), &insert).await.refused(404, "VM_NOT_FOUND");
    world.stop().await;
}
