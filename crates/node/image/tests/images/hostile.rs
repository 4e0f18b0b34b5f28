//! Layers that try to leave their directory or to fill the machine.

use std::fs;
use std::path::Path;

use sampan_image::{ErrorKind, Images};

use crate::support::*;

async fn refuse(entries: &[Raw<'_>], reason: &str) {
    let fixture = Fixture::new();
    let outside = fixture.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let before = fingerprint(&outside);
    let error = fixture.import_bytes(&tar(entries), Some("evil:1")).await.unwrap_err();
    assert!(error.to_string().contains(reason), "{reason}: {error}");
    assert!(matches!(error.kind(), ErrorKind::Content | ErrorKind::Io), "{error:?}");
    assert_eq!(before, fingerprint(&outside));
    assert!(fixture.images.list().await.unwrap().is_empty());
    fixture.assert_clean();
    assert!(fs::read_dir(fixture.store().join("snapshots")).unwrap().next().is_none());
}

#[tokio::test]
async fn climbing_is_refused() {
    refuse(&[file("../evil", b"x")], "climbs").await;
    refuse(&[file("a/../../evil", b"x")], "climbs").await;
    refuse(&[file("/etc/evil", b"x")], "absolute").await;
    refuse(&[symlink("d", "/etc"), file("d/evil", b"x")], "leaves the layer").await;
    refuse(&[symlink("d", "../../../../../outside"), file("d/evil", b"x")], "leaves the layer").await;
    refuse(
        &[dir("a"), symlink("a/up", ".."), symlink("b", "a/up/.."), file("b/evil", b"x")],
        "leaves the layer",
    )
    .await;
    refuse(&[symlink("self", "self"), file("self/x", b"x")], "leaves the layer").await;
    refuse(&[hardlink("h", "/etc/passwd")], "absolute").await;
    refuse(&[hardlink("h", "../../outside/secret")], "climbs").await;
    refuse(&[symlink("d", "/etc"), hardlink("h", "d/passwd")], "leaves the layer").await;
    refuse(&[hardlink("h", "nowhere")], "not in the archive").await;
    refuse(&[symlink("d", "/etc"), file("d/.wh.passwd", b"")], "leaves the layer").await;
    refuse(&[symlink("d", "/etc"), file("d/.wh..wh..opq", b"")], "leaves the layer").await;
    refuse(&[file(".wh...", b"")], "without a name").await;
    refuse(&[file(".wh..", b"")], "without a name").await;
    refuse(&[file(".wh.", b"")], "without a name").await;
    refuse(&[file("f", b"x"), file("f/x", b"x")], "not a directory").await;
    refuse(&[Raw { name: "n", pax: &[("path", b"/abs")], ..Raw::default() }], "absolute").await;
    refuse(&[Raw { name: "n", pax: &[("path", b"a\0b")], ..Raw::default() }], "NUL").await;
    refuse(&[Raw { name: "n", flag: b'Z', ..Raw::default() }], "unknown tar entry type").await;
    refuse(&[Raw { name: "n", pax: &[("uid", b"99999999999")], ..Raw::default() }], "out of range").await;
    let long = vec![b'a'; 300];
    refuse(&[Raw { name: "n", pax: &[("path", &long)], ..Raw::default() }], "too long").await;
    let deep = b"a/".repeat(4000);
    refuse(&[Raw { name: "n", pax: &[("path", &deep)], ..Raw::default() }], "longer than 4096").await;
    refuse(&[Raw { name: "n", flag: b'x', data: b"99 broken", ..Raw::default() }], "PAX").await;
    refuse(&[Raw { name: "n", size: Some(7 << 30), data: b"x", ..Raw::default() }], "truncated").await;
}

#[tokio::test]
async fn tricks_stay_inside() {
    let fixture = Fixture::new();
    // Replacing a directory by a symlink and writing "through" it; replacing the symlink by a directory again.
    let entries = [
        dir("real"),
        file("real/a", b"1"),
        dir("d"),
        file("d/x", b"1"),
        symlink("d", "real"),
        file("d/y", b"through"),
        symlink("e", "/etc"),
        dir("e"),
        file("e/z", b"own"),
        file("link", b"first"),
        hardlink("link2", "link"),
        symlink("link", "/etc/passwd"),
        file("link", b"second"),
        Raw { name: "null", flag: b'3', ..Raw::default() },
        Raw { name: "opq", pax: &[("SCHILY.xattr.trusted.overlay.redirect", b"/etc")], ..Raw::default() },
    ];
    fixture.import_bytes(&tar(&entries), Some("trick:1")).await.unwrap();
    let plan = fixture.images.rootfs("trick:1", "c").await.unwrap();
    let root = &plan.lower_dirs[0];
    assert_eq!(fs::read(root.join("real/y")).unwrap(), b"through");
    assert_eq!(fs::read(root.join("e/z")).unwrap(), b"own");
    assert_eq!(fs::read(root.join("link")).unwrap(), b"second");
    assert_eq!(fs::read(root.join("link2")).unwrap(), b"first");
    assert!(!Path::new("/etc/z").exists());
    assert_eq!(xattr_get(&root.join("opq"), c"trusted.overlay.redirect"), None);
    assert_eq!(plan.read_file("/etc/passwd", 10).unwrap(), None);
}

#[tokio::test]
async fn bombs_are_bounded() {
    let dir_ = tempfile::tempdir().unwrap();
    let mut options = options(dir_.path());
    options.limits.entries = 100;
    options.limits.unpacked_bytes = 1 << 20;
    let images = Images::open(options).unwrap();
    let many: Vec<String> = (0..200).map(|at| format!("f{at}")).collect();
    let many: Vec<_> = many.iter().map(|name| file(name, b"")).collect();
    let zeros = vec![0; 2 << 20];
    let nested = b"a/".repeat(150);
    let sparse_pax: &[(&str, &[u8])] =
        &[("GNU.sparse.major", b"0"), ("GNU.sparse.size", b"1099511627776"), ("GNU.sparse.map", b"0,1")];
    for (bytes, reason) in [
        (tar(&many), "100 entries"),
        (tar(&[file("big", &zeros)]), "1048576 bytes"),
        (tar(&[Raw { name: "s", data: b"x", pax: sparse_pax, ..Raw::default() }]), "1048576 bytes"),
        (
            tar(&[Raw { name: "n", pax: &[("path", &nested)], ..Raw::default() }, file("z", b"")]),
            "100 entries",
        ),
    ] {
        let path = dir_.path().join("bomb.tar");
        for zip in [false, true] {
            fs::write(&path, &bytes).unwrap();
            let path = if zip {
                run("gzip", &["-nf", path.to_str().unwrap()]);
                dir_.path().join("bomb.tar.gz")
            } else {
                path.clone()
            };
            let options = sampan_image::ImportOptions { name: Some("bomb:1".into()), ..Default::default() };
            let error = images.import(&path, options).await.unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("hint"), "{reason}: {error}");
        }
    }
}
