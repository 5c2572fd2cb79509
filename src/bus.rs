//! Numbered events: commit, then broadcast; replay from the store.
