//! What is wrong with the storage of a pool that is not active, as it was last seen.
//!
//! libvirt keeps no such word, and the inventory holds it only while it runs. After a restart it is read
//! from the journal: the task that met the problem stands there with its error.

use std::time::Duration;

use super::PoolService;
use crate::error::{Error, Kind, Result};
use crate::model::{Pool, Task, TaskStatus};
use crate::service::task::error_from_json;
use crate::store::{EventQuery, TaskQuery};

/// The tasks that show whether a pool's storage is well.
const PROBES: [&str; 2] = ["pool.start", "pool.refresh"];
/// How long the first picture is waited for at a time.
const PATIENCE: Duration = Duration::from_secs(60);

impl PoolService {
    /// Shows what was wrong before the daemon was restarted. Ends when it has looked.
    pub async fn recall_problems(self) {
        while !self.tools.inventory.filled(PATIENCE).await {}
        let picture = self.tools.inventory.picture();
        for record in &picture.pools {
            let pool = &record.pool;
            if pool.state.is_active() || pool.problem.is_some() {
                continue;
            }
            if let Err(error) = self.recall(pool).await {
                tracing::warn!(pool = pool.name, error = ?error, "its last problem is unknown");
            }
        }
    }

    async fn recall(&self, pool: &Pool) -> Result<()> {
        let mut last: Option<Task> = None;
        for kind in PROBES {
            let query = TaskQuery {
                kind: Some(kind.to_owned()),
                subject_id: Some(pool.uuid.to_string()),
                limit: 1,
                ..TaskQuery::default()
            };
            let (found, _) = self.tools.tasks.store().tasks(&query).await?;
            last = last.into_iter().chain(found).max_by_key(|task| task.created_at);
        }
        let Some(task) = last.filter(|task| task.status == TaskStatus::Failed) else {
            return Ok(());
        };
        let error = error_from_json(task.error.as_ref());
        if !is_problem(&error) || self.started_after(pool, &task).await? {
            return Ok(());
        }
        self.tools.inventory.note_pool_problem(pool.uuid, words_of(&error))?;
        self.tools.inventory.refresh_pool(&pool.name).await
    }

    /// Whether the pool was started after all, by whomever.
    async fn started_after(&self, pool: &Pool, task: &Task) -> Result<bool> {
        let query = EventQuery {
            kinds: vec!["pool.started".to_owned()],
            subject_id: Some(pool.uuid.to_string()),
            limit: u32::MAX,
            ..EventQuery::default()
        };
        let starts = self.tools.tasks.store().events(&query).await?;
        Ok(starts.iter().any(|start| Some(start.time) > task.finished_at))
    }
}

/// Whether an error is about the pool's storage, not about the way to it.
pub(super) fn is_problem(error: &Error) -> bool {
    !matches!(
        error.kind(),
        Kind::LibvirtUnavailable
            | Kind::LibvirtTimeout
            | Kind::PoolNotFound
            | Kind::PoolActive
            | Kind::PoolInactive
            | Kind::PoolBusy
            | Kind::Internal
    )
}

/// Our words and libvirt's, in one line.
pub(super) fn words_of(error: &Error) -> String {
    let libvirt = error.details().get("libvirt").and_then(|libvirt| libvirt["text"].as_str());
    match libvirt {
        Some(text) => format!("{}: {}", error.message(), text.trim()),
        None => error.message().to_owned(),
    }
}
