//! Replacing a VM's definition as a whole: for those who need what no field of the API offers.

use uuid::Uuid;

use super::{VmService, check_if_match, condition, subject};
use crate::authz;
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session, domain};
use crate::model::{Change, Effect, Plan, Vm};
use crate::service::gate::Work;
use crate::service::inventory::Outline;
use crate::service::operation::blockers;
use crate::service::task::{Operation, QUICK_WAIT};
use crate::service::{Context, Outcome};
use crate::xml;
use crate::xml::domain::{custom, edit, pending, view};

impl VmService {
    /// Replaces the stored definition. The running VM goes on as it is; what differs is `pending`.
    /// Secrets that the new definition leaves out, as one read through the API does, are kept.
    ///
    /// # Errors
    /// 404; 409; 412; 422 if the XML is not a domain, is another VM's, reaches more of the host than
    /// the VM does and the caller may not, or libvirt refuses it.
    pub async fn replace_xml(&self, ctx: Context, id: &str, xml: String) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.replace_xml_once(&ctx, id, xml)).await
    }

    async fn replace_xml_once(&self, ctx: &Context, id: &str, xml: String) -> Result<Outcome> {
        let record = self.target(ctx, id).await?;
        let (uuid, name) = (record.vm.uuid, record.vm.name.clone());
        let new = with_identity(&record.vm, &xml)?;
        let after = view::parse(&new)?;
        if !authz::administers_host(&ctx.principal) {
            // Either of those that a client can have read.
            let (next, running) = (record.definition().text()?, record.xml.text()?);
            custom::check_replacement(&new, &[&*next, &*running])?;
        }
        if ctx.dry_run {
            let blocked =
                self.tools.gate.would_admit(&name, uuid, Work::Define, condition(&record.vm));
            let before = view::parse(&record.definition().text()?)?;
            return Ok(Outcome::Planned(Box::new(Plan {
                changes: changes(&before, &after, record.vm.state.is_active()),
                xml_diff: xml::diff::unified(
                    &record.definition().text()?,
                    &xml::redact::redact(&new)?,
                ),
                blockers: blockers(blocked),
                ..Plan::of("vm.define", subject(&record.vm))
            })));
        }
        self.need_libvirt(Some(uuid)).await?;
        let claim = self.tools.tasks.claim("vm.define", ctx);
        let hold = self
            .tools
            .gate
            .enter(&name, uuid, Work::Define, || self.condition(uuid), &claim)
            .await?;
        let present = self.get(&uuid.to_string())?;
        check_if_match(ctx, &present)?;
        let operation =
            Operation { claim, subject: subject(&record.vm), cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                let record = service
                    .act(uuid, Lane::Slow, move |session| redefine(session, uuid, &name, &new))
                    .await;
                service.verdict(&task, record).await
            })
            .await
    }
}

/// Stores a definition without its secrets in the place of the VM's present one, which keeps its own:
/// that of a transient VM, which has none stored, is the running one.
pub(super) fn redefine(session: &Session, uuid: Uuid, name: &str, new: &str) -> Result<()> {
    let old = domain::xml(session, uuid, true, true)?;
    let new = xml::redact::keep_secrets(new, &old)?;
    domain::define(session, name, &new).map(drop)
}

/// What another definition changes, field by field; with the next boot, if the VM runs.
pub(super) fn changes(before: &Vm, after: &Vm, active: bool) -> Vec<Change> {
    let effect = if active { Effect::NextBoot } else { Effect::Live };
    pending::pending(before, after)
        .into_iter()
        .flat_map(|pending| pending.changes)
        .map(|change| Change {
            field: change.field,
            from: change.running,
            to: change.next_boot,
            effect,
            reason: active.then(|| "a definition takes hold when the VM starts".to_owned()),
        })
        .collect()
}

/// The XML with the VM's own identity: absent is completed, another one is refused.
fn with_identity(vm: &Outline, xml: &str) -> Result<String> {
    let (uuid, name) = edit::identity(xml)?;
    if uuid.is_some_and(|uuid| uuid != vm.uuid) {
        return Err(Error::new(
            Kind::InvalidDefinition,
            format!("the XML has the UUID of another VM than {:?}", vm.name),
        )
        .with_hint(format!("leave <uuid> out, or say {}", vm.uuid)));
    }
    if name.as_ref().is_some_and(|name| *name != vm.name) {
        return Err(Error::new(
            Kind::NotSupported,
            format!("the XML would rename VM {:?}, which is not supported yet", vm.name),
        )
        .with_hint(format!("let <name> say {:?}", vm.name)));
    }
    edit::set_identity(xml, vm.uuid, &vm.name)
}
