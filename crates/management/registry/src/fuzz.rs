//! Hostile inputs: manifests, recipes, queries and paths, and gzip streams that only look like it.

use std::io::{Read, Seek, Write};

use sampan_fuzz::Target;
use serde_json::json;

use crate::{
    content::{deflate::Apart, recipe::Recipe},
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

#[test]
fn fuzz_gzip() {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&b"some words and some more words ".repeat(60)).unwrap();
    let run = |input: &[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(input).unwrap();
        file.rewind().unwrap();
        let mut apart = Apart::new(file);
        let mut plain = Vec::new();
        // However it is taken apart, nothing of it may be missing.
        apart.read_to_end(&mut plain).unwrap();
        let whole: u64 = apart.parts.iter().map(crate::content::recipe::Part::original).sum();
        assert_eq!(whole, input.len() as u64);
    };
    Target::new("fuzz_gzip").seeds([encoder.finish().unwrap()]).inputs(150).run(run);
}
