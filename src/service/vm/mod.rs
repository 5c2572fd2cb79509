//! Virtual machines: the use cases behind `V` of the API.
//!
//! Reads come from the inventory. Each mutation has a file of its own and the same course: find,
//! check `If-Match`, pass the gate, plan or submit; the work is one libvirt hop that brings back
//! the VM's fresh facts, which are in the picture before the client gets its answer.

mod action;
mod adopt;
mod clone;
mod create;
mod define;
mod delete;
mod draft;
pub mod faults;
mod follow;
mod history;
mod ignition;
mod leftover;
mod list;
mod media;
mod reseed;
mod seed;
mod update;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::Context;
use super::adopt::judge_after_loss;
use super::gate::{Claim, Condition, Hold, Work};
use super::inventory::{self, Fetched, Outline, VmRecord};
use super::iso::IsoService;
use super::operation::{SLOW_CALL, Tools};
use super::os_variant::OsVariantService;
use super::task::{End, TaskHandle};
use crate::config::{DomainType, Limits, Security};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session};
use crate::model::{Subject, SubjectType, VolumeRef};

pub(crate) use clone::{own_disks, volume_of};
pub use delete::DeleteVm;
pub(crate) use draft::check_shape;
pub use list::{VmPage, VmQuery};

/// How long the result of an act waits for a libvirt that was lost right after it.
const READ_AGAIN: Duration = Duration::from_secs(30);

/// How long a mutation waits for a VM to be read after libvirt's return. One whose QEMU hangs may
/// not be readable at all, and must still be possible to stop.
const FRESH_WAIT: Duration = Duration::from_secs(5);

/// The use cases of VMs; cheap to clone.
#[derive(Clone)]
pub struct VmService {
    tools: Tools,
    domain_type: DomainType,
    ground: Ground,
}

/// What new VMs are held to, and what they may name besides what libvirt has.
#[derive(Clone)]
pub struct Ground {
    pub isos: IsoService,
    pub os_variants: OsVariantService,
    /// `[limits]`, as of now.
    pub limits: Arc<ArcSwap<Limits>>,
    pub security: Arc<Security>,
}

impl VmService {
    pub fn new(tools: Tools, domain_type: DomainType, ground: Ground) -> Self {
        VmService { tools, domain_type, ground }
    }

    /// One VM by UUID or name.
    pub fn get(&self, id: &str) -> Result<Arc<VmRecord>> {
        self.tools.inventory.vm(id)
    }

    /// The definition as libvirt last told it, without secrets: of the running VM, or of the next
    /// boot.
    pub fn xml(&self, id: &str, inactive: bool) -> Result<Arc<str>> {
        let record = self.get(id)?;
        let definition = if inactive { record.definition() } else { &record.xml };
        definition.text().map(Arc::from)
    }

    /// 412 unless `If-Match` is absent or names the present version.
    pub(crate) fn check_version(&self, ctx: &Context, record: &VmRecord) -> Result<()> {
        check_if_match(ctx, record)
    }

    /// Whether the VM may be worked on so, for plans.
    pub(crate) fn would_admit(&self, record: &VmRecord, work: Work) -> Result<()> {
        let (name, uuid) = (record.vm.name.as_str(), record.vm.uuid);
        self.tools.gate.would_admit(name, uuid, work, condition(&record.vm))
    }

    /// Takes hold of the VM for work of another noun.
    pub(crate) async fn enter(&self, record: &VmRecord, work: Work, claim: &Claim) -> Result<Hold> {
        let uuid = record.vm.uuid;
        self.need_libvirt(Some(uuid)).await?;
        let name = record.vm.name.as_str();
        self.tools.gate.enter(name, uuid, work, || self.condition(uuid), claim).await
    }

    /// The volumes by which a VM's guest is told something; none if the VM is gone.
    pub(crate) fn told_by(&self, uuid: Uuid) -> Result<Vec<VolumeRef>> {
        let picture = self.tools.inventory.picture();
        match picture.by_uuid.get(&uuid) {
            Some(record) => seed::told_by(&picture, record),
            None => Ok(Vec::new()),
        }
    }

    /// One hop of another noun's work on a VM, after which the picture shows it as it is.
    pub(crate) async fn act_on<F>(&self, uuid: Uuid, act: F) -> Result<()>
    where
        F: FnOnce(&Session) -> Result<()> + Send + 'static,
    {
        self.act(uuid, Lane::Slow, act).await.map(drop)
    }

    /// What the gate needs to know, as of now.
    fn condition(&self, uuid: Uuid) -> Result<Condition> {
        let picture = self.tools.inventory.picture();
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
        let tickets = self.tools.inventory.tickets();
        let acting = self.tools.inventory.acting(uuid);
        let (acted, ticket, fetched) = self
            .tools
            .hypervisor
            .run_to_end(lane, SLOW_CALL, move |session| {
                let acted = act(session);
                let ticket = tickets.draw();
                Ok((acted, ticket, fetch_if_there(session, uuid)))
            })
            .await?;
        let record = match fetched {
            Ok(fetched) => {
                let record = self.tools.inventory.apply(uuid, fetched, ticket).await?;
                acting.seen(ticket);
                record
            }
            Err(error) => {
                drop(acting);
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

    /// What a task that acted ends with; where libvirt was lost in the middle, by what stands when it is
    /// back.
    async fn verdict(&self, task: &TaskHandle, done: Result<Option<Arc<VmRecord>>>) -> Result<End> {
        match done {
            Ok(record) => result_of(record.as_ref()),
            Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                judge_after_loss(self, task, error).await
            }
            Err(error) => Err(error),
        }
    }

    /// What an act led to, where libvirt was lost between the two: read when it is back, so that
    /// whoever asked for it does not go on with what was before. As last seen if that takes long.
    async fn read_again(&self, uuid: Uuid, lost: Error) -> Option<Arc<VmRecord>> {
        let begun = Instant::now();
        let mut error = lost;
        while error.kind() == Kind::LibvirtUnavailable && begun.elapsed() < READ_AGAIN {
            tokio::time::sleep(Duration::from_millis(200)).await;
            match self.tools.inventory.refresh(uuid, Duration::from_secs(5)).await {
                Ok(record) => return record,
                Err(again) => error = again,
            }
        }
        self.tools.inventory.picture().by_uuid.get(&uuid).cloned()
    }

    /// The VM that a request is about, in the version that it names.
    async fn target(&self, ctx: &Context, id: &str) -> Result<Arc<VmRecord>> {
        let mut record = self.get(id)?;
        if !ctx.dry_run {
            self.read_anew(record.vm.uuid).await;
            record = self.get(&record.vm.uuid.to_string())?;
        }
        check_if_match(ctx, &record)?;
        Ok(record)
    }

    /// Refuses with 503 what needs libvirt while it is away, before anything is journalled.
    async fn need_libvirt(&self, uuid: Option<Uuid>) -> Result<()> {
        if let Some(uuid) = uuid {
            self.read_anew(uuid).await;
        }
        self.tools.need_libvirt()
    }

    /// Right after libvirt's return, waits a little for this VM to be read anew: by what was known
    /// before, it could be refused or admitted what it is not in a state for.
    async fn read_anew(&self, uuid: Uuid) {
        let begun = Instant::now();
        while self.tools.hypervisor.status().connected
            && self.tools.inventory.picture().by_uuid.get(&uuid).is_some_and(|vm| vm.vm.is_stale)
            && begun.elapsed() <= FRESH_WAIT
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
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

fn condition(vm: &Outline) -> Condition {
    Condition {
        state: vm.state,
        persistent: vm.persistent,
        has_saved_state: vm.has_saved_state,
        snapshot_count: vm.snapshot_count,
    }
}

fn subject(vm: &Outline) -> Subject {
    Subject { r#type: SubjectType::Vm, id: vm.uuid.to_string(), name: vm.name.clone() }
}

/// The VM as the result of its task.
fn result_of(record: Option<&Arc<VmRecord>>) -> Result<End> {
    let value = match record {
        Some(record) => serde_json::to_value(record.detailed()?).map_err(Error::internal)?,
        None => Value::Null,
    };
    Ok(End::Done(value))
}

/// 412 unless `If-Match` is absent or names the present version.
fn check_if_match(ctx: &Context, record: &VmRecord) -> Result<()> {
    ctx.expect_version(format_args!("VM {:?}", record.vm.name), &record.etag)
}
