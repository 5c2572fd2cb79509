//! The one writer of the picture.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::build::{self, Fetched, Surroundings};
use super::events::{self, Happened};
use super::picture::{PathEntry, Picture, PoolRecord, VmRecord};
use super::scribe::{Entry, Scribe};
use crate::libvirt::domain::DomainBrief;
use crate::model::host::{Capabilities, LibvirtStatus};
use crate::model::{Network, RuntimeDetails, Stale, VolumeRef};
use crate::store::{NewEvent, VmRow};

/// What the actor is told.
pub(super) enum Command {
    /// Fresh facts of one VM, or that it is gone.
    Apply {
        uuid: Uuid,
        fetched: Option<Box<Fetched>>,
        ticket: u64,
        reply: Option<oneshot::Sender<Option<Arc<VmRecord>>>>,
    },
    /// Every VM there is; of some only that they are there.
    Fill {
        fetched: Vec<Fetched>,
        unreadable: Vec<DomainBrief>,
        ticket: u64,
    },
    /// libvirt confirmed these, as they are known.
    Confirmed {
        at: Timestamp,
    },
    Pools {
        pools: Vec<PoolRecord>,
        reply: oneshot::Sender<()>,
    },
    Networks(Vec<Network>),
    Capabilities(Box<Capabilities>),
    Runtime {
        uuid: Uuid,
        runtime: Box<RuntimeDetails>,
    },
    /// Announce these, after everything sent before.
    Announce(Vec<Happened>),
    Connection(LibvirtStatus),
    /// Answered when everything before it is written down.
    Flush(oneshot::Sender<()>),
}

pub(super) struct Actor {
    picture: Arc<ArcSwap<Picture>>,
    rows: HashMap<Uuid, VmRow>,
    runtime: HashMap<Uuid, RuntimeDetails>,
    /// The ticket under which each VM was last seen, or seen to be gone.
    tickets: HashMap<Uuid, u64>,
    scribe: Scribe,
    filled: watch::Sender<bool>,
    epoch: watch::Sender<u64>,
}

impl Actor {
    pub(super) fn new(
        picture: Arc<ArcSwap<Picture>>,
        rows: Vec<VmRow>,
        scribe: Scribe,
        filled: watch::Sender<bool>,
        epoch: watch::Sender<u64>,
    ) -> Self {
        let runtime = rows
            .iter()
            .filter_map(|row| {
                let value = row.runtime.clone()?;
                Some((row.uuid, serde_json::from_value(value).ok()?))
            })
            .collect();
        let rows = rows.into_iter().map(|row| (row.uuid, row)).collect();
        Actor { picture, rows, runtime, tickets: HashMap::new(), scribe, filled, epoch }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        while let Some(command) = inbox.recv().await {
            self.handle(command);
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Apply { uuid, fetched, ticket, reply } => {
                self.apply(uuid, fetched, ticket);
                if let Some(reply) = reply {
                    // Whoever asked may have gone; the picture is right all the same.
                    let _ = reply.send(self.picture.load().by_uuid.get(&uuid).cloned());
                }
            }
            Command::Fill { fetched, unreadable, ticket } => {
                self.fill(fetched, unreadable, ticket);
            }
            Command::Confirmed { at } => self.change(|picture| {
                picture.confirmed_at = Some(at);
                false
            }),
            Command::Pools { pools, reply } => {
                self.set_pools(pools);
                // Whoever asked may have gone; the picture is right all the same.
                let _ = reply.send(());
            }
            Command::Networks(networks) => self.set_networks(networks),
            Command::Capabilities(capabilities) => self.change(|picture| {
                picture.capabilities = Some(Arc::new(*capabilities));
                true
            }),
            Command::Runtime { uuid, runtime } => self.set_runtime(uuid, *runtime),
            Command::Announce(happened) => self.announce(&happened),
            Command::Connection(status) => self.set_connection(status),
            Command::Flush(reply) => self.scribe.write(Entry::Flush(reply)),
        }
    }

    /// Replaces the picture by a changed copy. The copy is of references, not of objects.
    fn change(&self, edit: impl FnOnce(&mut Picture) -> bool) {
        let old = self.picture.load();
        let mut new = Picture {
            epoch: old.epoch,
            vms: old.vms.clone(),
            by_uuid: old.by_uuid.clone(),
            pools: old.pools.clone(),
            paths: old.paths.clone(),
            networks: old.networks.clone(),
            capabilities: old.capabilities.clone(),
            libvirt: old.libvirt.clone(),
            filled: old.filled,
            confirmed_at: old.confirmed_at,
        };
        let changed = edit(&mut new);
        if changed {
            new.epoch += 1;
        }
        let epoch = new.epoch;
        self.picture.store(Arc::new(new));
        if changed {
            self.epoch.send_replace(epoch);
        }
    }

    fn apply(&mut self, uuid: Uuid, fetched: Option<Box<Fetched>>, ticket: u64) {
        let seen = self.tickets.entry(uuid).or_insert(0);
        if ticket < *seen {
            return;
        }
        *seen = ticket;
        match fetched {
            None => self.remove(uuid),
            Some(fetched) => {
                let stale = self.stale();
                let paths = self.picture.load().paths.clone();
                if let Some(record) = self.build(*fetched, &paths, stale) {
                    self.change(|picture| {
                        insert(picture, record);
                        true
                    });
                }
            }
        }
    }

    /// Makes a record and passes a changed row to the scribe.
    fn build(
        &mut self,
        fetched: Fetched,
        paths: &HashMap<String, PathEntry>,
        stale: Option<Stale>,
    ) -> Option<Arc<VmRecord>> {
        let uuid = fetched.brief.uuid;
        let known = self.picture.load().by_uuid.get(&uuid).map(|record| record.brief.id);
        // Another id is another boot, even if its stop was never seen.
        if !fetched.brief.state.is_active() || known.is_some_and(|id| id != fetched.brief.id) {
            self.runtime.remove(&uuid);
        }
        let around = Surroundings {
            paths,
            row: self.rows.get(&uuid),
            runtime: self.runtime.get(&uuid),
            stale,
            now: Timestamp::now(),
        };
        match build::record(fetched, &around) {
            Ok((record, row)) => {
                if let Some(row) = row {
                    self.rows.insert(uuid, row.clone());
                    self.scribe.write(Entry::Row(row));
                }
                Some(Arc::new(record))
            }
            Err(error) => {
                tracing::error!(vm = %uuid, error = ?error, "no record could be made");
                None
            }
        }
    }

    fn remove(&mut self, uuid: Uuid) {
        self.runtime.remove(&uuid);
        if self.rows.remove(&uuid).is_some() {
            self.scribe.write(Entry::RowGone(uuid));
        }
        self.change(|picture| {
            picture.vms.retain(|record| record.vm.uuid != uuid);
            picture.by_uuid.remove(&uuid).is_some()
        });
    }

    fn fill(&mut self, fetched: Vec<Fetched>, unreadable: Vec<DomainBrief>, ticket: u64) {
        let paths = self.picture.load().paths.clone();
        let old = self.picture.load_full();
        let mut records: Vec<Arc<VmRecord>> = Vec::with_capacity(fetched.len());
        let mut present = HashSet::with_capacity(fetched.len());
        for one in fetched {
            let uuid = one.brief.uuid;
            present.insert(uuid);
            let seen = self.tickets.entry(uuid).or_insert(0);
            if ticket < *seen {
                // Somebody fetched it later than this fill: keep that, or that it is gone.
                records.extend(old.by_uuid.get(&uuid).cloned());
                continue;
            }
            *seen = ticket;
            records.extend(self.build(one, &paths, None));
        }
        for brief in unreadable {
            // It is there, and hangs: what was known of it stands, with the state it has now.
            present.insert(brief.uuid);
            if let Some(record) = old.by_uuid.get(&brief.uuid) {
                if self.tickets.get(&brief.uuid).is_some_and(|seen| *seen > ticket) {
                    // Its facts came after all, only too late for the survey.
                    records.push(record.clone());
                    continue;
                }
                let mut known = build::facts_of(record);
                known.brief = brief;
                records.extend(self.build(known, &paths, None));
            }
        }
        let mut gone = Vec::new();
        for record in &old.vms {
            let uuid = record.vm.uuid;
            if !present.contains(&uuid) {
                if self.tickets.get(&uuid).is_some_and(|seen| *seen > ticket) {
                    records.push(record.clone());
                } else {
                    gone.push(uuid);
                }
            }
        }
        gone.extend(
            self.rows
                .keys()
                .filter(|uuid| !present.contains(uuid) && !old.by_uuid.contains_key(uuid)),
        );
        for uuid in gone {
            self.runtime.remove(&uuid);
            self.rows.remove(&uuid);
            self.scribe.write(Entry::RowGone(uuid));
        }
        // What an operation fetched between libvirt's return and this fill was marked old although
        // it was new.
        let mut records: Vec<Arc<VmRecord>> = records
            .into_iter()
            .filter_map(|record| match record.vm.stale {
                None => Some(record),
                Some(_) => self.build(build::facts_of(&record), &paths, None),
            })
            .collect();
        records.sort_by(|one, other| one.vm.name.cmp(&other.vm.name));
        self.tickets.retain(|uuid, seen| present.contains(uuid) || *seen > ticket);
        self.change(|picture| {
            picture.by_uuid =
                records.iter().map(|record| (record.vm.uuid, record.clone())).collect();
            picture.vms = records;
            picture.filled = true;
            picture.confirmed_at = Some(Timestamp::now());
            true
        });
        self.filled.send_replace(true);
    }

    fn set_pools(&mut self, mut pools: Vec<PoolRecord>) {
        let old = self.picture.load_full();
        pools.sort_by(|one, other| one.pool.name.cmp(&other.pool.name));
        let paths: HashMap<String, PathEntry> = pools
            .iter()
            .flat_map(|record| &record.volumes)
            .map(|volume| {
                let reference =
                    VolumeRef { pool: volume.pool.clone(), volume: volume.name.clone() };
                let entry = PathEntry { volume: reference, capacity_bytes: volume.capacity_bytes };
                (volume.path.clone(), entry)
            })
            .collect();
        let pools: Vec<Arc<PoolRecord>> = pools
            .into_iter()
            .map(|mut record| {
                let known = old.pools.iter().find(|known| known.pool.uuid == record.pool.uuid);
                let generation = known.map_or(1, |known| known.pool.generation);
                record.pool.generation = generation;
                let same = known.is_some_and(|known| {
                    known.pool == record.pool && known.volumes == record.volumes
                });
                match known {
                    Some(known) if same => known.clone(),
                    Some(_) => {
                        record.pool.generation += 1;
                        Arc::new(record)
                    }
                    None => Arc::new(record),
                }
            })
            .collect();
        let remade: Vec<Arc<VmRecord>> = if *old.paths == paths {
            Vec::new()
        } else {
            let stale = self.stale();
            old.vms
                .iter()
                .filter(|record| disks_change(record, &old.paths, &paths))
                .filter_map(|record| self.build(build::facts_of(record), &paths, stale.clone()))
                .collect()
        };
        self.change(|picture| {
            let changed = picture.pools.len() != pools.len()
                || picture.pools.iter().zip(&pools).any(|(one, other)| !Arc::ptr_eq(one, other));
            picture.pools = pools;
            picture.paths = Arc::new(paths);
            let changed = changed || !remade.is_empty();
            for record in remade {
                insert(picture, record);
            }
            changed
        });
    }

    fn set_networks(&mut self, mut networks: Vec<Network>) {
        networks.sort_by(|one, other| one.name.cmp(&other.name));
        self.change(|picture| {
            let new: Vec<Arc<Network>> = networks
                .into_iter()
                .map(|mut network| {
                    let known = picture.networks.iter().find(|known| known.uuid == network.uuid);
                    network.generation = known.map_or(1, |known| known.generation);
                    match known {
                        Some(known) if **known == network => known.clone(),
                        Some(_) => {
                            network.generation += 1;
                            Arc::new(network)
                        }
                        None => Arc::new(network),
                    }
                })
                .collect();
            let changed = picture.networks.len() != new.len()
                || picture.networks.iter().zip(&new).any(|(one, other)| !Arc::ptr_eq(one, other));
            picture.networks = new;
            changed
        });
    }

    fn set_runtime(&mut self, uuid: Uuid, mut runtime: RuntimeDetails) {
        let Some(record) = self.picture.load().by_uuid.get(&uuid).cloned() else { return };
        if !record.brief.state.is_active() {
            return;
        }
        let known = self.runtime.get(&uuid);
        runtime.updated_at = known.and_then(|known| known.updated_at);
        if known == Some(&runtime) {
            return;
        }
        runtime.updated_at = Some(Timestamp::now());
        self.runtime.insert(uuid, runtime);
        let (paths, stale) = (self.picture.load().paths.clone(), self.stale());
        if let Some(record) = self.build(build::facts_of(&record), &paths, stale) {
            self.change(|picture| {
                insert(picture, record);
                true
            });
        }
    }

    fn set_connection(&mut self, status: LibvirtStatus) {
        let was = self.picture.load().libvirt.connected;
        let now = status.connected;
        let reason = status.reason.clone().unwrap_or_else(|| "the connection was lost".to_owned());
        self.change(|picture| {
            picture.libvirt = status;
            true
        });
        if was && !now {
            let old = self.picture.load_full();
            let records: Vec<Arc<VmRecord>> = old
                .vms
                .iter()
                .filter_map(|record| {
                    let stale = Stale {
                        since: old.libvirt.since,
                        confirmed_at: old
                            .confirmed_at
                            .map_or(record.confirmed_at, |at| at.max(record.confirmed_at)),
                        reason: reason.clone(),
                    };
                    self.build(build::facts_of(record), &old.paths, Some(stale))
                })
                .collect();
            self.change(|picture| {
                for record in records {
                    insert(picture, record);
                }
                true
            });
        }
    }

    fn stale(&self) -> Option<Stale> {
        let picture = self.picture.load();
        if picture.libvirt.connected {
            return None;
        }
        Some(Stale {
            since: picture.libvirt.since,
            confirmed_at: picture.confirmed_at.unwrap_or(picture.libvirt.since),
            reason: picture
                .libvirt
                .reason
                .clone()
                .unwrap_or_else(|| "the connection was lost".to_owned()),
        })
    }

    fn announce(&self, happened: &[Happened]) {
        let picture = self.picture.load();
        let events: Vec<NewEvent> =
            happened.iter().filter_map(|happened| events::announce(happened, &picture)).collect();
        if !events.is_empty() {
            self.scribe.write(Entry::Events(events));
        }
    }
}

/// Puts a record where it belongs, in place of the one before.
fn insert(picture: &mut Picture, record: Arc<VmRecord>) {
    let uuid = record.vm.uuid;
    let same_name = picture.by_uuid.get(&uuid).is_some_and(|known| known.vm.name == record.vm.name);
    let at = picture.vms.binary_search_by(|known| known.vm.name.cmp(&record.vm.name));
    match at {
        Ok(at) if same_name => picture.vms[at] = record.clone(),
        _ => {
            picture.vms.retain(|known| known.vm.uuid != uuid);
            let at = picture.vms.partition_point(|known| known.vm.name < record.vm.name);
            picture.vms.insert(at, record.clone());
        }
    }
    picture.by_uuid.insert(uuid, record);
}

fn disks_change(
    record: &VmRecord,
    old: &HashMap<String, PathEntry>,
    new: &HashMap<String, PathEntry>,
) -> bool {
    record
        .vm
        .disks
        .iter()
        .filter_map(|disk| disk.source.as_deref())
        .any(|source| old.get(source) != new.get(source))
}

/// Whether a bulk reconcile says something else than the record.
pub(super) fn differs(record: &VmRecord, brief: &DomainBrief) -> bool {
    record.brief != *brief
}
