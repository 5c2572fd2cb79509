//! What every reply looks like: the two envelopes, lists, entity tags and the headers around them.
//!
//! A handler answers `Result<Response>`; an [`Error`] leaves it as a bare status with the error in
//! the response's extensions, and [`failure`], called by the outermost layer, which alone knows the
//! request id and what the client accepts, writes its body. Everything that must be identical for
//! all endpoints is therefore written once.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, IF_NONE_MATCH, LOCATION, RETRY_AFTER,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::status::status;
use crate::error::{Error, Kind, Result};

/// The media type of every native reply.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The media type of RFC 9457.
pub const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
/// May be kept by the client, must be asked about before use.
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
/// Must not be kept.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

const OPEN: &[u8] = br#"{"status":"success","data":"#;

/// The error of a reply whose body has not been written yet.
#[derive(Clone)]
pub struct Failure(pub Arc<Error>);

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let mut response = status(self.kind()).into_response();
        response.extensions_mut().insert(Failure(Arc::new(self)));
        response
    }
}

/// `{"status":"success","data":…}` with 200, not to be cached.
///
/// # Errors
/// [`Kind::Internal`] if `data` cannot be written as JSON.
pub fn success<T: Serialize + ?Sized>(data: &T) -> Result<Response> {
    success_with(StatusCode::OK, data)
}

/// [`success`] with another status.
///
/// # Errors
/// [`Kind::Internal`] if `data` cannot be written as JSON.
pub fn success_with<T: Serialize + ?Sized>(status: StatusCode, data: &T) -> Result<Response> {
    let mut response = json(wrap(&render(data)?));
    *response.status_mut() = status;
    Ok(response)
}

/// 204, without a body.
pub fn no_content() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}

/// A reply of another type than JSON.
pub fn raw(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, NO_STORE);
    response
}

/// A whole JSON body with 200.
pub fn json(body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, NO_STORE);
    response
}

/// Adds `Location`; a path that no header can carry is left out rather than answered with 500.
pub fn with_location(mut response: Response, path: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(path) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

/// Adds one header whose value is known to be sane.
pub fn with_header(mut response: Response, name: HeaderName, value: HeaderValue) -> Response {
    response.headers_mut().insert(name, value);
    response
}

/// JSON text of a value.
///
/// # Errors
/// [`Kind::Internal`]: our own types can always be written, so a failure is a defect.
pub fn render<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::internal("a reply cannot be written as JSON").with_source(error))
}

/// The success envelope around a rendered value.
pub fn wrap(data: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(OPEN.len() + data.len() + 1);
    body.put_slice(OPEN);
    body.put_slice(data);
    body.put_u8(b'}');
    body.freeze()
}

/// The success envelope around a list of rendered objects: each is copied, none is written anew.
///
/// `extra` is put after `next`, for what a list says beside its objects.
pub fn wrap_list<B: AsRef<[u8]>>(
    noun: &str,
    items: &[B],
    total: usize,
    next: Option<&str>,
    extra: &Map<String, Value>,
) -> Bytes {
    let size: usize = items.iter().map(|item| item.as_ref().len() + 1).sum();
    let mut body = BytesMut::with_capacity(OPEN.len() + size + 256);
    body.put_slice(&list_head(noun));
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            body.put_u8(b',');
        }
        body.put_slice(item.as_ref());
    }
    body.put_slice(&list_tail(items.len(), total, next, extra));
    body.freeze()
}

/// Everything before the first object of a list.
pub fn list_head(noun: &str) -> Bytes {
    [OPEN, b"{\"", noun.as_bytes(), b"\":["].concat().into()
}

/// Everything after the last object of a list.
pub fn list_tail(
    count: usize,
    total: usize,
    next: Option<&str>,
    extra: &Map<String, Value>,
) -> Bytes {
    let next = next.map_or(Value::Null, Value::from);
    let mut tail = format!("],\"count\":{count},\"total\":{total},\"next\":{next}");
    for (key, value) in extra {
        tail.push_str(&format!(",{}:{value}", Value::from(key.as_str())));
    }
    tail.push_str("}}");
    tail.into()
}

/// The client's `If-None-Match`, if it sent one.
#[derive(Debug, Default)]
pub struct Conditional(Option<String>);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Conditional {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Ok(Self(joined(&parts.headers, IF_NONE_MATCH)))
    }
}

impl Conditional {
    /// 304 if the client has this version already, else `body` with the tag.
    ///
    /// # Errors
    /// Those of `body`, which is only called where it is needed.
    pub fn reply<B: Into<Body>>(
        &self,
        etag: &str,
        body: impl FnOnce() -> Result<B>,
    ) -> Result<Response> {
        let etag = quoted(etag);
        let mut response = if self.0.as_deref().is_some_and(|known| matches(known, &etag)) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            json(body()?)
        };
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::from_str(&etag) {
            headers.insert(ETAG, value);
        }
        headers.insert(CACHE_CONTROL, NO_CACHE);
        Ok(response)
    }

    /// [`Conditional::reply`] for a body whose tag is made of itself.
    ///
    /// # Errors
    /// Those of [`Conditional::reply`].
    pub fn reply_hashed(&self, body: Bytes) -> Result<Response> {
        self.reply(&digest(&body), || Ok(body))
    }
}

/// An entity tag made of the bytes themselves: 16 hexadecimal digits of their SHA-256.
pub fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes)[..8])
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
        text
    })
}

/// All values of one header, joined as RFC 9110 joins them; what is no text is left out.
pub fn joined(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let first = values.next()?.to_owned();
    Some(values.fold(first, |all, value| all + ", " + value))
}

/// A tag as headers carry it.
pub fn quoted(etag: &str) -> String {
    if etag.starts_with('"') || etag.starts_with("W/\"") {
        etag.to_owned()
    } else {
        format!("\"{etag}\"")
    }
}

/// Weak comparison of a list of tags, or `*`, with one tag.
fn matches(list: &str, etag: &str) -> bool {
    let strong = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    let wanted = strong(etag);
    list.trim() == "*" || list.split(',').any(|known| strong(known.trim()) == wanted)
}

/// Writes the body of a failed reply: the native envelope, or RFC 9457 where the client asks for it.
pub fn failure(error: &Error, request_id: &str, problem: bool) -> Response {
    let status = status(error.kind());
    let details = Value::Object(error.details().clone());
    let (content_type, body) = if problem {
        let body = serde_json::json!({
            "type": format!("/api/v1/errors#{}", error.kind().code()),
            "title": error.kind().meaning(),
            "status": status.as_u16(),
            "detail": error.message(),
            "code": error.kind().code(),
            "details": details,
            "hint": error.hint(),
            "request_id": request_id,
        });
        (PROBLEM, body)
    } else {
        let body = serde_json::json!({"status": "error", "error": {
            "code": error.kind().code(),
            "message": error.message(),
            "details": details,
            "hint": error.hint(),
            "request_id": request_id,
        }});
        (JSON, body)
    };
    let mut response = (status, body.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, NO_STORE);
    if let Some(seconds) = retry_after(error) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Whole seconds for `Retry-After`: 429 and 503 always have one.
fn retry_after(error: &Error) -> Option<u64> {
    let whole = |wait: Duration| wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    match (error.retry_after(), status(error.kind())) {
        (Some(wait), _) => Some(whole(wait).max(1)),
        (None, StatusCode::TOO_MANY_REQUESTS) => Some(1),
        (None, StatusCode::SERVICE_UNAVAILABLE) => Some(5),
        (None, _) => None,
    }
}

/// Keeps only the wanted members of a rendered object, in the order they were asked for.
///
/// # Errors
/// [`Kind::Internal`] if `object` is not a JSON object, which would be a defect of ours.
pub fn pick(object: &[u8], fields: &[String]) -> Result<Vec<u8>> {
    let all: std::collections::HashMap<&str, &serde_json::value::RawValue> =
        serde_json::from_slice(object)
            .map_err(|error| Error::new(Kind::Internal, "an internal error").with_source(error))?;
    let mut picked = vec![b'{'];
    for (field, value) in fields.iter().filter_map(|field| Some((field, all.get(field.as_str())?)))
    {
        if picked.len() > 1 {
            picked.push(b',');
        }
        picked.extend_from_slice(Value::from(field.as_str()).to_string().as_bytes());
        picked.push(b':');
        picked.extend_from_slice(value.get().as_bytes());
    }
    picked.push(b'}');
    Ok(picked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).expect("JSON")
    }

    #[test]
    fn a_list_is_made_of_its_objects_bytes() {
        let items = [&br#"{"a":1}"#[..], br#"{"b":2}"#];
        let body = parse(&wrap_list("vms", &items, 7, Some("c\"1"), &Map::new()));
        assert_eq!(
            body,
            serde_json::json!({"status":"success","data":{
                "vms":[{"a":1},{"b":2}],"count":2,"total":7,"next":"c\"1"}})
        );
    }

    #[test]
    fn an_empty_list_is_an_array_and_next_is_null() {
        let body = parse(&wrap_list::<Bytes>("pools", &[], 0, None, &Map::new()));
        assert_eq!(body["data"]["pools"], serde_json::json!([]));
        assert_eq!(body["data"]["next"], Value::Null);
    }

    #[test]
    fn tags_are_compared_weakly_and_one_by_one() {
        assert!(matches(r#""a", W/"b""#, r#""b""#));
        assert!(matches("*", r#""b""#));
        assert!(!matches(r#""ab""#, r#""b""#));
        assert_eq!(quoted("x"), r#""x""#);
        assert_eq!(quoted(r#"W/"x""#), r#"W/"x""#);
    }

    #[test]
    fn a_client_that_has_the_version_gets_304_without_a_body_being_made() {
        let known = Conditional(Some(r#""v7""#.to_owned()));
        let reply = known.reply::<Bytes>("v7", || Err(Error::internal("called"))).unwrap();
        assert_eq!(reply.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(reply.headers()[ETAG], r#""v7""#);
        let reply = known.reply("v8", || Ok(wrap(b"{}"))).unwrap();
        assert_eq!(reply.status(), StatusCode::OK);
    }

    #[test]
    fn too_many_and_unavailable_always_say_when_to_come_back() {
        let seconds = |kind, wait: Option<u64>| {
            let error = Error::new(kind, "x");
            retry_after(&match wait {
                Some(millis) => error.with_retry_after(Duration::from_millis(millis)),
                None => error,
            })
        };
        assert_eq!(seconds(Kind::TooManyRequests, None), Some(1));
        assert_eq!(seconds(Kind::LibvirtUnavailable, None), Some(5));
        assert_eq!(seconds(Kind::LibvirtUnavailable, Some(1200)), Some(2));
        assert_eq!(seconds(Kind::VmBusy, None), None);
    }

    #[test]
    fn the_fields_asked_for_are_kept_as_they_were_written() {
        let picked = pick(br#"{"a":1.50,"b":{"c":[]},"d":null}"#, &["d".into(), "a".into()]);
        assert_eq!(picked.unwrap(), br#"{"d":null,"a":1.50}"#);
    }

    #[test]
    fn details_of_a_defect_stay_in_the_log() {
        let reply = failure(&Error::internal("row 7"), "r1", false);
        assert_eq!(reply.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(reply.headers()[CONTENT_TYPE], "application/json");
    }
}
