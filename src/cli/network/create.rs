//! `vapor network create`.

use clap::{Args, ValueEnum};
use http::Method;
use serde_json::Value;

use super::super::client::{NETWORKS, Request};
use super::super::context::Context;
use super::super::failure::{Exit, Failure, Result};
use super::super::operation::{ChangeArgs, Ended, perform, show_done};
use super::super::vm::{overlay, read_body, without_nulls};
use super::spec;
use crate::model::network::{
    BandwidthLimit, DhcpHost, DhcpRange, DnsForwarder, DnsHost, NetworkBandwidth, NetworkDomain,
    NetworkRoute, NetworkVlan, VlanTag,
};
use crate::model::network_request::{
    DnsRequest, ForwardMode, ForwardRequest, PciAddress, VirtualPort,
};
use crate::model::{CreateNetwork, DeviceName, NetworkName, Subnet};

/// How guests reach the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Through the host, behind its addresses
    Nat,
    /// Through the host, with their own addresses
    #[value(alias = "route")]
    Routed,
    /// Through the host, whose firewall is left alone
    Open,
    /// Not at all
    Isolated,
    /// On an existing bridge (--bridge)
    Bridge,
    /// Beside the host on a device of it (--device)
    #[value(alias = "direct")]
    Macvtap,
    /// The same, and guests do not reach each other
    Private,
    /// The same, through a switch that sends everything back
    Vepa,
    /// Each guest has a device of the host for itself
    Passthrough,
    /// A pool of PCI devices (--pf or --pci)
    Hostdev,
}

impl Mode {
    const fn forward(self) -> ForwardMode {
        match self {
            Mode::Nat => ForwardMode::Nat,
            Mode::Routed => ForwardMode::Route,
            Mode::Open => ForwardMode::Open,
            Mode::Isolated => ForwardMode::Isolated,
            Mode::Bridge | Mode::Macvtap => ForwardMode::Bridge,
            Mode::Private => ForwardMode::Private,
            Mode::Vepa => ForwardMode::Vepa,
            Mode::Passthrough => ForwardMode::Passthrough,
            Mode::Hostdev => ForwardMode::Hostdev,
        }
    }
}

/// The new network.
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// Name of the new network
    #[arg(required_unless_present = "file")]
    pub name: Option<NetworkName>,
    /// How guests reach the outside; nat if absent
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// A subnet, such as 10.20.0.0/24; the host gets its first address, or the one given
    #[arg(long, value_name = "CIDR", value_parser = spec::subnet)]
    pub subnet: Vec<Subnet>,
    /// Addresses to give out: START-END, or all of the IPv4 subnets
    #[arg(long, value_name = "RANGE", num_args = 0..=1, default_missing_value = "auto", value_parser = spec::range)]
    pub dhcp: Vec<Option<DhcpRange>>,
    /// A machine that always gets the same address: IP,MAC[,NAME]
    #[arg(long, value_name = "HOST", value_parser = spec::dhcp_host)]
    pub host: Vec<DhcpHost>,
    /// The domain of the network's names
    #[arg(long)]
    pub domain: Option<String>,
    /// Never ask other servers for names of the domain
    #[arg(long, requires = "domain")]
    pub local_only: bool,
    /// Names of an address: IP=NAME[,NAME]
    #[arg(long, value_name = "HOST", value_parser = spec::dns_host)]
    pub dns_host: Vec<DnsHost>,
    /// Where names are asked for: ADDRESS, or DOMAIN=ADDRESS
    #[arg(long, value_name = "SERVER", value_parser = spec::forwarder)]
    pub forwarder: Vec<DnsForwarder>,
    /// A route through a machine in the network: DESTINATION=GATEWAY
    #[arg(long, value_name = "ROUTE", value_parser = spec::route)]
    pub route: Vec<NetworkRoute>,
    /// The existing bridge, or the name of the new one
    #[arg(long)]
    pub bridge: Option<DeviceName>,
    /// A device of the host; repeat it for several
    #[arg(long)]
    pub device: Vec<DeviceName>,
    /// The device whose virtual functions are the pool
    #[arg(long, value_name = "DEVICE")]
    pub pf: Option<DeviceName>,
    /// A PCI device of the pool, such as 0000:03:10.1; repeat it for several
    #[arg(long, value_name = "ADDRESS")]
    pub pci: Vec<String>,
    /// Bytes
    #[arg(long)]
    pub mtu: Option<u32>,
    /// A VLAN; repeat it for several, which makes a trunk
    #[arg(long, value_name = "ID")]
    pub vlan: Vec<u16>,
    /// The bridge is one of Open vSwitch
    #[arg(long)]
    pub openvswitch: bool,
    /// Limit what guests get: AVERAGE[,PEAK[,BURST]] in KiB/s and KiB
    #[arg(long, value_name = "LIMIT", value_parser = spec::limit)]
    pub inbound: Option<BandwidthLimit>,
    /// Limit what guests send
    #[arg(long, value_name = "LIMIT", value_parser = spec::limit)]
    pub outbound: Option<BandwidthLimit>,
    /// Keep guests from reaching each other
    #[arg(long)]
    pub isolate_ports: bool,
    /// Do not start it with the host
    #[arg(long)]
    pub no_autostart: bool,
    /// Do not start it now
    #[arg(long)]
    pub no_start: bool,
    /// Read the body from a JSON (or .toml) file, - for stdin; options given besides win
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<String>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Creates.
pub async fn run(cx: &mut Context, args: &CreateArgs) -> Result<()> {
    let body = overlay(read_body(cx, args.file.as_deref())?, body(args)?);
    let name = body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let request = Request::new(Method::POST, NETWORKS).json(&body);
    match perform(cx, request, &args.change).await? {
        Ended::Done(data) => {
            let active = data.get("active").is_some_and(|active| active == true);
            show_done(cx, &data, &name, if active { "created and started" } else { "created" })
        }
        Ended::Planned | Ended::Accepted => Ok(()),
    }
}

/// The body that the options amount to.
fn body(args: &CreateArgs) -> Result<Value> {
    let refuse = |problem: String| Failure::new(Exit::Refused, problem);
    let ips = spec::subnets(&args.subnet, &args.dhcp, &args.host).map_err(refuse)?;
    let some = |any: bool| any.then_some(());
    let forwards =
        args.mode.is_some() || !args.device.is_empty() || args.pf.is_some() || !args.pci.is_empty();
    let limits =
        NetworkBandwidth { inbound: args.inbound.clone(), outbound: args.outbound.clone() };
    let dns = DnsRequest {
        forwarders: some(!args.forwarder.is_empty()).map(|()| args.forwarder.clone()),
        hosts: some(!args.dns_host.is_empty()).map(|()| args.dns_host.clone()),
        ..DnsRequest::default()
    };
    let request = CreateNetwork {
        name: args.name.clone(),
        forward: some(forwards).map(|()| ForwardRequest {
            mode: args.mode.unwrap_or(Mode::Nat).forward(),
            devices: args.device.clone(),
            physical_function: args.pf.clone(),
            pci_addresses: args.pci.iter().cloned().map(PciAddress).collect(),
            managed: None,
            nat: None,
        }),
        bridge: args.bridge.clone(),
        ips: some(!ips.is_empty()).map(|()| ips),
        routes: some(!args.route.is_empty()).map(|()| args.route.clone()),
        domain: args.domain.clone().map(|name| NetworkDomain { name, local_only: args.local_only }),
        dns: some(dns != DnsRequest::default()).map(|()| dns),
        mtu: args.mtu,
        vlan: some(!args.vlan.is_empty()).map(|()| NetworkVlan {
            trunk: args.vlan.len() > 1,
            tags: args.vlan.iter().map(|&id| VlanTag { id, native_mode: None }).collect(),
        }),
        virtual_port: args.openvswitch.then_some(VirtualPort::Openvswitch),
        bandwidth: some(limits != NetworkBandwidth::default()).map(|()| limits),
        port_isolation: args.isolate_ports.then_some(true),
        portgroups: None,
        autostart: args.no_autostart.then_some(false),
        start: args.no_start.then_some(false),
    };
    serde_json::to_value(request).map(without_nulls).map_err(Failure::unintelligible)
}
