//! Load on an API server over real TLS, and what it costs: rates, latencies, processor time a request.
//!
//! `cargo run --release -p sampan-apiserver --example load -- --server 127.0.0.1:6443 --ca ca.crt --token TOKEN --pid PID`
//! runs against any Kubernetes; with `--pid` the server's own processor time is told. `-- --serve yes` starts a bare
//! server to run against and prints how to.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "load/client.rs"]
mod client;
#[path = "load/cost.rs"]
mod cost;
#[path = "load/runs.rs"]
mod runs;
#[path = "load/serve.rs"]
mod serve;

use std::{collections::HashMap, sync::Arc};

/// Whatever goes wrong ends the run.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What is run against what.
struct Load {
    target: client::Target,
    /// The server's process.
    pid: Option<u32>,
    connections: usize,
    count: usize,
    watchers: usize,
    /// Only this run.
    only: Option<String>,
}

fn arguments() -> Outcome<HashMap<String, String>> {
    let mut out = HashMap::new();
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let name = name.strip_prefix("--").ok_or_else(|| format!("{name}: not an option"))?.to_owned();
        let value = words.next().ok_or_else(|| format!("--{name} needs a value"))?;
        out.insert(name, value);
    }
    Ok(out)
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments = arguments()?;
    if arguments.contains_key("serve") {
        return serve::run().await;
    }
    let number = |name: &str, usual: usize| arguments.get(name).map_or(Ok(usual), |value| value.parse());
    let text = |name: &str| arguments.get(name).cloned();
    let server = text("server").ok_or("--server HOST:PORT is missing")?;
    let ca = std::fs::read_to_string(text("ca").ok_or("--ca FILE is missing")?)?;
    let identity = match (text("cert"), text("key")) {
        (Some(cert), Some(key)) => Some((std::fs::read_to_string(cert)?, std::fs::read_to_string(key)?)),
        _ => None,
    };
    let load = Arc::new(Load {
        target: client::Target::new(&server, &ca, identity, text("token"))?,
        pid: arguments.get("pid").map(|pid| pid.parse()).transpose()?,
        connections: number("connections", 16)?,
        count: number("count", 2000)?,
        watchers: number("watchers", 1000)?,
        only: text("only"),
    });
    runs::all(&load).await
}
