//! Whole copies of packed layers that are read: made once however many ask, bounded, and good after a kill.

use std::path::Path;

use sampan_registry::Digest;
use serde_json::{Value, json};

use crate::support::{Client, Process, Server, disk, eventually, gzip, text};

fn path(blob: &[u8]) -> String {
    format!("/v2/p/app/blobs/{}", Digest::of(blob))
}

fn metric(c: &Client, name: &str) -> u64 {
    let text = String::from_utf8(c.get("/metrics").is(200).body).unwrap();
    let name = format!("sampan_registry_{name} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
}

/// The name of its copy.
fn copy_name(blob: &[u8]) -> String {
    format!("sha256-{}", Digest::of(blob).hex())
}

/// Names in the directory of copies.
fn copies(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("hot")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn pack(c: &Client) -> Value {
    c.ask("POST", "/api/v1/gc", &[], json!({ "pack": true, "graceSeconds": 3600 }).to_string().as_bytes())
        .json()
}

#[test]
fn many_readers_of_a_packed_layer_have_it_compressed_once() {
    let server = Server::start(|_| {});
    let c = server.client();
    // Again and again the same, farther away than the compressor looks: packing saves something.
    let layers = [
        gzip(&text(1, 1 << 20).repeat(6), 6),
        zstd::stream::encode_all(&text(2, 3 << 20).repeat(3)[..], 3).unwrap(),
    ];
    for (n, layer) in layers.iter().enumerate() {
        c.push_image("p/app", &format!("v{n}"), &[layer]);
    }
    assert_eq!(server.collect(true)["packed"], 2);
    for (n, layer) in layers.iter().enumerate() {
        std::thread::scope(|scope| {
            for reader in 0..64 {
                let c = c.clone();
                scope.spawn(move || match reader % 8 {
                    6 => {
                        let (from, to) = (layer.len() / 2, layer.len() / 2 + 70_000);
                        let range = format!("bytes={from}-{to}");
                        let part = c.ask("GET", &path(layer), &[("range", &range)], b"").is(206);
                        assert!(part.body == layer[from..=to]);
                    }
                    7 => {
                        let head = c.ask("HEAD", &path(layer), &[], b"").is(200);
                        assert_eq!(head.header("content-length"), layer.len().to_string());
                    }
                    _ => assert!(c.get(&path(layer)).is(200).body == *layer),
                });
            }
        });
        // Readers have everything before it is on the disk.
        eventually("the copy is complete", || metric(&c, "hot_copies_made") == n as u64 + 1);
        assert!(c.get(&path(layer)).is(200).body == *layer);
        assert_eq!(metric(&c, "hot_copies_made"), n as u64 + 1);
    }
    let bytes: usize = layers.iter().map(Vec::len).sum();
    assert_eq!(server.admin("GET", "status", Value::Null).is(200).json()["hotBytes"], bytes);
    // A copy that was damaged goes with the next scrub, and is made again; what is stored was never in danger.
    let (name, whole) = (&copies(&server.dir)[0], &server.dir.join("hot"));
    let mut damaged = std::fs::read(whole.join(name)).unwrap();
    damaged[1000] ^= 1;
    std::fs::write(whole.join(name), damaged).unwrap();
    assert_eq!(server.admin("POST", "scrub", Value::Null).is(201).json()["damaged"], json!([]));
    assert_eq!(copies(&server.dir).len(), 1);
    layers.iter().for_each(|layer| assert!(c.get(&path(layer)).is(200).body == *layer));
    eventually("the copy is made again", || metric(&c, "hot_copies_made") == 3);
    // Removed by hand, or with their image.
    std::fs::remove_file(whole.join(name)).unwrap();
    layers.iter().for_each(|layer| assert!(c.get(&path(layer)).is(200).body == *layer));
    for n in 0..2 {
        let digest =
            c.get(&format!("/v2/p/app/manifests/v{n}")).is(200).header("docker-content-digest").to_owned();
        c.ask("DELETE", &format!("/v2/p/app/manifests/{digest}"), &[], b"").is(202);
    }
    server.collect(false);
    server.collect(false);
    assert_eq!(copies(&server.dir), Vec::<String>::new());
    assert_eq!(metric(&c, "hot_bytes"), 0);
}

#[test]
fn copies_stay_within_their_budget_and_the_least_used_goes() {
    let layers: Vec<Vec<u8>> = (0..4).map(|n| gzip(&text(10 + n, 300_000).repeat(3), 6)).collect();
    let budget = layers.iter().map(Vec::len).max().unwrap() as u64 * 5 / 2;
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("registry");
    let server = Server::on(&dir, |options| options.upkeep.hot_bytes = budget);
    let c = server.client();
    for (n, layer) in layers.iter().enumerate() {
        c.push_image("p/app", &format!("v{n}"), &[layer]);
    }
    server.collect(true);
    let read = |n: usize| assert!(c.get(&path(&layers[n])).is(200).body == layers[n]);
    // The first is read twice: it is the last to go.
    read(0);
    read(0);
    for (n, layer) in layers.iter().enumerate().skip(1) {
        read(n);
        eventually("the copy is complete", || copies(&server.dir).contains(&copy_name(layer)));
        assert!(disk(&server.dir.join("hot")) <= budget);
    }
    let mut left = copies(&server.dir);
    left.sort();
    let mut expected = [0, 3].map(|n: usize| copy_name(&layers[n])).to_vec();
    expected.sort();
    assert_eq!(left, expected);
    // Without any room they are served all the same.
    server.stop();
    let server = Server::on(&dir, |options| options.upkeep.hot_bytes = 0);
    assert_eq!(copies(&dir), Vec::<String>::new());
    let c = server.client();
    layers.iter().for_each(|layer| assert!(c.get(&path(layer)).is(200).body == *layer));
    assert_eq!((copies(&dir), metric(&c, "hot_copies_made")), (Vec::new(), 0));
    server.stop();
}

#[test]
fn a_kill_leaves_good_copies_or_none() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("registry");
    let layer = gzip(&text(3, 1 << 20).repeat(12), 6);
    {
        let process = Process::start(&dir, &json!({}));
        let c = process.client();
        c.push_image("p/app", "v1", &[&layer]);
        assert_eq!(pack(&c)["packed"], 1);
        let reader = {
            let (c, path) = (c.clone(), path(&layer));
            std::thread::spawn(move || drop(c.try_ask("GET", &path, &[], b"")))
        };
        // In the middle, if the machine lets us.
        eventually("a copy is being made", || disk(&dir.join("hot")) > 0);
        process.kill();
        reader.join().unwrap();
    }
    for round in 0..2 {
        let process = Process::start(&dir, &json!({}));
        let c = process.client();
        let whole = copy_name(&layer);
        assert!(copies(&dir).iter().all(|name| *name == whole), "{:?}", copies(&dir));
        let known = copies(&dir).len() as u64;
        assert!(c.get(&path(&layer)).is(200).body == layer);
        assert!(round == 0 || known == 1);
        eventually("the copy is complete", || copies(&dir) == [whole.clone()]);
        assert!(c.get(&path(&layer)).is(200).body == layer);
        eventually("it is counted", || metric(&c, "hot_copies_made") == 1 - known);
        process.kill();
    }
}
