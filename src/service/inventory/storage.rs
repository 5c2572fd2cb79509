//! The actor's part that keeps pools and volumes.

use std::collections::HashMap;
use std::sync::Arc;

use super::actor::{Actor, insert};
use super::aliases::{self, Aliases};
use super::picture::{PathEntry, PoolRecord, VmRecord};
use super::volumes::{Bases, Item, PoolItem, VolumeRecord, settle};
use crate::model::{Pool, VolumeRef};
use crate::xml::domain::view::Place;

impl Actor {
    /// A listing of all pools, except for those that were read later than it.
    pub(super) fn take_pools(&mut self, mut pools: Vec<PoolItem>, ticket: u64) {
        let old = self.picture.load_full();
        let newer = |name: &str| self.pool_tickets.get(name).is_some_and(|seen| *seen > ticket);
        pools.retain(|item| !newer(&item.pool.name));
        for item in &mut pools {
            self.keep_newer(item, ticket);
        }
        pools.extend(old.pools.iter().filter(|record| newer(&record.pool.name)).map(known));
        self.pool_tickets.retain(|_, seen| *seen > ticket);
        self.volume_tickets.retain(|_, seen| *seen > ticket);
        // Links may have changed since.
        self.looked_up.clear();
        self.set_pools(pools);
    }

    pub(super) fn take_pool(&mut self, name: String, found: Option<PoolItem>, ticket: u64) {
        if self.pool_tickets.get(&name).is_some_and(|seen| *seen > ticket) {
            return;
        }
        let old = self.picture.load_full();
        let others = old.pools.iter().filter(|record| record.pool.name != name);
        let mut pools: Vec<PoolItem> = others.map(known).collect();
        if let Some(mut item) = found {
            self.keep_newer(&mut item, ticket);
            pools.push(item);
        }
        self.volume_tickets.retain(|volume, seen| volume.pool != name || *seen > ticket);
        self.pool_tickets.insert(name, ticket);
        self.set_pools(pools);
    }

    /// One volume; its pool stays as it is but for its own facts.
    pub(super) fn take_volume(
        &mut self,
        reference: VolumeRef,
        pool: Pool,
        found: Option<Item>,
        ticket: u64,
    ) {
        let seen = self.volume_tickets.get(&reference).copied().unwrap_or_default();
        let pool_seen = self.pool_tickets.get(&reference.pool).copied().unwrap_or_default();
        if seen.max(pool_seen) > ticket {
            return;
        }
        let old = self.picture.load_full();
        let mut pools: Vec<PoolItem> = old.pools.iter().map(known).collect();
        let at = pools.iter().position(|item| item.pool.name == reference.pool);
        let at = at.unwrap_or_else(|| {
            pools.push(PoolItem { pool: Pool::default(), volumes: Vec::new() });
            pools.len() - 1
        });
        let item = &mut pools[at];
        item.pool = pool;
        item.volumes.retain(|volume| volume.name() != reference.volume);
        item.volumes.extend(found);
        self.volume_tickets.insert(reference, ticket);
        self.set_pools(pools);
    }

    /// Puts the volumes that were seen later than their pool in the place of the older ones.
    fn keep_newer(&self, item: &mut PoolItem, ticket: u64) {
        let newer = |volume: &VolumeRef, seen: u64| volume.pool == item.pool.name && seen > ticket;
        let newer: Vec<&VolumeRef> = self
            .volume_tickets
            .iter()
            .filter(|(volume, seen)| newer(volume, **seen))
            .map(|(volume, _)| volume)
            .collect();
        if newer.is_empty() {
            return;
        }
        item.volumes.retain(|volume| !newer.iter().any(|newer| newer.volume == volume.name()));
        let picture = self.picture.load();
        let records = newer.iter().filter_map(|volume| {
            picture
                .pools
                .iter()
                .find(|record| record.pool.name == volume.pool)?
                .volume(&volume.volume)
        });
        item.volumes.extend(records.map(Item::Known));
    }

    /// Finds out anew who uses what, after disks have come, gone or moved.
    pub(super) fn settle_storage(&mut self) {
        let old = self.picture.load_full();
        if !old.pools.is_empty() {
            self.set_pools(old.pools.iter().map(known).collect());
        }
    }

    /// Other volumes are bases of templates from now on.
    pub(super) fn set_templates(&mut self, templates: Bases) {
        if self.templates != templates {
            self.templates = templates;
            self.settle_storage();
        }
    }

    pub(super) fn set_aliases(&mut self, aliases: Aliases) {
        self.looking_up = false;
        if self.aliases != aliases {
            self.aliases = aliases;
        }
        // Also asks for what has come up meanwhile.
        self.settle_storage();
        if !self.looking_up {
            for reply in self.unsettled.drain(..) {
                // Whoever waited may have given up.
                let _ = reply.send(());
            }
        }
    }

    fn set_pools(&mut self, mut pools: Vec<PoolItem>) {
        let old = self.picture.load_full();
        pools.sort_by(|one, other| one.pool.name.cmp(&other.pool.name));
        // A pool that is active has no problem any more, whoever started it.
        self.pool_problems.retain(|uuid, _| {
            pools.iter().any(|item| item.pool.uuid == *uuid && !item.pool.state.is_active())
        });
        for item in &mut pools {
            item.pool.problem = self.pool_problems.get(&item.pool.uuid).cloned();
            item.volumes.sort_by(|one, other| one.name().cmp(other.name()));
            item.pool.volume_count = u32::try_from(item.volumes.len()).unwrap_or(u32::MAX);
        }
        let shown: Vec<Pool> = pools.iter().map(|item| item.pool.clone()).collect();
        let settled = match settle(pools, &old.vms, &self.aliases, &self.templates) {
            Ok(settled) => settled,
            Err(error) => {
                tracing::error!(error = ?error, "the picture of storage stays as it was");
                return;
            }
        };
        if !self.looking_up && self.looked_up != settled.unclear {
            self.looked_up.clone_from(&settled.unclear);
            self.looking_up = true;
            aliases::look_up(settled.unclear, self.own.clone());
        }
        let mut paths: HashMap<String, PathEntry> = settled
            .volumes
            .iter()
            .flatten()
            .map(|volume| (volume.path.clone(), entry(volume)))
            .collect();
        for (path, pool, volume) in settled.other_words {
            paths.entry(path).or_insert_with(|| entry(&settled.volumes[pool][volume]));
        }
        let pools: Vec<Arc<PoolRecord>> = shown
            .into_iter()
            .zip(settled.volumes)
            .map(|(pool, volumes)| pool_record(&old.pools, pool, volumes))
            .collect();
        let remade: Vec<Arc<VmRecord>> = if *old.paths == paths {
            Vec::new()
        } else {
            let stale = self.stale();
            old.vms
                .iter()
                .filter(|record| disks_change(record, &old.paths, &paths))
                .filter_map(|record| self.rebuild(record, &paths, stale.clone()))
                .collect()
        };
        let pools_change = old.pools.len() != pools.len()
            || old.pools.iter().zip(&pools).any(|(one, other)| !Arc::ptr_eq(one, other));
        let paths = if *old.paths == paths { old.paths.clone() } else { Arc::new(paths) };
        if !pools_change && remade.is_empty() && Arc::ptr_eq(&paths, &old.paths) {
            return;
        }
        let volumes = if pools_change { flat(&pools) } else { old.volumes.clone() };
        self.change(|picture| {
            picture.pools = pools;
            picture.volumes = volumes;
            picture.paths = paths;
            let changed = pools_change || !remade.is_empty();
            for record in remade {
                insert(picture, record);
            }
            changed
        });
    }
}

/// A pool as it is in the picture.
fn known(record: &Arc<PoolRecord>) -> PoolItem {
    PoolItem {
        pool: record.pool.clone(),
        volumes: record.volumes.iter().cloned().map(Item::Known).collect(),
    }
}

fn entry(volume: &VolumeRecord) -> PathEntry {
    PathEntry { volume: volume.reference(), capacity_bytes: volume.capacity_bytes }
}

/// The record; the present one if nothing of it has changed. Its generation grows with what libvirt
/// tells of it and its volumes, not with who uses them.
fn pool_record(
    old: &[Arc<PoolRecord>],
    mut pool: Pool,
    volumes: Vec<Arc<VolumeRecord>>,
) -> Arc<PoolRecord> {
    let Some(known) = old.iter().find(|known| known.pool.uuid == pool.uuid) else {
        pool.generation = 1;
        return Arc::new(PoolRecord { pool, volumes });
    };
    pool.generation = known.pool.generation;
    let same = |same: fn(&Arc<VolumeRecord>, &Arc<VolumeRecord>) -> bool| {
        known.volumes.len() == volumes.len()
            && known.volumes.iter().zip(&volumes).all(|(one, other)| same(one, other))
    };
    let told =
        known.pool == pool && same(|one, other| one.name == other.name && one.told == other.told);
    if told && same(Arc::ptr_eq) {
        return known.clone();
    }
    if !told {
        pool.generation += 1;
    }
    Arc::new(PoolRecord { pool, volumes })
}

fn flat(pools: &[Arc<PoolRecord>]) -> Arc<[Arc<VolumeRecord>]> {
    let mut volumes: Vec<Arc<VolumeRecord>> =
        pools.iter().flat_map(|record| record.volumes.iter().cloned()).collect();
    // The pools are in order, and the sort keeps that among equals.
    volumes.sort_by(|one, other| one.name.cmp(&other.name));
    volumes.into()
}

fn disks_change(
    record: &VmRecord,
    old: &HashMap<String, PathEntry>,
    new: &HashMap<String, PathEntry>,
) -> bool {
    record.places.iter().any(|place| match &place.place {
        Place::Path(path) => old.get(&**path) != new.get(&**path),
        Place::Volume(_) => false,
    })
}
