//! `kill -9` of vapord while libvirtd has its request and does not answer: whatever becomes of it,
//! the verdict says so.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Call, Lab, SOON, TASKS, eventually};
use crate::{POOLS, Place, pools};

/// A libvirtd that does nothing until this is dropped.
struct Halted(Pid);

impl Halted {
    fn new(lab: &Lab) -> Halted {
        let text = std::fs::read_to_string(lab.folder().join("libvirtd.pid")).expect("its id");
        let pid = Pid::from_raw(text.trim().parse().expect("a number"));
        kill(pid, Signal::SIGSTOP).expect("it runs");
        Halted(pid)
    }
}

impl Drop for Halted {
    fn drop(&mut self) {
        // The lab ends it anyway.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Asks while libvirtd is halted, kills the daemon, and returns the task as the next one judges it.
async fn cut_off(
    place: &mut Place,
    call: impl FnOnce(&crate::support::Client) -> Call<'_>,
) -> Value {
    let halted = Halted::new(&place.world.lab);
    let reply = call(&place.world.client).header("prefer", "respond-async").send().await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let id = reply.data()["task"]["id"].as_str().expect("a task").to_owned();
    place.world.daemon.kill9();
    drop(halted);
    place.world.daemon.start_again().await;
    place.world.client.finished(&id, Duration::from_secs(30)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verdict_over_what_was_cut_off_is_true() {
    let Some(mut place) = Place::start("pool-kill9").await else { return };
    let body = place.dir("cut");
    let task = cut_off(&mut place, |client| client.call("POST", POOLS).json(&body)).await;
    let there = pools(&place.world.lab).contains(&"cut".to_owned());
    match task["status"].as_str().expect("a status") {
        "succeeded" => assert_eq!(place.get("cut").await["state"], "running"),
        "interrupted" => {
            assert!(!there, "it was undone: {task:#}");
            assert!(!Path::new(&place.path("cut")).exists());
            place.made(&body).await;
        }
        other => panic!("{other}: {task:#}"),
    }
    let own = format!("{POOLS}/cut");
    for (what, wanted) in [("stop", "inactive"), ("start", "running")] {
        let path = format!("{own}/{what}");
        let task = cut_off(&mut place, |client| client.call("POST", path)).await;
        let done = place.get("cut").await["state"] == wanted;
        let status = if done { "succeeded" } else { "interrupted" };
        assert_eq!(task["status"], status, "{task:#}");
        if !done {
            assert_eq!(place.order("cut", what).await.status, 200);
        }
    }
    let task = cut_off(&mut place, |client| client.call("POST", format!("{own}/refresh"))).await;
    assert_eq!(task["status"], "succeeded", "{task:#}");
    let change = json!({"autostart": false});
    let path = own.clone();
    // Deciding on an update asks libvirt first, so that one is not even begun.
    let halted = Halted::new(&place.world.lab);
    let asked = place.world.client.call("PUT", path).json(&change);
    let cut = tokio::time::timeout(Duration::from_millis(300), asked.try_send()).await;
    place.world.daemon.kill9();
    drop((halted, cut));
    place.world.daemon.start_again().await;
    assert_eq!(place.put("cut", &change).await.data()["autostart"], false);

    let task = cut_off(&mut place, |client| client.call("DELETE", own.clone())).await;
    let there = pools(&place.world.lab).contains(&"cut".to_owned());
    let status = if there { "interrupted" } else { "succeeded" };
    assert_eq!(task["status"], status, "{task:#}");
    // Nothing is held any more.
    eventually("nothing runs", SOON, async || {
        let reply = place.world.client.get(format!("{TASKS}?status=running")).await;
        (reply.data()["count"] == 0).then_some(())
    })
    .await;
    if there {
        assert_eq!(place.delete("cut", "").await.status, 204);
    }
    place.world.finish().await;
}
