//! The host that is measured: a private libvirtd, its domains, a release vapord, and the peers.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::client::{Client, Failure};

/// A domain as people define them: a disk, a NIC, an agent's channel, a console. It is never
/// started; `@@` is its number.
pub const TEMPLATE: &str = "<domain type='qemu'><name>bench-@@</name>\
  <metadata><vapor:vm xmlns:vapor='urn:vapor:vm:1'><vapor:label key='tier' value='web'/>\
  <vapor:label key='number' value='@@'/></vapor:vm></metadata>\
  <memory unit='MiB'>1024</memory><vcpu>2</vcpu>\
  <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os>\
  <features><acpi/><apic/></features><cpu mode='maximum'/><clock offset='utc'/>\
  <devices>\
  <disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>\
  <source file='/var/lib/vapor-bench/bench-@@.qcow2'/><target dev='vda' bus='virtio'/></disk>\
  <disk type='file' device='cdrom'><driver name='qemu' type='raw'/>\
  <target dev='sda' bus='sata'/><readonly/></disk>\
  <interface type='network'><source network='lab'/><model type='virtio'/></interface>\
  <serial type='pty'/><console type='pty'/>\
  <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
  <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/>\
  <video><model type='vga'/></video><memballoon model='virtio'/>\
  <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>\
  </devices></domain>";

/// A guest that starts in the least time: firmware alone.
pub fn bare_guest(name: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os>\
         <features><acpi/><apic/></features><devices><serial type='pty'/></devices></domain>"
    )
}

/// The tiny guest of tests/lab, whose agent answers.
pub fn tiny_guest(name: &str, guest_folder: &str) -> String {
    format!(
        "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{guest_folder}/vmlinuz</kernel>\
         <initrd>{guest_folder}/initrd.img</initrd>\
         <cmdline>console=ttyS0 vapor.hostname={name}</cmdline></os>\
         <features><acpi/><apic/></features><devices>\
         <interface type='network'><source network='lab'/><model type='virtio'/></interface>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <serial type='pty'/></devices></domain>"
    )
}

/// A private libvirtd; ended when dropped.
pub struct Lab {
    script: PathBuf,
    folder: PathBuf,
    pub uri: String,
    pub guest_folder: String,
}

impl Lab {
    pub fn start() -> Result<Lab, Failure> {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab");
        run(Command::new("bash").arg(tests.join("guest/build.sh")))?;
        let folder = PathBuf::from(format!("/tmp/vapor-bench-{}", std::process::id()));
        let mut lab = Lab {
            script: tests.join("libvirtd.sh"),
            folder,
            uri: String::new(),
            guest_folder: String::new(),
        };
        let said = lab.ask("start", &[])?;
        let value = |name: &str| {
            said.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .map(|value| value.trim_matches('\'').to_owned())
                .ok_or_else(|| format!("libvirtd.sh says no {name}: {said}"))
        };
        lab.uri = value("VAPOR_LAB_URI")?;
        lab.guest_folder = value("VAPOR_LAB_GUEST_DIR")?;
        Ok(lab)
    }

    fn ask(&self, command: &str, arguments: &[&str]) -> Result<String, Failure> {
        run(Command::new("bash").arg(&self.script).arg(command).arg(&self.folder).args(arguments))
    }

    /// Runs a command where libvirtd runs, with its mounts; what it prints.
    pub fn exec(&self, words: &[&str]) -> Result<String, Failure> {
        self.ask("exec", words)
    }

    /// The folder of the pool `lab`.
    pub fn pool(&self) -> PathBuf {
        self.folder.join("pool")
    }

    /// The process of a running domain.
    pub fn pid(&self, domain: &str) -> Result<String, Failure> {
        self.ask("pid", &[domain])
    }

    /// How long `virsh` takes for this; the median of `rounds`, milliseconds.
    pub fn virsh(&self, rounds: usize, arguments: &[&str]) -> Result<f64, Failure> {
        let mut times = super::report::Times::default();
        for _ in 0..rounds {
            let begun = Instant::now();
            run(Command::new("virsh").args(["-q", "-c", &self.uri]).args(arguments))?;
            times.add(begun.elapsed());
        }
        Ok(times.median())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.ask("stop", &[]) {
            eprintln!("the private libvirtd in {} stays: {error}", self.folder.display());
        }
    }
}

/// What a command prints; it must succeed.
pub fn run(command: &mut Command) -> Result<String, Failure> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A vapord; killed when dropped.
pub struct Vapord {
    process: Child,
    pub socket: PathBuf,
    /// From `exec` until `/ready` said yes.
    pub ready_after: Duration,
}

impl Vapord {
    /// Starts one in `folder`, with the database that is there, and waits until it is ready.
    pub fn start(folder: &Path, uri: &str) -> Result<Vapord, Failure> {
        let shown = folder.display();
        let config = folder.join("vapor.conf");
        // Everything else as shipped.
        std::fs::write(
            &config,
            format!(
                "[server]\nsocket = \"{shown}/vapor.sock\"\n[database]\npath = \"{shown}/vapor.db\"\n\
                 [libvirt]\nuri = \"{uri}\"\ndomain_type = \"qemu\"\n[log]\nlevel = \"warn\"\n"
            ),
        )?;
        let log = std::fs::File::create(folder.join("vapord.log"))?;
        let begun = Instant::now();
        let program = std::env::var_os("VAPOR_BENCH_DAEMON")
            .unwrap_or_else(|| env!("CARGO_BIN_EXE_vapord").into());
        let process = Command::new(program)
            .arg("--config")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let socket = folder.join("vapor.sock");
        let mut vapord = Vapord { process, socket, ready_after: Duration::ZERO };
        while begun.elapsed() < Duration::from_secs(60) {
            let ready = Client::open(&vapord.socket).and_then(|mut client| client.get("/ready"));
            if ready.is_ok_and(|reply| reply.status == 200) {
                vapord.ready_after = begun.elapsed();
                return Ok(vapord);
            }
            if let Some(status) = vapord.process.try_wait()? {
                let log = std::fs::read_to_string(folder.join("vapord.log"))?;
                return Err(format!("vapord ended: {status}\n{log}").into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err("vapord is not ready after a minute".into())
    }

    pub fn client(&self) -> Result<Client, Failure> {
        Client::open(&self.socket)
    }

    /// One line of `/proc/PID/status`, in MiB.
    pub fn memory_mib(&self, line: &str) -> Result<f64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let kib: f64 = status
            .lines()
            .find_map(|text| text.strip_prefix(line)?.strip_prefix(':'))
            .and_then(|text| text.trim().trim_end_matches(" kB").trim().parse().ok())
            .ok_or_else(|| format!("no {line} in the status of vapord"))?;
        Ok(kib / 1024.0)
    }

    /// Seconds of processor time so far.
    pub fn cpu_seconds(&self) -> Result<f64, Failure> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let fields: Vec<&str> =
            stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
        Ok((ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / 100.0)
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(mut self) -> Result<(), Failure> {
        run(Command::new("kill").arg(self.process.id().to_string()))?;
        let status = self.process.wait()?;
        if status.success() { Ok(()) } else { Err(format!("vapord ended: {status}").into()) }
    }
}

impl Drop for Vapord {
    fn drop(&mut self) {
        // Ended already after `stop`.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// python-libvirt in a process of its own; ended when dropped.
pub struct Python {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    pub fn start(uri: &str) -> Result<Python, Failure> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/budgets/peers.py");
        // Debian's own interpreter: the binding is a package of Debian's.
        let mut process = Command::new("/usr/bin/python3")
            .arg(script)
            .arg(uri)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().ok_or("no stdin")?;
        let output = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        Ok(Python { process, input, output })
    }

    /// A second client of libvirt that prints the events it gets; ready when this returns.
    pub fn watch(uri: &str) -> Result<Python, Failure> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/budgets/peers.py");
        let mut process = Command::new("/usr/bin/python3")
            .arg(script)
            .args([uri, "watch"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().ok_or("no stdin")?;
        let output = BufReader::new(process.stdout.take().ok_or("no stdout")?);
        let mut python = Python { process, input, output };
        python.event()?;
        Ok(python)
    }

    /// The next event that a watcher prints: whose, and when, nanoseconds since 1970.
    pub fn event(&mut self) -> Result<(String, u128), Failure> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("the watching python-libvirt ended".into());
        }
        let event: Value = serde_json::from_str(&line)?;
        let name = event["name"].as_str().ok_or("an event without a name")?.to_owned();
        let nanoseconds = event["nanoseconds"].as_u64().ok_or("an event without a time")?;
        Ok((name, u128::from(nanoseconds)))
    }

    /// One command with its arguments; the reply.
    pub fn ask(&mut self, command: Value) -> Result<Value, Failure> {
        writeln!(self.input, "{command}")?;
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("python-libvirt ended at {command}").into());
        }
        let reply: Value = serde_json::from_str(&line)?;
        match reply.get("error") {
            Some(error) => Err(format!("{command}: {error}").into()),
            None => Ok(reply),
        }
    }

    /// One number of a reply.
    pub fn number(&mut self, command: Value, key: &str) -> Result<f64, Failure> {
        let reply = self.ask(command)?;
        reply[key].as_f64().ok_or_else(|| format!("no {key} in {reply}").into())
    }

    /// Defines the domains of the bench.
    pub fn define(&mut self, count: usize) -> Result<(), Failure> {
        self.ask(json!(["define", TEMPLATE, 0, count])).map(drop)
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
