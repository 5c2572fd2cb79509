//! What asks libvirt for facts: the event pump and the reconciler.
//!
//! One task does both, so that facts of one VM are fetched in the order of its events. It waits
//! for libvirt, never the actor; a libvirt that does not answer in time costs freshness alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::actor::{Command, differs};
use super::build::{self, Fetched};
use super::events::{Causes, Happened};
use super::resources::{refresh_networks, refresh_pool, refresh_resources};
use super::{Inventory, RuntimeHint};
use crate::error::{Kind, Result};
use crate::libvirt::domain::{self, DomainBrief};
use crate::libvirt::{DomainEvent, Lane, LibvirtEvent, host, pool};
use crate::service::gate::Gate;
use crate::service::kvm;
use crate::xml;

/// How long an announcement waits for the facts it should come with.
const EVENT_DEADLINE: Duration = Duration::from_secs(2);

/// How long a bulk fetch may take.
pub(super) const BULK_DEADLINE: Duration = Duration::from_secs(30);

/// The pause before another try to fill the picture.
const FILL_AGAIN: Duration = Duration::from_millis(500);

/// How many VMs one hop fetches where there are many, and how many go into the picture at once.
const CHUNK: usize = 64;

/// How many VMs that do not run one hop of a fill reads at most: each such hop lists all VMs once.
const GROUP: usize = 512;

/// How much longer a hop of a fill may take for each of its VMs.
const PER_VM: Duration = Duration::from_millis(20);

/// How many such hops are under way at once: one less than the lane has workers.
const HOPS: usize = 3;

/// How many VMs each reconcile confirms by fetching their whole definition, the longest
/// unconfirmed first: catches what neither an event nor the bulk statistics tell.
const ROLLING: usize = 16;

/// How many reconciles pass between two looks at pools, volumes and networks.
const RESOURCE_ROUNDS: u32 = 6;

pub(super) async fn run(
    inventory: Inventory,
    raw: mpsc::UnboundedReceiver<LibvirtEvent>,
    gate: Gate,
    hints: mpsc::UnboundedSender<RuntimeHint>,
    reconcile: Duration,
) {
    let mut events = attributed(raw, gate);
    let mut tick = tokio::time::interval_at(Instant::now() + reconcile, reconcile);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut status = inventory.hypervisor.watch();
    let mut batch = Vec::new();
    let mut round = 0u32;
    // VMs whose facts could not be fetched in time.
    let mut owed: BTreeSet<Uuid> = BTreeSet::new();
    // Set while a picture could not be filled although libvirt answers.
    let mut again: Option<Instant> = None;
    loop {
        let retry = async {
            match again {
                Some(moment) => tokio::time::sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = inventory.stopping.cancelled() => return,
            received = events.recv_many(&mut batch, 1024) => {
                if received == 0 {
                    return;
                }
                let happened = std::mem::take(&mut batch);
                if !digest(&inventory, happened, &hints, &mut owed).await {
                    again = Some(Instant::now() + FILL_AGAIN);
                }
            }
            () = retry => {
                let connected = inventory.hypervisor.status().connected;
                let filled = connected && fill(&inventory, &mut owed).await;
                // Without a connection the next one brings a fill of its own.
                again = (connected && !filled).then(|| Instant::now() + FILL_AGAIN);
            }
            changed = status.changed() => {
                if changed.is_err() {
                    return;
                }
                let status = status.borrow_and_update().clone();
                if !status.connected {
                    send(&inventory, Command::Connection(status));
                }
            }
            _ = tick.tick() => {
                let status = inventory.hypervisor.status();
                if !status.connected {
                    continue;
                }
                round = round.wrapping_add(1);
                if again.is_some() {
                    continue;
                }
                let reconciled = reconcile_vms(&inventory, &mut owed, &hints).await;
                if reconciled.is_ok() && round.is_multiple_of(RESOURCE_ROUNDS) {
                    refresh_resources(&inventory).await;
                }
            }
        }
    }
}

/// Notes whose work each event is the moment it comes: by the time its facts are fetched, the next
/// operation may hold the VM.
fn attributed(
    mut raw: mpsc::UnboundedReceiver<LibvirtEvent>,
    gate: Gate,
) -> mpsc::UnboundedReceiver<Happened> {
    let (attributed, events) = mpsc::unbounded_channel();
    let mut causes = Causes::new(gate);
    tokio::spawn(async move {
        while let Some(event) = raw.recv().await {
            if attributed.send(causes.attribute(event)).is_err() {
                return;
            }
        }
    });
    events
}

fn send(inventory: &Inventory, command: Command) {
    if let Err(error) = inventory.send(command) {
        tracing::error!(error = ?error, "the picture cannot be changed any more");
    }
}

/// Fetches what a batch of events concerns, then announces the batch. False if a new connection's
/// picture could not be filled.
async fn digest(
    inventory: &Inventory,
    happened: Vec<Happened>,
    hints: &mpsc::UnboundedSender<RuntimeHint>,
    owed: &mut BTreeSet<Uuid>,
) -> bool {
    let came = inventory.tickets.draw();
    let (mut vms, mut networks, mut connected) = (BTreeSet::new(), false, false);
    let mut pools: BTreeSet<&str> = BTreeSet::new();
    let mut news: Vec<RuntimeHint> = Vec::new();
    for happened in &happened {
        match &happened.event {
            LibvirtEvent::Connected { .. } => connected = true,
            LibvirtEvent::Disconnected { .. } => {
                send(inventory, Command::Connection(inventory.hypervisor.status()));
            }
            LibvirtEvent::Domain { uuid, event, .. } => {
                vms.insert(*uuid);
                news.extend(runtime_hint(event).map(|why| (*uuid, why)));
            }
            LibvirtEvent::Network { .. } => networks = true,
            LibvirtEvent::Pool { name, .. } => {
                pools.insert(name);
            }
            LibvirtEvent::NodeDevice { .. } => {}
        }
    }
    let mut filled = true;
    if connected {
        filled = fill(inventory, owed).await;
    } else {
        let unseen = unseen(inventory, vms, came).await;
        fetch_some(inventory, unseen, owed).await;
        for pool in pools {
            if let Err(error) = refresh_pool(inventory, pool).await {
                tracing::warn!(pool, error = ?error, "a pool could not be read");
            }
        }
        if networks && let Err(error) = refresh_networks(inventory).await {
            tracing::warn!(error = ?error, "networks could not be read");
        }
    }
    send(inventory, Command::Announce(happened));
    // After the facts: whom the collector asks depends on what they say of the VM.
    for hint in news {
        // The collector may be gone while the daemon stops.
        let _ = hints.send(hint);
    }
    filled
}

/// The VMs of events that no operation has read since the events came.
async fn unseen(inventory: &Inventory, vms: BTreeSet<Uuid>, came: u64) -> Vec<Uuid> {
    let seen = vms.iter().map(|uuid| inventory.acts.seen_after(*uuid, came));
    let seen = futures_util::future::join_all(seen).await;
    vms.into_iter().zip(seen).filter(|(_, seen)| !seen).map(|(uuid, _)| uuid).collect()
}

/// Which events may bring news of the guest.
fn runtime_hint(event: &DomainEvent) -> Option<&'static str> {
    match event {
        DomainEvent::AgentConnected => Some("agent-connected"),
        DomainEvent::AgentDisconnected => Some("agent-disconnected"),
        DomainEvent::Started { .. } => Some("started"),
        DomainEvent::Resumed { .. } => Some("resumed"),
        DomainEvent::Rebooted => Some("rebooted"),
        DomainEvent::DeviceAdded { .. } => Some("device-added"),
        _ => None,
    }
}

/// Fetches these VMs, several hops at a time. One that libvirt keeps locked, such as one whose QEMU
/// is being ended, delays no other: few VMs have a hop each, and the hop takes its facts into the
/// picture itself, also if it comes back too late to be waited for. What failed stays owed.
async fn fetch_some(inventory: &Inventory, vms: Vec<Uuid>, owed: &mut BTreeSet<Uuid>) {
    let size = if vms.len() <= CHUNK { 1 } else { CHUNK };
    let chunks: Vec<Vec<Uuid>> = vms.chunks(size).map(<[Uuid]>::to_vec).collect();
    let mut hops = futures_util::stream::iter(chunks)
        .map(async |chunk| {
            let fetched = fetch_chunk(inventory, chunk.clone()).await;
            (chunk, fetched)
        })
        .buffer_unordered(HOPS);
    while let Some((chunk, fetched)) = hops.next().await {
        chunk.iter().for_each(|uuid| {
            owed.remove(uuid);
        });
        match fetched {
            Ok(failed) => owed.extend(failed),
            Err(error) => {
                tracing::warn!(error = ?error, vms = chunk.len(), "VMs could not be read in time");
                owed.extend(chunk);
            }
        }
    }
}

/// One hop; returns the VMs that could not be read.
async fn fetch_chunk(inventory: &Inventory, vms: Vec<Uuid>) -> Result<Vec<Uuid>> {
    let picture = inventory.clone();
    inventory
        .hypervisor
        .run(Lane::Quick, EVENT_DEADLINE, move |session| {
            let mut failed = Vec::new();
            for uuid in vms {
                let ticket = picture.tickets.draw();
                let fetched = match build::fetch(session, uuid) {
                    Ok(fetched) => Some(Box::new(fetched)),
                    Err(error) if error.kind() == Kind::VmNotFound => None,
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
                    Err(error) => {
                        tracing::warn!(vm = %uuid, error = ?error, "a VM could not be read");
                        failed.push(uuid);
                        continue;
                    }
                };
                send(&picture, Command::Apply { uuid, fetched, ticket, reply: None });
            }
            Ok(failed)
        })
        .await
}

/// Every VM there is, as far as libvirt tells them now.
struct Survey {
    ticket: u64,
    /// How many were read, and sent to the actor part by part.
    count: usize,
    /// They exist, and cannot be read now. What they are is taken in as soon as libvirt tells it.
    unreadable: Vec<DomainBrief>,
}

/// The brief part of every VM, and the ticket that was drawn before.
async fn list(inventory: &Inventory) -> Result<(u64, Vec<DomainBrief>)> {
    let tickets = inventory.tickets();
    inventory
        .hypervisor
        .run(Lane::Quick, BULK_DEADLINE, move |session| {
            let ticket = tickets.draw();
            Ok((ticket, domain::brief_all(session)?))
        })
        .await
}

/// Reads every VM of a listing. Running ones have a hop each: libvirt may keep one of them locked for
/// seconds, such as one that it was starting when it was itself restarted, and that delays no other.
async fn survey(inventory: &Inventory, ticket: u64, briefs: Vec<DomainBrief>) -> Result<Survey> {
    let (active, idle): (Vec<_>, Vec<_>) = briefs.into_iter().partition(|brief| brief.id.is_some());
    // All hops that are under way at once end together.
    let size = idle.len().div_ceil(HOPS).clamp(CHUNK, GROUP);
    let mut groups: Vec<Vec<DomainBrief>> = idle.chunks(size).map(<[_]>::to_vec).collect();
    groups.extend(active.into_iter().map(|brief| vec![brief]));
    let mut hops = futures_util::stream::iter(groups)
        .map(async |group| (survey_group(inventory, ticket, group.clone()).await, group))
        .buffer_unordered(HOPS);
    let mut survey = Survey { ticket, count: 0, unreadable: Vec::new() };
    while let Some((result, group)) = hops.next().await {
        match result {
            Ok(unreadable) => {
                survey.count += group.len() - unreadable.len();
                survey.unreadable.extend(unreadable);
            }
            Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
            Err(error) => {
                tracing::warn!(error = ?error, vms = group.len(), "VMs could not be read in time");
                survey.unreadable.extend(group);
            }
        }
    }
    Ok(survey)
}

/// One hop of the survey, which sends the facts to the actor part by part; returns the VMs that cannot
/// be read. What comes too late to be waited for goes into the picture VM by VM.
async fn survey_group(
    inventory: &Inventory,
    ticket: u64,
    group: Vec<DomainBrief>,
) -> Result<Vec<DomainBrief>> {
    let picture = inventory.clone();
    let begun = Instant::now();
    let patience = EVENT_DEADLINE + PER_VM * u32::try_from(group.len()).unwrap_or(u32::MAX);
    inventory
        .hypervisor
        .run(Lane::Quick, patience, move |session| {
            let late = picture.tickets.draw();
            let deliver = |part: Vec<Fetched>| {
                if begun.elapsed() <= patience {
                    return send(&picture, Command::Part { fetched: part, ticket });
                }
                for fetched in part {
                    let uuid = fetched.brief.uuid;
                    let fetched = Some(Box::new(fetched));
                    send(&picture, Command::Apply { uuid, fetched, ticket: late, reply: None });
                }
            };
            let (mut part, mut unreadable) = (Vec::new(), Vec::new());
            let all = build::fetch_each(session, &group, |brief, fetched| {
                match fetched {
                    Ok(fetched) => part.push(fetched),
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
                    Err(error) => {
                        tracing::warn!(vm = %brief.name, error = ?error, "a VM could not be read");
                        unreadable.push(brief.clone());
                    }
                }
                if part.len() == CHUNK {
                    deliver(std::mem::take(&mut part));
                }
                Ok(())
            });
            deliver(part);
            all.map(|()| unreadable)
        })
        .await
}

/// Everything anew, after a connection came about. False if it has to be tried again.
async fn fill(inventory: &Inventory, owed: &mut BTreeSet<Uuid>) -> bool {
    let begun = Instant::now();
    // Pools before the first VM is read, so that the records find their volumes at once and keep their
    // generation over a restart.
    let ((), listed) = tokio::join!(refresh_resources(inventory), list(inventory));
    let listed_after = begun.elapsed().as_millis();
    let surveyed = match listed {
        Ok((ticket, briefs)) => survey(inventory, ticket, briefs).await,
        Err(error) => Err(error),
    };
    match surveyed {
        Ok(Survey { ticket, count, unreadable }) => {
            owed.extend(unreadable.iter().map(|brief| brief.uuid));
            send(inventory, Command::Connection(inventory.hypervisor.status()));
            let left = unreadable.len();
            send(inventory, Command::Fill { unreadable, ticket });
            tracing::info!(
                vms = count,
                unreadable = left,
                listed_after,
                milliseconds = begun.elapsed().as_millis(),
                "picture filled"
            );
        }
        Err(error) => {
            tracing::warn!(error = ?error, "the picture could not be filled; again soon");
            return false;
        }
    }
    // For the first connection libvirt may have to ask QEMU, and the VMs' events must not wait for it.
    tokio::spawn(learn_capabilities(inventory.clone()));
    true
}

async fn learn_capabilities(inventory: Inventory) {
    match inventory.hypervisor.run(Lane::Quick, BULK_DEADLINE, host_capabilities).await {
        Ok(capabilities) => {
            let offered = capabilities
                .guests
                .iter()
                .any(|guest| guest.domain_types.iter().any(|kind| kind == "kvm"));
            if let Some(obstacle) = capabilities.kvm_obstacle.as_ref().filter(|_| offered) {
                tracing::warn!(%obstacle, "libvirt offers KVM, but no guest would run under it");
            }
            send(&inventory, Command::Capabilities(Box::new(capabilities)));
        }
        Err(error) => tracing::warn!(error = ?error, "capabilities could not be read"),
    }
}

fn host_capabilities(
    session: &crate::libvirt::Session,
) -> Result<crate::model::host::Capabilities> {
    let mut capabilities =
        xml::capabilities::parse_capabilities(&host::capabilities_xml(session)?)?;
    capabilities.kvm_obstacle = kvm::obstacle();
    match pool::capabilities_xml(session)
        .and_then(|text| xml::capabilities::parse_pool_capabilities(&text))
    {
        Ok(pools) => capabilities.storage_pools = pools,
        // Drivers other than libvirtd's own have none; what a pool may be is then found by trying.
        Err(error) => tracing::debug!(error = ?error, "no storage capabilities"),
    }
    let guest = capabilities
        .guests
        .iter()
        .find(|guest| guest.architecture == capabilities.architecture)
        .or_else(|| capabilities.guests.first());
    let domain_type = guest.and_then(|guest| guest.domain_types.first()).cloned();
    // Of the machine that new VMs get: what libvirt prefers for itself may lack Secure Boot.
    let q35 = guest.is_some_and(|guest| guest.machines.iter().any(|machine| machine == "q35"));
    let asked = host::domain_capabilities_xml(
        session,
        None,
        None,
        q35.then_some("q35"),
        domain_type.as_deref(),
    );
    match asked.and_then(|text| xml::capabilities::parse_domain_capabilities(&text)) {
        Ok(preferred) => capabilities.preferred = preferred,
        // Drivers other than QEMU's have none; new VMs then get what the guest entry says.
        Err(error) => {
            tracing::debug!(error = ?error, "no domain capabilities");
            if let Some(guest) = guest {
                capabilities.preferred.architecture.clone_from(&guest.architecture);
                capabilities.preferred.emulator.clone_from(&guest.emulator);
                capabilities.preferred.domain_type = domain_type.unwrap_or_default();
            }
        }
    }
    Ok(capabilities)
}

/// Compares a bulk listing with the picture and fetches what differs.
async fn reconcile_vms(
    inventory: &Inventory,
    owed: &mut BTreeSet<Uuid>,
    hints: &mpsc::UnboundedSender<RuntimeHint>,
) -> Result<()> {
    let briefs = inventory.hypervisor.run(Lane::Quick, BULK_DEADLINE, domain::brief_all).await;
    let briefs = match briefs {
        Ok(briefs) => briefs,
        Err(error) => {
            tracing::warn!(error = ?error, "the reconcile found no answer");
            return Err(error);
        }
    };
    let picture = inventory.picture();
    let briefs: BTreeMap<Uuid, DomainBrief> =
        briefs.into_iter().map(|brief| (brief.uuid, brief)).collect();
    let mut wanted: BTreeSet<Uuid> = std::mem::take(owed);
    for (uuid, brief) in &briefs {
        match picture.by_uuid.get(uuid) {
            Some(record) if !differs(record, brief) => {}
            Some(_) | None => {
                wanted.insert(*uuid);
                let _ = hints.send((*uuid, "reconciled"));
            }
        }
    }
    wanted.extend(picture.by_uuid.keys().filter(|uuid| !briefs.contains_key(uuid)));
    let mut oldest: Vec<(Timestamp, Uuid)> =
        picture.vms.iter().map(|record| (record.confirmed_at, record.vm.uuid)).collect();
    oldest.sort_unstable();
    wanted.extend(oldest.into_iter().take(ROLLING).map(|(_, uuid)| uuid));
    fetch_some(inventory, wanted.into_iter().collect(), owed).await;
    send(inventory, Command::Confirmed { at: Timestamp::now() });
    Ok(())
}
