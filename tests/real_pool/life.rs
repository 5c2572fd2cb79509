//! A folder as a pool: made, filled, changed, stopped, deleted.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{SOON, eventually, guest};
use crate::{POOLS, Place, info, pools};

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_made_filled_and_taken_away_with_what_is_in_it() {
    let Some(place) = Place::start("pool-dir").await else { return };
    let (client, lab) = (&place.world.client, &place.world.lab);
    let mut body = place.dir("new");
    body["target"]["permissions"] = json!({"mode": "0750"});
    let plan = client.post(format!("{POOLS}?dry_run=true"), &body).await;
    assert_eq!(plan.data()["blockers"], json!([]));
    assert!(!Path::new(&place.path("new")).exists(), "a plan makes nothing");

    let pool = place.made(&body).await;
    assert_eq!((&pool["state"], &pool["autostart"]), (&json!("running"), &json!(true)));
    assert_eq!(pool["target"]["permissions"]["mode"], "0750");
    assert!(pool["capacity_bytes"].as_u64() > Some(1 << 20), "{pool}");
    assert_eq!(lab.virsh(&["pool-uuid", "new"]), pool["uuid"].as_str().expect("a UUID"));
    assert_eq!(info(lab, "new", "State"), "running");
    assert_eq!(
        (info(lab, "new", "Autostart"), info(lab, "new", "Persistent")),
        ("yes".into(), "yes".into())
    );
    let mode = std::fs::metadata(place.path("new")).expect("a folder").permissions().mode();
    assert_eq!(mode & 0o7777, 0o750);
    place.create(&body).await.refused(409, "POOL_ALREADY_EXISTS");
    let mut other = place.dir("other");
    other["target"]["path"] = json!(place.path("new"));
    let refused = place.create(&other).await.refused(409, "POOL_CONFLICT");
    assert_eq!(refused.details()["pool"], "new");

    for name in ["a.qcow2", "b.qcow2"] {
        let volume = json!({"name": name, "size": 2});
        let reply = client.post(format!("{POOLS}/new/volumes"), &volume).await;
        assert_eq!(reply.status, 201, "{reply:?}");
    }
    let room = client.get(format!("{POOLS}/new/capacity")).await.data().clone();
    assert_eq!(room["volumes_capacity_bytes"], 4_u64 << 30);
    assert_eq!(
        (&room["volume_count"], &room["capacity_bytes"]),
        (&json!(2), &pool["capacity_bytes"])
    );

    let refused = place.delete("new", "").await.refused(409, "POOL_NOT_EMPTY");
    assert_eq!(refused.details()["volumes"], json!(["a.qcow2", "b.qcow2"]));
    // A file that nobody told Vapor of counts, too.
    std::fs::write(format!("{}/stray.raw", place.path("new")), "x").expect("written");
    let refused = place.delete("new", "?delete_volumes=true&dry_run=true").await;
    assert_eq!(refused.data()["blockers"], json!([]));
    let gone = place.delete("new", "?delete_volumes=true&delete_storage=true").await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert!(!Path::new(&place.path("new")).exists());
    assert!(!pools(lab).contains(&"new".to_owned()));
    client.get(format!("{POOLS}/new")).await.refused(404, "POOL_NOT_FOUND");
    place.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_in_the_picture_is_seen_before_anything_is_lost() {
    let Some(place) = Place::start("pool-stray").await else { return };
    let lab = &place.world.lab;
    place.made(&place.dir("new")).await;
    let stray = format!("{}/stray.raw", place.path("new"));
    std::fs::write(&stray, "x").expect("written");
    assert_eq!(place.get("new").await["volume_count"], 0);
    let refused = place.delete("new", "").await.refused(409, "POOL_NOT_EMPTY");
    assert_eq!(refused.details()["volumes"], json!(["stray.raw"]));
    assert_eq!(info(lab, "new", "State"), "running");
    assert_eq!(place.get("new").await["volume_count"], 1, "the refusal brought it to light");

    // Stopped, it is forgotten, and everything in it stays.
    assert_eq!(place.order("new", "stop").await.data()["state"], "inactive");
    let refused = place.delete("new", "?delete_storage=true").await.refused(422, "LIBVIRT_REFUSED");
    assert!(refused.details()["libvirt"]["text"].is_string(), "{refused:?}");
    assert_eq!(info(lab, "new", "State"), "inactive", "a refused deletion leaves the pool");
    assert_eq!(place.delete("new", "").await.status, 204);
    assert!(Path::new(&stray).exists() && !pools(lab).contains(&"new".to_owned()));
    place.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_autostart_and_the_definition_change_and_survive_libvirtd() {
    let Some(place) = Place::start("pool-update").await else { return };
    let lab = &place.world.lab;
    place.made(&place.dir("new")).await;
    let pool = place.put("new", &json!({"autostart": false})).await.data().clone();
    assert_eq!((&pool["autostart"], info(lab, "new", "Autostart")), (&json!(false), "no".into()));
    // No event tells that somebody else has changed it meanwhile.
    lab.virsh(&["pool-autostart", "new"]);
    let pool = place.put("new", &json!({"autostart": false})).await.data().clone();
    assert_eq!((&pool["autostart"], info(lab, "new", "Autostart")), (&json!(false), "no".into()));

    let change = json!({"target": {"path": place.path("moved"), "permissions": {"mode": "0700"}}});
    place.put("new", &change).await.refused(409, "POOL_ACTIVE");
    assert_eq!(place.order("new", "stop").await.data()["state"], "inactive");
    let pool = place.put("new", &change).await.data().clone();
    assert_eq!(pool["target"]["path"], place.path("moved"));
    let mode = std::fs::metadata(place.path("moved")).expect("a folder").permissions().mode();
    assert_eq!(mode & 0o7777, 0o700, "the new folder is made with its permissions");
    assert!(lab.virsh(&["pool-dumpxml", "new"]).contains(&place.path("moved")));
    let started = place.order("new", "start").await.data().clone();
    assert_eq!((&started["state"], &started["uuid"]), (&json!("running"), &pool["uuid"]));
    let body = json!({"target": {"path": lab.pool_file("deeper")}});
    assert_eq!(place.order("new", "stop").await.status, 200);
    let refused = place.put("new", &body).await.refused(409, "POOL_CONFLICT");
    assert_eq!(refused.details()["pool"], "lab");

    assert_eq!(place.put("new", &json!({"autostart": true})).await.status, 200);
    lab.kill_libvirtd();
    lab.start_libvirtd();
    eventually("the pool has started with libvirtd", SOON, async || {
        let reply = place.world.client.get(format!("{POOLS}/new")).await;
        (reply.json["data"]["state"] == "running").then_some(())
    })
    .await;
    place.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_under_a_running_guest_stops_only_if_that_is_meant() {
    let Some(place) = Place::start("pool-used").await else { return };
    let (client, lab) = (&place.world.client, &place.world.lab);
    place.made(&place.dir("disks")).await;
    let mut body = guest::body("one");
    body["storage"] = json!({"default_pool": "disks", "disks": [{"action": "create", "size": 1}]});
    body["start"] = json!(true);
    let reply = client.post(crate::support::V, &body).await;
    assert_eq!(reply.status, 201, "{reply:?}");

    let refused = place.order("disks", "stop").await.refused(409, "POOL_IN_USE");
    assert_eq!(refused.details()["vms"], json!(["one"]));
    assert_eq!(info(lab, "disks", "State"), "running");
    let refused = place.delete("disks", "?delete_volumes=true").await.refused(409, "VOLUME_IN_USE");
    assert_eq!(refused.details()["vms"], json!(["one"]));
    assert_eq!(place.get("disks").await["volume_count"], 1);
    assert_eq!(place.order("disks", "stop?force=true").await.data()["state"], "inactive");
    assert_eq!(lab.virsh(&["domstate", "one"]), "running", "the guest goes on");
    assert_eq!(place.order("disks", "start").await.data()["state"], "running");

    // A VM that does not run is in nobody's way, but its disk is its own.
    client.done("one", "force-stop").await;
    assert_eq!(place.order("disks", "stop").await.status, 200);
    assert_eq!(place.order("disks", "start").await.status, 200);
    place.delete("disks", "?delete_volumes=true").await.refused(409, "VOLUME_IN_USE");
    place.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_of_a_pool_comes_once_and_names_its_task() {
    let Some(place) = Place::start("pool-events").await else { return };
    let client = &place.world.client;
    let mut stream = client.stream("?kind=pool.*").await;
    let made = place.create(&place.dir("told")).await;
    let tasks = [
        made.task(),
        place.order("told", "refresh").await.task(),
        place.order("told", "stop").await.task(),
        place.order("told", "start").await.task(),
        place.delete("told", "?delete_storage=true").await.task(),
    ]
    .map(|task| task.expect("a task"));
    let [create, refresh, stop, start, delete] = &tasks;
    let wanted = [
        ("pool.defined", create),
        ("pool.created", create),
        ("pool.started", create),
        ("pool.refreshed", refresh),
        ("pool.stopped", stop),
        ("pool.started", start),
        ("pool.refreshed", delete),
        ("pool.stopped", delete),
        ("pool.deleted", delete),
        ("pool.undefined", delete),
    ];
    for (kind, task) in wanted {
        let next = tokio::time::timeout(SOON, stream.recv()).await;
        let (name, data) =
            next.unwrap_or_else(|_| panic!("no {kind}")).expect("the stream goes on");
        assert_eq!((name.as_str(), &data["task"]), (kind, &json!(task)), "{data}");
    }
    let all: Vec<Value> = client.tasks().await;
    let of: Vec<&Value> = all.iter().filter(|task| task["subject"]["name"] == "told").collect();
    let kinds: Vec<&Value> = of.iter().map(|task| &task["kind"]).collect();
    assert_eq!(
        json!(kinds),
        json!(["pool.create", "pool.refresh", "pool.stop", "pool.start", "pool.delete"])
    );
    assert!(of.iter().all(|task| task["status"] == "succeeded"), "{of:#?}");
    place.world.finish().await;
}
