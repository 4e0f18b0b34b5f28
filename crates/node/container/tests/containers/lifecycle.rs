//! Making, starting, ending and removing.

use std::time::Duration;

use sampan_container::{ContainerState, Error, Event, ExitReason, PodSandboxConfig, Resources, RunConfig};
use tokio::io::AsyncReadExt;

use crate::harness::{Env, Tests, until};
use crate::tests;

pub fn register(tests: &mut Tests) {
    tests!(
        tests,
        exit_codes_and_statuses,
        signals_end_containers,
        stop_asks_before_it_kills,
        ids_are_taken_once,
        programs_that_cannot_run,
        half_made_containers_are_undone,
        users_and_environment,
        working_directory_is_made,
        events_tell_of_ends,
        memory_hog_is_killed,
        pids_are_limited,
        usage_is_counted,
        command_in_a_rootfs,
        hundred_containers_one_after_the_other,
    );
}

async fn exit_codes_and_statuses(env: Env) {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "exit 42");
    config.labels.insert("a".to_owned(), "b".to_owned());
    pod.create_container(config).await.unwrap();
    let status = pod.container_status("c").await.unwrap();
    assert_eq!((status.state, status.pid), (ContainerState::Created, None));
    assert!(pod.start_container("c").await.unwrap().pid > 0);
    let exit = pod.wait_container("c").await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.reason), (42, None, ExitReason::Error));
    let status = pod.container_status("c").await.unwrap();
    assert_eq!((status.state, status.exit), (ContainerState::Exited, Some(exit.clone())));
    assert!(
        status.created_at <= status.started_at.unwrap() && status.started_at.unwrap() <= exit.finished_at
    );
    assert_eq!(status.labels["a"], "b");
    let (exit, _) = env.run(&pod, env.script("d", "true")).await;
    assert_eq!((exit.code, exit.reason), (0, ExitReason::Completed));
    assert!(matches!(pod.start_container("d").await, Err(Error::Conflict(_))));
    pod.remove_container("c").await.unwrap();
    pod.remove_container("c").await.unwrap();
    assert!(matches!(pod.container_status("c").await, Err(Error::NotFound { .. })));
    env.end(pod).await;
}

async fn signals_end_containers(env: Env) {
    let pod = env.pod("p").await;
    pod.create_container(env.script("c", "trap 'exit 7' USR1; echo ready; while :; do sleep 0.01; done"))
        .await
        .unwrap();
    pod.start_container("c").await.unwrap();
    until("the trap is set", || env.output("c").contains("ready")).await;
    pod.signal_container("c", libc::SIGUSR1, false).await.unwrap();
    assert_eq!(pod.wait_container("c").await.unwrap().code, 7);
    pod.create_container(env.script("d", "sleep 1000")).await.unwrap();
    pod.start_container("d").await.unwrap();
    pod.signal_container("d", libc::SIGKILL, true).await.unwrap();
    let exit = pod.wait_container("d").await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.reason), (137, Some(9), ExitReason::Error));
    env.end(pod).await;
}

async fn stop_asks_before_it_kills(env: Env) {
    let pod = env.pod("p").await;
    pod.create_container(
        env.script("polite", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done"),
    )
    .await
    .unwrap();
    // PID 1 without a handler does not see the signal.
    pod.create_container(env.script("deaf", "sleep 1000; true")).await.unwrap();
    pod.start_container("polite").await.unwrap();
    pod.start_container("deaf").await.unwrap();
    until("the trap is set", || env.output("polite").contains("ready")).await;
    let exit = pod.stop_container("polite", libc::SIGTERM, Duration::from_secs(10)).await.unwrap();
    assert_eq!(exit.code, 3);
    let exit = pod.stop_container("deaf", libc::SIGTERM, Duration::from_millis(50)).await.unwrap();
    assert_eq!(exit.code, 137);
    env.end(pod).await;
}

async fn ids_are_taken_once(env: Env) {
    let pod = env.pod("p").await;
    let again = env.runtime().create_pod(PodSandboxConfig { id: "p".to_owned(), ..Default::default() }).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    let both = || env.runtime().create_pod(PodSandboxConfig { id: "q".to_owned(), ..Default::default() });
    let (one, other) = tokio::join!(both(), both());
    assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    one.or(other).unwrap().remove().await.unwrap();
    pod.create_container(env.script("c", "true")).await.unwrap();
    let again = pod.create_container(env.script("c", "true")).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    for id in ["", "a/b", "..", ".hidden"] {
        let bad =
            env.runtime().create_pod(PodSandboxConfig { id: id.to_owned(), ..Default::default() }).await;
        assert!(matches!(bad, Err(Error::Invalid(_))), "{id:?}: {bad:?}");
    }
    env.end(pod).await;
}

async fn programs_that_cannot_run(env: Env) {
    let pod = env.pod("p").await;
    let cases = [
        ("nothing", 127, r#"exec: "nothing": executable file not found in $PATH"#),
        ("/no/such", 127, r#"exec: "/no/such": stat /no/such: no such file or directory"#),
        ("/etc/not-executable", 126, r#"exec: "/etc/not-executable": permission denied"#),
        ("/etc", 126, r#"exec: "/etc": permission denied"#),
    ];
    for (number, (program, code, message)) in cases.into_iter().enumerate() {
        let id = format!("c{number}");
        let mut config = env.script(&id, "");
        config.args = vec![program.to_owned()];
        pod.create_container(config).await.unwrap();
        match pod.start_container(&id).await {
            Err(Error::Start { exit_code, message: said }) => {
                assert_eq!((exit_code, said.as_str()), (code, message))
            }
            other => panic!("{program}: {other:?}"),
        }
        let exit = pod.container_status(&id).await.unwrap().exit.unwrap();
        assert_eq!((exit.code, exit.reason, exit.message.as_str()), (code, ExitReason::StartError, message));
    }
    let mut config = env.script("user", "true");
    config.user.name = "nobody-knows".to_owned();
    pod.create_container(config).await.unwrap();
    let error = pod.start_container("user").await.unwrap_err().to_string();
    assert_eq!(error, "unable to find user nobody-knows: no matching entries in passwd file");
    env.end(pod).await;
}

async fn half_made_containers_are_undone(env: Env) {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "true");
    config.resources = Resources { cpuset_cpus: Some("4000".to_owned()), ..Default::default() };
    assert!(pod.create_container(config).await.is_err());
    assert!(pod.containers().await.unwrap().is_empty());
    pod.create_container(env.script("c", "true")).await.unwrap();
    let mut config = env.script("d", "true");
    config.args.clear();
    assert!(matches!(pod.create_container(config).await, Err(Error::Invalid(_))));
    let mut config = env.script("e", "true");
    config.rootfs = sampan_container::Rootfs::Directory("/no/such/rootfs".into());
    pod.create_container(config).await.unwrap();
    let error = pod.start_container("e").await.unwrap_err().to_string();
    assert!(error.contains("/no/such/rootfs") && error.contains("No such file"), "{error}");
    pod.remove_container("e").await.unwrap();
    env.end(pod).await;
}

async fn users_and_environment(env: Env) {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "id -u; id -g; id -G; echo $A $HOME; echo $PATH; echo hi > /dev/stdout");
    config.user.name = "web".to_owned();
    config.user.groups = vec![77];
    config.env = vec!["A=1".to_owned(), "A=2".to_owned()];
    let (exit, output) = env.run(&pod, config).await;
    assert_eq!(
        output,
        "33\n34\n34 50 77\n2 /srv\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nhi\n"
    );
    assert_eq!(exit.code, 0);
    env.end(pod).await;
}

async fn working_directory_is_made(env: Env) {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "pwd");
    config.working_dir = "/not/there/yet".to_owned();
    assert_eq!(env.run(&pod, config).await.1, "/not/there/yet\n");
    env.end(pod).await;
}

async fn events_tell_of_ends(env: Env) {
    let mut events = env.runtime().events();
    let pod = env.pod("p").await;
    env.run(&pod, env.script("c", "exit 5")).await;
    match events.next().await.unwrap() {
        Event::Exited { pod, container, exit } => {
            assert_eq!((pod.as_str(), container.as_str(), exit.code), ("p", "c", 5));
        }
        other => panic!("{other:?}"),
    }
    env.end(pod).await;
}

async fn memory_hog_is_killed(env: Env) {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "x=a; while :; do x=$x$x; done");
    config.resources.memory_limit = Some(32 << 20);
    let (exit, _) = env.run(&pod, config).await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OomKilled));
    env.end(pod).await;
}

async fn pids_are_limited(env: Env) {
    let pod = env.pod("p").await;
    let mut config = env.script("c", "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 100 & done; echo all");
    config.resources.pids_limit = Some(5);
    let (exit, output) = env.run(&pod, config).await;
    assert!(exit.code != 0 && output.contains("fork"), "{exit:?} {output}");
    env.end(pod).await;
}

async fn usage_is_counted(env: Env) {
    let pod = env.pod("p").await;
    let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo ready; sleep 1000";
    let mut config = env.script("c", script);
    config.resources.memory_limit = Some(64 << 20);
    config.resources.cpu_shares = Some(512);
    pod.create_container(config).await.unwrap();
    pod.start_container("c").await.unwrap();
    until("it has worked", || env.output("c").contains("ready")).await;
    let stats = pod.container_stats("c").unwrap();
    assert!(
        stats.cpu_usage_nanos > 1_000_000 && stats.memory_working_set_bytes > 0 && stats.pids == 1,
        "{stats:?}"
    );
    let whole = pod.stats().unwrap();
    assert!(whole.cpu_usage_nanos >= stats.cpu_usage_nanos && whole.memory_usage_bytes > 0, "{whole:?}");
    let more = Resources { memory_limit: Some(128 << 20), ..Default::default() };
    pod.update_container("c", more).await.unwrap();
    env.end(pod).await;
}

async fn command_in_a_rootfs(env: Env) {
    let mut container = env.script("unused", "echo out; echo err >&2; ip link | grep -c '^[0-9]'; exit 3");
    container.log = None;
    let mut run = env.runtime().run(RunConfig { container, ..Default::default() }).await.unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    run.stdout.take().unwrap().read_to_string(&mut out).await.unwrap();
    run.stderr.take().unwrap().read_to_string(&mut err).await.unwrap();
    assert_eq!((out.as_str(), err.as_str(), run.wait().await.unwrap().code), ("out\n1\n", "err\n", 3));
    let mut container = env.script("unused2", "true");
    container.args = vec!["nothing".to_owned()];
    let failed = env.runtime().run(RunConfig { container, host_network: true, ..Default::default() }).await;
    assert!(matches!(failed, Err(Error::Start { exit_code: 127, .. })));
    assert!(env.runtime().pods().is_empty());
    let pod = env.pod("p").await;
    env.end(pod).await;
}

async fn hundred_containers_one_after_the_other(env: Env) {
    let pod = env.pod("p").await;
    for number in 0..100 {
        let (exit, output) = env.run(&pod, env.script("c", &format!("echo {number}; exit {number}"))).await;
        assert_eq!(exit.code, number);
        assert!(output.ends_with(&format!("{number}\n")));
        pod.remove_container("c").await.unwrap();
        let _ = std::fs::remove_dir_all(env.dir.join("layers/c"));
    }
    env.end(pod).await;
}
