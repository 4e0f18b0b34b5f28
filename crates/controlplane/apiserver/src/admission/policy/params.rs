//! The parameters of a binding.

use std::sync::Arc;

use sampan_api::{kinds, selector::LabelSelector};
use sampan_store::{Range, prefix_end};
use serde_json::Value;

use super::{
    Review,
    compile::{Binding, Policy},
};
use crate::{core::Core, encode};

/// Parameters that a selector may find for one request; more are not looked at.
const MOST: usize = 1000;

/// Every parameter to evaluate the policy with; one that is nothing where there are none to have.
///
/// # Errors
/// A sentence: what is wrong with the configuration.
pub(super) async fn collect(
    core: &Arc<Core>,
    review: &Review<'_>,
    policy: &Policy,
    binding: &Binding,
) -> Result<Vec<Option<Value>>, String> {
    let (Some((api_version, kind)), Some(reference)) = (&policy.params, &binding.params) else {
        return Ok(vec![None]);
    };
    let (group, version) = kinds::split_api_version(api_version);
    let served = core.endpoints.served();
    let Some(endpoint) = served.of_kind(group, version, kind).cloned() else {
        return Err(format!(
            "paramKind kind `&ParamKind{{APIVersion:{api_version},Kind:{kind},}}` not known"
        ));
    };
    let namespace = if endpoint.resource.namespaced {
        let namespace = match reference.namespace.as_str() {
            "" => review.namespace().unwrap_or_default(),
            namespace => namespace,
        };
        if namespace.is_empty() {
            let why =
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(why.to_owned());
        }
        Some(namespace)
    } else if reference.namespace.is_empty() {
        None
    } else {
        return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
    };
    let told = |status: sampan_api::status::Status| status.message;
    let mut found = Vec::new();
    if let Some(selector) = &reference.selector {
        let selector = LabelSelector::from_object(selector).map_err(told)?;
        let scope = endpoint.scope(namespace);
        let range = Range { end: prefix_end(&scope), start: scope, ..Range::default() };
        let stored = core.store().range(range).await.map_err(|error| error.to_string())?;
        for kv in stored.kvs.iter().take(MOST) {
            let object = encode::parse(&endpoint, &kv.value, kv.mod_revision).map_err(told)?;
            if selector.matches_object(&object) {
                found.push(Some(object));
            }
        }
    } else if !reference.name.is_empty() {
        if let Some(kv) = core.fetch(&endpoint, namespace, &reference.name).await.map_err(told)? {
            found.push(Some(encode::parse(&endpoint, &kv.value, kv.mod_revision).map_err(told)?));
        }
    } else {
        return Err("one of name or selector must be provided".to_owned());
    }
    if found.is_empty() && reference.deny {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}
