//! Looking at networks, their ports and their leases.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{NetworkService, is_plugged};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, network};
use crate::model::{DhcpLease, Network, NetworkPort};
use crate::service::page::{self, Page, PageQuery};

/// How long libvirt may take to read the leases.
const LEASES_DEADLINE: Duration = Duration::from_secs(10);

impl NetworkService {
    /// Networks by name.
    pub fn list(&self, query: &PageQuery) -> Result<Page<Network>> {
        let picture = self.tools.inventory.picture();
        picture.ready()?;
        let sort = query.sort.as_deref().unwrap_or("name");
        if !matches!(sort, "name" | "-name") {
            return Err(Error::field("sort", "is not one of name, -name"));
        }
        let items: Vec<Arc<Network>> = picture
            .networks
            .iter()
            .filter(|network| {
                query.name.as_ref().is_none_or(|name| page::matches_pattern(name, &network.name))
            })
            .cloned()
            .collect();
        page::page_of(items, query, sort, |network| {
            (network.name.clone(), network.uuid.to_string())
        })
    }

    /// One network.
    pub fn get(&self, name: &str) -> Result<Arc<Network>> {
        self.tools.inventory.picture().network(name)
    }

    /// What is plugged in: every NIC of a running VM, by the VM's name. From the picture alone.
    pub fn ports(&self, name: &str) -> Result<Vec<NetworkPort>> {
        let picture = self.tools.inventory.picture();
        let network = picture.network(name)?;
        let mut ports = Vec::new();
        for record in picture.vms.iter().filter(|record| record.vm.state.is_active()) {
            let vm = record.whole()?;
            let plugged = vm.networks.iter().filter(|nic| is_plugged(nic, &network.name));
            for nic in plugged {
                let details = vm.runtime_details.as_ref();
                let addresses = details.map(|details| details.addresses.as_slice());
                ports.push(NetworkPort {
                    vm: vm.name.clone(),
                    vm_uuid: vm.uuid,
                    mac: nic.mac.clone(),
                    target: nic.target.clone(),
                    model: nic.model.clone(),
                    link_up: nic.link_up,
                    addresses: addresses
                        .unwrap_or_default()
                        .iter()
                        .filter(|address| {
                            let mac = address.mac.as_deref().unwrap_or_default();
                            mac.eq_ignore_ascii_case(&nic.mac)
                        })
                        .map(|address| format!("{}/{}", address.address, address.prefix))
                        .collect(),
                });
            }
        }
        Ok(ports)
    }

    /// What the network's DHCP server has given out, by address. `virNetworkGetDHCPLeases`.
    ///
    /// # Errors
    /// 404; 503 while libvirt is away, because the picture holds no leases.
    pub async fn leases(&self, name: &str) -> Result<Vec<DhcpLease>> {
        let picture = self.tools.inventory.picture();
        let found = picture.network(name)?;
        let serves = found.ips.iter().any(|ip| ip.dhcp.is_some());
        if !found.active || !serves {
            return Ok(Vec::new());
        }
        self.tools.need_libvirt()?;
        let asked = name.to_owned();
        let read = self
            .tools
            .hypervisor
            .run(Lane::Quick, LEASES_DEADLINE, move |session| network::leases(session, &asked))
            .await;
        let leases = match read {
            // It was stopped in this moment.
            Err(error) if error.kind() == Kind::NetworkInactive => Vec::new(),
            other => other?,
        };
        let mut owners: HashMap<String, String> = HashMap::new();
        for record in &picture.vms {
            for nic in record.whole()?.networks {
                owners.insert(nic.mac.to_ascii_lowercase(), record.vm.name.clone());
            }
        }
        let owner = |mac: &str| owners.get(&mac.to_ascii_lowercase()).cloned();
        let mut leases: Vec<DhcpLease> = leases
            .into_iter()
            .map(|lease| DhcpLease {
                vm: lease.mac.as_deref().and_then(owner),
                mac: lease.mac,
                family: if lease.address.contains(':') { "ipv6" } else { "ipv4" }.to_owned(),
                address: lease.address,
                prefix: lease.prefix,
                hostname: lease.hostname,
                client_id: lease.client_id,
                iaid: lease.iaid,
                expires_at: lease.expires,
            })
            .collect();
        leases.sort_by_cached_key(|lease| lease.address.parse::<IpAddr>().ok());
        Ok(leases)
    }
}
