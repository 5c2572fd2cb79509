//! `vapor network …`: lists and small commands here, and a file each for what takes more.

mod create;
mod show;
mod spec;
mod update;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::client::{Request, escape};
use super::context::Context;
use super::failure::{Failure, Result};
use super::operation::{ChangeArgs, Ended, dry_run, perform, show_done};
use super::output::{Column, Listing, fetch_list, read};
use super::suggest;
use super::text::{moment, or_none, quoted, safe, yes_no};
use crate::model::{DhcpLease, Network, NetworkPort, Plan};

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
    /// Delete a network
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Start a network
    Start(StartArgs),
    /// Stop a network
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

/// Which network is started.
#[derive(Args, Debug)]
pub struct StartArgs {
    #[arg(value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Which network is stopped.
#[derive(Args, Debug)]
pub struct StopArgs {
    #[arg(value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Stop it although running virtual machines lose their link
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Which network goes.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    #[arg(value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub name: String,
    /// Delete it although running virtual machines lose their link
    #[arg(long)]
    pub force: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
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
    format!("/virtualization/networks/{}{rest}", escape(name))
}

/// Runs one command.
///
/// # Errors
/// What keeps it from being done.
pub async fn run(cx: &mut Context, command: NetworkCommand) -> Result<()> {
    match command {
        NetworkCommand::List => {
            let request = Request::get("/virtualization/networks");
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
            let request = Request::new(Method::POST, network_path(&args.name, "/start"));
            change(cx, request, &args.name, "started", &args.change).await
        }
        NetworkCommand::Stop(args) => {
            let request = Request::new(Method::POST, network_path(&args.name, "/stop"));
            let request = request.maybe("force", args.force.then_some("true"));
            change(cx, request, &args.name, "stopped", &args.change).await
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
    let request = Request::get(network_path(name, rest));
    match cx.client.send(&request).await?.checked() {
        Ok(reply) => reply.data(),
        Err(failure) => Err(suggest::for_network(cx, name, failure).await),
    }
}

async fn change(
    cx: &mut Context,
    request: Request,
    name: &str,
    words: &str,
    args: &ChangeArgs,
) -> Result<()> {
    match perform(cx, request, args).await {
        Ok(Ended::Done(data)) => show_done(cx, &data, name, words),
        Ok(Ended::Planned | Ended::Accepted) => Ok(()),
        Err(failure) => Err(suggest::for_network(cx, name, failure).await),
    }
}

/// Deletes, after asking with what would go.
async fn delete(cx: &mut Context, args: &DeleteArgs) -> Result<()> {
    let unasked = args.yes || args.change.dry_run;
    cx.can_confirm(unasked, "deleting a network")?;
    let request = Request::new(Method::DELETE, network_path(&args.name, ""))
        .maybe("force", args.force.then_some("true"));
    if !unasked {
        let plan = match dry_run(cx, request.clone()).await {
            Ok(plan) => read::<Plan>(plan)?,
            Err(failure) => return Err(suggest::for_network(cx, &args.name, failure).await),
        };
        if let Some(blocker) = plan.blockers.first() {
            let error =
                json!({"code": blocker.code, "message": blocker.message, "hint": blocker.hint});
            return Err(Failure::reported(&error, None));
        }
        for effect in &plan.side_effects {
            cx.note(&format!("  - {}", safe(effect)));
        }
        let question = format!("delete the network {}?", quoted(&args.name));
        cx.confirm(false, "deleting a network", &question)?;
    }
    change(cx, request, &args.name, "deleted", &args.change).await
}
