//! Deleting networks.

use serde_json::Value;

use super::{
    NetworkService, check_if_match, cut_off, facts_of, is_plugged, key, port_owners, subject,
    unused, users,
};
use crate::error::{Kind, Result};
use crate::libvirt::{Lane, Session, network};
use crate::service::adopt::judge_after_loss;
use crate::service::operation::{SLOW_CALL, plan};
use crate::service::task::{End, Operation, QUICK_WAIT};
use crate::service::{Context, Outcome};

/// What else a deletion, or a stop, may do.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeleteNetwork {
    /// Although running VMs are plugged in, which lose their link.
    pub force: bool,
}

impl NetworkService {
    /// Deletes a network; one that is active and that nobody uses is stopped first.
    /// `virNetworkDestroy`, `virNetworkUndefine`.
    ///
    /// # Errors
    /// 404; 409 `NETWORK_IN_USE` with the VMs' names; 412.
    pub async fn delete(
        &self,
        ctx: Context,
        name: &str,
        request: DeleteNetwork,
    ) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.delete_once(&ctx, name, request)).await
    }

    async fn delete_once(
        &self,
        ctx: &Context,
        name: &str,
        request: DeleteNetwork,
    ) -> Result<Outcome> {
        let present = self.get(name)?;
        check_if_match(ctx, &present)?;
        let picture = self.tools.inventory.picture();
        let users = users(&picture, name)?;
        let blocked = if request.force { Ok(()) } else { unused(name, &users) };
        let subject = subject(present.uuid, name);
        if ctx.dry_run {
            let blocked = blocked.and_then(|()| self.tools.gate.would_take(&[key(name)], &[]));
            let mut effects = Vec::new();
            if present.active {
                effects.push("stops the network".to_owned());
                effects.extend(cut_off(&users));
            }
            effects.push(format!("deletes the network {name}"));
            for record in picture.vms.iter().filter(|record| !record.vm.state.is_active()) {
                if record.whole()?.networks.iter().any(|nic| is_plugged(nic, name)) {
                    effects.push(format!("VM {} cannot start without it", record.vm.name));
                }
            }
            return Ok(plan("network.delete", subject, ("", ""), effects, blocked));
        }
        blocked?;
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim("network.delete", ctx);
        let hold = self.tools.gate.take(vec![key(name)], &claim)?;
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
        let (service, uuid, name) = (self.clone(), present.uuid, name.to_owned());
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                let asked = name.clone();
                let done = service
                    .tools
                    .hypervisor
                    .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                        remove(session, &asked, uuid, request)
                    })
                    .await;
                match done {
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        judge_after_loss(&service, &task, error).await
                    }
                    done => {
                        service.tools.inventory.refresh_networks().await?;
                        done.map(|()| End::Done(Value::Null))
                    }
                }
            })
            .await
    }
}

/// Looks once more at who is plugged in, because the picture may be a moment late. The definition
/// goes last: what remains of a failure is a network that can be started again, and is.
fn remove(session: &Session, name: &str, uuid: uuid::Uuid, request: DeleteNetwork) -> Result<()> {
    let facts = match facts_of(session, name, uuid) {
        // Somebody else was quicker.
        Err(error) if error.kind() == Kind::NetworkNotFound => return Ok(()),
        other => other?,
    };
    if facts.active {
        if !request.force {
            unused(name, &port_owners(session, name)?)?;
        }
        network::stop(session, name)?;
    }
    if !facts.persistent {
        return Ok(());
    }
    let undefined = network::undefine(session, name);
    if undefined.is_err()
        && facts.active
        && let Err(error) = network::start(session, name)
    {
        tracing::warn!(network = name, error = ?error, "the network could not be started again");
    }
    undefined
}
