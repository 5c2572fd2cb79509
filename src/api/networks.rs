//! Virtual networks: made, looked at, changed, started, stopped, deleted.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Caller, Change, Command, Json, Mutation, NoQuery, Nothing, Path, Query};
use super::lists::{self, NetworkQuery};
use super::reply::{Conditional, render, wrap};
use super::schemas::{LeaseList, NetworkList, PortList, Success};
use super::{Api, outcome};
use crate::authz::{Action, Resource};
use crate::error::Result;
use crate::model::{CreateNetwork, Network, SubjectType, UpdateNetwork};
use crate::service::network::{self, DeleteNetwork};

/// The operations on networks.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_networks, create_network))
        .routes(routes!(get_network, update_network, delete_network))
        .routes(routes!(start_network))
        .routes(routes!(stop_network))
        .routes(routes!(list_network_leases))
        .routes(routes!(list_network_ports))
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

impl NetworkPath {
    fn resource(&self) -> Resource<'_> {
        Resource::One(SubjectType::Network, &self.network)
    }
}

/// Whether those who are plugged in count.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct ForceQuery {
    /// Do it although running VMs are plugged in, which lose their link.
    force: bool,
    /// Answer with the plan and change nothing.
    dry_run: bool,
}

impl Mutation for ForceQuery {
    fn dry_run(&self) -> bool {
        self.dry_run
    }
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

/// Create a virtual network.
///
/// It is started, and starts with the host, unless the request says otherwise. One that cannot be
/// started is not left behind. Subnets must not overlap with those of other networks, nor with
/// addresses and routes of the host.
#[utoipa::path(post, path = "", tag = "networks", params(Change), request_body = CreateNetwork,
    responses((status = 201, description = "The new network.", body = Success<Network>)))]
async fn create_network(
    State(api): State<Api>,
    caller: Caller,
    command: Command<Json<CreateNetwork>>,
) -> Result<Response> {
    caller.may(Action::CreateNetwork, Resource::All(SubjectType::Network))?;
    let networks = api.services().networks.clone();
    let work = async move { networks.create(command.context, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Get a virtual network.
///
/// As it runs; `pending` tells what differs with its next start.
#[utoipa::path(get, path = "/{network}", tag = "networks", params(NetworkPath),
    responses((status = 200, description = "The network.", body = Success<Network>)))]
async fn get_network(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Path(path): Path<NetworkPath>,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetNetwork, path.resource())?;
    let found = api.services().networks.get(&path.network)?;
    conditional.reply(&network::etag(&found)?, || Ok(wrap(&render(&*found)?)))
}

/// Change a virtual network.
///
/// What is absent stays as it is; a list replaces the one that is there. DHCP ranges and hosts, DNS
/// hosts, services and texts, port groups and the devices of a macvtap network change at once,
/// without a guest losing its link. The rest changes with the next start, and is shown in
/// `pending` until then.
#[utoipa::path(put, path = "/{network}", tag = "networks", params(NetworkPath, Change),
    request_body = UpdateNetwork,
    responses((status = 200, description = "The network as it is now.", body = Success<Network>)))]
async fn update_network(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<NetworkPath>,
    command: Command<Json<UpdateNetwork>>,
) -> Result<Response> {
    caller.may(Action::UpdateNetwork, path.resource())?;
    let networks = api.services().networks.clone();
    let work = async move { networks.update(command.context, &path.network, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Delete a virtual network.
///
/// An active one is stopped first. One that running VMs are plugged into is refused unless
/// `force=true`.
#[utoipa::path(delete, path = "/{network}", tag = "networks", params(NetworkPath, ForceQuery),
    responses((status = 204, description = "It is gone.")))]
async fn delete_network(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<NetworkPath>,
    command: Command<Nothing, ForceQuery>,
) -> Result<Response> {
    caller.may(Action::DeleteNetwork, path.resource())?;
    let networks = api.services().networks.clone();
    let how = DeleteNetwork { force: command.query.force };
    let work = async move { networks.delete(command.context, &path.network, how).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Start a virtual network.
#[utoipa::path(post, path = "/{network}/start", tag = "networks", params(NetworkPath, Change),
    responses((status = 200, description = "The network, active.", body = Success<Network>)))]
async fn start_network(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<NetworkPath>,
    command: Command<Nothing>,
) -> Result<Response> {
    caller.may(Action::StartNetwork, path.resource())?;
    let networks = api.services().networks.clone();
    let work = async move { networks.start(command.context, &path.network).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Stop a virtual network.
///
/// One that running VMs are plugged into is refused unless `force=true`.
#[utoipa::path(post, path = "/{network}/stop", tag = "networks", params(NetworkPath, ForceQuery),
    responses((status = 200, description = "The network, inactive.", body = Success<Network>)))]
async fn stop_network(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<NetworkPath>,
    command: Command<Nothing, ForceQuery>,
) -> Result<Response> {
    caller.may(Action::StopNetwork, path.resource())?;
    let networks = api.services().networks.clone();
    let how = DeleteNetwork { force: command.query.force };
    let work = async move { networks.stop(command.context, &path.network, how).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// List the addresses that a network's DHCP server has given out.
#[utoipa::path(get, path = "/{network}/dhcp-leases", tag = "networks", params(NetworkPath),
    responses((status = 200, description = "The leases.", body = Success<LeaseList>)))]
async fn list_network_leases(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<NetworkPath>,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::ListNetworkLeases, path.resource())?;
    let leases = api.services().networks.leases(&path.network).await?;
    lists::whole("leases", &leases)
}

/// List what is plugged into a network: the NICs of running VMs.
#[utoipa::path(get, path = "/{network}/ports", tag = "networks", params(NetworkPath),
    responses((status = 200, description = "The ports.", body = Success<PortList>)))]
async fn list_network_ports(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Path(path): Path<NetworkPath>,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::ListNetworkPorts, path.resource())?;
    let ports = api.services().networks.ports(&path.network)?;
    conditional.reply_hashed(lists::whole_body("ports", &ports)?)
}
