//! Storage pools and their volumes. Guest storage is reached this way only.
//!
//! Errors beside the common ones of [`domain`](super::domain): `PoolNotFound`, `PoolInactive`,
//! `VolumeNotFound`, `VolumeAlreadyExists`, `InsufficientSpace`.

use uuid::Uuid;
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;
use virt::sys;

use super::error::What;
use super::session::{Session, without_nul};
use crate::error::{Error, Kind, Result};
use crate::model::PoolState;

/// What libvirt knows of one pool. Sizes in bytes; 0 while it is inactive.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolFacts {
    pub uuid: Uuid,
    pub name: String,
    pub state: PoolState,
    pub capacity: u64,
    pub allocation: u64,
    pub available: u64,
    pub xml: String,
    pub autostart: bool,
    pub persistent: bool,
}

/// What libvirt knows of one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeFacts {
    pub name: String,
    /// libvirt's key, unique on this host.
    pub key: String,
    pub path: String,
    pub xml: String,
}

fn find(session: &Session, name: &str) -> Result<StoragePool> {
    without_nul("pool", name)?;
    session
        .connect()
        .lookup_storage_pool_by_name(name)
        .map_err(session.failed("find", What::Pool(name)))
}

fn find_volume(session: &Session, pool: &str, name: &str) -> Result<StorageVol> {
    without_nul("volume", name)?;
    let what = What::Volume { pool, name };
    let found = find(session, pool)?;
    found.lookup_storage_vol_by_name(name).map_err(session.failed("find", what))
}

fn read_pool(session: &Session, pool: &StoragePool) -> Result<PoolFacts> {
    let name = pool.name().map_err(session.failed("list the pools of", What::Host))?;
    let failed = |error| session.failed("read", What::Pool(&name))(error);
    let info = pool.info().map_err(failed)?;
    Ok(PoolFacts {
        uuid: pool.uuid().map_err(failed)?,
        state: match info.state {
            sys::VIR_STORAGE_POOL_BUILDING => PoolState::Building,
            sys::VIR_STORAGE_POOL_RUNNING => PoolState::Running,
            sys::VIR_STORAGE_POOL_DEGRADED => PoolState::Degraded,
            sys::VIR_STORAGE_POOL_INACCESSIBLE => PoolState::Inaccessible,
            _ => PoolState::Inactive,
        },
        capacity: info.capacity,
        allocation: info.allocation,
        available: info.available,
        xml: pool.xml_desc(0).map_err(failed)?,
        autostart: pool.autostart().map_err(failed)?,
        persistent: pool.is_persistent().map_err(failed)?,
        name,
    })
}

fn read_volume(session: &Session, pool: &str, volume: &StorageVol) -> Result<VolumeFacts> {
    let name = volume.name().map_err(session.failed("list the volumes of", What::Pool(pool)))?;
    let failed = |error| session.failed("read", What::Volume { pool, name: &name })(error);
    Ok(VolumeFacts {
        key: volume.key().map_err(failed)?,
        path: volume.path().map_err(failed)?,
        xml: volume.xml_desc(0).map_err(failed)?,
        name,
    })
}

/// Leaves out what vanished while a list was read.
fn present<T>(result: Result<T>, gone: Kind) -> Option<Result<T>> {
    match result {
        Err(error) if error.kind() == gone => None,
        other => Some(other),
    }
}

/// Every pool, active or not.
pub fn pools(session: &Session) -> Result<Vec<PoolFacts>> {
    let pools = session
        .connect()
        .list_all_storage_pools(0)
        .map_err(session.failed("list the pools of", What::Host))?;
    pools.iter().filter_map(|pool| present(read_pool(session, pool), Kind::PoolNotFound)).collect()
}

/// One pool.
pub fn pool_facts(session: &Session, name: &str) -> Result<PoolFacts> {
    read_pool(session, &find(session, name)?)
}

/// Makes libvirt look at the pool's storage anew.
pub fn refresh_pool(session: &Session, name: &str) -> Result<()> {
    find(session, name)?.refresh(0).map_err(session.failed("refresh", What::Pool(name)))
}

/// Every volume of an active pool.
pub fn volumes(session: &Session, pool: &str) -> Result<Vec<VolumeFacts>> {
    let volumes = find(session, pool)?
        .list_all_volumes(0)
        .map_err(session.failed("list the volumes of", What::Pool(pool)))?;
    volumes
        .iter()
        .filter_map(|volume| present(read_volume(session, pool, volume), Kind::VolumeNotFound))
        .collect()
}

/// One volume.
pub fn volume_facts(session: &Session, pool: &str, name: &str) -> Result<VolumeFacts> {
    read_volume(session, pool, &find_volume(session, pool, name)?)
}

/// Creates a volume; `name` is for messages and must be the XML's.
pub fn create_volume(session: &Session, pool: &str, name: &str, xml: &str) -> Result<VolumeFacts> {
    without_nul("xml", xml)?;
    let found = find(session, pool)?;
    let volume = StorageVol::create_xml(&found, xml, 0)
        .map_err(session.failed("create", What::Volume { pool, name }))?;
    read_volume(session, pool, &volume)
}

/// Creates a volume with the contents of another; takes as long as the copy does. `name` is for
/// messages and must be the XML's.
pub fn clone_volume(
    session: &Session,
    pool: &str,
    name: &str,
    xml: &str,
    source_pool: &str,
    source_name: &str,
) -> Result<VolumeFacts> {
    without_nul("xml", xml)?;
    let source = find_volume(session, source_pool, source_name)?;
    let found = find(session, pool)?;
    let volume = StorageVol::create_xml_from(&found, xml, &source, 0)
        .map_err(session.failed("create", What::Volume { pool, name }))?;
    read_volume(session, pool, &volume)
}

/// Grows a volume to `capacity` bytes.
pub fn resize_volume(session: &Session, pool: &str, name: &str, capacity: u64) -> Result<()> {
    find_volume(session, pool, name)?
        .resize(capacity, 0)
        .map_err(session.failed("resize", What::Volume { pool, name }))
}

/// Deletes a volume with its contents.
pub fn delete_volume(session: &Session, pool: &str, name: &str) -> Result<()> {
    find_volume(session, pool, name)?
        .delete(0)
        .map_err(session.failed("delete", What::Volume { pool, name }))
}

/// The pool and name of the volume at `path`, if a known pool has one there.
pub fn volume_by_path(session: &Session, path: &str) -> Result<Option<(String, String)>> {
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
