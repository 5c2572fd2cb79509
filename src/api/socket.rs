//! The Unix socket: made without a moment in which others may open it, never taken from a daemon
//! that lives, and removed at the end only if it is still ours.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Group, chown};

use crate::error::{Error, Kind, Result};

/// The longest path that `sockaddr_un` can carry, with its NUL.
const MAX_PATH: usize = 107;

/// Where the socket is and who may open it.
#[derive(Clone, Debug)]
pub struct SocketOptions {
    pub path: PathBuf,
    /// Permission bits, such as `0o660`.
    pub mode: u32,
    /// The group that owns it; the process's own if absent.
    pub group: Option<String>,
}

/// A bound socket. It is removed when this is dropped.
#[derive(Debug)]
pub struct BoundSocket {
    path: PathBuf,
    inode: u64,
    /// Held as long as the daemon lives; the file stays, because removing it would be a race.
    _lock: Flock<File>,
}

impl BoundSocket {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn refuse(path: &Path, problem: &str) -> Error {
    Error::new(Kind::Config, format!("cannot serve the socket {}: {problem}", path.display()))
}

fn failed(path: &Path, doing: &str, cause: impl Into<io::Error>) -> Error {
    let cause = cause.into();
    refuse(path, &format!("cannot {doing}: {cause}")).with_source(cause)
}

/// Binds and listens.
///
/// # Errors
/// [`Kind::Config`], naming the path: another daemon serves it, something that is no socket stands
/// there, the group does not exist, or the system refuses.
pub fn bind_socket(options: &SocketOptions) -> Result<(UnixListener, BoundSocket)> {
    let path = options.path.as_path();
    if path.as_os_str().len() > MAX_PATH {
        return Err(refuse(path, &format!("the path has more than {MAX_PATH} bytes")));
    }
    let group = options.group.as_deref().map(|name| group(path, name)).transpose()?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
        made.map_err(|error| failed(path, "create its folder", error))?;
    }
    let lock = lock(path)?;
    clear(path)?;

    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|error| failed(path, "make a socket", error))?;
    // the mode of the descriptor becomes that of the file: nobody else can open it before the
    // group and the final mode are set
    fchmod(&fd, Mode::from_bits_truncate(0o600))
        .map_err(|error| failed(path, "guard it", error))?;
    let address = UnixAddr::new(path).map_err(|error| failed(path, "use the path", error))?;
    bind(fd.as_raw_fd(), &address).map_err(|error| failed(path, "bind it", error))?;
    let inode =
        fs::symlink_metadata(path).map_err(|error| failed(path, "look at it", error))?.ino();
    let bound = BoundSocket { path: path.to_owned(), inode, _lock: lock };
    if group.is_some() {
        chown(path, None, group).map_err(|error| failed(path, "give it to its group", error))?;
    }
    fs::set_permissions(path, Permissions::from_mode(options.mode & 0o777))
        .map_err(|error| failed(path, "set its mode", error))?;
    let backlog = Backlog::new(1024).unwrap_or(Backlog::MAXCONN);
    listen(&fd, backlog).map_err(|error| failed(path, "listen on it", error))?;
    Ok((UnixListener::from(fd), bound))
}

fn group(path: &Path, name: &str) -> Result<Gid> {
    let found = Group::from_name(name).map_err(|error| failed(path, "look up its group", error))?;
    found.map(|group| group.gid).ok_or_else(|| {
        refuse(path, &format!("there is no group {name:?}"))
            .with_hint("create the group, or change [server] socket_group")
    })
}

/// One daemon at a time may hold, replace and remove the socket.
fn lock(path: &Path) -> Result<Flock<File>> {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(PathBuf::from(name))
        .map_err(|error| failed(path, "open its lock file", error))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::errno::Errno::EWOULDBLOCK => in_use(path),
        error => failed(path, "lock it", error),
    })
}

fn in_use(path: &Path) -> Error {
    refuse(path, "another daemon serves it already")
        .with_hint("stop the other daemon, or choose another [server] socket")
}

/// Removes what a daemon that died has left; whoever answers is left alone.
fn clear(path: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(path, "look at it", error)),
    };
    if !found.file_type().is_socket() {
        return Err(refuse(path, "something that is not a socket stands there"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| failed(path, "remove the stale one", error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(in_use(path)),
        Err(error) => Err(failed(path, "tell whether it is in use", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(folder: &tempfile::TempDir) -> SocketOptions {
        SocketOptions { path: folder.path().join("run/vapor.sock"), mode: 0o660, group: None }
    }

    #[test]
    fn the_socket_has_its_mode_and_goes_when_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(&folder);
        let (_listener, bound) = bind_socket(&options).unwrap();
        let mode = fs::metadata(&options.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        drop(bound);
        assert!(!options.path.exists());
    }

    #[test]
    fn a_second_daemon_is_refused_with_a_clear_message() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(&folder);
        let _first = bind_socket(&options).unwrap();
        let error = bind_socket(&options).unwrap_err();
        assert!(error.message().contains("another daemon serves it already"), "{error}");
        assert!(UnixStream::connect(&options.path).is_ok(), "the first is still there");
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(&folder);
        fs::create_dir_all(options.path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(&options.path).unwrap());
        assert!(options.path.exists());
        bind_socket(&options).unwrap();
    }

    #[test]
    fn a_socket_that_somebody_else_serves_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(&folder);
        fs::create_dir_all(options.path.parent().unwrap()).unwrap();
        let _other = UnixListener::bind(&options.path).unwrap();
        assert!(bind_socket(&options).is_err());
        assert!(options.path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let options = SocketOptions { path: folder.path().join("data"), mode: 0o600, group: None };
        fs::write(&options.path, "precious").unwrap();
        assert!(bind_socket(&options).unwrap_err().message().contains("not a socket"));
        assert_eq!(fs::read_to_string(&options.path).unwrap(), "precious");
    }

    #[test]
    fn an_unknown_group_and_an_overlong_path_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let unknown = SocketOptions { group: Some("no-such-group".into()), ..options(&folder) };
        assert!(bind_socket(&unknown).unwrap_err().message().contains("no-such-group"));
        let long = SocketOptions { path: folder.path().join("x".repeat(120)), ..options(&folder) };
        assert!(bind_socket(&long).unwrap_err().message().contains("107 bytes"));
    }
}
