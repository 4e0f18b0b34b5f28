//! Stopping containers gracefully, and lifecycle hooks.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use sampan_container::{PodSandbox, signal_number};
use sampan_daemon::clock;
use tokio::sync::watch;

use super::{Busy, Done, Worker};
use crate::handler::{self, Target};
use crate::pod::record::Run;
use crate::pod::spec;

/// Least time between the stop signal and the kill, even when a hook used all grace.
const MINIMUM: Duration = Duration::from_secs(2);

/// When a container has to be dead; may come nearer.
pub type Deadline = watch::Receiver<Timestamp>;

/// A deadline that many seconds from now.
pub fn seconds(seconds: i64) -> Deadline {
    watch::channel(later(clock::now(), seconds)).1
}

/// That many seconds after a moment, at most the end of time: whoever makes a pod may write any number.
pub fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX)
}

impl Worker {
    /// Stop a running container; its end comes as an event.
    pub(super) fn stop_container(&mut self, name: &str, deadline: Deadline, message: &str) {
        if matches!(self.busy.get(name), Some(Busy::Stopping | Busy::Starting)) {
            return;
        }
        let Some(Run::Running { id, .. }) = self.record.containers.get(name).map(|seen| seen.run.clone())
        else {
            return;
        };
        let Some(sandbox) = self.sandbox.clone() else { return };
        self.probes.forget(name);
        self.busy.insert(name.to_owned(), Busy::Stopping);
        let found = self.pod.spec.as_ref().and_then(|spec| spec::container(spec, name));
        let lifecycle = found.and_then(|(_, container)| container.lifecycle.clone()).unwrap_or_default();
        let hook = lifecycle.pre_stop;
        let wanted = lifecycle.stop_signal.or_else(|| self.record.containers[name].stop_signal.clone());
        let signal = wanted.as_deref().and_then(signal_number).unwrap_or(nix::libc::SIGTERM);
        let events = self.container_events(name);
        events
            .normal("Killing", message.replace("Stopping container", &format!("Stopping container {name}")));
        let target = self.target(name, &id);
        let name = name.to_owned();
        self.ops.push(Box::pin(async move {
            let mut deadline = deadline;
            if let (Some(hook), Some(target)) = (hook, target) {
                run_pre_stop(&hook, &target, deadline.clone(), &events).await;
                if *deadline.borrow() < clock::now() + MINIMUM {
                    deadline = watch::channel(clock::now() + MINIMUM).1;
                }
            }
            kill(&sandbox, &id, signal, deadline).await;
            Done::Stopped(name)
        }));
    }

    /// Where a container's hooks and probes are aimed.
    pub(super) fn target(&self, name: &str, id: &str) -> Option<Target> {
        let (_, container) = self.pod.spec.as_ref().and_then(|spec| spec::container(spec, name))?;
        let ip = self.record.ip.unwrap_or(self.ctx.options.node_ip);
        Some(Target { sandbox: self.sandbox.clone()?, id: id.to_owned(), ip, ports: ports(container) })
    }

    pub(super) fn post_start(&mut self, container: &Container, id: &str) {
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
        let (Some(hook), Some(target)) = (hook, self.target(&container.name, id)) else { return };
        self.busy.insert(container.name.clone(), Busy::PostStart);
        let (name, id) = (container.name.clone(), id.to_owned());
        self.ops.push(Box::pin(async move {
            let result = handler::lifecycle(&hook, &target).await;
            Done::PostStart(name, id, result)
        }));
    }

    pub(super) fn post_started(&mut self, name: &str, id: &str, result: Result<(), String>) {
        if self.busy.get(name) == Some(&Busy::PostStart) {
            self.busy.remove(name);
        }
        let Err(error) = result else { return };
        let current = matches!(self.record.containers.get(name).map(|seen| &seen.run), Some(Run::Running { id: running, .. }) if running == id);
        if !current {
            return;
        }
        tracing::debug!(container = name, error, "postStart hook failed");
        self.container_events(name).warning("FailedPostStartHook", "PostStartHook failed");
        let grace =
            self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        self.stop_container(name, seconds(grace), "FailedPostStartHook");
    }
}

fn ports(container: &Container) -> Vec<(String, u16)> {
    let all = container.ports.iter().flatten();
    all.filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?))).collect()
}

async fn run_pre_stop(
    hook: &LifecycleHandler,
    target: &Target,
    deadline: Deadline,
    events: &crate::events::Subject,
) {
    tokio::select! {
        result = handler::lifecycle(hook, target) => {
            if let Err(error) = result {
                tracing::debug!(error, "preStop hook failed");
                events.warning("FailedPreStopHook", "PreStopHook failed");
            }
        }
        () = passed(deadline) => {
            events.warning("FailedPreStopHook", "PreStopHook did not complete within the grace period");
        }
    }
}

/// Wait until the deadline, wherever it moves.
async fn passed(mut deadline: Deadline) {
    loop {
        let left = deadline.borrow_and_update().as_nanosecond() - clock::now().as_nanosecond();
        let left = Duration::from_nanos(u64::try_from(left.max(0)).unwrap_or(u64::MAX));
        tokio::select! {
            () = tokio::time::sleep(left) => return,
            // Without its owner the deadline moves no more.
            Ok(()) = deadline.changed() => {}
        }
    }
}

async fn kill(sandbox: &PodSandbox, id: &str, signal: i32, deadline: Deadline) {
    if let Err(error) = sandbox.signal_container(id, signal, false).await {
        tracing::debug!(%error, id, "stop signal");
    }
    let force = async {
        if passed_already(&deadline) {
            // A grace of zero is asked for by users who want it dead now.
            return;
        }
        passed(deadline.clone()).await;
    };
    tokio::select! {
        _ = sandbox.wait_container(id) => return,
        () = force => {}
    }
    if let Err(error) = sandbox.signal_container(id, nix::libc::SIGKILL, true).await {
        tracing::debug!(%error, id, "kill signal");
    }
    // A process that even SIGKILL does not end (stuck in the kernel) is left to the sandbox's removal.
    let _ = tokio::time::timeout(MINIMUM, sandbox.wait_container(id)).await;
}

fn passed_already(deadline: &Deadline) -> bool {
    *deadline.borrow() <= clock::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_seconds_is_too_large() {
        let now = clock::now();
        assert_eq!(later(now, 2), now + Duration::from_secs(2));
        assert_eq!((later(now, i64::MAX), later(Timestamp::MAX, 1)), (Timestamp::MAX, Timestamp::MAX));
        assert_eq!(later(now, -5), now);
    }
}
