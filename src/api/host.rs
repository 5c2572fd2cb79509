//! The host: what it is, and what it can do.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::IntoParams;
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
use crate::service::host::GuestKind;

/// The operations under `/virtualization`.
pub fn virtualization_router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get_capabilities))
}

/// The operations at the base.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get_host))
}

/// Which kind of guest.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct GuestQuery {
    /// The guest's architecture, such as `x86_64`.
    #[param(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.-]+$")]
    architecture: Option<String>,
    /// Its machine type, such as `q35`.
    #[param(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.-]+$")]
    machine: Option<String>,
    /// `kvm`, `qemu`, …
    #[param(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.-]+$")]
    domain_type: Option<String>,
}

/// Get what this host can do.
///
/// Architectures, machine types, CPU modes, buses and models, as libvirt's capabilities say: from
/// the picture the daemon keeps. With any of the parameters `preferred` tells of that kind of guest,
/// and libvirt is asked for it the first time.
#[utoipa::path(get, path = "/capabilities", tag = "host", params(GuestQuery),
    responses((status = 200, description = "The capabilities.", body = Success<Capabilities>)))]
async fn get_capabilities(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Query(query): Query<GuestQuery>,
) -> Result<Response> {
    caller.may(Action::GetCapabilities, Resource::All(SubjectType::Host))?;
    let GuestQuery { architecture, machine, domain_type } = query;
    let kind = GuestKind { architecture, machine, domain_type };
    let capabilities = api.services().host.capabilities_of(kind).await?;
    conditional.reply_hashed(wrap(&render(&*capabilities)?))
}

/// Get the host and its hypervisor.
///
/// Versions, the kernel's load and memory as of now, and what the host is made of.
#[utoipa::path(get, path = "/host", tag = "host",
    responses((status = 200, description = "The host.", body = Success<Host>)))]
async fn get_host(State(api): State<Api>, caller: Caller, _: Query<NoQuery>) -> Result<Response> {
    caller.may(Action::GetHost, Resource::All(SubjectType::Host))?;
    let host = &api.services().host;
    let picture = host.inventory().picture();
    let name = nix::unistd::gethostname().unwrap_or_default();
    let capabilities = picture.capabilities.as_deref();
    success(&Host {
        hostname: name.to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION"),
        time: jiff::Timestamp::now(),
        vitals: host.vitals(),
        hardware: capabilities.map(|all| all.hardware.clone()),
        kvm_obstacle: capabilities.and_then(|all| all.kvm_obstacle.clone()),
        libvirt: host.status(),
        vms: picture.filled.then_some(picture.vms.len() as u64),
    })
}
