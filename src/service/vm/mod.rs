//! Virtual machines: the use cases behind `V` of the API.
//!
//! Reads come from the inventory. Each mutation has a file of its own and the same course: find,
//! check `If-Match`, pass the gate, plan or submit; the work is one libvirt hop that brings back
//! the VM's fresh facts, which are in the picture before the client gets its answer.

mod action;
mod adopt;
mod create;
mod define;
mod delete;
mod draft;
mod follow;
mod list;
mod update;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::Context;
use super::gate::{Condition, Gate};
use super::inventory::{self, Fetched, Inventory, VmRecord};
use super::storage::SLOW_CALL;
use super::task::{End, TaskService};
use crate::config::DomainType;
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Hypervisor, Lane, Session};
use crate::model::{Subject, SubjectType, Vm};

pub use delete::DeleteVm;
pub use list::{VmPage, VmQuery};

/// How long the result of an act waits for a libvirt that was lost right after it.
const READ_AGAIN: Duration = Duration::from_secs(30);

/// How long a mutation waits for a VM to be read after libvirt's return. One whose QEMU hangs may
/// not be readable at all, and must still be possible to stop.
const FRESH_WAIT: Duration = Duration::from_secs(5);

/// The use cases of VMs; cheap to clone.
#[derive(Clone)]
pub struct VmService {
    inventory: Inventory,
    hypervisor: Hypervisor,
    tasks: TaskService,
    gate: Gate,
    domain_type: DomainType,
}

impl VmService {
    pub fn new(
        inventory: Inventory,
        hypervisor: Hypervisor,
        tasks: TaskService,
        gate: Gate,
        domain_type: DomainType,
    ) -> Self {
        VmService { inventory, hypervisor, tasks, gate, domain_type }
    }

    /// One VM by UUID or name.
    pub fn get(&self, id: &str) -> Result<Arc<VmRecord>> {
        self.inventory.vm(id)
    }

    /// The definition as libvirt last told it, without secrets: of the running VM, or of the next
    /// boot.
    pub fn xml(&self, id: &str, inactive: bool) -> Result<Arc<str>> {
        let record = self.get(id)?;
        let definition = if inactive { record.definition() } else { &record.xml };
        definition.text().map(Arc::from)
    }

    /// What the gate needs to know, as of now.
    fn condition(&self, uuid: Uuid) -> Result<Condition> {
        let picture = self.inventory.picture();
        let record = picture.by_uuid.get(&uuid).ok_or_else(|| {
            Error::new(Kind::VmNotFound, format!("the VM {uuid} has just been deleted"))
        })?;
        Ok(condition(&record.vm))
    }

    /// One hop: acts, then fetches the VM's facts in the same closure, and takes them into the
    /// picture. The facts are fetched even if the act fails, because a failure may have changed
    /// something too.
    async fn act<F>(&self, uuid: Uuid, lane: Lane, act: F) -> Result<Option<Arc<VmRecord>>>
    where
        F: FnOnce(&Session) -> Result<()> + Send + 'static,
    {
        let tickets = self.inventory.tickets();
        let (acted, ticket, fetched) = self
            .hypervisor
            .run_to_end(lane, SLOW_CALL, move |session| {
                let acted = act(session);
                let ticket = tickets.draw();
                Ok((acted, ticket, fetch_if_there(session, uuid)))
            })
            .await?;
        let record = match fetched {
            Ok(fetched) => self.inventory.apply(uuid, fetched, ticket).await?,
            Err(error) => {
                tracing::warn!(vm = %uuid, error = ?error, "the VM could not be read after acting");
                match &acted {
                    Ok(()) => self.read_again(uuid, error).await,
                    Err(_) => None,
                }
            }
        };
        acted?;
        Ok(record)
    }

    /// What an act led to, where libvirt was lost between the two: read when it is back, so that
    /// whoever asked for it does not go on with what was before. As last seen if that takes long.
    async fn read_again(&self, uuid: Uuid, lost: Error) -> Option<Arc<VmRecord>> {
        let begun = Instant::now();
        let mut error = lost;
        while error.kind() == Kind::LibvirtUnavailable && begun.elapsed() < READ_AGAIN {
            tokio::time::sleep(Duration::from_millis(200)).await;
            match self.inventory.refresh(uuid, Duration::from_secs(5)).await {
                Ok(record) => return record,
                Err(again) => error = again,
            }
        }
        self.inventory.picture().by_uuid.get(&uuid).cloned()
    }

    /// Refuses with 503 what needs libvirt while it is away, before anything is journalled. Right
    /// after its return it waits a little for this VM to be read anew: by what was known before,
    /// a VM could be refused or admitted what it is not in a state for.
    async fn need_libvirt(&self, uuid: Option<Uuid>) -> Result<()> {
        let begun = Instant::now();
        let status = loop {
            let status = self.hypervisor.status();
            let picture = self.inventory.picture();
            let record = uuid.and_then(|uuid| picture.by_uuid.get(&uuid));
            let old = record.is_some_and(|record| record.vm.stale.is_some());
            if !status.connected || !old || begun.elapsed() > FRESH_WAIT {
                break status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        if status.connected {
            return Ok(());
        }
        let reason = status.reason.as_deref().unwrap_or("it does not answer");
        Err(Error::new(Kind::LibvirtUnavailable, format!("libvirt at {}: {reason}", status.uri))
            .with_retry_after(Duration::from_secs(2)))
    }
}

/// The facts, or `None` if the VM is gone.
fn fetch_if_there(session: &Session, uuid: Uuid) -> Result<Option<Fetched>> {
    match inventory::fetch(session, uuid) {
        Ok(fetched) => Ok(Some(fetched)),
        Err(error) if error.kind() == Kind::VmNotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn condition(vm: &Vm) -> Condition {
    Condition {
        state: vm.state,
        persistent: vm.persistent,
        has_saved_state: vm.has_saved_state,
        snapshot_count: vm.snapshot_count,
    }
}

fn subject(vm: &Vm) -> Subject {
    Subject { r#type: SubjectType::Vm, id: vm.uuid.to_string(), name: vm.name.clone() }
}

/// The VM as the result of its task.
fn result_of(record: Option<&Arc<VmRecord>>) -> Result<End> {
    let value = match record {
        Some(record) => serde_json::from_slice(&record.json).map_err(Error::internal)?,
        None => Value::Null,
    };
    Ok(End::Done(value))
}

/// 412 unless `If-Match` is absent or names the present version.
fn check_if_match(ctx: &Context, record: &VmRecord) -> Result<()> {
    let Some(wanted) = &ctx.if_match else { return Ok(()) };
    let present = record.etag.trim_end_matches("-stale\"").trim_matches('"');
    let matches = wanted
        .split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_matches('"').trim_end_matches("-stale") == present);
    if matches {
        return Ok(());
    }
    Err(Error::new(
        Kind::PreconditionFailed,
        format!("VM {:?} has changed: its version is {}", record.vm.name, record.etag),
    )
    .with_detail("etag", record.etag.as_str()))
}
