//! Virtual networks: read, made, changed, and what is plugged into them.
//!
//! Errors beside the common ones of [`domain`](super::domain): `NetworkNotFound`, `NetworkInactive`.

use jiff::Timestamp;
use uuid::Uuid;
use virt::network::Network;
use virt::sys;

use super::error::{What, present};
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
    /// The running network, or the only definition of a stopped one.
    pub xml: String,
    /// The definition of the next start, of a network that is active and persistent.
    pub inactive_xml: Option<String>,
}

impl NetworkFacts {
    /// The definition of the next start.
    pub fn definition(&self) -> &str {
        self.inactive_xml.as_deref().unwrap_or(&self.xml)
    }
}

/// A part of a running network that libvirt can change (`virNetworkUpdateSection`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    DhcpHost,
    DhcpRange,
    DnsHost,
    DnsSrv,
    DnsTxt,
    PortGroup,
    ForwardInterface,
}

/// What is done to it (`virNetworkUpdateCommand`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Modify,
    Delete,
}

/// One address that a network's DHCP server gave out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    pub mac: Option<String>,
    pub address: String,
    pub prefix: u8,
    pub hostname: Option<String>,
    pub client_id: Option<String>,
    pub iaid: Option<String>,
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
    let active = network.is_active().map_err(failed)?;
    // The test driver has but one definition to tell.
    let inactive_xml = (active && persistent && !session.is_test_driver())
        .then(|| network.xml_desc(sys::VIR_NETWORK_XML_INACTIVE).map_err(failed))
        .transpose()?;
    Ok(NetworkFacts {
        uuid: network.uuid().map_err(failed)?,
        active,
        persistent,
        inactive_xml,
        // libvirt refuses the question for a transient network.
        autostart: persistent && network.autostart().map_err(failed)?,
        xml: network.xml_desc(0).map_err(failed)?,
        name,
    })
}

/// Every network, active or not. One that vanishes meanwhile is left out.
pub fn all(session: &Session) -> Result<Vec<NetworkFacts>> {
    let networks = session
        .connect()
        .list_all_networks(0)
        .map_err(session.failed("list the networks of", What::Host))?;
    networks
        .iter()
        .filter_map(|network| present(read(session, network), Kind::NetworkNotFound))
        .collect()
}

/// One network.
pub fn facts(session: &Session, name: &str) -> Result<NetworkFacts> {
    read(session, &find(session, name)?)
}

/// Stores a definition, new or changed; libvirt checks it against its schema.
///
/// # Errors
/// `NetworkAlreadyExists`, `NetworkConflict` for a bridge that another network has,
/// `InvalidDefinition`, `NotSupported`.
pub fn define(session: &Session, name: &str, xml: &str) -> Result<()> {
    without_nul("xml", xml)?;
    // The test driver's own documents do not all pass the schema.
    let flags = if session.is_test_driver() { 0 } else { sys::VIR_NETWORK_DEFINE_VALIDATE };
    ffi::network::define(session.connect(), xml, flags)
        .map(drop)
        .map_err(session.failed("define", What::Network(name)))
}

/// Removes the definition. A running network goes on as a transient one.
pub fn undefine(session: &Session, name: &str) -> Result<()> {
    find(session, name)?.undefine().map_err(session.failed("undefine", What::Network(name)))
}

/// Starts a network.
///
/// # Errors
/// `NetworkAlreadyActive`; `NetworkConflict` if the host uses its addresses otherwise.
pub fn start(session: &Session, name: &str) -> Result<()> {
    find(session, name)?.create().map_err(session.failed("start", What::Network(name)))
}

/// Stops a network, whoever is plugged into it; a transient one is gone.
pub fn stop(session: &Session, name: &str) -> Result<()> {
    find(session, name)?.destroy().map_err(session.failed("stop", What::Network(name)))
}

/// Whether the network starts with the host.
pub fn set_autostart(session: &Session, name: &str, autostart: bool) -> Result<()> {
    find(session, name)?
        .set_autostart(autostart)
        .map_err(session.failed("set the autostart of", What::Network(name)))
}

/// Changes one part of the running network, and nothing of its definition (`virNetworkUpdate`).
/// `parent` is which `<ip>` of the network it is in, counted from 0.
///
/// # Errors
/// `LibvirtRefused` for what is there already, or is not.
pub fn update_live(
    session: &Session,
    name: &str,
    (command, section): (Command, Section),
    parent: Option<usize>,
    xml: &str,
) -> Result<()> {
    without_nul("xml", xml)?;
    let command = match command {
        Command::Add => sys::VIR_NETWORK_UPDATE_COMMAND_ADD_LAST,
        Command::Modify => sys::VIR_NETWORK_UPDATE_COMMAND_MODIFY,
        Command::Delete => sys::VIR_NETWORK_UPDATE_COMMAND_DELETE,
    };
    let section = match section {
        Section::DhcpHost => sys::VIR_NETWORK_SECTION_IP_DHCP_HOST,
        Section::DhcpRange => sys::VIR_NETWORK_SECTION_IP_DHCP_RANGE,
        Section::DnsHost => sys::VIR_NETWORK_SECTION_DNS_HOST,
        Section::DnsSrv => sys::VIR_NETWORK_SECTION_DNS_SRV,
        Section::DnsTxt => sys::VIR_NETWORK_SECTION_DNS_TXT,
        Section::PortGroup => sys::VIR_NETWORK_SECTION_PORTGROUP,
        Section::ForwardInterface => sys::VIR_NETWORK_SECTION_FORWARD_INTERFACE,
    };
    let parent = parent.and_then(|parent| i32::try_from(parent).ok()).unwrap_or(-1);
    // The library puts command and section in the order that the daemon behind it expects: old
    // ones had it the other way round.
    find(session, name)?
        .update(command, section, parent, xml, sys::VIR_NETWORK_UPDATE_AFFECT_LIVE)
        .map_err(session.failed("change", What::Network(name)))
}

/// The XML of what is plugged into the network now; nothing where the driver keeps no ports.
pub fn ports(session: &Session, name: &str) -> Result<Vec<String>> {
    let network = find(session, name)?;
    let ports = ffi::network::ports(&network)
        .map_err(session.failed("list the ports of", What::Network(name)));
    match ports {
        Err(error) if error.kind() == Kind::NotSupported => Ok(Vec::new()),
        other => other,
    }
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
                client_id: lease.client_id,
                iaid: lease.iaid,
                expires: if lease.expires > 0 {
                    Timestamp::from_second(lease.expires).ok()
                } else {
                    None
                },
            })
        })
        .collect())
}
