//! `ValidatingAdmissionPolicy` and `MutatingAdmissionPolicy`: rules that users write in CEL.
//!
//! Policies and bindings are compiled when they change ([`compile`]): a request pays for what matches it. What an
//! expression may cost is bounded, for one call and for all of a binding; see [`sampan_cel::limits`].

mod compile;
mod conditions;
mod input;
mod matching;
mod mutation;
mod params;
mod rules;
pub(crate) mod typecheck;
mod validation;

use std::sync::Arc;

use sampan_api::status::Status;
use sampan_store::KeyValue;
use serde_json::Value;

pub(crate) use self::{
    compile::{Binding, Policy},
    conditions::Conditions,
    mutation::Progress,
    rules::compile_errors,
};
use super::Review;
use crate::{core::Core, mirror::Mirror};

/// Policies and bindings of both kinds.
pub(crate) struct Policies {
    pub(crate) validating: Arc<Mirror<Policy>>,
    pub(crate) validating_bindings: Arc<Mirror<Binding>>,
    pub(crate) mutating: Arc<Mirror<Policy>>,
    pub(crate) mutating_bindings: Arc<Mirror<Binding>>,
}

/// Which of the two kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Validating,
    Mutating,
}

/// The group of the policies.
const GROUP: &str = "admissionregistration.k8s.io";
/// Resources that no policy sees: a bad policy has to stay reparable.
const EXEMPT: [&str; 6] = [
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
    "mutatingwebhookconfigurations",
];

fn is_exempt(review: &Review<'_>) -> bool {
    review.resource.group == GROUP && EXEMPT.contains(&review.resource.plural)
}

/// Reads a stored policy.
pub(crate) fn parse(kind: Kind) -> impl Fn(&KeyValue) -> Option<Policy> + Send + Sync + 'static {
    move |kv| {
        let object: Value = serde_json::from_slice(&kv.value).ok()?;
        Some(Policy::compile(kind, &object))
    }
}

/// Reads a stored binding.
pub(crate) fn parse_binding(kv: &KeyValue) -> Option<Binding> {
    Binding::parse(&serde_json::from_slice(&kv.value).ok()?)
}

/// Applies the mutating policies that match; in the second round those that ask for it.
pub(crate) async fn mutate(core: &Arc<Core>, review: &mut Review<'_>, round: usize) -> Result<(), Status> {
    let Some(state) = core.admission.get().filter(|_| !is_exempt(review)) else { return Ok(()) };
    let policies = &state.policies;
    policies.mutating.settle().await;
    policies.mutating_bindings.settle().await;
    let (found, bindings) = (policies.mutating.objects(), policies.mutating_bindings.objects());
    if found.is_empty() || bindings.is_empty() || review.object.is_null() {
        return Ok(());
    }
    mutation::run(core, review, &found, &bindings, round).await
}

/// Asks the validating policies that match.
pub(crate) async fn validate(core: &Arc<Core>, review: &mut Review<'_>) -> Result<(), Status> {
    let Some(state) = core.admission.get().filter(|_| !is_exempt(review)) else { return Ok(()) };
    let policies = &state.policies;
    policies.validating.settle().await;
    policies.validating_bindings.settle().await;
    let (found, bindings) = (policies.validating.objects(), policies.validating_bindings.objects());
    if found.is_empty() || bindings.is_empty() {
        return Ok(());
    }
    validation::run(core, review, &found, &bindings).await
}
