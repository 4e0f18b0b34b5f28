//! Writing bits, as deflate and Zstandard both have them.

/// Writes bits, the lowest first.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub(crate) out: Vec<u8>,
    hold: u64,
    count: u32,
}

impl Writer {
    /// At most 32 bits.
    pub(crate) fn put(&mut self, value: usize, count: u32) {
        self.hold |= (value as u64) << self.count;
        self.count += count;
        if self.count >= 32 {
            self.out.extend_from_slice(&(self.hold as u32).to_le_bytes());
            self.hold >>= 32;
            self.count -= 32;
        }
    }

    /// Whole bytes go out.
    pub(crate) fn flush(&mut self) {
        while self.count >= 8 {
            self.out.push(self.hold as u8);
            self.hold >>= 8;
            self.count -= 8;
        }
    }

    /// The last byte, filled up with zeros.
    pub(crate) fn end(&mut self) {
        let rest = self.count.wrapping_neg() % 8;
        self.put(0, rest);
        self.flush();
    }
}
