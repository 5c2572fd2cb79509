//! Memory and vCPUs. `live` changes the running domain, `config` the stored definition; with neither
//! libvirt takes whichever is current.

use std::collections::BTreeSet;

use uuid::Uuid;
use virt::sys;

use super::super::session::Session;
use super::{impact, with};
use crate::error::Result;

/// Sets the memory the guest has (the balloon), KiB.
pub fn set_memory(session: &Session, uuid: Uuid, kib: u64, live: bool, config: bool) -> Result<()> {
    with(session, uuid, "set the memory of", |domain| {
        domain.set_memory_flags(kib, impact(live, config)).map(drop)
    })
}

/// Sets the memory the guest can have after its next start, KiB.
pub fn set_max_memory(session: &Session, uuid: Uuid, kib: u64) -> Result<()> {
    let flags = impact(false, true) | sys::VIR_DOMAIN_MEM_MAXIMUM;
    with(session, uuid, "set the maximum memory of", |domain| {
        domain.set_memory_flags(kib, flags).map(drop)
    })
}

/// Sets the number of virtual CPUs.
pub fn set_vcpus(
    session: &Session,
    uuid: Uuid,
    vcpus: u32,
    live: bool,
    config: bool,
) -> Result<()> {
    with(session, uuid, "set the vCPUs of", |domain| {
        domain.set_vcpus_flags(vcpus, impact(live, config)).map(drop)
    })
}

/// Sets the number of virtual CPUs the guest can have after its next start.
pub fn set_max_vcpus(session: &Session, uuid: Uuid, vcpus: u32) -> Result<()> {
    let flags = impact(false, true) | sys::VIR_DOMAIN_VCPU_MAXIMUM;
    with(session, uuid, "set the maximum vCPUs of", |domain| {
        domain.set_vcpus_flags(vcpus, flags).map(drop)
    })
}

/// Lets a virtual CPU of the running domain run on these CPUs of the host alone.
/// `virDomainPinVcpu`; takes effect at once, and in nothing but the running domain.
pub fn pin_vcpu(session: &Session, uuid: Uuid, vcpu: u32, cpus: &BTreeSet<u32>) -> Result<()> {
    let bytes = cpus.last().map_or(0, |last| *last as usize / 8 + 1);
    let mut map = vec![0_u8; bytes];
    for cpu in cpus {
        map[*cpu as usize / 8] |= 1 << (cpu % 8);
    }
    with(session, uuid, "pin a vCPU of", |domain| domain.pin_vcpu(vcpu, &map))
}
