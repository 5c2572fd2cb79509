//! What happens to every request before and after its handler.
//!
//! One layer, in the order in which it acts: request id and span, checks of browser origin and of
//! what the client accepts, time-out class, the handler behind a panic guard, the body of a failed
//! reply, what nobody read of the request, counters and the access log.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use futures_util::FutureExt;
use http::header::{ACCEPT, EXPECT, HOST, HeaderName, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Uri};
use tracing::Instrument;
use uuid::Uuid;

use super::body::Shared;
use super::reply::{Failure, failure, joined};
use super::state::Core;
use super::{MAX_WAIT, accept};
use crate::error::{Error, Kind, Result};
use crate::model::Principal;

/// Names one request in headers, errors and logs.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// As good as forever.
const UPLOAD: Duration = Duration::from_secs(30 * 86_400);
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who is at the other end, as far as the transport proves it. The server puts it into every
/// request's extensions.
#[derive(Clone, Debug)]
pub struct Peer(pub Principal);

/// The id of the request at hand.
#[derive(Clone, Debug)]
pub struct RequestId(pub Arc<str>);

/// The layer.
pub async fn shell(State(core): State<Arc<Core>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let _present = core.meters.request();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let accepted = joined(request.headers(), ACCEPT);
    let principal = request.extensions().get::<Peer>().map(|peer| peer.0.to_string());
    let span = tracing::info_span!("request", request_id = %id, %method, path = %path, principal);
    request.extensions_mut().insert(RequestId(id.clone()));

    // what the handler leaves unread can be taken back and drained
    let (parts, body) = request.into_parts();
    let shared = Shared::new(body);
    let asks_first = parts.headers.contains_key(EXPECT);
    let request = Request::from_parts(parts, Body::new(shared.clone()));

    let handled = guarded(&core, request, accepted.as_deref(), next).instrument(span.clone());
    let response = match AssertUnwindSafe(handled).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            core.meters.panicked();
            let what = panic_text(panic.as_ref());
            failed(Error::internal(format!("a handler panicked: {what}")))
        }
    };
    let mut response = finish(response, &id, accepted.as_deref(), &span);
    // who waits for leave to send is not given it, who has dawdled gets no more time, and a task that
    // goes on may be the reader
    if !asks_first && !matches!(response.status().as_u16(), 202 | 408) {
        shared.drain().await;
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response
        .headers_mut()
        .insert(http::header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let took = started.elapsed();
    core.meters.answered(&method, response.status(), took);
    let status = response.status().as_u16();
    let milliseconds = took.as_secs_f64() * 1000.0;
    if method.is_safe() {
        tracing::debug!(parent: &span, status, milliseconds, "answered {method} {path} with {status}");
    } else {
        tracing::info!(parent: &span, status, milliseconds, "answered {method} {path} with {status}");
    }
    response
}

fn failed(error: Error) -> Response {
    axum::response::IntoResponse::into_response(error)
}

async fn guarded(core: &Core, request: Request, accepted: Option<&str>, next: Next) -> Response {
    let patience = patience(core, request.method(), request.uri());
    if let Err(error) = check_origin(&request).and_then(|()| check_accept(&request, accepted)) {
        return failed(error);
    }
    tokio::time::timeout(patience, next.run(request)).await.unwrap_or_else(|_| {
        let message = format!("no answer was found within {} s", patience.as_secs());
        failed(Error::new(Kind::LibvirtTimeout, message))
    })
}

/// The time-out class: a read is answered at once, whatever waits may wait as long as is allowed.
fn patience(core: &Core, method: &Method, uri: &Uri) -> Duration {
    if !method.is_safe() && receives_an_image(uri.path()) {
        return UPLOAD;
    }
    let waits = !method.is_safe() || uri.query().is_some_and(|query| query.contains("wait="));
    let limits = core.limits();
    let receives = if method.is_safe() { Duration::ZERO } else { limits.body_timeout };
    limits.request_timeout + receives + if waits { MAX_WAIT } else { Duration::ZERO }
}

/// Whether the body is an image, however long that takes: its handler watches over it.
fn receives_an_image(path: &str) -> bool {
    path.ends_with("/upload") || path.contains("/uploads")
}

/// The client's own id if it is short and harmless, else a new one.
fn request_id(headers: &HeaderMap) -> Arc<str> {
    let sane = |id: &&str| {
        (1..=128).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&byte))
    };
    match headers.get(X_REQUEST_ID).and_then(|id| id.to_str().ok()).filter(sane) {
        Some(id) => id.into(),
        None => Uuid::now_v7().to_string().into(),
    }
}

fn check_accept(request: &Request, accepted: Option<&str>) -> Result<()> {
    let offers = accept::offers(request.uri().path());
    match accept::best(accepted, offers) {
        Some(_) => Ok(()),
        None => {
            let message = "nothing that this path can answer is acceptable to the client";
            Err(Error::new(Kind::NotAcceptable, message).with_detail("offers", offers.to_vec()))
        }
    }
}

/// TCP alone: a web page that the user visits must neither command the daemon (cross-site request
/// forgery) nor read from it by pointing its own name at loopback (DNS rebinding).
fn check_origin(request: &Request) -> Result<()> {
    let tcp = request.extensions().get::<Peer>().is_none_or(|peer| peer.0 == Principal::Loopback);
    if !tcp {
        return Ok(());
    }
    let headers = request.headers();
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = authority.or_else(|| headers.get(HOST).and_then(|host| host.to_str().ok()));
    let Some(host) = host else {
        return Err(Error::field("Host", "the header is missing"));
    };
    if !is_loopback(host) {
        let shown: String = host.chars().take(64).collect();
        let message = format!("the name {shown:?} is not a loopback name");
        return Err(Error::new(Kind::Forbidden, message)
            .with_hint("address the daemon as localhost, 127.0.0.1 or [::1]"));
    }
    if request.method().is_safe() {
        return Ok(());
    }
    let foreign_origin = headers.get(ORIGIN).is_some_and(|origin| {
        origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://")) != Some(host)
    });
    let foreign_site =
        headers.get(SEC_FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none");
    if foreign_origin || foreign_site {
        return Err(Error::new(Kind::Forbidden, "a page of another origin may change nothing")
            .with_hint("use a client that is not a web page, or the daemon's own page"));
    }
    Ok(())
}

/// Whether an authority names this very host, with any port.
fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    name.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Gives a failed reply its body, and tells the log of it once.
fn finish(response: Response, id: &str, accepted: Option<&str>, span: &tracing::Span) -> Response {
    let Some(Failure(error)) = response.extensions().get::<Failure>().cloned() else {
        return response;
    };
    if response.status().is_server_error() {
        tracing::warn!(parent: span, error = ?error, "{}: {}", error.kind().code(), error.message());
    } else {
        tracing::debug!(parent: span, error = ?error, "{}: {}", error.kind().code(), error.message());
    }
    let mut written = failure(&error, id, accept::prefers_problem(accepted));
    // headers that the router has set, such as Allow, stay
    for (name, value) in response.headers() {
        written.headers_mut().entry(name).or_insert_with(|| value.clone());
    }
    written.headers_mut().remove(http::header::CONTENT_LENGTH);
    written
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a text")
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::{get, post};
    use http::StatusCode;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    use super::*;

    fn router(limits: super::super::state::Limits) -> Router {
        let core = Arc::new(Core::new(limits));
        Router::new()
            .route("/fine", get(async || "fine").post(async || "fine"))
            .route("/panics", get(async || -> &'static str { panic!("on purpose") }))
            .route("/slow", get(async || tokio::time::sleep(Duration::from_secs(9)).await))
            .route("/unread", post(async || failed(Error::field("x", "y"))))
            .layer(axum::middleware::from_fn_with_state(core, shell))
    }

    async fn ask(request: http::request::Builder) -> (Response<()>, Value) {
        let limits = super::super::state::Limits {
            request_timeout: Duration::from_millis(50),
            ..Default::default()
        };
        let request = request.body(Body::empty()).unwrap();
        let (parts, body) = router(limits).oneshot(request).await.unwrap().into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        (Response::from_parts(parts, ()), serde_json::from_slice(&bytes).unwrap_or_default())
    }

    fn local(method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(path).header(HOST, "localhost:8080")
    }

    #[tokio::test]
    async fn a_sane_request_id_is_taken_over_and_another_is_not() {
        let (reply, _) = ask(local("GET", "/fine").header(X_REQUEST_ID, "abc-1")).await;
        assert_eq!(reply.headers()[X_REQUEST_ID], "abc-1");
        let (reply, _) = ask(local("GET", "/fine").header(X_REQUEST_ID, "a b\"")).await;
        assert_eq!(reply.headers()[X_REQUEST_ID].len(), 36);
    }

    #[tokio::test]
    async fn a_panic_is_answered_as_our_defect_with_the_request_id() {
        let (reply, body) = ask(local("GET", "/panics").header(X_REQUEST_ID, "r7")).await;
        assert_eq!(reply.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body["error"]["code"], "INTERNAL");
        assert_eq!(body["error"]["request_id"], "r7");
        assert!(!body.to_string().contains("on purpose"));
    }

    #[tokio::test]
    async fn a_handler_that_never_ends_is_given_up() {
        let (reply, body) = ask(local("GET", "/slow")).await;
        assert_eq!(reply.status(), StatusCode::GATEWAY_TIMEOUT, "{body}");
    }

    #[tokio::test]
    async fn what_nobody_accepts_is_406_before_anything_is_done() {
        let (reply, body) = ask(local("GET", "/fine").header(ACCEPT, "image/png")).await;
        assert_eq!(
            (reply.status(), &body["error"]["code"]),
            (StatusCode::NOT_ACCEPTABLE, &"NOT_ACCEPTABLE".into())
        );
    }

    #[tokio::test]
    async fn failures_are_problems_for_those_who_ask() {
        let (reply, body) =
            ask(local("POST", "/unread").header(ACCEPT, "application/problem+json")).await;
        assert_eq!(reply.headers()["content-type"], "application/problem+json");
        assert_eq!((&body["code"], &body["status"]), (&"INVALID_REQUEST".into(), &400.into()));
    }

    #[tokio::test]
    async fn a_name_that_only_points_at_loopback_is_refused() {
        let request = Request::builder().uri("/fine").header(HOST, "evil.example:8080");
        assert_eq!(ask(request).await.0.status(), StatusCode::FORBIDDEN);
        let request = Request::builder().uri("/fine");
        assert_eq!(ask(request).await.0.status(), StatusCode::BAD_REQUEST);
    }

    #[tokio::test]
    async fn a_page_of_another_origin_may_change_nothing() {
        for (header, value, status) in [
            (ORIGIN, "http://evil.example", 403),
            (ORIGIN, "null", 403),
            (ORIGIN, "http://localhost:9999", 403),
            (ORIGIN, "http://localhost:8080", 200),
            (SEC_FETCH_SITE, "cross-site", 403),
            (SEC_FETCH_SITE, "same-site", 403),
            (SEC_FETCH_SITE, "same-origin", 200),
        ] {
            let (reply, _) = ask(local("POST", "/fine").header(header, value)).await;
            assert_eq!(reply.status().as_u16(), status, "{value}");
        }
        let (reply, _) = ask(local("GET", "/fine").header(SEC_FETCH_SITE, "cross-site")).await;
        assert_eq!(reply.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn whoever_came_over_the_socket_may_use_any_host() {
        let mut request = Request::builder().uri("/fine").body(Body::empty()).unwrap();
        request.extensions_mut().insert(Peer(Principal::Local { uid: 0, name: None }));
        let reply = router(Default::default()).oneshot(request).await.unwrap();
        assert_eq!(reply.status(), StatusCode::OK);
    }

    #[test]
    fn loopback_names_are_told_from_others() {
        for name in
            ["localhost", "LOCALHOST:1", "localhost.:1", "127.0.0.1:80", "127.9.9.9", "[::1]:80"]
        {
            assert!(is_loopback(name), "{name}");
        }
        for name in ["localhost.evil.example", "10.0.0.1", "[::2]", "", "127.0.0.1.evil.example"] {
            assert!(!is_loopback(name), "{name}");
        }
    }
}
