//! Storage pools: made, changed, started, stopped, refreshed and deleted through libvirt.
//!
//! ```text
//!   create ─▶ defined ─▶ (built) ─▶ started ──stop──▶ inactive ──start──▶ …
//!      └ any step fails: undone                └ delete ─▶ gone
//! ```
//!
//! Work on a pool holds it alone; work on its volumes holds it beside other such work.

mod adopt;
mod check;
mod create;
mod delete;
mod power;
mod problem;
mod update;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::Context;
use super::gate::Key;
use super::inventory::{Picture, PoolRecord, VolumeRecord};
use super::operation::{SLOW_CALL, Tools};
use super::page::{self, Page, PageQuery};
use super::task::{End, TaskHandle};
use crate::error::{Error, Result};
use crate::libvirt::{Lane, Session};
use crate::model::{Pool, PoolCapacity, Subject, SubjectType};

pub use delete::DeletePool;
use problem::{is_problem, words_of};

/// The use cases of pools; cheap to clone.
#[derive(Clone)]
pub struct PoolService {
    tools: Tools,
}

impl PoolService {
    pub fn new(tools: Tools) -> Self {
        PoolService { tools }
    }

    /// Pools by name.
    pub fn list(&self, query: &PageQuery) -> Result<Page<Pool>> {
        let picture = self.tools.inventory.picture();
        picture.ready()?;
        let sort = query.sort.as_deref().unwrap_or("name");
        if !matches!(sort, "name" | "-name") {
            return Err(Error::field("sort", "is not one of name, -name"));
        }
        let items: Vec<Arc<Pool>> = picture
            .pools
            .iter()
            .filter(|record| {
                query
                    .name
                    .as_ref()
                    .is_none_or(|name| page::matches_pattern(name, &record.pool.name))
            })
            .map(|record| Arc::new(record.pool.clone()))
            .collect();
        page::page_of(items, query, sort, |pool| (pool.name.clone(), pool.uuid.to_string()))
    }

    /// One pool.
    pub fn get(&self, name: &str) -> Result<Arc<PoolRecord>> {
        self.tools.inventory.picture().pool(name)
    }

    /// How much room a pool has, and how much of it its volumes may take.
    pub fn capacity(&self, name: &str) -> Result<PoolCapacity> {
        let record = self.get(name)?;
        let sum = |size: fn(&VolumeRecord) -> u64| {
            record.volumes.iter().fold(0_u64, |sum, volume| sum.saturating_add(size(volume)))
        };
        let pool = &record.pool;
        let promised = sum(|volume| volume.capacity_bytes);
        Ok(PoolCapacity {
            name: pool.name.clone(),
            state: pool.state,
            capacity_bytes: pool.capacity_bytes,
            allocation_bytes: pool.allocation_bytes,
            available_bytes: pool.available_bytes,
            volume_count: pool.volume_count,
            volumes_capacity_bytes: promised,
            volumes_allocation_bytes: sum(|volume| volume.allocation_bytes),
            overcommit: (pool.capacity_bytes > 0).then(|| ratio(promised, pool.capacity_bytes)),
        })
    }

    /// One hop that acts on a pool; the pool is in the picture as it is then when this returns,
    /// also where the act failed.
    async fn act<F>(&self, name: &str, act: F) -> Result<()>
    where
        F: FnOnce(&Session) -> Result<()> + Send + 'static,
    {
        let acted = self.tools.hypervisor.run_to_end(Lane::Slow, SLOW_CALL, act).await;
        let seen = self.tools.inventory.refresh_pool(name).await;
        acted?;
        seen
    }

    /// The same for an act that shows whether the pool's storage is well: what is wrong is shown
    /// with the pool until it is active again.
    async fn probe<F>(&self, pool: &Pool, act: F) -> Result<()>
    where
        F: FnOnce(&Session) -> Result<()> + Send + 'static,
    {
        let acted = self.tools.hypervisor.run_to_end(Lane::Slow, SLOW_CALL, act).await;
        if let Err(error) = &acted
            && is_problem(error)
        {
            self.tools.inventory.note_pool_problem(pool.uuid, words_of(error))?;
        }
        let seen = self.tools.inventory.refresh_pool(&pool.name).await;
        acted?;
        seen
    }

    /// The pool as the result of its task.
    fn settled(&self, name: &str) -> Result<End> {
        let record = self.get(name)?;
        Ok(End::Done(serde_json::to_value(&record.pool).map_err(Error::internal)?))
    }
}

#[allow(clippy::cast_precision_loss, reason = "a ratio needs no exact bytes")]
fn ratio(part: u64, whole: u64) -> f64 {
    (part as f64 / whole as f64 * 1000.0).round() / 1000.0
}

fn pool_key(name: &str) -> Key {
    Key::Pool(name.to_owned())
}

fn subject(pool: &Pool) -> Subject {
    Subject { r#type: SubjectType::Pool, id: pool.uuid.to_string(), name: pool.name.clone() }
}

/// 412 unless `If-Match` is absent or names the present version.
fn check_if_match(ctx: &Context, record: &PoolRecord) -> Result<()> {
    ctx.expect_version(format_args!("the pool {:?}", record.pool.name), &record.etag()?)
}

/// The names of the active VMs that use a volume of the pool, as a disk or below one.
fn running_users(picture: &Picture, pool: &PoolRecord) -> Vec<String> {
    let users: BTreeSet<&String> =
        pool.volumes.iter().flat_map(|volume| volume.used_as.keys()).collect();
    let runs = |name: &str| {
        let at = picture.vms.binary_search_by(|record| record.vm.name.as_str().cmp(name));
        at.is_ok_and(|at| picture.vms[at].vm.state.is_active())
    };
    users.into_iter().filter(|name| runs(name)).cloned().collect()
}

/// The request that a step keeps.
fn kept<T: serde::de::DeserializeOwned>(steps: &[crate::store::Step], action: &str) -> Option<T> {
    let step = steps.iter().find(|step| step.action == action)?;
    serde_json::from_value(step.undo.clone()).ok()
}

/// Journals what is about to be done, by which a restarted daemon judges.
async fn intend(task: &TaskHandle, action: &str, what: impl serde::Serialize) -> Result<()> {
    let what = serde_json::to_value(what).map_err(Error::internal)?;
    task.intend(vec![(action.to_owned(), what)]).await.map(drop)
}

/// What a deletion answers.
const NOTHING: Value = Value::Null;
