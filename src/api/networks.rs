//! Virtual networks: listed and looked at.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::extract::{Caller, NoQuery, Path, Query};
use super::lists::{self, NetworkQuery};
use super::reply::{Conditional, render, wrap};
use super::schemas::{NetworkList, Success};
use crate::authz::{Action, Resource};
use crate::error::Result;
use crate::model::{Network, SubjectType};

/// The operations on networks.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list_networks)).routes(routes!(get_network))
}

/// A network in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct NetworkPath {
    /// The network's name.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1F\x7F]+$",
        example = "default"
    )]
    network: String,
}

/// List virtual networks.
#[utoipa::path(get, path = "", tag = "networks", params(NetworkQuery),
    responses((status = 200, description = "A page of networks.", body = Success<NetworkList>)))]
async fn list_networks(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Query(query): Query<NetworkQuery>,
) -> Result<Response> {
    caller.may(Action::ListNetworks, Resource::All(SubjectType::Network))?;
    let page = api.services().networks.list(&query.page())?;
    lists::page(&conditional, "networks", &page, query.fields.as_deref())
}

/// Get a virtual network.
#[utoipa::path(get, path = "/{network}", tag = "networks", params(NetworkPath),
    responses((status = 200, description = "The network.", body = Success<Network>)))]
async fn get_network(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Path(path): Path<NetworkPath>,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetNetwork, Resource::One(SubjectType::Network, &path.network))?;
    let network = api.services().networks.get(&path.network)?;
    conditional.reply_hashed(wrap(&render(&*network)?))
}
