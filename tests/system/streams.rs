//! kubectl logs, exec, attach, cp and port-forward, with real bytes through them.

use crate::support::{Cluster, finish, until};

const SHELL: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: main, image: 'busybox:1', command: [sh, -c, 'echo up; echo warned >&2; exec httpd -f -p 8080 -h /tmp']}
  - {name: side, image: 'busybox:1', command: [sh, -c, 'echo beside; exec sleep infinity']}
";

/// Reads two lines from its stdin, and ends.
const READER: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: busybox:1
    stdin: true
    stdinOnce: true
    command: [sh, -c, 'read a; echo got $a; read b; echo then $b; exit 4']
";

#[test]
fn logs_in_all_their_ways() {
    let c = Cluster::start();
    c.apply(SHELL);
    c.k("run counter --image=busybox:1 -- sh -c 'i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done; exec sleep infinity'");
    c.k("run crash --image=busybox:1 -- sh -c 'echo $(hostname) $(date +%s%N); sleep 0.3; exit 3'");
    c.wait_ready("shell");
    until("both streams", || {
        let logs = c.k("logs shell -c main");
        if logs.contains("up\n") && logs.contains("warned\n") { Ok(()) } else { Err(logs) }
    });
    assert_eq!(c.k("logs shell side"), "beside\n");
    let all = c.k("logs shell --all-containers --prefix");
    assert!(all.contains("[pod/shell/main] up") && all.contains("[pod/shell/side] beside"), "{all}");
    // Browsers read logs and run commands over WebSocket, in protocols that kubectl has left behind.
    let upgrade = "-N -i --http1.1 --max-time 20 -H 'Connection: Upgrade' -H 'Upgrade: websocket' \
                   -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='";
    let raw = |protocol: &str, query: &str| {
        let at = format!("'https://127.0.0.1:6443/api/v1/namespaces/default/pods/shell/{query}'");
        c.curl(&format!("{upgrade} -H 'Sec-WebSocket-Protocol: {protocol}' {at}")).out
    };
    let log = raw("binary.k8s.io", "log?container=side");
    assert!(log.starts_with("HTTP/1.1 101") && log.contains("beside\n"), "{log}");
    assert!(raw("base64.binary.k8s.io", "log?container=side").contains("YmVzaWRlCg=="));
    let said = raw("channel.k8s.io", "exec?container=side&stdout=1&stderr=1&command=echo&command=over+there");
    assert!(said.contains("\u{1}over there\n") && !said.contains("Success"), "{said}");
    c.sh("kubectl logs shell -c nosuch").fails(&["container nosuch is not valid for pod shell"]);

    until("2000 lines", || {
        let lines = c.k("logs counter").lines().count();
        if lines == 2000 { Ok(()) } else { Err(lines.to_string()) }
    });
    assert_eq!(c.k("logs counter --tail=2"), "line 1999\nline 2000\n");
    assert_eq!(c.k("logs counter --tail=0"), "");
    assert_eq!(c.k("logs counter --limit-bytes=9"), "line 1\nli");
    let stamped = c.k("logs counter --timestamps --tail=1");
    let (stamp, rest) = stamped.trim().split_once(' ').unwrap();
    assert!(stamp.starts_with("20") && stamp.ends_with('Z') && rest == "line 2000", "{stamped}");
    assert_eq!(c.k("logs counter --since=1h").lines().count(), 2000);
    assert_eq!(c.k("logs counter --since-time=2099-01-01T00:00:00Z"), "");

    // Follow: what is written later comes, and the end of the container ends it.
    c.k("run talker --image=busybox:1 --restart=Never -- sh -c 'echo first; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo second'");
    c.wait_ready("talker");
    let mut follow = c.spawn("follow", "kubectl logs -f talker");
    follow.says("first");
    // The container may end, and take this with it, before its exit code is told.
    let _ = c.sh("kubectl exec talker -- touch /tmp/go");
    assert_eq!(follow.wait(), 0);
    assert_eq!(follow.output(), "first\nsecond\n");

    c.wait_pod("crash", "restarted", |pod| {
        pod["status"]["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
    });
    let previous = c.k("logs crash --previous");
    assert!(previous.starts_with("crash "), "{previous}");
    c.sh("kubectl logs shell -c main --previous").fails(&["previous terminated container", "not found"]);
    assert!(c.k("logs -l run=counter --tail=1").contains("line 2000"));
}

#[test]
fn exec_and_attach() {
    let c = Cluster::start();
    c.apply(SHELL);
    c.wait_ready("shell");
    assert_eq!(c.sh("kubectl exec shell -- sh -c 'echo out; echo err >&2; exit 7'").code, 7);
    let ran = c.sh("kubectl exec shell -c side -- sh -c 'echo out; echo err >&2'").ok();
    assert!(ran.out == "out\n" && ran.err == "err\n", "{ran:?}");
    c.sh("kubectl exec shell -- nosuch").fails(&["nosuch"]);
    // A megabyte in and out again.
    let sum = c.sh("head -c 1000000 /dev/urandom > blob; sha256sum < blob; kubectl exec -i shell -- sha256sum < blob; kubectl exec -i shell -- cat < blob | sha256sum").ok();
    let sums: Vec<&str> = sum.out.lines().collect();
    assert!(sums.len() == 3 && sums.iter().all(|s| s[..64] == sums[0][..64]), "{sums:?}");

    // A terminal, with its size and its signals.
    let mut terminal = c.spawn(
        "tty",
        "script -qefc 'tty > pts; stty rows 33 cols 101; exec kubectl exec -it shell -- sh' /dev/null",
    );
    terminal.write("stty size; tty; echo $((6*7))\n");
    terminal.says("33 101");
    terminal.says("/dev/pts/");
    terminal.says("42");
    // It follows when the window changes.
    c.sh("stty -F $(cat pts) rows 44 cols 122").ok();
    until("the new size", || {
        terminal.write("stty size\n");
        if terminal.output().contains("44 122") { Ok(()) } else { Err(terminal.output()) }
    });
    terminal.write("sleep 1000\n");
    until("sleep runs", || {
        let processes = c.exec("shell", "ps");
        if processes.contains("sleep 1000") { Ok(()) } else { Err(processes) }
    });
    terminal.write("\u{3}");
    terminal.write("exit 5\n");
    assert_eq!(terminal.wait(), 5, "{}", terminal.output());

    // Attach: to a shell that reads, and detach by its end.
    c.apply(READER);
    c.wait_ready("reader");
    let ran = c.sh("(echo one; echo two) | kubectl attach -i reader -q").ok();
    assert!(ran.out.contains("got one") && ran.out.contains("then two"), "{ran:?}");
    let pod = c.wait_phase("reader", "Failed");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 4);
    c.sh("kubectl exec reader -- true").fails(&["cannot exec into a container in a completed pod"]);
    let mut run = c.spawn(
        "run",
        "script -qefc 'kubectl run term --rm -it --image=busybox:1 --restart=Never -- sh' /dev/null",
    );
    run.says("/ #");
    run.write("echo $((40+2)); exit\n");
    run.says("42");
    assert_eq!(run.wait(), 0, "{}", run.output());
    c.wait_gone("term");
}

#[test]
fn cp_both_ways() {
    let c = Cluster::start();
    c.apply(SHELL);
    c.wait_ready("shell");
    c.sh("mkdir -p tree/deep && echo hello > tree/deep/file && head -c 300000 /dev/urandom > tree/blob && ln -s deep/file tree/link").ok();
    c.k("cp tree shell:/tmp/tree -c main");
    assert_eq!(c.exec("shell", "cat /tmp/tree/deep/file"), "hello\n");
    c.k("cp shell:/tmp/tree back -c main");
    c.sh("cmp tree/blob back/blob && cmp tree/deep/file back/deep/file").ok();
    c.k("cp tree/blob default/shell:/tmp/single");
    c.sh("kubectl cp shell:/tmp/single single && cmp single tree/blob").ok();
    c.sh("kubectl cp nosuch/ shell:/tmp/").fails(&["nosuch"]);
}

#[test]
fn port_forward_carries_bytes_in_parallel() {
    let c = Cluster::start();
    c.apply(SHELL);
    c.wait_ready("shell");
    c.k("expose pod shell --port=80 --target-port=8080 --selector=x=y");
    c.k("label pod shell x=y");
    c.exec("shell", "head -c 2000000 /dev/urandom > /tmp/blob");
    let sum = c.exec("shell", "sha256sum < /tmp/blob");
    let forward = c.spawn("forward", "kubectl port-forward pod/shell 18080:8080");
    forward.says("127.0.0.1:18080");
    let fetch = "curl -sSf http://127.0.0.1:18080/blob | sha256sum";
    assert_eq!(c.sh(fetch).ok().out, sum);
    let mut fetches = c.command("bash");
    fetches.args([
        "-c",
        "for i in 1 2 3 4 5 6 7 8; do (curl -sSf http://127.0.0.1:18080/blob | sha256sum) & done; wait",
    ]);
    let ran = finish(&mut fetches, b"").ok();
    assert_eq!(ran.out, sum.repeat(8));
    // Nobody listens there: the connection ends at once, and kubectl says why.
    let dead = c.spawn("dead", "kubectl port-forward pod/shell 18081:9");
    dead.says("127.0.0.1:18081");
    let ran = c.sh("curl -sS -m 30 http://127.0.0.1:18081/");
    assert!([52, 56].contains(&ran.code), "{ran:?}");
    dead.says("an error occurred forwarding 18081 -> 9");
    assert_eq!(c.sh(fetch).ok().out, sum);
    let service = c.spawn("service", "kubectl port-forward service/shell :80");
    service.says("Forwarding from 127.0.0.1");
    let line = service.output();
    let port = line.split("127.0.0.1:").nth(1).unwrap().split(' ').next().unwrap();
    assert_eq!(c.sh(&format!("curl -sSf http://127.0.0.1:{port}/blob | sha256sum")).ok().out, sum);
}
