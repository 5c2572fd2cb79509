//! Virtual networks: the use cases.
//!
//! Reads come from the inventory. A mutation reads the network anew in the closure that changes it,
//! decides there on what is the case now, and acts; the picture shows it before the client gets its
//! answer.

mod adopt;
mod check;
mod conflict;
mod create;
mod decide;
mod delete;
mod host;
mod power;
mod reads;
#[cfg(test)]
mod tests;
mod update;

use std::sync::{Arc, Mutex};

use serde_json::json;
use uuid::Uuid;

use super::Context;
use super::gate::Key;
use super::inventory::{Picture, network_of};
use super::operation::Tools;
use super::task::End;
use crate::error::{Error, Kind, Result};
use crate::libvirt::network::NetworkFacts;
use crate::libvirt::{Session, network};
use crate::model::{Network, Nic, Subject, SubjectType};
use crate::xml;

pub use delete::DeleteNetwork;

/// The use cases of networks; cheap to clone.
#[derive(Clone)]
pub struct NetworkService {
    tools: Tools,
    /// Held by whoever looks for conflicts and then defines: of two networks with the same subnet
    /// that are made at once, the second sees the first.
    turn: Arc<Mutex<()>>,
}

impl NetworkService {
    pub fn new(tools: Tools) -> Self {
        NetworkService { tools, turn: Arc::default() }
    }

    /// What the host has, where libvirt works on it.
    fn host(&self) -> Result<Option<host::HostNet>> {
        host::is_here(&self.tools.hypervisor.status().uri).then(host::read).transpose()
    }

    /// The network as the picture shows it now, as the result of its task.
    fn result_of(&self, name: &str) -> Result<End> {
        let network = self.get(name)?;
        Ok(End::Done(serde_json::to_value(&*network).map_err(Error::internal)?))
    }
}

/// The tag of a network's content, the same after a restart of the daemon.
pub fn etag(network: &Network) -> Result<String> {
    super::etag(&Network { generation: 0, ..network.clone() })
}

/// 412 unless `If-Match` is absent or names the present version.
fn check_if_match(ctx: &Context, network: &Network) -> Result<()> {
    ctx.expect_version(format_args!("network {:?}", network.name), &etag(network)?)
}

fn key(name: &str) -> Key {
    Key::Network(name.to_owned())
}

fn subject(uuid: Uuid, name: &str) -> Subject {
    Subject { r#type: SubjectType::Network, id: uuid.to_string(), name: name.to_owned() }
}

/// Every network as it runs and as it is defined: what new subnets must keep clear of.
fn all_views(session: &Session) -> Result<Vec<Network>> {
    let mut views = Vec::new();
    for facts in network::all(session)? {
        views.push(network_of(&facts)?);
        if let Some(inactive) = &facts.inactive_xml {
            let mut next = xml::network::parse_network(inactive)?;
            next.uuid = facts.uuid;
            views.push(next);
        }
    }
    Ok(views)
}

/// The facts of this very network: one of its name that was made anew meanwhile is another.
fn facts_of(session: &Session, name: &str, uuid: Uuid) -> Result<NetworkFacts> {
    let facts = network::facts(session, name)?;
    if facts.uuid == uuid {
        return Ok(facts);
    }
    Err(Error::new(Kind::NetworkNotFound, format!("network {name:?} has just been replaced")))
}

/// The names of the running VMs that are plugged into a network, by the picture.
fn users(picture: &Picture, name: &str) -> Result<Vec<String>> {
    let mut users = Vec::new();
    for record in picture.vms.iter().filter(|record| record.vm.state.is_active()) {
        if record.whole()?.networks.iter().any(|nic| is_plugged(nic, name)) {
            users.push(record.vm.name.clone());
        }
    }
    Ok(users)
}

fn is_plugged(nic: &Nic, network: &str) -> bool {
    nic.source.r#type == "network" && nic.source.name.as_deref() == Some(network)
}

/// The same, as libvirt's network driver knows it now; the picture may be a moment late.
fn port_owners(session: &Session, name: &str) -> Result<Vec<String>> {
    let mut owners = Vec::new();
    for port in network::ports(session, name)? {
        let owner = xml::network::port::parse_port(&port)?.owner;
        if !owners.contains(&owner) {
            owners.push(owner);
        }
    }
    Ok(owners)
}

/// 409 if running VMs are plugged in.
fn unused(name: &str, users: &[String]) -> Result<()> {
    if users.is_empty() {
        return Ok(());
    }
    let words = users.join(", ");
    Err(Error::new(Kind::NetworkInUse, format!("network {name:?} is used by {words}"))
        .with_detail("vms", json!(users)))
}

/// What those who are plugged in lose, in the words of a plan.
fn cut_off(users: &[String]) -> Vec<String> {
    users.iter().map(|vm| format!("takes the link from VM {vm}, until it is restarted")).collect()
}
