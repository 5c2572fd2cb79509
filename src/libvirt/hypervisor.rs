//! The handle that the rest of the house holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use super::event::LibvirtEvent;
use super::ffi;
use super::lane::{Allowance, Job, Lane, LaneGauge, LanePool, Refusal, Ticket};
use super::session::Session;
use super::supervisor::{self, Signal};
use crate::error::{Error, Kind, Result};
use crate::model::host::LibvirtStatus;

/// How long libvirt's event loop may be silent, which comes round every five seconds, before it
/// counts as hung.
const EVENT_LOOP_PATIENCE: Duration = Duration::from_secs(20);

/// How the hypervisor is reached and how much may be under way there.
#[derive(Clone, Debug)]
pub struct HypervisorConfig {
    /// libvirt's connection URI, such as `qemu:///system`.
    pub uri: String,
    /// Whether to connect at all.
    pub enabled: bool,
    /// Worker threads of each lane, without the spares that stand in for stuck ones.
    pub quick_workers: usize,
    pub slow_workers: usize,
    pub agent_workers: usize,
    /// How many calls may wait in each lane before further ones are refused.
    pub queue_depth: usize,
    /// How many streams of volumes' bytes may be open at once.
    pub streams: usize,
    /// How long a connection may be silent before it is probed; whole seconds.
    pub keepalive_interval: Duration,
    /// How many probes may stay unanswered before the connection counts as lost.
    pub keepalive_count: u32,
    /// The first and the longest wait between two attempts to connect.
    pub reconnect_min: Duration,
    pub reconnect_max: Duration,
}

impl HypervisorConfig {
    /// The defaults: at most 12 calls at a time, 18 with every spare at work, which leaves libvirtd's
    /// 20 worker threads room for other clients.
    pub fn new(uri: impl Into<String>) -> Self {
        HypervisorConfig {
            uri: uri.into(),
            enabled: true,
            quick_workers: 4,
            slow_workers: 4,
            agent_workers: 4,
            queue_depth: 256,
            streams: 8,
            keepalive_interval: Duration::from_secs(5),
            keepalive_count: 3,
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(2),
        }
    }
}

/// A cheap handle on libvirt: worker lanes, connection state, gauges.
///
/// Once the last handle is gone the threads end by themselves as after [`Hypervisor::stop`].
#[derive(Clone)]
pub struct Hypervisor(Arc<Inner>);

/// What the handle, the supervisor and the workers share.
pub(super) struct Shared {
    pub(super) config: HypervisorConfig,
    pub(super) lanes: Vec<Arc<LanePool>>,
    /// A place for each stream that may be open.
    pub(super) streams: Arc<Semaphore>,
    pub(super) status: watch::Sender<LibvirtStatus>,
    pub(super) stopping: AtomicBool,
    /// Milliseconds until the next attempt to connect, for Retry-After.
    pub(super) retry_ms: AtomicU64,
    /// Set when the supervisor has let go of everything.
    pub(super) ended: AtomicBool,
}

/// A queued closure: its lane, its ticket, and where its outcome arrives.
type Submitted<'a, T> = (&'a Arc<LanePool>, Arc<Ticket>, oneshot::Receiver<Result<T>>);

/// The closure was dropped without an answer: it panicked.
fn died(_: oneshot::error::RecvError) -> Error {
    Error::internal("a libvirt job ended without an answer")
}

struct Inner {
    shared: Arc<Shared>,
    signals: Sender<Signal>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.begin_stop();
    }
}

impl Inner {
    fn begin_stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for lane in &self.shared.lanes {
            lane.close();
        }
        // An error means that the supervisor has ended already.
        let _ = self.signals.send(Signal::Stop);
    }
}

impl Shared {
    /// Why nothing can be asked of libvirt now.
    pub(super) fn unavailable(&self) -> Error {
        if self.stopping.load(Ordering::SeqCst) {
            return Error::new(Kind::ShuttingDown, "the daemon is stopping");
        }
        let status = self.status.borrow();
        let reason = status.reason.clone().unwrap_or_else(|| "not connected yet".to_owned());
        let retry = Duration::from_millis(self.retry_ms.load(Ordering::Relaxed));
        Error::new(Kind::LibvirtUnavailable, format!("libvirt at {} does not answer", status.uri))
            .with_detail("reason", reason)
            .with_detail("since", status.since.to_string())
            .with_retry_after(retry.max(Duration::from_secs(1)))
    }
}

impl Hypervisor {
    /// Starts the threads and returns at once; the connection is made in the background and its
    /// standing is told by [`Hypervisor::status`] and by events.
    ///
    /// # Errors
    /// `Config` for a URI that libvirt cannot take, `LibvirtUnavailable` if the library cannot be
    /// initialised, `Internal` if a thread cannot be started. An unreachable libvirt is no error.
    pub fn start(
        config: HypervisorConfig,
    ) -> Result<(Hypervisor, mpsc::UnboundedReceiver<LibvirtEvent>)> {
        if config.uri.contains('\0') {
            return Err(Error::new(Kind::Config, "[libvirt] uri contains a NUL character"));
        }
        ffi::initialise()?;
        let (signals, incoming) = std::sync::mpsc::channel();
        let (sink, events) = mpsc::unbounded_channel();
        let status = watch::Sender::new(LibvirtStatus {
            uri: config.uri.clone(),
            connected: false,
            since: Timestamp::now(),
            reason: Some(if config.enabled {
                "not connected yet".to_owned()
            } else {
                "[libvirt] enabled is false".to_owned()
            }),
            version: None,
            hypervisor_version: None,
        });
        let lanes = Lane::ALL
            .iter()
            .map(|lane| Arc::new(LanePool::new(*lane, &config, signals.clone())))
            .collect();
        let shared = Arc::new(Shared {
            streams: Arc::new(Semaphore::new(config.streams)),
            config,
            lanes,
            status,
            stopping: AtomicBool::new(false),
            retry_ms: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        for lane in &shared.lanes {
            lane.start(&shared)?;
        }
        if shared.config.enabled {
            supervisor::start(Arc::clone(&shared), incoming, signals.clone(), sink)?;
        } else {
            shared.ended.store(true, Ordering::SeqCst);
        }
        Ok((Hypervisor(Arc::new(Inner { shared, signals })), events))
    }

    /// Runs `f` on a worker of `lane` and returns what it returns. The deadline bounds the wait here,
    /// in the queue and in the call together; a call that has begun goes on.
    ///
    /// # Errors
    /// `LibvirtUnavailable` at once while there is no connection; `TooManyRequests` if the queue is
    /// full, or if no worker was free within the deadline (nothing was done then); `LibvirtTimeout`
    /// if the call had begun; `Internal` if `f` panicked; `ShuttingDown` after [`Hypervisor::stop`].
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        deadline: Duration,
        f: impl FnOnce(&Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (pool, ticket, mut answer) = self.submit(lane, Allowance::Altogether(deadline), f)?;
        match tokio::time::timeout(deadline, &mut answer).await {
            Ok(answer) => answer.map_err(died)?,
            Err(_) => Err(match pool.give_up(&self.0.shared, &ticket) {
                Refusal::NeverBegan => Error::new(
                    Kind::TooManyRequests,
                    format!("no libvirt worker was free within {deadline:?}; nothing was done"),
                )
                .with_retry_after(Duration::from_secs(1)),
                Refusal::StillRunning => Error::new(
                    Kind::LibvirtTimeout,
                    format!("libvirt did not answer within {deadline:?}"),
                ),
            }),
        }
    }

    /// Like [`Hypervisor::run`], for the work of an operation, whose outcome somebody has to know:
    /// waits as long as queue and call take. A call that takes longer than `slow` gets a spare
    /// worker in its place, so that it delays nobody else.
    ///
    /// # Errors
    /// Those of [`Hypervisor::run`] but `LibvirtTimeout`; `TooManyRequests` only for a full queue.
    pub async fn run_to_end<T: Send + 'static>(
        &self,
        lane: Lane,
        slow: Duration,
        f: impl FnOnce(&Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (_, _, answer) = self.submit(lane, Allowance::Running(slow), f)?;
        answer.await.map_err(died)?
    }

    /// Queues the closure; the receiver gets its outcome.
    fn submit<T: Send + 'static>(
        &self,
        lane: Lane,
        allowance: Allowance,
        f: impl FnOnce(&Session) -> Result<T> + Send + 'static,
    ) -> Result<Submitted<'_, T>> {
        let shared = &self.0.shared;
        if shared.stopping.load(Ordering::SeqCst) || !shared.status.borrow().connected {
            return Err(shared.unavailable());
        }
        let pool = &shared.lanes[lane.index()];
        let (reply, answer) = oneshot::channel();
        let (job, ticket) = Job::new(allowance, move |session: Result<&Session>| {
            let outcome = session.and_then(f);
            let lost = matches!(&outcome, Err(error) if error.kind() == Kind::LibvirtUnavailable);
            // The caller may have given up; the work is done all the same.
            let _ = reply.send(outcome);
            lost
        });
        pool.submit(shared, job)?;
        Ok((pool, ticket, answer))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// Streams of volumes' bytes that are open.
    pub fn streams_open(&self) -> usize {
        self.0.shared.config.streams.saturating_sub(self.0.shared.streams.available_permits())
    }

    /// Whether libvirt answers, and since when.
    pub fn status(&self) -> LibvirtStatus {
        self.0.shared.status.borrow().clone()
    }

    /// The same as a channel that changes with it.
    pub fn watch(&self) -> watch::Receiver<LibvirtStatus> {
        self.0.shared.status.subscribe()
    }

    /// What each lane is doing, in the order of [`Lane::ALL`].
    pub fn gauges(&self) -> Vec<LaneGauge> {
        self.0.shared.lanes.iter().map(|lane| lane.gauge()).collect()
    }

    /// What in this process keeps libvirt from being asked, if anything does: the event loop hangs, a
    /// thread is gone, a lane does not take its work. libvirt's own health is not meant.
    pub fn defect(&self) -> Option<String> {
        let shared = &self.0.shared;
        if shared.stopping.load(Ordering::SeqCst) {
            return None;
        }
        let silence = ffi::event_loop_silence();
        if silence > EVENT_LOOP_PATIENCE {
            let seconds = silence.as_secs();
            return Some(format!("libvirt's event loop has not come round for {seconds} s"));
        }
        if shared.config.enabled && shared.ended.load(Ordering::SeqCst) {
            return Some("the thread that keeps libvirt's connections is gone".to_owned());
        }
        shared.lanes.iter().find_map(|lane| lane.defect())
    }

    /// Worker threads alive in all lanes, spares included.
    pub fn workers_alive(&self) -> usize {
        self.gauges().iter().map(|gauge| gauge.workers).sum()
    }

    /// Takes no new work, refuses what is queued, waits a few seconds for calls that run, and closes
    /// the connections. A call that is stuck is left behind.
    pub async fn stop(&self) {
        self.0.begin_stop();
        for _ in 0..250 {
            let ended = self.0.shared.ended.load(Ordering::SeqCst);
            if ended && self.workers_alive() == 0 && self.streams_open() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tracing::warn!(
            workers = self.workers_alive(),
            "libvirt calls are still under way; leaving them behind"
        );
    }

    #[cfg(test)]
    pub(super) fn pretend_loss(&self, reason: &str) {
        let _ = self.0.signals.send(Signal::Lost { generation: None, reason: reason.to_owned() });
    }
}
