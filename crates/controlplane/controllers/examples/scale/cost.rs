//! What each process spends: processor time and memory, from /proc.

use std::time::Instant;

use serde_json::{Value, json};

use crate::Outcome;

/// Ticks a second in /proc/PID/stat.
const TICKS: f64 = 100.0;

/// A process, by the name under which it is told of.
#[derive(Clone)]
pub struct Process {
    pub name: String,
    pub pid: u32,
}

/// `name=pid,name=pid`.
pub fn processes(text: &str) -> Outcome<Vec<Process>> {
    let one = |part: &str| {
        let (name, pid) = part.split_once('=').ok_or_else(|| format!("{part}: no NAME=PID"))?;
        Ok(Process { name: name.to_owned(), pid: pid.parse()? })
    };
    text.split(',').filter(|part| !part.is_empty()).map(one).collect()
}

fn seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / TICKS
}

fn megabytes(pid: u32, field: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1024.0
}

/// A step that is under way.
pub struct Meter {
    processes: Vec<Process>,
    started: Instant,
    before: Vec<f64>,
}

impl Meter {
    pub fn start(processes: &[Process]) -> Self {
        for process in processes {
            // The peak of each step counts, not that of the steps before; not everywhere permitted.
            let _ = std::fs::write(format!("/proc/{}/clear_refs", process.pid), "5");
        }
        let before = processes.iter().map(|process| seconds(process.pid)).collect();
        Self { processes: processes.to_vec(), started: Instant::now(), before }
    }

    pub fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Seconds so far, and of each process processor seconds, resident and most resident megabytes.
    pub fn tell(&self) -> Value {
        let mut each = serde_json::Map::new();
        for (process, before) in self.processes.iter().zip(&self.before) {
            let cost = json!({
                "cpu": seconds(process.pid) - before,
                "resident": megabytes(process.pid, "VmRSS"),
                "peak": megabytes(process.pid, "VmHWM"),
            });
            each.insert(process.name.clone(), cost);
        }
        json!({"seconds": self.elapsed(), "processes": each})
    }
}
