//! `sampan why pod/NAME`: why a pod is where it is, or nowhere.
//!
//! The state of the cluster is read through the API and put to the very code that schedules, so the answer is about
//! things as they are now; what was decided before is told by the pod's conditions and events.

use std::{fmt::Write as _, path::Path, process::ExitCode};

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::{Api, ResourceExt, api::ListParams};
use sampan_planner::pods;
use sampan_planner::scheduler::{Budget, Cluster, Explanation, PodInfo};
use sampan_planner::selector::Selector;
use serde::Serialize;

use crate::{cli::Why, instance::Instance, local, terminal};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    pod: String,
    node: Option<String>,
    nominated_node: Option<String>,
    /// What the scheduler said last.
    conditions: Vec<String>,
    events: Vec<String>,
    nodes: usize,
    feasible: usize,
    fitting: Vec<Fitting>,
    refusals: Vec<Refusal>,
    closest: Option<Closest>,
    preemption: Option<String>,
}

#[derive(Serialize)]
struct Fitting {
    node: String,
    score: i64,
}

#[derive(Serialize)]
struct Refusal {
    reason: String,
    count: usize,
    nodes: Vec<String>,
    remedy: String,
}

#[derive(Serialize)]
struct Closest {
    node: String,
    lacks: Vec<String>,
}

pub(crate) async fn run(data_dir: &Path, options: Why) -> Result<ExitCode> {
    let name = match options.object.split_once('/') {
        Some(("pod" | "pods" | "po", name)) => name,
        None => &options.object,
        Some((kind, name)) => bail!("nothing is known about why of a {kind} (hint: sampan why pod/{name})"),
    };
    let instance = Instance::open(data_dir)?;
    let client = local::client(&instance)?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &options.namespace);
    let Some(pod) = pods.get_opt(name).await? else {
        bail!("there is no pod {name} in namespace {} (hint: -n NAMESPACE)", options.namespace);
    };
    let mut cluster = read(&client).await?;
    let uid = pods::uid(&pod.metadata).to_owned();
    cluster.remove_pod(&uid);
    let mut unbound = pod.clone();
    if let Some(spec) = &mut unbound.spec {
        spec.node_name = None;
    }
    let info = PodInfo::pending(&unbound);
    let explanation = cluster.explain(&info);
    let waits = pods::node_name(&pod).is_empty() && explanation.feasible == 0;
    let preemption = waits.then(|| match cluster.preempt(&info, 0) {
        Ok(plan) => {
            let victims: Vec<&str> = plan.victims.iter().map(|v| v.name()).collect();
            format!("would make {} leave {}", victims.join(", "), plan.node)
        }
        Err(refusal) => refusal,
    });
    let events = events(&client, &options.namespace, &uid).await?;
    let answer = answer(&pod, explanation, preemption, events);
    terminal::print(options.output.output, &answer, || text(&answer))?;
    Ok(ExitCode::SUCCESS)
}

async fn read(client: &kube::Client) -> Result<Cluster> {
    let all = ListParams::default();
    let mut cluster = Cluster::new();
    for namespace in Api::<Namespace>::all(client.clone()).list(&all).await? {
        cluster.set_namespace(&namespace.name_any(), Some(namespace.labels().clone()));
    }
    for node in Api::<Node>::all(client.clone()).list(&all).await? {
        cluster.upsert_node(&node);
    }
    for pod in Api::<Pod>::all(client.clone()).list(&all).await? {
        if pods::node_name(&pod).is_empty() {
            let info = PodInfo::pending(&pod);
            if let Some(node) = info.nominated().map(ToOwned::to_owned) {
                cluster.nominate(&info, &node);
            }
        } else {
            cluster.upsert_pod(&pod);
        }
    }
    let budgets = Api::<PodDisruptionBudget>::all(client.clone()).list(&all).await?;
    let budget = |b: &PodDisruptionBudget| Budget {
        namespace: b.namespace().unwrap_or_default(),
        selector: Selector::new(b.spec.as_ref().and_then(|s| s.selector.as_ref())),
        allowed: b.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0),
        disrupted: std::collections::HashSet::new(),
    };
    cluster.set_budgets(budgets.iter().map(budget).collect());
    Ok(cluster)
}

async fn events(client: &kube::Client, namespace: &str, uid: &str) -> Result<Vec<String>> {
    let about = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    let events = Api::<Event>::namespaced(client.clone(), namespace).list(&about).await?;
    let mut told: Vec<(String, String)> = Vec::new();
    for event in events {
        let reason = event.reason.unwrap_or_default();
        if matches!(reason.as_str(), "Scheduled" | "FailedScheduling" | "Preempted" | "TaintManagerEviction")
        {
            let when = event.last_timestamp.map(|t| t.0.to_string()).unwrap_or_default();
            told.push((when, format!("{reason}: {}", event.message.unwrap_or_default())));
        }
    }
    told.sort();
    Ok(told.into_iter().map(|(_, text)| text).collect())
}

fn answer(pod: &Pod, explanation: Explanation, preemption: Option<String>, events: Vec<String>) -> Answer {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let told = conditions
        .iter()
        .filter(|c| c.type_ == "DisruptionTarget" || (c.type_ == "PodScheduled" && c.status != "True"));
    let say = |c: &k8s_openapi::api::core::v1::PodCondition| {
        let (reason, message) =
            (c.reason.as_deref().unwrap_or_default(), c.message.as_deref().unwrap_or_default());
        format!("{}: {reason}: {message}", c.type_)
    };
    let node = pods::node_name(pod);
    Answer {
        pod: format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any()),
        node: (!node.is_empty()).then(|| node.to_owned()),
        nominated_node: status.and_then(|s| s.nominated_node_name.clone()).filter(|n| !n.is_empty()),
        conditions: told.map(say).collect(),
        events,
        nodes: explanation.nodes,
        feasible: explanation.feasible,
        fitting: explanation.fitting.into_iter().map(|(node, score)| Fitting { node, score }).collect(),
        refusals: explanation
            .refusals
            .into_iter()
            .map(|r| Refusal { reason: r.reason, count: r.count, nodes: r.nodes, remedy: r.remedy })
            .collect(),
        closest: explanation
            .closest
            .map(|c| Closest { node: c.node, lacks: c.shortages.iter().map(|s| s.words()).collect() }),
        preemption,
    }
}

fn text(answer: &Answer) -> String {
    let mut out = String::new();
    let mut line = |text: &str| {
        let _ = writeln!(out, "{text}");
    };
    match (&answer.node, &answer.nominated_node) {
        (Some(node), _) => line(&format!("{} is on {node}", answer.pod)),
        (None, Some(node)) => line(&format!("{} waits until others have left {node}", answer.pod)),
        (None, None) => line(&format!("{} is on no node", answer.pod)),
    }
    answer.conditions.iter().chain(&answer.events).for_each(|told| line(&format!("  {told}")));
    line(&format!("as things are now, {} of {} nodes can take it", answer.feasible, answer.nodes));
    for fitting in &answer.fitting {
        line(&format!("  {} (score {})", fitting.node, fitting.score));
    }
    for refusal in &answer.refusals {
        line(&format!("  {} {} ({})", refusal.count, refusal.reason, refusal.nodes.join(", ")));
        line(&format!("      to change that: {}", refusal.remedy));
    }
    if let Some(closest) = &answer.closest {
        line(&format!("closest is {}: {}", closest.node, closest.lacks.join("; ")));
    }
    if let Some(preemption) = &answer.preemption {
        line(&format!("preemption: {preemption}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_reason_remedy_and_the_closest_node() {
        let answer = Answer {
            pod: "default/p".into(),
            node: None,
            nominated_node: None,
            conditions: Vec::new(),
            events: vec!["FailedScheduling: 0/1 nodes are available".into()],
            nodes: 1,
            feasible: 0,
            fitting: Vec::new(),
            refusals: vec![Refusal {
                reason: "Insufficient cpu".into(),
                count: 1,
                nodes: vec!["a".into()],
                remedy: "ask for less".into(),
            }],
            closest: Some(Closest { node: "a".into(), lacks: vec!["cpu: asks 3".into()] }),
            preemption: None,
        };
        let want = "default/p is on no node\n  FailedScheduling: 0/1 nodes are available\nas things are now, 0 of 1 \
                    nodes can take it\n  1 Insufficient cpu (a)\n      to change that: ask for less\nclosest is a: cpu: \
                    asks 3\n";
        assert_eq!(text(&answer), want);
    }
}
