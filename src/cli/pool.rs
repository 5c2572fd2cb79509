//! `vapor pool …`.

use clap::Subcommand;

use super::client::Request;
use super::context::Context;
use super::failure::Result;
use super::output::{Column, Listing, fetch_list};
use super::text::{bytes, or_none, plain, yes_no};
use crate::model::Pool;

/// What can be done with storage pools.
#[derive(Subcommand, Debug)]
pub enum PoolCommand {
    /// List the storage pools
    #[command(visible_alias = "ls")]
    List,
}

const LISTING: Listing<'_, Pool> = Listing {
    noun: "pools",
    name: |pool| pool.name.clone(),
    columns: &[
        Column::text("NAME", |pool, _| pool.name.clone()),
        Column::text("TYPE", |pool, _| pool.r#type.clone()),
        Column::text("STATE", |pool, _| {
            serde_json::to_value(pool.state).map_or_else(|_| "?".to_owned(), |word| plain(&word))
        }),
        Column::number("CAPACITY", |pool, _| bytes(pool.capacity_bytes)),
        Column::number("TAKEN", |pool, _| bytes(pool.allocation_bytes)),
        Column::number("FREE", |pool, _| bytes(pool.available_bytes)),
        Column::number("VOLUMES", |pool, _| pool.volume_count.to_string()),
        Column::wide("AUTOSTART", |pool, _| yes_no(pool.autostart).to_owned()),
        Column::wide("PATH", |pool, _| or_none(pool.target_path.as_deref())),
        Column::wide("UUID", |pool, _| pool.uuid.to_string()),
    ],
};

/// Runs one command.
///
/// # Errors
/// What keeps it from being done.
pub async fn run(cx: &mut Context, command: PoolCommand) -> Result<()> {
    match command {
        PoolCommand::List => {
            let request = Request::get("/virtualization/storages/pools");
            let data = fetch_list(cx, request, "pools", None).await?;
            LISTING.show(cx, &data)
        }
    }
}
