//! Load on an API server over real TLS, and what it costs: rates, latencies, processor time a request.
//!
//! `cargo run --release -p sampan-apiserver --example load -- --server 127.0.0.1:6443 --ca ca.crt --token TOKEN --pid PID`
//! runs against any Kubernetes; with `--pid` (several with commas between) the servers' processor time and memory are told. `--only get,list` runs
//! these, `--keep yes` deletes nothing, `--json yes` prints each run as a line of JSON. `-- --serve yes` starts a bare
//! server to run against and prints how to; its state is kept with `--store DIR`. `-- --puts DIR` and
//! `-- --puts etcd://127.0.0.1:2379` put into a store without a server.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "load/client.rs"]
mod client;
#[path = "load/cost.rs"]
mod cost;
#[path = "load/puts.rs"]
mod puts;
#[path = "load/runs.rs"]
mod runs;
#[path = "load/serve.rs"]
mod serve;

use std::{collections::HashMap, sync::Arc};

/// As the product has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whatever goes wrong ends the run.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What is run against what.
struct Load {
    /// None where no server is asked.
    target: Option<client::Target>,
    /// The processes that serve.
    pids: Vec<u32>,
    connections: usize,
    count: usize,
    watchers: usize,
    /// Only these runs, with commas between.
    only: Option<String>,
    /// Nothing is deleted.
    keep: bool,
    /// Runs are told as lines of JSON.
    json: bool,
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

impl Load {
    /// Another connection to the server.
    async fn connect(&self) -> Outcome<client::Connection> {
        self.target.as_ref().ok_or("no server was named")?.connect().await
    }
}

/// The server that the arguments name.
fn target(text: impl Fn(&str) -> Option<String>) -> Outcome<client::Target> {
    let server = text("server").ok_or("--server HOST:PORT is missing")?;
    let ca = std::fs::read_to_string(text("ca").ok_or("--ca FILE is missing")?)?;
    let identity = match (text("cert"), text("key")) {
        (Some(cert), Some(key)) => Some((std::fs::read_to_string(cert)?, std::fs::read_to_string(key)?)),
        _ => None,
    };
    client::Target::new(&server, &ca, identity, text("token"))
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let arguments = arguments()?;
    if arguments.contains_key("serve") {
        return serve::run(arguments.get("store").map(String::as_str)).await;
    }
    let number = |name: &str, usual: usize| arguments.get(name).map_or(Ok(usual), |value| value.parse());
    let text = |name: &str| arguments.get(name).cloned();
    let puts = text("puts");
    let target = match &puts {
        Some(_) => None,
        None => Some(target(text)?),
    };
    let load = Arc::new(Load {
        target,
        pids: text("pid")
            .iter()
            .flat_map(|pids| pids.split(','))
            .map(str::parse)
            .collect::<Result<_, _>>()?,
        connections: number("connections", 16)?,
        count: number("count", 2000)?,
        watchers: number("watchers", 1000)?,
        only: text("only"),
        keep: arguments.contains_key("keep"),
        json: arguments.contains_key("json"),
    });
    match puts {
        Some(place) => puts::run(&load, &place).await,
        None => runs::all(&load).await,
    }
}
