//! libvirtd killed and started again, twenty times, while requests run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::operations::{Deed, Facts, Worker, finished};
use crate::support::wait::{percentile, work};
use crate::support::{Client, Random, Reply, SOON, V, World, eventually, guest};

const KILLS: usize = 20;
const WORKERS: usize = 6;

/// How soon after libvirt's return the picture has to be right again.
const RIGHT_AGAIN: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Counts {
    reads: AtomicU64,
    stale: AtomicU64,
    succeeded: AtomicU64,
    unavailable: AtomicU64,
    interrupted: AtomicU64,
    failed: AtomicU64,
    ending: tokio::sync::Mutex<()>,
}

/// Reads without end; every read must succeed, whatever libvirt does.
async fn read(client: Client, counts: Arc<Counts>, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        let vms = client.vms().await;
        assert!(!vms.is_empty(), "the VMs are forgotten");
        let stale = vms.iter().filter(|vm| !vm["stale"].is_null()).count();
        if stale > 0 {
            let vm = vms.iter().find(|vm| !vm["stale"].is_null()).expect("counted");
            assert!(vm["stale"]["since"].is_string(), "{vm}");
            assert!(vm["stale"]["reason"].is_string(), "{vm}");
            counts.stale.fetch_add(1, Ordering::Relaxed);
        }
        let one = client.get(format!("{V}/witness")).await;
        assert_eq!(one.status, 200, "{one:?}");
        let health = client.get("/api/v1/health").await;
        assert_eq!(health.status, 200, "{health:?}");
        let metrics = client.get("/metrics").await;
        assert_eq!(metrics.status, 200, "{metrics:?}");
        counts.reads.fetch_add(4, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Operates on its own VM and holds each verdict against virsh.
async fn operate(
    world: Arc<World>,
    mut worker: Worker,
    counts: Arc<Counts>,
    over: Arc<AtomicBool>,
) {
    let client = &world.client;
    let mut before = Facts::of(&world.lab, &worker.name).await;
    while !over.load(Ordering::Relaxed) {
        let request = worker.next(&before, true);
        let key = format!("{}-{}", worker.name, worker.number);
        // libvirt keeps a VM locked while its QEMU ends, which takes 2 s in emulation, and every
        // listing, virsh's too, waits for that: one at a time leaves time for a picture.
        let _turn = match request.deed {
            Deed::ForceStop | Deed::Stop => Some(counts.ending.lock().await),
            _ => None,
        };
        let reply = request.call(client, &key).send().await;
        match (reply.status, reply.code()) {
            (200..=299, _) | (409, "INTERRUPTED") => {}
            (503, "LIBVIRT_UNAVAILABLE") => {
                assert!(reply.header("retry-after").is_some(), "{reply:?}");
            }
            // What virsh showed a moment ago is not in the picture yet, or not any more: it is
            // stale while libvirt is away.
            (409, code) if code.starts_with("VM_") => {
                assert!(reply.details()["state"].is_string() || code == "VM_BUSY", "{reply:?}");
            }
            (404, "VM_NOT_FOUND") => {}
            _ => panic!("{request:?}: {reply:?}"),
        }
        let after = match reply.task() {
            Some(id) => {
                let task = finished(client, &id, Duration::from_secs(150)).await;
                let after = Facts::of(&world.lab, &worker.name).await;
                if reply.code() != "VM_BUSY" {
                    request.check(&task, &before, &after);
                    let counter = match task["status"].as_str() {
                        Some("succeeded") => &counts.succeeded,
                        Some("interrupted") => &counts.interrupted,
                        _ => &counts.failed,
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                after
            }
            None => {
                let after = Facts::of(&world.lab, &worker.name).await;
                assert_eq!(after, before, "refused, and yet: {request:?} {reply:?}");
                counts.unavailable.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
                after
            }
        };
        before = after;
    }
}

/// VMs that no worker operates, so that the API and virsh can be compared at leisure. The first
/// loses its QEMU while libvirtd is away.
const BYSTANDERS: [&str; 3] = ["witness", "sleeper", "idler"];

/// Whether every VM is told as fresh, and the bystanders as virsh tells them. What the workers
/// operate is held against virsh after each operation.
async fn is_right(world: &World) -> Option<()> {
    let vms = world.client.vms().await;
    if vms.iter().any(|vm| !vm["stale"].is_null()) {
        return None;
    }
    BYSTANDERS
        .iter()
        .all(|name| {
            let vm = vms.iter().find(|vm| vm["name"] == *name).expect("it is listed");
            let state = world.lab.try_virsh(&["domstate", name]).unwrap_or_default();
            vm["state"] == state.replace("shut off", "shutoff")
        })
        .then_some(())
}

#[tokio::test(flavor = "multi_thread")]
async fn libvirtd_killed_twenty_times_costs_neither_reads_nor_truth() {
    let Some(world) = World::start("libvirtd").await else { return };
    let mut random = Random::seeded("libvirtd");
    for name in BYSTANDERS {
        let reply = world.client.post(V, &guest::empty_body(name)).await;
        assert_eq!(reply.status, 201, "{reply:?}");
    }
    world.client.done("sleeper", "start").await;
    world.client.done("sleeper", "pause").await;
    let pid = world.daemon.pid();
    let world = Arc::new(world);
    let (counts, over) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
    let mut readers = Vec::new();
    for _ in 0..3 {
        let (client, counts) = (world.client.clone(), counts.clone());
        readers.push(tokio::spawn(read(client, counts, over.clone())));
    }
    let mut workers = Vec::new();
    for index in 0..WORKERS {
        let worker = Worker::new(format!("vm{index}"), random.fork(), index % 2 == 0);
        let (world, counts, over) = (world.clone(), counts.clone(), over.clone());
        workers.push(work(move || operate(world, worker, counts, over)));
    }
    let mut right_again = Vec::new();
    for round in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(random.below(1500))).await;
        // Something that happens while nobody looks: the witness is there to be missed.
        let up = world.lab.try_virsh(&["start", "witness"]).is_ok();
        let qemu = up.then(|| world.lab.qemu("witness"));
        world.lab.kill_libvirtd();
        if let Some(qemu) = qemu {
            let qemu = nix::unistd::Pid::from_raw(qemu);
            nix::sys::signal::kill(qemu, nix::sys::signal::Signal::SIGKILL).expect("it runs");
        }
        eventually("the readers are told that the picture is old", SOON, async || {
            let vm = world.client.vm("witness").await;
            (!vm["stale"].is_null()).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        let lab = world.clone();
        tokio::task::block_in_place(|| {
            lab.lab.start_libvirtd();
            // It is back when it can list its VMs: first it finds its QEMUs again, and one that was
            // being started when it was killed costs it some seconds.
            lab.lab.virsh(&["list", "--all"]);
        });
        let begun = Instant::now();
        eventually(&format!("round {round}: the picture is right"), SOON, async || {
            for task in readers.iter().chain(&workers) {
                assert!(!task.is_finished(), "a reader or a worker has failed");
            }
            is_right(&world).await
        })
        .await;
        let took = begun.elapsed();
        assert!(took < RIGHT_AGAIN, "round {round}: right again only after {took:?}");
        right_again.push(took);
        assert_eq!(world.client.vm("witness").await["state"], "shutoff");
    }
    over.store(true, Ordering::Relaxed);
    for task in readers.into_iter().chain(workers) {
        task.await.expect("no reader and no worker fails");
    }
    let client = &world.client;
    for task in client.tasks().await {
        let id = task["id"].as_str().expect("an id");
        finished(client, id, Duration::from_secs(30)).await;
    }
    // Everybody can go on.
    for index in 0..WORKERS {
        let name = format!("vm{index}");
        if client.get(format!("{V}/{name}")).await.status == 200 {
            let change = serde_json::json!({"description": "still here"});
            let reply = client.patch(format!("{V}/{name}"), &change).await;
            if reply.status != 200 {
                libvirt_holds(&world, &name, &reply).await;
            }
        }
    }
    let disks = world.lab.volumes();
    let used: Vec<String> = used_volumes(client).await;
    assert_eq!(disks, used, "volumes without a VM");
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{KILLS} kills: {} reads, {} told stale; {} operations succeeded, {} interrupted, {} \
         failed, {} refused; right again in {:?} (median), {:?} (worst)",
        count(&counts.reads),
        count(&counts.stale),
        count(&counts.succeeded),
        count(&counts.interrupted),
        count(&counts.failed),
        count(&counts.unavailable),
        percentile(&mut right_again, 0.5),
        percentile(&mut right_again, 1.0),
    );
    assert!(count(&counts.stale) > 0 && count(&counts.succeeded) > 40, "too little was tried");
    assert_eq!(world.daemon.pid(), pid);
    let Ok(world) = Arc::try_unwrap(world) else { panic!("somebody still uses the world") };
    world.finish().await;
}

/// Holds a VM that did not take a change to the one reason that is not Vapor's: a libvirtd that was
/// killed while it started a VM may, back again, keep the job of that start for ever (its lock is then
/// owned by nobody). Then virsh is refused the same, the task says so, and cutting the power helps.
async fn libvirt_holds(world: &World, name: &str, reply: &Reply) {
    let task = reply.task().expect("it is a task by now");
    let ended = finished(&world.client, &task, Duration::from_secs(60)).await;
    assert_eq!(ended["error"]["code"], "VM_BUSY", "{ended}");
    let virsh = ["desc", name, "--live", "--new-desc", "x"];
    let refused = tokio::task::block_in_place(|| world.lab.try_virsh(&virsh));
    let why = refused.expect_err("libvirt lets others change it, so that Vapor holds it");
    assert!(why.contains("state change lock"), "{why}");
    println!("libvirt itself holds {name} since its start was cut off: {why}");
    let cut = world.client.act(name, "force-stop").await;
    assert_eq!(cut.status, 200, "{cut:?}");
}

/// The volumes of the pool `lab` that VMs have as disks, as the API tells.
pub async fn used_volumes(client: &Client) -> Vec<String> {
    let mut used: Vec<String> = client
        .vms()
        .await
        .iter()
        .flat_map(|vm| vm["disks"].as_array().cloned().unwrap_or_default())
        .filter_map(|disk| disk["volume"]["volume"].as_str().map(str::to_owned))
        .collect();
    used.sort();
    used
}

#[test]
fn every_deed_can_be_told_from_its_opposite() {
    let facts = |state: &str| Facts {
        state: Some(state.to_owned()),
        description: String::new(),
        live: String::new(),
    };
    let mut worker = Worker::new("x".to_owned(), Random::seeded("deeds"), false);
    for state in ["running", "paused", "shut off"] {
        for _ in 0..50 {
            let request = worker.next(&facts(state), true);
            if request.deed != Deed::Update {
                assert!(!request.is_met(&facts(state)), "{request:?} is met in {state}");
            }
        }
    }
}
