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
use super::reply::{Conditional, wrap};
use super::schemas::{Success, VolumeList};
use super::{Api, outcome};
use crate::authz::{Action, Resource};
use crate::error::Result;
use crate::model::{CloneVolume, CreateVolume, ResizeVolume, SubjectType, Volume, WipeVolume};
use crate::service::Page;
use crate::service::inventory::VolumeRecord;

/// The operations on the volumes of one pool; nested under the pools.
pub fn pool_router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_pool_volumes, create_volume))
        .routes(routes!(get_volume, delete_volume))
        .routes(routes!(resize_volume))
        .routes(routes!(clone_volume))
        .routes(routes!(wipe_volume))
}

/// The operations on the volumes of all pools.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_volumes))
}

/// A volume in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct VolumePath {
    /// The pool's name.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1F\x7F]+$",
        example = "default"
    )]
    pub pool: String,
    /// The volume's name.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1F\x7F]+$",
        example = "web1.qcow2"
    )]
    pub volume: String,
}

impl VolumePath {
    /// What the authorisation table is asked about.
    pub fn resource(&self) -> Resource<'_> {
        Resource::One(SubjectType::Volume, &self.volume)
    }
}

/// A page of volumes, from the bytes that the inventory holds.
fn listed(
    conditional: &Conditional,
    page: &Page<VolumeRecord>,
    fields: Option<&str>,
) -> Result<Response> {
    conditional.reply(&page.etag, || {
        let items = page.items.iter().map(|record| record.json.clone()).collect();
        lists::streamed("volumes", items, page.total, page.next.as_deref(), fields)
    })
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
    let page = api.services().volumes.list(&query.page(), None)?;
    listed(&conditional, &page, query.fields.as_deref())
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
    let page = api.services().volumes.list(&query.page(), Some(&path.pool))?;
    listed(&conditional, &page, query.fields.as_deref())
}

/// Create a volume.
///
/// Empty, or on top of another volume (`backing`), which must not change from then on. It takes room
/// as it is written unless `preallocation` says otherwise.
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
    let volumes = api.services().volumes.clone();
    let work = async move { volumes.create(command.context, &path.pool, command.body.0).await };
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
    let record = api.services().volumes.record(&path.pool, &path.volume)?;
    conditional.reply(&record.etag(), || Ok(wrap(&record.json)))
}

/// Delete a volume.
///
/// One that a VM uses, or that another volume is based on, is refused.
#[utoipa::path(delete, path = "/{pool}/volumes/{volume}", tag = "storage",
    params(VolumePath, Change), responses((status = 204, description = "It is gone.")))]
async fn delete_volume(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<VolumePath>,
    command: Command<Nothing>,
) -> Result<Response> {
    caller.may(Action::DeleteVolume, path.resource())?;
    let volumes = api.services().volumes.clone();
    let work = async move { volumes.delete(command.context, &path.pool, &path.volume).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Change the capacity of a volume.
///
/// What a running VM has as a disk grows through its QEMU, so that the guest sees it at once. A
/// volume shrinks only with `shrink`, and only if nothing uses it.
#[utoipa::path(post, path = "/{pool}/volumes/{volume}/resize", tag = "storage",
    params(VolumePath, Change), request_body = ResizeVolume,
    responses((status = 200, description = "The volume as it is now.", body = Success<Volume>)))]
async fn resize_volume(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<VolumePath>,
    command: Command<Json<ResizeVolume>>,
) -> Result<Response> {
    caller.may(Action::ResizeVolume, path.resource())?;
    let volumes = api.services().volumes.clone();
    let VolumePath { pool, volume } = path;
    let work = async move { volumes.resize(command.context, &pool, &volume, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Clone a volume.
///
/// Into the same pool or another one. It takes as long as the copy does, and answers 202 with the
/// task unless `Prefer: wait=N` says otherwise; a linked clone copies nothing.
#[utoipa::path(post, path = "/{pool}/volumes/{volume}/clone", tag = "storage",
    params(VolumePath, Change), request_body = CloneVolume,
    responses((status = 201, description = "The new volume.", body = Success<Volume>)))]
async fn clone_volume(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<VolumePath>,
    command: Command<Json<CloneVolume>>,
) -> Result<Response> {
    caller.may(Action::CloneVolume, path.resource())?;
    let volumes = api.services().volumes.clone();
    let VolumePath { pool, volume } = path;
    let work =
        async move { volumes.clone_volume(command.context, &pool, &volume, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Overwrite a volume.
///
/// One that a VM uses, or that another volume is based on, is refused. An image is an empty one
/// afterwards. Answers 202 with the task unless `Prefer: wait=N` says otherwise.
#[utoipa::path(post, path = "/{pool}/volumes/{volume}/wipe", tag = "storage",
    params(VolumePath, Change), request_body = WipeVolume,
    responses((status = 200, description = "The volume as it is now.", body = Success<Volume>)))]
async fn wipe_volume(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<VolumePath>,
    command: Command<Json<WipeVolume>>,
) -> Result<Response> {
    caller.may(Action::WipeVolume, path.resource())?;
    let volumes = api.services().volumes.clone();
    let VolumePath { pool, volume } = path;
    let work = async move { volumes.wipe(command.context, &pool, &volume, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}
