//! A bare server to run against, as the tests start it: embedded store, one administrator.

use crate::Outcome;

#[path = "../../tests/support/server.rs"]
mod support;

/// Serves until killed; says how to reach it.
pub async fn run() -> Outcome<()> {
    let server = support::Server::start().await;
    let ca = server.dir.path().join("ca.crt");
    std::fs::write(&ca, server.ca.cert_pem())?;
    let (address, pid) = (server.address(), std::process::id());
    println!("--server {address} --ca {} --token secret-admin-token --pid {pid}", ca.display());
    std::future::pending().await
}
