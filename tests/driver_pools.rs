//! Pools from their creation to their end, on libvirt's test driver.

#[path = "support/driver.rs"]
mod driver;

use driver::{POOLS, Reply, World, text};
use http::Method;
use serde_json::{Value, json};

fn dir(name: &str, path: &str) -> Value {
    json!({"name": name, "type": "dir", "target": {"path": path}})
}

impl World {
    async fn order(&self, path: &str) -> Reply {
        self.send(Method::POST, path, &[], None).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_lives_from_its_creation_to_its_deletion() {
    let world = World::new().await;
    let body = dir("new", "/srv/new");
    let own = format!("{POOLS}/new");
    let plan = world.post(&format!("{POOLS}?dry_run=true"), &body).await.expect(200);
    assert_eq!((&plan["operation"], &plan["blockers"]), (&json!("pool.create"), &json!([])));
    assert!(text(&plan["xml_diff"]).contains("+    <path>/srv/new</path>"), "{plan:#}");
    let effects = plan["side_effects"].to_string();
    assert!(effects.contains("makes the folder /srv/new if it is missing"), "{effects}");
    world.get(&own).await.refused(404, "POOL_NOT_FOUND");

    let reply = world.post(POOLS, &body).await;
    let pool = reply.expect(201);
    assert_eq!((&pool["name"], &pool["type"]), (&json!("new"), &json!("dir")));
    assert_eq!((&pool["state"], &pool["autostart"]), (&json!("running"), &json!(true)));
    assert_eq!((&pool["persistent"], &pool["problem"]), (&json!(true), &json!(null)));
    assert_eq!(pool["target"]["path"], "/srv/new");
    assert_eq!(reply.header("location"), own);
    let task = world.get(&format!("/api/v1/tasks/{}", reply.header("x-task-id"))).await.expect(200);
    assert_eq!((&task["kind"], &task["subject"]["id"]), (&json!("pool.create"), &pool["uuid"]));
    assert_eq!(world.get(&own).await.expect(200), pool);
    world.post(POOLS, &body).await.refused(409, "POOL_ALREADY_EXISTS");

    world.order(&format!("{own}/start")).await.refused(409, "POOL_ACTIVE");
    let stopped = world.order(&format!("{own}/stop")).await.expect(200);
    assert_eq!(stopped["state"], "inactive");
    world.order(&format!("{own}/stop")).await.refused(409, "POOL_INACTIVE");
    world.order(&format!("{own}/refresh")).await.refused(409, "POOL_INACTIVE");
    let started = world.order(&format!("{own}/start")).await.expect(200);
    assert_eq!(started["state"], "running");
    let refreshed = world.order(&format!("{own}/refresh")).await.expect(200);
    assert_eq!(refreshed["state"], "running");

    assert_eq!(world.delete(&own).await.status, 204);
    world.get(&own).await.refused(404, "POOL_NOT_FOUND");
    for rest in ["/start", "/stop", "/refresh"] {
        world.order(&format!("{own}{rest}")).await.refused(404, "POOL_NOT_FOUND");
    }
    world.put(&own, &json!({"autostart": true})).await.refused(404, "POOL_NOT_FOUND");
    world.delete(&own).await.refused(404, "POOL_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_changes_where_it_can_and_only_the_version_that_was_seen() {
    let world = World::new().await;
    let own = format!("{POOLS}/images");
    let seen = world.get(&own).await;
    let etag = seen.header("etag");
    assert_eq!(seen.expect(200)["autostart"], false);
    let body = json!({"autostart": true});
    let plan = world.put(&format!("{own}?dry_run=true"), &body).await.expect(200);
    assert_eq!(plan["changes"][0]["field"], "autostart");
    assert_eq!(
        (&plan["changes"][0]["to"], &plan["changes"][0]["effect"]),
        (&json!(true), &json!("live"))
    );
    let headers = [("if-match", etag.as_str())];
    let reply = world.send(Method::PUT, &own, &headers, Some(&body)).await;
    assert_eq!(reply.expect(200)["autostart"], true);
    assert_eq!(reply.header("etag"), world.get(&own).await.header("etag"));
    let stale = world.send(Method::PUT, &own, &headers, Some(&body)).await;
    stale.refused(412, "PRECONDITION_FAILED");
    for method in [Method::DELETE, Method::POST] {
        let path = if method == Method::POST { format!("{own}/stop") } else { own.clone() };
        let reply = world.send(method, &path, &headers, None).await;
        reply.refused(412, "PRECONDITION_FAILED");
    }

    // What it stands on stays while it is active.
    let body = json!({"target": {"path": "/pool/elsewhere"}});
    let refused = world.put(&own, &body).await;
    refused.refused(409, "POOL_ACTIVE");
    assert_eq!(refused.fields(), ["target.path"]);
    world.order(&format!("{own}/stop")).await.expect(200);
    let plan = world.put(&format!("{own}?dry_run=true"), &body).await.expect(200);
    assert!(text(&plan["xml_diff"]).contains("+    <path>/pool/elsewhere</path>"), "{plan:#}");
    assert_eq!(world.get(&own).await.expect(200)["target"]["path"], "/pool/images");
    let pool = world.put(&own, &body).await.expect(200);
    assert_eq!(pool["target"]["path"], "/pool/elsewhere");
    assert_eq!((&pool["uuid"], &pool["autostart"]), (&seen.data()["uuid"], &json!(true)));
    let body = json!({"source": {"format": "ext4"}});
    let refused = world.put(&own, &body).await;
    refused.refused(422, "IMPOSSIBLE");
    assert_eq!(refused.fields(), ["source.format"]);
    let body = json!({"target": {"path": "/pool/default"}});
    assert_eq!(
        world.put(&own, &body).await.refused(409, "POOL_CONFLICT")["details"]["pool"],
        "default"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_with_volumes_goes_with_them_or_not_at_all() {
    let world = World::new().await;
    let own = format!("{POOLS}/images");
    for name in ["a.qcow2", "b.qcow2"] {
        let body = json!({"name": name, "size": 1});
        world.post(&format!("{own}/volumes"), &body).await.expect(201);
    }
    let error = world.delete(&own).await.refused(409, "POOL_NOT_EMPTY");
    assert_eq!(error["details"]["volumes"], json!(["a.qcow2", "b.qcow2"]));
    let plan = world.delete(&format!("{own}?dry_run=true")).await.expect(200);
    assert_eq!(plan["blockers"][0]["code"], "POOL_NOT_EMPTY");
    let plan = world.delete(&format!("{own}?delete_volumes=true&dry_run=true")).await.expect(200);
    assert_eq!(plan["blockers"], json!([]));
    assert_eq!(plan["side_effects"][0], "deletes the volume images/a.qcow2");
    assert_eq!(world.get(&own).await.expect(200)["volume_count"], 2);

    // What somebody uses stays, and so does everything beside it.
    let used = format!("{POOLS}/default");
    let error =
        world.delete(&format!("{used}?delete_volumes=true")).await.refused(409, "VOLUME_IN_USE");
    assert_eq!(error["details"]["vms"], json!(["web1", "web2"]));
    assert_eq!(world.get(&used).await.expect(200)["volume_count"], 4);

    let gone = world.delete(&format!("{own}?delete_volumes=true")).await;
    assert_eq!(gone.status, 204, "{gone}");
    world.get(&format!("{own}/volumes")).await.refused(404, "POOL_NOT_FOUND");

    // An inactive one is forgotten, whatever it holds.
    world.order(&format!("{used}/stop?force=true")).await.expect(200);
    let refused = world.delete(&format!("{used}?delete_volumes=true")).await;
    refused.refused(409, "POOL_INACTIVE");
    assert_eq!(world.delete(&used).await.status, 204);
    world.get(&used).await.refused(404, "POOL_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_running_vms_use_stops_only_if_that_is_meant() {
    let world = World::new().await;
    let stop = format!("{POOLS}/default/stop");
    let error = world.order(&stop).await.refused(409, "POOL_IN_USE");
    assert_eq!(error["details"]["vms"], json!(["web1"]));
    let plan = world.order(&format!("{stop}?dry_run=true")).await.expect(200);
    assert_eq!(plan["blockers"][0]["code"], "POOL_IN_USE");
    let pool = world.order(&format!("{stop}?force=true")).await.expect(200);
    assert_eq!(pool["state"], "inactive");
    assert_eq!(world.state("web1").await, "running");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pools_capacity_tells_what_is_promised() {
    let world = World::new().await;
    let reply = world.get(&format!("{POOLS}/default/capacity")).await;
    let room = reply.expect(200);
    assert_eq!(room["volumes_capacity_bytes"], 2_147_483_648_u64 + 2 * 1_073_741_824 + 2_000_000);
    assert_eq!(room["volumes_allocation_bytes"], 3 * 50_000 + 2_000_000);
    assert_eq!(room["volume_count"], 4);
    let pool = world.get(&format!("{POOLS}/default")).await.expect(200);
    for size in ["capacity_bytes", "allocation_bytes", "available_bytes", "state"] {
        assert_eq!(room[size], pool[size], "{size}");
    }
    let wanted = room["volumes_capacity_bytes"].as_f64().expect("a number")
        / room["capacity_bytes"].as_f64().expect("a number");
    assert!((room["overcommit"].as_f64().expect("a ratio") - wanted).abs() < 0.001, "{room:#}");
    let headers = [("if-none-match", reply.header("etag"))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let path = format!("{POOLS}/default/capacity");
    assert_eq!(world.send(Method::GET, &path, &headers, None).await.status, 304);
    world.get(&format!("{POOLS}/none/capacity")).await.refused(404, "POOL_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_pool_can_be_is_refused_with_the_fields() {
    let world = World::new().await;
    let refused = async |body: Value, status: u16, code: &str, fields: &[&str]| {
        for path in [POOLS.to_owned(), format!("{POOLS}?dry_run=true")] {
            let reply = world.post(&path, &body).await;
            reply.refused(status, code);
            assert_eq!(reply.fields(), fields, "{body} {reply}");
        }
    };
    for name in ["../x", "a/b", "", "<pool/>", "ä", "a b", &"x".repeat(200)] {
        let reply = world.post(POOLS, &dir(name, "/srv/x")).await;
        assert_eq!(reply.status, 400, "{name:?}: {reply}");
        assert_eq!(reply.fields(), ["name"], "{name:?}: {reply}");
    }
    let bad = "INVALID_REQUEST";
    for path in ["srv/x", "/srv/../etc", "/srv//x", "/srv/x/", "/srv/./x", "/..", "/"] {
        refused(dir("x", path), 400, bad, &["target.path"]).await;
    }
    for path in ["/etc/x", "/usr", "/var", "/dev/x"] {
        refused(dir("x", path), 422, "IMPOSSIBLE", &["target.path"]).await;
    }
    refused(dir("x", &format!("/{}", "x".repeat(5000))), 400, bad, &["target.path"]).await;
    refused(dir("x", "/srv/\u{7}"), 400, bad, &["target.path"]).await;
    refused(json!({"name": "x"}), 422, "IMPOSSIBLE", &["target.path"]).await;
    refused(json!({"name": "x", "type": "nonsense"}), 400, bad, &["type"]).await;
    refused(json!({"name": "x", "size": 1}), 400, bad, &["size"]).await;
    let mut body = dir("x", "/srv/x");
    body["source"] = json!({"devices": [{"path": "/dev/vdb"}], "name": "y"});
    refused(body.clone(), 422, "IMPOSSIBLE", &["source.devices", "source.name"]).await;
    body["source"] = json!({"hosts": [{"name": "a", "port": 70_000}]});
    refused(body.clone(), 400, bad, &["source.hosts[0].port"]).await;
    body["source"] = json!({});
    body["overwrite"] = json!(true);
    refused(body, 422, "IMPOSSIBLE", &["overwrite"]).await;
    refused(
        json!({"name": "x", "type": "fs", "target": {"path": "/srv/x"}}),
        422,
        "IMPOSSIBLE",
        &["source.devices"],
    )
    .await;
    let format = |path: &str| {
        json!({"name": "x", "type": "fs", "build": true, "target": {"path": "/srv/x"},
            "source": {"devices": [{"path": path}], "format": "ext4"}})
    };
    refused(format("/etc/passwd"), 422, "IMPOSSIBLE", &["source.devices[0].path"]).await;
    let mut body = format("/dev/vdb");
    body["source"]["format"] = json!("auto");
    refused(body, 422, "IMPOSSIBLE", &["source.format"]).await;
    let mut body = json!({"name": "x", "type": "rbd", "source": {"hosts": [{"name": "mon1"}], "name": "vms",
        "auth": {"type": "ceph", "username": "admin", "secret": {}}}});
    refused(body.clone(), 422, "IMPOSSIBLE", &["source.auth.secret"]).await;
    body["source"]["auth"]["password"] = json!("hunter2");
    refused(body, 400, bad, &["source.auth.password"]).await;

    // Another pool's folder, and folders in and around it.
    for path in ["/pool/default", "/pool/default/deeper", "/pool"] {
        let reply = world.post(POOLS, &dir("x", path)).await;
        assert!(reply.refused(409, "POOL_CONFLICT")["details"]["pool"].is_string(), "{reply}");
    }
    world.get(&format!("{POOLS}/x")).await.refused(404, "POOL_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_makes_one_pool() {
    let world = World::new().await;
    let headers = [("idempotency-key", "one-pool")];
    let body = dir("once", "/srv/once");
    let first = world.send(Method::POST, POOLS, &headers, Some(&body)).await;
    let again = world.send(Method::POST, POOLS, &headers, Some(&body)).await;
    assert_eq!(first.expect(201), again.expect(201));
    assert_eq!(first.header("x-task-id"), again.header("x-task-id"));
    let other = world.send(Method::POST, POOLS, &headers, Some(&dir("twice", "/srv/twice"))).await;
    other.refused(422, "IDEMPOTENCY_KEY_REUSED");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pools_events_name_the_task_that_caused_them_and_come_once() {
    let world = World::new().await;
    let start = world.get("/api/v1/events?limit=1000").await.expect(200);
    let path = format!("/api/v1/events?since={}&kind=pool.*", text(&start["next"]));
    let reply = world.post(POOLS, &dir("told", "/srv/told")).await;
    let made = reply.header("x-task-id");
    let refreshed = world.order(&format!("{POOLS}/told/refresh")).await.header("x-task-id");
    let stopped = world.order(&format!("{POOLS}/told/stop")).await.header("x-task-id");
    let gone = world.delete(&format!("{POOLS}/told")).await.header("x-task-id");
    let wanted = [
        ("pool.defined", &made),
        ("pool.started", &made),
        ("pool.refreshed", &refreshed),
        ("pool.stopped", &stopped),
        ("pool.undefined", &gone),
    ];
    let page =
        world.until(&path, |page| page["events"].to_string().contains("pool.undefined")).await;
    let events = page["events"].as_array().expect("events");
    for (kind, task) in wanted {
        let found: Vec<&Value> = events.iter().filter(|event| event["kind"] == kind).collect();
        assert_eq!(found.len(), 1, "{kind}: {page:#}");
        assert_eq!(found[0]["task"], json!(task), "{kind}: {page:#}");
        assert_eq!(found[0]["subject"]["name"], "told");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_volume_group_is_none_that_is_there_and_is_known_by_its_name() {
    let world = World::new().await;
    // The test driver has a volume group of this name.
    let body = json!({
        "name": "fast",
        "type": "logical",
        "source": {"name": "testvg1", "devices": [{"path": "/dev/vdb"}]},
        "build": true,
    });
    let plan = world.post(&format!("{POOLS}?dry_run=true"), &body).await.expect(200);
    assert!(plan["blockers"].to_string().contains("POOL_CONFLICT"), "{plan:#}");
    let refused = world.post(POOLS, &body).await;
    refused.refused(409, "POOL_CONFLICT");
    world.get(&format!("{POOLS}/fast")).await.refused(404, "POOL_NOT_FOUND");

    let mut adopted = body.clone();
    adopted["build"] = json!(false);
    world.post(POOLS, &adopted).await.refused(422, "IMPOSSIBLE");

    let mut new = body;
    new["source"]["name"] = json!("vg_new");
    let plan = world.post(&format!("{POOLS}?dry_run=true"), &new).await.expect(200);
    assert_eq!(plan["blockers"], json!([]));
    let diff = text(&plan["xml_diff"]);
    assert!(diff.contains("<name>vg_new</name>") && !diff.contains("<device"), "{diff}");
    let made = world.post(POOLS, &new).await.expect(201);
    assert_eq!(
        (&made["source"]["name"], &made["source"]["devices"]),
        (&json!("vg_new"), &json!([]))
    );
    world.stop().await;
}
