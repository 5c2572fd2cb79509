//! Admission against a dumb model, and the registry of holds.

use super::*;
use crate::model::{VmAction, VmState};
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
    let delete = Work::Delete { force: false, remove_snapshots: false, remove_saved_state: false };
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
        assert_eq!(admit(condition, Held::Waiting, act(VmAction::ForceStop)), Admission::Preempt);
        assert_eq!(admit(condition, Held::Working, act(VmAction::ForceStop)), Admission::Busy);
    }
}

#[test]
fn a_vm_is_cloned_stopped_or_running_and_not_without_its_saved_state() {
    for state in STATES {
        for has_saved_state in [false, true] {
            let condition = Condition { state, has_saved_state, ..stopped() };
            let verdict = admit(condition, Held::Free, Work::Clone);
            match state {
                VmState::Running | VmState::Paused => assert_eq!(verdict, Admission::Admit),
                VmState::Shutoff if !has_saved_state => assert_eq!(verdict, Admission::Admit),
                VmState::Shutoff => {
                    assert!(matches!(verdict, Admission::Deny(Kind::VmHasSavedState, _)));
                }
                VmState::Suspended | VmState::Crashed | VmState::ShuttingDown => {
                    assert!(matches!(verdict, Admission::Deny(Kind::VmWrongState, _)));
                }
            }
            assert_eq!(admit(condition, Held::Working, Work::Clone), Admission::Busy);
        }
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

#[test]
fn a_pool_is_shared_by_work_on_its_volumes_and_alone_for_its_own() {
    let gate = Gate::default();
    let pool = || vec![Key::Pool("images".to_owned())];
    let volume = |name: &str| vec![Key::Volume("images".to_owned(), name.to_owned())];
    let one = gate.take_beside(volume("a"), pool(), &claim("volume.create")).unwrap();
    let other = gate.take_beside(volume("b"), pool(), &claim("volume.create")).unwrap();
    let delete = claim("pool.delete");
    let refused = gate.take(pool(), &delete).unwrap_err();
    assert_eq!(refused.kind(), Kind::PoolBusy);
    assert_eq!(gate.would_take(&pool(), &[]).unwrap_err().kind(), Kind::PoolBusy);
    drop(one);
    assert!(gate.take(pool(), &delete).is_err(), "the other one is still there");
    drop(other);
    let alone = gate.take(pool(), &delete).unwrap();
    let beside = gate.take_beside(volume("c"), pool(), &claim("volume.create")).unwrap_err();
    assert_eq!(beside.details()["operation"], "pool.delete");
    drop(alone);
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

#[test]
fn news_is_the_work_of_who_does_such_things_now_or_just_did() {
    let gate = Gate::default();
    let uuid = Uuid::new_v4();
    let claim = |kind| Claim {
        task: Uuid::new_v4(),
        kind,
        principal: "unix:ann".to_owned(),
        starts: false,
    };
    let (stop, update) = (claim("vm.stop"), claim("vm.update"));
    let stopped =
        || gate.cause(&Key::Vm(uuid), |holder| holder.kind == "vm.stop").map(|holder| holder.task);
    assert_eq!(stopped(), None);
    let hold = gate.take(vec![Key::Vm(uuid)], &stop).expect("free");
    assert_eq!(stopped(), Some(stop.task));
    drop(hold);
    // Somebody else holds the VM by now, who stops nothing.
    let hold = gate.take(vec![Key::Vm(uuid)], &update).expect("free");
    assert_eq!(stopped(), Some(stop.task));
    std::thread::sleep(LATE_NEWS);
    assert_eq!(stopped(), None, "too long ago");
    drop(hold);
    assert_eq!(gate.cause(&Key::Vm(Uuid::new_v4()), |_| true).map(|holder| holder.task), None);
}

#[test]
fn whoever_may_have_caused_news_is_told_in_their_order() {
    let gate = Gate::default();
    let key = Key::Pool("images".to_owned());
    let claim = |kind| Claim {
        task: Uuid::new_v4(),
        kind,
        principal: "unix:ann".to_owned(),
        starts: false,
    };
    let claims = [claim("pool.stop"), claim("pool.start"), claim("pool.delete")];
    let tasks = || gate.causes(&key).iter().map(|holder| holder.task).collect::<Vec<_>>();
    assert_eq!(tasks(), [] as [Uuid; 0]);
    let mut holds: Vec<_> = claims
        .iter()
        .map(|claim| gate.take(vec![key.clone()], claim).map(drop).map(|()| claim.task))
        .collect::<Result<_>>()
        .expect("free");
    assert_eq!(tasks(), holds);
    let last = claim("pool.create");
    let hold = gate.take(vec![key.clone()], &last).expect("free");
    holds.push(last.task);
    assert_eq!(tasks(), holds);
    std::thread::sleep(LATE_NEWS);
    assert_eq!(tasks(), [last.task], "the others were too long ago");
    drop(hold);
    assert_eq!(tasks(), [last.task]);
}
