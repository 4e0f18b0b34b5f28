//! Looking into images, and making them smaller: the result runs, and what is gone is what nobody needs.

use std::fs;
use std::path::{Path, PathBuf};

use sampan_image::{Cause, ImportOptions, SlimOptions};

use crate::builder::*;
use crate::support::*;

/// Copy a file of this machine, and what it is linked to, into a root.
fn take(root: &Path, path: &str) -> Vec<String> {
    let real = fs::canonicalize(path).unwrap();
    let mut taken = vec![path.to_owned()];
    let target = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(target.parent().unwrap()).unwrap();
    fs::copy(&real, &target).unwrap();
    for word in run("ldd", &[real.to_str().unwrap()]).split_whitespace().filter(|word| word.starts_with('/'))
    {
        let library = root.join(word.trim_start_matches('/'));
        if !library.exists() {
            fs::create_dir_all(library.parent().unwrap()).unwrap();
            fs::copy(fs::canonicalize(word).unwrap(), &library).unwrap();
            taken.push(word.to_owned());
        }
    }
    taken
}

/// A root file system as Debian makes it, very small: every file belongs to a package but the application's.
fn debian(root: &Path) {
    let mut status = String::new();
    fs::create_dir_all(root.join("var/lib/dpkg/info")).unwrap();
    let mut package = |name: &str, version: &str, files: &[String]| {
        status += &format!("Package: {name}\nStatus: install ok installed\nVersion: {version}\n\n");
        fs::write(root.join(format!("var/lib/dpkg/info/{name}.list")), files.join("\n")).unwrap();
    };
    let dash = take(root, "/usr/bin/dash");
    fs::create_dir_all(root.join("usr/share/doc/dash")).unwrap();
    fs::write(root.join("usr/share/doc/dash/copyright"), "licence of the shell").unwrap();
    package("dash", "1", &[dash[0].clone(), "/usr/share/doc/dash/copyright".into()]);
    package("libc6", "2", &dash[1..]);
    package("coreutils", "3", &[take(root, "/usr/bin/cat"), take(root, "/usr/bin/sort")].concat());
    let mut tool = take(root, "/usr/bin/mkfifo");
    for (path, text) in [
        ("/usr/share/tool/data", "data"),
        ("/usr/share/doc/tool/README", "words"),
        ("/usr/share/doc/tool/copyright", "licence"),
        ("/usr/share/locale/de/tool.mo", "worte"),
        ("/usr/share/other/file", "never named"),
    ] {
        let place = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, text).unwrap();
        tool.push(path.to_owned());
    }
    package("tool", "4", &tool);
    fs::write(root.join("var/lib/dpkg/status"), status).unwrap();
    std::os::unix::fs::symlink("/usr/bin/dash", root.join("usr/bin/sh")).unwrap();
    std::os::unix::fs::symlink("usr/bin", root.join("bin")).unwrap();
    for (path, text) in [
        ("app/run", "#!/bin/sh\ncat /app/text /usr/share/tool/data\n"),
        ("app/text", "text\n"),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("var/cache/apt/pkgcache.bin", "cache"),
        ("var/log/dpkg.log", "log"),
        ("tmp/left", "left"),
    ] {
        let place = root.join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::write(place, text).unwrap();
    }
    run("chmod", &["755", root.join("app/run").to_str().unwrap()]);
    // A program of the application's own, as people compile it: with much for debuggers.
    let source: String = (0..1000).map(|at| format!("int f{at}(int a) {{ return a + {at}; }}\n")).collect();
    fs::write(root.join("tmp/own.c"), source + "#include <stdio.h>\nint main() { puts(\"own\"); }\n")
        .unwrap();
    let (from, to) = (root.join("tmp/own.c"), root.join("app/own"));
    run("cc", &["-g", "-o", to.to_str().unwrap(), from.to_str().unwrap()]);
}

async fn image(fixture: &Fixture) {
    let root = fixture.path("root");
    fs::create_dir(&root).unwrap();
    debian(&root);
    let tar = fixture.path("root.tar");
    run("tar", &["-C", root.to_str().unwrap(), "-cf", tar.to_str().unwrap(), "."]);
    let options = ImportOptions {
        name: Some("debian:1".into()),
        cmd: vec!["/app/run".into()],
        ..ImportOptions::default()
    };
    fixture.images.import(&tar, options).await.unwrap();
}

#[tokio::test]
async fn only_what_is_needed_stays_and_it_runs() {
    let fixture = Fixture::new();
    image(&fixture).await;
    let options = SlimOptions {
        image: "debian:1".into(),
        keep: vec!["usr/share/doc/tool/README".into()],
        ..SlimOptions::default()
    };
    let plan = fixture.images.slim_plan(options).await.unwrap();
    let gone =
        |path: &str| plan.removed.iter().find(|file| file.path == Path::new(path)).map(|file| file.cause);
    for (path, cause) in [
        ("/usr/bin/sort", Some(Cause::Unreachable)),
        ("/usr/bin/mkfifo", Some(Cause::Unreachable)),
        ("/usr/share/locale/de/tool.mo", Some(Cause::Locales)),
        ("/var/cache/apt/pkgcache.bin", Some(Cause::PackageCache)),
        ("/var/lib/dpkg/info/dash.list", Some(Cause::PackageManager)),
        ("/var/log/dpkg.log", Some(Cause::Temporary)),
        ("/tmp/left", Some(Cause::Temporary)),
        // Reached, kept by name, a licence, the application's own.
        ("/usr/bin/dash", None),
        ("/usr/bin/cat", None),
        ("/usr/share/tool/data", None),
        // Of a package whose data was named.
        ("/usr/share/other/file", None),
        ("/usr/share/doc/tool/README", None),
        ("/usr/share/doc/tool/copyright", None),
        ("/app/text", None),
        ("/etc/passwd", None),
    ] {
        assert_eq!(gone(path), cause, "{path}");
    }
    let [own] = plan.trimmed.as_slice() else { panic!("{:?}", plan.trimmed) };
    assert_eq!((own.path.as_path(), own.cause), (Path::new("/app/own"), Cause::DebugInformation));
    let (kept, whole) = (own.kept, fs::metadata(fixture.path("root/app/own")).unwrap().len());
    assert_eq!(own.bytes, whole - kept);
    assert_eq!(plan.causes[&Cause::DebugInformation].bytes, own.bytes);
    assert_eq!(plan.kept_bytes, plan.remaining.iter().map(|what| what.bytes).sum::<u64>());
    let slim = fixture.images.slim(plan, "debian:slim").await.unwrap();
    let before = fixture.images.find("debian:1").await.unwrap().unwrap();
    assert!(slim.size < before.size, "{} {}", slim.size, before.size);
    let details = fixture.images.inspect("debian:slim").await.unwrap();
    assert_eq!((details.layers.len(), details.config.cmd.as_slice()), (1, &["/app/run".to_owned()][..]));
    let layers = details.config_json["rootfs"]["diff_ids"].as_array().unwrap().len();
    let filled = details.history.iter().filter(|entry| !entry.empty_layer).count();
    assert_eq!((layers, filled), (1, 1));
    // It does the same, in a root that has nothing else.
    let plan = fixture.images.rootfs("debian:slim", "c").await.unwrap();
    let said = in_overlay(&plan.lower_dirs, &fixture.path("o"), "chroot $1 /app/run");
    assert_eq!(said, "text\ndata");
    let own = plan.lower_dirs[0].join("app/own");
    let own = fs::metadata(own).unwrap().len();
    assert_eq!((own, own < whole), (kept, true));
    let said = in_overlay(&plan.lower_dirs, &fixture.path("own"), "chroot $1 /app/own");
    assert_eq!(said, "own\n");
    let mode = |path: &str| run("stat", &["-c", "%a %u %F", plan.lower_dirs[0].join(path).to_str().unwrap()]);
    assert_eq!(mode("app/run").trim(), "755 0 regular file");
    assert!(plan.lower_dirs[0].join("var/log").is_dir(), "a directory to write logs to");
    fixture.assert_clean();
}

#[tokio::test]
async fn what_was_seen_stands_for_what_is_guessed() {
    let fixture = Fixture::new();
    image(&fixture).await;
    let seen =
        ["/usr/bin/sort", "/usr/bin/sh", "/usr/share/doc/tool/README", "/tmp/left", "/nosuch (deleted)"];
    let options = SlimOptions {
        image: "debian:1".into(),
        seen: Some(seen.map(PathBuf::from).to_vec()),
        languages: vec!["de_AT.UTF-8".into()],
        keep: vec!["app/own".into()],
        ..SlimOptions::default()
    };
    let plan = fixture.images.slim_plan(options).await.unwrap();
    let gone = |path: &str| plan.removed.iter().any(|file| file.path == Path::new(path));
    assert!(!gone("/usr/bin/sort") && !gone("/usr/share/tool/data") && !gone("/app/text"));
    assert!(gone("/usr/share/other/file") && gone("/usr/bin/mkfifo"));
    // What nobody needs as a rule stays where somebody opened it or speaks it; files to keep are kept whole.
    assert!(!gone("/usr/share/doc/tool/README") && !gone("/usr/share/locale/de/tool.mo"));
    assert!(gone("/tmp/left") && plan.trimmed.is_empty());
    // Licences stay with what they are for.
    assert!(!gone("/usr/share/doc/dash/copyright"));
    let error =
        fixture.images.slim_plan(SlimOptions { image: "none:1".into(), ..SlimOptions::default() }).await;
    assert!(error.unwrap_err().to_string().contains("not present"));
}

#[tokio::test]
async fn waste_and_duplicates_are_found() {
    let fixture = Fixture::new();
    image(&fixture).await;
    let dockerfile = "FROM debian:1\nCOPY busybox /opt/one\nCOPY busybox /opt/two\nCOPY <<EOF /opt/one\nsmall\nEOF\n\
        RUN rm -r /usr/share/other /opt/two\n\
        COPY <<EOF /srv/x/node_modules/@s/p/package.json\n{\"name\":\"@s/p\",\"version\":\"1.0\"}\nEOF\n\
        COPY <<EOF /lib/q-2.dist-info/METADATA\nName: q\nVersion: 2\nEOF\n";
    // No busybox is in that image: the step runs the shell of its own.
    let dockerfile = dockerfile.replace("RUN rm -r /usr/share/other /opt/two\n", "");
    build(&fixture, &dockerfile, |options| options.tags = vec!["waste:1".into()]).await.result.unwrap();
    build(&fixture, "FROM scratch\nCOPY busybox /a\nCOPY busybox /b\n", |options| {
        options.tags = vec!["other:1".into()]
    })
    .await
    .result
    .unwrap();
    let names: Vec<String> = ["waste:1", "debian:1", "other:1"].map(str::to_owned).to_vec();
    let analysis = fixture.images.analyze(&names).await.unwrap();
    let waste = &analysis.images[0];
    let busybox = fs::metadata("/bin/busybox").unwrap().len();
    assert_eq!((waste.wasted.len(), waste.wasted_bytes), (1, busybox));
    let file = &waste.wasted[0];
    assert_eq!(
        (file.path.as_path(), file.layer, file.by, file.deleted),
        (Path::new("/opt/one"), 1, 3, false)
    );
    assert_eq!(waste.layers[1].wasted, busybox);
    assert!(waste.bytes >= waste.visible + busybox);
    let has =
        |manager: &str, name: &str| waste.packages.iter().any(|p| p.manager == manager && p.name == name);
    assert!(has("dpkg", "dash") && has("node", "@s/p") && has("python", "q"), "{:?}", waste.packages);
    let other = &analysis.images[2];
    assert_eq!((other.duplicates.len(), other.duplicate_bytes), (1, busybox));
    assert_eq!(other.duplicates[0].paths, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(analysis.shared_layers.len(), 1, "the base of two");
    assert!(analysis.repeated_packages.is_empty(), "packages of a shared layer are stored once");
    assert!(serde_json::to_value(&analysis).unwrap()["images"][0]["directories"][0]["bytes"].is_u64());
}
