//! The supervisor thread: opens the connections, watches them, replaces them together.
//!
//! ```text
//! connecting ──(all open, events subscribed)──▶ connected
//!     ▲  │ failure: back off, with jitter            │ close callback, dead transport seen by a
//!     └──┘                                           ▼ worker or by the periodic look
//! connecting ◀──(slots emptied, queue refused, callbacks given back)── lost
//! ```
//!
//! All connections are replaced as soon as one is lost: they lead to the same daemon, and a picture
//! fed half by an old and half by a new one would be hard to trust.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedSender;

use super::connection::Link;
use super::event::LibvirtEvent;
use super::host::version_text;
use super::hypervisor::Shared;
use crate::error::{Error, Result};

/// How often the transports are looked at and stuck workers relieved.
const LOOK: Duration = Duration::from_secs(1);

/// What the supervisor is told.
pub(super) enum Signal {
    /// A connection closed; `None` means the present generation.
    Lost {
        generation: Option<u64>,
        reason: String,
    },
    /// A call failed as if its connection were lost.
    Suspect {
        link: Arc<Link>,
    },
    Stop,
}

pub(super) fn start(
    shared: Arc<Shared>,
    incoming: Receiver<Signal>,
    signals: Sender<Signal>,
    sink: UnboundedSender<LibvirtEvent>,
) -> Result<()> {
    let supervisor = Supervisor { shared, incoming, signals, sink, generation: 0 };
    std::thread::Builder::new()
        .name("lv-supervisor".to_owned())
        .spawn(move || supervisor.run())
        .map(drop)
        .map_err(Error::internal)
}

struct Supervisor {
    shared: Arc<Shared>,
    incoming: Receiver<Signal>,
    signals: Sender<Signal>,
    sink: UnboundedSender<LibvirtEvent>,
    generation: u64,
}

/// The waits between attempts: doubling from `min` to `max`, each shortened by up to a quarter so that
/// several clients of one libvirtd do not come back in step.
struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    fn new(min: Duration, max: Duration) -> Self {
        let min = min.max(Duration::from_millis(1));
        Backoff { min, max: max.max(min), next: min }
    }

    /// `chance` is a random number from 0 to 1.
    fn wait(&mut self, chance: f64) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(self.max);
        wait.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 4.0)
    }

    fn reset(&mut self) {
        self.next = self.min;
    }
}

/// A random number from 0 to 1; only meant to differ between processes.
fn chance() -> f64 {
    f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 255.0
}

impl Supervisor {
    fn run(mut self) {
        let config = &self.shared.config;
        let mut backoff = Backoff::new(config.reconnect_min, config.reconnect_max);
        while !self.shared.stopping.load(Ordering::SeqCst) {
            match self.open() {
                Ok(links) => {
                    let since = Instant::now();
                    let reason = self.watch(&links);
                    self.let_go(links, reason);
                    // A daemon that closes every connection right away is not hammered.
                    if since.elapsed() > self.shared.config.reconnect_max {
                        backoff.reset();
                    }
                }
                Err(error) => self.note_failure(&error),
            }
            if self.shared.stopping.load(Ordering::SeqCst) {
                break;
            }
            let wait = backoff.wait(chance());
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            self.shared.retry_ms.store(millis, Ordering::Relaxed);
            self.pause(wait);
        }
        for lane in &self.shared.lanes {
            lane.refuse_queued(|| self.shared.unavailable());
        }
        self.shared.ended.store(true, Ordering::SeqCst);
    }

    /// Opens what every slot needs and fills the slots. On failure nothing stays open.
    fn open(&mut self) -> std::result::Result<Vec<Arc<Link>>, virt::error::Error> {
        self.generation += 1;
        let config = &self.shared.config;
        let wanted: usize = self.shared.lanes.iter().map(|lane| lane.slots.len()).sum();
        // Each connection to a test URI that names a file has a world of its own.
        let distinct = if config.uri.starts_with("test:") { 1 } else { wanted };
        let links = self.open_links(distinct)?;
        for link in &links {
            let (signals, generation) = (self.signals.clone(), self.generation);
            link.on_close(Box::new(move |reason| {
                let reason = reason.to_owned();
                let _ = signals.send(Signal::Lost { generation: Some(generation), reason });
            }));
        }
        if let Some(dead) = links.iter().find(|link| !link.is_alive()) {
            let error = dead.connect().lib_version().err();
            links.iter().for_each(|link| link.retire());
            if let Some(error) = error {
                return Err(error);
            }
        }
        let slots = self.shared.lanes.iter().flat_map(|lane| &lane.slots);
        for (slot, link) in slots.zip(links.iter().cycle()) {
            slot.put(Some(Arc::clone(link)));
        }
        let version = Some(version_text(links[0].libvirt_version()));
        let hypervisor =
            links[0].connect().hyp_version().ok().filter(|packed| *packed > 0).map(version_text);
        self.shared.status.send_modify(|status| {
            status.connected = true;
            status.since = Timestamp::now();
            status.reason = None;
            status.version.clone_from(&version);
            status.hypervisor_version = hypervisor;
        });
        tracing::info!(
            uri = config.uri,
            version,
            connections = links.len(),
            "connected to libvirt at {}",
            config.uri
        );
        let _ = self.sink.send(LibvirtEvent::Connected { version });
        Ok(links)
    }

    /// Opens this many connections: the first one alone, which tells whether libvirt is there at all,
    /// and the others at once, because a daemon that starts waits for all of them.
    ///
    /// The first one carries the events. They are subscribed meanwhile, before anyone is told of the
    /// connections, so that whoever reads the picture on `Connected` misses nothing.
    fn open_links(&self, count: usize) -> std::result::Result<Vec<Arc<Link>>, virt::error::Error> {
        let config = &self.shared.config;
        let first = Arc::new(Link::open(config)?);
        let others: std::result::Result<Vec<Link>, _> = std::thread::scope(|scope| {
            let open = || {
                let builder = std::thread::Builder::new().name("lv-open".to_owned());
                builder.spawn_scoped(scope, || Link::open(config))
            };
            let opening: Vec<_> = (1..count).map(|_| open()).collect();
            first.subscribe(&self.sink);
            let opened = opening.into_iter().map(|opening| match opening {
                Ok(opening) => opening.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // No thread to be had: then one after the other.
                Err(_) => Link::open(config),
            });
            opened.collect()
        });
        match others {
            Ok(others) => {
                Ok(std::iter::once(first).chain(others.into_iter().map(Arc::new)).collect())
            }
            Err(error) => {
                first.retire();
                Err(error)
            }
        }
    }

    /// Returns when the connections are lost or the daemon stops, with the reason.
    fn watch(&self, links: &[Arc<Link>]) -> String {
        loop {
            match self.incoming.recv_timeout(LOOK) {
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    return "the daemon is stopping".to_owned();
                }
                Ok(Signal::Lost { generation, reason })
                    if generation.is_none_or(|generation| generation == self.generation) =>
                {
                    return reason;
                }
                // Of a generation that is gone already.
                Ok(Signal::Lost { .. }) => {}
                Ok(Signal::Suspect { link }) => {
                    if links.iter().any(|own| Arc::ptr_eq(own, &link)) && !link.is_alive() {
                        return "the connection failed".to_owned();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if links.iter().any(|link| !link.is_alive()) {
                        return "the connection failed".to_owned();
                    }
                    for lane in &self.shared.lanes {
                        lane.tick(&self.shared);
                    }
                }
            }
        }
    }

    /// Takes the connections out of use. Calls that run on them end with libvirt's error.
    fn let_go(&self, links: Vec<Arc<Link>>, reason: String) {
        let stopping = self.shared.stopping.load(Ordering::SeqCst);
        self.shared.status.send_modify(|status| {
            status.connected = false;
            status.since = Timestamp::now();
            status.reason = Some(reason.clone());
        });
        for lane in &self.shared.lanes {
            for slot in &lane.slots {
                drop(slot.put(None));
            }
            lane.refuse_queued(|| self.shared.unavailable());
        }
        if stopping {
            tracing::info!("closing the connections to libvirt");
        } else {
            tracing::warn!(reason, "lost libvirt; reconnecting");
        }
        let _ = self.sink.send(LibvirtEvent::Disconnected { reason });
        // Giving callbacks back asks libvirt, which may hang while its socket still stands; keepalive
        // ends that wait, and nobody else waits for it.
        let retire = move || {
            for link in &links {
                link.retire();
            }
        };
        if stopping {
            retire();
        } else if let Err(error) =
            std::thread::Builder::new().name("lv-retire".to_owned()).spawn(retire)
        {
            tracing::error!(%error, "cannot start a thread to close old libvirt connections");
        }
    }

    fn note_failure(&self, error: &virt::error::Error) {
        let reason = error.message().to_owned();
        let known = self.shared.status.borrow().reason.as_deref() == Some(&reason);
        if !known {
            tracing::warn!(reason, "cannot connect to libvirt; trying on");
            self.shared.status.send_modify(|status| status.reason = Some(reason));
        }
    }

    /// Waits, and returns early only to stop.
    fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            match self.incoming.recv_timeout(left) {
                Ok(Signal::Stop) | Err(_) => return,
                Ok(Signal::Lost { .. } | Signal::Suspect { .. }) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backoff_doubles_to_its_bound_and_starts_anew_after_a_reset() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let waits: Vec<u128> = (0..4).map(|_| backoff.wait(0.0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 350, 350]);
        backoff.reset();
        assert_eq!(backoff.wait(0.0).as_millis(), 100);
    }

    #[test]
    fn jitter_only_shortens_and_by_a_quarter_at_most() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(100));
        assert_eq!(backoff.wait(1.0).as_millis(), 75);
        assert_eq!(backoff.wait(0.0).as_millis(), 100);
        for _ in 0..100 {
            assert!((0.0..=1.0).contains(&chance()));
        }
    }
}
