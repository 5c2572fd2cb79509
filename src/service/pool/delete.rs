//! Deleting a pool: its volumes if that is said, then the pool itself.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{NOTHING, PoolService, check_if_match, intend, pool_key, subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Session, pool, volume};
use crate::model::{Pool, Progress};
use crate::service::adopt::judge_after_loss;
use crate::service::inventory::Picture;
use crate::service::operation::plan;
use crate::service::task::{End, Operation, QUICK_WAIT, TaskHandle};
use crate::service::{Context, Outcome};
use crate::xml::domain::view::{DiskPlace, Place};

/// The step that keeps what goes.
pub(super) const DELETE_STEP: &str = "delete";

/// How many names a refusal tells.
const SHOWN: usize = 20;

/// A folder that file systems make for themselves, and no volume of anybody.
const LOST_AND_FOUND: &str = "lost+found";

/// What goes with a pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletePool {
    /// Its volumes; else one that has any is refused.
    pub delete_volumes: bool,
    /// What it stands on: the folder, if nothing is left in it, or the volume group.
    pub delete_storage: bool,
}

impl PoolService {
    /// Deletes a pool; an inactive one is forgotten, and its storage left as it is.
    /// `virStorageVolDelete`, `virStoragePoolDestroy`, `virStoragePoolDelete`,
    /// `virStoragePoolUndefine`.
    ///
    /// # Errors
    /// 404; 409 if it has volumes that shall not go, or that somebody uses; what libvirt refuses
    /// with, and then the pool stays.
    pub async fn delete(&self, ctx: Context, name: &str, request: DeletePool) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.delete_once(&ctx, name, request)).await
    }

    async fn delete_once(&self, ctx: &Context, name: &str, request: DeletePool) -> Result<Outcome> {
        let may_go = |picture: &Picture| may_delete(picture, name, request);
        let free = self.tools.inventory.decide(may_go).await.map(drop);
        let record = self.get(name)?;
        check_if_match(ctx, &record)?;
        let subject = subject(&record.pool);
        let key = pool_key(name);
        if ctx.dry_run {
            let blocked =
                free.and_then(|()| self.tools.gate.would_take(std::slice::from_ref(&key), &[]));
            let old = match self.definition(name).await {
                Ok(old) => old,
                // The plan is right without it, too.
                Err(error) if error.kind() == Kind::LibvirtUnavailable => String::new(),
                Err(error) => return Err(error),
            };
            let effects = self.effects(name, request)?;
            return Ok(plan("pool.delete", subject, (&old, ""), effects, blocked));
        }
        free?;
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim("pool.delete", ctx);
        let hold = self.tools.gate.take(vec![key], &claim)?;
        let record = self.get(name)?;
        check_if_match(ctx, &record)?;
        may_delete(&self.tools.inventory.picture(), name, request)?;
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                intend(&task, DELETE_STEP, request).await?;
                let pool = record.pool.clone();
                let picture = service.tools.inventory.picture();
                let (name, in_closure) = (pool.name.clone(), task.clone());
                let done = service
                    .act(&name, move |session| {
                        remove(session, &in_closure, &picture, &pool, request)
                    })
                    .await;
                match done {
                    Ok(()) => Ok(End::Done(NOTHING)),
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        judge_after_loss(&service, &task, error).await
                    }
                    Err(error) => Err(error),
                }
            })
            .await
    }

    fn effects(&self, name: &str, request: DeletePool) -> Result<Vec<String>> {
        let record = self.get(name)?;
        let active = record.pool.state.is_active();
        let mut effects = Vec::new();
        if request.delete_volumes {
            let volumes = record.volumes.iter().filter(|volume| volume.name != LOST_AND_FOUND);
            effects
                .extend(volumes.map(|volume| format!("deletes the volume {name}/{}", volume.name)));
        }
        if active {
            effects.push("stops the pool".to_owned());
        }
        if request.delete_storage {
            effects.push("deletes what the pool stands on".to_owned());
        } else if let Some(path) = record.pool.target_path.as_deref().filter(|_| !active) {
            effects.push(format!("leaves whatever is in {path}"));
        }
        Ok(effects)
    }
}

/// Whether the pool may go as the picture shows it.
fn may_delete(picture: &Picture, name: &str, request: DeletePool) -> Result<()> {
    let record = picture.pool(name)?;
    let pool = &record.pool;
    if request.delete_storage && !pool.persistent {
        return Err(Error::new(
            Kind::Impossible,
            format!("the pool {name:?} is transient: it is gone before its storage could be"),
        )
        .with_field("delete_storage", "is impossible for a transient pool"));
    }
    if !pool.state.is_active() {
        if request.delete_volumes {
            return Err(Error::new(
                Kind::PoolInactive,
                format!("the pool {name:?} is not active, so its volumes cannot be deleted"),
            )
            .with_hint("start it first, or delete it without delete_volumes: its storage stays"));
        }
        return Ok(());
    }
    let volumes: Vec<(&str, &str)> =
        record.volumes.iter().map(|volume| (volume.name.as_str(), volume.path.as_str())).collect();
    may_lose(picture, name, &volumes, request)
}

/// Whether these volumes, by name and path, may go.
fn may_lose(
    picture: &Picture,
    pool: &str,
    volumes: &[(&str, &str)],
    request: DeletePool,
) -> Result<()> {
    let volumes: Vec<(&str, &str)> =
        volumes.iter().copied().filter(|(name, _)| *name != LOST_AND_FOUND).collect();
    if volumes.is_empty() {
        return Ok(());
    }
    if !request.delete_volumes {
        let names: Vec<&str> = volumes.iter().map(|(name, _)| *name).take(SHOWN).collect();
        let count = volumes.len();
        let plural = if count == 1 { "volume" } else { "volumes" };
        return Err(Error::new(
            Kind::PoolNotEmpty,
            format!("the pool {pool:?} has {count} {plural}"),
        )
        .with_detail("volumes", json!(names))
        .with_detail("volume_count", count));
    }
    let (mut vms, mut used, mut overlays) = (Vec::new(), Vec::new(), Vec::new());
    for (name, path) in volumes {
        let Ok(volume) = picture.volume(pool, name) else {
            // It has come since the pool was read: by its path alone.
            let uses = |place: &DiskPlace| matches!(&place.place, Place::Path(at) if **at == *path);
            let users = picture.vms.iter().filter(|record| record.places.iter().any(uses));
            let before = vms.len();
            vms.extend(users.map(|record| record.vm.name.clone()));
            if vms.len() > before {
                used.push(format!("{pool}/{name}"));
            }
            continue;
        };
        let before = overlays.len();
        // Overlays in the pool itself go with it.
        let elsewhere = volume.backing_of.iter().filter(|other| other.pool != pool);
        overlays.extend(elsewhere.map(ToString::to_string));
        let is_base = volume.template.is_some();
        if is_base || !volume.used_as.is_empty() || overlays.len() > before {
            used.push(format!("{pool}/{name}"));
        }
        vms.extend(volume.users());
    }
    if used.is_empty() {
        return Ok(());
    }
    vms.sort_unstable();
    vms.dedup();
    let users: Vec<&str> = vms.iter().chain(&overlays).map(String::as_str).collect();
    used.truncate(SHOWN);
    Err(Error::new(
        Kind::VolumeInUse,
        format!("{} of the pool {pool:?} in use by {}", used.join(", "), users.join(", ")),
    )
    .with_detail("volumes", json!(used))
    .with_detail("vms", json!(vms))
    .with_detail("overlays", json!(overlays)))
}

/// Looks once more, because what others did may not be in the picture, and then takes the pool
/// away.
fn remove(
    session: &Session,
    task: &TaskHandle,
    picture: &Arc<Picture>,
    known: &Pool,
    request: DeletePool,
) -> Result<()> {
    let name = known.name.as_str();
    let present = pool::facts(session, name)?;
    if present.uuid != known.uuid {
        return Err(Error::new(
            Kind::PreconditionFailed,
            format!("the pool {name:?} has been replaced by another one of its name"),
        ));
    }
    let mut active = present.state.is_active();
    if active {
        task.phase("looking at its volumes");
        active = match pool::refresh(session, name) {
            Ok(()) => true,
            Err(error)
                if matches!(
                    error.kind(),
                    Kind::LibvirtUnavailable | Kind::PoolBusy | Kind::PoolNotFound
                ) =>
            {
                return Err(error);
            }
            // Its storage is gone, and with it what it held.
            Err(error) => {
                tracing::info!(pool = name, error = ?error, "the storage cannot be looked at");
                pool::facts(session, name)?.state.is_active()
            }
        };
    }
    if active {
        remove_volumes(session, task, picture, name, request)?;
        task.phase("stopping");
        pool::stop(session, name)?;
    }
    if request.delete_storage
        && let Err(error) = pool::delete_storage(session, name)
    {
        if active && let Err(again) = pool::start(session, name) {
            tracing::warn!(pool = name, error = ?again, "the pool could not be started again");
        }
        return Err(error);
    }
    if present.persistent { pool::undefine(session, name) } else { Ok(()) }
}

fn remove_volumes(
    session: &Session,
    task: &TaskHandle,
    picture: &Picture,
    pool: &str,
    request: DeletePool,
) -> Result<()> {
    let volumes = volume::all(session, pool)?;
    let names: Vec<(&str, &str)> =
        volumes.iter().map(|volume| (volume.name.as_str(), volume.path.as_str())).collect();
    may_lose(picture, pool, &names, request)?;
    let total = names.len();
    let (mut left, mut first) = (Vec::new(), None);
    for (done, (name, _)) in names.iter().enumerate() {
        if *name == LOST_AND_FOUND {
            continue;
        }
        task.progress(Progress {
            phase: format!("deleting volume {} of {total}", done + 1),
            percent: u8::try_from(done * 100 / total.max(1)).ok(),
            ..Progress::default()
        });
        match volume::delete(session, pool, name) {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::VolumeNotFound => {}
            Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
            Err(error) => {
                left.push(format!("{pool}/{name}"));
                first.get_or_insert(error);
            }
        }
    }
    let Some(error) = first else { return Ok(()) };
    let shown: Vec<&str> = left.iter().map(String::as_str).take(SHOWN).collect();
    let details = error.details().get("libvirt").cloned();
    let told = Error::new(
        error.kind(),
        format!(
            "{} of {total} volumes of the pool {pool:?} cannot be deleted, so the pool stays: {}",
            left.len(),
            shown.join(", ")
        ),
    )
    .with_detail("left", json!(left))
    .with_source(error);
    Err(match details {
        Some(details) => told.with_detail("libvirt", details),
        None => told,
    })
}
