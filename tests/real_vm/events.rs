//! The event stream: each change once, with its task and who asked for it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::support::{SOON, V, World, guest};

async fn collect(
    stream: &mut UnboundedReceiver<(String, Value)>,
    last: impl Fn(&Value) -> bool,
) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let next = tokio::time::timeout(SOON, stream.recv()).await;
        let Ok(Some((name, event))) = next else { panic!("the stream ended after {events:#?}") };
        assert_ne!(name, "gap", "{event}");
        assert_eq!(event["kind"], json!(name));
        let enough = last(&event);
        events.push(event);
        if enough {
            return events;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_told_once_with_its_task_and_its_principal() {
    let Some(world) = World::start("events").await else { return };
    let client = &world.client;
    let mut stream = client.stream("").await;
    let mut tasks: BTreeMap<&str, String> = BTreeMap::new();
    let reply = client.post(V, &guest::empty_body("one")).await;
    tasks.insert("vm.create", reply.task().expect("a task"));
    for (kind, action) in [
        ("vm.start", "start"),
        ("vm.pause", "pause"),
        ("vm.resume", "resume"),
        ("vm.force-stop", "force-stop"),
    ] {
        let reply = client.act("one", action).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        tasks.insert(kind, reply.task().expect("a task"));
    }
    let reply = client.delete(format!("{V}/one")).await;
    assert_eq!(reply.status, 204, "{reply:?}");
    tasks.insert("vm.delete", reply.task().expect("a task"));
    // By another hand, as the mark of the end.
    world.lab.virsh(&["net-destroy", "lab"]);
    let events = collect(&mut stream, |event| event["kind"] == "network.stopped").await;

    let numbers: Vec<u64> = events.iter().filter_map(|event| event["seq"].as_u64()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    let of = |kind: &str| -> Vec<&Value> {
        events.iter().filter(|event| event["kind"] == kind).collect()
    };
    let principal = &of("task.started")[0]["principal"];
    assert!(principal.as_str().is_some_and(|who| who.starts_with("unix:")), "{principal}");
    for (kind, task) in [
        ("vm.defined", "vm.create"),
        ("vm.started", "vm.start"),
        ("vm.paused", "vm.pause"),
        ("vm.resumed", "vm.resume"),
        ("vm.stopped", "vm.force-stop"),
        ("vm.undefined", "vm.delete"),
    ] {
        let told = of(kind);
        // A start is a creation, halted, and its first step: libvirt tells of the resume as well.
        let caused = |event: &&&Value| event["task"] == json!(tasks[task]);
        let own: Vec<_> = told.iter().filter(caused).collect();
        assert_eq!(own.len(), 1, "{kind} of {task}: {told:#?}\n{events:#?}");
        assert_eq!(&own[0]["principal"], principal);
        assert_eq!(own[0]["subject"]["name"], "one");
    }
    for (kind, id) in &tasks {
        for transition in ["task.started", "task.finished"] {
            let told = of(transition);
            let count = told.iter().filter(|event| event["task"] == json!(id)).count();
            assert_eq!(count, 1, "{transition} of {kind}");
        }
    }
    assert_eq!(of("vm.started").len(), 1);
    assert_eq!(of("vm.stopped").len(), 1);
    assert_eq!(of("network.stopped")[0]["task"], json!(null), "virsh's deed is nobody's task");

    // The page and a stream that comes back tell the same.
    let first = events[0]["seq"].as_u64().expect("a number");
    let page = client.get(format!("/api/v1/events?since={}&limit=1000", first - 1)).await;
    let paged = page.data()["events"].as_array().expect("events").clone();
    assert_eq!(paged[..events.len()], events[..]);
    let mut again = client.stream(&format!("?since={}", first - 1)).await;
    let replayed = collect(&mut again, |event| event["kind"] == "network.stopped").await;
    assert_eq!(replayed, events);
    // Nothing comes twice afterwards.
    let more = tokio::time::timeout(Duration::from_millis(500), stream.recv()).await;
    assert!(more.is_err(), "{more:?}");
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_virsh_does_is_told_once_and_is_nobodys_task() {
    let Some(world) = World::start("others").await else { return };
    let (client, lab) = (&world.client, &world.lab);
    lab.define(&guest::foreign_xml(lab, "one"));
    let mut stream = client.stream("?kind=vm.*").await;
    lab.virsh(&["start", "one"]);
    lab.virsh(&["destroy", "one"]);
    lab.virsh(&["undefine", "one"]);
    let events = collect(&mut stream, |event| event["kind"] == "vm.undefined").await;
    for kind in ["vm.started", "vm.stopped", "vm.undefined"] {
        let told: Vec<_> = events.iter().filter(|event| event["kind"] == kind).collect();
        assert_eq!(told.len(), 1, "{events:#?}");
        assert_eq!(told[0]["task"], json!(null), "{events:#?}");
        assert_eq!(told[0]["principal"], json!(null), "{events:#?}");
    }
    world.finish().await;
}
