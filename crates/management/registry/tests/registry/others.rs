//! Other registries: proxied projects, replication both ways; and those who are told.

use std::{
    io::{Read, Write},
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sampan_registry::Digest;
use serde_json::{Value, json};

use crate::support::{INDEX, MANIFEST, Process, Server, eventually, noise};

/// Counts what a registry was asked for, from its metrics.
fn asked(server: &Server, route: &str) -> u64 {
    let said = String::from_utf8(server.client().get("/metrics").is(200).body).unwrap();
    let lines = said
        .lines()
        .filter(|line| line.starts_with(&format!("sampan_registry_requests_total{{route=\"{route}\"")));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn a_proxied_project_fetches_once_keeps_and_serves_when_the_upstream_is_gone() {
    let upstream_dir = tempfile::tempdir().unwrap();
    let upstream = Server::on(&upstream_dir.path().join("up"), |_| {});
    let u = upstream.client();
    let layer = noise(1, 6 << 20);
    let digest = u.push_image("lib/app", "v1", &[&layer]);
    let server = Server::start(|_| {});
    let proxy = json!({ "name": "hub", "proxy": { "upstream": format!("http://{}", upstream.host()), "freshSeconds": 0 } });
    server.admin("POST", "projects", proxy).is(201);
    let c = server.client();
    let before = asked(&upstream, "blob");
    let blob = format!("/v2/hub/lib/app/blobs/{}", Digest::of(&layer));
    assert_eq!(c.ask("HEAD", &blob, &[], b"").is(200).header("content-length"), layer.len().to_string());
    // Many at a time: one download.
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                assert_eq!(Digest::of(&c.get("/v2/hub/lib/app/manifests/v1").is(200).body), digest);
                assert!(c.get(&blob).is(200).body == layer);
            });
        }
    });
    let gets = asked(&upstream, "blob") - before;
    // One HEAD and one GET.
    assert_eq!(gets, 2);
    let part = c.ask("GET", &blob, &[("range", "bytes=5-9")], b"").is(206);
    assert_eq!(part.body, layer[5..10]);
    // A tag that moved there moves here.
    let moved = u.push_image("lib/app", "v1", &[b"newer"]);
    assert_eq!(Digest::of(&c.get("/v2/hub/lib/app/manifests/v1").is(200).body), moved);
    assert_eq!(c.get("/v2/hub/lib/app/tags/list").is(200).json()["tags"], json!(["v1"]));
    c.get("/v2/hub/lib/app/manifests/none").refused(404, "MANIFEST_UNKNOWN");
    c.ask("POST", "/v2/hub/lib/app/blobs/uploads/", &[], b"").refused(403, "DENIED");
    // Damage here is healed from there.
    upstream.stop();
    // The upstream is gone: what is kept is served.
    assert_eq!(Digest::of(&c.get("/v2/hub/lib/app/manifests/v1").is(200).body), moved);
    assert_eq!(Digest::of(&c.get(&format!("/v2/hub/lib/app/manifests/{digest}")).is(200).body), digest);
    assert!(c.get(&blob).is(200).body == layer);
    assert_eq!(c.get("/v2/hub/lib/app/tags/list").is(200).json()["tags"], json!(["v1"]));
    c.get("/v2/hub/lib/app/manifests/other").refused(503, "UNAVAILABLE");
}

#[test]
fn an_upstream_that_lies_or_wants_a_password() {
    // It says every blob is the same noise, and every manifest something else.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer);
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nlies");
        }
    });
    let server = Server::start(|_| {});
    let c = server.client();
    server
        .admin(
            "POST",
            "projects",
            json!({ "name": "liar", "proxy": { "upstream": format!("http://{address}") } }),
        )
        .is(201);
    let digest = Digest::of(b"truth");
    let got = c.try_ask("GET", &format!("/v2/liar/a/blobs/{digest}"), &[], b"");
    assert!(got.is_err() || got.unwrap().body != b"truth");
    c.get(&format!("/v2/liar/a/manifests/{digest}")).refused(503, "UNAVAILABLE");
    // Nothing of it is kept.
    assert_eq!(server.admin("GET", "status", Value::Null).is(200).json()["contents"], 0);

    let private = Server::start(|options| options.open = false);
    let password = std::fs::read_to_string(private.dir.join("admin-password")).unwrap();
    let admin = Server::client(&private).basic("admin", password.trim());
    let image = admin.push_image("secret/app", "v1", &[b"layer"]);
    let mirror = "http://127.0.0.1:1";
    for (name, user, status) in [("bad", "", 403), ("good", "admin", 200)] {
        let upstream = format!("http://{}/secret", private.host());
        let proxy = json!({ "upstream": upstream, "mirrors": [mirror], "username": user, "password": password.trim() });
        server.admin("POST", "projects", json!({ "name": name, "proxy": proxy })).is(201);
        let got = c.get(&format!("/v2/{name}/app/manifests/v1")).is(status);
        assert!(status != 200 || Digest::of(&got.body) == image);
    }
    assert!(c.get("/api/v1/projects").is(200).body.windows(10).all(|w| w != &password.as_bytes()[..10]));
}

#[test]
fn rules_copy_images_with_all_that_belongs_to_them_both_ways() {
    let (left, right) = (Server::start(|_| {}), Server::start(|_| {}));
    let (l, r) = (left.client(), right.client());
    // An index of two images, and a signature of one of them.
    let one = l.push_image("team/app", "amd64", &[&noise(1, 300_000)]);
    let two = l.push_image("team/app", "arm64", &[&noise(2, 300_000)]);
    let size = |digest: &Digest| l.get(&format!("/v2/team/app/manifests/{digest}")).is(200).body.len();
    let child = |digest: &Digest| json!({ "mediaType": MANIFEST, "digest": digest, "size": size(digest) });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [child(&one), child(&two)] });
    let config = l.push_blob("team/app", b"{}");
    let signature = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "sig", "config": { "digest": config, "size": 2, "mediaType": "x/y" }, "layers": [], "subject": child(&one) });
    let signed = Digest::of(signature.to_string().as_bytes()).to_string();
    l.put_manifest("team/app", &signed, MANIFEST, &signature).is(201);
    let rule = json!({ "mode": "push", "remote": format!("http://{}", right.host()), "prefix": "copy/", "filter": { "repositories": ["team/*"], "tags": ["v*"] }, "schedule": { "onPush": true }, "deletions": true });
    left.admin("PUT", "replications/out", rule).is(200);
    l.put_manifest("team/app", "v1", INDEX, &index).is(201);
    l.put_manifest("team/app", "dev", INDEX, &index).is(201);
    eventually("the push arrived", || r.get("/v2/copy/team/app/manifests/v1").status == 200);
    assert_eq!(
        r.get(&format!("/v2/copy/team/app/blobs/{}", Digest::of(&noise(2, 300_000)))).is(200).body.len(),
        300_000
    );
    assert_eq!(
        r.get(&format!("/v2/copy/team/app/referrers/{one}")).is(200).json()["manifests"][0]["digest"],
        signed
    );
    assert_eq!(r.get("/v2/copy/team/app/tags/list").is(200).json()["tags"], json!(["v1"]));
    let done = left.admin("POST", "replications/out/run", Value::Null).is(201).json();
    assert_eq!((&done["copied"], &done["unchanged"], &done["failures"]), (&json!(0), &json!(1), &json!([])));
    // What signs the index comes later, and goes there too: it has no tag, and what it is about has one.
    let mut later = signature.clone();
    later["subject"] = json!({ "mediaType": INDEX, "digest": Digest::of(index.to_string().as_bytes()), "size": index.to_string().len() });
    let late = Digest::of(later.to_string().as_bytes());
    l.put_manifest("team/app", &late.to_string(), MANIFEST, &later).is(201);
    eventually("the later signature arrived", || {
        r.get(&format!("/v2/copy/team/app/manifests/{late}")).status == 200
    });
    l.ask("DELETE", "/v2/team/app/manifests/v1", &[], b"").is(202);
    eventually("so did the deletion", || r.get("/v2/copy/team/app/manifests/v1").status == 404);

    // The other way, by the clock, not faster than it may.
    let rule = json!({ "mode": "pull", "remote": format!("http://{}", right.host()), "prefix": "from/", "filter": { "repositories": ["src/**"] }, "schedule": { "everySeconds": 1 }, "bandwidth": 400_000 });
    let big = noise(3, 1_000_000);
    let image = r.push_image("src/deep/image", "x", &[&big]);
    r.push_image("not/this", "x", &[b"no"]);
    let begun = Instant::now();
    left.admin("PUT", "replications/in", rule).is(200);
    eventually("it was fetched", || l.get("/v2/from/src/deep/image/manifests/x").status == 200);
    assert!(
        begun.elapsed() > Duration::from_secs(2),
        "a megabyte at 400 kB/s takes longer: {:?}",
        begun.elapsed()
    );
    assert_eq!(Digest::of(&l.get("/v2/from/src/deep/image/manifests/x").body), image);
    l.get("/v2/from/not/this/manifests/x").is(404);
    // Signatures of what is here already come along at the next time.
    let config = r.push_blob("src/deep/image", b"{}");
    let length = r.get("/v2/src/deep/image/manifests/x").is(200).body.len();
    let signature = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "sig", "config": { "digest": config, "size": 2, "mediaType": "x/y" }, "layers": [], "subject": { "mediaType": MANIFEST, "digest": image, "size": length } });
    let signed = Digest::of(signature.to_string().as_bytes());
    r.put_manifest("src/deep/image", &signed.to_string(), MANIFEST, &signature).is(201);
    eventually("the signature was fetched", || {
        l.get(&format!("/v2/from/src/deep/image/manifests/{signed}")).status == 200
    });
    // An end that fails is said.
    left.admin("PUT", "replications/in", json!({ "mode": "pull", "remote": "http://127.0.0.1:1" })).is(200);
    left.admin("POST", "replications/in/run", Value::Null).refused(503, "UNAVAILABLE");
    assert!(
        !left.admin("GET", "replications/in", Value::Null).is(200).json()["last"]["failures"]
            .as_array()
            .unwrap()
            .is_empty()
    );
    left.admin("PUT", "replications/bad", json!({ "remote": "ftp://x" })).refused(400, "UNSUPPORTED");
}

#[test]
fn webhooks_are_told_again_until_they_listen() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (heard, count) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU64::new(0)));
    let (said, counted) = (heard.clone(), count.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"}") {
                match stream.read(&mut buffer) {
                    Ok(0) | Err(_) => break,
                    Ok(read) => request.extend_from_slice(&buffer[..read]),
                }
            }
            let first = counted.fetch_add(1, Ordering::Relaxed) == 0;
            let status = if first { "503 No" } else { "200 OK" };
            let _ = stream.write_all(
                format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes(),
            );
            if !first {
                said.lock().unwrap().push(String::from_utf8(request).unwrap());
            }
        }
    });
    let server = Server::start(|_| {});
    let c = server.client();
    server.admin("POST", "projects", json!({ "name": "p" })).is(201);
    let hook = json!({ "url": format!("http://{address}/hook"), "events": ["push", "delete"], "secret": "shared", "authorization": "Bearer me" });
    server.admin("PUT", "projects/p/webhooks/ci", hook).is(200);
    server.admin("PUT", "projects/p/webhooks/bad", json!({ "url": "nowhere" })).refused(400, "UNSUPPORTED");
    let digest = c.push_image("p/app", "v1", &[b"x"]);
    c.push_image("other/app", "v1", &[b"x"]);
    c.get("/v2/p/app/manifests/v1").is(200);
    c.ask("DELETE", &format!("/v2/p/app/manifests/{digest}"), &[], b"").is(202);
    eventually("both were heard", || heard.lock().unwrap().len() >= 2);
    let heard = heard.lock().unwrap();
    assert_eq!(heard.len(), 2, "{heard:?}");
    let push = heard.iter().find(|text| text.contains("\"push\"")).unwrap();
    let (head, body) = push.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("authorization: Bearer me") && head.starts_with("POST /hook"), "{head}");
    let signature = head.lines().find_map(|line| line.strip_prefix("x-sampan-signature: ")).unwrap();
    let mut openssl = std::process::Command::new("openssl")
        .args(["dgst", "-sha256", "-hmac", "shared", "-r"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(body.as_bytes()).unwrap();
    let expected = String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(expected.split(' ').next(), Some(signature));
    let event: Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (&event["repository"], &event["tag"], &event["digest"]),
        (&json!("p/app"), &json!("v1"), &json!(digest))
    );
}

#[test]
fn a_killed_process_leaves_its_socket_and_the_next_one_takes_it() {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().join("registry");
    Process::start(&dir, &json!({})).kill();
    let server = Server::on(&dir, |_| {});
    server.admin("GET", "status", Value::Null).is(200);
    server.stop();
}
