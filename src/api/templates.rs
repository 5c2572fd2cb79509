//! Templates of virtual machines.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Caller, Change, Command, Json, Mutation, NoQuery, Nothing, Path, Query};
use super::reply::{Conditional, render, wrap};
use super::schemas::{Success, TemplateList};
use super::vms::{VmId, VmPath};
use super::{Api, lists, outcome};
use crate::authz::{Action, Resource};
use crate::error::Result;
use crate::model::{
    CreateTemplate, FromTemplate, MakeTemplate, SubjectType, Template, UpdateTemplate, Vm,
};
use crate::service::{PageQuery, etag};

const ALL: Resource<'static> = Resource::All(SubjectType::Template);

const fn one(id: &str) -> Resource<'_> {
    Resource::One(SubjectType::Template, id)
}

/// The operations on templates.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_templates, create_template))
        .routes(routes!(get_template, update_template, delete_template))
        .routes(routes!(make_template))
        .routes(routes!(create_vm_from_template))
}

/// A template in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct TemplatePath {
    /// The template's id or name.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1F\x7F]+$",
        example = "debian-12"
    )]
    id: String,
}

/// Which templates, and which part of them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct TemplateListQuery {
    /// Only templates of this name, in which `*` stands for any text.
    #[param(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$")]
    name: Option<String>,
    /// How many at most.
    #[param(minimum = 1, maximum = 5000, default = 1000)]
    limit: Option<u32>,
    /// The `next` of the page before.
    #[param(min_length = 1, max_length = 2048, pattern = "^[A-Za-z0-9_-]+$")]
    cursor: Option<String>,
    /// The field to sort by, with `-` before it for the reverse order.
    #[param(pattern = "^-?(name|created_at)$", default = "name")]
    sort: Option<String>,
    /// Only these fields of each object, separated by commas.
    #[param(
        max_length = 512,
        pattern = "^(id|name|description|settings|disks|min_memory|min_vcpus|min_disk|source_vm|owner|linked_clones|problems|created_at|updated_at|generation)(,(id|name|description|settings|disks|min_memory|min_vcpus|min_disk|source_vm|owner|linked_clones|problems|created_at|updated_at|generation)){0,31}$",
        example = "id,name,problems"
    )]
    fields: Option<String>,
}

/// List the templates.
///
/// Served from memory: no libvirt call. `problems` of each tells what it needs and is gone.
#[utoipa::path(get, path = "/templates", tag = "virtual machines", params(TemplateListQuery),
    responses((status = 200, description = "A page of templates.", body = Success<TemplateList>)))]
async fn list_templates(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Query(query): Query<TemplateListQuery>,
) -> Result<Response> {
    caller.may(Action::ListTemplates, ALL)?;
    let wanted = PageQuery {
        limit: query.limit.map(|limit| limit as usize),
        cursor: query.cursor,
        name: query.name,
        sort: query.sort,
    };
    let page = api.services().templates.list(&wanted)?;
    lists::page(&conditional, "templates", &page, query.fields.as_deref())
}

/// Create a template of settings.
///
/// One with disk images is made of a VM, by `POST …/{id}/template`.
#[utoipa::path(post, path = "/templates", tag = "virtual machines", params(Change),
    request_body = CreateTemplate,
    responses((status = 201, description = "The new template.", body = Success<Template>)))]
async fn create_template(
    State(api): State<Api>,
    caller: Caller,
    command: Command<Json<CreateTemplate>>,
) -> Result<Response> {
    caller.may(Action::CreateTemplate, ALL)?;
    let templates = api.services().templates.clone();
    let work = async move { templates.create(command.context, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Get a template.
#[utoipa::path(get, path = "/templates/{id}", tag = "virtual machines", params(TemplatePath),
    responses((status = 200, description = "The template.", body = Success<Template>)))]
async fn get_template(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Path(TemplatePath { id }): Path<TemplatePath>,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetTemplate, one(&id))?;
    let template = api.services().templates.get(&id)?;
    conditional.reply(&etag(&template)?, || Ok(wrap(&render(&template)?)))
}

/// Change a template.
///
/// What is absent stays as it is; settings are replaced as a whole. Its disk images stay.
#[utoipa::path(put, path = "/templates/{id}", tag = "virtual machines",
    params(TemplatePath, Change), request_body = UpdateTemplate,
    responses((status = 200, description = "The template.", body = Success<Template>)))]
async fn update_template(
    State(api): State<Api>,
    caller: Caller,
    Path(TemplatePath { id }): Path<TemplatePath>,
    command: Command<Json<UpdateTemplate>>,
) -> Result<Response> {
    caller.may(Action::UpdateTemplate, one(&id))?;
    let templates = api.services().templates.clone();
    let work = async move { templates.update(command.context, &id, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// What else goes with a template.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// Delete its disk images, too.
    delete_volumes: bool,
    /// Answer with the plan and change nothing.
    dry_run: bool,
}

impl Mutation for DeleteQuery {
    fn dry_run(&self) -> bool {
        self.dry_run
    }
}

/// Delete a template.
///
/// One whose images VMs read from is refused. The images stay unless `delete_volumes=true`.
#[utoipa::path(delete, path = "/templates/{id}", tag = "virtual machines",
    params(TemplatePath, DeleteQuery),
    responses((status = 204, description = "It is gone.")))]
async fn delete_template(
    State(api): State<Api>,
    caller: Caller,
    Path(TemplatePath { id }): Path<TemplatePath>,
    command: Command<Nothing, DeleteQuery>,
) -> Result<Response> {
    caller.may(Action::DeleteTemplate, one(&id))?;
    let templates = api.services().templates.clone();
    let volumes = command.query.delete_volumes;
    let work = async move { templates.delete(command.context, &id, volumes).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Make a template of a stopped virtual machine.
///
/// Its disks are copied and become the template's images; with `convert` they become so themselves,
/// and the VM is removed. What makes it that one machine is left out of the settings. A copy answers
/// 202 with the task unless `Prefer: wait=N` says otherwise.
#[utoipa::path(post, path = "/{id}/template", tag = "virtual machines", params(VmPath, Change),
    request_body = MakeTemplate,
    responses((status = 201, description = "The new template.", body = Success<Template>)))]
async fn make_template(
    State(api): State<Api>,
    caller: Caller,
    VmId(id): VmId,
    command: Command<Json<MakeTemplate>>,
) -> Result<Response> {
    caller.may(Action::MakeTemplate, Resource::One(SubjectType::Vm, &id))?;
    let templates = api.services().templates.clone();
    let work = async move { templates.make(command.context, &id, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Create a virtual machine from a template.
///
/// The template's settings, with whatever the request says over them. Its disks read from the
/// template's images what is not written to them, or are whole copies with `linked` false.
#[utoipa::path(post, path = "/from-template", tag = "virtual machines", params(Change),
    request_body = FromTemplate,
    responses((status = 201, description = "The new VM.", body = Success<Vm>)))]
async fn create_vm_from_template(
    State(api): State<Api>,
    caller: Caller,
    command: Command<Json<FromTemplate>>,
) -> Result<Response> {
    caller.may(Action::CreateVmFromTemplate, one(&command.body.0.template))?;
    let templates = api.services().templates.clone();
    let work = async move { templates.deploy(command.context, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}
