//! Volumes of storage pools. Guest storage is reached this way only.
//!
//! Errors beside the common ones of [`domain`](super::domain): `PoolNotFound`, `PoolInactive`,
//! `VolumeNotFound`, `VolumeAlreadyExists`, `VolumeBusy`, `PoolBusy`, `InsufficientSpace`,
//! `Impossible`.

use virt::storage_vol::StorageVol;
use virt::stream::Stream;
use virt::sys;

use super::error::{What, present};
use super::pool;
use super::session::{Session, without_nul};
use crate::error::{Error, Kind, Result};
use crate::model::{VolumeRef, WipeAlgorithm};

/// What libvirt knows of one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeFacts {
    pub name: String,
    /// libvirt's key, unique on this host.
    pub key: String,
    pub path: String,
    pub xml: String,
}

pub(super) fn find(session: &Session, pool: &str, name: &str) -> Result<StorageVol> {
    without_nul("volume", name)?;
    let what = What::Volume { pool, name };
    let found = pool::find(session, pool)?;
    found.lookup_storage_vol_by_name(name).map_err(session.failed("find", what))
}

fn read(session: &Session, pool: &str, volume: &StorageVol) -> Result<VolumeFacts> {
    let name = volume.name().map_err(session.failed("list the volumes of", What::Pool(pool)))?;
    let failed = |error| session.failed("read", What::Volume { pool, name: &name })(error);
    Ok(VolumeFacts {
        key: volume.key().map_err(failed)?,
        path: volume.path().map_err(failed)?,
        xml: volume.xml_desc(0).map_err(failed)?,
        name,
    })
}

/// Every volume of an active pool.
pub fn all(session: &Session, pool: &str) -> Result<Vec<VolumeFacts>> {
    let volumes = pool::find(session, pool)?
        .list_all_volumes(0)
        .map_err(session.failed("list the volumes of", What::Pool(pool)))?;
    volumes
        .iter()
        .filter_map(|volume| present(read(session, pool, volume), Kind::VolumeNotFound))
        .collect()
}

/// One volume.
pub fn facts(session: &Session, pool: &str, name: &str) -> Result<VolumeFacts> {
    read(session, pool, &find(session, pool, name)?)
}

/// Capacity and allocation in bytes, as the storage says now. `virStorageVolGetInfo`.
///
/// # Errors
/// `VolumeNotFound` also if libvirt has it in its list and the storage has it no more.
pub fn sizes(session: &Session, pool: &str, name: &str) -> Result<(u64, u64)> {
    let info = find(session, pool, name)?
        .info()
        .map_err(session.failed("read", What::Volume { pool, name }))?;
    Ok((info.capacity, info.allocation))
}

/// Whether libvirt is still filling it. Asks for one byte of it, which libvirt refuses until then.
pub fn is_building(session: &Session, pool: &str, name: &str) -> Result<bool> {
    let what = What::Volume { pool, name };
    let volume = find(session, pool, name)?;
    let stream = Stream::new(session.connect(), 0).map_err(session.failed("read", what))?;
    match volume.download(&stream, 0, 1, 0).map_err(session.failed("read", what)) {
        Ok(()) => {
            // The byte is not wanted.
            let _ = stream.abort();
            Ok(false)
        }
        Err(error) if error.kind() == Kind::VolumeBusy => Ok(true),
        Err(error) if error.kind() == Kind::LibvirtUnavailable => Err(error),
        Err(_) => Ok(false),
    }
}

/// Creates a volume; `name` is for messages and must be the XML's.
pub fn create(session: &Session, pool: &str, name: &str, xml: &str) -> Result<VolumeFacts> {
    create_flags(session, pool, name, xml, 0)
}

/// [`create`] of a qcow2 image with its tables filled in, and the room reserved that the XML
/// allocates.
pub fn create_preallocated(
    session: &Session,
    pool: &str,
    name: &str,
    xml: &str,
) -> Result<VolumeFacts> {
    create_flags(session, pool, name, xml, sys::VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA)
}

fn create_flags(
    session: &Session,
    pool: &str,
    name: &str,
    xml: &str,
    flags: u32,
) -> Result<VolumeFacts> {
    without_nul("xml", xml)?;
    let found = pool::find(session, pool)?;
    let volume = StorageVol::create_xml(&found, xml, flags)
        .map_err(session.failed("create", What::Volume { pool, name }))?;
    read(session, pool, &volume)
}

/// Creates a volume with the contents of another; takes as long as the copy does. `name` is for
/// messages and must be the XML's.
pub fn create_from(
    session: &Session,
    pool: &str,
    name: &str,
    xml: &str,
    source_pool: &str,
    source_name: &str,
) -> Result<VolumeFacts> {
    without_nul("xml", xml)?;
    let source = find(session, source_pool, source_name)?;
    let what = What::Volume { pool: source_pool, name: source_name };
    source.info().map_err(session.failed("read", what))?;
    let found = pool::find(session, pool)?;
    let made = StorageVol::create_xml_from(&found, xml, &source, 0)
        .map_err(session.failed("create", What::Volume { pool, name }));
    let volume = made.map_err(|error| match error.kind() {
        // The new one cannot be missing: the source vanished in the last moment.
        Kind::VolumeNotFound => {
            let libvirt = error.details().get("libvirt").cloned();
            let vanished = Error::new(
                Kind::VolumeNotFound,
                format!("the source {source_pool}/{source_name} has vanished"),
            );
            match libvirt {
                Some(said) => vanished.with_detail("libvirt", said).with_source(error),
                None => vanished.with_source(error),
            }
        }
        _ => error,
    })?;
    read(session, pool, &volume)
}

/// Gives a volume that no running domain uses this capacity, bytes; a smaller one only with
/// `shrink`.
pub fn resize(
    session: &Session,
    pool: &str,
    name: &str,
    capacity: u64,
    shrink: bool,
) -> Result<()> {
    let flags = if shrink { sys::VIR_STORAGE_VOL_RESIZE_SHRINK } else { 0 };
    find(session, pool, name)?
        .resize(capacity, flags)
        .map_err(session.failed("resize", What::Volume { pool, name }))
}

/// Overwrites a volume; takes as long as that does. An image is no image afterwards.
pub fn wipe(session: &Session, pool: &str, name: &str, algorithm: WipeAlgorithm) -> Result<()> {
    let pattern = match algorithm {
        WipeAlgorithm::Zero => sys::VIR_STORAGE_VOL_WIPE_ALG_ZERO,
        WipeAlgorithm::Nnsa => sys::VIR_STORAGE_VOL_WIPE_ALG_NNSA,
        WipeAlgorithm::Dod => sys::VIR_STORAGE_VOL_WIPE_ALG_DOD,
        WipeAlgorithm::Bsi => sys::VIR_STORAGE_VOL_WIPE_ALG_BSI,
        WipeAlgorithm::Gutmann => sys::VIR_STORAGE_VOL_WIPE_ALG_GUTMANN,
        WipeAlgorithm::Schneier => sys::VIR_STORAGE_VOL_WIPE_ALG_SCHNEIER,
        WipeAlgorithm::Pfitzner7 => sys::VIR_STORAGE_VOL_WIPE_ALG_PFITZNER7,
        WipeAlgorithm::Pfitzner33 => sys::VIR_STORAGE_VOL_WIPE_ALG_PFITZNER33,
        WipeAlgorithm::Random => sys::VIR_STORAGE_VOL_WIPE_ALG_RANDOM,
        WipeAlgorithm::Trim => sys::VIR_STORAGE_VOL_WIPE_ALG_TRIM,
    };
    find(session, pool, name)?
        .wipe_pattern(pattern, 0)
        .map_err(session.failed("wipe", What::Volume { pool, name }))
}

/// Deletes a volume with its contents.
pub fn delete(session: &Session, pool: &str, name: &str) -> Result<()> {
    find(session, pool, name)?
        .delete(0)
        .map_err(session.failed("delete", What::Volume { pool, name }))
}

/// The same where one that is gone already is as good, such as when something is undone.
pub fn delete_if_there(session: &Session, pool: &str, name: &str) -> Result<()> {
    match delete(session, pool, name) {
        Err(error) if matches!(error.kind(), Kind::VolumeNotFound | Kind::PoolNotFound) => Ok(()),
        done => done,
    }
}

/// Deletes what is there of these volumes, the last first, as each may stand on one before it. Returns
/// those that stay.
///
/// # Errors
/// [`Kind::LibvirtUnavailable`] alone.
pub fn delete_all<'a>(
    session: &Session,
    volumes: impl DoubleEndedIterator<Item = &'a VolumeRef>,
) -> Result<Vec<VolumeRef>> {
    let mut stay = Vec::new();
    for reference in volumes.rev() {
        match delete_if_there(session, &reference.pool, &reference.volume) {
            Ok(()) => {}
            Err(error) if error.kind() == Kind::LibvirtUnavailable => return Err(error),
            Err(error) => {
                tracing::warn!(volume = %reference, error = ?error, "a volume stays");
                stay.push(reference.clone());
            }
        }
    }
    Ok(stay)
}

/// The pool and name of the volume at `path`, if a known pool has one there.
pub fn by_path(session: &Session, path: &str) -> Result<Option<(String, String)>> {
    without_nul("path", path)?;
    let what = What::Path(path);
    let looked = session
        .connect()
        .lookup_storage_vol_by_path(path)
        .map_err(session.failed("find", what))
        .and_then(|volume| {
            let pool = volume.lookup_storage_pool().map_err(session.failed("find", what))?;
            let read = |error: virt::error::Error| -> Error { session.failed("find", what)(error) };
            Ok((pool.name().map_err(read)?, volume.name().map_err(read)?))
        });
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), Kind::VolumeNotFound | Kind::PoolNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
