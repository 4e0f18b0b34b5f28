//! The commands of the binary itself: run, status, images, and what they refuse.

use serde_json::Value;

use crate::support::{Cluster, busybox, eventually, finish};

#[test]
fn run_passes_output_input_and_exit_codes_through() {
    let c = Cluster::start();
    let ran = c.sh("$SAMPAN run --rm busybox:1 sh -c 'echo out; exit 42'");
    assert_eq!((ran.code, ran.out.as_str()), (42, "out\n"), "{ran:?}");
    let ran = c.sh("printf 'a\\nb\\n' | $SAMPAN run --rm -i busybox:1 wc -l").ok();
    assert_eq!(ran.out.trim(), "2");
    let ran = c.sh("$SAMPAN run --rm -e COLOUR=blue busybox:1 sh -c 'echo $COLOUR'").ok();
    assert_eq!(ran.out, "blue\n");
    // It may end before anybody looks.
    for _ in 0..5 {
        assert_eq!(c.sh("$SAMPAN run --rm busybox:1 echo quick").ok().out, "quick\n");
    }
    assert_eq!(c.k("get pods -o name"), "");
    let name = c.sh("$SAMPAN run -d --name kept busybox:1 sleep infinity").ok().out;
    assert_eq!(name, "kept\n");
    c.wait_ready("kept");
    c.sh("$SAMPAN run --name kept busybox:1 true").fails(&[r#"pods "kept" already exists"#]);
    let ran = c.sh("$SAMPAN run --rm busybox:1 /nosuch");
    assert!(ran.code != 0, "{ran:?}");
    ran.says(&["/nosuch"]);
    let mut terminal = c.spawn(
        "tty",
        "script -qefc 'stty rows 30 cols 90; exec $SAMPAN run --rm -it busybox:1 sh' /dev/null",
    );
    terminal.says("/ #");
    terminal.write("stty size; echo $((40+2)); exit 6\n");
    terminal.says("30 90");
    terminal.says("42");
    assert_eq!(terminal.wait(), 6, "{}", terminal.output());
    c.k("delete pod kept --force --grace-period=0");
    eventually("nothing is left", || c.k("get pods -o name").is_empty());
}

#[test]
fn status_kubeconfig_version_and_completion() {
    let c = Cluster::start();
    let ran = c.sampan(&["status", "-o", "json"]).ok();
    let status: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(status["running"]["pid"].as_i64(), Some(c.pid().as_raw().into()));
    assert_eq!(
        (status["nodes"][0]["name"].as_str(), status["nodes"][0]["ready"].as_bool()),
        (Some("node-a"), Some(true))
    );
    c.sampan(&["status"]).ok().says(&["https://127.0.0.1:6443", "node-a Ready"]);
    c.sampan(&["status", "-o", "yaml"]).ok().says(&["dataDir: "]);
    let printed = c.sampan(&["kubeconfig"]).ok().out;
    c.file("copy", &printed);
    c.sh("kubectl --kubeconfig copy get nodes").ok().says(&["node-a"]);
    // Only root may read the administrator's key.
    c.sh("stat -c %a $SAMPAN_DATA_DIR/kubeconfig $SAMPAN_DATA_DIR/tls/*.key | sort -u").ok().says(&["600"]);
    c.sampan(&["version", "-o", "json"]).ok().says(&["version"]);
    let completion = c.sampan(&["completion", "bash"]).ok().out;
    c.file("completion", completion);
    c.sh("bash -n completion && grep -q _sampan completion").ok();
    c.sampan(&["nosuch"]).fails(&["unrecognized subcommand"]);

    c.sampan(&["down"]).ok();
    let ran = c.sampan(&["status"]);
    assert_eq!(ran.code, 3, "{ran:?}");
    ran.says(&["not running"]);
    let ran = c.sampan(&["status", "-o", "json"]);
    assert!(
        ran.code == 3 && serde_json::from_str::<Value>(&ran.out).unwrap()["running"].is_null(),
        "{ran:?}"
    );
    c.sh("$SAMPAN run --rm busybox:1 true").fails(&["nothing is running", "hint:"]);
    c.sampan(&["--data-dir", "/nosuch/dir", "status"]).fails(&["no instance in /nosuch/dir", "hint:"]);
    c.sampan(&["down"]).ok();
    // What was there is there again.
    c.up();
    assert_eq!(c.sh("$SAMPAN run --rm busybox:1 echo again").ok().out, "again\n");
}

#[test]
fn images_are_imported_built_listed_and_removed() {
    let c = Cluster::start();
    c.file("Dockerfile", "FROM busybox:1 AS base\nARG WHO=world\nENV GREETING=hello\nWORKDIR /app\nCOPY data.txt ./\nRUN cat data.txt > /app/copied && chown 33:33 copied\nRUN adduser 2>/dev/null || true\nEXPOSE 80\nLABEL a=b\nUSER 33\nENTRYPOINT [\"/bin/sh\", \"-c\"]\nCMD [\"echo $GREETING; cat copied; id -u; pwd\"]\n");
    c.file("data.txt", "some data\n");
    c.sampan(&["image", "build", "-t", "app:1", "-t", "app:latest", "."]).ok();
    assert_eq!(c.sh("$SAMPAN run --rm app:1").ok().out, "hello\nsome data\n33\n/app\n");
    let ran = c.sampan(&["image", "list", "-o", "json"]).ok();
    let list: Value = serde_json::from_str(&ran.out).unwrap();
    let names: Vec<&str> =
        list.as_array().unwrap().iter().filter_map(|image| image["name"].as_str()).collect();
    for name in ["docker.io/library/app:1", "docker.io/library/app:latest", "docker.io/library/busybox:1"] {
        assert!(names.contains(&name), "{names:?}");
    }
    // In use: refused; free: gone.
    c.k("run user --image=app:1 --command -- sleep infinity");
    c.wait_ready("user");
    c.sampan(&["image", "save", "app:1", "-f", "app.tar"]).ok();
    c.sampan(&["image", "rm", "app:latest"]).ok();
    let ran = c.sampan(&["image", "rm", "app:1"]);
    assert!(ran.code != 0, "an image in use was removed: {ran:?}");
    c.k("delete pod user --force --grace-period=0");
    eventually("it can be removed", || c.sampan(&["image", "rm", "app:1"]).code == 0);
    c.sampan(&["image", "import", "app.tar"]).ok().says(&["app:1"]);
    assert_eq!(c.sh("$SAMPAN run --rm app:1").ok().out, "hello\nsome data\n33\n/app\n");
    c.file("Bad", "FROM busybox:1\nRUN exit 7\n");
    c.sampan(&["image", "build", "-f", "Bad", "."]).fails(&["7", "RUN exit 7"]);
    c.file("Worse", "FORM busybox:1\n");
    c.sampan(&["image", "build", "-f", "Worse", "."]).fails(&["FORM"]);
}

/// What only the real runtime can show: mounts, networks and programs of a step.
#[test]
fn steps_of_builds_run_in_containers() {
    let c = Cluster::start();
    c.file("seen.txt", "seen\n");
    c.file("token", "geheim");
    c.file(
        "Dockerfile",
        "# syntax=docker/dockerfile:1\nFROM busybox:1 AS base\nFROM base AS tool\nRUN echo tool > /tool\nFROM base\n\
         RUN --mount=type=secret,id=token --mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch,size=1m \\\n \
           --mount=type=bind,target=/context --mount=from=tool,source=/tool,target=/mnt/tool <<EOF\n\
         set -e\ngrep -q tmpfs.*size=1024k /proc/mounts\ntest $(cat /run/secrets/token) = geheim\n\
         ! touch /context/new 2>/dev/null\ncat /context/seen.txt /mnt/tool > /made\ndate +%N >> /cache/times\n\
         wc -l < /cache/times > /times\nEOF\n\
         RUN <<EOF\n#!/bin/sh\necho $0 > /script\nEOF\n\
         RUN --network=none wc -l < /proc/net/dev > /links\n\
         COPY --chmod=755 <<\"EOF\" /entry\n#!/bin/sh\ncat /made /times /script /links; ls -d /run/secrets /cache /context /mnt/tool 2>/dev/null || true\nEOF\n\
         ENTRYPOINT [\"/entry\"]\n",
    );
    let build = "$SAMPAN image build -t steps:1 --secret id=token,src=token .";
    c.sh(build).ok();
    let ran = c.sh("$SAMPAN run --rm steps:1 2>/dev/null");
    assert_eq!(ran.out, "seen\ntool\n1\n/dev/pipes/script\n3\n", "{ran:?}");
    // Everything is remembered; done anew, the cache is still there.
    c.sh(build).ok().says(&["5 from the cache"]);
    c.sh(&format!("{build} --no-cache")).ok();
    let ran = c.sh("$SAMPAN run --rm steps:1 2>/dev/null");
    assert_eq!(ran.out.lines().nth(2), Some("2"), "{ran:?}");
    c.sh("printf 'FROM busybox:1\\nRUN echo from-stdin > /x\\n' | $SAMPAN image build -q -t in:1 -o out -")
        .ok();
    assert_eq!(c.sh("cat out/x").ok().out, "from-stdin\n");
    c.sh("$SAMPAN image save steps:1 in:1 -o both.tar.zst && $SAMPAN image rm steps:1 in:1 && $SAMPAN image load both.tar.zst")
        .ok()
        .says(&["steps:1", "in:1"]);
    agents_are_asked_by_steps(&c);
    c.sh("$SAMPAN image build --push .").fails(&["--push needs a name", "hint:"]);
    c.sh("$SAMPAN image build --platform linux/s390x -t x:1 .").fails(&["linux/s390x"]);
}

/// A step sees the keys of the caller's SSH agent, also as another user, and nothing of it stays.
fn agents_are_asked_by_steps(c: &Cluster) {
    struct Agent(std::process::Child);
    impl Drop for Agent {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent");
    let agent = std::process::Command::new("ssh-agent").args(["-D", "-a"]).arg(&socket).spawn();
    let _agent = Agent(agent.unwrap());
    eventually("the agent listens", || socket.exists());
    c.sh(&format!("ssh-keygen -q -t ed25519 -N '' -f key && SSH_AUTH_SOCK={} ssh-add key", socket.display()))
        .ok();
    c.sh(
        "for f in $(which ssh-add) $(ldd $(which ssh-add) | grep -o '/[^ ]*'); do mkdir -p ssh$(dirname $f); cp -L $f ssh$f; done",
    )
    .ok();
    c.file(
        "Asking",
        "FROM busybox:1\nCOPY ssh/ /\nRUN mkdir -m 777 /out\nRUN --mount=type=ssh,required ssh-add -l > /out/root\n\
         USER 65534\nRUN --mount=type=ssh,id=default,uid=65534,target=/tmp/asked ssh-add -l > /out/nobody\n\
         RUN test ! -e /tmp/asked && test -z \"$SSH_AUTH_SOCK\"\n",
    );
    c.sh(&format!("$SAMPAN image build -q -f Asking -o asked --ssh default={} .", socket.display())).ok();
    let print = c.sh("ssh-keygen -lf key.pub | cut -d' ' -f2").ok().out;
    for file in ["root", "nobody"] {
        c.sh(&format!("cat asked/out/{file}")).ok().says(&[print.trim()]);
    }
    c.sh("$SAMPAN image build -q --no-cache -f Asking .").fails(&["no SSH agent", "hint:"]);
    c.sh("$SAMPAN image build -q -f Asking --ssh default=key .").fails(&["--ssh", "hint:"]);
}

/// A slim image is tried before it gets its name, and a trace keeps what the kernel saw.
#[test]
fn images_are_looked_into_and_made_smaller() {
    let c = Cluster::start();
    c.file(
        "Dockerfile",
        "FROM busybox:1\nRUN mkdir -p /usr/share/doc/x /usr/lib/tool && head -c 2000000 /dev/urandom > /usr/share/doc/x/big \\\n \
         && cp /usr/share/doc/x/big /gone && echo a > /usr/lib/tool/a && echo b > /usr/lib/tool/b && echo c > /usr/lib/tool/c\nRUN rm /gone\n\
         COPY <<EOF /var/lib/dpkg/status\nPackage: tool\nStatus: install ok installed\nVersion: 1\nEOF\n\
         COPY <<EOF /var/lib/dpkg/info/tool.list\n/usr/lib/tool/a\n/usr/lib/tool/b\n/usr/lib/tool/c\nEOF\n\
         ENV NAME=a\nSTOPSIGNAL SIGKILL\nHEALTHCHECK CMD test -e /ready\nCMD [\"sh\", \"-c\", \"cat /usr/lib/tool/$NAME > /made && mv /made /ready; exec sleep 1000\"]\n",
    );
    c.sampan(&["image", "build", "-t", "app:1", "."]).ok();
    let ran = c.sampan(&["image", "analyze", "app:1", "-o", "json"]).ok();
    let found: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(found["images"][0]["wastedBytes"], 2_000_000, "{found}");
    c.sampan(&["image", "analyze", "app:1"]).ok().says(&["/gone", "deleted", "dpkg:tool"]);
    c.sampan(&["image", "slim", "--dry-run", "app:1"]).ok();
    c.sh("$SAMPAN image list").ok();
    // What the check needs is gone: the original stays, and nothing of the attempt.
    let ran =
        c.sampan(&["image", "slim", "app:1", "--timeout", "5", "--check", "test -e /usr/share/doc/x/big"]);
    ran.fails(&["does not work", "hint:"]);
    let list = c.sampan(&["image", "list"]).ok().out;
    assert!(!list.contains("slim") && !list.contains("trial") && list.contains("app:1"), "{list}");
    c.sampan(&["image", "slim", "app:1"]).ok().says(&["app:1-slim"]);
    let files = "cat /usr/lib/tool/a; ls /usr/lib/tool/b /usr/share/doc/x/big 2>&1 | wc -l; test -e /usr/lib/tool/b && echo both";
    c.sh(&format!("$SAMPAN run --rm app:1-slim sh -c '{files}'")).says(&["a\n", "both"]);
    // What was opened stays, what was named too, and nothing else.
    c.sh("$SAMPAN image slim app:1 --trace -t traced:1 --keep usr/lib/tool/c --exercise 'grep -q localhost /etc/hosts'")
        .ok()
        .says(&["traced:1"]);
    let ran =
        c.sh("$SAMPAN run --rm traced:1 sh -c 'cd /usr/lib/tool; cat a c; test -e b || echo gone'").ok();
    assert_eq!(ran.out, "a\nc\ngone\n");
    // Ended in the middle of a trial: its container ends too, and nothing of it is left.
    let ran = c.sh(
        "$SAMPAN image slim app:1 --trace -t never:1 --check 'echo > /begun; sleep 4711' 2> said & slim=$!
         for i in {1..600}; do ls $SAMPAN_DATA_DIR/trial-*/*/upper/begun 2> /dev/null && break; sleep 0.1; done
         kill $slim; wait $slim; echo code $?; cat said; ls $SAMPAN_DATA_DIR; $SAMPAN image list; pgrep -xf 'sleep 4711'",
    );
    assert!(ran.out.contains("upper/begun") && ran.out.contains("code 1\n"), "{}", ran.out);
    assert!(ran.out.contains("interrupted") && !ran.out.contains("never"), "{}", ran.out);
    assert!(!ran.out.contains("\ntrial-") && ran.code == 1, "{}", ran.out);
}

#[test]
fn images_that_are_broken_or_hostile_are_refused() {
    let c = Cluster::start();
    c.file("noise", vec![7; 100_000]);
    c.sampan(&["image", "import", "noise", "noise:1"]).fails(&["noise"]);
    c.sampan(&["image", "import", "nosuch", "noise:1"]).fails(&["nosuch"]);
    // Cut in the middle.
    let whole = std::fs::read(busybox()).unwrap();
    c.file("cut.tar", &whole[..whole.len() / 2]);
    c.sampan(&["image", "import", "cut.tar", "cut:1"]).fails(&["cut.tar"]);
    // Entries that climb out, by name and by link.
    let outside = c.work().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let script = format!(
        "import io, tarfile
def add(tar, name, data=b'owned', **more):
    info = tarfile.TarInfo(name); info.size = len(data)
    for key, value in more.items(): setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))
with tarfile.open('climb.tar', 'w') as tar: add(tar, '../' * 12 + '{out}/climbed')
with tarfile.open('absolute.tar', 'w') as tar: add(tar, '{out}/absolute')
with tarfile.open('link.tar', 'w') as tar:
    add(tar, 'way', b'', type=tarfile.SYMTYPE, linkname='{out}'); add(tar, 'way/linked')
",
        out = outside.display()
    );
    let script = c.file("make.py", script);
    finish(c.command("python3").arg(script), b"").ok();
    let climb = c.sampan(&["image", "import", "climb.tar", "climb:1"]);
    let absolute = c.sampan(&["image", "import", "absolute.tar", "absolute:1"]);
    let link = c.sampan(&["image", "import", "link.tar", "link:1"]);
    // Unpacking happens at the latest when it runs.
    for (name, ran) in [("climb", climb), ("absolute", absolute), ("link", link)] {
        if ran.code == 0 {
            let _ = c.sh(&format!("$SAMPAN run --rm {name}:1 /x"));
        }
        let found: Vec<_> = std::fs::read_dir(&outside).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(found.is_empty(), "{name} climbed out: {found:?}");
    }
    c.sampan(&["image", "pull", "localhost:1/nosuch:1"]).fails(&["localhost:1"]);
    c.sampan(&["image", "rm", "nosuch:1"]).fails(&["nosuch:1"]);
    assert_eq!(c.sh("$SAMPAN run --rm busybox:1 echo fine").ok().out, "fine\n");
}
