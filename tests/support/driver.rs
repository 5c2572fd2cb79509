//! A whole daemon in this process on libvirt's test driver, and an HTTP client for it.
//!
//! Each [`World`] has a folder, a node file (and with it a libvirt of its own), a database and a Unix
//! socket of its own, so any number may run beside each other.

#![allow(dead_code)] // each test binary uses its part

#[path = "journal.rs"]
pub mod journal;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use uuid::Uuid;
use vapor::config::Config;
use vapor::daemon::Daemon;

/// Virtual machines in the API.
pub const VMS: &str = "/api/v1/virtualization/virtualmachines";
/// Storage pools in the API.
pub const POOLS: &str = "/api/v1/virtualization/storages/pools";

/// Long enough for a busy machine; a test that waits this long fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// `web1` runs with room to grow, `web2` is stopped and labelled, `db1` is paused; the networks
/// `default` (active) and `lab`; the pool `default` with four volumes (one a base of another, one
/// a disk of `web2`), and the pool `images`.
pub const NODE: &str = r#"<node>
  <cpu><mhz>2400</mhz><model>x86_64</model><active>4</active><nodes>1</nodes>
    <sockets>1</sockets><cores>4</cores><threads>1</threads></cpu>
  <memory>8388608</memory>
  <domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
    <name>web1</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
    <memory>524288</memory><currentMemory>262144</currentMemory><vcpu current="1">2</vcpu>
    <os><type>hvm</type><boot dev="hd"/></os>
    <devices>
      <disk type="file" device="disk"><driver name="qemu" type="qcow2"/>
        <source file="/pool/default/shared.qcow2"/><target dev="vda" bus="virtio"/>
        <readonly/></disk>
      <interface type="network"><mac address="52:54:00:00:00:01"/>
        <source network="default"/><model type="virtio"/></interface>
    </devices>
  </domain>
  <domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
    <name>web2</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa1</uuid>
    <metadata><vapor:vm xmlns:vapor="urn:vapor:vm:1">
      <vapor:label key="env" value="prod"/><vapor:label key="tier" value="web"/>
    </vapor:vm></metadata>
    <memory>1048576</memory><vcpu>4</vcpu>
    <os><type>hvm</type></os>
    <devices>
      <disk type="file" device="disk"><driver name="qemu" type="qcow2"/>
        <source file="/pool/default/web2.qcow2"/><target dev="vda" bus="virtio"/></disk>
    </devices>
    <test:runstate>5</test:runstate>
  </domain>
  <domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
    <name>db1</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa2</uuid>
    <metadata><vapor:vm xmlns:vapor="urn:vapor:vm:1">
      <vapor:label key="tier" value="db"/>
    </vapor:vm></metadata>
    <memory>2097152</memory><vcpu>1</vcpu>
    <os><type>hvm</type></os>
    <test:runstate>3</test:runstate>
  </domain>
  <network><name>default</name><uuid>dd8fe884-6c02-601e-7551-cca97df1c5df</uuid>
    <bridge name="virbr0"/><forward/>
    <ip address="192.168.122.1" netmask="255.255.255.0">
      <dhcp><range start="192.168.122.2" end="192.168.122.254"/></dhcp></ip></network>
  <network><name>lab</name><uuid>dd8fe884-6c02-601e-7551-cca97df1c5d0</uuid>
    <bridge name="virbr1"/></network>
  <pool type="dir"><name>default</name><uuid>dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566</uuid>
    <target><path>/pool/default</path></target>
    <volume><name>base.qcow2</name><capacity>2147483648</capacity><allocation>50000</allocation>
      <target><path>/pool/default/base.qcow2</path><format type="qcow2"/></target></volume>
    <volume><name>shared.qcow2</name><capacity>1073741824</capacity><allocation>50000</allocation>
      <target><path>/pool/default/shared.qcow2</path><format type="qcow2"/></target></volume>
    <volume><name>web2.qcow2</name><capacity>1073741824</capacity><allocation>50000</allocation>
      <target><path>/pool/default/web2.qcow2</path><format type="qcow2"/></target></volume>
    <volume><name>cd.iso</name><capacity>2000000</capacity><allocation>2000000</allocation>
      <target><path>/pool/default/cd.iso</path><format type="iso"/></target></volume></pool>
  <pool type="dir"><name>images</name><uuid>dfe224cb-28fb-8dd0-c4b2-64eb3f0f4567</uuid>
    <target><path>/pool/images</path></target></pool>
</node>"#;

pub const WEB1: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";
pub const WEB2: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa1";

/// A daemon that serves, and where.
pub struct World {
    pub daemon: Daemon,
    socket: PathBuf,
    folder: TempDir,
}

impl World {
    /// A daemon on [`NODE`].
    pub async fn new() -> World {
        World::on(NODE).await
    }

    /// A daemon on this node.
    pub async fn on(node: &str) -> World {
        World::with(node, "").await
    }

    /// A daemon on this node; `config` is added to the `[libvirt]` part of its configuration, and
    /// may open further parts.
    pub async fn with(node: &str, config: &str) -> World {
        World::start(folder(node), config).await
    }

    async fn start(folder: TempDir, config: &str) -> World {
        let config = configuration(folder.path(), config);
        let daemon = Daemon::start(&config).await.expect("the daemon starts");
        World { daemon, socket: config.server.socket, folder }
    }

    /// Stops the daemon and starts another one on the same folder: the same database, and a fresh
    /// libvirt of the same node file.
    pub async fn restarted(self, config: &str) -> World {
        self.daemon.stop().await;
        World::start(self.folder, config).await
    }

    /// The same, with something done to the folder while no daemon has it.
    pub async fn restarted_after(self, meanwhile: impl AsyncFnOnce(&Path)) -> World {
        self.daemon.stop().await;
        meanwhile(self.folder.path()).await;
        World::start(self.folder, "").await
    }

    /// The task when it has ended.
    pub async fn ended(&self, task: Uuid) -> Value {
        self.get(&format!("/api/v1/tasks/{task}?wait=30")).await.expect(200)
    }

    /// Stops the daemon.
    pub async fn stop(self) {
        self.daemon.stop().await;
    }

    /// The folder of the node file, the database and the socket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, &[], Some(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::PUT, path, &[], Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::PATCH, path, &[], Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &[], None).await
    }

    /// One action on a VM.
    pub async fn act(&self, vm: &str, body: &Value) -> Reply {
        self.post(&format!("{VMS}/{vm}/action"), body).await
    }

    /// A request on a connection of its own.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Reply {
        let body = body.map(|body| ("application/json", body.to_string()));
        self.request(method, path, headers, body).await
    }

    /// A request with a body of any type.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<(&str, String)>,
    ) -> Reply {
        let what = format!("{method} {path}");
        let exchange =
            async { Reply::of(what, open(&self.socket, method, path, headers, body).await).await };
        tokio::time::timeout(PATIENCE, exchange).await.expect("a reply in time")
    }

    /// A request from loopback to the port that the daemon was given (`port = …` in its
    /// configuration), where nobody knows who asks.
    pub async fn from_loopback(
        port: u16,
        method: Method,
        path: &str,
        body: (&str, String),
    ) -> Reply {
        let what = format!("{method} {path}");
        let request = async {
            let connection = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
            Reply::of(what, exchange(connection, method, path, &[], Some(body)).await).await
        };
        tokio::time::timeout(PATIENCE, request).await.expect("a reply in time")
    }

    /// A stream of events.
    pub async fn stream(&self, query: &str, headers: &[(&str, &str)]) -> Stream {
        let mut all = vec![("accept", "text/event-stream")];
        all.extend_from_slice(headers);
        let path = format!("/api/v1/events{query}");
        let response = open(&self.socket, Method::GET, &path, &all, None).await;
        assert_eq!(response.status(), 200, "GET {path}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Stream { body: response.into_body(), text: String::new() }
    }

    /// Asks again until `wanted` is content with the reply's `data`.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let data = self.get(path).await.data();
            if wanted(&data) {
                return data;
            }
            assert!(begun.elapsed() < PATIENCE, "GET {path} stays {data:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// One VM as it is now.
    pub async fn vm(&self, id: &str) -> Value {
        self.get(&format!("{VMS}/{id}")).await.data()
    }

    /// The state of a VM.
    pub async fn state(&self, id: &str) -> String {
        text(&self.vm(id).await["state"])
    }

    /// The task of a reply with status 202, as soon as it has finished.
    pub async fn finished(&self, reply: &Reply) -> Value {
        assert_eq!(reply.status, 202, "{reply}");
        let id = text(&reply.data()["task"]["id"]);
        self.get(&format!("/api/v1/tasks/{id}?wait=30")).await.data()
    }
}

fn folder(node: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("node.xml"), node).expect("the node file is written");
    folder
}

/// The configuration of a daemon in this folder, read from a file as the daemon reads it.
pub fn configuration(folder: &Path, more: &str) -> Config {
    let shown = folder.display();
    let uri = match more.contains("uri =") {
        true => String::new(),
        false => format!("uri = \"test://{shown}/node.xml\"\n"),
    };
    // A line of the server's own.
    let (port, more): (Vec<&str>, Vec<&str>) =
        more.lines().partition(|line| line.starts_with("port = "));
    let (port, more) = (port.join("\n"), more.join("\n"));
    let text = format!(
        "[server]\nsocket = \"{shown}/vapor.sock\"\n{port}\n[database]\npath = \"{shown}/vapor.db\"\n\
         synchronous = \"normal\"\n[libvirt]\n{uri}{more}\n"
    );
    let path = folder.join("vapor.conf");
    std::fs::write(&path, text).expect("the configuration is written");
    Config::load(Some(&path)).expect("the configuration is valid")
}

async fn open(
    socket: &Path,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<(&str, String)>,
) -> http::Response<hyper::body::Incoming> {
    let connection = UnixStream::connect(socket).await.expect("the daemon listens");
    exchange(connection, method, path, headers, body).await
}

async fn exchange(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<(&str, String)>,
) -> http::Response<hyper::body::Incoming> {
    let (mut client, driver) = hyper::client::conn::http1::handshake(TokioIo::new(connection))
        .await
        .expect("a connection");
    tokio::spawn(driver);
    let mut request = http::Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = match body {
        Some((media, text)) => {
            request = request.header("content-type", media);
            Bytes::from(text)
        }
        None => Bytes::new(),
    };
    let request = request.body(Full::new(body)).expect("a request");
    client.send_request(request).await.expect("a reply")
}

/// A reply.
#[derive(Clone, Debug)]
pub struct Reply {
    what: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} {}", self.what, self.status, String::from_utf8_lossy(&self.body))
    }
}

impl Reply {
    async fn of(what: String, response: http::Response<hyper::body::Incoming>) -> Reply {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole reply").to_bytes();
        Reply { what, status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// The body.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// `data` of a success.
    pub fn data(&self) -> Value {
        let mut json = self.json();
        assert_eq!(json["status"], "success", "{self}");
        json["data"].take()
    }

    /// `data` of a reply that must have this status.
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self}");
        if self.body.is_empty() { Value::Null } else { self.data() }
    }

    /// `error` of a failure.
    pub fn error(&self) -> Value {
        let mut json = self.json();
        assert_eq!(json["status"], "error", "{self}");
        json["error"].take()
    }

    /// Fails unless the reply has this status and this error code; returns the error.
    pub fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self}");
        let error = self.error();
        assert_eq!(error["code"], code, "{self}");
        for part in ["message", "hint", "request_id"] {
            assert!(error[part].as_str().is_some_and(|text| !text.is_empty()), "{part} of {self}");
        }
        error
    }

    /// The paths of the fields that an error complains about.
    pub fn fields(&self) -> Vec<String> {
        let error = self.error();
        let fields = error["details"]["fields"].as_array().cloned().unwrap_or_default();
        fields.iter().map(|entry| text(&entry["field"])).collect()
    }

    /// A header's text; empty if it is not there.
    pub fn header(&self, name: &str) -> String {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    }

    /// One field of every object of a list.
    pub fn column(&self, noun: &str, field: &str) -> Vec<Value> {
        let data = self.expect(200);
        let items = data[noun].as_array().unwrap_or_else(|| panic!("no {noun} in {self}")).clone();
        assert_eq!(data["count"], items.len(), "{self}");
        items.iter().map(|item| item[field].clone()).collect()
    }
}

/// A text in a reply.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

/// A stream of server-sent events.
pub struct Stream {
    body: hyper::body::Incoming,
    text: String,
}

/// One event of a stream.
#[derive(Clone, Debug)]
pub struct Sent {
    pub id: Option<u64>,
    pub event: String,
    pub data: Value,
}

impl Stream {
    /// The next event; comments are passed over.
    pub async fn next(&mut self) -> Sent {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("an event in time")
    }

    /// The next event that `wanted` accepts.
    pub async fn find(&mut self, wanted: impl Fn(&Sent) -> bool) -> Sent {
        loop {
            let sent = self.next().await;
            if wanted(&sent) {
                return sent;
            }
        }
    }

    /// Whether the stream ends, whatever still comes before.
    pub async fn ends(&mut self) -> bool {
        let end = async { while let Some(Ok(_)) = self.body.frame().await {} };
        tokio::time::timeout(PATIENCE, end).await.is_ok()
    }

    async fn read(&mut self) -> Sent {
        loop {
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| {
                    block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
                };
                if let Some(data) = field("data:") {
                    return Sent {
                        id: field("id:").and_then(|id| id.parse().ok()),
                        event: field("event:").unwrap_or("message").to_owned(),
                        data: serde_json::from_str(data).expect("events are JSON"),
                    };
                }
            }
            let frame = self.body.frame().await.expect("the stream goes on").expect("a frame");
            if let Some(data) = frame.data_ref() {
                self.text.push_str(std::str::from_utf8(data).expect("events are UTF-8"));
            }
        }
    }
}
