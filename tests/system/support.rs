//! What the tests stand on: clusters in network namespaces of their own, commands with a bound, polling with a bound.

mod cluster;
pub mod fleet;
mod leaks;
mod netns;

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

pub use cluster::{Background, Cluster, alive, busybox, condition};
pub use netns::NetNs;

/// How long anything that should happen soon may take on a machine that does many things at once.
pub const BOUND: Duration = Duration::from_secs(60);

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Ran {
    pub line: String,
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// It must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert!(self.code == 0, "{}: exit code {}\n{}{}", self.line, self.code, self.out, self.err);
        self
    }

    /// It must have failed and said every one of these.
    #[track_caller]
    pub fn fails(self, words: &[&str]) -> Self {
        assert!(self.code != 0, "{}: succeeded\n{}{}", self.line, self.out, self.err);
        self.says(words)
    }

    /// What it said must have every one of these.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        let said = format!("{}{}", self.out, self.err);
        for word in words {
            assert!(said.contains(word), "{}: no {word:?} in\n{said}", self.line);
        }
        self
    }
}

/// Run to the end, with all output; killed (code 137) at the bound.
pub fn finish(command: &mut Command, stdin: &[u8]) -> Ran {
    let line = format!("{command:?}");
    let line = line.split(" \"--\" ").last().unwrap_or_default().to_owned();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
    let mut input = child.stdin.take().unwrap();
    let bytes = stdin.to_vec();
    // The other side need not read it all.
    let feed = std::thread::spawn(move || drop(input.write_all(&bytes)));
    let output = child.wait_with_output().unwrap();
    feed.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { line, code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// Wait until `check` gives something; what it saw last is part of the failure.
#[track_caller]
pub fn until<T>(what: &str, check: impl FnMut() -> Result<T, String>) -> T {
    within(BOUND, what, check)
}

/// The same with a bound of its own.
#[track_caller]
pub fn within<T>(bound: Duration, what: &str, mut check: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match check() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() > bound => panic!("not so within {bound:?}: {what}; last: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Wait for a condition.
#[track_caller]
pub fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    until(what, || if check() { Ok(()) } else { Err(String::new()) });
}
