//! Bounded queues, deadlines, panics and stuck workers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::error::Kind;
use crate::libvirt::testing::{PATIENCE, World};
use crate::libvirt::{Lane, LaneGauge, host};

/// Blocks a worker until the returned sender is dropped.
fn hold(world: &World, lane: Lane, deadline: Duration) -> (mpsc::Sender<()>, Held) {
    let (release, held) = mpsc::channel::<()>();
    let hypervisor = world.hypervisor.clone();
    let task = tokio::spawn(async move {
        hypervisor
            .run(lane, deadline, move |_| {
                let _ = held.recv();
                Ok(())
            })
            .await
    });
    (release, task)
}

type Held = tokio::task::JoinHandle<crate::error::Result<()>>;

fn gauge(world: &World, lane: Lane) -> LaneGauge {
    *world.hypervisor.gauges().iter().find(|gauge| gauge.lane == lane).expect("a gauge per lane")
}

async fn until(world: &World, lane: Lane, wanted: impl Fn(&LaneGauge) -> bool) {
    let start = Instant::now();
    while !wanted(&gauge(world, lane)) {
        assert!(start.elapsed() < PATIENCE, "{:?}", gauge(world, lane));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_closure_returns_plain_data_from_a_named_worker_thread() {
    let world = World::new().await;
    let name = world
        .run(|session| {
            assert!(session.is_test_driver());
            Ok(std::thread::current().name().unwrap_or_default().to_owned())
        })
        .await
        .expect("the closure runs");
    assert!(name.starts_with("lv-quick-"), "{name}");
}

#[tokio::test]
async fn a_full_queue_refuses_with_a_time_to_retry() {
    let world = World::with(|config| {
        config.quick_workers = 1;
        config.queue_depth = 1;
    })
    .await;
    let (_first, _a) = hold(&world, Lane::Quick, PATIENCE);
    until(&world, Lane::Quick, |gauge| gauge.busy == 1).await;
    let (_second, _b) = hold(&world, Lane::Quick, PATIENCE);
    until(&world, Lane::Quick, |gauge| gauge.queued == 1).await;
    let error = world.run(|_| Ok(())).await.expect_err("no room");
    assert_eq!(error.kind(), Kind::TooManyRequests);
    assert!(error.retry_after().is_some());
    // Another lane is not concerned.
    let other = world.hypervisor.run(Lane::Slow, PATIENCE, host::versions).await;
    assert!(other.is_ok());
}

#[tokio::test]
async fn a_deadline_ends_the_wait_but_not_the_call() {
    let world = World::new().await;
    let done = Arc::new(AtomicBool::new(false));
    let (release, held) = mpsc::channel::<()>();
    let flag = Arc::clone(&done);
    let start = Instant::now();
    let error = world
        .hypervisor
        .run(Lane::Quick, Duration::from_millis(50), move |_| {
            let _ = held.recv();
            flag.store(true, Ordering::SeqCst);
            Ok(())
        })
        .await
        .expect_err("the deadline passes");
    assert_eq!(error.kind(), Kind::LibvirtTimeout);
    assert!(start.elapsed() < PATIENCE / 2);
    assert!(!done.load(Ordering::SeqCst));
    until(&world, Lane::Quick, |gauge| gauge.stuck == 1).await;
    drop(release);
    until(&world, Lane::Quick, |gauge| gauge.busy == 0).await;
    assert!(done.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_job_whose_deadline_passes_in_the_queue_never_runs_and_says_so() {
    let world = World::with(|config| config.quick_workers = 1).await;
    let (release, _held) = hold(&world, Lane::Quick, PATIENCE);
    until(&world, Lane::Quick, |gauge| gauge.busy == 1).await;
    let ran = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&ran);
    let error = world
        .hypervisor
        .run(Lane::Quick, Duration::from_millis(50), move |_| {
            flag.store(true, Ordering::SeqCst);
            Ok(())
        })
        .await
        .expect_err("nobody was free");
    assert_eq!(error.kind(), Kind::TooManyRequests);
    assert_eq!(gauge(&world, Lane::Quick).queued, 0);
    drop(release);
    world.run(|_| Ok(())).await.expect("the lane works on");
    assert!(!ran.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_panic_becomes_an_internal_error_and_the_worker_survives() {
    let world = World::with(|config| config.quick_workers = 1).await;
    for _ in 0..3 {
        let error = world
            .run(|_| -> crate::error::Result<()> { panic!("a defect on purpose") })
            .await
            .expect_err("it panicked");
        assert_eq!(error.kind(), Kind::Internal);
    }
    assert!(world.run(host::versions).await.is_ok());
    assert_eq!(gauge(&world, Lane::Quick).workers, 1);
}

#[tokio::test]
async fn stuck_workers_are_replaced_within_a_bound_and_the_surplus_leaves() {
    let world = World::with(|config| config.agent_workers = 1).await;
    let short = Duration::from_millis(20);
    let (one, first) = hold(&world, Lane::Agent, short);
    assert_eq!(first.await.expect("no panic").expect_err("stuck").kind(), Kind::LibvirtTimeout);
    // One stuck worker: a spare takes the work.
    world.hypervisor.run(Lane::Agent, PATIENCE, host::versions).await.expect("a spare works");
    let (two, second) = hold(&world, Lane::Agent, short);
    second.await.expect("no panic").expect_err("stuck");
    world
        .hypervisor
        .run(Lane::Agent, PATIENCE, host::versions)
        .await
        .expect("the last spare works");
    let (three, third) = hold(&world, Lane::Agent, short);
    third.await.expect("no panic").expect_err("stuck");
    // The bound: two spares, all three stuck, so work waits and is refused truthfully.
    let error =
        world.hypervisor.run(Lane::Agent, short, host::versions).await.expect_err("all are stuck");
    assert_eq!(error.kind(), Kind::TooManyRequests);
    assert_eq!(gauge(&world, Lane::Agent).workers, 3);
    drop((one, two, three));
    until(&world, Lane::Agent, |gauge| gauge.busy == 0 && gauge.workers == 1).await;
    world.hypervisor.run(Lane::Agent, PATIENCE, host::versions).await.expect("the lane works on");
}

#[tokio::test]
async fn stop_refuses_new_work_and_ends_every_thread() {
    let mut world = World::new().await;
    world.hypervisor.stop().await;
    assert_eq!(world.hypervisor.workers_alive(), 0);
    let error = world.run(|_| Ok(())).await.expect_err("stopped");
    assert_eq!(error.kind(), Kind::ShuttingDown);
    // With the callbacks given back nothing holds the channel open.
    while let Some(event) =
        tokio::time::timeout(PATIENCE, world.events.recv()).await.expect("the channel closes")
    {
        assert!(!matches!(event, crate::libvirt::LibvirtEvent::Connected { .. }));
    }
}

#[tokio::test]
async fn a_hung_libvirt_is_no_defect_of_the_daemon() {
    let world = World::with(|config| config.quick_workers = 1).await;
    assert_eq!(world.hypervisor.defect(), None);
    let (_release, _held) = hold(&world, Lane::Quick, Duration::from_millis(50));
    until(&world, Lane::Quick, |gauge| gauge.stuck == 1).await;
    assert_eq!(world.hypervisor.defect(), None);
}
