//! Virtual networks and their DHCP leases.
//!
//! Errors beside the common ones of [`domain`](super::domain): `NetworkNotFound`, `NetworkInactive`.

use jiff::Timestamp;
use uuid::Uuid;
use virt::network::Network;

use super::error::What;
use super::ffi;
use super::session::{Session, without_nul};
use crate::error::{Kind, Result};

/// What libvirt knows of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkFacts {
    pub uuid: Uuid,
    pub name: String,
    pub active: bool,
    pub persistent: bool,
    pub autostart: bool,
    pub xml: String,
}

/// One address that a network's DHCP server gave out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    pub mac: Option<String>,
    pub address: String,
    pub prefix: u8,
    pub hostname: Option<String>,
    /// `None` for a lease that does not expire.
    pub expires: Option<Timestamp>,
}

fn find(session: &Session, name: &str) -> Result<Network> {
    without_nul("network", name)?;
    session
        .connect()
        .lookup_network_by_name(name)
        .map_err(session.failed("find", What::Network(name)))
}

fn read(session: &Session, network: &Network) -> Result<NetworkFacts> {
    let name = network.name().map_err(session.failed("list the networks of", What::Host))?;
    let failed = |error| session.failed("read", What::Network(&name))(error);
    let persistent = network.is_persistent().map_err(failed)?;
    Ok(NetworkFacts {
        uuid: network.uuid().map_err(failed)?,
        active: network.is_active().map_err(failed)?,
        persistent,
        // libvirt refuses the question for a transient network.
        autostart: persistent && network.autostart().map_err(failed)?,
        xml: network.xml_desc(0).map_err(failed)?,
        name,
    })
}

/// Every network, active or not. One that vanishes meanwhile is left out.
pub fn networks(session: &Session) -> Result<Vec<NetworkFacts>> {
    let networks = session
        .connect()
        .list_all_networks(0)
        .map_err(session.failed("list the networks of", What::Host))?;
    let mut all = Vec::with_capacity(networks.len());
    for network in &networks {
        match read(session, network) {
            Ok(facts) => all.push(facts),
            Err(error) if error.kind() == Kind::NetworkNotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// One network.
pub fn network_facts(session: &Session, name: &str) -> Result<NetworkFacts> {
    read(session, &find(session, name)?)
}

/// The addresses that the network's DHCP server has given out.
///
/// # Errors
/// `NotSupported` where libvirt runs no DHCP server (the test driver).
pub fn leases(session: &Session, name: &str) -> Result<Vec<Lease>> {
    let network = find(session, name)?;
    let leases = ffi::network::leases(&network)
        .map_err(session.failed("read the leases of", What::Network(name)))?;
    Ok(leases
        .into_iter()
        .filter_map(|lease| {
            Some(Lease {
                mac: lease.mac,
                address: lease.address?,
                prefix: u8::try_from(lease.prefix).unwrap_or(0),
                hostname: lease.hostname,
                expires: if lease.expires > 0 {
                    Timestamp::from_second(lease.expires).ok()
                } else {
                    None
                },
            })
        })
        .collect())
}
