//! What every mutation promises: plans that change nothing, versions, keys that replay.

use serde_json::{Value, json};

use crate::support::{BOOT, V, World, guest};

/// Everything libvirt and the pool say, to compare before and after.
fn everything(world: &World) -> Vec<String> {
    let lab = &world.lab;
    let mut all = lab.volumes();
    for name in lab.names(&["list", "--all", "--name"]) {
        all.push(lab.virsh(&["dumpxml", &name]));
        all.push(lab.virsh(&["dumpxml", &name, "--inactive"]));
        all.push(lab.virsh(&["domstate", &name, "--reason"]));
    }
    all.push(lab.virsh(&["list", "--all", "--autostart", "--name"]));
    all.push(lab.virsh(&["list", "--all", "--with-managed-save", "--name"]));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_and_changes_nothing() {
    let Some(world) = World::start("dry").await else { return };
    let client = &world.client;
    world.make("up", true).await;
    world.make("down", false).await;
    world.booted("up").await;
    let before = everything(&world);
    let tasks = client.tasks().await.len();
    let vm = guest::without_runtime(&client.vm("up").await);

    let plan = async |method: &str, path: String, body: Option<Value>| {
        let mut call = client.call(method, path.clone());
        if let Some(body) = &body {
            call = call.json(body);
        }
        let reply = call.send().await;
        assert_eq!(reply.status, 200, "{method} {path}: {reply:?}");
        reply.data().clone()
    };
    let create = plan("POST", format!("{V}?dry_run=true"), Some(guest::body("new"))).await;
    assert_eq!((&create["operation"], &create["blockers"]), (&json!("vm.create"), &json!([])));
    assert!(create["xml_diff"].as_str().is_some_and(|diff| diff.contains("+  <name>new</name>")));
    assert!(create["side_effects"].to_string().contains("lab/"), "{create}");
    let exists = plan("POST", format!("{V}?dry_run=true"), Some(guest::empty_body("up"))).await;
    assert_eq!(exists["blockers"][0]["code"], "VM_ALREADY_EXISTS");

    let change = json!({"memory": 192, "description": "x", "labels": {"a": "b"}, "vcpus": 2,
        "autostart": true, "boot": ["network"]});
    for method in ["PATCH", "PUT"] {
        let update = plan(method, format!("{V}/up?dry_run=true"), Some(change.clone())).await;
        let changes = update["changes"].as_array().expect("changes");
        let effect = |field: &str| {
            let of = changes.iter().find(|change| change["field"] == field);
            of.unwrap_or_else(|| panic!("{field} is not in {changes:?}"))["effect"].clone()
        };
        assert_eq!((effect("memory"), effect("vcpus")), (json!("live"), json!("next_boot")));
        assert_eq!(effect("boot"), json!("next_boot"));
        assert!(update["xml_diff"].as_str().is_some_and(|diff| diff.contains("<description>x")));
    }
    for (vm, action, blocker) in [
        ("up", "stop", None),
        ("up", "force-stop", None),
        ("up", "save", None),
        ("up", "pause", None),
        ("up", "reset", None),
        ("up", "restart", None),
        ("up", "start", Some("VM_ALREADY_RUNNING")),
        ("down", "start", None),
        ("down", "pause", Some("VM_NOT_RUNNING")),
    ] {
        let path = format!("{V}/{vm}/action?dry_run=true");
        let plan = plan("POST", path, Some(json!({"action": action}))).await;
        let code = plan["blockers"][0]["code"].as_str();
        assert_eq!(code, blocker, "{action} {vm}: {plan}");
    }
    let delete = plan("DELETE", format!("{V}/up?dry_run=true&remove_disks=true"), None).await;
    assert_eq!(delete["blockers"][0]["code"], "VM_RUNNING");
    let delete = plan("DELETE", format!("{V}/down?dry_run=true&remove_disks=true"), None).await;
    assert!(delete["side_effects"].to_string().contains("lab/"), "{delete}");
    let path = format!("{V}/up/xml");
    let xml =
        client.call("GET", format!("{path}?inactive=true")).header("accept", "application/xml");
    let edited = xml.send().await.text.replace("256", "512").replace("262144", "524288");
    let reply = client.call("PUT", format!("{path}?dry_run=true")).xml(&edited).send().await;
    assert!(!reply.data()["changes"].as_array().expect("changes").is_empty(), "{reply:?}");

    assert_eq!(everything(&world), before);
    assert_eq!(client.tasks().await.len(), tasks, "a plan is no task");
    assert_eq!(guest::without_runtime(&client.vm("up").await), vm);
    // The plan of an update is what the update then does.
    let done = client.patch(format!("{V}/up"), &change).await;
    assert_eq!(done.data()["description"], "x");
    assert!(!done.data()["pending"].is_null(), "{done:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_version_is_refused_and_a_key_replays() {
    let Some(world) = World::start("match").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    let keyed = async |method: &str, path: &str, key: &str, body: Value| {
        client.call(method, path).header("idempotency-key", key).json(&body).send().await
    };
    let body = guest::body("one");
    let first = keyed("POST", V, "make", body.clone()).await;
    assert_eq!(first.status, 201, "{first:?}");
    let again = keyed("POST", V, "make", body.clone()).await;
    assert_eq!((again.status, again.task()), (201, first.task()), "{again:?}");
    assert_eq!(again.data()["uuid"], first.data()["uuid"]);
    assert_eq!(lab.volumes().len(), 1);
    keyed("POST", V, "make", guest::body("two")).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    keyed("POST", V, "other", body).await.refused(409, "VM_ALREADY_EXISTS");

    // Two at once with one key: one start, one task.
    let path = format!("{V}/one/action");
    let start = json!({"action": "start"});
    let (left, right) = tokio::join!(
        keyed("POST", &path, "start", start.clone()),
        keyed("POST", &path, "start", start.clone())
    );
    assert_eq!((left.status, right.status), (200, 200), "{left:?} {right:?}");
    assert_eq!(left.task(), right.task());
    assert!(left.task().is_some());
    // A failure replays, too, although it would succeed by now.
    let failed = keyed("POST", &path, "resume", json!({"action": "resume"})).await;
    assert_eq!(failed.status, 409, "{failed:?}");
    let stop = json!({"action": "stop", "timeout": 60});
    world.booted("one").await;
    let stopping = keyed("POST", &path, "stop", stop.clone()).await;
    let id = stopping.task().expect("a task");
    assert_eq!(client.finished(&id, BOOT).await["status"], "succeeded");
    client.done("one", "start").await;
    let replayed = keyed("POST", &path, "stop", stop).await;
    assert_eq!((replayed.status, replayed.task()), (200, Some(id)), "{replayed:?}");
    assert_eq!(lab.virsh(&["domstate", "one"]), "running", "a replay does nothing");

    let path = format!("{V}/one");
    let got = client.get(&path).await;
    let etag = got.header("etag").expect("a version").to_owned();
    let unchanged = client.call("GET", &path).header("if-none-match", &etag).send().await;
    assert_eq!((unchanged.status, unchanged.text.as_str()), (304, ""));
    let with = async |tag: &str, body: Value| {
        client.call("PATCH", &path).header("if-match", tag).json(&body).send().await
    };
    let new = with(&etag, json!({"description": "first"})).await;
    assert_eq!(new.status, 200, "{new:?}");
    let stale = with(&etag, json!({"description": "second"})).await;
    let stale = stale.refused(412, "PRECONDITION_FAILED");
    let present = client.get(&path).await;
    assert_eq!(stale.details()["etag"].as_str(), present.header("etag"));
    assert_eq!(present.data()["description"], "first");
    let action = client.call("POST", format!("{path}/action")).header("if-match", &etag);
    action.json(&json!({"action": "pause"})).send().await.refused(412, "PRECONDITION_FAILED");
    let delete = client.call("DELETE", format!("{path}?force=true")).header("if-match", &etag);
    delete.send().await.refused(412, "PRECONDITION_FAILED");
    // A change by another hand makes the version stale as well.
    let etag = present.header("etag").expect("a version").to_owned();
    lab.virsh(&["desc", "one", "--live", "--config", "--new-desc", "virsh"]);
    crate::support::eventually("virsh's change is seen", crate::support::SOON, async || {
        (client.vm("one").await["description"] == "virsh").then_some(())
    })
    .await;
    with(&etag, json!({"description": "third"})).await.refused(412, "PRECONDITION_FAILED");
    assert_eq!(with("*", json!({"description": "last"})).await.status, 200);
    world.finish().await;
}
