//! `kill -9` in the middle of everything, and a disk without room.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sampan_registry::Digest;
use serde_json::{Value, json};

use crate::support::{Process, Server, eventually, noise};

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
            std::thread::sleep(Duration::from_millis(700));
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

/// Tags of pushes that a webhook's receiver accepted. It refuses everything until `willing`.
fn receiver(willing: &Arc<AtomicBool>) -> (String, Arc<Mutex<HashSet<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let heard = Arc::new(Mutex::new(HashSet::new()));
    let (said, willing) = (heard.clone(), willing.clone());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"}") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => request.extend_from_slice(&buffer[..read]),
                }
            }
            let willing = willing.load(Ordering::Relaxed);
            let status = if willing { "200 OK" } else { "503 No" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
            let body = request.iter().position(|byte| *byte == b'{').map_or(&[][..], |at| &request[at..]);
            if let (true, Ok(event)) = (willing, serde_json::from_slice::<Value>(body)) {
                said.lock().unwrap().insert(event["tag"].as_str().unwrap_or_default().to_owned());
            }
        }
    });
    (url, heard)
}

#[test]
fn pushes_are_told_to_webhooks_and_other_registries_after_a_kill() {
    let keep = tempfile::tempdir().unwrap();
    let (dir, other) = (keep.path().join("registry"), keep.path().join("other"));
    let willing = Arc::new(AtomicBool::new(false));
    let (url, heard) = receiver(&willing);
    // The other registry is away at first.
    let remote = Server::on(&other, |_| {});
    let address = remote.address;
    remote.stop();
    let process = Process::start(&dir, &json!({}));
    let c = process.client();
    let admin = |method: &str, path: &str, body: Value| {
        c.ask(method, &format!("/api/v1/{path}"), &[], body.to_string().as_bytes())
    };
    admin("POST", "projects", json!({ "name": "p" })).is(201);
    admin("PUT", "projects/p/webhooks/ci", json!({ "url": url, "events": ["push"] })).is(200);
    admin("PUT", "projects/p/webhooks/gone", json!({ "url": url, "events": ["delete"] })).is(200);
    let rule = json!({ "remote": format!("http://{address}"), "schedule": { "onPush": true },
        "filter": { "tags": ["t0-0"] } });
    admin("PUT", "replications/out", rule).is(200);
    let config = c.push_blob("p/app", b"{}");
    let (stop, first) = (AtomicBool::new(false), AtomicBool::new(false));
    let acknowledged: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (c, config, stop, first) = (c.clone(), config.clone(), &stop, &first);
                scope.spawn(move || {
                    let mut done = Vec::new();
                    for n in 0.. {
                        let tag = format!("t{worker}-{n}");
                        let config = json!({ "digest": config, "size": 2, "mediaType": "x/y" });
                        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [],
                            "annotations": { "tag": tag } });
                        let (path, text) = (format!("/v2/p/app/manifests/{tag}"), manifest.to_string());
                        let kind = [("content-type", crate::support::MANIFEST)];
                        let answer = c.try_ask("PUT", &path, &kind, text.as_bytes());
                        if stop.load(Ordering::Relaxed) || !answer.is_ok_and(|answer| answer.status == 201) {
                            break;
                        }
                        first.fetch_or(worker == 0, Ordering::Relaxed);
                        done.push(tag);
                    }
                    done
                })
            })
            .collect();
        eventually("the first push was acknowledged", || first.load(Ordering::Relaxed));
        std::thread::sleep(Duration::from_millis(300));
        process.kill();
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(acknowledged.iter().any(|tag| tag == "t0-0"), "{acknowledged:?}");
    assert!(heard.lock().unwrap().is_empty());
    willing.store(true, Ordering::Relaxed);
    let remote = Server::on(&other, |options| options.listen = vec![address]);
    let process = Process::start(&dir, &json!({}));
    eventually("all that was acknowledged was told", || {
        let heard = heard.lock().unwrap();
        acknowledged.iter().all(|tag| heard.contains(tag))
    });
    eventually("the image was copied", || remote.client().get("/v2/p/app/manifests/t0-0").status == 200);
    // What was told waits no more.
    eventually("nothing waits", || {
        let metrics = process.client().get("/metrics").is(200);
        String::from_utf8(metrics.body).unwrap().contains("events_waiting 0\n")
    });
    process.kill();
}
