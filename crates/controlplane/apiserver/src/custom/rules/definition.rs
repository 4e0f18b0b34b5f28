//! Rules when a definition brings them: they have to compile, and cost no more than they may by estimation.

use sampan_api::status::{FieldError, FieldPath};
use sampan_cel::{
    Declared, Program,
    limits::{ESTIMATED_RULE_LIMIT, ESTIMATED_TOTAL_LIMIT, MAX_REQUEST_BYTES, RUNTIME_BUDGET},
};
use serde_json::{Value, json};

use super::{
    Node, SELF_TYPE, elements, has_rules, items, members, object, path, property,
    rule::{Rule, Scope},
    run::{Link, Place, Run},
    text,
};

/// Expensive rules that are named when all together are too expensive.
const NAMED: usize = 4;

/// Checks the rules of those versions whose schema changed.
pub(super) fn check(new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let versions = |object: &Value| object.pointer("/spec/versions").and_then(Value::as_array).cloned();
    let (all, before) = (versions(new).unwrap_or_default(), old.and_then(versions).unwrap_or_default());
    let schema_of = |version: &Value| version.pointer("/schema/openAPIV3Schema").cloned();
    let alike = all.iter().all(|version| version.get("schema") == all[0].get("schema"));
    for (index, version) in all.iter().enumerate() {
        let Some(schema) = schema_of(version) else { continue };
        let was = before.iter().find(|old| old["name"] == version["name"]).and_then(schema_of);
        if was.as_ref() == Some(&schema) || (alike && index > 0) || !has_rules(&schema) {
            continue;
        }
        // Upstream keeps what all versions have alike once, and names it by that place.
        let at = if alike {
            FieldPath::new("spec.validation.openAPIV3Schema")
        } else {
            FieldPath::new("spec.versions").index(index).child("schema.openAPIV3Schema")
        };
        whole(&schema, &at, errors);
    }
}

fn whole(schema: &Value, at: &FieldPath, errors: &mut Vec<FieldError>) {
    let declared = Declared::from_schema(SELF_TYPE, schema, true);
    let mut walk = Walk { errors, total: 0, expensive: Vec::new() };
    let level = Level { cardinality: Some(1), unrelated: None };
    walk.visit(schema, declared.as_ref(), &level, at);
    if walk.total > ESTIMATED_TOTAL_LIMIT {
        let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
        let named = walk.expensive.iter().map(|(field, _)| FieldError::forbidden(field, why));
        let named: Vec<FieldError> = named.collect();
        walk.errors.extend(named);
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        let why = excess(what, walk.total, ESTIMATED_TOTAL_LIMIT);
        walk.errors.push(FieldError::forbidden(at, why));
    }
}

fn excess(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

struct Walk<'e> {
    errors: &'e mut Vec<FieldError>,
    total: u64,
    expensive: Vec<(FieldPath, u64)>,
}

/// What holds on the way down.
#[derive(Clone)]
struct Level {
    /// How often such a value is there at most; nothing when nothing bounds it.
    cardinality: Option<u64>,
    /// The list above whose elements are not known again.
    unrelated: Option<FieldPath>,
}

impl Level {
    fn below(&self, schema: &Value) -> Level {
        let factor = match text(schema, "type") {
            "object" if schema.get("additionalProperties").is_some() => bound(schema, "maxProperties"),
            "array" => bound(schema, "maxItems"),
            _ => Some(1),
        };
        let cardinality = self.cardinality.zip(factor).map(|(a, b)| a.saturating_mul(b));
        Level { cardinality, unrelated: self.unrelated.clone() }
    }
}

fn bound(schema: &Value, name: &str) -> Option<u64> {
    let bound = schema.get(name)?.as_i64()?;
    Some(u64::try_from(bound).unwrap_or(0))
}

impl Walk<'_> {
    fn visit(&mut self, schema: &Value, declared: Option<&Declared>, level: &Level, at: &FieldPath) {
        if !has_rules(schema) {
            return;
        }
        let inner = level.below(schema);
        if let Some(additional) = object(schema, "additionalProperties") {
            let at = at.child("additionalProperties");
            self.visit(additional, declared.and_then(elements), &inner, &at);
        }
        for (name, own) in members(schema, "properties") {
            let declared = property(declared, name, own);
            self.visit(own, declared.as_ref(), &inner, &at.child("properties").key(name));
        }
        if let Some(items) = object(schema, "items") {
            let mut inner = inner.clone();
            if text(schema, "x-kubernetes-list-type") != "map" {
                inner.unrelated = inner.unrelated.or_else(|| Some(at.clone()));
            }
            self.visit(items, declared.and_then(elements), &inner, &at.child("items"));
        }
        self.rules(schema, declared, level, at);
        if let (Some(default), Some(declared)) = (schema.get("default").filter(|v| !v.is_null()), declared) {
            self.default(schema, declared, default, &at.child("default"));
        }
    }

    /// A default has to keep the rules.
    fn default(&mut self, schema: &Value, declared: &Declared, default: &Value, at: &FieldPath) {
        let Some(node) = Node::compile(schema, schema, Some(declared)) else { return };
        let mut run = Run::new(RUNTIME_BUDGET);
        node.visit(default, Some(default), Link::default(), &Place::Root(at.as_str()), &mut run);
        if run.errors.is_empty() {
            // Rules that take `oldSelf` as optional see it come from nothing, too.
            run = Run::new(RUNTIME_BUDGET);
            node.visit(default, None, Link::default(), &Place::Root(at.as_str()), &mut run);
        }
        self.errors.append(&mut run.errors);
    }

    fn rules(&mut self, schema: &Value, declared: Option<&Declared>, level: &Level, at: &FieldPath) {
        let rules = items(schema, "x-kubernetes-validations");
        if rules.is_empty() {
            return;
        }
        let at = at.child("x-kubernetes-validations");
        let Some(declared) = declared else {
            let why = "internal error: failed to construct type information for x-kubernetes-validations rules: unable \
                       to convert structural schema to CEL declarations";
            self.errors.push(FieldError::internal(at, why));
            return;
        };
        let scope = Scope::new(declared);
        let times = level.cardinality.unwrap_or(MAX_REQUEST_BYTES / (declared.min_size + 1));
        for (index, rule) in rules.iter().enumerate() {
            let at = at.index(index);
            let compiled = Rule::compile(rule, &scope, schema);
            self.rule(rule, &compiled, times, &at);
            self.correlation(rule, &compiled, level, &at);
            let field = text(rule, "fieldPath");
            if !field.is_empty() && path::normalize(field, schema).is_none() {
                let at = at.child("fieldPath");
                self.errors.push(FieldError::invalid(at, field, "must be a valid path"));
            }
        }
    }

    fn rule(&mut self, rule: &Value, compiled: &Rule, times: u64, at: &FieldPath) {
        match &compiled.program {
            Some(Ok(program)) => {
                let cost = program.cost().max.saturating_mul(times);
                self.observe(cost, "estimated rule cost", at.child("rule"));
            }
            Some(Err(why)) => self.errors.push(FieldError::invalid(at.child("rule"), shown(rule), why)),
            None => {}
        }
        match &compiled.message_program {
            Some(Ok(program)) => {
                let at = at.child("messageExpression");
                self.observe(Program::cost(program).max, "estimated messageExpression cost", at);
            }
            Some(Err(why)) => {
                self.errors.push(FieldError::invalid(at.child("messageExpression"), shown(rule), why));
            }
            None => {}
        }
    }

    fn observe(&mut self, cost: u64, what: &str, at: FieldPath) {
        if cost > ESTIMATED_RULE_LIMIT {
            let why = excess(what, cost, ESTIMATED_RULE_LIMIT);
            self.errors.push(FieldError::forbidden(&at, why));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= ESTIMATED_TOTAL_LIMIT / 100 {
            self.expensive.push((at, cost));
            self.expensive.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            self.expensive.truncate(NAMED);
        }
    }

    fn correlation(&mut self, rule: &Value, compiled: &Rule, level: &Level, at: &FieldPath) {
        if compiled.uses_old {
            if let Some(unrelated) = &level.unrelated {
                let why = format!(
                    "oldSelf cannot be used on the uncorrelatable portion of the schema within {unrelated}"
                );
                self.errors.push(FieldError::invalid(at.child("rule"), text(rule, "rule"), why));
            }
        } else if let Some(optional) = rule.get("optionalOldSelf").and_then(Value::as_bool) {
            let why = "may not be set if oldSelf is not used in rule";
            self.errors.push(FieldError::invalid(at.child("optionalOldSelf"), optional, why));
        }
    }
}

/// A rule as upstream's errors show it.
fn shown(rule: &Value) -> Value {
    let get = |name: &str| rule.get(name).cloned().unwrap_or_default();
    json!({
        "Rule": text(rule, "rule"), "Message": text(rule, "message"),
        "MessageExpression": text(rule, "messageExpression"), "Reason": get("reason"),
        "FieldPath": text(rule, "fieldPath"), "OptionalOldSelf": get("optionalOldSelf"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(properties: Value) -> Vec<String> {
        let object = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
            "type": "object", "properties": properties,
        }}}]}});
        let mut out = Vec::new();
        check(&object, None, &mut out);
        out.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn rules_compile_within_their_budget() {
        let rule = |rule: &str| json!([{"rule": rule}]);
        let none: [&str; 0] = [];
        let good = json!({"spec": {"type": "object", "properties": {"a": {"type": "integer"}},
            "x-kubernetes-validations": rule("self.a > 0")}});
        assert_eq!(errors(good), none);
        let typo = json!({"spec": {"type": "object", "properties": {"a": {"type": "integer"}},
            "x-kubernetes-validations": rule("self.b > 0")}});
        let found = errors(typo);
        let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Invalid value: ";
        assert!(found[0].starts_with(at), "{found:?}");
        assert!(
            found[0].contains("compilation failed: ERROR: <input>:1:5: undefined field 'b'"),
            "{found:?}"
        );
        let text = json!({"spec": {"type": "string", "x-kubernetes-validations": rule("self + 'x'")}});
        assert!(errors(text)[0].ends_with(": cel expression must evaluate to a bool"));
        let strings = json!({"type": "array", "items": {"type": "string"},
            "x-kubernetes-validations": rule("self.all(x, self.all(y, x == y))")});
        let found = errors(json!({"spec": strings}));
        let at = "spec.validation.openAPIV3Schema.properties[spec].x-kubernetes-validations[0].rule: Forbidden: \
                  estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule";
        assert!(found[0].starts_with(at), "{found:?}");
        assert_eq!(found.len(), 3, "{found:?}");
    }

    #[test]
    fn old_values_are_there_only_where_they_are_known_again() {
        let list = |kind: &str| {
            json!({"spec": {"type": "array", "maxItems": 10, "x-kubernetes-list-type": kind,
                "x-kubernetes-list-map-keys": ["a"],
                "items": {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}},
                    "x-kubernetes-validations": [{"rule": "self.a == oldSelf.a"}]}}})
        };
        let none: [&str; 0] = [];
        assert_eq!(errors(list("map")), none);
        let found = errors(list("atomic"));
        assert_eq!(
            found,
            [
                "spec.validation.openAPIV3Schema.properties[spec].items.x-kubernetes-validations[0].rule: Invalid value: \
              \"self.a == oldSelf.a\": oldSelf cannot be used on the uncorrelatable portion of the schema within \
              spec.validation.openAPIV3Schema.properties[spec]"
            ]
        );
        let optional = json!({"spec": {"type": "integer",
            "x-kubernetes-validations": [{"rule": "self > 0", "optionalOldSelf": true}]}});
        assert!(errors(optional)[0].ends_with(
            "optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule"
        ));
        let default = json!({"spec": {"type": "integer", "default": -1, "x-kubernetes-validations": [{
            "rule": "self > 0", "message": "too small"}]}});
        assert_eq!(
            errors(default),
            ["spec.validation.openAPIV3Schema.properties[spec].default: Invalid value: -1: too small"]
        );
    }
}
