//! Collecting while others push, pull and delete.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sampan_registry::Digest;
use serde_json::json;

use crate::support::{Server, disk, noise};

#[test]
fn nothing_is_lost_or_refused_under_load_and_space_is_freed() {
    let server = Server::start(|_| {});
    let c = server.client();
    let base = noise(1, 200_000);
    let stop = AtomicBool::new(false);
    let (pushed, refused) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    let live: Mutex<BTreeMap<String, (Digest, Digest)>> = Mutex::default();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for worker in 0..3_u64 {
            let (c, base, stop, pushed, live, refused) = (c.clone(), &base, &stop, &pushed, &live, &refused);
            scope.spawn(move || {
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let layer = noise(worker << 32 | n, 60_000);
                    let (tag, name) = (format!("w{worker}-{n}"), format!("load/r{}", n % 3));
                    // All share a base layer, which the last deletion of a round frees at the same moment.
                    let digest = c.push_image(&name, &tag, &[base, &layer]);
                    pushed.fetch_add(1, Ordering::Relaxed);
                    live.lock()
                        .unwrap()
                        .insert(format!("{name}:{tag}"), (digest.clone(), Digest::of(&layer)));
                    if n % 3 != 0 {
                        live.lock().unwrap().remove(&format!("{name}:{tag}"));
                        let answer = c.ask("DELETE", &format!("/v2/{name}/manifests/{digest}"), &[], b"");
                        if answer.status != 202 {
                            refused.lock().unwrap().push(format!("{answer:?}"));
                        }
                    }
                }
            });
        }
        let (reader, live, stop, refused) = (c.clone(), &live, &stop, &refused);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let some = live
                    .lock()
                    .unwrap()
                    .iter()
                    .next_back()
                    .map(|(name, digests)| (name.clone(), digests.clone()));
                let Some((name, (digest, layer))) = some else { continue };
                let (repository, _) = name.split_once(':').unwrap();
                for path in [
                    format!("/v2/{repository}/manifests/{digest}"),
                    format!("/v2/{repository}/blobs/{layer}"),
                ] {
                    let answer = reader.get(&path);
                    // It may have been deleted between the look and the request.
                    if answer.status != 200 && live.lock().unwrap().contains_key(&name) {
                        refused.lock().unwrap().push(format!("{path}: {answer:?}"));
                    }
                }
            }
        });
        // Longer than one push takes on a machine that does many things at once.
        while begun.elapsed() < Duration::from_secs(40) {
            server.admin("POST", "gc", json!({ "graceSeconds": 20 })).is(201);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(refused.lock().unwrap().is_empty(), "{:?}", refused.lock().unwrap());
    let before = disk(&server.dir.join("blobs"));
    // What is unlinked in one run is collected in the next.
    server.collect(false);
    let report = server.collect(false);
    let live = live.into_inner().unwrap();
    assert!(pushed.load(Ordering::Relaxed) > 10 && !live.is_empty());
    for (name, (digest, layer)) in &live {
        let (repository, tag) = name.split_once(':').unwrap();
        assert_eq!(Digest::of(&c.get(&format!("/v2/{repository}/manifests/{tag}")).is(200).body), *digest);
        assert_eq!(Digest::of(&c.get(&format!("/v2/{repository}/blobs/{layer}")).is(200).body), *layer);
        assert_eq!(
            Digest::of(&c.get(&format!("/v2/{repository}/blobs/{}", Digest::of(&base))).is(200).body),
            Digest::of(&base)
        );
    }
    // What is on the disk is what is live: layers, one base, configs and manifests of about half a kilobyte.
    let after = disk(&server.dir.join("blobs"));
    let most = live.len() as u64 * (60_000 + 2_000) + 200_000;
    assert!(after <= most, "{after} bytes for {} images; {before} before; {report}", live.len());
    // And nothing is left when everything goes.
    for (name, (digest, _)) in &live {
        let (repository, _) = name.split_once(':').unwrap();
        c.ask("DELETE", &format!("/v2/{repository}/manifests/{digest}"), &[], b"").is(202);
    }
    server.collect(false);
    server.collect(false);
    assert_eq!(disk(&server.dir.join("blobs")), 0);
    assert_eq!(server.admin("GET", "projects/load", json!(null)).is(200).json()["used"], 0);
}

#[test]
fn what_nobody_finished_goes_after_its_time_and_rules_keep_what_they_say() {
    let server = Server::start(|options| options.upkeep.upload_age = Duration::from_secs(0));
    let c = server.client();
    let location = c.begin("p/x");
    c.ask("PATCH", &location, &[], b"half").is(202);
    let lone = c.push_blob("p/x", b"lone");
    let mut digests = Vec::new();
    for tag in ["v1", "v2", "v3", "keep"] {
        digests.push(c.push_image("p/x", tag, &[tag.as_bytes()]));
        // Tags are ordered by the second they were pushed in.
        std::thread::sleep(Duration::from_millis(1100));
    }
    let rules = json!({ "retention": { "rules": [{ "tags": "v*", "newest": 1 }], "untaggedDays": 0 }, "immutable": ["v1"] });
    server.admin("PATCH", "projects/p", rules).is(200);
    c.put_manifest(
        "p/x",
        "v1",
        crate::support::MANIFEST,
        &serde_json::from_slice(&c.get("/v2/p/x/manifests/v2").body).unwrap(),
    )
    .refused(403, "DENIED");
    c.ask("DELETE", "/v2/p/x/manifests/v1", &[], b"").refused(403, "DENIED");
    c.ask("DELETE", &format!("/v2/p/x/manifests/{}", digests[0]), &[], b"").refused(403, "DENIED");
    let report = server.collect(false);
    assert_eq!((report["uploads"].as_u64(), report["images"].as_u64()), (Some(1), Some(2)), "{report}");
    c.get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");
    c.get(&format!("/v2/p/x/blobs/{lone}")).refused(404, "BLOB_UNKNOWN");
    assert_eq!(c.get("/v2/p/x/tags/list").json()["tags"], json!(["keep", "v1", "v3"]));
    c.get(&format!("/v2/p/x/manifests/{}", digests[1])).refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(server.admin("GET", "gc", json!(null)).is(200).json()["images"], 2);
}
