//! New networks: defined and started, or not there at all.

use serde_json::json;
use uuid::Uuid;

use super::{NetworkService, all_views, check, conflict, key, subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session, network};
use crate::model::{CreateNetwork, UpdateNetwork};
use crate::service::adopt::judge_after_loss;
use crate::service::operation::{SLOW_CALL, plan};
use crate::service::task::{End, Operation, QUICK_WAIT, TaskHandle};
use crate::service::{Context, Outcome};
use crate::xml;

/// The step that keeps what the network shall be, by which a restarted daemon knows whether it is.
pub(super) const DEFINE_STEP: &str = "define-network";

/// A network to be.
#[derive(Clone)]
struct Draft {
    name: String,
    uuid: Uuid,
    xml: String,
    autostart: bool,
    start: bool,
}

impl NetworkService {
    /// Creates a network, and starts it unless the request says otherwise.
    /// `virNetworkDefineXMLFlags`, `virNetworkCreate`.
    ///
    /// # Errors
    /// 400 with every field; 409 if the name is taken, or somebody else has its subnets or its
    /// bridge; 422 for parts that contradict each other; what libvirt refuses with, and then there
    /// is no network.
    pub async fn create(&self, ctx: Context, request: CreateNetwork) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.create_once(&ctx, request)).await
    }

    async fn create_once(&self, ctx: &Context, request: CreateNetwork) -> Result<Outcome> {
        let Some(name) = request.name.clone().map(String::from) else {
            return Err(Error::field("name", "is missing"));
        };
        let (autostart, start) = (request.autostart.unwrap_or(true), request.start.unwrap_or(true));
        let mut wanted = UpdateNetwork::from(request);
        check::parts(&mut wanted)?;
        let uuid = Uuid::new_v4();
        let xml = xml::network::edit::author(&name, uuid, &wanted)?;
        let view = xml::network::parse_network(&xml)?;
        check::whole(&view)?;
        self.tools.need_libvirt()?;
        let draft = Draft { name: name.clone(), uuid, xml, autostart, start };
        let subject = subject(uuid, &name);
        if ctx.dry_run {
            let (service, looked) = (self.clone(), draft.clone());
            let blocked = self
                .tools
                .hypervisor
                .run_to_end(Lane::Quick, SLOW_CALL, move |session| {
                    Ok(service.admit_new(session, &looked))
                })
                .await?
                .and_then(|()| self.tools.gate.would_take(&[key(&name)], &[]));
            let mut effects = vec![format!("creates the network {name}")];
            effects.extend(autostart.then(|| "lets it start with the host".to_owned()));
            effects.extend(start.then(|| "starts it".to_owned()));
            return Ok(plan("network.create", subject, ("", &draft.xml), effects, blocked));
        }
        let claim = self.tools.tasks.claim("network.create", ctx);
        let hold = self.tools.gate.take(vec![key(&name)], &claim)?;
        if self.get(&name).is_ok() {
            return Err(taken(&name));
        }
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
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

    async fn make(&self, task: &TaskHandle, draft: Draft) -> Result<End> {
        let step = json!({"uuid": draft.uuid, "start": draft.start, "autostart": draft.autostart});
        task.intend(vec![(DEFINE_STEP.to_owned(), step)]).await?;
        let (service, name) = (self.clone(), draft.name.clone());
        let in_closure = task.clone();
        let made = self
            .tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                let _turn = service.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                service.admit_new(session, &draft)?;
                make(session, &in_closure, &draft)
            })
            .await;
        match made {
            Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                return judge_after_loss(self, task, error).await;
            }
            // What failed has been undone; the picture may have seen it in between.
            made => {
                self.tools.inventory.refresh_networks().await?;
                made?;
            }
        }
        self.result_of(&name)
    }

    fn admit_new(&self, session: &Session, draft: &Draft) -> Result<()> {
        let others = all_views(session)?;
        if others.iter().any(|other| other.name == draft.name) {
            return Err(taken(&draft.name));
        }
        let view = xml::network::parse_network(&draft.xml)?;
        conflict::check(&view, draft.uuid, &others, self.host()?.as_ref())
    }
}

fn taken(name: &str) -> Error {
    Error::new(Kind::NetworkAlreadyExists, format!("there is a network {name:?} already"))
}

fn make(session: &Session, task: &TaskHandle, draft: &Draft) -> Result<()> {
    task.phase("defining");
    network::define(session, &draft.name, &draft.xml)?;
    let begun = (|| {
        if draft.autostart {
            network::set_autostart(session, &draft.name, true)?;
        }
        if draft.start {
            task.phase("starting");
            network::start(session, &draft.name)?;
        }
        Ok(())
    })();
    let Err(error) = begun else { return Ok(()) };
    let error: Error = error;
    if error.kind() == Kind::LibvirtUnavailable {
        // Undone when libvirt is back.
        return Err(error);
    }
    task.phase("undoing");
    match remove(session, &draft.name, draft.uuid) {
        Ok(()) => Err(error),
        Err(undo) => {
            tracing::warn!(network = %draft.name, error = ?undo, "the network could not be undone");
            Err(error.with_detail("left", json!([format!("the network {}", draft.name)])))
        }
    }
}

/// Removes the network that a creation has left, unless it is another one.
pub(super) fn remove(session: &Session, name: &str, uuid: Uuid) -> Result<()> {
    let facts = match network::facts(session, name) {
        Err(error) if error.kind() == Kind::NetworkNotFound => return Ok(()),
        other => other?,
    };
    if facts.uuid != uuid {
        return Ok(());
    }
    if facts.active {
        network::stop(session, name)?;
    }
    if facts.persistent { network::undefine(session, name) } else { Ok(()) }
}
