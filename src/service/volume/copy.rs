//! Copying a volume through libvirt, for whoever needs one: a volume's clone, a VM's, a template.
//!
//! libvirt copies in one call, which nothing interrupts; meanwhile a second worker looks how much
//! of the new volume is there. A cancelled copy is deleted as soon as libvirt lets go of it.

use std::time::{Duration, Instant};

use super::check::{format, holds_files, refuse_foreign_base, runs, writers};
use super::create::{absent, base_format, leave_nothing, may_be_base};
use crate::error::{Error, Kind, Result};
use crate::libvirt::{Hypervisor, Lane, Session, volume};
use crate::model::vm_request::DiskFormat;
use crate::model::{CloneVolume, Progress, VolumeRef};
use crate::service::inventory::{Picture, VolumeRecord};
use crate::service::task::TaskHandle;
use crate::xml::volume::{VolumeSpec, author_volume};

/// How often the copy is looked at.
const BEAT: Duration = Duration::from_millis(500);

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(5);

/// What is copied, and to where.
#[derive(Clone, Debug)]
pub(crate) struct Copy {
    pub source: VolumeRef,
    pub to: VolumeRef,
    pub xml: String,
    pub linked: bool,
    /// The format of the new volume.
    pub format: DiskFormat,
    /// Whether it takes room as it is written.
    pub sparse: bool,
    /// What the source takes now: about what the copy will.
    pub bytes: u64,
}

/// How much is copied before and besides this copy, in an operation that makes several.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    pub done: u64,
    pub total: u64,
    pub begun: Instant,
}

/// Does `work`, which is [`make`] on a worker, and tells meanwhile how far it is.
pub(crate) async fn watched<T>(
    hypervisor: &Hypervisor,
    task: &TaskHandle,
    copy: &Copy,
    share: Share,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut watch = std::pin::pin!(watch(hypervisor, task, copy, share));
    tokio::select! {
        made = &mut work => made,
        () = &mut watch => work.await,
    }
}

/// Tells how much of the copy is there, until nobody listens.
async fn watch(hypervisor: &Hypervisor, task: &TaskHandle, copy: &Copy, share: Share) {
    loop {
        tokio::time::sleep(BEAT).await;
        if task.cancelled().is_cancelled() {
            task.phase("cancelled: the copy is deleted as soon as libvirt lets go of it");
            return;
        }
        let to = copy.to.clone();
        let sizes = hypervisor
            .run(Lane::Quick, LOOK, move |session| volume::sizes(session, &to.pool, &to.volume));
        // A header that is being written may not be readable.
        let Ok((_, allocation)) = sizes.await else { continue };
        if !task.cancelled().is_cancelled() {
            let done = share.done.saturating_add(allocation.min(copy.bytes.max(1)));
            task.progress(progress(done, share.total, share.begun.elapsed()));
        }
    }
}

/// How far a copy is that has taken this long.
pub(crate) fn progress(done: u64, total: u64, took: Duration) -> Progress {
    let total = total.max(1);
    // It may take more than the source does; it is not done before libvirt says so.
    let done = done.min(total);
    let rate = u128::from(done) * 1000 / took.as_millis().max(1);
    let rate = u64::try_from(rate).unwrap_or(u64::MAX);
    let percent = u128::from(done) * 100 / u128::from(total);
    Progress {
        phase: "copying".to_owned(),
        percent: Some(u8::try_from(percent.min(99)).unwrap_or(99)),
        bytes_done: Some(done),
        bytes_total: Some(total),
        bytes_per_second: Some(rate),
        eta_seconds: (rate > 0).then(|| (total - done).div_ceil(rate)),
    }
}

/// Makes the copy, or leaves nothing of it. A cancellation that comes meanwhile is heeded at the
/// end; `last` says that none is heeded afterwards.
pub(crate) fn make(
    session: &Session,
    task: &TaskHandle,
    copy: &Copy,
    last: bool,
) -> Result<volume::VolumeFacts> {
    let (to, source) = (&copy.to, &copy.source);
    task.check_cancelled()?;
    absent(session, &to.pool, &to.volume)?;
    let made = if copy.linked {
        volume::create(session, &to.pool, &to.volume, &copy.xml)
    } else {
        volume::create_from(session, &to.pool, &to.volume, &copy.xml, &source.pool, &source.volume)
    };
    let heeded = |facts| match last {
        true => task.point_of_no_return().map(|()| facts),
        false => task.check_cancelled().map(|()| facts),
    };
    made.and_then(heeded).map_err(|error| {
        let error = error.with_detail("source", source.to_string());
        leave_nothing(session, &to.pool, &to.volume, error)
    })
}

/// Makes an empty volume of this capacity in the copy's place, for somebody else to fill.
pub(crate) fn make_empty(session: &Session, copy: &Copy, capacity_bytes: u64) -> Result<()> {
    let to = &copy.to;
    absent(session, &to.pool, &to.volume)?;
    let text = author_volume(&VolumeSpec {
        name: to.volume.clone(),
        capacity_bytes,
        format: copy.format,
        sparse: copy.sparse,
        backing: None,
    })?;
    let made = volume::create(session, &to.pool, &to.volume, &text).map(drop);
    made.map_err(|error| leave_nothing(session, &to.pool, &to.volume, error))
}

/// What the new volume is to be.
pub(crate) fn copy(
    picture: &Picture,
    source: &VolumeRecord,
    to: VolumeRef,
    request: &CloneVolume,
) -> Result<Copy> {
    if source.r#type == "dir" {
        return Err(Error::new(Kind::NotSupported, "a folder cannot be cloned"));
    }
    if source.whole()?.encryption.is_some() {
        return Err(Error::new(
            Kind::NotSupported,
            format!("the volume {} is encrypted, and its key is not known", source.reference()),
        ));
    }
    let pool = picture.pool(&to.pool)?;
    let own = match source.format.as_deref() {
        Some("raw" | "iso" | "unknown" | "none") | None => DiskFormat::Raw,
        Some(_) => DiskFormat::Qcow2,
    };
    let wanted = match request.format {
        Some(format) => Some(format),
        None if request.linked => Some(DiskFormat::Qcow2),
        None if holds_files(&pool.pool) => Some(own),
        None => None,
    };
    let format = format(&pool.pool, wanted)?;
    if request.linked && format != DiskFormat::Qcow2 {
        return Err(Error::new(Kind::Impossible, "only a qcow2 volume can have a base")
            .with_field("format", "must be qcow2 for a linked clone"));
    }
    let sparse = pool.pool.r#type != "logical";
    let xml = author_volume(&VolumeSpec {
        name: to.volume.clone(),
        capacity_bytes: source.capacity_bytes,
        format,
        sparse,
        backing: request.linked.then(|| (source.path.clone(), base_format(source, None))),
    })?;
    Ok(Copy {
        source: source.reference(),
        to,
        xml,
        linked: request.linked,
        format,
        sparse,
        bytes: source.allocation_bytes,
    })
}

/// 409 while a running VM writes to the source, or if a linked one's base may change at all.
pub(crate) fn may_be_copied(picture: &Picture, source: &VolumeRecord, linked: bool) -> Result<()> {
    if linked {
        return may_be_base(picture, source);
    }
    refuse_foreign_base(source)?;
    let running: Vec<String> = writers(picture, source)?
        .iter()
        .filter(|record| runs(record))
        .map(|record| record.vm.name.clone())
        .collect();
    if running.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        Kind::VolumeInUse,
        format!(
            "the volume {} is a disk of {}, which runs: a copy would be of no single moment",
            source.reference(),
            running.join(", ")
        ),
    )
    .with_hint("stop the VM first, or back it up instead")
    .with_detail("vms", running))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_numbers_and_never_complete_before_the_end() {
        let half = progress(50, 100, Duration::from_secs(5));
        assert_eq!((half.percent, half.bytes_per_second), (Some(50), Some(10)));
        assert_eq!(half.eta_seconds, Some(5));
        let more = progress(500, 100, Duration::from_secs(5));
        assert_eq!(
            (more.percent, more.bytes_done, more.eta_seconds),
            (Some(99), Some(100), Some(0))
        );
        let none = progress(0, 0, Duration::ZERO);
        assert_eq!((none.percent, none.eta_seconds), (Some(0), None));
    }
}
