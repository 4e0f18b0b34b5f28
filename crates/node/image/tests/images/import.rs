//! Importing root file systems, docker archives and OCI layouts, and comparing trees.

use std::fs;

use sampan_image::{ErrorKind, ExportFormat};

use crate::support::*;

#[tokio::test]
async fn root_file_system_keeps_everything() {
    let fixture = Fixture::new();
    let tree = fixture.path("tree");
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    let tar = fixture.path("root.tar");
    let (tree_text, tar_text) = (tree.to_str().unwrap(), tar.to_str().unwrap());
    for (format, compress) in [("pax", "cat"), ("gnu", "gzip -n"), ("pax", "zstd -q")] {
        let xattrs = if format == "pax" { "--xattrs --xattrs-include=*" } else { "" };
        let script =
            format!("tar -C {tree_text} --format={format} {xattrs} -Scf - . | {compress} > {tar_text}");
        if compress.starts_with("zstd") && fs::metadata("/usr/bin/zstd").is_err() {
            continue;
        }
        run("sh", &["-c", &script]);
        let images = fixture.import(&tar, Some("box:1")).await.unwrap();
        assert_eq!(images[0].reference, "docker.io/library/box:1");
        let plan = fixture.images.rootfs("box:1", "c1").await.unwrap();
        assert_eq!(plan.lower_dirs.len(), 1);
        let unpacked = fs::canonicalize(&plan.lower_dirs[0]).unwrap();
        if format == "gnu" {
            // This form has no attributes and whole seconds: compare the rest.
            assert_eq!(fs::read(unpacked.join("bin/sh")).unwrap(), fs::read("/bin/busybox").unwrap());
            assert_eq!(fs::metadata(unpacked.join("var/sparse")).unwrap().len(), (1 << 20) + 3);
        } else {
            assert_same(&tree, &unpacked);
            assert!(xattr_get(&unpacked.join("bin/busybox"), c"security.capability").unwrap().contains(&10));
        }
        let user = plan.resolve_user(Some("app")).unwrap();
        assert_eq!((user.uid, user.gid, user.groups.as_slice()), (100, 101, &[102][..]));
        fixture.images.release("c1").await.unwrap();
    }
    fixture.assert_clean();
}

#[tokio::test]
async fn layout_with_whiteouts_matches_umoci() {
    need("umoci");
    need("skopeo");
    let fixture = Fixture::new();
    let (layout, bundle, flat) = (fixture.path("layout"), fixture.path("bundle"), fixture.path("flat"));
    let script = format!(
        "set -e; umoci init --layout {l}; umoci new --image {l}:v1; umoci unpack --image {l}:v1 {b}
         mkdir -p {b}/rootfs/a/b {b}/rootfs/bin; echo one > {b}/rootfs/a/b/one; echo two > {b}/rootfs/a/two; cp /bin/busybox {b}/rootfs/bin/sh
         umoci repack --image {l}:v1 {b}; rm -rf {b}; umoci unpack --image {l}:v1 {b}
         rm -rf {b}/rootfs/a/b {b}/rootfs/a/two; mkdir {b}/rootfs/a/b; echo new > {b}/rootfs/a/b/new
         umoci repack --image {l}:v1 {b}; umoci config --image {l}:v1 --config.env A=1 --config.cmd sh --config.exposedports 80/tcp --config.label k=v
         umoci gc --layout {l}; rm -rf {b}; umoci unpack --image {l}:v1 {f}",
        l = layout.display(),
        b = bundle.display(),
        f = flat.display()
    );
    run("sh", &["-c", &script]);
    let error = fixture.import(&layout, None).await.unwrap_err().to_string();
    assert!(error.contains("hint: give NAME:TAG"), "{error}");
    fixture.import(&layout, Some("local/white:v1")).await.unwrap();
    let plan = fixture.images.rootfs("local/white:v1", "x").await.unwrap();
    assert_eq!(plan.config.env.iter().filter(|env| *env == "A=1").count(), 1);
    assert_eq!(
        (plan.config.cmd.as_slice(), plan.config.exposed_ports.as_slice()),
        (&["sh".to_owned()][..], &["80/tcp".to_owned()][..])
    );
    assert_eq!(plan.config.labels["k"], "v");
    let copy = fixture.path("copy");
    in_overlay(&plan.lower_dirs, &fixture.path("ovl"), &format!("cp -a $1 {}", copy.display()));
    assert_eq!(fs::read(copy.join("a/b/new")).unwrap(), b"new\n");
    assert!(!copy.join("a/b/one").exists() && !copy.join("a/two").exists());
    assert_same(&flat.join("rootfs"), &copy);

    // The same as a tar, and as docker archives that skopeo wrote; then ours read by skopeo.
    for (target, name) in [("oci-archive", "one.tar"), ("docker-archive", "two.tar")] {
        let file = fixture.path(name);
        let to = format!("{target}:{}:docker.io/local/{target}:1", file.display());
        run("skopeo", &["--insecure-policy", "copy", "-q", &format!("oci:{}:v1", layout.display()), &to]);
        let images = fixture.import(&file, None).await.unwrap();
        assert_eq!(images[0].reference, format!("docker.io/local/{target}:1"));
        run("gzip", &["-n", file.to_str().unwrap()]);
        let zipped = fixture.path(&format!("{name}.gz"));
        assert_eq!(fixture.import(&zipped, None).await.unwrap()[0].digest, images[0].digest);
        let plan = fixture.images.rootfs(&images[0].reference, "y").await.unwrap();
        let copy = fixture.path(target);
        in_overlay(
            &plan.lower_dirs,
            &fixture.path(&format!("o-{target}")),
            &format!("cp -a $1 {}", copy.display()),
        );
        assert_same(&flat.join("rootfs"), &copy);
    }
    for (format, transport) in [(ExportFormat::Docker, "docker-archive"), (ExportFormat::Oci, "oci-archive")]
    {
        let file = fixture.path(&format!("out-{transport}.tar"));
        fixture.images.export("local/white:v1", &file, format).await.unwrap();
        let out = fixture.path(&format!("dir-{transport}"));
        let (from, to) = (format!("{transport}:{}", file.display()), format!("dir:{}", out.display()));
        run("skopeo", &["--insecure-policy", "copy", "-q", &from, &to]);
        assert!(out.join("manifest.json").exists());
        let other = Fixture::new();
        let images = other.import(&file, None).await.unwrap();
        assert_eq!(images[0].reference, "docker.io/local/white:v1");
        assert_eq!(images[0].digest, fixture.images.find("local/white:v1").await.unwrap().unwrap().digest);
    }
    fixture.assert_clean();
}

/// Layers that lean on lower ones: directories they do not describe, hard links to files below.
#[tokio::test]
async fn leaning_layers_are_put_right() {
    let fixture = Fixture::new();
    let base = tar(&[
        dir("usr/"),
        Raw { name: "usr/bin/", flag: b'5', mode: 0o711, ..Raw::default() },
        file("usr/bin/sh", b"shell"),
        symlink("bin", "usr/bin"),
        Raw { name: "tmp/", flag: b'5', mode: 0o1777, ..Raw::default() },
    ]);
    let top = tar(&[file("bin/tool", b"tool"), file("tmp/x", b"x"), hardlink("usr/bin/ash", "usr/bin/sh")]);
    let archive = docker_archive(&[&base, &top], "lean:1", None);
    fixture.import_bytes(&archive, None).await.unwrap();
    let plan = fixture.images.rootfs("lean:1", "c").await.unwrap();
    let out = in_overlay(
        &plan.lower_dirs,
        &fixture.path("o"),
        "cd $1; readlink bin; cat bin/tool usr/bin/ash; stat -c ' %a' tmp usr/bin",
    );
    assert_eq!(out, "usr/bin\ntoolshell 1777\n 711\n");
}

#[tokio::test]
async fn garbage_is_refused_with_a_reason() {
    let fixture = Fixture::new();
    let layer = tar(&[file("x", b"1")]);
    let archive = docker_archive(&[&layer], "a:1", None);
    let other = sampan_image::Digest::of(b"other").to_string();
    let mut gz = Vec::new();
    gz.extend_from_slice(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1, 2, 3]);
    for (bytes, reason) in [
        (b"".to_vec(), "empty"),
        (b"hello world, this is not an archive".to_vec(), "neither a tar"),
        (vec![0; 4096], "neither a tar"),
        (b"BZh91AY&SY".to_vec(), "bzip2 stream ends in the middle"),
        (gz, "truncated"),
        (archive[..archive.len() - 3000].to_vec(), "truncated"),
        (layer[..700].to_vec(), "truncated"),
        (tar_open(&[file("x", b"1")]), "truncated"),
        (docker_archive(&[&layer], "a:1", Some(&other)), "expected sha256:"),
        (docker_archive(&[&layer], "A:1", None), "lower case"),
        (tar(&[file("manifest.json", b"{")]), "malformed"),
        (tar(&[file("manifest.json", b"[]")]), "no image"),
        (tar(&[file("manifest.json", br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":[]}]"#)]), "lacks"),
        (tar(&[file("oci-layout", b"{}"), file("index.json", b"{}")]), "malformed"),
    ] {
        let name = if bytes.starts_with(&layer[..100]) { Some("a:1") } else { None };
        let error = fixture.import_bytes(&bytes, name).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(reason), "{reason}: {text}");
        assert!(matches!(error.kind(), ErrorKind::Content | ErrorKind::InvalidName), "{text}");
    }
    assert!(fixture.images.list().await.unwrap().is_empty());
    fixture.assert_clean();
    let pruned = fixture.images.prune(true).await.unwrap();
    assert_eq!(fixture.images.disk_usage().await.unwrap().blobs, 0, "{pruned:?}");
}

/// The smallest docker archive; `diff_id` overrides the digest that the config promises.
pub fn docker_archive(layers: &[&[u8]], tag: &str, diff_id: Option<&str>) -> Vec<u8> {
    let ids: Vec<String> = layers
        .iter()
        .map(|layer| diff_id.map_or_else(|| sampan_image::Digest::of(layer).to_string(), str::to_owned))
        .collect();
    let config = serde_json::json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Cmd": ["/bin/true"]}, "rootfs": {"type": "layers", "diff_ids": ids}})
    .to_string();
    let names: Vec<String> = (0..layers.len()).map(|at| format!("{at}/layer.tar")).collect();
    let manifest = serde_json::json!([{"Config": "c.json", "RepoTags": [tag], "Layers": names}]).to_string();
    let mut entries: Vec<Raw<'_>> = names.iter().zip(layers).map(|(name, data)| file(name, data)).collect();
    entries.push(file("c.json", config.as_bytes()));
    entries.push(file("manifest.json", manifest.as_bytes()));
    tar(&entries)
}

/// Not run by default: how fast a large archive goes in. `cargo test -- --ignored --nocapture large`.
#[tokio::test]
#[ignore = "measures, takes long"]
async fn large_archive() {
    let dir_ = tempfile::tempdir().unwrap();
    let megabytes: usize = 640;
    let data: Vec<u8> = (0..megabytes << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut entries = Vec::new();
    let names: Vec<String> = (0..megabytes).map(|at| format!("f{at}")).collect();
    for (name, part) in names.iter().zip(data.chunks(1 << 20)) {
        entries.push(file(name, part));
    }
    let path = dir_.path().join("big.tar");
    fs::write(&path, docker_archive(&[&tar(&entries)], "big:1", None)).unwrap();
    drop(data);
    fs::File::open(&path).unwrap().sync_all().unwrap();
    for sync in [false, true] {
        let home = dir_.path().join(format!("{sync}"));
        let images = sampan_image::Images::open(sampan_image::Options { sync, ..options(&home) }).unwrap();
        let begun = std::time::Instant::now();
        images.import(&path, Default::default()).await.unwrap();
        println!("{megabytes} MB, sync {sync}: {:?}", begun.elapsed());
    }
}
