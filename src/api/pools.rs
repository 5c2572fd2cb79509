//! Storage pools: listed and looked at.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::extract::{Caller, NoQuery, Path, Query};
use super::lists::{self, PoolQuery};
use super::reply::{Conditional, render, wrap};
use super::schemas::{PoolList, Success};
use crate::authz::{Action, Resource};
use crate::error::Result;
use crate::model::{Pool, SubjectType};

/// The operations on pools.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_pools)).routes(routes!(get_pool))
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
    let page = api.services().storage.pools(&query.page())?;
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
    let record = api.services().storage.pool(&path.pool)?;
    conditional.reply_hashed(wrap(&render(&record.pool)?))
}
