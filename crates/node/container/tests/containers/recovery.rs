//! Processes that are killed: the main one, the zygote, a shim.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sampan_container::{ContainerState, Event, ExitReason, Options, PodSandboxConfig, Runtime};
use sampan_daemon::Supervisor;

use crate::harness::{Env, Tests, alive, container, kill9, rootfs, until};
use crate::tests;

pub fn register(tests: &mut Tests) {
    tests!(
        tests,
        killed_main_process,
        killed_zygote,
        killed_shim,
        shim_killed_while_nobody_looks,
        leftovers_are_swept
    );
}

const MAIN: &str = "as-main-process";

/// As a main process: makes a pod with two containers, and waits to be killed.
pub fn dispatch() -> bool {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).map(String::as_str) != Some(MAIN) {
        return false;
    }
    let dir = PathBuf::from(&args[2]);
    let parent = args[4].clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let runtime = Runtime::new(Options::new(dir.join("shim"), parent), Supervisor::new()).unwrap();
        let mut config = PodSandboxConfig { id: "p".to_owned(), ..Default::default() };
        config.labels.insert("of".to_owned(), "the first".to_owned());
        let pod = runtime.create_pod(config).await.unwrap();
        let scripts = [("stays", "while :; do echo beat; sleep 0.02; done"), ("ends", "sleep 0.5; exit 6")];
        for (id, script) in scripts {
            pod.create_container(container(&dir, id, &["/bin/sh", "-c", script])).await.unwrap();
            pod.start_container(id).await.unwrap();
        }
        println!("{}", pod.shim_pid());
        std::future::pending::<()>().await;
    });
    true
}

/// Starts such a process, waits until it stands, and kills it. Gives the shim's pid.
fn start_and_kill_main(dir: &Path, parent: &str) -> u32 {
    let mut main = Command::new("/proc/self/exe")
        .arg(MAIN)
        .args([dir, rootfs()])
        .arg(parent)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(main.stdout.take().unwrap()).read_line(&mut line).unwrap();
    main.kill().unwrap();
    main.wait().unwrap();
    line.trim().parse().unwrap()
}

async fn killed_main_process(env: Env) {
    let shim = start_and_kill_main(&env.dir, &env.parent);
    // Logs go on, and an end that nobody watches is kept.
    let seen = env.output("stays").len();
    until("the log goes on", || env.output("stays").len() > seen).await;
    let state = env.dir.join("shim/p/containers/ends.json");
    until("the other one ends", || std::fs::read_to_string(&state).unwrap().contains("Exited")).await;
    let parent_of = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    until("the shim is left to init", || {
        std::fs::read_to_string(format!("/proc/{}/comm", parent_of(shim)))
            .is_ok_and(|name| name != "sampan-zygote\n")
    })
    .await;
    let mut events = env.runtime().events();
    let mut adopted = env.runtime().adopt().await.unwrap();
    assert_eq!(adopted.len(), 1);
    let adopted = adopted.remove(0);
    assert_eq!((adopted.config.labels["of"].as_str(), adopted.sandbox.shim_pid()), ("the first", shim));
    assert!(!adopted.sandbox.is_lost());
    let states: Vec<_> = adopted.containers.iter().map(|c| (c.id.as_str(), c.state)).collect();
    assert_eq!(states, [("ends", ContainerState::Exited), ("stays", ContainerState::Running)]);
    assert_eq!(adopted.containers[0].exit.as_ref().unwrap().code, 6);
    assert!(env.runtime().adopt().await.unwrap().is_empty());
    let pod = adopted.sandbox;
    let exit = pod.stop_container("stays", libc::SIGKILL, Duration::ZERO).await.unwrap();
    assert_eq!(exit.code, 137);
    assert!(matches!(events.next().await, Some(Event::Exited { container, .. }) if container == "stays"));
    let (exit, _) = env.run(&pod, env.script("new", "exit 8")).await;
    assert_eq!(exit.code, 8);
    env.end(pod).await;
}

async fn killed_zygote(env: Env) {
    let pod = env.pod("p").await;
    let find = || {
        let children = std::fs::read_dir("/proc/self/task").unwrap();
        let pids: String = children
            .map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default())
            .collect();
        let shim = std::fs::read_to_string(format!("/proc/{}/stat", pod.shim_pid())).unwrap();
        let parent: u32 =
            shim.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
        pids.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()).find(|pid| *pid == parent)
    };
    let zygote = find().expect("the shim's parent is the zygote");
    kill9(zygote);
    until("the zygote is dead", || !alive(zygote)).await;
    // The pod does not mind, and the next one gets a new zygote.
    let (exit, _) = env.run(&pod, env.script("c", "exit 2")).await;
    assert_eq!(exit.code, 2);
    let second = env.pod("q").await;
    assert_eq!(env.run(&second, env.script("d", "exit 3")).await.0.code, 3);
    second.remove().await.unwrap();
    env.end(pod).await;
}

async fn killed_shim(env: Env) {
    let pod = env.pod("p").await;
    let mut events = env.runtime().events();
    pod.create_container(env.script("a", "sleep 1000; true")).await.unwrap();
    pod.create_container(env.script("b", "true")).await.unwrap();
    let process = pod.start_container("a").await.unwrap().pid;
    kill9(pod.shim_pid());
    match events.next().await.unwrap() {
        Event::Exited { container, exit, .. } => {
            assert_eq!((container.as_str(), exit.reason), ("a", ExitReason::Lost))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(events.next().await.unwrap(), Event::SandboxLost { pod: "p".to_owned() });
    assert!(pod.is_lost() && !alive(process));
    let status = pod.container_status("a").await.unwrap();
    assert_eq!(status.state, ContainerState::Exited);
    assert_eq!(pod.wait_container("a").await.unwrap().reason, ExitReason::Lost);
    pod.remove().await.unwrap();
    // The id is free again.
    let pod = env.pod("p").await;
    env.end(pod).await;
}

async fn shim_killed_while_nobody_looks(env: Env) {
    let shim = start_and_kill_main(&env.dir, &env.parent);
    kill9(shim);
    until("the shim is dead", || !alive(shim)).await;
    let adopted = env.runtime().adopt().await.unwrap().remove(0);
    assert!(adopted.sandbox.is_lost());
    for status in &adopted.containers {
        assert_eq!(status.state, ContainerState::Exited);
    }
    assert_eq!(adopted.containers[1].exit.as_ref().unwrap().reason, ExitReason::Lost);
    assert!(adopted.sandbox.exec(Default::default()).await.is_err());
    env.end(adopted.sandbox).await;
}

async fn leftovers_are_swept(env: Env) {
    // A main process that died while it made a pod: a directory without a description, and a cgroup.
    std::fs::create_dir_all(env.dir.join("shim/half/containers")).unwrap();
    let cgroup = Path::new("/sys/fs/cgroup/memory").join(env.parent.trim_start_matches('/')).join("podhalf");
    let hybrid = Path::new("/sys/fs/cgroup/memory").exists();
    if hybrid {
        std::fs::create_dir_all(&cgroup).unwrap();
    }
    assert!(env.runtime().adopt().await.unwrap().is_empty());
    assert!(!cgroup.exists() && !env.dir.join("shim/half").exists());
    let pod = env.pod("half").await;
    env.end(pod).await;
}
