//! The history of a virtual machine's definition.

use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use http::request::Parts;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Caller, Change, Command, NoQuery, Nothing, Path, Query};
use super::reply::{Conditional, render, success, wrap};
use super::schemas::{DefinitionList, Success};
use super::vms::{VmId, VmPath, not_fixed};
use super::{Api, lists, outcome};
use crate::authz::{Action, Resource};
use crate::error::{Error, Result};
use crate::model::{DefinitionContent, DefinitionDiff, SubjectType, Vm};

const fn one(id: &str) -> Resource<'_> {
    Resource::One(SubjectType::Vm, id)
}

/// The operations on versions of definitions.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_vm_definitions))
        .routes(routes!(get_vm_definition))
        .routes(routes!(diff_vm_definition))
        .routes(routes!(rollback_vm))
}

/// A version in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct VersionPath {
    /// The VM's UUID or name.
    #[param(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$", example = "web1")]
    id: String,
    /// The version's number.
    #[param(minimum = 1, maximum = 9007199254740991_u64, example = 1)]
    number: u64,
}

/// The VM's id and the version's number in the path, unless the id is a fixed word.
struct Version(String, u64);

impl FromRequestParts<Api> for Version {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self> {
        let Path(VersionPath { id, number }) = Path::from_request_parts(parts, api).await?;
        not_fixed(&id)?;
        Ok(Version(id, number))
    }
}

/// Which versions, and which part of them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct DefinitionListQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
    /// The `next` of the page before.
    #[param(minimum = 1, maximum = 9007199254740991_u64)]
    cursor: Option<u64>,
    /// The order; there is one.
    #[param(pattern = "^-number$", default = "-number")]
    sort: Option<String>,
    /// Only these fields of each version, separated by commas.
    #[param(
        max_length = 256,
        pattern = "^(number|at|by|task|operation|bytes)(,(number|at|by|task|operation|bytes)){0,7}$"
    )]
    fields: Option<String>,
}

/// List the versions of a virtual machine's definition.
///
/// Newest first, each with who made it and by which operation; all three are null for what was done
/// outside of Vapor, such as with `virsh`. The last `[limits] definition_versions` are kept, and go with
/// the VM.
#[utoipa::path(get, path = "/{id}/definitions", tag = "virtual machines",
    params(VmPath, DefinitionListQuery),
    responses((status = 200, description = "A page of versions.", body = Success<DefinitionList>)))]
async fn list_vm_definitions(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    VmId(id): VmId,
    Query(query): Query<DefinitionListQuery>,
) -> Result<Response> {
    caller.may(Action::ListVmDefinitions, one(&id))?;
    let page = api.services().vms.definitions(&id, query.limit, query.cursor).await?;
    lists::page(&conditional, "definitions", &page, query.fields.as_deref())
}

/// Get a version of a virtual machine's definition.
///
/// libvirt's domain XML of the next boot as it was then, without secrets.
#[utoipa::path(get, path = "/{id}/definitions/{number}", tag = "virtual machines",
    params(VersionPath),
    responses((status = 200, description = "The version.", body = Success<DefinitionContent>)))]
async fn get_vm_definition(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Version(id, number): Version,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetVmDefinition, one(&id))?;
    let version = api.services().vms.definition(&id, number).await?;
    conditional.reply_hashed(wrap(&render(&version)?))
}

/// With what a version is compared.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct DiffQuery {
    /// The number of the other version. Absent: the present definition.
    #[param(minimum = 1, maximum = 9007199254740991_u64)]
    to: Option<u64>,
}

/// Compare a version of a virtual machine's definition with another one.
///
/// A unified diff from the version in the path to the one in `to`, or to the present definition.
#[utoipa::path(get, path = "/{id}/definitions/{number}/diff", tag = "virtual machines",
    params(VersionPath, DiffQuery),
    responses((status = 200, description = "What differs.", body = Success<DefinitionDiff>)))]
async fn diff_vm_definition(
    State(api): State<Api>,
    caller: Caller,
    Version(id, number): Version,
    Query(query): Query<DiffQuery>,
) -> Result<Response> {
    caller.may(Action::DiffVmDefinition, one(&id))?;
    success(&api.services().vms.definition_diff(&id, number, query.to).await?)
}

/// Roll a virtual machine back to a version of its definition.
///
/// It becomes the stored definition again, under the VM's present name, and makes a new version. A running
/// VM goes on as it is: it takes hold with the next boot. What disks hold is not brought back.
#[utoipa::path(post, path = "/{id}/definitions/{number}/rollback", tag = "virtual machines",
    params(VersionPath, Change),
    responses((status = 200, description = "The VM as it is now.", body = Success<Vm>)))]
async fn rollback_vm(
    State(api): State<Api>,
    caller: Caller,
    Version(id, number): Version,
    command: Command<Nothing>,
) -> Result<Response> {
    caller.may(Action::RollbackVm, one(&id))?;
    let vms = api.services().vms.clone();
    let work = async move { vms.rollback(command.context, &id, number).await };
    outcome::respond(&api, api.detached(work).await?)
}
