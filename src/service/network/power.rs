//! Starting and stopping networks.

use serde_json::json;

use super::{
    DeleteNetwork, NetworkService, all_views, check_if_match, conflict, cut_off, facts_of, key,
    port_owners, subject, unused, users,
};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session, network};
use crate::model::Network;
use crate::service::adopt::judge_after_loss;
use crate::service::operation::{SLOW_CALL, plan};
use crate::service::task::{End, Operation, QUICK_WAIT};
use crate::service::{Context, Outcome};
use crate::xml;

impl NetworkService {
    /// Starts a network. `virNetworkCreate`.
    ///
    /// # Errors
    /// 404; 409 if it is active, or if somebody else has its subnets or its bridge by now.
    pub async fn start(&self, ctx: Context, name: &str) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.start_once(&ctx, name)).await
    }

    async fn start_once(&self, ctx: &Context, name: &str) -> Result<Outcome> {
        let present = self.get(name)?;
        check_if_match(ctx, &present)?;
        let blocked = match present.active {
            true => Err(Error::new(
                Kind::NetworkAlreadyActive,
                format!("network {name:?} is active already"),
            )),
            false => Ok(()),
        };
        let service = self.clone();
        let uuid = present.uuid;
        let work = move |session: &Session, name: &str| {
            let _turn = service.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let facts = facts_of(session, name, uuid)?;
            let view = xml::network::parse_network(facts.definition())?;
            conflict::check(&view, uuid, &all_views(session)?, service.host()?.as_ref())?;
            network::start(session, name)
        };
        let effects = vec![format!("starts the network {name}")];
        self.act(ctx, "network.start", present, (effects, blocked), work).await
    }

    /// Stops a network. `virNetworkDestroy`.
    ///
    /// # Errors
    /// 404; 409 if it is not active, or with the names of the VMs that are plugged in.
    pub async fn stop(&self, ctx: Context, name: &str, request: DeleteNetwork) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.stop_once(&ctx, name, request)).await
    }

    async fn stop_once(
        &self,
        ctx: &Context,
        name: &str,
        request: DeleteNetwork,
    ) -> Result<Outcome> {
        let present = self.get(name)?;
        check_if_match(ctx, &present)?;
        let users = users(&self.tools.inventory.picture(), name)?;
        let blocked = match present.active {
            false => {
                Err(Error::new(Kind::NetworkInactive, format!("network {name:?} is not active"))
                    .with_hint("nothing needs to be done"))
            }
            true if request.force => Ok(()),
            true => unused(name, &users),
        };
        let uuid = present.uuid;
        let work = move |session: &Session, name: &str| {
            facts_of(session, name, uuid)?;
            if !request.force {
                unused(name, &port_owners(session, name)?)?;
            }
            network::stop(session, name)
        };
        let mut effects = vec![format!("stops the network {name}")];
        effects.extend(cut_off(&users));
        if !present.persistent {
            effects.push("deletes it: a transient network has no definition".to_owned());
        }
        self.act(ctx, "network.stop", present, (effects, blocked), work).await
    }

    async fn act<F>(
        &self,
        ctx: &Context,
        kind: &'static str,
        present: std::sync::Arc<Network>,
        (effects, blocked): (Vec<String>, Result<()>),
        work: F,
    ) -> Result<Outcome>
    where
        F: FnOnce(&Session, &str) -> Result<()> + Send + 'static,
    {
        let name = present.name.clone();
        let subject = subject(present.uuid, &name);
        if ctx.dry_run {
            let blocked = blocked.and_then(|()| self.tools.gate.would_take(&[key(&name)], &[]));
            return Ok(plan(kind, subject, ("", ""), effects, blocked));
        }
        blocked?;
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim(kind, ctx);
        let hold = self.tools.gate.take(vec![key(&name)], &claim)?;
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                let asked = name.clone();
                let done = service
                    .tools
                    .hypervisor
                    .run_to_end(Lane::Slow, SLOW_CALL, move |session| work(session, &asked))
                    .await;
                match done {
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        return judge_after_loss(&service, &task, error).await;
                    }
                    done => {
                        service.tools.inventory.refresh_networks().await?;
                        done?;
                    }
                }
                if present.persistent {
                    return service.result_of(&name);
                }
                let last = Network { active: false, ..(*present).clone() };
                Ok(End::Done(json!(last)))
            })
            .await
    }
}
