//! Logs, exec, terminals and attached clients.

use std::time::Duration;

use sampan_container::{AttachConfig, Error, ExecConfig, ExecSession, PodSandbox, TerminalSize, User};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Env, Tests, until};
use crate::tests;

pub fn register(tests: &mut Tests) {
    tests!(
        tests,
        lines_are_logged,
        a_flood_is_logged_whole,
        exec_runs_beside,
        exec_reads_stdin,
        exec_has_a_terminal,
        exec_says_what_fails,
        execs_are_bounded,
        containers_have_terminals,
        attached_clients_share,
        slow_client_is_dropped,
        stdin_once_ends,
        logs_rotate,
    );
}

async fn lines_are_logged(env: Env) {
    let pod = env.pod("p").await;
    env.run(&pod, env.script("c", "echo one; echo two >&2; printf part")).await;
    let log = std::fs::read_to_string(env.log_path("c")).unwrap();
    let mut lines: Vec<Vec<&str>> = log.lines().map(|line| line.splitn(4, ' ').collect()).collect();
    assert!(lines.iter().all(|line| line[0].len() == 30 && line[0].ends_with('Z')), "{log}");
    lines.sort_by_key(|line| line[3].to_owned());
    let rest: Vec<&[&str]> = lines.iter().map(|line| &line[1..]).collect();
    assert_eq!(rest, [["stdout", "F", "one"], ["stdout", "P", "part"], ["stderr", "F", "two"]]);
    env.end(pod).await;
}

async fn a_flood_is_logged_whole(env: Env) {
    let pod = env.pod("p").await;
    let (exit, output) = env.run(&pod, env.script("c", "seq 1 100000")).await;
    assert_eq!(exit.code, 0);
    let want: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(output == want, "{} of {} bytes", output.len(), want.len());
    env.end(pod).await;
}

async fn logs_rotate(env: Env) {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "seq 1 10000");
    config.log.as_mut().unwrap().max_size = 100_000;
    config.log.as_mut().unwrap().max_files = 3;
    env.run(&pod, config).await;
    let path = env.log_path("c");
    let last = std::fs::read_to_string(&path).unwrap();
    assert!(last.ends_with(" 10000\n"));
    let size =
        |number: u32| std::fs::metadata(path.with_extension(format!("log.{number}"))).map(|meta| meta.len());
    assert!(size(1).unwrap() <= 100_000 && size(2).unwrap() <= 100_000 && size(3).is_err());
    env.end(pod).await;
}

async fn sleeping(env: &Env) -> PodSandbox {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "trap 'exit 0' TERM; echo ready; while :; do sleep 0.05; done");
    config.env = vec!["FROM=container".to_owned()];
    pod.create_container(config).await.unwrap();
    pod.start_container("c").await.unwrap();
    until("it runs", || env.output("c").contains("ready")).await;
    pod
}

fn exec(args: &[&str]) -> ExecConfig {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    ExecConfig { container: "c".to_owned(), args, stdout: true, stderr: true, ..Default::default() }
}

async fn finish(mut session: ExecSession) -> (String, String, i32) {
    let (mut out, mut err) = (String::new(), String::new());
    session.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    if let Some(mut stderr) = session.stderr.take() {
        stderr.read_to_string(&mut err).await.unwrap();
    }
    let code = session.process.wait().await.unwrap().code;
    assert_eq!(session.process.wait().await.unwrap().code, code);
    (out, err, code)
}

async fn exec_runs_beside(env: Env) {
    let pod = sleeping(&env).await;
    let mut config = exec(&["sh", "-c", "echo $FROM $B; id -u; echo bad >&2; hostname; exit 9"]);
    config.env = vec!["B=exec".to_owned()];
    config.user = Some(User { name: "web".to_owned(), ..Default::default() });
    let (out, err, code) = finish(pod.exec(config).await.unwrap()).await;
    assert_eq!(
        (out.lines().take(2).collect::<Vec<_>>(), err.as_str(), code),
        (vec!["container exec", "33"], "bad\n", 9)
    );
    // The same processes, root, cgroup and confinement as the container.
    let (out, _, _) = finish(pod.exec(exec(&["cat", "/proc/1/comm"])).await.unwrap()).await;
    assert_eq!(out, "sh\n");
    let script = "diff /proc/1/cgroup /proc/self/cgroup && grep -E '^(Cap|Secc)' /proc/1/status > /tmp/1; \
                  grep -E '^(Cap|Secc)' /proc/self/status | diff /tmp/1 - && echo same";
    let (out, err, _) = finish(pod.exec(exec(&["sh", "-c", script])).await.unwrap()).await;
    assert_eq!(out, "same\n", "{err}");
    let pids = pod.container_stats("c").unwrap().pids;
    let mut session = pod.exec(exec(&["sleep", "1000"])).await.unwrap();
    assert!(pod.container_stats("c").unwrap().pids > pids.min(1));
    session.process.control().signal(libc::SIGKILL).await.unwrap();
    assert_eq!(session.process.wait().await.unwrap().signal, Some(9));
    env.end(pod).await;
}

async fn exec_reads_stdin(env: Env) {
    let pod = sleeping(&env).await;
    let mut session = pod.exec(ExecConfig { stdin: true, ..exec(&["wc", "-c"]) }).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let write = async move {
        for _ in 0..64 {
            stdin.write_all(&[b'x'; 65536]).await.unwrap();
        }
    };
    let (_, (out, _, code)) = tokio::join!(write, finish(session));
    assert_eq!((out.trim(), code), ("4194304", 0));
    env.end(pod).await;
}

async fn exec_has_a_terminal(env: Env) {
    let pod = sleeping(&env).await;
    let size = TerminalSize { width: 91, height: 27 };
    let config = ExecConfig { tty: true, stdin: true, terminal_size: Some(size), ..exec(&["sh"]) };
    let mut session = pod.exec(config).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"stty size; tty\n").await.unwrap();
    let mut seen = String::new();
    read_until(session.stdout.as_mut().unwrap(), &mut seen, "/dev/pts/").await;
    assert!(seen.contains("27 91"), "{seen}");
    session.process.control().resize(TerminalSize { width: 50, height: 20 }).await.unwrap();
    stdin.write_all(b"stty size\n").await.unwrap();
    read_until(session.stdout.as_mut().unwrap(), &mut seen, "20 50").await;
    stdin.write_all(b"exit 4\n").await.unwrap();
    let (_, _, code) = finish(session).await;
    assert_eq!(code, 4);
    env.end(pod).await;
}

async fn read_until(stream: &mut sampan_container::Stream, seen: &mut String, wanted: &str) {
    let mut buffer = [0; 4096];
    while !seen.contains(wanted) {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut buffer)).await;
        let count = read.unwrap_or_else(|_| panic!("no {wanted:?} in {seen:?}")).unwrap();
        assert!(count > 0, "ended without {wanted:?}: {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

async fn exec_says_what_fails(env: Env) {
    let pod = sleeping(&env).await;
    match pod.exec(exec(&["nothing"])).await {
        Err(Error::Start { exit_code: 127, message }) => {
            assert_eq!(message, r#"exec: "nothing": executable file not found in $PATH"#);
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(pod.exec(exec(&[])).await, Err(Error::Invalid(_))));
    let config = ExecConfig { container: "none".to_owned(), ..exec(&["true"]) };
    assert!(matches!(pod.exec(config).await, Err(Error::NotFound { .. })));
    pod.stop_container("c", libc::SIGKILL, Duration::ZERO).await.unwrap();
    assert!(matches!(pod.exec(exec(&["true"])).await, Err(Error::Conflict(_))));
    env.end(pod).await;
}

async fn execs_are_bounded(env: Env) {
    let pod = sleeping(&env).await;
    let mut sessions = Vec::new();
    for _ in 0..sampan_container::MAX_EXECS {
        sessions.push(pod.exec(exec(&["sleep", "1000"])).await.unwrap());
    }
    assert!(matches!(pod.exec(exec(&["true"])).await, Err(Error::Limit(_))));
    let mut last = sessions.pop().unwrap();
    last.process.control().signal(libc::SIGKILL).await.unwrap();
    last.process.wait().await.unwrap();
    finish(pod.exec(exec(&["true"])).await.unwrap()).await;
    env.end(pod).await;
}

async fn containers_have_terminals(env: Env) {
    let pod = env.pod("p").await;
    let mut config =
        env.script("c", "tty; stty size; read line; echo got $line; stty size; ls -l /dev/console | cut -c1");
    config.tty = true;
    config.stdin = true;
    config.terminal_size = Some(TerminalSize { width: 80, height: 24 });
    pod.create_container(config).await.unwrap();
    pod.start_container("c").await.unwrap();
    until("it asks", || env.output("c").contains("24 80")).await;
    let attach = AttachConfig { container: "c".to_owned(), stdin: true, stdout: true, stderr: false };
    let mut session = pod.attach(attach).await.unwrap();
    pod.resize_container("c", TerminalSize { width: 100, height: 40 }).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    let mut seen = String::new();
    session.stdout.take().unwrap().read_to_string(&mut seen).await.unwrap();
    assert!(seen.contains("got hello\r\n40 100\r\nc\r\n"), "{seen:?}");
    assert!(env.output("c").starts_with("/dev/pts/0\n"), "{}", env.output("c"));
    assert_eq!(pod.wait_container("c").await.unwrap().code, 0);
    env.end(pod).await;
}

async fn attached_clients_share(env: Env) {
    let pod = env.pod("p").await;
    let mut config =
        env.script("c", "while read line; do echo out $line; echo err $line >&2; done; echo end");
    config.stdin = true;
    pod.create_container(config).await.unwrap();
    pod.start_container("c").await.unwrap();
    let attach = |stdin| AttachConfig { container: "c".to_owned(), stdin, stdout: true, stderr: true };
    let mut first = pod.attach(attach(true)).await.unwrap();
    let mut second = pod.attach(attach(true)).await.unwrap();
    first.stdin.as_mut().unwrap().write_all(b"a\n").await.unwrap();
    for session in [&mut first, &mut second] {
        let mut seen = String::new();
        read_until(session.stdout.as_mut().unwrap(), &mut seen, "out a\n").await;
        seen.clear();
        read_until(session.stderr.as_mut().unwrap(), &mut seen, "err a\n").await;
    }
    // One client goes; the other, and the container's stdin, stay.
    drop(first);
    second.stdin.as_mut().unwrap().write_all(b"b\n").await.unwrap();
    let mut seen = String::new();
    read_until(second.stdout.as_mut().unwrap(), &mut seen, "out b\n").await;
    pod.stop_container("c", libc::SIGKILL, Duration::ZERO).await.unwrap();
    second.stdout.take().unwrap().read_to_string(&mut seen).await.unwrap();
    env.end(pod).await;
}

async fn slow_client_is_dropped(env: Env) {
    let pod = env.pod("p").await;
    pod.create_container(env.script("c", "sleep 0.3; seq 1 400000")).await.unwrap();
    pod.start_container("c").await.unwrap();
    let attach = AttachConfig { container: "c".to_owned(), stdin: false, stdout: true, stderr: false };
    let mut session = pod.attach(attach).await.unwrap();
    // Nothing is read: the container must end all the same.
    assert_eq!(pod.wait_container("c").await.unwrap().code, 0);
    let mut seen = Vec::new();
    session.stdout.take().unwrap().read_to_end(&mut seen).await.unwrap();
    assert!(seen.len() < 2_000_000, "{} bytes were kept for a client that did not read", seen.len());
    assert!(env.output("c").ends_with("400000\n"));
    env.end(pod).await;
}

async fn stdin_once_ends(env: Env) {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "cat; echo end");
    config.stdin = true;
    config.stdin_once = true;
    pod.create_container(config).await.unwrap();
    pod.start_container("c").await.unwrap();
    let attach = AttachConfig { container: "c".to_owned(), stdin: true, stdout: true, stderr: false };
    let mut session = pod.attach(attach).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    let big: Vec<u8> = (0..200_000u32).flat_map(|number| format!("{number}\n").into_bytes()).collect();
    let write = async {
        stdin.write_all(&big).await.unwrap();
        drop(stdin);
    };
    let mut seen = Vec::new();
    let mut stdout = session.stdout.take().unwrap();
    tokio::join!(write, async { stdout.read_to_end(&mut seen).await.unwrap() });
    assert!(seen.len() == big.len() + 4 && seen.ends_with(b"end\n"), "{} of {}", seen.len(), big.len());
    assert_eq!(pod.wait_container("c").await.unwrap().code, 0);
    env.end(pod).await;
}
