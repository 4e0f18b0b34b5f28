//! Arguments about moving pods to where they run better.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Output;

/// What moves are to bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Aim {
    /// Evenly used nodes.
    Even,
    /// As many nodes as possible without pods, so that they can be taken away; they are cordoned first.
    Empty,
    /// No node of which too much is used, by measurement.
    Cool,
}

/// `sampan rebalance`
#[derive(Clone, Debug, Args)]
pub(crate) struct Rebalance {
    /// Only show each move, what it gains and what it costs.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Show which nodes could be emptied, by which moves, and why the others cannot: --aim empty --dry-run over all
    /// nodes.
    #[arg(long, conflicts_with_all = ["aim", "every", "moves", "cost"])]
    pub(crate) consolidate: bool,
    /// What to aim at.
    #[arg(long, value_enum, default_value_t = Aim::Even)]
    pub(crate) aim: Aim,
    /// Moves at most.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(crate) moves: usize,
    /// Cost at most. A move costs 1, more for pods of high priority and those that have just started.
    #[arg(long, value_name = "COST", default_value_t = 40.0)]
    pub(crate) cost: f64,
    /// Gain that a unit of cost must bring, in hundredths of a node.
    #[arg(long, value_name = "GAIN", default_value_t = 1.0)]
    pub(crate) least_gain: f64,
    /// With --aim even: how much fuller than the mean a node may be, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    pub(crate) tolerance: f64,
    #[command(flatten)]
    pub(crate) hot: Hot,
    /// Do it again every so many seconds, until Ctrl-C; the bounds hold for each time.
    #[arg(long, value_name = "SECONDS", conflicts_with = "dry_run", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) every: Option<u64>,
    /// The KubeSchedulerConfiguration that the scheduler follows. [default: its default profile]
    #[arg(long, value_name = "FILE")]
    pub(crate) scheduler_config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// When a node is hot.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Hot {
    /// With aim cool: a node is hot when more of its CPU is used, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 80.0)]
    pub(crate) hot_cpu: f64,
    /// With aim cool: or more of its memory.
    #[arg(long, value_name = "PERCENT", default_value_t = 90.0)]
    pub(crate) hot_memory: f64,
}

/// Moving pods all the time.
#[derive(Clone, Debug, Args)]
pub(crate) struct Continuous {
    /// Move pods all the time to where they run better, for these aims, by commas; the first that finds something to do
    /// has its turn. [default: pods are never moved]
    #[arg(long, value_enum, value_name = "AIM", value_delimiter = ',')]
    pub(crate) rebalance: Vec<Aim>,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "rebalance", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rebalance_every: u64,
    /// Moves a minute at most.
    #[arg(long, value_name = "N", default_value_t = 5, requires = "rebalance")]
    pub(crate) rebalance_moves: usize,
    /// Seconds that a pod stays at least, and that its siblings rest after it was moved.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "rebalance")]
    pub(crate) rebalance_cool_down: u64,
    #[command(flatten)]
    pub(crate) hot: Hot,
}
