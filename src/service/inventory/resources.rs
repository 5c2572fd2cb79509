//! What asks libvirt for pools, volumes and networks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use uuid::Uuid;

use super::Inventory;
use super::actor::Command;
use super::build;
use super::picture::Picture;
use super::pump::BULK_DEADLINE;
use super::volumes::{Item, PoolItem, VolumeRecord};
use crate::error::{Error, Kind, Result};
use crate::libvirt::network::NetworkFacts;
use crate::libvirt::pool::PoolFacts;
use crate::libvirt::{Lane, Session, network, pool, volume};
use crate::model::{Network, Pool, PoolState, VolumeRef};
use crate::service::page::stable_hash;
use crate::xml;

/// How long links may take to be followed.
const LINKS: Duration = Duration::from_secs(2);

/// Pools, volumes and networks anew. What cannot be read stays as it was.
pub(super) async fn refresh_resources(inventory: &Inventory) {
    let (storage, networks) = tokio::join!(refresh_storage(inventory), refresh_networks(inventory));
    if let Err(error) = storage {
        tracing::warn!(error = ?error, "pools could not be read");
    }
    if let Err(error) = networks {
        tracing::warn!(error = ?error, "networks could not be read");
    }
}

/// Reads all pools and the volumes of the active ones.
pub(super) async fn refresh_storage(inventory: &Inventory) -> Result<()> {
    let (tickets, known) = (inventory.tickets(), inventory.picture());
    let (ticket, pools) = inventory
        .hypervisor
        .run(Lane::Slow, BULK_DEADLINE, move |session| {
            let ticket = tickets.draw();
            let pools = pool::all(session)?;
            let items = pools.into_iter().map(|facts| item(session, facts, &known));
            Ok((ticket, items.collect::<Result<Vec<_>>>()?))
        })
        .await?;
    let (reply, taken) = oneshot::channel();
    inventory.send(Command::Pools { pools, ticket, reply })?;
    taken.await.map_err(|_| Error::internal("the inventory's actor is gone"))
}

/// Reads one pool and its volumes; one that is gone leaves the picture.
pub(super) async fn refresh_pool(inventory: &Inventory, name: &str) -> Result<()> {
    let (tickets, known) = (inventory.tickets(), inventory.picture());
    let asked = name.to_owned();
    let (ticket, found) = inventory
        .hypervisor
        .run(Lane::Slow, BULK_DEADLINE, move |session| {
            let ticket = tickets.draw();
            let found = pool::facts(session, &asked).and_then(|facts| item(session, facts, &known));
            match found {
                Ok(item) => Ok((ticket, Some(item))),
                Err(error) if error.kind() == Kind::PoolNotFound => Ok((ticket, None)),
                Err(error) => Err(error),
            }
        })
        .await?;
    let (reply, taken) = oneshot::channel();
    let name = name.to_owned();
    inventory.send(Command::Pool { name, found: found.map(Box::new), ticket, reply })?;
    taken.await.map_err(|_| Error::internal("the inventory's actor is gone"))
}

/// Reads one volume and its pool's sizes; what is gone leaves the picture.
pub(super) async fn refresh_volume(inventory: &Inventory, pool: &str, name: &str) -> Result<()> {
    let tickets = inventory.tickets();
    let asked = VolumeRef::new(pool, name);
    let found = inventory
        .hypervisor
        .run(Lane::Slow, BULK_DEADLINE, move |session| {
            let ticket = tickets.draw();
            let facts = pool::facts(session, &asked.pool)?;
            let volume = match volume::facts(session, &asked.pool, &asked.volume) {
                Ok(volume) => Some(volume),
                Err(error) if error.kind() == Kind::VolumeNotFound => None,
                Err(error) => return Err(error),
            };
            let found = volume.and_then(|volume| told(&asked.pool, volume, None));
            Ok((ticket, parsed_pool(&facts)?, found))
        })
        .await;
    let (ticket, shown, found) = match found {
        Ok(found) => found,
        // Its pool is gone or has stopped, and all volumes with it.
        Err(error) if matches!(error.kind(), Kind::PoolNotFound | Kind::PoolInactive) => {
            return refresh_pool(inventory, pool).await;
        }
        Err(error) => return Err(error),
    };
    let (reply, taken) = oneshot::channel();
    let reference = VolumeRef::new(pool, name);
    inventory.send(Command::Volume { reference, pool: Box::new(shown), found, ticket, reply })?;
    taken.await.map_err(|_| Error::internal("the inventory's actor is gone"))
}

/// Reads the running VMs that use volumes of a pool. One that cannot be read stays as it is known.
pub(super) async fn refresh_users(inventory: &Inventory, pool: &str) -> Result<()> {
    let picture = inventory.picture();
    let record = picture.pool(pool)?;
    let names: BTreeSet<&String> =
        record.volumes.iter().flat_map(|volume| volume.used_as.keys()).collect();
    let running = picture.vms.iter().filter(|record| record.vm.state.is_active());
    let users: Vec<Uuid> = running
        .filter(|record| names.contains(&record.vm.name))
        .map(|record| record.vm.uuid)
        .collect();
    if users.is_empty() {
        return settled(inventory).await;
    }
    let own = inventory.clone();
    inventory
        .hypervisor
        .run(Lane::Slow, BULK_DEADLINE, move |session| {
            for uuid in users {
                let ticket = own.tickets.draw();
                match build::fetch(session, uuid) {
                    Ok(fetched) => {
                        let fetched = Some(Box::new(fetched));
                        own.send(Command::Apply { uuid, fetched, ticket, reply: None })?;
                    }
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
                    Err(error) => {
                        tracing::debug!(vm = %uuid, error = ?error, "it stays as it is known");
                    }
                }
            }
            Ok(())
        })
        .await?;
    settled(inventory).await
}

/// Returns when what was sent before is in the picture and the links to volumes are followed, or when that
/// takes too long: a look at a mount whose server is gone may never return.
pub(super) async fn settled(inventory: &Inventory) -> Result<()> {
    let (reply, taken) = oneshot::channel();
    inventory.send(Command::Settled(reply))?;
    match tokio::time::timeout(LINKS, taken).await {
        Ok(taken) => taken.map_err(|_| Error::internal("the inventory's actor is gone")),
        Err(_) => {
            tracing::warn!(
                "links are still being followed; volumes are used by whom it is known of"
            );
            Ok(())
        }
    }
}

/// What libvirt tells of a pool, apart from its volumes.
fn parsed_pool(facts: &PoolFacts) -> Result<Pool> {
    let mut pool = xml::pool::parse_pool(&facts.xml)?;
    pool.uuid = facts.uuid;
    pool.name.clone_from(&facts.name);
    pool.state = facts.state;
    pool.capacity_bytes = facts.capacity;
    pool.allocation_bytes = facts.allocation;
    pool.available_bytes = facts.available;
    pool.autostart = facts.autostart;
    pool.persistent = facts.persistent;
    Ok(pool)
}

fn item(session: &Session, facts: PoolFacts, known: &Picture) -> Result<PoolItem> {
    let pool = parsed_pool(&facts)?;
    let volumes = match facts.state {
        PoolState::Inactive => Vec::new(),
        _ => volume::all(session, &facts.name).unwrap_or_else(|error| {
            tracing::warn!(pool = %facts.name, error = ?error, "no volumes");
            Vec::new()
        }),
    };
    let known = known.pools.iter().find(|record| record.pool.name == facts.name);
    let known = known.map(|record| record.volumes.as_slice()).unwrap_or_default();
    let read = volumes.into_iter().filter_map(|facts| {
        let at = known.binary_search_by(|record| record.name.cmp(&facts.name));
        told(&pool.name, facts, at.ok().map(|at| &known[at]))
    });
    let volumes = read.collect();
    Ok(PoolItem { pool, volumes })
}

/// A volume as it is known already, if libvirt says nothing else of it.
fn told(pool: &str, facts: volume::VolumeFacts, known: Option<&Arc<VolumeRecord>>) -> Option<Item> {
    let hash = stable_hash(facts.xml.as_bytes());
    if let Some(known) = known.filter(|known| known.told == hash && known.path == facts.path) {
        return Some(Item::Known(known.clone()));
    }
    match xml::volume::parse_volume(pool, &facts.xml) {
        Ok(mut volume) => {
            volume.name = facts.name;
            volume.key = facts.key;
            volume.path = facts.path;
            Some(Item::Told(Box::new(volume), hash))
        }
        Err(error) => {
            tracing::warn!(pool, volume = %facts.name, error = ?error, "a volume cannot be read");
            None
        }
    }
}

/// Reads all networks.
pub(super) async fn refresh_networks(inventory: &Inventory) -> Result<()> {
    let tickets = inventory.tickets();
    let (ticket, networks) = inventory
        .hypervisor
        .run(Lane::Quick, BULK_DEADLINE, move |session| {
            let ticket = tickets.draw();
            let all = network::all(session)?;
            Ok((ticket, all.iter().map(network_of).collect::<Result<Vec<_>>>()?))
        })
        .await?;
    let (reply, taken) = oneshot::channel();
    inventory.send(Command::Networks { networks, ticket, reply })?;
    taken.await.map_err(|_| Error::internal("the inventory's actor is gone"))
}

/// One network as it runs, or as it is defined, with what waits for its next start.
pub fn network_of(facts: &NetworkFacts) -> Result<Network> {
    let mut network = xml::network::parse_network(&facts.xml)?;
    network.uuid = facts.uuid;
    network.name.clone_from(&facts.name);
    network.active = facts.active;
    network.persistent = facts.persistent;
    network.autostart = facts.autostart;
    if let Some(inactive) = &facts.inactive_xml {
        let next = xml::network::parse_network(inactive)?;
        network.pending = xml::network::pending::pending(&network, &next);
    }
    Ok(network)
}
