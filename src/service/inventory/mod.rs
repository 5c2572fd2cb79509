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
mod acts;
mod aliases;
mod build;
mod definition;
mod events;
mod history;
mod outline;
mod picture;
mod pump;
mod resources;
mod scribe;
mod storage;
mod volumes;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::bus::Bus;
use crate::config::Limits;
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Hypervisor, LibvirtEvent};
use crate::model::RuntimeDetails;
use crate::service::gate::Gate;
use crate::store::Store;

pub use build::{Fetched, fetch};
pub use definition::{Definition, definition_hash};
pub use outline::{Labels, Outline};
pub use picture::{Picture, PoolRecord, VmRecord, nearest};
pub use resources::network_of;
pub use volumes::{Bases, VolumeRecord};

use actor::Command;
use acts::{Act, Acts};

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
    acts: Acts,
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
        limits: Arc<ArcSwap<Limits>>,
    ) -> Result<(Inventory, mpsc::UnboundedReceiver<RuntimeHint>)> {
        let rows = store.vm_rows().await?;
        let heads = history::heads(&store, &limits).await?;
        let picture = Arc::new(ArcSwap::from_pointee(Picture::empty(hypervisor.status())));
        let (commands, inbox) = mpsc::unbounded_channel();
        let (filled_tx, filled) = watch::channel(false);
        let (epoch_tx, epoch) = watch::channel(0);
        let (hints_tx, hints) = mpsc::unbounded_channel();
        let inventory = Inventory {
            picture: picture.clone(),
            commands,
            tickets: Tickets::default(),
            acts: Acts::default(),
            filled,
            epoch,
            hypervisor: hypervisor.clone(),
            stopping: CancellationToken::new(),
        };
        let unfinished = store.unfinished_tasks().await?;
        let scribe = scribe::start(store, bus, limits.clone());
        let history =
            history::History::new(heads, unfinished, gate.clone(), limits, scribe.clone());
        let own = inventory.commands.downgrade();
        let actor = actor::Actor::new(picture, rows, scribe, history, own, filled_tx, epoch_tx);
        tokio::spawn(actor.run(inbox));
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

    /// Says that an operation is about to act on a VM and will read it again, so that what libvirt
    /// tells of it meanwhile is not read twice.
    pub fn acting(&self, uuid: Uuid) -> Act {
        self.acts.begin(uuid)
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

    /// Marks these volumes, and no others, as bases of templates; the picture shows it when this
    /// returns.
    ///
    /// # Errors
    /// `Internal` if the actor is gone.
    pub async fn set_bases(&self, bases: Bases) -> Result<()> {
        let (reply, taken) = oneshot::channel();
        self.send(Command::Templates(bases, reply))?;
        taken.await.map_err(|_| Error::internal("the inventory's actor is gone"))
    }

    /// Fetches all pools and their volumes anew.
    pub async fn refresh_storage(&self) -> Result<()> {
        resources::refresh_storage(self).await
    }

    /// Fetches one pool and its volumes anew; they are in the picture when this returns.
    pub async fn refresh_pool(&self, name: &str) -> Result<()> {
        resources::refresh_pool(self, name).await
    }

    /// Notes why a pool could not be started or refreshed; to be followed by
    /// [`refresh_pool`](Self::refresh_pool). It is shown until the pool is active.
    pub fn note_pool_problem(&self, uuid: Uuid, problem: String) -> Result<()> {
        self.send(Command::PoolProblem { uuid, problem })
    }

    /// Fetches one volume and the sizes of its pool anew, without reading the pool's other volumes;
    /// it is in the picture when this returns.
    pub async fn refresh_volume(&self, pool: &str, name: &str) -> Result<()> {
        resources::refresh_volume(self, pool, name).await
    }

    /// Looks once more before one name is refused as taken: others may have deleted its volume, of
    /// which libvirt tells nobody. [`decide`](Self::decide) costs more, and knows more refusals.
    pub async fn look_again(&self, pool: &str, name: &str) -> Result<()> {
        match self.picture().volume(pool, name) {
            Ok(_) => self.refresh_volume(pool, name).await,
            // Nothing is refused for it.
            Err(_) => Ok(()),
        }
    }

    /// What `decide` makes of the picture; where it refuses for a volume that others may have deleted
    /// meanwhile, what it makes of a fresh one. The picture decided on comes with it.
    pub async fn decide<T>(
        &self,
        mut decide: impl FnMut(&Picture) -> Result<T>,
    ) -> Result<(Arc<Picture>, T)> {
        let picture = self.picture();
        match decide(&picture) {
            Err(error) if rests_on_volumes(error.kind()) => {
                self.refresh_storage().await?;
                let picture = self.picture();
                decide(&picture).map(|decided| (picture, decided))
            }
            decided => decided.map(|decided| (picture, decided)),
        }
    }

    /// Fetches the running VMs anew that use volumes of this pool, before something in it is
    /// destroyed: snapshots and copies by other hands change chains without an event.
    pub async fn refresh_users(&self, pool: &str) -> Result<()> {
        resources::refresh_users(self, pool).await
    }

    /// Returns when the picture knows who uses which volume, also by links; at most after some seconds.
    pub async fn settled(&self) -> Result<()> {
        resources::settled(self).await
    }

    /// Fetches all networks anew; they are in the picture when this returns.
    pub async fn refresh_networks(&self) -> Result<()> {
        resources::refresh_networks(self).await
    }

    /// Returns when the actor has come to this call.
    ///
    /// # Errors
    /// `Internal` if the actor is gone.
    pub async fn respond(&self) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Respond { reply })?;
        answer.await.map_err(|_| Error::internal("the inventory's actor is gone"))
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
        self.written().await;
    }

    /// Returns when what was seen so far is written down, or the database has refused it.
    pub async fn written(&self) {
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

/// Whether a refusal of this kind may be due to a volume that is gone: taking up its name, reading
/// from what shall go, or filling its pool.
const fn rests_on_volumes(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::VolumeAlreadyExists | Kind::VolumeInUse | Kind::PoolNotEmpty | Kind::TemplateInUse
    )
}
