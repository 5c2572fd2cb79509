//! `vapor vm delete`.

use clap::Args;
use http::Method;

use super::super::client::{Request, vm_path};
use super::super::context::Context;
use super::super::failure::Result;
use super::super::several::{DeletionArgs, Victim, delete_each};
use super::super::suggest::Meant;
use super::super::text::quoted;

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
    #[command(flatten)]
    pub deletion: DeletionArgs,
}

/// Deletes, after asking for each VM with what would go.
pub async fn run(cx: &mut Context, args: &DeleteArgs) -> Result<()> {
    let disks = if args.remove_disks { "with its disks" } else { "and leave its disks" };
    let victims = args.names.iter().map(|name| Victim {
        meant: Meant::Vm(name),
        request: Request::new(Method::DELETE, vm_path(name, ""))
            .flag("remove_disks", args.remove_disks)
            .flag("force", args.force)
            .flag("remove_snapshots", args.remove_snapshots)
            .flag("remove_saved_state", args.remove_saved_state),
        question: format!("delete {} {disks}?", quoted(name)),
    });
    delete_each(cx, "deleting a virtual machine", victims, &args.deletion).await
}
