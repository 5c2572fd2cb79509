//! Clones of virtual machines.

use axum::extract::State;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Caller, Change, Command, Json};
use super::schemas::Success;
use super::vms::{VmId, VmPath};
use super::{Api, outcome};
use crate::authz::{Action, Resource};
use crate::error::Result;
use crate::model::{CloneVm, CloneVmFrom, SubjectType, Vm};

/// The operations that make a VM like another one.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(clone_vm_from)).routes(routes!(clone_vm))
}

/// Clone a virtual machine.
///
/// The clone has the source's hardware and copies of its disks, and an identity of its own: UUID,
/// MAC addresses, firmware variables, TPM state. Media and read-only disks are shared. A running
/// source is copied as of one moment, with its file systems frozen if its guest agent can. It
/// answers 202 with the task unless `Prefer: wait=N` says otherwise or the clone is linked.
#[utoipa::path(post, path = "/{id}/clone", tag = "virtual machines", params(VmPath, Change),
    request_body = CloneVm,
    responses((status = 201, description = "The new VM.", body = Success<Vm>)))]
async fn clone_vm(
    State(api): State<Api>,
    caller: Caller,
    VmId(id): VmId,
    command: Command<Json<CloneVm>>,
) -> Result<Response> {
    caller.may(Action::CloneVm, Resource::One(SubjectType::Vm, &id))?;
    let vms = api.services().vms.clone();
    let work = async move { vms.clone_vm(command.context, &id, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Clone a virtual machine that the body names.
///
/// Like `POST …/{id}/clone`.
#[utoipa::path(post, path = "/clone", tag = "virtual machines", params(Change),
    request_body = CloneVmFrom,
    responses((status = 201, description = "The new VM.", body = Success<Vm>)))]
async fn clone_vm_from(
    State(api): State<Api>,
    caller: Caller,
    command: Command<Json<CloneVmFrom>>,
) -> Result<Response> {
    let (source, request) = command.body.0.split();
    caller.may(Action::CloneVmFrom, Resource::One(SubjectType::Vm, &source))?;
    let vms = api.services().vms.clone();
    let work = async move { vms.clone_vm(command.context, &source, request).await };
    outcome::respond(&api, api.detached(work).await?)
}
