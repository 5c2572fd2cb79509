//! Writes down what the picture's changes have to outlive, in order, and announces events.
//!
//! It gathers what has piled up while the last transaction was under way, so a burst of changes
//! costs few transactions. A database that fails costs announcements, never the picture; rows are
//! offered again with the next change.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::bus::Bus;
use crate::store::{NewEvent, Store, VmRow};

/// One thing to be written.
pub(super) enum Entry {
    Row(VmRow),
    RowGone(Uuid),
    Events(Vec<NewEvent>),
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

pub(super) fn start(store: Store, bus: Bus) -> Scribe {
    let (sender, mut inbox) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut batch = Vec::new();
        // What is to be saved of each VM: its row, or that it is gone.
        let mut unsaved: HashMap<Uuid, Option<VmRow>> = HashMap::new();
        while inbox.recv_many(&mut batch, 4096).await > 0 {
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
                    Entry::Events(new) => events.extend(new),
                    Entry::Flush(reply) => waiting.push(reply),
                }
            }
            if !events.is_empty() {
                let count = events.len();
                if let Err(error) = bus.publish(events).await {
                    tracing::error!(error = ?error, count, "events could not be recorded");
                }
            }
            if unsaved.is_empty() {
                continue;
            }
            let rows = unsaved.values().flatten().cloned().collect();
            let gone =
                unsaved.iter().filter(|(_, row)| row.is_none()).map(|(uuid, _)| *uuid).collect();
            match store.save_vm_rows(rows, gone).await {
                Ok(()) => unsaved.clear(),
                Err(error) => {
                    tracing::error!(error = ?error, "runtime details could not be recorded");
                }
            }
        }
    });
    Scribe(sender)
}
