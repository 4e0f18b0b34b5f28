//! `sampan`: a complete container service in one binary.

use std::process::ExitCode;

use clap::Parser;

mod allocator;
mod cli;
mod cluster;
mod commands;
mod controlplane;
mod encryption;
mod identity;
mod instance;
mod issuers;
mod join;
mod local;
mod manage;
mod metrics;
mod node;
mod platform;
mod plot;
mod scheduler_config;
mod store;
mod terminal;
mod wait;

#[global_allocator]
static ALLOCATOR: allocator::Allocator =
    allocator::Allocator::for_commands(&["up", "server", "agent", "serve"]);

fn main() -> ExitCode {
    // Pod shims are forked from a re-executed copy of this binary; it must branch off before anything else runs.
    sampan_container::shim::dispatch();
    match commands::run(cli::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
