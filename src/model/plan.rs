//! What a change would do, before it is done.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Subject;

/// When a changed field takes hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    Live,
    NextBoot,
    /// Of a network: when it is started the next time.
    NextStart,
    Impossible,
}

/// One field that would change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    pub field: String,
    pub from: serde_json::Value,
    pub to: serde_json::Value,
    pub effect: Effect,
    /// Why it is not live, where it is not.
    pub reason: Option<String>,
}

/// Why the operation would be refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Blocker {
    pub code: String,
    pub message: String,
    pub hint: String,
}

/// The answer to `?dry_run=true`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// The kind that the task would have, such as `vm.update`.
    pub operation: String,
    pub subject: Subject,
    pub changes: Vec<Change>,
    /// A unified diff of the definition; empty if it does not change.
    pub xml_diff: String,
    /// What else would happen: volumes created or deleted, a guest stopped.
    pub side_effects: Vec<String>,
    /// What is unusual and would be done all the same.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Empty if the operation would be admitted now.
    pub blockers: Vec<Blocker>,
}

impl Plan {
    /// One of an operation that changes nothing yet.
    pub fn of(operation: impl Into<String>, subject: Subject) -> Self {
        Plan {
            operation: operation.into(),
            subject,
            changes: Vec::new(),
            xml_diff: String::new(),
            side_effects: Vec::new(),
            warnings: Vec::new(),
            blockers: Vec::new(),
        }
    }
}
