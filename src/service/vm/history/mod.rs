//! The history of a VM's definition: its versions, what differs between two, and the way back.
//!
//! Versions are made by the inventory (`inventory/history.rs`), whoever changes a definition. Here they
//! are read, which waits for those that are on their way to the database, so that who has changed
//! something finds it.

mod check;
mod rollback;

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

pub(super) use rollback::{ROLLBACK_STEP, RollbackStep};

use super::VmService;
use crate::error::{Error, Kind, Result};
use crate::model::{DefinitionContent, DefinitionDiff, DefinitionVersion};
use crate::service::page::{Page, stable_hash};
use crate::xml;

/// How long a read waits for versions that are on their way.
const ON_THEIR_WAY: Duration = Duration::from_secs(2);

/// How many versions a page has where a client names no number.
const DEFAULT_LIMIT: u32 = 100;

impl VmService {
    /// The versions of a VM's definition, newest first. `cursor` is the `next` of the page before: a
    /// version's number.
    ///
    /// # Errors
    /// 404; 503 if the database cannot be read.
    pub async fn definitions(
        &self,
        id: &str,
        limit: Option<u32>,
        cursor: Option<u64>,
    ) -> Result<Page<DefinitionVersion>> {
        let vm = self.history_of(id).await?;
        let limit = limit.unwrap_or(DEFAULT_LIMIT).clamp(1, 1_000);
        let store = self.tools.tasks.store();
        // One more than is shown tells whether there is another page.
        let (mut versions, total) = store.definitions(vm, cursor, limit + 1).await?;
        let shown = limit as usize;
        let next = (versions.len() > shown).then(|| versions[shown - 1].number.to_string());
        versions.truncate(shown);
        let text = serde_json::to_vec(&(&versions, total, &next)).map_err(Error::internal)?;
        Ok(Page {
            items: versions.into_iter().map(Arc::new).collect(),
            total: usize::try_from(total).unwrap_or(usize::MAX),
            next,
            etag: format!("\"{:016x}\"", stable_hash(&text)),
        })
    }

    /// One version with its XML.
    ///
    /// # Errors
    /// 404 for the VM and for the version; 503 if the database cannot be read.
    pub async fn definition(&self, id: &str, number: u64) -> Result<DefinitionContent> {
        let vm = self.history_of(id).await?;
        self.version(vm, number).await
    }

    /// What differs between one version and another, or the present definition.
    ///
    /// # Errors
    /// As [`definition`](Self::definition).
    pub async fn definition_diff(
        &self,
        id: &str,
        from: u64,
        to: Option<u64>,
    ) -> Result<DefinitionDiff> {
        let vm = self.history_of(id).await?;
        let before = self.version(vm, from).await?.xml;
        let after = match to {
            Some(to) => self.version(vm, to).await?.xml,
            None => self.get(&vm.to_string())?.definition().text()?,
        };
        // Long texts take their time, which is no worker's of the scheduler.
        let compared = tokio::task::spawn_blocking(move || xml::diff::unified(&before, &after));
        let diff = compared.await.map_err(Error::internal)?;
        Ok(DefinitionDiff { from, to, diff })
    }

    /// The VM, when everything that was seen of it so far is written down.
    async fn history_of(&self, id: &str) -> Result<Uuid> {
        let vm = self.get(id)?.vm.uuid;
        let written = self.tools.inventory.written();
        if tokio::time::timeout(ON_THEIR_WAY, written).await.is_err() {
            tracing::warn!(vm = %vm, "the newest versions are not written down yet");
        }
        Ok(vm)
    }

    async fn version(&self, vm: Uuid, number: u64) -> Result<DefinitionContent> {
        let found = self.tools.tasks.store().definition(vm, number).await?;
        found.ok_or_else(|| {
            let name = self.get(&vm.to_string()).map(|record| record.vm.name.clone());
            let name = name.unwrap_or_else(|_| vm.to_string());
            Error::new(
                Kind::DefinitionNotFound,
                format!("the definition of VM {name:?} has no version {number}"),
            )
        })
    }
}
