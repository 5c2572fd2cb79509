//! Pools that do not come about, or whose storage goes away.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{SOON, eventually};
use crate::{POOLS, Place, info, pools};

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_cannot_start_leaves_nothing() {
    let Some(place) = Place::start("pool-undo").await else { return };
    let (client, lab) = (&place.world.client, &place.world.lab);
    let before = pools(lab);
    let nothing = async |reply: crate::support::Reply| {
        let task = client.task(&reply.task().expect("a task")).await;
        assert_eq!((&task["kind"], &task["status"]), (&json!("pool.create"), &json!("failed")));
        assert_eq!(pools(lab), before);
        client.get(format!("{POOLS}/bad")).await.refused(404, "POOL_NOT_FOUND");
        reply
    };

    // A file in the place of the folder: it stays as it is.
    std::fs::write(place.path("bad"), "precious").expect("written");
    let reply = place.create(&place.dir("bad")).await.refused(422, "LIBVIRT_REFUSED");
    let reply = nothing(reply).await;
    assert!(reply.details()["libvirt"]["text"].is_string(), "{reply:?}");
    assert_eq!(std::fs::read_to_string(place.path("bad")).expect("it is there"), "precious");
    std::fs::remove_file(place.path("bad")).expect("removed");

    // A folder that is missing and shall not be made.
    let mut body = place.dir("bad");
    body["build"] = json!(false);
    nothing(place.create(&body).await.refused(422, "LIBVIRT_REFUSED")).await;
    assert!(!Path::new(&place.path("bad")).exists());

    // A server that exports nothing: the mount point goes, unless it was there before.
    let body = json!({"name": "bad", "type": "netfs", "target": {"path": place.path("bad")},
        "source": {"hosts": [{"name": "127.0.0.1"}], "dir": "/nowhere", "format": "nfs"}});
    nothing(place.create(&body).await.refused(422, "LIBVIRT_REFUSED")).await;
    assert!(!Path::new(&place.path("bad")).exists(), "what was made is removed");
    std::fs::create_dir(place.path("bad")).expect("made");
    nothing(place.create(&body).await.refused(422, "LIBVIRT_REFUSED")).await;
    assert!(Path::new(&place.path("bad")).is_dir(), "what was there stays");

    // The name is free again.
    let pool = place.made(&place.dir("bad")).await;
    assert_eq!(pool["state"], "running");
    place.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_host_cannot_do_is_refused_with_the_reason() {
    let Some(place) = Place::start("pool-caps").await else { return };
    let (client, lab) = (&place.world.client, &place.world.lab);
    let known = eventually("libvirt has told what it can do", SOON, async || {
        let reply = client.get("/api/v1/virtualization/capabilities").await;
        reply.is_success().then(|| reply.data()["storage_pools"].clone())
    })
    .await;
    let known = known.as_array().expect("a list").clone();
    let told = lab.virsh(&["pool-capabilities"]);
    for pool in &known {
        let (r#type, supported) = (pool["type"].as_str().expect("a type"), &pool["supported"]);
        let word = if supported == &json!(true) { "yes" } else { "no" };
        assert!(told.contains(&format!("<pool type='{type}' supported='{word}'>")), "{pool}");
    }
    let of = |word: &str| known.iter().find(|pool| pool["type"] == word).expect("it is listed");
    assert_eq!(of("dir")["supported"], true);
    assert!(
        of("dir")["volume_formats"].as_array().is_some_and(|all| all.contains(&json!("qcow2")))
    );

    let bodies: [(&str, Value); 4] = [
        ("sheepdog", json!({"hosts": [{"name": "localhost"}], "name": "x"})),
        ("rbd", json!({"hosts": [{"name": "localhost"}], "name": "x"})),
        ("logical", json!({"name": "vg0"})),
        ("zfs", json!({"name": "tank"})),
    ];
    let mut refused = 0;
    for (r#type, source) in bodies.iter().filter(|(word, _)| of(word)["supported"] == false) {
        let body = json!({"name": "x", "type": r#type, "source": source});
        let reply = place.create(&body).await.refused(422, "NOT_SUPPORTED");
        assert_eq!(reply.details()["fields"][0]["field"], "type");
        assert!(
            reply.details()["supported"].as_array().is_some_and(|all| all.contains(&json!("dir")))
        );
        refused += 1;
    }
    assert!(refused > 0, "sheepdog is in no libvirt of these days: {known:#?}");
    assert!(!pools(lab).contains(&"x".to_owned()));
    place.world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_folder_is_gone_says_so_until_it_is_back() {
    let Some(mut place) = Place::start("pool-gone").await else { return };
    place.made(&place.dir("frail")).await;
    std::fs::remove_dir(place.path("frail")).expect("removed");
    assert_eq!(place.get("frail").await["state"], "running", "nobody has looked yet");

    let reply = place.order("frail", "refresh").await.refused(422, "LIBVIRT_REFUSED");
    assert!(reply.details()["libvirt"]["text"].is_string(), "{reply:?}");
    let pool = place.get("frail").await;
    assert_eq!(
        (&pool["state"], info(&place.world.lab, "frail", "State").as_str()),
        (&json!("inactive"), "inactive")
    );
    let problem = pool["problem"].as_str().expect("a problem");
    assert!(problem.contains("refresh") && problem.contains(&place.path("frail")), "{problem}");
    let reply = place.world.client.get(POOLS).await;
    let listed = reply.data()["pools"].as_array().expect("a list").clone();
    assert!(listed.iter().any(|one| one == &pool), "{listed:#?}");

    place.order("frail", "start").await.refused(422, "LIBVIRT_REFUSED");
    let problem = place.get("frail").await["problem"].as_str().expect("a problem").to_owned();
    assert!(problem.contains("start"), "{problem}");
    place.world.daemon.kill9();
    place.world.daemon.start_again().await;
    eventually("the next daemon says so, too", SOON, async || {
        (place.get("frail").await["problem"] == problem.as_str()).then_some(())
    })
    .await;

    std::fs::create_dir(place.path("frail")).expect("made");
    let pool = place.order("frail", "start").await.data().clone();
    assert_eq!((&pool["state"], &pool["problem"]), (&json!("running"), &json!(null)));

    // And one that is gone for good can be forgotten, active as it seems.
    std::fs::remove_dir(place.path("frail")).expect("removed");
    assert_eq!(place.delete("frail", "").await.status, 204);
    assert!(!pools(&place.world.lab).contains(&"frail".to_owned()));
    place.world.finish().await;
}
