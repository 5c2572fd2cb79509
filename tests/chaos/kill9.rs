//! `kill -9` of vapord at random moments during a hundred operations.
//!
//! Each worker repeats a request whose connection broke, with the same key, as a careful client
//! does. libvirt's own events, recorded by virsh, tell how often each thing really happened.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::Mutex;

use crate::libvirtd::used_volumes;
use crate::operations::{Deed, Facts, Request, Worker, finished};
use crate::support::{Client, Lab, Random, SOON, Settings, V, Vapord, eventually, wait::work};

const OPERATIONS: usize = 100;
const WORKERS: usize = 4;

/// What virsh has recorded of one VM: the words of its lifecycle events, in order.
fn recorded(file: &std::path::Path, vm: &str) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("virsh's record");
    let start = format!("event 'lifecycle' for domain '{vm}': ");
    text.lines()
        .filter_map(|line| line.split_once(&start))
        .map(|(_, word)| word.to_owned())
        .collect()
}

/// How often each deed happened, by libvirt's events. A guest that boots nothing causes none of
/// these by itself.
fn count(events: &[String], deed: Deed) -> usize {
    let words: &[&str] = match deed {
        Deed::Create => &["Defined Added"],
        Deed::Delete => &["Undefined Removed"],
        Deed::Start => &["Started Booted"],
        Deed::ForceStop | Deed::Stop => &["Stopped Destroyed", "Stopped Shutdown"],
        Deed::Pause => &["Suspended Paused"],
        Deed::Resume => &["Resumed Unpaused"],
        Deed::Update => &["Defined Updated"],
    };
    events.iter().filter(|event| words.contains(&event.as_str())).count()
}

struct Shared {
    lab: Lab,
    client: Client,
    record: std::path::PathBuf,
    left: AtomicUsize,
    /// Statuses of what was asked for, by task.
    verdicts: Mutex<BTreeMap<String, String>>,
    repeated: AtomicUsize,
}

/// The reply, however often the daemon dies before it comes.
async fn ask(shared: &Shared, request: &Request, key: &str) -> crate::support::Reply {
    eventually(&format!("a reply to {request:?}"), Duration::from_secs(180), async || {
        match request.call(&shared.client, key).try_send().await {
            Err(_) => {
                shared.repeated.fetch_add(1, Ordering::Relaxed);
                None
            }
            // Not connected yet after a restart, or the stop that came in between.
            Ok(reply) if reply.status == 503 => None,
            // An unfinished task of the last daemon is being judged; it is this worker's own.
            Ok(reply) if reply.code() == "VM_BUSY" => {
                assert!(reply.details()["task"].is_string(), "{reply:?}");
                None
            }
            // The work of a daemon that is dead may take effect a moment after virsh was asked.
            Ok(reply) if reply.status == 409 && reply.task().is_none() => None,
            Ok(reply) => Some(reply),
        }
    })
    .await
}

async fn operate(shared: Arc<Shared>, mut worker: Worker) {
    let mut before = Facts::of(&shared.lab, &worker.name).await;
    while shared
        .left
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
        .is_ok()
    {
        let request = worker.next(&before, true);
        let happened = recorded(&shared.record, &worker.name).len();
        let key = format!("{}-{}", worker.name, worker.number);
        let reply = ask(&shared, &request, &key).await;
        let Some(id) = reply.task() else { panic!("no task: {request:?}: {reply:?}") };
        let task = finished(&shared.client, &id, Duration::from_secs(180)).await;
        let after = Facts::of(&shared.lab, &worker.name).await;
        request.check(&task, &before, &after);
        let status = task["status"].as_str().expect("a status").to_owned();
        // virsh's record may come a moment after the fact.
        let wanted = usize::from(status == "succeeded");
        let times = eventually("virsh has recorded it", SOON, async || {
            let times = count(&recorded(&shared.record, &worker.name)[happened..], request.deed);
            (times >= wanted).then_some(times)
        })
        .await;
        let events = &recorded(&shared.record, &worker.name)[happened..];
        // A creation that was undone is an exception: it may be defined and undefined.
        assert!(times <= 1, "{times} times: {request:?}\n{events:?}\n{task:#}");
        if status == "succeeded" {
            assert_eq!(times, 1, "not done: {request:?}\n{events:?}\n{task:#}");
        }
        let known = shared.verdicts.lock().await.insert(id.clone(), status);
        assert!(known.is_none(), "task {id} was handed out twice");
        before = after;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_any_moment_loses_no_task_and_runs_none_twice() {
    let Some(lab) = Lab::start("kill9") else { return };
    let mut random = Random::seeded("kill9");
    let settings = Settings::new("kill9", &lab.uri());
    let record = settings.folder.join("virsh-events");
    let out = File::create(&record).expect("a file");
    let words = ["event", "--all", "--loop"];
    let mut recorder = lab.virsh_running(&words, out);
    let database = settings.database.clone();
    let mut daemon = Vapord::start(settings).await;
    let client = daemon.client();
    // The recorder is there once it has recorded something.
    eventually("virsh records", SOON, async || {
        let probe = "<domain type='qemu'><name>probe</name><memory>65536</memory>\
             <os><type>hvm</type></os></domain>";
        lab.define(probe);
        lab.virsh(&["undefine", "probe"]);
        (!recorded(&record, "probe").is_empty()).then_some(())
    })
    .await;
    let shared = Arc::new(Shared {
        client: client.clone(),
        lab,
        record,
        left: AtomicUsize::new(OPERATIONS),
        verdicts: Mutex::default(),
        repeated: AtomicUsize::new(0),
    });
    let mut workers = Vec::new();
    for index in 0..WORKERS {
        let worker = Worker::new(format!("vm{index}"), random.fork(), index % 2 == 0);
        let shared = shared.clone();
        workers.push(work(move || operate(shared, worker)));
    }
    let mut kills = 0;
    while workers.iter().any(|worker| !worker.is_finished()) {
        // At any moment, but never before somebody has got on: a daemon that judges what its
        // predecessor left unfinished needs some seconds.
        let left = shared.left.load(Ordering::Relaxed);
        eventually("the operations go on", Duration::from_secs(60), async || {
            (shared.left.load(Ordering::Relaxed) < left || left == 0).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(random.below(150))).await;
        if shared.left.load(Ordering::Relaxed) == 0 {
            break;
        }
        daemon.kill9();
        kills += 1;
        let sound = integrity(&database);
        assert_eq!(sound, "ok", "after kill number {kills}");
        daemon.start_again().await;
    }
    for worker in workers {
        worker.await.expect("no worker fails");
    }

    let tasks = client.tasks().await;
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for task in &tasks {
        let id = task["id"].as_str().expect("an id").to_owned();
        let last = finished(&client, &id, Duration::from_secs(60)).await;
        known.insert(id, last["status"].as_str().expect("a status").to_owned());
    }
    let verdicts = shared.verdicts.lock().await.clone();
    assert_eq!(verdicts.len(), OPERATIONS);
    // Every task that was handed out is known, with the verdict it had, and there is no other.
    assert_eq!(known, verdicts);
    let mut by_status: BTreeMap<&str, usize> = BTreeMap::new();
    for status in known.values() {
        *by_status.entry(status).or_default() += 1;
    }

    // Nobody is locked, and no volume is left without its VM.
    for vm in client.vms().await {
        let name = vm["name"].as_str().expect("a name");
        let reply = client.patch(format!("{V}/{name}"), &json!({"description": "free"})).await;
        assert_eq!(reply.status, 200, "{name} is locked: {reply:?}");
    }
    assert_eq!(shared.lab.volumes(), used_volumes(&client).await);
    assert_eq!(integrity(&database), "ok");
    events_have_no_hole(&client).await;
    println!(
        "{OPERATIONS} operations, {kills} kills, {} requests repeated: {by_status:?}",
        shared.repeated.load(Ordering::Relaxed)
    );
    assert!(kills >= 20, "only {kills} kills: nothing was tried");
    daemon.finish().await;
    recorder.kill().expect("it is our own");
    recorder.wait().expect("it is our own");
}

/// What SQLite itself says of the file.
fn integrity(database: &std::path::Path) -> String {
    let connection = rusqlite::Connection::open(database).expect("the database opens");
    connection
        .query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))
        .expect("the check runs")
}

/// Each number of the event list once, in order, over all the restarts.
async fn events_have_no_hole(client: &Client) {
    let mut since = 0;
    loop {
        let reply = client.get(format!("/api/v1/events?since={since}&limit=1000")).await;
        let events = reply.data()["events"].as_array().expect("events").clone();
        if events.is_empty() {
            break;
        }
        for event in events {
            assert_eq!(event["seq"].as_u64(), Some(since + 1), "{event}");
            since += 1;
        }
    }
    assert!(since > 100, "{since} events");
}
