//! Bytes in pieces: what is long is shared with whoever holds it, what lies between is written into one buffer.

use std::{collections::VecDeque, io::IoSlice};

use bytes::{Buf, Bytes};

/// A piece that is shorter is copied: a piece of its own costs more than that.
const SHARED: usize = 256;

/// Bytes in pieces, none of them empty.
#[derive(Debug, Default)]
pub(crate) struct Rope {
    pieces: VecDeque<Bytes>,
    len: usize,
}

impl Rope {
    /// The pieces, in order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter()
    }

    /// The same in one piece.
    pub(crate) fn flat(mut self) -> Bytes {
        match self.pieces.len() {
            0 => Bytes::new(),
            1 => self.pieces.pop_front().unwrap_or_default(),
            _ => self.copy_to_bytes(self.len),
        }
    }

    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Self {
        let mut rope = Self::default();
        rope.push(bytes);
        rope
    }
}

impl Buf for Rope {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece[..])
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let both = slices.iter_mut().zip(&self.pieces);
        both.map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "a rope of {} bytes cannot be advanced by {count}", self.len);
        self.len -= count;
        while let Some(first) = self.pieces.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.pieces.pop_front();
        }
    }
}

/// Makes a rope.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    text: Vec<u8>,
    /// Shared pieces, each with where in the text it belongs.
    shared: Vec<(usize, Bytes)>,
    shared_len: usize,
}

impl Builder {
    /// Goes on after this text.
    pub(crate) fn new(text: Vec<u8>) -> Self {
        Self { text, ..Self::default() }
    }

    /// How many bytes there are so far.
    pub(crate) fn len(&self) -> usize {
        self.text.len() + self.shared_len
    }

    /// Where text is appended.
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Appends bytes that somebody holds anyway.
    pub(crate) fn share(&mut self, bytes: Bytes) {
        if bytes.len() < SHARED {
            self.text.extend_from_slice(&bytes);
        } else {
            self.shared_len += bytes.len();
            self.shared.push((self.text.len(), bytes));
        }
    }

    /// All of it.
    pub(crate) fn build(self) -> Rope {
        let (text, mut from) = (Bytes::from(self.text), 0);
        let mut rope = Rope { pieces: VecDeque::with_capacity(2 * self.shared.len() + 1), len: 0 };
        for (at, piece) in self.shared {
            rope.push(text.slice(from..at));
            rope.push(piece);
            from = at;
        }
        rope.push(text.slice(from..));
        rope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn long(letter: u8) -> Bytes {
        vec![letter; SHARED].into()
    }

    #[test]
    fn pieces_come_out_in_order_however_they_are_read() {
        let make = || {
            let mut builder = Builder::new(b"head".to_vec());
            builder.share(long(b'a'));
            builder.share(long(b'b'));
            builder.text().push(b',');
            builder.share(Bytes::from_static(b"short"));
            builder.share(long(b'c'));
            assert_eq!(builder.len(), 4 + 3 * SHARED + 6);
            builder.build()
        };
        let expected = [b"head", &long(b'a')[..], &long(b'b'), b",short", &long(b'c')].concat();
        assert_eq!(make().flat(), expected);
        assert_eq!(make().pieces().map(Bytes::len).collect::<Vec<_>>(), [4, SHARED, SHARED, 6, SHARED]);
        for step in [1, 3, SHARED, 10_000] {
            let (mut rope, mut read) = (make(), Vec::new());
            while rope.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 2];
                let count = rope.chunks_vectored(&mut slices);
                let seen: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                assert!(seen.starts_with(rope.chunk()) && !rope.chunk().is_empty());
                let taken = step.min(seen.len());
                read.extend_from_slice(&seen[..taken]);
                rope.advance(taken);
            }
            assert_eq!(read, expected, "{step}");
        }
        assert_eq!(Builder::default().build().flat(), "");
    }
}
