//! Real pods, end to end: API server, agent, shims, images, network and the real kubectl, in a network and a mount
//! namespace of their own. Needs root, busybox-static and kubectl; says so and passes where they are missing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod cluster;
mod scenarios;

use std::os::unix::process::CommandExt;
use std::process::Command;

fn main() {
    sampan_container::shim::dispatch();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        return;
    }
    let missing: Vec<&str> = ["/usr/bin/kubectl", "/bin/busybox", "/usr/sbin/ip"]
        .into_iter()
        .filter(|path| !std::path::Path::new(path).exists())
        .collect();
    if !nix::unistd::geteuid().is_root() || !missing.is_empty() {
        println!("skipped: needs root and {missing:?}");
        return;
    }
    if std::env::var_os("SAMPAN_AGENT_TEST").is_none() {
        // Once more, in namespaces of its own, so that nothing can be left behind or disturbed.
        let error = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(&arguments)
            .env("SAMPAN_AGENT_TEST", "1")
            .exec();
        panic!("unshare: {error}");
    }
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    if std::env::var_os("SAMPAN_LOG").is_some() {
        tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::stderr).init();
    }
    let filter = arguments.into_iter().find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let failed = runtime.block_on(scenarios::run(&filter));
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    assert!(failed.is_empty(), "failed: {failed:?}");
}
