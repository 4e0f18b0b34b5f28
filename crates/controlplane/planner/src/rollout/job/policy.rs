//! What a failed pod means by the podFailurePolicy, and when the successPolicy is met.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicy,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::pods;
use crate::rollout::indexes::Indexes;

/// What the first rule that matches says of a failed pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It counts towards the back-off limits: so says a rule, or none says anything.
    Count,
    /// It does not count.
    Ignore,
    /// It counts, and its index has failed for good.
    FailIndex,
    /// The whole Job has failed, with this message.
    FailJob(String),
}

impl Ruling {
    pub(super) fn counts(&self) -> bool {
        *self != Self::Ignore
    }
}

/// Judges a failed pod by a policy.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Ruling {
    let rules = policy.into_iter().flat_map(|p| &p.rules).enumerate();
    let mut matching = rules.filter_map(|(at, rule)| ruling(at, rule, pod));
    matching.next().unwrap_or(Ruling::Count)
}

fn ruling(at: usize, rule: &PodFailurePolicyRule, pod: &Pod) -> Option<Ruling> {
    let name =
        format!("{}/{}", pod.metadata.namespace.as_deref().unwrap_or_default(), pods::name(&pod.metadata));
    let action = rule.action.as_str();
    let message = if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = matching_container(codes, pod)?;
        format!(
            "Container {container} for pod {name} failed with exit code {code} matching {action} rule at index {at}"
        )
    } else {
        let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
        let mut conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let found = conditions.find(|c| {
            patterns.iter().any(|p| p.type_ == c.type_ && p.status.as_deref().unwrap_or("True") == c.status)
        })?;
        format!("Pod {name} has condition {} matching {action} rule at index {at}", found.type_)
    };
    match action {
        "Ignore" => Some(Ruling::Ignore),
        "Count" => Some(Ruling::Count),
        "FailIndex" => Some(Ruling::FailIndex),
        "FailJob" => Some(Ruling::FailJob(message)),
        _ => None,
    }
}

/// The first container, those of the init phase last, that ended with a code that matches.
fn matching_container<'a>(
    wanted: &PodFailurePolicyOnExitCodesRequirement,
    pod: &'a Pod,
) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let all = [&status.container_statuses, &status.init_container_statuses].into_iter().flatten().flatten();
    let ended = all.filter_map(|c: &ContainerStatus| {
        let code = c.state.as_ref()?.terminated.as_ref()?.exit_code;
        Some((c.name.as_str(), code))
    });
    let mut failed = ended.filter(|(name, code)| {
        let listed = wanted.values.contains(code);
        let matches = match wanted.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        *code != 0 && matches && wanted.container_name.as_deref().is_none_or(|wanted| wanted == *name)
    });
    failed.next()
}

/// The message of the first rule of a successPolicy that the completed indexes satisfy.
pub(super) fn success(
    policy: Option<&SuccessPolicy>,
    completions: i32,
    completed: &Indexes,
) -> Option<String> {
    let policy = policy.filter(|_| !completed.is_empty())?;
    let met = policy.rules.iter().position(|rule| match &rule.succeeded_indexes {
        Some(text) => {
            let wanted = Indexes::parse(text, completions);
            let have = wanted.common(completed);
            !wanted.is_empty()
                && (have == wanted.total() || rule.succeeded_count.is_some_and(|count| have >= count))
        }
        None => rule.succeeded_count.is_some_and(|count| completed.total() >= count),
    });
    met.map(|at| format!("Matched rules at index {at}"))
}
