//! Which CPUs a pod's containers may run on: their own, or those that everybody shares.

use std::time::Duration;

use jiff::Timestamp;
use sampan_container::{PodSandbox, Resources};
use sampan_planner::numa::{CpuSet, Pin};

use super::{Done, Retry, Stage, Worker};
use crate::pod::record::Run;

/// What became of a container: its name, its id, the CPUs that it was to have, and what went wrong.
pub type Confined = (String, String, CpuSet, Option<String>);

impl Worker {
    /// What a container has of the machine's zones for itself.
    pub(super) fn pin(&self, name: &str) -> Option<&Pin> {
        self.record.zones.containers.get(name)
    }

    /// Whether a container has CPUs for itself: those are all its, and no quota keeps it from using them.
    pub(super) fn has_cpus(&self, name: &str) -> bool {
        self.pin(name).is_some_and(|pin| !pin.cpus.is_empty())
    }

    /// The CPUs that a container is to run on; `None` for any.
    pub(super) fn cpus_of(&self, name: &str) -> Option<CpuSet> {
        let own = self.pin(name).map(|pin| pin.cpus.clone()).filter(|cpus| !cpus.is_empty());
        own.or_else(|| self.ctx.zones.shared())
    }

    /// Move running containers to the CPUs that they are to have by now. One that was started without any confinement stays
    /// so until it starts anew.
    pub(super) fn decide_confinement(&mut self, now: Timestamp) {
        if self.confine_stage == Stage::Doing {
            return;
        }
        let running =
            self.record.containers.iter().filter_map(|(name, seen)| match (&seen.run, &seen.cpus) {
                (Run::Running { id, .. }, Some(cpus)) => {
                    let wanted = self.cpus_of(name).filter(|wanted| wanted != cpus)?;
                    Some((name.clone(), id.clone(), wanted))
                }
                _ => None,
            });
        let updates: Vec<(String, String, CpuSet)> = running.collect();
        let (false, Some(sandbox)) = (updates.is_empty(), self.sandbox.clone()) else { return };
        if let Err(at) = self.confine_retry.due(now) {
            self.wake_at(at);
            return;
        }
        self.confine_stage = Stage::Doing;
        self.ops.push(Box::pin(async move { Done::Confined(confine(&sandbox, updates).await) }));
    }

    pub(super) fn confined(&mut self, confined: Vec<Confined>, now: Timestamp) {
        self.confine_stage = Stage::Todo;
        let mut failed = false;
        for (name, id, cpus, error) in confined {
            let events = self.container_events(&name);
            let Some(seen) = self.record.containers.get_mut(&name) else { continue };
            // It may have ended meanwhile.
            if !matches!(&seen.run, Run::Running { id: running, .. } if *running == id) {
                continue;
            }
            match error {
                None => seen.cpus = Some(cpus),
                Some(error) => {
                    failed = true;
                    events.warning(
                        "FailedCpuUpdate",
                        format!("cannot confine the container to CPUs {cpus}: {error}"),
                    );
                }
            }
        }
        if failed {
            self.confine_retry.fail(now);
        } else {
            self.confine_retry = Retry::new(Duration::from_secs(60));
        }
    }
}

async fn confine(sandbox: &PodSandbox, updates: Vec<(String, String, CpuSet)>) -> Vec<Confined> {
    let mut done = Vec::with_capacity(updates.len());
    for (name, id, cpus) in updates {
        let limits = Resources { cpuset_cpus: Some(cpus.to_string()), ..Resources::default() };
        let error = sandbox.update_container(&id, limits).await.err().map(|error| error.to_string());
        done.push((name, id, cpus, error));
    }
    done
}
