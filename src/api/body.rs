//! Request bodies: read within a limit and a time, and what was not read is drained, so that a
//! client which is still sending gets to see the reply.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;

use super::state::Limits;
use crate::error::{Error, Kind, Result};

/// No more than this is read of a body that nobody wants.
const MAX_DRAINED: usize = 64 << 20;
/// And for no longer than this.
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// Reads a whole body.
///
/// # Errors
/// [`Kind::PayloadTooLarge`], [`Kind::RequestTimeout`], [`Kind::UnsupportedMediaType`] for a
/// compressed body, [`Kind::InvalidRequest`] if it ends early or is badly framed.
pub async fn read(headers: &HeaderMap, body: Body, limits: &Limits) -> Result<Bytes> {
    let too_large = || {
        Error::new(
            Kind::PayloadTooLarge,
            format!("the body has more than {} bytes", limits.body_bytes),
        )
        .with_detail("limit_bytes", limits.body_bytes)
    };
    let encoding = headers.get(CONTENT_ENCODING).map(http::HeaderValue::as_bytes);
    if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
        let message = "the body is compressed, which is not understood here";
        return Err(Error::new(Kind::UnsupportedMediaType, message)
            .with_hint("send the body without Content-Encoding"));
    }
    if declared_length(headers).is_some_and(|length| length > limits.body_bytes as u64) {
        return Err(too_large());
    }
    let reading = async {
        let mut body = body;
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Error::new(Kind::InvalidRequest, "the body did not arrive completely")
                    .with_field("body", "did not arrive completely")
                    .with_source(error)
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > limits.body_bytes {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    tokio::time::timeout(limits.body_timeout, reading).await.unwrap_or_else(|_| {
        let seconds = limits.body_timeout.as_secs_f32();
        let message = format!("the body did not arrive within {seconds} s");
        Err(Error::new(Kind::RequestTimeout, message))
    })
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The content type without its parameters, in lower case.
///
/// # Errors
/// [`Kind::UnsupportedMediaType`] if the text is not UTF-8, or says it is in another encoding.
pub fn media_type(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let refuse =
        |what: &str| Error::new(Kind::UnsupportedMediaType, format!("the content type {what}"));
    let text = value.to_str().map_err(|_| refuse("is not readable"))?;
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next().unwrap_or_default().to_ascii_lowercase();
    for parameter in parts {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim_matches('"');
        if name.eq_ignore_ascii_case("charset") && !value.eq_ignore_ascii_case("utf-8") {
            return Err(refuse("names an encoding other than UTF-8"));
        }
    }
    Ok(Some(media).filter(|media| !media.is_empty()))
}

/// A body that can be taken back from whoever did not read it.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Body>>);

impl Shared {
    /// Shares a body between a handler and the layer around it.
    pub fn new(body: Body) -> Self {
        Shared(Arc::new(Mutex::new(body)))
    }

    fn lock(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what is left, within limits.
    pub async fn drain(mut self) {
        if self.is_end_stream() {
            return;
        }
        let draining = async {
            let mut drained = 0;
            while let Some(Ok(frame)) = self.frame().await {
                drained += frame.data_ref().map_or(0, Bytes::len);
                if drained > MAX_DRAINED {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME, draining).await;
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.lock()).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { body_bytes: 8, body_timeout: Duration::from_millis(50), ..Limits::default() }
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let headers = HeaderMap::new();
        assert_eq!(read(&headers, Body::from("12345678"), &limits()).await.unwrap(), "12345678");
        let error = read(&headers, Body::from("123456789"), &limits()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PayloadTooLarge);
    }

    #[tokio::test]
    async fn a_declared_length_is_believed_before_a_byte_is_read() {
        let headers = HeaderMap::from_iter([(CONTENT_LENGTH, "9".parse().unwrap())]);
        let error = read(&headers, Body::from("1"), &limits()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PayloadTooLarge);
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_is_not_waited_for() {
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes>>());
        let error = read(&HeaderMap::new(), never, &limits()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::RequestTimeout);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_the_clients_mistake() {
        let broken = futures_util::stream::iter([Ok(Bytes::from("1")), Err("gone")]);
        let error =
            read(&HeaderMap::new(), Body::from_stream(broken), &limits()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidRequest);
    }

    #[test]
    fn content_types_are_compared_without_case_and_parameters() {
        let of = |text: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, text.parse().unwrap())]);
            media_type(&headers)
        };
        let json = Some("application/json".to_owned());
        assert_eq!(of("Application/JSON; charset=\"UTF-8\"").unwrap(), json);
        assert_eq!(
            of("application/json; charset=latin1").unwrap_err().kind(),
            Kind::UnsupportedMediaType
        );
        assert_eq!(media_type(&HeaderMap::new()).unwrap(), None);
    }
}
