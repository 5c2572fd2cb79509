//! The use cases, one file or folder per noun.
//!
//! A mutation is an operation: [`gate`] admits it, [`task`] journals it before its first side
//! effect, runs it detached from whoever asked, and records the outcome. A read is served from
//! the [`inventory`] and costs no libvirt call and no SQLite statement.

pub mod gate;
pub mod host;
pub mod inventory;
pub mod kvm;
pub mod network;
pub mod page;
pub mod runtime;
pub mod storage;
pub mod task;
pub mod vm;

use std::time::Duration;

use crate::bus::Bus;
use crate::model::{Plan, Principal, Task};
pub use crate::store::{Idempotency, TaskQuery};

pub use host::HostService;
pub use network::NetworkService;
pub use page::{Page, PageQuery};
pub use storage::StorageService;
pub use task::TaskService;
pub use vm::VmService;

/// Everything a caller says about a mutation besides what it is.
#[derive(Clone, Debug)]
pub struct Context {
    pub principal: Principal,
    pub request_id: String,
    pub idempotency: Option<Idempotency>,
    /// Plan only; change nothing.
    pub dry_run: bool,
    /// The raw header `If-Match`.
    pub if_match: Option<String>,
    /// How long to wait for the result; `None` is the operation's own default.
    pub wait: Option<Duration>,
}

impl Context {
    /// The context of what Vapor does on its own account.
    pub fn system() -> Self {
        Context {
            principal: Principal::System,
            request_id: String::new(),
            idempotency: None,
            dry_run: false,
            if_match: None,
            wait: None,
        }
    }
}

/// What became of a mutation. A failure is an `Err`.
#[derive(Debug)]
pub enum Outcome {
    /// Finished within the wait; `task.result` is what the client gets.
    Done(Box<Task>),
    /// Goes on; the client may follow the task.
    Accepted(Box<Task>),
    /// Only planned.
    Planned(Box<Plan>),
}

/// All services, cheap to clone.
#[derive(Clone)]
pub struct Services {
    pub vms: VmService,
    pub storage: StorageService,
    pub networks: NetworkService,
    pub host: HostService,
    pub tasks: TaskService,
    pub bus: Bus,
}
