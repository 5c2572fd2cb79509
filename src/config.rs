//! The configuration: one TOML file, every key with a default.
//!
//! `vapord` loads it once at the start (`--check-config` does nothing else). Whatever is wrong is
//! reported with file and line, all of it at once; an unknown key with the nearest known one. The
//! daemon hands the parts to the rooms, which do not read this module's types themselves.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::store::Synchronous;

pub(crate) mod check;
pub mod document;
mod file;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it came from; none if there was none.
    pub source: Option<PathBuf>,
    pub server: Server,
    pub database: Database,
    pub libvirt: Libvirt,
    pub security: Security,
    pub limits: Limits,
    pub log: Log,
}

/// `[server]`: where clients come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The Unix socket.
    pub socket: PathBuf,
    /// The group that the socket belongs to; the daemon's own if none.
    pub socket_group: Option<String>,
    /// The socket's permission bits.
    pub socket_mode: u32,
    /// The loopback address for TCP.
    pub host: IpAddr,
    /// The TCP port; TCP is off without it.
    pub port: Option<u16>,
}

impl Server {
    /// The TCP address to listen on, if TCP is on.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.port.map(|port| SocketAddr::new(self.host, port))
    }
}

/// `[database]`: what libvirt does not keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    pub path: PathBuf,
    pub synchronous: Synchronous,
    /// Read-only connections.
    pub readers: usize,
}

/// `[libvirt]`: the hypervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Libvirt {
    /// Whether to connect at all.
    pub enabled: bool,
    pub uri: String,
    pub domain_type: DomainType,
    /// Seconds between two comparisons of the whole picture with libvirt's.
    pub reconcile_seconds: u64,
    /// Seconds without traffic after which libvirt is asked whether it is still there.
    pub keepalive_seconds: u64,
    /// Unanswered questions after which the connection counts as lost.
    pub keepalive_count: u32,
    /// Calls that may wait for a worker, for each kind of worker.
    pub queue_depth: usize,
}

/// Which type new VMs get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DomainType {
    /// The first that libvirt's capabilities name.
    #[default]
    Auto,
    Kvm,
    Qemu,
}

impl DomainType {
    /// libvirt's word; none where the capabilities decide.
    pub const fn as_str(self) -> Option<&'static str> {
        match self {
            DomainType::Auto => None,
            DomainType::Kvm => Some("kvm"),
            DomainType::Qemu => Some("qemu"),
        }
    }
}

/// `[security]`: what of the host guests may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// Directories that virtiofs may share, each with what is below it.
    pub virtiofs_roots: Vec<PathBuf>,
}

/// What becomes of a VM that is to have more memory than the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryOvercommit {
    /// It is made, and the plan says so.
    #[default]
    Warn,
    Refuse,
}

/// `[limits]`: what one client may cost, and how long records stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's body.
    pub body_bytes: u64,
    /// Connections open at once.
    pub max_connections: u64,
    /// Seconds for a request's head to arrive.
    pub header_seconds: u64,
    /// Seconds for a request's body to arrive.
    pub request_seconds: u64,
    /// Seconds that a reply may wait for an operation or for events, whatever the client prefers.
    pub wait_seconds: u64,
    /// Seconds that operations get to finish when the daemon stops.
    pub drain_seconds: u64,
    /// Days that finished tasks are kept.
    pub tasks_keep_days: u64,
    /// Events that are kept.
    pub events_keep: u64,
    /// Uploads and downloads under way at once.
    pub transfers: u64,
    /// Seconds after which an upload that nothing more arrives for is given up.
    pub upload_expire_seconds: u64,
    /// Seconds that a client may send nothing in the middle of an upload.
    pub upload_stall_seconds: u64,
    pub memory_overcommit: MemoryOvercommit,
    /// Versions of its definition that are kept of each VM; 0 for no history.
    pub definition_versions: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 1024 * 1024,
            max_connections: 1024,
            header_seconds: 10,
            request_seconds: 30,
            wait_seconds: 300,
            drain_seconds: 30,
            tasks_keep_days: 30,
            events_keep: 100_000,
            transfers: 8,
            upload_expire_seconds: 86_400,
            upload_stall_seconds: 30,
            memory_overcommit: MemoryOvercommit::Warn,
            definition_versions: 50,
        }
    }
}

/// `[log]`: what is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or several `target=level` with commas between them.
    pub level: String,
    pub format: LogFormat,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// The journal where systemd connected it, else text.
    #[default]
    Auto,
    Text,
    Json,
    Journal,
}

impl Config {
    /// Reads `path`. Without a path: the default file if there is one, else the defaults.
    ///
    /// `Config`, with everything that is wrong, each with file and line, if it cannot be used.
    pub fn load(path: Option<&Path>) -> Result<Config> {
        Config::load_from(path, &Places::of_this_user())
    }

    /// The same with the system's places, whoever runs the process: the host's daemon need not be
    /// root.
    pub fn load_for_system(path: Option<&Path>) -> Result<Config> {
        Config::load_from(path, &Places::of_the_system())
    }

    fn load_from(path: Option<&Path>, places: &Places) -> Result<Config> {
        let (file, required) = match path {
            Some(path) => (path.to_owned(), true),
            None => (places.config.clone(), false),
        };
        match std::fs::read(&file) {
            Ok(bytes) => Config::parse(Some(&file), &bytes, places),
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound && !required => {
                Config::parse(None, b"", places)
            }
            Err(cause) => Err(Error::new(
                Kind::Config,
                format!("the configuration {} cannot be read: {cause}", file.display()),
            )
            .with_source(cause)),
        }
    }

    /// What of `fresh` a running daemon cannot take over, in the file's words.
    pub fn fixed_differences(&self, fresh: &Config) -> Vec<&'static str> {
        [
            ("[server]", self.server != fresh.server),
            ("[database]", self.database != fresh.database),
            ("[libvirt]", self.libvirt != fresh.libvirt),
            ("[security]", self.security != fresh.security),
            (
                "uploads in [limits]",
                self.limits.upload_expire_seconds != fresh.limits.upload_expire_seconds
                    || self.limits.upload_stall_seconds != fresh.limits.upload_stall_seconds,
            ),
            ("format in [log]", self.log.format != fresh.log.format),
        ]
        .into_iter()
        .filter_map(|(name, differs)| differs.then_some(name))
        .collect()
    }

    fn parse(file: Option<&Path>, bytes: &[u8], places: &Places) -> Result<Config> {
        let name = file.map_or_else(String::new, |file| file.display().to_string());
        let failed = |problems: Vec<String>| {
            Error::new(Kind::Config, problems.join("\n")).with_detail("problems", problems)
        };
        let text = std::str::from_utf8(bytes).map_err(|cause| {
            let before = bytes.get(..cause.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            failed(vec![format!("{name}:{line}: not UTF-8")])
        })?;
        let mut reader = file::Reader::new(file, text);
        let config = check::build(&mut reader, places);
        reader.finish().map_err(failed)?;
        Ok(Config { source: file.map(Path::to_owned), ..config })
    }
}

/// Where things are by default: the system's places for root, the XDG folders for others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Places {
    config: PathBuf,
    socket: PathBuf,
    database: PathBuf,
    uri: &'static str,
}

impl Places {
    fn of_this_user() -> Places {
        let uid = nix::unistd::geteuid();
        let home = || {
            let user = nix::unistd::User::from_uid(uid).ok().flatten();
            user.map(|user| user.dir)
        };
        Places::of(uid.is_root(), uid.as_raw(), |name| std::env::var_os(name), home)
    }

    fn of_the_system() -> Places {
        Places {
            config: PathBuf::from("/etc/vapor/vapor.conf"),
            socket: PathBuf::from("/run/vapor/vapor.sock"),
            database: PathBuf::from("/var/lib/vapor/vapor.db"),
            uri: "qemu:///system",
        }
    }

    fn of(
        root: bool,
        uid: u32,
        variable: impl Fn(&str) -> Option<OsString>,
        home: impl Fn() -> Option<PathBuf>,
    ) -> Places {
        if root {
            return Places::of_the_system();
        }
        // The XDG specification has relative paths ignored.
        let folder =
            |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = folder("HOME")
            .or_else(home)
            .unwrap_or_else(|| PathBuf::from(format!("/tmp/vapor-{uid}")));
        let config = folder("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        let state = folder("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state"));
        let runtime = folder("XDG_RUNTIME_DIR").unwrap_or_else(|| state.clone());
        Places {
            config: config.join("vapor/vapor.conf"),
            socket: runtime.join("vapor/vapor.sock"),
            database: state.join("vapor/vapor.db"),
            uri: "qemu:///session",
        }
    }
}

/// The socket that a client of this user finds by default; the command line asks for it.
pub fn default_socket() -> PathBuf {
    Places::of_this_user().socket
}

#[cfg(test)]
mod tests;
