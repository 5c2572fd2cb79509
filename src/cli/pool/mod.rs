//! `vapor pool …`.

mod create;
mod delete;
mod show;
mod update;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use http::Method;

use super::client::{POOLS, Request, escape};
use super::context::Context;
use super::failure::Result;
use super::operation::ChangeArgs;
use super::output::{Column, Listing, fetch_list};
use super::several::change_each;
use super::suggest::Meant;
use super::text::{bytes, or_none, yes_no};
use crate::model::Pool;

/// What can be done with storage pools.
#[derive(Subcommand, Debug)]
pub enum PoolCommand {
    /// List the storage pools
    #[command(visible_alias = "ls")]
    List,
    /// Show one storage pool
    Show(show::ShowArgs),
    /// Create a storage pool
    Create(Box<create::CreateArgs>),
    /// Change a storage pool
    Update(Box<update::UpdateArgs>),
    /// Delete storage pools
    #[command(visible_alias = "rm")]
    Delete(delete::DeleteArgs),
    /// Make the volumes of storage pools available
    Start(PlainArgs),
    /// Make the volumes of storage pools unavailable; nothing is lost
    Stop(StopArgs),
    /// Look at the storage anew, for what others changed
    Refresh(PlainArgs),
    /// Show how much room there is, and how much of it is promised
    Capacity(show::ShowArgs),
}

/// Actions that need nothing but the pools.
#[derive(Args, Debug)]
pub struct PlainArgs {
    /// Their names
    #[arg(value_name = "POOL", required = true, value_parser = pool_name())]
    pub names: Vec<String>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// How pools are stopped.
#[derive(Args, Debug)]
pub struct StopArgs {
    /// Their names
    #[arg(value_name = "POOL", required = true, value_parser = pool_name())]
    pub names: Vec<String>,
    /// Also while running virtual machines use their volumes
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

const LISTING: Listing<'_, Pool> = Listing {
    noun: "pools",
    name: |pool| pool.name.clone(),
    columns: &[
        Column::text("NAME", |pool, _| pool.name.clone()),
        Column::text("TYPE", |pool, _| pool.r#type.clone()),
        Column::text("STATE", |pool, _| pool.state.as_str().to_owned()),
        Column::number("CAPACITY", |pool, _| bytes(pool.capacity_bytes)),
        Column::number("TAKEN", |pool, _| bytes(pool.allocation_bytes)),
        Column::number("FREE", |pool, _| bytes(pool.available_bytes)),
        Column::number("VOLUMES", |pool, _| pool.volume_count.to_string()),
        Column::wide("AUTOSTART", |pool, _| yes_no(pool.autostart).to_owned()),
        Column::wide("PATH", |pool, _| or_none(pool.target_path.as_deref())),
        Column::wide("PROBLEM", |pool, _| or_none(pool.problem.as_deref())),
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
            let request = Request::get(POOLS);
            let data = fetch_list(cx, request, "pools", None).await?;
            LISTING.show(cx, &data)
        }
        PoolCommand::Show(args) => show::run(cx, &args).await,
        PoolCommand::Create(args) => create::run(cx, &args).await,
        PoolCommand::Update(args) => update::run(cx, &args).await,
        PoolCommand::Delete(args) => delete::run(cx, &args).await,
        PoolCommand::Start(args) => all(cx, ("start", "started"), false, &args).await,
        PoolCommand::Stop(StopArgs { names, force, change }) => {
            all(cx, ("stop", "stopped"), force, &PlainArgs { names, change }).await
        }
        PoolCommand::Refresh(args) => all(cx, ("refresh", "refreshed"), false, &args).await,
        PoolCommand::Capacity(args) => show::capacity(cx, &args).await,
    }
}

/// A pool's path in the API.
fn path(name: &str, rest: &str) -> String {
    format!("{POOLS}/{}{rest}", escape(name))
}

/// A pool's name on the command line: anything but nothing, which would be a list.
fn pool_name() -> NonEmptyStringValueParser {
    NonEmptyStringValueParser::new()
}

async fn all(
    cx: &mut Context,
    (word, done): (&str, &str),
    force: bool,
    args: &PlainArgs,
) -> Result<()> {
    let requests = args.names.iter().map(|name| {
        let request = Request::new(Method::POST, path(name, &format!("/{word}")));
        (Meant::Pool(name), request.flag("force", force))
    });
    change_each(cx, requests, &args.change, done).await
}
