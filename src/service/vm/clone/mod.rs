//! Making a VM like another one.
//!
//! ```text
//!   stopped ──▶ libvirt copies each disk ──────────────────────────┐
//!   stopped, linked ──▶ overlays for both on the frozen disks ─────┼─▶ defined ──▶ started, if asked
//!   running ──▶ new volumes ──▶ one backup job, of one moment ─────┘
//!      │                           └ kill -9: the next daemon follows the job
//!      └ a failure, a cancellation, a force-stop: volumes and definition are undone
//! ```
//!
//! The clone's definition is the source's next boot with another identity (`xml/domain/clone.rs`).
//! What has been planned is in the journal before anything is made, so that a later daemon can go
//! on with it or take it back.

mod adopt;
mod draft;
mod live;
mod make;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::create::{DEFINE_STEP, VOLUME_STEP};
use super::{VmService, check_if_match, condition, fetch_if_there, result_of};
use crate::error::{Error, Kind, Result};
use crate::libvirt::Lane;
use crate::model::{CloneVm, Plan, Subject, SubjectType, VolumeRef};
use crate::service::adopt::judge_after_loss;
use crate::service::gate::{Claim, Key, Work};
use crate::service::inventory::Picture;
use crate::service::operation::{SLOW_CALL, blockers};
use crate::service::task::{End, Operation, QUICK_WAIT, TaskHandle};
use crate::service::{Context, Outcome};
use crate::xml;
use crate::xml::domain::clone::NewIdentity;

pub(super) use adopt::source_of;
use draft::Draft;
pub(crate) use draft::{own_disks, volume_of};
use make::Made;

/// The step that keeps the whole plan; it is taken when the copy of a running VM has begun.
pub(super) const CLONE_STEP: &str = "clone";

/// How the disks are had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    /// Each is copied by libvirt, one after the other.
    Copied,
    /// An overlay on each; the source gets overlays, too.
    Linked,
    /// All are copied while the source runs, as of one moment.
    Live,
}

/// One disk of the clone.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct NewDisk {
    volume: VolumeRef,
    format: String,
}

/// The overlay that the source itself gets.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OwnOverlay {
    volume: VolumeRef,
    /// What it is put on, which was the disk until now.
    base: VolumeRef,
    base_format: String,
}

/// Everything that was decided, without secrets: as it stands in the journal.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ClonePlan {
    source: Uuid,
    source_name: String,
    uuid: Uuid,
    name: String,
    description: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    owner: String,
    created_at: Timestamp,
    way: Way,
    /// By target.
    disks: BTreeMap<String, NewDisk>,
    /// By target.
    own: BTreeMap<String, OwnOverlay>,
    autostart: bool,
    start: bool,
}

impl ClonePlan {
    fn identity(&self) -> NewIdentity {
        NewIdentity {
            name: self.name.clone(),
            uuid: self.uuid,
            description: self.description.clone(),
            labels: self.labels.clone(),
            owner: self.owner.clone(),
            created_at: self.created_at,
        }
    }

    fn subject(&self) -> Subject {
        Subject { r#type: SubjectType::Vm, id: self.uuid.to_string(), name: self.name.clone() }
    }

    /// Every volume that is to be made.
    fn volumes(&self) -> impl Iterator<Item = &VolumeRef> {
        let own = self.own.values().map(|overlay| &overlay.volume);
        own.chain(self.disks.values().map(|disk| &disk.volume))
    }
}

impl VmService {
    /// Makes a VM like this one, with a name, an identity and disks of its own.
    ///
    /// # Errors
    /// 404 for the VM, a disk or a pool; 409 if the name is taken, a volume's name is taken, or the
    /// source is in a state in which its disks are of no use; 422 for what cannot be copied.
    pub async fn clone_vm(&self, ctx: Context, id: &str, request: CloneVm) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.clone_once(&ctx, id, request)).await
    }

    async fn clone_once(&self, ctx: &Context, id: &str, request: CloneVm) -> Result<Outcome> {
        let source = self.target(ctx, id).await?;
        let (uuid, name) = (source.vm.uuid, source.vm.name.clone());
        let owner = ctx.principal.to_string();
        let new_name = request.name.as_str().to_owned();
        let picture = self.tools.inventory.picture();
        let free = || match picture.vms.binary_search_by(|record| record.vm.name.cmp(&new_name)) {
            Ok(_) => Err(Error::new(
                Kind::VmAlreadyExists,
                format!("a VM named {new_name:?} exists already"),
            )
            .with_detail("vm", new_name.as_str())),
            Err(_) => Ok(()),
        };
        let draft_on = |picture: &Picture| match Draft::of(picture, &source, &request, &owner) {
            // A disk's name is made from the VM's: it is the VM that the client should hear of.
            Err(error) if error.kind() == Kind::VolumeAlreadyExists => free().and(Err(error)),
            draft => draft,
        };
        let (decided_on, draft) = self.tools.inventory.decide(draft_on).await?;
        if ctx.dry_run {
            let admitted =
                self.tools.gate.would_admit(&name, uuid, Work::Clone, condition(&source.vm));
            let definition = source.definition().text()?;
            return Ok(Outcome::Planned(Box::new(Plan {
                xml_diff: xml::diff::unified(
                    &definition,
                    &draft.definition(&decided_on, &definition)?,
                ),
                side_effects: draft.effects(),
                blockers: [blockers(free()), blockers(admitted)].concat(),
                ..Plan::of("vm.clone", draft.plan.subject())
            })));
        }
        free()?;
        self.need_libvirt(Some(uuid)).await?;
        let claim = Claim { starts: draft.plan.start, ..self.tools.tasks.claim("vm.clone", ctx) };
        let hold = self
            .tools
            .gate
            .enter(&name, uuid, Work::Clone, || self.condition(uuid), &claim)
            .await?;
        // What was decided must hold for the VM as it is now.
        let picture = self.tools.inventory.picture();
        let present = self.get(&uuid.to_string())?;
        check_if_match(ctx, &present)?;
        let draft = Draft::of(&picture, &present, &request, &owner)?;
        let mut keys = vec![Key::VmName(new_name), Key::Vm(draft.plan.uuid)];
        keys.extend(draft.others.iter().map(|uuid| Key::Vm(*uuid)));
        keys.extend(
            draft.plan.volumes().map(|new| Key::Volume(new.pool.clone(), new.volume.clone())),
        );
        let hold = hold.with(self.tools.gate.take_beside(keys, draft.beside(), &claim)?);
        let wait = if draft.plan.way == Way::Linked { QUICK_WAIT } else { Duration::ZERO };
        let operation = Operation { claim, subject: draft.plan.subject(), cancellable: true, wait };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                service.make_clone(&task, draft).await
            })
            .await
    }

    async fn make_clone(&self, task: &TaskHandle, draft: Draft) -> Result<End> {
        let plan = draft.plan.clone();
        let mut steps = vec![(CLONE_STEP.to_owned(), json!(plan))];
        steps.extend(plan.volumes().map(|volume| (VOLUME_STEP.to_owned(), json!(volume))));
        let define = json!({"uuid": plan.uuid, "name": plan.name, "start": plan.start});
        steps.push((DEFINE_STEP.to_owned(), define));
        task.intend(steps).await?;
        let mut made = Made::default();
        let done = match plan.way {
            Way::Copied => self.copy_disks(task, &draft, &mut made).await,
            Way::Linked => self.link_disks(task, &draft, &mut made).await,
            Way::Live => match self.copy_live(task, &draft, &mut made).await {
                Ok(true) => Ok(()),
                // The job goes on, and the next daemon with it.
                Ok(false) => return Ok(End::Parked),
                Err(error) => Err(error),
            },
        };
        let done = match done {
            Ok(()) => self.complete_clone(task, &plan, &mut made).await,
            failed => failed,
        };
        self.end_clone(task, &plan, made, done).await
    }

    /// The clone as the result, or a failure after what was made has been undone.
    async fn end_clone(
        &self,
        task: &TaskHandle,
        plan: &ClonePlan,
        made: Made,
        done: Result<()>,
    ) -> Result<End> {
        let done = match done {
            Err(error) if error.kind() != Kind::LibvirtUnavailable => {
                task.phase("undoing");
                match self.undo_made(plan, &made).await {
                    Ok(left) if left.is_empty() => Err(error),
                    Ok(left) => Err(error.with_detail("left", left)),
                    Err(lost) => Err(lost),
                }
            }
            done => done,
        };
        if let Err(error) = &done
            && error.kind() == Kind::LibvirtUnavailable
        {
            let lost = Error::new(Kind::LibvirtUnavailable, error.message());
            return judge_after_loss(self, task, lost).await;
        }
        self.see(plan.uuid).await?;
        if !plan.own.is_empty() {
            self.see(plan.source).await?;
        }
        if let Err(error) = self.tools.inventory.refresh_storage().await {
            tracing::warn!(error = ?error, "the volumes will be seen with the next refresh");
        }
        done?;
        result_of(self.tools.inventory.picture().by_uuid.get(&plan.uuid))
    }

    /// Has the picture show the VM as it is now, or that it is gone.
    async fn see(&self, uuid: Uuid) -> Result<()> {
        let tickets = self.tools.inventory.tickets();
        let (ticket, fetched) = self
            .tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                let ticket = tickets.draw();
                Ok((ticket, fetch_if_there(session, uuid)?))
            })
            .await?;
        self.tools.inventory.apply(uuid, fetched, ticket).await.map(drop)
    }
}
