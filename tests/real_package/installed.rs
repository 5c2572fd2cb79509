//! The package on a fresh Debian: socket, daemon, users, guests, restarts, upgrades, and its end.

use std::process::Command;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};

use crate::support::lab::{run, script, skip};
use crate::support::package::{DEB_TOOLS, VERSION, oldest_release, package, tools};
use crate::support::{BOOT, Container, SOON, eventually};
use crate::units::{EXPOSURE, exposure};

/// An older version, to upgrade from.
const OLDER: &str = "0.0.9";
/// In SQLite's header, where its `user_version` is.
const SCHEMA_99: &str = "\\000\\000\\000\\143";
/// What a request says to a daemon that the socket starts.
const LIST: &str = "curl -sS --fail-with-body --max-time 60 --unix-socket /run/vapor/vapor.sock \
                    http://localhost/api/v1/virtualization/virtualmachines";

/// A fresh system of this release with the package of this version; `ann` may use it, `bob` may not.
fn fresh(name: &str, release: &str, version: &str) -> Option<Container> {
    if !tools(&DEB_TOOLS) {
        return None;
    }
    let container = Container::start(name, release)?;
    install(&container, version);
    container.run("useradd -m -G vapor ann && useradd -m bob");
    Some(container)
}

/// As an administrator does it, with nothing to download: its dependencies are a part of the system.
fn install(container: &Container, version: &str) -> String {
    let deb = package("deb", version);
    let name = deb.file_name().and_then(|name| name.to_str()).expect("it has a name").to_owned();
    container.put(&[deb], "/tmp/packages");
    container.run(&format!(
        "apt-get install -y -q --no-install-recommends --allow-downgrades \
         -o Dpkg::Options::=--force-confold /tmp/packages/{name} 2>&1"
    ))
}

/// The tiny guest's disk in a pool of the system's libvirt, and a VM of it that runs.
async fn boot_guest(container: &Container, name: &str, options: &str) -> String {
    run(Command::new("bash").arg(script("guest/build.sh")));
    let lab = std::env::var_os("VAPOR_LAB").map_or_else(
        || crate::support::package::root().join("target/lab"),
        std::path::PathBuf::from,
    );
    container.put(&[lab.join("guest/tiny.qcow2")], "/var/lib/libvirt/images");
    container.run(
        "virsh -q pool-define-as images dir --target /var/lib/libvirt/images && \
         virsh -q pool-start images",
    );
    let made = format!(
        "runuser -u ann -- vapor vm create {name} --memory 256 --vcpus 1 --network none \
         --graphics none --clone images/tiny.qcow2,pool=images --start {options}"
    );
    // The pool was made by other hands than Vapor's: it is seen when libvirt's event has come.
    container.until("ann makes a VM", SOON, &made).await;
    let agent = format!(
        "runuser -u ann -- vapor vm show {name} -o json | grep '\"guest_agent\": *\"connected\"'"
    );
    container.until("the guest's agent answers", BOOT, &agent).await;
    container.run("pidof qemu-system-x86_64")
}

/// The life of a package, the same on each release.
async fn life(name: &str, release: &str) {
    let Some(container) = fresh(name, release, VERSION) else { return };
    let state = |unit: &str| {
        let output = container.output(&format!("systemctl is-active {unit}"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };

    // Installed: the socket waits, and nothing runs yet.
    assert_eq!(
        (state("vapord.socket"), state("vapord.service")),
        ("active".into(), "inactive".into())
    );
    assert_eq!(container.run("stat -c '%a %U %G' /run/vapor/vapor.sock"), "660 root vapor");
    container.run("systemctl is-enabled vapord.socket vapord.service");

    // The first request starts the daemon, and whoever is not in the group is told what to do.
    let status = container.run("runuser -u ann -- vapor status");
    assert!(status.contains("connected to qemu:///system"), "{status}");
    assert_eq!(state("vapord.service"), "active");
    let refused = container.output("runuser -u bob -- vapor status");
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(5), "{words}");
    assert!(words.contains("are you in the group vapor?"), "{words}");

    // A process without rights, in the sandbox that is promised, which says how it is.
    let pid = container.run("systemctl show -P MainPID vapord");
    let who = container.run(&format!(
        "ps -o user= -p {pid}; grep -E 'Cap(Prm|Eff|Bnd)|NoNewPrivs' /proc/{pid}/status"
    ));
    assert!(who.starts_with("vapor\n"), "{who}");
    assert_eq!(who.matches("0000000000000000").count(), 3, "{who}");
    let told = container.run("systemd-analyze security --no-pager vapord.service");
    assert!(exposure(&told) <= EXPOSURE, "{told}");
    let status = container.run("systemctl show -P StatusText vapord");
    assert!(status.contains("VMs, 0 running, at qemu:///system"), "{status}");

    // The host's interfaces are known in there: a bridge of the host's is one, another name is none.
    container.run("ip link add name hostbr type bridge");
    let create = |bridge: &str| {
        container.output(&format!(
            "runuser -u ann -- vapor network create {bridge} --mode bridge --bridge {bridge}"
        ))
    };
    let made = create("hostbr");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let refused = create("nobr");
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("the host has no interface \"nobr\""), "{words}");

    // ann's guest, which the journal knows by name and which no restart and no crash touches.
    let guest = boot_guest(&container, "web1", "").await;
    let journal = container.run("journalctl -u vapord VAPOR_VM=web1 -o json --no-pager");
    for field in [
        "\"VAPOR_VM\":\"web1\"",
        "\"VAPOR_PRINCIPAL\":\"unix:ann\"",
        "\"VAPOR_KIND\":\"vm.create\"",
        "\"VAPOR_TASK\":",
        "\"VAPOR_REQUEST_ID\":",
        "\"PRIORITY\":\"6\"",
    ] {
        assert!(journal.contains(field), "{field} is not in {journal}");
    }
    container.run("systemctl restart vapord && kill -KILL $(systemctl show -P MainPID vapord)");
    container.until("the daemon is back", BOOT, "runuser -u ann -- vapor vm show web1").await;
    assert_eq!(container.run("pidof qemu-system-x86_64"), guest);

    // Its configuration is read anew, as far as that goes; a bad one changes nothing.
    container.run("printf '[log]\\nlevel = \"debug\"\\n[limits]\\nbody_bytes = 2048\\n' >/etc/vapor/vapor.conf && systemctl reload vapord");
    let big = "head -c 4000 /dev/zero | tr '\\0' x | curl -sS -o /dev/null -w '%{http_code}' --data-binary @- \
               -H 'Content-Type: application/json' --unix-socket /run/vapor/vapor.sock \
               http://localhost/api/v1/virtualization/virtualmachines | grep -x 413";
    container.until("the lower limit holds", SOON, big).await;
    container.run("echo nonsense >>/etc/vapor/vapor.conf && systemctl reload vapord");
    container
        .until(
            "the complaint is in the journal",
            SOON,
            "journalctl -u vapord -p err --no-pager | grep 'the configuration stays as it was'",
        )
        .await;
    assert_eq!(state("vapord.service"), "active");

    // Removed: nobody listens. Purged: nothing of Vapor's is left, and the guest runs on.
    container.run("apt-get remove -y -q vapor 2>&1");
    assert!(!container.succeeds("test -e /run/vapor/vapor.sock"));
    assert!(container.succeeds("test -s /var/lib/vapor/vapor.db && test -e /etc/vapor/vapor.conf"));
    container.run("apt-get purge -y -q vapor 2>&1");
    for path in
        ["/etc/vapor", "/var/lib/vapor", "/run/vapor", "/usr/bin/vapord", "/usr/share/doc/vapor"]
    {
        assert!(!container.succeeds(&format!("test -e {path}")), "{path} is left");
    }
    let units = container.run("find /etc/systemd /var/lib/systemd -name 'vapord*'");
    assert_eq!(units, "");
    assert_eq!(container.run("pidof qemu-system-x86_64"), guest);
    assert_eq!(container.run("virsh domstate web1"), "running");
}

#[tokio::test]
async fn from_installation_to_purge_on_debian_12() {
    if oldest_release() != "bookworm" {
        return skip("binaries that were linked on Debian 12");
    }
    life("life12", "bookworm").await;
}

#[tokio::test]
async fn from_installation_to_purge_on_debian_13() {
    life("life13", "trixie").await;
}

/// What a shell in the guest says to this.
async fn in_guest(container: &Container, name: &str, line: &str) -> String {
    let ask = |command: &Value| {
        let told = container.run(&format!("virsh -q qemu-agent-command {name} '{command}'"));
        let reply: Value = serde_json::from_str(&told).expect("the agent speaks JSON");
        reply["return"].clone()
    };
    let begun = ask(&json!({"execute": "guest-exec", "arguments":
        {"path": "/bin/sh", "arg": ["-c", line], "capture-output": true}}));
    let status = json!({"execute": "guest-exec-status", "arguments": {"pid": begun["pid"]}});
    let ended = eventually("the guest has done it", SOON, async || {
        let ended = ask(&status);
        (ended["exited"] == true).then_some(ended)
    })
    .await;
    let text = |stream: &str| {
        let bytes = BASE64_STANDARD.decode(ended[stream].as_str().unwrap_or_default());
        String::from_utf8_lossy(&bytes.expect("base64")).trim().to_owned()
    };
    assert_eq!(ended["exitcode"], 0, "{}", text("err-data"));
    text("out-data")
}

#[tokio::test]
async fn a_guest_shares_a_folder_with_its_host_where_that_is_allowed() {
    let Some(container) = fresh("share", "trixie", VERSION) else { return };
    container.run(
        "mkdir -p /srv/shared && echo 'of the host' >/srv/shared/hello && \
         printf '[security]\\nvirtiofs_roots = [\"/srv/shared\"]\\n' >/etc/vapor/vapor.conf",
    );
    boot_guest(&container, "web1", "--filesystem /srv/shared:shared").await;
    let elsewhere = container.output(
        "runuser -u ann -- vapor vm create web2 --memory 256 --vcpus 1 --filesystem /etc:conf --dry-run",
    );
    let words = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
    assert_eq!(elsewhere.status.code(), Some(1), "{words}");
    assert!(words.contains("virtiofs_roots"), "{words}");
    let line = "mkdir -p /mnt && mount -t virtiofs shared /mnt && cat /mnt/hello && \
                echo of the guest >/mnt/back";
    assert_eq!(in_guest(&container, "web1", line).await, "of the host");
    assert_eq!(container.run("cat /srv/shared/back"), "of the guest");
}

#[tokio::test]
async fn twenty_restarts_refuse_no_request() {
    let Some(container) = fresh("restarts", oldest_release(), VERSION) else { return };
    container.run("runuser -u ann -- vapor status");
    // Three clients that ask without pause, and write down whatever is no answer.
    let told = container.run(&format!(
        "client() {{
             while [ ! -e /tmp/enough ]; do
                 if why=$({LIST} -o /tmp/answer.$1 2>&1); then
                     echo >>/tmp/asked
                 else
                     echo \"$(date +%T.%3N) $why $(head -c 500 /tmp/answer.$1)\" >>/tmp/failed
                 fi
             done
         }}
         client 1 & client 2 & client 3 &
         for restart in $(seq 20); do systemctl restart vapord || exit 1; done
         touch /tmp/enough; wait
         wc -l </tmp/asked; systemctl is-active vapord.service; cat /tmp/failed 2>/dev/null || :"
    ));
    let lines: Vec<&str> = told.lines().collect();
    let asked: u32 = lines[0].parse().expect("a number");
    assert!(asked >= 20, "{told}");
    assert_eq!(lines[1..], ["active"], "{asked} requests were answered, and some refused");
    let starts = container.run("journalctl -u vapord --no-pager | grep -c 'serving '");
    assert!(starts.parse::<u32>().expect("a number") >= 21, "{starts}");
}

#[tokio::test]
async fn a_daemon_that_hangs_is_replaced_and_one_that_rests_is_not() {
    let Some(container) = fresh("watchdog", oldest_release(), VERSION) else { return };
    container.run(
        "mkdir -p /etc/systemd/system/vapord.service.d && \
         printf '[Service]\\nWatchdogSec=4\\n' >/etc/systemd/system/vapord.service.d/brisk.conf && \
         systemctl daemon-reload && runuser -u ann -- vapor status",
    );
    let pid = container.run("systemctl show -P MainPID vapord");
    // Three of its times without a request, and with libvirt hanging: it is well all the same.
    container.run("pkill -STOP -x libvirtd; sleep 12; pkill -CONT -x libvirtd");
    assert_eq!(container.run("systemctl show -P MainPID vapord"), pid);
    container.run(&format!("kill -STOP {pid}"));
    container
        .until(
            "systemd notices",
            Duration::from_secs(60),
            "journalctl -u vapord --no-pager | grep 'Watchdog timeout'",
        )
        .await;
    let another =
        format!("{LIST} -o /dev/null && [ $(systemctl show -P MainPID vapord) != {pid} ]");
    container.until("another daemon answers", BOOT, &another).await;
    assert_eq!(container.run("systemctl show -P NRestarts vapord"), "1");
}

#[tokio::test]
async fn an_upgrade_keeps_what_there_is_and_a_downgrade_of_the_database_is_refused() {
    let Some(container) = fresh("upgrade", oldest_release(), OLDER) else { return };
    container.run("runuser -u ann -- vapor status");
    let guest = boot_guest(&container, "web1", "").await;
    container.run("echo '# mine' >>/etc/vapor/vapor.conf");
    let before = container
        .run("runuser -u ann -- vapor task list -o name; systemctl show -P MainPID vapord");
    let said = install(&container, VERSION);
    assert!(said.contains(&format!("Unpacking vapor ({VERSION}-1) over ({OLDER}-1)")), "{said}");
    assert_eq!(container.run("dpkg-query -W -f '${Version}' vapor"), format!("{VERSION}-1"));
    let after = container
        .run("runuser -u ann -- vapor task list -o name; systemctl show -P MainPID vapord");
    let (tasks, pid) = before.rsplit_once('\n').expect("two things");
    let (kept, new) = after.rsplit_once('\n').expect("two things");
    assert_eq!(kept, tasks, "tasks that were known before");
    assert_ne!(new, pid, "the new daemon runs");
    container.run("tail -n 1 /etc/vapor/vapor.conf | grep -x '# mine'");
    assert_eq!(container.run("pidof qemu-system-x86_64"), guest);

    // As a newer version would leave it.
    container.run("systemctl stop vapord.socket vapord.service");
    container.run(&format!(
        "printf '{SCHEMA_99}' | dd of=/var/lib/vapor/vapor.db bs=1 seek=60 conv=notrunc status=none"
    ));
    container.run("systemctl start vapord.socket; systemctl start --no-block vapord");
    let said = container
        .until(
            "the refusal is in the journal",
            SOON,
            "journalctl -u vapord --no-pager | grep 'is newer than this vapord'",
        )
        .await;
    assert!(said.contains("/var/lib/vapor/vapor.db"), "{said}");
    assert_eq!(container.run("virsh domstate web1"), "running");
}
