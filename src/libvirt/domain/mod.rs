//! Domains: what is known of them, and what can be done to them.
//!
//! Every function takes the [`Session`] first, speaks of a domain by its UUID and returns owned data.
//! Errors name the VM and carry libvirt's code and text in `details.libvirt`; the common ones are
//! `VmNotFound`, `VmBusy` (libvirt's job lock was not free within 30 s), `VmWrongState`,
//! `NotSupported`, `LibvirtRefused` and `LibvirtUnavailable`.

mod define;
mod device;
mod facts;
mod job;
mod power;
mod state;
mod tune;

use uuid::Uuid;
use virt::domain::Domain;

use super::error::What;
use super::session::{Session, without_nul};
use crate::error::Result;

pub use define::{
    UndefineFlags, define, set_autostart, set_description, set_metadata, undefine, xml,
};
pub use device::{BlockInfo, attach_device, block_info, detach_device, update_device};
pub use facts::{DomainBrief, DomainFacts, brief, brief_all, facts, facts_all, snapshot_names};
pub use job::{JobInfo, abort_job, job_info};
pub use power::{
    ShutdownMode, destroy, managed_save, managed_save_remove, pm_wakeup, reboot, reset, resume,
    shutdown, start, suspend,
};
pub use tune::{set_max_memory, set_max_vcpus, set_memory, set_vcpus};

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

/// Looks up the domain and does one thing to it; `doing` is the verb of a refusal's message.
fn with<T>(
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
