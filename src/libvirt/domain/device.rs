//! Devices of a domain, by their XML, and what libvirt knows of a disk.

use uuid::Uuid;

use super::super::ffi;
use super::super::session::{Session, without_nul};
use super::{impact, with};
use crate::error::Result;

/// Sizes of a disk, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockInfo {
    /// What the guest sees.
    pub capacity: u64,
    /// What is written.
    pub allocation: u64,
    /// How large the file or device is on the host.
    pub physical: u64,
}

/// Adds a device.
pub fn attach_device(
    session: &Session,
    uuid: Uuid,
    xml: &str,
    live: bool,
    config: bool,
) -> Result<()> {
    without_nul("xml", xml)?;
    with(session, uuid, "attach a device to", |domain| {
        domain.attach_device_flags(xml, impact(live, config))
    })
}

/// Removes a device. For a running domain the guest must let go of it: success means that it was
/// asked, `DomainEvent::DeviceRemoved` that it is gone.
pub fn detach_device(
    session: &Session,
    uuid: Uuid,
    xml: &str,
    live: bool,
    config: bool,
) -> Result<()> {
    without_nul("xml", xml)?;
    with(session, uuid, "detach a device from", |domain| {
        domain.detach_device_flags(xml, impact(live, config))
    })
}

/// Changes a device in place (a medium, a link state).
pub fn update_device(
    session: &Session,
    uuid: Uuid,
    xml: &str,
    live: bool,
    config: bool,
) -> Result<()> {
    without_nul("xml", xml)?;
    with(session, uuid, "change a device of", |domain| {
        domain.update_device_flags(xml, impact(live, config))
    })
}

/// Exchanges the medium of a removable drive of a running domain: `xml` is the drive with its new
/// medium, or without one. `force` opens the tray even if the guest has locked it.
pub fn change_medium(session: &Session, uuid: Uuid, xml: &str, force: bool) -> Result<()> {
    without_nul("xml", xml)?;
    let force = if force { virt::sys::VIR_DOMAIN_DEVICE_MODIFY_FORCE } else { 0 };
    with(session, uuid, "exchange a medium of", |domain| {
        domain.update_device_flags(xml, impact(true, false) | force)
    })
}

/// The sizes of the disk with this target name. Asks QEMU's monitor if the domain runs, and can
/// therefore wait for a hung guest.
pub fn block_info(session: &Session, uuid: Uuid, target: &str) -> Result<BlockInfo> {
    without_nul("target", target)?;
    with(session, uuid, "read a disk of", |domain| {
        let (capacity, allocation, physical) = ffi::domain::block_info(domain, target)?;
        Ok(BlockInfo { capacity, allocation, physical })
    })
}

/// Gives the disk with this target name of a running domain this capacity, bytes: the file or
/// device grows and the guest is told. `virDomainBlockResize`.
pub fn resize_disk(session: &Session, uuid: Uuid, target: &str, capacity: u64) -> Result<()> {
    without_nul("target", target)?;
    with(session, uuid, "resize a disk of", |domain| {
        domain.block_resize(target, capacity, virt::sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    })
}
