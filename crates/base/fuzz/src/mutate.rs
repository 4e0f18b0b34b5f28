//! Inputs made of others: bytes changed, words put in, and balanced parts moved, repeated and nested.

use std::ops::Range;

const BRACKETS: &[(u8, u8)] = &[(b'{', b'}'), (b'[', b']'), (b'(', b')'), (b'"', b'"'), (b'\'', b'\'')];

/// Numbers and pieces at which decoders change their mind.
const PIECES: &[&[u8]] = &[
    b"0",
    b"-1",
    b"1",
    b"-0",
    b"127",
    b"128",
    b"255",
    b"256",
    b"65535",
    b"65536",
    b"2147483647",
    b"2147483648",
    b"-2147483649",
    b"4294967296",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1e308",
    b"1e309",
    b"1e-400",
    b"0.1",
    b"1e999999999",
    b"\"\"",
    b"null",
    b"true",
    b"false",
    b"{}",
    b"[]",
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xef\xbb\xbf",
    b"\xc3\xa4",
    b"\xf0\x9f\x9a\xa2",
    b"\\u0000",
    b"\\ud800",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b",",
    b":",
    b";",
    b"/",
    b"..",
    b"%",
    b"%00",
    b"%2f",
    b"%ff",
    b"&",
    b"=",
    b"~0",
    b"~1",
    b"-",
    b"$",
    b"@",
    b"*",
];

/// How often a part is repeated at most.
const REPEATS: usize = 6000;

/// Makes inputs, the same ones from the same seed.
pub(crate) struct Mutator<'a> {
    state: u64,
    seeds: &'a [Vec<u8>],
    words: &'a [Vec<u8>],
}

impl<'a> Mutator<'a> {
    pub(crate) fn new(state: u64, seeds: &'a [Vec<u8>], words: &'a [Vec<u8>]) -> Mutator<'a> {
        Mutator { state, seeds, words }
    }

    /// The next input, of so many bytes at most.
    pub(crate) fn next(&mut self, longest: usize) -> Vec<u8> {
        let mut input = self.seed();
        for _ in 0..=self.below(6) {
            self.change(&mut input, longest);
            input.truncate(longest);
        }
        input
    }

    /// Steele, Lea and Flood's SplitMix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random() >> 1).unwrap_or_default() % bound.max(1)
    }

    fn seed(&mut self) -> Vec<u8> {
        let at = self.below(self.seeds.len());
        self.seeds.get(at).cloned().unwrap_or_default()
    }

    /// A word of the target, or one that all know.
    fn word(&mut self) -> Vec<u8> {
        if !self.words.is_empty() && self.below(3) > 0 {
            let at = self.below(self.words.len());
            return self.words[at].clone();
        }
        PIECES[self.below(PIECES.len())].to_vec()
    }

    fn range(&mut self, input: &[u8]) -> Range<usize> {
        let start = self.below(input.len() + 1);
        let length = if self.below(2) == 0 { self.below(8) } else { self.below(input.len() + 1) };
        start..(start + length).min(input.len())
    }

    /// A part in brackets or quotes, from a place of chance on; any part where there is none.
    fn balanced(&mut self, input: &[u8]) -> Range<usize> {
        let from = self.below(input.len());
        let open = |byte: &u8| BRACKETS.iter().find(|(open, _)| open == byte);
        let Some(start) = input[from..].iter().position(|byte| open(byte).is_some()).map(|at| from + at)
        else {
            return self.range(input);
        };
        let Some((open, close)) = open(&input[start]) else { return self.range(input) };
        let mut depth = 0_usize;
        for (at, byte) in input.iter().enumerate().skip(start) {
            if byte == close && (open != close || depth > 0) {
                depth -= 1;
                if depth == 0 {
                    return start..at + 1;
                }
            } else if byte == open {
                depth += 1;
            }
        }
        self.range(input)
    }

    fn change(&mut self, input: &mut Vec<u8>, longest: usize) {
        let at = self.below(input.len() + 1);
        match self.below(12) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = u8::try_from(self.below(256)).unwrap_or_default(),
            0..=2 => {
                let word = self.word();
                input.splice(at..at, word);
            }
            3 => {
                let (range, word) = (self.range(input), self.word());
                input.splice(range, word);
            }
            4 => {
                let (range, word) = (self.balanced(input), self.word());
                input.splice(range, word);
            }
            5 => drop(input.drain(self.range(input))),
            6 => drop(input.drain(self.balanced(input))),
            7 => {
                let part = input[self.balanced(input)].to_vec();
                input.splice(at..at, part);
            }
            8 => {
                let (range, other) = (self.balanced(input), self.seed());
                let part = other[self.balanced(&other)].to_vec();
                input.splice(range, part);
            }
            9 => self.nest(input, longest),
            10 => {
                let range = if self.below(2) == 0 { self.range(input) } else { self.balanced(input) };
                let part = if self.below(3) == 0 { self.word() } else { input[range.clone()].to_vec() };
                let most = (longest / part.len().max(1)).min(REPEATS);
                let times = if self.below(3) == 0 { most } else { self.below(8) };
                input.splice(range.end..range.end, part.repeat(times));
            }
            _ => input.truncate(at),
        }
    }

    /// Puts a part into itself again and again, in place of its last inner part.
    fn nest(&mut self, input: &mut Vec<u8>, longest: usize) {
        let outer = self.balanced(input);
        let inner = self.balanced(&input[outer.clone()]);
        let (before, after) = (outer.start..outer.start + inner.start, outer.start + inner.end..outer.end);
        let (before, after) = (input[before].to_vec(), input[after].to_vec());
        let most = (longest.saturating_sub(input.len()) / (before.len() + after.len()).max(1)).min(REPEATS);
        let times = if self.below(2) == 0 { most } else { self.below(80) };
        let end = outer.start + inner.end;
        input.splice(end..end, after.repeat(times));
        let start = outer.start + inner.start;
        input.splice(start..start, before.repeat(times));
    }
}
