//! `vapor pool delete`.

use clap::Args;
use http::Method;
use serde_json::json;

use super::super::client::Request;
use super::super::context::Context;
use super::super::failure::{Failure, Result};
use super::super::operation::{ChangeArgs, Ended, dry_run, perform, show_done};
use super::super::output::read;
use super::super::suggest;
use super::super::text::{quoted, safe};
use super::super::vm::Tally;
use crate::model::Plan;

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
        let result = match one(cx, args, name).await {
            Err(failure) => Err(suggest::for_pool(cx, name, failure).await),
            done => done,
        };
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
        ask(cx, request.clone(), name).await?;
    }
    match perform(cx, request, &args.change).await? {
        Ended::Done(data) => show_done(cx, &data, name, "deleted"),
        Ended::Planned | Ended::Accepted => Ok(()),
    }
}

/// Shows what would go, as the daemon plans it, and asks.
async fn ask(cx: &mut Context, request: Request, name: &str) -> Result<()> {
    let plan: Plan = read(dry_run(cx, request).await?)?;
    if let Some(blocker) = plan.blockers.first() {
        let error = json!({"code": blocker.code, "message": blocker.message, "hint": blocker.hint});
        return Err(Failure::reported(&error, None));
    }
    for effect in &plan.side_effects {
        cx.note(&format!("  - {}", safe(effect)));
    }
    let question = format!("delete the pool {}?", quoted(name));
    cx.confirm(false, "deleting a storage pool", &question)
}
