//! What handlers take: path and query parameters, the caller, and a mutation with its body and
//! everything the client says about it. Whatever a client sends wrong ends here, as a 4xx.

use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::header::IF_MATCH;
use http::request::Parts;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::time::Duration;
use utoipa::{IntoParams, ToSchema};

use super::contract::{Contract, refusal};
use super::layers::{Peer, RequestId};
use super::reply::{hex, joined};
use super::state::Api;
use super::{MAX_WAIT, body, json, params};
use crate::authz::{self, Action, Resource};
use crate::error::{Error, Kind, Result};
use crate::model::Principal;
use crate::service::transfer::Arriving;
use crate::service::{Context, Idempotency};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Path parameters, decoded and held to their schema.
#[derive(Debug)]
pub struct Path<P>(pub P);

impl<S, P> FromRequestParts<S> for Path<P>
where
    S: Send + Sync,
    P: IntoParams + DeserializeOwned + 'static,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let raw = RawPathParams::from_request_parts(parts, state)
            .await
            .map_err(|_| Error::field("path", "is not UTF-8"))?;
        let pairs = raw.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        params::read(pairs).map(Path)
    }
}

/// Query parameters; what is unknown is refused.
#[derive(Debug)]
pub struct Query<P>(pub P);

impl<S, P> FromRequestParts<S> for Query<P>
where
    S: Send + Sync,
    P: IntoParams + DeserializeOwned + 'static,
{
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        params::read(params::decode(parts.uri.query())?).map(Query)
    }
}

/// The query of an operation that has none.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct NoQuery {}

/// Who asks, as far as the transport proves it.
#[derive(Clone, Debug)]
pub struct Caller(pub Principal);

impl Caller {
    /// Every handler's first line: may this caller do that?
    ///
    /// # Errors
    /// [`Kind::Forbidden`].
    pub fn may(&self, action: Action, resource: Resource<'_>) -> Result<()> {
        authz::require(&self.0, action, resource)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        // a request without a peer did not come through a listener
        let peer = parts.extensions.get::<Peer>();
        Ok(Caller(peer.map_or(Principal::System, |peer| peer.0.clone())))
    }
}

/// What every mutation takes in its query.
pub trait Mutation: IntoParams + DeserializeOwned + Send + 'static {
    /// Plan only.
    fn dry_run(&self) -> bool;
}

/// The query of a mutation that takes nothing of its own.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub struct Change {
    /// Answer with the plan and change nothing.
    pub dry_run: bool,
}

impl Mutation for Change {
    fn dry_run(&self) -> bool {
        self.dry_run
    }
}

/// A body that a mutation takes.
pub trait Payload: Sized {
    /// Reads it. `media` is the content type without parameters.
    ///
    /// # Errors
    /// [`Kind::UnsupportedMediaType`]; [`Kind::InvalidRequest`] or [`Kind::InvalidName`] with
    /// `details.fields`.
    fn read(media: Option<&str>, bytes: &Bytes) -> Result<Self>;
}

/// A JSON object of this type.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + ToSchema + 'static> Payload for Json<T> {
    fn read(media: Option<&str>, bytes: &Bytes) -> Result<Self> {
        match media {
            Some("application/json") => {}
            None if bytes.is_empty() => return Err(absent()),
            other => return Err(wrong_media(other, "application/json")),
        }
        if bytes.is_empty() {
            return Err(absent());
        }
        let value = json::parse(bytes)?;
        let problems = Contract::of::<T>().check(&value);
        if !problems.is_empty() {
            return Err(refusal(problems));
        }
        serde_path_to_error::deserialize(value).map(Json).map_err(|error| {
            let field = error.path().to_string();
            Error::field(field, error.into_inner().to_string())
        })
    }
}

/// No body; an empty object does no harm.
#[derive(Debug)]
pub struct Nothing;

impl Payload for Nothing {
    fn read(_: Option<&str>, bytes: &Bytes) -> Result<Self> {
        if bytes.is_empty() || bytes.trim_ascii() == b"{}" {
            Ok(Nothing)
        } else {
            Err(Error::field("body", "must be absent"))
        }
    }
}

/// A libvirt definition: as XML, or as `{"xml": "…"}`.
#[derive(Debug)]
pub struct Definition(pub String);

/// A libvirt definition within JSON.
#[derive(Debug, Deserialize, serde::Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct XmlText {
    /// The text of the definition.
    #[schema(min_length = 1, max_length = 1048576)]
    pub xml: String,
}

impl Payload for Definition {
    fn read(media: Option<&str>, bytes: &Bytes) -> Result<Self> {
        if bytes.is_empty() {
            return Err(absent());
        }
        match media {
            Some("application/xml" | "text/xml") => {
                let text =
                    std::str::from_utf8(bytes).map_err(|_| Error::field("body", "is not UTF-8"))?;
                Ok(Definition(text.to_owned()))
            }
            Some("application/json") => {
                Json::<XmlText>::read(media, bytes).map(|json| Definition(json.0.xml))
            }
            other => Err(wrong_media(other, "application/xml or application/json")),
        }
    }
}

fn absent() -> Error {
    Error::new(Kind::InvalidRequest, "the body is missing").with_field("body", "is missing")
}

fn wrong_media(found: Option<&str>, wanted: &str) -> Error {
    let found: String = found.unwrap_or("none").chars().take(64).collect();
    Error::new(
        Kind::UnsupportedMediaType,
        format!("the content type is {found}, and must be {wanted}"),
    )
}

/// A mutation as a client asks for it.
#[derive(Debug)]
pub struct Command<B, Q = Change> {
    pub context: Context,
    pub query: Q,
    pub body: B,
}

impl<B: Payload, Q: Mutation> FromRequest<Api> for Command<B, Q> {
    type Rejection = Error;

    async fn from_request(request: Request, api: &Api) -> Result<Self> {
        let (mut parts, body) = request.into_parts();
        let Caller(principal) = Caller::from_request_parts(&mut parts, api).await?;
        let Query(query) = Query::<Q>::from_request_parts(&mut parts, api).await?;
        let media = body::media_type(&parts.headers)?;
        let bytes = body::read(&parts.headers, body, &api.core().limits()).await?;
        let body = B::read(media.as_deref(), &bytes)?;
        let context =
            Context { dry_run: query.dry_run(), ..context(&parts, principal, api, &bytes)? };
        Ok(Command { context, query, body })
    }
}

/// What the headers of a mutation say; `body` as far as it tells one request from another.
fn context(parts: &Parts, principal: Principal, api: &Api, body: &[u8]) -> Result<Context> {
    let idempotency = key(&parts.headers)?.map(|key| Idempotency {
        key,
        principal: principal.to_string(),
        fingerprint: fingerprint(parts, body),
    });
    let request_id = parts.extensions.get::<RequestId>().map(|id| id.0.to_string());
    Ok(Context {
        principal,
        request_id: request_id.unwrap_or_default(),
        idempotency,
        dry_run: false,
        if_match: joined(&parts.headers, IF_MATCH),
        wait: wait(joined(&parts.headers, PREFER).as_deref())
            .map(|wait| wait.min(api.core().limits().max_wait)),
    })
}

/// The context of a read that holds something.
pub fn reading(principal: Principal) -> Context {
    Context { principal, ..Context::system() }
}

/// A mutation whose body is read as it arrives.
pub struct Incoming {
    context: Context,
    pub headers: HeaderMap,
    pub body: Arriving,
}

impl Incoming {
    /// Everything the client says about it. Its body does not tell one request from another: it
    /// would have to be read for that.
    pub fn context(&self, dry_run: bool) -> Context {
        Context { dry_run, ..self.context.clone() }
    }
}

impl FromRequest<Api> for Incoming {
    type Rejection = Error;

    async fn from_request(request: Request, api: &Api) -> Result<Self> {
        let (mut parts, body) = request.into_parts();
        let Caller(principal) = Caller::from_request_parts(&mut parts, api).await?;
        let context = context(&parts, principal, api, &[])?;
        let body = body.into_data_stream().map_err(|error| {
            Error::new(Kind::InvalidRequest, "the body did not arrive completely")
                .with_field("body", "did not arrive completely")
                .with_source(error)
        });
        Ok(Incoming { context, headers: parts.headers, body: Box::pin(body) })
    }
}

fn key(headers: &HeaderMap) -> Result<Option<String>> {
    let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let refuse = |problem: &str| Err(Error::field("Idempotency-Key", problem));
    if keys.next().is_some() {
        return refuse("stands there twice");
    }
    match key.as_bytes() {
        [] => refuse("is empty"),
        bytes if bytes.len() > 255 => refuse("has more than 255 characters"),
        bytes if bytes.iter().all(u8::is_ascii_graphic) => {
            Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
        }
        _ => refuse("holds a character that is not visible ASCII"),
    }
}

/// What must be equal for a repeated key to mean the same request.
fn fingerprint(parts: &Parts, body: &[u8]) -> String {
    let mut pairs: Vec<&str> = parts.uri.query().unwrap_or_default().split('&').collect();
    pairs.sort_unstable();
    let mut hash = Sha256::new();
    for part in [parts.method.as_str(), parts.uri.path(), &pairs.join("&")] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.update(body);
    hex(&hash.finalize())
}

/// What `Prefer` (RFC 7240) says about waiting. What is not understood there is ignored, as that
/// document demands; a wait longer than is allowed becomes the longest.
fn wait(prefer: Option<&str>) -> Option<Duration> {
    let mut asynchronous = None;
    for preference in prefer.unwrap_or_default().split([',', ';']).map(str::trim) {
        let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
        let name = name.trim();
        if name.eq_ignore_ascii_case("wait") {
            if let Ok(seconds) = value.trim().trim_matches('"').parse::<u64>() {
                return Some(Duration::from_secs(seconds).min(MAX_WAIT));
            }
        } else if name.eq_ignore_ascii_case("respond-async") {
            asynchronous = Some(Duration::ZERO);
        }
    }
    asynchronous
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ActionRequest, UpdateVm};

    fn json<T: DeserializeOwned + ToSchema + 'static>(text: &str) -> Result<T> {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        Json::read(Some("application/json"), &bytes).map(|json| json.0)
    }

    #[test]
    fn bodies_that_are_no_such_object_are_400() {
        for text in ["", "[]", "null", "\"x\"", "{\"memory\":[]}", "{\"x\":1}", "{\"memory\":1}"] {
            let error = json::<UpdateVm>(text).err().unwrap();
            assert_eq!(error.kind(), Kind::InvalidRequest, "{text}");
            assert!(error.details().contains_key("fields"), "{text}");
        }
    }

    #[test]
    fn other_content_types_are_415() {
        let bytes = Bytes::from_static(b"{}");
        for media in [None, Some("text/plain"), Some("application/xml")] {
            let error = Json::<UpdateVm>::read(media, &bytes).unwrap_err();
            assert_eq!(error.kind(), Kind::UnsupportedMediaType);
        }
        let error = Definition::read(Some("text/plain"), &bytes).unwrap_err();
        assert_eq!(error.kind(), Kind::UnsupportedMediaType);
    }

    #[test]
    fn a_definition_comes_as_xml_or_within_json() {
        let xml = Bytes::from_static(b"<domain/>");
        assert_eq!(Definition::read(Some("application/xml"), &xml).unwrap().0, "<domain/>");
        let json = Bytes::from_static(br#"{"xml":"<domain/>"}"#);
        assert_eq!(Definition::read(Some("application/json"), &json).unwrap().0, "<domain/>");
        assert!(Definition::read(Some("text/xml"), &Bytes::from_static(b"\xff")).is_err());
    }

    #[test]
    fn a_good_body_becomes_its_type() {
        let request: ActionRequest = json(r#"{"action":"force-stop","timeout":5}"#).unwrap();
        assert_eq!((request.action.as_str(), request.timeout), ("force-stop", Some(5)));
    }

    #[test]
    fn preferences_are_understood_or_ignored() {
        let seconds = |text| wait(Some(text)).map(|wait| wait.as_secs());
        assert_eq!(wait(None), None);
        assert_eq!(seconds("wait=7"), Some(7));
        assert_eq!(seconds("respond-async"), Some(0));
        assert_eq!(seconds("Respond-Async, WAIT=10"), Some(10));
        assert_eq!(seconds("wait=99999999"), Some(MAX_WAIT.as_secs()));
        assert_eq!(seconds("wait=soon, return=minimal"), None);
        assert_eq!(seconds("wait=99999999999999999999999"), None);
    }

    #[test]
    fn keys_are_visible_ascii_and_stand_there_once() {
        let of = |values: &[&str]| {
            key(&values.iter().map(|v| (IDEMPOTENCY_KEY, v.parse().unwrap())).collect())
        };
        assert_eq!(of(&["a-1"]).unwrap().as_deref(), Some("a-1"));
        assert_eq!(of(&[]).unwrap(), None);
        for bad in [&[""][..], &["a b"], &["a", "a"], &[&"x".repeat(256)]] {
            assert_eq!(of(bad).unwrap_err().kind(), Kind::InvalidRequest, "{bad:?}");
        }
    }

    #[test]
    fn the_order_of_query_parameters_changes_no_fingerprint_and_all_else_does() {
        let of = |method: &str, uri: &str, body: &str| {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            fingerprint(&request.into_parts().0, body.as_bytes())
        };
        let first = of("POST", "/a?x=1&y=2", "{}");
        assert_eq!(first, of("POST", "/a?y=2&x=1", "{}"));
        assert_eq!(first.len(), 64);
        for other in [
            of("PUT", "/a?x=1&y=2", "{}"),
            of("POST", "/b?x=1&y=2", "{}"),
            of("POST", "/a?x=1", "{}"),
            of("POST", "/a?x=1&y=2", "{ }"),
        ] {
            assert_ne!(first, other);
        }
    }
}
