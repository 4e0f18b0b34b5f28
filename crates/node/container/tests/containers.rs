//! Real containers from a busybox root file system, on the real kernel. Needs root and Debian's busybox-static.
//!
//! Runs without the standard harness, because this executable is also the zygote, and a main process to be killed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "containers/confinement.rs"]
mod confinement;
#[path = "containers/harness.rs"]
mod harness;
#[path = "containers/lifecycle.rs"]
mod lifecycle;
#[path = "containers/measure.rs"]
mod measure;
#[path = "containers/pods.rs"]
mod pods;
#[path = "containers/recovery.rs"]
mod recovery;
#[path = "containers/streams.rs"]
mod streams;

fn main() {
    sampan_container::shim::dispatch();
    if recovery::dispatch() || measure::dispatch() {
        return;
    }
    let mut tests = harness::Tests::default();
    lifecycle::register(&mut tests);
    streams::register(&mut tests);
    confinement::register(&mut tests);
    pods::register(&mut tests);
    recovery::register(&mut tests);
    tests.run();
}
