//! What a pod needs next, given what is known. Starts operations; changes nothing outside the worker.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::{Busy, Done, Stage, Worker, stop, stop::later};
use crate::pod::record::{ContainerRecord, Run, Waiting};
use crate::pod::spec::{self, Role};

/// How soon after a failed pull the container is shown as backing off.
const PULL_SETTLE: Duration = Duration::from_secs(1);
/// How often a container that cannot be configured is tried again when nothing it refers to changes.
const CONFIG_RETRY: Duration = Duration::from_secs(10);

/// Back-off of a container's image pulls.
pub struct PullRetry {
    delay: Duration,
    failed: Timestamp,
    error: String,
}

impl Worker {
    pub(super) fn decide(&mut self, now: Timestamp) {
        if self.record.finished && self.pod.metadata.deletion_timestamp.is_none() && !self.gone {
            self.tear_down(now);
            return;
        }
        if self.gone || self.pod.metadata.deletion_timestamp.is_some() {
            self.decide_end(now);
            return;
        }
        self.check_deadline(now);
        let pod = self.pod.clone();
        let Some(spec) = &pod.spec else { return };
        if self.record.failed.is_none() {
            self.decide_resize(spec, now);
        }
        if self.record.failed.is_some() {
            self.decide_end(now);
            return;
        }
        if self.sandbox.as_ref().is_some_and(sampan_container::PodSandbox::is_lost) {
            self.lose_sandbox();
        }
        self.decide_sandbox(now);
        self.decide_volumes(now);
        if self.sandbox_stage == Stage::Done && self.volume_stage == Stage::Done {
            self.decide_confinement(now);
            self.decide_containers(spec, now);
        }
    }

    fn check_deadline(&mut self, now: Timestamp) {
        let limit = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let (Some(limit), Some(start), None) = (limit, self.record.start_time, &self.record.failed) else {
            return;
        };
        let end = later(start, limit);
        if end > now {
            self.wake_at(end);
            return;
        }
        let message = "Pod was active on the node longer than the specified deadline";
        self.events.normal("DeadlineExceeded", message);
        self.record.failed = Some(("DeadlineExceeded".to_owned(), message.to_owned()));
    }

    fn decide_containers(&mut self, spec: &PodSpec, now: Timestamp) {
        let policy = spec::restart_policy(spec);
        for container in spec.init_containers.iter().flatten() {
            let role = spec::init_role(container);
            let seen = self.record.containers.get(&container.name).cloned().unwrap_or_default();
            if role == Role::Init {
                match seen.exited() {
                    Some(ended) if ended.exit_code == 0 => continue,
                    Some(_) if policy == "Never" => {
                        self.finish_rest(spec);
                        return;
                    }
                    _ => {}
                }
            }
            if !self.busy.contains_key(&container.name) && !seen.is_running() && !self.mains_done(spec) {
                self.try_start(role, container, now);
            }
            if role == Role::Init || !(seen.is_running() && seen.started) {
                // Once the pod is initialised, a restarting sidecar holds nobody back.
                let initialised =
                    spec.containers.iter().any(|main| self.record.containers.contains_key(&main.name));
                if !(role == Role::Sidecar && initialised) {
                    return;
                }
            }
        }
        if self.mains_done(spec) {
            self.finish_rest(spec);
            return;
        }
        for container in spec::ephemerals(spec) {
            let runs = self.record.containers.get(&container.name).map_or(0, |seen| seen.runs);
            if runs == 0 && !self.busy.contains_key(&container.name) {
                self.try_start(Role::Ephemeral, &container, now);
            }
        }
        let ordered = spec.containers.iter().any(|container| {
            container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some())
        });
        for container in &spec.containers {
            let busy = self.busy.get(&container.name).copied();
            let seen = self.record.containers.get(&container.name);
            if busy.is_none() && !seen.is_some_and(ContainerRecord::is_running) {
                self.try_start(Role::Main, container, now);
            }
            let starting = matches!(self.busy.get(&container.name), Some(Busy::Starting | Busy::PostStart));
            if ordered && starting {
                return;
            }
        }
    }

    /// Whether every main container has ended for good.
    fn mains_done(&self, spec: &PodSpec) -> bool {
        let policy = spec::restart_policy(spec);
        spec.containers.iter().all(|container| {
            let ended = self.record.containers.get(&container.name).and_then(ContainerRecord::exited);
            let resizing = self.record.containers.get(&container.name).is_some_and(|seen| seen.resizing);
            ended.is_some_and(|ended| !restarts(policy, Role::Main, ended.exit_code))
                && !resizing
                && !self.busy.contains_key(&container.name)
        })
    }

    /// The outcome is known: stop sidecars, last started first, then end.
    fn finish_rest(&mut self, spec: &PodSpec) {
        let sidecars = spec.init_containers.iter().flatten().rev().map(|container| container.name.clone());
        let all: Vec<String> = spec::ephemerals(spec).map(|added| added.name).chain(sidecars).collect();
        for name in all {
            if self.busy.contains_key(&name) {
                return;
            }
            if self.record.containers.get(&name).is_some_and(ContainerRecord::is_running) {
                let grace = spec.termination_grace_period_seconds.unwrap_or(30);
                self.stop_container(&name, stop::seconds(grace), "Stopping container");
                return;
            }
        }
        self.record.finished = true;
        let now = sampan_daemon::clock::now();
        self.tear_down(now);
    }

    fn try_start(&mut self, role: Role, container: &Container, now: Timestamp) {
        let name = &container.name;
        let policy = self.pod.spec.as_ref().map_or("Always", spec::restart_policy).to_owned();
        let seen = self.record.containers.entry(name.clone()).or_default();
        let mut raise = None;
        if let Run::Exited(ended) = &seen.run
            && !seen.resizing
        {
            if !restarts(&policy, role, ended.exit_code) {
                return;
            }
            if let Some(until) = seen.backoff.until(ended.finished_at, now) {
                self.back_off(name, until);
                return;
            }
            raise = Some(ended.finished_at);
        }
        if let Some(at) = self.retries.get(name).copied() {
            if at > now {
                self.wake_at(at);
                return;
            }
            self.retries.remove(name);
        }
        if !self.pull_is_due(name, container, now) {
            return;
        }
        if let Some(ended) = raise
            && let Some(seen) = self.record.containers.get_mut(name)
            && seen.waiting.as_ref().is_none_or(|waiting| !is_config_wait(&waiting.reason))
        {
            seen.backoff.raise(ended, now);
        }
        self.begin_start(role, container);
    }

    fn back_off(&mut self, name: &str, until: Timestamp) {
        self.wake_at(until);
        let place = spec::display(&self.pod);
        let events = self.container_events(name);
        let Some(seen) = self.record.containers.get_mut(name) else { return };
        let delay = go_duration(Duration::from_secs(seen.backoff.seconds));
        let waiting = Waiting {
            reason: "CrashLoopBackOff".to_owned(),
            message: format!("back-off {delay} restarting failed container={name} pod={place}"),
        };
        if seen.waiting.as_ref() != Some(&waiting) {
            seen.waiting = Some(waiting);
            events.warning("BackOff", format!("Back-off restarting failed container {name} in pod {place}"));
        }
    }

    /// Whether an image that could not be pulled may be tried again.
    fn pull_is_due(&mut self, name: &str, container: &Container, now: Timestamp) -> bool {
        let Some(retry) = self.pull_retries.get(name) else { return true };
        if retry.failed + retry.delay <= now {
            return true;
        }
        let (settle, due) = (retry.failed + PULL_SETTLE, retry.failed + retry.delay);
        if settle > now {
            self.wake_at(settle);
            return false;
        }
        let message = format!(
            "Back-off pulling image \"{}\": ErrImagePull: {}",
            container.image.as_deref().unwrap_or_default(),
            retry.error
        );
        self.wake_at(due);
        let events = self.container_events(name);
        if let Some(seen) = self.record.containers.get_mut(name)
            && seen.waiting.as_ref().is_none_or(|waiting| waiting.reason != "ImagePullBackOff")
        {
            seen.waiting = Some(Waiting { reason: "ImagePullBackOff".to_owned(), message });
            let image = container.image.as_deref().unwrap_or_default();
            events.normal("BackOff", format!("Back-off pulling image \"{image}\""));
            events.warning("Failed", "Error: ImagePullBackOff");
        }
        false
    }

    /// Count a failed pull.
    pub(super) fn pull_failed(&mut self, name: &str, error: String, now: Timestamp) {
        let delay = self
            .pull_retries
            .get(name)
            .map_or(Duration::from_secs(10), |retry| (retry.delay * 2).min(Duration::from_secs(300)));
        self.pull_retries.insert(name.to_owned(), PullRetry { delay, failed: now, error });
    }

    /// Try a container that cannot be configured again later.
    pub(super) fn retry_config(&mut self, name: &str, now: Timestamp) {
        self.retries.insert(name.to_owned(), now + CONFIG_RETRY);
    }

    fn decide_end(&mut self, now: Timestamp) {
        if self.record.finished && self.teardown != Stage::Todo {
            self.finish_end(now);
            return;
        }
        self.record.terminating = true;
        self.cancel.cancel();
        let stop_by = self.stop_deadline(now);
        let pod = self.pod.clone();
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let running = |worker: &Self, name: &str| {
            worker.record.containers.get(name).is_some_and(ContainerRecord::is_running)
                || worker.busy.contains_key(name)
        };
        let mut alive = false;
        for added in spec::ephemerals(spec) {
            if running(self, &added.name) {
                alive = true;
                self.stop_container(&added.name, stop_by.clone(), "Stopping container");
            }
        }
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            let sidecar =
                spec::init_role(container) == Role::Sidecar && self.role(&container.name) != Role::Main;
            if sidecar {
                continue;
            }
            if running(self, &container.name) {
                alive = true;
                self.stop_container(&container.name, stop_by.clone(), "Stopping container");
            }
        }
        // Sidecars end after the containers they serve, last started first.
        if !alive {
            for container in spec.init_containers.iter().flatten().rev() {
                if running(self, &container.name) {
                    alive = true;
                    self.stop_container(&container.name, stop_by.clone(), "Stopping container");
                    break;
                }
            }
        }
        if !alive && self.sandbox_stage != Stage::Doing && self.volume_stage != Stage::Doing {
            self.record.finished = true;
            self.finish_end(now);
        }
    }

    /// When everything must have stopped; told to running stop operations when it comes nearer.
    fn stop_deadline(&mut self, now: Timestamp) -> stop::Deadline {
        let meta = &self.pod.metadata;
        let spec_grace =
            self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let by = match (&meta.deletion_timestamp, self.gone) {
            (_, true) => now + Duration::from_secs(1),
            // The timestamp is the end of the grace period, cut to whole seconds: it bounds the wait of an agent
            // that comes back late, but must not shorten the grace of one that was there all the time.
            (Some(at), false) => {
                let grace = meta.deletion_grace_period_seconds.unwrap_or(0);
                later(now, grace).min(later(at.0, 1)).max(now)
            }
            (None, false) => later(now, spec_grace),
        };
        match &self.stop_by {
            Some(sender) => {
                sender.send_if_modified(|known| {
                    let nearer = by < *known;
                    if nearer {
                        *known = by;
                    }
                    nearer
                });
                sender.subscribe()
            }
            None => {
                let (sender, deadline) = tokio::sync::watch::channel(by);
                self.stop_by = Some(sender);
                deadline
            }
        }
    }

    fn finish_end(&mut self, now: Timestamp) {
        self.tear_down(now);
        let deleted = self.pod.metadata.deletion_timestamp.is_some() && !self.gone;
        if !deleted
            || self.teardown != Stage::Done
            || self.delete != Stage::Todo
            || !self.publisher.is_settled()
        {
            return;
        }
        if let Err(at) = self.delete_retry.due(now) {
            self.wake_at(at);
            return;
        }
        self.delete = Stage::Doing;
        let (ctx, pod) = (self.ctx.clone(), self.pod.clone());
        self.ops.push(Box::pin(async move { Done::Deleted(super::publish::delete(&ctx, &pod).await) }));
    }

    fn tear_down(&mut self, now: Timestamp) {
        if self.teardown != Stage::Todo {
            return;
        }
        if let Err(at) = self.delete_retry.due(now) {
            self.wake_at(at);
            return;
        }
        self.teardown = Stage::Doing;
        self.probes.clear();
        self.references = None;
        let run = super::sandbox::tear_down(self.ctx.clone(), self.sandbox.clone(), self.record.clone());
        self.ops.push(Box::pin(async move { Done::TornDown(run.await) }));
    }
}

/// Whether a container that ended like this starts again.
#[must_use]
pub fn restarts(policy: &str, role: Role, exit_code: i32) -> bool {
    match (role, policy) {
        (Role::Sidecar, _) => true,
        (Role::Ephemeral, _) => false,
        (Role::Init, "Never") | (Role::Main, "Never") => false,
        (Role::Init, _) | (Role::Main, "OnFailure") => exit_code != 0,
        (Role::Main, _) => true,
    }
}

fn is_config_wait(reason: &str) -> bool {
    matches!(
        reason,
        "CreateContainerConfigError" | "CreateContainerError" | "ErrImagePull" | "ImagePullBackOff"
    )
}

/// A duration of whole seconds as Go prints it: `10s`, `2m40s`.
fn go_duration(duration: Duration) -> String {
    match (duration.as_secs() / 60, duration.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies() {
        for (policy, role, code, want) in [
            ("Always", Role::Main, 0, true),
            ("OnFailure", Role::Main, 0, false),
            ("OnFailure", Role::Main, 1, true),
            ("Never", Role::Main, 1, false),
            ("Always", Role::Init, 0, false),
            ("Always", Role::Init, 1, true),
            ("Never", Role::Init, 1, false),
            ("Never", Role::Sidecar, 0, true),
            ("Always", Role::Ephemeral, 1, false),
        ] {
            assert_eq!(restarts(policy, role, code), want, "{policy} {role:?} {code}");
        }
        assert_eq!(go_duration(Duration::from_secs(160)), "2m40s");
    }
}
