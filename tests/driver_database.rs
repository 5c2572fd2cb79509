//! The daemon's own database over the API, on libvirt's test driver.

#[path = "support/driver.rs"]
mod driver;

use std::fs;

use driver::{VMS, World};
use http::Method;
use serde_json::json;
use vapor::store::{Store, StoreOptions};

const BACKUP: &str = "/api/v1/database/backup";

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_database_is_whole_and_leaves_nothing_behind() {
    let world = World::new().await;
    let reply = world.patch(&format!("{VMS}/web1"), &json!({"description": "kept"})).await;
    reply.expect(200);
    let copy = world.get(BACKUP).await;
    assert_eq!(copy.status, 200);
    assert_eq!(copy.header("content-type"), "application/vnd.sqlite3");
    assert_eq!(copy.header("content-length"), copy.body.len().to_string());
    let names = |folder: &std::path::Path| -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let left = names(world.folder());
    assert!(left.iter().all(|name| !name.contains(".copy-")), "{left:?}");

    // Whoever restores it finds what had happened.
    let folder = tempfile::tempdir().expect("a folder");
    let restored = folder.path().join("vapor.db");
    fs::write(&restored, &copy.body).expect("it is written");
    let store = Store::open(&restored, StoreOptions::default()).expect("it is sound");
    let id = reply.header("x-task-id").parse().expect("an id");
    let kept = store.task(id).await.expect("it is readable").expect("the task is in it");
    assert_eq!(kept.subject.name, "web1");
    store.close().await;

    let json = [("accept", "application/json")];
    world.send(Method::GET, BACKUP, &json, None).await.refused(406, "NOT_ACCEPTABLE");
    world.stop().await;
}
