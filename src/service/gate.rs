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
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATES: [VmState; 6] = [
        VmState::Running,
        VmState::Paused,
        VmState::Suspended,
        VmState::Shutoff,
        VmState::Crashed,
        VmState::ShuttingDown,
    ];

    fn stopped() -> Condition {
        Condition {
            state: VmState::Shutoff,
            persistent: true,
            has_saved_state: false,
            snapshot_count: 0,
        }
    }

    fn act(action: VmAction) -> Work {
        Work::Action { action, force: false }
    }

    #[test]
    fn stop_of_a_stopped_vm_is_already_so() {
        assert_eq!(
            admit(stopped(), Held::Free, act(VmAction::Stop)),
            Admission::AlreadySo(Kind::VmAlreadyStopped)
        );
    }

    #[test]
    fn a_paused_guest_stops_only_by_force() {
        let paused = Condition { state: VmState::Paused, ..stopped() };
        assert!(matches!(
            admit(paused, Held::Free, act(VmAction::Stop)),
            Admission::Deny(Kind::VmWrongState, _)
        ));
        let forced = Work::Action { action: VmAction::Stop, force: true };
        assert_eq!(admit(paused, Held::Free, forced), Admission::Admit);
    }

    #[test]
    fn a_crashed_vm_has_a_process_that_only_force_ends() {
        let crashed = Condition { state: VmState::Crashed, ..stopped() };
        for action in VmAction::ALL {
            let verdict = admit(crashed, Held::Free, act(action));
            match action {
                VmAction::ForceStop | VmAction::Destroy => assert_eq!(verdict, Admission::Admit),
                _ => assert!(
                    matches!(verdict, Admission::Deny(Kind::VmWrongState, _)),
                    "{action:?}: {verdict:?}"
                ),
            }
        }
        let delete =
            Work::Delete { force: false, remove_snapshots: false, remove_saved_state: false };
        let verdict = admit(crashed, Held::Free, delete);
        assert!(matches!(verdict, Admission::Deny(Kind::VmRunning, _)), "{verdict:?}");
    }

    #[test]
    fn a_transient_vm_is_not_restarted_because_its_stop_would_be_its_end() {
        let transient = Condition { state: VmState::Running, persistent: false, ..stopped() };
        for force in [false, true] {
            let restart = Work::Action { action: VmAction::Restart, force };
            let verdict = admit(transient, Held::Free, restart);
            assert!(matches!(verdict, Admission::Deny(Kind::VmTransient, _)), "{verdict:?}");
        }
    }

    #[test]
    fn every_running_vm_can_be_cut_off_even_while_its_graceful_stop_waits() {
        for state in STATES.into_iter().filter(|state| state.is_active()) {
            let condition = Condition { state, ..stopped() };
            assert_eq!(
                admit(condition, Held::Waiting, act(VmAction::ForceStop)),
                Admission::Preempt
            );
            assert_eq!(admit(condition, Held::Working, act(VmAction::ForceStop)), Admission::Busy);
        }
    }

    #[test]
    fn deletion_names_what_would_be_lost() {
        let delete = |force, remove_snapshots, remove_saved_state| Work::Delete {
            force,
            remove_snapshots,
            remove_saved_state,
        };
        let rich = Condition {
            state: VmState::Running,
            persistent: true,
            has_saved_state: true,
            snapshot_count: 2,
        };
        let kind = |admission| match admission {
            Admission::Deny(kind, _) => Some(kind),
            _ => None,
        };
        let free = Held::Free;
        assert_eq!(kind(admit(rich, free, delete(false, true, true))), Some(Kind::VmRunning));
        assert_eq!(kind(admit(rich, free, delete(true, false, true))), Some(Kind::VmHasSnapshots));
        assert_eq!(kind(admit(rich, free, delete(true, true, false))), Some(Kind::VmHasSavedState));
        assert_eq!(admit(rich, free, delete(true, true, true)), Admission::Admit);
    }

    fn claim(kind: &'static str) -> Claim {
        Claim { task: Uuid::now_v7(), kind, principal: "unix:root".to_owned(), starts: false }
    }

    #[tokio::test]
    async fn one_operation_holds_a_vm_and_the_next_is_told_who() {
        let gate = Gate::default();
        let (vm, first, second) = (Uuid::new_v4(), claim("vm.start"), claim("vm.start"));
        let start = act(VmAction::Start);
        let hold = gate.enter("web1", vm, start, || Ok(stopped()), &first).await.unwrap();
        let refused = gate.enter("web1", vm, start, || Ok(stopped()), &second).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::VmBusy);
        assert_eq!(refused.details()["task"], first.task.to_string());
        drop(hold);
        assert!(gate.enter("web1", vm, start, || Ok(stopped()), &second).await.is_ok());
    }

    #[tokio::test]
    async fn a_force_stop_takes_the_place_of_a_stop_that_waits() {
        let gate = Gate::default();
        let vm = Uuid::new_v4();
        let running = || Ok(Condition { state: VmState::Running, ..stopped() });
        let stop =
            gate.enter("web1", vm, act(VmAction::Stop), running, &claim("vm.stop")).await.unwrap();
        let token = stop.waiting();
        let waiter = tokio::spawn(async move {
            token.cancelled().await;
            assert!(!stop.working(), "the wait was ended by somebody else");
            drop(stop);
        });
        let force = act(VmAction::ForceStop);
        let hold = gate.enter("web1", vm, force, running, &claim("vm.force-stop")).await;
        assert!(hold.is_ok());
        waiter.await.unwrap();
    }

    #[test]
    fn several_keys_are_taken_together_or_not_at_all() {
        let gate = Gate::default();
        let key = |name: &str| Key::VmName(name.to_owned());
        let hold = gate.take(vec![key("b")], &claim("vm.create")).unwrap();
        assert!(gate.take(vec![key("a"), key("b")], &claim("vm.create")).is_err());
        drop(hold);
        assert_eq!(gate.held(), 0);
    }

    fn any_condition() -> impl Strategy<Value = Condition> {
        (0..STATES.len(), any::<bool>(), any::<bool>(), 0u32..3).prop_map(
            |(state, persistent, has_saved_state, snapshot_count)| Condition {
                state: STATES[state],
                persistent,
                has_saved_state,
                snapshot_count,
            },
        )
    }

    proptest! {
        /// The reference model is dumb: whoever works keeps everybody out, whatever is asked.
        #[test]
        fn nobody_enters_while_somebody_works(
            condition in any_condition(), action in 0..VmAction::ALL.len(), force: bool,
        ) {
            let work = Work::Action { action: VmAction::ALL[action], force };
            prop_assert_eq!(admit(condition, Held::Working, work), Admission::Busy);
        }

        /// An admitted action always has something to do: the state it leads to is another one,
        /// or the guest is restarted in place.
        #[test]
        fn what_is_admitted_is_never_already_so(
            condition in any_condition(), action in 0..VmAction::ALL.len(), force: bool,
        ) {
            let action = VmAction::ALL[action];
            let verdict = admit(condition, Held::Free, Work::Action { action, force });
            let goal_reached = match action {
                VmAction::Start | VmAction::Resume => condition.state == VmState::Running,
                VmAction::RestoreSaved =>
                    condition.state.is_active() && condition.state != VmState::Crashed,
                VmAction::Stop | VmAction::Shutdown | VmAction::ForceStop | VmAction::Destroy =>
                    condition.state == VmState::Shutoff,
                VmAction::Pause | VmAction::Suspend => condition.state == VmState::Paused,
                VmAction::Restart | VmAction::Reboot | VmAction::Reset | VmAction::Save => false,
            };
            if goal_reached {
                prop_assert!(matches!(verdict, Admission::AlreadySo(_)), "{:?}", verdict);
            }
        }
    }
}
