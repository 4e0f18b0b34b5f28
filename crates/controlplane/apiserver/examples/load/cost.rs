//! Processor time and latencies.

use std::time::{Duration, Instant};

use crate::{Load, Outcome};

/// Ticks a second in /proc/PID/stat.
const TICKS: f64 = 100.0;

/// Processor seconds of processes so far.
fn seconds(pids: &[u32]) -> Outcome<f64> {
    pids.iter().map(|pid| seconds_of(*pid)).sum()
}

fn seconds_of(pid: u32) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: Vec<f64> = rest.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

/// Resident megabytes of processes.
fn resident(pids: &[u32]) -> Outcome<f64> {
    pids.iter().map(|pid| resident_of(*pid)).sum()
}

fn resident_of(pid: u32) -> Outcome<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1024.0)
}

/// A measurement that is under way.
pub struct Meter {
    started: Instant,
    own: f64,
    servers: f64,
}

impl Meter {
    /// Starts.
    pub fn start(load: &Load) -> Outcome<Self> {
        let (own, servers) = (seconds_of(std::process::id())?, seconds(&load.pids)?);
        Ok(Self { started: Instant::now(), own, servers })
    }

    /// Ends, and says what so many requests cost.
    pub fn tell(self, load: &Load, name: &str, mut times: Vec<Duration>) -> Outcome<()> {
        let (took, count) = (self.started.elapsed().as_secs_f64(), times.len().max(1) as f64);
        times.sort_unstable();
        let at = |part: f64| {
            let index = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
            times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        let own = (seconds_of(std::process::id())? - self.own) * 1000.0 / count;
        let server = match &load.pids[..] {
            [] => None,
            pids => Some(((seconds(pids)? - self.servers) * 1000.0 / count, resident(pids)?)),
        };
        let rate = times.len() as f64 / took;
        if load.json {
            let line = serde_json::json!({"run": name, "count": times.len(), "rate": rate, "p50": at(0.5),
                "p99": at(0.99), "worst": at(1.0), "client": own, "server": server.map(|server| server.0),
                "resident": server.map(|server| server.1)});
            println!("{line}");
            return Ok(());
        }
        let mut line = format!(
            "{name:<22} {rate:>8.0}/s  p50 {:>8.3} ms  p99 {:>8.3} ms  worst {:>8.3} ms  client {own:.3} CPU-ms",
            at(0.5),
            at(0.99),
            at(1.0),
        );
        if let Some((cost, resident)) = server {
            line += &format!("  server {cost:.3} CPU-ms, {resident:.0} MB");
        }
        println!("{line}");
        Ok(())
    }
}
