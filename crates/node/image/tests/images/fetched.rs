//! Building with what is elsewhere: git repositories, archives of all kinds, and caches that others hold.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sampan_image::{BuildEvent, CacheTo, Digest, Images, PullOptions, PushOptions};

use crate::builder::*;
use crate::pull::{docker_registry, insecure};
use crate::support::*;

/// Serves repositories below a directory until it is dropped.
struct Daemon {
    child: Child,
    url: String,
}

impl Daemon {
    fn start(dir: &Path) -> Self {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = probe.local_addr().unwrap().port();
        drop(probe);
        let exec = run("git", &["--exec-path"]);
        let child = Command::new(Path::new(exec.trim()).join("git-daemon"))
            .args(["--reuseaddr", "--export-all", "--listen=127.0.0.1", &format!("--port={port}")])
            .arg(format!("--base-path={}", dir.display()))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { child, url: format!("git://127.0.0.1:{port}") };
        for _ in 0..600 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return daemon;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("git daemon does not listen");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `git` in a repository, by an author that does not depend on this machine.
fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"])
        .args(args)
        .current_dir(dir)
        .env("GIT_COMMITTER_DATE", "1700000000 +0000")
        .env("GIT_AUTHOR_DATE", "1700000000 +0000")
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The file that a build wrote, through `-o type=local`.
async fn built(fixture: &Fixture, dockerfile: &str, name: &str) -> (std::path::PathBuf, usize) {
    let dest = fixture.path(name);
    let to = dest.clone();
    let built = build(fixture, dockerfile, move |options| {
        options.outputs = vec![sampan_image::BuildOutput {
            kind: sampan_image::OutputKind::Local,
            dest: to,
            compression: sampan_image::Compression::None,
        }];
    });
    (dest, built.await.result.unwrap().cached_steps)
}

#[tokio::test]
async fn repositories_are_added() {
    let fixture = Fixture::new();
    let served = fixture.path("served");
    let repo = served.join("app");
    fs::create_dir_all(repo.join("sub/deep")).unwrap();
    git(&repo, &["init", "-q"]);
    fs::write(repo.join("sub/deep/file"), "one").unwrap();
    fs::write(repo.join("top"), "one").unwrap();
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "-qm", "one"]);
    let first = git(&repo, &["rev-parse", "HEAD"]);
    git(&repo, &["tag", "-am", "first", "v1"]);
    fs::write(repo.join("top"), "two").unwrap();
    git(&repo, &["commit", "-qam", "two"]);
    let daemon = Daemon::start(&served);
    let url = format!("{}/app", daemon.url);

    let dockerfile = format!(
        "FROM scratch\nADD {url} /head\nADD {url}#v1:sub /tag\nADD --keep-git-dir=true {url}#main /kept/\n\
        ADD --checksum={} {url}#{first} /commit\n",
        &first[..12]
    );
    let (root, _) = built(&fixture, &dockerfile, "first").await;
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(
        (read("head/top"), read("tag/deep/file"), read("commit/top")),
        ("two".into(), "one".into(), "one".into())
    );
    assert!(root.join("kept/.git/HEAD").exists() && !root.join("head/.git").exists());
    assert_eq!(fs::metadata(root.join("head/top")).unwrap().mtime(), 1_700_000_000);
    // The same commits are not fetched again; a branch that moved is.
    let again = built(&fixture, &dockerfile, "again").await;
    assert_eq!(again.1, 4);
    fs::write(repo.join("top"), "three").unwrap();
    git(&repo, &["commit", "-qam", "three"]);
    let (root, cached) = built(&fixture, &dockerfile, "moved").await;
    assert_eq!((fs::read_to_string(root.join("head/top")).unwrap().as_str(), cached), ("three", 0));

    for (line, reason) in [
        (format!("ADD {url}#nosuch /x"), "nosuch"),
        (format!("ADD {url}:nosuch#main:none /x"), "git ls-remote"),
        (format!("ADD {url}#main:none /x"), "no directory /none"),
        (format!("ADD --checksum=1234567 {url}#main /x"), "--checksum=1234567"),
        (format!("ADD {url}#--upload-pack=touch /x"), "no branch"),
        (format!("COPY {url} /x"), "COPY does not fetch"),
    ] {
        let error = build(&fixture, &format!("FROM scratch\n{line}\n"), |_| ()).await.error();
        assert!(error.contains("Dockerfile:2") && error.contains(reason), "{line}: {error}");
    }
    fixture.assert_clean();
}

#[tokio::test]
async fn archives_of_any_compression_are_unpacked() {
    let fixture = Fixture::new();
    let context = fixture.path("context");
    fs::create_dir_all(&context).unwrap();
    let plain = context.join("a.tar");
    fs::write(&plain, tar(&[dir("d"), file("d/f", &b"content ".repeat(20_000))])).unwrap();
    for (program, name) in [("xz", "a.tar.xz"), ("bzip2", "a.tar.bz2"), ("gzip", "a.tar.gz")] {
        let packed = Command::new(program).arg("-c").arg(&plain).output().unwrap();
        fs::write(context.join(name), packed.stdout).unwrap();
    }
    let xz = fs::read(context.join("a.tar.xz")).unwrap();
    fs::write(context.join("cut.tar.xz"), &xz[..xz.len() / 2]).unwrap();
    fs::write(context.join("text.xz"), b"\xfd7zXZ\0 is how xz begins").unwrap();
    let dockerfile =
        "FROM scratch\nADD a.tar.xz /xz/\nADD a.tar.bz2 /bz2/\nADD a.tar.gz /gz/\nADD text.xz /as-it-is/\n";
    let (root, _) = built(&fixture, dockerfile, "out").await;
    for kind in ["xz", "bz2", "gz"] {
        assert_eq!(fs::read(root.join(kind).join("d/f")).unwrap().len(), 160_000, "{kind}");
    }
    assert!(root.join("as-it-is/text.xz").is_file());
    let error = build(&fixture, "FROM scratch\nADD cut.tar.xz /x/\n", |_| ()).await.error();
    assert!(error.contains("Dockerfile:2") && error.contains("xz"), "{error}");
    // A root file system as well.
    let imported = fixture.import(&context.join("a.tar.xz"), Some("root:1")).await.unwrap();
    assert_eq!(imported.len(), 1);
    fixture.assert_clean();
}

#[tokio::test]
async fn a_build_that_waits_for_a_cache_can_be_cancelled() {
    let fixture = Fixture::new();
    let dockerfile =
        format!("{BASE}RUN --mount=type=cache,target=/c,id=held,sharing=locked echo in > /c/x\n");
    build(&fixture, &dockerfile, |_| ()).await.result.unwrap();
    let lock = fixture.store().join("mounts").join(format!("{}.lock", Digest::of(b"held").hex()));
    let held = fs::File::open(&lock).unwrap();
    let held = nix::fcntl::Flock::lock(held, nix::fcntl::FlockArg::LockExclusive).unwrap();
    let waiting = dockerfile.replace("echo in", "echo again");
    let building = build(&fixture, &waiting, |options| {
        let (cancel, events) = (options.cancel.clone(), options.events.take());
        options.events = Some(std::sync::Arc::new(move |event| {
            // The step that waits has begun.
            if matches!(&event, BuildEvent::Step { instruction, .. } if instruction.contains("echo again")) {
                cancel.cancel();
            }
            events.iter().for_each(|events| events(event.clone()));
        }));
    });
    let built = tokio::time::timeout(Duration::from_secs(60), building).await.expect("it waits on");
    assert!(built.error().contains("cancelled"), "{}", built.error());
    // Whoever waits goes on when the other lets go.
    let building = build(&fixture, &waiting, |_| ());
    let letting_go = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(held);
    };
    let (built, ()) = futures::future::join(building, letting_go).await;
    built.result.unwrap();
    fixture.assert_clean();
}

/// A store of its own that may talk to a registry on plain HTTP.
fn machine(host: &str) -> Fixture {
    let mut fixture = Fixture::new();
    let mut options = options(fixture.dir.path());
    options.registries.hosts.insert(host.to_owned(), insecure());
    fixture.images = Images::open(options).unwrap();
    fixture
}

#[tokio::test]
async fn other_machines_remember_steps() {
    let origin = Fixture::new();
    let (_server, host) = docker_registry(&origin, false, None);
    // What differs each time it is done, in a stage of its own and in the image.
    let dockerfile = format!(
        "{BASE}FROM base AS tool\nRUN mktemp -u XXXXXX > /tool && echo > /other\nFROM base\n\
         COPY --from=tool /tool /tool\nRUN mktemp -u XXXXXX > /made\n"
    );
    let (cache, inline) = (format!("{host}/cache/app:1"), format!("{host}/app/inline:1"));
    let first = machine(&host);
    let built = build(&first, &dockerfile, |options| {
        options.cache_to = vec![CacheTo::Inline, CacheTo::Registry { reference: cache.clone(), all: true }];
    });
    let made = built.await.result.unwrap();
    assert_eq!(made.cached_steps, 0);
    first.images.push("out:1", &inline, PushOptions::default()).await.unwrap();

    // Everything comes from there, and is the same bit for bit.
    let second = machine(&host);
    let from = |references: Vec<String>, lists: bool| {
        move |options: &mut sampan_image::BuildOptions| {
            options.cache_from = references;
            options.pull = Some(PullOptions::default());
            if lists {
                options.cache_to = vec![CacheTo::Inline];
            }
        }
    };
    let again = build(&second, &dockerfile, from(vec![format!("{host}/none:1"), cache.clone()], true)).await;
    let warned = again.events.iter().any(
        |event| matches!(event, BuildEvent::Warning { message } if message.contains("--cache-from") && message.contains("none:1")),
    );
    assert!(warned, "{:?}", again.events);
    let again = again.result.unwrap();
    assert_eq!((again.cached_steps, again.image.digest), (5, made.image.digest));
    second.assert_clean();

    // The image itself knows the steps that it consists of; the other stage is done anew, and then nothing after it fits.
    let third = machine(&host);
    let again = build(&third, &dockerfile, from(vec![inline.clone()], false)).await.result.unwrap();
    assert_eq!(again.cached_steps, 2);
    // Asked not to, nobody is.
    let fourth = machine(&host);
    let alone = build(&fourth, &dockerfile, |options| {
        from(vec![cache.clone()], false)(options);
        options.no_cache = true;
    });
    assert_eq!(alone.await.result.unwrap().cached_steps, 0);
    third.assert_clean();
    fourth.assert_clean();
}

#[tokio::test]
async fn owners_of_what_a_stage_made_are_part_of_it() {
    let fixture = Fixture::new();
    for owner in [7, 8] {
        let dockerfile = format!(
            "{BASE}FROM base AS made\nRUN echo x > /f && chown {owner} /f\nFROM scratch\nCOPY --from=made /f /f\n"
        );
        let (root, _) = built(&fixture, &dockerfile, &format!("out{owner}")).await;
        assert_eq!(fs::metadata(root.join("f")).unwrap().uid(), owner);
    }
    fixture.assert_clean();
}
