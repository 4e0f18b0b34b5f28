//! What the expressions of a policy see of a request.

use std::{borrow::Cow, sync::Arc};

use sampan_api::{kinds::Resource, status::Status};
use sampan_cel::{Bindings, Check, Decision, Environment, EvalError, Program, ServiceAccount, limits};
use serde_json::{Map, Value, json};

use super::{Review, compile::Policy, matching::Matched};
use crate::{
    admission::webhook::{convert_to, options},
    authz::Attributes,
    core::Core,
    request::Target,
    user::UserInfo,
};

/// A request as one policy sees it.
pub(super) struct Input<'r> {
    pub(super) object: Cow<'r, Value>,
    old: Cow<'r, Value>,
    request: Value,
    namespace: Value,
    check: [String; 5],
}

static NULL: Value = Value::Null;

/// An object in the form that a policy matched.
pub(super) fn shown<'v>(matched: &Matched, review: &Review<'_>, object: &'v Value) -> Cow<'v, Value> {
    if object.is_null() || std::ptr::eq(matched.resource, review.resource) {
        return Cow::Borrowed(object);
    }
    Cow::Owned(convert_to(review.resource, matched.resource, matched.kind, object.clone()))
}

impl<'r> Input<'r> {
    pub(super) fn new(
        review: &Review<'_>,
        matched: &Matched,
        object: &'r Value,
        old: Option<&'r Value>,
        namespace: &Value,
    ) -> Self {
        let namespace = visible(namespace);
        let resource = review.resource;
        let check = [
            resource.group,
            resource.plural,
            review.subresource,
            review.namespace().unwrap_or_default(),
            review.name(),
        ];
        Input {
            object: shown(matched, review, object),
            old: shown(matched, review, old.unwrap_or(&NULL)),
            request: request(review, matched),
            namespace,
            check: check.map(str::to_owned),
        }
    }

    /// Bound to the variables of a policy.
    pub(super) fn bind<'a>(&'a self, policy: &'a Policy, params: &'a Value) -> Bindings<'a> {
        let mut bindings = self.bind_to(&policy.environment, params);
        for (name, program) in &policy.variables {
            bindings.lazy(name, program);
        }
        bindings
    }

    /// Bound to the variables of admission.
    pub(super) fn bind_to<'a>(&'a self, environment: &'a Environment, params: &'a Value) -> Bindings<'a> {
        let [group, resource, subresource, namespace, name] = &self.check;
        let check = sampan_cel::Value::resource_check(group, resource, subresource, namespace, name);
        let mut bindings = Bindings::new(environment);
        bindings
            .json("object", &self.object)
            .json("oldObject", &self.old)
            .json("request", &self.request)
            .json("namespaceObject", &self.namespace)
            .json("params", params)
            .value("authorizer", sampan_cel::Value::authorizer())
            .value("authorizer.requestResource", check);
        bindings
    }
}

/// The fields of a namespace that expressions may see.
fn visible(namespace: &Value) -> Value {
    if namespace.is_null() {
        return Value::Null;
    }
    let mut out = namespace.clone();
    if let Some(metadata) = out.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
        metadata.shift_remove("ownerReferences");
        if let Some(uid) = metadata.shift_remove("uid") {
            metadata.insert("UID".to_owned(), uid);
        }
    }
    out
}

fn of_resource(resource: &Resource) -> Value {
    json!({"group": resource.group, "version": resource.version, "resource": resource.plural})
}

/// The request as `AdmissionRequest` has it, without what is empty.
fn request(review: &Review<'_>, matched: &Matched) -> Value {
    let of_kind = |kind: sampan_api::kinds::Gvk| json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
    let mut request = Map::new();
    let mut put = |key: &str, value: Value| request.insert(key.to_owned(), value);
    put("kind", of_kind(matched.kind));
    put("resource", of_resource(matched.resource));
    put("requestKind", of_kind(review.kind));
    put("requestResource", of_resource(review.resource));
    put("operation", review.operation.name().into());
    put("userInfo", review.call.user.to_value());
    put("dryRun", review.dry_run.into());
    put("options", options(review));
    let texts = [
        ("subResource", review.subresource),
        ("requestSubResource", review.subresource),
        ("name", review.name()),
        ("namespace", review.namespace().unwrap_or_default()),
    ];
    for (key, value) in texts {
        if !value.is_empty() {
            put(key, value.into());
        }
    }
    Value::Object(request)
}

/// The namespace of the object, as it is kept; null outside of any.
pub(super) async fn namespace(core: &Arc<Core>, review: &Review<'_>) -> Result<Value, Status> {
    if review.is("", "namespaces") {
        return Ok(Value::Null);
    }
    let Some(name) = review.namespace() else { return Ok(Value::Null) };
    match core.namespace(name, false).await? {
        Some(namespace) => Ok(namespace.as_object.clone()),
        None => Err(Status::not_found(("", "namespaces"), name)),
    }
}

/// Answers checks on behalf of the request's user.
pub(crate) struct Asker<'c> {
    pub(crate) core: &'c Core,
    pub(crate) user: &'c UserInfo,
}

impl sampan_cel::Authorizer for Asker<'_> {
    fn decide(&self, account: Option<&ServiceAccount>, check: &Check) -> Decision {
        let stands_in = account.map(|account| {
            let ServiceAccount { namespace, name } = account;
            let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
            UserInfo::new(format!("system:serviceaccount:{namespace}:{name}"), &groups)
        });
        let user = stands_in.as_ref().unwrap_or(self.user);
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let verdict = match check {
            Check::Path { path, verb } => self.core.decide(user, &Attributes::Path { verb, path }),
            Check::Resource {
                group, resource, subresource, namespace, name, field_selector, verb, ..
            } => {
                let target = Target {
                    group: group.clone(),
                    version: "*".to_owned(),
                    resource: resource.clone(),
                    namespace: some(namespace),
                    name: some(name),
                    subresource: some(subresource),
                };
                let fields = Some(field_selector.as_str()).filter(|fields| !fields.is_empty());
                self.core.decide(user, &Attributes::Resource { verb, target: &target, fields })
            }
        };
        Decision { allowed: verdict.allowed, reason: verdict.reason, error: None }
    }
}

/// An evaluation with what lazily evaluated variables cost counted in.
pub(super) fn evaluate<'a>(
    program: &'a Program,
    bindings: &Bindings<'a>,
    budget: &mut u64,
    asker: &Asker<'_>,
) -> Result<sampan_cel::Value<'a>, EvalError> {
    let result = program.evaluate(bindings, budget, Some(asker));
    match budget.checked_sub(bindings.take_lazy_cost()) {
        Some(rest) => *budget = rest,
        None => {
            *budget = 0;
            return Err(EvalError::Budget);
        }
    }
    result
}

/// How a failed expression is told.
pub(super) fn told(expression: &str, error: &EvalError) -> String {
    match error {
        EvalError::Budget => error.to_string(),
        _ => format!("expression '{expression}' resulted in error: {error}"),
    }
}

/// Whether all match conditions hold: false wins over errors.
///
/// # Errors
/// A sentence, when none is false and one fails.
pub(super) fn hold<'a>(
    conditions: &'a [(String, Program)],
    bindings: &Bindings<'a>,
    asker: &Asker<'_>,
) -> Result<bool, String> {
    let mut failed = Vec::new();
    let mut budget = limits::MATCH_CONDITIONS_BUDGET;
    for (expression, program) in conditions {
        match evaluate(program, bindings, &mut budget, asker).map(|value| value.as_bool() == Some(true)) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => failed.push(told(expression, &error)),
        }
    }
    match failed.as_slice() {
        [] => Ok(true),
        [only] => Err(only.clone()),
        many => Err(format!("[{}]", many.join(", "))),
    }
}
