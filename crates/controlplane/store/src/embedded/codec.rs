//! How changes and snapshots are written down: frames with a checksum, integers little-endian.
//!
//! A frame is `[length u32][crc32 u32][payload]`, the checksum over the payload. A log frame holds a whole group
//! of commits, so at most one frame, the last, can be torn by a crash.

use bytes::{Buf, BufMut, Bytes};

use crate::{LeaseId, Revision};

/// Bytes before the payload.
pub(super) const FRAME_HEADER: usize = 8;

/// One durable change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// A key was set at a revision. Several records may share one revision.
    Put { revision: Revision, key: Bytes, value: Bytes, lease: LeaseId },
    /// A key was removed.
    Delete { revision: Revision, key: Bytes },
    /// A lease of so many seconds was granted.
    Grant { lease: LeaseId, ttl: i64 },
    /// A lease ended (its keys' deletions are records of their own).
    Revoke { lease: LeaseId },
    /// History before this revision was given up.
    Compact { revision: Revision },
    /// Snapshots only: a key with its counters.
    Key { create: Revision, revision: Revision, version: i64, lease: LeaseId, key: Bytes, value: Bytes },
    /// Snapshots only, first and last: the revision, and how many keys lie between.
    Bounds { revision: Revision, keys: i64 },
}

impl Record {
    /// About how many bytes this takes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Self::Put { key, value, .. } | Self::Key { key, value, .. } => 48 + key.len() + value.len(),
            Self::Delete { key, .. } => 16 + key.len(),
            _ => 17,
        }
    }

    /// Append this record.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let bytes = |out: &mut Vec<u8>, b: &Bytes| {
            // Lengths fit: the store bounds a transaction far below 4 GiB.
            out.put_u32_le(b.len() as u32);
            out.put_slice(b);
        };
        match self {
            Self::Put { revision, key, value, lease } => {
                out.put_u8(1);
                out.put_i64_le(*revision);
                out.put_i64_le(*lease);
                bytes(out, key);
                bytes(out, value);
            }
            Self::Delete { revision, key } => {
                out.put_u8(2);
                out.put_i64_le(*revision);
                bytes(out, key);
            }
            Self::Grant { lease, ttl } => {
                out.put_u8(3);
                out.put_i64_le(*lease);
                out.put_i64_le(*ttl);
            }
            Self::Revoke { lease } => {
                out.put_u8(4);
                out.put_i64_le(*lease);
            }
            Self::Compact { revision } => {
                out.put_u8(5);
                out.put_i64_le(*revision);
            }
            Self::Key { create, revision, version, lease, key, value } => {
                out.put_u8(6);
                for number in [create, revision, version, lease] {
                    out.put_i64_le(*number);
                }
                bytes(out, key);
                bytes(out, value);
            }
            Self::Bounds { revision, keys } => {
                out.put_u8(7);
                out.put_i64_le(*revision);
                out.put_i64_le(*keys);
            }
        }
    }

    /// Read all records of a payload. `None` when it does not parse, which a good checksum excludes unless the
    /// file was written by other software.
    pub(super) fn decode_all(mut input: Bytes) -> Option<Vec<Self>> {
        let mut records = Vec::new();
        while input.has_remaining() {
            records.push(Self::decode(&mut input)?);
        }
        Some(records)
    }

    fn decode(input: &mut Bytes) -> Option<Self> {
        fn bytes(input: &mut Bytes) -> Option<Bytes> {
            let length = input.try_get_u32_le().ok()? as usize;
            (length <= input.len()).then(|| input.split_to(length))
        }
        let mut kind = [0];
        input.try_copy_to_slice(&mut kind).ok()?;
        let first = input.try_get_i64_le().ok()?;
        Some(match kind[0] {
            1 => {
                let lease = input.try_get_i64_le().ok()?;
                Self::Put { revision: first, lease, key: bytes(input)?, value: bytes(input)? }
            }
            2 => Self::Delete { revision: first, key: bytes(input)? },
            3 => Self::Grant { lease: first, ttl: input.try_get_i64_le().ok()? },
            4 => Self::Revoke { lease: first },
            5 => Self::Compact { revision: first },
            6 => Self::Key {
                create: first,
                revision: input.try_get_i64_le().ok()?,
                version: input.try_get_i64_le().ok()?,
                lease: input.try_get_i64_le().ok()?,
                key: bytes(input)?,
                value: bytes(input)?,
            },
            7 => Self::Bounds { revision: first, keys: input.try_get_i64_le().ok()? },
            _ => return None,
        })
    }
}

/// Start a frame in `out`: reserves its header. Returns where it starts, for [`finish_frame`].
pub(super) fn begin_frame(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER]);
    start
}

/// Fill in the header of the frame that began at `start` and reaches to the end of `out`.
pub(super) fn finish_frame(out: &mut [u8], start: usize) {
    let payload = start + FRAME_HEADER;
    let length = (out.len() - payload) as u32;
    let crc = crc32fast::hash(&out[payload..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..payload].copy_from_slice(&crc.to_le_bytes());
}

/// What lies at a position of a file.
pub(super) enum Frame {
    /// A payload, and where the next frame starts.
    Good(Bytes, usize),
    /// The file ends here.
    End,
    /// Bytes that are no whole frame: torn, or damaged. Holds where the next frame would start, if the length
    /// can be believed.
    Bad(Option<usize>),
}

/// Look at the frame at `at`.
pub(super) fn read_frame(file: &Bytes, at: usize) -> Frame {
    let rest = file.len() - at;
    if rest == 0 {
        return Frame::End;
    }
    if rest < FRAME_HEADER {
        return Frame::Bad(None);
    }
    let word = |from: usize| u32::from_le_bytes([file[from], file[from + 1], file[from + 2], file[from + 3]]);
    let (length, crc) = (word(at) as usize, word(at + 4));
    let start = at + FRAME_HEADER;
    let Some(end) = start.checked_add(length).filter(|end| *end <= file.len()) else {
        return Frame::Bad(None);
    };
    let payload = file.slice(start..end);
    if length == 0 || crc32fast::hash(&payload) != crc {
        return Frame::Bad(Some(end));
    }
    Frame::Good(payload, end)
}
