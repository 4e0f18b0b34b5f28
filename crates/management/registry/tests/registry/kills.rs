//! `kill -9` in the middle of everything, and a disk without room.

use std::{
    io::Write,
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
};

use sampan_registry::Digest;
use serde_json::json;

use crate::support::{Process, noise};

#[test]
fn what_was_acknowledged_survives_kills_and_uploads_go_on() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("registry");
    let mut acknowledged: Vec<(String, Digest, Vec<Digest>)> = Vec::new();
    let big = noise(99, 3 << 20);
    let mut upload: Option<String> = None;
    for round in 0..4_u64 {
        let process = Process::start(&dir, &json!({}));
        let c = process.client();
        // Everything that was said to be there is there, whole.
        for (tag, digest, layers) in &acknowledged {
            let manifest = c.get(&format!("/v2/k/image/manifests/{tag}")).is(200);
            assert_eq!(Digest::of(&manifest.body), *digest);
            for layer in layers {
                assert_eq!(Digest::of(&c.get(&format!("/v2/k/image/blobs/{layer}")).is(200).body), *layer);
            }
        }
        // An upload that the last process did not finish.
        if let Some(location) = upload.take() {
            let range = c.get(&location).is(204).header("range").to_owned();
            let at: usize = range.trim_start_matches("0-").parse::<usize>().unwrap() + 1;
            assert!(at >= 1 << 20, "{range}");
            c.ask("PATCH", &location, &[("content-range", &format!("{at}-{}", big.len() - 1))], &big[at..])
                .is(202);
            c.ask("PUT", &format!("{location}?digest={}", Digest::of(&big)), &[], b"").is(201);
            assert_eq!(c.get(&format!("/v2/k/big/blobs/{}", Digest::of(&big))).is(200).body, big);
        }
        let location = c.begin("k/big");
        c.ask("PATCH", &location, &[], &big[..1 << 20]).is(202);
        // Many push while it is killed.
        let stop = AtomicBool::new(false);
        let done = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4_u64)
                .map(|worker| {
                    let (c, stop) = (c.clone(), &stop);
                    scope.spawn(move || {
                        let mut done = Vec::new();
                        for n in 0.. {
                            if stop.load(Ordering::Relaxed) {
                                break;
                            }
                            let seed = round << 32 | worker << 16 | n;
                            let layer = noise(seed, 40_000);
                            let digest = Digest::of(&layer);
                            let path = format!("/v2/k/image/blobs/uploads/?digest={digest}");
                            if !c.try_ask("POST", &path, &[], &layer).is_ok_and(|answer| answer.status == 201)
                            {
                                break;
                            }
                            let manifest = json!({
                                "schemaVersion": 2,
                                "config": { "digest": digest, "size": layer.len(), "mediaType": "x/y" },
                                "layers": [],
                            });
                            let (tag, text) = (format!("t{seed}"), manifest.to_string());
                            let path = format!("/v2/k/image/manifests/{tag}");
                            let kind = [("content-type", crate::support::MANIFEST)];
                            if !c
                                .try_ask("PUT", &path, &kind, text.as_bytes())
                                .is_ok_and(|answer| answer.status == 201)
                            {
                                break;
                            }
                            done.push((tag, Digest::of(text.as_bytes()), vec![digest]));
                        }
                        done
                    })
                })
                .collect();
            // In the middle of a body, too.
            let mut half = TcpStream::connect(process.address).unwrap();
            write!(
                half,
                "PATCH {} HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nhalf",
                c.begin("k/half")
            )
            .unwrap();
            std::thread::sleep(std::time::Duration::from_millis(700));
            process.kill();
            stop.store(true, Ordering::Relaxed);
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
        });
        acknowledged.extend(done);
        upload = Some(location);
    }
    assert!(!acknowledged.is_empty());
}

#[test]
fn a_disk_without_room_loses_nothing() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("full");
    std::fs::create_dir(&dir).unwrap();
    let mounted =
        nix::mount::mount(Some("none"), &dir, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("size=16m"));
    mounted.expect("tests need root");
    {
        let process = Process::start(&dir.join("registry"), &json!({}));
        let c = process.client();
        let kept = c.push_image("full/a", "one", &[&noise(1, 4 << 20)]);
        let location = c.begin("full/a");
        c.ask("PATCH", &location, &[], &noise(2, 20 << 20)).is(507);
        // Reading goes on, and what came so far can go on or be dropped.
        c.get("/v2/full/a/manifests/one").is(200);
        c.ask("DELETE", &location, &[], b"").is(204);
        let second = c.push_image("full/a", "two", &[&noise(3, 1 << 20)]);
        process.kill();
        let process = Process::start(&dir.join("registry"), &json!({}));
        for (tag, digest) in [("one", kept), ("two", second)] {
            assert_eq!(
                Digest::of(&process.client().get(&format!("/v2/full/a/manifests/{tag}")).is(200).body),
                digest
            );
        }
        process.kill();
    }
    nix::mount::umount(&dir).unwrap();
}
