//! `vapor pool delete`.

use clap::Args;
use http::Method;

use super::super::client::Request;
use super::super::context::Context;
use super::super::failure::Result;
use super::super::operation::{ChangeArgs, ask, change};
use super::super::suggest::Meant;
use super::super::text::quoted;
use super::super::vm::Tally;

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
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Deletes, after asking for each pool with what would go.
pub async fn run(cx: &mut Context, args: &DeleteArgs) -> Result<()> {
    cx.can_confirm(args.yes || args.change.dry_run, "deleting a storage pool")?;
    let mut tally = Tally::default();
    for name in &args.names {
        let result = one(cx, args, name).await;
        tally.add(cx, result)?;
    }
    tally.end()
}

async fn one(cx: &mut Context, args: &DeleteArgs, name: &str) -> Result<()> {
    let request =
        [("delete_volumes", args.delete_volumes), ("delete_storage", args.delete_storage)]
            .into_iter()
            .filter(|(_, set)| *set)
            .fold(Request::new(Method::DELETE, super::path(name, "")), |request, (flag, _)| {
                request.query(flag, "true")
            });
    if !(args.yes || args.change.dry_run) {
        let question = format!("delete the pool {}?", quoted(name));
        let asked = ask(cx, request.clone(), "deleting a storage pool", &question).await;
        if let Err(failure) = asked {
            return Err(Meant::Pool(name).suggest(cx, failure).await);
        }
    }
    change(cx, request, &args.change, Meant::Pool(name), name, "deleted").await
}
