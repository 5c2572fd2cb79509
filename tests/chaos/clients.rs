//! Two hundred clients at once, with conflicting wishes for one VM.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::Barrier;

use crate::support::{Random, Reply, SOON, V, World, eventually, guest};

const CLIENTS: usize = 200;
const ROUNDS: usize = 3;

/// What one client wants: a request, and what the VM is after it if it wins.
#[derive(Clone, Debug)]
struct Wish {
    kind: &'static str,
    method: &'static str,
    path: String,
    body: Value,
}

fn wish(random: &mut Random, number: usize) -> Wish {
    let action = |kind, action: Value| Wish {
        kind,
        method: "POST",
        path: format!("{V}/prize/action"),
        body: action,
    };
    match random.below(10) {
        0 | 1 => action("vm.start", json!({"action": "start"})),
        2 => action("vm.pause", json!({"action": "pause"})),
        3 => action("vm.resume", json!({"action": "resume"})),
        4 => action("vm.force-stop", json!({"action": "force-stop"})),
        5 => action("vm.reset", json!({"action": "reset"})),
        6 => action("vm.stop", json!({"action": "stop", "timeout": 1, "force": true})),
        7 => Wish {
            kind: "vm.delete",
            method: "DELETE",
            // Never granted, for the VM has what this does not give up, and always checked.
            path: format!("{V}/prize"),
            body: Value::Null,
        },
        _ => Wish {
            kind: "vm.update",
            method: "PATCH",
            path: format!("{V}/prize"),
            body: json!({"description": format!("client {number}")}),
        },
    }
}

/// The state after `kind` in `state`, if it may be done there at all.
fn step(state: &str, kind: &str) -> Option<&'static str> {
    match (state, kind) {
        ("shutoff", "vm.start") => Some("running"),
        ("running", "vm.pause") => Some("paused"),
        ("paused", "vm.resume") => Some("running"),
        ("running" | "paused", "vm.force-stop" | "vm.stop") => Some("shutoff"),
        ("running", "vm.reset" | "vm.update") => Some("running"),
        ("paused", "vm.reset" | "vm.update") => Some("paused"),
        ("shutoff", "vm.update") => Some("shutoff"),
        _ => None,
    }
}

/// The losers: told who holds the VM, by a task that exists, or which state forbids it.
async fn check_refusal(world: &World, wish: &Wish, reply: &Reply) -> &'static str {
    assert_eq!(reply.status, 409, "{wish:?}: {reply:?}");
    let details = reply.details();
    if reply.code() != "VM_BUSY" {
        assert!(details["state"].is_string(), "{wish:?}: {reply:?}");
        assert_eq!(details["vm"], "prize", "{wish:?}: {reply:?}");
        return "refused by the state";
    }
    let id = details["task"].as_str().unwrap_or_else(|| panic!("no holder: {reply:?}"));
    let task = world.client.task(id).await;
    assert_eq!(task["kind"], details["operation"], "{reply:?}");
    assert_eq!(task["principal"], details["principal"], "{reply:?}");
    assert_eq!(task["subject"]["name"], "prize");
    "told who holds it"
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_clients_get_what_they_want_or_hear_who_has_it() {
    let Some(world) = World::start("clients").await else { return };
    let mut random = Random::seeded("clients");
    let mut body = guest::body("prize");
    body["memory"] = json!(64);
    body["os"] = json!({});
    body["networks"] = json!([]);
    assert_eq!(world.client.post(V, &body).await.status, 201);
    // What keeps a plain deletion from being granted.
    world.lab.virsh(&["snapshot-create-as", "prize", "keep"]);
    let world = Arc::new(world);
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for round in 0..ROUNDS {
        let before = world.client.vm("prize").await;
        let known: Vec<Value> = world.client.tasks().await;
        let barrier = Arc::new(Barrier::new(CLIENTS));
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let wish = wish(&mut random, round * CLIENTS + number);
            let (world, barrier) = (world.clone(), barrier.clone());
            clients.push(tokio::spawn(async move {
                barrier.wait().await;
                let call = world.client.call(wish.method, wish.path.clone());
                let call = call.header("prefer", "wait=60");
                let call = if wish.body.is_null() { call } else { call.json(&wish.body) };
                let reply = call.send().await;
                (wish, reply)
            }));
        }
        let mut winners: Vec<(Wish, String)> = Vec::new();
        for client in clients {
            let (wish, reply) = client.await.expect("no client fails");
            let outcome = if reply.is_success() {
                assert_eq!(reply.status, 200, "{wish:?}: {reply:?}");
                winners.push((wish.clone(), reply.task().expect("a task")));
                "granted"
            } else if reply.code() == "CANCELLED" {
                // A stop that waited, and gave way to a force-stop.
                assert_eq!(wish.kind, "vm.stop", "{reply:?}");
                "gave way"
            } else {
                check_refusal(&world, &wish, &reply).await
            };
            *counts.entry(outcome.to_owned()).or_default() += 1;
        }
        // One at a time: in the order in which they finished, each was possible.
        let mut order: Vec<(String, String, Wish)> = Vec::new();
        for (wish, id) in winners {
            let task = world.client.task(&id).await;
            assert_eq!(task["status"], "succeeded", "{task}");
            assert_eq!(task["kind"], wish.kind);
            let text = |field: &str| task[field].as_str().expect("a time").to_owned();
            order.push((text("started_at"), text("finished_at"), wish));
        }
        order.sort_by(|one, other| one.1.cmp(&other.1));
        for pair in order.windows(2) {
            assert!(pair[0].1 <= pair[1].0, "two at once: {pair:#?}");
        }
        let mut state = before["state"].as_str().expect("a state").to_owned();
        let mut description = before["description"].clone();
        for (_, _, wish) in &order {
            let next = step(&state, wish.kind);
            state = next.unwrap_or_else(|| panic!("{wish:?} in {state}: {order:#?}")).to_owned();
            if wish.kind == "vm.update" {
                description = wish.body["description"].clone();
            }
        }
        let after = world.client.vm("prize").await;
        let end = (&after["state"], &after["description"]);
        assert_eq!(end, (&json!(state), &description), "not explained by {order:#?}");
        let virsh = world.lab.virsh(&["domstate", "prize"]).replace("shut off", "shutoff");
        assert_eq!(virsh, state);
        let described = world.lab.virsh(&["desc", "prize", "--config"]);
        assert!(described.contains(description.as_str().unwrap_or_default()), "{described}");
        // No task beside those of the winners and of the stops that gave way.
        let new = world.client.tasks().await.len() - known.len();
        assert!(new >= order.len(), "{new} tasks for {} winners", order.len());
        eventually("nobody holds the VM", SOON, async || {
            let change = json!({"labels": {"round": round.to_string()}});
            let reply = world.client.patch(format!("{V}/prize"), &change).await;
            (reply.status == 200).then_some(())
        })
        .await;
    }
    println!("{ROUNDS} rounds of {CLIENTS} clients: {counts:?}");
    assert!(counts["granted"] >= ROUNDS, "{counts:?}");
    assert!(counts.contains_key("told who holds it"), "{counts:?}");
    assert_eq!(world.lab.names(&["snapshot-list", "prize", "--name"]), ["keep"]);
    let Ok(world) = Arc::try_unwrap(world) else { panic!("somebody still uses the world") };
    world.finish().await;
}
