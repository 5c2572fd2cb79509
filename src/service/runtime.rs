//! The runtime collector: keeps what is known of running guests up to date.
//!
//! It asks the guest agent of a VM when an event hints at news, and every so often without one.
//! Each VM has at most one question under way, on the lane of the agents, so a guest whose agent
//! hangs delays nobody: it is asked again later, ever more seldom. Addresses come from the agent
//! where it answers, and from the DHCP leases of libvirt's networks otherwise.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::inventory::{Inventory, RuntimeHint, VmRecord};
use crate::error::{Kind, Result};
use crate::libvirt::{Hypervisor, Lane, agent};
use crate::model::{GuestAddress, GuestAgentState, RuntimeDetails, VmState};

/// How long an agent may take to answer, seconds.
const AGENT_SECONDS: u32 = 5;

/// How often a VM is asked without a hint.
const ROUND: Duration = Duration::from_secs(30);

/// How many guests are asked at once: half of the workers for agents, so that a stop, which asks
/// its guest there too, finds one free beside guests that hang.
const AT_ONCE: usize = 2;

/// The longest pause after an agent that did not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// After a start or a resume the guest gets this long to bring up its interfaces before it is
/// asked for addresses the second time.
const SETTLING: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(6)];

#[derive(Default)]
struct Patience {
    failures: u32,
    not_before: Option<Instant>,
}

/// Runs until the inventory's hints end.
pub async fn run(
    inventory: Inventory,
    hypervisor: Hypervisor,
    mut hints: mpsc::UnboundedReceiver<RuntimeHint>,
) {
    let mut tick = tokio::time::interval(ROUND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut under_way: BTreeSet<Uuid> = BTreeSet::new();
    let mut asking: JoinSet<(Uuid, Result<RuntimeDetails>)> = JoinSet::new();
    let mut patience: HashMap<Uuid, Patience> = HashMap::new();
    let (again_tx, mut again) = mpsc::unbounded_channel::<Uuid>();
    // VMs to be asked as soon as it is their turn.
    let mut wanted: VecDeque<Uuid> = VecDeque::new();
    loop {
        tokio::select! {
            hint = hints.recv() => {
                let Some((uuid, why)) = hint else { return };
                patience.remove(&uuid);
                want(&mut wanted, uuid);
                if matches!(why, "started" | "agent-connected" | "resumed" | "device-added") {
                    for pause in SETTLING {
                        let again = again_tx.clone();
                        tokio::spawn(async move {
                            tokio::time::sleep(pause).await;
                            // The collector may have ended meanwhile.
                            let _ = again.send(uuid);
                        });
                    }
                }
            }
            Some(uuid) = again.recv() => want(&mut wanted, uuid),
            _ = tick.tick() => {
                let picture = inventory.picture();
                if picture.libvirt.connected {
                    wanted = picture.vms.iter().map(|record| record.vm.uuid).collect();
                }
                patience.retain(|uuid, _| picture.by_uuid.contains_key(uuid));
            }
            Some(done) = asking.join_next() => {
                let Ok((uuid, result)) = done else { continue };
                under_way.remove(&uuid);
                settle(&inventory, &mut patience, uuid, result);
            }
        }
        while asking.len() < AT_ONCE {
            let Some(uuid) = wanted.pop_front() else { break };
            let resting = patience
                .get(&uuid)
                .and_then(|patience| patience.not_before)
                .is_some_and(|moment| moment > Instant::now());
            if resting || under_way.contains(&uuid) {
                continue;
            }
            let picture = inventory.picture();
            let Some(record) = picture.by_uuid.get(&uuid) else { continue };
            if record.vm.state == VmState::Running && picture.libvirt.connected {
                under_way.insert(uuid);
                let (record, hypervisor) = (record.clone(), hypervisor.clone());
                asking.spawn(async move { (uuid, ask(&hypervisor, &record).await) });
            }
        }
    }
}

/// News goes before the routine.
fn want(wanted: &mut VecDeque<Uuid>, uuid: Uuid) {
    wanted.retain(|known| *known != uuid);
    wanted.push_front(uuid);
}

/// A guest that does not answer is asked ever more seldom.
fn rest(patience: &mut HashMap<Uuid, Patience>, uuid: Uuid) {
    let patience = patience.entry(uuid).or_default();
    patience.failures = (patience.failures + 1).min(8);
    let pause = (ROUND / 4 * 2u32.pow(patience.failures)).min(LONGEST_PAUSE);
    patience.not_before = Some(Instant::now() + pause);
}

fn settle(
    inventory: &Inventory,
    patience: &mut HashMap<Uuid, Patience>,
    uuid: Uuid,
    result: Result<RuntimeDetails>,
) {
    match result {
        Ok(details) => {
            if details.guest_agent == GuestAgentState::NotResponding {
                rest(patience, uuid);
            } else {
                patience.remove(&uuid);
            }
            if let Err(error) = inventory.set_runtime(uuid, details) {
                tracing::error!(error = ?error, "runtime details could not be kept");
            }
        }
        Err(error) => {
            tracing::debug!(vm = %uuid, error = ?error, "no runtime details");
            // A libvirt that is away says nothing about the guest.
            if error.kind() != Kind::LibvirtUnavailable {
                rest(patience, uuid);
            }
        }
    }
}

/// Asks one guest, in one hop.
async fn ask(hypervisor: &Hypervisor, record: &VmRecord) -> Result<RuntimeDetails> {
    let uuid = record.vm.uuid;
    let vm = record.whole()?;
    let known = vm.runtime_details.unwrap_or_default();
    let has_nics = !vm.networks.is_empty();
    let deadline = Duration::from_secs(u64::from(AGENT_SECONDS) * 3 + 2);
    let (info, interfaces, state) = if record.guest_agent == GuestAgentState::Connected {
        hypervisor
            .run(Lane::Agent, deadline, move |session| {
                let info = match agent::guest_info(session, uuid, AGENT_SECONDS) {
                    Ok(info) => info,
                    Err(error) if error.kind() == Kind::GuestAgentUnavailable => {
                        return Ok((None, Vec::new(), GuestAgentState::NotResponding));
                    }
                    Err(error) => return Err(error),
                };
                let interfaces =
                    agent::interface_addresses(session, uuid, agent::Source::Agent, AGENT_SECONDS)?;
                Ok((Some(info), interfaces, GuestAgentState::Connected))
            })
            .await?
    } else {
        (None, Vec::new(), record.guest_agent)
    };
    let mut addresses = addresses(&interfaces, "agent");
    if addresses.is_empty() && has_nics {
        let leases = hypervisor
            .run(Lane::Quick, Duration::from_secs(5), move |session| {
                agent::interface_addresses(session, uuid, agent::Source::Lease, AGENT_SECONDS)
            })
            .await
            .unwrap_or_default();
        addresses = self::addresses(&leases, "lease");
    }
    let mut details = RuntimeDetails {
        guest_agent: state,
        started_at: known.started_at.or_else(|| Some(Timestamp::now())),
        primary_address: primary(&addresses),
        addresses,
        ..RuntimeDetails::default()
    };
    if let Some(info) = info {
        details.hostname = info.hostname;
        details.os_id = info.os_id;
        details.os_name = info.os_name;
        details.os_version = info.os_version;
        details.kernel = info.kernel;
        details.machine = info.machine;
        details.timezone = info.timezone;
    } else if state == GuestAgentState::NotResponding {
        // A busy guest does not forget who it is.
        details = RuntimeDetails { guest_agent: state, ..known };
    }
    Ok(details)
}

fn addresses(interfaces: &[agent::GuestInterface], source: &str) -> Vec<GuestAddress> {
    let mut addresses: Vec<GuestAddress> = interfaces
        .iter()
        .filter(|interface| interface.name != "lo")
        .flat_map(|interface| {
            interface.addresses.iter().map(|(address, prefix, family)| GuestAddress {
                address: address.clone(),
                prefix: *prefix,
                family: family.as_str().to_owned(),
                mac: interface.mac.clone(),
                // A lease knows the host's end alone.
                interface: (source == "agent").then(|| interface.name.clone()),
                source: source.to_owned(),
            })
        })
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// The first address another host could use: IPv4 before IPv6, never loopback or link-local.
fn primary(addresses: &[GuestAddress]) -> Option<String> {
    let usable = |address: &&GuestAddress| match address.address.parse() {
        Ok(std::net::IpAddr::V4(v4)) => !v4.is_loopback() && !v4.is_link_local(),
        Ok(std::net::IpAddr::V6(v6)) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        Err(_) => false,
    };
    addresses
        .iter()
        .filter(usable)
        .find(|address| address.family == "ipv4")
        .or_else(|| addresses.iter().find(usable))
        .map(|address| address.address.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str, family: &str) -> GuestAddress {
        GuestAddress { address: text.into(), family: family.into(), ..GuestAddress::default() }
    }

    #[test]
    fn the_primary_address_is_one_that_another_host_could_use() {
        let all = [
            address("169.254.1.1", "ipv4"),
            address("fe80::1", "ipv6"),
            address("2001:db8::5", "ipv6"),
            address("10.0.0.9", "ipv4"),
        ];
        assert_eq!(primary(&all).as_deref(), Some("10.0.0.9"));
        assert_eq!(primary(&all[..3]).as_deref(), Some("2001:db8::5"));
        assert_eq!(primary(&all[..2]), None);
    }
}
