//! Wiring: what starts in which order, what stops in which order, and what is done when.
//!
//! ```text
//!   start:  sockets bound ▸ database opened ▸ libvirt's threads ▸ picture ▸ tasks adopted ▸ serve
//!   stop:   no new work ▸ waits parked, requests drained ▸ libvirt closed ▸ database closed
//! ```
//!
//! Sockets are bound first, so that a second daemon is refused before it touches the database, and
//! so that a client that connects early waits instead of failing.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;

use crate::api::server::{ListenOptions, Server};
use crate::api::socket::SocketOptions;
use crate::api::{self, Api, Core, Limits};
use crate::bus::Bus;
use crate::config::Config;
use crate::error::Result;
use crate::libvirt::{Hypervisor, HypervisorConfig};
use crate::service::gate::Gate;
use crate::service::inventory::Inventory;
use crate::service::{
    HostService, NetworkService, Services, StorageService, TaskService, VmService, runtime,
};
use crate::store::{Store, StoreOptions};
use crate::systemd;

/// How long a start waits for the first picture before it serves without one.
const FIRST_PICTURE: Duration = Duration::from_secs(5);

/// How often old tasks, events and idempotency keys are removed.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// A daemon that serves.
pub struct Daemon {
    pub services: Services,
    addresses: Vec<String>,
    tcp: Option<std::net::SocketAddr>,
    core: Arc<Core>,
    serving: JoinHandle<usize>,
    background: Vec<JoinHandle<()>>,
    inventory: Inventory,
    hypervisor: Hypervisor,
    store: Store,
    bus: Bus,
    drain: Duration,
}

impl Daemon {
    /// Starts everything; returns when the daemon serves.
    ///
    /// # Errors
    /// What cannot be bound or opened, with what to do about it. A libvirt that does not answer is
    /// no error: reads then say that nothing is known yet, and the connection comes by itself.
    pub async fn start(config: &Config) -> Result<Daemon> {
        let inherited = systemd::take_listeners()?;
        let server = Server::bind(ListenOptions {
            socket: Some(SocketOptions {
                path: config.server.socket.clone(),
                mode: config.server.socket_mode,
                group: config.server.socket_group.clone(),
            }),
            tcp: config.server.tcp(),
            inherited: inherited
                .unix
                .into_iter()
                .map(Into::into)
                .chain(inherited.tcp.into_iter().map(Into::into))
                .collect(),
        })?;
        let (addresses, tcp) = (server.addresses().to_vec(), server.tcp_address());
        let store = Store::open(
            &config.database.path,
            StoreOptions {
                readers: config.database.readers,
                synchronous: config.database.synchronous,
            },
        )?;
        let bus = Bus::new(store.clone());
        let hypervisor_config = HypervisorConfig {
            keepalive_interval: Duration::from_secs(config.libvirt.keepalive_seconds),
            keepalive_count: config.libvirt.keepalive_count,
            queue_depth: config.libvirt.queue_depth,
            enabled: config.libvirt.enabled,
            ..HypervisorConfig::new(&config.libvirt.uri)
        };
        let (hypervisor, events) = Hypervisor::start(hypervisor_config)?;
        let gate = Gate::default();
        let tasks = TaskService::new(store.clone());
        let (inventory, hints) = Inventory::start(
            hypervisor.clone(),
            events,
            store.clone(),
            bus.clone(),
            gate.clone(),
            Duration::from_secs(config.libvirt.reconcile_seconds.max(1)),
        )
        .await?;
        let services = Services {
            vms: VmService::new(
                inventory.clone(),
                hypervisor.clone(),
                tasks.clone(),
                gate.clone(),
                config.libvirt.domain_type,
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
            bus: bus.clone(),
        };
        let adopted = services.vms.adopt().await?;
        if adopted > 0 {
            tracing::info!(tasks = adopted, "adopting tasks of the last daemon");
        }
        let collector = runtime::run(inventory.clone(), hypervisor.clone(), hints);
        let background = vec![
            tokio::spawn(collector),
            tokio::spawn(prune(store.clone(), config.limits.clone())),
            tokio::spawn(watch_over(services.host.clone())),
        ];
        if config.libvirt.enabled && !first_picture(&inventory, &hypervisor).await {
            tracing::warn!("serving without a picture: libvirt has not answered yet");
        }
        let core = api::core(limits(config));
        let router = api::router(Api::new(core.clone(), services.clone()));
        let drain = Duration::from_secs(config.limits.drain_seconds);
        let serving = tokio::spawn(server.serve(router, core.clone(), drain));
        for address in &addresses {
            tracing::info!(%address, "serving");
        }
        Ok(Daemon {
            services,
            addresses,
            tcp,
            core,
            serving,
            background,
            inventory,
            hypervisor,
            store,
            bus,
            drain,
        })
    }

    /// What is listened on.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The TCP address, with the port that was chosen.
    pub fn tcp_address(&self) -> Option<std::net::SocketAddr> {
        self.tcp
    }

    /// Stops: no new work, waits parked, requests drained, then libvirt and the database closed.
    pub async fn stop(self) {
        self.core.stopping.cancel();
        self.bus.close();
        let tasks = self.services.tasks.stop(self.drain);
        let (left, cut) = tokio::join!(tasks, self.serving);
        if left > 0 {
            tracing::warn!(tasks = left, "unfinished tasks are adopted by the next start");
        }
        match cut {
            Ok(0) => {}
            Ok(cut) => tracing::warn!(connections = cut, "connections were cut"),
            Err(error) => tracing::error!(%error, "the server ended badly"),
        }
        for task in &self.background {
            task.abort();
        }
        self.inventory.stop().await;
        self.hypervisor.stop().await;
        drop(self.services);
        self.store.close().await;
        tracing::info!("stopped");
    }
}

/// Waits for the first picture, unless libvirt is known to be away.
async fn first_picture(inventory: &Inventory, hypervisor: &Hypervisor) -> bool {
    let mut status = hypervisor.watch();
    let away = async {
        loop {
            if status.changed().await.is_err() {
                return;
            }
            let now = status.borrow_and_update().clone();
            if !now.connected && now.reason.is_some() {
                return;
            }
        }
    };
    tokio::select! {
        filled = inventory.filled(FIRST_PICTURE) => filled,
        () = away => inventory.filled(Duration::ZERO).await,
    }
}

fn limits(config: &Config) -> Limits {
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Limits {
        body_bytes: size(config.limits.body_bytes),
        max_connections: size(config.limits.max_connections),
        header_timeout: Duration::from_secs(config.limits.header_seconds),
        max_wait: Duration::from_secs(config.limits.wait_seconds),
        body_timeout: Duration::from_secs(config.limits.request_seconds),
        ..Limits::default()
    }
}

async fn prune(store: Store, limits: crate::config::Limits) {
    let mut tick = tokio::time::interval(PRUNE_EVERY);
    loop {
        tick.tick().await;
        let days = i64::try_from(limits.tasks_keep_days).unwrap_or(i64::MAX / 24);
        let oldest = Timestamp::now()
            .checked_sub(SignedDuration::from_hours(days.saturating_mul(24).min(87_600)))
            .unwrap_or(Timestamp::MIN);
        match store.prune(oldest, limits.events_keep).await {
            Ok(pruned) => tracing::debug!(
                tasks = pruned.tasks,
                events = pruned.events,
                keys = pruned.keys,
                "old records removed"
            ),
            Err(error) => tracing::warn!(error = ?error, "old records could not be removed"),
        }
    }
}

/// Feeds systemd's watchdog and its status line.
async fn watch_over(host: HostService) {
    let status = async {
        let mut tick = tokio::time::interval(Duration::from_secs(10));
        loop {
            tick.tick().await;
            let libvirt = host.status();
            let picture = host.inventory().picture();
            systemd::status(&match libvirt.connected {
                true => format!("{} VMs at {}", picture.vms.len(), libvirt.uri),
                false => format!("waiting for libvirt at {}", libvirt.uri),
            });
        }
    };
    tokio::join!(status, systemd::watchdog(|| async { true }));
}
