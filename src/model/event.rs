//! Numbered events.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Subject;

/// One thing that happened. `seq` grows without gaps that a client is not told of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    pub seq: u64,
    pub time: Timestamp,
    /// `vm.started`, `vm.defined`, `task.finished`, `libvirt.disconnected`, …
    pub kind: String,
    pub subject: Subject,
    /// Who caused it, where Vapor knows.
    pub principal: Option<String>,
    /// The task it belongs to, where there is one.
    pub task: Option<Uuid>,
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}
