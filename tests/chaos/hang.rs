//! QEMUs that hang (SIGSTOP), with operations stuck in them: nobody else may notice.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::support::wait::percentile;
use crate::support::{BOOT, SOON, Settings, V, World, guest};

const READS: usize = 400;
const POWER_CYCLES: usize = 3;
const HUNG: [&str; 3] = ["hung0", "hung1", "hung2"];

/// A process that goes on when this is dropped, so that it can be ended.
struct Stopped(Vec<Pid>);

impl Stopped {
    fn stop(world: &World, vms: &[&str]) -> Stopped {
        let pids: Vec<Pid> = vms.iter().map(|vm| Pid::from_raw(world.lab.qemu(vm))).collect();
        for pid in &pids {
            kill(*pid, Signal::SIGSTOP).expect("QEMU runs");
        }
        Stopped(pids)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill(*pid, Signal::SIGCONT);
        }
    }
}

#[derive(Debug)]
struct Times {
    get: Duration,
    list: Duration,
    metrics: Duration,
    start: Duration,
    stop: Duration,
    graceful: Duration,
}

/// The 99th percentiles of reads, and the worst of start and stop of another VM.
async fn measure(world: &World) -> Times {
    let client = &world.client;
    let read = async |path: String| {
        let mut samples = Vec::new();
        for _ in 0..READS {
            let begun = Instant::now();
            let reply = client.get(path.clone()).await;
            samples.push(begun.elapsed());
            assert_eq!(reply.status, 200, "{reply:?}");
        }
        percentile(&mut samples, 0.99)
    };
    let get = read(format!("{V}/hung0")).await;
    let list = read(V.to_owned()).await;
    let metrics = read("/metrics".to_owned()).await;
    let (mut starts, mut stops) = (Vec::new(), Vec::new());
    for _ in 0..POWER_CYCLES {
        for (action, samples) in [("start", &mut starts), ("force-stop", &mut stops)] {
            let begun = Instant::now();
            client.done("healthy", action).await;
            samples.push(begun.elapsed());
        }
    }
    // A stop that asks the guest first: its call goes where agents are waited for.
    client.done("healthy", "start").await;
    let begun = Instant::now();
    let request = json!({"action": "stop", "timeout": 1, "force": true});
    let path = format!("{V}/healthy/action");
    let reply = client.call("POST", path).header("prefer", "wait=60").json(&request).send().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    let graceful = begun.elapsed();
    let (start, stop) = (percentile(&mut starts, 1.0), percentile(&mut stops, 1.0));
    Times { get, list, metrics, start, stop, graceful }
}

/// What a busy machine of two cores may make of it; a wait for one of the hung takes 30 s for an operation and
/// for ever for what needs the monitor. `make bench -- hung` has the figures.
fn bound(before: Duration, factor: u32, slack: Duration) -> Duration {
    before * factor + slack
}

#[tokio::test(flavor = "multi_thread")]
async fn hung_guests_delay_nobody_else() {
    let Some(world) = World::start("hang").await else { return };
    let client = &world.client;
    // With an agent, so that it is waited for, too.
    for name in HUNG {
        world.make(name, true).await;
    }
    for name in HUNG {
        world.booted(name).await;
    }
    assert_eq!(client.post(V, &guest::empty_body("healthy")).await.status, 201);
    let before = measure(&world).await;

    let stopped = Stopped::stop(&world, &HUNG);
    // An operation is stuck in each of them: a call for the monitor, one for the agent, a job.
    let mut tasks = Vec::new();
    for (name, action) in HUNG.into_iter().zip(["pause", "stop", "reset"]) {
        let path = format!("{V}/{name}/action");
        let call = client.call("POST", path).header("prefer", "respond-async");
        let reply = call.json(&json!({"action": action})).send().await;
        assert_eq!(reply.status, 202, "{reply:?}");
        tasks.push((name, action, reply.task().expect("a task")));
    }
    let during = measure(&world).await;
    println!("before {before:?}\nduring {during:?}");
    let reads = Duration::from_millis(500);
    let power = Duration::from_secs(5);
    for (what, before, during, slack) in [
        ("GET one", before.get, during.get, reads),
        ("GET list", before.list, during.list, reads),
        ("GET metrics", before.metrics, during.metrics, reads),
        ("start", before.start, during.start, power),
        ("force-stop", before.stop, during.stop, power),
        ("graceful stop", before.graceful, during.graceful, power),
    ] {
        let bound = bound(before, 4, slack);
        assert!(during <= bound, "{what}: {during:?}, before {before:?}, bound {bound:?}");
    }
    // Making, changing and deleting others goes on, too.
    let begun = Instant::now();
    world.make("newcomer", false).await;
    let change = json!({"description": "made while others hung"});
    assert_eq!(client.patch(format!("{V}/newcomer"), &change).await.status, 200);
    let gone = client.delete(format!("{V}/newcomer?remove_disks=true")).await;
    assert_eq!(gone.status, 204, "{gone:?}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    for (name, action, id) in &tasks {
        let task = client.task(id).await;
        assert_eq!(task["status"], "running", "{action} {name}: {task}");
        let busy = client.act(name, "resume").await.refused(409, "VM_BUSY");
        assert_eq!(busy.details()["task"], json!(id));
    }

    drop(stopped);
    for (name, action, id) in &tasks {
        let task = client.finished(id, BOOT).await;
        assert_eq!(task["status"], "succeeded", "{action} {name}: {task}");
    }
    let states = ["paused", "shutoff", "running"];
    for (name, state) in HUNG.into_iter().zip(states) {
        world.in_state(name, state, SOON).await;
        let virsh = world.lab.virsh(&["domstate", name]).replace("shut off", "shutoff");
        assert_eq!(virsh, state, "{name}");
    }
    assert_eq!(client.done("hung0", "resume").await["state"], "running");
    world.booted("hung0").await;
    world.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_guest_can_lose_its_power_and_a_daemon_can_stop_beside_it() {
    let adjust = |settings: &mut Settings| settings.more = "[limits]\ndrain_seconds = 3\n".into();
    let Some(mut world) = World::with("hungoff", adjust).await else { return };
    for name in ["one", "two"] {
        let mut body = guest::empty_body(name);
        body["start"] = json!(true);
        assert_eq!(world.client.post(V, &body).await.status, 201);
    }
    let stopped = Stopped::stop(&world, &["one", "two"]);
    // The way out of a hung guest is its power switch; libvirt kills the process for it.
    let begun = Instant::now();
    let off = world.client.done("one", "force-stop").await;
    assert_eq!(off["state"], "shutoff");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    // A daemon that is to stop does not wait for a call that may never return.
    let path = format!("{V}/two/action");
    let call = world.client.call("POST", path).header("prefer", "respond-async");
    let reply = call.json(&json!({"action": "pause"})).send().await;
    assert_eq!(reply.status, 202, "{reply:?}");
    let id = reply.task().expect("a task");
    let status = world.daemon.terminate(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(0), "{status}");
    world.daemon.start_again().await;
    let task = world.client.task(&id).await;
    assert_eq!(task["status"], "running", "the next daemon follows it: {task}");
    drop(stopped);
    let task = world.client.finished(&id, BOOT).await;
    let virsh = world.lab.virsh(&["domstate", "two"]);
    match task["status"].as_str() {
        Some("succeeded") => assert_eq!(virsh, "paused", "{task}"),
        Some("interrupted") => {
            assert_eq!(task["error"]["details"]["state"].as_str(), Some(virsh.as_str()), "{task}");
        }
        _ => panic!("{task}"),
    }
    world.finish().await;
}
