//! New volumes: empty, or on top of a base.

use super::check::{active, capacity, format, holds_files, new_name, refuse_foreign_base, writers};
use super::{VolumeService, pool_key, step, volume_key, volume_subject};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Session, volume};
use crate::model::vm_request::DiskFormat;
use crate::model::{CreateVolume, NewBacking, Pool, Preallocation, WipeAlgorithm};
use crate::service::adopt::judge_after_loss;
use crate::service::inventory::{Picture, VolumeRecord};
use crate::service::operation::plan;
use crate::service::task::{Operation, QUICK_WAIT};
use crate::service::{Context, Outcome};
use crate::xml::volume::{VolumeSpec, author_volume};

/// How libvirt is asked for a new volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    /// All of it at once.
    reserved: bool,
    /// With the tables of a qcow2 image.
    metadata: bool,
    /// Written once.
    written: bool,
}

impl VolumeService {
    /// Creates a volume. `virStorageVolCreateXML`.
    ///
    /// # Errors
    /// 400 for a bad name or capacity; 404 for the pool or the base; 409 if the pool is inactive,
    /// the volume exists, or the base is written to; 422 for what the pool or libvirt cannot do.
    pub async fn create(&self, ctx: Context, pool: &str, request: CreateVolume) -> Result<Outcome> {
        self.tools.tasks.once(&ctx, self.create_once(&ctx, pool, request)).await
    }

    async fn create_once(
        &self,
        ctx: &Context,
        pool: &str,
        request: CreateVolume,
    ) -> Result<Outcome> {
        let (capacity_bytes, field) = capacity(request.size, request.capacity_bytes)?;
        let name = String::from(request.name);
        self.tools.inventory.look_again(pool, &name).await?;
        let picture = self.tools.inventory.picture();
        let record = picture.pool(pool)?;
        let blocked = match new_name(&record, &name) {
            Err(error) if error.kind() == Kind::InvalidName => return Err(error),
            other => other,
        };
        let format = format(&record.pool, request.format)?;
        let linked = request.backing.is_some();
        let room = room(&record.pool, format, request.preallocation, linked)?;
        let mut beside = vec![pool_key(pool)];
        let mut effect = format!("creates the volume {pool}/{name} of {capacity_bytes} bytes");
        let mut backing = None;
        if let Some(asked) = &request.backing {
            let base = base(&picture, asked, format)?;
            if capacity_bytes < base.capacity_bytes {
                return Err(Error::new(
                    Kind::Impossible,
                    format!(
                        "{capacity_bytes} bytes are less than the {} bytes of {}/{}",
                        base.capacity_bytes, base.pool, base.name
                    ),
                )
                .with_field(field, "must be at least the base's"));
            }
            beside.push(volume_key(&base.pool, &base.name));
            if base.pool != pool {
                beside.push(pool_key(&base.pool));
            }
            effect.push_str(&format!(" on top of {}/{}", base.pool, base.name));
            backing = Some((base.path.clone(), base_format(&base, asked.format)));
        }
        let text = author_volume(&VolumeSpec {
            name: name.clone(),
            capacity_bytes,
            format,
            sparse: !room.reserved,
            backing,
        })?;
        let subject = volume_subject(pool, &name);
        if ctx.dry_run {
            return Ok(plan("volume.create", subject, ("", &text), vec![effect], blocked));
        }
        blocked?;
        self.tools.need_libvirt()?;
        let claim = self.tools.tasks.claim("volume.create", ctx);
        let hold = self.tools.gate.take_beside(vec![volume_key(pool, &name)], beside, &claim)?;
        let operation = Operation { claim, subject, cancellable: false, wait: QUICK_WAIT };
        let service = self.clone();
        let pool = pool.to_owned();
        self.tools
            .tasks
            .submit(ctx, operation, hold, move |task| async move {
                service.journal(&task, step(&pool, &name, capacity_bytes)).await?;
                let (in_pool, in_name) = (pool.clone(), name.clone());
                let made = service
                    .hop(&pool, &name, move |session| {
                        make(session, &in_pool, &in_name, &text, room)
                    })
                    .await;
                match made {
                    Ok(()) => service.settled(&pool, &name),
                    Err(error) if error.kind() == Kind::LibvirtUnavailable => {
                        judge_after_loss(&service, &task, error).await
                    }
                    Err(error) => Err(error),
                }
            })
            .await
    }
}

/// Makes the volume, or leaves nothing of it.
fn make(session: &Session, pool: &str, name: &str, text: &str, room: Room) -> Result<()> {
    absent(session, pool, name)?;
    let made = if room.metadata {
        volume::create_preallocated(session, pool, name, text)
    } else {
        volume::create(session, pool, name, text)
    };
    let made = made.and_then(|_| {
        if room.written {
            volume::wipe(session, pool, name, WipeAlgorithm::Zero)?;
        }
        Ok(())
    });
    made.map_err(|error| leave_nothing(session, pool, name, error))
}

/// 409 if libvirt knows a volume of this name: from here on one that is there is ours.
pub(super) fn absent(session: &Session, pool: &str, name: &str) -> Result<()> {
    match volume::facts(session, pool, name) {
        Ok(_) => Err(Error::new(
            Kind::VolumeAlreadyExists,
            format!("the pool {pool:?} has a volume {name:?} already"),
        )),
        Err(error) if error.kind() == Kind::VolumeNotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Deletes what a failed creation may have left, unless it failed because somebody else's volume
/// has the name.
pub(super) fn leave_nothing(session: &Session, pool: &str, name: &str, error: Error) -> Error {
    if matches!(error.kind(), Kind::VolumeAlreadyExists | Kind::LibvirtUnavailable) {
        return error;
    }
    match volume::delete(session, pool, name) {
        Ok(()) => error,
        Err(gone)
            if matches!(
                gone.kind(),
                Kind::VolumeNotFound | Kind::PoolNotFound | Kind::PoolInactive
            ) =>
        {
            error
        }
        Err(stays) => {
            tracing::warn!(pool, volume = name, error = ?stays, "what was begun stays");
            error.with_detail("left", vec![format!("the volume {pool}/{name}")])
        }
    }
}

/// What libvirt has to be asked for to get this much room taken.
fn room(
    pool: &Pool,
    format: DiskFormat,
    wanted: Option<Preallocation>,
    linked: bool,
) -> Result<Room> {
    use Preallocation::{Falloc, Full, Metadata, Off};
    let cannot = |why: &str| {
        Error::new(Kind::NotSupported, format!("this preallocation is not possible: {why}"))
            .with_field("preallocation", why)
    };
    let logical = pool.r#type == "logical";
    let wanted = wanted.unwrap_or(if logical { Falloc } else { Off });
    if linked && wanted != Off {
        return Err(cannot("a volume on top of another one takes room as it is written"));
    }
    let room = |reserved, metadata, written| Ok(Room { reserved, metadata, written });
    match (format, wanted) {
        (_, Off) if logical => Err(cannot("a logical volume that grows would break when full")),
        (_, Off) => room(false, false, false),
        (DiskFormat::Raw, Metadata) => Err(cannot("a raw volume has no metadata")),
        (DiskFormat::Raw, Falloc) => room(true, false, false),
        (DiskFormat::Raw, Full) => room(true, false, holds_files(pool)),
        (DiskFormat::Qcow2, Metadata) => room(false, true, false),
        (DiskFormat::Qcow2, Falloc) => room(true, true, false),
        (DiskFormat::Qcow2, Full) => Err(cannot("libvirt reserves a qcow2 volume's room at most")),
    }
}

/// The volume that a new one is to be based on.
fn base(
    picture: &Picture,
    asked: &NewBacking,
    format: DiskFormat,
) -> Result<std::sync::Arc<VolumeRecord>> {
    if format != DiskFormat::Qcow2 {
        return Err(Error::new(Kind::Impossible, "only a qcow2 volume can have a base")
            .with_field("format", "must be qcow2 for a volume with a base"));
    }
    active(&*picture.pool(&asked.pool)?)?;
    let base = picture.volume(&asked.pool, &asked.volume)?;
    may_be_base(picture, &base)?;
    Ok(base)
}

/// 409 if somebody may still write to it, 422 if it reads from what nobody vouches for.
pub(crate) fn may_be_base(picture: &Picture, base: &VolumeRecord) -> Result<()> {
    refuse_foreign_base(base)?;
    let writers: Vec<String> =
        writers(picture, base)?.iter().map(|record| record.vm.name.clone()).collect();
    if writers.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::VolumeInUse,
        format!(
            "the volume {}/{} is a disk that {} may write to, and a base must not change",
            base.pool,
            base.name,
            writers.join(", ")
        ),
    )
    .with_hint("clone it without linking, or detach it there first")
    .with_detail("vms", writers))
}

/// The word for a base's format in the new volume's header.
pub(crate) fn base_format(base: &VolumeRecord, asked: Option<DiskFormat>) -> String {
    match (asked, base.format.as_deref()) {
        (Some(format), _) => format.as_str().to_owned(),
        (None, None | Some("iso" | "unknown" | "none")) => "raw".to_owned(),
        (None, Some(format)) => format.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_as_the_pool_and_the_format_can() {
        use Preallocation::{Falloc, Full, Metadata, Off};
        let pool = |r#type: &str| Pool { r#type: r#type.to_owned(), ..Pool::default() };
        let get = |r#type: &str, format, wanted| room(&pool(r#type), format, wanted, false);
        let is = |reserved, metadata, written| Room { reserved, metadata, written };
        let (raw, qcow2) = (DiskFormat::Raw, DiskFormat::Qcow2);
        for (r#type, format, wanted, expected) in [
            ("dir", qcow2, None, is(false, false, false)),
            ("dir", raw, None, is(false, false, false)),
            ("logical", raw, None, is(true, false, false)),
            ("logical", raw, Some(Full), is(true, false, false)),
            ("dir", qcow2, Some(Metadata), is(false, true, false)),
            ("dir", qcow2, Some(Falloc), is(true, true, false)),
            ("dir", raw, Some(Falloc), is(true, false, false)),
            ("dir", raw, Some(Full), is(true, false, true)),
        ] {
            assert_eq!(get(r#type, format, wanted).unwrap(), expected, "{type} {wanted:?}");
        }
        for (r#type, format, wanted) in
            [("logical", raw, Off), ("dir", raw, Metadata), ("dir", qcow2, Full)]
        {
            let error = get(r#type, format, Some(wanted)).unwrap_err();
            assert_eq!(error.kind(), Kind::NotSupported);
        }
        assert!(room(&pool("dir"), qcow2, Some(Falloc), true).is_err());
    }
}
