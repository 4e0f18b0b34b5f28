//! How a packed content is put together again.
//!
//! A content is a sequence of parts. A raw part is plain bytes as they are; a deflate or Zstandard part is plain bytes and
//! what is needed to compress them to exactly the bytes that were there. All plain bytes together are cut into chunks by
//! their content, so that contents with equal data share chunks, wherever it lies in them and however it was compressed;
//! so is what is needed besides, in lanes of its own.

use std::io::Read;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Recipe {
    /// Bytes of the content.
    pub(crate) size: u64,
    pub(crate) parts: Vec<Part>,
    /// By [`Lane`].
    pub(crate) lanes: [Vec<Chunk>; 3],
}

/// What bytes are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Lane {
    Plain,
    /// Where compressing again has to differ from the guess.
    Errors,
    /// How blocks begin.
    Tables,
}

/// A part of a content.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    /// Plain bytes as they are.
    Raw(u64),
    /// Plain bytes to compress, as many as `packed` then, with so many bytes of the other lanes. `first` begins a new
    /// deflate stream.
    Deflate { first: bool, family: u8, plain: u32, packed: u32, errors: u32, tables: u32 },
    /// The same for Zstandard. `window` is given where it begins a new frame.
    Zstandard { window: Option<u32>, family: u8, plain: u32, packed: u32, errors: u32, tables: u32 },
}

/// Where a chunk is: bytes `offset..offset + packed` of a pack, `plain` bytes after decompression.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chunk {
    /// The first half of the SHA-256 of the plain bytes. What is read is checked against it, and the content as a
    /// whole was read back and checked before its plain object was dropped.
    pub(crate) hash: [u8; 16],
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) packed: u32,
    pub(crate) plain: u32,
}

const MAGIC: &[u8; 8] = b"sampan-s";
/// Largest decoded recipe: a content of 256 GiB has 4 million chunks of 32 bytes.
const MAX: u64 = 512 << 20;

impl Recipe {
    pub(crate) fn encode(&self) -> std::io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(64 + self.chunks().count() * Chunk::BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&(self.parts.len() as u32).to_be_bytes());
        for part in &self.parts {
            match part {
                Part::Raw(length) => {
                    out.push(0);
                    out.extend_from_slice(&length.to_be_bytes());
                }
                Part::Deflate { first, family, plain, packed, errors, tables } => {
                    out.extend_from_slice(&[if *first { 1 } else { 2 }, *family]);
                    for number in [plain, packed, errors, tables] {
                        out.extend_from_slice(&number.to_be_bytes());
                    }
                }
                Part::Zstandard { window, family, plain, packed, errors, tables } => {
                    out.extend_from_slice(&[if window.is_some() { 3 } else { 4 }, *family]);
                    for number in window.iter().chain([plain, packed, errors, tables]) {
                        out.extend_from_slice(&number.to_be_bytes());
                    }
                }
            }
        }
        for lane in &self.lanes {
            out.extend_from_slice(&(lane.len() as u32).to_be_bytes());
            lane.iter().for_each(|chunk| chunk.encode(&mut out));
        }
        if out.len() as u64 > MAX {
            // Nobody could read it.
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        zstd::bulk::compress(&out, 3)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let decoder = zstd::stream::read::Decoder::new(bytes).map_err(|_| "cannot be decompressed")?;
        let mut plain = Vec::new();
        decoder.take(MAX).read_to_end(&mut plain).map_err(|_| "cannot be decompressed")?;
        Self::parse(&plain).ok_or("is damaged")
    }

    fn parse(mut input: &[u8]) -> Option<Self> {
        let input = &mut input;
        if take::<8>(input)? != *MAGIC {
            return None;
        }
        let size = u64::from_be_bytes(take(input)?);
        let mut recipe = Self { size, ..Self::default() };
        for _ in 0..u32::from_be_bytes(take(input)?) {
            let [kind] = take(input)?;
            recipe.parts.push(match kind {
                0 => Part::Raw(u64::from_be_bytes(take(input)?)),
                1 | 2 => {
                    let [family] = take(input)?;
                    let mut number = || Some(u32::from_be_bytes(take(input)?));
                    Part::Deflate {
                        first: kind == 1,
                        family,
                        plain: number()?,
                        packed: number()?,
                        errors: number()?,
                        tables: number()?,
                    }
                }
                3 | 4 => {
                    let [family] = take(input)?;
                    let mut number = || Some(u32::from_be_bytes(take(input)?));
                    Part::Zstandard {
                        window: if kind == 3 { Some(number()?) } else { None },
                        family,
                        plain: number()?,
                        packed: number()?,
                        errors: number()?,
                        tables: number()?,
                    }
                }
                _ => return None,
            });
        }
        for lane in &mut recipe.lanes {
            for _ in 0..u32::from_be_bytes(take(input)?) {
                lane.push(Chunk::decode(input)?);
            }
        }
        input.is_empty().then_some(recipe)
    }
}

impl Recipe {
    /// Parts of it are compressed again when it is read.
    pub(crate) fn is_taken_apart(&self) -> bool {
        self.parts.iter().any(|part| !matches!(part, Part::Raw(_)))
    }

    /// A reader needs much memory for it.
    pub(crate) fn is_wide(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Zstandard { .. }))
    }

    /// All that it needs.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        self.lanes.iter().flatten()
    }

    pub(crate) fn chunks_mut(&mut self) -> impl Iterator<Item = &mut Chunk> {
        self.lanes.iter_mut().flatten()
    }
}

impl Chunk {
    /// Bytes of an encoded chunk.
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.hash);
        for number in [self.pack, self.offset, self.packed, self.plain] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }

    pub(crate) fn decode(input: &mut &[u8]) -> Option<Self> {
        Some(Self {
            hash: take(input)?,
            pack: u32::from_be_bytes(take(input)?),
            offset: u32::from_be_bytes(take(input)?),
            packed: u32::from_be_bytes(take(input)?),
            plain: u32::from_be_bytes(take(input)?),
        })
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Recipe {
        let chunk = Chunk { hash: [7; 16], pack: 3, offset: 9, packed: 100, plain: 300 };
        let deflate = Part::Deflate { first: true, family: 2, plain: 290, packed: 80, errors: 3, tables: 4 };
        let lanes = [vec![chunk; 2], vec![chunk], Vec::new()];
        let begun =
            Part::Zstandard { window: Some(9 << 18), family: 1, plain: 9, packed: 8, errors: 7, tables: 6 };
        let further = Part::Zstandard { window: None, family: 1, plain: 9, packed: 8, errors: 7, tables: 6 };
        Recipe { size: 98, parts: vec![Part::Raw(10), deflate, begun, further, Part::Raw(8)], lanes }
    }

    #[test]
    fn a_recipe_is_what_it_was() {
        assert_eq!(Recipe::decode(&sample().encode().unwrap()).unwrap(), sample());
    }

    #[test]
    fn damaged_recipes_are_refused() {
        let plain = zstd::bulk::decompress(&sample().encode().unwrap(), 1 << 20).unwrap();
        for length in 0..plain.len() {
            assert_eq!(Recipe::parse(&plain[..length]), None);
        }
        assert!(Recipe::decode(b"noise").is_err());
    }
}
