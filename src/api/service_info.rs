//! The daemon about itself: health, readiness, version, metrics, error catalogue, the document and
//! its page. Health, readiness, version and metrics are also at the root, where probes look.

use axum::extract::State;
use axum::response::Response;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Caller, NoQuery, Query};
use super::reply::{Conditional, raw, success};
use super::schemas::{ErrorCatalogue, Ready, Success, Version};
use super::{Api, lists, metrics, openapi, status};
use crate::authz::{Action, Resource};
use crate::error::{Error, Kind, Result};
use crate::service::host::Health;

/// The operations at the base of the API.
pub fn router() -> OpenApiRouter<Api> {
    root_router().routes(routes!(list_errors)).routes(routes!(get_openapi))
}

/// Those that are at the root, too.
pub fn root_router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(get_health))
        .routes(routes!(get_ready))
        .routes(routes!(get_version))
        .routes(routes!(get_metrics))
}

/// The page that shows the document.
pub fn docs_router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get_docs))
}

/// Get the daemon's health.
///
/// Answers as long as the daemon lives; `status` is `degraded` while libvirt or the database is
/// away.
#[utoipa::path(get, path = "/health", tag = "service",
    responses((status = 200, description = "How the daemon is.", body = Success<Health>)))]
async fn get_health(State(api): State<Api>, caller: Caller, _: Query<NoQuery>) -> Result<Response> {
    caller.may(Action::GetHealth, Resource::Api)?;
    success(&api.services().host.health().await)
}

/// Ask whether requests can be served.
///
/// 200 once there is a picture of the host and the database takes writes, else 503.
#[utoipa::path(get, path = "/ready", tag = "service",
    responses((status = 200, description = "They can.", body = Success<Ready>)))]
async fn get_ready(State(api): State<Api>, caller: Caller, _: Query<NoQuery>) -> Result<Response> {
    caller.may(Action::GetReady, Resource::Api)?;
    if api.core().stopping.is_cancelled() {
        return Err(Error::new(Kind::ShuttingDown, "the daemon is stopping"));
    }
    let host = &api.services().host;
    host.inventory().picture().ready()?;
    if !host.health().await.database {
        return Err(Error::new(Kind::DatabaseUnavailable, "the database takes no writes"));
    }
    success(&Ready { ready: true })
}

/// Get the daemon's version.
#[utoipa::path(get, path = "/version", tag = "service",
    responses((status = 200, description = "What this is.", body = Success<Version>)))]
async fn get_version(caller: Caller, _: Query<NoQuery>) -> Result<Response> {
    caller.may(Action::GetVersion, Resource::Api)?;
    success(&Version { name: "vapor", version: env!("CARGO_PKG_VERSION"), api: "v1" })
}

/// Get metrics.
///
/// In the Prometheus text format, from what is known already: no libvirt call is made.
#[utoipa::path(get, path = "/metrics", tag = "service",
    responses((status = 200, description = "All metrics.", body = String,
        content_type = "text/plain")))]
async fn get_metrics(
    State(api): State<Api>,
    caller: Caller,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetMetrics, Resource::Api)?;
    Ok(raw(metrics::CONTENT_TYPE, metrics::text(&api)))
}

/// List the error codes.
#[utoipa::path(get, path = "/errors", tag = "service",
    responses((status = 200, description = "The catalogue.", body = Success<ErrorCatalogue>)))]
async fn list_errors(
    caller: Caller,
    conditional: Conditional,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::ListErrors, Resource::Api)?;
    conditional.reply_hashed(lists::whole_body("errors", &status::catalogue())?)
}

/// Get the OpenAPI document.
#[utoipa::path(get, path = "/openapi.json", tag = "service",
    responses((status = 200, description = "OpenAPI 3.1.", body = serde_json::Value)))]
async fn get_openapi(
    caller: Caller,
    conditional: Conditional,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetOpenapi, Resource::Api)?;
    let document = openapi::served();
    conditional.reply(&document.etag, || Ok(document.bytes.clone()))
}

/// Read the documentation.
///
/// A page that shows the OpenAPI document, without resources from outside.
#[utoipa::path(get, path = "/docs", tag = "service",
    responses((status = 200, description = "The page.", body = String,
        content_type = "text/html")))]
async fn get_docs(caller: Caller, _: Query<NoQuery>) -> Result<Response> {
    caller.may(Action::GetDocs, Resource::Api)?;
    Ok(openapi::page())
}
