//! HTTP, and nothing but HTTP: listeners, layers, extractors, replies, and one file per noun.
//!
//! `daemon.rs` binds a [`server::Server`], makes an [`Api`] of the services and serves its
//! [`router`]. A request passes [`layers`], its extractors ([`extract`], which hold it to the
//! schema of the document), a handler of a few lines, and leaves as [`reply`] writes it. Handlers
//! name their action before they call a service; the status of a failure is chosen in [`status`].
//! The list of operations is the union of the `router()` functions of the noun files; the OpenAPI
//! document is made of the same list.

pub mod accept;
pub mod body;
pub mod clones;
pub mod contract;
pub mod database;
pub mod definitions;
pub mod downloads;
pub mod events;
pub mod examples;
pub mod extract;
pub mod host;
pub mod io;
pub mod isos;
pub mod json;
pub mod layers;
pub mod list_body;
pub mod lists;
pub mod meters;
pub mod metrics;
pub mod networks;
pub mod openapi;
pub mod operations;
pub mod os_variants;
pub mod outcome;
pub mod params;
pub mod pools;
pub mod reply;
pub mod schemas;
pub mod server;
pub mod service_info;
pub mod socket;
pub mod state;
pub mod status;
pub mod tasks;
pub mod templates;
mod tus;
pub mod uploads;
pub mod vms;
pub mod volumes;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;

use crate::error::{Error, Kind, Result};
pub use state::{Api, Core, Limits};

/// The longest that a client may ask to wait.
pub const MAX_WAIT: Duration = Duration::from_secs(300);

/// Base of the native API.
pub const BASE: &str = "/api/v1";
/// Virtual machines.
pub const VMS: &str = "/api/v1/virtualization/virtualmachines";
/// The same resource under its newer name, served identically.
const COMPUTES: &str = "/api/v1/virtualization/computes";
/// Storage pools.
pub const POOLS: &str = "/api/v1/virtualization/storages/pools";
/// Volumes of all pools.
const VOLUMES: &str = "/api/v1/virtualization/volumes";
/// The ISO library.
pub const ISOS: &str = "/api/v1/virtualization/isos";
/// Virtual networks.
pub const NETWORKS: &str = "/api/v1/virtualization/networks";
/// Tasks.
pub const TASKS: &str = "/api/v1/tasks";

/// Every operation of the native API, with its part of the document.
fn operations() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .nest(VMS, vm_router())
        .nest(
            POOLS,
            pools::router()
                .merge(volumes::pool_router())
                .merge(downloads::router())
                .merge(uploads::router()),
        )
        .nest(ISOS, isos::router().merge(uploads::iso_router()))
        .nest(VOLUMES, volumes::router())
        .nest(NETWORKS, networks::router())
        .nest("/api/v1/virtualization/os-variants", os_variants::router())
        .nest("/api/v1/virtualization", host::virtualization_router())
        .nest(TASKS, tasks::router())
        .nest(
            BASE,
            host::router()
                .merge(events::router())
                .merge(service_info::router())
                .merge(database::router()),
        )
        .merge(service_info::docs_router())
}

/// What is served under [`VMS`], and identically under [`COMPUTES`].
fn vm_router() -> OpenApiRouter<Api> {
    vms::router().merge(definitions::router()).merge(clones::router()).merge(templates::router())
}

/// Everything the daemon serves.
pub fn router(api: Api) -> Router {
    let core = api.core().clone();
    let (computes, _) = vm_router().split_for_parts();
    let (at_root, _) = service_info::root_router().split_for_parts();
    let (routes, _) = operations().split_for_parts();
    routes
        .nest(COMPUTES, computes)
        .merge(at_root)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(route_not_found)
        .layer(axum::middleware::from_fn_with_state(core, layers::shell))
        .with_state(api)
}

async fn route_not_found(uri: http::Uri) -> Result<Response> {
    let shown: String = uri.path().chars().take(200).collect();
    Err(Error::new(Kind::RouteNotFound, format!("no path {shown} in this API")))
}

async fn method_not_allowed(method: http::Method, uri: http::Uri) -> Result<Response> {
    let shown: String = uri.path().chars().take(200).collect();
    Err(Error::new(Kind::MethodNotAllowed, format!("{shown} does not know {method}")))
}

/// A core with these limits, to be shared by the server and the API.
pub fn core(limits: Limits) -> Arc<Core> {
    Arc::new(Core::new(limits))
}
