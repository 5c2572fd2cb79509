//! The host and the daemon's own health.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

use super::gate::Gate;
use super::inventory::Inventory;
use super::task::TaskService;
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Hypervisor, LaneGauge};
use crate::model::host::{Capabilities, LibvirtStatus};
use crate::store::Store;

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
}

impl HostService {
    pub fn new(
        inventory: Inventory,
        hypervisor: Hypervisor,
        store: Store,
        tasks: TaskService,
        gate: Gate,
    ) -> Self {
        HostService { inventory, hypervisor, store, tasks, gate, started_at: Timestamp::now() }
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

    /// The present picture, for metrics.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// How busy the libvirt lanes are.
    pub fn lanes(&self) -> Vec<LaneGauge> {
        self.hypervisor.gauges()
    }
}
