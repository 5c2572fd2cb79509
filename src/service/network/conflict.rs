//! What a network must not get into the way of: other networks of libvirt's, and the host.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::host::HostNet;
use crate::error::{Error, Kind, Result};
use crate::model::network_request::ForwardMode;
use crate::model::{Network, Subnet};

/// Refuses a network whose subnets or whose bridge somebody else has. `others` are all networks of
/// libvirt's, each as it runs and as it is defined; the one with `own` is this network itself.
/// `host` is absent where libvirt does not work on this host.
///
/// # Errors
/// `NetworkConflict` naming who has it; `Impossible` for a bridge that is not there.
pub fn check(
    wanted: &Network,
    own: Uuid,
    others: &[Network],
    host: Option<&HostNet>,
) -> Result<()> {
    let mine: BTreeSet<&str> = others
        .iter()
        .filter(|other| other.uuid == own)
        .filter_map(|own| own.bridge.as_deref())
        .collect();
    let others: Vec<&Network> = others.iter().filter(|other| other.uuid != own).collect();
    check_bridge(wanted, &mine, &others, host)?;
    let subnets = claimed(wanted);
    for (field, subnet) in &subnets {
        for other in &others {
            if let Some((_, taken)) =
                claimed(other).iter().find(|(_, taken)| taken.overlaps(subnet))
            {
                return Err(conflict(
                    field,
                    format!(
                        "{} overlaps with {} of network {:?}",
                        subnet.network(),
                        taken.network(),
                        other.name
                    ),
                )
                .with_detail("network", other.name.as_str())
                .with_detail("subnet", taken.network().to_string()));
            }
        }
    }
    let Some(host) = host else { return Ok(()) };
    let of_libvirt: BTreeSet<&str> = others
        .iter()
        .filter(|other| is_managed(other))
        .filter_map(|other| other.bridge.as_deref())
        .chain(mine)
        .collect();
    for (field, subnet) in &subnets {
        let taken = host
            .addresses
            .iter()
            .filter(|(link, _)| !of_libvirt.contains(link.as_str()))
            .find(|(_, taken)| taken.overlaps(subnet));
        if let Some((link, taken)) = taken {
            return Err(host_conflict(field, subnet, taken, link));
        }
        // A route by way of a gateway gives way to one that says more of the matter.
        let taken = host.routes.iter().find(|route| {
            let hides = if route.via_gateway {
                subnet.covers(&route.destination)
            } else {
                subnet.overlaps(&route.destination)
            };
            hides && !of_libvirt.contains(route.interface.as_str())
        });
        if let Some(route) = taken {
            return Err(host_conflict(field, subnet, &route.destination, &route.interface));
        }
    }
    Ok(())
}

fn is_managed(network: &Network) -> bool {
    ForwardMode::parse(&network.forward.mode).is_some_and(ForwardMode::is_managed)
}

/// The subnets that a network takes, each with its field.
fn claimed(network: &Network) -> Vec<(String, Subnet)> {
    let own =
        network.ips.iter().enumerate().map(|(at, ip)| (format!("ips[{at}].address"), &ip.address));
    let beyond = network
        .routes
        .iter()
        .enumerate()
        .map(|(at, route)| (format!("routes[{at}].destination"), &route.destination));
    own.chain(beyond).filter_map(|(field, text)| Some((field, text.parse().ok()?))).collect()
}

fn check_bridge(
    wanted: &Network,
    mine: &BTreeSet<&str>,
    others: &[&Network],
    host: Option<&HostNet>,
) -> Result<()> {
    let Some(bridge) = wanted.bridge.as_deref() else { return Ok(()) };
    let managed = is_managed(wanted);
    let owner = others
        .iter()
        .find(|other| other.bridge.as_deref() == Some(bridge) && (managed || is_managed(other)));
    if let Some(owner) = owner {
        return Err(conflict(
            "bridge",
            format!("the bridge {bridge:?} belongs to network {:?}", owner.name),
        )
        .with_detail("network", owner.name.as_str())
        .with_detail("bridge", bridge));
    }
    let Some(host) = host else { return Ok(()) };
    let is_there = host.links.contains(bridge);
    if managed && is_there && !mine.contains(bridge) {
        return Err(conflict(
            "bridge",
            format!("the host has an interface {bridge:?} that is not libvirt's"),
        )
        .with_detail("interface", bridge));
    }
    if !managed && !is_there {
        let problem = format!("the host has no interface {bridge:?}");
        return Err(Error::new(Kind::Impossible, format!("bridge: {problem}"))
            .with_field("bridge", problem)
            .with_hint("make the bridge first; libvirt makes one by itself in the mode nat"));
    }
    let linux = wanted.virtual_port.is_none() && !managed;
    if linux && !host.bridges.contains(bridge) {
        let problem = format!("{bridge:?} is no bridge");
        return Err(Error::new(Kind::Impossible, format!("bridge: {problem}"))
            .with_field("bridge", problem)
            .with_hint("say virtual_port for a bridge of Open vSwitch, or use forward.devices"));
    }
    Ok(())
}

fn conflict(field: &str, problem: String) -> Error {
    Error::new(Kind::NetworkConflict, format!("{field}: {problem}")).with_field(field, problem)
}

fn host_conflict(field: &str, subnet: &Subnet, taken: &Subnet, link: &str) -> Error {
    let (subnet, taken) = (subnet.network(), taken.network());
    conflict(field, format!("{subnet} overlaps with {taken}, which the host has at {link:?}"))
        .with_detail("interface", link)
        .with_detail("subnet", taken.to_string())
}
