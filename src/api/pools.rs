//! Storage pools: made, looked at, changed, started, stopped, refreshed and deleted.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Caller, Change, Command, Json, Mutation, NoQuery, Nothing, Path, Query};
use super::lists::{self, PoolQuery};
use super::reply::{Conditional, render, wrap};
use super::schemas::{PoolList, Success};
use super::{Api, outcome};
use crate::authz::{Action, Resource};
use crate::error::Result;
use crate::model::{CreatePool, Pool, PoolCapacity, SubjectType, UpdatePool};
use crate::service::pool::DeletePool;

/// The operations on pools.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_pools, create_pool))
        .routes(routes!(get_pool, update_pool, delete_pool))
        .routes(routes!(start_pool))
        .routes(routes!(stop_pool))
        .routes(routes!(refresh_pool))
        .routes(routes!(get_pool_capacity))
}

/// A pool in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct PoolPath {
    /// The pool's name.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1F\x7F]+$",
        example = "default"
    )]
    pub pool: String,
}

impl PoolPath {
    fn resource(&self) -> Resource<'_> {
        Resource::One(SubjectType::Pool, &self.pool)
    }
}

/// List storage pools.
#[utoipa::path(get, path = "", tag = "storage", params(PoolQuery),
    responses((status = 200, description = "A page of pools.", body = Success<PoolList>)))]
async fn list_pools(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Query(query): Query<PoolQuery>,
) -> Result<Response> {
    caller.may(Action::ListPools, Resource::All(SubjectType::Pool))?;
    let page = api.services().pools.list(&query.page())?;
    lists::page(&conditional, "pools", &page, query.fields.as_deref())
}

/// Get a storage pool.
#[utoipa::path(get, path = "/{pool}", tag = "storage", params(PoolPath),
    responses((status = 200, description = "The pool.", body = Success<Pool>)))]
async fn get_pool(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Path(path): Path<PoolPath>,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetPool, Resource::One(SubjectType::Pool, &path.pool))?;
    let record = api.services().pools.get(&path.pool)?;
    conditional.reply(&record.etag()?, || Ok(wrap(&render(&record.pool)?)))
}

/// Create a storage pool.
///
/// Which members of `source` and `target` there are depends on the type; which types this host can
/// do is told by `storage_pools` of its capabilities. If the pool cannot be built or started,
/// nothing is left of it.
#[utoipa::path(post, path = "", tag = "storage", params(Change), request_body = CreatePool,
    responses((status = 201, description = "The new pool.", body = Success<Pool>)))]
async fn create_pool(
    State(api): State<Api>,
    caller: Caller,
    command: Command<Json<CreatePool>>,
) -> Result<Response> {
    caller.may(Action::CreatePool, Resource::All(SubjectType::Pool))?;
    let pools = api.services().pools.clone();
    let work = async move { pools.create(command.context, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Change a storage pool.
///
/// What is absent stays as it is. `autostart` changes at any time; what the pool stands on, only
/// while it is inactive.
#[utoipa::path(put, path = "/{pool}", tag = "storage", params(PoolPath, Change),
    request_body = UpdatePool,
    responses((status = 200, description = "The pool as it is now.", body = Success<Pool>)))]
async fn update_pool(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<PoolPath>,
    command: Command<Json<UpdatePool>>,
) -> Result<Response> {
    caller.may(Action::UpdatePool, path.resource())?;
    let pools = api.services().pools.clone();
    let work = async move { pools.update(command.context, &path.pool, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// What else goes with a pool.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// Delete its volumes, too; else an active pool that has some is refused.
    delete_volumes: bool,
    /// Delete what it stands on, too: the folder, if nothing is left in it, or the volume group.
    delete_storage: bool,
    /// Answer with the plan and change nothing.
    dry_run: bool,
}

impl Mutation for DeleteQuery {
    fn dry_run(&self) -> bool {
        self.dry_run
    }
}

/// Delete a storage pool.
///
/// An active pool is stopped first. An inactive one is forgotten, and what it stands on is left as
/// it is.
#[utoipa::path(delete, path = "/{pool}", tag = "storage", params(PoolPath, DeleteQuery),
    responses((status = 204, description = "It is gone.")))]
async fn delete_pool(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<PoolPath>,
    command: Command<Nothing, DeleteQuery>,
) -> Result<Response> {
    caller.may(Action::DeletePool, path.resource())?;
    let DeleteQuery { delete_volumes, delete_storage, .. } = command.query;
    let request = DeletePool { delete_volumes, delete_storage };
    let pools = api.services().pools.clone();
    let work = async move { pools.delete(command.context, &path.pool, request).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Start a storage pool.
///
/// If its storage cannot be reached, the pool stays inactive and tells why in `problem`.
#[utoipa::path(post, path = "/{pool}/start", tag = "storage", params(PoolPath, Change),
    responses((status = 200, description = "The pool as it is now.", body = Success<Pool>)))]
async fn start_pool(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<PoolPath>,
    command: Command<Nothing>,
) -> Result<Response> {
    caller.may(Action::StartPool, path.resource())?;
    let pools = api.services().pools.clone();
    let work = async move { pools.start(command.context, &path.pool).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// How a pool is stopped.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct StopQuery {
    /// Also while running VMs use its volumes: they go on, but their volumes are out of sight.
    force: bool,
    /// Answer with the plan and change nothing.
    dry_run: bool,
}

impl Mutation for StopQuery {
    fn dry_run(&self) -> bool {
        self.dry_run
    }
}

/// Stop a storage pool.
///
/// Nothing of it is lost. While running VMs use its volumes it is refused unless `force=true`.
#[utoipa::path(post, path = "/{pool}/stop", tag = "storage", params(PoolPath, StopQuery),
    responses((status = 200, description = "The pool as it is now.", body = Success<Pool>)))]
async fn stop_pool(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<PoolPath>,
    command: Command<Nothing, StopQuery>,
) -> Result<Response> {
    caller.may(Action::StopPool, path.resource())?;
    let force = command.query.force;
    let pools = api.services().pools.clone();
    let work = async move { pools.stop(command.context, &path.pool, force).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Refresh a storage pool.
///
/// libvirt looks at its storage anew: volumes that others made or removed, and the room there is.
/// If the storage is gone, the pool becomes inactive and tells why in `problem`.
#[utoipa::path(post, path = "/{pool}/refresh", tag = "storage", params(PoolPath, Change),
    responses((status = 200, description = "The pool as it is now.", body = Success<Pool>)))]
async fn refresh_pool(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<PoolPath>,
    command: Command<Nothing>,
) -> Result<Response> {
    caller.may(Action::RefreshPool, path.resource())?;
    let pools = api.services().pools.clone();
    let work = async move { pools.refresh(command.context, &path.pool).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Get a storage pool's capacity.
///
/// How much room there is, and how much of it the volumes may come to take.
#[utoipa::path(get, path = "/{pool}/capacity", tag = "storage", params(PoolPath),
    responses((status = 200, description = "The capacity.", body = Success<PoolCapacity>)))]
async fn get_pool_capacity(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Path(path): Path<PoolPath>,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetPoolCapacity, path.resource())?;
    let capacity = api.services().pools.capacity(&path.pool)?;
    conditional.reply_hashed(wrap(&render(&capacity)?))
}
