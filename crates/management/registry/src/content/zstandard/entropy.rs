//! The two entropy codes of Zstandard (RFC 8878, section 4), read and written bit for bit.

use crate::content::bits::Writer;

/// What is there from a bit on, with zeros behind the last: 57 bits at least.
fn word_at(input: &[u8], bit: usize) -> u64 {
    let from = input.get(bit / 8..).unwrap_or_default();
    let word = from.first_chunk::<8>().map_or_else(
        || {
            let mut word = [0; 8];
            word[..from.len()].copy_from_slice(from);
            u64::from_le_bytes(word)
        },
        |word| u64::from_le_bytes(*word),
    );
    word >> (bit % 8)
}

/// Reads bits from the end of a stream towards its beginning, below the bit that marks the end.
pub(crate) struct Backward<'a> {
    input: &'a [u8],
    /// Bits that are left.
    left: usize,
}

impl<'a> Backward<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Option<Self> {
        let last = *input.last()?;
        let marker = last.checked_ilog2()? as usize;
        Some(Self { input, left: (input.len() - 1) * 8 + marker })
    }

    /// At most 32 bits; nothing when there are fewer.
    pub(crate) fn take(&mut self, count: u32) -> Option<usize> {
        self.left = self.left.checked_sub(count as usize)?;
        Some((word_at(self.input, self.left) & ((1 << count) - 1)) as usize)
    }

    /// The next bits, with zeros behind the last.
    fn peek(&self, count: u32) -> usize {
        let missing = (count as usize).saturating_sub(self.left);
        let bits = count as usize - missing;
        ((word_at(self.input, self.left - bits) & ((1 << bits) - 1)) << missing) as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }
}

impl Writer {
    /// All of it, with a one that marks the last bit.
    pub(crate) fn marked(mut self) -> Vec<u8> {
        self.put(1, 1);
        self.end();
        self.out
    }
}

/// A table of finite state entropy.
#[derive(Clone, Debug)]
pub(crate) struct Fse {
    log: u32,
    /// Symbol, bits to read and what is added to them, by state.
    states: Vec<(u8, u8, u16)>,
    /// Its states in order, by symbol.
    places: Vec<Vec<u16>>,
}

impl Fse {
    /// One symbol and no bits.
    pub(crate) fn single(symbol: u8) -> Self {
        let mut places = vec![Vec::new(); usize::from(symbol)];
        places.push(vec![0]);
        Self { log: 0, states: vec![(symbol, 0, 0)], places }
    }

    /// From probabilities in `2^log`; -1 is less than one.
    pub(crate) fn new(log: u32, probabilities: &[i16]) -> Option<Self> {
        let size = 1_usize << log;
        let (mut symbols, mut high) = (vec![0_u8; size], size);
        for (symbol, _) in probabilities.iter().enumerate().filter(|(_, p)| **p == -1) {
            high = high.checked_sub(1)?;
            symbols[high] = symbol as u8;
        }
        let (step, mut at, mut placed) = ((size >> 1) + (size >> 3) + 3, 0, 0);
        for (symbol, p) in probabilities.iter().enumerate() {
            for _ in 0..(*p).max(0) {
                placed += 1;
                if placed > high {
                    return None;
                }
                symbols[at] = symbol as u8;
                at = (at + step) & (size - 1);
                // Where all is taken but what lies high, it ends at the beginning.
                while at >= high && placed < high {
                    at = (at + step) & (size - 1);
                }
            }
        }
        if placed != high {
            return None;
        }
        let mut places: Vec<Vec<u16>> = vec![Vec::new(); probabilities.len()];
        for (state, symbol) in symbols.iter().enumerate() {
            places[usize::from(*symbol)].push(state as u16);
        }
        let mut states = vec![(0, 0, 0); size];
        for (symbol, places) in places.iter().enumerate() {
            for (number, place) in (places.len()..).zip(places) {
                let bits = log - number.ilog2();
                let base = (number << bits) - size;
                states[usize::from(*place)] = (symbol as u8, bits as u8, base as u16);
            }
        }
        Some(Self { log, states, places })
    }

    /// From its description at the beginning of `input`; gives its length too.
    pub(crate) fn read(input: &[u8], most_log: u32, symbols: usize) -> Option<(Self, usize)> {
        let mut at = 0_usize;
        let peek = |at: usize, count: u32| (word_at(input, at) & ((1 << count) - 1)) as usize;
        let log = peek(at, 4) as u32 + 5;
        at += 4;
        if log > most_log {
            return None;
        }
        let mut probabilities: Vec<i16> = Vec::new();
        let (mut left, mut threshold, mut bits) = ((1_usize << log) + 1, 1_usize << log, log + 1);
        while left > 1 {
            let most = 2 * threshold - 1 - left;
            let value = peek(at, bits);
            let mut count = value & (threshold - 1);
            if count < most {
                at += bits as usize - 1;
            } else {
                count = value & (2 * threshold - 1);
                if count >= threshold {
                    count -= most;
                }
                at += bits as usize;
            }
            let probability = count as i16 - 1;
            left = left.checked_sub(usize::from(probability.unsigned_abs()))?;
            probabilities.push(probability);
            if probability == 0 {
                loop {
                    let more = peek(at, 2);
                    at += 2;
                    probabilities.extend(std::iter::repeat_n(0, more));
                    if more < 3 || probabilities.len() > symbols {
                        break;
                    }
                }
            }
            if left == 0 || probabilities.len() > symbols || at > input.len() * 8 {
                return None;
            }
            while left < threshold {
                bits -= 1;
                threshold >>= 1;
            }
        }
        Some((Self::new(log, &probabilities)?, at.div_ceil(8)))
    }

    pub(crate) fn begin(&self, bits: &mut Backward<'_>) -> Option<usize> {
        bits.take(self.log)
    }

    pub(crate) fn symbol(&self, state: usize) -> u8 {
        self.states[state].0
    }

    pub(crate) fn next(&self, state: usize, bits: &mut Backward<'_>) -> Option<usize> {
        let (_, count, base) = self.states[state];
        Some(usize::from(base) + bits.take(u32::from(count))?)
    }

    /// Which of its symbol's states this is.
    pub(crate) fn number(&self, state: usize) -> usize {
        let places = self.places.get(usize::from(self.symbol(state))).map_or(&[][..], |places| places);
        places.partition_point(|place| usize::from(*place) < state)
    }

    /// The state of a symbol with a number.
    pub(crate) fn state(&self, symbol: u8, number: usize) -> Option<usize> {
        Some(usize::from(*self.places.get(usize::from(symbol))?.get(number)?))
    }

    /// The state from which reading comes to `after`, and what is read on the way.
    pub(crate) fn before(&self, symbol: u8, after: usize, to: &mut Writer) -> Option<usize> {
        let places = self.places.get(usize::from(symbol)).filter(|places| !places.is_empty())?;
        let whole = after + self.states.len();
        let mut bits = whole.ilog2() - places.len().ilog2();
        if whole >> bits < places.len() {
            bits = bits.checked_sub(1)?;
        }
        let place = places.get((whole >> bits) - places.len())?;
        to.put(whole & ((1 << bits) - 1), bits);
        Some(usize::from(*place))
    }

    /// Write a state down as it is.
    pub(crate) fn end(&self, state: usize, to: &mut Writer) {
        to.put(state, self.log);
    }
}

/// A Huffman code of literals.
#[derive(Clone, Debug)]
pub(crate) struct Huffman {
    most: u32,
    /// Symbol and bits, by the next `most` bits.
    table: Vec<(u8, u8)>,
    /// Code and bits, by symbol.
    codes: Vec<(u16, u8)>,
}

impl Huffman {
    const MOST: u32 = 11;

    /// Bytes of the description that begins with this one.
    pub(crate) fn description(head: u8) -> usize {
        let head = usize::from(head);
        1 + if head < 128 { head } else { (head - 127).div_ceil(2) }
    }

    /// From its description at the beginning of `input`; gives its length too.
    pub(crate) fn read(input: &[u8]) -> Option<(Self, usize)> {
        let head = *input.first()?;
        let length = Self::description(head);
        let bytes = input.get(1..length)?;
        let mut weights: Vec<u8> = if head < 128 {
            read_weights(bytes)?
        } else {
            bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).take(usize::from(head) - 127).collect()
        };
        let sum: usize = weights.iter().filter(|w| **w > 0).map(|w| 1_usize << (w - 1)).sum();
        let most = sum.checked_ilog2()? + 1;
        let left = (1_usize << most) - sum;
        if most > Self::MOST || !left.is_power_of_two() || weights.len() > 255 {
            return None;
        }
        weights.push(left.ilog2() as u8 + 1);
        let (mut table, mut codes) = (Vec::with_capacity(1 << most), vec![(0, 0); 256]);
        for weight in 1..=most as u8 {
            for (symbol, _) in weights.iter().enumerate().filter(|(_, w)| **w == weight) {
                let (bits, times) = (most as u8 + 1 - weight, 1_usize << (weight - 1));
                codes[symbol] = ((table.len() >> (weight - 1)) as u16, bits);
                table.extend(std::iter::repeat_n((symbol as u8, bits), times));
            }
        }
        (table.len() == 1 << most).then_some((Self { most, table, codes }, length))
    }

    /// So many literals.
    pub(crate) fn decode(&self, input: &[u8], count: usize, out: &mut Vec<u8>) -> Option<()> {
        let mut bits = Backward::new(input)?;
        for _ in 0..count {
            let (symbol, length) = self.table[bits.peek(self.most)];
            bits.left = bits.left.checked_sub(usize::from(length))?;
            out.push(symbol);
        }
        bits.is_empty().then_some(())
    }

    pub(crate) fn encode(&self, literals: &[u8]) -> Option<Vec<u8>> {
        let mut to = Writer::default();
        for literal in literals.iter().rev() {
            let (code, bits) = self.codes[usize::from(*literal)];
            if bits == 0 {
                return None;
            }
            to.put(usize::from(code), u32::from(bits));
        }
        Some(to.marked())
    }
}

/// Weights of a Huffman code, by two states in turns.
fn read_weights(input: &[u8]) -> Option<Vec<u8>> {
    let (table, length) = Fse::read(input, 6, 16)?;
    let mut bits = Backward::new(input.get(length..)?)?;
    let (mut one, mut other) = (table.begin(&mut bits)?, table.begin(&mut bits)?);
    let mut weights = Vec::new();
    while weights.len() < 255 {
        weights.push(table.symbol(one));
        let next = table.next(one, &mut bits);
        one = other;
        let Some(next) = next else {
            weights.push(table.symbol(one));
            return weights.iter().all(|weight| *weight <= Huffman::MOST as u8 + 1).then_some(weights);
        };
        other = next;
    }
    None
}
