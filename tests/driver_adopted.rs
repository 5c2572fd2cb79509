//! What becomes of work that a killed daemon has left half done, on libvirt's test driver.

#[path = "support/driver.rs"]
mod driver;

use std::path::Path;

use driver::journal::{intended, journal, unfinished};
use driver::{NODE, POOLS, World, text};
use serde_json::{Value, json};
use vapor::model::Task;
use vapor::store::Step;

const HALF: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fc0";
const GONE: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fc1";

/// A world in which a daemon was killed at these tasks, when the pool `images` held these volumes.
async fn killed_at(tasks: Vec<(&Task, Vec<Step>)>, volumes: &[&str]) -> World {
    let world = World::new().await;
    let volumes = volumes.to_vec();
    world
        .restarted_after(async |folder: &Path| {
            let store = journal(folder).await;
            for (task, steps) in tasks {
                store.begin_task(task, None, vec![]).await.expect("it is written");
                store.save_steps(task.id, &steps).await.expect("it is written");
            }
            store.close().await;
            let place = "<target><path>/pool/images</path></target>";
            let more = volumes.iter().map(|name| {
                format!(
                    "<volume><name>{name}</name><capacity>1048576</capacity>\
                     <target><path>/pool/images/{name}</path><format type='raw'/></target></volume>"
                )
            });
            let node = NODE.replace(place, &format!("{place}{}", more.collect::<String>()));
            std::fs::write(folder.join("node.xml"), node).expect("it is written");
        })
        .await
}

async fn volumes(world: &World, pool: &str) -> Vec<String> {
    let reply = world.get(&format!("{POOLS}/{pool}/volumes")).await;
    reply.column("volumes", "name").iter().map(text).collect()
}

fn volume(pool: &str, name: &str) -> Value {
    json!({"pool": pool, "volume": name})
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_for_cloud_init_that_were_cut_off_are_not_called_written() {
    let cut = unfinished("vm.update", "web2", driver::WEB2);
    let done = unfinished("vm.update", "web1", driver::WEB1);
    // The volume was made, and the definition that was to have it never came.
    let half = intended(vec![
        ("update", json!({})),
        ("cloud-init", json!({"instance_id": "i-1", "before": null})),
        ("create-volume", volume("images", "web2-cloud-init.img")),
    ]);
    let whole = intended(vec![("update", json!({"description": ""}))]);
    let world =
        killed_at(vec![(&cut, half), (&done, whole)], &["web2-cloud-init.img", "other.img"]).await;
    let task = world.ended(cut.id).await;
    assert_eq!(task["status"], "interrupted", "{task:#}");
    assert_eq!(task["error"]["details"]["fields"], json!(["cloud_init"]), "{task:#}");
    assert_eq!(volumes(&world, "images").await, ["other.img"], "nobody has it");
    assert_eq!(world.ended(done.id).await["status"], "succeeded");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_left_is_removed_unless_somebody_uses_it_by_now() {
    let made = unfinished("vm.create", "half", HALF);
    let removed = unfinished("vm.delete", "gone", GONE);
    // Other hands have given the volumes in the pool `default` to VMs meanwhile.
    let making = intended(vec![
        ("create-volume", volume("images", "half.img")),
        ("create-volume", volume("default", "web2.qcow2")),
        ("define", json!({"uuid": HALF, "name": "half", "start": false})),
    ]);
    let removing = intended(vec![
        ("delete-volume", volume("images", "gone.img")),
        ("delete-volume", volume("images", "gone-already.img")),
        ("delete-volume", volume("default", "shared.qcow2")),
    ]);
    let world =
        killed_at(vec![(&made, making), (&removed, removing)], &["half.img", "gone.img"]).await;
    for (task, left) in [(&made, "web2.qcow2"), (&removed, "shared.qcow2")] {
        let task = world.ended(task.id).await;
        assert_eq!(task["status"], "interrupted", "{task:#}");
        let words = json!([format!("the volume default/{left}")]);
        assert_eq!(task["error"]["details"]["left"], words, "{task:#}");
    }
    assert_eq!(volumes(&world, "images").await, Vec::<String>::new());
    for used in ["web2.qcow2", "shared.qcow2"] {
        assert!(volumes(&world, "default").await.contains(&used.to_owned()), "{used}");
    }
    world.stop().await;
}
