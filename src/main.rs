//! `sampan`: a complete container service in one binary.

use std::process::ExitCode;

use clap::Parser;

mod cli;
mod commands;
mod encryption;
mod identity;
mod instance;
mod issuers;
mod local;
mod manage;
mod platform;
mod terminal;

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
