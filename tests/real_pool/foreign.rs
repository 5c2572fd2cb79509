//! What others do to pools with virsh.

use serde_json::json;

use crate::support::{SOON, eventually};
use crate::{POOLS, Place, pools};

#[tokio::test(flavor = "multi_thread")]
async fn pools_that_others_make_change_and_remove_are_seen_as_they_are() {
    let Some(place) = Place::start("pool-foreign").await else { return };
    let (client, lab) = (&place.world.client, &place.world.lab);
    let shown = async |what: &str, wanted: &dyn Fn(&serde_json::Value) -> bool| {
        eventually(what, SOON, async || {
            let reply = client.get(format!("{POOLS}/theirs")).await;
            wanted(&reply.json["data"]).then_some(())
        })
        .await;
    };
    let path = place.path("theirs");
    lab.virsh(&["pool-define-as", "theirs", "dir", "--target", &path]);
    shown("it is defined", &|pool| pool["state"] == "inactive").await;
    lab.virsh(&["pool-build", "theirs"]);
    lab.virsh(&["pool-start", "theirs"]);
    shown("it is started", &|pool| pool["state"] == "running" && pool["target"]["path"] == path)
        .await;
    lab.virsh(&["vol-create-as", "theirs", "x.raw", "1M"]);
    lab.virsh(&["pool-refresh", "theirs"]);
    shown("its volume is there", &|pool| pool["volume_count"] == 1).await;
    lab.virsh(&["pool-destroy", "theirs"]);
    shown("it is stopped", &|pool| pool["state"] == "inactive" && pool["problem"].is_null()).await;
    lab.virsh(&["pool-undefine", "theirs"]);
    eventually("it is gone", SOON, async || {
        let reply = client.get(format!("{POOLS}/theirs")).await;
        (reply.code() == "POOL_NOT_FOUND").then_some(())
    })
    .await;

    // Removed a moment ago: whatever is asked of it, there is no such pool any more.
    for (what, query) in [("start", ""), ("delete", ""), ("update", "")] {
        lab.virsh(&["pool-define-as", "theirs", "dir", "--target", &path]);
        shown("it is defined again", &|pool| pool["state"] == "inactive").await;
        lab.virsh(&["pool-undefine", "theirs"]);
        let reply = match what {
            "delete" => place.delete("theirs", query).await,
            "update" => place.put("theirs", &json!({"autostart": true})).await,
            _ => place.order("theirs", what).await,
        };
        reply.refused(404, "POOL_NOT_FOUND");
        client.get(format!("{POOLS}/theirs")).await.refused(404, "POOL_NOT_FOUND");
    }

    // A transient pool is one that is gone when it stops.
    lab.virsh(&["pool-create-as", "theirs", "dir", "--target", &path]);
    shown("it runs", &|pool| pool["state"] == "running" && pool["persistent"] == false).await;
    place.put("theirs", &json!({"autostart": true})).await.refused(422, "IMPOSSIBLE");
    let stopped = place.order("theirs", "stop").await;
    assert_eq!(stopped.data()["state"], "inactive", "{stopped:?}");
    client.get(format!("{POOLS}/theirs")).await.refused(404, "POOL_NOT_FOUND");
    assert!(!pools(lab).contains(&"theirs".to_owned()));

    // Names that Vapor would not give are dealt with all the same.
    let name = "their pool <&> é";
    let file = place.path("odd.xml");
    let xml = "<pool type='dir'><name>their pool &lt;&amp;> é</name><target><path>/odd</path></target></pool>";
    std::fs::write(&file, xml.replace("/odd", &path)).expect("written");
    lab.virsh(&["pool-define", &file]);
    let own = format!("{POOLS}/their%20pool%20%3C%26%3E%20%C3%A9");
    let pool = eventually("it is defined", SOON, async || {
        let reply = client.get(&own).await;
        reply.is_success().then(|| reply.data().clone())
    })
    .await;
    assert_eq!(pool["name"], name);
    assert_eq!(client.call("POST", format!("{own}/start")).send().await.data()["state"], "running");
    let gone = client.delete(format!("{own}?delete_volumes=true")).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert!(!pools(lab).contains(&name.to_owned()));
    place.world.finish().await;
}
