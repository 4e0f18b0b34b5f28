//! Sparse files: old GNU headers and the three PAX forms.

use std::io::Read;

use super::pax::Records;
use super::reader::{number, read_block};
use super::{BLOCK, TarError};

const MAX_SEGMENTS: usize = 1 << 20;

/// Where the stored bytes of a sparse file belong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    /// `(offset, length)` in ascending order.
    pub(crate) segments: Vec<(u64, u64)>,
    /// Size of the file with its holes.
    pub(crate) real_size: u64,
}

impl Map {
    /// Refuse maps that overlap, go backwards, or do not add up to the stored bytes.
    pub(crate) fn check(&self, stored: u64) -> Result<(), TarError> {
        let (mut end, mut total) = (0u64, 0u64);
        for (offset, length) in &self.segments {
            let segment_end =
                offset.checked_add(*length).filter(|end| *end <= self.real_size).ok_or_else(bad)?;
            if *offset < end {
                return Err(bad());
            }
            end = segment_end;
            total += length;
        }
        if total == stored { Ok(()) } else { Err(bad()) }
    }
}

fn bad() -> TarError {
    TarError::Bad("malformed sparse map".into())
}

/// Old GNU: four segments in the header, more in blocks behind it. Gives the bytes that were read.
pub(crate) fn old_gnu(header: &[u8; BLOCK], input: &mut impl Read) -> Result<(Map, u64), TarError> {
    let mut map = Map { real_size: number(&header[483..495])?, ..Map::default() };
    push_all(&mut map, &header[386..482])?;
    let mut extended = header[482] != 0;
    let mut read = 0;
    while extended {
        let mut block = [0; BLOCK];
        if !read_block(input, &mut block)? {
            return Err(bad());
        }
        read += BLOCK as u64;
        push_all(&mut map, &block[..504])?;
        extended = block[504] != 0;
    }
    map.segments.retain(|(_, length)| *length > 0);
    Ok((map, read))
}

fn push_all(map: &mut Map, fields: &[u8]) -> Result<(), TarError> {
    for field in fields.chunks_exact(24) {
        if field[0] == 0 {
            break;
        }
        push(map, number(&field[..12])?, number(&field[12..])?)?;
    }
    Ok(())
}

fn push(map: &mut Map, offset: u64, length: u64) -> Result<(), TarError> {
    if map.segments.len() >= MAX_SEGMENTS {
        return Err(TarError::Bad(format!("more than {MAX_SEGMENTS} sparse segments")));
    }
    map.segments.push((offset, length));
    Ok(())
}

/// What the PAX records of a sparse file say.
#[derive(Default)]
pub(crate) struct PaxSparse {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) map: Option<Map>,
    /// The map stands at the beginning of the data (version 1.0).
    pub(crate) in_data: bool,
}

/// Read `GNU.sparse.*` records.
pub(crate) fn from_pax(records: &Records) -> Result<PaxSparse, TarError> {
    let mut found = PaxSparse::default();
    let mut map = Map::default();
    let mut any = false;
    let mut offset = None;
    for (key, value) in records {
        let Some(key) = key.strip_prefix(b"GNU.sparse.") else { continue };
        any = true;
        match key {
            b"name" => found.name = Some(value.clone()),
            b"major" => found.in_data = value == b"1",
            b"size" | b"realsize" => map.real_size = decimal(value)?,
            b"offset" => offset = Some(decimal(value)?),
            b"numbytes" => push(&mut map, offset.take().ok_or_else(bad)?, decimal(value)?)?,
            b"map" => {
                let numbers =
                    value.split(|byte| *byte == b',').map(decimal).collect::<Result<Vec<_>, _>>()?;
                for pair in numbers.chunks(2) {
                    push(&mut map, pair[0], *pair.get(1).ok_or_else(bad)?)?;
                }
            }
            _ => {}
        }
    }
    if any {
        map.segments.retain(|(_, length)| *length > 0);
        found.map = Some(map);
    }
    Ok(found)
}

/// Version 1.0: decimal lines at the beginning of the data, padded to a block. Gives the bytes that were read.
pub(crate) fn from_data(map: &mut Map, input: &mut impl Read) -> Result<u64, TarError> {
    let mut lines = Lines { block: [0; BLOCK], at: BLOCK, read: 0 };
    let count = lines.next(input)?;
    if count > MAX_SEGMENTS as u64 {
        return Err(TarError::Bad(format!("more than {MAX_SEGMENTS} sparse segments")));
    }
    map.segments.clear();
    for _ in 0..count {
        let (offset, length) = (lines.next(input)?, lines.next(input)?);
        map.segments.push((offset, length));
    }
    map.segments.retain(|(_, length)| *length > 0);
    Ok(lines.read)
}

struct Lines {
    block: [u8; BLOCK],
    at: usize,
    read: u64,
}

impl Lines {
    fn next(&mut self, input: &mut impl Read) -> Result<u64, TarError> {
        let mut digits = Vec::with_capacity(20);
        loop {
            if self.at == BLOCK {
                if !read_block(input, &mut self.block)? {
                    return Err(bad());
                }
                self.at = 0;
                self.read += BLOCK as u64;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&digits),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(bad()),
            }
        }
    }
}

fn decimal(value: &[u8]) -> Result<u64, TarError> {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or_else(bad)
}
