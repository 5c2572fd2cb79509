//! The host: what it is, and what it can do.

use axum::extract::State;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::extract::{Caller, NoQuery, Query};
use super::reply::{Conditional, render, success, wrap};
use super::schemas::{Host, Success};
use crate::authz::{Action, Resource};
use crate::error::Result;
use crate::model::SubjectType;
use crate::model::host::Capabilities;

/// The operations under `/virtualization`.
pub fn virtualization_router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get_capabilities))
}

/// The operations at the base.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get_host))
}

/// Get what this host can do.
///
/// Architectures, machine types, CPU modes, buses and models, as libvirt's capabilities say.
#[utoipa::path(get, path = "/capabilities", tag = "host",
    responses((status = 200, description = "The capabilities.", body = Success<Capabilities>)))]
async fn get_capabilities(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetCapabilities, Resource::All(SubjectType::Host))?;
    let capabilities = api.services().host.capabilities()?;
    conditional.reply_hashed(wrap(&render(&*capabilities)?))
}

/// Get the host and its hypervisor.
#[utoipa::path(get, path = "/host", tag = "host",
    responses((status = 200, description = "The host.", body = Success<Host>)))]
async fn get_host(State(api): State<Api>, caller: Caller, _: Query<NoQuery>) -> Result<Response> {
    caller.may(Action::GetHost, Resource::All(SubjectType::Host))?;
    let host = &api.services().host;
    let picture = host.inventory().picture();
    let name = nix::unistd::gethostname().unwrap_or_default();
    success(&Host {
        hostname: name.to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION"),
        libvirt: host.status(),
        vms: picture.filled.then_some(picture.vms.len() as u64),
    })
}
