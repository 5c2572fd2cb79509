//! Virtual machines: `/virtualization/virtualmachines`, and identically `/virtualization/computes`.

use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use http::header::{ACCEPT, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{
    Caller, Change, Command, Definition, Json, Mutation, NoQuery, Path, Query, XmlText,
};
use super::lists::LabelFilter;
use super::reply::{Conditional, joined, raw, success, with_header, wrap};
use super::schemas::{Success, VmList, XmlReply};
use super::{Api, accept, lists, outcome};
use crate::authz::{Action, Resource};
use crate::error::{Error, Kind, Result};
use crate::model::{
    ActionRequest, CreateVm, CreateVmFull, MediaRequest, SubjectType, UpdateVm, Vm, VmState,
};
use crate::service::vm::{DeleteVm, VmQuery};

/// Words that paths of this and of later versions use in the place of `{id}`. They win: a VM of
/// such a name is reached by its UUID.
const FIXED_WORDS: [&str; 7] =
    ["restore", "templates", "pci-devices", "backups", "clone", "from-template", "create-enhanced"];

const ALL: Resource<'static> = Resource::All(SubjectType::Vm);

const fn one(id: &str) -> Resource<'_> {
    Resource::One(SubjectType::Vm, id)
}

/// The operations on VMs.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_vms, create_vm))
        .routes(routes!(create_vm_enhanced))
        .routes(routes!(get_vm, replace_vm, update_vm, delete_vm))
        .routes(routes!(act_on_vm))
        .routes(routes!(exchange_medium))
        .routes(routes!(get_vm_xml, replace_vm_xml))
}

/// A VM in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct VmPath {
    /// The VM's UUID or name.
    #[param(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$", example = "web1")]
    id: String,
}

/// The id in the path, unless it is a fixed word.
pub(super) struct VmId(pub(super) String);

impl FromRequestParts<Api> for VmId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self> {
        let Path(VmPath { id }) = Path::from_request_parts(parts, api).await?;
        not_fixed(&id)?;
        Ok(VmId(id))
    }
}

/// 404 if the id is a fixed word.
pub(super) fn not_fixed(id: &str) -> Result<()> {
    if FIXED_WORDS.contains(&id) {
        return Err(Error::new(Kind::RouteNotFound, format!("no such path: {id}"))
            .with_hint(format!("a VM named {id:?} is reached by its UUID")));
    }
    Ok(())
}

/// Which VMs, and which part of them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct VmListQuery {
    /// Only VMs in this state.
    #[param(inline)]
    state: Option<VmState>,
    /// Only VMs of this name, in which `*` stands for any text.
    #[param(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$")]
    name: Option<String>,
    /// Only VMs with this label, as `key:value`; all of them if repeated.
    #[param(max_items = 16, inline)]
    label: Vec<LabelFilter>,
    /// Terms `a=b`, `a!=b`, `a`, `!a`, separated by commas; all of them must hold.
    #[param(
        max_length = 2048,
        pattern = r"^!?[A-Za-z0-9_.+-]{1,63}(!?=[\x20-\x2B\x2D-\x7E]{0,255})?(,!?[A-Za-z0-9_.+-]{1,63}(!?=[\x20-\x2B\x2D-\x7E]{0,255})?){0,15}$",
        example = "tier=web,env!=prod"
    )]
    selector: Option<String>,
    /// How many at most.
    #[param(minimum = 1, maximum = 5000, default = 1000)]
    limit: Option<u32>,
    /// The `next` of the page before.
    #[param(min_length = 1, max_length = 2048, pattern = "^[A-Za-z0-9_-]+$")]
    cursor: Option<String>,
    /// The field to sort by, with `-` before it for the reverse order.
    #[param(
        pattern = "^-?(name|uuid|state|memory|vcpus|created_at|updated_at)$",
        default = "name"
    )]
    sort: Option<String>,
    /// Only these fields of each VM, separated by commas.
    #[param(
        max_length = 1024,
        pattern = "^(uuid|name|title|description|state|state_reason|memory|max_memory|vcpus|max_vcpus|os|disks|networks|graphics|tpm|devices|autostart|persistent|labels|owner|cloud_init|ignition|has_saved_state|snapshot_count|created_at|updated_at|generation|stale|pending|runtimeDetails)(,(uuid|name|title|description|state|state_reason|memory|max_memory|vcpus|max_vcpus|os|disks|networks|graphics|tpm|devices|autostart|persistent|labels|owner|cloud_init|ignition|has_saved_state|snapshot_count|created_at|updated_at|generation|stale|pending|runtimeDetails)){0,31}$",
        example = "uuid,name,state"
    )]
    fields: Option<String>,
}

impl VmListQuery {
    fn split(self) -> (VmQuery, Option<String>) {
        let query = VmQuery {
            state: self.state,
            name: self.name,
            labels: self.label.into_iter().map(LabelFilter::pair).collect(),
            selector: self.selector,
            limit: self.limit.map(|limit| limit as usize),
            cursor: self.cursor,
            sort: self.sort,
        };
        (query, self.fields)
    }
}

/// List virtual machines.
///
/// Served from the picture the daemon keeps: no libvirt call. While libvirt is away, `stale` of
/// each VM says how old it is.
#[utoipa::path(get, path = "", tag = "virtual machines", params(VmListQuery),
    responses((status = 200, description = "A page of VMs.", body = Success<VmList>)))]
async fn list_vms(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Query(query): Query<VmListQuery>,
) -> Result<Response> {
    caller.may(Action::ListVms, ALL)?;
    let (query, fields) = query.split();
    let page = api.services().vms.list(&query)?;
    conditional.reply(&page.etag, || {
        let items = page.records.iter().map(|record| record.json.clone()).collect();
        lists::streamed("vms", items, page.total, page.next.as_deref(), fields.as_deref())
    })
}

/// Create a virtual machine.
///
/// Takes the flat body and the full one. Whatever the request leaves open is chosen from libvirt's
/// capabilities.
#[utoipa::path(post, path = "", tag = "virtual machines", params(Change), request_body = CreateVm,
    responses((status = 201, description = "The new VM.", body = Success<Vm>)))]
async fn create_vm(
    State(api): State<Api>,
    caller: Caller,
    command: Command<Json<CreateVm>>,
) -> Result<Response> {
    caller.may(Action::CreateVm, ALL)?;
    let vms = api.services().vms.clone();
    let work = async move { vms.create(command.context, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Create a virtual machine from the full body.
#[utoipa::path(post, path = "/create-enhanced", tag = "virtual machines", params(Change),
    request_body = CreateVmFull,
    responses((status = 201, description = "The new VM.", body = Success<Vm>)))]
async fn create_vm_enhanced(
    State(api): State<Api>,
    caller: Caller,
    command: Command<Json<CreateVmFull>>,
) -> Result<Response> {
    caller.may(Action::CreateVmEnhanced, ALL)?;
    let vms = api.services().vms.clone();
    let work = async move { vms.create(command.context, command.body.0.into()).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Get a virtual machine.
///
/// Shows more of it than a list does: how disks and NICs are tuned, processors, memory, clock and
/// single devices.
#[utoipa::path(get, path = "/{id}", tag = "virtual machines", params(VmPath),
    responses((status = 200, description = "The VM.", body = Success<Vm>)))]
async fn get_vm(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    VmId(id): VmId,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetVm, one(&id))?;
    let record = api.services().vms.get(&id)?;
    conditional.reply(&record.etag, || {
        let vm = serde_json::to_vec(&record.detailed()?).map_err(Error::internal)?;
        Ok(wrap(&vm))
    })
}

/// Change a virtual machine.
///
/// Like PATCH: what is absent stays as it is.
#[utoipa::path(put, path = "/{id}", tag = "virtual machines", params(VmPath, Change),
    request_body = UpdateVm,
    responses((status = 200, description = "The VM as it is now.", body = Success<Vm>)))]
async fn replace_vm(
    State(api): State<Api>,
    caller: Caller,
    VmId(id): VmId,
    command: Command<Json<UpdateVm>>,
) -> Result<Response> {
    caller.may(Action::ReplaceVm, one(&id))?;
    change(&api, id, command).await
}

/// Change a virtual machine.
///
/// What is absent stays as it is. What cannot be changed while the VM runs is changed for its next
/// boot, and is shown in `pending` until then.
#[utoipa::path(patch, path = "/{id}", tag = "virtual machines", params(VmPath, Change),
    request_body = UpdateVm,
    responses((status = 200, description = "The VM as it is now.", body = Success<Vm>)))]
async fn update_vm(
    State(api): State<Api>,
    caller: Caller,
    VmId(id): VmId,
    command: Command<Json<UpdateVm>>,
) -> Result<Response> {
    caller.may(Action::UpdateVm, one(&id))?;
    change(&api, id, command).await
}

async fn change(api: &Api, id: String, command: Command<Json<UpdateVm>>) -> Result<Response> {
    let vms = api.services().vms.clone();
    let work = async move { vms.update(command.context, &id, command.body.0).await };
    outcome::respond(api, api.detached(work).await?)
}

/// What else goes with a VM.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// Delete its disks, too.
    remove_disks: bool,
    /// Cut the power first if it runs.
    force: bool,
    /// Delete it although it has snapshots, which are lost.
    remove_snapshots: bool,
    /// Delete it although it has a saved state, which is lost.
    remove_saved_state: bool,
    /// Answer with the plan and change nothing.
    dry_run: bool,
}

impl Mutation for DeleteQuery {
    fn dry_run(&self) -> bool {
        self.dry_run
    }
}

/// Delete a virtual machine.
///
/// A running one is refused unless `force=true`. Its disks stay unless `remove_disks=true`.
#[utoipa::path(delete, path = "/{id}", tag = "virtual machines", params(VmPath, DeleteQuery),
    responses((status = 204, description = "It is gone.")))]
async fn delete_vm(
    State(api): State<Api>,
    caller: Caller,
    VmId(id): VmId,
    command: Command<super::extract::Nothing, DeleteQuery>,
) -> Result<Response> {
    caller.may(Action::DeleteVm, one(&id))?;
    let DeleteQuery { remove_disks, force, remove_snapshots, remove_saved_state, .. } =
        command.query;
    let request = DeleteVm { remove_disks, force, remove_snapshots, remove_saved_state };
    let vms = api.services().vms.clone();
    let work = async move { vms.delete(command.context, &id, request).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Start, stop, pause or otherwise act on a virtual machine.
///
/// `stop`, `shutdown` and `restart` ask the guest and take as long as it does: they answer 202 with
/// the task unless `Prefer: wait=N` says otherwise.
#[utoipa::path(post, path = "/{id}/action", tag = "virtual machines", params(VmPath, Change),
    request_body = ActionRequest,
    responses((status = 200, description = "The VM as it is now.", body = Success<Vm>)))]
async fn act_on_vm(
    State(api): State<Api>,
    caller: Caller,
    VmId(id): VmId,
    command: Command<Json<ActionRequest>>,
) -> Result<Response> {
    caller.may(Action::ActOnVm, one(&id))?;
    let vms = api.services().vms.clone();
    let work = async move { vms.action(command.context, &id, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Insert a medium into an optical drive of a virtual machine, or eject it.
///
/// A running VM sees it at once, and keeps it with its next boot. A stopped VM without an optical
/// drive gets one.
#[utoipa::path(post, path = "/{id}/media", tag = "virtual machines", params(VmPath, Change),
    request_body = MediaRequest,
    responses((status = 200, description = "The VM as it is now.", body = Success<Vm>)))]
async fn exchange_medium(
    State(api): State<Api>,
    caller: Caller,
    VmId(id): VmId,
    command: Command<Json<MediaRequest>>,
) -> Result<Response> {
    caller.may(Action::ExchangeMedium, one(&id))?;
    let (vms, isos) = (api.services().vms.clone(), api.services().isos.clone());
    let work =
        async move { vms.exchange_medium(command.context, &id, command.body.0, &isos).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Which of two definitions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct XmlQuery {
    /// The definition of the next boot instead of the running one.
    inactive: bool,
}

/// Get a virtual machine's definition.
///
/// libvirt's domain XML without secrets: as XML, or within JSON for clients that accept nothing
/// else.
#[utoipa::path(get, path = "/{id}/xml", tag = "virtual machines", params(VmPath, XmlQuery),
    responses((status = 200, description = "The definition.", content(
        (String = "application/xml"), (Success<XmlReply> = "application/json")))))]
async fn get_vm_xml(
    State(api): State<Api>,
    caller: Caller,
    VmId(id): VmId,
    Query(query): Query<XmlQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    caller.may(Action::GetVmXml, one(&id))?;
    let xml = api.services().vms.xml(&id, query.inactive)?;
    let accepted = joined(&headers, ACCEPT);
    let offers = ["application/xml", "text/xml", "application/json"];
    let response = match accept::best(accepted.as_deref(), &offers) {
        Some("application/json") => success(&XmlReply { xml: xml.to_string() })?,
        _ => raw("application/xml", xml.to_string()),
    };
    Ok(with_header(response, VARY, HeaderValue::from_static("Accept")))
}

/// Replace a virtual machine's definition.
///
/// For those who need it: the whole domain XML, with the VM's own UUID and name. It takes hold with
/// the next boot.
#[utoipa::path(put, path = "/{id}/xml", tag = "virtual machines", params(VmPath, Change),
    request_body(content((String = "application/xml"), (XmlText = "application/json"))),
    responses((status = 200, description = "The VM as it is now.", body = Success<Vm>)))]
async fn replace_vm_xml(
    State(api): State<Api>,
    caller: Caller,
    VmId(id): VmId,
    command: Command<Definition>,
) -> Result<Response> {
    caller.may(Action::ReplaceVmXml, one(&id))?;
    let vms = api.services().vms.clone();
    let work = async move { vms.replace_xml(command.context, &id, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}
