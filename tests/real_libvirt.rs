//! The libvirt room against a real libvirtd and a real guest: hung guests, a killed daemon, a silent
//! daemon. Needs the lab (tests/lab); says `skipped:` without it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;
use vapor::error::Kind;
use vapor::libvirt::domain::{self, ShutdownMode, UndefineFlags};
use vapor::libvirt::{
    DomainEvent, Hypervisor, HypervisorConfig, Lane, LibvirtEvent, ResourceEvent, agent, host,
    network, pool,
};
use vapor::model::VmState;

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(60);

/// A private libvirtd, stopped when dropped.
struct Lab {
    folder: PathBuf,
}

impl Lab {
    fn script() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/libvirtd.sh")
    }

    fn start(name: &str) -> Option<Lab> {
        let missing = if !Lab::script().exists() {
            "tests/lab/libvirtd.sh"
        } else if !Path::new("/usr/sbin/libvirtd").exists() {
            "libvirtd"
        } else {
            let folder = PathBuf::from(format!("/tmp/vapor-{name}-{}", std::process::id()));
            let lab = Lab { folder };
            lab.call(&["start"]);
            return Some(lab);
        };
        assert!(std::env::var_os("VAPOR_TEST_NO_SKIP").is_none(), "needs {missing}");
        println!("skipped: needs {missing}");
        None
    }

    fn call(&self, words: &[&str]) -> String {
        let output = Command::new("bash")
            .arg(Lab::script())
            .arg(words[0])
            .arg(&self.folder)
            .args(&words[1..])
            .output()
            .expect("bash runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {errors}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}/libvirt-sock", self.folder.display())
    }

    fn libvirtd(&self) -> String {
        std::fs::read_to_string(self.folder.join("libvirtd.pid"))
            .expect("it runs")
            .trim()
            .to_owned()
    }

    /// A definition of the tiny guest.
    fn guest(&self, name: &str) -> String {
        let folder = self.folder.display();
        format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory>\
             <vcpu current='1'>2</vcpu><os><type arch='x86_64' machine='q35'>hvm</type>\
             <kernel>{folder}/guest/vmlinuz</kernel><initrd>{folder}/guest/initrd.img</initrd>\
             <cmdline>console=ttyS0 vapor.hostname={name}</cmdline></os>\
             <features><acpi/><apic/></features><devices>\
             <interface type='network'><source network='lab'/><model type='virtio'/></interface>\
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
             <serial type='pty'/></devices></domain>"
        )
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = Command::new("bash").arg(Lab::script()).arg("stop").arg(&self.folder).output();
    }
}

fn signal(pid: &str, name: &str) {
    let done = Command::new("kill").arg(format!("-{name}")).arg(pid).status();
    assert!(done.expect("kill runs").success(), "kill -{name} {pid}");
}

async fn connect(config: HypervisorConfig) -> (Hypervisor, UnboundedReceiver<LibvirtEvent>) {
    let (hypervisor, mut events) = Hypervisor::start(config).expect("the threads start");
    until(&mut events, LONG, |event| matches!(event, LibvirtEvent::Connected { .. })).await;
    (hypervisor, events)
}

/// The next event that is wanted, and how long it took.
async fn until(
    events: &mut UnboundedReceiver<LibvirtEvent>,
    patience: Duration,
    wanted: impl Fn(&LibvirtEvent) -> bool,
) -> (LibvirtEvent, Duration) {
    let start = Instant::now();
    let wait = async {
        loop {
            let event = events.recv().await.expect("the channel is open");
            if wanted(&event) {
                return event;
            }
        }
    };
    let event = tokio::time::timeout(patience, wait).await.expect("the event comes in time");
    (event, start.elapsed())
}

fn of(uuid: Uuid, wanted: DomainEvent) -> impl Fn(&LibvirtEvent) -> bool {
    move |event| matches!(event, LibvirtEvent::Domain { uuid: of, event, .. } if *of == uuid && *event == wanted)
}

fn threads_and_sockets() -> (usize, usize) {
    let count = |folder: &str| std::fs::read_dir(folder).expect("Linux").count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_lives_and_its_agent_tells_and_nothing_waits_for_it_when_it_hangs() {
    let Some(lab) = Lab::start("guest") else { return };
    let (hypervisor, mut events) = connect(HypervisorConfig::new(lab.uri())).await;
    let quick = |deadline| (Lane::Quick, deadline);

    let xml = lab.guest("tiny");
    let (lane, deadline) = quick(SOON);
    let uuid = hypervisor
        .run(lane, deadline, move |session| domain::define(session, "tiny", &xml))
        .await
        .expect("it is defined");
    let other = lab.guest("other");
    let other = hypervisor
        .run(Lane::Quick, SOON, move |session| domain::define(session, "other", &other))
        .await
        .expect("it is defined");
    hypervisor.run(Lane::Quick, LONG, move |s| domain::start(s, uuid)).await.expect("it starts");
    until(&mut events, SOON, of(uuid, DomainEvent::Started { detail: "booted" })).await;
    let (_, took) = until(&mut events, LONG, of(uuid, DomainEvent::AgentConnected)).await;
    println!("agent connected after {took:?}");

    // The agent's end is open as soon as the guest's driver is; the agent itself may need a moment.
    let info = loop {
        match hypervisor.run(Lane::Agent, LONG, move |s| agent::guest_info(s, uuid, 5)).await {
            Ok(info) => break info,
            Err(error) => {
                assert_eq!(error.kind(), Kind::GuestAgentUnavailable, "{error:?}");
                assert!(took < LONG);
            }
        }
    };
    println!("{info:?}");
    assert_eq!(info.hostname.as_deref(), Some("tiny"));
    assert_eq!(info.os_id.as_deref(), Some("vapor-tiny"));
    assert!(info.kernel.is_some() && info.machine.is_some());
    hypervisor.run(Lane::Agent, LONG, move |s| agent::ping(s, uuid, 5)).await.expect("it answers");
    for source in [agent::Source::Agent, agent::Source::Lease] {
        let start = Instant::now();
        loop {
            let addresses = hypervisor
                .run(Lane::Agent, LONG, move |s| agent::interface_addresses(s, uuid, source, 5))
                .await
                .expect("it tells");
            let found = addresses.iter().flat_map(|nic| &nic.addresses).any(|address| {
                address.0.starts_with("192.168.123.") && address.2 == agent::Family::Ipv4
            });
            if found {
                break;
            }
            assert!(start.elapsed() < LONG, "{source:?}: {addresses:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let leases = hypervisor.run(Lane::Quick, SOON, |s| network::leases(s, "lab")).await;
    println!("{leases:?}");
    assert!(leases.expect("leases").iter().any(|lease| lease.hostname.as_deref() == Some("tiny")));
    let briefs = hypervisor.run(Lane::Quick, SOON, domain::brief_all).await.expect("briefs");
    println!("{briefs:?}");
    for brief in briefs {
        let id = brief.uuid;
        let one = hypervisor.run(Lane::Quick, SOON, move |s| domain::brief(s, id)).await;
        assert_eq!(one.expect("one"), brief);
        assert_eq!((brief.vcpus, brief.max_vcpus, brief.max_memory_kib), (1, 2, 262_144));
        assert_eq!(brief.state == VmState::Running, id == uuid);
    }
    assert_eq!(
        hypervisor.run(Lane::Quick, SOON, move |s| domain::job_info(s, uuid)).await.expect("none"),
        None
    );

    // A QEMU that stops answering: calls to its monitor hang, nothing else does.
    let pid = lab.call(&["pid", "tiny"]);
    signal(&pid, "STOP");
    let short = Duration::from_millis(1_200);
    let error = hypervisor.run(Lane::Quick, short, move |s| domain::suspend(s, uuid)).await;
    assert_eq!(error.expect_err("it hangs").kind(), Kind::LibvirtTimeout);
    let mut worst = Duration::ZERO;
    for _ in 0..20 {
        for lane in Lane::ALL {
            let start = Instant::now();
            // Whatever needs the hung QEMU is refused at once and costs no worker.
            let refused = [
                hypervisor.run(lane, SOON, move |s| domain::resume(s, uuid)).await,
                hypervisor.run(lane, SOON, move |s| domain::facts(s, uuid).map(drop)).await,
                hypervisor
                    .run(lane, SOON, move |s| domain::xml(s, uuid, true, false).map(drop))
                    .await,
            ];
            for error in refused {
                let error = error.expect_err("QEMU does not answer");
                assert_eq!(error.kind(), Kind::VmBusy, "{error:?}");
            }
            hypervisor.run(lane, SOON, domain::brief_all).await.expect("briefs while one hangs");
            hypervisor.run(lane, SOON, move |s| domain::brief(s, uuid)).await.expect("its brief");
            hypervisor.run(lane, SOON, move |s| domain::facts(s, other)).await.expect("another");
            let survey = hypervisor.run(lane, SOON, domain::survey).await.expect("all facts");
            assert_eq!((survey.facts.len(), survey.unreadable.len()), (1, 1));
            assert_eq!(survey.unreadable[0].uuid, uuid);
            worst = worst.max(start.elapsed());
        }
    }
    println!(
        "worst round of seven calls beside a hung guest: {worst:?}; {:?}",
        hypervisor.gauges()
    );
    assert!(worst < SOON);
    assert_eq!(hypervisor.gauges().iter().map(|gauge| gauge.stuck).sum::<usize>(), 1);
    let error = hypervisor.run(Lane::Agent, LONG, move |s| agent::guest_info(s, uuid, 1)).await;
    assert_eq!(error.expect_err("nobody answers").kind(), Kind::GuestAgentUnavailable);
    // libvirtd is killed while one call hangs: the call ends, and the daemon that returns is read
    // although its own reconnection to that QEMU hangs.
    lab.call(&["kill"]);
    until(&mut events, SOON, |event| matches!(event, LibvirtEvent::Disconnected { .. })).await;
    lab.call(&["start"]);
    until(&mut events, SOON, |event| matches!(event, LibvirtEvent::Connected { .. })).await;
    let start = Instant::now();
    let survey = hypervisor.run(Lane::Slow, LONG, domain::survey).await.expect("all facts");
    println!(
        "survey after the return in {:?}: {} unreadable",
        start.elapsed(),
        survey.unreadable.len()
    );
    assert!(start.elapsed() < SOON);
    assert_eq!(survey.facts.len() + survey.unreadable.len(), 2);
    signal(&pid, "CONT");
    let start = Instant::now();
    while hypervisor.gauges().iter().any(|gauge| gauge.busy > 0) {
        assert!(start.elapsed() < LONG, "{:?}", hypervisor.gauges());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("after SIGCONT free again in {:?}", start.elapsed());
    let start = Instant::now();
    while let Err(error) = hypervisor.run(Lane::Quick, LONG, move |s| domain::facts(s, uuid)).await
    {
        assert!(start.elapsed() < LONG, "{error:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let _ = hypervisor.run(Lane::Quick, LONG, move |s| domain::resume(s, uuid)).await;

    let asked = hypervisor
        .run(Lane::Quick, LONG, move |s| domain::shutdown(s, uuid, ShutdownMode::Acpi))
        .await;
    match asked {
        Ok(()) => {
            until(&mut events, LONG, of(uuid, DomainEvent::Stopped { detail: "shutdown" })).await;
        }
        // libvirt ends a QEMU with which it cannot come to terms when it finds it again: one that
        // was stopped in the middle of a command may be such.
        Err(error) => assert_eq!(error.kind(), Kind::VmNotRunning, "{error:?}"),
    }
    hypervisor
        .run(Lane::Quick, SOON, move |s| domain::undefine(s, uuid, UndefineFlags::default()))
        .await
        .expect("it is undefined");
    let gone = hypervisor.run(Lane::Quick, SOON, move |s| domain::facts(s, uuid)).await;
    assert_eq!(gone.expect_err("it is gone").kind(), Kind::VmNotFound);
    hypervisor.stop().await;
    assert_eq!(hypervisor.workers_alive(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_libvirtd_is_found_again_and_leaves_no_thread_or_socket_behind() {
    let Some(lab) = Lab::start("kill") else { return };
    let (hypervisor, mut events) = connect(HypervisorConfig::new(lab.uri())).await;
    let mut after_first = (0, 0);
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        // Calls are under way when the daemon dies.
        let busy: Vec<_> = (0..8)
            .map(|_| {
                let hypervisor = hypervisor.clone();
                tokio::spawn(async move {
                    loop {
                        if let Err(error) =
                            hypervisor.run(Lane::Slow, LONG, host::capabilities_xml).await
                        {
                            return error;
                        }
                    }
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(20)).await;
        lab.call(&["kill"]);
        until(&mut events, SOON, |event| matches!(event, LibvirtEvent::Disconnected { .. })).await;
        for call in busy {
            let error = call.await.expect("no panic");
            assert_eq!(error.kind(), Kind::LibvirtUnavailable, "{error:?}");
        }
        let start = Instant::now();
        let error = hypervisor.run(Lane::Quick, LONG, domain::brief_all).await.expect_err("gone");
        assert_eq!(error.kind(), Kind::LibvirtUnavailable);
        assert!(start.elapsed() < SOON, "refused, not waited for");
        assert!(hypervisor.status().reason.is_some());
        lab.call(&["start"]);
        let (_, took) =
            until(&mut events, SOON, |event| matches!(event, LibvirtEvent::Connected { .. })).await;
        slowest = slowest.max(took);
        hypervisor.run(Lane::Quick, SOON, domain::brief_all).await.expect("it answers again");
        if round == 2 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            after_first = threads_and_sockets();
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let at_end = threads_and_sockets();
    println!(
        "slowest return {slowest:?}; threads and descriptors {after_first:?}, then {at_end:?}"
    );
    assert!(at_end.0 <= after_first.0 + 2 && at_end.1 <= after_first.1 + 2);

    // Events flow again, through the new connection.
    let xml = "<network><name>again</name><bridge name='vagain0'/></network>";
    let path = lab.folder.join("again.xml");
    std::fs::write(&path, xml).expect("written");
    let made = Command::new("virsh")
        .args(["-q", "-c", &lab.uri(), "net-define"])
        .arg(&path)
        .status()
        .expect("virsh runs");
    assert!(made.success());
    until(&mut events, SOON, |event| {
        matches!(event, LibvirtEvent::Network { name, event: ResourceEvent::Defined, .. } if name == "again")
    })
    .await;
    let pools = hypervisor.run(Lane::Slow, SOON, pool::all).await.expect("pools");
    assert!(pools.iter().any(|pool| pool.name == "lab"));
    let networks = hypervisor.run(Lane::Slow, SOON, network::all).await.expect("networks");
    assert!(networks.iter().any(|network| network.name == "lab" && network.active));
    hypervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_libvirtd_is_noticed_by_keepalive_and_found_again() {
    let Some(lab) = Lab::start("silent") else { return };
    let mut config = HypervisorConfig::new(lab.uri());
    config.keepalive_interval = Duration::from_secs(1);
    config.keepalive_count = 2;
    let (hypervisor, mut events) = connect(config).await;
    let pid = lab.libvirtd();
    signal(&pid, "STOP");
    let stuck = {
        let hypervisor = hypervisor.clone();
        tokio::spawn(async move { hypervisor.run(Lane::Quick, LONG, domain::brief_all).await })
    };
    let (lost, took) =
        until(&mut events, LONG, |event| matches!(event, LibvirtEvent::Disconnected { .. })).await;
    println!("{lost:?} after {took:?}");
    assert!(took < SOON);
    let error = stuck.await.expect("no panic").expect_err("the connection is gone");
    assert_eq!(error.kind(), Kind::LibvirtUnavailable);
    signal(&pid, "CONT");
    until(&mut events, LONG, |event| matches!(event, LibvirtEvent::Connected { .. })).await;
    hypervisor.run(Lane::Quick, SOON, domain::brief_all).await.expect("it answers again");
    hypervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_full_of_hung_calls_keeps_its_connection_and_works_on() {
    let Some(lab) = Lab::start("lane") else { return };
    let mut config = HypervisorConfig::new(lab.uri());
    config.keepalive_interval = Duration::from_secs(1);
    config.keepalive_count = 2;
    let (hypervisor, mut events) = connect(config).await;
    let mut guests = Vec::new();
    for name in ["one", "two", "three", "four"] {
        let xml = lab.guest(name);
        let uuid = hypervisor
            .run(Lane::Quick, LONG, move |session| {
                let uuid = domain::define(session, name, &xml)?;
                domain::start(session, uuid)?;
                Ok(uuid)
            })
            .await
            .expect("it starts");
        let pid = lab.call(&["pid", name]);
        signal(&pid, "STOP");
        guests.push((uuid, pid));
    }
    let short = Duration::from_millis(500);
    for (uuid, _) in &guests {
        let uuid = *uuid;
        let error = hypervisor.run(Lane::Quick, short, move |s| domain::suspend(s, uuid)).await;
        assert_eq!(error.expect_err("it hangs").kind(), Kind::LibvirtTimeout);
    }
    // Well beyond keepalive's patience: a fifth call on that connection would have starved it.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        hypervisor.run(Lane::Quick, SOON, domain::brief_all).await.expect("a spare works");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{:?}", hypervisor.gauges());
    while let Ok(event) = events.try_recv() {
        assert!(!matches!(event, LibvirtEvent::Disconnected { .. }), "{event:?}");
    }
    // Force is the way out, and it does not wait for the monitor; libvirt gives the process 10 s to
    // heed SIGTERM.
    let start = Instant::now();
    let kills: Vec<_> = guests
        .iter()
        .map(|(uuid, _)| {
            let (uuid, hypervisor) = (*uuid, hypervisor.clone());
            tokio::spawn(async move {
                hypervisor.run(Lane::Slow, LONG, move |s| domain::destroy(s, uuid, false)).await
            })
        })
        .collect();
    for kill in kills {
        kill.await.expect("no panic").expect("it is killed");
    }
    println!("four stopped QEMU were killed in {:?}", start.elapsed());
    let start = Instant::now();
    while hypervisor.gauges().iter().any(|gauge| gauge.busy > 0) {
        assert!(start.elapsed() < LONG, "{:?}", hypervisor.gauges());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    hypervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_without_bulk_statistics_is_read_one_by_one() {
    let Some(lab) = Lab::start("lxc") else { return };
    let uri = format!("lxc+unix:///system?socket={}/libvirt-sock", lab.folder.display());
    let (hypervisor, _events) = connect(HypervisorConfig::new(uri)).await;
    hypervisor
        .run(Lane::Quick, LONG, |session| {
            let xml = "<domain type='lxc'><name>box</name><memory unit='MiB'>64</memory>\
                       <vcpu>1</vcpu><os><type>exe</type><init>/bin/sh</init></os>\
                       <devices><console type='pty'/></devices></domain>";
            let uuid = domain::define(session, "box", xml)?;
            let briefs = domain::brief_all(session)?;
            assert_eq!(briefs.len(), 1);
            assert_eq!(briefs[0], domain::brief(session, uuid)?);
            assert_eq!((briefs[0].memory_kib, briefs[0].state), (65_536, VmState::Shutoff));
            assert_eq!(domain::survey(session)?.facts, [domain::facts(session, uuid)?]);
            domain::undefine(session, uuid, UndefineFlags::default())
        })
        .await
        .expect("every call has an answer");
    hypervisor.stop().await;
}
