//! File systems as pools: mounted from an image, and made on a block device.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::Lab;
use crate::support::lab::{run, skip};
use crate::{Place, info, pools};

fn fs(place: &Place, name: &str, device: &str) -> Value {
    json!({"name": name, "type": "fs", "target": {"path": place.path(name)},
        "source": {"devices": [{"path": device}], "format": "ext4"}})
}

fn image(place: &Place) -> String {
    let image = place.path("image");
    let file = std::fs::File::create(&image).expect("a file");
    file.set_len(64 << 20).expect("room");
    image
}

/// A loop device on a file, given back when dropped.
struct Loop(String);

impl Loop {
    fn on(file: &str) -> Option<Loop> {
        let output = Command::new("losetup").args(["--find", "--show", file]).output().ok()?;
        let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (output.status.success() && !name.is_empty()).then_some(Loop(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Nothing more can be done about a failure here.
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

/// What is mounted on a folder, as libvirtd sees it.
fn mounted(lab: &Lab, path: &str) -> bool {
    let pid = std::fs::read_to_string(lab.folder().join("libvirtd.pid")).expect("its id");
    let mounts = format!("/proc/{}/mounts", pid.trim());
    std::fs::read_to_string(mounts).expect("its mounts").contains(&format!(" {path} "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_is_mounted_and_its_own_folder_is_no_volume() {
    let Some(place) = Place::start("pool-fs").await else { return };
    let (client, lab) = (&place.world.client, &place.world.lab);
    let image = image(&place);
    // An image would be mounted, and never unmounted.
    place.create(&fs(&place, "mounted", &image)).await.refused(422, "IMPOSSIBLE");
    run(Command::new("mkfs.ext4").args(["-q", "-F", &image]));
    let Some(device) = Loop::on(&image) else {
        skip("a free loop device");
        return;
    };
    let body = fs(&place, "mounted", &device.0);
    let pool = place.made(&body).await;
    assert_eq!((&pool["state"], &pool["type"]), (&json!("running"), &json!("fs")));
    assert_eq!(pool["source"]["devices"], json!([{"path": device.0}]));
    assert!(pool["capacity_bytes"].as_u64() < Some(64 << 20), "its own room: {pool}");
    assert!(mounted(lab, &place.path("mounted")));

    let volumes = format!("{}/mounted/volumes", crate::POOLS);
    let reply = client.post(volumes, &json!({"name": "a.qcow2", "size": 1})).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    place.delete("mounted", "").await.refused(409, "POOL_NOT_EMPTY");
    let gone = place.delete("mounted", "?delete_volumes=true&delete_storage=true").await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert!(!pools(lab).contains(&"mounted".to_owned()));
    assert!(!Path::new(&place.path("mounted")).exists(), "the mount point was made, and is gone");

    // Empty but for lost+found, it is empty.
    place.made(&body).await;
    assert_eq!(place.delete("mounted", "").await.status, 204);
    assert!(!mounted(lab, &place.path("mounted")));
    place.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_holds_something_is_formatted_by_order_alone() {
    let Some(place) = Place::start("pool-mkfs").await else { return };
    let lab = &place.world.lab;
    let Some(device) = Loop::on(&image(&place)) else {
        skip("a free loop device");
        return;
    };
    let mut body = fs(&place, "made", &device.0);
    // Nothing to mount yet, and nothing is left.
    place.create(&body).await.refused(422, "LIBVIRT_REFUSED");
    assert!(!pools(lab).contains(&"made".to_owned()));
    assert!(!Path::new(&place.path("made")).exists());

    body["build"] = json!(true);
    let pool = place.made(&body).await;
    assert_eq!(
        (&pool["state"], info(lab, "made", "State").as_str()),
        (&json!("running"), "running")
    );
    let volumes = format!("{}/made/volumes", crate::POOLS);
    let volume = json!({"name": "kept.qcow2", "size": 1});
    let reply = place.world.client.post(&volumes, &volume).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(place.order("made", "stop").await.status, 200);
    assert_eq!(place.delete("made", "").await.status, 204);

    // There is a file system now: not again, unless that is meant.
    let refused = place.create(&body).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(!pools(lab).contains(&"made".to_owned()));
    body["build"] = json!(false);
    assert_eq!(place.made(&body).await["volume_count"], 2, "the volume and lost+found are there");
    assert_eq!(place.order("made", "stop").await.status, 200);
    assert_eq!(place.delete("made", "").await.status, 204);
    (body["build"], body["overwrite"]) = (json!(true), json!(true));
    assert_eq!(place.made(&body).await["volume_count"], 1, "lost+found alone is there");
    assert_eq!(place.delete("made", "?delete_storage=true").await.status, 204);
    place.world.finish().await;
}
