//! Takes frames of Zstandard (RFC 8878) apart into plain bytes and what is needed to compress them again to the same bytes.
//!
//! Nothing is asked of the compressor: blocks and sequences are read as they are ([`blocks`]), and sequences are written
//! down as the errors of a guess ([`guess`]). The same block can be written in one way only once its sequences and the
//! descriptions of its codes are known; that this is so is tried on each block at once.

use blocks::{BLOCK, Block, Body, Codes, Recent, Sequence};
use guess::{Corrected, Errors, FAMILIES, Guesser};

pub(crate) mod blocks;
pub(crate) mod entropy;
pub(crate) mod guess;

/// Farthest that a match may reach back. Frames that reach farther (`--long`, `--ultra`) stay as they are from there on.
pub(crate) const WINDOW: usize = 8 << 20;
/// Bytes of a block with its header at most.
pub(crate) const PACKED: usize = BLOCK + 3;

/// From so many plain bytes of a frame on its family is looked for among all.
pub(crate) const SMALL: usize = 64 << 10;

/// What the header of a frame says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// Bytes that it takes.
    pub(crate) header: usize,
    pub(crate) window: usize,
    /// Four bytes follow the last block.
    pub(crate) checksum: bool,
}

/// The header of a frame at the beginning of `input`; nothing for one that needs a dictionary.
pub(crate) fn frame(input: &[u8]) -> Option<Frame> {
    let (head, rest) = input.split_at_checked(5)?;
    let descriptor = head[4];
    if head[..4] != [0x28, 0xb5, 0x2f, 0xfd] || descriptor & 0b1011 != 0 {
        return None;
    }
    let single = descriptor & 0x20 != 0;
    let size_bytes = match descriptor >> 6 {
        0 => usize::from(single),
        more => 1 << more,
    };
    let size = rest.get(usize::from(!single)..)?.get(..size_bytes)?;
    let window = if single {
        let mut bytes = [0; 8];
        bytes[..size_bytes].copy_from_slice(size);
        u64::from_le_bytes(bytes) + if size_bytes == 2 { 256 } else { 0 }
    } else {
        let (exponent, mantissa) = (rest[0] >> 3, u64::from(rest[0] & 7));
        (1 << (10 + exponent)) + ((1_u64 << (10 + exponent)) / 8) * mantissa
    };
    let window = usize::try_from(window).unwrap_or(WINDOW).min(WINDOW);
    Some(Frame { header: 5 + usize::from(!single) + size_bytes, window, checksum: descriptor & 4 != 0 })
}

/// A frame that is to be left as it is: bytes of it with its header.
pub(crate) fn skippable(input: &[u8]) -> Option<u64> {
    let head = input.first_chunk::<8>()?;
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    (head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18]).then_some(8 + u64::from(length))
}

/// Bytes that the block with this header takes, the header included.
pub(crate) fn block_length(head: [u8; 3]) -> Option<usize> {
    let word = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
    match word >> 1 & 3 {
        1 => Some(4),
        3 => None,
        _ => Some(3 + (word >> 3)).filter(|length| *length <= PACKED),
    }
}

/// What reading a frame goes on with.
pub(crate) struct Reading {
    pub(crate) frame: Frame,
    codes: Codes,
    /// The same as it will be when the blocks are written.
    written: Codes,
    recent: Recent,
    guesser: Option<(u8, Guesser)>,
    /// The family of an earlier frame.
    hint: Option<u8>,
    /// What the next part may refer to, and after it the blocks of that part.
    text: Vec<u8>,
    start: usize,
    blocks: Vec<Block>,
    sequences: Vec<Sequence>,
    /// Compressed bytes of the blocks.
    packed: usize,
}

/// A part of a frame.
pub(crate) struct Taken {
    pub(crate) first: bool,
    pub(crate) family: u8,
    pub(crate) plain: Vec<u8>,
    pub(crate) errors: Vec<u8>,
    pub(crate) tables: Vec<u8>,
}

impl Reading {
    pub(crate) fn new(frame: Frame, hint: Option<u8>) -> Self {
        Self {
            frame,
            hint,
            codes: Codes::default(),
            written: Codes::default(),
            recent: [1, 4, 8],
            guesser: None,
            text: Vec::new(),
            start: 0,
            blocks: Vec::new(),
            sequences: Vec::new(),
            packed: 0,
        }
    }

    /// Plain bytes of the blocks that were gathered.
    pub(crate) fn plain(&self) -> usize {
        self.text.len() - self.start
    }

    /// The last block was read.
    pub(crate) fn is_whole(&self) -> bool {
        self.blocks.last().is_some_and(|block| block.last)
    }

    /// One more block, header included. Nothing, and nothing is changed, where it cannot be taken apart.
    pub(crate) fn push(&mut self, input: &[u8]) -> Option<()> {
        let (length, sequences) = (self.text.len(), self.sequences.len());
        let pushed = self.try_push(input);
        if pushed.is_none() {
            self.text.truncate(length);
            self.sequences.truncate(sequences);
        }
        pushed
    }

    fn try_push(&mut self, input: &[u8]) -> Option<()> {
        let (head, content) = input.split_first_chunk::<3>()?;
        let word = u32::from_le_bytes([head[0], head[1], head[2], 0]) as usize;
        let (last, size) = (word & 1 == 1, word >> 3);
        let (from, begun) = (self.text.len(), self.sequences.len());
        let body = match word >> 1 & 3 {
            0 => {
                self.text.extend_from_slice(content);
                Body::Raw
            }
            1 if size <= BLOCK => {
                self.text.resize(from + size, *content.first()?);
                Body::Same
            }
            2 => {
                let recent = &mut self.recent;
                let (text, sequences) = (&mut self.text, &mut self.sequences);
                Body::Compressed(blocks::read(content, &mut self.codes, recent, text, sequences)?)
            }
            _ => return None,
        };
        let block = Block { last, plain: self.text.len() - from, body };
        let mut again = Vec::with_capacity(input.len());
        blocks::write(&block, &mut self.written, &self.text[from..], &self.sequences[begun..], &mut again)?;
        if again != input {
            return None;
        }
        self.blocks.push(block);
        self.packed += input.len();
        Some(())
    }

    /// What was gathered becomes a part.
    pub(crate) fn take(&mut self) -> Option<Taken> {
        if self.blocks.is_empty() {
            return None;
        }
        let first = self.guesser.is_none();
        let (family, guesser, errors) = self.guess()?;
        let mut tables = Vec::new();
        self.blocks.iter().for_each(|block| blocks::note(block, &mut tables));
        let plain = self.text[self.start..].to_vec();
        let drop = self.text.len().saturating_sub(self.frame.window);
        self.text.drain(..drop);
        self.start = self.text.len();
        self.blocks.clear();
        self.sequences.clear();
        self.packed = 0;
        let (_, guesser) = self.guesser.insert((family, guesser));
        guesser.forget(drop);
        Some(Taken { first, family, plain, errors, tables })
    }

    /// Errors of the family, or of the best when there is none yet.
    fn guess(&mut self) -> Option<(u8, Guesser, Vec<u8>)> {
        if let Some((family, mut guesser)) = self.guesser.take() {
            let errors = self.errors(&mut guesser)?;
            return Some((family, guesser, errors));
        }
        let mut best: Option<(u8, Guesser, Vec<u8>)> = None;
        // Where there are thousands of small frames, they are all alike.
        let small = self.plain() < SMALL;
        let families = match self.hint {
            Some(_) if small => 0..0,
            _ if small => 0..2,
            _ => 0..FAMILIES,
        };
        for family in self.hint.into_iter().chain(families) {
            let mut guesser = Guesser::bounded(family, self.frame.window)?;
            // Another may take less work.
            let Some(errors) = self.errors(&mut guesser) else { continue };
            if best.as_ref().is_none_or(|(_, _, known)| errors.len() < known.len()) {
                let enough = errors.len() < self.packed / 50 + 8;
                best = Some((family, guesser, errors));
                if enough {
                    break;
                }
            }
        }
        best
    }

    fn errors(&self, guesser: &mut Guesser) -> Option<Vec<u8>> {
        let (mut errors, mut at, mut sequences) = (Errors::default(), self.start, &self.sequences[..]);
        for block in &self.blocks {
            let end = at + block.plain;
            let mine = if let Body::Compressed(body) = &block.body {
                let (mine, rest) = sequences.split_at(body.sequences);
                sequences = rest;
                Some(mine)
            } else {
                None
            };
            errors.block(guesser, &self.text, (at, end), mine)?;
            at = end;
        }
        Some(errors.end())
    }
}

/// What writing a frame goes on with.
pub(crate) struct Writing {
    window: usize,
    codes: Codes,
    guesser: Guesser,
    history: Vec<u8>,
}

impl Writing {
    pub(crate) fn new(family: u8, window: usize) -> Option<Self> {
        let window = window.min(WINDOW);
        let guesser = Guesser::new(family, window)?;
        Some(Self { window, codes: Codes::default(), guesser, history: Vec::new() })
    }

    /// Compress a part again. Nothing when something is damaged.
    pub(crate) fn part(&mut self, plain: &[u8], errors: &[u8], mut tables: &[u8]) -> Option<Vec<u8>> {
        let mut at = self.history.len();
        let mut text = std::mem::take(&mut self.history);
        text.extend_from_slice(plain);
        let (mut corrected, mut out) = (Corrected::new(errors)?, Vec::new());
        while !tables.is_empty() {
            let block = blocks::read_note(&mut tables)?;
            let end = at + block.plain;
            let bytes = text.get(at..end)?;
            let count = match &block.body {
                Body::Compressed(body) => Some(body.sequences),
                _ => None,
            };
            let sequences = corrected.block(&mut self.guesser, &text, (at, end), count)?;
            blocks::write(&block, &mut self.codes, bytes, &sequences, &mut out)?;
            at = end;
        }
        let drop = text.len().saturating_sub(self.window);
        text.drain(..drop);
        self.guesser.forget(drop);
        self.history = text;
        Some(out)
    }
}
