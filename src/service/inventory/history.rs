//! The history of definitions: what of the picture's changes is a new version, and whose work it is.
//!
//! ```text
//!   a record ──▶ its definition's hash ──▶ as known: nothing
//!                                     └──▶ another one: whoever holds the VM now, if its kind of
//!                                          work changes definitions, else others ──▶ scribe
//! ```
//!
//! The actor compares hashes in memory, so that a VM that has not changed costs nothing, a restart
//! included. The XML is the one that the record holds anyway: no libvirt call is made for it. What
//! the first fill finds waits until the picture is served, and is written in small transactions
//! between which others have their turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use uuid::Uuid;

use super::definition::Definition;
use super::events::redefines;
use super::picture::VmRecord;
use super::scribe::{Entry, Scribe};
use crate::config::Limits;
use crate::error::Result;
use crate::model::Task;
use crate::service::gate::{Gate, Key};
use crate::store::{DefinitionCause, DefinitionChange, NewDefinition, Store};

/// How many versions one transaction writes.
const CHUNK: usize = 64;

/// How many are kept while the database fails; the oldest are given up first.
const MOST: usize = 4096;

/// The hash of each VM's newest version. Without a history, what was kept before is removed.
pub(super) async fn heads(store: &Store, limits: &ArcSwap<Limits>) -> Result<HashMap<Uuid, u64>> {
    let heads = store.definition_heads().await?;
    if heads.is_empty() || limits.load().definition_versions > 0 {
        return Ok(heads.into_iter().collect());
    }
    store.clear_definitions().await?;
    Ok(HashMap::new())
}

/// A version on its way to the database.
pub(super) struct Seen {
    vm: Uuid,
    at: Timestamp,
    cause: Option<DefinitionCause>,
    hash: u64,
    xml: Definition,
}

/// What the actor knows of the history.
pub(super) struct History {
    /// The hash of each VM's newest version.
    known: HashMap<Uuid, u64>,
    gate: Gate,
    limits: Arc<ArcSwap<Limits>>,
    scribe: Scribe,
    /// Which VMs the daemon before this one was changing when it ended. What it had stored of that is
    /// found before the picture is served.
    cut_off: HashMap<Uuid, DefinitionCause>,
    /// What was found before the picture is served.
    waiting: Vec<Seen>,
}

impl History {
    pub(super) fn new(
        known: HashMap<Uuid, u64>,
        unfinished: Vec<Task>,
        gate: Gate,
        limits: Arc<ArcSwap<Limits>>,
        scribe: Scribe,
    ) -> Self {
        let cut_off = unfinished.into_iter().filter(|task| redefines(&task.kind));
        let cut_off = cut_off.filter_map(|task| {
            let vm = task.subject.id.parse().ok()?;
            let Task { id, principal, kind, .. } = task;
            Some((vm, DefinitionCause { principal, task: id, operation: kind }))
        });
        History { known, cut_off: cut_off.collect(), gate, limits, scribe, waiting: Vec::new() }
    }

    /// To be told of every record. A transient VM has no definition that is stored: what is known of
    /// the time when it had one stays.
    pub(super) fn see(&mut self, record: &VmRecord, served: bool) {
        let (vm, hash) = (record.vm.uuid, record.definition_hash);
        let stored =
            record.vm.persistent && (record.brief.id.is_none() || record.inactive_xml.is_some());
        if !stored
            || self.known.get(&vm) == Some(&hash)
            || self.limits.load().definition_versions == 0
        {
            return;
        }
        self.known.insert(vm, hash);
        let cause = if served {
            // An operation's own facts are in the picture before it lets go of the VM, so what is seen a
            // moment later is somebody else's.
            let holder = self.gate.holder(&Key::Vm(vm)).filter(|holder| redefines(holder.kind));
            holder.map(|holder| DefinitionCause {
                principal: holder.principal,
                task: holder.task,
                operation: holder.kind.to_owned(),
            })
        } else {
            self.cut_off.get(&vm).cloned()
        };
        let seen = Seen { vm, at: Timestamp::now(), cause, hash, xml: record.definition().clone() };
        if served {
            self.scribe.write(Entry::Definition(seen));
        } else {
            self.waiting.push(seen);
        }
    }

    /// The VM is gone.
    pub(super) fn forget(&mut self, vm: Uuid) {
        if self.known.remove(&vm).is_some() {
            self.waiting.retain(|seen| seen.vm != vm);
            self.scribe.write(Entry::DefinitionsGone(vm));
        }
    }

    /// The VMs that have a history.
    pub(super) fn known(&self) -> impl Iterator<Item = &Uuid> {
        self.known.keys()
    }

    /// The picture is served from now on.
    pub(super) fn release(&mut self) {
        self.cut_off.clear();
        for seen in std::mem::take(&mut self.waiting) {
            self.scribe.write(Entry::Definition(seen));
        }
    }
}

enum Change {
    New(Seen),
    Gone(Uuid),
}

impl Change {
    /// In the words of the store.
    fn unpacked(&self) -> Result<DefinitionChange> {
        Ok(match self {
            Change::Gone(vm) => DefinitionChange::Gone(*vm),
            Change::New(seen) => DefinitionChange::New(NewDefinition {
                vm: seen.vm,
                at: seen.at,
                cause: seen.cause.clone(),
                hash: seen.hash,
                xml: seen.xml.text()?,
            }),
        })
    }
}

/// What the scribe has still to write.
#[derive(Default)]
pub(super) struct Backlog(VecDeque<Change>);

impl Backlog {
    pub(super) fn add(&mut self, seen: Seen) {
        self.0.push_back(Change::New(seen));
    }

    pub(super) fn gone(&mut self, vm: Uuid) {
        self.0.push_back(Change::Gone(vm));
    }

    /// Writes the oldest of it in one transaction. Returns whether there is more that can be written
    /// now; what the database refused is offered again with the next change.
    pub(super) async fn write(&mut self, store: &Store, keep: u64) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let count = self.0.len().min(CHUNK);
        let mut changes = Vec::with_capacity(count);
        for change in self.0.iter().take(count) {
            match change.unpacked() {
                Ok(change) => changes.push(change),
                Err(error) => tracing::error!(error = ?error, "a version of a VM is lost"),
            }
        }
        match store.save_definitions(changes, keep).await {
            Ok(()) => {
                self.0.drain(..count);
                if self.0.is_empty() {
                    // A fill's room is not kept for the few changes of every day.
                    self.0 = VecDeque::new();
                }
                !self.0.is_empty()
            }
            Err(error) => {
                tracing::error!(error = ?error, "versions of VMs could not be recorded");
                self.0.drain(..self.0.len().saturating_sub(MOST));
                false
            }
        }
    }
}
