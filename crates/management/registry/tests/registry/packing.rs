//! Chunks that contents share: bit for bit what was pushed, in less room, through collection, damage and repair.

use std::process::Command;

use sampan_registry::Digest;
use serde_json::json;

use crate::support::{Server, disk, gzip, noise, run, text};

/// By the tool that everybody has.
fn gzip_command(bytes: &[u8], arguments: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    std::fs::write(&path, bytes).unwrap();
    run(Command::new("gzip").args(arguments).arg(&path));
    std::fs::read(path.with_extension("gz")).unwrap()
}

/// Eight versions of one layer: a few files change each time.
fn versions() -> Vec<Vec<u8>> {
    let base = text(1, 800_000);
    (0..8)
        .map(|version: u64| {
            let mut layer = base.clone();
            let at = version as usize * 90_000;
            layer.splice(at..at + 10_000, text(100 + version, 12_000));
            layer
        })
        .collect()
}

#[test]
fn versions_share_chunks_whatever_compressed_them_and_come_back_bit_for_bit() {
    let server = Server::start(|_| {});
    let c = server.client();
    let mut blobs = Vec::new();
    for (n, layer) in versions().iter().enumerate() {
        blobs.push(match n % 4 {
            0 => gzip(layer, 6),
            1 => gzip_command(layer, &["-6"]),
            2 => gzip_command(layer, &["-9", "--no-name"]),
            _ => layer.clone(),
        });
    }
    blobs.push(noise(5, 100_000));
    blobs.push([gzip(&text(7, 200_000), 6), gzip(&text(8, 200_000), 9), b"tail".to_vec()].concat());
    // Looks like gzip and is not.
    blobs.push([&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &noise(6, 100_000)].concat());
    let mut bomb = gzip(&vec![0; 14 << 20], 9);
    bomb.extend_from_slice(&text(9, 100_000));
    blobs.push(bomb);
    for (n, blob) in blobs.iter().enumerate() {
        c.push_image("p/app", &format!("v{n}"), &[blob]);
    }
    let plain = disk(&server.dir);
    let report = server.collect(true);
    let stored: u64 = ["blobs", "packs", "recipes"].map(|part| disk(&server.dir.join(part))).iter().sum();
    let sum: u64 = blobs.iter().map(|blob| blob.len() as u64).sum();
    assert!(stored < sum / 2, "{stored} of {sum} ({plain}); {report}");
    assert!(report["packed"].as_u64().unwrap() >= 8, "{report}");
    for (n, blob) in blobs.iter().enumerate() {
        let path = format!("/v2/p/app/blobs/{}", Digest::of(blob));
        assert!(c.get(&path).is(200).body == *blob);
        let end = blob.len();
        if n % 3 == 1 {
            continue;
        }
        for (from, to) in [(0, 0), (end / 3, end / 3 + 5000), (end - 1, end - 1)] {
            let part = c.ask("GET", &path, &[("range", &format!("bytes={from}-{to}"))], b"").is(206);
            assert!(part.body == blob[from..=to]);
        }
    }
    // What was not worth it is not tried again; what is pushed again is not stored again.
    assert_eq!(server.collect(true)["packed"], 0);
    c.push_blob("q/other", &blobs[0]);
    assert_eq!(server.admin("POST", "scrub", json!(null)).is(201).json()["damaged"], json!([]));
}

/// By the tool that everybody has.
fn zstd_command(bytes: &[u8], arguments: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    std::fs::write(&path, bytes).unwrap();
    run(Command::new("zstd").arg("-q").args(arguments).arg(&path));
    std::fs::read(path.with_extension("zst")).unwrap()
}

#[test]
fn versions_in_zstd_share_chunks_and_come_back_bit_for_bit() {
    let server = Server::start(|_| {});
    let c = server.client();
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    for (n, layer) in versions().iter().enumerate() {
        blobs.push(match n % 4 {
            0 => zstd::stream::encode_all(&layer[..], 3).unwrap(),
            1 => zstd_command(layer, &["-3"]),
            2 => zstd_command(layer, &["-3", "-T2", "--no-check"]),
            _ => zstd_command(layer, &["-4"]),
        });
    }
    let usual = blobs.len();
    let layer = &versions()[0];
    blobs.push(zstd_command(layer, &["-19"]));
    blobs.push(zstd_command(layer, &["--fast=5"]));
    blobs.push(zstd_command(layer, &["--long=27", "-9"]));
    // Files in frames of their own, and a table of contents that decoders skip.
    let mut frames: Vec<u8> =
        layer.chunks(9_000).flat_map(|file| zstd::stream::encode_all(file, 3).unwrap()).collect();
    frames.extend_from_slice(&[0x50, 0x2a, 0x4d, 0x18, 100, 0, 0, 0]);
    frames.extend_from_slice(&noise(8, 100));
    blobs.push(frames);
    // Cut off, changed in the middle, and only the beginning of one.
    blobs.push(blobs[0][..blobs[0].len() / 2].to_vec());
    let mut changed = blobs[1].clone();
    changed[150_000] ^= 0x55;
    blobs.push(changed);
    blobs.push([&[0x28, 0xb5, 0x2f, 0xfd][..], &noise(6, 100_000)].concat());
    let mut bomb = zstd::stream::encode_all(&vec![0; 64 << 20][..], 3).unwrap();
    bomb.extend_from_slice(&zstd::stream::encode_all(&text(9, 100_000)[..], 3).unwrap());
    blobs.push(bomb);
    for (n, blob) in blobs.iter().enumerate() {
        c.push_image("p/app", &format!("v{n}"), &[blob]);
        if n + 1 == usual {
            let report = server.collect(true);
            let stored: u64 = ["packs", "recipes"].map(|part| disk(&server.dir.join(part))).iter().sum();
            let sum: u64 = blobs.iter().map(|blob| blob.len() as u64).sum();
            assert_eq!(report["packed"], usual, "{report}");
            assert!(stored < sum * 2 / 5, "{stored} of {sum}; {report}");
        }
    }
    server.collect(true);
    for (n, blob) in blobs.iter().enumerate() {
        let path = format!("/v2/p/app/blobs/{}", Digest::of(blob));
        let end = blob.len();
        for (from, to) in [(0, 0), (end / 3, end / 3 + 5000.min(end / 4)), (end - 1, end - 1)] {
            let part = c.ask("GET", &path, &[("range", &format!("bytes={from}-{to}"))], b"").is(206);
            assert!(part.body == blob[from..=to], "{n}");
        }
        assert!(c.get(&path).is(200).body == *blob, "{n}");
    }
    assert_eq!(server.admin("POST", "scrub", json!(null)).is(201).json()["damaged"], json!([]));
}

/// Neither can be compressed, so the first alone is not worth it; days later comes the second, and weeks later the third.
#[test]
fn what_was_not_worth_it_alone_is_when_its_next_version_comes() {
    let server = Server::start(|_| {});
    let c = server.client();
    let stored =
        || -> u64 { ["blobs", "packs", "recipes"].map(|part| disk(&server.dir.join(part))).iter().sum() };
    let mut layer = noise(1, 2_000_000);
    let mut blobs = Vec::new();
    for version in 0..3_usize {
        layer.splice(version * 300_000..version * 300_000 + 50_000, noise(10 + version as u64, 60_000));
        blobs.push(layer.clone());
        c.push_image("p/app", &format!("v{version}"), &[&layer]);
        c.push_image("p/other", &format!("v{version}"), &[&noise(100 + version as u64, 1_000_000)]);
        let report = server.collect(true);
        assert_eq!(report["packed"], [0, 2, 1][version], "{report}");
        let least = 2_000_000 + (version as u64 + 1) * 1_000_000;
        assert!(stored() < least + 700_000, "{} of {least}", stored());
    }
    for blob in &blobs {
        assert!(c.get(&format!("/v2/p/app/blobs/{}", Digest::of(blob))).is(200).body == *blob);
    }
}

#[test]
fn packs_lose_what_nobody_needs() {
    let server = Server::start(|_| {});
    let c = server.client();
    let layers = versions();
    let digests: Vec<Digest> = layers
        .iter()
        .enumerate()
        .map(|(n, layer)| c.push_image("p/app", &format!("v{n}"), &[layer]))
        .collect();
    let other = c.push_image("p/app", "other", &[&text(77, 1_200_000)]);
    server.collect(true);
    let full = disk(&server.dir.join("packs"));
    // The half that only the other image needs.
    c.ask("DELETE", &format!("/v2/p/app/manifests/{other}"), &[], b"").is(202);
    for digest in &digests[1..] {
        c.ask("DELETE", &format!("/v2/p/app/manifests/{digest}"), &[], b"").is(202);
    }
    server.collect(false);
    server.collect(false);
    server.collect(false);
    let less = disk(&server.dir.join("packs"));
    assert!(less < full * 6 / 10, "{less} of {full}");
    assert!(c.get(&format!("/v2/p/app/blobs/{}", Digest::of(&layers[0]))).is(200).body == layers[0]);
    c.ask("DELETE", &format!("/v2/p/app/manifests/{}", digests[0]), &[], b"").is(202);
    server.collect(false);
    server.collect(false);
    assert_eq!(disk(&server.dir.join("packs")) + disk(&server.dir.join("recipes")), 0);
}

#[test]
fn damage_is_found_not_served_and_healed_by_the_next_push() {
    let server = Server::start(|_| {});
    let c = server.client();
    let (packed, plain) = (text(3, 1 << 20), noise(4, 300_000));
    c.push_image("p/a", "one", &[&packed, &plain]);
    server.collect(true);
    let flip = |path: &std::path::Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    for entry in std::fs::read_dir(server.dir.join("packs")).unwrap().flatten() {
        if entry.path().extension().is_none() {
            flip(&entry.path());
        }
    }
    let digest = Digest::of(&plain);
    flip(&server.dir.join(format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex())));
    let mut found =
        server.admin("POST", "scrub", json!(null)).is(201).json()["damaged"].as_array().unwrap().clone();
    let mut expected = vec![json!(Digest::of(&packed)), json!(digest)];
    found.sort_by_key(ToString::to_string);
    expected.sort_by_key(ToString::to_string);
    assert_eq!(found, expected);
    for blob in [&packed, &plain] {
        c.get(&format!("/v2/p/a/blobs/{}", Digest::of(blob))).refused(404, "BLOB_UNKNOWN");
        c.push_blob("p/a", blob);
        assert!(c.get(&format!("/v2/p/a/blobs/{}", Digest::of(blob))).is(200).body == *blob);
    }
    assert_eq!(server.admin("POST", "scrub", json!(null)).is(201).json()["damaged"], json!([]));
}
