//! Volumes: listed, looked at, created and deleted, always by the names of pool and volume.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Caller, Change, Command, Json, NoQuery, Nothing, Path, Query};
use super::lists::{self, VolumeQuery};
use super::pools::PoolPath;
use super::reply::{Conditional, render, wrap};
use super::schemas::{Success, VolumeList};
use super::{Api, outcome};
use crate::authz::{Action, Resource};
use crate::error::Result;
use crate::model::{SubjectType, Volume};
use crate::service::storage::CreateVolume;

/// The operations on the volumes of one pool; nested under the pools.
pub fn pool_router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_pool_volumes, create_volume))
        .routes(routes!(get_volume, delete_volume))
}

/// The operations on the volumes of all pools.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_volumes))
}

/// A volume in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct VolumePath {
    /// The pool's name.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1F\x7F]+$",
        example = "default"
    )]
    pool: String,
    /// The volume's name.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1F\x7F]+$",
        example = "web1.qcow2"
    )]
    volume: String,
}

impl VolumePath {
    fn resource(&self) -> Resource<'_> {
        Resource::One(SubjectType::Volume, &self.volume)
    }
}

/// List the volumes of all pools.
#[utoipa::path(get, path = "", tag = "storage", params(VolumeQuery),
    responses((status = 200, description = "A page of volumes.", body = Success<VolumeList>)))]
async fn list_volumes(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Query(query): Query<VolumeQuery>,
) -> Result<Response> {
    caller.may(Action::ListVolumes, Resource::All(SubjectType::Volume))?;
    let page = api.services().storage.volumes(&query.page(), None)?;
    lists::page(&conditional, "volumes", &page, query.fields.as_deref())
}

/// List the volumes of a storage pool.
#[utoipa::path(get, path = "/{pool}/volumes", tag = "storage", params(PoolPath, VolumeQuery),
    responses((status = 200, description = "A page of volumes.", body = Success<VolumeList>)))]
async fn list_pool_volumes(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Path(path): Path<PoolPath>,
    Query(query): Query<VolumeQuery>,
) -> Result<Response> {
    caller.may(Action::ListPoolVolumes, Resource::One(SubjectType::Pool, &path.pool))?;
    let page = api.services().storage.volumes(&query.page(), Some(&path.pool))?;
    lists::page(&conditional, "volumes", &page, query.fields.as_deref())
}

/// Create a volume.
#[utoipa::path(post, path = "/{pool}/volumes", tag = "storage", params(PoolPath, Change),
    request_body = CreateVolume,
    responses((status = 201, description = "The new volume.", body = Success<Volume>)))]
async fn create_volume(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<PoolPath>,
    command: Command<Json<CreateVolume>>,
) -> Result<Response> {
    caller.may(Action::CreateVolume, Resource::One(SubjectType::Pool, &path.pool))?;
    let storage = api.services().storage.clone();
    let work =
        async move { storage.create_volume(command.context, &path.pool, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Get a volume.
#[utoipa::path(get, path = "/{pool}/volumes/{volume}", tag = "storage", params(VolumePath),
    responses((status = 200, description = "The volume.", body = Success<Volume>)))]
async fn get_volume(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Path(path): Path<VolumePath>,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetVolume, path.resource())?;
    let volume = api.services().storage.volume(&path.pool, &path.volume)?;
    conditional.reply_hashed(wrap(&render(&volume)?))
}

/// Delete a volume.
///
/// One that is a disk of a VM is refused.
#[utoipa::path(delete, path = "/{pool}/volumes/{volume}", tag = "storage",
    params(VolumePath, Change), responses((status = 204, description = "It is gone.")))]
async fn delete_volume(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<VolumePath>,
    command: Command<Nothing>,
) -> Result<Response> {
    caller.may(Action::DeleteVolume, path.resource())?;
    let storage = api.services().storage.clone();
    let work =
        async move { storage.delete_volume(command.context, &path.pool, &path.volume).await };
    outcome::respond(&api, api.detached(work).await?)
}
