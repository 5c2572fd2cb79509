//! The host and the daemon's own health.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use utoipa::ToSchema;

use super::gate::Gate;
use super::inventory::Inventory;
use super::task::TaskService;
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Hypervisor, LaneGauge};
use crate::libvirt::{Lane, host};
use crate::model::VmState;
use crate::model::host::{Capabilities, DomainCapabilities, LibvirtStatus};
use crate::store::Store;
use crate::xml;

/// How the daemon is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`, or `degraded` while libvirt or the database does not answer.
    pub status: String,
    pub version: String,
    pub started_at: Timestamp,
    pub libvirt: LibvirtStatus,
    /// Whether the database takes writes.
    pub database: bool,
    /// When libvirt last confirmed the picture that reads are served from.
    pub confirmed_at: Option<Timestamp>,
    pub vms: usize,
    pub running_tasks: usize,
    pub held: usize,
}

/// Answers for the host.
#[derive(Clone)]
pub struct HostService {
    inventory: Inventory,
    hypervisor: Hypervisor,
    store: Store,
    tasks: TaskService,
    gate: Gate,
    started_at: Timestamp,
    /// Held while the database is copied: two copies would want the room of three databases.
    copying: Arc<tokio::sync::Mutex<()>>,
    asked: Arc<Mutex<Asked>>,
}

/// Which guest's domain capabilities are asked for; what is absent is libvirt's choice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GuestKind {
    pub architecture: Option<String>,
    pub machine: Option<String>,
    pub domain_type: Option<String>,
}

/// Domain capabilities that were asked for, as the present connection told them.
#[derive(Default)]
struct Asked {
    since: Timestamp,
    known: HashMap<GuestKind, Arc<DomainCapabilities>>,
}

/// How many kinds of guest are remembered.
const KINDS: usize = 32;

/// How long libvirt may take to find out what an emulator can do: it starts the emulator for that.
const PROBE: Duration = Duration::from_secs(30);

/// How the host is now, by the kernel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Vitals {
    /// The kernel's release, such as `6.1.0-25-amd64`.
    pub kernel: Option<String>,
    pub uptime_seconds: Option<u64>,
    /// The mean number of processes that ran or waited over 1, 5 and 15 minutes.
    pub load: Vec<f64>,
    pub memory_total_bytes: Option<u64>,
    /// What can be given out without swapping.
    pub memory_available_bytes: Option<u64>,
    /// Processors that are online.
    pub cpus: Option<usize>,
}

impl HostService {
    pub fn new(
        inventory: Inventory,
        hypervisor: Hypervisor,
        store: Store,
        tasks: TaskService,
        gate: Gate,
    ) -> Self {
        HostService {
            inventory,
            hypervisor,
            store,
            tasks,
            gate,
            started_at: Timestamp::now(),
            asked: Arc::default(),
            copying: Arc::default(),
        }
    }

    /// What libvirt says this host can do.
    ///
    /// # Errors
    /// 503 before libvirt has answered for the first time.
    pub fn capabilities(&self) -> Result<Arc<Capabilities>> {
        let picture = self.inventory.picture();
        picture.ready()?;
        picture.capabilities.clone().ok_or_else(|| {
            Error::new(Kind::LibvirtUnavailable, "libvirt's capabilities are not known yet")
                .with_retry_after(Duration::from_secs(2))
        })
    }

    /// The same with the domain capabilities of one kind of guest, which libvirt is asked for the
    /// first time and after it was away (`virConnectGetDomainCapabilities`).
    ///
    /// # Errors
    /// 422 if libvirt has no such guest; 503.
    pub async fn capabilities_of(&self, kind: GuestKind) -> Result<Arc<Capabilities>> {
        let all = self.capabilities()?;
        if kind == GuestKind::default() {
            return Ok(all);
        }
        let since = self.hypervisor.status().since;
        let known = {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.since != since {
                *asked = Asked { since, known: HashMap::new() };
            }
            asked.known.get(&kind).cloned()
        };
        let found = match known {
            Some(found) => found,
            None => {
                let wanted = kind.clone();
                let text = self
                    .hypervisor
                    .run(Lane::Slow, PROBE, move |session| {
                        host::domain_capabilities_xml(
                            session,
                            None,
                            wanted.architecture.as_deref(),
                            wanted.machine.as_deref(),
                            wanted.domain_type.as_deref(),
                        )
                    })
                    .await
                    .map_err(|error| no_such_guest(error, &kind))?;
                let found = Arc::new(xml::capabilities::parse_domain_capabilities(&text)?);
                let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
                if asked.known.len() < KINDS {
                    asked.known.insert(kind, found.clone());
                }
                found
            }
        };
        Ok(Arc::new(Capabilities { preferred: (*found).clone(), ..(*all).clone() }))
    }

    /// How the host is now: four small files of `/proc`.
    pub fn vitals(&self) -> Vitals {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut vitals =
            vitals(&read("/proc/uptime"), &read("/proc/loadavg"), &read("/proc/meminfo"));
        let kernel = read("/proc/sys/kernel/osrelease");
        vitals.kernel = Some(kernel.trim().to_owned()).filter(|kernel| !kernel.is_empty());
        vitals.cpus = std::thread::available_parallelism().ok().map(usize::from);
        vitals
    }

    /// Whether libvirt answers.
    pub fn status(&self) -> LibvirtStatus {
        self.hypervisor.status()
    }

    /// How the daemon is; makes one round trip to the database.
    pub async fn health(&self) -> Health {
        let picture = self.inventory.picture();
        let libvirt = self.hypervisor.status();
        let database = self.store.check().await.is_ok();
        let status = if database && libvirt.connected { "ok" } else { "degraded" };
        Health {
            status: status.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.started_at,
            libvirt,
            database,
            confirmed_at: picture.confirmed_at,
            vms: picture.vms.len(),
            running_tasks: self.tasks.running(),
            held: self.gate.held(),
        }
    }

    /// A consistent copy of the database, at its beginning.
    ///
    /// # Errors
    /// `TooManyRequests` while another copy is made; `DatabaseUnavailable` if there is no room for
    /// one, or the database cannot be read.
    pub async fn database_copy(&self) -> Result<File> {
        let Ok(_turn) = self.copying.try_lock() else {
            return Err(Error::new(Kind::TooManyRequests, "the database is being copied already")
                .with_retry_after(Duration::from_secs(5)));
        };
        self.store.snapshot().await
    }

    /// Whether this process does its work: its scheduler, the picture's writer, the threads that call
    /// libvirt, and the database's writer. Not whether libvirt or the disk do theirs. A part that
    /// hangs keeps this from returning.
    ///
    /// # Errors
    /// `Internal`, saying which part does not work.
    pub async fn alive(&self) -> Result<()> {
        if let Some(defect) = self.hypervisor.defect() {
            return Err(Error::internal(defect));
        }
        // On another thread of the scheduler, if there is one.
        tokio::spawn(std::future::ready(()))
            .await
            .map_err(|_| Error::internal("the scheduler takes no work"))?;
        self.inventory.respond().await?;
        self.store.respond().await
    }

    /// One line for people: what the daemon is doing, or what it waits for.
    pub fn summary(&self) -> String {
        let libvirt = self.hypervisor.status();
        let picture = self.inventory.picture();
        let mut line = if libvirt.connected {
            let running = picture.vms.iter().filter(|vm| vm.vm.state == VmState::Running).count();
            format!("{} VMs, {running} running, at {}", picture.vms.len(), libvirt.uri)
        } else {
            let reason = libvirt.reason.as_deref().unwrap_or("not connected yet");
            format!("waiting for libvirt at {}: {reason}", libvirt.uri)
        };
        match self.tasks.running() {
            0 => {}
            1 => line.push_str("; 1 task under way"),
            tasks => line.push_str(&format!("; {tasks} tasks under way")),
        }
        if self.store.failing() {
            line.push_str("; the database takes no writes");
        }
        line
    }

    /// The present picture, for metrics.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// How busy the libvirt lanes are.
    pub fn lanes(&self) -> Vec<LaneGauge> {
        self.hypervisor.gauges()
    }
}

fn no_such_guest(error: Error, kind: &GuestKind) -> Error {
    if !matches!(error.kind(), Kind::LibvirtRefused | Kind::InvalidDefinition) {
        return error;
    }
    let word = |text: &Option<String>| text.clone().unwrap_or_else(|| "any".to_owned());
    let (architecture, machine) = (word(&kind.architecture), word(&kind.machine));
    Error::new(
        Kind::NotSupported,
        format!(
            "libvirt has no guest of architecture {architecture}, machine {machine} and domain type {}",
            word(&kind.domain_type)
        ),
    )
    .with_hint("what there is stands in `guests`, without these parameters")
    .with_source(error)
}

fn vitals(uptime: &str, load: &str, memory: &str) -> Vitals {
    let kib = |name: &str| -> Option<u64> {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Vitals {
        uptime_seconds: uptime.split('.').next().and_then(|seconds| seconds.parse().ok()),
        load: load.split_whitespace().take(3).filter_map(|mean| mean.parse().ok()).collect(),
        memory_total_bytes: kib("MemTotal"),
        memory_available_bytes: kib("MemAvailable"),
        ..Vitals::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let found = vitals(
            "12345.67 1.0\n",
            "0.50 1.25 2.00 1/234 999\n",
            "MemTotal:       16384 kB\nMemFree: 1 kB\nMemAvailable:    8192 kB\n",
        );
        assert_eq!(found.uptime_seconds, Some(12_345));
        assert_eq!(found.load, [0.5, 1.25, 2.0]);
        assert_eq!(found.memory_total_bytes, Some(16_384 << 10));
        assert_eq!(found.memory_available_bytes, Some(8_192 << 10));
        assert_eq!(vitals("", "", ""), Vitals::default());
    }
}
