//! What the guest agent tells. For [`Lane::Agent`](super::Lane::Agent): an agent may take seconds to
//! answer, or never do.
//!
//! Errors beside those of [`domain`](super::domain): `GuestAgentUnavailable` if the agent is not
//! there, not answering, or does not know the command.

use uuid::Uuid;
use virt::domain::Domain;
use virt::sys;

use super::error::What;
use super::ffi;
use super::session::Session;
use crate::error::{Kind, Result};

/// What the guest says of itself; `None` where its agent does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestInfo {
    pub hostname: Option<String>,
    /// `debian`, `mswindows`, …
    pub os_id: Option<String>,
    /// The name to show: `Debian GNU/Linux 12 (bookworm)`.
    pub os_name: Option<String>,
    pub os_version: Option<String>,
    pub kernel: Option<String>,
    pub machine: Option<String>,
    pub timezone: Option<String>,
}

/// Who is asked for a guest's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The guest agent: everything the guest has, loopback included.
    Agent,
    /// The DHCP leases of libvirt's own networks; never waits for the guest.
    Lease,
}

/// The family of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    /// `ipv4` or `ipv6`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        }
    }
}

/// One interface of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestInterface {
    /// The guest's name for it (agent), or the host's (lease).
    pub name: String,
    pub mac: Option<String>,
    /// Address, prefix, family.
    pub addresses: Vec<(String, u8, Family)>,
}

fn find(session: &Session, uuid: Uuid) -> Result<(Domain, String)> {
    let failed = || session.failed("find", What::VmId(uuid));
    let domain = session.connect().lookup_domain_by_uuid(uuid).map_err(failed())?;
    let name = domain.name().map_err(failed())?;
    Ok((domain, name))
}

/// Bounds the wait for the agent: without it libvirt waits for a command's reply forever. The
/// bound stays with the domain until it is set anew.
fn limit(session: &Session, domain: &Domain, name: &str, timeout_s: u32) -> Result<()> {
    let seconds = i32::try_from(timeout_s.max(1)).unwrap_or(i32::MAX);
    ffi::domain::set_agent_timeout(domain, seconds)
        .map_err(session.failed("ask the guest agent of", What::Vm(name)))
}

/// Bounds the wait for the agent's answers to what libvirt asks it on its own account.
pub fn limit_wait(session: &Session, uuid: Uuid, timeout_s: u32) -> Result<()> {
    let (domain, name) = find(session, uuid)?;
    limit(session, &domain, &name, timeout_s)
}

/// Asks the agent for host name, operating system and time zone, each with at most `timeout_s`.
///
/// An agent that knows only some of them tells those; it is an error only if it tells none.
pub fn guest_info(session: &Session, uuid: Uuid, timeout_s: u32) -> Result<GuestInfo> {
    let (domain, name) = find(session, uuid)?;
    limit(session, &domain, &name, timeout_s)?;
    let groups = [
        sys::VIR_DOMAIN_GUEST_INFO_OS,
        sys::VIR_DOMAIN_GUEST_INFO_HOSTNAME,
        sys::VIR_DOMAIN_GUEST_INFO_TIMEZONE,
    ];
    let failed = |error| session.failed("ask the guest agent of", What::Vm(&name))(error);
    let mut info = GuestInfo::default();
    let everything = ffi::domain::guest_info(&domain, groups.iter().fold(0, |all, one| all | one));
    match everything.map_err(failed) {
        Ok(params) => info.take(&params),
        // One command the agent lacks fails all of them: ask one by one.
        Err(error)
            if error.kind() == Kind::NotSupported
                || error.details().get("libvirt").and_then(|details| details["code"].as_u64())
                    == Some(u64::from(sys::VIR_ERR_AGENT_COMMAND_FAILED)) =>
        {
            let mut answered = false;
            for group in groups {
                if let Ok(params) = ffi::domain::guest_info(&domain, group) {
                    info.take(&params);
                    answered = true;
                }
            }
            if !answered {
                return Err(error);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(info)
}

impl GuestInfo {
    fn take(&mut self, params: &ffi::typed::Params) {
        let text = |name: &str| {
            params.text(name).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        self.hostname = self.hostname.take().or_else(|| text("hostname"));
        self.os_id = self.os_id.take().or_else(|| text("os.id"));
        self.os_name =
            self.os_name.take().or_else(|| text("os.pretty-name")).or_else(|| text("os.name"));
        self.os_version =
            self.os_version.take().or_else(|| text("os.version-id")).or_else(|| text("os.version"));
        self.kernel = self.kernel.take().or_else(|| text("os.kernel-release"));
        self.machine = self.machine.take().or_else(|| text("os.machine"));
        self.timezone = self.timezone.take().or_else(|| text("timezone.name"));
    }
}

/// The guest's interfaces and addresses. The agent's answer is waited for at most `timeout_s`
/// seconds; leases are libvirt's own and ignore it.
pub fn interface_addresses(
    session: &Session,
    uuid: Uuid,
    source: Source,
    timeout_s: u32,
) -> Result<Vec<GuestInterface>> {
    let (domain, name) = find(session, uuid)?;
    // It has no guests, makes its addresses up, and takes every NIC for one of a network: with one
    // of another type it reads wild memory (seen with libvirt 11.3).
    if session.is_test_driver() {
        return Ok(Vec::new());
    }
    let number = match source {
        Source::Agent => {
            limit(session, &domain, &name, timeout_s)?;
            sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT
        }
        Source::Lease => sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
    };
    let interfaces = ffi::domain::interface_addresses(&domain, number)
        .map_err(session.failed("read the addresses of", What::Vm(&name)))?;
    Ok(interfaces.into_iter().map(GuestInterface::from).collect())
}

impl From<ffi::domain::Interface> for GuestInterface {
    fn from(raw: ffi::domain::Interface) -> Self {
        let addresses = raw.addresses.into_iter().filter_map(|(kind, address, prefix)| {
            let family = match u32::try_from(kind).ok()? {
                sys::VIR_IP_ADDR_TYPE_IPV4 => Family::Ipv4,
                sys::VIR_IP_ADDR_TYPE_IPV6 => Family::Ipv6,
                _ => return None,
            };
            Some((address, u8::try_from(prefix).unwrap_or(0), family))
        });
        GuestInterface { name: raw.name, mac: raw.mac, addresses: addresses.collect() }
    }
}

/// Succeeds if the agent answers within `timeout_s` (and libvirt's own five seconds to synchronise
/// with it).
pub fn ping(session: &Session, uuid: Uuid, timeout_s: u32) -> Result<()> {
    let (domain, name) = find(session, uuid)?;
    limit(session, &domain, &name, timeout_s)?;
    // The cheapest command every agent has; guest-ping itself needs libvirt's QEMU-only library.
    domain.time(0).map(drop).map_err(session.failed("ask the guest agent of", What::Vm(&name)))
}
