//! After a restart: what has become of the pools that the last daemon worked on.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::create::{DEFINE_STEP, Making, unmake};
use super::power::Power;
use super::update::UPDATE_STEP;
use super::{NOTHING, PoolService, kept, pool_key};
use crate::error::{Error, Kind, Result};
use crate::libvirt::Lane;
use crate::model::{Pool, Task, UpdatePool};
use crate::service::adopt::{Adopter, interrupted};
use crate::service::gate::Key;
use crate::service::operation::{SLOW_CALL, Tools};
use crate::service::task::{End, TaskHandle};
use crate::store::Step;

/// How long what the last daemon asked of libvirt may still take to show. libvirt keeps a pool
/// locked while it builds or starts it, so that looking at it waits for that anyway.
const SETTLE: Duration = Duration::from_secs(2);

impl Adopter for PoolService {
    const KINDS: &'static [&'static str] =
        &["pool.create", "pool.update", "pool.delete", "pool.start", "pool.stop", "pool.refresh"];

    fn tools(&self) -> &Tools {
        &self.tools
    }

    fn keys(&self, task: &Task, _: &[Step]) -> Vec<Key> {
        vec![pool_key(&task.subject.name)]
    }

    async fn judge(&self, _: &TaskHandle, task: &Task, cut: Instant) -> Result<End> {
        let steps = self.tools.tasks.store().steps(task.id).await?;
        match task.kind.as_str() {
            "pool.create" => self.judge_create(task, cut, kept(&steps, DEFINE_STEP)).await,
            "pool.update" => self.judge_update(task, kept(&steps, UPDATE_STEP)).await,
            "pool.delete" => match self.settle(task, cut, |pool| pool.is_none()).await? {
                None => Ok(End::Done(NOTHING)),
                Some(pool) => Err(cut_off(task, &pool)),
            },
            "pool.start" => {
                let wanted = |pool: Option<&Pool>| pool.is_some_and(|p| p.state.is_active());
                self.verdict(task, cut, wanted).await
            }
            "pool.stop" => {
                let wanted = |pool: Option<&Pool>| pool.is_some_and(|p| !p.state.is_active());
                self.verdict(task, cut, wanted).await
            }
            // Looking twice does no harm, and only that tells what the storage is like.
            _ => match self.present(task).await? {
                Some(pool) if pool.state.is_active() => self.power(&pool, Power::Refresh).await,
                Some(pool) => Err(cut_off(task, &pool)),
                None => Err(gone(task)),
            },
        }
    }
}

impl PoolService {
    async fn judge_create(&self, task: &Task, cut: Instant, making: Option<Making>) -> Result<End> {
        let name = &task.subject.name;
        let Some(making) = making else {
            return Err(interrupted(format!("the creation of the pool {name:?} was never begun")));
        };
        let done = |pool: Option<&Pool>| {
            pool.is_some_and(|pool| {
                pool.state.is_active() == making.start && pool.autostart == making.autostart
            })
        };
        let undone = |left: &[String]| {
            let error = interrupted(format!(
                "the creation of the pool {name:?} was cut off; what had been made was undone"
            ));
            if left.is_empty() { error } else { error.with_detail("left", json!(left)) }
        };
        match self.settle(task, cut, done).await? {
            Some(pool) if done(Some(&pool)) => self.settled(name),
            None => Err(undone(&[])),
            Some(_) => {
                let in_closure = name.clone();
                let left = self
                    .tools
                    .hypervisor
                    .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                        Ok(unmake(session, &in_closure, making.removes_storage, &making))
                    })
                    .await?;
                self.tools.inventory.refresh_pool(name).await?;
                Err(undone(&left))
            }
        }
    }

    async fn judge_update(&self, task: &Task, request: Option<UpdatePool>) -> Result<End> {
        let name = &task.subject.name;
        let Some(request) = request else {
            return Err(interrupted(format!("the update of the pool {name:?} was never begun")));
        };
        let Some(pool) = self.present(task).await? else { return Err(gone(task)) };
        let unmet = self.decide(&pool, &request).await?.unmet();
        if unmet.is_empty() {
            return self.settled(name);
        }
        Err(interrupted(format!(
            "the update of the pool {name:?} was cut off; not as wanted: {}",
            unmet.join(", ")
        ))
        .with_detail("fields", json!(unmet)))
    }

    async fn verdict(
        &self,
        task: &Task,
        cut: Instant,
        reached: impl Fn(Option<&Pool>) -> bool,
    ) -> Result<End> {
        match self.settle(task, cut, &reached).await? {
            Some(pool) if reached(Some(&pool)) => self.settled(&task.subject.name),
            Some(pool) => Err(cut_off(task, &pool)),
            None => Err(gone(task)),
        }
    }

    /// The pool as soon as the goal is reached, or as it is when that is not to be expected any
    /// more.
    async fn settle(
        &self,
        task: &Task,
        cut: Instant,
        reached: impl Fn(Option<&Pool>) -> bool,
    ) -> Result<Option<Pool>> {
        loop {
            let pool = self.present(task).await?;
            if reached(pool.as_ref()) || Instant::now() > cut + SETTLE {
                return Ok(pool);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The task's pool as libvirt tells it now; another one of its name is none.
    async fn present(&self, task: &Task) -> Result<Option<Pool>> {
        self.tools.inventory.refresh_pool(&task.subject.name).await?;
        let uuid = Uuid::try_parse(&task.subject.id).map_err(Error::internal)?;
        match self.get(&task.subject.name) {
            Ok(record) => Ok(Some(record.pool.clone()).filter(|pool| pool.uuid == uuid)),
            Err(error) if error.kind() == Kind::PoolNotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn cut_off(task: &Task, pool: &Pool) -> Error {
    let state = pool.state.as_str();
    interrupted(format!(
        "{} of the pool {:?} was cut off in the middle; it is now {state}",
        task.kind, pool.name
    ))
    .with_detail("state", state)
    .with_detail("volume_count", pool.volume_count)
}

fn gone(task: &Task) -> Error {
    interrupted(format!(
        "{} of the pool {:?} was cut off in the middle; it is now gone",
        task.kind, task.subject.name
    ))
}
