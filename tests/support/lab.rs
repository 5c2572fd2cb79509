//! A private libvirtd with its network, pools and guest, from `tests/lab`.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

/// Ended and removed when dropped.
pub struct Lab {
    folder: PathBuf,
    /// Who reads the consoles of which VMs.
    consoles: Mutex<HashMap<String, JoinHandle<()>>>,
}

/// Says that a test is skipped, which CI does not allow.
pub fn skip(needs: &str) {
    assert!(std::env::var_os("VAPOR_TEST_NO_SKIP").is_none(), "needs {needs}");
    println!("skipped: needs {needs}");
}

pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab").join(name)
}

pub fn there(program: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}

#[track_caller]
fn output(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a command says; it must succeed.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

impl Lab {
    /// Starts one, or says what it lacks.
    pub fn start(name: &str) -> Option<Lab> {
        for needed in ["libvirtd", "virsh", "qemu-system-x86_64", "dnsmasq", "setpriv"] {
            if !there(needed) {
                skip(needed);
                return None;
            }
        }
        // Costs nothing where the guest is built already.
        run(Command::new("bash").arg(script("guest/build.sh")));
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = format!("/tmp/vapor-{name}-{}-{count}", std::process::id());
        let lab = Lab { folder: folder.into(), consoles: Mutex::default() };
        lab.start_libvirtd();
        Some(lab)
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    #[track_caller]
    fn call(&self, words: &[&str]) -> String {
        let mut command = Command::new("bash");
        run(command.arg(script("libvirtd.sh")).arg(words[0]).arg(&self.folder).args(&words[1..]))
    }

    /// SIGKILL to libvirtd; its guests live on.
    pub fn kill_libvirtd(&self) {
        self.call(&["kill"]);
    }

    /// Starts libvirtd, again after a kill; returns when it answers.
    pub fn start_libvirtd(&self) {
        self.call(&["start"]);
    }

    /// The process id of a VM's QEMU.
    pub fn qemu(&self, vm: &str) -> i32 {
        self.call(&["pid", vm]).parse().expect("a process id")
    }

    /// Runs a command where libvirtd runs, with its mounts and its network; it must succeed.
    #[track_caller]
    pub fn exec(&self, words: &[&str]) -> String {
        self.try_exec(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// The same, whether or not it succeeds: what it printed, or its complaint.
    pub fn try_exec(&self, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new("bash");
        let output =
            output(command.arg(script("libvirtd.sh")).arg("exec").arg(&self.folder).args(words));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Writes what a VM says on its serial console to a file of the lab's, for as long as it runs; the
    /// file's end is printed if the test fails. A VM without one is left alone.
    pub fn watch_console(&self, vm: &str) {
        let mut consoles = self.consoles.lock().expect("no reader panicked");
        if consoles.get(vm).is_some_and(|reader| !reader.is_finished()) {
            return;
        }
        let Ok(tty) = self.try_virsh(&["ttyconsole", vm]) else { return };
        let file = self.folder.join(format!("{vm}.console"));
        let mut command = Command::new("bash");
        command.arg(script("libvirtd.sh")).arg("exec").arg(&self.folder).arg("cat").arg(&tty);
        command.stdout(File::options().append(true).create(true).open(file).expect("a file"));
        command.stdin(Stdio::null()).stderr(Stdio::null());
        // It ends with its VM, at the latest when the lab is stopped.
        let reader = std::thread::spawn(move || drop(command.status()));
        consoles.insert(vm.to_owned(), reader);
    }

    /// Prints where the guests stand: whether QEMU runs them, what their processors do, and whether
    /// their agents have opened the channel.
    fn tell_guests(&self) {
        let running = self.try_virsh(&["list", "--name", "--state-running"]).unwrap_or_default();
        for vm in running.lines().filter(|line| !line.is_empty()) {
            for question in ["info status", "info registers -a", "info chardev"] {
                println!("--- {vm}: {question}");
                let answer = self.try_virsh(&["qemu-monitor-command", vm, "--hmp", question]);
                let answer = answer.unwrap_or_else(|refusal| refusal);
                let told = |line: &&str| {
                    !question.contains("registers")
                        || line.contains("IP=")
                        || line.starts_with("CPU#")
                };
                answer.lines().filter(told).for_each(|line| println!("{line}"));
            }
        }
    }

    /// The process that holds the namespaces in which libvirtd runs.
    pub fn holder(&self) -> String {
        let file = self.folder.join("holder.pid");
        std::fs::read_to_string(file).expect("the holder's process id").trim().to_owned()
    }

    pub fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}/libvirt-sock", self.folder.display())
    }

    /// A path of the pool `guest`.
    pub fn guest_file(&self, name: &str) -> String {
        self.folder.join("guest").join(name).display().to_string()
    }

    /// A path of the pool `lab`.
    pub fn pool_file(&self, name: &str) -> String {
        self.folder.join("pool").join(name).display().to_string()
    }

    fn virsh_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("virsh");
        command.env("LC_ALL", "C").args(["-q", "-c", &self.uri()]).args(words);
        command
    }

    /// What virsh says to this.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn virsh(&self, words: &[&str]) -> String {
        run(&mut self.virsh_command(words))
    }

    /// What virsh says to this, or its complaint.
    pub fn try_virsh(&self, words: &[&str]) -> Result<String, String> {
        let output = output(&mut self.virsh_command(words));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// A running virsh, such as one that prints events; whoever asked for it ends it.
    pub fn virsh_running(&self, words: &[&str], out: std::fs::File) -> std::process::Child {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "stdbuf", "-oL", "virsh", "-c", &self.uri()])
            .args(words)
            .env("LC_ALL", "C")
            .stdin(std::process::Stdio::null())
            .stdout(out)
            .stderr(std::process::Stdio::null());
        command.spawn().expect("virsh runs")
    }

    /// The names that a virsh list command prints.
    pub fn names(&self, words: &[&str]) -> Vec<String> {
        let text = self.virsh(words);
        let mut names: Vec<String> =
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(Into::into).collect();
        names.sort();
        names
    }

    /// The volumes of the pool `lab`, as libvirt lists them after a refresh.
    pub fn volumes(&self) -> Vec<String> {
        self.virsh(&["pool-refresh", "lab"]);
        let text = self.virsh(&["vol-list", "lab"]);
        let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
        let mut names: Vec<String> = text.lines().filter_map(first).collect();
        names.sort();
        names
    }

    /// Defines a domain from XML, as another tool would.
    #[track_caller]
    pub fn define(&self, xml: &str) {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), xml).expect("written");
        self.virsh(&["define", &file.path().display().to_string()]);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the end of libvirtd's log");
            tail(&self.folder.join("libvirtd.log"), 20);
            self.tell_guests();
            for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.extension().is_some_and(|extension| extension == "console") {
                    println!("--- the end of {}", path.display());
                    tail(&path, 40);
                }
            }
        }
        let stopped =
            Command::new("bash").arg(script("libvirtd.sh")).arg("stop").arg(&self.folder).output();
        if !stopped.as_ref().is_ok_and(|output| output.status.success()) {
            println!("the lab in {} could not be ended: {stopped:?}", self.folder.display());
        }
    }
}

/// Prints the last lines of a file.
pub fn tail(file: &Path, lines: usize) {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    for line in &all[all.len().saturating_sub(lines)..] {
        println!("{line}");
    }
}
