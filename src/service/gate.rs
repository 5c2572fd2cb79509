//! Who may work on what now.
//!
//! [`admit`] is the pure part: the VM's condition, who holds it and what is asked decide, without
//! I/O and without locks. [`Gate`] is the small registry of holds around it: one operation at a
//! time works on a VM, a VM's name, a volume, a network, and everybody else is told who that is.
//!
//! ```text
//!   free ──admit──▶ held by task T ──T ends──▶ free
//!                      │  force-stop asks, and T only waits for the guest
//!                      └──T yields──▶ held by the force-stop
//! ```

mod admission;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};

pub use admission::{Admission, Condition, Held, Work, admit};

/// What can be held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Vm(Uuid),
    VmName(String),
    /// Of a NIC to be, in lower case.
    Mac(String),
    Volume(String, String),
    Pool(String),
    Network(String),
    Iso(Uuid),
    Template(Uuid),
    TemplateName(String),
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

/// Who holds what.
#[derive(Default)]
struct Holders {
    alone: HashMap<Key, Holder>,
    beside: HashMap<Key, Vec<Holder>>,
}

impl Holders {
    /// Who stands in the way of one that wants `key` alone, or beside others.
    fn in_the_way(&self, key: &Key, alone: bool) -> Option<&Holder> {
        let beside = || self.beside.get(key).and_then(|holders| holders.first());
        self.alone.get(key).or_else(|| beside().filter(|_| alone))
    }
}

/// A past holder, and when it let go.
type Released = (Holder, Instant);

/// The registry of holds.
///
/// A key is held by one operation alone, or by any number beside each other: what works on a volume
/// holds its pool beside others, and what deletes the pool wants it alone.
#[derive(Clone)]
pub struct Gate {
    held: Arc<Mutex<Holders>>,
    /// Who held a thing alone just now, and when it was released, oldest first: news of its work may
    /// come a moment later.
    recent: Arc<Mutex<HashMap<Key, Vec<Released>>>>,
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
    beside: Vec<Key>,
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
    fn lock(&self) -> std::sync::MutexGuard<'_, Holders> {
        // Each change of a map is one insertion or removal, so a panic elsewhere leaves it sound.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who holds this alone now.
    pub fn holder(&self, key: &Key) -> Option<Holder> {
        self.lock().alone.get(key).cloned()
    }

    /// Whose work a piece of news about a thing is, if it has just come: of who holds it alone, or
    /// has just released it, and does such things at all.
    pub fn cause(&self, key: &Key, does_such: impl Fn(&Holder) -> bool) -> Option<Holder> {
        let present = self.holder(key).filter(&does_such);
        present.or_else(|| {
            let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let (holder, released) = recent.get(key)?.last()?;
            (released.elapsed() < LATE_NEWS && does_such(holder)).then(|| holder.clone())
        })
    }

    /// Everybody whose work a piece of news about a thing may be, oldest first: who has just
    /// released it, and who holds it alone.
    pub fn causes(&self, key: &Key) -> Vec<Holder> {
        let present = self.holder(key);
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let late = |(holder, released): &(Holder, Instant)| {
            (released.elapsed() < LATE_NEWS).then(|| holder.clone())
        };
        let late = recent.get(key).into_iter().flatten().filter_map(late);
        // Released between the two looks, it is known already.
        late.chain(present).fold(Vec::new(), |mut all: Vec<Holder>, holder| {
            if all.iter().all(|known| known.task != holder.task) {
                all.push(holder);
            }
            all
        })
    }

    /// How many keys are held.
    pub fn held(&self) -> usize {
        let held = self.lock();
        held.alone.len() + held.beside.len()
    }

    /// Takes all keys for this task, or none: 409 with the holder.
    pub fn take(&self, keys: Vec<Key>, claim: &Claim) -> Result<Hold> {
        self.take_beside(keys, Vec::new(), claim)
    }

    /// Takes `keys` alone and `beside` together with others of that kind, or none: 409 with the
    /// holder.
    pub fn take_beside(&self, keys: Vec<Key>, beside: Vec<Key>, claim: &Claim) -> Result<Hold> {
        let mut held = self.lock();
        let wanted =
            keys.iter().map(|key| (key, true)).chain(beside.iter().map(|key| (key, false)));
        for (key, alone) in wanted {
            if let Some(holder) = held.in_the_way(key, alone) {
                return Err(busy(key.busy(), &key.words(), holder));
            }
        }
        for key in &keys {
            held.alone.insert(key.clone(), claim.holder());
        }
        for key in &beside {
            held.beside.entry(key.clone()).or_default().push(claim.holder());
        }
        Ok(Hold { keys, beside, task: claim.task, gate: GateRef(self.clone()) })
    }

    /// What [`take_beside`](Self::take_beside) would say now, for plans.
    pub fn would_take(&self, keys: &[Key], beside: &[Key]) -> Result<()> {
        let held = self.lock();
        let wanted =
            keys.iter().map(|key| (key, true)).chain(beside.iter().map(|key| (key, false)));
        for (key, alone) in wanted {
            if let Some(holder) = held.in_the_way(key, alone) {
                return Err(busy(key.busy(), &key.words(), holder));
            }
        }
        Ok(())
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
                let holder = held.alone.get(&key);
                let state = match holder {
                    None => Held::Free,
                    Some(Holder { yields: Some(_), .. }) => Held::Waiting,
                    Some(Holder { yields: None, .. }) => Held::Working,
                };
                let condition = condition()?;
                match (admit(condition, state, work), holder) {
                    (Admission::Busy, Some(holder)) => {
                        return Err(busy(Kind::VmBusy, &vm_words(name), holder));
                    }
                    (Admission::Preempt, Some(Holder { yields: Some(token), .. })) => token.clone(),
                    (Admission::Admit | Admission::Busy | Admission::Preempt, _) => {
                        held.alone.insert(key.clone(), claim.holder());
                        return Ok(Hold {
                            keys: vec![key],
                            beside: Vec::new(),
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
        let holder = held.alone.get(&Key::Vm(uuid));
        let state = match holder {
            None => Held::Free,
            Some(Holder { yields: Some(_), .. }) => Held::Waiting,
            Some(Holder { yields: None, .. }) => Held::Working,
        };
        match (admit(condition, state, work), holder) {
            (Admission::Busy, Some(holder)) => Err(busy(Kind::VmBusy, &vm_words(name), holder)),
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
    /// Both as one, of the same task and gate.
    #[must_use]
    pub fn with(mut self, mut other: Hold) -> Hold {
        self.keys.append(&mut other.keys);
        self.beside.append(&mut other.beside);
        self
    }

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
            if let Some(holder) = held.alone.get_mut(key).filter(|holder| holder.task == self.task)
            {
                asked |= holder.yields.take().is_some_and(|token| token.is_cancelled());
            }
        }
        !asked
    }

    fn set_yields(&self, yields: Option<CancellationToken>) {
        let mut held = self.gate.0.lock();
        for key in &self.keys {
            if let Some(holder) = held.alone.get_mut(key).filter(|holder| holder.task == self.task)
            {
                holder.yields.clone_from(&yields);
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.gate.0.lock();
        let mut recent = self.gate.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|_, holders| {
            holders.retain(|(_, released)| released.elapsed() < LATE_NEWS);
            !holders.is_empty()
        });
        for key in &self.keys {
            if held.alone.get(key).is_some_and(|holder| holder.task == self.task)
                && let Some(holder) = held.alone.remove(key)
            {
                recent.entry(key.clone()).or_default().push((holder, Instant::now()));
            }
        }
        for key in &self.beside {
            if let Some(holders) = held.beside.get_mut(key) {
                if let Some(at) = holders.iter().position(|holder| holder.task == self.task) {
                    holders.swap_remove(at);
                }
                if holders.is_empty() {
                    held.beside.remove(key);
                }
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
            Key::Mac(mac) => format!("the MAC address {mac}"),
            Key::Volume(pool, volume) => format!("the volume {pool}/{volume}"),
            Key::Pool(pool) => format!("the pool {pool:?}"),
            Key::Network(network) => format!("the network {network:?}"),
            Key::Iso(id) => format!("the ISO image {id}"),
            Key::Template(id) => format!("the template {id}"),
            Key::TemplateName(name) => format!("the name {name:?}"),
        }
    }

    fn busy(&self) -> Kind {
        match self {
            Key::Vm(_) | Key::VmName(_) | Key::Mac(_) => Kind::VmBusy,
            Key::Volume(..) => Kind::VolumeBusy,
            Key::Pool(_) => Kind::PoolBusy,
            Key::Network(_) => Kind::NetworkBusy,
            Key::Iso(_) => Kind::IsoBusy,
            Key::Template(_) | Key::TemplateName(_) => Kind::TemplateBusy,
        }
    }
}

fn vm_words(name: &str) -> String {
    format!("VM {name:?}")
}

fn busy(kind: Kind, what: &str, holder: &Holder) -> Error {
    Error::new(kind, format!("{what} is held by {} (task {})", holder.kind, holder.task))
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
