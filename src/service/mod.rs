//! The use cases, one file or folder per noun.
//!
//! A mutation is an operation: [`gate`] admits it, [`task`] journals it before its first side
//! effect, runs it detached from whoever asked, and records the outcome. A read is served from
//! the [`inventory`] and costs no libvirt call and no SQLite statement.

pub mod adopt;
pub mod cloud_init;
pub mod gate;
pub mod host;
pub mod ignition;
pub mod inventory;
pub mod iso;
pub mod kvm;
pub mod network;
pub mod operation;
pub mod os_variant;
pub mod page;
pub mod pool;
pub mod runtime;
pub mod task;
pub mod template;
pub mod transfer;
pub mod vm;
pub mod volume;

use std::time::Duration;

use serde::Serialize;

use crate::bus::Bus;
use crate::error::{Error, Kind, Result};
use crate::model::{Plan, Principal, Task};
pub use crate::store::{Idempotency, TaskQuery};

pub use host::HostService;
pub use iso::IsoService;
pub use network::NetworkService;
pub use operation::Tools;
pub use os_variant::OsVariantService;
pub use page::{Page, PageQuery};
pub use pool::PoolService;
pub use task::TaskService;
pub use template::TemplateService;
pub use transfer::TransferService;
pub use vm::VmService;
pub use volume::VolumeService;

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

    /// 412 unless `If-Match` is absent or names the version that is there.
    pub(crate) fn expect_version(&self, what: impl std::fmt::Display, present: &str) -> Result<()> {
        let Some(wanted) = &self.if_match else { return Ok(()) };
        if wanted.split(',').any(|tag| tag.trim() == "*" || bare(tag) == bare(present)) {
            return Ok(());
        }
        let message = format!("{what} has changed: its version is {present}");
        Err(Error::new(Kind::PreconditionFailed, message).with_detail("etag", present))
    }
}

/// An entity tag without its quotes, and without what marks a VM that libvirt cannot be asked of.
fn bare(tag: &str) -> &str {
    tag.trim().trim_matches('"').trim_end_matches("-stale")
}

/// The entity tag of what a client sees of an object, the same after a restart of the daemon.
pub fn etag(object: &impl Serialize) -> Result<String> {
    let text = serde_json::to_vec(object).map_err(Error::internal)?;
    Ok(format!("\"{:016x}\"", page::stable_hash(&text)))
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
    pub pools: PoolService,
    pub volumes: VolumeService,
    pub transfers: TransferService,
    pub networks: NetworkService,
    pub isos: IsoService,
    pub templates: TemplateService,
    pub os_variants: OsVariantService,
    pub host: HostService,
    pub tasks: TaskService,
    pub bus: Bus,
}
