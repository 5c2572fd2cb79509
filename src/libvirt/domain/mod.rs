//! Domains: what is known of them, and what can be done to them.
//!
//! Every function takes the [`Session`] first, speaks of a domain by its UUID and returns owned data.
//! Errors name the VM and carry libvirt's code and text in `details.libvirt`; the common ones are
//! `VmNotFound`, `VmBusy` (libvirt's job lock was not free within 30 s), `VmWrongState`,
//! `NotSupported`, `LibvirtRefused` and `LibvirtUnavailable`.

mod backup;
mod define;
mod device;
mod facts;
mod job;
mod power;
mod state;
mod tune;

use std::time::{Duration, Instant};

use uuid::Uuid;
use virt::domain::Domain;

use super::error::What;
use super::ffi;
use super::session::{Session, without_nul};
use crate::error::{Error, Kind, Result};

pub use backup::{backup_begin, backup_xml, freeze, thaw};
pub use define::{
    UndefineFlags, define, rename, set_autostart, set_description, set_metadata, set_title,
    undefine, xml,
};
pub use device::{
    BlockInfo, attach_device, block_info, change_medium, detach_device, resize_disk, update_device,
};
pub use facts::{
    DomainBrief, DomainFacts, Survey, brief, brief_all, facts, facts_all, facts_of, snapshot_names,
    survey,
};
pub use job::{EndedJob, JobInfo, abort_job, ended_job, job_info};
pub use power::{
    ShutdownMode, cut_power, destroy, managed_save, managed_save_remove, pm_wakeup, reboot, reset,
    resume, shutdown, start, suspend,
};
pub use tune::{pin_vcpu, set_max_memory, set_max_vcpus, set_memory, set_vcpus};

/// The UUID of the domain with this name or UUID; a name wins over a UUID that looks like it.
///
/// # Errors
/// `VmNotFound` if there is none.
pub fn lookup(session: &Session, name_or_uuid: &str) -> Result<Uuid> {
    without_nul("name", name_or_uuid)?;
    let what = What::Vm(name_or_uuid);
    let by_name = session.connect().lookup_domain_by_name(name_or_uuid);
    let domain = match (by_name, Uuid::parse_str(name_or_uuid)) {
        (Ok(domain), _) => domain,
        (Err(_), Ok(uuid)) => session
            .connect()
            .lookup_domain_by_uuid(uuid)
            .map_err(session.failed("find", What::VmId(uuid)))?,
        (Err(error), Err(_)) => return Err(session.failed("find", what)(error)),
    };
    domain.uuid().map_err(session.failed("find", what))
}

/// A domain that was looked up, with its name for messages (libvirt sent it with the domain).
struct Target {
    domain: Domain,
    name: String,
}

impl Target {
    fn what(&self) -> What<'_> {
        What::Vm(&self.name)
    }
}

fn target(session: &Session, uuid: Uuid) -> Result<Target> {
    let domain = session
        .connect()
        .lookup_domain_by_uuid(uuid)
        .map_err(session.failed("find", What::VmId(uuid)))?;
    let name = domain.name().map_err(session.failed("find", What::VmId(uuid)))?;
    Ok(Target { domain, name })
}

/// A monitor command that takes longer than this means that QEMU is stopped, stuck, or at something
/// long: libvirt's commands are normally answered within milliseconds.
const HUNG: Duration = Duration::from_secs(1);

/// Refuses to do something to a domain whose QEMU does not answer.
///
/// The call that found QEMU hung waits for it without end, and every further one would wait 30 s for
/// that one's job lock: with this at most a few workers are ever lost to one hung guest. A QEMU that
/// is busy right now is given [`HUNG`] to answer. The question itself waits for nothing.
fn refuse_hung(session: &Session, domain: &Domain, name: &str, doing: &str) -> Result<()> {
    // What has no number had no process when it was looked up.
    if !session.is_qemu() || domain.id().is_none() {
        return Ok(());
    }
    let patience = Instant::now() + HUNG;
    loop {
        match ffi::domain::monitor_busy(domain) {
            Ok(Some(busy)) if busy >= HUNG => {
                let seconds = busy.as_secs();
                return Err(Error::new(
                    Kind::VmBusy,
                    format!(
                        "cannot {doing} VM {name:?}: its QEMU has not answered for {seconds} s"
                    ),
                )
                .with_hint("stop it with force, or find out what holds its QEMU process")
                .with_detail("unanswered_seconds", seconds));
            }
            Ok(Some(_)) if Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(10));
            }
            // An inactive domain, or one that answers. A failed question leaves the verdict to the
            // call itself.
            Ok(_) | Err(_) => return Ok(()),
        }
    }
}

/// Does one thing to a domain whose QEMU must answer for it; `doing` is the verb of a refusal's
/// message.
fn with<T>(
    session: &Session,
    uuid: Uuid,
    doing: &str,
    call: impl FnOnce(&Domain) -> std::result::Result<T, virt::error::Error>,
) -> Result<T> {
    let target = target(session, uuid)?;
    refuse_hung(session, &target.domain, &target.name, doing)?;
    call(&target.domain).map_err(session.failed(doing, target.what()))
}

/// Does one thing to a domain even if its QEMU hangs.
fn with_any<T>(
    session: &Session,
    uuid: Uuid,
    doing: &str,
    call: impl FnOnce(&Domain) -> std::result::Result<T, virt::error::Error>,
) -> Result<T> {
    let target = target(session, uuid)?;
    call(&target.domain).map_err(session.failed(doing, target.what()))
}

/// `virDomainModificationImpact` for live and stored definition; neither means the current one.
fn impact(live: bool, config: bool) -> u32 {
    use virt::sys::{VIR_DOMAIN_AFFECT_CONFIG, VIR_DOMAIN_AFFECT_LIVE};
    let live = if live { VIR_DOMAIN_AFFECT_LIVE } else { 0 };
    let config = if config { VIR_DOMAIN_AFFECT_CONFIG } else { 0 };
    live | config
}
