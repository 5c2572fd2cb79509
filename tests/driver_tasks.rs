//! Tasks, idempotency keys and events through HTTP, on libvirt's test driver.

#[path = "support/driver.rs"]
mod driver;

use std::sync::Arc;
use std::time::{Duration, Instant};

use driver::{Reply, VMS, WEB1, WEB2, World, text};
use http::Method;
use serde_json::{Value, json};

const TASKS: &str = "/api/v1/tasks";
const EVENTS: &str = "/api/v1/events";

async fn act(world: &World, vm: &str, action: &str) -> Reply {
    let path = format!("{VMS}/{vm}/action");
    let headers = [("prefer", "wait=20")];
    world.send(Method::POST, &path, &headers, Some(&json!({"action": action}))).await
}

async fn keyed(world: &World, key: &str, path: &str, body: &Value) -> Reply {
    world.send(Method::POST, path, &[("idempotency-key", key)], Some(body)).await
}

async fn count(world: &World, query: &str) -> u64 {
    world.get(&format!("{TASKS}{query}")).await.expect(200)["total"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_newest_first_and_filtered() {
    let world = World::new().await;
    act(&world, "web2", "start").await.expect(200);
    act(&world, "web2", "pause").await.expect(200);
    act(&world, "web1", "force-stop").await.expect(200);
    act(&world, "web1", "force-stop").await.refused(409, "VM_ALREADY_STOPPED");
    world.patch(&format!("{VMS}/web1"), &json!({"description": "x"})).await.expect(200);
    let all = world.get(TASKS).await;
    assert_eq!(
        all.column("tasks", "kind"),
        ["vm.update", "vm.force-stop", "vm.pause", "vm.start"],
        "what the gate refuses is no task"
    );
    for (query, wanted) in [
        ("?kind=vm.pause", 1),
        ("?kind=vm.*", 4),
        ("?kind=volume.*", 0),
        ("?status=succeeded", 4),
        ("?status=running", 0),
        ("?subject=web2", 2),
        (&*format!("?subject={WEB1}&subject_type=vm"), 2),
        ("?subject_type=volume", 0),
        ("?principal=unix:nobody-at-all", 0),
    ] {
        assert_eq!(count(&world, query).await, wanted, "{query}");
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = world.get(&format!("{TASKS}?limit=3{cursor}")).await;
        seen.extend(page.column("tasks", "kind"));
        match &page.data()["next"] {
            Value::Null => break,
            next => cursor = format!("&cursor={}", text(next)),
        }
    }
    assert_eq!(seen, all.column("tasks", "kind"));
    let few = world.get(&format!("{TASKS}?fields=id,kind&limit=1")).await.expect(200);
    assert_eq!(few["tasks"][0].as_object().map(serde_json::Map::len), Some(2));
    for query in ["?status=done", "?limit=0", "?kind=VM", "?cursor=x", "?sort=kind", "?x=1"] {
        world.get(&format!("{TASKS}{query}")).await.refused(400, "INVALID_REQUEST");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_tells_what_was_done_and_is_over() {
    let world = World::new().await;
    let id = act(&world, "web2", "start").await.header("x-task-id");
    let task = world.get(&format!("{TASKS}/{id}?wait=5")).await.expect(200);
    assert_eq!((&task["kind"], &task["status"]), (&json!("vm.start"), &json!("succeeded")));
    assert_eq!(task["subject"], json!({"type": "vm", "id": WEB2, "name": "web2"}));
    assert_eq!((&task["result"]["state"], &task["error"]), (&json!("running"), &Value::Null));
    assert_eq!((&task["progress"]["percent"], &task["cancellable"]), (&json!(100), &json!(false)));
    assert!(task["created_at"].as_str() <= task["finished_at"].as_str());
    let log = world.get(&format!("{TASKS}/{id}/log")).await.expect(200);
    assert!(log["lines"].is_array(), "{log}");
    let etag = world.get(&format!("{TASKS}/{id}")).await.header("etag");
    let headers = [("if-none-match", etag.as_str())];
    let path = format!("{TASKS}/{id}");
    assert_eq!(world.send(Method::GET, &path, &headers, None).await.status, 304);
    let cancel = format!("{TASKS}/{id}/cancel");
    world.send(Method::POST, &cancel, &[], None).await.refused(409, "TASK_FINISHED");
    let unknown = uuid::Uuid::now_v7();
    for path in [format!("{TASKS}/{unknown}"), format!("{TASKS}/{unknown}/log")] {
        world.get(&path).await.refused(404, "TASK_NOT_FOUND");
    }
    let cancel = format!("{TASKS}/{unknown}/cancel");
    world.send(Method::POST, &cancel, &[], None).await.refused(404, "TASK_NOT_FOUND");
    world.get(&format!("{TASKS}/web2")).await.refused(400, "INVALID_REQUEST");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_operation_is_a_task_with_the_same_error() {
    let world = World::new().await;
    let body = json!({"name": "new1", "memory": 64, "vcpus": 1, "storage": {"default_pool": "images",
        "disks": [{"action": "clone", "source": {"pool": "default", "volume": "base.qcow2"}}]}});
    let reply = world.post(VMS, &body).await;
    let error = reply.refused(404, "VOLUME_NOT_FOUND");
    let id = text(&error["details"]["task"]);
    let task = world.get(&format!("{TASKS}/{id}")).await.expect(200);
    assert_eq!((&task["status"], &task["result"]), (&json!("failed"), &Value::Null));
    assert_eq!(task["error"]["code"], error["code"]);
    assert_eq!(task["error"]["message"], error["message"]);
    assert!(task["error"]["details"]["libvirt"]["code"].is_number(), "{task:#}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_replays_the_result_and_does_nothing() {
    let world = World::new().await;
    let start = json!({"action": "start"});
    let path = format!("{VMS}/web2/action");
    let first = keyed(&world, "k1", &path, &start).await;
    first.expect(200);
    act(&world, "web2", "pause").await.expect(200);
    let again = keyed(&world, "k1", &path, &start).await;
    assert_eq!(again.expect(200), first.data(), "the result of then, not the state of now");
    assert_eq!(again.header("x-task-id"), first.header("x-task-id"));
    assert_eq!(world.state("web2").await, "paused");
    assert_eq!(count(&world, "?kind=vm.start").await, 1);

    let create = json!({"name": "new1", "memory": 64, "vcpus": 1});
    let first = keyed(&world, "k2", VMS, &create).await;
    let again = keyed(&world, "k2", VMS, &create).await;
    assert_eq!((again.status, again.expect(201)), (201, first.expect(201)));
    assert_eq!(again.header("location"), first.header("location"));
    let path = format!("{VMS}/new1");
    let headers = [("idempotency-key", "k3")];
    world.send(Method::DELETE, &path, &headers, None).await.expect(204);
    world.send(Method::DELETE, &path, &headers, None).await.expect(204);
    world.delete(&path).await.refused(404, "VM_NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_request_is_422_and_a_bad_one_400() {
    let world = World::new().await;
    let path = format!("{VMS}/web2/action");
    keyed(&world, "k1", &path, &json!({"action": "start"})).await.expect(200);
    for (path, body) in [
        (path.clone(), json!({"action": "pause"})),
        (path.clone(), json!({"action": "start", "force": true})),
        (format!("{VMS}/web1/action"), json!({"action": "start"})),
        (VMS.to_owned(), json!({"name": "new1", "memory": 64, "vcpus": 1})),
    ] {
        keyed(&world, "k1", &path, &body).await.refused(422, "IDEMPOTENCY_KEY_REUSED");
    }
    assert_eq!(world.state("web2").await, "running");
    for key in ["", "a b", &"x".repeat(256)] {
        let reply = keyed(&world, key, &path, &json!({"action": "pause"})).await;
        reply.refused(400, "INVALID_REQUEST");
        assert_eq!(reply.fields(), ["Idempotency-Key"]);
    }
    // What was refused before it became an operation has used no key.
    keyed(&world, "k2", &path, &json!({"action": "start"}))
        .await
        .refused(409, "VM_ALREADY_RUNNING");
    keyed(&world, "k2", &path, &json!({"action": "pause"})).await.expect(200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_concurrent_requests_with_one_key_one_runs_and_all_get_its_result() {
    let world = Arc::new(World::new().await);
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let world = world.clone();
        all.spawn(async move {
            let body = json!({"name": "new1", "memory": 64, "vcpus": 1, "disk_size": 1});
            keyed(&world, "k1", VMS, &body).await
        });
    }
    let mut uuids = Vec::new();
    while let Some(reply) = all.join_next().await {
        uuids.push(reply.expect("no panic").expect(201)["uuid"].clone());
    }
    uuids.dedup();
    assert_eq!(uuids.len(), 1);
    assert_eq!(count(&world, "").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_outlives_a_restart() {
    let world = World::new().await;
    let body = json!({"name": "new1", "memory": 64, "vcpus": 1});
    let first = keyed(&world, "k1", VMS, &body).await.expect(201);
    let world = world.restarted("").await;
    // The test driver has forgotten the VM; the journal has not.
    world.get(&format!("{VMS}/new1")).await.refused(404, "VM_NOT_FOUND");
    assert_eq!(keyed(&world, "k1", VMS, &body).await.expect(201), first);
    assert_eq!(count(&world, "").await, 1);
    world.stop().await;
}

// --- events -----------------------------------------------------------------------------------------

/// Pauses and resumes `web1`; four events of VMs and of tasks each.
async fn make_events(world: &World, rounds: usize) {
    for _ in 0..rounds {
        act(world, "web1", "pause").await.expect(200);
        act(world, "web1", "resume").await.expect(200);
    }
}

async fn settled(world: &World, kind: &str, wanted: usize) -> Vec<Value> {
    let path = format!("{EVENTS}?kind={kind}&limit=1000");
    let enough = |data: &Value| data["count"].as_u64() >= Some(wanted as u64);
    let data = world.until(&path, enough).await;
    data["events"].as_array().expect("events").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_numbered_paged_and_filtered() {
    let world = World::new().await;
    make_events(&world, 3).await;
    let paused = settled(&world, "vm.paused", 3).await;
    assert_eq!(paused.len(), 3);
    assert_eq!(paused[0]["subject"], json!({"type": "vm", "id": WEB1, "name": "web1"}));
    settled(&world, "vm.resumed", 3).await;
    let tasks = settled(&world, "task.*", 12).await;
    assert_eq!(tasks.len(), 12, "a beginning and an end of each");
    let whole = world.get(&format!("{EVENTS}?limit=1000")).await.expect(200);
    let numbers: Vec<u64> = whole["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| event["seq"].as_u64().expect("a number"))
        .collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let mut seen = Vec::new();
    let mut since = 0;
    loop {
        let page = world.get(&format!("{EVENTS}?limit=5&since={since}")).await.expect(200);
        assert_eq!(page["gap"], Value::Null);
        let events = page["events"].as_array().expect("events");
        if events.is_empty() {
            break;
        }
        seen.extend(events.iter().map(|event| event["seq"].as_u64().expect("a number")));
        since = text(&page["next"]).parse().expect("a number");
    }
    assert_eq!(seen, numbers);
    let of_both = settled(&world, "vm.paused&kind=vm.resumed", 6).await;
    assert_eq!(of_both.len(), 6);
    let of_web2 = world.get(&format!("{EVENTS}?subject=web2")).await.expect(200);
    assert_eq!(of_web2["count"], 0);
    let of_web1 = world.get(&format!("{EVENTS}?subject=web1&subject_type=vm")).await.expect(200);
    assert_eq!(of_web1["count"], 6);
    for query in ["?since=-1", "?since=x", "?limit=0", "?kind=VM", "?wait=301", "?colour=red"] {
        world.get(&format!("{EVENTS}{query}")).await.refused(400, "INVALID_REQUEST");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_answers_when_something_happens_or_its_time_is_up() {
    let world = Arc::new(World::new().await);
    let last = world.get(&format!("{EVENTS}?limit=1000")).await.expect(200)["next"].clone();
    let query = format!("{EVENTS}?since={}&kind=vm.started&wait=", text(&last));
    let begun = Instant::now();
    let nothing = world.get(&format!("{query}1")).await.expect(200);
    assert_eq!(nothing["count"], 0);
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
    let waiting = {
        let (world, query) = (world.clone(), query.clone());
        tokio::spawn(async move { world.get(&format!("{query}25")).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    act(&world, "web2", "start").await.expect(200);
    let page = waiting.await.expect("no panic").expect(200);
    assert_eq!((&page["count"], &page["events"][0]["kind"]), (&json!(1), &json!("vm.started")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_replays_from_where_the_client_was_and_goes_on_without_a_hole() {
    let world = World::new().await;
    make_events(&world, 2).await;
    settled(&world, "vm.resumed", 2).await;
    settled(&world, "task.*", 8).await;
    let all = world.get(&format!("{EVENTS}?limit=1000")).await.expect(200);
    let numbers: Vec<u64> = all["events"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| event["seq"].as_u64().expect("a number"))
        .collect();
    let third = numbers[2].to_string();
    let mut by_header = world.stream("?since=0", &[("last-event-id", &third)]).await;
    let mut by_query = world.stream(&format!("?since={third}"), &[]).await;
    let mut filtered = world.stream("?since=0&kind=vm.paused", &[]).await;
    let mut fresh = world.stream("?kind=vm.*", &[]).await;
    for number in &numbers[3..] {
        for stream in [&mut by_header, &mut by_query] {
            let sent = stream.next().await;
            assert_eq!((sent.id, sent.data["seq"].as_u64()), (Some(*number), Some(*number)));
            assert_eq!(sent.data["kind"], sent.event.as_str());
        }
    }
    make_events(&world, 1).await;
    let live = by_header.next().await;
    assert_eq!(live.id, Some(numbers[numbers.len() - 1] + 1), "the next number follows");
    assert_eq!(fresh.next().await.event, "vm.paused", "without a number: from now on");
    for _ in 0..3 {
        assert_eq!(filtered.next().await.event, "vm.paused");
    }
    for bad in ["x", "-1", "1.5"] {
        let headers = [("accept", "text/event-stream"), ("last-event-id", bad)];
        world.send(Method::GET, EVENTS, &headers, None).await.refused(400, "INVALID_REQUEST");
    }
    world.stop().await;
    assert!(by_query.ends().await && by_header.ends().await, "a stopping daemon ends its streams");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_been_pruned_is_announced_as_a_gap() {
    let world = World::new().await;
    make_events(&world, 4).await;
    settled(&world, "vm.resumed", 4).await;
    settled(&world, "task.*", 16).await;
    let last = world.daemon.services.bus.last_seq();
    let store = world.daemon.services.tasks.store();
    store.prune(jiff::Timestamp::MIN, 5).await.expect("pruned");
    let first = store.first_seq().await.expect("a number");
    assert!(first > 5 && last - first == 4, "{first} to {last}");
    let page = world.get(&format!("{EVENTS}?since=2")).await.expect(200);
    assert_eq!(page["gap"], json!({"from": 3, "to": first - 1}), "{page:#}");
    assert_eq!(page["events"][0]["seq"], first);
    let whole = world.get(&format!("{EVENTS}?since={}", first - 1)).await.expect(200);
    assert_eq!((&whole["gap"], &whole["count"]), (&Value::Null, &json!(5)));
    let mut stream = world.stream("", &[("last-event-id", "2")]).await;
    let gap = stream.next().await;
    assert_eq!((gap.event.as_str(), gap.id), ("gap", Some(first - 1)));
    assert_eq!(gap.data, json!({"from": 3, "to": first - 1}));
    assert_eq!(stream.next().await.id, Some(first));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_daemon_goes_on_counting_and_keeps_tasks_and_events() {
    let world = World::new().await;
    make_events(&world, 1).await;
    settled(&world, "vm.resumed", 1).await;
    settled(&world, "task.*", 4).await;
    let before = world.get(&format!("{EVENTS}?limit=1000")).await.expect(200);
    let tasks = world.get(TASKS).await.expect(200);
    let world = world.restarted("").await;
    assert_eq!(world.get(TASKS).await.expect(200), tasks);
    let after = world.get(&format!("{EVENTS}?limit=1000")).await.expect(200);
    let (before, after) = (&before["events"], &after["events"]);
    let old = before.as_array().expect("events");
    let new = after.as_array().expect("events");
    assert_eq!(&new[..old.len()], &old[..]);
    world.stop().await;
}
