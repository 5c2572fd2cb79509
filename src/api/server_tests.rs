//! Connections as bad clients make them, against a router of three paths.

use std::path::{Path, PathBuf};

use axum::Extension;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::super::state::Limits;
use super::*;

struct Running {
    core: Arc<Core>,
    path: PathBuf,
    tcp: SocketAddr,
    served: JoinHandle<usize>,
    _folder: tempfile::TempDir,
}

fn start(limits: Limits) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vapor.sock");
    let socket = Some(SocketOptions { path: path.clone(), mode: 0o600, group: None });
    let options =
        ListenOptions { socket, tcp: Some(([127, 0, 0, 1], 0).into()), inherited: Vec::new() };
    let server = Server::bind(options).unwrap();
    let tcp = server.tcp_address().unwrap();
    let core = Arc::new(Core::new(Limits { grace: Duration::from_secs(2), ..limits }));
    let router = Router::new()
        .route("/who", get(|Extension(peer): Extension<Peer>| async move { peer.0.to_string() }))
        .route("/big", get(|| async { "x".repeat(8 << 20) }))
        .route(
            "/slow",
            get(|| async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                "done"
            }),
        );
    let served = tokio::spawn(server.serve(router, core.clone()));
    Running { core, path, tcp, served, _folder: folder }
}

fn brisk() -> Limits {
    Limits {
        header_timeout: Duration::from_millis(200),
        stall_timeout: Duration::from_millis(200),
        ..Limits::default()
    }
}

async fn ask(path: &Path, text: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply
}

const CLOSE: &str = " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn the_kernel_tells_who_is_at_the_socket_and_nobody_who_is_on_tcp() {
    let running = start(brisk());
    let reply = ask(&running.path, &format!("GET /who{CLOSE}")).await;
    let uid = nix::unistd::geteuid();
    let name = User::from_uid(uid).unwrap().map_or(uid.to_string(), |user| user.name);
    assert!(reply.ends_with(&format!("unix:{name}")), "{reply}");

    let mut stream = TcpStream::connect(running.tcp).await.unwrap();
    stream.write_all(format!("GET /who{CLOSE}").as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.ends_with("tcp:loopback"), "{reply}");
}

#[tokio::test]
async fn a_client_that_dawdles_with_its_head_is_hung_up_on() {
    let running = start(brisk());
    for beginning in ["", "GET /who HTTP/1.1\r\nHos", "PRI * HTTP/2.0\r\n"] {
        let mut stream = UnixStream::connect(&running.path).await.unwrap();
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut reply = Vec::new();
        let ended = stream.read_to_end(&mut reply);
        tokio::time::timeout(Duration::from_secs(2), ended).await.expect("hung up").unwrap();
    }
}

#[tokio::test]
async fn a_client_that_never_reads_its_reply_is_hung_up_on() {
    let running = start(brisk());
    let mut stream = UnixStream::connect(&running.path).await.unwrap();
    stream.write_all(format!("GET /big{CLOSE}").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    assert!(reply.len() < 8 << 20, "the reply was cut");
}

#[tokio::test]
async fn a_client_that_has_closed_its_half_still_gets_its_reply() {
    let running = start(brisk());
    let mut stream = UnixStream::connect(&running.path).await.unwrap();
    stream.write_all(format!("GET /slow{CLOSE}").as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.ends_with("done"), "{reply}");
}

#[tokio::test]
async fn what_is_no_http_is_answered_with_400_and_heads_without_end_with_431() {
    let running = start(brisk());
    assert!(ask(&running.path, "\u{16}\u{3}\u{1}\r\n\r\n").await.starts_with("HTTP/1.1 400"));
    let long = format!("GET /who HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(300_000));
    let mut stream = UnixStream::connect(&running.path).await.unwrap();
    let _ = stream.write_all(long.as_bytes()).await;
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply).await;
    assert!(reply.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&reply));
}

#[tokio::test]
async fn one_client_too_many_is_told_so() {
    let running = start(Limits { max_connections: 1, ..Limits::default() });
    let mut first = UnixStream::connect(&running.path).await.unwrap();
    first.write_all(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut buffer = [0; 1024];
    assert!(first.read(&mut buffer).await.unwrap() > 0);

    let reply = ask(&running.path, &format!("GET /who{CLOSE}")).await;
    assert!(reply.starts_with("HTTP/1.1 429"), "{reply}");
    assert!(reply.contains("\r\nRetry-After: 1\r\n"), "{reply}");
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());

    drop(first);
    for _ in 0..50 {
        if ask(&running.path, &format!("GET /who{CLOSE}")).await.starts_with("HTTP/1.1 200") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place did not become free");
}

#[tokio::test]
async fn stopping_lets_requests_finish_and_removes_the_socket() {
    let running = start(Limits::default());
    let idle = UnixStream::connect(&running.path).await.unwrap();
    let path = running.path.clone();
    let asking =
        tokio::spawn(async move { ask(&path, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    running.core.stopping.cancel();
    let reply = asking.await.unwrap();
    assert!(reply.ends_with("done"), "{reply}");
    assert_eq!(running.served.await.unwrap(), 0, "nothing was cut");
    assert!(!running.path.exists());
    drop(idle);
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_spoken_too() {
    let running = start(brisk());
    let stream = UnixStream::connect(&running.path).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let driver = tokio::spawn(connection);
    let ask = |path: &str| Request::builder().uri(format!("http://x{path}")).body(Body::empty());
    let slow = sender.send_request(ask("/slow").unwrap());
    let mut again = sender.clone();
    let who = again.send_request(ask("/who").unwrap());
    let (slow, who) = tokio::join!(slow, who);
    assert_eq!(
        (slow.unwrap().status(), who.unwrap().status()),
        (200.try_into().unwrap(), 200.try_into().unwrap())
    );
    drop((sender, again));
    running.core.stopping.cancel();
    assert_eq!(running.served.await.unwrap(), 0, "nothing was cut");
    let _ = driver.await;
}

#[tokio::test]
async fn tcp_beyond_loopback_is_refused() {
    let options = ListenOptions { tcp: Some(([0, 0, 0, 0], 0).into()), ..Default::default() };
    assert!(Server::bind(options).err().unwrap().message().contains("not a loopback"));
    assert!(Server::bind(ListenOptions::default()).is_err());
}

#[tokio::test]
async fn a_client_let_in_just_before_the_stop_is_answered() {
    let running = start(brisk());
    let mut stream = UnixStream::connect(&running.path).await.unwrap();
    // Its place is taken: the server has accepted it, and waits for it to speak.
    tokio::time::timeout(Duration::from_secs(5), async {
        let counted = |text: &str| text.contains("\nvapor_http_connections 1\n");
        let mut metrics = String::new();
        while !counted(&metrics) {
            tokio::time::sleep(Duration::from_millis(1)).await;
            metrics.clear();
            running.core.meters.write(&mut metrics);
        }
    })
    .await
    .unwrap();
    running.core.stopping.cancel();
    stream.write_all(format!("GET /who{CLOSE}").as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply:?}");
    assert_eq!(running.served.await.unwrap(), 0);
}

#[tokio::test]
async fn limits_that_change_hold_for_the_next_connection() {
    let running = start(Limits { max_connections: 1, ..Limits::default() });
    let first = UnixStream::connect(&running.path).await.unwrap();
    assert!(ask(&running.path, &format!("GET /who{CLOSE}")).await.starts_with("HTTP/1.1 429"));
    running.core.set_limits(Limits { max_connections: 2, ..Limits::default() });
    assert!(ask(&running.path, &format!("GET /who{CLOSE}")).await.starts_with("HTTP/1.1 200"));
    drop(first);
}

#[tokio::test]
async fn a_descriptor_from_the_service_manager_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inherited.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let inherited = vec![OwnedFd::from(listener)];
    let server = Server::bind(ListenOptions { inherited, ..Default::default() }).unwrap();
    let router = Router::new().route("/", get(|| async { "here" }));
    tokio::spawn(server.serve(router, Arc::default()));
    assert!(ask(&path, &format!("GET /{CLOSE}")).await.ends_with("here"));
}
