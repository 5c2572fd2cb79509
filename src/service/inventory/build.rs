//! From libvirt's facts to a record: parsed on the libvirt worker, finished by the actor.

use std::collections::HashMap;

use bytes::Bytes;
use jiff::Timestamp;
use uuid::Uuid;

use super::definition::Definition;
use super::picture::{PathEntry, VmRecord};
use crate::error::{Error, Result};
use crate::libvirt::Session;
use crate::libvirt::domain::{self, DomainBrief, DomainFacts};
use crate::model::{Device, GuestAgentState, Pending, RuntimeDetails, Stale, Vm};
use crate::service::page::stable_hash;
use crate::store::VmRow;
use crate::xml;

/// The facts of one VM, parsed.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub brief: DomainBrief,
    pub snapshot_count: u32,
    pub vm: Vm,
    pub pending: Option<Pending>,
    /// What the agent's channel says.
    pub guest_agent: GuestAgentState,
    pub xml: Definition,
    pub inactive_xml: Option<Definition>,
}

/// Fetches one VM.
///
/// # Errors
/// `VmNotFound` if there is none, and what libvirt refuses with.
pub fn fetch(session: &Session, uuid: Uuid) -> Result<Fetched> {
    parse(domain::facts(session, uuid)?)
}

/// Fetches one VM of which the brief part is known already.
///
/// # Errors
/// `VmNotFound` if it has gone meanwhile, `VmBusy` if its QEMU does not answer.
pub fn fetch_for(session: &Session, brief: &DomainBrief) -> Result<Fetched> {
    parse(domain::facts_for(session, brief)?)
}

fn parse(facts: DomainFacts) -> Result<Fetched> {
    let xml::domain::view::DomainView { vm, guest_agent, .. } =
        xml::domain::view::read(&facts.xml)?;
    let pending = match &facts.inactive_xml {
        Some(inactive) => xml::domain::pending::pending(&vm, &xml::domain::view::parse(inactive)?),
        None => None,
    };
    Ok(Fetched {
        brief: facts.brief,
        snapshot_count: facts.snapshot_count,
        vm,
        pending,
        guest_agent,
        xml: Definition::new(&facts.xml),
        inactive_xml: facts.inactive_xml.as_deref().map(Definition::new),
    })
}

/// What a record is made of besides the facts.
pub(super) struct Surroundings<'a> {
    pub paths: &'a HashMap<String, PathEntry>,
    pub row: Option<&'a VmRow>,
    pub runtime: Option<&'a RuntimeDetails>,
    pub stale: Option<Stale>,
    pub now: Timestamp,
}

/// Makes the record, and the row that has to be saved for it, if that changed.
pub(super) fn record(
    mut fetched: Fetched,
    around: &Surroundings<'_>,
) -> Result<(VmRecord, Option<VmRow>)> {
    let mut vm = std::mem::take(&mut fetched.vm);
    let brief = &fetched.brief;
    vm.uuid = brief.uuid;
    vm.name.clone_from(&brief.name);
    vm.state = brief.state;
    brief.state_reason.clone_into(&mut vm.state_reason);
    if brief.state.is_active() {
        // The balloon and hotplugged vCPUs: bulk statistics are newer than the definition.
        vm.memory = brief.memory_kib.div_ceil(1024);
        vm.vcpus = brief.vcpus;
    }
    vm.autostart = brief.autostart;
    vm.persistent = brief.persistent;
    vm.has_saved_state = brief.has_saved_state;
    vm.snapshot_count = fetched.snapshot_count;
    vm.pending = fetched.pending.take();
    vm.runtime_details = around.runtime.filter(|_| brief.state.is_active()).cloned();
    for disk in &mut vm.disks {
        let entry = disk.source.as_deref().and_then(|source| around.paths.get(source));
        if let Some(entry) = entry {
            disk.volume = Some(entry.volume.clone());
            disk.capacity_bytes = Some(entry.capacity_bytes);
        }
    }
    finish(vm, fetched, around)
}

fn finish(
    mut vm: Vm,
    fetched: Fetched,
    around: &Surroundings<'_>,
) -> Result<(VmRecord, Option<VmRow>)> {
    vm.created_at = vm.created_at.or(around.row.map(|row| row.created_at)).or(Some(around.now));
    vm.generation = 0;
    vm.updated_at = None;
    vm.stale = None;
    let hash = stable_hash(&serde_json::to_vec(&vm).map_err(Error::internal)?);
    let runtime = vm
        .runtime_details
        .as_ref()
        .map(serde_json::to_value)
        .transpose()
        .map_err(Error::internal)?;
    let row = match around.row {
        Some(row) if row.hash == hash => {
            vm.generation = row.generation;
            vm.updated_at = Some(row.updated_at);
            None
        }
        earlier => {
            vm.generation = earlier.map_or(1, |row| row.generation + 1);
            vm.updated_at = Some(around.now);
            Some(VmRow {
                uuid: vm.uuid,
                name: vm.name.clone(),
                created_at: vm.created_at.unwrap_or(around.now),
                updated_at: around.now,
                generation: vm.generation,
                hash,
                runtime,
            })
        }
    };
    vm.stale.clone_from(&around.stale);
    let json = serde_json::to_vec(&vm).map_err(Error::internal)?.into_boxed_slice();
    let json = Bytes::from(json);
    // A record stays for long: none of it keeps room that it does not need.
    vm.devices = Vec::new();
    vm.disks.shrink_to_fit();
    vm.networks.shrink_to_fit();
    vm.graphics.shrink_to_fit();
    // The hash makes the tag safe even if a crash lost the last generation.
    let stale = if vm.stale.is_some() { "-stale" } else { "" };
    let etag = format!("\"{}-{hash:016x}{stale}\"", vm.generation);
    let record = VmRecord {
        vm,
        json,
        etag,
        brief: fetched.brief,
        guest_agent: fetched.guest_agent,
        xml: fetched.xml,
        inactive_xml: fetched.inactive_xml,
        confirmed_at: around.stale.as_ref().map_or(around.now, |stale| stale.confirmed_at),
    };
    Ok((record, row))
}

/// The facts that a record was made of, to make it anew with other surroundings.
pub(super) fn facts_of(record: &VmRecord) -> Fetched {
    #[derive(serde::Deserialize)]
    struct Rest {
        devices: Vec<Device>,
    }
    let rest = serde_json::from_slice(&record.json).unwrap_or_else(|error| {
        tracing::error!(vm = %record.vm.uuid, %error, "the devices of a record cannot be read");
        Rest { devices: Vec::new() }
    });
    Fetched {
        brief: record.brief.clone(),
        snapshot_count: record.vm.snapshot_count,
        vm: Vm { devices: rest.devices, ..record.vm.clone() },
        pending: record.vm.pending.clone(),
        guest_agent: record.guest_agent,
        xml: record.xml.clone(),
        inactive_xml: record.inactive_xml.clone(),
    }
}
