//! The pod status that the API shows, computed from the spec and the record. Pure.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::record::{ContainerRecord, PodRecord, Run, Termination};
use super::resize;
use super::spec::{self, Role};

/// Prefix of container ids in statuses.
pub const RUNTIME: &str = "sampan";

/// Compute the status of a pod now. `previous` is what the API server holds: its foreign conditions, transition
/// times and terminal phase are kept.
#[must_use]
pub fn compute(
    pod: &Pod,
    record: &PodRecord,
    previous: &PodStatus,
    host_ip: IpAddr,
    now: Timestamp,
) -> PodStatus {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let mut status = previous.clone();
    let has_init = spec.init_containers.as_ref().is_some_and(|list| !list.is_empty());
    let list = |wanted_init: bool| -> Vec<ContainerStatus> {
        spec::containers(spec)
            .filter(|(role, _)| (*role != Role::Main) == wanted_init)
            .map(|(role, container)| container_status(role, container, record, has_init))
            .collect()
    };
    let (init, main) = (list(true), list(false));
    let ephemeral: Vec<ContainerStatus> = spec::ephemerals(spec)
        .map(|container| container_status(Role::Ephemeral, &container, record, has_init))
        .collect();
    let phase = phase(spec, record, previous, &init, &main);
    status.init_container_statuses = has_init.then_some(init.clone());
    status.container_statuses = Some(main.clone());
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    status.phase = Some(phase.to_owned());
    if let Some((reason, message)) = &record.failed {
        status.reason = Some(reason.clone());
        status.message = Some(message.clone());
    }
    status.host_ip = Some(host_ip.to_string());
    status.host_ips = Some(vec![HostIP { ip: host_ip.to_string() }]);
    if let Some(ip) = record
        .ip
        .map(|ip| ip.to_string())
        .or_else(|| (spec.host_network == Some(true) && record.sandbox_ready).then(|| host_ip.to_string()))
    {
        status.pod_ips = Some(vec![PodIP { ip: ip.clone() }]);
        status.pod_ip = Some(ip);
    }
    status.start_time = record.start_time.map(time).or(status.start_time);
    status.qos_class = Some(previous.qos_class.clone().unwrap_or_else(|| spec::qos_class(spec).to_owned()));
    status.observed_generation = pod.metadata.generation;
    status.conditions = Some(conditions(pod, spec, record, previous, phase, (&init, &main), now));
    status
}

fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn container_id(id: &str) -> Option<String> {
    (!id.is_empty()).then(|| format!("{RUNTIME}://{id}"))
}

fn terminated(termination: &Termination) -> ContainerState {
    let terminated = ContainerStateTerminated {
        container_id: container_id(&termination.id),
        exit_code: termination.exit_code,
        signal: termination.signal,
        reason: Some(termination.reason.clone()),
        message: (!termination.message.is_empty()).then(|| termination.message.clone()),
        started_at: termination.started_at.or(Some(termination.finished_at)).map(time),
        finished_at: Some(time(termination.finished_at)),
    };
    ContainerState { terminated: Some(terminated), ..Default::default() }
}

fn container_status(
    role: Role,
    container: &Container,
    record: &PodRecord,
    has_init: bool,
) -> ContainerStatus {
    let unseen = ContainerRecord::default();
    let seen = record.containers.get(&container.name).unwrap_or(&unseen);
    let mut state = ContainerState::default();
    let mut last = seen.last.as_ref().map(terminated);
    let mut id = seen.last.as_ref().and_then(|last| container_id(&last.id));
    match (&seen.run, &seen.waiting) {
        (Run::Running { id: running, at }, _) => {
            id = container_id(running);
            state.running = Some(ContainerStateRunning { started_at: Some(time(*at)) });
        }
        (Run::Exited(termination), None) => {
            id = container_id(&termination.id);
            state = terminated(termination);
        }
        (run, waiting) => {
            if let Run::Exited(termination) = run {
                id = container_id(&termination.id);
                last = Some(terminated(termination));
            }
            let default = if has_init { "PodInitializing" } else { "ContainerCreating" };
            state.waiting = Some(ContainerStateWaiting {
                reason: Some(waiting.as_ref().map_or(default, |waiting| &waiting.reason).to_owned()),
                message: waiting
                    .as_ref()
                    .map(|waiting| waiting.message.clone())
                    .filter(|text| !text.is_empty()),
            });
        }
    }
    let done = seen.exited().is_some_and(|termination| termination.exit_code == 0);
    let ready = match role {
        Role::Init => done && seen.waiting.is_none(),
        Role::Sidecar | Role::Main => seen.is_running() && seen.ready,
        Role::Ephemeral => false,
    };
    let image =
        if seen.image.is_empty() { container.image.clone().unwrap_or_default() } else { seen.image.clone() };
    let given = record.allocated.get(&container.name).or(container.resources.as_ref());
    let given = given.cloned().unwrap_or_default();
    ContainerStatus {
        name: container.name.clone(),
        state: Some(state),
        last_state: Some(last.unwrap_or_default()),
        ready,
        restart_count: i32::try_from(seen.restarts()).unwrap_or(i32::MAX),
        image,
        image_id: seen.image_id.clone(),
        container_id: id,
        started: Some(seen.is_running() && (role == Role::Init || seen.started)),
        allocated_resources: given.requests.clone(),
        resources: Some(seen.applied.clone().filter(|_| seen.is_running()).unwrap_or(given)),
        ..Default::default()
    }
}

fn state_of(status: &ContainerStatus) -> (bool, Option<i32>, Option<i32>) {
    let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
    let code = |state: &Option<ContainerState>| {
        state.as_ref().and_then(|state| state.terminated.as_ref()).map(|terminated| terminated.exit_code)
    };
    (running, code(&status.state), code(&status.last_state))
}

fn phase(
    spec: &PodSpec,
    record: &PodRecord,
    previous: &PodStatus,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> &'static str {
    match previous.phase.as_deref() {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    if record.failed.is_some() {
        // The outcome is announced only once nothing runs any more.
        if record.finished || record.containers.values().all(|container| !container.is_running()) {
            return "Failed";
        }
    }
    let policy = spec::restart_policy(spec);
    let (mut pending_init, mut failed_init, mut sidecars) = (0, 0, 0);
    for (status, container) in init.iter().zip(spec.init_containers.iter().flatten()) {
        let (running, code, last) = state_of(status);
        if spec::init_role(container) == Role::Sidecar {
            if running && status.started == Some(true) {
                sidecars += 1;
            } else if code.is_none() && last.is_none() {
                pending_init += 1;
            }
        } else {
            match code.or(last) {
                Some(0) if code.is_some() => {}
                Some(other) if other != 0 => failed_init += 1,
                _ => pending_init += 1,
            }
        }
    }
    let (mut running, mut stopped, mut succeeded, mut waiting) = (0, 0, 0, 0);
    for status in main {
        match state_of(status) {
            (true, ..) => running += 1,
            (_, Some(code), _) => {
                stopped += 1;
                succeeded += usize::from(code == 0);
            }
            (_, None, Some(_)) => stopped += 1,
            _ => waiting += 1,
        }
    }
    if failed_init > 0 && policy == "Never" {
        return "Failed";
    }
    if record.finished && record.terminating {
        return if waiting == 0 && stopped == succeeded { "Succeeded" } else { "Failed" };
    }
    if pending_init > 0 || failed_init > 0 || waiting > 0 {
        return "Pending";
    }
    match (running, stopped) {
        (0, 0) => "Pending",
        (0, _) if policy == "Always" || (sidecars > 0 && !record.finished) => "Running",
        (0, stopped) if stopped == succeeded => "Succeeded",
        (0, _) if policy == "Never" => "Failed",
        _ => "Running",
    }
}

type Verdict<'a> = (bool, Option<&'a str>, Option<String>);

/// Conditions that are there only while they are true.
const RESIZES: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// What keeps the pod from having what it asks for.
fn resizes(record: &PodRecord) -> Vec<(&'static str, Verdict<'_>)> {
    let mut found = Vec::new();
    if let Some((reason, message)) = &record.resize_pending {
        found.push((RESIZES[0], (true, Some(reason.as_str()), Some(message.clone()))));
    }
    if resize::unfinished(record).next().is_some() {
        let error = record.resize_error.clone();
        found.push((RESIZES[1], (true, error.as_ref().map(|_| "Error"), error)));
    }
    found
}

fn conditions(
    pod: &Pod,
    spec: &PodSpec,
    record: &PodRecord,
    previous: &PodStatus,
    phase: &str,
    (init, main): (&[ContainerStatus], &[ContainerStatus]),
    now: Timestamp,
) -> Vec<PodCondition> {
    let containers_ready = containers_ready(spec, phase, init, main);
    let wanted: [(&str, Verdict<'_>); 5] = [
        ("PodReadyToStartContainers", (record.sandbox_ready, None, None)),
        ("Initialized", initialized(spec, phase, init, main)),
        ("Ready", ready(spec, previous, &containers_ready)),
        ("ContainersReady", containers_ready),
        ("PodScheduled", (true, None, None)),
    ];
    let mut conditions = previous.conditions.clone().unwrap_or_default();
    let resizes = resizes(record);
    conditions.retain(|condition| {
        !RESIZES.contains(&condition.type_.as_str())
            || resizes.iter().any(|(kind, _)| *kind == condition.type_)
    });
    for (kind, (on, reason, message)) in wanted.into_iter().chain(resizes) {
        let text = if on { "True" } else { "False" };
        let found = conditions.iter().position(|condition| condition.type_ == kind);
        let since = found
            .map(|index| &conditions[index])
            .filter(|condition| condition.status == text)
            .and_then(|condition| condition.last_transition_time.clone());
        let condition = PodCondition {
            type_: kind.to_owned(),
            status: text.to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_transition_time: since.or_else(|| Some(time(now))),
            last_probe_time: None,
            observed_generation: pod.metadata.generation,
        };
        match found {
            Some(index) => conditions[index] = condition,
            None => conditions.push(condition),
        }
    }
    conditions
}

fn initialized(
    spec: &PodSpec,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> Verdict<'static> {
    if phase == "Succeeded" {
        return (true, Some("PodCompleted"), None);
    }
    if main.iter().any(|status| status.started == Some(true) || status.restart_count > 0) {
        return (true, None, None);
    }
    let incomplete: Vec<&str> = init
        .iter()
        .zip(spec.init_containers.iter().flatten())
        .filter(|(status, container)| match spec::init_role(container) {
            Role::Sidecar => status.started != Some(true),
            _ => !status.ready,
        })
        .map(|(status, _)| status.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return (true, None, None);
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    (false, Some("ContainersNotInitialized"), Some(message))
}

fn containers_ready(
    spec: &PodSpec,
    phase: &str,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
) -> Verdict<'static> {
    match phase {
        "Succeeded" => return (false, Some("PodCompleted"), None),
        "Failed" => return (false, Some("PodFailed"), None),
        _ => {}
    }
    let sidecars = init
        .iter()
        .zip(spec.init_containers.iter().flatten())
        .filter(|(_, container)| spec::init_role(container) == Role::Sidecar)
        .map(|(status, _)| status);
    let unready: Vec<&str> =
        sidecars.chain(main).filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    if unready.is_empty() {
        return (true, None, None);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    (false, Some("ContainersNotReady"), Some(message))
}

fn ready(spec: &PodSpec, previous: &PodStatus, containers: &Verdict<'static>) -> Verdict<'static> {
    if !containers.0 {
        return containers.clone();
    }
    let mut unmet = Vec::new();
    for gate in spec.readiness_gates.iter().flatten() {
        let kind = &gate.condition_type;
        match previous.conditions.iter().flatten().find(|condition| condition.type_ == *kind) {
            None => unmet
                .push(format!("corresponding condition of pod readiness gate \"{kind}\" does not exist.")),
            Some(condition) if condition.status != "True" => unmet.push(format!(
                "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                condition.status
            )),
            Some(_) => {}
        }
    }
    if unmet.is_empty() {
        (true, None, None)
    } else {
        (false, Some("ReadinessGatesNotReady"), Some(unmet.join(", ")))
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
