//! Hostile log files: frames and the records in them.

use bytes::Bytes;
use sampan_fuzz::{Counting, Target};

use super::codec::{Frame, Record, begin_frame, finish_frame, read_frame};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn records() -> Vec<Record> {
    let bytes = Bytes::from_static;
    vec![
        Record::Put { revision: 7, key: bytes(b"/registry/pods/a"), value: bytes(b"{}"), lease: 0 },
        Record::Delete { revision: 8, key: bytes(b"/registry/pods/a") },
        Record::Grant { lease: 9, ttl: 10 },
        Record::Revoke { lease: 9 },
        Record::Compact { revision: 5 },
        Record::Key { create: 1, revision: 2, version: 3, lease: 4, key: bytes(b"k"), value: bytes(b"v") },
        Record::Bounds { revision: 8, keys: 1 },
    ]
}

fn frame(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    let start = begin_frame(&mut out);
    records.iter().for_each(|record| record.encode(&mut out));
    finish_frame(&mut out, start);
    out
}

#[test]
fn fuzz_frames() {
    let run = |input: &[u8]| {
        let file = Bytes::copy_from_slice(input);
        let mut at = 0;
        loop {
            match read_frame(&file, at) {
                Frame::Good(payload, next) => {
                    assert!(next > at && next <= file.len());
                    assert_eq!(payload, file[next - payload.len()..next]);
                    at = next;
                }
                Frame::Bad(next) => return assert!(next.is_none_or(|next| next > at && next <= file.len())),
                Frame::End => return assert_eq!(at, file.len()),
            }
        }
    };
    let two = [frame(&records()), frame(&records()[..1])].concat();
    Target::new("fuzz_frames").seeds([two]).inputs(5000).allocates(4096, 64).run(run);
}

#[test]
fn fuzz_records() {
    let run = |input: &[u8]| {
        let Some(read) = Record::decode_all(Bytes::copy_from_slice(input)) else { return };
        let mut again = Vec::new();
        read.iter().for_each(|record| record.encode(&mut again));
        assert_eq!(again, input);
    };
    let payload = frame(&records())[8..].to_vec();
    Target::new("fuzz_records").seeds([payload]).inputs(5000).allocates(4096, 64).run(run);
}
