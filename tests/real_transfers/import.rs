//! Images of other formats become volumes that a VM can use.

use serde_json::json;

use super::images::{POOL, assert_content, image};
use super::support::{BOOT, World};

#[tokio::test(flavor = "multi_thread")]
async fn images_of_every_format_are_imported() {
    let Some(world) = World::start("import").await else { return };
    let client = &world.client;
    let folder = world.daemon.settings().folder.clone();
    for (format, options) in [
        ("qcow2", &[][..]),
        ("raw", &[]),
        ("vmdk", &[]),
        ("vmdk", &["-o", "subformat=streamOptimized"]),
        ("vdi", &[]),
        ("vpc", &["-o", "force_size=on"]),
        ("vhdx", &[]),
        ("vhdx", &["-o", "subformat=fixed"]),
    ] {
        let content = image(&folder, format, 8, options);
        let name = format!("image.{format}");
        let reply = client
            .call("POST", format!("{POOL}/volumes/{name}/upload?format={format}"))
            .bytes(content)
            .send()
            .await;
        assert_eq!(reply.status, 201, "{format}: {reply:?}");
        assert_eq!(reply.data()["format"], format, "{reply:?}");
        // libvirt does not know this one
        let seen = if format == "vhdx" { "raw" } else { format };
        assert_eq!(reply.data()["volume"]["format"], seen, "{reply:?}");
        for target in ["qcow2", "raw"] {
            let new = format!("from-{format}.{target}");
            let remove = target == "raw";
            let body = json!({"name": new, "format": target, "remove_source": remove});
            let path = format!("{POOL}/volumes/{name}/import");
            let reply = client.post(path, &body).await;
            assert_eq!(reply.status, 202, "{reply:?}");
            let task = client.finished(&reply.task().expect("a task"), BOOT).await;
            assert_eq!(task["status"], "succeeded", "{format} to {target}: {task}");
            assert_eq!(task["result"]["format"], target, "{task}");
            assert_content(&world, &new, target, 8);
            assert!(!world.lab.volumes().contains(&format!("{new}.unpacked")));
            let reply = client.delete(format!("{POOL}/volumes/{new}")).await;
            assert_eq!(reply.status, 204, "{reply:?}");
        }
        assert!(!world.lab.volumes().contains(&name), "the image is still there");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_cannot_be_leaves_nothing() {
    let Some(world) = World::start("importno").await else { return };
    let client = &world.client;
    let folder = world.daemon.settings().folder.clone();
    let content = image(&folder, "vdi", 8, &[]);
    let upload = format!("{POOL}/volumes/a.vdi/upload");
    assert_eq!(client.call("POST", upload).bytes(content).send().await.status, 201);
    let import = |name: &str| client.call("POST", format!("{POOL}/volumes/{name}/import"));
    let plan = client
        .call("POST", format!("{POOL}/volumes/a.vdi/import?dry_run=true"))
        .json(&json!({"name": "b.qcow2", "remove_source": true}))
        .send()
        .await;
    assert_eq!(plan.data()["side_effects"].as_array().map(Vec::len), Some(2), "{plan:?}");
    let before = world.lab.volumes();
    let taken = import("a.vdi").json(&json!({"name": "a.vdi"})).send().await;
    taken.refused(409, "VOLUME_ALREADY_EXISTS");
    import("no.vdi")
        .json(&json!({"name": "b.qcow2"}))
        .send()
        .await
        .refused(404, "VOLUME_NOT_FOUND");
    // put there behind Vapor's back: an image that names a file of the host
    std::fs::write(folder.join("secret"), [1; 512]).unwrap();
    let mut command = std::process::Command::new("qemu-img");
    let secret = folder.join("secret").display().to_string();
    command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &secret]);
    super::support::lab::run(command.arg(world.lab.pool_file("evil.qcow2")));
    world.lab.virsh(&["pool-refresh", "lab"]);
    super::support::eventually("Vapor sees the image", super::support::SOON, async || {
        let reply = client.get(format!("{POOL}/volumes/evil.qcow2")).await;
        (reply.status == 200).then_some(())
    })
    .await;
    let reply = import("evil.qcow2")
        .header("prefer", "wait=30")
        .json(&json!({"name": "b.qcow2"}))
        .send()
        .await;
    reply.refused(422, "IMAGE_REFUSED");
    let mut after = world.lab.volumes();
    after.retain(|name| name != "evil.qcow2");
    assert_eq!(after, before);
    world.finish().await;
}
