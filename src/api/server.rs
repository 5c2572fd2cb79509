//! Listeners and connections: who may connect, how long they may dawdle, and how all of it ends.
//!
//! The daemon binds early ([`Server::bind`], which refuses a socket that lives), and serves once
//! the services stand ([`Server::serve`]). Each listener has its own bound of connections, so that
//! clients on TCP cannot shut out the operator at the socket. HTTP/1.1 and HTTP/2 with prior
//! knowledge are told apart by their first bytes. On stop, listeners close at once, idle
//! connections end, busy ones get the grace period.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use nix::sys::socket::sockopt::SndBuf;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname, setsockopt};
use nix::unistd::{Uid, User};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::io::{Connection, Protocol};
use super::layers::Peer;
use super::socket::{BoundSocket, SocketOptions, bind_socket};
use super::state::Core;
use crate::error::{Error, Kind, Result};
use crate::model::Principal;
use crate::service::transfer::PIECE;

const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 32 << 10;
/// The most that is read of an HTTP/1 connection at once. A head must fit into it; a body arrives in
/// pieces of this size where its client is quick, each of which becomes one message to libvirt without
/// being copied.
const READ_BUFFER: usize = PIECE;
/// Bytes of replies that wait in a local client's socket.
const SEND_BUFFER: usize = 1 << 20;
const MAX_STREAMS: u32 = 100;
/// How long a connection that has said nothing yet is kept when the daemon stops.
const LATECOMER: Duration = Duration::from_millis(500);
/// Clients that are being told that there are too many of them; beyond, they are just hung up on.
const MAX_REFUSALS: usize = 64;
const REFUSAL: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n\
    Retry-After: 1\r\nConnection: close\r\nContent-Length: 158\r\n\r\n\
    {\"status\":\"error\",\"error\":{\"code\":\"TOO_MANY_REQUESTS\",\"message\":\"too many connections\",\
    \"details\":{},\"hint\":\"close idle connections, or wait\",\"request_id\":\"\"}}";

/// Where to listen. Nothing at all is refused.
#[derive(Debug, Default)]
pub struct ListenOptions {
    pub socket: Option<SocketOptions>,
    /// Loopback alone, until access control exists.
    pub tcp: Option<SocketAddr>,
    /// Listening sockets that the service manager has opened; they replace `socket`.
    pub inherited: Vec<OwnedFd>,
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Bound listeners that nobody is served on yet.
pub struct Server {
    listeners: Vec<Listener>,
    socket: Option<BoundSocket>,
    addresses: Vec<String>,
    tcp: Option<SocketAddr>,
}

impl Server {
    /// Binds everything. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Kind::Config`], naming the socket or the address and what is wrong with it.
    pub fn bind(options: ListenOptions) -> Result<Server> {
        let mut server =
            Server { listeners: Vec::new(), socket: None, addresses: Vec::new(), tcp: None };
        let inherited = !options.inherited.is_empty();
        for descriptor in options.inherited {
            server.adopt(descriptor)?;
        }
        if let Some(socket) = options.socket.filter(|_| !inherited) {
            let (listener, bound) = bind_socket(&socket)?;
            server.addresses.push(format!("unix:{}", bound.path().display()));
            server.socket = Some(bound);
            server.add_unix(listener)?;
        }
        if let Some(address) = options.tcp {
            server.bind_tcp(address)?;
        }
        if server.listeners.is_empty() {
            return Err(Error::new(Kind::Config, "there is nothing to listen on")
                .with_hint("set [server] socket or [server] port"));
        }
        Ok(server)
    }

    fn bind_tcp(&mut self, address: SocketAddr) -> Result<()> {
        if !address.ip().is_loopback() {
            return Err(Error::new(Kind::Config, format!("{address} is not a loopback address"))
                .with_hint("without access control TCP is served on loopback only"));
        }
        let failed = |error: io::Error| {
            let what = if error.kind() == io::ErrorKind::AddrInUse {
                "another program listens there".to_owned()
            } else {
                error.to_string()
            };
            Error::new(Kind::Config, format!("cannot listen on {address}: {what}"))
                .with_source(error)
        };
        let listener = std::net::TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        self.addresses.push(format!("http://{local}"));
        self.tcp = Some(local);
        self.listeners.push(Listener::Tcp(TcpListener::from_std(listener).map_err(failed)?));
        Ok(())
    }

    fn add_unix(&mut self, listener: std::os::unix::net::UnixListener) -> Result<()> {
        let failed = |error: io::Error| {
            Error::new(Kind::Config, "cannot listen on the socket").with_source(error)
        };
        listener.set_nonblocking(true).map_err(failed)?;
        self.listeners.push(Listener::Unix(UnixListener::from_std(listener).map_err(failed)?));
        Ok(())
    }

    fn adopt(&mut self, descriptor: OwnedFd) -> Result<()> {
        let refuse =
            |what: &str| Error::new(Kind::Config, format!("the inherited descriptor {what}"));
        let address: SocketAddrKind = getsockname::<SockaddrStorage>(descriptor.as_raw_fd())
            .map_err(|error| refuse("is no socket").with_source(error))?
            .family()
            .into();
        match address {
            SocketAddrKind::Unix => {
                let listener = std::os::unix::net::UnixListener::from(descriptor);
                let local = listener.local_addr().ok();
                let path = local.as_ref().and_then(|local| local.as_pathname());
                let path =
                    path.map_or_else(|| "inherited".into(), |path| path.display().to_string());
                self.addresses.push(format!("unix:{path}"));
                self.add_unix(listener)
            }
            SocketAddrKind::Tcp => {
                let listener = std::net::TcpListener::from(descriptor);
                let local =
                    listener.local_addr().map_err(|e| refuse("has no address").with_source(e))?;
                if !local.ip().is_loopback() {
                    return Err(refuse("does not listen on loopback alone"));
                }
                let prepared = listener
                    .set_nonblocking(true)
                    .and_then(|()| TcpListener::from_std(listener))
                    .map_err(|error| refuse("cannot be used").with_source(error))?;
                self.addresses.push(format!("http://{local}"));
                self.tcp = Some(local);
                self.listeners.push(Listener::Tcp(prepared));
                Ok(())
            }
            SocketAddrKind::Other => Err(refuse("is neither a Unix nor a TCP socket")),
        }
    }

    /// What is listened on, to be announced: `unix:/run/vapor/vapor.sock`, `http://127.0.0.1:8080`.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The address on TCP, with the port that was chosen if 0 was asked for.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// Serves until `core.stopping` is cancelled, then drains for up to the limits' grace: open
    /// requests and mutations may finish. Returns how many connections had to be cut.
    pub async fn serve(self, router: Router, core: Arc<Core>) -> usize {
        let connections = TaskTracker::new();
        let cut = CancellationToken::new();
        let names = Arc::new(Names::default());
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let mut accepting = tokio::task::JoinSet::new();
        for listener in self.listeners {
            let shared = Shared {
                router: router.clone(),
                core: core.clone(),
                connections: connections.clone(),
                cut: cut.clone(),
                names: names.clone(),
                places: Places::default(),
                refusals: refusals.clone(),
            };
            accepting.spawn(accept(listener, shared));
        }
        while accepting.join_next().await.is_some() {}
        drop(self.socket);
        connections.close();
        core.mutations.close();
        let drained = async {
            core.mutations.wait().await;
            connections.wait().await;
        };
        if tokio::time::timeout(core.limits().grace, drained).await.is_ok() {
            return 0;
        }
        let left = connections.len();
        tracing::warn!(connections = left, "connections are cut after the grace period");
        cut.cancel();
        connections.wait().await;
        left
    }
}

enum SocketAddrKind {
    Unix,
    Tcp,
    Other,
}

impl From<Option<AddressFamily>> for SocketAddrKind {
    fn from(family: Option<AddressFamily>) -> Self {
        match family {
            Some(AddressFamily::Unix) => SocketAddrKind::Unix,
            Some(AddressFamily::Inet | AddressFamily::Inet6) => SocketAddrKind::Tcp,
            _ => SocketAddrKind::Other,
        }
    }
}

/// What the connections of one listener share.
#[derive(Clone)]
struct Shared {
    router: Router,
    core: Arc<Core>,
    connections: TaskTracker,
    cut: CancellationToken,
    names: Arc<Names>,
    places: Places,
    refusals: Arc<Semaphore>,
}

async fn accept(listener: Listener, shared: Shared) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.core.stopping.cancelled() => return,
            accepted = accept_one(&listener, &shared) => accepted,
        };
        if let Err(error) = accepted {
            // out of descriptors, or a client that has gone already: neither ends the daemon
            tracing::warn!(error = %error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn accept_one(listener: &Listener, shared: &Shared) -> io::Result<()> {
    match listener {
        Listener::Unix(listener) => {
            let (stream, _) = listener.accept().await?;
            // As much as the system allows, which is more than by default; a download then wakes its
            // client less often.
            if let Err(error) = setsockopt(&stream, SndBuf, &SEND_BUFFER) {
                tracing::debug!(%error, "a connection's socket keeps its size");
            }
            let uid = stream.peer_cred()?.uid();
            shared.admit(stream, Some(uid));
        }
        Listener::Tcp(listener) => {
            let (stream, peer) = listener.accept().await?;
            if !peer.ip().to_canonical().is_loopback() {
                return Ok(()); // cannot happen on a loopback listener
            }
            stream.set_nodelay(true)?;
            shared.admit(stream, None);
        }
    }
    Ok(())
}

impl Shared {
    /// Serves a connection if there is a place for it; else says so and hangs up.
    fn admit<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        uid: Option<u32>,
    ) {
        let shared = self.clone();
        match self.places.take(self.core.limits().max_connections) {
            Some(place) => {
                self.connections.spawn(async move {
                    let _place = place;
                    let _present = shared.core.meters.connection();
                    let principal = match uid {
                        Some(uid) => Principal::Local { uid, name: shared.names.of(uid).await },
                        None => Principal::Loopback,
                    };
                    tokio::select! {
                        () = shared.cut.cancelled() => {}
                        () = shared.serve(stream, principal) => {}
                    }
                });
            }
            None => {
                self.core.meters.refused();
                let Ok(place) = self.refusals.clone().try_acquire_owned() else { return };
                self.connections.spawn(async move {
                    let _place = place;
                    let _ = tokio::time::timeout(Duration::from_secs(1), turn_away(stream)).await;
                });
            }
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        principal: Principal,
    ) {
        let limits = self.core.limits();
        let opening = Connection::open(stream, limits.header_timeout, limits.stall_timeout);
        // A client that was let in just before the stop gets to say its request: behind a socket that
        // the service manager holds, nobody must notice a restart.
        let late = async {
            self.core.stopping.cancelled().await;
            tokio::time::sleep(LATECOMER).await;
        };
        let opened = tokio::select! {
            () = late => return,
            opened = opening => opened,
        };
        let (connection, protocol) = match opened {
            Ok((_, Protocol::Nothing)) => return,
            Ok(opened) => opened,
            Err(error) => return tracing::debug!(error = %error, "a connection said nothing"),
        };
        let io = TokioIo::new(connection);
        let peer = Peer(principal);
        let service = service_fn(|request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer.clone());
            let answer = self.router.clone().oneshot(request);
            async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
        });
        let result = if protocol == Protocol::Http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(MAX_STREAMS)
                .max_header_list_size(MAX_HEADER_BYTES as u32)
                .keep_alive_interval(Duration::from_secs(20))
                .keep_alive_timeout(limits.header_timeout);
            let served = std::pin::pin!(builder.serve_connection(io, service));
            until_stopping(served, &self.core.stopping, |served| served.graceful_shutdown()).await
        } else {
            let mut builder = http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_timeout)
                .max_headers(MAX_HEADERS)
                .max_buf_size(READ_BUFFER)
                .half_close(true);
            let served = std::pin::pin!(builder.serve_connection(io, service));
            until_stopping(served, &self.core.stopping, |served| served.graceful_shutdown()).await
        };
        if let Err(error) = result {
            tracing::debug!(error = ?error, "a connection ended badly");
        }
    }
}

/// How many connections of a listener are open. A bound that becomes lower cuts nobody off.
#[derive(Clone, Default)]
struct Places(Arc<AtomicUsize>);

impl Places {
    /// A place if fewer than `bound` are taken. It is free again when it is dropped.
    fn take(&self, bound: usize) -> Option<Place> {
        let one_more = |taken: usize| (taken < bound).then_some(taken + 1);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.ok().map(|_| Place(self.0.clone()))
    }
}

struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Drives a connection; once the daemon stops, it is told to take no further request.
async fn until_stopping<C: Future<Output = hyper::Result<()>>>(
    mut connection: std::pin::Pin<&mut C>,
    stopping: &CancellationToken,
    shut_down: impl FnOnce(std::pin::Pin<&mut C>),
) -> hyper::Result<()> {
    tokio::select! {
        // What was said already is heard first; hyper closes a connection that it has not looked at.
        biased;
        result = connection.as_mut() => return result,
        () = stopping.cancelled() => {}
    }
    shut_down(connection.as_mut());
    connection.await
}

/// Tells one client too many so, and reads what it says so that it gets to see the reply.
async fn turn_away<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    stream.write_all(REFUSAL).await?;
    stream.shutdown().await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await.map(|_| ())
}

/// Names of users, asked of the system once each: the name service may be slow.
#[derive(Default)]
struct Names(Mutex<HashMap<u32, Option<String>>>);

impl Names {
    async fn of(&self, uid: u32) -> Option<String> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&uid).cloned();
        if let Some(name) = known {
            return name;
        }
        let asking = tokio::task::spawn_blocking(move || User::from_uid(Uid::from_raw(uid)));
        match tokio::time::timeout(Duration::from_secs(2), asking).await {
            Ok(Ok(Ok(user))) => {
                let name = user.map(|user| user.name);
                let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(uid, name.clone());
                name
            }
            // asked again with the next connection
            Ok(Ok(Err(_)) | Err(_)) | Err(_) => None,
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
