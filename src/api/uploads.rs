//! Uploads: in one request, and resumable by the tus protocol 1.0.
//!
//! The tus operations speak that protocol's headers ([`super::tus`]); failures have the body of all
//! others. They stand twice, under a pool for volumes and under `isos` for the ISO library, and are one
//! code.

use axum::extract::State;
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::extract::{Caller, Change, Command, Incoming, Json, NoQuery, Nothing, Path, Query};
use super::pools::PoolPath;
use super::reply::{joined, json, render, wrap_list};
use super::schemas::{Success, UploadList};
use super::tus::{UPLOAD_LENGTH, append, create, number, offset, options, terminate, tus};
use super::volumes::VolumePath;
use super::{Api, ISOS, POOLS, body, outcome};
use crate::authz::{Action, Resource};
use crate::error::{Error, Kind, Result};
use crate::model::{SubjectType, UploadPurpose, Uploaded, Volume};
use crate::service::transfer::{ImageFormat, ImportVolume, Target, sha256_of};

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
const WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");

/// Uploads to and imports in pools; nested under the pools.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(upload_volume))
        .routes(routes!(import_volume))
        .routes(routes!(list_uploads, create_upload, get_upload_options))
        .routes(routes!(get_upload_offset, append_upload, terminate_upload))
}

/// Uploads for the ISO library; nested under it.
pub fn iso_router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_iso_uploads, create_iso_upload, get_iso_upload_options))
        .routes(routes!(get_iso_upload_offset, append_iso_upload, terminate_iso_upload))
}

/// What an upload in one request takes.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct UploadQuery {
    /// The SHA-256 that it must have, as hexadecimal digits; else nothing of it is kept. The header
    /// `Repr-Digest` (RFC 9530) says the same.
    #[param(pattern = "^[0-9A-Fa-f]{64}$")]
    sha256: Option<String>,
    /// What it is: content of another format is refused. Without it the content tells.
    #[param(inline)]
    format: Option<ImageFormat>,
    /// Answer with the plan and change nothing.
    dry_run: bool,
}

/// The place of a new volume.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct NewVolumePath {
    /// The pool's name.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1F\x7F]+$",
        example = "default"
    )]
    pool: String,
    /// The new volume's name.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1F\x7F-\x9F/<>&\u2028\u2029]+$",
        example = "web1.qcow2"
    )]
    volume: String,
}

/// Upload a volume in one request.
///
/// Makes the volume, which must not exist. The first bytes tell the format: an image that refers
/// to other files is refused before any of it is written. If less arrives than was announced, or
/// anything else goes wrong, nothing is left of it. Time limits of other requests do not hold here;
/// a client that sends nothing for `[limits] upload_stall_seconds` is given up.
#[utoipa::path(post, path = "/{pool}/volumes/{volume}/upload", tag = "storage",
    params(NewVolumePath, UploadQuery,
        ("Upload-Length" = Option<u64>, Header, description = "Bytes, where `Content-Length` does not say it (a chunked body).", minimum = 1),
        ("Repr-Digest" = Option<String>, Header, description = "`sha-256=:BASE64:`: what the whole must have."),
        ("Want-Repr-Digest" = Option<String>, Header, description = "`sha-256=1`: compute the SHA-256 and tell it.")),
    request_body(content = String, content_type = "application/octet-stream"),
    responses((status = 201, description = "The new volume.", body = Success<Uploaded>)))]
async fn upload_volume(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<NewVolumePath>,
    Query(query): Query<UploadQuery>,
    incoming: Incoming,
) -> Result<Response> {
    caller.may(Action::UploadVolume, Resource::One(SubjectType::Volume, &path.volume))?;
    octets(&incoming.headers, "application/octet-stream", true)?;
    let length = whole_length(&incoming.headers)?;
    let target = Target {
        pool: path.pool,
        name: path.volume,
        purpose: UploadPurpose::Volume,
        length,
        declared: query.format,
        sha256: expected(query.sha256.as_deref(), &incoming.headers)?,
        wants_sha256: wants_sha256(&incoming.headers),
    };
    let context = incoming.context(query.dry_run);
    let transfers = api.services().transfers.clone();
    let work = async move { transfers.upload(context, target, incoming.body).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Import an image.
///
/// Converts the image in a volume (qcow2, raw, vmdk, vdi, vpc or vhdx) into a new volume. The image is
/// looked at first: one that refers to other files, or that libvirt takes for something else than
/// its content is, is refused.
#[utoipa::path(post, path = "/{pool}/volumes/{volume}/import", tag = "storage",
    params(VolumePath, Change), request_body = ImportVolume,
    responses((status = 201, description = "The new volume.", body = Success<Volume>)))]
async fn import_volume(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<VolumePath>,
    command: Command<Json<ImportVolume>>,
) -> Result<Response> {
    caller.may(Action::ImportVolume, path.resource())?;
    let transfers = api.services().transfers.clone();
    let work = async move {
        transfers.import(command.context, &path.pool, &path.volume, command.body.0).await
    };
    outcome::respond(&api, api.detached(work).await?)
}

/// An upload in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct UploadPath {
    /// The pool's name.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1F\x7F]+$",
        example = "default"
    )]
    pool: String,
    /// The upload's id.
    id: Uuid,
}

/// An upload for the ISO library in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct IsoUploadPath {
    /// The upload's id.
    id: Uuid,
}

/// Where an image for the ISO library goes.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct IsoUploadQuery {
    /// The pool; that of the metadata, or `default`, if absent.
    #[param(min_length = 1, max_length = 255)]
    pool: Option<String>,
}

/// List the uploads to a pool.
///
/// Those by the tus protocol that are under way, oldest first.
#[utoipa::path(get, path = "/{pool}/volumes/uploads", tag = "storage", params(PoolPath),
    responses((status = 200, description = "The uploads.", body = Success<UploadList>)))]
async fn list_uploads(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<PoolPath>,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::ListUploads, Resource::One(SubjectType::Pool, &path.pool))?;
    list(&api, Some(&path.pool), UploadPurpose::Volume)
}

/// How many bytes a whole body has.
fn whole_length(headers: &HeaderMap) -> Result<u64> {
    let said = (number(headers, CONTENT_LENGTH)?, number(headers, UPLOAD_LENGTH)?);
    match said {
        (Some(body), Some(upload)) if body != upload => Err(Error::new(
            Kind::Impossible,
            format!("the body has {body} bytes, and Upload-Length says {upload}"),
        )
        .with_field("Upload-Length", "contradicts Content-Length")),
        (Some(length), _) | (None, Some(length)) => Ok(length),
        (None, None) => Err(Error::field("Content-Length", "is missing, and so is Upload-Length")),
    }
}

/// Begin a resumable upload (tus).
///
/// Makes the volume, of `Upload-Length` bytes, and holds it until the upload has ended.
/// `Upload-Metadata` takes `filename` (or `name`), which names the volume, `format`, `sha256` and
/// `pool`. A body of the type `application/offset+octet-stream` is taken as the first part.
#[utoipa::path(post, path = "/{pool}/volumes/uploads", tag = "storage",
    params(PoolPath,
        ("Tus-Resumable" = String, Header, description = "`1.0.0`."),
        ("Upload-Length" = u64, Header, description = "Bytes.", minimum = 1),
        ("Upload-Metadata" = String, Header, description = "Pairs of a key and a base64 value.")),
    responses((status = 201, description = "It may be sent to `Location`.")))]
async fn create_upload(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<PoolPath>,
    _: Query<NoQuery>,
    incoming: Incoming,
) -> Result<Response> {
    caller.may(Action::CreateUpload, Resource::One(SubjectType::Pool, &path.pool))?;
    let base = format!("{POOLS}/{}/volumes/uploads", outcome::escape(&path.pool));
    Ok(tus(create(&api, Some(path.pool), UploadPurpose::Volume, &base, incoming).await))
}

/// Tell what of the tus protocol is spoken.
#[utoipa::path(options, path = "/{pool}/volumes/uploads", tag = "storage", params(PoolPath),
    responses((status = 204, description = "Versions, extensions and checksums.")))]
async fn get_upload_options(caller: Caller, _: Path<PoolPath>) -> Result<Response> {
    caller.may(Action::GetUploadOptions, Resource::Api)?;
    Ok(options())
}

/// Tell where an upload stands (tus).
#[utoipa::path(head, path = "/{pool}/volumes/uploads/{id}", tag = "storage",
    params(UploadPath, ("Tus-Resumable" = String, Header, description = "`1.0.0`.")),
    responses((status = 200, description = "`Upload-Offset` and `Upload-Length`.")))]
async fn get_upload_offset(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<UploadPath>,
    _: Query<NoQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    caller.may(Action::GetUploadOffset, Resource::One(SubjectType::Pool, &path.pool))?;
    Ok(tus(offset(&api, path.id, Some(&path.pool), UploadPurpose::Volume, &headers).await))
}

/// Send a part of an upload (tus).
///
/// What has arrived when the connection breaks is kept, unless the part has an `Upload-Checksum`.
/// The reply to the last part comes after the image has been checked and probed.
#[utoipa::path(patch, path = "/{pool}/volumes/uploads/{id}", tag = "storage",
    params(UploadPath,
        ("Tus-Resumable" = String, Header, description = "`1.0.0`."),
        ("Upload-Offset" = u64, Header, description = "Where the part begins: where the upload stands."),
        ("Upload-Checksum" = Option<String>, Header, description = "`sha1 BASE64` or `sha256 BASE64` of the part.")),
    request_body(content = String, content_type = "application/offset+octet-stream"),
    responses((status = 204, description = "It is written; `Upload-Offset` says up to where.")))]
async fn append_upload(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<UploadPath>,
    _: Query<NoQuery>,
    incoming: Incoming,
) -> Result<Response> {
    caller.may(Action::AppendUpload, Resource::One(SubjectType::Pool, &path.pool))?;
    Ok(tus(append(&api, path.id, Some(&path.pool), UploadPurpose::Volume, incoming).await))
}

/// End an upload and delete what has arrived (tus).
#[utoipa::path(delete, path = "/{pool}/volumes/uploads/{id}", tag = "storage",
    params(UploadPath, ("Tus-Resumable" = String, Header, description = "`1.0.0`.")),
    responses((status = 204, description = "It is gone, and its volume.")))]
async fn terminate_upload(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<UploadPath>,
    headers: HeaderMap,
    command: Command<Nothing>,
) -> Result<Response> {
    caller.may(Action::TerminateUpload, Resource::One(SubjectType::Pool, &path.pool))?;
    let purpose = UploadPurpose::Volume;
    Ok(tus(terminate(&api, path.id, Some(&path.pool), purpose, &headers, command).await))
}

/// List the uploads to the ISO library.
///
/// Those by the tus protocol that are under way, oldest first.
#[utoipa::path(get, path = "/uploads", tag = "storage",
    responses((status = 200, description = "The uploads.", body = Success<UploadList>)))]
async fn list_iso_uploads(
    State(api): State<Api>,
    caller: Caller,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::ListIsoUploads, Resource::All(SubjectType::Volume))?;
    list(&api, None, UploadPurpose::Iso)
}

/// Begin a resumable upload to the ISO library (tus).
///
/// The content must be an ISO 9660 image. `Upload-Metadata` takes `filename` (or `name`), `sha256`
/// and `pool`.
#[utoipa::path(post, path = "/uploads", tag = "storage",
    params(IsoUploadQuery,
        ("Tus-Resumable" = String, Header, description = "`1.0.0`."),
        ("Upload-Length" = u64, Header, description = "Bytes.", minimum = 1),
        ("Upload-Metadata" = String, Header, description = "Pairs of a key and a base64 value.")),
    responses((status = 201, description = "It may be sent to `Location`.")))]
async fn create_iso_upload(
    State(api): State<Api>,
    caller: Caller,
    Query(query): Query<IsoUploadQuery>,
    incoming: Incoming,
) -> Result<Response> {
    caller.may(Action::CreateIsoUpload, Resource::All(SubjectType::Volume))?;
    let base = format!("{ISOS}/uploads");
    Ok(tus(create(&api, query.pool, UploadPurpose::Iso, &base, incoming).await))
}

/// Tell what of the tus protocol is spoken.
#[utoipa::path(options, path = "/uploads", tag = "storage",
    responses((status = 204, description = "Versions, extensions and checksums.")))]
async fn get_iso_upload_options(caller: Caller) -> Result<Response> {
    caller.may(Action::GetIsoUploadOptions, Resource::Api)?;
    Ok(options())
}

/// Tell where an upload to the ISO library stands (tus).
#[utoipa::path(head, path = "/uploads/{id}", tag = "storage",
    params(IsoUploadPath, ("Tus-Resumable" = String, Header, description = "`1.0.0`.")),
    responses((status = 200, description = "`Upload-Offset` and `Upload-Length`.")))]
async fn get_iso_upload_offset(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<IsoUploadPath>,
    _: Query<NoQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    caller.may(Action::GetIsoUploadOffset, Resource::All(SubjectType::Volume))?;
    Ok(tus(offset(&api, path.id, None, UploadPurpose::Iso, &headers).await))
}

/// Send a part of an upload to the ISO library (tus).
#[utoipa::path(patch, path = "/uploads/{id}", tag = "storage",
    params(IsoUploadPath,
        ("Tus-Resumable" = String, Header, description = "`1.0.0`."),
        ("Upload-Offset" = u64, Header, description = "Where the part begins: where the upload stands."),
        ("Upload-Checksum" = Option<String>, Header, description = "`sha1 BASE64` or `sha256 BASE64` of the part.")),
    request_body(content = String, content_type = "application/offset+octet-stream"),
    responses((status = 204, description = "It is written; `Upload-Offset` says up to where.")))]
async fn append_iso_upload(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<IsoUploadPath>,
    _: Query<NoQuery>,
    incoming: Incoming,
) -> Result<Response> {
    caller.may(Action::AppendIsoUpload, Resource::All(SubjectType::Volume))?;
    Ok(tus(append(&api, path.id, None, UploadPurpose::Iso, incoming).await))
}

/// End an upload to the ISO library and delete what has arrived (tus).
#[utoipa::path(delete, path = "/uploads/{id}", tag = "storage",
    params(IsoUploadPath, ("Tus-Resumable" = String, Header, description = "`1.0.0`.")),
    responses((status = 204, description = "It is gone, and its volume.")))]
async fn terminate_iso_upload(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<IsoUploadPath>,
    headers: HeaderMap,
    command: Command<Nothing>,
) -> Result<Response> {
    caller.may(Action::TerminateIsoUpload, Resource::All(SubjectType::Volume))?;
    Ok(tus(terminate(&api, path.id, None, UploadPurpose::Iso, &headers, command).await))
}

// --- what both do -----------------------------------------------------------------------------------

fn list(api: &Api, pool: Option<&str>, purpose: UploadPurpose) -> Result<Response> {
    let uploads = api.services().transfers.uploads(pool, purpose)?;
    let rendered = uploads.iter().map(render).collect::<Result<Vec<_>>>()?;
    Ok(json(wrap_list("uploads", &rendered, rendered.len(), None, &serde_json::Map::new())))
}

/// Holds the content type to the one that is taken.
pub(super) fn octets(headers: &HeaderMap, wanted: &str, may_be_absent: bool) -> Result<()> {
    let encoding = headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
        let message = "the body is compressed, which is not understood here";
        return Err(Error::new(Kind::UnsupportedMediaType, message)
            .with_hint("send the body without Content-Encoding"));
    }
    match body::media_type(headers)? {
        Some(media) if media == wanted => Ok(()),
        None if may_be_absent => Ok(()),
        found => {
            let found: String = found.as_deref().unwrap_or("none").chars().take(64).collect();
            Err(Error::new(
                Kind::UnsupportedMediaType,
                format!("the content type is {found}, and must be {wanted}"),
            )
            .with_hint(format!("send Content-Type: {wanted}")))
        }
    }
}

/// The SHA-256 that the whole must have, by a parameter or by `Repr-Digest`.
pub(super) fn expected(parameter: Option<&str>, headers: &HeaderMap) -> Result<Option<[u8; 32]>> {
    if let Some(text) = parameter {
        return sha256_of(text)
            .map(Some)
            .ok_or_else(|| Error::field("sha256", "must be 64 hexadecimal digits"));
    }
    let digests = joined(headers, REPR_DIGEST).unwrap_or_default();
    for digest in digests.split(',').map(str::trim) {
        let Some(value) = digest.strip_prefix("sha-256=") else { continue };
        let bytes = STANDARD.decode(value.trim_matches(':')).ok();
        return match bytes.and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(Error::field("Repr-Digest", "holds no SHA-256 in base64")),
        };
    }
    Ok(None)
}

/// Whether the client asks for the SHA-256 of the whole (RFC 9530, 4): `sha-256=N`, where N is how
/// much it likes it, and 0 not at all.
fn wants_sha256(headers: &HeaderMap) -> bool {
    let wanted = joined(headers, WANT_REPR_DIGEST).unwrap_or_default();
    wanted
        .split(',')
        .map(str::trim)
        .any(|one| one.strip_prefix("sha-256=").is_some_and(|liking| liking.trim() != "0"))
}

#[cfg(test)]
#[path = "uploads_tests.rs"]
mod tests;
