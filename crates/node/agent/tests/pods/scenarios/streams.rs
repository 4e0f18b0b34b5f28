//! logs, exec, attach, cp and port-forward with the real kubectl, over WebSocket and over SPDY.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::{phase, ready};
use crate::cluster::{Cluster, eventually};

/// kubectl speaks SPDY when these say so.
const SPDY: [(&str, &str); 2] =
    [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];

async fn sleeper(cluster: &Cluster, name: &str) {
    cluster.run(name, json!({"containers": [{"command": ["sleep", "1000"]}]})).await;
    cluster.wait(name, "ready", ready).await;
}

pub async fn logs(cluster: &mut Cluster) {
    let script = "for i in 1 2 3 4 5; do echo line $i; done; echo err >&2; sleep 0.3; echo late; sleep 0.3";
    cluster
        .run("logs", json!({"restartPolicy": "Never", "containers": [{"command": ["sh", "-c", script]}]}))
        .await;
    cluster.wait("logs", "started", |pod| phase(pod) == "Running" || phase(pod) == "Succeeded").await;
    let followed = cluster.kubectl_ok(&["logs", "-f", "logs"]).await;
    assert!(followed.starts_with("line 1\nline 2\n") && followed.ends_with("late\n"), "{followed}");
    cluster.wait("logs", "succeeded", |pod| phase(pod) == "Succeeded").await;
    assert_eq!(cluster.kubectl_ok(&["logs", "logs", "--tail=1"]).await, "late\n");
    assert_eq!(cluster.kubectl_ok(&["logs", "logs", "--limit-bytes=6"]).await, "line 1");
    let stamped = cluster.kubectl_ok(&["logs", "logs", "--timestamps", "--tail=1"]).await;
    assert!(stamped.contains("Z late"), "{stamped}");
    let none = cluster.kubectl(&["logs", "logs", "-c", "zz"]).await;
    assert!(!none.status.success());
    cluster.delete("logs").await;
}

pub async fn exec(cluster: &mut Cluster) {
    sleeper(cluster, "exec").await;
    for environment in [&[][..], &SPDY[..]] {
        let run = async |arguments: &[&str], input: &str| {
            let mut child = cluster.spawn_kubectl_with(arguments, environment);
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(input.as_bytes()).await.unwrap();
            drop(stdin);
            let output = tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await;
            output.unwrap_or_else(|_| panic!("kubectl {arguments:?} hangs")).unwrap()
        };
        let output = run(&["exec", "exec", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], "").await;
        assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout, b"out\n");
        assert!(String::from_utf8_lossy(&output.stderr).starts_with("err\n"));
        let big = "0123456789abcdef".repeat(100_000);
        let output = run(&["exec", "-i", "exec", "--", "cat"], &big).await;
        assert!(
            output.status.success() && output.stdout == big.as_bytes(),
            "{} bytes came back",
            output.stdout.len()
        );
        let output = run(&["exec", "exec", "--", "/no/such"], "").await;
        assert!(!output.status.success());
    }
    let start = Instant::now();
    cluster.kubectl_ok(&["exec", "exec", "--", "true"]).await;
    println!("   kubectl exec true: {} ms", start.elapsed().as_millis());
    cluster.delete("exec").await;
}

pub async fn exec_with_a_terminal(cluster: &mut Cluster) {
    sleeper(cluster, "term").await;
    for environment in [&[][..], &SPDY[..]] {
        // script(1) gives kubectl a terminal.
        let inner = cluster.kubectl_script("exec -it term -- sh");
        let mut child = tokio::process::Command::new("script")
            .args(["-qec", &format!("stty rows 31 cols 97; {inner}"), "/dev/null"])
            .envs(environment.iter().copied())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut seen = String::new();
        stdin.write_all(b"tty; stty size; echo en''d; exit 5\n").await.unwrap();
        let mut buffer = [0u8; 4096];
        let read = async {
            loop {
                let count = stdout.read(&mut buffer).await.unwrap();
                seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
                if count == 0 {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(15), read).await;
        assert!(seen.contains("/dev/pts/") && seen.contains("31 97") && seen.contains("\nend"), "{seen:?}");
        assert_eq!(child.wait().await.unwrap().code(), Some(5), "{seen:?}");
        drop(stdin);
    }
    cluster.delete("term").await;
}

pub async fn attach(cluster: &mut Cluster) {
    let spec = json!({"containers": [{"stdin": true, "stdinOnce": false, "command": ["sh", "-c", "while read l; do echo got $l; done"]}]});
    cluster.run("att", spec).await;
    cluster.wait("att", "ready", ready).await;
    let mut child = cluster.spawn_kubectl(&["attach", "-i", "att"]);
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    stdin.write_all(b"hello\n").await.unwrap();
    let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await.unwrap().unwrap();
    assert_eq!(line.as_deref(), Some("got hello"));
    child.kill().await.unwrap();
    cluster.delete("att").await;
}

pub async fn copy(cluster: &mut Cluster) {
    sleeper(cluster, "copy").await;
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let (from, back) = (cluster.dir.path().join("from"), cluster.dir.path().join("back"));
    std::fs::write(&from, &data).unwrap();
    cluster.kubectl_ok(&["cp", from.to_str().unwrap(), "copy:/tmp/file"]).await;
    cluster.kubectl_ok(&["cp", "copy:/tmp/file", back.to_str().unwrap()]).await;
    assert!(std::fs::read(&back).unwrap() == data, "the file came back changed");
    cluster.delete("copy").await;
}

pub async fn port_forward(cluster: &mut Cluster) {
    let script = "mkdir /www; head -c 300000 /dev/zero | tr '\\0' x > /www/big; httpd -p 8080 -h /www; nc -ll -p 9000 -e cat & exec sleep 1000";
    cluster
        .run(
            "fwd",
            json!({"containers": [{"command": ["sh", "-c", script],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}]}),
        )
        .await;
    cluster.wait("fwd", "ready", ready).await;
    for environment in [&[][..], &SPDY[..]] {
        let mut child =
            cluster.spawn_kubectl_with(&["port-forward", "pod/fwd", ":8080", ":9000", ":1"], environment);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ports = Vec::new();
        while ports.len() < 3 {
            let line =
                tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await.unwrap().unwrap();
            let line = line.expect("kubectl port-forward ended");
            if let Some(rest) = line.strip_prefix("Forwarding from 127.0.0.1:") {
                ports.push(rest.split(' ').next().unwrap().parse::<u16>().unwrap());
            }
        }
        let get = async |port: u16| {
            let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.write_all(b"GET /big HTTP/1.0\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
            answer.len()
        };
        let start = Instant::now();
        let all = futures::future::join_all((0..40).map(|_| get(ports[0])));
        let sizes =
            tokio::time::timeout(Duration::from_secs(30), all).await.expect("parallel downloads hang");
        assert!(sizes.iter().all(|size| *size > 300_000), "{sizes:?}");
        println!("   40 parallel downloads of 300 kB in {} ms", start.elapsed().as_millis());
        // Half-close: everything is sent and the direction closed before anything is read back.
        let echo = async {
            let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", ports[1])).await.unwrap();
            stream.write_all(b"echo me").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        assert_eq!(
            tokio::time::timeout(Duration::from_secs(10), echo).await.expect("half-close hangs"),
            "echo me"
        );
        // A port where nobody listens closes the connection and says so.
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", ports[2])).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.unwrap();
        child.start_kill().unwrap();
        let output = child.wait_with_output().await.unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("connection refused"), "{stderr}");
    }
    eventually("forwarding tasks to end", async || true).await;
    cluster.delete("fwd").await;
}
