//! `vapor volume …`.

use clap::{Args, Subcommand};

use super::client::{Request, escape};
use super::context::Context;
use super::failure::Result;
use super::output::{Column, Listing, fetch_list};
use super::suggest;
use super::text::{bytes, or_none};
use crate::model::Volume;

/// What can be done with volumes.
#[derive(Subcommand, Debug)]
pub enum VolumeCommand {
    /// List the volumes of one pool, or of all
    #[command(visible_alias = "ls")]
    List(ListArgs),
}

/// Which volumes are listed.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// The pool; all pools if absent
    #[arg(value_name = "POOL", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub pool: Option<String>,
}

const LISTING: Listing<'_, Volume> = Listing {
    noun: "volumes",
    name: |volume| format!("{}/{}", volume.pool, volume.name),
    columns: &[
        Column::text("POOL", |volume, _| volume.pool.clone()),
        Column::text("NAME", |volume, _| volume.name.clone()),
        Column::text("FORMAT", |volume, _| or_none(volume.format.as_deref())),
        Column::number("CAPACITY", |volume, _| bytes(volume.capacity_bytes)),
        Column::number("TAKEN", |volume, _| bytes(volume.allocation_bytes)),
        Column::text("USED BY", |volume, _| or_none(Some(&volume.used_by.join(",")))),
        Column::wide("TYPE", |volume, _| volume.r#type.clone()),
        Column::wide("BACKING", |volume, _| or_none(volume.backing_path.as_deref())),
        Column::wide("PATH", |volume, _| volume.path.clone()),
    ],
};

/// Runs one command.
///
/// # Errors
/// What keeps it from being done.
pub async fn run(cx: &mut Context, command: VolumeCommand) -> Result<()> {
    match command {
        VolumeCommand::List(args) => {
            let data = match &args.pool {
                None => {
                    fetch_list(cx, Request::get("/virtualization/volumes"), "volumes", None).await?
                }
                Some(pool) => {
                    let path = format!("/virtualization/storages/pools/{}/volumes", escape(pool));
                    match fetch_list(cx, Request::get(path), "volumes", None).await {
                        Ok(data) => data,
                        Err(failure) => return Err(suggest::for_pool(cx, pool, failure).await),
                    }
                }
            };
            LISTING.show(cx, &data)
        }
    }
}
