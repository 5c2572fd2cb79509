//! The way back: an old version becomes the stored definition again, under the VM's present name.

use serde::{Deserialize, Serialize};

use super::super::define::{changes, redefine};
use super::super::{VmService, check_if_match, condition, subject};
use super::check::{Moves, moves, obstacles};
use crate::authz;
use crate::error::{Error, Kind, Result};
use crate::libvirt::Lane;
use crate::model::{DefinitionContent, Plan, VolumeRef};
use crate::service::gate::{Key, Work};
use crate::service::inventory::{Picture, VmRecord, definition_hash};
use crate::service::operation::blockers;
use crate::service::task::{Operation, QUICK_WAIT};
use crate::service::volume::{pool_key, volume_key};
use crate::service::{Context, Outcome};
use crate::xml;
use crate::xml::domain::{custom, edit, view};

/// The step by which a restarted daemon judges whether it was done.
pub(in crate::service::vm) const ROLLBACK_STEP: &str = "rollback";

/// What the journal keeps of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::service::vm) struct RollbackStep {
    /// The version that is gone back to.
    pub(in crate::service::vm) number: u64,
    /// Of what the stored definition is to say, without its secrets.
    pub(in crate::service::vm) hash: u64,
}

/// What a rollback does, decided on one picture.
struct Draft {
    /// Without secrets.
    xml: String,
    plan: Plan,
    moves: Moves,
    obstacles: Vec<Error>,
}

impl VmService {
    /// Makes an old version the stored definition again. A running VM goes on as it is; what differs
    /// is `pending`. Secrets are none of a version's: the present ones stay.
    ///
    /// # Errors
    /// 404 for the VM and for the version; 409, also if a disk or a MAC address of then is another
    /// VM's by now; 412; 422 for a transient VM, and with the names of volumes and networks that
    /// are gone, or if it reaches more of the host than the VM does and the caller may not; what libvirt
    /// refuses with, and then the definition is as it was.
    pub async fn rollback(&self, ctx: Context, id: &str, number: u64) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.rollback_once(&ctx, id, number)).await
    }

    async fn rollback_once(&self, ctx: &Context, id: &str, number: u64) -> Result<Outcome> {
        let record = self.target(ctx, id).await?;
        let version = self.definition(&record.vm.uuid.to_string(), number).await?;
        let (uuid, name) = (record.vm.uuid, record.vm.name.clone());
        let draft = draft(ctx, &self.tools.inventory.picture(), &record, &version)?;
        if ctx.dry_run {
            let gate = &self.tools.gate;
            let admitted = gate.would_admit(&name, uuid, Work::Update, condition(&record.vm));
            let held = gate.would_take(&[], &beside(&draft.moves.attached));
            let against = draft.obstacles.into_iter().map(Err).chain([admitted.and(held)]);
            let blockers = against.flat_map(blockers).collect();
            return Ok(Outcome::Planned(Box::new(Plan { blockers, ..draft.plan })));
        }
        refuse(draft.obstacles)?;
        self.need_libvirt(Some(uuid)).await?;
        let claim = self.tools.tasks.claim("vm.rollback", ctx);
        let hold = self
            .tools
            .gate
            .enter(&name, uuid, Work::Update, || self.condition(uuid), &claim)
            .await?;
        // What becomes a disk must stay while it does.
        let kept =
            self.tools.gate.take_beside(Vec::new(), beside(&draft.moves.attached), &claim)?;
        // Decided anew under the hold, on what is the case now.
        let record = self.get(&uuid.to_string())?;
        check_if_match(ctx, &record)?;
        let draft = self::draft(ctx, &self.tools.inventory.picture(), &record, &version)?;
        refuse(draft.obstacles)?;
        let (name, new) = (record.vm.name.clone(), draft.xml);
        let step = RollbackStep { number, hash: definition_hash(&new) };
        let step = serde_json::to_value(step).map_err(Error::internal)?;
        let operation =
            Operation { claim, subject: subject(&record.vm), cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                task.intend(vec![(ROLLBACK_STEP.to_owned(), step)]).await?;
                let record = service
                    .act(uuid, Lane::Slow, move |session| redefine(session, uuid, &name, &new))
                    .await;
                drop(kept);
                service.verdict(&task, record).await
            })
            .await
    }
}

fn draft(
    ctx: &Context,
    picture: &Picture,
    record: &VmRecord,
    version: &DefinitionContent,
) -> Result<Draft> {
    let present = record.definition().text()?;
    let xml = under_present_name(record, &version.xml)?;
    let (now, then) = (view::parse(&present)?, view::parse(&xml)?);
    let (active, persistent) = (record.vm.state.is_active(), record.vm.persistent);
    let moves = moves(picture, &now, &then);
    let mut side_effects = moves.words.clone();
    if active && persistent && record.definition_hash != definition_hash(&xml) {
        side_effects.push(
            "the running VM goes on as it is: that definition takes hold with its next boot"
                .to_owned(),
        );
    }
    let mut against = obstacles(picture, record, &now, &then);
    if !persistent {
        let message = format!(
            "VM {:?} is transient: it has no stored definition that could be brought back",
            record.vm.name
        );
        against.insert(0, Error::new(Kind::Impossible, message));
    }
    if !authz::administers_host(&ctx.principal) {
        // Who made the old version could have been allowed more.
        against.extend(custom::check_replacement(&xml, &[&*present, &*record.xml.text()?]).err());
    }
    let plan = Plan {
        changes: changes(&now, &then, active),
        xml_diff: xml::diff::unified(&present, &xml),
        side_effects,
        ..Plan::of("vm.rollback", subject(&record.vm))
    };
    Ok(Draft { xml, plan, moves, obstacles: against })
}

/// The version as it is, unless the VM had another name then.
fn under_present_name(record: &VmRecord, xml: &str) -> Result<String> {
    let (uuid, name) = edit::identity(xml)?;
    if uuid == Some(record.vm.uuid) && name.as_deref() == Some(record.vm.name.as_str()) {
        return Ok(xml.to_owned());
    }
    edit::set_identity(xml, record.vm.uuid, &record.vm.name)
}

fn refuse(obstacles: Vec<Error>) -> Result<()> {
    obstacles.into_iter().next().map_or(Ok(()), Err)
}

fn beside(volumes: &[VolumeRef]) -> Vec<Key> {
    let keys =
        |volume: &VolumeRef| [volume_key(&volume.pool, &volume.volume), pool_key(&volume.pool)];
    volumes.iter().flat_map(keys).collect()
}
