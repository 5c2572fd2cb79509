//! What is known of domains: in bulk for the inventory, and one by one.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;
use virt::domain::Domain;
use virt::sys;

use super::super::error::What;
use super::super::ffi;
use super::super::session::Session;
use super::{refuse_hung, state, target};
use crate::error::{Kind, Result};
use crate::model::VmState;

/// What a bulk call tells of one domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainBrief {
    pub uuid: Uuid,
    pub name: String,
    /// libvirt's number of the running domain; `None` while it is inactive.
    pub id: Option<u32>,
    pub state: VmState,
    /// libvirt's reason as a word; `unknown` if it gives none.
    pub state_reason: &'static str,
    pub persistent: bool,
    pub autostart: bool,
    pub has_saved_state: bool,
    pub has_snapshots: bool,
    /// Memory the guest has, KiB.
    pub memory_kib: u64,
    /// Memory the guest can have, KiB.
    pub max_memory_kib: u64,
    pub vcpus: u32,
    pub max_vcpus: u32,
}

/// Everything the inventory keeps of one domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DomainFacts {
    pub brief: DomainBrief,
    pub snapshot_count: u32,
    /// The live definition if it is active, else the stored one. Without secrets.
    pub xml: String,
    /// The stored definition of an active persistent domain.
    pub inactive_xml: Option<String>,
}

/// Every domain in brief.
///
/// Takes six calls whatever the number of domains, and two short ones for each *active* domain: the
/// statistics that tell an active domain's memory and vCPUs in bulk ask QEMU's monitor, and `NOWAIT`
/// does not help against a QEMU that stops answering then. None of the calls used here waits for a
/// monitor or for a domain's job, so a hung guest cannot hold this up.
pub fn brief_all(session: &Session) -> Result<Vec<DomainBrief>> {
    Ok(collect(session)?.into_iter().map(|(_, brief)| brief).collect())
}

/// All domains, those that cannot be read now apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub facts: Vec<DomainFacts>,
    /// Domains whose definition libvirt cannot tell now because their QEMU does not answer and
    /// another call holds their job lock. They exist; whoever keeps a picture should keep what it
    /// knew of them.
    pub unreadable: Vec<DomainBrief>,
}

/// Every domain in full, for the first fill of the inventory: [`brief_all`] and one or two XML
/// documents per domain. A domain that vanishes meanwhile is left out.
pub fn survey(session: &Session) -> Result<Survey> {
    let mut survey = Survey::default();
    for (domain, brief) in collect(session)? {
        match complete(session, &domain, &brief) {
            Ok(facts) => survey.facts.push(facts),
            Err(error) if error.kind() == Kind::VmNotFound => {}
            Err(error) if error.kind() == Kind::VmBusy => {
                tracing::warn!(vm = brief.name, ?error, "a VM cannot be read");
                survey.unreadable.push(brief);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(survey)
}

/// The readable part of [`survey`].
pub fn facts_all(session: &Session) -> Result<Vec<DomainFacts>> {
    survey(session).map(|survey| survey.facts)
}

/// One domain in brief.
pub fn brief(session: &Session, uuid: Uuid) -> Result<DomainBrief> {
    let target = target(session, uuid)?;
    one(session, &target.domain, &target.name)
}

/// One domain in full.
///
/// # Errors
/// `VmBusy` at once if its QEMU does not answer, rather than after libvirt's 30 s.
pub fn facts(session: &Session, uuid: Uuid) -> Result<DomainFacts> {
    let target = target(session, uuid)?;
    let brief = one(session, &target.domain, &target.name)?;
    complete(session, &target.domain, &brief)
}

/// One domain in full, of which the brief part is known already.
fn facts_for(session: &Session, brief: &DomainBrief) -> Result<DomainFacts> {
    complete(session, &target(session, brief.uuid)?.domain, brief)
}

/// From how many domains on one listing of all of them costs less than a look-up of each.
const WORTH_A_LISTING: usize = 16;

/// Reads these domains in full, of which the brief part is known, and hands each to `take` as it
/// comes. One that has gone meanwhile is left out.
///
/// # Errors
/// What the listing or `take` fails with; what libvirt refuses of one domain is left to `take`.
pub fn facts_of(
    session: &Session,
    briefs: &[DomainBrief],
    mut take: impl FnMut(&DomainBrief, Result<DomainFacts>) -> Result<()>,
) -> Result<()> {
    let mut told = |brief: &DomainBrief, facts: Result<DomainFacts>| match facts {
        Err(error) if error.kind() == Kind::VmNotFound => Ok(()),
        facts => take(brief, facts),
    };
    if briefs.len() < WORTH_A_LISTING {
        return briefs.iter().try_for_each(|brief| told(brief, facts_for(session, brief)));
    }
    let all = session
        .connect()
        .list_all_domains(0)
        .map_err(session.failed("list the VMs of", What::Host))?;
    let wanted: HashMap<Uuid, &DomainBrief> =
        briefs.iter().map(|brief| (brief.uuid, brief)).collect();
    for domain in all {
        let brief = domain.uuid().ok().and_then(|uuid| wanted.get(&uuid).copied());
        if let Some(brief) = brief {
            told(brief, complete(session, &domain, brief))?;
        }
    }
    Ok(())
}

/// The names of a domain's snapshots, in libvirt's order.
pub fn snapshot_names(session: &Session, uuid: Uuid) -> Result<Vec<String>> {
    let target = target(session, uuid)?;
    let snapshots = target
        .domain
        .list_all_snapshots(0)
        .map_err(session.failed("list the snapshots of", target.what()))?;
    snapshots
        .iter()
        .map(|snapshot| {
            snapshot.name().map_err(session.failed("list the snapshots of", target.what()))
        })
        .collect()
}

fn collect(session: &Session) -> Result<Vec<(Domain, DomainBrief)>> {
    let marked = |filter| -> Result<HashSet<Uuid>> {
        let domains = session
            .connect()
            .list_all_domains(filter)
            .map_err(session.failed("list the VMs of", What::Host))?;
        Ok(domains.iter().filter_map(|domain| domain.uuid().ok()).collect())
    };
    // Each list holds the rarer half, so that the replies stay small.
    let transient = marked(sys::VIR_CONNECT_LIST_DOMAINS_TRANSIENT)?;
    let autostart = marked(sys::VIR_CONNECT_LIST_DOMAINS_AUTOSTART)?;
    let saved = marked(sys::VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)?;
    let snapshots = match marked(sys::VIR_CONNECT_LIST_DOMAINS_HAS_SNAPSHOT) {
        // The LXC driver knows no snapshots and refuses the filter.
        Err(error) if error.kind() == Kind::NotSupported => HashSet::new(),
        other => other?,
    };

    let sizes = inactive_sizes(session)?;
    let mut all = Vec::new();
    for (domain, known) in states(session)? {
        let (Ok(uuid), Ok(name)) = (domain.uuid(), domain.name()) else { continue };
        let mut brief = DomainBrief {
            uuid,
            id: domain.id(),
            persistent: !transient.contains(&uuid),
            autostart: autostart.contains(&uuid),
            has_saved_state: saved.contains(&uuid),
            has_snapshots: snapshots.contains(&uuid),
            name,
            ..DomainBrief::default()
        };
        let filled = match known {
            Some((number, reason)) => {
                (brief.state, brief.state_reason) = state::translate(number, reason);
                Ok(())
            }
            None => fill_state(session, &domain, &mut brief),
        }
        .and_then(|()| match sizes.get(&uuid).filter(|_| brief.id.is_none()) {
            Some(sizes) => {
                sizes.put(&mut brief);
                Ok(())
            }
            None => fill_sizes(session, &domain, &mut brief),
        });
        match filled {
            Ok(()) => all.push((domain, brief)),
            Err(error) if error.kind() == Kind::VmNotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// libvirt's numbers for a state and its reason.
type StateNumbers = (i32, i32);

/// Every domain with its state, as far as the driver tells it in bulk.
fn states(session: &Session) -> Result<Vec<(Domain, Option<StateNumbers>)>> {
    let flags = if session.is_qemu() { sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT } else { 0 };
    match ffi::domain::all_stats(session.connect(), sys::VIR_DOMAIN_STATS_STATE, flags) {
        Ok(records) => Ok(records
            .into_iter()
            .map(|(domain, params)| {
                let number = |name| params.i64(name).and_then(|value| i32::try_from(value).ok());
                let known = number("state.state")
                    .map(|state| (state, number("state.reason").unwrap_or_default()));
                (domain, known)
            })
            .collect()),
        Err(error) => {
            let error = session.failed("list the VMs of", What::Host)(error);
            if error.kind() != Kind::NotSupported {
                return Err(error);
            }
            // A driver without bulk statistics.
            let domains = session
                .connect()
                .list_all_domains(0)
                .map_err(session.failed("list the VMs of", What::Host))?;
            Ok(domains.into_iter().map(|domain| (domain, None)).collect())
        }
    }
}

/// Memory (KiB) and vCPUs of one domain.
struct Sizes {
    memory: u64,
    max_memory: u64,
    vcpus: u32,
    max_vcpus: u32,
}

impl Sizes {
    fn read(params: &ffi::typed::Params) -> Option<Sizes> {
        let count = |name| u32::try_from(params.u64(name)?).ok();
        Some(Sizes {
            memory: params.u64("balloon.current")?,
            max_memory: params.u64("balloon.maximum")?,
            vcpus: count("vcpu.current")?,
            max_vcpus: count("vcpu.maximum")?,
        })
    }

    fn put(&self, brief: &mut DomainBrief) {
        brief.memory_kib = self.memory;
        brief.max_memory_kib = self.max_memory;
        brief.vcpus = self.vcpus;
        brief.max_vcpus = self.max_vcpus;
    }
}

/// The sizes of inactive domains in bulk: without a process there is no monitor to wait for. Empty
/// where the driver does not tell.
fn inactive_sizes(session: &Session) -> Result<HashMap<Uuid, Sizes>> {
    if !session.is_qemu() {
        return Ok(HashMap::new());
    }
    let groups = sys::VIR_DOMAIN_STATS_BALLOON | sys::VIR_DOMAIN_STATS_VCPU;
    let flags = sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        | sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_INACTIVE;
    let records = ffi::domain::all_stats(session.connect(), groups, flags)
        .map_err(session.failed("list the VMs of", What::Host))?;
    Ok(records
        .into_iter()
        .filter_map(|(domain, params)| Some((domain.uuid().ok()?, Sizes::read(&params)?)))
        .collect())
}

fn fill_state(session: &Session, domain: &Domain, brief: &mut DomainBrief) -> Result<()> {
    let (number, reason) = ffi::domain::state(domain)
        .map_err(session.failed("read the state of", What::Vm(&brief.name)))?;
    (brief.state, brief.state_reason) = state::translate(number, reason);
    Ok(())
}

/// Memory and vCPUs, from calls that need neither monitor nor job.
fn fill_sizes(session: &Session, domain: &Domain, brief: &mut DomainBrief) -> Result<()> {
    let info = domain.info().map_err(session.failed("read", What::Vm(&brief.name)))?;
    brief.memory_kib = info.memory;
    brief.max_memory_kib = info.max_mem;
    brief.vcpus = info.nr_virt_cpu;
    let scope =
        if brief.id.is_some() { sys::VIR_DOMAIN_VCPU_LIVE } else { sys::VIR_DOMAIN_VCPU_CONFIG };
    brief.max_vcpus = match domain.vcpus_flags(scope | sys::VIR_DOMAIN_VCPU_MAXIMUM) {
        Ok(maximum) => maximum,
        // It started or stopped in between, or the driver has no maximum: the next round corrects.
        Err(_) => brief.vcpus,
    };
    Ok(())
}

fn one(session: &Session, domain: &Domain, name: &str) -> Result<DomainBrief> {
    let failed = |doing| session.failed(doing, What::Vm(name));
    let mut brief = DomainBrief {
        uuid: domain.uuid().map_err(failed("read"))?,
        name: name.to_owned(),
        persistent: domain.is_persistent().map_err(failed("read"))?,
        ..DomainBrief::default()
    };
    fill_state(session, domain, &mut brief)?;
    brief.id = domain.id();
    // Drivers that know no autostart, saved state or snapshots have none of them.
    let optional = |result: std::result::Result<bool, virt::error::Error>| match result {
        Ok(value) => Ok(value),
        Err(error) => match failed("read")(error) {
            error if error.kind() == Kind::NotSupported => Ok(false),
            error => Err(error),
        },
    };
    brief.autostart = brief.persistent && optional(domain.autostart())?;
    brief.has_saved_state = optional(domain.has_managed_save(0))?;
    brief.has_snapshots = optional(domain.num_snapshots(0).map(|count| count > 0))?;
    fill_sizes(session, domain, &mut brief)?;
    Ok(brief)
}

fn complete(session: &Session, domain: &Domain, brief: &DomainBrief) -> Result<DomainFacts> {
    let failed = |error| session.failed("read", What::Vm(&brief.name))(error);
    // A crashed domain can be active: its process is kept for inspection.
    let active = brief.id.is_some();
    if active {
        refuse_hung(session, domain, &brief.name, "read")?;
    }
    // One that has been started since would tell how it runs, and that be taken for its definition.
    let flags = if active { 0 } else { sys::VIR_DOMAIN_XML_INACTIVE };
    let xml = domain.xml_desc(flags).map_err(failed)?;
    let inactive_xml = if active && brief.persistent {
        Some(domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).map_err(failed)?)
    } else {
        None
    };
    let snapshot_count =
        if brief.has_snapshots { domain.num_snapshots(0).map_err(failed)? } else { 0 };
    Ok(DomainFacts { snapshot_count, xml, inactive_xml, brief: brief.clone() })
}
