//! Which VMs operations act on. An operation reads its VM again right after it has acted, so the event
//! that it causes needs no reading of its own: the two would ask libvirt the same at the same time, and
//! each would wait for the other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use uuid::Uuid;

/// How long an event waits for the operation that acts on its VM. Most calls come back at once after
/// their event; of one that goes on, such as a save, the event has to be seen meanwhile.
const GRACE: Duration = Duration::from_millis(10);

type Acting = HashMap<Uuid, watch::Receiver<u64>>;

/// The operations that act at this moment.
#[derive(Clone, Default)]
pub struct Acts(Arc<Mutex<Acting>>);

/// One operation that acts on a VM, until it is dropped.
pub struct Act {
    acts: Acts,
    uuid: Uuid,
    seen: watch::Sender<u64>,
}

impl Acts {
    fn acting(&self) -> MutexGuard<'_, Acting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before the call that acts.
    pub fn begin(&self, uuid: Uuid) -> Act {
        let (seen, receiver) = watch::channel(0);
        self.acting().insert(uuid, receiver);
        Act { acts: self.clone(), uuid, seen }
    }

    /// Waits a moment for an operation that acts on this VM, if one does. Whether it has taken facts
    /// into the picture that were fetched later than under this ticket.
    pub(super) async fn seen_after(&self, uuid: Uuid, ticket: u64) -> bool {
        let Some(mut seen) = self.acting().get(&uuid).cloned() else { return false };
        let later = seen.wait_for(|seen| *seen > ticket);
        matches!(tokio::time::timeout(GRACE, later).await, Ok(Ok(_)))
    }
}

impl Act {
    /// The facts that were fetched under this ticket after the call are in the picture.
    pub fn seen(&self, ticket: u64) {
        self.seen.send_replace(ticket);
    }
}

impl Drop for Act {
    fn drop(&mut self) {
        let mut acting = self.acts.acting();
        // Another operation may act on it by now.
        if acting.get(&self.uuid).is_some_and(|other| other.same_channel(&self.seen.subscribe())) {
            acting.remove(&self.uuid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: Uuid = Uuid::from_u128(7);

    #[tokio::test]
    async fn only_facts_fetched_after_the_event_are_as_good_as_its_own() {
        let acts = Acts::default();
        assert!(!acts.seen_after(VM, 1).await, "nobody acts");
        let act = acts.begin(VM);
        let event = tokio::spawn({
            let acts = acts.clone();
            async move { acts.seen_after(VM, 5).await }
        });
        tokio::task::yield_now().await;
        act.seen(6);
        assert!(event.await.expect("it ends"));
        assert!(!acts.seen_after(VM, 6).await, "an event that came later");
        assert!(!acts.seen_after(Uuid::from_u128(8), 1).await, "another VM");
    }

    #[tokio::test]
    async fn an_act_that_goes_on_or_fails_does_not_hold_its_events() {
        let acts = Acts::default();
        let act = acts.begin(VM);
        let begun = tokio::time::Instant::now();
        assert!(!acts.seen_after(VM, 1).await);
        assert!(begun.elapsed() >= GRACE);
        let next = acts.begin(VM);
        drop(act);
        next.seen(9);
        assert!(acts.seen_after(VM, 8).await, "the second one goes on");
        drop(next);
        assert!(!acts.seen_after(VM, 8).await, "nobody acts any more");
    }
}
