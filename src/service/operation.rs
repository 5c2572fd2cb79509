//! What the operations of every noun share: the services they stand on, and the words of a plan.

use std::time::Duration;

use super::Outcome;
use super::gate::Gate;
use super::inventory::Inventory;
use super::task::TaskService;
use crate::error::{Error, Kind, Result};
use crate::libvirt::Hypervisor;
use crate::model::plan::Blocker;
use crate::model::{Plan, Subject};
use crate::xml;

/// A libvirt call of an operation that takes longer gets a spare worker in its place.
pub(crate) const SLOW_CALL: Duration = Duration::from_secs(5);

/// What the services of the nouns stand on; cheap to clone.
#[derive(Clone)]
pub struct Tools {
    pub inventory: Inventory,
    pub hypervisor: Hypervisor,
    pub tasks: TaskService,
    pub gate: Gate,
}

impl Tools {
    /// Refuses with 503 what needs libvirt while it is away, before anything is journalled.
    pub(crate) fn need_libvirt(&self) -> Result<()> {
        let status = self.hypervisor.status();
        if status.connected {
            return Ok(());
        }
        let reason = status.reason.as_deref().unwrap_or("it does not answer");
        Err(Error::new(Kind::LibvirtUnavailable, format!("libvirt at {}: {reason}", status.uri))
            .with_retry_after(Duration::from_secs(2)))
    }
}

/// The plan of an operation that makes, changes or deletes one thing: from one XML to another,
/// either of which may be empty, and what happens besides.
pub(crate) fn plan(
    operation: &str,
    subject: Subject,
    (old, new): (&str, &str),
    side_effects: Vec<String>,
    blocked: Result<()>,
) -> Outcome {
    Outcome::Planned(Box::new(Plan {
        xml_diff: xml::diff::unified(old, new),
        side_effects,
        blockers: blockers(blocked),
        ..Plan::of(operation, subject)
    }))
}

/// What stands against an operation, in the words of a plan.
pub(crate) fn blockers(blocked: Result<()>) -> Vec<Blocker> {
    blocked
        .err()
        .map(|error| Blocker {
            code: error.kind().code().to_owned(),
            message: error.message().to_owned(),
            hint: error.hint().to_owned(),
        })
        .into_iter()
        .collect()
}
