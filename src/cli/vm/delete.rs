//! `vapor vm delete`.

use clap::Args;
use http::Method;
use serde_json::json;

use super::super::client::{Request, vm_path};
use super::super::context::Context;
use super::super::failure::{Failure, Result};
use super::super::operation::{ChangeArgs, Ended, dry_run, perform, show_done};
use super::super::output::read;
use super::super::suggest;
use super::super::text::{quoted, safe};
use super::Tally;
use crate::model::Plan;

/// Which VMs go, and what goes with them.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Names or UUIDs
    #[arg(value_name = "VM", required = true, value_parser = super::vm_name())]
    pub names: Vec<String>,
    /// Delete their disks, too
    #[arg(long)]
    pub remove_disks: bool,
    /// Delete them even while they run: the power is cut first
    #[arg(long)]
    pub force: bool,
    /// Delete their snapshots, too
    #[arg(long)]
    pub remove_snapshots: bool,
    /// Delete their saved state, too
    #[arg(long)]
    pub remove_saved_state: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Deletes, after asking for each VM with what would go.
pub async fn run(cx: &mut Context, args: &DeleteArgs) -> Result<()> {
    cx.can_confirm(args.yes || args.change.dry_run, "deleting a virtual machine")?;
    let mut tally = Tally::default();
    for name in &args.names {
        let result = one(cx, args, name).await;
        tally.add(cx, result)?;
    }
    tally.end()
}

async fn one(cx: &mut Context, args: &DeleteArgs, name: &str) -> Result<()> {
    let request = [
        ("remove_disks", args.remove_disks),
        ("force", args.force),
        ("remove_snapshots", args.remove_snapshots),
        ("remove_saved_state", args.remove_saved_state),
    ]
    .into_iter()
    .filter(|(_, set)| *set)
    .fold(Request::new(Method::DELETE, vm_path(name, "")), |request, (flag, _)| {
        request.query(flag, "true")
    });
    let result = async {
        if !(args.yes || args.change.dry_run) {
            ask(cx, request.clone(), name, args.remove_disks).await?;
        }
        match perform(cx, request, &args.change).await? {
            Ended::Done(data) => show_done(cx, &data, name, "deleted"),
            Ended::Planned | Ended::Accepted => Ok(()),
        }
    };
    match result.await {
        Ok(()) => Ok(()),
        Err(failure) => Err(suggest::for_vm(cx, name, failure).await),
    }
}

/// Shows what would go, as the daemon plans it, and asks.
async fn ask(cx: &mut Context, request: Request, name: &str, disks: bool) -> Result<()> {
    let plan: Plan = read(dry_run(cx, request).await?)?;
    if let Some(blocker) = plan.blockers.first() {
        let error = json!({"code": blocker.code, "message": blocker.message, "hint": blocker.hint});
        return Err(Failure::reported(&error, None));
    }
    for effect in &plan.side_effects {
        cx.note(&format!("  - {}", safe(effect)));
    }
    let disks = if disks { "with its disks" } else { "and leave its disks" };
    let question = format!("delete {} {disks}?", quoted(name));
    cx.confirm(false, "deleting a virtual machine", &question)
}
