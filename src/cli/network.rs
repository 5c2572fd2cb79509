//! `vapor network …`.

use clap::Subcommand;

use super::client::Request;
use super::context::Context;
use super::failure::Result;
use super::output::{Column, Listing, fetch_list};
use super::text::{or_none, yes_no};
use crate::model::Network;

/// What can be done with networks.
#[derive(Subcommand, Debug)]
pub enum NetworkCommand {
    /// List the networks
    #[command(visible_alias = "ls")]
    List,
}

const LISTING: Listing<'_, Network> = Listing {
    noun: "networks",
    name: |network| network.name.clone(),
    columns: &[
        Column::text("NAME", |network, _| network.name.clone()),
        Column::text("STATE", |network, _| {
            if network.active { "active" } else { "inactive" }.to_owned()
        }),
        Column::text("FORWARD", |network, _| match &network.forward.device {
            Some(device) => format!("{} through {device}", network.forward.mode),
            None => or_none(Some(&network.forward.mode)),
        }),
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
    }
}
