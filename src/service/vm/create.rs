//! Making a VM: its new volumes, then its definition, then, if asked, its start. Each volume is
//! journalled before it is made; a failure undoes what was done, last first.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::draft::{Draft, NewVolume, draft};
use super::{SLOW_CALL, VmService, fetch_if_there, result_of};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session, domain, storage};
use crate::model::{CreateVm, Plan, Subject, SubjectType};
use crate::service::gate::{Claim, Key};
use crate::service::inventory::Fetched;
use crate::service::storage::blockers;
use crate::service::task::{End, Operation, QUICK_WAIT, TaskHandle};
use crate::service::{Context, Outcome};
use crate::xml;
use crate::xml::domain::author::{DiskSource, author};

/// How long a creation waits for libvirt's capabilities, which libvirt itself has to find out the
/// first time by asking each emulator.
const CAPABILITIES_WAIT: Duration = Duration::from_secs(15);

/// The step of a volume to be made; its undo names pool and volume.
pub(super) const VOLUME_STEP: &str = "create-volume";
/// The step of the definition; its undo names the VM's UUID.
pub(super) const DEFINE_STEP: &str = "define";

impl VmService {
    /// Makes a VM.
    ///
    /// # Errors
    /// 400, 404, 409 and 422 as the request deserves, before anything is made; what libvirt
    /// refuses with, after everything made has been undone.
    pub async fn create(&self, ctx: Context, request: CreateVm) -> Result<Outcome> {
        self.tasks.once(&ctx, self.create_once(&ctx, request)).await
    }

    async fn create_once(&self, ctx: &Context, request: CreateVm) -> Result<Outcome> {
        self.inventory.picture().ready()?;
        self.need_libvirt(None).await?;
        let picture = self.inventory.capable(CAPABILITIES_WAIT).await;
        let owner = ctx.principal.to_string();
        let name = request.name.clone().map(String::from).unwrap_or_default();
        let exists = picture.vms.binary_search_by(|record| record.vm.name.cmp(&name)).is_ok();
        let blocked = if exists {
            Err(Error::new(Kind::VmAlreadyExists, format!("a VM named {name:?} exists already"))
                .with_detail("vm", name.as_str()))
        } else {
            Ok(())
        };
        let draft = match draft(request, &picture, self.domain_type, &owner) {
            // A disk's name is made from the VM's: it is the VM that the client should hear of.
            Err(error) if exists && error.kind() == Kind::VolumeAlreadyExists => {
                return Err(blocked.err().unwrap_or(error));
            }
            draft => draft?,
        };
        let uuid = draft.spec.uuid;
        let subject = Subject { r#type: SubjectType::Vm, id: uuid.to_string(), name: name.clone() };
        if ctx.dry_run {
            return Ok(Outcome::Planned(Box::new(plan(&draft, subject, blocked)?)));
        }
        blocked?;
        // Authored once before anything exists, so that what cannot be said in XML fails here.
        author(&draft.spec)?;
        let mut keys = vec![Key::VmName(name), Key::Vm(uuid)];
        keys.extend(
            draft.volumes.iter().map(|new| Key::Volume(new.pool.clone(), new.name.clone())),
        );
        let claim = Claim { starts: draft.start, ..self.tasks.claim("vm.create", ctx) };
        let hold = self.gate.take(keys, &claim)?;
        let operation = Operation { claim, subject, cancellable: true, wait: QUICK_WAIT };
        let service = self.clone();
        self.tasks
            .submit(
                ctx,
                operation,
                hold,
                move |task| async move { service.make(&task, draft).await },
            )
            .await
    }

    async fn make(&self, task: &TaskHandle, draft: Draft) -> Result<End> {
        let uuid = draft.spec.uuid;
        let mut steps: Vec<(String, serde_json::Value)> = draft
            .volumes
            .iter()
            .map(|new| (VOLUME_STEP.to_owned(), json!({"pool": new.pool, "volume": new.name})))
            .collect();
        steps.push((
            DEFINE_STEP.to_owned(),
            json!({"uuid": uuid, "name": draft.spec.name, "start": draft.start}),
        ));
        task.intend(steps).await?;
        let tickets = self.inventory.tickets();
        let in_closure = task.clone();
        let has_volumes = !draft.volumes.is_empty();
        let made = self
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                let made = make_all(session, &in_closure, draft);
                let ticket = tickets.draw();
                // What failed has been undone, so there may be nothing to be fetched.
                let fetched = fetch_if_there(session, uuid).ok().flatten();
                Ok((made, ticket, fetched))
            })
            .await;
        let (made, ticket, fetched): (Result<()>, u64, Option<Fetched>) = match made {
            Ok(made) => made,
            Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                return self.judge_after_loss(task, error).await;
            }
            Err(error) => return Err(error),
        };
        if has_volumes && let Err(error) = self.inventory.refresh_storage().await {
            tracing::warn!(error = ?error, "the new volumes will be seen with the next refresh");
        }
        let record = self.inventory.apply(uuid, fetched, ticket).await?;
        match made {
            Ok(()) => result_of(record.as_ref()),
            Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                self.judge_after_loss(task, error).await
            }
            Err(error) => Err(error),
        }
    }

    /// Removes what a creation that cannot be finished has left, by its journal. Returns what
    /// could not be removed.
    pub(super) async fn undo_create(&self, task: Uuid, uuid: Uuid) -> Result<Vec<String>> {
        let steps = self.tasks.store().steps(task).await?;
        let volumes: Vec<(String, String)> = steps
            .iter()
            .filter(|step| step.action == VOLUME_STEP)
            .filter_map(|step| {
                let text = |key: &str| step.undo.get(key)?.as_str().map(str::to_owned);
                Some((text("pool")?, text("volume")?))
            })
            .collect();
        let left = self
            .hypervisor
            .run(Lane::Slow, Duration::from_secs(120), move |session| {
                let mut left = Vec::new();
                match remove_definition(session, uuid) {
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
                    Err(error) => {
                        tracing::warn!(vm = %uuid, error = ?error, "the definition stays");
                        // Its disks stay with it.
                        return Ok(vec![format!("the VM {uuid}")]);
                    }
                    Ok(()) => {}
                }
                for (pool, volume) in volumes {
                    match storage::delete_volume(session, &pool, &volume) {
                        Ok(()) => {}
                        Err(error)
                            if matches!(
                                error.kind(),
                                Kind::VolumeNotFound | Kind::PoolNotFound
                            ) => {}
                        Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                            return Err(error);
                        }
                        Err(error) => {
                            tracing::warn!(pool, volume, error = ?error, "a volume stays");
                            left.push(format!("the volume {pool}/{volume}"));
                        }
                    }
                }
                Ok(left)
            })
            .await?;
        if let Err(error) = self.inventory.refresh_storage().await {
            tracing::debug!(error = ?error, "the volumes will be seen with the next refresh");
        }
        Ok(left)
    }
}

fn remove_definition(session: &Session, uuid: Uuid) -> Result<()> {
    match domain::destroy(session, uuid, false) {
        Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
        // Gone, or not running: both are what is wanted.
        Ok(()) | Err(_) => {}
    }
    match domain::undefine(session, uuid, domain::UndefineFlags::default()) {
        Err(error) if error.kind() == Kind::VmNotFound => Ok(()),
        other => other,
    }
}

/// Everything libvirt has to do, in one closure.
fn make_all(session: &Session, task: &TaskHandle, draft: Draft) -> Result<()> {
    let uuid = draft.spec.uuid;
    let mut made: Vec<&NewVolume> = Vec::new();
    let mut spec = draft.spec.clone();
    let mut defined = false;
    let result = (|| {
        let total = draft.volumes.len();
        for (index, new) in draft.volumes.iter().enumerate() {
            task.check_cancelled()?;
            task.phase(&format!("creating disk {} of {total}", index + 1));
            let facts = match &new.clone_of {
                None => storage::create_volume(session, &new.pool, &new.name, &new.xml)?,
                Some(source) => storage::clone_volume(
                    session,
                    &new.pool,
                    &new.name,
                    &new.xml,
                    &source.pool,
                    &source.volume,
                )?,
            };
            made.push(new);
            if let Some(DiskSource::Volume { path, .. }) =
                spec.disks.get_mut(new.disk).map(|disk| &mut disk.source)
            {
                *path = facts.path;
            }
        }
        task.point_of_no_return()?;
        task.phase("defining");
        domain::define(session, &spec.name, &author(&spec)?)?;
        defined = true;
        if draft.autostart {
            domain::set_autostart(session, uuid, true)?;
        }
        if draft.start {
            task.phase("starting");
            domain::start(session, uuid)?;
        }
        Ok(())
    })();
    let Err(error) = result else { return Ok(()) };
    let error: Error = error;
    if error.kind() == Kind::LibvirtUnavailable {
        // Undone when libvirt is back.
        return Err(error);
    }
    task.phase("undoing");
    let mut left = Vec::new();
    if defined && let Err(undo) = remove_definition(session, uuid) {
        tracing::warn!(vm = %uuid, error = ?undo, "the definition could not be undone");
        left.push(format!("the VM {uuid}"));
    }
    for new in made.into_iter().rev() {
        if let Err(undo) = storage::delete_volume(session, &new.pool, &new.name) {
            tracing::warn!(pool = %new.pool, volume = %new.name, error = ?undo, "a volume stays");
            left.push(format!("the volume {}/{}", new.pool, new.name));
        }
    }
    Err(if left.is_empty() { error } else { error.with_detail("left", left) })
}

fn plan(draft: &Draft, subject: Subject, blocked: Result<()>) -> Result<Plan> {
    let mut side_effects: Vec<String> = draft
        .volumes
        .iter()
        .map(|new| match &new.clone_of {
            None => format!("creates the volume {}/{}", new.pool, new.name),
            Some(source) => format!(
                "copies the volume {}/{} to {}/{}",
                source.pool, source.volume, new.pool, new.name
            ),
        })
        .collect();
    if draft.start {
        side_effects.push("starts the VM".to_owned());
    }
    Ok(Plan {
        operation: "vm.create".to_owned(),
        subject,
        changes: Vec::new(),
        xml_diff: xml::diff::unified("", &author(&draft.spec)?),
        side_effects,
        blockers: blockers(blocked),
    })
}
