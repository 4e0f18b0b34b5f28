//! Uncompressed layers lie on the disk once, as their files, and come out bit for bit.

use std::fs;
use std::path::Path;

use sampan_image::ExportFormat;

use crate::import::docker_archive;
use crate::support::*;

/// Bytes that a directory takes, each inode once.
fn on_disk(dir: &Path) -> u64 {
    let text = run("du", &["-s", "--block-size=1", dir.to_str().unwrap()]);
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// The layer as another program would get it.
async fn exported(fixture: &Fixture, name: &str, digest: &sampan_image::Digest) -> Vec<u8> {
    let path = fixture.path("out.tar");
    let format = ExportFormat::Oci;
    fixture.images.export(name, &path, format).await.unwrap();
    let dir = fixture.path("out");
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    run("tar", &["-C", dir.to_str().unwrap(), "-xf", path.to_str().unwrap()]);
    fs::read(dir.join("blobs/sha256").join(digest.hex())).unwrap()
}

fn digests(image: &sampan_image::ImageDetails) -> Vec<sampan_image::Digest> {
    image.layers.iter().map(|layer| layer.digest).collect()
}

/// Numbers that are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

/// A layer of files, directories and links that replace each other.
fn wild(dice: &mut Dice) -> Vec<u8> {
    let names = ["a", "b", "a/x", "a/y", "b/x", "b/d", "b/d/z", "a/d/z/deep", "l/x", "l/d/y", "l", "c"];
    let mut owned: Vec<(usize, &str, &str, Vec<u8>)> = Vec::new();
    for _ in 0..2 + dice.roll(14) {
        let (kind, name, link) = (dice.roll(8), names[dice.roll(names.len())], names[dice.roll(names.len())]);
        let data = vec![dice.roll(256) as u8; dice.roll(5) * dice.roll(700)];
        owned.push((kind, name, link, data));
    }
    let entries: Vec<Raw<'_>> = owned
        .iter()
        .map(|(kind, name, link, data)| match kind {
            0..=3 => file(name, data),
            4 => dir(name),
            5 => symlink(name, if name.starts_with('l') { "b" } else { link }),
            6 => hardlink(name, link),
            _ => Raw { name, flag: b'6', ..Raw::default() },
        })
        .collect();
    tar(&entries)
}

#[tokio::test]
async fn a_layer_is_written_once() {
    let fixture = Fixture::new();
    let data = vec![7; 3 << 20];
    let layer = tar(&[dir("d"), file("d/large", &data), file("small", b"x")]);
    let before = on_disk(&fixture.store());
    fixture.import_bytes(&docker_archive(&[&layer], "app:1", None), None).await.unwrap();
    let grown = on_disk(&fixture.store()) - before;
    assert!(grown < layer.len() as u64 + (200 << 10), "{grown} bytes for {}", layer.len());
    let details = fixture.images.inspect("app:1").await.unwrap();
    assert!(exported(&fixture, "app:1", &digests(&details)[0]).await == layer);
    // The same layer once more is not read again; without names it goes.
    fixture.import_bytes(&docker_archive(&[&layer], "app:2", None), None).await.unwrap();
    for name in ["app:1", "app:2"] {
        fixture.images.remove(name, false).await.unwrap();
    }
    fixture.images.prune(true).await.unwrap();
    let usage = fixture.images.disk_usage().await.unwrap();
    assert_eq!((usage.blobs, usage.snapshots), (0, 0));
    fixture.assert_clean();
}

#[tokio::test]
async fn whatever_a_layer_replaces_it_comes_out_as_it_was() {
    let fixture = Fixture::new();
    let mut dice = Dice(20);
    let (mut came, mut refused) = (0, 0);
    for round in 0..250 {
        let layer = wild(&mut dice);
        let name = format!("wild:{round}");
        // Names that go through links or files are refused; that is another test's.
        if fixture.import_bytes(&layer, Some(&name)).await.is_err() {
            refused += 1;
            continue;
        }
        came += 1;
        let details = fixture.images.inspect(&name).await.unwrap();
        let digest = digests(&details)[0];
        assert!(!fixture.store().join("blobs/sha256").join(digest.hex()).exists());
        assert!(exported(&fixture, &name, &digest).await == layer, "round {round}");
    }
    assert!(came > 60 && refused > 0, "{came} came, {refused} were refused");
    fixture.assert_clean();
}

#[tokio::test]
async fn layers_that_lean_on_others_come_out_too() {
    let fixture = Fixture::new();
    let base = tar(&[
        Raw { mode: 0o711, ..dir("d") },
        file("d/base", b"base"),
        dir("usr/lib"),
        symlink("lib", "usr/lib"),
    ]);
    let upper = tar(&[file("d/own", b"own"), hardlink("d/linked", "d/base"), file("lib/new", b"new")]);
    for name in ["app:1", "app:2"] {
        fixture.import_bytes(&docker_archive(&[&base, &upper], name, None), None).await.unwrap();
    }
    // The same layer at the bottom: nothing gives its directory another mode.
    let alone = tar(&[file("d/own", b"own")]);
    fixture.import_bytes(&docker_archive(&[&alone], "alone:1", None), None).await.unwrap();
    fixture.import_bytes(&docker_archive(&[&base, &alone], "app:3", None), None).await.unwrap();
    for (name, layers) in [("app:1", [&base, &upper]), ("app:3", [&base, &alone])] {
        let details = fixture.images.inspect(name).await.unwrap();
        for (layer, digest) in layers.into_iter().zip(digests(&details)) {
            assert!(exported(&fixture, name, &digest).await == *layer, "{name}");
        }
        let plan = fixture.images.rootfs(name, name).await.unwrap();
        let work = fixture.path(&name.replace(':', "-"));
        let script = "cd $1; stat -c %a d; cat d/base d/own d/linked lib/new 2>/dev/null || true";
        let lowers: Vec<_> = plan.lower_dirs.iter().map(|dir| fs::canonicalize(dir).unwrap()).collect();
        let seen = in_overlay(&lowers, &work, script);
        assert_eq!(seen, if name == "app:1" { "711\nbaseownbasenew" } else { "711\nbaseown" }, "{name}");
        fixture.images.release(name).await.unwrap();
    }
    let plan = fixture.images.rootfs("alone:1", "c").await.unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(plan.lower_dirs[0].join("d")).unwrap());
    assert_eq!(mode & 0o7777, 0o755);
}

#[tokio::test]
async fn what_is_loaded_is_on_the_disk() {
    let fixture = Fixture::new();
    let options = sampan_image::Options { sync: true, ..options(fixture.dir.path()) };
    let images = sampan_image::Images::open(options).unwrap();
    let base = tar(&[Raw { mode: 0o711, ..dir("d") }, file("d/base", b"base")]);
    let upper = tar(&[file("d/own", b"own")]);
    let path = fixture.path("two.tar");
    fs::write(&path, docker_archive(&[&base, &upper], "app:1", None)).unwrap();
    images.import(&path, Default::default()).await.unwrap();
    // Two layers, and the upper one as it is on the lower one.
    let metas: Vec<serde_json::Value> = fs::read_dir(fixture.store().join("snapshots"))
        .unwrap()
        .map(|entry| {
            serde_json::from_slice(&fs::read(entry.unwrap().path().join("meta.json")).unwrap()).unwrap()
        })
        .collect();
    assert_eq!(metas.len(), 3);
    // What is not synced is not trusted after the machine restarts.
    assert!(metas.iter().all(|meta| meta["synced"] == true), "{metas:?}");
}

#[tokio::test]
async fn files_that_were_there_without_the_layer_get_it() {
    let fixture = Fixture::new();
    let layer = tar(&[file("x", b"1"), file("x", b"2"), dir("d"), file("d/y", b"3")]);
    fixture.import(&gzipped(&fixture, &layer), Some("packed:1")).await.unwrap();
    fixture.import_bytes(&layer, Some("plain:1")).await.unwrap();
    fixture.import_bytes(&docker_archive(&[&layer], "plain:2", None), None).await.unwrap();
    let details = fixture.images.inspect("plain:1").await.unwrap();
    assert!(exported(&fixture, "plain:2", &digests(&details)[0]).await == layer);
}

#[tokio::test]
async fn a_layer_whose_files_were_damaged_says_so() {
    let fixture = Fixture::new();
    let layer = tar(&[file("x", b"12345")]);
    fixture.import_bytes(&docker_archive(&[&layer], "app:1", None), None).await.unwrap();
    let details = fixture.images.inspect("app:1").await.unwrap();
    let snapshot = fixture.store().join("snapshots").join(digests(&details)[0].hex());
    let export = || async {
        let (path, format) = (fixture.path("out.tar"), ExportFormat::Oci);
        fixture.images.export("app:1", &path, format).await
    };
    export().await.unwrap();
    fs::write(snapshot.join("fs/x"), b"123").unwrap();
    let error = export().await.unwrap_err().to_string();
    assert!(error.contains("shorter than it was") && error.contains("hint:"), "{error}");
    fs::remove_file(snapshot.join("fs/x")).unwrap();
    assert!(export().await.is_err());
    // Without the files there is no layer; then it is loaded again.
    fs::remove_dir_all(&snapshot).unwrap();
    let error = fixture.images.rootfs("app:1", "c").await.unwrap_err().to_string();
    assert!(error.contains("missing or truncated"), "{error}");
    fixture.import_bytes(&docker_archive(&[&layer], "app:1", None), None).await.unwrap();
    let plan = fixture.images.rootfs("app:1", "c").await.unwrap();
    assert_eq!(plan.read_file("x", 10).unwrap().unwrap(), b"12345");
}
