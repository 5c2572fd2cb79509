//! What the host itself has: addresses, routes and bridges, as the kernel tells them. Networks of
//! libvirt's must not get into their way.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use crate::error::{Error, Result};
use crate::model::Subnet;
use crate::model::subnet::number;

/// A route that is dead, or an address's own entry (`linux/route.h`, `linux/ipv6_route.h`).
const REJECTS: u32 = 0x0200;
const VIA_GATEWAY: u32 = 0x0002;
const LOCAL: u32 = 0x8000_0000;

/// What the host has.
#[derive(Clone, Debug, Default)]
pub struct HostNet {
    pub links: BTreeSet<String>,
    pub bridges: BTreeSet<String>,
    /// Each interface's addresses.
    pub addresses: Vec<(String, Subnet)>,
    pub routes: Vec<HostRoute>,
}

/// One route of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoute {
    pub destination: Subnet,
    pub interface: String,
    pub via_gateway: bool,
}

/// Whether libvirt at this URI works on this very host, and has its devices.
pub fn is_here(uri: &str) -> bool {
    let Some((scheme, rest)) = uri.split_once(':') else { return false };
    let driver = scheme.split('+').next().unwrap_or_default();
    let host = rest.strip_prefix("//").map_or("", |rest| rest.split('/').next().unwrap_or(""));
    driver != "test" && host.is_empty()
}

/// Reads it.
///
/// # Errors
/// [`Kind::Internal`](crate::error::Kind::Internal) if the kernel does not tell of its interfaces: without
/// them nothing could be said of a bridge or a subnet.
pub fn read() -> Result<HostNet> {
    let mut host = HostNet::default();
    let unread = |error| Error::internal(format_args!("the host's interfaces: {error}"));
    for entry in getifaddrs().map_err(unread)? {
        host.links.insert(entry.interface_name.clone());
        let address = entry.address.as_ref().and_then(ip);
        let mask = entry.netmask.as_ref().and_then(ip);
        if let (Some(address), Some(mask)) = (address, mask)
            && let Some(subnet) = Subnet::new(address, prefix(mask))
        {
            host.addresses.push((entry.interface_name, subnet));
        }
    }
    host.bridges = host
        .links
        .iter()
        .filter(|link| Path::new("/sys/class/net").join(link).join("bridge").is_dir())
        .cloned()
        .collect();
    let table = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    host.routes = table("/proc/net/route").lines().skip(1).filter_map(route_v4).collect();
    host.routes.extend(table("/proc/net/ipv6_route").lines().filter_map(route_v6));
    Ok(host)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    if let Some(address) = address.as_sockaddr_in() {
        return Some(IpAddr::V4(address.ip()));
    }
    address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()))
}

fn prefix(mask: IpAddr) -> u8 {
    u8::try_from(number(mask).count_ones()).unwrap_or(0)
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, numbers as the memory has them.
fn route_v4(line: &str) -> Option<HostRoute> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = |at: usize| {
        let raw = u32::from_str_radix(fields.get(at)?, 16).ok()?;
        Some(IpAddr::V4(Ipv4Addr::from(raw.to_ne_bytes())))
    };
    let flags = u32::from_str_radix(fields.get(3)?, 16).ok()?;
    route(Subnet::new(address(1)?, prefix(address(7)?))?, (*fields.first()?).to_owned(), flags)
}

/// `destination prefix source prefix gateway metric refcnt use flags iface`, in hexadecimal.
fn route_v6(line: &str) -> Option<HostRoute> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?);
    let prefix = u8::from_str_radix(fields.get(1)?, 16).ok()?;
    let flags = u32::from_str_radix(fields.get(8)?, 16).ok()?;
    let subnet = Subnet::new(IpAddr::V6(address), prefix)?;
    if flags & LOCAL != 0 || address.is_unicast_link_local() || address.is_multicast() {
        return None;
    }
    route(subnet, (*fields.get(9)?).to_owned(), flags)
}

fn route(destination: Subnet, interface: String, flags: u32) -> Option<HostRoute> {
    // Everything, or one half of it, is the way out.
    let stands = destination.prefix() > 1 && flags & REJECTS == 0 && interface != "lo";
    let via_gateway = flags & VIA_GATEWAY != 0;
    stands.then_some(HostRoute { destination, interface, via_gateway })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let line = "eth0\t00020B0A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        let found = route_v4(line).unwrap();
        // The test's numbers are those of a little-endian machine.
        if cfg!(target_endian = "little") {
            assert_eq!(found.destination.to_string(), "10.11.2.0/24");
        }
        assert_eq!((found.interface.as_str(), found.via_gateway), ("eth0", false));
        assert_eq!(route_v4("eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0"), None);
        assert_eq!(route_v4("Iface Destination"), None);
        let line = "fd200001000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth1";
        let found = route_v6(line).unwrap();
        assert_eq!(found.destination.to_string(), "fd20:1::/64");
        assert_eq!(route_v6(&line.replace("fd20", "fe80")), None);
        assert_eq!(route_v6(&line.replace(" 00000001     eth1", " 80200001     lo")), None);
    }

    #[test]
    fn only_a_libvirt_on_this_host_has_its_devices() {
        for here in ["qemu:///system", "qemu+unix:///system?socket=/run/x", "lxc:///"] {
            assert!(is_here(here), "{here}");
        }
        for not in ["test:///default", "qemu+ssh://host/system", "qemu+tcp://10.0.0.1/system", ""] {
            assert!(!is_here(not), "{not}");
        }
    }

    #[test]
    fn this_host_has_a_loopback() {
        let host = read().expect("netlink");
        assert!(host.links.contains("lo"), "{host:?}");
        assert!(host.addresses.iter().any(|(name, net)| name == "lo" && net.prefix() == 8));
    }
}
