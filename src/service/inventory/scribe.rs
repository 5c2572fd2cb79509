//! Writes down what the picture's changes have to outlive, in order, and announces events.
//!
//! It gathers what has piled up while the last transaction was under way, so a burst of changes
//! costs few transactions. A database that fails costs announcements, never the picture; rows and
//! versions of definitions are offered again with the next change.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::history::{Backlog, Seen};
use crate::bus::Bus;
use crate::config::Limits;
use crate::store::{NewEvent, Store, VmRow};

/// How long the first of several entries waits for the others. An operation whose effect it is has its
/// outcome in the database by then, and need not wait for this transaction before its own.
const GATHER: Duration = Duration::from_millis(1);

/// Entries for which room is kept between two rounds.
const ROOM: usize = 64;

/// One thing to be written.
pub(super) enum Entry {
    Row(VmRow),
    RowGone(Uuid),
    Events(Vec<NewEvent>),
    /// A new version of a definition.
    Definition(Seen),
    /// All versions of this VM's go.
    DefinitionsGone(Uuid),
    /// Answered when everything before it has been offered to the database.
    Flush(oneshot::Sender<()>),
}

/// The way to the scribe.
#[derive(Clone)]
pub(super) struct Scribe(mpsc::UnboundedSender<Entry>);

impl Scribe {
    pub(super) fn write(&self, entry: Entry) {
        if self.0.send(entry).is_err() {
            tracing::error!("the scribe is gone: nothing more is recorded");
        }
    }
}

pub(super) fn start(store: Store, bus: Bus, limits: Arc<ArcSwap<Limits>>) -> Scribe {
    let (sender, mut inbox) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut batch = Vec::new();
        // What is to be saved of each VM: its row, or that it is gone.
        let mut unsaved: HashMap<Uuid, Option<VmRow>> = HashMap::new();
        let mut definitions = Backlog::default();
        // Whether versions of definitions are left from the round before.
        let mut more = false;
        loop {
            if !more {
                if inbox.recv_many(&mut batch, 4096).await == 0 {
                    return;
                }
                tokio::time::sleep(GATHER).await;
            }
            while let Ok(entry) = inbox.try_recv() {
                batch.push(entry);
            }
            let mut events = Vec::new();
            // Dropped at the end of the round, which answers them.
            let mut waiting = Vec::new();
            for entry in batch.drain(..) {
                match entry {
                    Entry::Row(row) => {
                        unsaved.insert(row.uuid, Some(row));
                    }
                    Entry::RowGone(uuid) => {
                        unsaved.insert(uuid, None);
                    }
                    Entry::Definition(seen) => definitions.add(seen),
                    Entry::DefinitionsGone(uuid) => definitions.gone(uuid),
                    Entry::Events(new) => events.extend(new),
                    Entry::Flush(reply) => waiting.push(reply),
                }
            }
            batch.shrink_to(ROOM);
            let keep = limits.load().definition_versions;
            // Offered at once, so that the database takes them in one transaction.
            ((), (), more) = tokio::join!(
                publish(&bus, events),
                save_rows(&store, &mut unsaved),
                definitions.write(&store, keep)
            );
            while more && !waiting.is_empty() {
                more = definitions.write(&store, keep).await;
            }
        }
    });
    Scribe(sender)
}

async fn publish(bus: &Bus, events: Vec<NewEvent>) {
    let count = events.len();
    if count > 0
        && let Err(error) = bus.publish(events).await
    {
        tracing::error!(error = ?error, count, "events could not be recorded");
    }
}

async fn save_rows(store: &Store, unsaved: &mut HashMap<Uuid, Option<VmRow>>) {
    if unsaved.is_empty() {
        return;
    }
    let rows = unsaved.values().flatten().cloned().collect();
    let gone = unsaved.iter().filter(|(_, row)| row.is_none()).map(|(uuid, _)| *uuid).collect();
    match store.save_vm_rows(rows, gone).await {
        // A fill's room is not kept for the few rows of every day.
        Ok(()) => *unsaved = HashMap::new(),
        Err(error) => {
            tracing::error!(error = ?error, "runtime details could not be recorded");
        }
    }
}
