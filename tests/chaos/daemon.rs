//! The daemon itself: a second one, a full disk under its database, a stop in the middle.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::lab::run;
use crate::support::{BOOT, Lab, SOON, Settings, V, Vapord, World, eventually, guest};

/// Waits until a daemon that is to be refused has ended; its exit status and what it said.
async fn refused(settings: &Settings) -> (Option<i32>, String) {
    let log = settings.folder.join("refused.log");
    let _ = fs::remove_file(&log);
    let mut child = Vapord::spawn(settings, &log);
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is our own") {
            break status;
        }
        if begun.elapsed() > SOON {
            child.kill().expect("it is our own");
            child.wait().expect("it is our own");
            panic!("it was not refused: {}", fs::read_to_string(&log).unwrap_or_default());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    (status.code(), fs::read_to_string(log).expect("a log"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused_and_the_first_one_goes_on() {
    let Some(world) = World::start("second").await else { return };
    let first = world.daemon.settings();

    let mut same_socket = Settings::new("samesocket", &first.uri);
    same_socket.socket.clone_from(&first.socket);
    let (code, told) = refused(&same_socket).await;
    assert!(matches!(code, Some(1 | 64)), "{code:?}: {told}");
    let path = first.socket.display().to_string();
    assert!(told.contains(&path) && told.contains("hint:"), "{told}");
    assert!(!same_socket.database.exists(), "it touched a database before it was refused");

    let mut same_database = Settings::new("samedb", &first.uri);
    same_database.database.clone_from(&first.database);
    let (code, told) = refused(&same_database).await;
    assert!(matches!(code, Some(1 | 64)), "{code:?}: {told}");
    let path = first.database.display().to_string();
    assert!(told.contains(&path) && told.contains("hint:"), "{told}");
    assert!(!same_database.socket.exists(), "it left a socket behind");

    assert_eq!(world.client.post(V, &guest::empty_body("one")).await.status, 201);
    for settings in [same_socket, same_database] {
        fs::remove_dir_all(settings.folder).expect("our own folder");
    }
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_the_daemon_parks_a_waiting_stop_and_the_next_daemon_goes_on() {
    let Some(mut world) = World::start("park").await else { return };
    let mut body = guest::body_with("slow", "vapor.slowstop=15");
    body["start"] = json!(true);
    assert_eq!(world.client.post(V, &body).await.status, 201);
    world.booted("slow").await;
    let path = format!("{V}/slow/action");
    let request = json!({"action": "stop", "timeout": 120});
    let call = world.client.call("POST", path).header("idempotency-key", "the-stop");
    let reply = call.json(&request).send().await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let id = reply.task().expect("a task");
    eventually("the guest has been asked", SOON, async || {
        let task = world.client.task(&id).await;
        let phase = task["progress"]["phase"].as_str().unwrap_or_default().to_owned();
        phase.contains("waiting").then_some(())
    })
    .await;
    let begun = Instant::now();
    let status = world.daemon.terminate(Duration::from_secs(20)).await;
    let took = begun.elapsed();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(took < Duration::from_secs(5), "a wait kept the daemon for {took:?}");
    assert!(!world.daemon.settings().socket.exists(), "the socket stays behind");
    assert_eq!(world.lab.virsh(&["domstate", "slow"]), "running", "the guest takes its time");

    world.daemon.start_again().await;
    let client = &world.client;
    let task = client.task(&id).await;
    assert_eq!(task["status"], "running", "{task}");
    let busy = client.act("slow", "pause").await.refused(409, "VM_BUSY");
    assert_eq!(busy.details()["task"], json!(id));
    let task = client.finished(&id, BOOT).await;
    assert_eq!(task["status"], "succeeded", "{task}");
    assert_eq!(task["result"]["state"], "shutoff");
    assert_eq!(world.lab.virsh(&["domstate", "slow"]), "shut off");
    let lines = client.get(format!("/api/v1/tasks/{id}/log")).await;
    assert!(lines.text.contains("adopted"), "{lines:?}");
    // The key still leads to it, after the restart.
    let path = format!("{V}/slow/action");
    let call = client.call("POST", path).header("idempotency-key", "the-stop");
    let again = call.json(&request).send().await;
    assert_eq!((again.status, again.task()), (200, Some(id)), "{again:?}");
    world.finish().await;
}

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, mib: u32) -> SmallDisk {
        fs::create_dir_all(folder).expect("a folder");
        let size = format!("size={mib}m,mode=700");
        run(&mut as_root(&["mount", "-t", "tmpfs", "-o", &size, "vapor-test"], folder));
        let user = nix::unistd::getuid().to_string();
        run(&mut as_root(&["chown", &user], folder));
        SmallDisk(folder.to_owned())
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let file = self.0.join("filler");
        let mut size = 1 << 20;
        let mut filler = fs::File::create(&file).expect("a file");
        while size >= 512 {
            let block = vec![7u8; size];
            if std::io::Write::write_all(&mut filler, &block).is_err() {
                size /= 2;
            }
        }
    }

    fn empty(&self) {
        fs::remove_file(self.0.join("filler")).expect("the filler");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = as_root(&["umount", "--lazy"], &self.0).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            println!("{} stays mounted", self.0.display());
        }
    }
}

fn as_root(words: &[&str], folder: &Path) -> Command {
    let mut command = if nix::unistd::getuid().is_root() {
        Command::new(words[0])
    } else {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", words[0]]);
        sudo
    };
    command.args(&words[1..]).arg(folder);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_database_stops_changes_and_nothing_else() {
    let Some(lab) = Lab::start("full") else { return };
    let mut settings = Settings::new("full", &lab.uri());
    let disk = SmallDisk::mount(&settings.folder.join("small"), 4);
    settings.database = disk.0.join("vapor.db");
    let mut daemon = Vapord::start(settings).await;
    let client = daemon.client();
    for name in ["one", "two"] {
        assert_eq!(client.post(V, &guest::empty_body(name)).await.status, 201);
    }
    // A stop that is under way when the room ends.
    client.done("two", "start").await;
    let stop = client.act_with("two", json!({"action": "stop", "timeout": 3})).await;
    assert_eq!(stop.status, 202, "{stop:?}");
    let waiting = stop.task().expect("a task");
    eventually("the stop waits", SOON, async || {
        let task = client.task(&waiting).await;
        let phase = task["progress"]["phase"].as_str().unwrap_or_default().to_owned();
        phase.contains("waiting").then_some(())
    })
    .await;
    disk.fill();

    // Some room may be left within the files that are there; then there is none.
    eventually("a change is refused", SOON, async || {
        let reply = client.patch(format!("{V}/one"), &json!({"description": "filling"})).await;
        (reply.status != 200).then_some(())
    })
    .await;
    let seen = client.vm("one").await;
    for _ in 0..5 {
        let reply = client.patch(format!("{V}/one"), &json!({"description": "no room"})).await;
        let reply = reply.refused(503, "DATABASE_UNAVAILABLE");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
        let reply = client.act("one", "start").await.refused(503, "DATABASE_UNAVAILABLE");
        assert_eq!(lab.virsh(&["domstate", "one"]), "shut off", "{reply:?}");
        let reply = client.post(V, &guest::empty_body("three")).await;
        reply.refused(503, "DATABASE_UNAVAILABLE");
    }
    assert_eq!(lab.names(&["list", "--all", "--name"]), ["one", "two"]);
    let refused = lab.virsh(&["desc", "one"]);
    assert!(!refused.contains("no room"), "{refused}");
    // Reads go on, and what others do is seen.
    assert_eq!(client.vm("one").await, seen);
    assert_eq!(client.get("/api/v1/health").await.data()["status"], "degraded");
    assert_eq!(client.get("/api/v1/tasks").await.status, 200);
    assert_eq!(client.get("/metrics").await.status, 200);
    lab.virsh(&["start", "one"]);
    eventually("what virsh does is seen", SOON, async || {
        (client.vm("one").await["state"] == "running").then_some(())
    })
    .await;
    // The stop ends although nobody can write that down.
    eventually("the waiting stop is over", Duration::from_secs(20), async || {
        let task = client.task(&waiting).await;
        (task["status"] == "failed").then_some(())
    })
    .await;

    disk.empty();
    let begun = Instant::now();
    eventually("changes are taken again", SOON, async || {
        let reply = client.patch(format!("{V}/one"), &json!({"description": "room"})).await;
        (reply.status == 200).then_some(())
    })
    .await;
    println!("changes were taken again {:?} after there was room", begun.elapsed());
    assert_eq!(client.done("one", "force-stop").await["state"], "shutoff");
    // The verdict of before is in the journal by now: the next daemon finds it there.
    eventually("two is free", SOON, async || {
        (client.act("two", "force-stop").await.status == 200).then_some(())
    })
    .await;
    daemon.kill9();
    daemon.start_again().await;
    let task = client.task(&waiting).await;
    assert_eq!(
        (&task["status"], &task["error"]["code"]),
        (&json!("failed"), &json!("GUEST_TIMEOUT"))
    );
    daemon.finish().await;
    drop(disk);
}
