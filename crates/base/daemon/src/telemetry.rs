//! Structured logs on stderr: one line an event, legible without colour.

use tracing_subscriber::{EnvFilter, fmt};

/// How logs are written.
#[derive(Clone, Debug)]
pub struct Options {
    /// Filter directives, e.g. `info` or `warn,sampan_agent=debug`.
    pub filter: String,
    /// Colour the level names; only sensible on a terminal.
    pub colour: bool,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter does not parse.
    #[error("log filter {filter:?}: {reason} (hint: a level such as `info`, or `info,sampan_agent=debug`)")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Somebody set up logging before.
    #[error("logging is set up already")]
    Twice,
}

/// Install the process-wide subscriber. Call once.
///
/// # Errors
/// A filter that does not parse, or a second call.
pub fn init(options: &Options) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&options.filter)
        .map_err(|e| Error::Filter { filter: options.filter.clone(), reason: e.to_string() })?;
    fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(options.colour)
        .with_target(true)
        .try_init()
        .map_err(|_| Error::Twice)
}
