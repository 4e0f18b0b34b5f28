//! IPv4 networks.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::Error;

/// An IPv4 network in canonical form: no host bits set. The default is `0.0.0.0/0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: u32,
    prefix: u8,
}

impl Cidr {
    /// The network that `address` is in; `None` when `prefix` is over 32.
    #[must_use]
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        (prefix <= 32).then(|| Self { network: address.to_bits() & mask(prefix), prefix })
    }

    /// The first address.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network)
    }

    /// The length of the network part.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The last address.
    #[must_use]
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network | !mask(self.prefix))
    }

    /// The netmask as an address.
    #[must_use]
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(self.prefix))
    }

    /// How many addresses, network and broadcast included.
    #[must_use]
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The `n`th address; `None` when outside.
    #[must_use]
    pub fn nth(&self, n: u32) -> Option<Ipv4Addr> {
        (u64::from(n) < self.size()).then(|| Ipv4Addr::from_bits(self.network.wrapping_add(n)))
    }

    /// Whether the address is inside.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network
    }

    /// Whether the two share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    /// The `n`th network of length `prefix` inside this one: a node's part of the pod network.
    #[must_use]
    pub fn subnet(&self, prefix: u8, n: u32) -> Option<Self> {
        if prefix > 32 || prefix < self.prefix || u64::from(n) >= 1 << (prefix - self.prefix) {
            return None;
        }
        let offset = if prefix == 0 { 0 } else { n << (32 - u32::from(prefix)) };
        Some(Self { network: self.network + offset, prefix })
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let address: Ipv4Addr = address.parse().ok()?;
            let cidr = Self::new(address, prefix.parse().ok()?)?;
            // Host bits are a typing error more often than a wish.
            (cidr.network() == address).then_some(cidr)
        };
        parse().ok_or_else(|| Error::Cidr(text.to_owned()))
    }
}

impl TryFrom<String> for Cidr {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_canonical_networks() {
        let net: Cidr = "10.42.0.0/16".parse().unwrap();
        assert_eq!(net.to_string(), "10.42.0.0/16");
        assert_eq!(net.broadcast(), Ipv4Addr::new(10, 42, 255, 255));
        for bad in ["10.42.0.1/16", "10.42.0.0", "10.42.0.0/33", "10.42.0.0/-1", "", "fd00::/8"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().size(), 1 << 32);
    }

    #[test]
    fn subnets_and_overlap() {
        let net: Cidr = "10.42.0.0/16".parse().unwrap();
        assert_eq!(net.subnet(24, 0).unwrap().to_string(), "10.42.0.0/24");
        assert_eq!(net.subnet(24, 255).unwrap().to_string(), "10.42.255.0/24");
        assert!(net.subnet(24, 256).is_none());
        assert!(net.subnet(8, 0).is_none());
        assert!(net.overlaps(&"10.0.0.0/8".parse().unwrap()));
        assert!(!net.overlaps(&"10.43.0.0/16".parse().unwrap()));
    }
}
