//! Hollow nodes as a process.

use std::path::Path;
use std::time::Duration;

use sampan_daemon::{Supervisor, tls};
use sampan_hollow::{Access, Options};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{Outcome, Words};

/// Runs them until standard input ends; says when all are registered, and what they have done when asked (`stats`).
pub async fn run(words: &Words) -> Outcome<()> {
    let ca_pem = std::fs::read_to_string(words.text("ca")?)?;
    let access = if words.is("own") {
        Access::Own(tls::Ca::load_or_create(Path::new(words.text("tls")?), "test-ca")?.into())
    } else {
        let token = Some(words.text("token")?.to_owned());
        Access::Shared { identity: None, token, connections: words.number("connections", 4)? }
    };
    let mut options = Options::new(words.text("server")?, ca_pem, access, words.number("count", 100)?);
    let milliseconds = |name: &str| words.number(name, 0).map(Duration::from_millis);
    options.pods = words.number("pods", options.pods)?;
    options.seed = words.number("seed", options.seed)?;
    options.at_once = words.number("at-once", 256)?;
    options.renewal = Duration::from_secs(words.number("renewal", 10)?);
    options.start = (milliseconds("start-least")?, milliseconds("start-most")?);
    options.late = (words.number("late", 0)?, milliseconds("late-by")?);
    options.failing = words.number("failing", 0)?;
    options.events = words.is("events");
    let supervisor = Supervisor::new();
    let nodes = sampan_hollow::start(options, &supervisor)?;
    nodes.registered().await;
    println!("{{\"pid\":{},\"registered\":{}}}", std::process::id(), nodes.stats().registered);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        match line.split_once(' ') {
            Some(("silence", count)) => nodes.silence(count.parse()?),
            _ if line == "stats" => println!("{}", serde_json::to_string(&nodes.stats())?),
            _ => eprintln!("{line}: silence N or stats?"),
        }
    }
    supervisor.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
