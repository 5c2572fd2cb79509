//! `vapor pool delete`.

use clap::Args;
use http::Method;

use super::super::client::Request;
use super::super::context::Context;
use super::super::failure::Result;
use super::super::several::{DeletionArgs, Victim, delete_each};
use super::super::suggest::Meant;
use super::super::text::quoted;

/// Which pools go, and what goes with them.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Their names
    #[arg(value_name = "POOL", required = true, value_parser = super::pool_name())]
    pub names: Vec<String>,
    /// Delete their volumes, too
    #[arg(long)]
    pub delete_volumes: bool,
    /// Delete what they stand on, too: the folder if nothing is left in it, or the volume group
    #[arg(long)]
    pub delete_storage: bool,
    #[command(flatten)]
    pub deletion: DeletionArgs,
}

/// Deletes, after asking for each pool with what would go.
pub async fn run(cx: &mut Context, args: &DeleteArgs) -> Result<()> {
    let victims = args.names.iter().map(|name| Victim {
        meant: Meant::Pool(name),
        request: Request::new(Method::DELETE, super::path(name, ""))
            .flag("delete_volumes", args.delete_volumes)
            .flag("delete_storage", args.delete_storage),
        question: format!("delete the pool {}?", quoted(name)),
    });
    delete_each(cx, "deleting a storage pool", victims, &args.deletion).await
}
