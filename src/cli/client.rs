//! HTTP/1.1 to the daemon, over its Unix socket or loopback TCP.
//!
//! Every request can be sent again: reads by their nature, changes because they carry an
//! `Idempotency-Key`. A connection that breaks after it stood (the daemon was restarted) is
//! therefore tried again for some seconds, and nothing happens twice.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{self, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, ETAG, HOST, USER_AGENT, WARNING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};

use super::endpoint::Endpoint;
use super::failure::{Exit, Failure, Result};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a reply may take on top of what the request asks the daemon to wait.
const PATIENCE: Duration = Duration::from_secs(120);
/// Pauses before a broken connection is tried again.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// What the kernel is to take of a request before the daemon has read it, if the system allows it.
const SEND_BUFFER: usize = 1 << 20;
/// No reply of the API comes near this.
const MAX_REPLY: usize = 256 << 20;
/// What every path of the API begins with.
pub const BASE: &str = "/api/v1";
/// The VMs' path.
pub const VMS: &str = "/virtualization/virtualmachines";
/// The storage pools' path.
pub const POOLS: &str = "/virtualization/storages/pools";
/// The networks' path.
pub const NETWORKS: &str = "/virtualization/networks";
/// The path of the ISO library.
pub const ISOS: &str = "/virtualization/isos";
/// The templates' path.
pub const TEMPLATES: &str = "/virtualization/virtualmachines/templates";

/// One request. Paths are relative to [`BASE`] unless they name a root of their own.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    /// Path and query, escaped.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Request {
    /// A request without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Request { method, path: path.into(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// A read.
    pub fn get(path: impl Into<String>) -> Self {
        Request::new(Method::GET, path)
    }

    /// Its body as hyper takes it.
    fn own_body(&self) -> Full<Bytes> {
        Full::new(self.body.clone())
    }

    /// Adds a JSON body.
    #[must_use]
    pub fn json(self, value: &Value) -> Self {
        self.body("application/json", value.to_string())
    }

    /// Adds a body of any type.
    #[must_use]
    pub fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.body = body.into();
        self
    }

    /// Adds a header; a value that no header can carry is left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(&format!("{}={}", escape(name), escape(value)));
        self
    }

    /// Adds a query parameter that may be absent.
    #[must_use]
    pub fn maybe(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    /// Adds a query parameter that is `true` where it is there.
    #[must_use]
    pub fn flag(self, name: &str, set: bool) -> Self {
        if set { self.query(name, "true") } else { self }
    }
}

/// A whole reply.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// Whether the body is JSON.
    pub fn is_json(&self) -> bool {
        let media = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        media.is_some_and(|media| media.starts_with("application/") && media.contains("json"))
    }

    /// The object's version, for `If-Match`.
    pub fn etag(&self) -> Option<&str> {
        self.headers.get(ETAG)?.to_str().ok()
    }

    /// What the daemon warns of besides.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.headers.get_all(WARNING).iter().filter_map(|value| {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            let quoted = text.strip_prefix("299 - \"")?.strip_suffix('"')?;
            Some(quoted.replace("\\\"", "\"").replace("\\\\", "\\"))
        })
    }

    /// `data` of a success; null where there is no body.
    ///
    /// # Errors
    /// A success that is not in the API's envelope.
    pub fn data(&self) -> Result<Value> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        let mut body: Value =
            serde_json::from_slice(&self.body).map_err(Failure::unintelligible)?;
        match body.get_mut("data") {
            Some(data) => Ok(data.take()),
            None => Err(Failure::unintelligible("it holds no `data`")),
        }
    }

    /// The reply itself if it is a success, else what the daemon reported.
    ///
    /// # Errors
    /// The failure that the reply reports.
    pub fn checked(self) -> Result<Self> {
        if self.status.is_success() { Ok(self) } else { Err(self.failure()) }
    }

    /// The failure that a reply without success reports.
    pub fn failure(&self) -> Failure {
        let body: Option<Value> = serde_json::from_slice(&self.body).ok();
        let status = self.status.as_u16();
        match body.as_ref().and_then(|body| body.get("error")) {
            Some(error) if error.is_object() => Failure::reported(error, Some(status)),
            _ => {
                let exit = Exit::of("", Some(status));
                Failure::new(exit, format!("the daemon answered {}", self.status))
                    .with_hint("is this really vapord? check --socket and VAPOR_SOCKET")
            }
        }
    }
}

/// A failed exchange: whether a connection stood before it broke.
enum Broken {
    NeverStood(io::Error),
    Broke(String),
    Silent,
    TooLarge,
}

/// The daemon, as the commands see it.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
}

impl Client {
    /// Nothing is connected yet.
    pub fn new(endpoint: Endpoint) -> Self {
        Client { endpoint }
    }

    /// The daemon's address.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A read of JSON.
    ///
    /// # Errors
    /// Whatever keeps the daemon from being reached, and what it reports.
    pub async fn get(&self, path: impl Into<String>) -> Result<Value> {
        self.send(&Request::get(path)).await?.checked()?.data()
    }

    /// Sends and reads the whole reply, whatever its status.
    ///
    /// # Errors
    /// [`Exit::Unreachable`].
    pub async fn send(&self, request: &Request) -> Result<Reply> {
        let mut pauses = PAUSES.iter();
        let mut stood = false;
        loop {
            let broken = match self.attempt(request).await {
                Ok(reply) => return Ok(reply),
                Err(broken) => broken,
            };
            stood |= matches!(broken, Broken::Broke(_));
            match (stood, pauses.next()) {
                (true, Some(pause)) => sleep(*pause).await,
                (true, None) | (false, _) => return Err(self.explain(broken)),
            }
        }
    }

    async fn attempt(&self, request: &Request) -> Result<Reply, Broken> {
        let whole = async { whole(self.open(request, request.own_body()).await?).await };
        timeout(PATIENCE, whole).await.unwrap_or(Err(Broken::Silent))
    }

    /// Sends a body that comes in pieces, and reads the whole reply, whatever its status. It may take
    /// as long as it likes while pieces go. Not repeated.
    ///
    /// # Errors
    /// [`Exit::Unreachable`].
    pub async fn send_pieces(&self, request: &Request, pieces: Pieces) -> Result<Reply> {
        let taken = Arc::clone(&pieces.taken);
        let mut sent = std::pin::pin!(async { whole(self.open(request, pieces).await?).await });
        loop {
            let before = taken.load(Ordering::Relaxed);
            match timeout(PATIENCE, &mut sent).await {
                Ok(done) => return done.map_err(|broken| self.explain(broken)),
                Err(_) if taken.load(Ordering::Relaxed) > before => {}
                Err(_) => return Err(self.explain(Broken::Silent)),
            }
        }
    }

    /// Sends and returns as soon as the head of the reply is there: for streams. Not repeated.
    ///
    /// # Errors
    /// [`Exit::Unreachable`].
    pub async fn stream(&self, request: &Request) -> Result<Response<Incoming>> {
        match timeout(PATIENCE, self.open(request, request.own_body())).await {
            Ok(opened) => opened.map_err(|broken| self.explain(broken)),
            Err(_) => Err(self.explain(Broken::Silent)),
        }
    }

    async fn open<B>(&self, request: &Request, body: B) -> Result<Response<Incoming>, Broken>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        fn in_time<S>(connected: Result<io::Result<S>, Elapsed>) -> io::Result<S> {
            connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        }
        match &self.endpoint {
            Endpoint::Unix(path) => {
                let stream = timeout(CONNECT, UnixStream::connect(path)).await;
                let stream = in_time(stream).inspect(|stream| {
                    // As much as the system allows: what is sent then wakes the daemon less often. That
                    // it does not is no reason to fail.
                    let _ = setsockopt(stream, SndBuf, &SEND_BUFFER);
                });
                self.exchange(stream, request, body).await
            }
            Endpoint::Tcp { host, port } => {
                let stream = timeout(CONNECT, TcpStream::connect((host.as_str(), *port))).await;
                self.exchange(in_time(stream), request, body).await
            }
        }
    }

    async fn exchange<S, B>(
        &self,
        stream: io::Result<S>,
        request: &Request,
        body: B,
    ) -> Result<Response<Incoming>, Broken>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        let stream = TokioIo::new(stream.map_err(Broken::NeverStood)?);
        let broke = |error: hyper::Error| Broken::Broke(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(stream).await.map_err(broke)?;
        // ends when the reply has been read or dropped
        tokio::spawn(connection);
        let host = match &self.endpoint {
            Endpoint::Unix(_) => "localhost".to_owned(),
            tcp => tcp.to_string().trim_start_matches("http://").to_owned(),
        };
        let mut built = http::Request::builder()
            .method(request.method.clone())
            .uri(absolute(&request.path))
            .header(HOST, host)
            .header(USER_AGENT, concat!("vapor/", env!("CARGO_PKG_VERSION")));
        if !request.headers.contains_key(ACCEPT) {
            built = built.header(ACCEPT, "application/json");
        }
        for (name, value) in &request.headers {
            built = built.header(name, value);
        }
        let built = built.body(body).map_err(|error| {
            Broken::NeverStood(io::Error::new(io::ErrorKind::InvalidInput, error))
        })?;
        sender.send_request(built).await.map_err(broke)
    }

    fn explain(&self, broken: Broken) -> Failure {
        let failure = |what: String| Failure::new(Exit::Unreachable, what);
        let endpoint = &self.endpoint;
        match broken {
            Broken::NeverStood(error) => endpoint.unreachable(&error),
            Broken::Broke(error) => failure(format!("the connection to vapord broke: {error}"))
                .with_hint(format!("is it vapord that listens on {endpoint}? its log says more")),
            Broken::Silent => {
                failure(format!("vapord did not answer within {} s", PATIENCE.as_secs()))
                    .with_hint("see `vapor task list` for whether the request has arrived")
            }
            Broken::TooLarge => {
                Failure::new(Exit::Failed, "the reply is larger than anything vapord sends")
            }
        }
    }
}

/// A reply with its body.
async fn whole(response: Response<Incoming>) -> Result<Reply, Broken> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_REPLY).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            Broken::TooLarge
        } else {
            Broken::Broke(error.to_string())
        }
    })?;
    Ok(Reply { status: parts.status, headers: parts.headers, body: body.to_bytes() })
}

/// A body of known length that is made while it is sent.
pub struct Pieces {
    arriving: mpsc::Receiver<Bytes>,
    length: u64,
    /// How much of it the connection has taken.
    taken: Arc<AtomicU64>,
    tell: Box<dyn Fn(u64) + Send>,
}

impl Pieces {
    /// `tell` is told how much has been taken.
    pub fn new(
        arriving: mpsc::Receiver<Bytes>,
        length: u64,
        tell: impl Fn(u64) + Send + 'static,
    ) -> Self {
        Pieces { arriving, length, taken: Arc::default(), tell: Box::new(tell) }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(piece) = ready!(self.arriving.poll_recv(cx)) else { return Poll::Ready(None) };
        let taken = self.taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
        (self.tell)(taken + piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length.saturating_sub(self.taken.load(Ordering::Relaxed)))
    }
}

/// What a stream that was refused was refused with.
pub async fn refused(response: http::Response<Incoming>) -> Failure {
    let (parts, body) = response.into_parts();
    match body.collect().await {
        Ok(body) => {
            Reply { status: parts.status, headers: parts.headers, body: body.to_bytes() }.failure()
        }
        Err(error) => Failure::new(Exit::Unreachable, format!("the connection broke: {error}")),
    }
}

/// The path below the API's base, unless it names another root of the daemon's.
pub fn absolute(path: &str) -> String {
    const ROOTS: [&str; 7] =
        ["/api/", "/cloudapi/", "/docs", "/health", "/ready", "/version", "/metrics"];
    if ROOTS.iter().any(|root| path.starts_with(root)) {
        return path.to_owned();
    }
    format!("{BASE}/{}", path.trim_start_matches('/'))
}

/// One segment of a path, or one part of a query, with everything escaped that could mean more
/// than itself.
pub fn escape(text: &str) -> String {
    // a segment of dots alone would be taken for a step
    let dots = text.bytes().all(|byte| byte == b'.');
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'.' if dots => escaped.push_str("%2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

/// The path of one VM, by name or UUID, with what follows it.
pub fn vm_path(id: &str, rest: &str) -> String {
    format!("{VMS}/{}{rest}", escape(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_read_from_their_headers() {
        let mut headers = HeaderMap::new();
        for value in ["299 - \"a \\\"b\\\" \\\\ z\u{f6}\"", "110 anderson/1.3.37 \"stale\""] {
            headers.append(WARNING, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let reply = Reply { status: StatusCode::OK, headers, body: Bytes::new() };
        assert_eq!(reply.warnings().collect::<Vec<_>>(), ["a \"b\" \\ z\u{f6}"]);
    }

    #[test]
    fn names_cannot_leave_their_segment() {
        assert_eq!(vm_path("web1", "/xml"), "/virtualization/virtualmachines/web1/xml");
        assert_eq!(escape("a/b?c#d e\u{e9}"), "a%2Fb%3Fc%23d%20e%C3%A9");
        assert_eq!((escape(".."), escape("a.b")), ("%2E%2E".to_owned(), "a.b".to_owned()));
    }

    #[test]
    fn paths_get_the_base_unless_they_have_a_root() {
        assert_eq!(absolute("tasks?limit=1"), "/api/v1/tasks?limit=1");
        assert_eq!(absolute("/tasks"), "/api/v1/tasks");
        assert_eq!(absolute("/api/v1/tasks"), "/api/v1/tasks");
        assert_eq!(absolute("/health"), "/health");
    }

    #[test]
    fn queries_add_up() {
        let request =
            Request::get("tasks").query("a", "1&2").maybe("b", None).maybe("c", Some("x"));
        assert_eq!(request.path, "tasks?a=1%262&c=x");
    }

    #[test]
    fn a_failure_that_is_not_vapords_is_said_to_be_none() {
        let reply = Reply {
            status: StatusCode::NOT_FOUND,
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"<html>"),
        };
        let failure = reply.failure();
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(failure.render().contains("really vapord"));
    }
}
