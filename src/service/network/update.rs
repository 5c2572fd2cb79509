//! Partial update, all or nothing: the stored definition is replaced first, as a whole, so that
//! libvirt can refuse it before anything has changed; then the running network is changed entry by
//! entry where libvirt can do that. A refusal puts back what was changed. Guests keep their links:
//! the bridge is not touched.

use uuid::Uuid;

use super::decide::{self, Decision};
use super::{NetworkService, all_views, check, check_if_match, conflict, facts_of, key, subject};
use crate::error::{Kind, Result};
use crate::libvirt::{Lane, Session, network};
use crate::model::{Plan, UpdateNetwork};
use crate::service::adopt::judge_after_loss;
use crate::service::inventory::network_of;
use crate::service::operation::{SLOW_CALL, blockers};
use crate::service::task::{Operation, QUICK_WAIT};
use crate::service::{Context, Outcome};
use crate::xml;

/// The step that keeps the request, by which a restarted daemon judges whether it was done.
pub(super) const UPDATE_STEP: &str = "update-network";

impl NetworkService {
    /// Changes what the request names and leaves the rest. `virNetworkDefineXMLFlags`,
    /// `virNetworkUpdate`, `virNetworkSetAutostart`.
    ///
    /// # Errors
    /// 400 with every field; 404; 409; 412; 422 for what is impossible for this network; what
    /// libvirt refuses with, and then the network is as it was.
    pub async fn update(
        &self,
        ctx: Context,
        name: &str,
        request: UpdateNetwork,
    ) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.update_once(&ctx, name, request)).await
    }

    async fn update_once(
        &self,
        ctx: &Context,
        name: &str,
        mut request: UpdateNetwork,
    ) -> Result<Outcome> {
        check::parts(&mut request)?;
        let present = self.get(name)?;
        check_if_match(ctx, &present)?;
        self.tools.need_libvirt()?;
        let subject = subject(present.uuid, name);
        let (service, uuid, name) = (self.clone(), present.uuid, name.to_owned());
        if ctx.dry_run {
            let (ctx_now, asked) = (ctx.clone(), name.clone());
            let (decision, blocked) = self
                .tools
                .hypervisor
                .run_to_end(Lane::Quick, SLOW_CALL, move |session| {
                    service.decide(session, &ctx_now, (&asked, uuid), &request)
                })
                .await?;
            let blocked = blocked.and_then(|()| self.tools.gate.would_take(&[key(&name)], &[]));
            let new = decision.define.as_deref().unwrap_or(&decision.old);
            return Ok(Outcome::Planned(Box::new(Plan {
                xml_diff: xml::diff::unified(&decision.old, new),
                changes: decision.changes,
                blockers: blockers(blocked),
                ..Plan::of("network.update", subject)
            })));
        }
        let claim = self.tools.tasks.claim("network.update", ctx);
        let hold = self.tools.gate.take(vec![key(&name)], &claim)?;
        let step = decide::step_of(&request)?;
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
        let ctx_now = ctx.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                task.intend(vec![(UPDATE_STEP.to_owned(), step)]).await?;
                let (in_closure, asked) = (service.clone(), name.clone());
                let done = service
                    .tools
                    .hypervisor
                    .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                        let turn = &in_closure.turn;
                        let _turn = turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        let (decision, blocked) =
                            in_closure.decide(session, &ctx_now, (&asked, uuid), &request)?;
                        blocked?;
                        apply(session, &asked, &decision)
                    })
                    .await;
                match done {
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        return judge_after_loss(&service, &task, error).await;
                    }
                    // A failure may have changed something, too.
                    done => {
                        service.tools.inventory.refresh_networks().await?;
                        done?;
                    }
                }
                service.result_of(&name)
            })
            .await
    }

    /// What the update would do to the network as it is now, and what stands against it.
    fn decide(
        &self,
        session: &Session,
        ctx: &Context,
        (name, uuid): (&str, Uuid),
        request: &UpdateNetwork,
    ) -> Result<(Decision, Result<()>)> {
        let facts = facts_of(session, name, uuid)?;
        let decision = decide::decide(&facts, request)?;
        let claims = request.ips.is_some()
            || request.routes.is_some()
            || request.bridge.is_some()
            || request.forward.is_some();
        let blocked = (|| {
            let mut present = network_of(&facts)?;
            if let Ok(known) = self.get(name) {
                present.generation = known.generation;
            }
            check_if_match(ctx, &present)?;
            check::whole(&decision.wanted)?;
            decide::impossible(&decision)?;
            if claims {
                let others = all_views(session)?;
                conflict::check(&decision.wanted, uuid, &others, self.host()?.as_ref())?;
            }
            Ok(())
        })();
        Ok((decision, blocked))
    }
}

/// Carries it out; puts everything back if a part is refused.
fn apply(session: &Session, name: &str, decision: &Decision) -> Result<()> {
    if let Some(new) = &decision.define {
        network::define(session, name, new)?;
    }
    let mut done = 0;
    let result = (|| {
        for step in &decision.live {
            let what = (step.command, step.section);
            network::update_live(session, name, what, step.parent, &step.xml)?;
            done += 1;
        }
        if let Some(autostart) = decision.autostart {
            network::set_autostart(session, name, autostart)?;
        }
        Ok(())
    })();
    let Err(error) = result else { return Ok(()) };
    let mut left = Vec::new();
    for step in decision.live[..done].iter().rev() {
        let (command, xml) = &step.undo;
        let what = (*command, step.section);
        if let Err(failed) = network::update_live(session, name, what, step.parent, xml) {
            tracing::warn!(network = name, error = ?failed, "a live change could not be put back");
            left.push("running network");
        }
    }
    if decision.define.is_some()
        && let Err(failed) = network::define(session, name, &decision.old)
    {
        tracing::error!(network = name, error = ?failed, "the old definition could not be put back");
        left.push("definition");
    }
    let error: crate::error::Error = error;
    Err(if left.is_empty() { error } else { error.with_detail("not_put_back", left) })
}
