//! `vapor network update`.

use clap::Args;
use http::Method;
use http::header::IF_MATCH;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::client::Request;
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Result};
use super::super::operation::{ChangeArgs, Ended, perform, show_done};
use super::super::output::read;
use super::super::suggest::Meant;
use super::super::text::safe;
use super::super::vm::{overlay, read_body, without_nulls, yes_no};
use super::{network_path, spec};
use crate::model::network::{
    DhcpHost, DhcpRange, DnsHost, NetworkBandwidth, NetworkDomain, NetworkIp,
};
use crate::model::network_request::DnsRequest;
use crate::model::{Network, UpdateNetwork};

/// What changes; what is not named stays.
#[derive(Args, Debug)]
pub struct UpdateArgs {
    #[arg(value_name = "NETWORK", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub name: String,
    /// Start with the host
    #[arg(long, value_name = "yes|no", num_args = 0..=1, default_missing_value = "yes", value_parser = yes_no)]
    pub autostart: Option<bool>,
    /// A machine that always gets the same address, at once: IP,MAC[,NAME]
    #[arg(long, value_name = "HOST", value_parser = spec::dhcp_host)]
    pub add_host: Vec<DhcpHost>,
    /// Take away the machine with this address
    #[arg(long, value_name = "IP")]
    pub remove_host: Vec<String>,
    /// Further addresses to give out, at once: START-END
    #[arg(long, value_name = "RANGE", value_parser = spec::range)]
    pub add_range: Vec<Option<DhcpRange>>,
    /// Give these addresses out no longer
    #[arg(long, value_name = "RANGE", value_parser = spec::range)]
    pub remove_range: Vec<Option<DhcpRange>>,
    /// Names of an address, at once: IP=NAME[,NAME]
    #[arg(long, value_name = "HOST", value_parser = spec::dns_host)]
    pub add_dns_host: Vec<DnsHost>,
    /// Take away the names of this address
    #[arg(long, value_name = "IP")]
    pub remove_dns_host: Vec<String>,
    /// The domain of the network's names, with the next start; empty to take it away
    #[arg(long)]
    pub domain: Option<String>,
    /// Never ask other servers for names of the domain
    #[arg(long, requires = "domain")]
    pub local_only: bool,
    /// Bytes, with the next start; 0 for the kernel's own
    #[arg(long)]
    pub mtu: Option<u32>,
    /// Limit what guests get, with the next start: AVERAGE[,PEAK[,BURST]] in KiB/s and KiB
    #[arg(long, value_name = "LIMIT", value_parser = spec::limit)]
    pub inbound: Option<crate::model::network::BandwidthLimit>,
    /// Limit what guests send, with the next start
    #[arg(long, value_name = "LIMIT", value_parser = spec::limit)]
    pub outbound: Option<crate::model::network::BandwidthLimit>,
    /// Keep guests from reaching each other, with the next start
    #[arg(long, value_name = "yes|no", num_args = 0..=1, default_missing_value = "yes", value_parser = yes_no)]
    pub isolate_ports: Option<bool>,
    /// Read the body from a JSON (or .toml) file, - for stdin; options given besides win
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<String>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

impl UpdateArgs {
    fn touches_dhcp(&self) -> bool {
        !(self.add_host.is_empty()
            && self.remove_host.is_empty()
            && self.add_range.is_empty()
            && self.remove_range.is_empty())
    }

    fn touches_dns(&self) -> bool {
        !(self.add_dns_host.is_empty() && self.remove_dns_host.is_empty())
    }
}

/// Changes.
pub async fn run(cx: &mut Context, args: &UpdateArgs) -> Result<()> {
    let updated = update(cx, args).await;
    Meant::Network(&args.name).checked(cx, updated).await
}

async fn update(cx: &mut Context, args: &UpdateArgs) -> Result<()> {
    let mut request = Request::new(Method::PUT, network_path(&args.name, ""));
    let (mut ips, mut dns) = (None, None);
    if args.touches_dhcp()
        || args.touches_dns()
        || args.inbound.is_some()
        || args.outbound.is_some()
    {
        // the API replaces lists: take the present ones, and only if they are still present
        let reply = cx.client.send(&Request::get(network_path(&args.name, ""))).await?.checked()?;
        if let Some(etag) = reply.etag() {
            request = request.header(IF_MATCH, etag);
        }
        let network: Network = read(reply.data()?)?;
        if args.touches_dhcp() {
            ips = Some(changed_ips(next(&network, "ips", &network.ips)?, args)?);
        }
        if args.touches_dns() {
            let mut hosts: Vec<DnsHost> = next(&network, "dns.hosts", &network.dns.hosts)?;
            hosts.retain(|host| !args.remove_dns_host.contains(&host.ip));
            hosts.extend(args.add_dns_host.iter().cloned());
            dns = Some(DnsRequest { hosts: Some(hosts), ..DnsRequest::default() });
        }
    }
    let limits =
        NetworkBandwidth { inbound: args.inbound.clone(), outbound: args.outbound.clone() };
    let flags = UpdateNetwork {
        ips,
        dns,
        autostart: args.autostart,
        domain: args.domain.clone().map(|name| NetworkDomain { name, local_only: args.local_only }),
        mtu: args.mtu,
        bandwidth: (limits != NetworkBandwidth::default()).then_some(limits),
        port_isolation: args.isolate_ports,
        ..UpdateNetwork::default()
    };
    let flags = serde_json::to_value(flags).map_err(Failure::unintelligible)?;
    let body = overlay(read_body(cx, args.file.as_deref())?, without_nulls(flags));
    if body.as_object().is_none_or(serde_json::Map::is_empty) {
        return Err(Failure::new(Exit::Refused, "nothing to change was named")
            .with_hint("see `vapor network update --help`"));
    }
    match perform(cx, request.json(&body), &args.change).await? {
        Ended::Done(data) => done(cx, &data, &args.name),
        Ended::Planned | Ended::Accepted => Ok(()),
    }
}

/// A list as it is with the next start, which is what an update changes.
fn next<T: DeserializeOwned + Clone>(network: &Network, field: &str, now: &[T]) -> Result<Vec<T>> {
    let mut changes = network.pending.iter().flat_map(|pending| &pending.changes);
    match changes.find(|change| change.field == field) {
        Some(change) => read(change.next_start.clone()),
        None => Ok(now.to_vec()),
    }
}

fn changed_ips(mut ips: Vec<NetworkIp>, args: &UpdateArgs) -> Result<Vec<NetworkIp>> {
    let refuse = |problem: String| Failure::new(Exit::Refused, problem);
    let gone = |host: &DhcpHost| args.remove_host.contains(&host.ip);
    for dhcp in ips.iter_mut().filter_map(|ip| ip.dhcp.as_mut()) {
        dhcp.hosts.retain(|host| !gone(host));
        dhcp.ranges.retain(|range| !args.remove_range.contains(&Some(range.clone())));
    }
    for range in args.add_range.iter().flatten() {
        spec::dhcp_of(&mut ips, &range.start).map_err(refuse)?.ranges.push(range.clone());
    }
    for host in &args.add_host {
        spec::dhcp_of(&mut ips, &host.ip).map_err(refuse)?.hosts.push(host.clone());
    }
    Ok(ips)
}

fn done(cx: &mut Context, data: &Value, name: &str) -> Result<()> {
    show_done(cx, data, name, "updated")?;
    if cx.format.is_data() {
        return Ok(());
    }
    let changes = data.get("pending").and_then(|pending| pending.get("changes")?.as_array());
    let fields: Vec<_> =
        changes.into_iter().flatten().filter_map(|change| change.get("field")?.as_str()).collect();
    if !fields.is_empty() {
        cx.note(&format!("with the next start: {}", safe(&fields.join(", "))));
    }
    Ok(())
}
