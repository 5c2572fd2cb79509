//! Operations under way and done.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// Where a task stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TaskStatus {
    #[default]
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    /// The daemon or libvirt went away in the middle; `error` says what stands now.
    Interrupted,
}

impl TaskStatus {
    /// The word in the API and the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            TaskStatus::Queued => "queued",
            TaskStatus::Running => "running",
            TaskStatus::Succeeded => "succeeded",
            TaskStatus::Failed => "failed",
            TaskStatus::Cancelled => "cancelled",
            TaskStatus::Interrupted => "interrupted",
        }
    }

    /// The status with this word.
    pub fn parse(word: &str) -> Option<Self> {
        [
            TaskStatus::Queued,
            TaskStatus::Running,
            TaskStatus::Succeeded,
            TaskStatus::Failed,
            TaskStatus::Cancelled,
            TaskStatus::Interrupted,
        ]
        .into_iter()
        .find(|status| status.as_str() == word)
    }

    /// Whether nothing more will happen.
    pub const fn is_finished(self) -> bool {
        match self {
            TaskStatus::Queued | TaskStatus::Running => false,
            TaskStatus::Succeeded
            | TaskStatus::Failed
            | TaskStatus::Cancelled
            | TaskStatus::Interrupted => true,
        }
    }
}

/// The kind of thing a task or an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SubjectType {
    Vm,
    Pool,
    Volume,
    Network,
    Iso,
    Template,
    Device,
    Task,
    Host,
}

impl SubjectType {
    /// The word in the API and the store.
    pub const fn as_str(self) -> &'static str {
        match self {
            SubjectType::Vm => "vm",
            SubjectType::Pool => "pool",
            SubjectType::Volume => "volume",
            SubjectType::Network => "network",
            SubjectType::Iso => "iso",
            SubjectType::Template => "template",
            SubjectType::Device => "device",
            SubjectType::Task => "task",
            SubjectType::Host => "host",
        }
    }

    /// The type with this word.
    pub fn parse(word: &str) -> Option<Self> {
        [
            SubjectType::Vm,
            SubjectType::Pool,
            SubjectType::Volume,
            SubjectType::Network,
            SubjectType::Iso,
            SubjectType::Template,
            SubjectType::Device,
            SubjectType::Task,
            SubjectType::Host,
        ]
        .into_iter()
        .find(|subject| subject.as_str() == word)
    }
}

/// What a task or an event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct Subject {
    pub r#type: SubjectType,
    /// The UUID, where the thing has one; else its name (volumes: `pool/volume`).
    pub id: String,
    pub name: String,
}

/// How far a task is, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// What is being done, such as `shutting down` or `creating disk 2 of 3`.
    pub phase: String,
    /// 0 to 100; null while it cannot be told.
    pub percent: Option<u8>,
    pub bytes_done: Option<u64>,
    pub bytes_total: Option<u64>,
    pub bytes_per_second: Option<u64>,
    pub eta_seconds: Option<u64>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    pub id: Uuid,
    /// `vm.start`, `vm.create`, `volume.delete`, …
    pub kind: String,
    pub status: TaskStatus,
    pub subject: Subject,
    /// Who asked for it.
    pub principal: String,
    pub request_id: String,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub progress: Progress,
    pub cancellable: bool,
    pub parent: Option<Uuid>,
    /// What whoever asked should know of, although it is done; replies have them as headers, too.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What a client would have got had it waited; null until then.
    #[schema(value_type = Option<Object>)]
    pub result: Option<serde_json::Value>,
    /// `code`, `message`, `details` and `hint` of a failure.
    #[schema(value_type = Option<Object>)]
    pub error: Option<serde_json::Value>,
}

/// One line of a task's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskLogLine {
    pub time: Timestamp,
    pub message: String,
}
