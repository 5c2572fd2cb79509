//! `vapor vm start`, `stop`, `pause` and the other actions.

use clap::Args;
use http::Method;

use super::super::client::{Request, vm_path};
use super::super::context::Context;
use super::super::failure::{Failure, Result};
use super::super::operation::ChangeArgs;
use super::super::several::change_each;
use super::super::suggest::Meant;
use super::super::text::quoted;
use crate::model::{ActionRequest, VmAction};

/// Actions that need nothing but the VMs.
#[derive(Args, Debug)]
pub struct PlainArgs {
    /// Names or UUIDs
    #[arg(value_name = "VM", required = true, value_parser = super::vm_name())]
    pub names: Vec<String>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Actions that wait for the guest.
#[derive(Args, Debug)]
pub struct StopArgs {
    /// Names or UUIDs
    #[arg(value_name = "VM", required = true, value_parser = super::vm_name())]
    pub names: Vec<String>,
    /// Cut the power if the guest has not stopped in time
    #[arg(long)]
    pub force: bool,
    /// How long the guest gets (the daemon's default is 300)
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u32>,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Actions that may cost the guest data.
#[derive(Args, Debug)]
pub struct DangerArgs {
    /// Names or UUIDs
    #[arg(value_name = "VM", required = true, value_parser = super::vm_name())]
    pub names: Vec<String>,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    #[command(flatten)]
    pub change: ChangeArgs,
}

/// Does a plain action to each VM.
pub async fn plain(cx: &mut Context, action: VmAction, done: &str, args: &PlainArgs) -> Result<()> {
    let request = ActionRequest { action, force: false, timeout: None };
    all(cx, &request, done, &args.names, &args.change).await
}

/// Stops or restarts each VM.
pub async fn stop(cx: &mut Context, action: VmAction, done: &str, args: &StopArgs) -> Result<()> {
    let request = ActionRequest { action, force: args.force, timeout: args.timeout };
    all(cx, &request, done, &args.names, &args.change).await
}

/// Does what may cost data, after asking.
pub async fn danger(
    cx: &mut Context,
    action: VmAction,
    done: &str,
    args: &DangerArgs,
) -> Result<()> {
    let names: Vec<_> = args.names.iter().map(|name| quoted(name)).collect();
    let names = names.join(", ");
    let what = match action {
        VmAction::Reset => "reset",
        _ => "cut the power of",
    };
    cx.confirm(
        args.yes || args.change.dry_run,
        &format!("{} of {names}", action.as_str()),
        &format!("{what} {names}, and lose what the guest has not written?"),
    )?;
    let request = ActionRequest { action, force: false, timeout: None };
    all(cx, &request, done, &args.names, &args.change).await
}

async fn all(
    cx: &mut Context,
    action: &ActionRequest,
    done: &str,
    names: &[String],
    change: &ChangeArgs,
) -> Result<()> {
    let body = serde_json::to_value(action).map_err(Failure::unintelligible)?;
    let requests = names.iter().map(|name| {
        (Meant::Vm(name), Request::new(Method::POST, vm_path(name, "/action")).json(&body))
    });
    change_each(cx, requests, change, done).await
}
