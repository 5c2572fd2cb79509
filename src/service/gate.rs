//! Who may work on what now.
//!
//! [`admit`] is the pure part: the VM's condition, who holds it and what is asked decide, without
//! I/O and without locks. [`Gate`] is the small registry of holds around it: one operation at a
//! time works on a VM, a VM's name or a volume, and everybody else is told who that is.
//!
//! ```text
//!   free ──admit──▶ held by task T ──T ends──▶ free
//!                      │  force-stop asks, and T only waits for the guest
//!                      └──T yields──▶ held by the force-stop
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::{VmAction, VmState};

/// What somebody wants to do with a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    Action {
        action: VmAction,
        /// Cut the power if the guest does not stop.
        force: bool,
    },
    Update,
    Define,
    Delete {
        force: bool,
        remove_snapshots: bool,
        remove_saved_state: bool,
    },
}

/// What the gate needs to know of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    pub state: VmState,
    pub persistent: bool,
    pub has_saved_state: bool,
    pub snapshot_count: u32,
}

/// The verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    Admit,
    /// The holder only waits for the guest, and this may take its place.
    Preempt,
    /// What is asked is the case already.
    AlreadySo(Kind),
    Deny(Kind, &'static str),
    Busy,
}

/// Whether the present holder, if any, only waits for a guest that may never answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Free,
    Waiting,
    Working,
}

/// Decides. Pure: the same arguments always get the same verdict.
pub fn admit(condition: Condition, held: Held, work: Work) -> Admission {
    let verdict = admit_state(condition, work);
    match held {
        Held::Free => verdict,
        Held::Working => Admission::Busy,
        Held::Waiting => match (&verdict, work) {
            (
                Admission::Admit,
                Work::Action { action: VmAction::ForceStop | VmAction::Destroy, .. },
            ) => Admission::Preempt,
            _ => Admission::Busy,
        },
    }
}

fn admit_state(condition: Condition, work: Work) -> Admission {
    match work {
        Work::Action { action, force } => admit_action(condition, action, force),
        Work::Update | Work::Define => Admission::Admit,
        Work::Delete { force, remove_snapshots, remove_saved_state } => {
            if condition.state.is_active() && !force {
                Admission::Deny(Kind::VmRunning, "runs; stop it first, or say force=true")
            } else if condition.snapshot_count > 0 && !remove_snapshots {
                Admission::Deny(Kind::VmHasSnapshots, "has snapshots, which would be lost")
            } else if condition.has_saved_state && !remove_saved_state {
                Admission::Deny(Kind::VmHasSavedState, "has a saved state, which would be lost")
            } else {
                Admission::Admit
            }
        }
    }
}

fn admit_action(condition: Condition, action: VmAction, force: bool) -> Admission {
    use Admission::{Admit, AlreadySo, Deny};
    use VmState::{Crashed, Paused, Running, Shutoff, ShuttingDown, Suspended};
    const CRASHED: Admission =
        Deny(Kind::VmWrongState, "has crashed and its process is kept; force-stop it first");
    let state = condition.state;
    match action {
        VmAction::Start => match state {
            Shutoff => Admit,
            Crashed => CRASHED,
            Running => AlreadySo(Kind::VmAlreadyRunning),
            Paused | Suspended => Deny(Kind::VmWrongState, "is paused or sleeps; resume it"),
            ShuttingDown => Deny(Kind::VmWrongState, "is shutting down"),
        },
        VmAction::RestoreSaved => match state {
            Shutoff if condition.has_saved_state => Admit,
            Shutoff => Deny(Kind::VmHasNoSavedState, "has no saved state"),
            Crashed => CRASHED,
            Running | Paused | Suspended | ShuttingDown => AlreadySo(Kind::VmAlreadyRunning),
        },
        VmAction::Stop | VmAction::Shutdown => match state {
            Running | ShuttingDown => Admit,
            Paused | Suspended | Crashed if force => Admit,
            Crashed => CRASHED,
            Paused | Suspended => Deny(
                Kind::VmWrongState,
                "is paused or sleeps, so its guest cannot react; resume it, or use force",
            ),
            Shutoff => AlreadySo(Kind::VmAlreadyStopped),
        },
        VmAction::ForceStop | VmAction::Destroy => match state {
            Running | Paused | Suspended | ShuttingDown | Crashed => Admit,
            Shutoff => AlreadySo(Kind::VmAlreadyStopped),
        },
        VmAction::Restart => match state {
            // It would vanish with its stop.
            _ if state.is_active() && !condition.persistent => {
                Deny(Kind::VmTransient, "is transient: after a stop there is nothing to start")
            }
            Running => Admit,
            Paused | Suspended | Crashed if force => Admit,
            Crashed => CRASHED,
            Paused | Suspended => Deny(
                Kind::VmWrongState,
                "is paused or sleeps, so its guest cannot react; resume it, or use force",
            ),
            ShuttingDown => Deny(Kind::VmWrongState, "is shutting down"),
            Shutoff => Deny(Kind::VmNotRunning, "does not run; start it"),
        },
        VmAction::Reboot => match state {
            Running => Admit,
            Paused | Suspended => Deny(Kind::VmWrongState, "is paused or sleeps; resume it first"),
            ShuttingDown => Deny(Kind::VmWrongState, "is shutting down"),
            Crashed => CRASHED,
            Shutoff => Deny(Kind::VmNotRunning, "does not run; start it"),
        },
        VmAction::Reset => match state {
            Running | Paused | Suspended => Admit,
            ShuttingDown => Deny(Kind::VmWrongState, "is shutting down"),
            Crashed => CRASHED,
            Shutoff => Deny(Kind::VmNotRunning, "does not run; start it"),
        },
        VmAction::Pause | VmAction::Suspend => match state {
            Running => Admit,
            Paused => AlreadySo(Kind::VmAlreadyPaused),
            Suspended => Deny(Kind::VmWrongState, "sleeps already"),
            ShuttingDown => Deny(Kind::VmWrongState, "is shutting down"),
            Crashed => CRASHED,
            Shutoff => Deny(Kind::VmNotRunning, "does not run"),
        },
        VmAction::Resume => match state {
            Paused | Suspended => Admit,
            Running => AlreadySo(Kind::VmAlreadyRunning),
            ShuttingDown => Deny(Kind::VmWrongState, "is shutting down"),
            Crashed => CRASHED,
            Shutoff => Deny(Kind::VmNotRunning, "does not run; start it"),
        },
        VmAction::Save => match state {
            Running | Paused if condition.persistent => Admit,
            Running | Paused => Deny(Kind::VmTransient, "is transient: its state cannot be kept"),
            Suspended => Deny(Kind::VmWrongState, "sleeps; resume it first"),
            ShuttingDown => Deny(Kind::VmWrongState, "is shutting down"),
            Crashed => CRASHED,
            Shutoff => Deny(Kind::VmNotRunning, "does not run, so has no state to save"),
        },
    }
}

/// What can be held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Vm(Uuid),
    VmName(String),
    Volume(String, String),
}

/// Who wants to hold something.
#[derive(Clone, Debug)]
pub struct Claim {
    pub task: Uuid,
    /// The task's kind, such as `vm.start`.
    pub kind: &'static str,
    pub principal: String,
    /// Whether the operation starts the VM: a creation may, or may not.
    pub starts: bool,
}

/// Who holds something.
#[derive(Clone, Debug)]
pub struct Holder {
    pub task: Uuid,
    pub kind: &'static str,
    pub principal: String,
    /// Whether the operation starts the VM.
    pub starts: bool,
    /// Set while the holder only waits for a guest: cancelling it makes the holder give way.
    yields: Option<CancellationToken>,
}

impl Claim {
    fn holder(&self) -> Holder {
        Holder {
            task: self.task,
            kind: self.kind,
            principal: self.principal.clone(),
            starts: self.starts,
            yields: None,
        }
    }
}

/// How long after its release an operation may still be the cause of news. Short: the outcome has
/// been written down in between, so news is seldom later, and others act, too.
const LATE_NEWS: Duration = Duration::from_millis(250);

/// The registry of holds.
#[derive(Clone)]
pub struct Gate {
    held: Arc<Mutex<HashMap<Key, Holder>>>,
    /// Who held a VM last, and when it was released: news of its work may come a moment later.
    recent: Arc<Mutex<HashMap<Uuid, (Holder, Instant)>>>,
    /// Ticks at each release, so that a waiter needs no polling.
    released: watch::Sender<u64>,
}

impl Default for Gate {
    fn default() -> Self {
        Gate { held: Arc::default(), recent: Arc::default(), released: watch::Sender::new(0) }
    }
}

/// Holds its keys until dropped.
#[derive(Debug)]
pub struct Hold {
    keys: Vec<Key>,
    task: Uuid,
    gate: GateRef,
}

#[derive(Clone)]
struct GateRef(Gate);

impl std::fmt::Debug for GateRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Holder>> {
        // Each change of the map is one insertion or removal, so a panic elsewhere leaves it sound.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who holds this now.
    pub fn holder(&self, key: &Key) -> Option<Holder> {
        self.lock().get(key).cloned()
    }

    /// Whose work a piece of news about a VM is, if it has just come: of who holds the VM, or has
    /// just released it, and does such things at all.
    pub fn cause(&self, uuid: Uuid, does_such: impl Fn(&Holder) -> bool) -> Option<Holder> {
        let present = self.holder(&Key::Vm(uuid)).filter(&does_such);
        present.or_else(|| {
            let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let (holder, released) = recent.get(&uuid)?;
            (released.elapsed() < LATE_NEWS && does_such(holder)).then(|| holder.clone())
        })
    }

    /// How many keys are held.
    pub fn held(&self) -> usize {
        self.lock().len()
    }

    /// Takes all keys for this task, or none: 409 with the holder.
    pub fn take(&self, keys: Vec<Key>, claim: &Claim) -> Result<Hold> {
        let mut held = self.lock();
        if let Some((key, holder)) =
            keys.iter().find_map(|key| held.get(key).map(|holder| (key, holder)))
        {
            return Err(busy(&key.words(), holder));
        }
        for key in &keys {
            held.insert(key.clone(), claim.holder());
        }
        Ok(Hold { keys, task: claim.task, gate: GateRef(self.clone()) })
    }

    /// Admits `work` on this VM and takes it. A force-stop makes a holder that only waits for the
    /// guest give way first. `condition` is read again after that.
    ///
    /// # Errors
    /// 409: the kind of the verdict, or [`Kind::VmBusy`] with the holder.
    pub async fn enter(
        &self,
        name: &str,
        uuid: Uuid,
        work: Work,
        condition: impl Fn() -> Result<Condition>,
        claim: &Claim,
    ) -> Result<Hold> {
        let key = Key::Vm(uuid);
        loop {
            let mut released = self.released.subscribe();
            let token = {
                let mut held = self.lock();
                let holder = held.get(&key);
                let state = match holder {
                    None => Held::Free,
                    Some(Holder { yields: Some(_), .. }) => Held::Waiting,
                    Some(Holder { yields: None, .. }) => Held::Working,
                };
                let condition = condition()?;
                match (admit(condition, state, work), holder) {
                    (Admission::Busy, Some(holder)) => return Err(busy(&vm_words(name), holder)),
                    (Admission::Preempt, Some(Holder { yields: Some(token), .. })) => token.clone(),
                    (Admission::Admit | Admission::Busy | Admission::Preempt, _) => {
                        held.insert(key.clone(), claim.holder());
                        return Ok(Hold {
                            keys: vec![key],
                            task: claim.task,
                            gate: GateRef(self.clone()),
                        });
                    }
                    (Admission::AlreadySo(kind), _) => {
                        return Err(refusal(kind, name, kind_phrase(kind), condition));
                    }
                    (Admission::Deny(kind, why), _) => {
                        return Err(refusal(kind, name, why, condition));
                    }
                }
            };
            token.cancel();
            // The holder releases as its last act; its own steps are bounded.
            if released.changed().await.is_err() {
                return Err(Error::internal("the gate is gone"));
            }
        }
    }

    /// What [`enter`](Self::enter) would say now, for plans.
    pub fn would_admit(
        &self,
        name: &str,
        uuid: Uuid,
        work: Work,
        condition: Condition,
    ) -> Result<()> {
        let held = self.lock();
        let holder = held.get(&Key::Vm(uuid));
        let state = match holder {
            None => Held::Free,
            Some(Holder { yields: Some(_), .. }) => Held::Waiting,
            Some(Holder { yields: None, .. }) => Held::Working,
        };
        match (admit(condition, state, work), holder) {
            (Admission::Busy, Some(holder)) => Err(busy(&vm_words(name), holder)),
            _ => allowed(name, work, condition),
        }
    }
}

/// Whether the VM's condition allows it, whoever holds the VM: for the last look before something
/// is destroyed.
pub fn allowed(name: &str, work: Work, condition: Condition) -> Result<()> {
    match admit(condition, Held::Free, work) {
        Admission::Admit | Admission::Preempt | Admission::Busy => Ok(()),
        Admission::AlreadySo(kind) => Err(refusal(kind, name, kind_phrase(kind), condition)),
        Admission::Deny(kind, why) => Err(refusal(kind, name, why, condition)),
    }
}

impl Hold {
    /// From now on this operation only waits for the guest; the token tells it to give way.
    pub fn waiting(&self) -> CancellationToken {
        let token = CancellationToken::new();
        self.set_yields(Some(token.clone()));
        token
    }

    /// The wait is over: nobody may take this operation's place any more. False if somebody has
    /// asked for it already.
    pub fn working(&self) -> bool {
        let mut held = self.gate.0.lock();
        let mut asked = false;
        for key in &self.keys {
            if let Some(holder) = held.get_mut(key).filter(|holder| holder.task == self.task) {
                asked |= holder.yields.take().is_some_and(|token| token.is_cancelled());
            }
        }
        !asked
    }

    fn set_yields(&self, yields: Option<CancellationToken>) {
        let mut held = self.gate.0.lock();
        for key in &self.keys {
            if let Some(holder) = held.get_mut(key).filter(|holder| holder.task == self.task) {
                holder.yields.clone_from(&yields);
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.gate.0.lock();
        let mut recent = self.gate.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, (_, released)| released.elapsed() < LATE_NEWS);
        for key in &self.keys {
            if held.get(key).is_some_and(|holder| holder.task == self.task)
                && let (Some(holder), Key::Vm(uuid)) = (held.remove(key), key)
            {
                recent.insert(*uuid, (holder, Instant::now()));
            }
        }
        drop(recent);
        drop(held);
        self.gate.0.released.send_modify(|tick| *tick += 1);
    }
}

impl Key {
    fn words(&self) -> String {
        match self {
            Key::Vm(uuid) => format!("the VM {uuid}"),
            Key::VmName(name) => format!("the name {name:?}"),
            Key::Volume(pool, volume) => format!("the volume {pool}/{volume}"),
        }
    }
}

fn vm_words(name: &str) -> String {
    format!("VM {name:?}")
}

fn busy(what: &str, holder: &Holder) -> Error {
    Error::new(Kind::VmBusy, format!("{what} is held by {} (task {})", holder.kind, holder.task))
        .with_detail("task", holder.task.to_string())
        .with_detail("operation", holder.kind)
        .with_detail("principal", holder.principal.as_str())
}

fn kind_phrase(kind: Kind) -> &'static str {
    match kind {
        Kind::VmAlreadyRunning => "is running already",
        Kind::VmAlreadyStopped => "is stopped already",
        Kind::VmAlreadyPaused => "is paused already",
        _ => "is in that state already",
    }
}

fn refusal(kind: Kind, name: &str, why: &str, condition: Condition) -> Error {
    Error::new(kind, format!("VM {name:?} {why}"))
        .with_detail("state", condition.state.as_str())
        .with_detail("vm", name)
}

#[cfg(test)]
mod tests;
