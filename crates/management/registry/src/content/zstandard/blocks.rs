//! Blocks of Zstandard (RFC 8878, section 3.1.1.2) as sequences, read and written bit for bit.

use super::entropy::{Backward, Fse, Huffman};
use crate::content::bits::Writer;
use crate::content::deflate::{
    blocks::repeat,
    guess::{read_number, write_number},
};

/// Plain bytes of a block at most.
pub(crate) const BLOCK: usize = 128 << 10;

/// Literals, then a match. The offset is as it is written: up to 3, one of those that were used last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) literals: usize,
    pub(crate) length: usize,
    pub(crate) offset: usize,
}

/// Offsets that were used last.
pub(crate) type Recent = [usize; 3];

/// How far back a sequence reaches; the offsets that were used last follow.
pub(crate) fn distance(recent: &mut Recent, sequence: &Sequence) -> Option<usize> {
    let [first, second, third] = *recent;
    let (distance, after) = match sequence.offset + usize::from(sequence.literals == 0) {
        _ if sequence.offset > 3 => (sequence.offset - 3, [sequence.offset - 3, first, second]),
        1 => (first, *recent),
        2 => (second, [second, first, third]),
        3 => (third, [third, first, second]),
        4 => (first.checked_sub(1)?, [first.checked_sub(1)?, first, second]),
        _ => return None,
    };
    *recent = after;
    (distance > 0).then_some(distance)
}

/// What is needed besides plain bytes to write a block again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) last: bool,
    /// Plain bytes.
    pub(crate) plain: usize,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Raw,
    /// One byte again and again.
    Same,
    Compressed(Compressed),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Compressed {
    /// Kind of the literals, and how their sizes are written.
    literals: u8,
    /// Description of their code.
    tree: Vec<u8>,
    /// How the three codes of sequences are given.
    modes: u8,
    descriptions: Vec<u8>,
    /// With which of its symbol's states each code began to be written.
    starts: [usize; 3],
    pub(crate) sequences: usize,
}

/// Codes that later blocks of a frame may use again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Codes {
    literals: Option<Huffman>,
    /// Of literal counts, offsets and match lengths.
    sequences: [Option<Fse>; 3],
}

/// Begin and bits of each code.
const LITERALS: [(u32, u8); 36] =
    codes(0, [1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
const LENGTHS: [(u32, u8); 53] =
    codes(3, [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);

/// From `first` on: codes of one value each, then those with so many bits.
const fn codes<const ALL: usize, const WIDE: usize>(first: u32, bits: [u8; WIDE]) -> [(u32, u8); ALL] {
    let mut all = [(0, 0); ALL];
    let (mut at, mut begin) = (0, first);
    while at < ALL {
        let bits = if at < ALL - WIDE { 0 } else { bits[at + WIDE - ALL] };
        all[at] = (begin, bits);
        begin += 1 << bits;
        at += 1;
    }
    all
}

/// Largest logarithm of a table, number of symbols, and the table that needs no description.
const KINDS: [(u32, usize, u32, &[i16]); 3] = [
    (
        9,
        36,
        6,
        &[
            4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1,
            -1, -1, -1, -1,
        ],
    ),
    (8, 32, 5, &[1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1]),
    (
        9,
        53,
        6,
        &[
            1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
            1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
        ],
    ),
];

fn code_of(table: &[(u32, u8)], value: usize) -> Option<u8> {
    let code = table.partition_point(|(base, _)| *base as usize <= value).checked_sub(1)?;
    let (base, bits) = table[code];
    (value - (base as usize) < 1 << bits).then_some(code as u8)
}

/// The header of literals: how many they are, how many bytes they take (with the tree), and the header's own length.
fn literals_header(input: &[u8]) -> Option<(u8, usize, usize, usize)> {
    let mut word = [0; 8];
    let length = input.len().min(5);
    word[..length].copy_from_slice(&input[..length]);
    let word = u64::from_le_bytes(word) as usize;
    let (kind, format) = ((word & 3) as u8, word >> 2 & 3);
    let head = kind | (format as u8) << 2;
    let (count, packed, own) = if kind < 2 {
        let (count, own) = match format {
            1 => (word >> 4 & 0xfff, 2),
            3 => (word >> 4 & 0xf_ffff, 3),
            _ => (word >> 3 & 0x1f, 1),
        };
        (count, if kind == 0 { count } else { 1 }, own)
    } else {
        let bits = [10, 10, 14, 18][format];
        let mask = (1 << bits) - 1;
        (word >> 4 & mask, word >> (4 + bits) & mask, [3, 3, 4, 5][format])
    };
    (own <= input.len() && count <= BLOCK).then_some((head, count, packed, own))
}

/// The same, written.
fn write_literals_header(out: &mut Vec<u8>, head: u8, count: usize, packed: usize) {
    let (kind, format) = (head & 3, usize::from(head >> 2 & 3));
    let (word, own) = if kind < 2 {
        match format {
            1 => (count << 4, 2),
            3 => (count << 4, 3),
            _ => (count << 3, 1),
        }
    } else {
        let bits = [10, 10, 14, 18][format];
        (count << 4 | packed << (4 + bits), [3, 3, 4, 5][format])
    };
    let head = if kind < 2 && format & 1 == 0 { head & 7 } else { head };
    out.extend_from_slice(&((word | usize::from(head)) as u64).to_le_bytes()[..own]);
}

/// Read the content of a compressed block. What it makes goes to `text`, which begins with what matches may refer to.
pub(crate) fn read(
    input: &[u8],
    codes: &mut Codes,
    recent: &mut Recent,
    text: &mut Vec<u8>,
    sequences: &mut Vec<Sequence>,
) -> Option<Compressed> {
    let (head, count, packed, own) = literals_header(input)?;
    let mut block = Compressed { literals: head, ..Compressed::default() };
    let section = input.get(own..own + packed)?;
    let mut literals = Vec::with_capacity(count);
    match head & 3 {
        0 => literals.extend_from_slice(section),
        1 => literals.resize(count, section[0]),
        kind => {
            let mut streams = section;
            if kind == 2 {
                let (code, length) = Huffman::read(section)?;
                codes.literals = Some(code);
                (block.tree, streams) = (section[..length].to_vec(), &section[length..]);
            }
            read_literals(codes.literals.as_ref()?, streams, head >> 2 == 0, count, &mut literals)?;
        }
    }
    let mut rest = &input[own + packed..];
    block.sequences = read_count(&mut rest)?;
    let begun = sequences.len();
    if block.sequences > 0 {
        read_sequences(rest, codes, &mut block, sequences)?;
    } else if !rest.is_empty() {
        return None;
    }
    execute(&sequences[begun..], &literals, recent, text)?;
    Some(block)
}

fn read_literals(
    code: &Huffman,
    streams: &[u8],
    single: bool,
    count: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    if single {
        return code.decode(streams, count, out);
    }
    let (jumps, mut streams) = streams.split_first_chunk::<6>()?;
    let share = count.div_ceil(4);
    for jump in jumps.chunks_exact(2) {
        let (stream, rest) = streams.split_at_checked(usize::from(u16::from_le_bytes([jump[0], jump[1]])))?;
        code.decode(stream, share, out)?;
        streams = rest;
    }
    code.decode(streams, count.checked_sub(3 * share)?, out)
}

fn read_count(input: &mut &[u8]) -> Option<usize> {
    let mut byte = || {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        Some(usize::from(*byte))
    };
    let first = byte()?;
    Some(match first {
        0..128 => first,
        128..255 => (first - 128) << 8 | byte()?,
        _ => byte()? + (byte()? << 8) + 0x7f00,
    })
}

fn write_count(out: &mut Vec<u8>, count: usize) {
    if count < 128 {
        out.push(count as u8);
    } else if count < 0x7f00 {
        out.extend_from_slice(&[(count >> 8) as u8 + 128, count as u8]);
    } else {
        out.push(255);
        out.extend_from_slice(&((count - 0x7f00) as u16).to_le_bytes());
    }
}

/// Take over the codes of sequences that a block describes; gives the length of the descriptions.
fn take_codes(codes: &mut Codes, modes: u8, input: &[u8]) -> Option<usize> {
    let mut at = 0;
    for (number, (most, symbols, log, usual)) in KINDS.into_iter().enumerate() {
        let code = &mut codes.sequences[number];
        match modes >> (6 - 2 * number) & 3 {
            0 => *code = Fse::new(log, usual),
            1 => {
                let symbol = *input.get(at)?;
                if usize::from(symbol) >= symbols {
                    return None;
                }
                *code = Some(Fse::single(symbol));
                at += 1;
            }
            2 => {
                let (read, length) = Fse::read(input.get(at..)?, most, symbols)?;
                *code = Some(read);
                at += length;
            }
            _ => {}
        }
    }
    (at <= input.len()).then_some(at)
}

fn read_sequences(
    input: &[u8],
    codes: &mut Codes,
    block: &mut Compressed,
    sequences: &mut Vec<Sequence>,
) -> Option<()> {
    let (modes, rest) = input.split_first()?;
    let length = take_codes(codes, *modes, rest)?;
    (block.modes, block.descriptions) = (*modes, rest[..length].to_vec());
    let mut bits = Backward::new(&rest[length..])?;
    let [Some(literals), Some(offsets), Some(lengths)] = &codes.sequences else { return None };
    let mut states = [literals.begin(&mut bits)?, offsets.begin(&mut bits)?, lengths.begin(&mut bits)?];
    for number in 0..block.sequences {
        let code = offsets.symbol(states[1]);
        let offset = (1 << code) + bits.take(u32::from(code))?;
        let (base, extra) = *LENGTHS.get(usize::from(lengths.symbol(states[2])))?;
        let length = base as usize + bits.take(u32::from(extra))?;
        let (base, extra) = *LITERALS.get(usize::from(literals.symbol(states[0])))?;
        let count = base as usize + bits.take(u32::from(extra))?;
        sequences.push(Sequence { literals: count, length, offset });
        if number + 1 < block.sequences {
            states[0] = literals.next(states[0], &mut bits)?;
            states[2] = lengths.next(states[2], &mut bits)?;
            states[1] = offsets.next(states[1], &mut bits)?;
        }
    }
    block.starts = [literals.number(states[0]), offsets.number(states[1]), lengths.number(states[2])];
    bits.is_empty().then_some(())
}

fn execute(sequences: &[Sequence], literals: &[u8], recent: &mut Recent, text: &mut Vec<u8>) -> Option<()> {
    let (limit, mut at) = (text.len() + BLOCK, 0);
    for sequence in sequences {
        let distance = distance(recent, sequence)?;
        text.extend_from_slice(literals.get(at..at + sequence.literals)?);
        at += sequence.literals;
        let from = text.len().checked_sub(distance)?;
        if text.len() + sequence.length > limit {
            return None;
        }
        repeat(text, from, sequence.length);
    }
    text.extend_from_slice(&literals[at..]);
    (text.len() <= limit).then_some(())
}

/// Write a block with its header: `text` are its plain bytes. Nothing when something is damaged.
pub(crate) fn write(
    block: &Block,
    codes: &mut Codes,
    text: &[u8],
    sequences: &[Sequence],
    out: &mut Vec<u8>,
) -> Option<()> {
    let content;
    let (kind, size, body) = match &block.body {
        Body::Raw => (0, text.len(), text),
        Body::Same => (1, text.len(), text.get(..1)?),
        Body::Compressed(compressed) => {
            content = write_compressed(compressed, codes, text, sequences)?;
            (2, content.len(), &content[..])
        }
    };
    let head = usize::from(block.last) | kind << 1 | size << 3;
    out.extend_from_slice(&(head as u32).to_le_bytes()[..3]);
    out.extend_from_slice(body);
    Some(())
}

fn write_compressed(
    block: &Compressed,
    codes: &mut Codes,
    text: &[u8],
    sequences: &[Sequence],
) -> Option<Vec<u8>> {
    let (mut literals, mut at) = (Vec::with_capacity(text.len()), 0_usize);
    for sequence in sequences {
        literals.extend_from_slice(text.get(at..at.checked_add(sequence.literals)?)?);
        at = at.checked_add(sequence.literals)?.checked_add(sequence.length)?;
    }
    literals.extend_from_slice(text.get(at..)?);
    let mut out = Vec::with_capacity(text.len());
    match block.literals & 3 {
        0 => {
            write_literals_header(&mut out, block.literals, literals.len(), 0);
            out.extend_from_slice(&literals);
        }
        1 => {
            write_literals_header(&mut out, block.literals, literals.len(), 0);
            out.push(*literals.first()?);
        }
        kind => {
            if kind == 2 {
                codes.literals = Some(Huffman::read(&block.tree)?.0);
            }
            let streams = write_literals(codes.literals.as_ref()?, &literals, block.literals >> 2 == 0)?;
            let packed = block.tree.len() + streams.len();
            write_literals_header(&mut out, block.literals, literals.len(), packed);
            out.extend_from_slice(&block.tree);
            out.extend_from_slice(&streams);
        }
    }
    write_count(&mut out, block.sequences);
    if block.sequences > 0 {
        out.push(block.modes);
        out.extend_from_slice(&block.descriptions);
        take_codes(codes, block.modes, &block.descriptions)?;
        out.extend_from_slice(&write_sequences(block, codes, sequences)?);
    }
    Some(out)
}

fn write_literals(code: &Huffman, literals: &[u8], single: bool) -> Option<Vec<u8>> {
    if single {
        return code.encode(literals);
    }
    let share = literals.len().div_ceil(4);
    let (mut jumps, mut streams) = (Vec::new(), Vec::new());
    for number in 0..4 {
        let from = (share * number).min(literals.len());
        let to = if number == 3 { literals.len() } else { (from + share).min(literals.len()) };
        let stream = code.encode(&literals[from..to])?;
        if number < 3 {
            jumps.extend_from_slice(&(stream.len() as u16).to_le_bytes());
        }
        streams.extend_from_slice(&stream);
    }
    jumps.extend_from_slice(&streams);
    Some(jumps)
}

fn write_sequences(block: &Compressed, codes: &Codes, sequences: &[Sequence]) -> Option<Vec<u8>> {
    let [Some(literals), Some(offsets), Some(lengths)] = &codes.sequences else { return None };
    let mut to = Writer::default();
    let mut states: Option<[usize; 3]> = None;
    for sequence in sequences.iter().rev() {
        let symbols = [
            code_of(&LITERALS, sequence.literals)?,
            sequence.offset.checked_ilog2()? as u8,
            code_of(&LENGTHS, sequence.length)?,
        ];
        states = Some(match states {
            None => [
                literals.state(symbols[0], block.starts[0])?,
                offsets.state(symbols[1], block.starts[1])?,
                lengths.state(symbols[2], block.starts[2])?,
            ],
            Some([count, offset, length]) => {
                // The reverse of how they are read.
                let offset = offsets.before(symbols[1], offset, &mut to)?;
                let length = lengths.before(symbols[2], length, &mut to)?;
                let count = literals.before(symbols[0], count, &mut to)?;
                [count, offset, length]
            }
        });
        let (base, bits) = LITERALS[usize::from(symbols[0])];
        to.put(sequence.literals - base as usize, u32::from(bits));
        let (base, bits) = LENGTHS[usize::from(symbols[2])];
        to.put(sequence.length - base as usize, u32::from(bits));
        to.put(sequence.offset - (1 << symbols[1]), u32::from(symbols[1]));
    }
    let [count, offset, length] = states?;
    lengths.end(length, &mut to);
    offsets.end(offset, &mut to);
    literals.end(count, &mut to);
    Some(to.marked())
}

/// Write down what [`read_note`] reads.
pub(crate) fn note(block: &Block, out: &mut Vec<u8>) {
    let kind = match block.body {
        Body::Raw => 0,
        Body::Same => 1,
        Body::Compressed(_) => 2,
    };
    out.push(kind << 1 | u8::from(block.last));
    write_number(out, block.plain);
    if let Body::Compressed(compressed) = &block.body {
        let started = compressed.starts != [0; 3];
        out.push(compressed.literals | u8::from(started) << 4);
        out.extend_from_slice(&compressed.tree);
        write_number(out, compressed.sequences);
        if compressed.sequences > 0 {
            out.push(compressed.modes);
            write_number(out, compressed.descriptions.len());
            out.extend_from_slice(&compressed.descriptions);
        }
        if started {
            compressed.starts.iter().for_each(|start| write_number(out, *start));
        }
    }
}

pub(crate) fn read_note(input: &mut &[u8]) -> Option<Block> {
    let byte = |input: &mut &[u8]| {
        let (byte, rest) = input.split_first()?;
        *input = rest;
        Some(*byte)
    };
    let head = byte(input)?;
    let plain = read_number(input).filter(|plain| *plain <= BLOCK)?;
    let body = match head >> 1 {
        0 => Body::Raw,
        1 => Body::Same,
        2 => {
            let mut compressed = Compressed::default();
            let kind = byte(input)?;
            compressed.literals = kind & 15;
            if kind & 3 == 2 {
                let (tree, rest) = input.split_at_checked(Huffman::description(*input.first()?))?;
                (compressed.tree, *input) = (tree.to_vec(), rest);
            }
            compressed.sequences = read_number(input).filter(|count| *count <= BLOCK)?;
            if compressed.sequences > 0 {
                compressed.modes = byte(input)?;
                let length = read_number(input)?;
                let (descriptions, rest) = input.split_at_checked(length)?;
                (compressed.descriptions, *input) = (descriptions.to_vec(), rest);
            }
            if kind & 16 != 0 {
                for start in &mut compressed.starts {
                    *start = read_number(input)?;
                }
            }
            Body::Compressed(compressed)
        }
        _ => return None,
    };
    Some(Block { last: head & 1 == 1, plain, body })
}
