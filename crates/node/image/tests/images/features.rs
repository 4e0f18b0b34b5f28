//! Building: here-documents, mounts, triggers, platforms, remote sources, outputs, and pushing.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use sampan_image::{
    BuildEvent, BuildOutput, Compression, Digest, Images, OutputKind, Platform, PushOptions, RunNetwork,
    SecretSource,
};

use crate::builder::*;
use crate::pull::{docker_registry, insecure};
use crate::support::*;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// All files of an image as a plain directory.
async fn unpacked(fixture: &Fixture, name: &str) -> std::path::PathBuf {
    let plan = fixture.images.rootfs(name, "look").await.unwrap();
    let copy = fixture.path(&format!("look-{}", rand_name()));
    in_overlay(
        &plan.lower_dirs,
        &fixture.path(&format!("o-{}", rand_name())),
        &format!("cp -a $1 {}", copy.display()),
    );
    fixture.images.release("look").await.unwrap();
    copy
}

fn rand_name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed).to_string()
}

#[tokio::test]
async fn texts_in_the_dockerfile() {
    let fixture = Fixture::new();
    let dockerfile = format!(
        "{BASE}FROM base
ARG WHO=world
ENV FILE=/srv/x-y.tar.gz
RUN <<EOF
mkdir -p /made
echo \"hello $WHO\" > /made/one
EOF
RUN cat > /made/two <<-'END' && cat >> /made/two <<MORE
	plain $WHO
	END
${{FILE##*/}}
MORE
RUN <<SCRIPT
#!/bin/sh
echo $0 > /made/three
SCRIPT
COPY --chmod=u=rw,go= --chown=7:8 <<a.txt <<\"b.txt\" /texts/
it's \"$WHO\" ${{FILE%.tar.gz}} ${{FILE//-/_}}
a.txt
$WHO
b.txt
"
    );
    build(&fixture, &dockerfile, |_| ()).await.result.unwrap();
    let root = unpacked(&fixture, "out:1").await;
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(read("made/one"), "hello world\n");
    assert_eq!(read("made/two"), "plain $WHO\nx-y.tar.gz\n");
    assert_eq!(read("made/three"), "/dev/pipes/script\n");
    assert_eq!(read("texts/a.txt"), "it's \"world\" /srv/x-y /srv/x_y.tar.gz\n");
    assert_eq!(read("texts/b.txt"), "$WHO\n");
    let meta = fs::metadata(root.join("texts/a.txt")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), mode(&root.join("texts/a.txt"))), (7, 8, 0o600));
    assert!(!root.join("dev/pipes").exists(), "the script's mount point is in the image");
    assert_eq!(build(&fixture, &dockerfile, |_| ()).await.result.unwrap().cached_steps, 6);
    fixture.assert_clean();
}

#[tokio::test]
async fn mounts_leave_nothing_behind() {
    let fixture = Fixture::new();
    let context = fixture.path("context");
    fs::create_dir_all(context.join("src")).unwrap();
    fs::write(context.join("src/seen"), "seen").unwrap();
    fs::write(context.join("src/hidden"), "hidden").unwrap();
    fs::write(context.join(".dockerignore"), "**/hidden\n").unwrap();
    fs::write(fixture.path("token"), "geheim").unwrap();
    let step = |count: &str| {
        format!(
            "{BASE}FROM base AS tools\nRUN mkdir -p /t && echo tool > /t/tool
            FROM base
            RUN --mount=type=bind,source=src,target=/m/src --mount=from=tools,source=/t/tool,target=/m/tool \\
                --mount=type=cache,target=/cache,id=c --mount=type=cache,target=/again,id=c,sharing=locked --mount=type=tmpfs,target=/scratch \\
                --mount=type=secret,id=token --mount=type=secret,id=word,env=WORD \\
                --mount=type=secret,id=none,target=/none \\
                cat /m/src/seen /m/tool /run/secrets/token && test ! -e /m/src/hidden && test ! -e /none && \\
                ! touch /m/src/new && echo \"$WORD\" && echo x >> /cache/{count} && ls /again && touch /scratch/x
            RUN --mount=type=bind,source=src,target=/m,rw echo changed > /m/seen
            RUN --mount=type=secret,id=token mkdir -p /run/own\n"
        )
    };
    let secrets = vec![
        ("token".to_owned(), SecretSource::File(fixture.path("token"))),
        ("word".to_owned(), SecretSource::Bytes(b"wort".to_vec())),
    ];
    let first = build(&fixture, &step("one"), |options| options.secrets = secrets.clone()).await;
    first.result.as_ref().unwrap();
    let said = first.output();
    for text in ["seen", "tool", "geheim", "wort", "one"] {
        assert!(said.contains(text), "{text}: {said}");
    }
    let root = unpacked(&fixture, "out:1").await;
    let left: Vec<_> = ["m", "cache", "again", "scratch", "none", "run/secrets"]
        .iter()
        .filter(|path| root.join(path).exists())
        .collect();
    assert!(left.is_empty(), "in the image: {left:?}");
    assert!(root.join("run/own").is_dir());
    assert_eq!(fs::read_to_string(context.join("src/seen")).unwrap(), "seen", "the context was written to");
    // The cache is there for the next step, another secret makes no other step, a changed source does.
    let second = build(&fixture, &step("two"), |options| options.secrets = secrets.clone()).await;
    assert!(second.output().contains("one") && second.output().contains("two"), "{}", second.output());
    let other = vec![("token".to_owned(), SecretSource::Bytes(b"x".to_vec())), secrets[1].clone()];
    let same = build(&fixture, &step("two"), |options| options.secrets = other).await.result.unwrap();
    assert_eq!(same.cached_steps, 6);
    fs::write(context.join("src/seen"), "other").unwrap();
    let changed = build(&fixture, &step("two"), |options| options.secrets = secrets).await.result.unwrap();
    assert_eq!(changed.cached_steps, 3);
    // Caches go with the build cache.
    assert!(fs::read_dir(fixture.store().join("mounts")).unwrap().next().is_some());
    fixture.images.prune(true).await.unwrap();
    assert!(fs::read_dir(fixture.store().join("mounts")).unwrap().next().is_none());
    let required = format!("{BASE}RUN --mount=type=secret,id=gone,required true\n");
    let error = build(&fixture, &required, |_| ()).await.error();
    assert!(error.contains("Dockerfile:6") && error.contains("--secret id=gone"), "{error}");
    fixture.assert_clean();
}

#[tokio::test]
async fn ways_to_copy() {
    let fixture = Fixture::new();
    let context = fixture.path("context");
    for dir in ["a/b", "a/c", "x/y/z"] {
        fs::create_dir_all(context.join(dir)).unwrap();
    }
    for (name, text) in [
        ("a/b/one.txt", "1"),
        ("a/b/two.md", "2"),
        ("a/c/three.txt", "3"),
        ("x/y/z/four", "4"),
        ("top.md", "5"),
    ] {
        fs::write(context.join(name), text).unwrap();
    }
    fs::set_permissions(context.join("a/b"), fs::Permissions::from_mode(0o711)).unwrap();
    let more = fixture.path("more");
    fs::create_dir(&more).unwrap();
    fs::write(more.join("extra"), "extra").unwrap();
    let dockerfile = |first: &str| {
        format!(
            "FROM scratch
            COPY {first} /first/
            COPY --parents a/b/one.txt a/c /parents/
            COPY --parents ./x/./y/z/four /pivot/
            COPY --exclude=*.md --exclude=**/three.txt a to*.md /without/
            COPY --from=More --chmod=u=rwX,go= extra /more/
            COPY --link --chown=3:4 a/b /linked/b
            COPY [\"a/b/one.txt\", \"/with blank/\"]\n"
        )
    };
    let set =
        |options: &mut sampan_image::BuildOptions| options.contexts = vec![("more".into(), more.clone())];
    build(&fixture, &dockerfile("top.md"), set).await.result.unwrap();
    let root = unpacked(&fixture, "out:1").await;
    let tree: Vec<String> = fingerprint(&root)
        .into_iter()
        .filter(|(path, _)| root.join(path).is_file())
        .map(|(path, _)| path)
        .collect();
    let expected = [
        "first/top.md",
        "linked/b/one.txt",
        "linked/b/two.md",
        "more/extra",
        "parents/a/b/one.txt",
        "parents/a/c/three.txt",
        "pivot/y/z/four",
        "with blank/one.txt",
        "without/b/one.txt",
        // Without **, only what lies directly in the source.
        "without/b/two.md",
    ];
    assert_eq!(tree, expected);
    assert_eq!((mode(&root.join("parents/a/b")), mode(&root.join("more/extra"))), (0o711, 0o600));
    assert_eq!(fs::metadata(root.join("linked/b/two.md")).unwrap().uid(), 3);
    // What lies below changed: only the linked layer is the same.
    let again = build(&fixture, &dockerfile("a/b/one.txt"), set).await.result.unwrap();
    assert_eq!(again.cached_steps, 1);
}

#[tokio::test]
async fn triggers_run_in_the_image_that_is_built_on_it() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("context")).unwrap();
    fs::write(fixture.path("context/app"), "app").unwrap();
    let parent =
        format!("{BASE}ONBUILD COPY app /app/\nONBUILD RUN <<EOF\necho trigger > /app/made\nEOF\nCMD x\n");
    build(&fixture, &parent, |options| options.tags = vec!["parent:1".into()]).await.result.unwrap();
    let details = fixture.images.inspect("parent:1").await.unwrap();
    assert_eq!(details.config_json["config"]["OnBuild"].as_array().unwrap().len(), 2);
    build(&fixture, "FROM parent:1\nRUN cat /app/made\n", |_| ()).await.result.unwrap();
    let root = unpacked(&fixture, "out:1").await;
    assert_eq!(fs::read_to_string(root.join("app/app")).unwrap(), "app");
    assert_eq!(fs::read_to_string(root.join("app/made")).unwrap(), "trigger\n");
    let child = fixture.images.inspect("out:1").await.unwrap();
    assert!(child.config_json["config"].get("OnBuild").is_none());
}

#[tokio::test]
async fn stages_run_side_by_side_and_fail_together() {
    let fixture = Fixture::new();
    // Each waits for the other: one after the other they would never end.
    let meet = |own: &str, other: &str| {
        format!(
            "RUN --mount=type=cache,target=/c touch /c/{own} && n=0 && until test -e /c/{other}; do sleep 0.1; n=$((n+1)); test $n -lt 600; done && echo {own} > /{own}"
        )
    };
    let dockerfile = format!(
        "{BASE}FROM base AS left\n{}\nFROM base AS right\n{}\nFROM scratch\nCOPY --from=left /l /\nCOPY --from=right /r /\n",
        meet("l", "r"),
        meet("r", "l")
    );
    build(&fixture, &dockerfile, |_| ()).await.result.unwrap();
    let failing = format!(
        "{BASE}FROM base AS left\nRUN echo begun && exit 3\nFROM base AS right\nRUN echo right\nFROM scratch\nCOPY --from=left /l /\nCOPY --from=right /r /\n"
    );
    let built = build(&fixture, &failing, |_| ()).await;
    assert!(
        built.error().contains("Dockerfile:7") && built.error().contains("exit code 3"),
        "{}",
        built.error()
    );
    fixture.assert_clean();
}

#[tokio::test]
async fn no_network_is_no_network() {
    let fixture = Fixture::new();
    let step = |flag: &str| format!("{BASE}RUN {flag} wc -l < /proc/net/dev\n");
    let count = |built: &Built| built.output().trim().parse::<u32>().unwrap_or_default();
    // Two lines of header and loopback; /proc is mounted by the step itself.
    let step =
        |flag: &str| step(flag).replace("wc -l", "mkdir -p /proc && mount -t proc proc /proc && wc -l");
    let none = build(&fixture, &step("--network=none"), |_| ()).await;
    assert_eq!(count(&none), 3, "{}", none.output());
    let all = build(&fixture, &step(""), |options| options.network = RunNetwork::None).await;
    assert_eq!(count(&all), 3);
}

/// Serves a few files over HTTP until it is dropped.
fn serve(files: Vec<(&'static str, Vec<u8>)>) -> (u16, std::sync::Arc<std::sync::atomic::AtomicU32>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = served.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..read]).into_owned();
            let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let reply = match files.iter().find(|(name, _)| *name == path) {
                Some((_, body)) => [
                    format!("HTTP/1.1 200 OK\r\nLast-Modified: Tue, 14 Nov 2023 22:13:20 GMT\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())
                        .into_bytes(),
                    body.clone(),
                ]
                .concat(),
                None if path == "/moved" => {
                    b"HTTP/1.1 302 Found\r\nLocation: /file.txt\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
                }
                None => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec(),
            };
            let _ = stream.write_all(&reply);
        }
    });
    (port, served)
}

#[tokio::test]
async fn files_from_the_web() {
    let fixture = Fixture::new();
    let archive = tar(&[dir("d"), file("d/f", b"from tar")]);
    let evil = tar(&[crate::support::symlink("d", "/etc"), file("d/evil", b"x")]);
    let digest = Digest::of(b"text");
    let (port, served) =
        serve(vec![("/file.txt", b"text".to_vec()), ("/a.tar", archive), ("/evil.tar", evil)]);
    let at = format!("http://127.0.0.1:{port}");
    let dockerfile = format!(
        "FROM scratch\nARG AT={at}\nADD --checksum={digest} $AT/file.txt /checked/\nADD $AT/moved /renamed\n\
        ADD --chmod=644 $AT/a.tar /kept/\nADD --unpack=true $AT/a.tar /unpacked/\n"
    );
    build(&fixture, &dockerfile, |_| ()).await.result.unwrap();
    let root = unpacked(&fixture, "out:1").await;
    assert_eq!(fs::read(root.join("checked/file.txt")).unwrap(), b"text");
    let meta = fs::metadata(root.join("renamed")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o600, 1_700_000_000));
    assert_eq!(mode(&root.join("kept/a.tar")), 0o644);
    assert_eq!(fs::read(root.join("unpacked/d/f")).unwrap(), b"from tar");
    // What has a checksum is not even fetched again.
    let before = served.load(std::sync::atomic::Ordering::SeqCst);
    let only = format!("FROM scratch\nADD --checksum={digest} {at}/file.txt /checked/\n");
    let again = build(&fixture, &only, |_| ()).await.result.unwrap();
    assert_eq!((again.cached_steps, served.load(std::sync::atomic::Ordering::SeqCst)), (1, before));
    for (line, reason) in [
        (format!("ADD --checksum={} {at}/file.txt /x", Digest::of(b"other")), "expected sha256:"),
        (format!("ADD {at}/none /x"), "404"),
        (format!("ADD --unpack=true {at}/evil.tar /x/"), "leaves the layer"),
        (format!("ADD {at}/ /x/"), "names no file"),
    ] {
        let error = build(&fixture, &format!("FROM scratch\n{line}\n"), |_| ()).await.error();
        assert!(error.contains("Dockerfile:2") && error.contains(reason), "{line}: {error}");
    }
    fixture.assert_clean();
}

#[tokio::test]
async fn several_platforms_and_outputs() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("context")).unwrap();
    symlink("busybox", fixture.path("context/link")).unwrap();
    let dockerfile = format!(
        "{}FROM --platform=$BUILDPLATFORM base AS tool\nARG TARGETARCH\nRUN echo for-$TARGETARCH > /out
        FROM scratch\nARG TARGETPLATFORM TARGETVARIANT\nLABEL platform=$TARGETPLATFORM\nCOPY --from=tool /out /arch\nCOPY link /\n",
        BASE.replace("FROM scratch", "FROM --platform=$BUILDPLATFORM scratch")
    );
    let platforms = || ["linux/amd64", "linux/arm/v7"].map(|text| Platform::parse(text).unwrap()).to_vec();
    let (oci, local) = (fixture.path("out.tar"), fixture.path("local"));
    let outputs = vec![
        BuildOutput { kind: OutputKind::Oci, dest: oci.clone(), compression: Compression::None },
        BuildOutput { kind: OutputKind::Local, dest: local.clone(), compression: Compression::None },
    ];
    let run_both = |options: &mut sampan_image::BuildOptions| {
        options.platforms = platforms();
        options.outputs = outputs.clone();
        options.source_date_epoch = Some(1_000_000_000);
    };
    let built = build(&fixture, &dockerfile, run_both).await;
    let stages = built.events.iter().filter_map(|event| match event {
        BuildEvent::Step { stage, .. } => Some(stage.clone()),
        _ => None,
    });
    assert!(stages.into_iter().any(|stage| stage == "linux/arm/v7 tool"));
    let result = built.result.unwrap();
    assert_ne!(result.digest, result.image.digest);
    for (platform, dir, text) in
        [("amd64", "linux_amd64", "for-amd64\n"), ("arm", "linux_arm_v7", "for-arm\n")]
    {
        assert_eq!(fs::read_to_string(local.join(dir).join("arch")).unwrap(), text);
        let source = format!("oci-archive:{}", oci.display());
        let raw = run(
            "skopeo",
            &["--insecure-policy", "--override-arch", platform, "inspect", "--config", &source],
        );
        assert!(raw.contains(&format!("\"architecture\": \"{platform}\"")), "{raw}");
    }
    // The index outlives a collection, and the same input gives the same index.
    fixture.images.prune(true).await.unwrap();
    let again = build(&fixture, &dockerfile, run_both).await.result.unwrap();
    assert_eq!((again.digest, again.cached_steps), (result.digest, 2));
    // A registry gets all of it, and gives each its own.
    let (_server, host) = docker_registry(&fixture, false, None);
    let mut options = options(fixture.dir.path());
    options.registries.hosts.insert(host.clone(), insecure());
    let images = Images::open(options).unwrap();
    let target = format!("{host}/app:1");
    let pushed = images.push("out:1", &target, PushOptions::default()).await.unwrap();
    assert_eq!(pushed, result.digest);
    assert_eq!(images.push("out:1", &target, PushOptions::default()).await.unwrap(), pushed);
    let raw = run("skopeo", &["inspect", "--raw", "--tls-verify=false", &format!("docker://{target}")]);
    assert!(raw.contains("\"variant\":\"v7\"") && raw.contains("amd64"), "{raw}");
    let dir = fixture.path("pulled");
    run(
        "skopeo",
        &[
            "--insecure-policy",
            "--override-arch",
            "arm",
            "--override-variant",
            "v7",
            "copy",
            "-q",
            "--src-tls-verify=false",
            &format!("docker://{target}"),
            &format!("dir:{}", dir.display()),
        ],
    );
    let error = images.push("none:1", &target, PushOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("not present"), "{error}");
}

#[tokio::test]
async fn archives_of_several_images_compressed() {
    let fixture = Fixture::new();
    build(&fixture, "FROM scratch\nCOPY busybox /a\n", |options| {
        options.tags = vec!["one:1".into(), "one:2".into()]
    })
    .await
    .result
    .unwrap();
    build(&fixture, "FROM scratch\nCOPY busybox /b\n", |options| options.tags = vec!["two:1".into()])
        .await
        .result
        .unwrap();
    let names: Vec<String> = ["one:1", "one:2", "two:1"].map(str::to_owned).to_vec();
    for (format, compression, file) in [
        (sampan_image::ExportFormat::Docker, Compression::Gzip, "docker.tar.gz"),
        (sampan_image::ExportFormat::Oci, Compression::Zstd, "oci.tar.zst"),
    ] {
        let path = fixture.path(file);
        fixture.images.save(&names, &path, format, compression).await.unwrap();
        let other = Fixture::new();
        let mut loaded: Vec<String> =
            other.import(&path, None).await.unwrap().into_iter().map(|image| image.reference).collect();
        loaded.sort();
        let expected: Vec<String> = names.iter().map(|name| format!("docker.io/library/{name}")).collect();
        assert_eq!(loaded, expected, "{file}");
    }
}

#[tokio::test]
async fn the_cache_is_bounded() {
    let fixture = Fixture::new();
    let mut options = options(fixture.dir.path());
    options.limits.build_cache_bytes = 3_000_000;
    let images = Images::open(options).unwrap();
    let small = Fixture { images, dir: fixture.dir };
    for number in 0..4 {
        let text = format!("FROM scratch\nCOPY busybox /{number}\n");
        build(&small, &text, |options| options.compression = Compression::None).await.result.unwrap();
    }
    let usage = small.images.disk_usage().await.unwrap();
    assert!(usage.cache_entries < 4 && usage.cache_entries > 0, "{usage:?}");
    let last =
        build(&small, "FROM scratch\nCOPY busybox /3\n", |options| options.compression = Compression::None)
            .await;
    assert_eq!(last.result.unwrap().cached_steps, 1, "the newest step was forgotten");
}

#[tokio::test]
async fn archives_that_grow_or_climb_are_refused() {
    let fixture = Fixture::new();
    let context = fixture.path("context");
    fs::create_dir_all(&context).unwrap();
    let zeros = vec![0; 4_000_000];
    fs::write(context.join("bomb.tar"), tar(&[file("zeros", &zeros)])).unwrap();
    run("gzip", &["-f", context.join("bomb.tar").to_str().unwrap()]);
    let mut many = Vec::new();
    let names: Vec<String> = (0..3000).map(|number| format!("f{number}")).collect();
    many.extend(names.iter().map(|name| file(name, b"")));
    fs::write(context.join("many.tar"), tar(&many)).unwrap();
    fs::write(context.join("climb.tar"), tar(&[file("../evil", b"x")])).unwrap();
    fs::write(context.join("link.tar"), tar(&[hardlink("passwd", "/etc/passwd")])).unwrap();
    let lying = Raw { name: "f", data: b"data", size: Some(500_000), ..Raw::default() };
    fs::write(context.join("lying.tar"), tar(&[lying])).unwrap();
    let mut options = options(fixture.dir.path());
    options.limits.unpacked_bytes = 1_000_000;
    options.limits.entries = 2000;
    let images = Images::open(options).unwrap();
    let small = Fixture { images, dir: fixture.dir };
    for (archive, reason) in [
        ("bomb.tar.gz", "larger than the limit of 1000000 bytes"),
        ("many.tar", "limit of 2000"),
        ("climb.tar", "climbs"),
        ("link.tar", "absolute"),
        ("lying.tar", "lying.tar"),
    ] {
        let error = build(&small, &format!("FROM scratch\nADD {archive} /\n"), |_| ()).await.error();
        assert!(error.contains("Dockerfile:2:") && error.contains(reason), "{archive}: {error}");
    }
    assert!(small.images.list().await.unwrap().is_empty() && !Path::new("/evil").exists());
    small.assert_clean();
}
