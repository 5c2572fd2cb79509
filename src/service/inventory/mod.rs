//! The live picture of this host: what every read is served from.
//!
//! ```text
//!   libvirt events ──▶ pump ─┐  (one hop: the facts of the VMs concerned)
//!   every few seconds ▶ reconciler ─┤  (a constant number of calls, whatever the number of VMs)
//!   operations ────────────────────┴─▶ actor ──▶ new picture ──▶ scribe ──▶ SQLite, event stream
//! ```
//!
//! The actor alone replaces the picture and never waits for libvirt or SQLite, so an operation
//! sees its own effect at once. Readers take the present picture without a lock. Facts carry a
//! ticket drawn before they were fetched; older facts never overwrite newer ones.

mod actor;
mod build;
mod definition;
mod events;
mod picture;
mod pump;
mod scribe;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::bus::Bus;
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Hypervisor, LibvirtEvent};
use crate::model::RuntimeDetails;
use crate::service::gate::Gate;
use crate::store::Store;

pub use build::{Fetched, fetch};
pub use definition::Definition;
pub use picture::{Picture, PoolRecord, VmRecord};

use actor::Command;

/// Draws tickets: facts fetched under a lower ticket never replace those under a higher one.
#[derive(Clone, Default)]
pub struct Tickets(Arc<AtomicU64>);

impl Tickets {
    /// The next ticket; draw it before asking libvirt.
    pub fn draw(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// The handle on the picture; cheap to clone.
#[derive(Clone)]
pub struct Inventory {
    picture: Arc<ArcSwap<Picture>>,
    commands: mpsc::UnboundedSender<Command>,
    tickets: Tickets,
    filled: watch::Receiver<bool>,
    epoch: watch::Receiver<u64>,
    hypervisor: Hypervisor,
    stopping: CancellationToken,
}

/// What the runtime collector is told: these VMs may have news.
pub type RuntimeHint = (Uuid, &'static str);

impl Inventory {
    /// Starts the picture's tasks on the present tokio runtime. They end with the process; the
    /// libvirt side ends with [`Hypervisor::stop`].
    pub async fn start(
        hypervisor: Hypervisor,
        events: mpsc::UnboundedReceiver<LibvirtEvent>,
        store: Store,
        bus: Bus,
        gate: Gate,
        reconcile: Duration,
    ) -> Result<(Inventory, mpsc::UnboundedReceiver<RuntimeHint>)> {
        let rows = store.vm_rows().await?;
        let picture = Arc::new(ArcSwap::from_pointee(Picture::empty(hypervisor.status())));
        let (commands, inbox) = mpsc::unbounded_channel();
        let (filled_tx, filled) = watch::channel(false);
        let (epoch_tx, epoch) = watch::channel(0);
        let (hints_tx, hints) = mpsc::unbounded_channel();
        let inventory = Inventory {
            picture: picture.clone(),
            commands,
            tickets: Tickets::default(),
            filled,
            epoch,
            hypervisor: hypervisor.clone(),
            stopping: CancellationToken::new(),
        };
        let scribe = scribe::start(store, bus);
        tokio::spawn(actor::Actor::new(picture, rows, scribe, filled_tx, epoch_tx).run(inbox));
        tokio::spawn(pump::run(inventory.clone(), events, gate, hints_tx, reconcile));
        Ok((inventory, hints))
    }

    /// The present picture.
    pub fn picture(&self) -> Arc<Picture> {
        self.picture.load_full()
    }

    /// The VM with this UUID or name.
    ///
    /// # Errors
    /// [`Kind::VmNotFound`], with the nearest name as the hint; [`Kind::LibvirtUnavailable`] if
    /// there has been no picture yet.
    pub fn vm(&self, id: &str) -> Result<Arc<VmRecord>> {
        self.picture.load().vm(id)
    }

    /// Draws a ticket for facts about to be fetched.
    pub fn tickets(&self) -> Tickets {
        self.tickets.clone()
    }

    /// Takes fresh facts of one VM into the picture and returns its record, or `None` if the VM
    /// is gone.
    pub async fn apply(
        &self,
        uuid: Uuid,
        fetched: Option<Fetched>,
        ticket: u64,
    ) -> Result<Option<Arc<VmRecord>>> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Apply {
            uuid,
            fetched: fetched.map(Box::new),
            ticket,
            reply: Some(reply),
        })?;
        answer.await.map_err(|_| Error::internal("the inventory's actor is gone"))
    }

    /// Fetches one VM anew and takes it into the picture.
    pub async fn refresh(&self, uuid: Uuid, deadline: Duration) -> Result<Option<Arc<VmRecord>>> {
        let tickets = self.tickets();
        let (ticket, fetched) = self
            .hypervisor
            .run(crate::libvirt::Lane::Quick, deadline, move |session| {
                let ticket = tickets.draw();
                match fetch(session, uuid) {
                    Ok(fetched) => Ok((ticket, Some(fetched))),
                    Err(error) if error.kind() == Kind::VmNotFound => Ok((ticket, None)),
                    Err(error) => Err(error),
                }
            })
            .await?;
        self.apply(uuid, fetched, ticket).await
    }

    /// Fetches the pools and their volumes anew.
    pub async fn refresh_storage(&self) -> Result<()> {
        pump::refresh_storage(self).await
    }

    /// Sets what is known of a running guest.
    pub fn set_runtime(&self, uuid: Uuid, runtime: RuntimeDetails) -> Result<()> {
        self.send(Command::Runtime { uuid, runtime: Box::new(runtime) })
    }

    /// Waits until there is a picture, at most this long. False if there is none yet.
    pub async fn filled(&self, wait: Duration) -> bool {
        let mut filled = self.filled.clone();
        let arrived = tokio::time::timeout(wait, filled.wait_for(|filled| *filled)).await;
        matches!(arrived, Ok(Ok(_)))
    }

    /// The first picture that knows libvirt's capabilities, or the present one after `wait`.
    pub async fn capable(&self, wait: Duration) -> Arc<Picture> {
        let mut changes = self.changes();
        // A time-out is answered with the picture there is.
        let _ = tokio::time::timeout(wait, async {
            while self.picture.load().capabilities.is_none() {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        })
        .await;
        self.picture()
    }

    /// Follows libvirt no longer, and returns when what was seen so far is written down.
    pub async fn stop(&self) {
        self.stopping.cancel();
        let (reply, written) = oneshot::channel();
        if self.send(Command::Flush(reply)).is_ok() {
            // The answer is the dropping of the sender.
            let _ = written.await;
        }
    }

    /// Ticks with every picture that differs from the one before.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.epoch.clone()
    }

    fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| Error::internal("the inventory's actor is gone"))
    }
}
