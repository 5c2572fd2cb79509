//! What is registered, in memory: reads cost no statement. It changes after the database has.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::model::{Iso, IsoState, VolumeRef};
use crate::service::inventory::Picture;
use crate::store::{IsoRow, Store};

/// The rows, and which of their checksums are being computed by which task.
pub(super) struct Library {
    store: Store,
    rows: RwLock<BTreeMap<Uuid, Arc<IsoRow>>>,
    computing: Mutex<HashMap<Uuid, Uuid>>,
    /// Held from the look at what there is to its change.
    writing: tokio::sync::Mutex<()>,
}

impl Library {
    /// What the database holds.
    pub(super) async fn load(store: Store) -> Result<Library> {
        let rows = store.isos().await?.into_iter().map(|row| (row.id, Arc::new(row))).collect();
        Ok(Library {
            store,
            rows: RwLock::new(rows),
            computing: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        })
    }

    /// Every row.
    pub(super) fn all(&self) -> Vec<Arc<IsoRow>> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The row with this id or name.
    pub(super) fn get(&self, id: &str) -> Result<Arc<IsoRow>> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        let by_id = Uuid::try_parse(id).ok().and_then(|id| rows.get(&id));
        by_id.or_else(|| rows.values().find(|row| row.name == id)).cloned().ok_or_else(|| {
            let shown: String = id.chars().take(140).collect();
            Error::new(Kind::IsoNotFound, format!("no ISO image with the name or id {shown:?}"))
        })
    }

    /// Refuses what is registered already.
    pub(super) fn is_free(&self, name: &str, volume: &VolumeRef) -> Result<()> {
        let rows = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        for row in rows.values() {
            let message = if row.pool == volume.pool && row.volume == volume.volume {
                format!("the volume {}/{} is registered as {:?}", row.pool, row.volume, row.name)
            } else if row.name == name {
                format!("an ISO image {name:?} is registered already")
            } else {
                continue;
            };
            return Err(
                Error::new(Kind::IsoAlreadyExists, message).with_detail("iso", row.id.to_string())
            );
        }
        Ok(())
    }

    /// Adds a row, if it is free.
    pub(super) async fn insert(&self, row: IsoRow) -> Result<Arc<IsoRow>> {
        let _turn = self.writing.lock().await;
        let volume = VolumeRef { pool: row.pool.clone(), volume: row.volume.clone() };
        self.is_free(&row.name, &volume)?;
        self.store.save_iso(&row).await?;
        Ok(self.put(row))
    }

    /// Changes a row.
    pub(super) async fn change(
        &self,
        id: Uuid,
        edit: impl FnOnce(&mut IsoRow),
    ) -> Result<Arc<IsoRow>> {
        let _turn = self.writing.lock().await;
        let mut row = IsoRow::clone(&*self.get(&id.to_string())?);
        edit(&mut row);
        row.generation += 1;
        row.updated_at = jiff::Timestamp::now();
        self.store.save_iso(&row).await?;
        Ok(self.put(row))
    }

    /// Removes a row.
    pub(super) async fn remove(&self, id: Uuid) -> Result<()> {
        let _turn = self.writing.lock().await;
        self.store.delete_iso(id).await?;
        self.rows.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        Ok(())
    }

    fn put(&self, row: IsoRow) -> Arc<IsoRow> {
        let row = Arc::new(row);
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        rows.insert(row.id, row.clone());
        row
    }

    /// Notes which task computes an image's checksum, or that none does.
    pub(super) fn computing(&self, id: Uuid, task: Option<Uuid>) {
        let mut computing = self.computing.lock().unwrap_or_else(PoisonError::into_inner);
        match task {
            Some(task) => computing.insert(id, task),
            None => computing.remove(&id),
        };
    }

    /// The task that computes an image's checksum.
    pub(super) fn computed_by(&self, id: Uuid) -> Option<Uuid> {
        self.computing.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }
}

/// The image as the API shows it.
pub(super) fn view(row: &IsoRow, picture: &Picture) -> Iso {
    let volume = picture.volume(&row.pool, &row.volume);
    let state = match &volume {
        Ok(volume) if volume.capacity_bytes == row.size_bytes => IsoState::Available,
        Ok(_) => IsoState::Changed,
        Err(_) => IsoState::Missing,
    };
    let recognised = row.detected_os.as_ref().map(|os| os.short_id.clone());
    Iso {
        id: row.id,
        name: row.name.clone(),
        description: row.description.clone(),
        pool: row.pool.clone(),
        volume: row.volume.clone(),
        state,
        size_bytes: row.size_bytes,
        os_variant: row.os_variant.clone().or(recognised),
        detected_os: row.detected_os.clone(),
        header: row.header.clone(),
        checksum: row.checksum.clone(),
        inserted_in: volume.map(|volume| volume.users()).unwrap_or_default(),
        created_at: row.created_at,
        updated_at: row.updated_at,
        generation: row.generation,
    }
}
