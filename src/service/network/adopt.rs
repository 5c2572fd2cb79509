//! After a restart of the daemon: what became of work on networks that it was cut off in.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::create::{self, DEFINE_STEP};
use super::update::UPDATE_STEP;
use super::{NetworkService, decide, facts_of, key};
use crate::error::{Error, Kind, Result};
use crate::libvirt::Lane;
use crate::model::{Network, Task, UpdateNetwork};
use crate::service::adopt::{Adopter, interrupted};
use crate::service::gate::Key;
use crate::service::operation::{SLOW_CALL, Tools};
use crate::service::task::{End, TaskHandle};
use crate::store::Step;

/// How long what the last daemon asked of libvirt may still take to show.
const SETTLE: Duration = Duration::from_secs(5);

/// How long a verdict is looked for at least, however long ago the work was cut off.
const LEAST_LOOK: Duration = Duration::from_secs(1);

/// How often is looked.
const LOOK: Duration = Duration::from_millis(200);

impl Adopter for NetworkService {
    const KINDS: &'static [&'static str] =
        &["network.create", "network.update", "network.delete", "network.start", "network.stop"];

    fn tools(&self) -> &Tools {
        &self.tools
    }

    fn keys(&self, task: &Task, _: &[Step]) -> Vec<Key> {
        vec![key(&task.subject.name)]
    }

    async fn judge(&self, _: &TaskHandle, task: &Task, cut: Instant) -> Result<End> {
        let name = task.subject.name.as_str();
        let uuid = Uuid::try_parse(&task.subject.id).map_err(Error::internal)?;
        let steps = self.tools.tasks.store().steps(task.id).await?;
        let deadline = (cut + SETTLE).max(Instant::now() + LEAST_LOOK);
        match task.kind.as_str() {
            "network.create" => {
                let step = steps.iter().find(|step| step.action == DEFINE_STEP);
                self.judge_create(name, uuid, step.map(|step| &step.undo), deadline).await
            }
            "network.update" => {
                let step = steps.iter().find(|step| step.action == UPDATE_STEP);
                let request = step.and_then(|step| serde_json::from_value(step.undo.clone()).ok());
                self.judge_update(name, uuid, request, deadline).await
            }
            "network.delete" => {
                let found = self.settle(name, uuid, deadline, |found| found.is_none()).await?;
                let Some(found) = found else { return Ok(End::Done(Value::Null)) };
                let word = if found.active { "still active" } else { "stopped, and still defined" };
                Err(interrupted(format!(
                    "the deletion of network {name:?} was cut off; it is {word}"
                )))
            }
            kind => {
                let wanted = kind == "network.start";
                let reached = |found: Option<&Network>| match found {
                    Some(network) => network.active == wanted,
                    // A transient one is gone with its stop.
                    None => !wanted,
                };
                let found = self.settle(name, uuid, deadline, reached).await?;
                if reached(found.as_ref()) {
                    let value = found.map_or(Ok(Value::Null), serde_json::to_value);
                    return Ok(End::Done(value.map_err(Error::internal)?));
                }
                let word = match found {
                    Some(network) if network.active => "active",
                    Some(_) => "not active",
                    None => "gone",
                };
                Err(interrupted(format!("{kind} of network {name:?} was cut off; it is {word}")))
            }
        }
    }
}

impl NetworkService {
    /// The network as it is now, if it is this one.
    async fn look(&self, name: &str, uuid: Uuid) -> Result<Option<Network>> {
        self.tools.inventory.refresh_networks().await?;
        let found = self.get(name).ok().filter(|network| network.uuid == uuid);
        Ok(found.map(|network| (*network).clone()))
    }

    /// Looks until the goal is reached; what libvirt was asked for when the work was cut off may
    /// still be on its way.
    async fn settle(
        &self,
        name: &str,
        uuid: Uuid,
        deadline: Instant,
        reached: impl Fn(Option<&Network>) -> bool,
    ) -> Result<Option<Network>> {
        loop {
            let found = self.look(name, uuid).await?;
            if reached(found.as_ref()) || Instant::now() >= deadline {
                return Ok(found);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn judge_create(
        &self,
        name: &str,
        uuid: Uuid,
        step: Option<&Value>,
        deadline: Instant,
    ) -> Result<End> {
        let Some(step) = step else {
            return Err(interrupted(format!("the creation of network {name:?} had not begun")));
        };
        let wants = |word: &str| step[word] == Value::Bool(true);
        let (start, autostart) = (wants("start"), wants("autostart"));
        let done = |found: Option<&Network>| {
            found.is_some_and(|network| {
                (network.active || !start) && (network.autostart || !autostart)
            })
        };
        let found = self.settle(name, uuid, deadline, done).await?;
        if let Some(network) = found.filter(|network| done(Some(network))) {
            return Ok(End::Done(serde_json::to_value(network).map_err(Error::internal)?));
        }
        let asked = name.to_owned();
        self.tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| create::remove(session, &asked, uuid))
            .await?;
        self.tools.inventory.refresh_networks().await?;
        Err(interrupted(format!(
            "the creation of network {name:?} was cut off, and what there was of it is removed"
        )))
    }

    async fn judge_update(
        &self,
        name: &str,
        uuid: Uuid,
        request: Option<UpdateNetwork>,
        deadline: Instant,
    ) -> Result<End> {
        let Some(request) = request else {
            return Err(interrupted(format!("the update of network {name:?} had not begun")));
        };
        let left = loop {
            let (asked, wanted) = (name.to_owned(), request.clone());
            let left = self
                .tools
                .hypervisor
                .run_to_end(Lane::Quick, SLOW_CALL, move |session| {
                    match facts_of(session, &asked, uuid) {
                        Err(error) if error.kind() == Kind::NetworkNotFound => Ok(None),
                        facts => decide::unmet(&facts?, &wanted).map(Some),
                    }
                })
                .await?;
            match left {
                None => break None,
                Some(left) if left.is_empty() || Instant::now() >= deadline => break Some(left),
                Some(_) => tokio::time::sleep(LOOK).await,
            }
        };
        self.tools.inventory.refresh_networks().await?;
        match left {
            None => Err(interrupted(format!(
                "the update of network {name:?} was cut off, and the network is gone"
            ))),
            Some(left) if left.is_empty() => self.result_of(name),
            Some(left) => Err(interrupted(format!(
                "the update of network {name:?} was cut off; these fields are not as they were to \
                 be: {}",
                left.join(", ")
            ))
            .with_detail("unmet", left)),
        }
    }
}
