//! Building: with a `RUN` that is a chroot in an overlay, the cache, reproducible layers, and mistakes.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use sampan_image::{BuildEvent, Compression, ErrorKind, ExportFormat};

use crate::builder::*;
use crate::support::*;

#[tokio::test]
async fn everything_once_and_then_from_the_cache() {
    let fixture = Fixture::new();
    let context = fixture.path("context");
    fs::create_dir_all(context.join("src/deep/er")).unwrap();
    for (name, text) in
        [("src/a.txt", "a"), ("src/b.log", "b"), ("src/deep/er/c.txt", "c"), ("app.conf", "conf")]
    {
        fs::write(context.join(name), text).unwrap();
    }
    symlink("a.txt", context.join("src/link")).unwrap();
    fs::write(context.join(".dockerignore"), "**/*.log\n").unwrap();
    let dockerfile = format!(
        "# everything\nARG WORD=default\n{BASE}FROM base
        ARG WORD
        ARG OTHER=o
        ENV GREETING=\"hello ${{WORD:-x}}\" \\
            # a comment inside
            PLACE=/srv
        RUN mkdir -p /etc /usr/lib && mv /passwd /etc/passwd && ln -s usr/lib /lib && mkdir /gone && touch /gone/x
        WORKDIR $PLACE/app
        COPY --chown=5:6 --chmod=640 app.con[f] conf/
        COPY src .
        COPY src/*.txt /lib/
        RUN echo \"$GREETING $OTHER\" && rm -r /gone && id -u >&2 && pwd
        USER 1000:1000
        EXPOSE 80/tcp
        LABEL a=b
        VOLUME /data
        HEALTHCHECK --interval=5s CMD true
        STOPSIGNAL SIGINT
        ENTRYPOINT [\"/bin/echo\"]
        CMD [\"x\", \"y\"]\n"
    );
    let built =
        build(&fixture, &dockerfile, |options| options.build_args = vec![("WORD".into(), "world".into())])
            .await;
    assert!(
        built.output().contains("hello world o\n") && built.output().contains("/srv/app"),
        "{}",
        built.output()
    );
    let first = built.result.unwrap();
    assert_eq!((first.steps, first.cached_steps), (23, 0));
    let plan = fixture.images.rootfs("out:1", "c").await.unwrap();
    let config = &plan.config;
    assert_eq!(
        (config.entrypoint.as_slice(), config.cmd.as_slice()),
        (&["/bin/echo".to_owned()][..], &["x".to_owned(), "y".into()][..])
    );
    assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("1000:1000", "/srv/app"));
    assert_eq!(
        (config.exposed_ports.as_slice(), config.stop_signal.as_deref()),
        (&["80/tcp".to_owned()][..], Some("SIGINT"))
    );
    assert_eq!(config.healthcheck.as_ref().unwrap().interval, 5_000_000_000);
    let copy = fixture.path("copy");
    in_overlay(&plan.lower_dirs, &fixture.path("o"), &format!("cp -a $1 {}", copy.display()));
    assert_eq!(fs::read(copy.join("usr/lib/a.txt")).unwrap(), b"a", "the symlink of the image is followed");
    assert!(fs::symlink_metadata(copy.join("lib")).unwrap().is_symlink());
    assert!(!copy.join("gone").exists() && !copy.join("srv/app/b.log").exists());
    assert_eq!(fs::read(copy.join("srv/app/deep/er/c.txt")).unwrap(), b"c");
    assert_eq!(fs::read_link(copy.join("srv/app/link")).unwrap(), Path::new("a.txt"));
    let conf = fs::metadata(copy.join("srv/app/conf/app.conf")).unwrap();
    assert_eq!((conf.uid(), conf.gid(), conf.mode() & 0o7777), (5, 6, 0o640));

    // umoci makes the same tree of what we export.
    let (tar_file, layout, bundle) = (fixture.path("o.tar"), fixture.path("layout"), fixture.path("bundle"));
    fixture.images.export("out:1", &tar_file, ExportFormat::Oci).await.unwrap();
    let (from, to) = (format!("oci-archive:{}", tar_file.display()), format!("oci:{}:x", layout.display()));
    run("skopeo", &["--insecure-policy", "copy", "-q", &from, &to]);
    run("umoci", &["unpack", "--image", &format!("{}:x", layout.display()), bundle.to_str().unwrap()]);
    assert_same(&bundle.join("rootfs"), &copy);

    let again =
        build(&fixture, &dockerfile, |options| options.build_args = vec![("WORD".into(), "world".into())])
            .await;
    let again = again.result.unwrap();
    assert_eq!((again.cached_steps, again.digest), (8, first.digest));
    // Another word: steps up to its use stay. A changed file: steps from its copy on are done again.
    let other = build(&fixture, &dockerfile, |_| ()).await.result.unwrap();
    assert_eq!(other.cached_steps, 2);
    fs::write(context.join("src/deep/er/c.txt"), "changed").unwrap();
    let changed =
        build(&fixture, &dockerfile, |options| options.build_args = vec![("WORD".into(), "world".into())])
            .await;
    assert_eq!(changed.result.unwrap().cached_steps, 5);
    fixture.images.release("c").await.unwrap();
    // Collection keeps the cache, and lost snapshots come back from blobs.
    fixture.images.remove("out:1", false).await.unwrap();
    fs::remove_dir_all(fixture.store().join("snapshots")).unwrap();
    fs::create_dir(fixture.store().join("snapshots")).unwrap();
    let cached =
        build(&fixture, &dockerfile, |options| options.build_args = vec![("WORD".into(), "world".into())])
            .await;
    assert_eq!(cached.result.unwrap().cached_steps, 8);
    fixture.assert_clean();
}

#[tokio::test]
async fn same_input_same_image() {
    let mut digests = Vec::new();
    for _ in 0..2 {
        let fixture = Fixture::new();
        let dockerfile = format!(
            "{BASE}RUN mkdir /d && echo x > /d/f && ln /d/f /d/g\nWORKDIR /w/x\nCOPY busybox /new/dir/\n"
        );
        let built = build(&fixture, &dockerfile, |options| {
            options.source_date_epoch = Some(1_000_000_000);
            options.compression = Compression::Zstd;
        })
        .await;
        digests.push(built.result.unwrap().digest);
        let plan = fixture.images.rootfs("out:1", "c").await.unwrap();
        let file = plan.lower_dirs[0].join("new/dir/busybox");
        assert!(fs::metadata(file).unwrap().mtime() <= 1_000_000_000);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn stages_archives_and_targets() {
    let fixture = Fixture::new();
    let context = fixture.path("context");
    fs::create_dir_all(&context).unwrap();
    fs::write(context.join("a.tar"), tar(&[dir("d"), file("d/f", b"from tar")])).unwrap();
    run("gzip", &["-kn", context.join("a.tar").to_str().unwrap()]);
    let dockerfile = format!(
        "{BASE}FROM base AS unused\nRUN exit 9\nFROM base AS make\nRUN mkdir /out && echo made > /out/file && ln -s file /out/link && rm /bin/vi
        FROM scratch\nCOPY --from=make /out /result/\nCOPY --from=0 /bin/busybox /bin/\nADD a.tar.gz /t\nCOPY a.tar /t\n"
    );
    let built =
        build(&fixture, &dockerfile, |options| options.build_args = vec![("UNUSED".into(), "1".into())])
            .await;
    let warned = built
        .events
        .iter()
        .any(|event| matches!(event, BuildEvent::Warning { message } if message.contains("UNUSED")));
    assert!(warned);
    built.result.unwrap();
    let plan = fixture.images.rootfs("out:1", "c").await.unwrap();
    assert_eq!(plan.read_file("/result/link", 10).unwrap().unwrap(), b"made\n");
    assert_eq!(plan.read_file("/t/d/f", 10).unwrap().unwrap(), b"from tar");
    assert!(plan.read_file("/t/a.tar", 1).unwrap().is_some());
    assert!(
        plan.read_file("/bin/busybox", 1).unwrap().is_some()
            && plan.read_file("/bin/sh", 1).unwrap().is_none()
    );
    let target =
        build(&fixture, &dockerfile, |options| options.target = Some("make".into())).await.result.unwrap();
    assert_eq!(target.cached_steps, 3);
    let error = build(&fixture, &dockerfile, |options| options.target = Some("unused".into())).await.error();
    assert!(error.contains("Dockerfile:7") && error.contains("exit code 9"), "{error}");
}

#[tokio::test]
async fn mistakes_are_named_by_line() {
    let fixture = Fixture::new();
    let context = fixture.path("context");
    fs::create_dir_all(context.join("dir")).unwrap();
    fs::write(fixture.path("secret"), "secret").unwrap();
    symlink("../secret", context.join("out")).unwrap();
    symlink("/etc", context.join("etc")).unwrap();
    fs::write(context.join("hidden"), "x").unwrap();
    fs::write(context.join(".dockerignore"), "hidden\n").unwrap();
    let cases = [
        ("FROM scratch\nCOPY nothing /", 2, "\"nothing\" is not in the build context"),
        ("FROM scratch\nCOPY ../secret /", 2, "leaves the build context"),
        ("FROM scratch\nCOPY a/../../secret /", 2, "leaves the build context"),
        ("FROM scratch\nCOPY out /", 2, "symlinks cannot leave it"),
        ("FROM scratch\nCOPY etc/passwd /", 2, "symlinks cannot leave it"),
        ("FROM scratch\nCOPY hidden /", 2, ".dockerignore"),
        ("FROM scratch\nCOPY busybox Dockerfile /x", 2, "need a directory"),
        ("FROM scratch\nCOPY busybox /x\nCOPY dir /x", 3, "not a directory in the image"),
        ("FROM scratch\nCOPY busybox /x\nCOPY busybox /x/y", 3, "not a directory in the image"),
        ("FROM scratch\nCOPY --chown=nobody busybox /x", 2, "/etc/passwd"),
        ("FROM scratch\nADD ssh://-oProxyCommand=x/y /", 2, "no address of a repository"),
        ("FROM scratch\nCOPY http://x/y /", 2, "ADD does"),
        ("FROM scratch\nADD --checksum=sha256:12 http://localhost:1/y /", 2, "no checksum"),
        ("FROM scratch\nCOPY --chmod=9 busybox /", 2, "no mode"),
        ("FROM missing:1\nRUN x", 1, "not present locally (hint"),
        ("FROM Bad\n", 1, "lower case"),
        (
            "FROM scratch\nCOPY --from=later busybox /\nFROM scratch AS later\nCOPY --from=0 x /",
            2,
            "comes later",
        ),
        ("FROM $NOTHING\n", 1, "empty after variables"),
        ("FROM scratch\nFORM x", 2, "unknown instruction"),
        ("FROM --platform=linux/s390x scratch\nRUN x", 2, "needs an emulator"),
        ("FROM scratch\nEXPOSE http", 2, "no port"),
        ("FROM scratch\nRUN true", 2, "exit code"),
    ];
    for (dockerfile, line, reason) in cases {
        let built = build(&fixture, dockerfile, |options| {
            options.target = dockerfile.contains("later").then(|| "0".into());
        })
        .await;
        let error = built.error();
        assert!(
            error.contains(&format!("Dockerfile:{line}:")) && error.contains(reason),
            "{dockerfile}: {error}"
        );
        assert_eq!(built.result.unwrap_err().kind(), ErrorKind::Build);
    }
    let error = build(&fixture, "FROM scratch\nRUN x", |options| options.run = None).await.error();
    assert!(error.contains("container runtime"), "{error}");
    let cancelled = build(&fixture, "FROM scratch\n", |options| options.cancel.cancel()).await;
    assert_eq!(cancelled.result.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(fixture.images.list().await.unwrap().is_empty());
    fixture.assert_clean();
}
