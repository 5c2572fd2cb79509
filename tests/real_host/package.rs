//! The package on a host: its users, and what becomes of a guest when its daemon goes.

use crate::Place;
use crate::support::{SOON, eventually};

/// ann is in the group that may use the API, bob is not.
pub async fn the_group_runs_guests_that_outlive_the_daemon(place: &Place) {
    let host = &place.host;
    host.run("useradd -m -G vapor ann && useradd -m bob");
    let ann = |words: &str| host.run(&format!("runuser -u ann -- vapor {words}"));
    assert!(ann("status").contains("connected to qemu:///system"));
    let refused = host.try_run("runuser -u bob -- vapor status").expect_err("bob may not");
    assert!(refused.contains("are you in the group vapor?"), "{refused}");

    ann("vm create web1 --memory 64 --vcpus 1 --network none --graphics none --start");
    let guest = host.run("pidof qemu-system-x86_64");
    assert_eq!(place.virsh("domstate web1"), "running");
    let process = || host.run("systemctl show -P MainPID vapord");
    let first = process();
    host.run("systemctl restart vapord");
    let second = process();
    assert_ne!(first, second);
    host.run(&format!("kill -KILL {second}"));
    eventually("systemd has started the daemon again", SOON, async || {
        let now = process();
        (now != "0" && now != second).then_some(())
    })
    .await;
    assert!(ann("vm show web1").contains("running"));
    assert_eq!(host.run("pidof qemu-system-x86_64"), guest);
    ann("vm delete web1 --force --yes");
    assert!(host.try_run("pidof qemu-system-x86_64").is_err());
}
