//! Making a VM: its new volumes, then its definition, then, if asked, its start. Each volume is
//! journalled before it is made; a failure undoes what was done, last first.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use super::adopt::volume_of;
use super::draft::{Draft, NewVolume, Purpose, Site, draft, nics};
use super::leftover::Left;
use super::{SLOW_CALL, VmService, faults, fetch_if_there, result_of};
use crate::authz;
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session, contents, domain, host, volume};
use crate::model::vm_request::PciAddress;
use crate::model::{CreateVm, Plan, Subject, SubjectType};
use crate::service::adopt::judge_after_loss;
use crate::service::gate::{Claim, Key};
use crate::service::inventory::{Fetched, Picture};
use crate::service::operation::blockers;
use crate::service::task::{End, Operation, QUICK_WAIT, TaskHandle};
use crate::service::{Context, Outcome};
use crate::store::Step;
use crate::xml;
use crate::xml::domain::author::{DiskSource, DomainSpec, IgnitionBy, author};
use crate::xml::domain::custom as custom_xml;

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
        self.tools.tasks.once(&ctx, self.create_once(&ctx, request)).await
    }

    /// Makes a VM of the request that `body` comes to, which is asked only if nothing has been made
    /// with the caller's key before.
    ///
    /// # Errors
    /// Those of [`create`](Self::create), and of `body`.
    pub(crate) async fn create_from(
        &self,
        ctx: Context,
        body: impl FnOnce() -> Result<CreateVm>,
    ) -> Result<Outcome> {
        let work = async { self.create_once(&ctx, body()?).await };
        self.tools.tasks.once(&ctx, work).await
    }

    async fn create_once(&self, ctx: &Context, mut request: CreateVm) -> Result<Outcome> {
        self.tools.inventory.picture().ready()?;
        let ignition = self.prepare_ignition(&mut request)?;
        let seed = self.prepare_seed(&mut request).await?;
        self.need_libvirt(None).await?;
        let picture = self.tools.inventory.capable(CAPABILITIES_WAIT).await;
        let limits = self.ground.limits.load();
        let owner = ctx.principal.to_string();
        let name = request.name.clone().map(String::from).unwrap_or_default();
        let exists = picture.vms.binary_search_by(|record| record.vm.name.cmp(&name)).is_ok();
        let free = || match exists {
            true => Err(Error::new(
                Kind::VmAlreadyExists,
                format!("a VM named {name:?} exists already"),
            )
            .with_detail("vm", name.as_str())),
            false => Ok(()),
        };
        let variant = match request.os.as_ref().and_then(|os| os.variant.as_deref()) {
            Some(name) if !name.is_empty() => self.ground.os_variants.resolve(name).await?,
            _ => None,
        };
        let draft_on = |picture: &Picture| {
            let site = Site {
                picture,
                domain_type: self.domain_type,
                limits: &limits,
                security: &self.ground.security,
                isos: &|id| self.ground.isos.volume_of(id),
                variant: variant.as_deref(),
                owner: &owner,
            };
            match draft(request.clone(), &site) {
                // A disk's name is made from the VM's: it is the VM that the client should hear of.
                Err(error) if error.kind() == Kind::VolumeAlreadyExists => free().and(Err(error)),
                draft => draft,
            }
        };
        let (picture, draft) = self.tools.inventory.decide(draft_on).await?;
        self.know_devices(&draft.spec.devices.pci).await?;
        if let Some(custom) = &draft.custom {
            let may_reach = authz::administers_host(&ctx.principal);
            custom_xml::check(custom, may_reach)?;
        }
        let draft = match seed {
            Some(seed) => seed.add_to(draft, &picture)?,
            None => draft,
        };
        let draft = match ignition {
            Some(ignition) => ignition.add_to(draft, &picture)?,
            None => draft,
        };
        let uuid = draft.spec.uuid;
        let subject = Subject { r#type: SubjectType::Vm, id: uuid.to_string(), name: name.clone() };
        if ctx.dry_run {
            return Ok(Outcome::Planned(Box::new(plan(&draft, subject, free())?)));
        }
        free()?;
        // Authored once before anything exists, so that what cannot be said in XML fails here.
        definition(&draft, &draft.spec)?;
        let mut keys = vec![Key::VmName(name), Key::Vm(uuid)];
        keys.extend(
            draft.volumes.iter().map(|new| Key::Volume(new.pool.clone(), new.name.clone())),
        );
        let macs = draft.spec.nics.iter().filter_map(|nic| nic.mac.clone());
        keys.extend(macs.map(Key::Mac));
        let claim = Claim { starts: draft.start, ..self.tools.tasks.claim("vm.create", ctx) };
        let hold = self.tools.gate.take_beside(keys, used_by(&draft), &claim)?;
        // libvirt lets two VMs have one address, and another creation may have taken it meanwhile.
        let present = self.tools.inventory.picture();
        if !Arc::ptr_eq(&present, &picture) {
            nics::check_all_free(&present, &draft.spec.nics)?;
        }
        let operation = Operation { claim, subject, cancellable: true, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(
                ctx,
                operation,
                hold,
                move |task| async move { service.make(&task, draft).await },
            )
            .await
    }

    /// 422 unless libvirt knows every device that is to be passed through.
    pub(super) async fn know_devices(&self, wanted: &[PciAddress]) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let wanted = wanted.to_vec();
        let unknown = self
            .tools
            .hypervisor
            .run(Lane::Quick, Duration::from_secs(10), move |session| {
                wanted
                    .into_iter()
                    .find_map(|address| match host::has_pci_device(session, address) {
                        Ok(true) => None,
                        Ok(false) => Some(Ok(address)),
                        Err(error) => Some(Err(error)),
                    })
                    .transpose()
            })
            .await?;
        unknown.map_or(Ok(()), |address| {
            let problem = format!("this host has no PCI device {address}");
            Err(Error::new(Kind::NotSupported, format!("devices.pci: {problem}"))
                .with_field("devices.pci", problem))
        })
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
        for warning in &draft.warnings {
            task.warn(warning).await;
        }
        let tickets = self.tools.inventory.tickets();
        let acting = self.tools.inventory.acting(uuid);
        let in_closure = task.clone();
        let has_volumes = !draft.volumes.is_empty();
        let made = self
            .tools
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
                return judge_after_loss(self, task, error).await;
            }
            Err(error) => return Err(error),
        };
        if has_volumes && let Err(error) = self.tools.inventory.refresh_storage().await {
            tracing::warn!(error = ?error, "the new volumes will be seen with the next refresh");
        }
        let record = self.tools.inventory.apply(uuid, fetched, ticket).await?;
        acting.seen(ticket);
        match made {
            Ok(()) => result_of(record.as_ref()),
            Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                judge_after_loss(self, task, error).await
            }
            Err(error) => Err(error),
        }
    }

    /// Removes what a creation that was cut off has left, by its journal. Returns what could not be
    /// removed.
    pub(super) async fn undo_create(&self, steps: &[Step], uuid: Uuid) -> Result<Left> {
        let removed = self
            .tools
            .hypervisor
            .run(Lane::Slow, Duration::from_secs(120), move |session| {
                remove_definition(session, uuid)
            })
            .await;
        match removed {
            Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
            Err(error) => {
                tracing::warn!(vm = %uuid, error = ?error, "the definition stays");
                // Its disks stay with it.
                let stuck = vec![format!("the VM {uuid}")];
                return Ok(Left { stuck, ..Left::default() });
            }
            Ok(()) => {}
        }
        self.fresh(uuid).await?;
        let made = steps.iter().filter(|step| step.action == VOLUME_STEP);
        self.remove_unused(made.filter_map(volume_of).collect()).await
    }
}

/// What must stay as it is while the VM is made, and may serve others as well: the pools, and the
/// volumes that are attached or copied.
fn used_by(draft: &Draft) -> Vec<Key> {
    let new = |pool: &str, name: &str| {
        draft.volumes.iter().any(|new| new.pool == pool && new.name == name)
    };
    let attached = draft.spec.disks.iter().filter_map(|disk| match &disk.source {
        DiskSource::Volume { pool, volume, .. } => Some((pool.as_str(), volume.as_str())),
        DiskSource::File(_) | DiskSource::Empty => None,
    });
    let copied = draft
        .volumes
        .iter()
        .flat_map(|new| [new.clone_of.as_ref(), new.linked_to.as_ref()])
        .flatten();
    let volumes: BTreeSet<(&str, &str)> = attached
        .chain(copied.map(|source| (source.pool.as_str(), source.volume.as_str())))
        .filter(|(pool, name)| !new(pool, name))
        .collect();
    let pools: BTreeSet<&str> = volumes
        .iter()
        .map(|(pool, _)| *pool)
        .chain(draft.volumes.iter().map(|new| new.pool.as_str()))
        .collect();
    let volumes =
        volumes.into_iter().map(|(pool, name)| Key::Volume(pool.to_owned(), name.to_owned()));
    volumes.chain(pools.into_iter().map(|pool| Key::Pool(pool.to_owned()))).collect()
}

pub(super) fn remove_definition(session: &Session, uuid: Uuid) -> Result<()> {
    match domain::destroy(session, uuid, false) {
        Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
        // Gone, or not running: both are what is wanted.
        Ok(()) | Err(_) => {}
    }
    // A start that failed may have made variables of the firmware and a state of the TPM.
    let flags = domain::UndefineFlags { nvram: true, tpm: true, ..Default::default() };
    match domain::undefine(session, uuid, flags) {
        Err(error) if error.kind() == Kind::VmNotFound => Ok(()),
        other => other,
    }
}

/// Gives a VM that was just defined a file of its own for its firmware's variables, if it has any.
/// Where it lies only libvirt tells, once it has the definition.
pub(super) fn own_variables(session: &Session, uuid: Uuid, name: &str) -> Result<()> {
    let chosen = domain::xml(session, uuid, true, true)?;
    match xml::domain::firmware::own_variables(&chosen, uuid)? {
        Some(own) => domain::define(session, name, &own).map(drop),
        None => Ok(()),
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
            faults::point(&spec.name, &format!("volume-{index}"))?;
            task.phase(&format!("creating disk {} of {total}", index + 1));
            let facts = match &new.clone_of {
                None => volume::create(session, &new.pool, &new.name, &new.xml)?,
                Some(source) => volume::create_from(
                    session,
                    &new.pool,
                    &new.name,
                    &new.xml,
                    &source.pool,
                    &source.volume,
                )?,
            };
            made.push(new);
            if let Some(content) = &new.content {
                faults::point(&spec.name, "content")?;
                contents::write(session, &new.pool, &new.name, content.bytes())?;
            }
            lies_at(&mut spec, new.purpose, facts.path);
        }
        task.point_of_no_return()?;
        task.phase("defining");
        faults::point(&spec.name, "define")?;
        domain::define(session, &spec.name, &definition(&draft, &spec)?)?;
        defined = true;
        faults::point(&spec.name, "autostart")?;
        if spec.efi.is_some() {
            own_variables(session, uuid, &spec.name)?;
        }
        if draft.autostart {
            domain::set_autostart(session, uuid, true)?;
        }
        faults::point(&spec.name, "start")?;
        if draft.start {
            task.phase("starting");
            domain::start(session, uuid)?;
        }
        faults::point(&spec.name, "end")
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
        if let Err(undo) = volume::delete(session, &new.pool, &new.name) {
            tracing::warn!(pool = %new.pool, volume = %new.name, error = ?undo, "a volume stays");
            left.push(format!("the volume {}/{}", new.pool, new.name));
        }
    }
    Err(if left.is_empty() { error } else { error.with_detail("left", left) })
}

/// Notes where a volume that has been made lies.
fn lies_at(spec: &mut DomainSpec, purpose: Purpose, found: String) {
    match purpose {
        Purpose::Disk(at) => {
            let source = spec.disks.get_mut(at).map(|disk| &mut disk.source);
            if let Some(DiskSource::Volume { path, .. }) = source {
                *path = found;
            }
        }
        Purpose::Ignition => {
            if let Some(ignition) = &mut spec.ignition {
                ignition.by = IgnitionBy::FwCfg(found);
            }
        }
    }
}

/// The definition, with what the client adds to it.
fn definition(draft: &Draft, spec: &DomainSpec) -> Result<String> {
    let authored = author(spec)?;
    match &draft.custom {
        None => Ok(authored),
        Some(custom) => custom_xml::merge(&authored, custom),
    }
}

fn plan(draft: &Draft, subject: Subject, blocked: Result<()>) -> Result<Plan> {
    let mut side_effects: Vec<String> = draft
        .volumes
        .iter()
        .map(|new| match (&new.clone_of, &new.linked_to) {
            (None, Some(base)) => format!(
                "creates the volume {}/{} on top of {}/{}",
                new.pool, new.name, base.pool, base.volume
            ),
            (None, None) => match &new.content {
                Some(content) => {
                    format!("writes {} into {}/{}", content.what(), new.pool, new.name)
                }
                None => format!("creates the volume {}/{}", new.pool, new.name),
            },
            (Some(source), _) => format!(
                "copies the volume {}/{} to {}/{}",
                source.pool, source.volume, new.pool, new.name
            ),
        })
        .collect();
    if draft.start {
        side_effects.push("starts the VM".to_owned());
    }
    Ok(Plan {
        xml_diff: xml::diff::unified("", &definition(draft, &draft.spec)?),
        side_effects,
        warnings: draft.warnings.clone(),
        blockers: blockers(blocked),
        ..Plan::of("vm.create", subject)
    })
}
