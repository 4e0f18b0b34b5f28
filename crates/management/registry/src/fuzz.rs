//! Hostile inputs: manifests, recipes, queries and paths, and gzip and Zstandard streams that only look like it.

use std::io::{Seek, Write};

use sampan_fuzz::Target;
use serde_json::json;

use crate::{
    content::{
        apart::{Apart, Piece},
        bits::Writer,
        deflate::{again, guess::WINDOW},
        recipe::{Part, Recipe},
        zstandard::Writing,
    },
    digest::Digest,
    http::Query,
    manifest::{OCI_INDEX, OCI_MANIFEST, Parsed},
};

#[test]
fn fuzz_manifests() {
    let blob = json!({ "digest": Digest::of(b"x"), "size": 1, "mediaType": "a/b" });
    let image = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob, "layers": [blob], "subject": blob });
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [blob], "annotations": { "a": "b" } });
    let run = |input: &[u8]| {
        for kind in [OCI_MANIFEST, OCI_INDEX, ""] {
            if let Ok(parsed) = Parsed::parse(kind, input, 100) {
                assert!(parsed.blobs.len() + parsed.manifests.len() <= 100);
            }
        }
    };
    Target::new("fuzz_manifests")
        .seeds([image.to_string(), index.to_string()])
        .words(&["\"config\"", "\"layers\"", "\"manifests\"", "\"urls\"", "sha256:", "sha512:", "[[[["])
        .run(run);
}

#[test]
fn fuzz_recipes() {
    let recipe = Recipe { size: 9, ..Recipe::default() };
    let run = |input: &[u8]| drop(Recipe::decode(input));
    Target::new("fuzz_recipes").seeds([recipe.encode().unwrap()]).run(run);
}

#[test]
fn fuzz_queries() {
    let run = |input: &[u8]| {
        let query = Query::parse(&String::from_utf8_lossy(input));
        let _ = (query.page(10), query.all("scope").count());
    };
    Target::new("fuzz_queries")
        .seeds(["n=5&last=a%2Fb&scope=repository:a/b:pull"])
        .words(&["%", "&", "="])
        .run(run);
}

/// The parts, and all that is in them.
fn apart(input: &[u8]) -> (Vec<Part>, Piece) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input).unwrap();
    file.rewind().unwrap();
    let (mut apart, mut all) = (Apart::new(file), Piece::default());
    while let Some(piece) = apart.next().unwrap() {
        all.plain.extend(piece.plain);
        all.errors.extend(piece.errors);
        all.tables.extend(piece.tables);
    }
    (apart.parts, all)
}

/// Take it apart and put it together again.
fn rebuilt(input: &[u8]) -> Vec<u8> {
    let (parts, Piece { plain, mut errors, mut tables }) = apart(input);
    let (mut out, mut writer, mut begun, mut at) = (Vec::new(), Writer::default(), 0, 0);
    let mut frame = None;
    let next = |from: &mut Vec<u8>, count: u32| from.drain(..count as usize).collect::<Vec<u8>>();
    for part in parts {
        match part {
            Part::Raw(length) => {
                out.extend_from_slice(&plain[at..at + length as usize]);
                at += length as usize;
            }
            Part::Deflate { first, family, plain: count, packed, errors: wrong, tables: heads } => {
                if first {
                    (writer, begun) = (Writer::default(), at);
                }
                let from = begun.max(at.saturating_sub(WINDOW));
                let end = at + count as usize;
                let (wrong, heads) = (next(&mut errors, wrong), next(&mut tables, heads));
                let made = again(&mut writer, &plain[from..end], at - from, family, &wrong, &heads).unwrap();
                assert_eq!(made.len(), packed as usize);
                out.extend(made);
                at = end;
            }
            Part::Zstandard { window, family, plain: count, packed, errors: wrong, tables: heads } => {
                if let Some(window) = window {
                    frame = Writing::new(family, window as usize);
                }
                let end = at + count as usize;
                let (wrong, heads) = (next(&mut errors, wrong), next(&mut tables, heads));
                let made = frame.as_mut().unwrap().part(&plain[at..end], &wrong, &heads).unwrap();
                assert_eq!(made.len(), packed as usize);
                out.extend(made);
                at = end;
            }
        }
    }
    out
}

#[test]
fn fuzz_gzip() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&b"some words and some more words ".repeat(60)).unwrap();
    // However it is taken apart, nothing of it may be missing.
    let run = |input: &[u8]| assert!(rebuilt(input) == input);
    Target::new("fuzz_gzip").seeds([encoder.finish().unwrap()]).inputs(150).run(run);
}

#[test]
fn fuzz_errors_and_tables() {
    let text = b"some words and some more words, and more of some words ".repeat(20);
    let run = |input: &[u8]| {
        let (family, rest) = input.split_first().unwrap_or((&0, &[]));
        let (errors, tables) = rest.split_at(rest.len() / 2);
        drop(again(&mut Writer::default(), &text, 100, family % 8, errors, tables));
    };
    Target::new("fuzz_errors_and_tables")
        .seeds([[1, 0, 255, 3, 4, 2, 100, 5, 2, 20, 5, 0, 0, 1].as_slice()])
        .run(run);
}

#[test]
fn fuzz_zstandard() {
    let text = words(3000);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(&text).unwrap();
    let run = |input: &[u8]| assert!(rebuilt(input) == input);
    Target::new("fuzz_zstandard")
        .seeds([encoder.finish().unwrap(), zstd::bulk::compress(&text, 19).unwrap()])
        .inputs(150)
        .run(run);
}

#[test]
fn fuzz_zstandard_errors_and_tables() {
    let text = words(3000);
    let run = |input: &[u8]| {
        let (family, rest) = input.split_first().unwrap_or((&0, &[]));
        let (errors, tables) = rest.split_at(rest.len() / 2);
        if let Some(mut frame) = Writing::new(family % 10, 1 << 20) {
            drop(frame.part(&text, errors, tables));
        }
    };
    // A compressed block of literals as they are and two sequences, in the codes that need no description.
    let seed =
        [&[0, 0, 3, 30, 2, 0, 0, 0, 3, 60, 2, 0, 0][..], &[5, 0xa0, 1, 0, 2, 0, 4, 0xa0, 1, 0, 2, 0, 0]]
            .concat();
    Target::new("fuzz_zstandard_errors_and_tables").seeds([seed]).run(run);
}

fn words(count: usize) -> Vec<u8> {
    let (mut words, mut state) = (Vec::new(), 1_u32);
    while words.len() < count {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        words.extend_from_slice(&b"the quick brown fox jumps over the lazy dog, "[(state >> 28) as usize..]);
        words.extend_from_slice(&state.to_be_bytes()[..(state >> 20 & 3) as usize]);
    }
    words
}

#[test]
fn frames_of_all_kinds_come_back_bit_for_bit() {
    let words = words(3 << 20);
    let frame = |level, bytes: &[u8], checksum, long| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
        encoder.include_checksum(checksum).unwrap();
        encoder.long_distance_matching(long).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let mut all = Vec::new();
    for level in [-5, 1, 3, 6, 9, 15, 19] {
        all.extend(frame(level, &words[..1 << 20], level % 2 == 0, false));
    }
    // Frames that are skipped, empty ones, ones that compress to nothing and to nothing less.
    all.extend_from_slice(&[0x5a, 0x2a, 0x4d, 0x18, 5, 0, 0, 0, 1, 2, 3, 4, 5]);
    all.extend(frame(3, b"", true, false));
    all.extend(frame(3, &vec![0; 3 << 20], true, false));
    let noise: Vec<u8> = words
        .iter()
        .zip(&words[7..])
        .flat_map(|(a, b)| Digest::of(&[*a, *b]).bytes().to_vec())
        .take(300_000)
        .collect();
    all.extend(frame(3, &noise, true, false));
    all.extend(frame(3, &words, true, true));
    (0..100).for_each(|n| all.extend(zstd::bulk::compress(&words[n * 500..n * 500 + 700], 3).unwrap()));
    assert!(rebuilt(&all) == all);
    assert!(rebuilt(&all[..all.len() / 2]) == all[..all.len() / 2]);
    all.truncate(all.len() / 3);
    all.extend_from_slice(&words[..100_000]);
    assert!(rebuilt(&all) == all);
}

/// What is written down besides plain bytes, a hundredth of what the frame had: nearly nothing for the usual level.
#[test]
fn the_usual_level_is_guessed() {
    let text: Vec<u8> =
        std::fs::read(std::env::current_exe().unwrap()).unwrap().into_iter().take(6 << 20).collect();
    for (level, most) in [(3, 3), (4, 3)] {
        let packed = zstd::stream::encode_all(&text[..], level).unwrap();
        let (_, all) = apart(&packed);
        let (errors, tables) = (all.errors.len(), all.tables.len());
        println!("level {level}: {} packed, {errors} errors, {tables} tables", packed.len());
        assert!(errors * 100 < packed.len() * most, "level {level}: {errors} of {}", packed.len());
    }
}

#[test]
fn streams_of_all_kinds_come_back_bit_for_bit() {
    let words = words(3 << 20);
    let member = |level, bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let (mut all, flat) = (Vec::new(), vec![0; 3 << 20]);
    for level in [0, 1, 6, 9] {
        all.extend(member(level, &words));
    }
    all.extend(member(6, b""));
    all.extend(member(9, &flat));
    assert!(rebuilt(&all) == all);
    // Cut off in the middle, and followed by something else.
    assert!(rebuilt(&all[..all.len() / 2]) == all[..all.len() / 2]);
    all.truncate(all.len() / 3);
    all.extend_from_slice(&words[..100_000]);
    assert!(rebuilt(&all) == all);
}

/// A frame with a window of 128 KiB, and sixteen bytes in it.
fn frame_begun() -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    frame.extend_from_slice(&[16 << 3, 0, 0]);
    frame.extend_from_slice(&[b'a'; 16]);
    frame
}

/// Twelve bytes are a block of 43,690 sequences, each of which could be as long as the block.
#[test]
fn a_block_that_takes_much_work_for_few_bytes_is_raw() {
    let frame = |count: &[u8]| {
        let content = [&[0][..], count, &[0x54, 0, 0, 0, 1]].concat();
        let block = |last: u8| [&[last | 2 << 1 | (content.len() as u8) << 3, 0, 0][..], &content].concat();
        [frame_begun(), block(0), block(0), block(1)].concat()
    };
    for (count, sequences, is_raw) in [(&[100][..], 100, false), (&[255, 0xaa, 0x2b], 43_690, true)] {
        let frame = frame(count);
        assert_eq!(zstd::stream::decode_all(&frame[..]).unwrap().len(), 16 + 9 * sequences);
        assert_eq!(apart(&frame).0 == [Part::Raw(frame.len() as u64)], is_raw);
        assert!(rebuilt(&frame) == frame);
    }
}

#[test]
fn what_swells_or_has_too_many_parts_is_raw_in_the_end() {
    let mut frame = frame_begun();
    for n in 0..1000 {
        let word = u32::from(n == 999) | 1 << 1 | (128 << 10) << 3;
        frame.extend_from_slice(&word.to_le_bytes()[..3]);
        frame.push(b'a');
    }
    assert_eq!(zstd::stream::decode_all(&frame[..]).unwrap().len(), 16 + (1000 << 17));
    let plain = apart(&frame).1.plain.len();
    assert!((60 << 20..70 << 20).contains(&plain), "{plain}");
    assert!(rebuilt(&frame) == frame);
    let tiny = zstd::stream::encode_all(&b"a"[..], 3).unwrap().repeat(8000);
    let (all, _) = apart(&tiny);
    assert!((4000..=4098 + tiny.len() / 256).contains(&all.len()), "{}", all.len());
    assert!(rebuilt(&tiny) == tiny);
}
