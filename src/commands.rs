//! One file a command.

use std::{io::IsTerminal, process::ExitCode};

use anyhow::Result;
use clap::CommandFactory;

use crate::cli::{Cli, Command};

mod agent;
mod certs;
mod down;
mod image;
pub(crate) use image::options as image_options;
pub(crate) use registry::{directory as registry_dir, remembered_port as registry_port};
pub(crate) use service::end;
mod kubeconfig;
mod rebalance;
mod registry;
mod run;
mod secrets;
mod server;
mod service;
mod simulate;
mod status;
mod store;
mod token;
mod up;
mod version;
mod why;

/// Run what was typed.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { data_dir, log, command } = cli;
    let colour = std::io::stderr().is_terminal();
    sampan_daemon::telemetry::init(&sampan_daemon::telemetry::Options { filter: log, colour })?;
    match command {
        Command::Up(options) => up::run(&data_dir, *options),
        Command::Server(options) => server::run(&data_dir, *options),
        Command::Agent(options) => agent::run(&data_dir, *options),
        Command::Store(command) => wait(store::run(&data_dir, command)),
        Command::Down(options) => wait(down::run(&data_dir, options)),
        Command::Status(output) => wait(status::run(&data_dir, output.output)),
        Command::Kubeconfig => kubeconfig::run(&data_dir),
        Command::Run(options) => wait(run::run(&data_dir, options)),
        Command::Image(command) => wait(image::run(&data_dir, *command)),
        Command::Registry(command) => registry::run(&data_dir, *command),
        Command::Certs(command) => wait(certs::run(&data_dir, command)),
        Command::Secrets(command) => wait(secrets::run(&data_dir, command)),
        Command::Token(command) => wait(token::run(&data_dir, command)),
        Command::Why(options) => wait(why::run(&data_dir, options)),
        Command::Rebalance(options) => wait(rebalance::run(&data_dir, options)),
        Command::Simulate(command) => wait(simulate::run(&data_dir, *command)),
        Command::Version(output) => version::run(output.output),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sampan", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Most commands need one thread only.
fn wait(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(work);
    // A read from a terminal, which nobody may ever answer, must not hold the command back.
    runtime.shutdown_background();
    outcome
}
