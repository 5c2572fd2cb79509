//! ISO images: the library of installation and other media.

use axum::extract::{FromRequestParts, State};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, Method};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{
    Caller, Change, Command, Json, Mutation, NoQuery, Nothing, Path, Query, reading,
};
use super::reply::{Conditional, render, wrap};
use super::schemas::{IsoList, Success};
use super::{Api, downloads, lists, outcome};
use crate::authz::{Action, Resource};
use crate::error::{Error, Kind, Result};
use crate::model::{Iso, RegisterIso, SubjectType};
use crate::service::iso::IsoQuery;
use crate::service::{PageQuery, etag};

/// Words that paths use in the place of `{id}`. They win: an image of such a name is reached by its
/// id.
const FIXED_WORDS: [&str; 1] = ["uploads"];

const ALL: Resource<'static> = Resource::All(SubjectType::Iso);

const fn one(id: &str) -> Resource<'_> {
    Resource::One(SubjectType::Iso, id)
}

/// The operations on ISO images.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_isos, register_iso))
        .routes(routes!(get_iso, delete_iso))
        .routes(routes!(compute_iso_checksum))
        .routes(routes!(download_iso))
}

/// An image in a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
struct IsoPath {
    /// The image's id or name.
    #[param(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1F\x7F]+$",
        example = "debian-12.iso"
    )]
    id: String,
}

/// The id in the path, unless it is a fixed word.
struct IsoId(String);

impl FromRequestParts<Api> for IsoId {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self> {
        let Path(IsoPath { id }) = Path::from_request_parts(parts, api).await?;
        if FIXED_WORDS.contains(&id.as_str()) {
            return Err(Error::new(Kind::RouteNotFound, format!("no such path: {id}"))
                .with_hint(format!("an image named {id:?} is reached by its id")));
        }
        Ok(IsoId(id))
    }
}

/// Which images, and which part of them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct IsoListQuery {
    /// Only images of this name, in which `*` stands for any text.
    #[param(min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1F\x7F]+$")]
    name: Option<String>,
    /// Only images of this OS variant (a short id), in which `*` stands for any text.
    #[param(min_length = 1, max_length = 128, pattern = r"^[A-Za-z0-9_.+*-]+$")]
    os: Option<String>,
    /// How many at most.
    #[param(minimum = 1, maximum = 5000, default = 1000)]
    limit: Option<u32>,
    /// The `next` of the page before.
    #[param(min_length = 1, max_length = 2048, pattern = "^[A-Za-z0-9_-]+$")]
    cursor: Option<String>,
    /// The field to sort by, with `-` before it for the reverse order.
    #[param(pattern = "^-?(name|size_bytes|created_at)$", default = "name")]
    sort: Option<String>,
    /// Only these fields of each object, separated by commas.
    #[param(
        max_length = 512,
        pattern = "^(id|name|description|pool|volume|state|size_bytes|os_variant|detected_os|header|checksum|inserted_in|created_at|updated_at|generation)(,(id|name|description|pool|volume|state|size_bytes|os_variant|detected_os|header|checksum|inserted_in|created_at|updated_at|generation)){0,31}$",
        example = "id,name,state"
    )]
    fields: Option<String>,
}

/// List the registered ISO images.
///
/// Served from memory: no libvirt call. An image whose volume is gone is `missing`.
#[utoipa::path(get, path = "", tag = "storage", params(IsoListQuery),
    responses((status = 200, description = "A page of images.", body = Success<IsoList>)))]
async fn list_isos(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    Query(query): Query<IsoListQuery>,
) -> Result<Response> {
    caller.may(Action::ListIsos, ALL)?;
    let wanted = IsoQuery {
        page: PageQuery {
            limit: query.limit.map(|limit| limit as usize),
            cursor: query.cursor,
            name: query.name,
            sort: query.sort,
        },
        os: query.os,
    };
    let page = api.services().isos.list(&wanted)?;
    lists::page(&conditional, "isos", &page, query.fields.as_deref())
}

/// Register a volume as an ISO image.
///
/// Its header is read at once, and says what is on it; a volume without an optical file system is
/// refused. The checksum is computed in the background: `checksum.status` says when it is there.
#[utoipa::path(post, path = "", tag = "storage", params(Change), request_body = RegisterIso,
    responses((status = 201, description = "The registered image.", body = Success<Iso>)))]
async fn register_iso(
    State(api): State<Api>,
    caller: Caller,
    command: Command<Json<RegisterIso>>,
) -> Result<Response> {
    caller.may(Action::RegisterIso, ALL)?;
    let isos = api.services().isos.clone();
    let work = async move { isos.register(command.context, command.body.0).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Get an ISO image.
#[utoipa::path(get, path = "/{id}", tag = "storage", params(IsoPath),
    responses((status = 200, description = "The image.", body = Success<Iso>)))]
async fn get_iso(
    State(api): State<Api>,
    caller: Caller,
    conditional: Conditional,
    IsoId(id): IsoId,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetIso, one(&id))?;
    let iso = api.services().isos.get(&id)?;
    conditional.reply(&etag(&iso)?, || Ok(wrap(&render(&iso)?)))
}

/// What else goes with an image.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct DeleteQuery {
    /// Delete its volume, too.
    delete_volume: bool,
    /// Answer with the plan and change nothing.
    dry_run: bool,
}

impl Mutation for DeleteQuery {
    fn dry_run(&self) -> bool {
        self.dry_run
    }
}

/// Delete an ISO image.
///
/// One that is inserted in a VM is refused. Its volume stays unless `delete_volume=true`.
#[utoipa::path(delete, path = "/{id}", tag = "storage", params(IsoPath, DeleteQuery),
    responses((status = 204, description = "It is gone.")))]
async fn delete_iso(
    State(api): State<Api>,
    caller: Caller,
    IsoId(id): IsoId,
    command: Command<Nothing, DeleteQuery>,
) -> Result<Response> {
    caller.may(Action::DeleteIso, one(&id))?;
    let isos = api.services().isos.clone();
    let volume = command.query.delete_volume;
    let work = async move { isos.delete(command.context, &id, volume).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Compute the checksum of an ISO image anew.
///
/// It answers 202 with the task unless `Prefer: wait=N` says otherwise.
#[utoipa::path(post, path = "/{id}/checksum", tag = "storage", params(IsoPath, Change),
    responses((status = 200, description = "The image with its checksum.", body = Success<Iso>)))]
async fn compute_iso_checksum(
    State(api): State<Api>,
    caller: Caller,
    IsoId(id): IsoId,
    command: Command<Nothing>,
) -> Result<Response> {
    caller.may(Action::ComputeIsoChecksum, one(&id))?;
    let isos = api.services().isos.clone();
    let work = async move { isos.compute_checksum(command.context, &id).await };
    outcome::respond(&api, api.detached(work).await?)
}

/// Download an ISO image.
///
/// The bytes of its volume. `Range` with one range of bytes is answered with 206, so that a
/// download can be gone on with; `HEAD` tells the size.
#[utoipa::path(get, path = "/{id}/download", tag = "storage",
    params(IsoPath,
        ("Range" = Option<String>, Header, description = "One range, such as `bytes=1048576-`.")),
    responses(
        (status = 200, description = "All bytes.", body = String, content_type = "application/octet-stream"),
        (status = 206, description = "The bytes of the range.", body = String, content_type = "application/octet-stream")))]
async fn download_iso(
    State(api): State<Api>,
    caller: Caller,
    IsoId(id): IsoId,
    _: Query<NoQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    caller.may(Action::DownloadIso, one(&id))?;
    let context = reading(caller.0);
    let volume = api.services().isos.volume_of(&id)?;
    let transfers = &api.services().transfers;
    let download = transfers.download(&context, &volume.pool, &volume.volume, false).await?;
    downloads::respond(download, &volume.volume, &method, &headers).await
}
