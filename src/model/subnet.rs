//! Subnets: what an address with a prefix spans.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address with the prefix of its subnet, such as `10.20.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// `None` if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Subnet> {
        (prefix <= width(address)).then_some(Subnet { address, prefix })
    }

    /// The address as it was given, not necessarily the first of the subnet.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// The first address.
    pub fn first(&self) -> IpAddr {
        same_family(self.address, number(self.address) & !self.host_bits())
    }

    /// The last address; in IPv4 the one for broadcasts.
    pub fn last(&self) -> IpAddr {
        same_family(self.address, number(self.address) | self.host_bits())
    }

    /// Whether the address lies in the subnet.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4()
            && number(address) & !self.host_bits() == number(self.first())
    }

    /// Whether every address of `other` lies in this subnet.
    pub fn covers(&self, other: &Subnet) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }

    /// Whether an address lies in both.
    pub fn overlaps(&self, other: &Subnet) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Whether a machine can have this address: it lies in the subnet and is not one of the two
    /// that name the subnet and its broadcasts. Subnets of two and of one have no such two.
    pub fn is_usable(&self, address: IpAddr) -> bool {
        let spare = self.prefix + 1 >= width(self.address);
        let named = address == self.first() || (self.is_ipv4() && address == self.last());
        self.contains(address) && (spare || !named)
    }

    /// The subnet with its first address: the form in which subnets are compared and shown.
    pub fn network(&self) -> Subnet {
        Subnet { address: self.first(), prefix: self.prefix }
    }

    fn host_bits(&self) -> u128 {
        let bits = width(self.address) - self.prefix;
        if bits == 128 { u128::MAX } else { (1 << bits) - 1 }
    }
}

/// How many bits addresses of this family have.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address as a number, in which neighbours differ by one.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn same_family(like: IpAddr, number: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX))),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

impl FromStr for Subnet {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) = text.split_once('/').ok_or("has no prefix, such as /24")?;
        let address: IpAddr = address.parse().map_err(|_| "is not an IP address")?;
        if !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err("has a prefix that is not a number");
        }
        let prefix: u8 = prefix.parse().map_err(|_| "has a prefix that is not a number")?;
        Subnet::new(address, prefix).ok_or("has a prefix longer than the address")
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_has_its_ends() {
        let net = subnet("10.20.3.7/22");
        assert_eq!(
            (net.first().to_string(), net.last().to_string()),
            ("10.20.0.0".into(), "10.20.3.255".into())
        );
        assert_eq!(net.network().to_string(), "10.20.0.0/22");
        let net = subnet("fd20:1::1/64");
        assert_eq!(net.last().to_string(), "fd20:1::ffff:ffff:ffff:ffff");
        assert_eq!(subnet("0.0.0.0/0").last().to_string(), "255.255.255.255");
        assert!(subnet("::/0").contains("ffff::1".parse().unwrap()));
    }

    #[test]
    fn texts_that_are_no_subnet_are_refused() {
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1/33",
            "10.0.0/8",
            "fd00::/129",
            "a/24",
            "10.0.0.1/+8",
            "10.0.0.1/",
            "010.0.0.1/8",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_ends_of_a_subnet_are_nobodys_address() {
        let usable = |net: &str, address: &str| subnet(net).is_usable(address.parse().unwrap());
        assert!(usable("10.0.0.1/24", "10.0.0.1"));
        assert!(!usable("10.0.0.1/24", "10.0.0.0"));
        assert!(!usable("10.0.0.1/24", "10.0.0.255"));
        assert!(!usable("10.0.0.1/24", "10.0.1.1"));
        assert!(usable("10.0.0.0/31", "10.0.0.0"));
        assert!(usable("fd00::1/64", "fd00::ffff:ffff:ffff:ffff"));
        assert!(!usable("fd00::1/64", "fd00::"));
    }

    fn any_v4() -> impl Strategy<Value = Subnet> {
        // Few bits vary, so that many pairs overlap.
        (0_u32..64, 26_u8..=32).prop_map(|(low, prefix)| {
            Subnet::new(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | low)), prefix).unwrap()
        })
    }

    fn members(net: &Subnet) -> Vec<u32> {
        (0_u32..64)
            .filter(|low| net.contains(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 | low))))
            .collect()
    }

    proptest! {
        /// Against sets of all addresses, which know no arithmetic.
        #[test]
        fn subnets_are_sets_of_addresses(one in any_v4(), other in any_v4()) {
            let (a, b) = (members(&one), members(&other));
            prop_assert_eq!(a.len(), 1_usize << (32 - one.prefix()));
            prop_assert_eq!(one.overlaps(&other), a.iter().any(|low| b.contains(low)));
            prop_assert_eq!(one.covers(&other), b.iter().all(|low| a.contains(low)));
            prop_assert!(one.contains(one.first()) && one.contains(one.last()));
            prop_assert_eq!(one.to_string().parse::<Subnet>().unwrap(), one);
        }

        #[test]
        fn ipv6_subnets_hold_their_own_and_no_neighbour(bits: u128, prefix in 1_u8..=128) {
            let net = Subnet::new(IpAddr::V6(Ipv6Addr::from(bits)), prefix).unwrap();
            prop_assert!(net.contains(net.address()) && net.overlaps(&net.network()));
            if let Some(after) = number(net.last()).checked_add(1) {
                prop_assert!(!net.contains(IpAddr::V6(Ipv6Addr::from(after))));
            }
        }
    }
}
