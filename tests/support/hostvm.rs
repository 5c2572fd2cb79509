//! A virtual machine that is a host of its own, from `tests/lab/hostvm.sh`: real volume groups,
//! disks and kernel features that the machine under the tests lacks or must not have touched. The
//! package under test is installed in it, so that the daemon runs in its unit's sandbox; its socket is
//! forwarded here, so that the usual [`Client`] speaks to it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::lab::{run, script, skip, tail, there};
use super::package::{DEB_TOOLS, VERSION, package, tools};
use super::{Client, eventually};

/// Where the package under test lies in it.
const PACKAGES: &str = "/root/packages";
const SOCKET: &str = "/run/vapor/vapor.sock";
/// Generous, because a busy machine emulates at a tenth of its speed.
const START: Duration = Duration::from_secs(300);

/// What the machine has beside a root disk, 3 GiB of memory, two processors and a way in.
#[derive(Clone, Debug, Default)]
pub struct Hardware<'a> {
    /// Empty SCSI disks: name and size (`1G`); see [`HostVm::disk`].
    pub disks: &'a [(&'a str, &'a str)],
    /// Further words for its kernel, such as `intel_iommu=on`.
    pub append: &'a str,
    /// Further options of QEMU, such as `-device`, `e1000e`.
    pub qemu: &'a [&'a str],
}

/// Ended and removed when dropped.
pub struct HostVm {
    folder: PathBuf,
}

impl HostVm {
    /// Boots one, or says what it lacks. Takes about half a minute on an idle machine.
    pub fn start(name: &str, hardware: &Hardware) -> Option<HostVm> {
        for needed in ["qemu-system-x86_64", "debootstrap", "mkfs.ext4", "ssh", "ss"] {
            if !there(needed) {
                skip(needed);
                return None;
            }
        }
        if !tools(&DEB_TOOLS) {
            return None;
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("/tmp/vapor-hostvm-{name}-{}-{count}", std::process::id());
        let host = HostVm { folder: folder.into() };
        let mut command = host.command("start");
        for (name, size) in hardware.disks {
            command.args(["--disk", &format!("{name}={size}")]);
        }
        command.args(["--append", hardware.append, "--"]).args(hardware.qemu);
        run(&mut command);
        Some(host)
    }

    fn command(&self, word: &str) -> Command {
        let mut command = Command::new("bash");
        command.arg(script("hostvm.sh")).arg(word).arg(&self.folder);
        command
    }

    /// The stable path of a disk in it, whatever `/dev/sdX` it is just now.
    pub fn disk(&self, name: &str) -> String {
        format!("/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_{name}")
    }

    /// What root's shell in it says to this; it must succeed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        run(self.command("run").arg(line))
    }

    /// What root's shell in it says to this, or its complaint.
    pub fn try_run(&self, line: &str) -> Result<String, String> {
        let output = self.command("run").arg(line).output().expect("bash runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Copies files into a folder of it.
    #[track_caller]
    pub fn put(&self, files: &[&Path], folder: &str) {
        run(self.command("put").args(files).arg(folder));
    }

    /// Writes a file in it.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        let (folder, name) = path.rsplit_once('/').expect("an absolute path");
        let scratch = tempfile::tempdir().expect("a folder");
        let file = scratch.path().join(name);
        std::fs::write(&file, text).expect("written");
        self.put(&[&file], folder);
    }

    /// Takes a disk out, as if its cable were pulled.
    pub fn pull(&self, disk: &str) {
        self.run(&format!(
            "device=$(basename $(readlink -f {0})); echo 1 >/sys/block/$device/device/delete; \
             udevadm settle; test ! -e {0}",
            self.disk(disk)
        ));
    }

    /// Puts every disk that was taken out back in; the kernel may give it another name.
    pub fn plug(&self, disk: &str) {
        self.run(&format!(
            "for scan in /sys/class/scsi_host/*/scan; do echo '- - -' >$scan; done; \
             udevadm settle; udevadm wait --timeout=30 {}",
            self.disk(disk)
        ));
    }

    /// Installs the package of the programs under test in it, as its administrator does, and gives a
    /// client of its daemon, which is configured with these further lines.
    pub async fn vapord(&self, more: &str) -> Client {
        let deb = package("deb", VERSION);
        self.put(&[&deb], PACKAGES);
        self.write(
            "/etc/vapor/vapor.conf",
            &format!(
                "[libvirt]\ndomain_type = \"qemu\"\n[log]\nlevel = \"info\"\nformat = \
                 \"text\"\n{more}"
            ),
        );
        // Nothing is downloaded: what it depends on is a part of the machine.
        self.run(&format!(
            "apt-get install -y -q --no-install-recommends -o Dpkg::Options::=--force-confold \
             {PACKAGES}/*.deb 2>&1"
        ));
        // libvirtd starts with its first client, and asks QEMU for long what it can do.
        self.run(
            "virsh -q version >/dev/null; mkdir -p /run/systemd/system/vapord.service.d; printf \
             '[Service]\\nTimeoutStartSec=300\\nEnvironment=RUST_BACKTRACE=1\\n' \
             >/run/systemd/system/vapord.service.d/test.conf; systemctl daemon-reload; \
             systemctl start vapord",
        );
        let socket = self.folder.join("vapor.sock");
        run(self.command("forward").arg(&socket).arg(SOCKET));
        let client = Client::new(socket);
        eventually("vapord is ready in the virtual machine", START, async || {
            let reply = client.call("GET", "/api/v1/ready").try_send().await;
            if reply.is_ok_and(|reply| reply.status == 200) {
                return Some(());
            }
            // Each question costs the emulated machine what it needs for getting ready.
            tokio::time::sleep(Duration::from_secs(1)).await;
            None
        })
        .await;
        client
    }

    /// Ends the daemon as systemd does: it must go with exit status 0 and without a panic, as it did
    /// before but for so many times that the test has killed it.
    #[track_caller]
    pub fn finish(self, killed: usize) {
        self.run("systemctl stop vapord");
        let log = self.run("journalctl -o cat -u vapord");
        let is_kill = |line: &&str| line.ends_with("Failed with result 'signal'.");
        assert_eq!(log.lines().filter(is_kill).count(), killed, "{log}");
        for word in ["panicked", "failed by a defect", "\"INTERNAL\"", "INTERNAL:", "Failed with"] {
            let line = log.lines().find(|line| line.contains(word) && !is_kill(line));
            assert!(line.is_none(), "in the log: {}", line.unwrap_or_default());
        }
    }
}

impl Drop for HostVm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the end of the virtual machine's console");
            tail(&self.folder.join("console.log"), 20);
            println!("--- the end of its journal");
            let journal = self.try_run("journalctl -q --no-hostname -n 60");
            println!("{}", journal.unwrap_or_else(|error| error));
        }
        let stopped = self.command("stop").output();
        if !stopped.as_ref().is_ok_and(|output| output.status.success()) {
            println!("{} could not be ended: {stopped:?}", self.folder.display());
        }
    }
}
