//! From libvirt's facts to a record: parsed on the libvirt worker, finished by the actor.

use std::collections::HashMap;

use bytes::Bytes;
use jiff::Timestamp;
use uuid::Uuid;

use super::definition::{Definition, definition_hash};
use super::outline::Outline;
use super::picture::{PathEntry, VmRecord};
use crate::error::{Error, Result};
use crate::libvirt::Session;
use crate::libvirt::domain::{self, DomainBrief, DomainFacts};
use crate::model::{GuestAgentState, Pending, RuntimeDetails, Stale, Vm, VolumeUse};
use crate::service::page::stable_hash;
use crate::store::VmRow;
use crate::xml;
use crate::xml::domain::view::{self, DiskPlace};

/// The facts of one VM, parsed.
#[derive(Clone, Debug)]
pub struct Fetched {
    pub brief: DomainBrief,
    pub snapshot_count: u32,
    /// Without what only the reply about one VM shows.
    pub vm: Vm,
    /// Of everything that the definition shows, so that a change of the details, too, makes a new
    /// version of the VM.
    pub details: u64,
    pub pending: Option<Pending>,
    /// What the agent's channel says.
    pub guest_agent: GuestAgentState,
    pub xml: Definition,
    pub inactive_xml: Option<Definition>,
    /// Of what the next boot's definition says.
    pub definition_hash: u64,
    /// Where its disks lie, now and at the next boot, with the chains that libvirt tells.
    pub places: Box<[DiskPlace]>,
}

/// Fetches one VM.
///
/// # Errors
/// `VmNotFound` if there is none, and what libvirt refuses with.
pub fn fetch(session: &Session, uuid: Uuid) -> Result<Fetched> {
    parse(domain::facts(session, uuid)?)
}

/// Fetches VMs of which the brief part is known already, and hands each to `take` as it comes. One
/// that has gone meanwhile is left out; one that cannot be read comes with `VmBusy` or whatever
/// libvirt refuses with.
///
/// # Errors
/// What all of them fail with, and what `take` answers.
pub(super) fn fetch_each(
    session: &Session,
    briefs: &[DomainBrief],
    mut take: impl FnMut(&DomainBrief, Result<Fetched>) -> Result<()>,
) -> Result<()> {
    domain::facts_of(session, briefs, |brief, facts| take(brief, facts.and_then(parse)))
}

fn parse(facts: DomainFacts) -> Result<Fetched> {
    let view::DomainView { mut vm, guest_agent, below, .. } = view::read(&facts.xml)?;
    let disk = |place| DiskPlace { place, r#as: VolumeUse::Disk };
    let mut places: Vec<DiskPlace> = view::places(&vm.disks).map(disk).chain(below).collect();
    let pending = match &facts.inactive_xml {
        Some(inactive) => {
            let next = view::read(inactive)?;
            for place in view::places(&next.vm.disks).map(disk).chain(next.below) {
                if !places.contains(&place) {
                    places.push(place);
                }
            }
            xml::domain::pending::pending(&vm, &next.vm)
        }
        None => None,
    };
    let definition = facts.inactive_xml.as_ref().unwrap_or(&facts.xml);
    let details = stable_hash(&serde_json::to_vec(&vm).map_err(Error::internal)?);
    vm.strip_details();
    Ok(Fetched {
        definition_hash: definition_hash(definition),
        brief: facts.brief,
        snapshot_count: facts.snapshot_count,
        vm,
        details,
        pending,
        guest_agent,
        xml: Definition::new(&facts.xml),
        inactive_xml: facts.inactive_xml.as_deref().map(Definition::new),
        places: places.into_boxed_slice(),
    })
}

/// What is written down of a VM, as far as the next record is made of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Saved {
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub generation: u64,
    pub hash: u64,
}

impl Saved {
    pub fn of(row: &VmRow) -> Self {
        Saved {
            created_at: row.created_at,
            updated_at: row.updated_at,
            generation: row.generation,
            hash: row.hash,
        }
    }
}

/// What a record is made of besides the facts.
pub(super) struct Surroundings<'a> {
    pub paths: &'a HashMap<String, PathEntry>,
    pub saved: Option<&'a Saved>,
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
        if let Some(seed) = vm.cloud_init.as_mut().filter(|seed| seed.target == disk.target) {
            seed.volume.clone_from(&disk.volume);
        }
        let target = Some(disk.target.as_str());
        if let Some(told) = vm.ignition.as_mut().filter(|told| told.target.as_deref() == target) {
            told.volume.clone_from(&disk.volume);
        }
    }
    if let Some(told) = vm.ignition.as_mut()
        && let Some(entry) = told.file.as_deref().and_then(|file| around.paths.get(file))
    {
        told.volume = Some(entry.volume.clone());
    }
    finish(vm, fetched, around)
}

fn finish(
    mut vm: Vm,
    fetched: Fetched,
    around: &Surroundings<'_>,
) -> Result<(VmRecord, Option<VmRow>)> {
    vm.created_at =
        vm.created_at.or(around.saved.map(|saved| saved.created_at)).or(Some(around.now));
    vm.generation = 0;
    vm.updated_at = None;
    vm.stale = None;
    let mut content = serde_json::to_vec(&vm).map_err(Error::internal)?;
    content.extend(fetched.details.to_le_bytes());
    let hash = stable_hash(&content);
    drop(content);
    let runtime = vm
        .runtime_details
        .as_ref()
        .map(serde_json::to_value)
        .transpose()
        .map_err(Error::internal)?;
    let row = match around.saved {
        Some(saved) if saved.hash == hash => {
            vm.generation = saved.generation;
            vm.updated_at = Some(saved.updated_at);
            None
        }
        earlier => {
            vm.generation = earlier.map_or(1, |saved| saved.generation + 1);
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
    // The hash makes the tag safe even if a crash lost the last generation.
    let stale = if vm.stale.is_some() { "-stale" } else { "" };
    let etag = format!("\"{}-{hash:016x}{stale}\"", vm.generation);
    let record = VmRecord {
        vm: Outline::of(&vm),
        json,
        etag_hash: stable_hash(etag.as_bytes()),
        etag,
        brief: fetched.brief,
        guest_agent: fetched.guest_agent,
        xml: fetched.xml,
        inactive_xml: fetched.inactive_xml,
        definition_hash: fetched.definition_hash,
        places: fetched.places,
        details: fetched.details,
        confirmed_at: around.stale.as_ref().map_or(around.now, |stale| stale.confirmed_at),
    };
    Ok((record, row))
}

/// The facts that a record was made of, to make it anew with other surroundings.
///
/// # Errors
/// Those of [`VmRecord::whole`].
pub(super) fn facts_of(record: &VmRecord) -> Result<Fetched> {
    let mut vm = record.whole()?;
    Ok(Fetched {
        brief: record.brief.clone(),
        snapshot_count: vm.snapshot_count,
        pending: vm.pending.take(),
        vm,
        details: record.details,
        guest_agent: record.guest_agent,
        xml: record.xml.clone(),
        inactive_xml: record.inactive_xml.clone(),
        definition_hash: record.definition_hash,
        places: record.places.clone(),
    })
}
