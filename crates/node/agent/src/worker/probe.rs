//! When probes run, and what their results mean.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Container, Probe};

use super::{Worker, stop};
use crate::handler::{self, Target};
use crate::pod::record::Run;
use crate::pod::spec::{self, Role};

/// First interval between readiness probes of a container that was never ready: waiting a whole period after a
/// first probe that came a moment too early would only make starting slow.
const EAGER: Duration = Duration::from_millis(100);

/// What a probe decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Whether the container has started.
    Startup,
    /// Whether it must be restarted.
    Liveness,
    /// Whether it takes requests.
    Readiness,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// A probe's result.
pub struct ProbeDone {
    name: String,
    generation: u64,
    kind: Kind,
    result: Result<(), String>,
}

/// Counts results against thresholds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    successes: i32,
    failures: i32,
}

impl Counter {
    /// Count a result: `Some(true)` once enough successes came in a row, `Some(false)` once enough failures did.
    pub fn count(&mut self, probe: &Probe, success: bool) -> Option<bool> {
        if success {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            (self.successes >= probe.success_threshold.unwrap_or(1).max(1)).then_some(true)
        } else {
            self.successes = 0;
            self.failures = self.failures.saturating_add(1);
            (self.failures >= probe.failure_threshold.unwrap_or(3).max(1)).then_some(false)
        }
    }
}

struct Watched {
    generation: u64,
    target: Target,
    counters: HashMap<Kind, Counter>,
    eager: Duration,
}

/// The probes of one pod.
#[derive(Default)]
pub struct Probes {
    generation: u64,
    watched: HashMap<String, Watched>,
    running: FuturesUnordered<BoxFuture<'static, ProbeDone>>,
}

impl Probes {
    /// Nothing is being probed.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// The next result.
    pub async fn next(&mut self) -> Option<ProbeDone> {
        self.running.next().await
    }

    /// Stop probing a container. Results on their way are ignored.
    pub fn forget(&mut self, name: &str) {
        self.watched.remove(name);
        if self.watched.is_empty() {
            self.running.clear();
        }
    }

    /// Stop probing.
    pub fn clear(&mut self) {
        self.watched.clear();
        self.running.clear();
    }

    fn schedule(&mut self, name: &str, kind: Kind, probe: &Probe, delay: Duration) {
        let Some(watched) = self.watched.get(name) else { return };
        let (name, generation) = (name.to_owned(), watched.generation);
        let (target, probe) = (watched.target.clone(), probe.clone());
        self.running.push(Box::pin(async move {
            tokio::time::sleep(delay).await;
            let result = handler::probe(&probe, &target).await;
            ProbeDone { name, generation, kind, result }
        }));
    }
}

fn of(container: &Container, kind: Kind) -> Option<&Probe> {
    match kind {
        Kind::Startup => container.startup_probe.as_ref(),
        Kind::Liveness => container.liveness_probe.as_ref(),
        Kind::Readiness => container.readiness_probe.as_ref(),
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
}

impl Worker {
    /// Begin probing a container that runs. Flags that survived a restart of the agent stay as they are.
    pub(super) fn watch_probes(&mut self, role: Role, container: &Container) {
        let name = &container.name;
        let Some(Run::Running { id, .. }) = self.record.containers.get(name).map(|seen| seen.run.clone())
        else {
            return;
        };
        let Some(target) = self.target(name, &id) else { return };
        let Some(seen) = self.record.containers.get_mut(name) else { return };
        let probed = |kind| role != Role::Init && of(container, kind).is_some();
        if !probed(Kind::Startup) {
            seen.started = true;
        }
        if !probed(Kind::Readiness) {
            seen.ready = seen.started;
        }
        let started = seen.started;
        if role == Role::Init {
            return;
        }
        self.probes.generation += 1;
        let generation = self.probes.generation;
        let watched = Watched { generation, target, counters: HashMap::new(), eager: EAGER };
        self.probes.watched.insert(name.clone(), watched);
        let kinds: &[Kind] = if started { &[Kind::Liveness, Kind::Readiness] } else { &[Kind::Startup] };
        self.schedule_all(container, kinds);
    }

    fn schedule_all(&mut self, container: &Container, kinds: &[Kind]) {
        for kind in kinds {
            if let Some(probe) = of(container, *kind) {
                let delay = seconds(probe.initial_delay_seconds, 0);
                self.probes.schedule(&container.name, *kind, probe, delay);
            }
        }
    }

    pub(super) fn apply_probe(&mut self, done: ProbeDone) {
        let ProbeDone { name, generation, kind, result } = done;
        let pod = self.pod.clone();
        let found = pod.spec.as_ref().and_then(|spec| spec::container(spec, &name));
        let (Some((role, container)), Some(watched)) = (found, self.probes.watched.get_mut(&name)) else {
            return;
        };
        let (Some(probe), true) = (of(container, kind), watched.generation == generation) else { return };
        let verdict = watched.counters.entry(kind).or_default().count(probe, result.is_ok());
        let was_ready = self.record.containers.get(&name).is_some_and(|seen| seen.ready);
        let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
        let delay = if kind == Kind::Readiness && result.is_err() && !was_ready {
            let eager = watched.eager.min(period);
            watched.eager = (watched.eager * 2).min(period);
            eager
        } else {
            period
        };
        if let Err(output) = &result {
            let message = format!("{} probe failed: {output}", kind.name());
            self.container_events(&name).warning("Unhealthy", message);
        }
        let Some(seen) = self.record.containers.get_mut(&name) else { return };
        match (kind, verdict) {
            (Kind::Readiness, Some(ready)) => seen.ready = ready,
            (Kind::Startup, Some(true)) => {
                seen.started = true;
                if container.readiness_probe.is_none() {
                    seen.ready = true;
                }
                self.schedule_all(container, &[Kind::Liveness, Kind::Readiness]);
                return;
            }
            (Kind::Startup | Kind::Liveness, Some(false)) => {
                self.fail_probe(&name, kind, probe, role);
                return;
            }
            _ => {}
        }
        self.probes.schedule(&name, kind, probe, delay);
    }

    fn fail_probe(&mut self, name: &str, kind: Kind, probe: &Probe, role: Role) {
        let spec = self.pod.spec.as_ref();
        let grace = probe
            .termination_grace_period_seconds
            .or_else(|| spec.and_then(|spec| spec.termination_grace_period_seconds))
            .unwrap_or(30);
        let policy = spec.map_or("Always", spec::restart_policy);
        let what = kind.name().to_lowercase();
        let outcome = if policy == "Never" && role == Role::Main { "" } else { ", will be restarted" };
        let message = format!("Container {name} failed {what} probe{outcome}");
        self.stop_container(name, stop::seconds(grace), &message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_count_in_a_row() {
        let probe = Probe { success_threshold: Some(2), failure_threshold: Some(3), ..Default::default() };
        let mut counter = Counter::default();
        let results = [true, false, true, true, false, false, true, false, false, false];
        let verdicts: Vec<_> = results.into_iter().map(|ok| counter.count(&probe, ok)).collect();
        let want = [None, None, None, Some(true), None, None, None, None, None, Some(false)];
        assert_eq!(verdicts, want);
    }
}
