//! Volumes of storage pools: made, found, changed and deleted through libvirt alone.
//!
//! Reads come from the inventory. Each change has a file of its own and the same course: look at
//! what is known, refuse or plan, hold the volume alone and its pool beside others, journal, one
//! libvirt hop, look at that volume again. Whatever fails leaves the pool as it was.

mod adopt;
mod check;
mod clone;
pub(crate) mod copy;
mod create;
mod delete;
mod resize;
mod wipe;

use std::sync::Arc;

use serde_json::{Value, json};

use super::gate::Key;
use super::inventory::VolumeRecord;
use super::operation::{SLOW_CALL, Tools};
use super::page::{self, Page, PageQuery};
use super::task::{End, TaskHandle};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, Session};
use crate::model::{Subject, SubjectType, Volume};

pub(crate) use check::{
    active, holds_files, new_name, refuse_used, refuse_used_but_by, runs, writers,
};
pub(crate) use create::{base_format, may_be_base};

/// The step that is journalled before libvirt is asked, with what a later daemon needs to judge.
const STEP: &str = "volume";

/// The use cases of volumes; cheap to clone.
#[derive(Clone)]
pub struct VolumeService {
    tools: Tools,
}

impl VolumeService {
    pub fn new(tools: Tools) -> Self {
        VolumeService { tools }
    }

    /// The volumes of one pool, or of all: a walk over the picture, which has them in order.
    pub fn list(&self, query: &PageQuery, pool: Option<&str>) -> Result<Page<VolumeRecord>> {
        let picture = self.tools.inventory.picture();
        picture.ready()?;
        let sort = query.sort.as_deref().unwrap_or("name");
        if !matches!(sort, "name" | "-name") {
            return Err(Error::field("sort", "is not one of name, -name"));
        }
        let record = pool.map(|name| picture.pool(name)).transpose()?;
        let all: &[Arc<VolumeRecord>] = match &record {
            Some(record) => &record.volumes,
            None => &picture.volumes,
        };
        let mut items: Vec<Arc<VolumeRecord>> = match &query.name {
            None => all.to_vec(),
            Some(name) => {
                let fits = |volume: &&Arc<VolumeRecord>| page::matches_pattern(name, &volume.name);
                all.iter().filter(fits).cloned().collect()
            }
        };
        let total = items.len();
        if sort == "-name" {
            items.reverse();
        }
        let limit = query.limit.unwrap_or(page::DEFAULT_LIMIT).clamp(1, page::MAX_LIMIT);
        if let Some(text) = &query.cursor {
            let cursor = page::Cursor::decode(text, sort)?;
            let last = (cursor.key.as_str(), cursor.id.as_str());
            items.retain(|volume| {
                let here = (volume.name.as_str(), volume.pool.as_str());
                if sort == "-name" { here < last } else { here > last }
            });
        }
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| {
            let (key, id) = (last.name.clone(), last.pool.clone());
            page::Cursor { sort: sort.to_owned(), key, id }.encode()
        });
        let etag = etag(&items, total);
        Ok(Page { items, total, next, etag })
    }

    /// One volume, ready to be sent.
    pub fn record(&self, pool: &str, name: &str) -> Result<Arc<VolumeRecord>> {
        self.tools.inventory.picture().volume(pool, name)
    }

    /// One volume.
    pub fn get(&self, pool: &str, name: &str) -> Result<Volume> {
        self.record(pool, name)?.whole()
    }

    /// The last look before something is destroyed: whoever held the volume until now may have
    /// begun to use it, and others may have put a layer on top of it.
    async fn still_unused(&self, pool: &str, name: &str) -> Result<()> {
        self.tools.inventory.refresh_users(pool).await?;
        check::refuse_used(&*self.record(pool, name)?)
    }

    /// One libvirt hop of an operation on this volume. Whatever came of it, the picture shows the
    /// volume as it is afterwards.
    async fn hop<T: Send + 'static>(
        &self,
        pool: &str,
        name: &str,
        work: impl FnOnce(&Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let done = self.tools.hypervisor.run_to_end(Lane::Slow, SLOW_CALL, work).await;
        if let Err(error) = &done
            && error.kind() == Kind::LibvirtUnavailable
        {
            return done;
        }
        let seen = self.tools.inventory.refresh_volume(pool, name).await;
        match (done, seen) {
            (Ok(done), Err(error)) if error.kind() != Kind::LibvirtUnavailable => {
                tracing::warn!(pool, name, error = ?error, "seen with the next refresh");
                Ok(done)
            }
            (Ok(_), Err(error)) => Err(error),
            (done, _) => done,
        }
    }

    /// The end of an operation whose result is the volume.
    fn settled(&self, pool: &str, name: &str) -> Result<End> {
        let record = self.record(pool, name)?;
        Ok(End::Done(serde_json::from_slice(&record.json).map_err(Error::internal)?))
    }

    /// Journals what is about to be done.
    async fn journal(&self, task: &TaskHandle, what: Value) -> Result<()> {
        task.intend(vec![(STEP.to_owned(), what)]).await.map(drop)
    }
}

/// Changes with the members of the page, their order and their content.
fn etag(items: &[Arc<VolumeRecord>], total: usize) -> String {
    let hash = items.iter().fold(page::stable_hash(&total.to_le_bytes()), |hash, volume| {
        (hash.rotate_left(5) ^ volume.hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    });
    format!("\"{hash:016x}\"")
}

/// Held beside others' work in the pool, so that nobody stops or deletes it meanwhile.
pub(crate) fn pool_key(pool: &str) -> Key {
    Key::Pool(pool.to_owned())
}

pub(crate) fn volume_key(pool: &str, name: &str) -> Key {
    Key::Volume(pool.to_owned(), name.to_owned())
}

fn volume_subject(pool: &str, name: &str) -> Subject {
    Subject { r#type: SubjectType::Volume, id: format!("{pool}/{name}"), name: name.to_owned() }
}

/// Pool and volume of a task; a pool's name has no slash.
fn of_subject(id: &str) -> (&str, &str) {
    id.split_once('/').unwrap_or(("", id))
}

/// What a step says of the new or changed volume.
fn step(pool: &str, name: &str, capacity_bytes: u64) -> Value {
    json!({"pool": pool, "volume": name, "capacity_bytes": capacity_bytes})
}
