//! The resumable protocol of uploads, tus 1.0 (<https://tus.io/protocols/resumable-upload>), as its
//! headers speak it: creation with and without a first part, expiration, checksum, termination.

use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use uuid::Uuid;

use super::extract::{Command, Incoming, Nothing};
use super::reply::{joined, no_content};
use super::uploads::{expected, octets};
use super::{Api, body};
use crate::error::{Error, Kind, Result};
use crate::model::UploadPurpose;
use crate::service::transfer::{Checksum, ImageFormat, Part, Position, Target};

const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
const TUS_CHECKSUM_ALGORITHM: HeaderName = HeaderName::from_static("tus-checksum-algorithm");
pub(super) const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
const VERSION: &str = "1.0.0";
const PART: &str = "application/offset+octet-stream";
/// The pool of uploads that name none.
const DEFAULT_POOL: &str = "default";

pub(super) async fn create(
    api: &Api,
    pool: Option<String>,
    purpose: UploadPurpose,
    base: &str,
    incoming: Incoming,
) -> Result<Response> {
    speaks_tus(&incoming.headers)?;
    let length = number(&incoming.headers, UPLOAD_LENGTH)?.ok_or_else(|| {
        Error::field("Upload-Length", "is missing; a length that comes later is not supported")
    })?;
    let metadata = joined(&incoming.headers, UPLOAD_METADATA);
    let pairs = pairs(metadata.as_deref().unwrap_or_default())?;
    let of =
        |key: &str| pairs.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str());
    let name = of("filename").or(of("name")).ok_or_else(|| {
        Error::field("Upload-Metadata", "has no filename, which names the volume")
    })?;
    let declared =
        match of("format") {
            Some(word) => Some(ImageFormat::parse(word).ok_or_else(|| {
                Error::field("Upload-Metadata", "names a format that is not known")
            })?),
            None => (purpose == UploadPurpose::Iso).then_some(ImageFormat::Iso),
        };
    if let (Some(asked), Some(said)) = (&pool, of("pool"))
        && asked != said
    {
        return Err(Error::field("Upload-Metadata", "names another pool than the request"));
    }
    let target = Target {
        pool: pool.unwrap_or_else(|| of("pool").unwrap_or(DEFAULT_POOL).to_owned()),
        name: name.to_owned(),
        purpose,
        length,
        declared,
        sha256: expected(of("sha256"), &HeaderMap::new())?,
        // Whoever sends it in parts has to be able to see that they fit together.
        wants_sha256: true,
    };
    let with_part = body::media_type(&incoming.headers)?.as_deref() == Some(PART);
    let part = Part {
        offset: 0,
        length: number(&incoming.headers, CONTENT_LENGTH)?,
        checksum: checksum(&incoming.headers)?,
    };
    let context = incoming.context(false);
    let transfers = api.services().transfers.clone();
    let work = async move {
        let begun = transfers.begin(context, target, metadata).await?;
        if !with_part || part.length == Some(0) {
            return Ok(begun);
        }
        let id = begun.id;
        match transfers.append(id, part, incoming.body).await {
            // The upload is there, and its client is to learn where: it goes on by itself.
            Err(error) if transfers.belongs(id).is_some() => {
                tracing::debug!(error = ?error, "the first part of an upload was cut off");
                transfers.position(id).await
            }
            appended => appended,
        }
    };
    let position = api.detached(work).await?;
    let mut response = StatusCode::CREATED.into_response();
    set(&mut response, LOCATION, &format!("{base}/{}", position.id));
    show(&mut response, &position);
    Ok(response)
}

pub(super) async fn offset(
    api: &Api,
    id: Uuid,
    pool: Option<&str>,
    purpose: UploadPurpose,
    headers: &HeaderMap,
) -> Result<Response> {
    speaks_tus(headers)?;
    stands_here(api, id, pool, purpose)?;
    let position = api.services().transfers.position(id).await?;
    let mut response = StatusCode::OK.into_response();
    show(&mut response, &position);
    set(&mut response, UPLOAD_LENGTH, &position.length.to_string());
    if let Some(metadata) = &position.metadata {
        set(&mut response, UPLOAD_METADATA, metadata);
    }
    Ok(response)
}

pub(super) async fn append(
    api: &Api,
    id: Uuid,
    pool: Option<&str>,
    purpose: UploadPurpose,
    incoming: Incoming,
) -> Result<Response> {
    speaks_tus(&incoming.headers)?;
    octets(&incoming.headers, PART, false)?;
    let part = Part {
        offset: number(&incoming.headers, UPLOAD_OFFSET)?
            .ok_or_else(|| Error::field("Upload-Offset", "is missing"))?,
        length: number(&incoming.headers, CONTENT_LENGTH)?,
        checksum: checksum(&incoming.headers)?,
    };
    stands_here(api, id, pool, purpose)?;
    let transfers = api.services().transfers.clone();
    let work = async move { transfers.append(id, part, incoming.body).await };
    let position = api.detached(work).await?;
    let mut response = no_content();
    show(&mut response, &position);
    Ok(response)
}

pub(super) async fn terminate(
    api: &Api,
    id: Uuid,
    pool: Option<&str>,
    purpose: UploadPurpose,
    headers: &HeaderMap,
    command: Command<Nothing>,
) -> Result<Response> {
    speaks_tus(headers)?;
    stands_here(api, id, pool, purpose)?;
    let transfers = api.services().transfers.clone();
    let work = async move { transfers.terminate(command.context, id).await };
    api.detached(work).await?;
    Ok(no_content())
}

/// An upload is found under the path it was begun at alone.
fn stands_here(api: &Api, id: Uuid, pool: Option<&str>, purpose: UploadPurpose) -> Result<()> {
    match api.services().transfers.belongs(id) {
        Some((in_pool, of)) if of != purpose || pool.is_some_and(|pool| pool != in_pool) => {
            Err(Error::new(Kind::UploadNotFound, format!("no upload {id} here")))
        }
        // One that has ended is told apart by whoever looks it up.
        _ => Ok(()),
    }
}

/// Adds what each reply of the protocol has.
pub(super) fn tus(result: Result<Response>) -> Response {
    let mut response = result.unwrap_or_else(|error| {
        let mut response = error.into_response();
        response.headers_mut().insert(TUS_VERSION, HeaderValue::from_static(VERSION));
        response
    });
    let headers = response.headers_mut();
    headers.insert(TUS_RESUMABLE, HeaderValue::from_static(VERSION));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn options() -> Response {
    let mut response = tus(Ok(no_content()));
    set(&mut response, TUS_VERSION, VERSION);
    set(
        &mut response,
        TUS_EXTENSION,
        "creation,creation-with-upload,expiration,checksum,termination",
    );
    set(&mut response, TUS_CHECKSUM_ALGORITHM, "sha1,sha256");
    response
}

fn set(response: &mut Response, name: HeaderName, value: &str) {
    // Numbers, fixed words, and what came as a header.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn show(response: &mut Response, position: &Position) {
    set(response, UPLOAD_OFFSET, &position.offset.to_string());
    if let Some(expires_at) = position.expires_at {
        set(response, UPLOAD_EXPIRES, &http_date(expires_at));
    }
}

/// Such as `Wed, 25 Jun 2014 16:00:00 GMT` (RFC 9110, section 5.6.7).
fn http_date(time: jiff::Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

fn speaks_tus(headers: &HeaderMap) -> Result<()> {
    match headers.get(TUS_RESUMABLE).map(HeaderValue::as_bytes) {
        Some(version) if version == VERSION.as_bytes() => Ok(()),
        Some(_) => Err(Error::new(
            Kind::TusVersionUnsupported,
            format!("of the tus protocol the version {VERSION} is spoken here"),
        )),
        None => Err(Error::new(Kind::TusVersionUnsupported, "Tus-Resumable is missing")),
    }
}

pub(super) fn number(headers: &HeaderMap, name: HeaderName) -> Result<Option<u64>> {
    let Some(value) = headers.get(&name) else { return Ok(None) };
    let number = value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match number.and_then(|text| text.parse().ok()) {
        Some(number) => Ok(Some(number)),
        None => Err(Error::field(name.as_str(), "is no number of bytes")),
    }
}

/// The pairs of `Upload-Metadata`; a key may stand there without a value.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let refuse = |problem: &str| Error::field("Upload-Metadata", problem);
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        let value = STANDARD
            .decode(value.trim())
            .map_err(|_| refuse("holds a value that is not base64"))?;
        let value =
            String::from_utf8(value).map_err(|_| refuse("holds a value that is not UTF-8"))?;
        if pairs.iter().any(|(known, _)| known == key) {
            return Err(refuse("names a key twice"));
        }
        pairs.push((key.to_owned(), value));
    }
    Ok(pairs)
}

fn checksum(headers: &HeaderMap) -> Result<Option<Checksum>> {
    let Some(text) = joined(headers, UPLOAD_CHECKSUM) else { return Ok(None) };
    let refuse = |problem: &str| Error::field("Upload-Checksum", problem);
    let (algorithm, value) = text.trim().split_once(' ').unwrap_or((text.as_str(), ""));
    let bytes = STANDARD.decode(value.trim()).map_err(|_| refuse("is not base64"))?;
    let wrong = || refuse("has not the length of such a checksum");
    match algorithm.to_ascii_lowercase().as_str() {
        "sha1" => bytes.try_into().map(|sum| Some(Checksum::Sha1(sum))).map_err(|_| wrong()),
        "sha256" => bytes.try_into().map(|sum| Some(Checksum::Sha256(sum))).map_err(|_| wrong()),
        _ => Err(refuse("names another algorithm than sha1 and sha256")),
    }
}

#[cfg(test)]
#[path = "tus_tests.rs"]
mod tests;
