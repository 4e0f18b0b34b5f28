//! Takes a content apart into plain bytes and what is needed to compress them again: gzip members become deflate
//! parts where every part was seen to come out the same, everything else stays raw.

use std::{
    fs::File,
    io::{self, Read},
    panic::{AssertUnwindSafe, catch_unwind},
};

use preflate_rs::{PreflateConfig, PreflateStreamProcessor};

use super::recipe::Part;

/// Compressed bytes that are looked at at once.
const WINDOW: usize = 512 << 10;
/// A window may become so many plain bytes; one that becomes more stays as it is.
const PLAIN: usize = 24 << 20;
/// Header of a gzip member at most, with its name.
const HEADER: usize = 4 << 10;

/// Reads plain bytes; the parts are complete at the end.
pub(crate) struct Apart {
    file: File,
    /// Compressed bytes that were read and not used.
    input: Vec<u8>,
    ended: bool,
    /// Plain bytes to hand out.
    output: Vec<u8>,
    given: usize,
    state: State,
    pub(crate) parts: Vec<Part>,
}

enum State {
    /// At the beginning of a member.
    Member,
    /// Inside of a deflate stream.
    Deflate { first: bool, processor: Box<PreflateStreamProcessor> },
    /// Everything else is raw.
    Raw,
}

impl Apart {
    pub(crate) fn new(file: File) -> Self {
        let (input, output, parts) = (Vec::new(), Vec::new(), Vec::new());
        Self { file, input, ended: false, output, given: 0, state: State::Member, parts }
    }

    /// Have a window of input, unless the file ends before.
    fn fill(&mut self) -> io::Result<()> {
        while !self.ended && self.input.len() < WINDOW {
            let before = self.input.len();
            self.input.resize(WINDOW, 0);
            let read = self.file.read(&mut self.input[before..])?;
            self.input.truncate(before + read);
            self.ended = read == 0;
        }
        Ok(())
    }

    /// So many bytes of input are output as they are.
    fn raw(&mut self, count: usize) {
        self.output = self.input.drain(..count).collect();
        match self.parts.last_mut() {
            Some(Part::Raw(length)) => *length += count as u64,
            _ => self.parts.push(Part::Raw(count as u64)),
        }
    }

    fn step(&mut self) -> io::Result<()> {
        self.fill()?;
        match &mut self.state {
            _ if self.input.is_empty() => {}
            State::Raw => self.raw(self.input.len()),
            State::Member => match header_length(&self.input) {
                Some(length) => {
                    self.raw(length);
                    let config = PreflateConfig { plain_text_limit: PLAIN, ..PreflateConfig::default() };
                    let processor = Box::new(PreflateStreamProcessor::new(&config));
                    self.state = State::Deflate { first: true, processor };
                }
                None => self.state = State::Raw,
            },
            State::Deflate { first, processor } => {
                let input = &self.input;
                // It must not matter what foreign code does with hostile input.
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    let result = processor.decompress(input).ok()?;
                    let plain = processor.plain_text().text().to_vec();
                    processor.shrink_to_dictionary();
                    Some((result, plain, processor.is_done()))
                }));
                let Ok(Some((result, plain, done))) = outcome else {
                    self.state = State::Raw;
                    return Ok(());
                };
                if result.compressed_size == 0 && !done {
                    self.state = State::Raw;
                    return Ok(());
                }
                self.parts.push(Part::Deflate {
                    first: *first,
                    plain: plain.len() as u32,
                    packed: result.compressed_size as u32,
                    corrections: result.corrections,
                });
                *first = false;
                self.input.drain(..result.compressed_size);
                self.output = plain;
                if done {
                    self.state = State::Member;
                    // The trailer: CRC and length.
                    self.fill()?;
                    let trailer = self.input.len().min(8);
                    let trailing: Vec<u8> = self.input.drain(..trailer).collect();
                    self.output.extend_from_slice(&trailing);
                    self.parts.push(Part::Raw(trailer as u64));
                }
            }
        }
        Ok(())
    }
}

impl Read for Apart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.output.len() {
            (self.output, self.given) = (Vec::new(), 0);
            self.fill()?;
            if self.input.is_empty() {
                return Ok(0);
            }
            self.step()?;
        }
        let count = buffer.len().min(self.output.len() - self.given);
        buffer[..count].copy_from_slice(&self.output[self.given..self.given + count]);
        self.given += count;
        Ok(count)
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
