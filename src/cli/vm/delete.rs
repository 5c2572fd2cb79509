//! `vapor vm delete`.

use clap::Args;
use http::Method;

use super::super::client::{Request, vm_path};
use super::super::context::Context;
use super::super::failure::Result;
use super::super::operation::{ChangeArgs, ask, change};
use super::super::suggest::Meant;
use super::super::text::quoted;
use super::Tally;

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
    if !(args.yes || args.change.dry_run) {
        let disks = if args.remove_disks { "with its disks" } else { "and leave its disks" };
        let question = format!("delete {} {disks}?", quoted(name));
        let asked = ask(cx, request.clone(), "deleting a virtual machine", &question).await;
        if let Err(failure) = asked {
            return Err(Meant::Vm(name).suggest(cx, failure).await);
        }
    }
    change(cx, request, &args.change, Meant::Vm(name), name, "deleted").await
}
