//! The whole daemon in this process, on a world of libvirt's test driver of its own, and a client
//! that speaks to it over its Unix socket.
//!
//! The world: `web1` runs, `web2` is shut off, `db1` is paused; the network `default`; the pool
//! `default` with the volume `a.qcow2`.

#![allow(dead_code)] // each test binary uses another part

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::UnixStream;
use vapor::api::server::{ListenOptions, Server};
use vapor::api::socket::SocketOptions;
use vapor::api::{Api, Core, Limits};
use vapor::bus::Bus;
use vapor::config::DomainType;
use vapor::libvirt::{Hypervisor, HypervisorConfig};
use vapor::service::gate::Gate;
use vapor::service::inventory::Inventory;
use vapor::service::{
    HostService, NetworkService, Services, StorageService, TaskService, VmService,
};
use vapor::store::{Store, StoreOptions};

pub const V: &str = "/api/v1/virtualization/virtualmachines";
pub const WEB1: &str = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0";

pub const NODE: &str = r#"<node>
  <cpu><mhz>2400</mhz><model>x86_64</model><active>4</active><nodes>1</nodes>
    <sockets>1</sockets><cores>4</cores><threads>1</threads></cpu>
  <memory>8388608</memory>
  <domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
    <name>web1</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa0</uuid>
    <memory>524288</memory><currentMemory>262144</currentMemory><vcpu current="1">2</vcpu>
    <os><type>hvm</type></os>
  </domain>
  <domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
    <name>web2</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa1</uuid>
    <memory>1048576</memory><vcpu>4</vcpu>
    <os><type>hvm</type></os>
    <test:runstate>5</test:runstate>
  </domain>
  <domain type="test" xmlns:test="http://libvirt.org/schemas/domain/test/1.0">
    <name>db1</name><uuid>4dea22b3-1d52-d8f3-2516-782e98ab3fa2</uuid>
    <memory>1048576</memory><vcpu>1</vcpu>
    <os><type>hvm</type></os>
    <test:runstate>3</test:runstate>
  </domain>
  <network><name>default</name><uuid>dd8fe884-6c02-601e-7551-cca97df1c5df</uuid>
    <bridge name="virbr0"/><forward/>
    <ip address="192.168.122.1" netmask="255.255.255.0">
      <dhcp><range start="192.168.122.2" end="192.168.122.254"/></dhcp></ip></network>
  <pool type="dir"><name>default</name><uuid>dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566</uuid>
    <target><path>/pool/default</path></target>
    <volume><name>a.qcow2</name><capacity>1000000</capacity><allocation>50000</allocation>
      <target><path>/pool/default/a.qcow2</path><format type="qcow2"/></target></volume></pool>
</node>"#;

/// A daemon that lives as long as this.
pub struct Daemon {
    pub core: Arc<Core>,
    pub services: Services,
    pub socket: PathBuf,
    pub tcp: SocketAddr,
    store: Store,
    hypervisor: Hypervisor,
    served: tokio::task::JoinHandle<usize>,
    folder: TempDir,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The `data` of a success.
    #[track_caller]
    pub fn data(&self) -> Value {
        let body = self.json();
        assert_eq!(body["status"], "success", "{} {body}", self.status);
        body["data"].clone()
    }

    /// The `error.code` of a failure.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// A header's text; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Fails unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status.as_u16(), status, "{text}");
        self
    }
}

impl Daemon {
    /// A daemon on [`NODE`].
    pub async fn start() -> Daemon {
        Daemon::with(NODE, Limits::default()).await
    }

    /// A daemon on another world, or with other limits.
    pub async fn with(node: &str, limits: Limits) -> Daemon {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.xml");
        std::fs::write(&path, node).expect("the node file");
        let uri = format!("test://{}", path.display());
        let (hypervisor, events) =
            Hypervisor::start(HypervisorConfig::new(uri)).expect("libvirt's threads");
        let store = Store::open(&folder.path().join("vapor.db"), StoreOptions::default())
            .expect("the database");
        let (bus, gate) = (Bus::new(store.clone()), Gate::default());
        let (inventory, hints) = Inventory::start(
            hypervisor.clone(),
            events,
            store.clone(),
            bus.clone(),
            gate.clone(),
            Duration::from_secs(30),
        )
        .await
        .expect("the inventory");
        tokio::spawn(vapor::service::runtime::run(inventory.clone(), hypervisor.clone(), hints));
        let tasks = TaskService::new(store.clone());
        let services = Services {
            vms: VmService::new(
                inventory.clone(),
                hypervisor.clone(),
                tasks.clone(),
                gate.clone(),
                DomainType::Auto,
            ),
            storage: StorageService::new(
                inventory.clone(),
                hypervisor.clone(),
                tasks.clone(),
                gate.clone(),
            ),
            networks: NetworkService::new(inventory.clone()),
            host: HostService::new(
                inventory.clone(),
                hypervisor.clone(),
                store.clone(),
                tasks.clone(),
                gate,
            ),
            tasks,
            bus,
        };
        assert!(inventory.filled(Duration::from_secs(20)).await, "a picture of the world");

        let socket = folder.path().join("vapor.sock");
        let server = Server::bind(ListenOptions {
            socket: Some(SocketOptions { path: socket.clone(), mode: 0o600, group: None }),
            tcp: Some(([127, 0, 0, 1], 0).into()),
            inherited: Vec::new(),
        })
        .expect("the listeners");
        let tcp = server.tcp_address().expect("an address");
        let core = vapor::api::core(limits);
        let router = vapor::api::router(Api::new(core.clone(), services.clone()));
        let served = tokio::spawn(server.serve(router, core.clone(), Duration::from_secs(5)));
        Daemon { core, services, socket, tcp, store, hypervisor, served, folder }
    }

    /// The folder of the database and the node file.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops it, and says how many connections had to be cut.
    pub async fn stop(self) -> usize {
        self.core.stopping.cancel();
        let cut = self.served.await.expect("the server ends");
        self.services.tasks.stop(Duration::from_secs(5)).await;
        self.services.bus.close();
        self.hypervisor.stop().await;
        self.store.close().await;
        cut
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, &[], "").await
    }

    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.send(Method::GET, path, headers, "").await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.json(Method::POST, path, &[], body).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        self.json(Method::PATCH, path, &[], body).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, &[], "").await
    }

    /// A request with a JSON body.
    pub async fn json(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> Reply {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        self.send(method, path, &all, &body.to_string()).await
    }

    /// Any request, over the Unix socket, on a connection of its own.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path).header("host", "vapor");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        self.raw(request.body(body).expect("a request")).await
    }

    /// A request as it is.
    pub async fn raw(&self, request: Request<Full<Bytes>>) -> Reply {
        let stream = UnixStream::connect(&self.socket).await.expect("the socket");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let reply = sender.send_request(request).await.expect("a reply");
        let (parts, body) = reply.into_parts();
        let body = body.collect().await.expect("the whole reply").to_bytes();
        Reply { status: parts.status, headers: parts.headers, body }
    }
}
