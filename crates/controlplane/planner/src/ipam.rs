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

/// More nodes than this nobody has.
const MOST: u32 = 1 << 20;

/// A network that is given away in blocks of one size, and what of it is taken. Blocks of other sizes may be, too.
#[derive(Clone, Debug)]
pub struct Pool {
    cluster: Block,
    size: u8,
    /// How many taken blocks lie in each place.
    taken: Vec<u32>,
    /// All places before this one are taken.
    from: usize,
}

impl Pool {
    /// All of `cluster`, in blocks of `size` leading bits.
    #[must_use]
    pub fn new(cluster: Block, size: u8) -> Self {
        let count = |bits: u8| 1_u32.checked_shl(u32::from(bits)).unwrap_or(u32::MAX).min(MOST);
        let count = size.checked_sub(cluster.prefix).map_or(0, count);
        Self { cluster, size, taken: vec![0; count as usize], from: 0 }
    }

    /// The places that a block touches.
    fn places(&self, block: &Block) -> std::ops::Range<usize> {
        if !block.overlaps(&self.cluster) || self.taken.is_empty() {
            return 0..0;
        }
        let start = self.cluster.address.to_bits();
        let (first, last) = (block.address.to_bits(), block.address.to_bits() | !mask(block.prefix));
        let place =
            |address: u32| (address.saturating_sub(start) >> (32 - u32::from(self.size)).min(31)) as usize;
        let end = place(last).saturating_add(1).min(self.taken.len());
        place(first).min(end)..end
    }

    /// A block is taken, for the first time or once more.
    pub fn take(&mut self, block: &Block) {
        for place in self.places(block) {
            self.taken[place] += 1;
        }
    }

    /// A block that was taken is not any more.
    pub fn release(&mut self, block: &Block) {
        let places = self.places(block);
        if places.is_empty() {
            return;
        }
        self.from = self.from.min(places.start);
        for place in places {
            self.taken[place] = self.taken[place].saturating_sub(1);
        }
    }

    /// The first block that overlaps none that is taken.
    pub fn free(&mut self) -> Option<Block> {
        while *self.taken.get(self.from)? > 0 {
            self.from += 1;
        }
        let step = 1_u32.checked_shl(32 - u32::from(self.size)).unwrap_or(0);
        let offset = u32::try_from(self.from).ok()?.checked_mul(step)?;
        Some(Block {
            address: Ipv4Addr::from_bits(self.cluster.address.to_bits() + offset),
            prefix: self.size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Block {
        text.parse().unwrap()
    }

    fn free(cluster: &Block, size: u8, taken: &[Block]) -> Option<Block> {
        let mut pool = Pool::new(*cluster, size);
        taken.iter().for_each(|block| pool.take(block));
        pool.free()
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

    #[test]
    fn what_is_given_back_is_given_again() {
        let mut pool = Pool::new(block("10.0.0.0/8"), 24);
        let mut given = Vec::new();
        for _ in 0..5000 {
            let block = pool.free().unwrap();
            pool.take(&block);
            given.push(block);
        }
        assert_eq!(given[4999].to_string(), "10.19.135.0/24");
        // Two that overlap: the place is free when both are gone.
        pool.take(&block("10.0.7.0/25"));
        pool.release(&given[9]);
        pool.release(&given[7]);
        assert_eq!(pool.free(), Some(given[9]));
        pool.release(&block("10.0.7.0/25"));
        assert_eq!(pool.free(), Some(given[7]));
        pool.release(&block("192.168.0.0/16"));
        assert_eq!(pool.free(), Some(given[7]), "what is not ours does not matter");
        assert_eq!(Pool::new(block("0.0.0.0/0"), 32).free().unwrap().to_string(), "0.0.0.0/32");
    }
}
