//! Giving a running pod more or less CPU and memory.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, ResourceRequirements};
use sampan_container::{PodSandbox, Resources};
use sampan_planner::numa::Holding;

use super::{Done, Retry, Stage, Worker, stop};
use crate::context::View;
use crate::pod::record::{PodLimits, Run};
use crate::pod::{resize, security, spec};

/// A container's id and what it is to have: as the pod says it, and as its cgroup takes it.
struct Update {
    name: String,
    id: String,
    resources: ResourceRequirements,
    limits: Resources,
}

/// What became of it: the containers that have what they were given, with their ids, the pod's limits if they were
/// set, and what went wrong.
pub struct Resized {
    done: Vec<(String, String, ResourceRequirements)>,
    limits: Option<PodLimits>,
    error: Option<String>,
}

impl Worker {
    /// The pod with what it was given, which is what it starts with.
    pub(super) fn allocated_pod(&self) -> Arc<Pod> {
        resize::allocated(&self.pod, &self.record.allocated).map_or_else(|| self.pod.clone(), Arc::new)
    }

    /// Take what the pod asks for now, when there is room, and bring its containers there.
    pub(super) fn decide_resize(&mut self, spec: &PodSpec, now: Timestamp) {
        self.allocate(spec);
        let unfinished: Vec<String> = resize::unfinished(&self.record).map(str::to_owned).collect();
        if unfinished.is_empty() && self.record.limits == PodLimits::Settled {
            self.record.resize_error = None;
            return;
        }
        if self.resize_stage == Stage::Doing {
            return;
        }
        if let Err(at) = self.resize_retry.due(now) {
            self.wake_at(at);
            return;
        }
        let mut updates = Vec::new();
        for name in &unfinished {
            let Some((_, container)) = spec::container(spec, name) else { continue };
            let given = self.record.allocated.get(name).cloned().unwrap_or_default();
            let Some(seen) = self.record.containers.get_mut(name) else { continue };
            let (Run::Running { id, .. }, Some(applied)) = (&seen.run, &seen.applied) else { continue };
            if resize::restarts(container, applied, &given) {
                let grace = spec.termination_grace_period_seconds.unwrap_or(30);
                if !self.busy.contains_key(name) {
                    seen.resizing = true;
                    let why = format!("Container {name} resize requires restart");
                    self.stop_container(name, stop::seconds(grace), &why);
                }
                continue;
            }
            let (id, mut limits) = (id.clone(), security::resources(Some(&given)));
            if self.has_cpus(name) {
                limits.cpu_quota = Some(-1);
            }
            updates.push(Update { name: name.clone(), id, resources: given, limits });
        }
        // Those that start anew need the room before, and have what they had until then.
        let is_last = updates.len() == unfinished.len();
        let wanted = if is_last { PodLimits::Settled } else { PodLimits::Raised };
        let nothing = updates.is_empty() && self.record.limits == wanted;
        let Some(sandbox) = self.sandbox.clone().filter(|_| !nothing) else { return };
        self.resize_stage = Stage::Doing;
        let (during, after) = self.pod_limits(spec);
        let limits = (during, is_last.then_some(after));
        self.ops.push(Box::pin(
            async move { Done::Resized(Box::new(carry_out(sandbox, updates, limits).await)) },
        ));
    }

    /// The pod's limits while its containers change, and afterwards.
    fn pod_limits(&self, spec: &PodSpec) -> (Resources, Resources) {
        let of = |applied: bool| {
            let mut spec = spec.clone();
            for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
                let seen = self.record.containers.get(&container.name).and_then(|seen| seen.applied.as_ref());
                let given = self.record.allocated.get(&container.name);
                container.resources = if applied { seen.or(given) } else { given }.cloned();
            }
            let mut limits = security::pod_resources(&spec);
            if !self.record.zones.cpus.is_empty() {
                limits.cpu_quota = Some(-1);
            }
            limits
        };
        let (before, after) = (of(true), of(false));
        // A pod that had no limit gets one only when its containers have theirs.
        let larger = |after: Option<i64>, before: Option<i64>| Some(after?.max(before?));
        let during = Resources {
            cpu_quota: larger(after.cpu_quota, before.cpu_quota),
            memory_limit: larger(after.memory_limit, before.memory_limit),
            ..after.clone()
        };
        (during, after)
    }

    /// What else was admitted to this node and has not ended.
    fn others(&self) -> impl Iterator<Item = View> {
        let uid = spec::uid(&self.pod);
        let entries = self.ctx.pods.all().into_iter().filter(move |entry| entry.uid != uid && !entry.gone);
        let views = entries.map(|entry| entry.view.borrow().clone());
        views.filter(|view| {
            !view.record.finished && !view.record.allocated.is_empty() && !spec::is_terminal(&view.pod)
        })
    }

    fn allocate(&mut self, spec: &PodSpec) {
        if resize::has_all(spec, &self.record.allocated) {
            self.record.resize_pending = None;
            return;
        }
        let wanted = resize::wanted(spec);
        let ctx = self.ctx.clone();
        // One pod of the node after the other: each sees what the one before was given.
        let mut waiting = ctx.resizes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let views: Vec<_> = self.others().collect();
        let others: Vec<_> =
            views.iter().filter_map(|view| Some((view.pod.spec.as_ref()?, &view.record.allocated))).collect();
        if self.record.allocated.is_empty() {
            let is_new = self.record.containers.values().all(|seen| seen.runs == 0);
            let admitted = if is_new { resize::admit(spec, &ctx.allocatable, &others) } else { Ok(()) };
            let held = admitted.and_then(|()| self.hold(spec));
            match held {
                Ok(held) => (self.record.allocated, self.record.zones) = (wanted, held),
                Err((reason, message)) => {
                    self.events.warning(reason, message.clone());
                    self.record.failed = Some((reason.to_owned(), message));
                }
            }
            self.show_record();
            return;
        }
        let others = |resource: &str| {
            let requests = others.iter().map(|(spec, given)| resize::request(spec, given, resource));
            requests.fold(0, i64::saturating_add)
        };
        let fits = resize::fits(spec, &self.record.allocated, &ctx.allocatable, others);
        match fits.and_then(|()| self.hold_otherwise(spec)) {
            Ok(held) => {
                (self.record.allocated, self.record.zones) = (wanted, held);
                self.record.limits = PodLimits::Due;
                self.record.resize_pending = None;
                self.record.resize_error = None;
                self.resize_retry = Retry::new(Duration::from_secs(60));
                self.events.normal("ResizeStarted", "Pod resize started");
                self.show_record();
                // It may have less of something now.
                ctx.room_freed(&mut waiting);
            }
            Err((reason, message)) => {
                let pending = Some((reason.to_owned(), message.clone()));
                if self.record.resize_pending != pending {
                    self.events.warning(
                        if reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" },
                        message,
                    );
                    self.record.resize_pending = pending;
                }
                if reason == "Deferred" {
                    waiting.insert(self.record.uid.clone());
                }
            }
        }
    }

    /// What a pod that is new here holds of the machine's zones, unless its policy refuses it.
    fn hold(&self, spec: &PodSpec) -> Result<Holding, resize::Refusal> {
        let held = self.ctx.zones.hold(&self.record.uid, spec);
        held.map_err(|refusal| (refusal.reason(), refusal.to_string()))
    }

    /// What it holds when it asks for something else.
    fn hold_otherwise(&self, spec: &PodSpec) -> Result<Holding, resize::Refusal> {
        let held = self.ctx.zones.hold(&self.record.uid, spec);
        held.map_err(|refusal| {
            let reason = if self.ctx.zones.could_hold(spec) { "Deferred" } else { "Infeasible" };
            (reason, refusal.to_string())
        })
    }

    pub(super) fn resized(&mut self, resized: Resized, now: Timestamp) {
        self.resize_stage = Stage::Todo;
        self.record.limits = resized.limits.unwrap_or(self.record.limits);
        for (name, id, resources) in resized.done {
            let Some(seen) = self.record.containers.get_mut(&name) else { continue };
            if matches!(&seen.run, Run::Running { id: running, .. } if *running == id) {
                seen.applied = Some(resources);
            }
        }
        match resized.error {
            Some(error) => {
                self.resize_retry.fail(now);
                if self.record.resize_error.as_ref() != Some(&error) {
                    self.events.warning("ResizeError", error.clone());
                    self.record.resize_error = Some(error);
                }
            }
            None if self.record.limits == PodLimits::Settled
                && resize::unfinished(&self.record).next().is_none() =>
            {
                self.record.resize_error = None;
                self.events.normal("ResizeCompleted", "Pod resize completed");
            }
            None => {}
        }
    }
}

async fn carry_out(
    sandbox: PodSandbox,
    updates: Vec<Update>,
    (during, after): (Resources, Option<Resources>),
) -> Resized {
    let mut resized = Resized { done: Vec::new(), limits: None, error: None };
    let result = async {
        sandbox.update(&during)?;
        resized.limits = Some(PodLimits::Raised);
        for update in updates {
            let used = sandbox.container_stats(&update.id)?.memory_usage_bytes;
            let wanted = update.limits.memory_limit.and_then(|limit| u64::try_from(limit).ok());
            // Version 2 would kill the container, which nobody asked for.
            if let Some(limit) = wanted.filter(|limit| *limit < used) {
                return Ok(Some(format!(
                    "attempting to set the memory limit of container {} ({limit}) below what it uses ({used})",
                    update.name
                )));
            }
            sandbox.update_container(&update.id, update.limits).await?;
            resized.done.push((update.name, update.id, update.resources));
        }
        if let Some(after) = after {
            sandbox.update(&after)?;
            resized.limits = Some(PodLimits::Settled);
        }
        Ok::<_, sampan_container::Error>(None)
    };
    let error = result.await.unwrap_or_else(|error| Some(error.to_string()));
    resized.error = error;
    resized
}
