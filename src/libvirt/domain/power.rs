//! Starting, stopping and holding domains.

use uuid::Uuid;
use virt::sys;

use super::super::session::Session;
use super::{with, with_any};
use crate::error::{Kind, Result};

/// Who is asked to bring the guest down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShutdownMode {
    /// libvirt chooses: the agent if there is one, else ACPI.
    #[default]
    Default,
    Acpi,
    Agent,
}

/// Starts a defined domain; one with a saved state continues from it.
pub fn start(session: &Session, uuid: Uuid) -> Result<()> {
    // With flags, even none, the answer tells the new number; the plain call asks for it once more.
    with(session, uuid, "start", |domain| domain.create_with_flags(sys::VIR_DOMAIN_NONE))
}

/// Asks the guest to shut down and returns at once; whether it does is told by events.
pub fn shutdown(session: &Session, uuid: Uuid, mode: ShutdownMode) -> Result<()> {
    with(session, uuid, "shut down", |domain| match mode {
        // The flags call with no flags is the same; the plain one exists in every driver.
        ShutdownMode::Default => domain.shutdown(),
        ShutdownMode::Acpi => domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN),
        ShutdownMode::Agent => domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_GUEST_AGENT),
    })
}

/// Stops the domain without asking the guest. `graceful` gives QEMU time to flush (`SIGTERM` alone)
/// and fails with `VmBusy` or `LibvirtRefused` if it does not end; without it QEMU is killed.
pub fn destroy(session: &Session, uuid: Uuid, graceful: bool) -> Result<()> {
    // libvirt signals the process before it takes the job lock: this is the way out of a hang.
    with_any(session, uuid, "stop", |domain| {
        if graceful && session.is_qemu() {
            domain.destroy_flags(sys::VIR_DOMAIN_DESTROY_GRACEFUL)
        } else {
            domain.destroy()
        }
    })
}

/// Cuts the power of a domain that ran a moment ago: that it has stopped by itself since, or is gone,
/// is as good.
pub fn cut_power(session: &Session, uuid: Uuid) -> Result<()> {
    match destroy(session, uuid, false) {
        Err(error) if matches!(error.kind(), Kind::VmNotRunning | Kind::VmNotFound) => Ok(()),
        done => done,
    }
}

/// Asks the guest to restart and returns at once.
pub fn reboot(session: &Session, uuid: Uuid, mode: ShutdownMode) -> Result<()> {
    let flags = match mode {
        ShutdownMode::Default => sys::VIR_DOMAIN_REBOOT_DEFAULT,
        ShutdownMode::Acpi => sys::VIR_DOMAIN_REBOOT_ACPI_POWER_BTN,
        ShutdownMode::Agent => sys::VIR_DOMAIN_REBOOT_GUEST_AGENT,
    };
    with(session, uuid, "restart", |domain| domain.reboot(flags))
}

/// Presses the reset button: the guest is not asked.
pub fn reset(session: &Session, uuid: Uuid) -> Result<()> {
    with(session, uuid, "reset", |domain| domain.reset())
}

/// Halts the virtual CPUs.
pub fn suspend(session: &Session, uuid: Uuid) -> Result<()> {
    with(session, uuid, "pause", |domain| domain.suspend())
}

/// Lets the virtual CPUs run again.
pub fn resume(session: &Session, uuid: Uuid) -> Result<()> {
    with(session, uuid, "resume", |domain| domain.resume())
}

/// Wakes a guest that sleeps.
pub fn pm_wakeup(session: &Session, uuid: Uuid) -> Result<()> {
    with(session, uuid, "wake", |domain| domain.pm_wakeup(0))
}

/// Saves memory and state to libvirt's own file and stops; takes as long as the memory is large.
pub fn managed_save(session: &Session, uuid: Uuid) -> Result<()> {
    with(session, uuid, "save", |domain| domain.managed_save(0))
}

/// Throws a saved state away.
pub fn managed_save_remove(session: &Session, uuid: Uuid) -> Result<()> {
    with(session, uuid, "discard the saved state of", |domain| domain.managed_save_remove(0))
}
