//! The built `vapord` as a process of its own, with its own folder, configuration and database.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::Client;
use super::lab::tail;
use super::unit;
use super::wait::eventually;

/// What a daemon is started with.
#[derive(Clone)]
pub struct Settings {
    pub folder: PathBuf,
    pub socket: PathBuf,
    pub database: PathBuf,
    pub uri: String,
    pub domain_type: &'static str,
    pub reconcile_seconds: u64,
    /// A port on loopback, beside the socket.
    pub port: Option<u16>,
    /// A process whose namespaces the daemon shares, such as those that libvirtd runs in: on a real
    /// host both have one network.
    pub beside: Option<String>,
    /// Further lines of the configuration.
    pub more: String,
}

impl Settings {
    /// Everything in a new folder.
    pub fn new(name: &str, uri: &str) -> Settings {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("vapord-{name}-{}-{count}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        Settings {
            socket: folder.join("vapor.sock"),
            database: folder.join("db/vapor.db"),
            folder,
            uri: uri.to_owned(),
            domain_type: "qemu",
            reconcile_seconds: 30,
            port: None,
            beside: None,
            more: String::new(),
        }
    }

    /// The name of its unit, where it has one.
    pub fn unit(&self) -> String {
        self.folder.file_name().expect("a folder has a name").to_string_lossy().into_owned()
    }

    /// Writes the configuration; returns its file.
    pub fn write(&self) -> PathBuf {
        let config = self.folder.join("vapor.conf");
        fs::write(&config, self.text()).expect("the configuration is written");
        config
    }

    fn text(&self) -> String {
        let text = |path: &Path| path.display().to_string();
        let port = self.port.map_or_else(String::new, |port| format!("port = {port}\n"));
        format!(
            "[server]\nsocket = {:?}\n{port}[database]\npath = {:?}\n[libvirt]\nuri = {:?}\n\
             domain_type = {:?}\nreconcile_seconds = {}\n[log]\nlevel = \"info\"\nformat = \
             \"text\"\n{}",
            text(&self.socket),
            text(&self.database),
            self.uri,
            self.domain_type,
            self.reconcile_seconds,
            self.more
        )
    }
}

/// A running daemon; killed and its folder removed when dropped.
pub struct Vapord {
    settings: Settings,
    child: Option<Child>,
}

impl Vapord {
    /// Starts one and waits until it is ready.
    pub async fn start(settings: Settings) -> Vapord {
        let mut daemon = Vapord { settings, child: None };
        daemon.start_again().await;
        daemon
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub fn client(&self) -> Client {
        Client::new(self.settings.socket.clone())
    }

    pub fn pid(&self) -> i32 {
        if unit::wanted() {
            return unit::main_pid(&self.settings.unit());
        }
        let child = self.child.as_ref().expect("it runs");
        i32::try_from(child.id()).expect("a process id")
    }

    pub fn log_file(&self) -> PathBuf {
        self.settings.folder.join("vapord.log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// A process with these settings, whatever becomes of it. It ends with the test.
    pub fn spawn(settings: &Settings, log: &Path) -> Child {
        if unit::wanted() {
            let program = env!("CARGO_BIN_EXE_vapord");
            let mut command = unit::command(&settings.unit(), program, settings, log);
            return command.spawn().expect("systemd-run runs");
        }
        let config = settings.write();
        let log: File =
            OpenOptions::new().create(true).append(true).open(log).expect("the log opens");
        let mut command = match &settings.beside {
            Some(process) => {
                let mut command = Command::new("nsenter");
                command.args(["-t", process, "-m", "-n", "-u", "--root", "--", "setpriv"]);
                command
            }
            None => Command::new("setpriv"),
        };
        command
            .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_vapord"), "--config"])
            .arg(config)
            .env_remove("JOURNAL_STREAM")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("LISTEN_FDS")
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log opens"))
            .stderr(log)
            .spawn()
            .expect("vapord runs")
    }

    /// Starts the process, after the first time as well.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.child = Some(Vapord::spawn(&self.settings, &self.log_file()));
    }

    /// Starts the process and waits until it is ready.
    pub async fn start_again(&mut self) {
        self.launch();
        self.ready().await;
    }

    /// Waits until it serves with a picture.
    pub async fn ready(&mut self) {
        let client = self.client();
        eventually("vapord is ready", Duration::from_secs(30), async || {
            self.assert_alive();
            let reply = client.call("GET", "/api/v1/ready").try_send().await;
            reply.is_ok_and(|reply| reply.status == 200).then_some(())
        })
        .await;
    }

    /// # Panics
    /// If the process has ended.
    #[track_caller]
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok()?) {
            self.child = None;
            panic!("vapord has ended: {status}");
        }
    }

    /// `kill -9`, and the process is gone.
    pub fn kill9(&mut self) {
        if unit::wanted() && self.child.is_some() {
            self.signal(Signal::SIGKILL);
        }
        if let Some(mut child) = self.child.take() {
            if !unit::wanted() {
                child.kill().expect("it is our own");
            }
            child.wait().expect("it is our own");
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it runs");
    }

    /// SIGTERM, and the exit status once it is gone.
    pub async fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let mut child = self.child.take().expect("it runs");
        let begun = std::time::Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("it is our own") {
                return status;
            }
            if begun.elapsed() > within {
                self.child = Some(child);
                panic!("vapord has not ended within {within:?} of SIGTERM");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends it in order: exit status 0, no panic, no defect in the log.
    pub async fn finish(&mut self) {
        let status = self.terminate(Duration::from_secs(45)).await;
        assert_eq!(status.code(), Some(0), "{status}");
        self.assert_sound();
    }

    /// # Panics
    /// If the log tells of a panic or of a defect.
    #[track_caller]
    pub fn assert_sound(&self) {
        let log = self.log();
        for word in ["panicked", "failed by a defect", "\"INTERNAL\"", "INTERNAL:"] {
            let line = log.lines().find(|line| line.contains(word));
            assert!(line.is_none(), "in the log: {}", line.unwrap_or_default());
        }
    }
}

impl Drop for Vapord {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the end of vapord's log");
            tail(&self.log_file(), 60);
        }
        if unit::wanted() && self.child.is_some() {
            let _ = Command::new("systemctl")
                .args(["kill", "-s", "KILL", &self.settings.unit()])
                .status();
        }
        if let Some(mut child) = self.child.take() {
            // Nothing more can be done about a failure here.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::env::var_os("VAPOR_LAB_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.settings.folder);
        }
    }
}
