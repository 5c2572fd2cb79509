//! `vapor network …`: lists and small commands here, and a file each for what takes more.

mod create;
mod show;
mod spec;
mod update;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::Value;

use super::client::{NETWORKS, Request, escape};
use super::context::Context;
use super::failure::Result;
use super::operation::ChangeArgs;
use super::output::{Column, Listing, fetch_list};
use super::several::{DeletionArgs, Victim, change_each, delete_each};
use super::suggest::Meant;
use super::text::{moment, or_none, quoted, yes_no};
use crate::model::{DhcpLease, Network, NetworkPort};

/// What can be done with networks.
#[derive(Subcommand, Debug)]
pub enum NetworkCommand {
    /// List the networks
    #[command(visible_alias = "ls")]
    List,
    /// Show one network
    Show(NameArgs),
    /// Create a network, and start it
    Create(Box<create::CreateArgs>),
    /// Change a network; guests keep their links
    Update(Box<update::UpdateArgs>),
    /// Delete networks
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Start networks
    Start(StartArgs),
    /// Stop networks
    Stop(StopArgs),
    /// List the addresses that a network's DHCP server has given out
    Leases(NameArgs),
    /// List the NICs that are plugged into a network
    Ports(NameArgs),
}

/// Which network.
#[derive(Args, Debug)]
pub struct NameArgs {
    #[arg(value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
}

/// Which networks are started.
#[derive(Args, Debug)]
pub struct StartArgs {
    #[arg(value_name = "NETWORK", required = true, value_parser = NonEmptyStringValueParser::new())]
    pub names: Vec<String>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Which networks are stopped.
#[derive(Args, Debug)]
pub struct StopArgs {
    #[arg(value_name = "NETWORK", required = true, value_parser = NonEmptyStringValueParser::new())]
    pub names: Vec<String>,
    /// Stop them although running virtual machines lose their link
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Which networks go.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    #[arg(value_name = "NETWORK", required = true, value_parser = NonEmptyStringValueParser::new())]
    pub names: Vec<String>,
    /// Delete them although running virtual machines lose their link
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub deletion: DeletionArgs,
}

const LISTING: Listing<'_, Network> = Listing {
    noun: "networks",
    name: |network| network.name.clone(),
    columns: &[
        Column::text("NAME", |network, _| network.name.clone()),
        Column::text("STATE", |network, _| {
            if network.active { "active" } else { "inactive" }.to_owned()
        }),
        Column::text("FORWARD", |network, _| show::forward(network)),
        Column::text("BRIDGE", |network, _| or_none(network.bridge.as_deref())),
        Column::text("ADDRESSES", |network, _| or_none(Some(&network.addresses.join(",")))),
        Column::text("AUTOSTART", |network, _| yes_no(network.autostart).to_owned()),
        Column::wide("DHCP", |network, _| {
            let ranges = network.dhcp_ranges.iter();
            let ranges: Vec<_> =
                ranges.map(|range| format!("{}-{}", range.start, range.end)).collect();
            or_none(Some(&ranges.join(",")))
        }),
        Column::wide("UUID", |network, _| network.uuid.to_string()),
    ],
};

const LEASES: Listing<'_, DhcpLease> = Listing {
    noun: "leases",
    name: |lease| lease.address.clone(),
    columns: &[
        Column::text("ADDRESS", |lease, _| format!("{}/{}", lease.address, lease.prefix)),
        Column::text("MAC", |lease, _| or_none(lease.mac.as_deref())),
        Column::text("NAME", |lease, _| or_none(lease.hostname.as_deref())),
        Column::text("VM", |lease, _| or_none(lease.vm.as_deref())),
        Column::text("EXPIRES", |lease, now| {
            lease.expires_at.map_or_else(|| "never".to_owned(), |then| moment(now, then))
        }),
        Column::wide("CLIENT", |lease, _| or_none(lease.client_id.as_deref())),
    ],
};

const PORTS: Listing<'_, NetworkPort> = Listing {
    noun: "ports",
    name: |port| port.mac.clone(),
    columns: &[
        Column::text("VM", |port, _| port.vm.clone()),
        Column::text("MAC", |port, _| port.mac.clone()),
        Column::text("DEVICE", |port, _| or_none(port.target.as_deref())),
        Column::text("MODEL", |port, _| or_none(port.model.as_deref())),
        Column::text("LINK", |port, _| if port.link_up { "up" } else { "down" }.to_owned()),
        Column::text("ADDRESSES", |port, _| or_none(Some(&port.addresses.join(",")))),
        Column::wide("VM UUID", |port, _| port.vm_uuid.to_string()),
    ],
};

/// The path of a network, and what follows it.
fn network_path(name: &str, rest: &str) -> String {
    format!("{NETWORKS}/{}{rest}", escape(name))
}

/// Runs one command.
///
/// # Errors
/// What keeps it from being done.
pub async fn run(cx: &mut Context, command: NetworkCommand) -> Result<()> {
    match command {
        NetworkCommand::List => {
            let request = Request::get(NETWORKS);
            let data = fetch_list(cx, request, "networks", None).await?;
            LISTING.show(cx, &data)
        }
        NetworkCommand::Show(args) => {
            let data = get(cx, &args.name, "").await?;
            show::show(cx, data)
        }
        NetworkCommand::Create(args) => create::run(cx, &args).await,
        NetworkCommand::Update(args) => update::run(cx, &args).await,
        NetworkCommand::Delete(args) => delete(cx, &args).await,
        NetworkCommand::Start(args) => {
            each(cx, &args.names, ("start", "started"), false, &args.change).await
        }
        NetworkCommand::Stop(args) => {
            each(cx, &args.names, ("stop", "stopped"), args.force, &args.change).await
        }
        NetworkCommand::Leases(args) => {
            let data = get(cx, &args.name, "/dhcp-leases").await?;
            LEASES.show(cx, &data)
        }
        NetworkCommand::Ports(args) => {
            let data = get(cx, &args.name, "/ports").await?;
            PORTS.show(cx, &data)
        }
    }
}

async fn get(cx: &Context, name: &str, rest: &str) -> Result<Value> {
    Meant::Network(name).fetch(cx, Request::get(network_path(name, rest))).await
}

async fn each(
    cx: &mut Context,
    names: &[String],
    (word, done): (&str, &str),
    force: bool,
    args: &ChangeArgs,
) -> Result<()> {
    let requests = names.iter().map(|name| {
        let request = Request::new(Method::POST, network_path(name, &format!("/{word}")));
        (Meant::Network(name), request.flag("force", force))
    });
    change_each(cx, requests, args, done).await
}

/// Deletes, after asking for each with what would go.
async fn delete(cx: &mut Context, args: &DeleteArgs) -> Result<()> {
    let victims = args.names.iter().map(|name| Victim {
        meant: Meant::Network(name),
        request: Request::new(Method::DELETE, network_path(name, "")).flag("force", args.force),
        question: format!("delete the network {}?", quoted(name)),
    });
    delete_each(cx, "deleting a network", victims, &args.deletion).await
}
