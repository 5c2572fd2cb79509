//! Worker lanes: bounded queues in front of named threads that call libvirt.
//!
//! A worker is born at an index, when work waits that nobody idle will take; four neighbouring indices
//! share a connection (see [`super`]). Its life:
//!
//! ```text
//! idle ──▶ running ──(in time)──▶ idle
//!             │
//!             └─(deadline or 2 s pass)──────▶ stuck ──(the call returns)──▶ idle, or ends if a
//!                                                   │                            spare took its place
//!                                                   └─ a spare is started while work is queued
//! ```

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::connection::Link;
use super::hypervisor::{HypervisorConfig, Shared};
use super::session::Session;
use super::supervisor::Signal;
use crate::error::{Error, Kind, Result};

/// How long a call may take before others stop waiting for its worker, however patient its caller.
const RELIEF: Duration = Duration::from_secs(2);

/// How long work may wait beside an idle worker before the lane counts as broken.
const NEGLECT: Duration = Duration::from_secs(5);

/// How many workers a lane may add while others are stuck.
const SPARE_WORKERS: usize = 2;

/// Where a call waits: by how long it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Calls that return within milliseconds on a healthy host.
    Quick,
    /// Calls that may take long: saving, cloning, refreshing, bulk reads.
    Slow,
    /// Calls that wait for a guest agent.
    Agent,
}

impl Lane {
    /// Every lane.
    pub const ALL: [Lane; 3] = [Lane::Quick, Lane::Slow, Lane::Agent];

    /// The word for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Lane::Quick => "quick",
            Lane::Slow => "slow",
            Lane::Agent => "agent",
        }
    }

    /// How many workers share a connection, at most. At the fifth call of one client libvirtd stops
    /// reading, and the client's keepalive starves. Where many calls are made at once, fewer do: calls
    /// that share a connection hand it to each other, which costs more than the calls themselves. Three
    /// workers that read a thousand domains by one take twice the processor time of three with one each.
    const fn sharers(self) -> usize {
        match self {
            Lane::Quick => 2,
            Lane::Slow | Lane::Agent => 4,
        }
    }

    pub(super) const fn index(self) -> usize {
        match self {
            Lane::Quick => 0,
            Lane::Slow => 1,
            Lane::Agent => 2,
        }
    }
}

/// What one lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneGauge {
    pub lane: Lane,
    /// Threads alive, spares included.
    pub workers: usize,
    /// Threads in a call, stuck ones included.
    pub busy: usize,
    /// Threads in a call that has outlived its caller's deadline, or takes longer than 2 s.
    pub stuck: usize,
    /// Calls that wait.
    pub queued: usize,
    /// Calls that may wait.
    pub capacity: usize,
}

const QUEUED: u8 = 0;
const BEGUN: u8 = 1;
const ABANDONED: u8 = 2;

/// Who got hold of a job first: the worker that begins it or the caller that gives up.
pub(super) struct Ticket(AtomicU8);

impl Ticket {
    fn claim(&self, as_what: u8) -> bool {
        self.0.compare_exchange(QUEUED, as_what, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// What became of a job whose caller gave up.
pub(super) enum Refusal {
    NeverBegan,
    StillRunning,
}

/// The closure of a job. It gets a session or the reason why there is none, answers its caller, and
/// tells whether the connection seems lost.
type Work = Box<dyn FnOnce(Result<&Session>) -> bool + Send>;

/// One call on its way.
pub(super) struct Job {
    ticket: Arc<Ticket>,
    queued: Instant,
    allowance: Allowance,
    work: Work,
}

/// When a job that runs counts as stuck.
#[derive(Clone, Copy, Debug)]
pub(super) enum Allowance {
    /// Its caller waits this long, in the queue and in the call together.
    Altogether(Duration),
    /// Its caller waits to the end; the call is slow after this long.
    Running(Duration),
}

impl Job {
    pub(super) fn new(
        allowance: Allowance,
        work: impl FnOnce(Result<&Session>) -> bool + Send + 'static,
    ) -> (Job, Arc<Ticket>) {
        let ticket = Arc::new(Ticket(AtomicU8::new(QUEUED)));
        let queued = Instant::now();
        (Job { ticket: Arc::clone(&ticket), queued, allowance, work: Box::new(work) }, ticket)
    }

    /// When this job, if it begins now, counts as stuck.
    fn due(&self) -> Instant {
        let (from, allowed) = match self.allowance {
            Allowance::Altogether(allowed) => (self.queued, allowed),
            Allowance::Running(allowed) => (Instant::now(), allowed),
        };
        // A deadline beyond the clock's range is as good as a very long one.
        from.checked_add(allowed).unwrap_or(from + Duration::from_secs(86_400))
    }

    fn refuse(self, error: Error) {
        if self.ticket.claim(BEGUN) {
            let _ = catch_unwind(AssertUnwindSafe(|| (self.work)(Err(error))));
        }
    }
}

/// A place for one connection, filled and emptied by the supervisor.
#[derive(Default)]
pub(super) struct Slot(RwLock<Option<Arc<Link>>>);

impl Slot {
    pub(super) fn put(&self, link: Option<Arc<Link>>) -> Option<Arc<Link>> {
        std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), link)
    }

    fn get(&self) -> Option<Arc<Link>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The state of one worker; absent if there is no thread at its index.
#[derive(Clone, Copy)]
enum Worker {
    Idle { since: Instant },
    Running { due: Instant },
}

struct State {
    queue: VecDeque<Job>,
    workers: Vec<Option<Worker>>,
    closed: bool,
}

impl State {
    fn alive(&self) -> usize {
        self.workers.iter().flatten().count()
    }

    fn idle(&self) -> usize {
        self.workers.iter().flatten().filter(|worker| matches!(worker, Worker::Idle { .. })).count()
    }

    fn stuck(&self, now: Instant) -> usize {
        let stuck = |worker: &&Worker| matches!(worker, Worker::Running { due } if *due < now);
        self.workers.iter().flatten().filter(stuck).count()
    }
}

/// One lane: queue, workers, connections.
pub(super) struct LanePool {
    lane: Lane,
    nominal: usize,
    depth: usize,
    state: Mutex<State>,
    wake: Condvar,
    pub(super) slots: Vec<Slot>,
    signals: Sender<Signal>,
}

impl LanePool {
    pub(super) fn new(lane: Lane, config: &HypervisorConfig, signals: Sender<Signal>) -> Self {
        let nominal = match lane {
            Lane::Quick => config.quick_workers,
            Lane::Slow => config.slow_workers,
            Lane::Agent => config.agent_workers,
        }
        .max(1);
        let places = nominal + SPARE_WORKERS;
        LanePool {
            lane,
            nominal,
            depth: config.queue_depth.max(1),
            state: Mutex::new(State {
                queue: VecDeque::new(),
                workers: vec![None; places],
                closed: false,
            }),
            wake: Condvar::new(),
            slots: (0..places.div_ceil(lane.sharers())).map(|_| Slot::default()).collect(),
            signals,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the first worker, so that a host that has no thread to give is known at the start.
    pub(super) fn start(self: &Arc<Self>, shared: &Arc<Shared>) -> Result<()> {
        self.spawn(shared, &mut self.lock()).map_err(Error::internal)
    }

    fn spawn(self: &Arc<Self>, shared: &Arc<Shared>, state: &mut State) -> std::io::Result<()> {
        let Some(index) = state.workers.iter().position(Option::is_none) else { return Ok(()) };
        let (lane, shared) = (Arc::clone(self), Arc::clone(shared));
        std::thread::Builder::new()
            .name(format!("lv-{}-{index}", self.lane.as_str()))
            .spawn(move || lane.work(index, &shared))?;
        state.workers[index] = Some(Worker::Idle { since: Instant::now() });
        Ok(())
    }

    /// Queues a job.
    pub(super) fn submit(self: &Arc<Self>, shared: &Arc<Shared>, job: Job) -> Result<()> {
        let mut state = self.lock();
        if state.closed {
            return Err(shared.unavailable());
        }
        if state.queue.len() >= self.depth {
            return Err(Error::new(
                Kind::TooManyRequests,
                format!("{} libvirt calls are waiting already", state.queue.len()),
            )
            .with_retry_after(Duration::from_secs(1)));
        }
        state.queue.push_back(job);
        self.man(shared, &mut state);
        self.wake.notify_one();
        Ok(())
    }

    /// The caller waits no longer. A job that has not begun never will.
    pub(super) fn give_up(self: &Arc<Self>, shared: &Arc<Shared>, ticket: &Ticket) -> Refusal {
        let mut state = self.lock();
        if ticket.claim(ABANDONED) {
            state.queue.retain(|job| job.ticket.0.load(Ordering::SeqCst) != ABANDONED);
            return Refusal::NeverBegan;
        }
        self.man(shared, &mut state);
        Refusal::StillRunning
    }

    /// Starts a spare if work waits while workers are stuck.
    pub(super) fn tick(self: &Arc<Self>, shared: &Arc<Shared>) {
        self.man(shared, &mut self.lock());
    }

    /// Starts a worker for each job that none is idle for, up to the nominal number of workers that
    /// are not stuck.
    fn man(self: &Arc<Self>, shared: &Arc<Shared>, state: &mut State) {
        let unattended = state.queue.len().saturating_sub(state.idle());
        if state.closed || unattended == 0 {
            return;
        }
        let stuck = state.stuck(Instant::now());
        let missing = self.nominal.saturating_sub(state.alive() - stuck).min(unattended);
        for _ in 0..missing.min(state.workers.len() - state.alive()) {
            if state.alive() >= self.nominal {
                tracing::warn!(
                    lane = self.lane.as_str(),
                    stuck,
                    "a libvirt call is stuck; adding a worker"
                );
            }
            if let Err(error) = self.spawn(shared, state) {
                tracing::error!(%error, "cannot start a libvirt worker");
                return;
            }
        }
    }

    /// Refuses everything that waits.
    pub(super) fn refuse_queued(&self, error: impl Fn() -> Error) {
        let waiting = std::mem::take(&mut self.lock().queue);
        for job in waiting {
            job.refuse(error());
        }
    }

    /// Ends the workers as they become idle. What waits is refused by the workers or by the
    /// supervisor.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// What keeps this lane from working although libvirt would let it: its threads are gone, or they
    /// idle while work waits. Calls that libvirt does not answer are no such thing.
    pub(super) fn defect(&self) -> Option<String> {
        let state = self.lock();
        if state.closed {
            return None;
        }
        let lane = self.lane.as_str();
        if state.alive() == 0 {
            return Some(format!("the libvirt lane {lane} has no worker left"));
        }
        let long = |since: Instant| since.elapsed() > NEGLECT;
        let idles = |worker: &Worker| matches!(worker, Worker::Idle { since } if long(*since));
        let idle = state.workers.iter().flatten().any(idles);
        let waits = state.queue.front().is_some_and(|job| long(job.queued));
        (idle && waits)
            .then(|| format!("work waits in the libvirt lane {lane} while a worker idles"))
    }

    pub(super) fn gauge(&self) -> LaneGauge {
        let state = self.lock();
        let busy = |worker: &&Worker| matches!(worker, Worker::Running { .. });
        LaneGauge {
            lane: self.lane,
            workers: state.alive(),
            busy: state.workers.iter().flatten().filter(busy).count(),
            stuck: state.stuck(Instant::now()),
            queued: state.queue.len(),
            capacity: self.depth,
        }
    }

    /// A worker's life.
    fn work(self: &Arc<Self>, index: usize, shared: &Arc<Shared>) {
        while let Some(job) = self.next(index) {
            // Beside the closure's panic this catches one of the binding's destructors.
            let done = catch_unwind(AssertUnwindSafe(|| self.perform(index, shared, job)));
            if done.is_err() {
                tracing::error!(
                    lane = self.lane.as_str(),
                    "a libvirt job panicked; the worker goes on"
                );
            }
        }
    }

    fn perform(&self, index: usize, shared: &Shared, job: Job) {
        let Some(link) = self.slots[index % self.slots.len()].get() else {
            (job.work)(Err(shared.unavailable()));
            return;
        };
        let session = Session::new(Arc::clone(&link));
        if (job.work)(Ok(&session)) {
            // An error means that the supervisor has ended already.
            let _ = self.signals.send(Signal::Suspect { link });
        }
    }

    /// Waits for the next job; `None` ends the thread.
    fn next(&self, index: usize) -> Option<Job> {
        let mut state = self.lock();
        state.workers[index] = Some(Worker::Idle { since: Instant::now() });
        loop {
            // With the place of a stuck worker taken by a spare, the first to be idle leaves.
            let able = state.alive() - state.stuck(Instant::now());
            if state.closed || able > self.nominal {
                state.workers[index] = None;
                // A notification meant for this worker must not get lost with it.
                self.wake.notify_one();
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                if !job.ticket.claim(BEGUN) {
                    continue;
                }
                let due = job.due().min(Instant::now() + RELIEF);
                state.workers[index] = Some(Worker::Running { due });
                return Some(job);
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> LanePool {
        let (signals, _) = std::sync::mpsc::channel();
        LanePool::new(Lane::Quick, &HypervisorConfig::new("test:///default"), signals)
    }

    #[test]
    fn only_work_that_lies_beside_an_idle_worker_is_a_defect() {
        let pool = pool();
        assert!(pool.defect().is_some_and(|why| why.contains("no worker left")));
        let now = Instant::now();
        let Some(before) = now.checked_sub(NEGLECT * 2) else { return };
        let mut job = Job::new(Allowance::Running(NEGLECT), |_| false).0;
        job.queued = before;
        pool.lock().queue.push_back(job);
        // A call that libvirt does not answer, and a spare that has only just been started.
        pool.lock().workers[0] = Some(Worker::Running { due: before });
        assert_eq!(pool.defect(), None);
        pool.lock().workers[1] = Some(Worker::Idle { since: now });
        assert_eq!(pool.defect(), None);
        pool.lock().workers[1] = Some(Worker::Idle { since: before });
        assert!(pool.defect().is_some_and(|why| why.contains("while a worker idles")));
        pool.lock().closed = true;
        assert_eq!(pool.defect(), None, "a daemon that stops has none");
    }
}
