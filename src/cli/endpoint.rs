//! Where the daemon listens, and what to tell a user when nobody answers there.

use std::env;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::failure::{Exit, Failure, Result};

/// The socket of the system's daemon.
const SYSTEM_SOCKET: &str = "/run/vapor/vapor.sock";

/// The daemon's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    Tcp { host: String, port: u16 },
}

impl Endpoint {
    /// What `--socket` or `VAPOR_SOCKET` names, else the default socket.
    ///
    /// # Errors
    /// [`Exit::Refused`] for an address that cannot be one.
    pub fn choose(named: Option<&str>) -> Result<Self> {
        match named.filter(|text| !text.is_empty()) {
            Some(text) => Self::parse(text),
            None => Ok(Endpoint::Unix(default_socket(
                nix::unistd::geteuid().as_raw(),
                Path::new(SYSTEM_SOCKET).exists(),
                env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from),
            ))),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let refuse = |why: &str| {
            Failure::new(Exit::Refused, format!("the address {text:?} {why}"))
                .with_hint("name a path such as /run/vapor/vapor.sock, or http://127.0.0.1:PORT")
        };
        if let Some(rest) = text.strip_prefix("http://") {
            let rest = rest.trim_end_matches('/');
            let (host, port) = rest.rsplit_once(':').ok_or_else(|| refuse("names no port"))?;
            let port = port.parse().map_err(|_| refuse("names no port"))?;
            let host = host.trim_start_matches('[').trim_end_matches(']');
            if host.is_empty() || host.contains(['/', '@']) {
                return Err(refuse("names no host"));
            }
            return Ok(Endpoint::Tcp { host: host.to_owned(), port });
        }
        let path = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:"));
        let path = path.unwrap_or(text);
        if path.contains("://") {
            return Err(refuse("has a scheme that vapor does not speak"));
        }
        Ok(Endpoint::Unix(PathBuf::from(path)))
    }

    /// What to tell when connecting failed.
    pub fn unreachable(&self, error: &io::Error) -> Failure {
        let failure = |what: String| Failure::new(Exit::Unreachable, what);
        match (self, error.kind()) {
            (Endpoint::Unix(path), io::ErrorKind::NotFound) => failure(format!(
                "cannot reach vapord: there is no socket {}",
                path.display()
            ))
            .with_hint(
                "is vapord running? start it with `systemctl start vapord`, or name another socket \
                 with --socket or VAPOR_SOCKET",
            ),
            (Endpoint::Unix(path), io::ErrorKind::ConnectionRefused) => failure(format!(
                "cannot reach vapord: nobody listens on {}",
                path.display()
            ))
            .with_hint(
                "vapord left its socket behind and is not running: see `systemctl status vapord`, \
                 and start it",
            ),
            (Endpoint::Unix(path), io::ErrorKind::PermissionDenied) => {
                failure(format!("you may not open {}", path.display())).with_hint(admission(path))
            }
            (Endpoint::Tcp { .. }, io::ErrorKind::ConnectionRefused) => {
                failure(format!("cannot reach vapord: nobody listens on {self}")).with_hint(
                    "is vapord running, and is [server] port set in vapor.conf? Without it the \
                     daemon has only its Unix socket",
                )
            }
            (Endpoint::Unix(_) | Endpoint::Tcp { .. }, _) => {
                failure(format!("cannot reach vapord at {self}: {error}"))
                    .with_hint("is vapord running? see `systemctl status vapord`")
            }
        }
    }
}

/// Who may open the socket, in words that lead there.
fn admission(path: &Path) -> String {
    let group = std::fs::metadata(path)
        .ok()
        .or_else(|| std::fs::metadata(path.parent()?).ok())
        .and_then(|metadata| {
            nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(metadata.gid())).ok()?
        })
        .map_or_else(|| "vapor".to_owned(), |group| group.name);
    if group == "root" {
        return "only root may open it: use sudo, or set [server] socket_group in vapor.conf"
            .to_owned();
    }
    format!(
        "are you in the group {group}? `sudo usermod -aG {group} $USER` adds you; it holds after \
         the next login. sudo works at once"
    )
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
            Endpoint::Tcp { host, port } if host.contains(':') => {
                write!(f, "http://[{host}]:{port}")
            }
            Endpoint::Tcp { host, port } => write!(f, "http://{host}:{port}"),
        }
    }
}

/// Root, and everyone on a host whose system daemon runs, speaks to that daemon; others to their own.
fn default_socket(uid: u32, system_exists: bool, runtime: Option<PathBuf>) -> PathBuf {
    if uid == 0 || system_exists {
        return PathBuf::from(SYSTEM_SOCKET);
    }
    runtime
        .filter(|folder| folder.is_absolute())
        .unwrap_or_else(|| PathBuf::from(format!("/run/user/{uid}")))
        .join("vapor/vapor.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths_or_plain_http() {
        let unix = |path: &str| Endpoint::Unix(PathBuf::from(path));
        let tcp = |host: &str, port| Endpoint::Tcp { host: host.to_owned(), port };
        assert_eq!(Endpoint::parse("/run/x.sock").unwrap(), unix("/run/x.sock"));
        assert_eq!(Endpoint::parse("unix:///run/x.sock").unwrap(), unix("/run/x.sock"));
        assert_eq!(Endpoint::parse("http://127.0.0.1:8080/").unwrap(), tcp("127.0.0.1", 8080));
        assert_eq!(Endpoint::parse("http://[::1]:80").unwrap(), tcp("::1", 80));
        for bad in
            ["http://localhost", "http://:80", "http://u@h:80", "https://h:1", "http://h:99999"]
        {
            assert_eq!(Endpoint::parse(bad).unwrap_err().exit, Exit::Refused, "{bad}");
        }
    }

    #[test]
    fn the_system_socket_wins_for_root_and_where_it_exists() {
        let own = Some(PathBuf::from("/run/user/7"));
        assert_eq!(default_socket(0, false, own.clone()), Path::new(SYSTEM_SOCKET));
        assert_eq!(default_socket(7, true, own.clone()), Path::new(SYSTEM_SOCKET));
        assert_eq!(default_socket(7, false, own), Path::new("/run/user/7/vapor/vapor.sock"));
        assert_eq!(default_socket(8, false, None), Path::new("/run/user/8/vapor/vapor.sock"));
    }

    #[test]
    fn each_way_of_not_getting_through_says_what_to_do() {
        let endpoint = Endpoint::Unix(PathBuf::from("/nowhere/vapor.sock"));
        for (kind, words) in [
            (io::ErrorKind::NotFound, "is vapord running?"),
            (io::ErrorKind::ConnectionRefused, "is not running"),
            (io::ErrorKind::PermissionDenied, "group vapor"),
        ] {
            let failure = endpoint.unreachable(&io::Error::from(kind));
            assert_eq!(failure.exit, Exit::Unreachable);
            assert!(failure.render().contains(words), "{}", failure.render());
        }
    }
}
