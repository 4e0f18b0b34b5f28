//! Takes a content apart into plain bytes and what is needed to compress them again to the same bytes: gzip members
//! become deflate parts, frames of Zstandard parts of its own, everything else stays raw.

use std::{
    fs::File,
    io::{self, Read},
};

use super::{
    deflate::{
        blocks::{self, Bits, Block, Stop, Token},
        errors,
        guess::WINDOW,
        write_tables,
    },
    recipe::Part,
    zstandard::{self, Reading, block_length, frame, skippable},
};

/// Compressed bytes that are read at once.
const READ: usize = 256 << 10;
/// A block may have so many compressed bytes, and make so many plain ones; where one has more, all that follows is raw.
const BLOCK: usize = 8 << 20;
const PLAIN: usize = 10 << 20;
/// Plain bytes of a part, about: whole blocks until there are so many.
const PART: usize = 1 << 20;
/// A content may have so many parts, and one more for so many compressed bytes; all that follows is raw.
const PARTS: usize = 4 << 10;
const PART_BYTES: u64 = 256;
/// It may make so many plain bytes, and so many more for each compressed one.
const MADE: u64 = 64 << 20;
const EXPANSION: u64 = 100;
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
    /// The family of an earlier frame of Zstandard.
    hint: Option<u8>,
    /// Compressed bytes that are in parts, and the plain bytes that they made.
    used: u64,
    made: u64,
    pub(crate) parts: Vec<Part>,
}

enum State {
    /// At the beginning of a member or frame.
    Member,
    /// Inside of a deflate stream, after bytes that it may refer to.
    Deflate { family: Option<u8>, history: Vec<u8> },
    /// Inside of a frame.
    Zstandard(Box<Reading>),
    /// So many bytes until the next member or frame: what belongs to the last, or to nobody.
    Skip(u64),
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
        Self {
            file,
            input: Vec::new(),
            at: 0,
            ended: false,
            state: State::Member,
            hint: None,
            used: 0,
            made: 0,
            parts: Vec::new(),
        }
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

    /// It grows so much that it is meant to, or was not worth compressing.
    fn is_swollen(&self) -> bool {
        self.made > MADE + EXPANSION * self.used
    }

    /// So many bytes of input as they are.
    fn raw(&mut self, count: usize) -> Piece {
        self.used += count as u64;
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
                State::Skip(left) => {
                    let now = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
                    let left = left - now as u64;
                    self.state = if left == 0 { State::Member } else { State::Skip(left) };
                    if now > 0 {
                        return Ok(Some(self.raw(now)));
                    }
                }
                State::Member
                    if self.is_swollen()
                        || self.parts.len() as u64 > PARTS as u64 + self.used / PART_BYTES => {}
                State::Member => {
                    if let Some(length) = header_length(&self.input) {
                        self.state = State::Deflate { family: None, history: Vec::new() };
                        return Ok(Some(self.raw(length)));
                    }
                    if let Some(length) = skippable(&self.input) {
                        self.state = State::Skip(length);
                    } else if let Some(frame) = frame(&self.input) {
                        self.state = State::Zstandard(Box::new(Reading::new(frame, self.hint)));
                        return Ok(Some(self.raw(frame.header)));
                    }
                }
                State::Zstandard(reading) => {
                    if let Some(piece) = self.frame(reading)? {
                        return Ok(Some(piece));
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
        self.used += packed as u64;
        self.made += (text.len() - start) as u64;
        self.at %= 8;
        let plain = text[start..].to_vec();
        if blocks.last().is_some_and(|block| block.last) {
            self.state = State::Skip(8);
        } else if whole && !self.is_swollen() {
            text.drain(..text.len().saturating_sub(WINDOW));
            self.state = State::Deflate { family: Some(family), history: text };
        } else {
            // The byte in which the next block begins is raw, with what ends in it.
            self.at = 0;
        }
        Ok(Some(Piece { plain, errors, tables }))
    }

    /// A part of a frame; nothing where it cannot be taken apart.
    fn frame(&mut self, mut reading: Box<Reading>) -> io::Result<Option<Piece>> {
        let mut at = 0;
        let mut odd = false;
        while !odd && !reading.is_whole() && reading.plain() < PART && at < 2 * PART {
            self.fill(at + zstandard::PACKED)?;
            let head = self.input.get(at..).and_then(|rest| rest.first_chunk::<3>());
            let length = head.and_then(|head| block_length(*head)).unwrap_or(usize::MAX);
            let block = self.input.get(at..at.saturating_add(length));
            match block.and_then(|block| reading.push(block)) {
                Some(()) => at += length,
                None => odd = true,
            }
        }
        let whole = reading.is_whole();
        let Some(taken) = reading.take() else { return Ok(None) };
        let plain_bytes = taken.plain.len();
        self.parts.push(Part::Zstandard {
            window: taken.first.then_some(reading.frame.window as u32),
            family: taken.family,
            plain: plain_bytes as u32,
            packed: at as u32,
            errors: taken.errors.len() as u32,
            tables: taken.tables.len() as u32,
        });
        self.input.drain(..at);
        self.used += at as u64;
        self.made += plain_bytes as u64;
        if taken.first && plain_bytes >= zstandard::SMALL {
            self.hint = Some(taken.family);
        }
        if whole {
            self.state = State::Skip(if reading.frame.checksum { 4 } else { 0 });
        } else if !odd && !self.is_swollen() {
            self.state = State::Zstandard(reading);
        }
        Ok(Some(Piece { plain: taken.plain, errors: taken.errors, tables: taken.tables }))
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
