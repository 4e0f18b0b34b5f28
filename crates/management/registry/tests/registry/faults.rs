//! Clients that mean harm or are broken: nothing is lost, nothing grows, others are served on.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use sampan_registry::Digest;
use serde_json::json;

use crate::support::{MANIFEST, Server, eventually, noise, read_answer};

#[test]
fn slow_clients_are_let_go_and_others_are_served() {
    let server = Server::start(|options| {
        options.limits.head = Duration::from_millis(600);
        options.limits.stall = Duration::from_millis(600);
        options.limits.connections_per_address = 40;
    });
    let c = server.client();
    let big = noise(1, 64 << 20);
    let digest = c.push_blob("a/b", &big);
    let location = c.begin("a/b");
    // A head that never ends.
    let mut heads: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    heads.iter_mut().for_each(|stream| stream.write_all(b"GET /v2/ HTTP/1.1\r\nhost: x\r\nx-a: ").unwrap());
    // A body that never ends.
    let mut body = TcpStream::connect(server.address).unwrap();
    write!(body, "PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\nsome").unwrap();
    // A reader that does not read.
    let mut reader = TcpStream::connect(server.address).unwrap();
    write!(reader, "GET /v2/a/b/blobs/{digest} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    c.get("/v2/").is(200);
    for stream in &mut heads {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // Closed, with or without an answer.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert_eq!(read_answer(&mut body, false).unwrap().status, 408);
    drop(body);
    eventually("only the asking connection is open", || {
        let said = String::from_utf8(c.get("/metrics").is(200).body).unwrap();
        said.contains("sampan_registry_connections 1\n")
    });
    drop(reader);
    // What came of the body is there.
    assert_eq!(c.get(&location).is(204).header("range"), "0-3");
    // More of one address than it may have are closed.
    let many: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    let closed = many.iter().filter(|stream| {
        stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        matches!((&mut &**stream).read(&mut [0]), Ok(0))
    });
    assert!(closed.count() >= 15);
    drop(many);
    eventually("it serves on", || {
        c.try_ask("GET", "/v2/", &[], b"").is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn hostile_paths_names_and_heads() {
    let server = Server::start(|_| {});
    let c = server.client();
    for path in [
        "/v2/../../etc/passwd",
        "/v2/a/b/blobs/uploads/../../../../etc/passwd",
        "/v2/a%2F..%2F..%2Fb/manifests/x",
        "/v2/a/b/manifests/..%2F..%2Fx",
        "/v2/%00/manifests/x",
        "/v2/%ff%fe/manifests/x",
        "/v2//manifests/x",
        "/v2/a/b/blobs/sha256:../../../../../../etc/passwd",
        "/etc/passwd",
    ] {
        let answer = c.get(path);
        assert!(matches!(answer.status, 400 | 404), "{path}: {answer:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("root:"), "{path}");
    }
    c.ask("POST", "/v2/a/../b/blobs/uploads/", &[], b"").refused(400, "NAME_INVALID");
    c.ask("POST", &format!("/v2/{}/blobs/uploads/", "a/".repeat(200) + "b"), &[], b"")
        .refused(400, "NAME_INVALID");
    let long = "x".repeat(100_000);
    let answer = c.try_ask("GET", "/v2/", &[("x-long", &long)], b"");
    assert!(answer.is_err() || answer.unwrap().status == 431);
    // A document that nests deeper than anybody reads.
    let deep = format!("{{\"schemaVersion\":2,\"config\":{}{}}}", "[".repeat(500_000), "]".repeat(500_000));
    c.ask("PUT", "/v2/a/b/manifests/deep", &[("content-type", MANIFEST)], deep.as_bytes())
        .refused(400, "MANIFEST_INVALID");
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(&noise(9, 100_000)).ok();
    let _ = stream.read_to_end(&mut Vec::new());
    c.get("/v2/").is(200);
}

#[test]
fn uploads_that_break_go_on_where_they_were_and_are_bounded() {
    let server = Server::start(|options| {
        options.limits.uploads = 3;
        options.limits.blob_bytes = 1 << 20;
    });
    let c = server.client();
    let blob = noise(1, 500_000);
    let location = c.begin("a/b");
    // The client goes away in the middle.
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(stream, "PATCH {location} HTTP/1.1\r\nhost: x\r\ncontent-length: 500000\r\n\r\n").unwrap();
    stream.write_all(&blob[..200_000]).unwrap();
    let nowhere = || c.ask("PATCH", &location, &[("content-range", "9000000-9000000")], b"x").status;
    eventually("it is heard", || nowhere() == 409);
    drop(stream);
    let at =
        || c.get(&location).is(204).header("range").trim_start_matches("0-").parse::<usize>().unwrap() + 1;
    // What it wrote last may be lost with it; the status says what is there.
    eventually("nobody writes any more", || nowhere() == 416);
    let there = if at() == 1 { 0 } else { at() };
    assert!(there <= 200_000);
    let rest =
        c.ask("PATCH", &location, &[("content-range", &format!("{there}-499999"))], &blob[there..]).is(202);
    c.ask("PUT", &format!("{}?digest={}", rest.header("location"), Digest::of(&blob)), &[], b"").is(201);
    assert_eq!(c.get(&format!("/v2/a/b/blobs/{}", Digest::of(&blob))).is(200).body, blob);
    // Too large; too many.
    let location = c.begin("a/b");
    c.ask("PATCH", &location, &[], &noise(2, (1 << 20) + 1)).refused(400, "SIZE_INVALID");
    c.begin("a/b");
    c.begin("a/b");
    let refused = c.ask("POST", "/v2/a/b/blobs/uploads/", &[], b"").refused(429, "TOOMANYREQUESTS");
    refused.header("retry-after");
    c.ask("DELETE", &location, &[], b"").is(204);
    c.begin("a/b");
}

#[test]
fn concurrent_pushes_of_one_tag_and_deletes_during_pulls() {
    let server = Server::start(|_| {});
    let c = server.client();
    let config = c.push_blob("a/b", b"{}");
    let shared = noise(7, 100_000);
    std::thread::scope(|scope| {
        for worker in 0..8_u32 {
            let (c, config, shared) = (c.clone(), config.clone(), &shared);
            scope.spawn(move || {
                for round in 0..10_u32 {
                    // All push the same layer, and a manifest of their own under the same tag.
                    let layer = c.push_blob("a/b", shared);
                    let manifest = json!({
                        "schemaVersion": 2,
                        "config": { "digest": config, "size": 2, "mediaType": "x/y" },
                        "layers": [{ "digest": layer, "size": shared.len(), "mediaType": "x/y" }],
                        "annotations": { "of": format!("{worker} {round}") },
                    });
                    c.put_manifest("a/b", "latest", MANIFEST, &manifest).is(201);
                }
            });
        }
    });
    let latest = c.get("/v2/a/b/manifests/latest").is(200);
    assert_eq!(Digest::of(&latest.body).to_string(), latest.header("docker-content-digest"));
    // A blob that is being read is read to its end, whatever happens to it.
    let big = noise(8, 48 << 20);
    let digest = c.push_blob("a/c", &big);
    let mut reader = TcpStream::connect(server.address).unwrap();
    write!(reader, "GET /v2/a/c/blobs/{digest} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut first = [0; 1];
    reader.read_exact(&mut first).unwrap();
    c.ask("DELETE", &format!("/v2/a/c/blobs/{digest}"), &[], b"").is(202);
    server.collect(false);
    assert!(!server.dir.join(format!("blobs/sha256/{}/{}", &digest.hex()[..2], digest.hex())).exists());
    let answer = read_answer(&mut (&first[..]).chain(reader), false).unwrap();
    assert_eq!(Digest::of(&answer.body), digest);
}

#[test]
fn pushers_that_go_away_leave_nothing_half_done() {
    let server = Server::start(|_| {});
    let c = server.client();
    let layer = c.push_blob("a/b", b"layer");
    let descriptor = json!({ "mediaType": "application/octet-stream", "digest": layer, "size": 5 });
    for n in 0..60 {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor, "layers": [], "annotations": { "n": n.to_string() }
        });
        let (body, blob) = (manifest.to_string(), noise(100 + n, 2000));
        // Sent whole, and gone: at some of them in the middle of what follows.
        let mut stream = TcpStream::connect(server.address).unwrap();
        let put = format!(
            "PUT /v2/a/b/manifests/t{n} HTTP/1.1\r\nhost: x\r\ncontent-type: {MANIFEST}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(put.as_bytes()).unwrap();
        let mut other = TcpStream::connect(server.address).unwrap();
        let post = format!(
            "POST /v2/a/b/blobs/uploads/?digest={} HTTP/1.1\r\nhost: x\r\ncontent-length: 2000\r\n\r\n",
            Digest::of(&blob)
        );
        other.write_all(&[post.as_bytes(), &blob].concat()).unwrap();
        std::thread::sleep(Duration::from_micros(n * 50));
    }
    // Not all came. What is there is whole, also after a collection of everything that is not counted.
    server.collect(false);
    let tags = c.get("/v2/a/b/tags/list").is(200).json();
    let tags = tags["tags"].as_array().unwrap();
    assert!(!tags.is_empty());
    for tag in tags {
        c.get(&format!("/v2/a/b/manifests/{}", tag.as_str().unwrap())).is(200);
    }
}
