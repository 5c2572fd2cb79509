//! What differs between the running network and its next start, in the words of the API.

use serde::Serialize;
use serde_json::json;

use crate::model::Network;
use crate::model::network::{
    NetworkForward, NetworkNat, NetworkPending, NetworkPendingChange, PortRange,
};

/// The changes that wait for the next start; none if there are none. `live` is the view of the
/// active XML, `next` that of the persistent one.
pub fn pending(live: &Network, next: &Network) -> Option<NetworkPending> {
    let changes = differences(live, next);
    (!changes.is_empty()).then_some(NetworkPending { changes })
}

/// Every field in which two views of a network differ. What libvirt finds out when it starts a
/// network is left out: the members of a pool that is named by its physical function, a bridge
/// name that it chose.
pub fn differences(live: &Network, next: &Network) -> Vec<NetworkPendingChange> {
    let mut changes = Changes(Vec::new());
    let (a, b) = (&live.forward, &next.forward);
    changes.compare("forward.mode", &a.mode, &b.mode);
    if b.physical_function.is_none() || a.physical_function != b.physical_function {
        changes.compare("forward.devices", &a.devices, &b.devices);
        changes.compare("forward.pci_addresses", &a.pci_addresses, &b.pci_addresses);
    }
    changes.compare("forward.physical_function", &a.physical_function, &b.physical_function);
    changes.compare("forward.managed", &a.managed, &b.managed);
    changes.compare("forward.nat", &nat(a), &nat(b));
    if next.bridge.is_some() || b.mode != a.mode {
        changes.compare("bridge", &live.bridge, &next.bridge);
    }
    changes.compare("ips", &live.ips, &next.ips);
    changes.compare("routes", &live.routes, &next.routes);
    changes.compare("domain", &live.domain, &next.domain);
    changes.compare("dns.enabled", &live.dns.enabled, &next.dns.enabled);
    changes.compare("dns.forwarders", &live.dns.forwarders, &next.dns.forwarders);
    changes.compare("dns.hosts", &live.dns.hosts, &next.dns.hosts);
    changes.compare("dns.srv", &live.dns.srv, &next.dns.srv);
    changes.compare("dns.txt", &live.dns.txt, &next.dns.txt);
    changes.compare("mtu", &live.mtu, &next.mtu);
    changes.compare("vlan", &live.vlan, &next.vlan);
    changes.compare("virtual_port", &live.virtual_port, &next.virtual_port);
    changes.compare("bandwidth", &live.bandwidth, &next.bandwidth);
    changes.compare("port_isolation", &live.port_isolation, &next.port_isolation);
    changes.compare("portgroups", &live.portgroups, &next.portgroups);
    changes.0
}

/// How addresses are translated, said in full: a running network tells libvirt's own ports, too.
pub fn nat(forward: &NetworkForward) -> Option<NetworkNat> {
    let said = forward.nat.clone().unwrap_or_default();
    let ports = said.ports.unwrap_or(PortRange { start: 1024, end: 65_535 });
    (forward.mode == "nat").then_some(NetworkNat { ports: Some(ports), ..said })
}

struct Changes(Vec<NetworkPendingChange>);

impl Changes {
    fn compare<T: PartialEq + Serialize>(&mut self, field: &str, running: &T, next_start: &T) {
        if running != next_start {
            let (running, next_start) = (json!(running), json!(next_start));
            self.0.push(NetworkPendingChange { field: field.to_owned(), running, next_start });
        }
    }
}
