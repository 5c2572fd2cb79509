//! `vapor network show`.

use serde_json::Value;

use super::super::context::Context;
use super::super::failure::Result;
use super::super::output::{Format, Sheet, read};
use super::super::text::{or_none, plain, safe, yes_no};
use crate::model::Network;
use crate::model::network::{BandwidthLimit, NetworkBandwidth, NetworkVlan};

/// Shows one network.
pub fn show(cx: &mut Context, data: Value) -> Result<()> {
    if cx.format.is_data() {
        return cx.print_value(&data);
    }
    let network: Network = read(data)?;
    if cx.format == Format::Name {
        return cx.print(&format!("{}\n", safe(&network.name)));
    }
    let text = sheet(&network).render();
    cx.print(&text)
}

/// How the network reaches the outside, in a few words.
pub fn forward(network: &Network) -> String {
    let forward = &network.forward;
    let devices = forward.devices.join(",");
    match &forward.physical_function {
        Some(device) => format!("{} of {device}", forward.mode),
        None if devices.is_empty() => or_none(Some(&forward.mode)),
        None => format!("{} through {devices}", forward.mode),
    }
}

fn sheet(network: &Network) -> Sheet {
    let mut sheet = Sheet::default();
    sheet.row("name", &network.name).row("uuid", network.uuid.to_string());
    sheet.row("state", if network.active { "active" } else { "inactive" });
    sheet.row("autostart", yes_no(network.autostart));
    if !network.persistent {
        sheet.row("persistent", "no: it is gone once it stops");
    }
    sheet.row("forward", forward(network));
    sheet.rows("pool", network.forward.pci_addresses.iter().cloned());
    sheet.row("bridge", or_none(network.bridge.as_deref()));
    for ip in &network.ips {
        sheet.row("subnet", &ip.address);
        let Some(dhcp) = &ip.dhcp else { continue };
        sheet.rows("  range", dhcp.ranges.iter().map(|one| format!("{} - {}", one.start, one.end)));
        let host = |host: &crate::model::network::DhcpHost| {
            let marks =
                [&host.mac, &host.id, &host.name].map(|mark| mark.clone().unwrap_or_default());
            let marks: Vec<String> = marks.into_iter().filter(|mark| !mark.is_empty()).collect();
            format!("{}  {}", host.ip, marks.join("  "))
        };
        sheet.rows("  host", dhcp.hosts.iter().map(host));
    }
    sheet.rows(
        "route",
        network
            .routes
            .iter()
            .map(|route| format!("{} through {}", route.destination, route.gateway)),
    );
    if let Some(domain) = &network.domain {
        let only = if domain.local_only { " (local only)" } else { "" };
        sheet.row("domain", format!("{}{only}", domain.name));
    }
    let dns = &network.dns;
    if !dns.enabled {
        sheet.row("dns", "off");
    }
    sheet.rows(
        "dns forwarder",
        dns.forwarders.iter().map(|one| {
            let parts = [one.address.as_deref(), one.domain.as_deref()];
            parts.into_iter().flatten().collect::<Vec<_>>().join(" for ")
        }),
    );
    sheet.rows(
        "dns host",
        dns.hosts.iter().map(|host| {
            let names: Vec<&str> = host.hostnames.iter().map(|name| name.0.as_str()).collect();
            format!("{}  {}", host.ip, names.join(" "))
        }),
    );
    sheet.rows(
        "dns service",
        dns.srv.iter().map(|srv| {
            let target = or_none(srv.target.as_deref());
            format!("_{}._{}  {target}:{}", srv.service, srv.protocol, srv.port.unwrap_or(0))
        }),
    );
    sheet.rows("dns text", dns.txt.iter().map(|txt| format!("{}  {}", txt.name, txt.value)));
    if let Some(mtu) = network.mtu {
        sheet.row("mtu", mtu.to_string());
    }
    if let Some(vlan) = &network.vlan {
        sheet.row("vlan", tags(vlan));
    }
    if let Some(port) = &network.virtual_port {
        sheet.row("virtual port", port);
    }
    sheet.rows("bandwidth", network.bandwidth.iter().flat_map(limits));
    if network.port_isolation {
        sheet.row("isolated", "guests cannot reach each other");
    }
    sheet.rows(
        "port group",
        network.portgroups.iter().map(|group| {
            let default = if group.default { " (default)" } else { "" };
            let vlan = group.vlan.as_ref().map(|vlan| format!("  vlan {}", tags(vlan)));
            format!("{}{default}{}", group.name, vlan.unwrap_or_default())
        }),
    );
    if let Some(pending) = &network.pending {
        sheet.rows(
            "next start",
            pending.changes.iter().map(|change| {
                let (from, to) = (plain(&change.running), plain(&change.next_start));
                format!("{}: {from} -> {to}", change.field)
            }),
        );
    }
    sheet
}

fn tags(vlan: &NetworkVlan) -> String {
    let tags: Vec<String> = vlan.tags.iter().map(|tag| tag.id.to_string()).collect();
    format!("{}{}", tags.join(","), if vlan.trunk { " (trunk)" } else { "" })
}

fn limits(bandwidth: &NetworkBandwidth) -> Vec<String> {
    let limit = |word: &str, limit: &Option<BandwidthLimit>| {
        limit.as_ref().map(|limit| format!("{word} {} KiB/s", limit.average))
    };
    let both = [limit("in", &bandwidth.inbound), limit("out", &bandwidth.outbound)];
    both.into_iter().flatten().collect()
}
