//! What the OCI distribution conformance suite checks, under the same headings. `docs/registry-conformance.md` lists
//! which test stands for which check.

use sampan_registry::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::support::{INDEX, MANIFEST, Server, noise};

fn descriptor(kind: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": Digest::of(bytes), "size": bytes.len() })
}

fn config() -> (Vec<u8>, Value) {
    let bytes = br#"{"architecture":"amd64","os":"linux"}"#.to_vec();
    let descriptor = descriptor("application/vnd.oci.image.config.v1+json", &bytes);
    (bytes, descriptor)
}

#[test]
fn referrers_come_in_pages_and_each_once() {
    let server = Server::start(|options| options.limits.page = 2);
    let c = server.client();
    let (bytes, config) = config();
    c.push_blob("org/repo", &bytes);
    let bare = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [] });
    c.put_manifest("org/repo", "subject", MANIFEST, &bare).is(201);
    let subject = descriptor(MANIFEST, bare.to_string().as_bytes());
    let digest: Digest = subject["digest"].as_str().unwrap().parse().unwrap();
    let mut expected = Vec::new();
    for by in 0..4 {
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/x", "config": config, "layers": [], "subject": subject, "annotations": { "by": by.to_string() } });
        let text = manifest.to_string();
        c.put_manifest("org/repo", &Digest::of(text.as_bytes()).to_string(), MANIFEST, &manifest).is(201);
        expected.push(descriptor(MANIFEST, text.as_bytes()));
    }
    // A client without the API wrote down what is known, and the subject itself.
    let kept: Vec<Value> = expected.iter().cloned().chain([subject.clone()]).collect();
    let kept = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": kept });
    c.put_manifest("org/repo", &digest.to_string().replace(':', "-"), INDEX, &kept).is(201);
    let (mut seen, mut pages) = (Vec::new(), 0);
    let mut path = format!("/v2/org/repo/referrers/{digest}");
    loop {
        let page = c.get(&path).is(200);
        pages += 1;
        let list = page.json();
        let digests = list["manifests"].as_array().unwrap().iter().map(|found| found["digest"].to_string());
        seen.extend(digests);
        let Some(link) = page.headers.get("link") else { break };
        path = link[1..].split('>').next().unwrap().to_owned();
    }
    expected.push(subject);
    let mut expected: Vec<String> = expected.iter().map(|found| found["digest"].to_string()).collect();
    expected.sort();
    seen.sort();
    assert_eq!((seen, pages), (expected, 2));
}

#[test]
fn pull() {
    let server = Server::start(|_| {});
    let c = server.client();
    let (config_bytes, config) = config();
    c.push_blob("org/repo", &config_bytes);
    let layer = noise(1, 5000);
    let digest = c.push_blob("org/repo", &layer);
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)] });
    c.put_manifest("org/repo", "tagtest0", MANIFEST, &manifest).is(201);
    let manifest_digest = Digest::of(manifest.to_string().as_bytes());

    // Blobs.
    c.ask(
        "HEAD",
        "/v2/org/repo/blobs/sha256:0000000000000000000000000000000000000000000000000000000000000000",
        &[],
        b"",
    )
    .is(404);
    let head = c.ask("HEAD", &format!("/v2/org/repo/blobs/{digest}"), &[], b"").is(200);
    assert_eq!(
        (head.header("docker-content-digest"), head.header("content-length")),
        (&*digest.to_string(), "5000")
    );
    let missing = Digest::of(b"nowhere");
    c.get(&format!("/v2/org/repo/blobs/{missing}")).refused(404, "BLOB_UNKNOWN");
    assert_eq!(c.get(&format!("/v2/org/repo/blobs/{digest}")).is(200).body, layer);
    // Another repository does not have it.
    c.get(&format!("/v2/org/other/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
    // Ranges.
    let part =
        c.ask("GET", &format!("/v2/org/repo/blobs/{digest}"), &[("range", "bytes=100-199")], b"").is(206);
    assert_eq!((part.header("content-range"), &part.body[..]), ("bytes 100-199/5000", &layer[100..200]));
    let part = c.ask("GET", &format!("/v2/org/repo/blobs/{digest}"), &[("range", "bytes=-10")], b"").is(206);
    assert_eq!(part.body, layer[4990..]);
    let none =
        c.ask("GET", &format!("/v2/org/repo/blobs/{digest}"), &[("range", "bytes=5000-")], b"").is(416);
    assert_eq!(none.header("content-range"), "bytes */5000");

    // Manifests, by tag and by digest.
    c.ask("HEAD", "/v2/org/repo/manifests/.INVALID_MANIFEST_NAME", &[], b"").is(404);
    c.get("/v2/org/repo/manifests/.INVALID_MANIFEST_NAME").refused(404, "MANIFEST_UNKNOWN");
    c.get("/v2/org/repo/manifests/none").refused(404, "MANIFEST_UNKNOWN");
    for reference in ["tagtest0", &manifest_digest.to_string()] {
        let head = c.ask("HEAD", &format!("/v2/org/repo/manifests/{reference}"), &[], b"").is(200);
        assert_eq!(head.header("docker-content-digest"), manifest_digest.to_string());
        assert_eq!(head.header("content-length"), manifest.to_string().len().to_string());
        let got = c.get(&format!("/v2/org/repo/manifests/{reference}")).is(200);
        assert_eq!((got.header("content-type"), &got.body[..]), (MANIFEST, manifest.to_string().as_bytes()));
    }
    // A colon may come encoded.
    c.get(&format!("/v2/org/repo/manifests/{}", manifest_digest.to_string().replace(':', "%3A"))).is(200);

    // Error codes: structure and names.
    c.get("/v2/org/repo/manifests/sha256:totallywrong").refused(400, "DIGEST_INVALID");
    c.get("/v2/Org/repo/manifests/x").refused(400, "NAME_INVALID");
    c.get("/v2/org/../repo/manifests/x").refused(400, "NAME_INVALID");
    c.get("/v2/unknown/manifests/x").refused(404, "NAME_UNKNOWN");
    let base = c.get("/v2/").is(200);
    assert_eq!(base.header("docker-distribution-api-version"), "registry/2.0");
}

#[test]
fn push_blobs() {
    let server = Server::start(|_| {});
    let c = server.client();
    let blob = noise(2, 300_000);
    let digest = Digest::of(&blob);

    // Streamed: PATCH without a range, then PUT.
    let location = c.begin("org/repo");
    let patched = c.ask("PATCH", &location, &[("content-type", "application/octet-stream")], &blob).is(202);
    assert_eq!(patched.header("range"), "0-299999");
    let done = c.ask("PUT", &format!("{}?digest={digest}", patched.header("location")), &[], b"").is(201);
    assert_eq!(c.get(done.header("location")).is(200).body, blob);
    // Monolithic: POST then PUT, and POST alone.
    let other = noise(3, 1000);
    let location = c.begin("org/repo");
    let wrong = Digest::of(b"wrong");
    c.ask("PUT", &format!("{location}?digest={wrong}"), &[], &other).refused(400, "DIGEST_INVALID");
    let location = c.begin("org/repo");
    c.ask("PUT", &format!("{location}?digest={}", Digest::of(&other)), &[], &other).is(201);
    c.push_blob("org/repo", &noise(4, 1000));
    c.ask("POST", &format!("/v2/org/repo/blobs/uploads/?digest={wrong}"), &[], &other)
        .refused(400, "DIGEST_INVALID");
    // An empty blob is a blob.
    let empty = c.push_blob("org/repo", b"");
    assert_eq!(c.get(&format!("/v2/org/repo/blobs/{empty}")).is(200).body, b"");
    // SHA-512, asked for at the beginning and only in the end.
    let long = Digest::with(Algorithm::Sha512, &other);
    for query in ["?digest-algorithm=sha512", ""] {
        let begun = c.ask("POST", &format!("/v2/org/sha512/blobs/uploads/{query}"), &[], b"").is(202);
        let location = begun.header("location").to_owned();
        c.ask("PUT", &format!("{location}?digest={long}"), &[], &other).is(201);
    }
    assert_eq!(c.get(&format!("/v2/org/sha512/blobs/{long}")).is(200).body, other);

    // Chunked: in order only; 416 says where to go on.
    let blob = noise(5, 3000);
    let location = c.begin("org/repo");
    let range = |from: usize, to: usize| format!("{from}-{to}");
    c.ask("PATCH", &location, &[("content-range", &range(1000, 1999))], &blob[1000..2000]).is(416);
    let first = c.ask("PATCH", &location, &[("content-range", &range(0, 999))], &blob[..1000]).is(202);
    assert_eq!(first.header("range"), "0-999");
    let retried = c.ask("PATCH", &location, &[("content-range", &range(0, 999))], &blob[..1000]).is(416);
    assert_eq!(retried.header("range"), "0-999");
    let status = c.get(first.header("location")).is(204);
    assert_eq!(status.header("range"), "0-999");
    c.ask("PATCH", status.header("location"), &[("content-range", &range(1000, 1999))], &blob[1000..2000])
        .is(202);
    let put = format!("{location}?digest={}", Digest::of(&blob));
    c.ask("PUT", &put, &[("content-range", &range(2000, 2999))], &blob[2000..]).is(201);
    assert_eq!(c.get(&format!("/v2/org/repo/blobs/{}", Digest::of(&blob))).is(200).body, blob);
    c.ask("PATCH", &location, &[], b"more").refused(404, "BLOB_UPLOAD_UNKNOWN");
    c.ask("PATCH", &c.begin("org/repo"), &[("content-range", "5-1")], b"more").is(416);
    c.ask("PATCH", &c.begin("org/repo"), &[("content-range", "0-9")], b"more").refused(400, "SIZE_INVALID");

    // Cancelled; of somebody else; that never was.
    let location = c.begin("org/repo");
    c.get(&location.replace("org/repo", "org/else")).refused(404, "BLOB_UPLOAD_UNKNOWN");
    c.ask("DELETE", &location, &[], b"").is(204);
    c.get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");

    // Mounted across repositories; from nowhere it becomes an upload.
    let mounted = c
        .ask("POST", &format!("/v2/org/second/blobs/uploads/?mount={digest}&from=org/repo"), &[], b"")
        .is(201);
    assert_eq!(mounted.header("location"), format!("/v2/org/second/blobs/{digest}"));
    c.get(&format!("/v2/org/second/blobs/{digest}")).is(200);
    let mounted = c.ask("POST", &format!("/v2/org/third/blobs/uploads/?mount={digest}"), &[], b"").is(201);
    assert!(mounted.header("location").contains("/blobs/sha256"));
    c.ask("POST", &format!("/v2/org/third/blobs/uploads/?mount={wrong}&from=org/repo"), &[], b"")
        .is(202)
        .header("location");
    c.ask("POST", &format!("/v2/else/x/blobs/uploads/?mount={digest}"), &[], b"").is(202);
}

#[test]
fn push_manifests() {
    let server = Server::start(|_| {});
    let c = server.client();
    let (config_bytes, config) = config();
    let layer = noise(6, 2000);
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [descriptor("x/y", &layer)] });
    // What it refers to must be there.
    c.put_manifest("org/repo", "early", MANIFEST, &manifest).refused(400, "MANIFEST_BLOB_UNKNOWN");
    c.push_blob("org/repo", &config_bytes);
    c.push_blob("org/repo", &layer);
    for tag in ["test0", "test1", "test2", "test3"] {
        let put = c.put_manifest("org/repo", tag, MANIFEST, &manifest).is(201);
        assert_eq!(
            put.header("docker-content-digest"),
            Digest::of(manifest.to_string().as_bytes()).to_string()
        );
        c.get(put.header("location")).is(200);
    }
    // By digest, with either algorithm.
    let text = manifest.to_string();
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let digest = Digest::with(algorithm, text.as_bytes()).to_string();
        c.put_manifest("org/repo", &digest, MANIFEST, &manifest).is(201);
        assert_eq!(c.get(&format!("/v2/org/repo/manifests/{digest}")).is(200).body, text.as_bytes());
    }
    c.put_manifest("org/repo", &Digest::of(b"else").to_string(), MANIFEST, &manifest)
        .refused(400, "DIGEST_INVALID");
    // Without layers, and with Docker's types.
    let bare = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [] });
    c.put_manifest("org/repo", "emptylayer", MANIFEST, &bare).is(201);
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    let schema2 = json!({ "schemaVersion": 2, "mediaType": docker, "config": config, "layers": [] });
    c.put_manifest("org/repo", "docker", docker, &schema2).is(201);
    let list_type = "application/vnd.docker.distribution.manifest.list.v2+json";
    let list = json!({ "schemaVersion": 2, "mediaType": list_type, "manifests": [descriptor(docker, schema2.to_string().as_bytes())] });
    c.put_manifest("org/repo", "list", list_type, &list).is(201);
    let index =
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, b"not there")] });
    c.put_manifest("org/repo", "index", INDEX, &index).refused(400, "MANIFEST_BLOB_UNKNOWN");
    // Lies and noise.
    c.put_manifest("org/repo", "bad", MANIFEST, &json!({ "schemaVersion": 1 }))
        .refused(400, "MANIFEST_INVALID");
    c.put_manifest("org/repo", "bad", INDEX, &bare).refused(400, "MANIFEST_INVALID");
    let mut lying = manifest.clone();
    lying["layers"][0]["size"] = 1999.into();
    c.put_manifest("org/repo", "bad", MANIFEST, &lying).refused(400, "MANIFEST_INVALID");
    c.ask("PUT", "/v2/org/repo/manifests/bad", &[("content-type", MANIFEST)], b"{")
        .refused(400, "MANIFEST_INVALID");
    c.ask("PUT", "/v2/org/repo/manifests/bad", &[("content-type", MANIFEST)], &vec![b' '; (4 << 20) + 1])
        .is(413);
    c.put_manifest("org/repo", ".bad", MANIFEST, &bare).refused(400, "MANIFEST_INVALID");
}

#[test]
fn content_discovery() {
    let server = Server::start(|_| {});
    let c = server.client();
    let (config_bytes, config) = config();
    c.push_blob("org/repo", &config_bytes);
    let bare = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [] });
    for tag in ["test0", "TEST1", "test2", "test3", "v1", "v2"] {
        c.put_manifest("org/repo", tag, MANIFEST, &bare).is(201);
    }
    // Tags: all in lexical order, pages, and what is after a name.
    let all = c.get("/v2/org/repo/tags/list").is(200).json();
    assert_eq!(all, json!({ "name": "org/repo", "tags": ["TEST1", "test0", "test2", "test3", "v1", "v2"] }));
    let (mut seen, mut path) = (Vec::new(), "/v2/org/repo/tags/list?n=4".to_owned());
    loop {
        let page = c.get(&path).is(200);
        seen.extend(page.json()["tags"].as_array().unwrap().clone());
        let Some(link) = page.headers.get("link") else { break };
        assert!(link.ends_with("; rel=\"next\""), "{link}");
        path = link[1..].split('>').next().unwrap().to_owned();
    }
    assert_eq!(json!(seen), all["tags"]);
    assert_eq!(c.get("/v2/org/repo/tags/list?n=0").is(200).json()["tags"], json!([]));
    assert_eq!(c.get("/v2/org/repo/tags/list?n=2&last=test2").is(200).json()["tags"], json!(["test3", "v1"]));
    c.get("/v2/org/repo/tags/list?n=x").refused(400, "PAGINATION_NUMBER_INVALID");
    c.get("/v2/org/none/tags/list").refused(404, "NAME_UNKNOWN");

    // Referrers: artifacts by config type and by artifact type, with annotations, of what is there and what is not.
    let subject = descriptor(MANIFEST, bare.to_string().as_bytes());
    let digest = subject["digest"].as_str().unwrap();
    let referrers = format!("/v2/org/repo/referrers/{digest}");
    assert_eq!(c.get(&referrers).is(200).json()["manifests"], json!([]));
    let sbom = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/sbom", "config": config, "layers": [], "subject": subject, "annotations": { "by": "test" } });
    let put = c.put_manifest("org/repo", "sbom", MANIFEST, &sbom).is(201);
    assert_eq!(put.header("oci-subject"), digest);
    let signature = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [], "subject": subject });
    c.put_manifest(
        "org/repo",
        &Digest::of(signature.to_string().as_bytes()).to_string(),
        MANIFEST,
        &signature,
    )
    .is(201);
    let artifact_index = json!({ "schemaVersion": 2, "mediaType": INDEX, "artifactType": "application/list", "manifests": [], "subject": subject });
    c.put_manifest("org/repo", "artifacts", INDEX, &artifact_index).is(201);
    let list = c.get(&referrers).is(200);
    assert_eq!(list.header("content-type"), INDEX);
    let list = list.json();
    assert_eq!(list["manifests"].as_array().unwrap().len(), 3, "{list}");
    let filtered = c.get(&format!("{referrers}?artifactType=application/sbom")).is(200);
    assert_eq!(filtered.header("oci-filters-applied"), "artifactType");
    let filtered = filtered.json();
    assert_eq!(filtered["manifests"].as_array().unwrap().len(), 1);
    assert_eq!(filtered["manifests"][0]["annotations"], json!({ "by": "test" }));
    assert_eq!(filtered["manifests"][0]["size"], sbom.to_string().len());
    let by_config =
        c.get(&format!("{referrers}?artifactType=application/vnd.oci.image.config.v1%2Bjson")).is(200).json();
    assert_eq!(by_config["manifests"].as_array().unwrap().len(), 1);
    let missing = Digest::of(b"missing subject");
    let early = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [], "subject": { "mediaType": MANIFEST, "digest": missing, "size": 15 } });
    c.put_manifest("org/repo", "early", MANIFEST, &early).is(201);
    assert_eq!(
        c.get(&format!("/v2/org/repo/referrers/{missing}")).is(200).json()["manifests"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    c.get("/v2/org/repo/referrers/sha256:x").refused(400, "DIGEST_INVALID");
    // The list that clients without this API keep under a tag counts too.
    let other = Digest::of(b"other subject");
    let kept = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(MANIFEST, bare.to_string().as_bytes())] });
    c.put_manifest("org/repo", &other.to_string().replace(':', "-"), INDEX, &kept).is(201);
    assert_eq!(
        c.get(&format!("/v2/org/repo/referrers/{other}")).is(200).json()["manifests"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    // The catalog.
    c.push_image("another/one", "x", &[]);
    c.push_blob("org/nothing", b"only a blob");
    assert_eq!(c.get("/v2/_catalog").is(200).json()["repositories"], json!(["another/one", "org/repo"]));
    let page = c.get("/v2/_catalog?n=1").is(200);
    assert_eq!(
        (page.header("link"), &page.json()["repositories"]),
        ("</v2/_catalog?n=1&last=another/one>; rel=\"next\"", &json!(["another/one"]))
    );
}

#[test]
fn content_management() {
    let server = Server::start(|_| {});
    let c = server.client();
    let (config_bytes, config) = config();
    let blob = c.push_blob("org/repo", &config_bytes);
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [], "subject": descriptor(MANIFEST, b"s") });
    let digest = Digest::of(manifest.to_string().as_bytes());
    for tag in ["one", "two"] {
        c.put_manifest("org/repo", tag, MANIFEST, &manifest).is(201);
    }
    // A tag alone.
    c.ask("DELETE", "/v2/org/repo/manifests/one", &[], b"").is(202);
    c.get("/v2/org/repo/manifests/one").refused(404, "MANIFEST_UNKNOWN");
    c.get("/v2/org/repo/manifests/two").is(200);
    c.ask("DELETE", "/v2/org/repo/manifests/one", &[], b"").refused(404, "MANIFEST_UNKNOWN");
    // A blob that is needed stays.
    c.ask("DELETE", &format!("/v2/org/repo/blobs/{blob}"), &[], b"").refused(409, "DENIED");
    // A manifest, with its tags and its place among the referrers.
    c.ask("DELETE", &format!("/v2/org/repo/manifests/{digest}"), &[], b"").is(202);
    c.get(&format!("/v2/org/repo/manifests/{digest}")).refused(404, "MANIFEST_UNKNOWN");
    assert_eq!(c.get("/v2/org/repo/tags/list").is(200).json()["tags"], json!([]));
    assert_eq!(
        c.get(&format!("/v2/org/repo/referrers/{}", Digest::of(b"s"))).is(200).json()["manifests"],
        json!([])
    );
    // Then the blob.
    c.ask("DELETE", &format!("/v2/org/repo/blobs/{blob}"), &[], b"").is(202);
    c.get(&format!("/v2/org/repo/blobs/{blob}")).refused(404, "BLOB_UNKNOWN");
    c.ask("DELETE", &format!("/v2/org/repo/blobs/{blob}"), &[], b"").refused(404, "BLOB_UNKNOWN");
    // And it can come back.
    c.push_blob("org/repo", &config_bytes);
    c.put_manifest("org/repo", "again", MANIFEST, &manifest).is(201);
    c.get("/v2/org/repo/manifests/again").is(200);
    for (method, path) in [
        ("POST", "/v2/"),
        ("PUT", "/v2/_catalog"),
        ("POST", "/v2/org/repo/manifests/x"),
        ("PUT", "/v2/org/repo/tags/list"),
    ] {
        c.ask(method, path, &[], b"").refused(405, "UNSUPPORTED");
    }
}
