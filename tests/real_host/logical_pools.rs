//! Pools of type `logical`: volume groups of LVM.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{SOON, V, eventually, guest};
use crate::{GIB, MIB, POOLS, Place};

/// What LVM says of a volume group: size, free and extent in bytes.
fn group(place: &Place, name: &str) -> [u64; 3] {
    let text = place.host.run(&format!(
        "vgs --noheadings --nosuffix --units b -o vg_size,vg_free,vg_extent_size {name}"
    ));
    let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    numbers.try_into().expect("three numbers")
}

/// What LVM says of the logical volumes of a group: name, bytes and layout.
fn volumes(place: &Place, group: &str) -> Vec<(String, u64, String)> {
    let text = place.host.run(&format!(
        "lvs -a --noheadings --nosuffix --units b -o lv_name,lv_size,lv_layout {group}"
    ));
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[0].to_owned(), words[1].parse().unwrap(), words[2].to_owned())
    };
    text.lines().map(line).collect()
}

fn groups(place: &Place) -> Vec<String> {
    let text = place.host.run("vgs --noheadings -o vg_name");
    let mut names: Vec<String> = text.split_whitespace().map(Into::into).collect();
    names.sort();
    names
}

/// The pool's sizes are those of its group.
async fn agrees(place: &Place, pool: &str, name: &str) {
    let [size, free, _] = group(place, name);
    let reply = place.client.get(format!("{POOLS}/{pool}/capacity")).await;
    let told = reply.data();
    assert_eq!(told["capacity_bytes"], size, "{told}");
    assert_eq!(told["available_bytes"], free, "{told}");
    assert_eq!(told["allocation_bytes"], size - free, "{told}");
}

/// `alpha` becomes the volume group of the pool `fast`, by a path that outlives a reboot.
pub async fn a_new_volume_group(place: &Place) {
    let device = place.host.disk("alpha");
    let body = json!({
        "name": "fast",
        "type": "logical",
        "source": {"name": "vg_fast", "devices": [{"path": device}]},
        "build": true,
    });

    let plan = place.client.post(format!("{POOLS}?dry_run=true"), &body).await;
    assert_eq!(plan.status, 200, "{plan:?}");
    assert!(plan.text.contains(&device), "{plan:?}");
    assert!(groups(place).is_empty() && place.defined().is_empty(), "a plan makes nothing");

    // Somebody's file system is not overwritten because its device was named by mistake.
    place.host.run(&format!("mkfs.ext4 -q {device}"));
    let reply = place.create(&body).await;
    assert!(matches!(reply.status, 409 | 422), "{reply:?}");
    assert!(place.host.run(&format!("blkid {device}")).contains("TYPE=\"ext4\""));
    assert!(groups(place).is_empty() && place.defined().is_empty(), "nothing is half-made");
    place.host.run(&format!("wipefs -q -a {device}"));

    let reply = place.create(&body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let pool = reply.data();
    assert_eq!(pool["state"], "running", "{pool}");
    assert_eq!(pool["type"], "logical");
    assert_eq!(pool["source"]["name"], "vg_fast");
    assert_eq!(pool["autostart"], true);
    assert_eq!(groups(place), ["vg_fast"]);
    agrees(place, "fast", "vg_fast").await;
}

pub async fn volumes_are_plain_logical_volumes(place: &Place) {
    let path = format!("{POOLS}/fast/volumes");
    let reply = place.client.post(&path, &json!({"name": "web1", "size": 1})).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let volume = reply.data();
    assert_eq!(volume["capacity_bytes"], GIB);
    assert_eq!(volume["allocation_bytes"], GIB, "all its room is its own: {volume}");
    assert_eq!(volume["type"], "block");
    assert_eq!(volume["path"], "/dev/vg_fast/web1");
    // A snapshot or a thin volume would break when it is full.
    assert_eq!(volumes(place, "vg_fast"), [("web1".to_owned(), GIB, "linear".to_owned())]);
    agrees(place, "fast", "vg_fast").await;

    // LVM counts in extents, and nobody gets less than was asked for.
    let [.., extent] = group(place, "vg_fast");
    let odd = json!({"name": "odd", "capacity_bytes": 100 * MIB + 1, "format": "raw"});
    let reply = place.client.post(&path, &odd).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let whole = (100 * MIB + 1).div_ceil(extent) * extent;
    assert_eq!(reply.data()["capacity_bytes"], whole);
    assert!(volumes(place, "vg_fast").contains(&("odd".to_owned(), whole, "linear".to_owned())));

    let before = volumes(place, "vg_fast");
    place.client.post(&path, &odd).await.refused(409, "VOLUME_ALREADY_EXISTS");
    let image = json!({"name": "image", "size": 1, "format": "qcow2"});
    let reply = place.client.post(&path, &image).await;
    assert!(matches!(reply.status, 400 | 422), "a logical volume holds no image: {reply:?}");
    let huge = json!({"name": "huge", "size": 64});
    let reply = place.client.post(&path, &huge).await;
    assert!(matches!(reply.status, 409 | 422), "there is no room: {reply:?}");
    assert_eq!(volumes(place, "vg_fast"), before, "what is refused leaves nothing");

    // libvirt has no way to resize a logical volume; that is said, and nothing has changed.
    let reply =
        place.client.post(format!("{path}/odd/resize"), &json!({"capacity_bytes": GIB})).await;
    assert_eq!(reply.status, 422, "{reply:?}");
    assert_eq!(volumes(place, "vg_fast"), before);

    // Made by another hand.
    place.host.run("lvcreate -q -y -L 64M -n foreign vg_fast");
    place.volume("fast", "foreign").await.refused(404, "VOLUME_NOT_FOUND");
    assert_eq!(place.act("fast", "refresh").await.status, 200);
    assert_eq!(place.volume("fast", "foreign").await.data()["capacity_bytes"], 64 * MIB);
    agrees(place, "fast", "vg_fast").await;

    // Another name of the same device is another hand's way to use it.
    place.host.run(
        "echo \"<domain type='qemu'><name>mapped</name><memory>65536</memory><os><type>hvm</type></os>\
         <devices><disk type='block'><source dev='/dev/mapper/vg_fast-foreign'/><target dev='vda'/></disk>\
         </devices></domain>\" >/tmp/mapped.xml && virsh -q define /tmp/mapped.xml",
    );
    eventually("its user is known", SOON, async || {
        let volume = place.volume("fast", "foreign").await;
        volume.text.contains("mapped").then_some(())
    })
    .await;
    place.client.delete(format!("{path}/foreign")).await.refused(409, "VOLUME_IN_USE");
    place.virsh("undefine mapped");
    eventually("it has no user", SOON, async || {
        let volume = place.volume("fast", "foreign").await;
        (!volume.text.contains("mapped")).then_some(())
    })
    .await;

    for volume in ["odd", "foreign"] {
        let reply = place.client.delete(format!("{path}/{volume}")).await;
        assert!(reply.is_success(), "{reply:?}");
    }
    assert_eq!(volumes(place, "vg_fast").len(), 1);
    agrees(place, "fast", "vg_fast").await;
}

pub async fn a_volume_is_a_disk_and_then_stays(place: &Place) {
    let mut body = guest::empty_body("web");
    body["storage"] = json!({"disks": [
        {"action": "attach", "path": "/dev/vg_fast/web1"},
        {"action": "create", "size": 1, "pool": "fast"},
    ]});
    body["start"] = json!(true);
    // QEMU's own start takes long in an emulated machine.
    let reply = place.client.call("POST", V).header("prefer", "wait=110").json(&body).send().await;
    assert_eq!(reply.status, 201, "{reply:?}");
    let disks = reply.data()["disks"].as_array().expect("disks").clone();
    assert_eq!(disks[0]["volume"], json!({"pool": "fast", "volume": "web1"}));
    let second = disks[1]["volume"]["volume"].as_str().expect("a volume").to_owned();
    assert_eq!(disks[1]["volume"]["pool"], "fast");
    let xml = place.virsh("dumpxml web");
    for expected in
        ["<source dev='/dev/vg_fast/web1'", &format!("<source dev='/dev/vg_fast/{second}'")]
    {
        assert!(xml.contains(expected), "{expected} in {xml}");
    }
    assert_eq!(xml.matches("<disk type='block'").count(), 2, "{xml}");
    assert_eq!(xml.matches("type='raw'").count(), 2, "{xml}");
    let all = volumes(place, "vg_fast");
    assert!(all.contains(&(second.clone(), GIB, "linear".to_owned())), "{all:?}");

    let path = format!("{POOLS}/fast/volumes/web1");
    let reply = place.client.delete(&path).await.refused(409, "VOLUME_IN_USE");
    assert_eq!(reply.details()["vms"], json!(["web"]));
    assert_eq!(place.volume("fast", "web1").await.data()["used_by"], json!(["web"]));
    let reply = place.act("fast", "stop").await.refused(409, "POOL_IN_USE");
    assert_eq!(reply.details()["vms"], json!(["web"]));
    // LVM does not give up what is open, whoever insists; the pool goes on.
    let reply = place.client.call("POST", format!("{POOLS}/fast/stop?force=true")).send().await;
    assert!((400..500).contains(&reply.status), "{reply:?}");
    assert_eq!(place.pool("fast").await["state"], "running");
    let reply = place.client.delete(format!("{POOLS}/fast?delete_volumes=true")).await;
    reply.refused(409, "VOLUME_IN_USE");
    assert_eq!(volumes(place, "vg_fast"), all);

    place.client.done("web", "force-stop").await;
    place.client.delete(&path).await.refused(409, "VOLUME_IN_USE");
    let reply = place.client.delete(format!("{V}/web?remove_disks=true")).await;
    assert!(reply.is_success(), "{reply:?}");
    assert!(volumes(place, "vg_fast").is_empty(), "its disks went with it");
    let body = json!({"name": "web1", "size": 1});
    let reply = place.client.post(format!("{POOLS}/fast/volumes"), &body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
}

/// The disk under `fast` goes away and comes back under another name.
pub async fn a_pulled_disk_is_told_and_heals(place: &Place) {
    let reply = place.act("fast", "stop").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(place.pool("fast").await["state"], "inactive");
    assert_eq!(place.host.run("lvs --noheadings -o lv_active vg_fast").trim(), "", "not active");
    assert_eq!(place.act("fast", "start").await.status, 200);
    assert_eq!(place.volume("fast", "web1").await.data()["capacity_bytes"], GIB);

    let was = place.host.run(&format!("readlink -f {}", place.host.disk("alpha")));
    place.host.pull("alpha");
    let reply = place.act("fast", "refresh").await;
    assert!((400..500).contains(&reply.status), "{reply:?}");
    let pool = place.pool("fast").await;
    assert_eq!(pool["state"], "inactive", "{pool}");
    assert!(pool["problem"].as_str().is_some_and(|text| text.contains("vg_fast")), "{pool}");
    let reply = place.act("fast", "start").await;
    assert!((400..500).contains(&reply.status), "{reply:?}");
    assert_eq!(place.pool("fast").await["state"], "inactive");
    assert!(place.pool("fast").await["problem"].is_string());

    // What still holds the name of the pulled disk keeps it from coming back as the same.
    place.host.plug("alpha");
    let is = place.host.run(&format!("readlink -f {}", place.host.disk("alpha")));
    assert_ne!(was, is, "the case is another name");
    place.host.run("dmsetup remove vg_fast-web1 2>/dev/null || true");
    let reply = place.act("fast", "start").await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let pool = place.pool("fast").await;
    assert_eq!((&pool["state"], &pool["problem"]), (&json!("running"), &Value::Null), "{pool}");
    assert_eq!(place.volume("fast", "web1").await.data()["capacity_bytes"], GIB);
}

/// `beta` holds a volume group that was there before; the pool `old` makes it visible and no more.
pub async fn a_volume_group_of_others(place: &Place) {
    let device = place.host.disk("beta");
    place.host.run(&format!(
        "vgcreate -q vg_old {device}; lvcreate -q -y -L 64M -n precious vg_old; echo treasure \
         >/dev/vg_old/precious"
    ));

    // A group that is not there is no pool.
    let ghost = json!({"name": "ghost", "type": "logical", "source": {"name": "vg_none"}});
    let reply = place.create(&ghost).await;
    assert!((400..500).contains(&reply.status), "{reply:?}");
    assert_eq!(place.defined(), ["fast"], "nothing is half-made");

    // Nor is one made over it because its name was taken for a new one's.
    let spare = place.host.disk("gamma");
    let body = json!({"name": "vg_old", "type": "logical", "build": true,
        "source": {"devices": [{"path": spare}]}});
    place.create(&body).await.refused(409, "POOL_CONFLICT");
    assert_eq!(place.defined(), ["fast"]);
    assert_eq!(volumes(place, "vg_old").len(), 1);

    let body = json!({"name": "old", "type": "logical", "source": {"name": "vg_old"},
        "autostart": false});
    let reply = place.create(&body).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    assert_eq!(reply.data()["state"], "running");
    assert_eq!(reply.data()["autostart"], false);
    assert_eq!(place.volume("old", "precious").await.data()["capacity_bytes"], 64 * MIB);
    agrees(place, "old", "vg_old").await;

    let path = format!("{POOLS}/old");
    let reply = place.client.delete(&path).await.refused(409, "POOL_NOT_EMPTY");
    assert_eq!(reply.details()["volumes"], json!(["precious"]));
    // Stopped, it is forgotten, and the group with all that is in it stays its owner's.
    assert_eq!(place.act("old", "stop").await.status, 200);
    let reply = place.client.delete(&path).await;
    assert!(reply.is_success(), "{reply:?}");
    assert_eq!(place.defined(), ["fast"]);
    assert_eq!(groups(place), ["vg_fast", "vg_old"]);
    let content =
        place.host.run("vgchange -q -ay vg_old >/dev/null; head -c 8 /dev/vg_old/precious");
    assert_eq!(content, "treasure");
}

/// The pool that Vapor made goes with its group when that is said, and without it when not.
pub async fn the_end_of_a_volume_group(place: &Place) {
    let path = format!("{POOLS}/fast");
    place.client.delete(&path).await.refused(409, "POOL_NOT_EMPTY");
    let reply = place.client.delete(format!("{path}?delete_volumes=true")).await;
    assert!(reply.is_success(), "{reply:?}");
    assert!(place.defined().is_empty());
    assert_eq!(groups(place), ["vg_fast", "vg_old"], "the group stays");
    assert!(volumes(place, "vg_fast").is_empty());

    // Adopted again, by name.
    let body = json!({"name": "fast", "type": "logical", "source": {"name": "vg_fast"}});
    assert_eq!(place.create(&body).await.status, 201);
    let begun = Instant::now();
    let reply = place.client.delete(format!("{path}?delete_storage=true")).await;
    assert!(reply.is_success(), "{reply:?} after {:?}", begun.elapsed());
    assert_eq!(groups(place), ["vg_old"], "the group of others stays");
    eventually("the pool is gone from the picture", SOON, async || {
        (place.client.get(&path).await.status == 404).then_some(())
    })
    .await;
}
