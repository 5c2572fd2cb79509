//! A Debian with systemd as process 1, from `tests/lab/container.sh`: for the package, its units, its
//! user and the journal. libvirt and QEMU in it are those of its release.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::eventually;
use super::lab::{run, script, skip, there};

/// Ended and removed when dropped.
pub struct Container {
    folder: PathBuf,
}

impl Container {
    /// Boots one of this release, or says what it lacks. Takes some seconds; the first of a release
    /// downloads it.
    pub fn start(name: &str, release: &str) -> Option<Container> {
        for needed in ["systemd-nspawn", "debootstrap", "nsenter", "unshare"] {
            if !there(needed) {
                skip(needed);
                return None;
            }
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("/tmp/vapor-container-{name}-{}-{count}", std::process::id());
        let container = Container { folder: folder.into() };
        run(container.command("start").arg(release));
        Some(container)
    }

    fn command(&self, word: &str) -> Command {
        let mut command = Command::new("bash");
        command.arg(script("container.sh")).arg(word).arg(&self.folder);
        command
    }

    /// What root's shell in it says to this; it must succeed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        run(self.command("run").arg(line))
    }

    /// What root's shell in it makes of this.
    pub fn output(&self, line: &str) -> Output {
        self.command("run").arg(line).output().expect("bash runs")
    }

    /// Whether root's shell in it succeeds with this.
    pub fn succeeds(&self, line: &str) -> bool {
        self.output(line).status.success()
    }

    /// Copies files into a folder of it, which is made.
    #[track_caller]
    pub fn put(&self, files: &[PathBuf], folder: &str) {
        run(self.command("put").args(files).arg(folder));
    }

    /// Waits until root's shell in it succeeds with this, and tells what it says.
    pub async fn until(&self, what: &str, within: Duration, line: &str) -> String {
        eventually(what, within, async || {
            let output = self.output(line);
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            output.status.success().then_some(said)
        })
        .await
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the end of the container's journal");
            let output = self.output("journalctl --no-pager -n 300");
            println!("{}", String::from_utf8_lossy(&output.stdout));
        }
        let output = self.command("stop").output();
        if let Ok(output) = output
            && !output.status.success()
        {
            println!("{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
