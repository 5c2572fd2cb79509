//! After a restart, or after libvirt was lost: what became of work on a volume that was cut off.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::check::refuse_used;
use super::{STEP, VolumeService, of_subject, volume_key};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Lane, volume};
use crate::model::Task;
use crate::service::adopt::{Adopter, interrupted};
use crate::service::gate::Key;
use crate::service::operation::{SLOW_CALL, Tools};
use crate::service::task::{End, TaskHandle};
use crate::store::Step;

/// How often a volume that libvirt is still working on is looked at.
const BEAT: Duration = Duration::from_secs(1);

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(30);

/// How long what was asked of libvirt when the work was cut off may take to show.
const SETTLE: Duration = Duration::from_secs(2);

impl Adopter for VolumeService {
    const KINDS: &'static [&'static str] =
        &["volume.create", "volume.clone", "volume.resize", "volume.wipe", "volume.delete"];

    fn tools(&self) -> &Tools {
        &self.tools
    }

    fn keys(&self, task: &Task, _: &[Step]) -> Vec<Key> {
        let (pool, name) = of_subject(&task.subject.id);
        vec![volume_key(pool, name)]
    }

    async fn judge(&self, handle: &TaskHandle, task: &Task, cut: Instant) -> Result<End> {
        let (pool, name) = of_subject(&task.subject.id);
        let steps = self.tools.tasks.store().steps(task.id).await?;
        let Some(step) = steps.iter().find(|step| step.action == STEP) else {
            return Err(interrupted(format!("{} of {pool}/{name} was never begun", task.kind)));
        };
        let built = self.wait_until_built(handle, pool, name, cut).await?;
        match task.kind.as_str() {
            "volume.create" | "volume.clone" => self.judge_new(task, pool, name, built).await,
            "volume.resize" => self.judge_resize(pool, name, capacity_of(step)).await,
            "volume.delete" if built == Built::Absent => Ok(End::Done(Value::Null)),
            "volume.wipe" => self.judge_wipe(pool, name, step).await,
            _ => {
                Err(interrupted(format!("{} of {pool}/{name} was cut off; it is there", task.kind)))
            }
        }
    }
}

/// What libvirt says of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Built {
    Absent,
    /// It was there already at the first look: whether whole or half cannot be told.
    There,
    /// libvirt finished it under our eyes; what it cannot finish it removes.
    Finished,
}

impl VolumeService {
    /// Looks at the volume once libvirt no longer works on it; the picture shows it then.
    async fn wait_until_built(
        &self,
        handle: &TaskHandle,
        pool: &str,
        name: &str,
        cut: Instant,
    ) -> Result<Built> {
        let mut seen_building = false;
        let built = loop {
            let (in_pool, in_name) = (pool.to_owned(), name.to_owned());
            let building = self
                .tools
                .hypervisor
                .run(Lane::Slow, LOOK, move |session| {
                    volume::is_building(session, &in_pool, &in_name)
                })
                .await;
            match building {
                Ok(true) => {
                    handle.phase("waiting for libvirt to finish what was begun");
                    seen_building = true;
                }
                Ok(false) if seen_building => break Built::Finished,
                Ok(false) => break Built::There,
                Err(error) if is_absence(&error) => {
                    // What was asked in the last moment may not have begun.
                    if cut.elapsed() > SETTLE {
                        break Built::Absent;
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(BEAT).await;
        };
        self.tools.inventory.refresh_volume(pool, name).await?;
        Ok(built)
    }

    /// A new volume stands if libvirt finished it; what may be half is removed.
    async fn judge_new(&self, task: &Task, pool: &str, name: &str, built: Built) -> Result<End> {
        let cut_off =
            |what: &str| interrupted(format!("{} of {pool}/{name} was cut off; {what}", task.kind));
        match built {
            Built::Finished => return self.settled(pool, name),
            Built::Absent => return Err(cut_off("there is no such volume")),
            Built::There => {}
        }
        if let Err(used) = refuse_used(&*self.record(pool, name)?) {
            return Err(cut_off("it stays, because it is in use: look whether it is whole")
                .with_detail("use", used.message()));
        }
        let (in_pool, in_name) = (pool.to_owned(), name.to_owned());
        let removed =
            self.hop(pool, name, move |session| volume::delete(session, &in_pool, &in_name)).await;
        match removed {
            Ok(()) => Err(cut_off("what had been made of it was removed")),
            Err(error) if is_absence(&error) => Err(cut_off("there is no such volume")),
            Err(error) if error.kind() == Kind::LibvirtUnavailable => Err(error),
            Err(error) => Err(cut_off("what was made of it could not be removed")
                .with_detail("left", vec![format!("the volume {pool}/{name}")])
                .with_source(error)),
        }
    }

    async fn judge_resize(&self, pool: &str, name: &str, wanted: u64) -> Result<End> {
        let deadline = Instant::now() + SETTLE;
        loop {
            let present = self.record(pool, name)?.capacity_bytes;
            // Formats round up.
            if present == wanted || (present > wanted && present - wanted < 1 << 20) {
                return self.settled(pool, name);
            }
            if Instant::now() > deadline {
                return Err(interrupted(format!(
                    "the resize of {pool}/{name} was cut off; it has {present} bytes"
                ))
                .with_detail("capacity_bytes", present));
            }
            tokio::time::sleep(BEAT / 4).await;
            self.tools.inventory.refresh_volume(pool, name).await?;
        }
    }

    /// Whether all of it was overwritten cannot be told; but no half image is left in its place.
    async fn judge_wipe(&self, pool: &str, name: &str, step: &Step) -> Result<End> {
        let unsure = || {
            interrupted(format!(
                "the wipe of {pool}/{name} was cut off; whether all of it was overwritten cannot \
                 be told"
            ))
            .with_hint("wipe it again")
        };
        let image = step.undo.get("image").and_then(Value::as_str).map(str::to_owned);
        let lost = image.is_some()
            && self.record(pool, name).is_err_and(|error| error.kind() == Kind::VolumeNotFound);
        if !lost {
            return Err(unsure());
        }
        // It had been overwritten, and the empty image was still to be made.
        let (in_pool, in_name) = (pool.to_owned(), name.to_owned());
        let made = self
            .tools
            .hypervisor
            .run_to_end(Lane::Slow, SLOW_CALL, move |session| {
                let image = image.as_deref().unwrap_or_default();
                volume::create(session, &in_pool, &in_name, image).map(drop)
            })
            .await;
        self.tools.inventory.refresh_volume(pool, name).await?;
        made?;
        self.settled(pool, name)
    }
}

fn is_absence(error: &Error) -> bool {
    matches!(error.kind(), Kind::VolumeNotFound | Kind::PoolNotFound | Kind::PoolInactive)
}

fn capacity_of(step: &Step) -> u64 {
    step.undo.get("capacity_bytes").and_then(Value::as_u64).unwrap_or_default()
}
