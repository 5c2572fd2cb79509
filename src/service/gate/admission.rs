//! What a VM's condition and its holder allow: pure, without I/O and without locks.

use crate::error::Kind;
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
    /// Reads its disks, stopped or while it runs.
    Clone,
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
        Work::Clone => admit_clone(condition),
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

fn admit_clone(condition: Condition) -> Admission {
    use VmState::{Crashed, Paused, Running, Shutoff, ShuttingDown, Suspended};
    match condition.state {
        Shutoff if condition.has_saved_state => Admission::Deny(
            Kind::VmHasSavedState,
            "has a saved state, without which its disks are as after a power cut; start it first",
        ),
        Running | Paused | Shutoff => Admission::Admit,
        Suspended => Admission::Deny(Kind::VmWrongState, "sleeps; resume it first"),
        ShuttingDown => Admission::Deny(Kind::VmWrongState, "is shutting down"),
        Crashed => Admission::Deny(Kind::VmWrongState, "has crashed; force-stop it first"),
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
