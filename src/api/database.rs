//! The daemon's own database: a copy to be kept elsewhere.

use std::io;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::Response;
use futures_util::stream;
use http::HeaderValue;
use http::header::{CONTENT_DISPOSITION, CONTENT_LENGTH};
use tokio::io::AsyncReadExt;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::extract::{Caller, NoQuery, Query};
use super::reply::{raw, with_header};
use crate::authz::{Action, Resource};
use crate::error::{Error, Result};

/// What SQLite's files are called.
pub const MEDIA_TYPE: &str = "application/vnd.sqlite3";

/// Bytes that are read at once.
const CHUNK: usize = 128 << 10;

/// The operations below `/api/v1`.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get_database_backup))
}

/// Get a copy of the database.
///
/// An SQLite file of one moment, made while the daemon goes on working. Nothing of a guest is in it.
#[utoipa::path(get, path = "/database/backup", tag = "service",
    responses((status = 200, description = "The file.", body = Vec<u8>,
        content_type = "application/vnd.sqlite3")))]
async fn get_database_backup(
    State(api): State<Api>,
    caller: Caller,
    _: Query<NoQuery>,
) -> Result<Response> {
    caller.may(Action::GetDatabaseBackup, Resource::Api)?;
    let file = tokio::fs::File::from_std(api.services().host.database_copy().await?);
    let length = file.metadata().await.map_err(Error::internal)?.len();
    let response = raw(MEDIA_TYPE, Body::from_stream(stream::unfold(file, next)));
    let name = HeaderValue::from_static("attachment; filename=\"vapor.db\"");
    let response = with_header(response, CONTENT_DISPOSITION, name);
    Ok(with_header(response, CONTENT_LENGTH, length.into()))
}

/// The next bytes of a file, and the file for those after them.
async fn next(mut file: tokio::fs::File) -> Option<(io::Result<Bytes>, tokio::fs::File)> {
    let mut bytes = Vec::with_capacity(CHUNK);
    match file.read_buf(&mut bytes).await {
        Ok(0) => None,
        Ok(_) => Some((Ok(bytes.into()), file)),
        Err(error) => Some((Err(error), file)),
    }
}
