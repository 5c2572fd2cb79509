//! What an update does, decided: one engine tells for each field whether it takes hold in the
//! running network, with its next start, or not at all. The same decision is shown by a dry run and
//! carried out by an update.
//!
//! libvirt changes parts of a running network by adding and removing single entries, and refuses an
//! addition that is like an entry which is there. What it would refuse is not tried: it waits for
//! the next start.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{Error, Kind, Result};
use crate::libvirt::network::{Command, NetworkFacts, Section};
use crate::model::network::{
    DhcpHost, DhcpRange, DnsHost, DnsSrv, DnsTxt, Network, NetworkDhcp, NetworkIp, PortGroup,
};
use crate::model::plan::Effect;
use crate::model::{Change, Subnet, UpdateNetwork};
use crate::xml::network::build::{self, Part};
use crate::xml::network::{edit, parse_network, pending};

/// What an update does.
#[derive(Debug, Default)]
pub struct Decision {
    pub changes: Vec<Change>,
    /// The new definition, if it changes.
    pub define: Option<String>,
    /// What the definition was, or the running network of one that has none.
    pub old: String,
    pub live: Vec<LiveStep>,
    pub autostart: Option<bool>,
    /// The network that comes of it.
    pub wanted: Network,
}

/// One change of the running network, with what undoes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveStep {
    pub section: Section,
    /// Which `<ip>`, counted from 0.
    pub parent: Option<usize>,
    pub command: Command,
    pub xml: String,
    pub undo: (Command, String),
}

/// Decides. Pure: the same facts and the same request always give the same decision.
pub fn decide(facts: &NetworkFacts, request: &UpdateNetwork) -> Result<Decision> {
    let old = facts.definition();
    let new = edit::apply(old, request)?;
    let (before, wanted) = (parse_network(old)?, parse_network(&new)?);
    let live = if facts.active { Some(parse_network(&facts.xml)?) } else { None };
    let mut engine = Engine {
        live: live.as_ref(),
        before: &before,
        wanted: &wanted,
        live_xml: &facts.xml,
        new_xml: &new,
        persistent: facts.persistent,
        changes: Vec::new(),
        steps: Vec::new(),
    };
    engine.fields(request)?;
    let Engine { mut changes, steps, .. } = engine;
    let autostart = request.autostart.filter(|wanted| *wanted != facts.autostart);
    if let Some(wanted) = autostart {
        let reason = "a transient network cannot start with the host".to_owned();
        changes.push(Change {
            field: "autostart".to_owned(),
            from: json!(facts.autostart),
            to: json!(wanted),
            effect: if facts.persistent { Effect::Live } else { Effect::Impossible },
            reason: (!facts.persistent).then_some(reason),
        });
    }
    let differs = !pending::differences(&before, &wanted).is_empty();
    let define = (facts.persistent && differs).then_some(new);
    let old = old.to_owned();
    Ok(Decision { changes, define, old, live: steps, autostart, wanted })
}

/// 422 if one of the changes cannot be made at all.
pub fn impossible(decision: &Decision) -> Result<()> {
    let mut wrong = decision.changes.iter().filter(|change| change.effect == Effect::Impossible);
    let Some(first) = wrong.next() else { return Ok(()) };
    let reason = |change: &Change| change.reason.clone().unwrap_or_default();
    let error = Error::new(Kind::Impossible, format!("{}: {}", first.field, reason(first)))
        .with_field(&first.field, reason(first));
    Err(wrong.fold(error, |error, change| error.with_field(&change.field, reason(change))))
}

const NEXT: &str = "libvirt reads it when the network starts";

/// What can be had of the running network at once, or why not.
type Steps = std::result::Result<Vec<LiveStep>, String>;

struct Engine<'a> {
    live: Option<&'a Network>,
    /// As it is defined.
    before: &'a Network,
    wanted: &'a Network,
    live_xml: &'a str,
    new_xml: &'a str,
    persistent: bool,
    changes: Vec<Change>,
    steps: Vec<LiveStep>,
}

impl Engine<'_> {
    fn fields(&mut self, request: &UpdateNetwork) -> Result<()> {
        if request.forward.is_some() {
            self.forward()?;
        }
        if request.bridge.is_some() {
            self.field("bridge", |network| json!(network.bridge));
        }
        if request.ips.is_some() {
            self.ips()?;
        }
        if request.routes.is_some() {
            self.field("routes", |network| json!(network.routes));
        }
        if request.domain.is_some() {
            self.field("domain", |network| json!(network.domain));
        }
        if let Some(dns) = &request.dns {
            if dns.enabled.is_some() {
                self.field("dns.enabled", |network| json!(network.dns.enabled));
            }
            if dns.forwarders.is_some() {
                self.field("dns.forwarders", |network| json!(network.dns.forwarders));
            }
            if dns.hosts.is_some() {
                let steps =
                    self.steps_of(|live, wanted| dns_hosts(&live.dns.hosts, &wanted.dns.hosts))?;
                self.part("dns.hosts", |network| json!(network.dns.hosts), steps);
            }
            if dns.srv.is_some() {
                let steps = self.steps_of(|live, wanted| srvs(&live.dns.srv, &wanted.dns.srv))?;
                self.part("dns.srv", |network| json!(network.dns.srv), steps);
            }
            if dns.txt.is_some() {
                let steps = self.steps_of(|live, wanted| txts(&live.dns.txt, &wanted.dns.txt))?;
                self.part("dns.txt", |network| json!(network.dns.txt), steps);
            }
        }
        if request.mtu.is_some() {
            self.field("mtu", |network| json!(network.mtu));
        }
        if request.vlan.is_some() {
            self.field("vlan", |network| json!(network.vlan));
        }
        if request.virtual_port.is_some() {
            self.field("virtual_port", |network| json!(network.virtual_port));
        }
        if request.bandwidth.is_some() {
            self.field("bandwidth", |network| json!(network.bandwidth));
        }
        if request.port_isolation.is_some() {
            self.field("port_isolation", |network| json!(network.port_isolation));
        }
        if request.portgroups.is_some() {
            let steps = match self.live {
                Some(live) => portgroups(
                    &live.portgroups,
                    &self.wanted.portgroups,
                    self.live_xml,
                    self.new_xml,
                )?,
                None => Ok(Vec::new()),
            };
            self.part("portgroups", |network| json!(network.portgroups), steps);
        }
        Ok(())
    }

    fn steps_of(&self, make: impl Fn(&Network, &Network) -> Result<Steps>) -> Result<Steps> {
        self.live.map_or(Ok(Ok(Vec::new())), |live| make(live, self.wanted))
    }

    /// A field that libvirt reads when the network starts.
    fn field(&mut self, name: &str, of: impl Fn(&Network) -> Value) {
        self.part(name, of, Err(NEXT.to_owned()));
    }

    /// A field of which the running network can take the steps, or not for a reason.
    fn part(&mut self, name: &str, of: impl Fn(&Network) -> Value, steps: Steps) {
        let now = of(self.live.unwrap_or(self.before));
        let (before, to) = (of(self.before), of(self.wanted));
        let runs_otherwise = self.live.is_some() && now != to;
        if before == to && !runs_otherwise {
            return;
        }
        let (effect, reason) = match steps {
            _ if self.live.is_none() || !runs_otherwise => (Effect::Live, None),
            Ok(steps) => {
                self.steps.extend(steps);
                (Effect::Live, None)
            }
            // It waits for the next start already.
            Err(_) if self.persistent && before == to => return,
            Err(why) if self.persistent => (Effect::NextStart, Some(why)),
            Err(why) => (
                Effect::Impossible,
                Some(format!("{why}, and a transient network has no next start")),
            ),
        };
        self.changes.push(Change { field: name.to_owned(), from: now, to, effect, reason });
    }

    fn forward(&mut self) -> Result<()> {
        self.field("forward.mode", |network| json!(network.forward.mode));
        self.field("forward.physical_function", |network| json!(network.forward.physical_function));
        self.field("forward.pci_addresses", |network| json!(network.forward.pci_addresses));
        self.field("forward.managed", |network| json!(network.forward.managed));
        self.field("forward.nat", |network| json!(pending::nat(&network.forward)));
        let steps = self.steps_of(|live, wanted| {
            let macvtap = matches!(
                wanted.forward.mode.as_str(),
                "bridge" | "private" | "vepa" | "passthrough"
            );
            if live.forward.mode != wanted.forward.mode || !macvtap {
                return Ok(Err(NEXT.to_owned()));
            }
            let text = |device: &String| build::text(Part::Interface(device));
            exchange(
                Section::ForwardInterface,
                None,
                &live.forward.devices,
                &wanted.forward.devices,
                text,
            )
            .map(Ok)
        })?;
        self.part("forward.devices", |network| json!(network.forward.devices), steps);
        Ok(())
    }

    /// Subnets by their addresses; in those that stay, DHCP is changed entry by entry.
    fn ips(&mut self) -> Result<()> {
        let addresses =
            |network: &Network| network.ips.iter().map(|ip| ip.address.clone()).collect::<Vec<_>>();
        let wanted = self.wanted;
        let of_live = self.live.map(addresses);
        if addresses(self.before) != addresses(wanted)
            || of_live.is_some_and(|live| live != addresses(wanted))
        {
            self.field("ips", |network| json!(network.ips));
        }
        for (at, ip) in wanted.ips.iter().enumerate() {
            let find = |network: &Network| {
                network.ips.iter().position(|other| other.address == ip.address)
            };
            let now = self.live.unwrap_or(self.before);
            if find(now).is_none() && find(self.before).is_none() {
                continue;
            }
            let (ranges, hosts) = match self.live {
                None => (Ok(Vec::new()), Ok(Vec::new())),
                Some(live) => match find(live) {
                    None => {
                        let why = "the running network has no such subnet";
                        (Err(why.to_owned()), Err(why.to_owned()))
                    }
                    Some(parent) => match other_server(live, parent) {
                        Some(why) => (Err(why.clone()), Err(why)),
                        None => {
                            let (old, new) = (dhcp(&live.ips[parent]), dhcp(ip));
                            let ranges = ranges(parent, &old.ranges, &new.ranges)?;
                            (Ok(ranges), Ok(dhcp_hosts(parent, &old.hosts, &new.hosts)?))
                        }
                    },
                },
            };
            let of = |network: &Network| find(network).map(|at| dhcp(&network.ips[at]));
            let of_ranges = |network: &Network| json!(of(network).unwrap_or_default().ranges);
            let of_hosts = |network: &Network| json!(of(network).unwrap_or_default().hosts);
            self.part(&format!("ips[{at}].dhcp.ranges"), of_ranges, ranges);
            self.part(&format!("ips[{at}].dhcp.hosts"), of_hosts, hosts);
        }
        Ok(())
    }
}

fn dhcp(ip: &NetworkIp) -> NetworkDhcp {
    ip.dhcp.clone().unwrap_or_default()
}

/// Why libvirt would not let this subnet of the running network have DHCP.
fn other_server(live: &Network, parent: usize) -> Option<String> {
    let family = |ip: &NetworkIp| ip.address.parse::<Subnet>().is_ok_and(|net| net.is_ipv4());
    let own = live.ips.get(parent)?;
    let other = live.ips.iter().enumerate().find(|(at, ip)| {
        let serves = ip.dhcp.as_ref().is_some_and(|dhcp| *dhcp != NetworkDhcp::default());
        *at != parent && serves && family(ip) == family(own)
    });
    other.map(|(_, ip)| format!("the running network has DHCP in {}", ip.address))
}

/// Takes away what is there and not wanted, then adds what is wanted and not there.
fn exchange<T: PartialEq>(
    section: Section,
    parent: Option<usize>,
    old: &[T],
    new: &[T],
    text: impl Fn(&T) -> Result<String>,
) -> Result<Vec<LiveStep>> {
    let mut steps = Vec::new();
    let (gone, added) = difference(old, new);
    for one in gone {
        let xml = text(one)?;
        let undo = (Command::Add, xml.clone());
        steps.push(LiveStep { section, parent, command: Command::Delete, xml, undo });
    }
    for one in added {
        let xml = text(one)?;
        let undo = (Command::Delete, xml.clone());
        steps.push(LiveStep { section, parent, command: Command::Add, xml, undo });
    }
    Ok(steps)
}

fn difference<'a, T: PartialEq>(old: &'a [T], new: &'a [T]) -> (Vec<&'a T>, Vec<&'a T>) {
    let gone = old.iter().filter(|one| !new.contains(one)).collect();
    let added = new.iter().filter(|one| !old.contains(one)).collect();
    (gone, added)
}

fn ranges(parent: usize, old: &[DhcpRange], new: &[DhcpRange]) -> Result<Vec<LiveStep>> {
    exchange(Section::DhcpRange, Some(parent), old, new, |range| build::text(Part::Range(range)))
}

fn dhcp_hosts(parent: usize, old: &[DhcpHost], new: &[DhcpHost]) -> Result<Vec<LiveStep>> {
    exchange(Section::DhcpHost, Some(parent), old, new, |host| build::text(Part::DhcpHost(host)))
}

/// libvirt holds two hosts to be the same if they share their address or one of their names.
fn dns_hosts(old: &[DnsHost], new: &[DnsHost]) -> Result<Steps> {
    let alike = |one: &DnsHost, other: &DnsHost| {
        one.ip == other.ip || one.hostnames.iter().any(|name| other.hostnames.contains(name))
    };
    if let Some(why) = twins(old, new, alike) {
        return Ok(Err(why));
    }
    exchange(Section::DnsHost, None, old, new, |host| build::text(Part::DnsHost(host))).map(Ok)
}

/// Two services are the same if what the one says, the other says as well.
fn srvs(old: &[DnsSrv], new: &[DnsSrv]) -> Result<Steps> {
    fn said<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
        one.is_none() || one == other
    }
    let alike = |one: &DnsSrv, other: &DnsSrv| {
        let says = |one: &DnsSrv, other: &DnsSrv| {
            said(&one.domain, &other.domain)
                && said(&one.target, &other.target)
                && said(&one.port, &other.port)
                && said(&one.priority, &other.priority)
                && said(&one.weight, &other.weight)
        };
        one.service == other.service
            && one.protocol == other.protocol
            && (says(one, other) || says(other, one))
    };
    if let Some(why) = twins(old, new, alike) {
        return Ok(Err(why));
    }
    exchange(Section::DnsSrv, None, old, new, |srv| build::text(Part::Srv(srv))).map(Ok)
}

fn txts(old: &[DnsTxt], new: &[DnsTxt]) -> Result<Steps> {
    if let Some(why) = twins(old, new, |one, other| one.name == other.name) {
        return Ok(Err(why));
    }
    exchange(Section::DnsTxt, None, old, new, |txt| build::text(Part::Txt(txt))).map(Ok)
}

/// Why entries cannot be exchanged one by one: at some moment there would be two that libvirt
/// cannot tell apart.
fn twins<T: PartialEq>(old: &[T], new: &[T], alike: impl Fn(&T, &T) -> bool) -> Option<String> {
    let (gone, added) = difference(old, new);
    let ambiguous = gone.iter().any(|one| old.iter().filter(|other| alike(one, other)).count() > 1);
    let taken = added.iter().any(|one| new.iter().filter(|other| alike(one, other)).count() > 1);
    (ambiguous || taken).then(|| {
        "libvirt cannot tell entries with the same names apart in a running network".to_owned()
    })
}

fn portgroups(
    old: &[PortGroup],
    new: &[PortGroup],
    live_xml: &str,
    new_xml: &str,
) -> Result<Steps> {
    let section = Section::PortGroup;
    let text =
        |xml: &str, name: &str| edit::portgroup_text(xml, name).map(Option::unwrap_or_default);
    let mut steps = Vec::new();
    for group in old.iter().filter(|group| new.iter().all(|other| other.name != group.name)) {
        let xml = text(live_xml, &group.name)?;
        let undo = (Command::Add, xml.clone());
        steps.push(LiveStep { section, parent: None, command: Command::Delete, xml, undo });
    }
    // One group alone may be the default at any moment: first the one that no longer is.
    let mut changed: Vec<&PortGroup> = new.iter().filter(|group| !old.contains(group)).collect();
    changed.sort_by_key(|group| group.default);
    for group in changed {
        let xml = text(new_xml, &group.name)?;
        let (command, undo) = if old.iter().any(|other| other.name == group.name) {
            (Command::Modify, (Command::Modify, text(live_xml, &group.name)?))
        } else {
            (Command::Add, (Command::Delete, xml.clone()))
        };
        steps.push(LiveStep { section, parent: None, command, xml, undo });
    }
    Ok(Ok(steps))
}

/// The fields of which neither the running network nor its definition is as the request wants it:
/// how a restarted daemon judges an update that it finds unfinished.
pub fn unmet(facts: &NetworkFacts, request: &UpdateNetwork) -> Result<Vec<String>> {
    let fields: BTreeSet<String> =
        decide(facts, request)?.changes.into_iter().map(|change| change.field).collect();
    Ok(fields.into_iter().collect())
}

/// A value's JSON, for steps in the journal.
pub fn step_of<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(Error::internal)
}
