//! The cells of a Pod: its many states in one word.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{age, condition, list, name, number, or, text};
use super::duration;

/// What is gathered while going through the container statuses.
#[derive(Default)]
struct Summary {
    ready: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
    reason: String,
}

impl Summary {
    fn count_restarts(&mut self, status: &Value) {
        self.restarts += number(status, "/restartCount");
        let ended = text(status, "/lastState/terminated/finishedAt").parse::<Timestamp>().ok();
        self.last_restart = self.last_restart.max(ended);
    }
}

pub(super) fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let inits = list(pod, "/spec/initContainers");
    let total = list(pod, "/spec/containers").len() + inits.iter().filter(|c| is_sidecar(c)).count();
    let summary = summarize(pod);
    let phase = text(pod, "/status/phase");
    let going = pod.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null());
    let status = if going && text(pod, "/status/reason") == "NodeLost" {
        "Unknown".to_owned()
    } else if going && !matches!(phase, "Succeeded" | "Failed") {
        "Terminating".to_owned()
    } else {
        summary.reason
    };
    let ago = summary.last_restart.and_then(|at| duration::between(at, now));
    let restarts = match (summary.restarts, ago) {
        (0, _) | (_, None) => summary.restarts.to_string(),
        (restarts, Some(ago)) => format!("{restarts} ({ago} ago)"),
    };
    vec![
        name(pod),
        format!("{}/{total}", summary.ready).into(),
        status.into(),
        restarts.into(),
        age(pod, now),
        or(text(pod, "/status/podIPs/0/ip"), "<none>").into(),
        or(text(pod, "/spec/nodeName"), "<none>").into(),
        or(text(pod, "/status/nominatedNodeName"), "<none>").into(),
        gates(pod).into(),
    ]
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn summarize(pod: &Value) -> Summary {
    let reason = or(text(pod, "/status/reason"), text(pod, "/status/phase"));
    let gated = list(pod, "/status/conditions")
        .iter()
        .any(|c| text(c, "/type") == "PodScheduled" && text(c, "/reason") == "SchedulingGated");
    let reason = if gated { "SchedulingGated" } else { reason };
    let mut summary = Summary { reason: reason.to_owned(), ..Summary::default() };
    let mut sidecars = Summary::default();
    let initializing = init_containers(pod, &mut summary, &mut sidecars);
    if !initializing || condition(pod, "Initialized") {
        summary.restarts = sidecars.restarts;
        summary.last_restart = sidecars.last_restart;
        containers(pod, &mut summary);
    }
    summary
}

/// Goes through the init containers in order up to the first that has not done its part; true when there is one.
fn init_containers(pod: &Value, summary: &mut Summary, sidecars: &mut Summary) -> bool {
    let inits = list(pod, "/spec/initContainers");
    for (i, status) in list(pod, "/status/initContainerStatuses").iter().enumerate() {
        let sidecar = inits.iter().any(|c| text(c, "/name") == text(status, "/name") && is_sidecar(c));
        summary.count_restarts(status);
        if sidecar {
            sidecars.count_restarts(status);
        }
        let ended = status.pointer("/state/terminated").filter(|t| t.is_object());
        if ended.is_some_and(|t| number(t, "/exitCode") == 0) {
            continue;
        }
        if sidecar && status.get("started").and_then(Value::as_bool) == Some(true) {
            if status.get("ready").and_then(Value::as_bool) == Some(true) {
                summary.ready += 1;
            }
            continue;
        }
        let waiting = text(status, "/state/waiting/reason");
        summary.reason = match ended {
            Some(ended) => format!("Init:{}", ending(ended)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            None => format!("Init:{i}/{}", inits.len()),
        };
        return true;
    }
    false
}

/// How a container ended: its reason, else its signal, else its exit code.
fn ending(terminated: &Value) -> String {
    match (text(terminated, "/reason"), number(terminated, "/signal")) {
        ("", 0) => format!("ExitCode:{}", number(terminated, "/exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn containers(pod: &Value, summary: &mut Summary) {
    let mut running = false;
    let mut error = String::new();
    for status in list(pod, "/status/containerStatuses").iter().rev() {
        summary.count_restarts(status);
        let waiting = text(status, "/state/waiting/reason");
        let ready = status.get("ready").and_then(Value::as_bool) == Some(true);
        if !waiting.is_empty() {
            waiting.clone_into(&mut summary.reason);
        } else if let Some(ended) = status.pointer("/state/terminated").filter(|t| t.is_object()) {
            summary.reason = ending(ended);
            if number(ended, "/exitCode") != 0 {
                error.clone_from(&summary.reason);
            }
        } else if ready && status.pointer("/state/running").is_some_and(Value::is_object) {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" {
        if running && condition(pod, "Ready") {
            "Running".clone_into(&mut summary.reason);
        } else if !error.is_empty() {
            summary.reason = error;
        } else if running {
            "NotReady".clone_into(&mut summary.reason);
        }
    }
}

fn gates(pod: &Value) -> String {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| condition(pod, text(gate, "/conditionType"))).count();
    format!("{open}/{}", gates.len())
}
