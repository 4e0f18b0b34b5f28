//! The control plane at scale: a server, hollow nodes, and work for them, each a process of its own.
//!
//! `scale serve` is a bare API server with the controllers (`--controllers no`: without; `--controllers later`: from
//! SIGUSR1 on). It prints a line of JSON that says where it is. `scale controllers` is the controllers alone, over TLS.
//! `scale nodes` is hollow nodes; commands (`silence N`) come on its standard input. `scale run STEP...` makes the
//! cluster work and tells what each step took. benches/scale puts them together.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "scale/client.rs"]
mod client;
#[path = "scale/cost.rs"]
mod cost;
#[path = "scale/inside.rs"]
mod inside;
#[path = "scale/nodes.rs"]
mod nodes;
#[path = "scale/serve.rs"]
mod serve;
#[path = "scale/steps.rs"]
mod steps;

use std::collections::HashMap;

/// As the product has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whatever goes wrong ends the run.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What was typed: options, and words that are none.
#[derive(Clone)]
pub struct Words {
    options: HashMap<String, String>,
    rest: Vec<String>,
}

impl Words {
    fn read() -> Outcome<Self> {
        let (mut options, mut rest) = (HashMap::new(), Vec::new());
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.strip_prefix("--") {
                Some(name) => {
                    let value = words.next().ok_or_else(|| format!("--{name} needs a value"))?;
                    options.insert(name.to_owned(), value);
                }
                None => rest.push(word),
            }
        }
        Ok(Self { options, rest })
    }

    fn text(&self, name: &str) -> Outcome<&str> {
        Ok(self.options.get(name).ok_or_else(|| format!("--{name} is missing"))?)
    }

    fn number<N: std::str::FromStr>(&self, name: &str, usual: N) -> Outcome<N> {
        match self.options.get(name) {
            None => Ok(usual),
            Some(text) => text.parse().map_err(|_| format!("--{name} {text}: no such number").into()),
        }
    }

    fn is(&self, name: &str) -> bool {
        self.options.get(name).is_some_and(|value| value == "yes")
    }
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let words = Words::read()?;
    let filter = words.options.get("log").map_or("warn", String::as_str).to_owned();
    sampan_daemon::telemetry::init(&sampan_daemon::telemetry::Options { filter, colour: false })?;
    match words.rest.first().map(String::as_str) {
        Some("serve") => serve::run(&words).await,
        Some("controllers") => serve::controllers(&words).await,
        Some("nodes") => nodes::run(&words).await,
        Some("run") => steps::run(&words).await,
        _ => Err("serve, controllers, nodes or run?".into()),
    }
}
