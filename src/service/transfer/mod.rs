//! Uploads to and downloads from volumes, and the import of images of other formats.
//!
//! Bytes go straight from the connection into the volume and back, through streams of libvirt
//! ([`crate::libvirt::stream`]): no copy of the whole lies anywhere else. An upload is a task, which
//! holds its volume from creation to end, also over a restart of the daemon.
//!
//! ```text
//!   plain:  create volume ─▶ receive ─▶ settle ─▶ done            (a failure deletes the volume)
//!   tus:    create volume ─▶ wait ◀─▶ receive a part ─▶ settle ─▶ done
//!                             └─ terminated, cancelled, expired: the volume is deleted
//!                             └─ the daemon stops or dies: the next one goes on at the offset
//! ```
//!
//! To settle is to look at the image's header once more, in the volume, to compare the digest with
//! what was announced, and to have libvirt probe the volume's format.

mod download;
pub mod image;
mod import;
mod intake;
mod part;
mod plain;
mod settle;
mod tus;
mod unpack;
mod vhdx;

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::adopt::{Adopter, interrupted};
use super::gate::Key;
use super::operation::Tools;
use super::task::{End, TaskHandle};
use super::volume::pool_key;
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, volume};
use crate::model::vm_request::DiskFormat;
use crate::model::{PoolState, Subject, SubjectType, Task, UploadPurpose, VolumeRef};
use crate::store::Step;
use crate::xml;

/// Bytes of a body that are written at once.
pub use crate::libvirt::WRITTEN as PIECE;
pub use download::Download;
pub use image::ImageFormat;
pub use import::ImportVolume;
pub use intake::Arriving;
pub use part::{Checksum, Part};
use tus::Live;
pub use tus::{Position, sha256_of};

/// The kind of an upload's task.
pub const UPLOAD: &str = "volume.upload";
/// The kind of an import's task.
pub const IMPORT: &str = "volume.import";
/// The step of the volume to be made.
const VOLUME_STEP: &str = "create-volume";

/// Bounds of uploads. `[limits]` of vapor.conf.
#[derive(Clone, Copy, Debug)]
pub struct TransferLimits {
    /// How long an upload that nothing more arrives for is kept.
    pub expire: Duration,
    /// How long a client may send nothing in the middle of a body.
    pub stall: Duration,
}

/// What an upload makes.
#[derive(Clone, Debug)]
pub struct Target {
    pub pool: String,
    pub name: String,
    pub purpose: UploadPurpose,
    /// Bytes.
    pub length: u64,
    /// What its client says it is.
    pub declared: Option<ImageFormat>,
    /// The SHA-256 that the whole must have.
    pub sha256: Option<[u8; 32]>,
    /// Whether its client wants to hear the SHA-256; one that must be some is computed anyway.
    pub wants_sha256: bool,
}

impl Target {
    /// Whether the SHA-256 is computed while it arrives, which costs about as much as the rest of an
    /// upload's way through the daemon.
    fn is_hashed(&self) -> bool {
        self.wants_sha256 || self.sha256.is_some() || self.purpose == UploadPurpose::Iso
    }

    fn volume(&self) -> VolumeRef {
        VolumeRef { pool: self.pool.clone(), volume: self.name.clone() }
    }

    fn subject(&self) -> Subject {
        subject(&self.pool, &self.name)
    }

    fn keys(&self) -> (Vec<Key>, Vec<Key>) {
        (vec![Key::Volume(self.pool.clone(), self.name.clone())], vec![pool_key(&self.pool)])
    }
}

/// What the ISO library gets to know of an upload for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterUploaded {
    pub pool: String,
    pub volume: String,
    pub name: String,
    pub size_bytes: u64,
    pub sha256: Option<[u8; 32]>,
}

/// Where finished uploads for the ISO library are entered.
pub trait IsoSink: Send + Sync {
    /// Enters one; returns its id.
    fn register(
        &self,
        uploaded: RegisterUploaded,
    ) -> Pin<Box<dyn Future<Output = Result<Uuid>> + Send + '_>>;
}

/// The use cases of uploads, downloads and imports; cheap to clone.
#[derive(Clone)]
pub struct TransferService {
    tools: Tools,
    limits: TransferLimits,
    /// The resumable uploads under way.
    live: Arc<Mutex<HashMap<Uuid, Arc<Live>>>>,
    isos: Arc<OnceLock<Arc<dyn IsoSink>>>,
}

impl TransferService {
    pub fn new(tools: Tools, limits: TransferLimits) -> Self {
        TransferService { tools, limits, live: Arc::default(), isos: Arc::default() }
    }

    /// Says who enters uploads into the ISO library. Only the first one counts.
    pub fn set_iso_sink(&self, sink: Arc<dyn IsoSink>) {
        // A second one would be a defect of the wiring, and changes nothing.
        let _ = self.isos.set(sink);
    }

    /// Whether an upload may begin: the pool is there and active, has room, and no such volume.
    fn may_begin(&self, target: &Target) -> Result<()> {
        if target.length == 0 {
            return Err(Error::new(Kind::Impossible, "an upload of nothing makes no volume")
                .with_field("length", "must be at least 1 byte"));
        }
        if i64::try_from(target.length).is_err() {
            return Err(Error::field("length", "is more than a file can have"));
        }
        self.may_create(&target.pool, &target.name)?;
        self.tools.hypervisor.can_stream()?;
        let record = self.tools.inventory.picture().pool(&target.pool)?;
        let available = record.pool.available_bytes;
        if target.length > available {
            return Err(Error::new(
                Kind::InsufficientSpace,
                format!(
                    "the pool {:?} has {available} bytes left, and the upload {}",
                    target.pool, target.length
                ),
            )
            .with_detail("available_bytes", available));
        }
        Ok(())
    }

    fn may_create(&self, pool: &str, name: &str) -> Result<()> {
        let record = self.tools.inventory.picture().pool(pool)?;
        if record.pool.state == PoolState::Inactive {
            return Err(Error::new(Kind::PoolInactive, format!("the pool {pool:?} is not active")));
        }
        if record.volumes.iter().any(|volume| volume.name == name) {
            return Err(Error::new(
                Kind::VolumeAlreadyExists,
                format!("the pool {pool:?} has a volume {name:?} already"),
            ));
        }
        Ok(())
    }

    /// The XML of the volume that an upload fills: raw to libvirt until it has looked inside. All
    /// its room is taken at once. An upload fills it anyway, a full disk is told before the first
    /// byte is sent, and libvirtd (11.3 at least) dies of one that is met in the middle of a stream.
    fn author(target: &Target) -> Result<String> {
        xml::volume::author_volume(&xml::volume::VolumeSpec {
            name: target.name.clone(),
            capacity_bytes: target.length,
            format: DiskFormat::Raw,
            sparse: false,
            backing: None,
        })
    }

    /// Makes the volume of an upload, journalled before.
    async fn make_volume(&self, task: &TaskHandle, target: &Target, text: String) -> Result<()> {
        task.phase("creating the volume");
        let undo = serde_json::json!({"pool": target.pool, "volume": target.name});
        task.intend(vec![(VOLUME_STEP.to_owned(), undo)]).await?;
        let (pool, name) = (target.pool.clone(), target.name.clone());
        self.tools
            .hypervisor
            .run_to_end(Lane::Slow, super::operation::SLOW_CALL, move |session| {
                volume::create(session, &pool, &name, &text)
            })
            .await?;
        self.tools.inventory.refresh_pool(&target.pool).await
    }

    /// Deletes what was made of a volume that will not be whole, after `error`. What cannot be deleted
    /// is told, by the task's log and in the error's details.
    async fn undo(&self, task: &TaskHandle, pool: &str, name: &str, error: Error) -> Error {
        task.phase("deleting what has arrived");
        match self.remove(pool, name).await {
            Ok(()) => error,
            Err(left) => {
                task.log(&format!("the half volume {pool}/{name} stays: {left}")).await;
                error.with_detail("left", name)
            }
        }
    }

    /// Deletes a volume; it may be gone already. One whose pool is not there stays where it is.
    ///
    /// # Errors
    /// What libvirt refuses with; `LibvirtUnavailable` if it stays away.
    async fn remove(&self, pool: &str, name: &str) -> Result<()> {
        self.remove_within(pool, name, Duration::from_secs(60)).await
    }

    async fn remove_within(&self, pool: &str, name: &str, patience: Duration) -> Result<()> {
        let begun = Instant::now();
        let mut pause = Duration::from_millis(50);
        loop {
            let (in_pool, in_name) = (pool.to_owned(), name.to_owned());
            let deleted = self
                .tools
                .hypervisor
                .run_to_end(Lane::Slow, super::operation::SLOW_CALL, move |session| {
                    volume::delete(session, &in_pool, &in_name)
                })
                .await;
            let error = match deleted {
                Err(error) if error.kind() != Kind::VolumeNotFound => error,
                _ => break,
            };
            let is_final = matches!(error.kind(), Kind::PoolNotFound | Kind::ShuttingDown);
            // libvirt lets go of a volume a moment after its stream has ended, and may be away.
            if is_final || begun.elapsed() > patience {
                tracing::warn!(pool, name, error = ?error, "a half volume stays");
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(2));
        }
        self.tools.inventory.refresh_pool(pool).await
    }
}

impl Adopter for TransferService {
    const KINDS: &'static [&'static str] = &[UPLOAD, IMPORT];

    fn tools(&self) -> &Tools {
        &self.tools
    }

    fn keys(&self, task: &Task, steps: &[Step]) -> Vec<Key> {
        let made = steps.iter().filter(|step| step.action == VOLUME_STEP).filter_map(|step| {
            let text = |key: &str| step.undo.get(key)?.as_str();
            Some((text("pool")?, text("volume")?))
        });
        let mut volumes: Vec<_> = made.chain(task.subject.id.split_once('/')).collect();
        volumes.sort_unstable();
        volumes.dedup();
        volumes
            .into_iter()
            .map(|(pool, name)| Key::Volume(pool.to_owned(), name.to_owned()))
            .collect()
    }

    fn beside(&self, task: &Task) -> Vec<Key> {
        task.subject.id.split_once('/').map(|(pool, _)| pool_key(pool)).into_iter().collect()
    }

    fn parks_itself(&self, task: &Task) -> bool {
        self.find(task.id).is_some()
    }

    /// A resumable upload goes on. What else was cut off is removed: its client has to begin anew.
    async fn judge(&self, handle: &TaskHandle, task: &Task, _: Instant) -> Result<End> {
        let (pool, name) = task.subject.id.split_once('/').unwrap_or(("", ""));
        if let Some(live) = self.find(task.id) {
            return self.go_on(handle, &live).await;
        }
        let steps = self.tools.tasks.store().steps(task.id).await?;
        let mut left: Vec<String> = Vec::new();
        for step in steps.iter().filter(|step| step.action == VOLUME_STEP) {
            let text = |key: &str| step.undo.get(key).and_then(serde_json::Value::as_str);
            let (Some(pool), Some(name)) = (text("pool"), text("volume")) else { continue };
            // libvirt finishes a conversion that nobody waits for any more, and deletes nothing before.
            let patience = if task.kind == IMPORT { 3600 } else { 60 };
            match self.remove_within(pool, name, Duration::from_secs(patience)).await {
                Err(error) if error.kind() == Kind::PoolNotFound => {
                    left.push(format!("{pool}/{name} stays: {error}"));
                }
                removed => removed?,
            }
        }
        let left = if left.is_empty() { "nothing of it is left".into() } else { left.join("; ") };
        Err(interrupted(format!("{} of {pool}/{name} was cut off; {left}", task.kind)))
    }
}

impl TransferService {
    fn registry(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Arc<Live>>> {
        // Each change of the map is one insertion or removal.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: Uuid) -> Option<Arc<Live>> {
        self.registry().get(&id).cloned()
    }
}

fn subject(pool: &str, name: &str) -> Subject {
    Subject { r#type: SubjectType::Volume, id: format!("{pool}/{name}"), name: name.to_owned() }
}
