//! `kill -9` of the daemon in the middle of work on networks: each task ends with what is true.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{NETWORKS, Random, World};

fn exists(world: &World, name: &str) -> bool {
    world.lab.names(&["net-list", "--all", "--name"]).iter().any(|known| known == name)
}

fn active(world: &World, name: &str) -> bool {
    world.lab.names(&["net-list", "--name"]).iter().any(|known| known == name)
}

/// Begins an operation, kills the daemon a moment later, and returns the verdict of the next one.
async fn cut(
    world: &mut World,
    random: &mut Random,
    (method, path): (&str, &str),
    body: Option<&Value>,
) -> Value {
    let client = world.client.clone();
    let call = client.call(method, path).header("prefer", "respond-async");
    let call = match body {
        Some(body) => call.json(body),
        None => call,
    };
    let reply = call.try_send().await;
    tokio::time::sleep(Duration::from_millis(random.below(60))).await;
    world.daemon.kill9();
    world.daemon.start_again().await;
    let reply = reply.expect("the task is begun before the daemon is killed");
    assert!(reply.is_success(), "{reply:?}");
    let task = reply.task().expect("a task");
    client.finished(&task, Duration::from_secs(30)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_was_cut_off_is_judged_by_what_stands() {
    let Some(mut world) = World::on_one_host("netkill").await else { return };
    let mut random = Random::seeded("netkill");
    for round in 0..4_u8 {
        let name = format!("net{round}");
        let path = format!("{NETWORKS}/{name}");
        let body = json!({"name": name, "ips": [{"address": format!("10.208.{round}.1/24")}]});
        let task = cut(&mut world, &mut random, ("POST", NETWORKS), Some(&body)).await;
        match task["status"].as_str() {
            Some("succeeded") => assert!(active(&world, &name), "{task:#}"),
            Some("interrupted") => {
                assert!(!exists(&world, &name), "{task:#}");
                let made = world.client.post(NETWORKS, &body).await;
                assert_eq!(made.status, 201, "{made:?}");
            }
            _ => panic!("{task:#}"),
        }
        let txt = json!([{"name": "t", "value": "v"}]);
        let change = json!({"mtu": 1400, "dns": {"txt": txt}, "autostart": false});
        let task = cut(&mut world, &mut random, ("PUT", &path), Some(&change)).await;
        let now = world.client.get(path.clone()).await.data().clone();
        let waits = |field: &str| {
            let changes = now["pending"]["changes"].as_array();
            changes.into_iter().flatten().any(|change| change["field"] == field)
        };
        let met = now["dns"]["txt"] == txt && waits("mtu") && now["autostart"] == false;
        match task["status"].as_str() {
            Some("succeeded") => assert!(met, "{task:#} {now:#}"),
            Some("interrupted") => assert!(!met, "{task:#} {now:#}"),
            _ => panic!("{task:#}"),
        }
        let stop = format!("{path}/stop");
        let task = cut(&mut world, &mut random, ("POST", &stop), None).await;
        let done = task["status"] == "succeeded";
        assert_eq!(done, !active(&world, &name), "{task:#}");
        let task = cut(&mut world, &mut random, ("DELETE", &path), None).await;
        assert_eq!(task["status"] == "succeeded", !exists(&world, &name), "{task:#}");
    }
    world.finish().await;
}
