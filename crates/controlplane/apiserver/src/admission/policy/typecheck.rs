//! What validating policies say of types: expressions are compiled against the schemas of the kinds that a policy
//! matches, and what does not fit is noted in its status. A policy works as it is all the same.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use sampan_api::{kinds, status::Status};
use sampan_cel::{Declared, Environment, Program};
use sampan_daemon::{Backoff, Policy as Restart};
use serde_json::{Value, json};

use super::{
    GROUP,
    compile::{Compiler, items, typed},
};
use crate::{
    bootstrap::Client, call::text, core::Core, encode, endpoint::Served, local::LocalService, user::UserInfo,
};

/// Kinds that a policy is checked against at most.
const MOST_KINDS: usize = 10;

const PLURAL: &str = "validatingadmissionpolicies";

type Gvk = (String, String, String);

/// Checks policies when their specs change, for as long as the server runs.
pub(crate) fn start(core: &Arc<Core>) {
    let policy = Restart::Restart(Backoff::new(Duration::from_millis(100), Duration::from_secs(30)));
    let task = core.clone();
    core.supervisor.supervise("policy-types", policy, move || {
        let core = task.clone();
        async move {
            let Some(state) = core.admission.get() else { return Ok(()) };
            let mirror = &state.policies.validating;
            let mut changes = mirror.changes();
            changes.mark_changed();
            while changes.changed().await.is_ok() {
                for policy in mirror.objects().values() {
                    let (generation, observed) = policy.generations;
                    if generation > observed {
                        note(&core, &policy.name).await?;
                    }
                }
            }
            Ok::<(), Status>(())
        }
    });
}

/// Writes into the status what is found; who changes the policy meanwhile has it looked at again.
async fn note(core: &Arc<Core>, name: &str) -> Result<(), Status> {
    let endpoint = core.endpoint(GROUP, "v1", PLURAL)?;
    let Some(kv) = core.fetch(&endpoint, None, name).await? else { return Ok(()) };
    let policy = encode::parse(&endpoint, &kv.value, kv.mod_revision)?;
    let warnings = warnings(&core.endpoints.served(), &policy["spec"]);
    // Null takes away what an earlier spec earned.
    let warnings = if warnings.is_empty() { Value::Null } else { warnings.into() };
    let checking = json!({"expressionWarnings": warnings});
    let patch = json!({
        "metadata": {"resourceVersion": kv.mod_revision.to_string()},
        "status": {"observedGeneration": policy["metadata"]["generation"], "typeChecking": checking},
    });
    let path =
        format!("/apis/{GROUP}/v1/{PLURAL}/{name}/status?fieldManager=validatingadmissionpolicy-status");
    let client = Client::new(LocalService::new(core.clone(), UserInfo::admin("system:apiserver")));
    match client.send("PATCH", &path, &patch).await {
        Err(status) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(drop),
    }
}

/// What does not fit the kinds that the policy matches, by expression.
fn warnings(served: &Served, spec: &Value) -> Vec<Value> {
    let params = spec.get("paramKind").filter(|kind| kind.is_object()).map(|kind| {
        let (group, version) = kinds::split_api_version(text(kind, "/apiVersion"));
        declared(served, group, version, text(kind, "/kind")).unwrap_or_else(Declared::dynamic)
    });
    let matched = matched(served, spec);
    let environments: Vec<(String, Arc<Environment>)> = matched
        .iter()
        .filter_map(|(group, version, kind)| {
            let object = declared(served, group, version, kind)?;
            let mut compiler = Compiler::new(typed(object, params.clone()).share());
            // What is wrong with variables shows where they are used.
            compiler.variables(spec);
            Some((format!("{group}/{version}, Kind={kind}"), compiler.environment))
        })
        .collect();
    let mut warnings = Vec::new();
    for (index, validation) in items(spec, "validations").iter().enumerate() {
        for key in ["expression", "messageExpression"] {
            let expression = text(validation, &format!("/{key}"));
            if expression.is_empty() {
                continue;
            }
            let issues: Vec<String> = environments
                .iter()
                .filter_map(|(kind, environment)| {
                    let error = Program::compile(environment, expression, &[]).err()?;
                    Some(format!("{kind}: {error}\n"))
                })
                .collect();
            if !issues.is_empty() {
                let field = format!("spec.validations[{index}].{key}");
                warnings.push(json!({"fieldRef": field, "warning": issues.join("\n")}));
            }
        }
    }
    warnings
}

/// The kinds that the rules name, in their order; nothing for rules with wildcards.
fn matched(served: &Served, spec: &Value) -> BTreeSet<Gvk> {
    let mut found = BTreeSet::new();
    for rule in items(&spec["matchConstraints"], "resourceRules") {
        let texts = |key: &str| items(rule, key).iter().filter_map(Value::as_str).collect::<Vec<_>>();
        let (groups, versions) = (texts("apiGroups"), texts("apiVersions"));
        if groups.iter().chain(&versions).any(|name| name.contains('*')) {
            continue;
        }
        let resources = texts("resources");
        let resources: Vec<&&str> = resources.iter().filter(|name| !name.contains(['*', '/'])).collect();
        let all = groups.iter().flat_map(|group| versions.iter().map(move |version| (group, version)));
        for (group, version) in all {
            for plural in &resources {
                let Some(endpoint) = served.get(group, version, plural) else { continue };
                found.insert(((*group).to_owned(), (*version).to_owned(), endpoint.resource.kind.to_owned()));
                if found.len() == MOST_KINDS {
                    return found;
                }
            }
        }
    }
    found
}

/// The type of a kind's objects, by its OpenAPI schema.
fn declared(served: &Served, group: &str, version: &str, kind: &str) -> Option<Declared> {
    let path = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
    let document: Value = serde_json::from_slice(&served.openapi_v3(&path)?.bytes).ok()?;
    let schemas = document.pointer("/components/schemas")?.as_object()?;
    let own = |schema: &&Value| {
        let kinds = items(schema, "x-kubernetes-group-version-kind");
        let same = |of: &Value| {
            text(of, "/group") == group && text(of, "/version") == version && text(of, "/kind") == kind
        };
        kinds.iter().any(same)
    };
    let schema = schemas.values().find(own)?;
    let find = |reference: &str| schemas.get(reference.strip_prefix("#/components/schemas/")?);
    Declared::resolve(kind, schema, true, &find)
}
