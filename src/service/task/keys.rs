//! Requests that carry the same idempotency key take turns.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

type Turn = tokio::sync::Mutex<()>;

/// One lock per key in use.
#[derive(Default)]
pub(super) struct KeyLocks {
    turns: Mutex<HashMap<(String, String), Weak<Turn>>>,
}

impl KeyLocks {
    /// Waits for this key's turn.
    pub(super) async fn lock(&self, principal: &str, key: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let slot = turns.entry((principal.to_owned(), key.to_owned())).or_default();
            slot.upgrade().unwrap_or_else(|| {
                let turn = Arc::new(Turn::default());
                *slot = Arc::downgrade(&turn);
                turn
            })
        };
        turn.lock_owned().await
    }
}
