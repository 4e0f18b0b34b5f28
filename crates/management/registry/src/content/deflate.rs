//! Takes a content apart into plain bytes and what is needed to compress them again to the same bytes: gzip members
//! become deflate parts, everything else stays raw.
//!
//! Nothing is asked of the compressor: blocks and tokens are read as they are ([`blocks`]), and tokens are written down as
//! the errors of a guess ([`guess`]). How good the guess is decides only how much there is to write down.

use std::{
    fs::File,
    io::{self, Read},
};

use super::recipe::Part;
use blocks::{Bits, Block, Kind, LITERAL, Stop, Token, Writer};
use guess::{Corrected, Errors, FAMILIES, WINDOW, read_number, write_number};

pub(crate) mod blocks;
pub(crate) mod guess;

/// Compressed bytes that are read at once.
const READ: usize = 256 << 10;
/// A block may have so many compressed bytes, and make so many plain ones; where one has more, all that follows is raw.
const BLOCK: usize = 8 << 20;
const PLAIN: usize = 10 << 20;
/// Plain bytes of a part, about: whole blocks until there are so many.
const PART: usize = 1 << 20;
/// Header of a gzip member at most, with its name.
const HEADER: usize = 4 << 10;

/// What a content becomes.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) plain: Vec<u8>,
    pub(crate) errors: Vec<u8>,
    pub(crate) tables: Vec<u8>,
}

/// Takes apart; the parts are complete at the end.
pub(crate) struct Apart {
    file: File,
    /// Compressed bytes that were read and not used, from bit `at` on.
    input: Vec<u8>,
    at: usize,
    ended: bool,
    state: State,
    pub(crate) parts: Vec<Part>,
}

enum State {
    /// At the beginning of a member.
    Member,
    /// Inside of a deflate stream, after bytes that it may refer to.
    Deflate { family: Option<u8>, history: Vec<u8> },
    /// Between a deflate stream and the next member: CRC and length.
    Trailer,
    /// Everything else is raw.
    Raw,
}

/// Blocks that become a part.
#[derive(Default)]
struct Gathered {
    text: Vec<u8>,
    blocks: Vec<Block>,
    tokens: Vec<Token>,
}

impl Apart {
    pub(crate) fn new(file: File) -> Self {
        Self { file, input: Vec::new(), at: 0, ended: false, state: State::Member, parts: Vec::new() }
    }

    /// Have so many bytes of input, unless the file ends before.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        while !self.ended && self.input.len() < wanted {
            let before = self.input.len();
            self.input.resize(before.max(wanted), 0);
            let read = self.file.read(&mut self.input[before..])?;
            self.input.truncate(before + read);
            self.ended = read == 0;
        }
        Ok(())
    }

    /// So many bytes of input as they are.
    fn raw(&mut self, count: usize) -> Piece {
        match self.parts.last_mut() {
            Some(Part::Raw(length)) => *length += count as u64,
            _ => self.parts.push(Part::Raw(count as u64)),
        }
        Piece { plain: self.input.drain(..count).collect(), ..Piece::default() }
    }

    /// The next piece; nothing at the end.
    pub(crate) fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            self.fill(READ)?;
            if self.input.is_empty() {
                return Ok(None);
            }
            match std::mem::replace(&mut self.state, State::Raw) {
                State::Raw => return Ok(Some(self.raw(self.input.len()))),
                State::Trailer => {
                    self.state = State::Member;
                    return Ok(Some(self.raw(self.input.len().min(8))));
                }
                State::Member => {
                    if let Some(length) = header_length(&self.input) {
                        self.state = State::Deflate { family: None, history: Vec::new() };
                        return Ok(Some(self.raw(length)));
                    }
                }
                State::Deflate { family, history } => {
                    if let Some(piece) = self.deflate(family, history)? {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }

    /// A part of a deflate stream; nothing where it cannot be taken apart.
    fn deflate(&mut self, family: Option<u8>, history: Vec<u8>) -> io::Result<Option<Piece>> {
        let start = history.len();
        let mut gathered = Gathered { text: history, ..Gathered::default() };
        let mut whole = true;
        while gathered.text.len() - start < PART {
            whole = self.block(&mut gathered)?;
            if !whole || gathered.blocks.last().is_some_and(|block| block.last) {
                break;
            }
        }
        if gathered.blocks.is_empty() {
            self.at = 0;
            return Ok(None);
        }
        let Gathered { mut text, blocks, tokens } = gathered;
        let first = family.is_none();
        let packed = self.at / 8;
        let (family, errors) = errors(&text, start, &blocks, &tokens, family, packed);
        let tables = write_tables(&blocks);
        self.parts.push(Part::Deflate {
            first,
            family,
            plain: (text.len() - start) as u32,
            packed: packed as u32,
            errors: errors.len() as u32,
            tables: tables.len() as u32,
        });
        self.input.drain(..packed);
        self.at %= 8;
        let plain = text[start..].to_vec();
        if blocks.last().is_some_and(|block| block.last) {
            self.state = State::Trailer;
        } else if whole {
            text.drain(..text.len().saturating_sub(WINDOW));
            self.state = State::Deflate { family: Some(family), history: text };
        } else {
            // The byte in which the next block begins is raw, with what ends in it.
            self.at = 0;
        }
        Ok(Some(Piece { plain, errors, tables }))
    }

    /// One more block; false where that cannot be.
    fn block(&mut self, gathered: &mut Gathered) -> io::Result<bool> {
        let (length, tokens) = (gathered.text.len(), gathered.tokens.len());
        loop {
            let read = Bits::new(&self.input, self.at).and_then(|mut bits| {
                let block =
                    blocks::read(&mut bits, &mut gathered.text, &mut gathered.tokens, length + PLAIN)?;
                if block.last {
                    bits.align()?;
                }
                Ok((block, bits.position()))
            });
            match read {
                Ok((block, at)) => {
                    self.at = at;
                    gathered.blocks.push(block);
                    return Ok(true);
                }
                Err(stop) => {
                    gathered.text.truncate(length);
                    gathered.tokens.truncate(tokens);
                    let had = self.input.len();
                    if stop == Stop::Odd || self.ended || had - self.at / 8 > BLOCK {
                        return Ok(false);
                    }
                    self.fill(had * 2)?;
                }
            }
        }
    }
}

/// The errors of the family, or of the best when there is none yet.
fn errors(
    text: &[u8],
    start: usize,
    blocks: &[Block],
    tokens: &[Token],
    family: Option<u8>,
    packed: usize,
) -> (u8, Vec<u8>) {
    let of = |family: u8| {
        let mut out = Vec::new();
        let Some(mut errors) = Errors::new(text, start, family, &mut out) else { return out };
        let mut tokens = tokens.iter();
        for block in blocks {
            if block.kind == Kind::Stored {
                errors.skip(block.count);
            } else {
                tokens.by_ref().take(block.count).for_each(|token| errors.push(*token));
            }
        }
        errors.end();
        out
    };
    if let Some(family) = family {
        return (family, of(family));
    }
    let mut best = (0, of(0));
    for family in 1..FAMILIES.len() as u8 {
        if best.1.len() < packed / 100 {
            break;
        }
        // The later ones are slower: they have to be worth it.
        let errors = of(family);
        if errors.len() * 5 < best.1.len() * 4 {
            best = (family, errors);
        }
    }
    best
}

fn write_tables(blocks: &[Block]) -> Vec<u8> {
    let mut out = Vec::new();
    for block in blocks {
        let kind = match block.kind {
            Kind::Stored => 0,
            Kind::Fixed => 1,
            Kind::Dynamic { .. } => 2,
        };
        out.push(kind << 1 | u8::from(block.last));
        write_number(&mut out, block.count);
        if let Kind::Dynamic { bits, table } = &block.kind {
            write_number(&mut out, *bits);
            out.extend_from_slice(table);
        }
    }
    out
}

fn read_table(input: &mut &[u8]) -> Option<Block> {
    let (head, rest) = input.split_first()?;
    *input = rest;
    let count = read_number(input)?;
    let kind = match head >> 1 {
        0 => Kind::Stored,
        1 => Kind::Fixed,
        2 => {
            let bits = read_number(input)?;
            let (table, rest) = input.split_at_checked(bits.div_ceil(8))?;
            *input = rest;
            Kind::Dynamic { bits, table: table.to_vec() }
        }
        _ => return None,
    };
    Some(Block { last: head & 1 == 1, kind, count })
}

/// Compress a part again: `text` from `start` on, after what it may refer to. Nothing when something is damaged.
pub(crate) fn again(
    writer: &mut Writer,
    text: &[u8],
    start: usize,
    family: u8,
    errors: &[u8],
    mut tables: &[u8],
) -> Option<Vec<u8>> {
    let mut tokens = Corrected::new(text, start, family, errors)?;
    while !tables.is_empty() {
        let block = read_table(&mut tables)?;
        match writer.begin(&block, text.get(tokens.at()..)?)? {
            None => tokens.skip(block.count),
            Some(codes) => {
                for _ in 0..block.count {
                    let at = tokens.at();
                    let token = tokens.next()?;
                    codes.put(writer, token, if token == LITERAL { *text.get(at)? } else { 0 });
                }
                codes.end(writer);
            }
        }
        if block.last {
            writer.end();
        }
    }
    writer.flush();
    Some(std::mem::take(&mut writer.out))
}

/// Length of the gzip header (RFC 1952) at the beginning of `input`.
fn header_length(input: &[u8]) -> Option<usize> {
    let head = input.get(..10)?;
    if head[..3] != [0x1f, 0x8b, 8] {
        return None;
    }
    let (flags, mut at) = (head[3], 10);
    if flags & 4 != 0 {
        let length = input.get(at..at + 2)?;
        at += 2 + usize::from(u16::from_le_bytes([length[0], length[1]]));
    }
    for flag in [8, 16] {
        if flags & flag != 0 {
            at += input.get(at..)?.iter().take(HEADER).position(|byte| *byte == 0)? + 1;
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    (at < input.len()).then_some(at)
}
