//! Pools of type `fs` and `disk`: a file system on a device, and a device with partitions.

use serde_json::json;

use crate::{GIB, MIB, POOLS, Place};

/// `gamma` gets a file system and is mounted.
pub async fn a_file_system_on_a_device(place: &Place) {
    let device = place.host.disk("gamma");
    // What an earlier part left there is not there for this one.
    place.host.run(&format!("wipefs -q -a {device}"));
    let body = json!({
        "name": "files",
        "type": "fs",
        "source": {"devices": [{"path": device}], "format": "ext4"},
        "target": {"path": "/srv/files"},
    });

    // Without a file system there is nothing to mount, and then there is no pool either.
    let reply = place.create(&body).await;
    assert!((400..500).contains(&reply.status), "{reply:?}");
    assert!(place.defined().is_empty(), "nothing is half-made");

    let mut build = body.clone();
    build["build"] = json!(true);
    let reply = place.create(&build).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.data()["state"], "running");
    assert!(place.host.run("findmnt -n -o SOURCE,FSTYPE /srv/files").ends_with("ext4"));
    let size: u64 =
        place.host.run("df -B1 --output=size /srv/files | tail -n 1").trim().parse().unwrap();
    assert_eq!(place.pool("files").await["capacity_bytes"], size);

    let path = format!("{POOLS}/files/volumes");
    let reply = place.client.post(&path, &json!({"name": "web.qcow2", "size": 1})).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.data()["path"], "/srv/files/web.qcow2");

    // Unmounted, and mounted again with what was in it.
    assert_eq!(place.act("files", "stop").await.status, 200);
    assert!(place.host.try_run("findmnt /srv/files").is_err());
    assert_eq!(place.act("files", "start").await.status, 200);
    assert_eq!(place.volume("files", "web.qcow2").await.data()["capacity_bytes"], GIB);

    // Stopped and forgotten, it is still there for whoever takes it on, and not made anew by mistake.
    assert_eq!(place.act("files", "stop").await.status, 200);
    let reply = place.client.delete(format!("{POOLS}/files")).await;
    assert!(reply.is_success(), "{reply:?}");
    let reply = place.create(&build).await;
    assert!(matches!(reply.status, 409 | 422), "{reply:?}");
    assert!(place.defined().is_empty(), "nothing is half-made");
    assert_eq!(place.create(&body).await.status, 201);
    assert_eq!(place.volume("files", "web.qcow2").await.status, 200);

    let reply = place.client.delete(format!("{POOLS}/files?delete_volumes=true")).await;
    assert!(reply.is_success(), "{reply:?}");
    assert!(place.host.try_run("findmnt /srv/files").is_err());
}

/// `delta` gets a partition table; its volumes are partitions.
pub async fn a_disk_with_partitions(place: &Place) {
    // By the kernel's name: libvirt finds no partition to delete below any other.
    let device = place.host.run(&format!("readlink -f {}", place.host.disk("delta")));
    let kernel = device.trim_start_matches("/dev/").to_owned();
    let body = json!({
        "name": "parts",
        "type": "disk",
        "source": {"devices": [{"path": device}], "format": "gpt"},
        "build": true,
        "autostart": false,
    });
    let reply = place.create(&body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.data()["state"], "running");
    let capacity = reply.data()["capacity_bytes"].as_u64().expect("bytes");
    assert!((2 * GIB - 2 * MIB..=2 * GIB).contains(&capacity), "{capacity}");

    // libvirt makes the partition before it finds that the name cannot be: nothing may stay of it.
    let partitions =
        || place.host.run(&format!("lsblk -n -r -o TYPE {device} | grep -c part || true"));
    let path = format!("{POOLS}/parts/volumes");
    let reply = place.client.post(&path, &json!({"name": "web", "size": 1})).await;
    assert!((400..500).contains(&reply.status), "{reply:?}");
    assert_eq!(partitions(), "0", "nothing is half-made");

    let first = format!("{kernel}1");
    let reply = place.client.post(&path, &json!({"name": first, "size": 1})).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.data()["type"], "block");
    assert!(reply.data()["capacity_bytes"].as_u64().is_some_and(|bytes| bytes >= GIB), "{reply:?}");
    assert_eq!(partitions(), "1");

    let reply = place.client.delete(format!("{path}/{first}")).await;
    assert!(reply.is_success(), "{reply:?}");
    assert_eq!(partitions(), "0");
    let reply = place.client.delete(format!("{POOLS}/parts")).await;
    assert!(reply.is_success(), "{reply:?}");
}
