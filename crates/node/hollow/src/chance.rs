//! What is left to chance: it follows from a seed and a name, so that it comes out the same again.

use std::time::Duration;

/// FNV-1a with a final mix (Steele's splitmix64), which its low bits need.
pub(crate) fn hash(seed: u64, parts: &[&str]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325 ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0xff])) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Whether it happens this time, to so many of a hundred.
pub(crate) fn happens(percent: u8, hash: u64) -> bool {
    hash % 100 < u64::from(percent)
}

/// A time between the two.
pub(crate) fn between((least, most): (Duration, Duration), hash: u64) -> Duration {
    let span = u64::try_from((most - least).as_micros()).unwrap_or(u64::MAX);
    least + Duration::from_micros(if span == 0 { 0 } else { hash % (span + 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_and_shares_are_kept() {
        assert_eq!(hash(1, &["a", "b"]), hash(1, &["a", "b"]));
        assert_ne!(hash(1, &["a", "b"]), hash(2, &["a", "b"]));
        assert_ne!(hash(1, &["a", "b"]), hash(1, &["ab"]));
        let many = (0..10_000).filter(|n| happens(20, hash(7, &["default", &format!("web-{n}")]))).count();
        assert!((1800..2200).contains(&many), "{many}");
        let range = (Duration::from_millis(10), Duration::from_millis(20));
        assert!((0..1000).all(|n| (range.0..=range.1).contains(&between(range, hash(n, &[])))));
        assert_eq!(between((Duration::ZERO, Duration::ZERO), 5), Duration::ZERO);
    }
}
