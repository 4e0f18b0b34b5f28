//! Which part of the pods' network a node gets.

use std::net::Ipv4Addr;

/// A block of IPv4 addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// First address.
    pub address: Ipv4Addr,
    /// Leading bits that are fixed.
    pub prefix: u8,
}

impl std::str::FromStr for Block {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not an IPv4 block");
        let (address, prefix) = text.split_once('/').ok_or_else(bad)?;
        let address: Ipv4Addr = address.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().ok().filter(|prefix| *prefix <= 32).ok_or_else(bad)?;
        Ok(Self { address: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix })
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl Block {
    fn overlaps(&self, other: &Self) -> bool {
        let shared = mask(self.prefix.min(other.prefix));
        self.address.to_bits() & shared == other.address.to_bits() & shared
    }
}

/// The first block of `size` bits' prefix inside `cluster` that overlaps none of `taken`.
#[must_use]
pub fn free(cluster: &Block, size: u8, taken: &[Block]) -> Option<Block> {
    let bits = size.checked_sub(cluster.prefix)?;
    // More nodes than this nobody has.
    let count = 1_u32.checked_shl(u32::from(bits)).unwrap_or(u32::MAX).min(1 << 20);
    let step = 1_u32.checked_shl(32 - u32::from(size)).unwrap_or(0);
    let inside: Vec<&Block> = taken.iter().filter(|block| block.overlaps(cluster)).collect();
    let mut n = 0;
    while n < count {
        let address = Ipv4Addr::from_bits(cluster.address.to_bits() + n * step);
        let block = Block { address, prefix: size };
        match inside.iter().find(|taken| taken.overlaps(&block)) {
            None => return Some(block),
            // Past all of what is in the way.
            Some(taken) if taken.prefix < size => {
                let end = taken.address.to_bits().checked_add(1 << (32 - u32::from(taken.prefix)))?;
                n = end.checked_sub(cluster.address.to_bits())? / step;
            }
            Some(_) => n += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Block {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_free_block_is_given() {
        let cluster = block("10.42.0.0/16");
        let give = |taken: &[&str]| {
            let taken: Vec<Block> = taken.iter().map(|text| block(text)).collect();
            free(&cluster, 24, &taken).map(|block| block.to_string())
        };
        assert_eq!(give(&[]).as_deref(), Some("10.42.0.0/24"));
        assert_eq!(give(&["10.42.0.0/24", "10.42.2.0/24"]).as_deref(), Some("10.42.1.0/24"));
        assert_eq!(give(&["10.42.0.128/25"]).as_deref(), Some("10.42.1.0/24"));
        assert_eq!(give(&["10.42.0.0/22", "10.43.0.0/16"]).as_deref(), Some("10.42.4.0/24"));
        assert_eq!(give(&["10.0.0.0/8"]), None);
    }

    #[test]
    fn a_full_network_gives_none() {
        let cluster = block("10.42.0.0/22");
        let taken: Vec<Block> = (0..4).map(|n| block(&format!("10.42.{n}.0/24"))).collect();
        assert_eq!(free(&cluster, 24, &taken), None);
        assert_eq!(free(&cluster, 24, &taken[1..]), Some(taken[0]));
        assert_eq!(free(&cluster, 20, &[]), None, "larger than the cluster's");
        assert!("10.42.0.0".parse::<Block>().is_err() && "10.42.0.0/33".parse::<Block>().is_err());
        assert_eq!(block("10.42.9.7/16").to_string(), "10.42.0.0/16");
    }
}
