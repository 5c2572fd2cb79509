//! Carrying a clone out, and taking it back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::VmService;
use super::super::create::{own_variables, remove_definition};
use super::draft::Draft;
use super::{ClonePlan, NewDisk, OwnOverlay};
use crate::error::{Kind, Result};
use crate::libvirt::{Lane, Session, domain, volume};
use crate::model::VolumeRef;
use crate::service::operation::SLOW_CALL;
use crate::service::task::TaskHandle;
use crate::service::volume::copy::{self, Share};
use crate::xml;
use crate::xml::domain::clone::{self, placed};
use crate::xml::domain::media::Medium;
use crate::xml::domain::view;

/// How long the undoing of one clone may take.
const UNDO: Duration = Duration::from_secs(120);

/// What is there of a clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Made {
    pub volumes: Vec<VolumeRef>,
    /// The source may have its overlays already.
    pub rebased: bool,
    pub defined: bool,
}

impl VmService {
    /// Copies the disks one after the other.
    pub(super) async fn copy_disks(
        &self,
        task: &TaskHandle,
        draft: &Draft,
        made: &mut Made,
    ) -> Result<()> {
        let total = draft.copies.values().map(|copy| copy.bytes).sum();
        let (mut done, begun) = (0, Instant::now());
        for copy in draft.copies.values() {
            task.phase("copying");
            let (in_task, in_closure) = (task.clone(), copy.clone());
            let work = self.tools.hypervisor.run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                copy::make(session, &in_task, &in_closure, false).map(drop)
            });
            let share = Share { done, total, begun };
            copy::watched(&self.tools.hypervisor, task, copy, share, work).await?;
            made.volumes.push(copy.to.clone());
            done += copy.bytes;
        }
        Ok(())
    }

    /// Puts overlays on the disks, for the clone and for its source, which has them from then on.
    pub(super) async fn link_disks(
        &self,
        task: &TaskHandle,
        draft: &Draft,
        made: &mut Made,
    ) -> Result<()> {
        for copy in draft.own.values().chain(draft.copies.values()) {
            let (in_task, in_closure) = (task.clone(), copy.clone());
            self.tools
                .hypervisor
                .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                    copy::make(session, &in_task, &in_closure, false).map(drop)
                })
                .await?;
            made.volumes.push(copy.to.clone());
        }
        made.rebased = true;
        let (source, name) = (draft.plan.source, draft.plan.source_name.clone());
        let own = draft.plan.own.clone();
        self.tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                let disks = own.iter().map(|(target, overlay)| {
                    let new =
                        NewDisk { volume: overlay.volume.clone(), format: "qcow2".to_owned() };
                    Ok((target.clone(), medium(session, &new)?))
                });
                let disks = disks.collect::<Result<BTreeMap<_, _>>>()?;
                let old = domain::xml(session, source, true, true)?;
                domain::define(session, &name, &clone::with_disks(&old, &disks)?).map(drop)
            })
            .await
    }

    /// Defines the clone, and starts it if that was asked for.
    pub(super) async fn complete_clone(
        &self,
        task: &TaskHandle,
        plan: &ClonePlan,
        made: &mut Made,
    ) -> Result<()> {
        task.point_of_no_return()?;
        task.phase("defining");
        made.defined = true;
        let (in_task, plan) = (task.clone(), plan.clone());
        self.tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                let disks = plan
                    .disks
                    .iter()
                    .map(|(target, disk)| Ok((target.clone(), medium(session, disk)?)));
                let disks = disks.collect::<Result<BTreeMap<_, _>>>()?;
                let source = domain::xml(session, plan.source, true, true)?;
                let definition = clone::apply(&source, &plan.identity(), &disks)?;
                domain::define(session, &plan.name, &definition)?;
                own_variables(session, plan.uuid, &plan.name)?;
                if plan.autostart {
                    domain::set_autostart(session, plan.uuid, true)?;
                }
                if plan.start {
                    in_task.phase("starting");
                    domain::start(session, plan.uuid)?;
                }
                Ok(())
            })
            .await
    }

    /// Removes what was made. Returns what could not be removed.
    ///
    /// # Errors
    /// [`Kind::LibvirtUnavailable`] alone.
    pub(super) async fn undo_made(&self, plan: &ClonePlan, made: &Made) -> Result<Vec<String>> {
        let (plan, made) = (plan.clone(), made.clone());
        self.tools
            .hypervisor
            .run(Lane::Slow, UNDO, move |session| {
                let mut left = Vec::new();
                if made.defined
                    && let Err(error) = remove_definition(session, plan.uuid)
                {
                    if error.kind() == Kind::LibvirtUnavailable {
                        return Err(error);
                    }
                    tracing::warn!(vm = %plan.uuid, error = ?error, "the definition stays");
                    // Its disks stay with it.
                    return Ok(vec![format!("the VM {}", plan.uuid)]);
                }
                if made.rebased
                    && let Err(error) = give_back(session, &plan)
                {
                    if error.kind() == Kind::LibvirtUnavailable {
                        return Err(error);
                    }
                    tracing::warn!(vm = %plan.source, error = ?error, "the source keeps its overlays");
                    left.push(format!("the overlays of VM {:?}", plan.source_name));
                }
                let keeps = !left.is_empty();
                let is_kept = |volume: &VolumeRef| {
                    keeps && plan.own.values().any(|overlay| overlay.volume == *volume)
                };
                let go = made.volumes.iter().filter(|volume| !is_kept(volume));
                let stay = volume::delete_all(session, go)?;
                left.extend(stay.iter().map(|volume| format!("the volume {volume}")));
                Ok(left)
            })
            .await
    }
}

/// Puts the source back on its own disks, where it has the overlays that were made for it.
fn give_back(session: &Session, plan: &ClonePlan) -> Result<()> {
    let present = match domain::xml(session, plan.source, true, true) {
        Err(error) if error.kind() == Kind::VmNotFound => return Ok(()),
        other => other?,
    };
    let vm = view::parse(&present)?;
    let mut disks = BTreeMap::new();
    for (target, overlay) in &plan.own {
        let OwnOverlay { volume, base, base_format } = overlay;
        let path = match volume::facts(session, &volume.pool, &volume.volume) {
            Err(error) if error.kind() == Kind::VolumeNotFound => continue,
            other => other?.path,
        };
        let disk = vm.disks.iter().find(|disk| disk.target == *target);
        if disk.is_some_and(|disk| disk.source.as_deref() == Some(path.as_str())) {
            let old = NewDisk { volume: base.clone(), format: base_format.clone() };
            disks.insert(target.clone(), medium(session, &old)?);
        }
    }
    if disks.is_empty() {
        return Ok(());
    }
    let restored = clone::with_disks(&present, &disks)?;
    domain::define(session, &plan.source_name, &restored).map(drop)
}

/// Where a volume lies, as libvirt says now.
pub(super) fn medium(session: &Session, disk: &NewDisk) -> Result<Medium> {
    let VolumeRef { pool, volume } = &disk.volume;
    let facts = volume::facts(session, pool, volume)?;
    let told = xml::volume::parse_volume(pool, &facts.xml)?;
    Ok(placed(pool, volume, &facts.path, &told.r#type, &disk.format))
}
