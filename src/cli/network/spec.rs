//! The small languages of the options of create and update.

use std::net::IpAddr;

use crate::model::Subnet;
use crate::model::network::{
    BandwidthLimit, DhcpHost, DhcpRange, DnsForwarder, DnsHost, DnsName, NetworkDhcp, NetworkIp,
    NetworkRoute,
};
use crate::model::subnet::number;

/// Subnets larger than this get a range of their first addresses: libvirt takes no larger one.
const MAX_RANGE: u128 = 65_535;

/// The subnet, and the host's address in it: the first usable one if the text names the subnet.
pub fn subnet(text: &str) -> Result<Subnet, String> {
    let subnet: Subnet = text.parse().map_err(|problem| format!("{text} {problem}"))?;
    if subnet.address() != subnet.first() || subnet.is_usable(subnet.first()) {
        return Ok(subnet);
    }
    let first = next(subnet.first(), 1);
    Subnet::new(first, subnet.prefix()).ok_or_else(|| format!("{text} has no address for the host"))
}

fn next(address: IpAddr, by: u128) -> IpAddr {
    let number = number(address).saturating_add(by);
    match address {
        IpAddr::V4(_) => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        IpAddr::V6(_) => IpAddr::V6(number.into()),
    }
}

/// `START-END`, or `auto` for all of the subnet.
pub fn range(text: &str) -> Result<Option<DhcpRange>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let (start, end) = text.split_once('-').ok_or("a range is START-END, or auto")?;
    for address in [start, end] {
        address.parse::<IpAddr>().map_err(|_| format!("{address:?} is no IP address"))?;
    }
    Ok(Some(DhcpRange { start: start.to_owned(), end: end.to_owned() }))
}

/// Everything behind the host's own address that a machine can have.
pub fn whole_range(subnet: &Subnet) -> Option<DhcpRange> {
    let start = next(subnet.address(), 1);
    let last = if subnet.is_ipv4() {
        number(subnet.last()).checked_sub(1)?
    } else {
        number(subnet.last())
    };
    let steps = last.checked_sub(number(start))?.min(MAX_RANGE);
    let end = next(start, steps);
    (subnet.is_usable(start) && subnet.is_usable(end))
        .then(|| DhcpRange { start: start.to_string(), end: end.to_string() })
}

/// `IP,MAC[,NAME]`; of IPv6 `IP,id=DUID[,NAME]`, or a name alone.
pub fn dhcp_host(text: &str) -> Result<DhcpHost, String> {
    let mut parts = text.split(',');
    let ip = parts.next().unwrap_or_default();
    ip.parse::<IpAddr>()
        .map_err(|_| "a host is IP,MAC[,NAME], such as 10.20.0.10,52:54:00:00:00:01,db1")?;
    let mut host = DhcpHost { ip: ip.to_owned(), ..DhcpHost::default() };
    for part in parts {
        if let Some(id) = part.strip_prefix("id=") {
            host.id = Some(id.to_owned());
        } else if part.split(':').count() == 6 {
            host.mac = Some(part.to_owned());
        } else {
            host.name = Some(part.to_owned());
        }
    }
    Ok(host)
}

/// `IP=NAME[,NAME…]`.
pub fn dns_host(text: &str) -> Result<DnsHost, String> {
    let (ip, names) = text.split_once('=').ok_or("a DNS host is IP=NAME[,NAME]")?;
    ip.parse::<IpAddr>().map_err(|_| format!("{ip:?} is no IP address"))?;
    let hostnames = names.split(',').map(|name| DnsName(name.to_owned())).collect();
    Ok(DnsHost { ip: ip.to_owned(), hostnames })
}

/// `DESTINATION=GATEWAY`.
pub fn route(text: &str) -> Result<NetworkRoute, String> {
    let (destination, gateway) = text
        .split_once('=')
        .ok_or("a route is DESTINATION=GATEWAY, such as 10.30.0.0/16=10.20.0.2")?;
    Ok(NetworkRoute {
        destination: destination.to_owned(),
        gateway: gateway.to_owned(),
        metric: None,
    })
}

/// `ADDRESS` or `DOMAIN=ADDRESS`.
pub fn forwarder(text: &str) -> Result<DnsForwarder, String> {
    let (domain, address) = match text.split_once('=') {
        Some((domain, address)) => (Some(domain.to_owned()), address),
        None => (None, text),
    };
    let address = (!address.is_empty()).then(|| address.to_owned());
    Ok(DnsForwarder { address, domain })
}

/// `AVERAGE[,PEAK[,BURST]]` in KiB/s and KiB.
pub fn limit(text: &str) -> Result<BandwidthLimit, String> {
    let numbers: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
    match numbers.as_deref() {
        Ok([average]) => Ok(BandwidthLimit { average: *average, peak: None, burst: None }),
        Ok([average, peak]) => {
            Ok(BandwidthLimit { average: *average, peak: Some(*peak), burst: None })
        }
        Ok([average, peak, burst]) => {
            Ok(BandwidthLimit { average: *average, peak: Some(*peak), burst: Some(*burst) })
        }
        _ => Err("a limit is AVERAGE[,PEAK[,BURST]] in KiB/s and KiB".to_owned()),
    }
}

/// Puts ranges and hosts into the subnets that they lie in.
pub fn subnets(
    subnets: &[Subnet],
    ranges: &[Option<DhcpRange>],
    hosts: &[DhcpHost],
) -> Result<Vec<NetworkIp>, String> {
    let mut ips: Vec<NetworkIp> = subnets
        .iter()
        .map(|subnet| NetworkIp { address: subnet.to_string(), dhcp: None })
        .collect();
    for range in ranges {
        match range {
            Some(range) => dhcp_of(&mut ips, &range.start)?.ranges.push(range.clone()),
            None => {
                for (ip, subnet) in ips.iter_mut().zip(subnets).filter(|(_, net)| net.is_ipv4()) {
                    let range =
                        whole_range(subnet).ok_or_else(|| format!("{subnet} has no room"))?;
                    ip.dhcp.get_or_insert_default().ranges.push(range);
                }
            }
        }
    }
    for host in hosts {
        dhcp_of(&mut ips, &host.ip)?.hosts.push(host.clone());
    }
    Ok(ips)
}

/// What DHCP does in the subnet that holds this address.
pub fn dhcp_of<'a>(ips: &'a mut [NetworkIp], address: &str) -> Result<&'a mut NetworkDhcp, String> {
    let parsed: IpAddr = address.parse().map_err(|_| format!("{address:?} is no IP address"))?;
    let holds = |ip: &&mut NetworkIp| {
        ip.address.parse::<Subnet>().is_ok_and(|subnet| subnet.contains(parsed))
    };
    let ip = ips.iter_mut().find(holds).ok_or_else(|| format!("{address} is in no subnet"))?;
    Ok(ip.dhcp.get_or_insert_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_gives_the_host_its_first_address_unless_it_names_another() {
        assert_eq!(subnet("10.20.0.0/24").unwrap().to_string(), "10.20.0.1/24");
        assert_eq!(subnet("10.20.0.254/24").unwrap().to_string(), "10.20.0.254/24");
        assert_eq!(subnet("fd20:1::/64").unwrap().to_string(), "fd20:1::1/64");
        assert!(subnet("10.20.0.0").is_err());
    }

    #[test]
    fn dhcp_goes_to_the_subnet_it_lies_in() {
        let nets = [subnet("10.20.0.0/24").unwrap(), subnet("fd20:1::/64").unwrap()];
        let host = dhcp_host("10.20.0.9,52:54:00:00:00:01,db1").unwrap();
        let v6 = range("fd20:1::100-fd20:1::1ff").unwrap();
        let ips = subnets(&nets, &[None, v6], &[host]).unwrap();
        let dhcp = ips[0].dhcp.as_ref().unwrap();
        assert_eq!(
            (dhcp.ranges[0].start.as_str(), dhcp.ranges[0].end.as_str()),
            ("10.20.0.2", "10.20.0.254")
        );
        assert_eq!(
            (dhcp.hosts[0].mac.as_deref(), dhcp.hosts[0].name.as_deref()),
            (Some("52:54:00:00:00:01"), Some("db1"))
        );
        assert_eq!(ips[1].dhcp.as_ref().unwrap().ranges.len(), 1);
        let stranger = dhcp_host("10.30.0.9,db1").unwrap();
        assert!(subnets(&nets, &[], &[stranger]).unwrap_err().contains("in no subnet"));
    }

    #[test]
    fn a_range_is_no_larger_than_libvirt_takes() {
        let range = whole_range(&subnet("10.0.0.0/8").unwrap()).unwrap();
        assert_eq!((range.start.as_str(), range.end.as_str()), ("10.0.0.2", "10.1.0.1"));
        assert_eq!(whole_range(&subnet("10.0.0.1/32").unwrap()), None);
    }

    #[test]
    fn words_that_make_no_sense_are_refused() {
        assert!(range("10.0.0.1").is_err() && range("a-b").is_err());
        assert!(dhcp_host("db1").is_err() && dns_host("10.0.0.1").is_err());
        assert!(
            route("10.0.0.0/8").is_err() && limit("much").is_err() && limit("1,2,3,4").is_err()
        );
        assert_eq!(
            forwarder("lab=").unwrap(),
            DnsForwarder { address: None, domain: Some("lab".into()) }
        );
    }
}
