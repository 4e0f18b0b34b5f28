//! Deflate (RFC 1951) as blocks of tokens, read and written bit for bit.

use crate::content::bits::Writer;

/// Longest match.
pub(crate) const MAX_MATCH: usize = 258;
/// A literal; anything else is a match.
pub(crate) const LITERAL: Token = Token(0);

/// A literal, which the plain bytes tell, or a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token(u32);

impl Token {
    pub(crate) fn found(length: usize, distance: usize) -> Self {
        Self((length as u32) << 16 | distance as u32)
    }

    pub(crate) fn length(self) -> usize {
        (self.0 >> 16) as usize
    }

    pub(crate) fn distance(self) -> usize {
        (self.0 & 0xffff) as usize
    }
}

/// Why a block was not read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The input ends in it.
    Short,
    /// It is no deflate, or not as anybody would write it again, or becomes too much.
    Odd,
}

const LENGTHS: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];
const DISTANCES: [(u16, u8); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const END: usize = 256;
const MAX_BITS: usize = 15;

/// Reads bits, the lowest first.
pub(crate) struct Bits<'a> {
    input: &'a [u8],
    at: usize,
    hold: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    /// From bit `start` on.
    pub(crate) fn new(input: &'a [u8], start: usize) -> Result<Self, Stop> {
        let mut bits = Self { input, at: start / 8, hold: 0, count: 0 };
        bits.take((start % 8) as u32)?;
        Ok(bits)
    }

    /// The next bit.
    pub(crate) fn position(&self) -> usize {
        self.at * 8 - self.count as usize
    }

    /// To the next whole byte; what is skipped must be zeros.
    pub(crate) fn align(&mut self) -> Result<(), Stop> {
        let padding = self.position().wrapping_neg() % 8;
        if self.take(padding as u32)? == 0 { Ok(()) } else { Err(Stop::Odd) }
    }

    fn fill(&mut self) {
        if let Some(word) = self.input[self.at.min(self.input.len())..].first_chunk::<8>() {
            self.hold |= u64::from_le_bytes(*word) << self.count;
            let whole = (63 - self.count) / 8;
            self.at += whole as usize;
            self.count += whole * 8;
            return;
        }
        while self.count <= 56
            && let Some(byte) = self.input.get(self.at)
        {
            self.hold |= u64::from(*byte) << self.count;
            self.at += 1;
            self.count += 8;
        }
    }

    fn drop(&mut self, count: u32) -> Result<(), Stop> {
        if count > self.count {
            return Err(Stop::Short);
        }
        self.hold >>= count;
        self.count -= count;
        // Bits above the count may be those of a whole word: they are read again.
        self.hold &= (1_u64 << self.count).wrapping_sub(1);
        Ok(())
    }

    fn take(&mut self, count: u32) -> Result<usize, Stop> {
        if self.count < count {
            self.fill();
        }
        let value = self.hold & ((1 << count) - 1);
        self.drop(count)?;
        Ok(value as usize)
    }

    fn symbol(&mut self, table: &Table) -> Result<usize, Stop> {
        if self.count < MAX_BITS as u32 {
            self.fill();
        }
        let entry = table.0[(self.hold & 0x7fff) as usize];
        if entry == 0 {
            return Err(if self.count < MAX_BITS as u32 { Stop::Short } else { Stop::Odd });
        }
        self.drop(u32::from(entry & 15))?;
        Ok(usize::from(entry >> 4))
    }
}

/// Symbol and length of each code, by the next 15 bits.
struct Table(Vec<u16>);

impl Table {
    fn new(lengths: &[u8]) -> Result<Self, Stop> {
        let mut table = vec![0_u16; 1 << MAX_BITS];
        for (symbol, (code, length)) in codes(lengths)?.into_iter().enumerate() {
            if length > 0 {
                let step = 1_usize << length;
                for slot in table[usize::from(code)..].iter_mut().step_by(step) {
                    *slot = (symbol as u16) << 4 | u16::from(length);
                }
            }
        }
        Ok(Self(table))
    }
}

/// Canonical codes, their bits turned around, with their lengths.
fn codes(lengths: &[u8]) -> Result<Vec<(u16, u8)>, Stop> {
    let mut counts = [0_u32; MAX_BITS + 1];
    lengths.iter().for_each(|length| counts[usize::from(*length)] += 1);
    counts[0] = 0;
    let (mut next, mut code) = ([0_u32; MAX_BITS + 2], 0);
    for bits in 1..=MAX_BITS {
        code = (code + counts[bits - 1]) << 1;
        next[bits] = code;
        if code + counts[bits] > 1 << bits {
            return Err(Stop::Odd);
        }
    }
    let assign = |length: &u8| {
        if *length == 0 {
            return (0, 0);
        }
        let code = &mut next[usize::from(*length)];
        let turned = (*code as u16).reverse_bits() >> (16 - u32::from(*length));
        *code += 1;
        (turned, *length)
    };
    Ok(lengths.iter().map(assign).collect())
}

/// Lengths of the codes of a block with its own.
fn lengths(bits: &mut Bits<'_>) -> Result<(Vec<u8>, Vec<u8>), Stop> {
    let (literals, distances) = (bits.take(5)? + 257, bits.take(5)? + 1);
    let mut first = [0; 19];
    let count = bits.take(4)? + 4;
    for place in &ORDER[..count] {
        first[*place] = bits.take(3)? as u8;
    }
    let table = Table::new(&first)?;
    let mut all: Vec<u8> = Vec::with_capacity(literals + distances);
    while all.len() < literals + distances {
        let (value, times) = match bits.symbol(&table)? {
            16 => (*all.last().ok_or(Stop::Odd)?, 3 + bits.take(2)?),
            17 => (0, 3 + bits.take(3)?),
            18 => (0, 11 + bits.take(7)?),
            length => (length as u8, 1),
        };
        all.extend(std::iter::repeat_n(value, times));
    }
    if all.len() > literals + distances || literals > 286 || distances > 30 {
        return Err(Stop::Odd);
    }
    let distances = all.split_off(literals);
    Ok((all, distances))
}

fn fixed_lengths() -> (Vec<u8>, Vec<u8>) {
    let literals = (0..288).map(|symbol| match symbol {
        0..144 => 8,
        144..256 => 9,
        256..280 => 7,
        _ => 8,
    });
    (literals.collect(), vec![5; 30])
}

/// What is needed besides plain bytes and tokens to write a block again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) last: bool,
    pub(crate) kind: Kind,
    /// Tokens; bytes where it is stored.
    pub(crate) count: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Stored,
    Fixed,
    /// With the bits that describe its codes.
    Dynamic {
        bits: usize,
        table: Vec<u8>,
    },
}

/// Read one block: its plain bytes go to `text`, which begins with what matches may refer to, its tokens to `tokens`.
pub(crate) fn read(
    bits: &mut Bits<'_>,
    text: &mut Vec<u8>,
    tokens: &mut Vec<Token>,
    limit: usize,
) -> Result<Block, Stop> {
    let last = bits.take(1)? == 1;
    let (kind, (literals, distances)) = match bits.take(2)? {
        0 => return read_stored(bits, text, limit, last),
        1 => (Kind::Fixed, fixed_lengths()),
        2 => {
            let from = bits.position();
            let found = lengths(bits)?;
            let count = bits.position() - from;
            let mut again = Bits::new(bits.input, from)?;
            let mut table = Vec::with_capacity(count / 8 + 1);
            for at in (0..count).step_by(8) {
                table.push(again.take((count - at).min(8) as u32)? as u8);
            }
            (Kind::Dynamic { bits: count, table }, found)
        }
        _ => return Err(Stop::Odd),
    };
    let (literals, distances) = (Table::new(&literals)?, Table::new(&distances)?);
    let begun = tokens.len();
    loop {
        let symbol = bits.symbol(&literals)?;
        if symbol < END {
            text.push(symbol as u8);
            tokens.push(LITERAL);
        } else if symbol == END {
            break;
        } else {
            let (base, extra) = *LENGTHS.get(symbol - END - 1).ok_or(Stop::Odd)?;
            let length = usize::from(base) + bits.take(u32::from(extra))?;
            if length == MAX_MATCH && extra > 0 {
                // The other way to say 258, which nobody uses.
                return Err(Stop::Odd);
            }
            let (base, extra) = *DISTANCES.get(bits.symbol(&distances)?).ok_or(Stop::Odd)?;
            let distance = usize::from(base) + bits.take(u32::from(extra))?;
            let from = text.len().checked_sub(distance).ok_or(Stop::Odd)?;
            tokens.push(Token::found(length, distance));
            repeat(text, from, length);
        }
        if text.len() > limit {
            return Err(Stop::Odd);
        }
    }
    Ok(Block { last, kind, count: tokens.len() - begun })
}

/// What a match says: so many bytes from `from` on again, which may be some that it makes itself.
#[inline]
pub(crate) fn repeat(text: &mut Vec<u8>, from: usize, length: usize) {
    if from + length <= text.len() {
        text.extend_from_within(from..from + length);
    } else {
        (from..from + length).for_each(|at| text.push(text[at]));
    }
}

fn read_stored(bits: &mut Bits<'_>, text: &mut Vec<u8>, limit: usize, last: bool) -> Result<Block, Stop> {
    bits.align()?;
    let (count, check) = (bits.take(16)?, bits.take(16)?);
    if count ^ check != 0xffff || text.len() + count > limit {
        return Err(Stop::Odd);
    }
    let from = bits.position() / 8;
    text.extend_from_slice(bits.input.get(from..from + count).ok_or(Stop::Short)?);
    *bits = Bits::new(bits.input, (from + count) * 8)?;
    Ok(Block { last, kind: Kind::Stored, count })
}

impl Writer {
    /// Begin a block; gives what writes its tokens. A stored block is whole then. Nothing when something is damaged.
    #[expect(
        clippy::option_option,
        reason = "one says that it is damaged, the other that there are no tokens"
    )]
    pub(crate) fn begin(&mut self, block: &Block, text: &[u8]) -> Option<Option<Tokens>> {
        self.put(usize::from(block.last), 1);
        match &block.kind {
            Kind::Stored => {
                self.put(0, 2);
                self.end();
                self.put(block.count, 16);
                self.put(block.count ^ 0xffff, 16);
                self.flush();
                self.out.extend_from_slice(text.get(..block.count)?);
                Some(None)
            }
            Kind::Fixed => {
                self.put(1, 2);
                Tokens::new(&fixed_lengths()).map(Some)
            }
            Kind::Dynamic { bits, table } => {
                self.put(2, 2);
                for (at, byte) in table.iter().enumerate() {
                    self.put(usize::from(*byte), bits.checked_sub(at * 8)?.min(8) as u32);
                }
                Tokens::new(&lengths(&mut Bits::new(table, 0).ok()?).ok()?).map(Some)
            }
        }
    }
}

/// Writes the tokens of a block.
pub(crate) struct Tokens {
    literals: Vec<(u16, u8)>,
    distances: Vec<(u16, u8)>,
    /// By length: code with its extra bits, and how many bits.
    lengths: Vec<(u32, u8)>,
}

impl Tokens {
    fn new((literals, distances): &(Vec<u8>, Vec<u8>)) -> Option<Self> {
        let (mut literals, mut distances) = (codes(literals).ok()?, codes(distances).ok()?);
        literals.resize(288, (0, 0));
        distances.resize(30, (0, 0));
        let mut lengths = vec![(0, 0); MAX_MATCH + 1];
        for (symbol, (base, extra)) in LENGTHS.iter().enumerate() {
            let (code, bits) = literals[END + 1 + symbol];
            for more in 0..1_u32 << extra {
                if let Some(slot) = lengths.get_mut(usize::from(*base) + more as usize) {
                    *slot = (u32::from(code) | more << bits, bits + extra);
                }
            }
        }
        Some(Self { literals, distances, lengths })
    }

    /// One token; the byte is that of a literal.
    pub(crate) fn put(&self, to: &mut Writer, token: Token, byte: u8) {
        if token == LITERAL {
            let (code, bits) = self.literals[usize::from(byte)];
            to.put(usize::from(code), u32::from(bits));
            return;
        }
        let (code, bits) = self.lengths[token.length().min(MAX_MATCH)];
        to.put(code as usize, u32::from(bits));
        let symbol = distance_symbol(token.distance());
        let ((code, bits), (base, extra)) = (self.distances[symbol], DISTANCES[symbol]);
        let more = token.distance().wrapping_sub(usize::from(base)) & ((1 << extra) - 1);
        to.put(usize::from(code) | more << bits, u32::from(bits) + u32::from(extra));
    }

    pub(crate) fn end(&self, to: &mut Writer) {
        let (code, bits) = self.literals[END];
        to.put(usize::from(code), u32::from(bits));
    }
}

/// Two symbols for each power of two.
fn distance_symbol(distance: usize) -> usize {
    let below = distance.saturating_sub(1).min(32767);
    if below < 4 {
        return below;
    }
    let top = below.ilog2() as usize;
    top * 2 + (below >> (top - 1) & 1)
}
