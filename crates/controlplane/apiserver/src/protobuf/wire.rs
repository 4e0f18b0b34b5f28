//! The wire format: fields one after another (<https://protobuf.dev/programming-guides/encoding/>).

use super::Outcome;

/// Wire types.
pub(super) const VARINT: u32 = 0;
pub(super) const FIXED: u32 = 1;
pub(super) const BYTES: u32 = 2;

/// A field as it comes.
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// Reads fields one after another.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Outcome<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or("unexpected end")?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a number is too long")
    }

    fn take(&mut self, length: usize) -> Outcome<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or("unexpected end")?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next field's number and value; none at the end.
    pub(super) fn next(&mut self) -> Outcome<Option<(u64, Wire<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed(little(self.take(8)?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| "a length is too large")?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed(little(self.take(4)?)),
            _ => return Err("unknown wire type"),
        };
        Ok(Some((tag >> 3, wire)))
    }
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Appends a number, seven bits a byte.
pub(super) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes [`varint`] appends.
pub(super) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends what a field begins with.
pub(super) fn tag(out: &mut Vec<u8>, number: u32, wire: u32) {
    varint(out, u64::from(number << 3 | wire));
}

/// Appends a field that holds a number.
pub(super) fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    tag(out, field, VARINT);
    varint(out, value);
}

/// Appends a field that holds bytes.
pub(super) fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    tag(out, field, BYTES);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a field that holds a text.
pub(super) fn text(out: &mut Vec<u8>, field: u32, value: &str) {
    bytes(out, field, value.as_bytes());
}

/// Appends a field that holds what `inner` appends.
pub(super) fn nested<E>(
    out: &mut Vec<u8>,
    field: u32,
    inner: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    tag(out, field, BYTES);
    // Most messages are short: one byte for the length, and room is made when it takes more.
    let start = out.len();
    out.push(0);
    inner(out)?;
    let length = (out.len() - start - 1) as u64;
    let more = varint_len(length) - 1;
    if more > 0 {
        let end = out.len();
        out.resize(end + more, 0);
        out.copy_within(start + 1..end, start + 1 + more);
    }
    let mut rest = length;
    for at in &mut out[start..start + more] {
        *at = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[start + more] = rest as u8;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_every_size_come_back() {
        for length in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152] {
            let content = vec![7_u8; length];
            let mut out = vec![9];
            nested(&mut out, 3, |out| {
                out.extend_from_slice(&content);
                Ok::<_, ()>(())
            })
            .unwrap();
            let mut plain = vec![9];
            bytes(&mut plain, 3, &content);
            assert_eq!(out, plain);
            let mut reader = Reader(&out[1..]);
            match reader.next().unwrap() {
                Some((3, Wire::Bytes(read))) => assert_eq!(read, content),
                _ => panic!("another field"),
            }
            assert!(reader.next().unwrap().is_none());
        }
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value));
            assert_eq!(Reader(&out).varint(), Ok(value));
        }
    }
}
