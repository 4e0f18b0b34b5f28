//! Takes deflate streams apart into plain bytes and what is needed to compress them again to the same bytes.
//!
//! Nothing is asked of the compressor: blocks and tokens are read as they are ([`blocks`]), and tokens are written down as
//! the errors of a guess ([`guess`]). How good the guess is decides only how much there is to write down.

use blocks::{Block, Kind, LITERAL, Token};
use guess::{Corrected, Errors, FAMILIES, read_number, write_number};

use super::bits::Writer;

pub(crate) mod blocks;
pub(crate) mod guess;

/// The errors of the family, or of the best when there is none yet.
pub(super) fn errors(
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

pub(super) fn write_tables(blocks: &[Block]) -> Vec<u8> {
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
