//! Losing libvirt and finding it again, as far as the test driver can show.

use std::time::{Duration, Instant};

use crate::error::Kind;
use crate::libvirt::testing::{NODE, PATIENCE, World};
use crate::libvirt::{Hypervisor, HypervisorConfig, Lane, LibvirtEvent, domain};

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").expect("Linux").count()
}

#[tokio::test]
async fn without_libvirt_the_handle_stands_calls_fail_at_once_and_it_connects_by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("node.xml");
    let mut config = HypervisorConfig::new(format!("test://{}", path.display()));
    config.reconnect_min = Duration::from_millis(10);
    config.reconnect_max = Duration::from_millis(50);
    let (hypervisor, mut events) =
        Hypervisor::start(config).expect("an absent libvirt is no error");
    let start = Instant::now();
    let error = hypervisor
        .run(Lane::Quick, PATIENCE, domain::brief_all)
        .await
        .expect_err("there is no libvirt");
    assert_eq!(error.kind(), Kind::LibvirtUnavailable);
    assert!(error.retry_after().is_some());
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(!hypervisor.status().connected);

    std::fs::write(&path, NODE).expect("libvirt appears");
    let first = tokio::time::timeout(PATIENCE, events.recv()).await.expect("it connects");
    assert!(matches!(first, Some(LibvirtEvent::Connected { version: Some(_) })), "{first:?}");
    let status = hypervisor.status();
    assert!(status.connected && status.reason.is_none() && status.version.is_some());
    let all = hypervisor.run(Lane::Quick, PATIENCE, domain::brief_all).await.expect("it answers");
    assert_eq!(all.len(), 3);
}

#[tokio::test]
async fn a_loss_is_announced_and_the_same_handle_works_on_afterwards() {
    let mut world = World::new().await;
    let mut status = world.hypervisor.watch();
    status.mark_unchanged();
    world.hypervisor.pretend_loss("a test");
    let lost = world.event(|event| matches!(event, LibvirtEvent::Disconnected { .. })).await;
    assert_eq!(lost, LibvirtEvent::Disconnected { reason: "a test".to_owned() });
    world.event(|event| matches!(event, LibvirtEvent::Connected { .. })).await;
    assert!(status.has_changed().expect("the sender lives"));
    assert_eq!(world.run(domain::brief_all).await.expect("it answers").len(), 3);
}

#[tokio::test]
async fn a_call_that_outlives_its_connection_finishes_and_does_not_hold_up_the_next_one() {
    let mut world = World::new().await;
    let (release, held) = std::sync::mpsc::channel::<()>();
    let hypervisor = world.hypervisor.clone();
    let old = tokio::spawn(async move {
        hypervisor
            .run(Lane::Slow, PATIENCE, move |session| {
                let _ = held.recv();
                // The replaced connection is still whole for whoever holds it.
                domain::brief_all(session)
            })
            .await
    });
    while world.hypervisor.gauges().iter().all(|gauge| gauge.busy == 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.hypervisor.pretend_loss("a test");
    world.event(|event| matches!(event, LibvirtEvent::Connected { .. })).await;
    let new = world.hypervisor.run(Lane::Slow, PATIENCE, domain::brief_all).await;
    assert_eq!(new.expect("the new connection answers").len(), 3);
    drop(release);
    assert_eq!(old.await.expect("no panic").expect("the old call ends well").len(), 3);
}

#[tokio::test]
async fn twenty_losses_leave_no_thread_behind() {
    let mut world = World::new().await;
    let before = threads();
    for _ in 0..20 {
        world.hypervisor.pretend_loss("a test");
        world.event(|event| matches!(event, LibvirtEvent::Connected { .. })).await;
    }
    let start = Instant::now();
    // Other tests of this process start and end threads too, hence the allowance.
    while threads() > before + 15 {
        assert!(start.elapsed() < PATIENCE, "{} threads, {before} before", threads());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
