//! What templates there are, in memory: reads cost no statement. It changes after the database has.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::Template;
use crate::service::inventory::{Bases, Inventory, Picture};
use crate::store::{Store, TemplateRow};

use super::problems;

/// The rows; the picture is told which volumes are theirs.
pub(super) struct Library {
    store: Store,
    inventory: Inventory,
    rows: RwLock<BTreeMap<Uuid, Arc<TemplateRow>>>,
    /// Held from the look at what there is to its change.
    writing: tokio::sync::Mutex<()>,
}

impl Library {
    /// What the database holds.
    pub(super) async fn load(store: Store, inventory: Inventory) -> Result<Library> {
        let rows = store.templates().await?.into_iter().map(|row| (row.id, Arc::new(row)));
        let rows = RwLock::new(rows.collect());
        let library = Library { store, inventory, rows, writing: tokio::sync::Mutex::default() };
        library.tell().await?;
        Ok(library)
    }

    /// Every row.
    pub(super) fn all(&self) -> Vec<Arc<TemplateRow>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The row with this id or name.
    pub(super) fn get(&self, id: &str) -> Result<Arc<TemplateRow>> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let by_id = Uuid::try_parse(id).ok().and_then(|id| rows.get(&id));
        by_id.or_else(|| rows.values().find(|row| row.name == id)).cloned().ok_or_else(|| {
            let shown: String = id.chars().take(140).collect();
            Error::new(Kind::TemplateNotFound, format!("no template with the name or id {shown:?}"))
        })
    }

    /// Refuses a name that another template has.
    pub(super) fn is_free(&self, name: &str, but: Option<Uuid>) -> Result<()> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        match rows.values().find(|row| row.name == name && Some(row.id) != but) {
            None => Ok(()),
            Some(row) => Err(Error::new(
                Kind::TemplateAlreadyExists,
                format!("a template named {name:?} exists already"),
            )
            .with_detail("template", row.id.to_string())),
        }
    }

    /// Adds a row, if its name is free.
    pub(super) async fn insert(&self, row: TemplateRow) -> Result<Arc<TemplateRow>> {
        let _turn = self.writing.lock().await;
        self.is_free(&row.name, None)?;
        self.store.save_template(&row).await?;
        self.put(row).await
    }

    /// Changes a row.
    pub(super) async fn change(
        &self,
        id: Uuid,
        edit: impl FnOnce(&mut TemplateRow),
    ) -> Result<Arc<TemplateRow>> {
        let _turn = self.writing.lock().await;
        let mut row = TemplateRow::clone(&*self.get(&id.to_string())?);
        edit(&mut row);
        self.is_free(&row.name, Some(id))?;
        row.generation += 1;
        row.updated_at = jiff::Timestamp::now();
        self.store.save_template(&row).await?;
        self.put(row).await
    }

    /// Removes a row; its volumes are like any others from then on.
    pub(super) async fn remove(&self, id: Uuid) -> Result<()> {
        let _turn = self.writing.lock().await;
        self.store.delete_template(id).await?;
        self.rows.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.tell().await
    }

    async fn put(&self, row: TemplateRow) -> Result<Arc<TemplateRow>> {
        let row = Arc::new(row);
        self.rows.write().unwrap_or_else(PoisonError::into_inner).insert(row.id, row.clone());
        self.tell().await?;
        Ok(row)
    }

    /// Has the picture show which volumes are bases.
    async fn tell(&self) -> Result<()> {
        let bases: Bases = self
            .all()
            .iter()
            .flat_map(|row| row.disks.iter().map(|disk| (disk.reference(), row.name.clone())))
            .collect();
        self.inventory.set_bases(bases).await
    }
}

/// The template as the API shows it.
pub(super) fn view(row: &TemplateRow, picture: &Picture) -> Template {
    Template {
        id: row.id,
        name: row.name.clone(),
        description: row.description.clone(),
        settings: row.settings.clone(),
        disks: row.disks.clone(),
        min_memory: row.min_memory,
        min_vcpus: row.min_vcpus,
        min_disk: row.min_disk,
        source_vm: row.source_vm.clone(),
        owner: row.owner.clone(),
        linked_clones: problems::users(row, picture).0,
        problems: problems::of(row, picture),
        created_at: row.created_at,
        updated_at: row.updated_at,
        generation: row.generation,
    }
}
