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

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use tokio::task::JoinHandle;

use crate::api::server::{ListenOptions, Server};
use crate::api::socket::SocketOptions;
use crate::api::{self, Api, Core, Limits};
use crate::bus::Bus;
use crate::config::Config;
use crate::error::Result;
use crate::libvirt::{Hypervisor, HypervisorConfig};
use crate::service::adopt::adopt;
use crate::service::gate::Gate;
use crate::service::inventory::Inventory;
use crate::service::transfer::TransferLimits;
use crate::service::vm::Ground;
use crate::service::{
    HostService, IsoService, NetworkService, OsVariantService, PoolService, Services, TaskService,
    TemplateService, Tools, TransferService, VmService, VolumeService, runtime,
};
use crate::store::{Store, StoreOptions};
use crate::systemd;

/// How long a start waits for the first picture before it serves without one, while libvirt has not
/// been seen to be away. Clients wait at the socket meanwhile, which is better than to be refused: a
/// busy libvirtd of Debian 12 was seen to take more than ten seconds to open a connection.
const FIRST_PICTURE: Duration = Duration::from_secs(20);

/// How often old tasks, events and idempotency keys are removed.
const PRUNE_EVERY: Duration = Duration::from_secs(3600);

/// How often the line of `systemctl status` is looked at.
const STATUS_EVERY: Duration = Duration::from_secs(2);

/// How long records stay, as the configuration says it.
type Retention = crate::config::Limits;

/// How often the daemon looks whether a burst of work has left memory that nobody uses.
const TIDY_EVERY: Duration = Duration::from_secs(3);

/// How much more memory than after the last tidying is worth another one, KiB.
const TIDY_GROWTH_KIB: u64 = 1024;

/// The same for code, which is mapped again where it runs.
const TIDY_CODE_KIB: u64 = 4096;

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
    config: Config,
    retention: Arc<ArcSwap<Retention>>,
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
            streams: usize::try_from(config.limits.transfers).unwrap_or(usize::MAX),
            enabled: config.libvirt.enabled,
            ..HypervisorConfig::new(&config.libvirt.uri)
        };
        let (hypervisor, events) = Hypervisor::start(hypervisor_config)?;
        let gate = Gate::default();
        let tasks = TaskService::new(store.clone());
        let retention = Arc::new(ArcSwap::from_pointee(config.limits.clone()));
        let (inventory, hints) = Inventory::start(
            hypervisor.clone(),
            events,
            store.clone(),
            bus.clone(),
            gate.clone(),
            Duration::from_secs(config.libvirt.reconcile_seconds.max(1)),
            retention.clone(),
        )
        .await?;
        let tools = Tools {
            inventory: inventory.clone(),
            hypervisor: hypervisor.clone(),
            tasks: tasks.clone(),
            gate: gate.clone(),
        };
        let os_variants = OsVariantService::standard();
        let isos = IsoService::open(tools.clone(), os_variants.clone()).await?;
        let ground = Ground {
            isos: isos.clone(),
            os_variants: os_variants.clone(),
            limits: retention.clone(),
            security: Arc::new(config.security.clone()),
        };
        let vms = VmService::new(tools.clone(), config.libvirt.domain_type, ground);
        let templates = TemplateService::open(tools.clone(), vms.clone()).await?;
        let services = Services {
            vms,
            templates,
            pools: PoolService::new(tools.clone()),
            volumes: VolumeService::new(tools.clone()),
            transfers: TransferService::new(tools.clone(), transfer_limits(config)),
            networks: NetworkService::new(tools),
            isos,
            os_variants,
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
        services.transfers.set_iso_sink(Arc::new(services.isos.clone()));
        services.transfers.load().await?;
        let adopted = adopt(&services).await?;
        if adopted > 0 {
            tracing::info!(tasks = adopted, "adopting tasks of the last daemon");
        }
        let collector = runtime::run(inventory.clone(), hypervisor.clone(), hints);
        let background = vec![
            tokio::spawn(collector),
            tokio::spawn(services.isos.clone().catch_up()),
            tokio::spawn(services.pools.clone().recall_problems()),
            tokio::spawn(prune(store.clone(), retention.clone())),
            tokio::spawn(watch_over(services.host.clone())),
            tokio::spawn(tidy()),
        ];
        if config.libvirt.enabled && !first_picture(&inventory, &hypervisor).await {
            tracing::warn!("serving without a picture: libvirt has not answered yet");
        }
        let core = api::core(limits(config));
        let router = api::router(Api::new(core.clone(), services.clone()));
        let serving = tokio::spawn(server.serve(router, core.clone()));
        for address in &addresses {
            tracing::info!(%address, "serving {address}");
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
            config: config.clone(),
            retention,
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

    /// Takes over the limits of a configuration that was read anew, and tells what of it has to wait
    /// for a restart.
    pub fn reload(&self, fresh: &Config) -> Vec<&'static str> {
        self.core.set_limits(limits(fresh));
        self.retention.store(Arc::new(fresh.limits.clone()));
        self.config.fixed_differences(fresh)
    }

    /// How long operations under way get when the daemon stops.
    pub fn grace(&self) -> Duration {
        self.core.limits().grace
    }

    /// Stops: no new work, waits parked, requests drained, then libvirt and the database closed.
    pub async fn stop(self) {
        self.core.stopping.cancel();
        self.bus.close();
        let tasks = self.services.tasks.stop(self.grace());
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
        grace: Duration::from_secs(config.limits.drain_seconds),
        ..Limits::default()
    }
}

fn transfer_limits(config: &Config) -> TransferLimits {
    TransferLimits {
        expire: Duration::from_secs(config.limits.upload_expire_seconds),
        stall: Duration::from_secs(config.limits.upload_stall_seconds),
    }
}

async fn prune(store: Store, retention: Arc<ArcSwap<Retention>>) {
    let mut tick = tokio::time::interval(PRUNE_EVERY);
    loop {
        tick.tick().await;
        let limits = retention.load_full();
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

/// Gives back what bursts leave: the C library keeps what was freed in case it is needed again, and a
/// fill of the picture, a long list or a full upload passes through more than the daemon keeps. The
/// code that they ran stays mapped as well. Where nothing has grown, nothing is done.
async fn tidy() {
    let mut tick = tokio::time::interval(TIDY_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut memory, mut code) = (Mark::default(), Mark::default());
    loop {
        tick.tick().await;
        let Some(now) = Resident::now() else { return };
        let more_memory = memory.is_passed(now.private, TIDY_GROWTH_KIB);
        let more_code = code.is_passed(now.file, TIDY_CODE_KIB);
        if more_code {
            crate::libvirt::let_go_of_code();
        }
        // Some milliseconds of a thread that serves nobody.
        if more_memory
            && tokio::task::spawn_blocking(crate::libvirt::give_back_memory).await.is_err()
        {
            return;
        }
        let Some(left) = Resident::now() else { return };
        if more_memory {
            memory = Mark(left.private);
        }
        if more_code {
            code = Mark(left.file);
        }
    }
}

/// The least that was seen since the last tidying, KiB.
#[derive(Debug, Default)]
struct Mark(u64);

impl Mark {
    fn is_passed(&mut self, now: u64, by: u64) -> bool {
        let is_passed = now >= self.0 + by;
        if !is_passed {
            self.0 = self.0.min(now);
        }
        is_passed
    }
}

/// Resident memory of this process, KiB.
#[derive(Clone, Copy, Debug)]
struct Resident {
    /// No file stands behind it.
    private: u64,
    /// Pages of files: code, mostly.
    file: u64,
}

impl Resident {
    /// None where the system does not tell.
    fn now() -> Option<Resident> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let kib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        };
        Some(Resident { private: kib("RssAnon:")?, file: kib("RssFile:")? })
    }
}

/// Feeds systemd's watchdog and its status line.
async fn watch_over(host: HostService) {
    let status = async {
        let mut tick = tokio::time::interval(STATUS_EVERY);
        let mut told = String::new();
        loop {
            tick.tick().await;
            let line = host.summary();
            if line != told {
                systemd::status(&line);
                told = line;
            }
        }
    };
    tokio::join!(status, systemd::watchdog(|| host.alive()));
}
