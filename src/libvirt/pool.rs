//! Storage pools.
//!
//! Errors beside the common ones of [`domain`](super::domain): `PoolNotFound`, `PoolInactive`,
//! `PoolActive`, `PoolAlreadyExists`, `PoolConflict`.

use uuid::Uuid;
use virt::storage_pool::StoragePool;
use virt::sys;

use super::error::{What, present};
use super::ffi;
use super::session::{Session, without_nul};
use crate::error::{Kind, Result};
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

pub(super) fn find(session: &Session, name: &str) -> Result<StoragePool> {
    without_nul("pool", name)?;
    session
        .connect()
        .lookup_storage_pool_by_name(name)
        .map_err(session.failed("find", What::Pool(name)))
}

fn read(session: &Session, pool: &StoragePool) -> Result<PoolFacts> {
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

/// Every pool, active or not.
pub fn all(session: &Session) -> Result<Vec<PoolFacts>> {
    let pools = session
        .connect()
        .list_all_storage_pools(0)
        .map_err(session.failed("list the pools of", What::Host))?;
    pools.iter().filter_map(|pool| present(read(session, pool), Kind::PoolNotFound)).collect()
}

/// One pool.
pub fn facts(session: &Session, name: &str) -> Result<PoolFacts> {
    read(session, &find(session, name)?)
}

/// Makes libvirt look at the pool's storage anew.
pub fn refresh(session: &Session, name: &str) -> Result<()> {
    find(session, name)?.refresh(0).map_err(session.failed("refresh", What::Pool(name)))
}

/// The definition that the next start takes.
pub fn definition(session: &Session, name: &str) -> Result<String> {
    // The test driver knows no such flag, and one definition alone.
    let flags = if session.is_test_driver() { 0 } else { sys::VIR_STORAGE_XML_INACTIVE };
    find(session, name)?.xml_desc(flags).map_err(session.failed("read", What::Pool(name)))
}

/// Defines a pool, or redefines it; `name` is for messages and must be the XML's.
/// `virStoragePoolDefineXML`.
pub fn define(session: &Session, name: &str, xml: &str) -> Result<()> {
    without_nul("xml", xml)?;
    session
        .connect()
        .define_storage_pool_xml(xml, 0)
        .map(drop)
        .map_err(session.failed("define", What::Pool(name)))
}

/// What pools of this type could be made of, as this host is now, as XML.
/// `virConnectFindStoragePoolSources`.
///
/// # Errors
/// `NotSupported` if libvirt cannot look for such.
pub fn sources(session: &Session, r#type: &str) -> Result<String> {
    session
        .connect()
        .find_storage_pool_sources(r#type, None, 0)
        .map_err(session.failed("look for the storage of", What::Host))
}

/// How the storage of a pool is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildMode {
    /// A folder, if it is missing.
    Folder,
    /// A file system, a volume group or a partition table, on devices that hold nothing.
    Careful,
    /// The same, whatever the devices hold.
    Overwrite,
}

/// Makes the storage of an inactive pool; takes as long as that does. `virStoragePoolBuild`.
pub fn build(session: &Session, name: &str, mode: BuildMode) -> Result<()> {
    let flags = match mode {
        // It makes nothing anyway, and knows no flags.
        _ if session.is_test_driver() => 0,
        BuildMode::Folder => sys::VIR_STORAGE_POOL_BUILD_NEW,
        BuildMode::Careful => sys::VIR_STORAGE_POOL_BUILD_NO_OVERWRITE,
        BuildMode::Overwrite => sys::VIR_STORAGE_POOL_BUILD_OVERWRITE,
    };
    find(session, name)?
        .build(flags)
        .map_err(session.failed("make the storage of", What::Pool(name)))
}

/// Makes an inactive pool's volumes available. `virStoragePoolCreate`.
pub fn start(session: &Session, name: &str) -> Result<()> {
    find(session, name)?.create(0).map_err(session.failed("start", What::Pool(name)))
}

/// Makes an active pool's volumes unavailable to libvirt; what uses them already goes on. A
/// transient pool is gone. `virStoragePoolDestroy`.
pub fn stop(session: &Session, name: &str) -> Result<()> {
    find(session, name)?.destroy().map_err(session.failed("stop", What::Pool(name)))
}

/// Deletes what an inactive pool stands on: an empty folder, a volume group. `virStoragePoolDelete`.
pub fn delete_storage(session: &Session, name: &str) -> Result<()> {
    find(session, name)?
        .delete(sys::VIR_STORAGE_POOL_DELETE_NORMAL)
        .map_err(session.failed("delete the storage of", What::Pool(name)))
}

/// Forgets an inactive pool. `virStoragePoolUndefine`.
pub fn undefine(session: &Session, name: &str) -> Result<()> {
    find(session, name)?.undefine().map_err(session.failed("undefine", What::Pool(name)))
}

/// Whether it starts with the host.
pub fn set_autostart(session: &Session, name: &str, autostart: bool) -> Result<()> {
    find(session, name)?
        .set_autostart(autostart)
        .map_err(session.failed("set the autostart of", What::Pool(name)))
}

/// `virConnectGetStoragePoolCapabilities`.
///
/// # Errors
/// `NotSupported` if the driver has none.
pub fn capabilities_xml(session: &Session) -> Result<String> {
    ffi::pool::capabilities(session.connect())
        .map_err(session.failed("read the storage capabilities of", What::Host))
}
