//! Downloads of volumes: the bytes as they lie on the pool, whole or from an offset on.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::extract::{Caller, Path, Query, reading};
use super::outcome::escape;
use super::reply::joined;
use super::volumes::VolumePath;
use crate::authz::Action;
use crate::error::{Error, Kind, Result};
use crate::service::transfer::Download;

/// The download of a volume; nested under the pools.
pub fn router() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(download_volume))
}

/// What a download takes.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
struct DownloadQuery {
    /// Also while a running VM writes to it: what is read then is not of one moment.
    force: bool,
}

/// Download a volume.
///
/// The bytes of its file or device, such as a qcow2 image with its header. `Range` with one range
/// of bytes is answered with 206, so that a download can be gone on with; `HEAD` tells the size. A
/// volume that a running VM writes to is refused unless `force=true`.
#[utoipa::path(get, path = "/{pool}/volumes/{volume}/download", tag = "storage",
    params(VolumePath, DownloadQuery,
        ("Range" = Option<String>, Header, description = "One range, such as `bytes=1048576-`.")),
    responses(
        (status = 200, description = "All bytes.", body = String, content_type = "application/octet-stream"),
        (status = 206, description = "The bytes of the range.", body = String, content_type = "application/octet-stream")))]
async fn download_volume(
    State(api): State<Api>,
    caller: Caller,
    Path(path): Path<VolumePath>,
    Query(query): Query<DownloadQuery>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response> {
    caller.may(Action::DownloadVolume, path.resource())?;
    let context = reading(caller.0);
    let transfers = &api.services().transfers;
    let download = transfers.download(&context, &path.pool, &path.volume, query.force).await?;
    respond(download, &path.volume, &method, &headers).await
}

/// The head and, unless only that is wanted, the body of a download.
pub async fn respond(
    download: Download,
    name: &str,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response> {
    let size = download.reader.size();
    // Without an entity tag there is no telling whether the volume is still the one of the first
    // half: whoever asks for that gets all of it.
    let range = joined(headers, RANGE).filter(|_| !headers.contains_key(IF_RANGE));
    let wanted = match range.as_deref().map_or(Wanted::Whole, |range| wanted(range, size)) {
        Wanted::Whole => None,
        Wanted::Part(offset, length) => Some((offset, length)),
        Wanted::Nothing => {
            let message = format!("{name:?} has {size} bytes, and the range begins behind them");
            let error =
                Error::new(Kind::RangeNotSatisfiable, message).with_detail("size_bytes", size);
            let mut response = error.into_response();
            insert(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
            return Ok(response);
        }
    };
    let (offset, length) = wanted.unwrap_or((0, size));
    let mut response = if *method == Method::HEAD || length == 0 {
        Response::new(Body::empty())
    } else {
        download.reader.ask(offset, length).await?;
        Response::new(stream(download))
    };
    if wanted.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let range = format!("bytes {offset}-{}/{size}", (offset + length).saturating_sub(1));
        insert(&mut response, CONTENT_RANGE, &range);
    }
    insert(&mut response, CONTENT_LENGTH, &length.to_string());
    insert(&mut response, CONTENT_TYPE, "application/octet-stream");
    insert(&mut response, ACCEPT_RANGES, "bytes");
    insert(&mut response, CACHE_CONTROL, "no-store");
    insert(&mut response, CONTENT_DISPOSITION, &disposition(name));
    Ok(response)
}

fn insert(response: &mut Response, name: http::HeaderName, value: &str) {
    // Made of numbers and escaped names, so that each is a header's value.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn stream(download: Download) -> Body {
    Body::from_stream(futures_util::stream::unfold(Some(download), async |download| {
        let mut download = download?;
        match download.reader.next().await {
            Ok(piece) if piece.is_empty() => None,
            Ok(piece) => Some((Ok::<Bytes, Error>(piece), Some(download))),
            Err(error) => {
                tracing::warn!(error = ?error, "a download was cut off");
                Some((Err(error), None))
            }
        }
    }))
}

/// What a `Range` header wants.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Whole,
    /// Offset and length.
    Part(u64, u64),
    Nothing,
}

/// Reads a range (RFC 9110, section 14.2). Several ranges, and what is not understood, are answered
/// with the whole, as that document allows.
fn wanted(range: &str, size: u64) -> Wanted {
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let Some((first, last)) =
        range.trim().strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
    else {
        return Wanted::Whole;
    };
    match (number(first.trim()), number(last.trim()), last.trim().is_empty()) {
        (Some(first), None, true) if first < size => Wanted::Part(first, size - first),
        (Some(first), Some(last), _) if last < first => Wanted::Whole,
        (Some(first), Some(last), _) if first < size => {
            Wanted::Part(first, last.min(size - 1) - first + 1)
        }
        (Some(_), None, true) | (Some(_), Some(_), _) => Wanted::Nothing,
        // The last bytes.
        (None, Some(0), _) if first.trim().is_empty() => Wanted::Nothing,
        (None, Some(last), _) if first.trim().is_empty() && size > 0 => {
            Wanted::Part(size - last.min(size), last.min(size))
        }
        (None, Some(_), _) if first.trim().is_empty() => Wanted::Nothing,
        _ => Wanted::Whole,
    }
}

/// The name of the file to be, in both forms (RFC 6266): plain for old clients, and whole.
fn disposition(name: &str) -> String {
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || " ._+-()".contains(c) { c } else { '_' })
        .collect();
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{}", escape(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood_and_everything_else_is_the_whole() {
        for (range, expected) in [
            ("bytes=0-9", Wanted::Part(0, 10)),
            ("bytes=10-", Wanted::Part(10, 90)),
            ("bytes=-30", Wanted::Part(70, 30)),
            ("bytes=-300", Wanted::Part(0, 100)),
            ("bytes=90-1000", Wanted::Part(90, 10)),
            ("bytes=99-99999999999999999999999", Wanted::Part(99, 1)),
            ("bytes=100-", Wanted::Nothing),
            ("bytes=100-200", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=9-3", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("lines=1-2", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            assert_eq!(wanted(range, 100), expected, "{range}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
    }

    #[test]
    fn a_file_name_cannot_break_out_of_its_header() {
        let header = disposition("a\"b\r\nX: ü.qcow2");
        assert_eq!(
            header,
            "attachment; filename=\"a_b__X_ _.qcow2\"; filename*=UTF-8''a%22b%0D%0AX%3A%20%C3%BC.qcow2"
        );
        assert!(HeaderValue::from_str(&header).is_ok());
    }
}
