//! What the daemon and systemd tell each other: sockets handed over, readiness, the watchdog.
//!
//! Called by the daemon alone. Where systemd did not start the process, each of these does nothing.

use std::future::Future;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use systemd::daemon::{self, Listening, SocketType};

use crate::error::{Error, Kind, Result};

/// Says that the daemon serves, with a line for `systemctl status`.
pub fn ready(status: &str) {
    notify(&[("READY", "1"), ("STATUS", &one_line(status))]);
}

/// Says that the daemon is stopping.
pub fn stopping(status: &str) {
    notify(&[("STOPPING", "1"), ("STATUS", &one_line(status))]);
}

/// Says that the configuration is being read anew; [`ready`] ends it. With the time that
/// `Type=notify-reload` wants to hear.
pub fn reloading() {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let micros = now.map_or(0, |now| now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000);
    notify(&[("RELOADING", "1"), ("MONOTONIC_USEC", &micros.to_string())]);
}

/// Changes the line of `systemctl status`.
pub fn status(status: &str) {
    notify(&[("STATUS", &one_line(status))]);
}

/// Asks systemd for this much time from now on before it loses patience while starting or stopping.
pub fn extend_timeout(by: Duration) {
    notify(&[("EXTEND_TIMEOUT_USEC", &by.as_micros().to_string())]);
}

fn notify(state: &[(&str, &str)]) {
    if let Err(cause) = daemon::notify(state.iter()) {
        tracing::warn!(error = %cause, "telling systemd failed");
    }
}

/// A line feed would begin another assignment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// How often systemd wants to hear that the daemon is well: half of `WatchdogSec`. None without.
pub fn watchdog_interval() -> Option<Duration> {
    match daemon::watchdog_enabled() {
        Ok(0) => None,
        Ok(micros) => Some(Duration::from_micros(micros) / 2),
        Err(cause) => {
            tracing::warn!(error = %cause, "the watchdog's interval cannot be read");
            None
        }
    }
}

/// Feeds the watchdog as long as `well` says so in time; ends at once where there is none. When it
/// fails, or says nothing, systemd ends and restarts the daemon: let it answer for the process
/// alone, not for libvirt or the disk.
pub async fn watchdog<F, W>(well: F)
where
    F: Fn() -> W,
    W: Future<Output = Result<()>>,
{
    let Some(interval) = watchdog_interval() else { return };
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match tokio::time::timeout(interval, well()).await {
            Ok(Ok(())) => notify(&[("WATCHDOG", "1")]),
            Ok(Err(error)) => {
                tracing::error!(error = ?error, "not well, the watchdog is not fed: {}", error.message());
            }
            Err(_) => tracing::error!("a part of the daemon hangs, the watchdog is not fed"),
        }
    }
}

/// The sockets that systemd opened for the daemon (`vapord.socket`), non-blocking.
#[derive(Debug, Default)]
pub struct Listeners {
    pub unix: Vec<UnixListener>,
    pub tcp: Vec<TcpListener>,
}

impl Listeners {
    /// Whether systemd handed nothing over, and the daemon has to bind by itself.
    pub fn is_empty(&self) -> bool {
        self.unix.is_empty() && self.tcp.is_empty()
    }
}

/// Takes the sockets that systemd handed over: once, a second call gets none. `Config` if one of
/// them is not a listening stream socket, which is the socket unit's fault.
pub fn take_listeners() -> Result<Listeners> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let mut listeners = Listeners::default();
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(listeners);
    }
    let refused = |cause: String| {
        Error::new(Kind::Config, format!("the sockets from systemd cannot be used: {cause}"))
            .with_hint("the socket unit must use ListenStream= and Accept=no")
    };
    let passed = daemon::listen_fds_with_names().map_err(|cause| refused(cause.to_string()))?;
    for (fd, name) in passed.iter() {
        let stream = || Some(SocketType::Stream);
        let unix = daemon::is_socket_unix(fd, stream(), Listening::IsListening, None::<&str>)
            .map_err(|cause| refused(cause.to_string()))?;
        let inet = daemon::is_socket_inet(fd, None, stream(), Listening::IsListening, None)
            .map_err(|cause| refused(cause.to_string()))?;
        if !unix && !inet {
            return Err(refused(format!(
                "{name:?} (descriptor {fd}) is no listening stream socket"
            )));
        }
        // SAFETY: systemd passed this descriptor to this process for its use, it is open (it was
        // just asked what it is), and TAKEN makes this the only place that ever owns it.
        #[allow(unsafe_code, reason = "a descriptor inherited by number has no other way in")]
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        let ready = if unix {
            let listener = UnixListener::from(owned);
            listener.set_nonblocking(true).map(|()| listeners.unix.push(listener))
        } else {
            let listener = TcpListener::from(owned);
            listener.set_nonblocking(true).map(|()| listeners.tcp.push(listener))
        };
        ready.map_err(|cause| refused(cause.to_string()))?;
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::process::Command;

    use super::*;

    /// Set in the process that a test starts to play the daemon.
    const CHILD: &str = "VAPOR_TEST_SYSTEMD";

    /// This test program again, running only the test called `name`.
    fn child(name: &str) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", &format!("systemd::tests::{name}"), "--nocapture"]);
        command.env(CHILD, "1");
        command
    }

    fn is_child() -> bool {
        std::env::var_os(CHILD).is_some()
    }

    #[test]
    fn readiness_status_and_watchdog_reach_systemd() {
        if is_child() {
            ready("serving\nMAINPID=1");
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let beats = std::sync::atomic::AtomicU32::new(0);
            let well = || async {
                match beats.fetch_add(1, Ordering::SeqCst) {
                    0..3 => Ok(()),
                    _ => Err(Error::internal("on purpose")),
                }
            };
            let some_time = Duration::from_millis(500);
            let fed = async { tokio::time::timeout(some_time, watchdog(well)).await };
            assert!(runtime.block_on(fed).is_err(), "the watchdog is fed for ever");
            stopping("done");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("notify");
        let manager = UnixDatagram::bind(&socket).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut daemon = child("readiness_status_and_watchdog_reach_systemd")
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", "40000")
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut heard = Vec::new();
        while heard.last().is_none_or(|text: &String| !text.contains("STOPPING=1")) {
            let mut buffer = [0; 512];
            let length = manager.recv(&mut buffer).unwrap();
            heard.push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned());
        }
        assert!(daemon.wait().unwrap().success());
        assert_eq!(heard[0], "READY=1\nSTATUS=serving MAINPID=1");
        assert_eq!(&heard[1..4], ["WATCHDOG=1"; 3]);
        assert_eq!(heard[4], "STOPPING=1\nSTATUS=done", "an unwell daemon fed the watchdog");
    }

    #[test]
    fn sockets_that_systemd_opened_are_taken_once() {
        if is_child() {
            let listeners = take_listeners().unwrap();
            assert_eq!((listeners.unix.len(), listeners.tcp.len()), (1, 0));
            assert!(take_listeners().unwrap().is_empty());
            let listener = &listeners.unix[0];
            listener.set_nonblocking(false).unwrap();
            drop(listener.accept().unwrap());
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("vapor.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        // The shell moves the listener (its standard input) to descriptor 3 and names itself, as
        // systemd does, before it becomes the daemon.
        let test = child("sockets_that_systemd_opened_are_taken_once");
        let mut daemon = Command::new("sh")
            .args(["-c", r#"exec 3<&0 0</dev/null; LISTEN_PID=$$ exec "$@""#, "sh"])
            .arg(test.get_program())
            .args(test.get_args())
            .env(CHILD, "1")
            .env("LISTEN_FDS", "1")
            .stdin(OwnedFd::from(listener))
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut client = UnixStream::connect(&socket).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0, "the daemon closes what it accepted");
        assert!(daemon.wait().unwrap().success());
    }

    #[test]
    fn without_systemd_nothing_is_handed_over_and_nothing_waits() {
        if is_child() {
            return;
        }
        assert_eq!(watchdog_interval(), None);
        ready("serving");
        status("well");
    }
}
