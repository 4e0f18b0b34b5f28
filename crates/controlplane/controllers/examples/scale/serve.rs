//! A bare control plane, whole or in parts.

use std::path::Path;
use std::time::{Duration, Instant};

use kube::Client;
use sampan_controllers::Options;
use sampan_daemon::Supervisor;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::signal::unix::{SignalKind, signal};

#[path = "../../tests/support/plane.rs"]
pub mod plane;

use self::plane::{MANAGER, Plane, SCHEDULER, TOKEN};
use crate::client::Service;
use crate::inside::Client as Inside;
use crate::{Outcome, Words};

/// Serves until killed. `place N` on standard input makes N pods from within and waits until they are bound.
pub async fn run(words: &Words) -> Outcome<()> {
    let dir = Path::new(words.text("dir")?);
    let listen = words.options.get("listen").map_or("127.0.0.1:0", String::as_str);
    let mut plane = Plane::open(dir, Some(listen)).await;
    plane.options.node_grace = Duration::from_secs(words.number("grace", 40)?);
    // Room for 16,384 nodes.
    plane.options.pod_network = Some("100.64.0.0/10".parse()?);
    let mode = words.options.get("controllers").map_or("yes", String::as_str);
    let mut wanted = signal(SignalKind::user_defined1())?;
    if mode == "yes" {
        plane.control().await;
    }
    let (tls, key) = (dir.join("tls"), dir.join("signing.pem"));
    let place = json!({
        "server": plane.server(), "ca": tls.join("ca.crt"), "tls": tls, "token": TOKEN, "key": key,
        "pid": std::process::id(),
    });
    println!("{place}");
    if mode == "later" {
        wanted.recv().await;
        plane.control().await;
    }
    let client = Inside::new(&plane, words)?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let count = line.strip_prefix("place ").and_then(|count| count.parse().ok());
        let count = count.ok_or_else(|| format!("{line}: place N?"))?;
        let started = Instant::now();
        client.place(count).await?;
        println!("{}", json!({"seconds": started.elapsed().as_secs_f64()}));
    }
    std::future::pending().await
}

/// The controllers alone, in a process of their own, until killed.
pub async fn controllers(words: &Words) -> Outcome<()> {
    let ca_pem = std::fs::read_to_string(words.text("ca")?)?;
    let manager = Client::new(Service::connect(words, MANAGER, 4).await?, "default");
    let scheduler = Client::new(Service::connect(words, SCHEDULER, 2).await?, "default");
    let supervisor = Supervisor::new();
    let mut options = Options::new(manager, scheduler, ca_pem);
    options.node_grace = Duration::from_secs(words.number("grace", 40)?);
    sampan_controllers::start(options, &supervisor).ready().await;
    println!("{}", json!({"pid": std::process::id()}));
    std::future::pending().await
}
