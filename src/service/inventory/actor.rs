//! The one writer of the picture.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::aliases::Aliases;
use super::build::{self, Fetched, Saved, Surroundings};
use super::events::{self, Happened};
use super::history::History;
use super::picture::{PathEntry, Picture, VmRecord};
use super::scribe::{Entry, Scribe};
use super::volumes::{Bases, Item, PoolItem};
use crate::libvirt::domain::DomainBrief;
use crate::model::host::{Capabilities, LibvirtStatus};
use crate::model::{Network, Pool, RuntimeDetails, Stale, VolumeRef};
use crate::store::{NewEvent, VmRow};

/// What the actor is told.
pub(super) enum Command {
    /// Answer, and nothing else.
    Respond {
        reply: oneshot::Sender<()>,
    },
    /// Fresh facts of one VM, or that it is gone.
    Apply {
        uuid: Uuid,
        fetched: Option<Box<Fetched>>,
        ticket: u64,
        reply: Option<oneshot::Sender<Option<Arc<VmRecord>>>>,
    },
    /// Some of the VMs of a fill that is under way.
    Part {
        fetched: Vec<Fetched>,
        ticket: u64,
    },
    /// Every VM there is has been told: in parts, and these, of which only that they are there.
    Fill {
        unreadable: Vec<DomainBrief>,
        ticket: u64,
    },
    /// libvirt confirmed these, as they are known.
    Confirmed {
        at: Timestamp,
    },
    /// Every pool there is.
    Pools {
        pools: Vec<PoolItem>,
        ticket: u64,
        reply: oneshot::Sender<()>,
    },
    /// One pool, or that it is gone.
    Pool {
        name: String,
        found: Option<Box<PoolItem>>,
        ticket: u64,
        reply: oneshot::Sender<()>,
    },
    /// What was wrong when somebody wanted to start or refresh this pool.
    PoolProblem {
        uuid: Uuid,
        problem: String,
    },
    /// One volume, or that it is gone, and its pool without the others.
    Volume {
        reference: VolumeRef,
        pool: Box<Pool>,
        found: Option<Item>,
        ticket: u64,
        reply: oneshot::Sender<()>,
    },
    /// What paths stand for.
    Aliases(Aliases),
    /// The bases of all templates.
    Templates(Bases, oneshot::Sender<()>),
    /// Answered when everything before it is in the picture, and the links that it needs are followed.
    Settled(oneshot::Sender<()>),
    Networks {
        networks: Vec<Network>,
        ticket: u64,
        reply: oneshot::Sender<()>,
    },
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
    pub(super) picture: Arc<ArcSwap<Picture>>,
    saved: HashMap<Uuid, Saved>,
    runtime: HashMap<Uuid, RuntimeDetails>,
    /// The ticket under which each VM was last seen, or seen to be gone.
    tickets: HashMap<Uuid, u64>,
    /// The same of each pool, by its name.
    pub(super) pool_tickets: HashMap<String, u64>,
    /// And of each volume that was seen alone since its pool was seen.
    pub(super) volume_tickets: HashMap<VolumeRef, u64>,
    pub(super) aliases: Aliases,
    pub(super) templates: Bases,
    /// The paths that were looked up last, and whether the answer is still to come.
    pub(super) looked_up: BTreeSet<String>,
    pub(super) looking_up: bool,
    /// Who waits for that answer.
    pub(super) unsettled: Vec<oneshot::Sender<()>>,
    /// The actor's own inbox.
    pub(super) own: mpsc::WeakUnboundedSender<Command>,
    /// The records of a fill under way, and its ticket. Each part becomes records as it comes, so
    /// that a fill passes through little more memory than it leaves.
    filling: (u64, Vec<Arc<VmRecord>>),
    /// Why pools are inactive that should not be.
    pub(super) pool_problems: HashMap<Uuid, String>,
    /// The ticket under which the networks were last listed.
    networks_ticket: u64,
    scribe: Scribe,
    history: History,
    filled: watch::Sender<bool>,
    epoch: watch::Sender<u64>,
}

impl Actor {
    pub(super) fn new(
        picture: Arc<ArcSwap<Picture>>,
        rows: Vec<VmRow>,
        scribe: Scribe,
        history: History,
        own: mpsc::WeakUnboundedSender<Command>,
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
        let saved = rows.iter().map(|row| (row.uuid, Saved::of(row))).collect();
        Actor {
            picture,
            saved,
            runtime,
            tickets: HashMap::new(),
            pool_tickets: HashMap::new(),
            filling: (0, Vec::new()),
            pool_problems: HashMap::new(),
            volume_tickets: HashMap::new(),
            aliases: Aliases::default(),
            templates: Bases::default(),
            looked_up: BTreeSet::new(),
            looking_up: false,
            unsettled: Vec::new(),
            own,
            networks_ticket: 0,
            scribe,
            history,
            filled,
            epoch,
        }
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
            Command::Part { fetched, ticket } => self.part(fetched, ticket),
            Command::Fill { unreadable, ticket } => self.fill(unreadable, ticket),
            Command::Confirmed { at } => self.change(|picture| {
                picture.confirmed_at = Some(at);
                false
            }),
            Command::Pools { pools, ticket, reply } => {
                self.take_pools(pools, ticket);
                // Whoever asked may have gone; the picture is right all the same.
                let _ = reply.send(());
            }
            Command::Pool { name, found, ticket, reply } => {
                self.take_pool(name, found.map(|found| *found), ticket);
                // As above.
                let _ = reply.send(());
            }
            Command::PoolProblem { uuid, problem } => {
                self.pool_problems.insert(uuid, problem);
            }
            Command::Volume { reference, pool, found, ticket, reply } => {
                self.take_volume(reference, *pool, found, ticket);
                // As above.
                let _ = reply.send(());
            }
            Command::Aliases(aliases) => self.set_aliases(aliases),
            Command::Templates(bases, reply) => {
                self.set_templates(bases);
                // As above.
                let _ = reply.send(());
            }
            Command::Settled(reply) if self.looking_up => self.unsettled.push(reply),
            Command::Settled(reply) => {
                // As above.
                let _ = reply.send(());
            }
            Command::Networks { networks, ticket, reply } => {
                self.take_networks(networks, ticket);
                // As above.
                let _ = reply.send(());
            }
            Command::Capabilities(capabilities) => self.change(|picture| {
                picture.capabilities = Some(Arc::new(*capabilities));
                true
            }),
            Command::Runtime { uuid, runtime } => self.set_runtime(uuid, *runtime),
            Command::Announce(happened) => self.announce(&happened),
            Command::Connection(status) => self.set_connection(status),
            Command::Respond { reply } => {
                // Whoever asked may have given up.
                let _ = reply.send(());
            }
            Command::Flush(reply) => self.scribe.write(Entry::Flush(reply)),
        }
    }

    /// Replaces the picture by a changed copy. The copy is of references, not of objects.
    pub(super) fn change(&self, edit: impl FnOnce(&mut Picture) -> bool) {
        let old = self.picture.load();
        let mut new = Picture {
            epoch: old.epoch,
            vms: old.vms.clone(),
            by_uuid: old.by_uuid.clone(),
            pools: old.pools.clone(),
            volumes: old.volumes.clone(),
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
                    let known = self.picture.load().by_uuid.get(&uuid).cloned();
                    let moved = !known.is_some_and(|known| same_places(&known, &record));
                    self.change(|picture| {
                        insert(picture, record);
                        true
                    });
                    if moved {
                        self.settle_storage();
                    }
                }
            }
        }
    }

    /// Makes a record and passes a changed row to the scribe.
    pub(super) fn build(
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
            saved: self.saved.get(&uuid),
            runtime: self.runtime.get(&uuid),
            stale,
            now: Timestamp::now(),
        };
        match build::record(fetched, &around) {
            Ok((record, row)) => {
                if let Some(row) = row {
                    self.saved.insert(uuid, Saved::of(&row));
                    self.scribe.write(Entry::Row(row));
                }
                self.history.see(&record, self.picture.load().filled);
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
        if self.saved.remove(&uuid).is_some() {
            self.scribe.write(Entry::RowGone(uuid));
        }
        self.history.forget(uuid);
        self.change(|picture| {
            picture.vms.retain(|record| record.vm.uuid != uuid);
            picture.by_uuid.remove(&uuid).is_some()
        });
        self.settle_storage();
    }

    /// Makes a record anew, with other surroundings.
    pub(super) fn rebuild(
        &mut self,
        record: &VmRecord,
        paths: &HashMap<String, PathEntry>,
        stale: Option<Stale>,
    ) -> Option<Arc<VmRecord>> {
        match build::facts_of(record) {
            Ok(facts) => self.build(facts, paths, stale),
            Err(error) => {
                tracing::error!(vm = %record.vm.uuid, error = ?error, "a record stays as it is");
                None
            }
        }
    }

    fn part(&mut self, fetched: Vec<Fetched>, ticket: u64) {
        match ticket.cmp(&self.filling.0) {
            // A hop of a fill that came to nothing, which ends only now.
            Ordering::Less => return,
            Ordering::Equal => {}
            // What was begun before came to nothing.
            Ordering::Greater => self.filling = (ticket, Vec::new()),
        }
        let paths = self.picture.load().paths.clone();
        for one in fetched {
            let seen = self.tickets.entry(one.brief.uuid).or_insert(0);
            if ticket < *seen {
                // Somebody fetched it later than this fill: that stands, or that it is gone.
                continue;
            }
            *seen = ticket;
            let record = self.build(one, &paths, None);
            self.filling.1.extend(record);
        }
    }

    fn fill(&mut self, unreadable: Vec<DomainBrief>, ticket: u64) {
        let paths = self.picture.load().paths.clone();
        let old = self.picture.load_full();
        let (filling, mut records) = std::mem::take(&mut self.filling);
        if filling != ticket {
            records.clear();
        }
        // What somebody fetched later than the part of this fill is in the picture already.
        let tickets = &self.tickets;
        records.retain(|record| tickets.get(&record.vm.uuid) == Some(&ticket));
        let mut present: HashSet<Uuid> = records.iter().map(|record| record.vm.uuid).collect();
        for brief in unreadable {
            if !present.insert(brief.uuid) {
                // It came with a part of a hop that took too long as a whole.
                continue;
            }
            // It is there, and hangs: what was known of it stands, with the state it has now.
            if let Some(record) = old.by_uuid.get(&brief.uuid) {
                if self.tickets.get(&brief.uuid).is_some_and(|seen| *seen > ticket) {
                    // Its facts came after all, only too late for the survey.
                    records.push(record.clone());
                    continue;
                }
                match build::facts_of(record) {
                    Ok(known) => {
                        records.extend(self.build(Fetched { brief, ..known }, &paths, None));
                    }
                    Err(error) => {
                        tracing::error!(vm = %brief.uuid, error = ?error, "a record is lost");
                    }
                }
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
            self.saved
                .keys()
                .chain(self.history.known())
                .filter(|uuid| !present.contains(uuid) && !old.by_uuid.contains_key(uuid)),
        );
        for uuid in gone {
            self.runtime.remove(&uuid);
            self.saved.remove(&uuid);
            self.history.forget(uuid);
            self.scribe.write(Entry::RowGone(uuid));
        }
        // What an operation fetched between libvirt's return and this fill was marked old although
        // it was new.
        let mut records: Vec<Arc<VmRecord>> = records
            .into_iter()
            .filter_map(|record| match record.vm.is_stale {
                false => Some(record),
                true => self.rebuild(&record, &paths, None),
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
        self.settle_storage();
        self.filled.send_replace(true);
        self.history.release();
    }

    /// A listing of all networks, unless a later one is known.
    fn take_networks(&mut self, mut networks: Vec<Network>, ticket: u64) {
        if ticket < self.networks_ticket {
            return;
        }
        self.networks_ticket = ticket;
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
        if let Some(record) = self.rebuild(&record, &paths, stale) {
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
                    self.rebuild(record, &old.paths, Some(stale))
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

    pub(super) fn stale(&self) -> Option<Stale> {
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
pub(super) fn insert(picture: &mut Picture, record: Arc<VmRecord>) {
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

/// Whether both say the same of where the VM's disks lie.
fn same_places(one: &VmRecord, other: &VmRecord) -> bool {
    one.vm.name == other.vm.name && one.places == other.places
}

/// Whether a bulk reconcile says something else than the record.
pub(super) fn differs(record: &VmRecord, brief: &DomainBrief) -> bool {
    record.brief != *brief
}
