//! The rules of a custom kind's schema (`x-kubernetes-validations`), compiled when its definition changes. Only those
//! parts of a schema that have rules, or lead to some, are kept.

mod definition;
mod path;
mod rule;
mod run;

use std::collections::BTreeMap;

use sampan_api::status::{ErrorKind, FieldError};
use sampan_cel::{Declared, Shape, escape, limits::RUNTIME_BUDGET};
use serde_json::Value;

use self::{
    rule::{Rule, Scope},
    run::{Link, Place, Run},
};
use crate::endpoint::Endpoint;

/// What the type of `self` is called; nobody can rely on it.
const SELF_TYPE: &str = "selfType";

/// The rules of one version.
pub(crate) struct Rules(Node);

/// A part of a schema that has rules, or leads to some.
struct Node {
    /// The JSON type, by which values are told of.
    kind: String,
    rules: Vec<Rule>,
    scope: Option<Scope>,
    /// Why no rule can be compiled.
    broken: bool,
    /// By which elements of a list are found again; empty when they cannot be.
    keys: Vec<String>,
    items: Option<Box<Node>>,
    additional: Option<Box<Node>>,
    properties: BTreeMap<String, Node>,
    all_of: Vec<Node>,
}

impl Rules {
    /// Compiles those of an `openAPIV3Schema`; nothing when there are none.
    pub(crate) fn compile(schema: &Value) -> Option<Rules> {
        has_rules(schema).then(|| {
            let declared = Declared::from_schema(SELF_TYPE, schema, true);
            Node::compile(schema, schema, declared.as_ref()).map(Rules)
        })?
    }

    /// Checks an object, which becomes another. What fails where nothing changes is only told of.
    fn check(&self, new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) -> Vec<String> {
        let mut run = Run::new(RUNTIME_BUDGET);
        let link = Link { own: old.map(|old| (new, old)), near: None };
        self.0.visit(new, old, link, &Place::Root(""), &mut run);
        errors.append(&mut run.errors);
        run.warnings
    }
}

impl Endpoint {
    /// Checks the rules of a custom kind's schema, or those that a definition brings. Returns warnings.
    pub(crate) fn check_rules(
        &self,
        new: &Value,
        old: Option<&Value>,
        errors: &mut Vec<FieldError>,
    ) -> Vec<String> {
        if (self.resource.group, self.resource.plural) == (super::GROUP, super::PLURAL) {
            if errors.is_empty() {
                definition::check(new, old, errors);
            }
            return Vec::new();
        }
        let Some(rules) = &self.rules else { return Vec::new() };
        if errors.iter().any(blocks) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing \
                       errors to complete validation";
            errors.push(FieldError::invalid("<nil>", Value::Null, why));
            return Vec::new();
        }
        rules.check(new, old, errors)
    }
}

/// After such an error an object may not be what rules take it for.
fn blocks(error: &FieldError) -> bool {
    matches!(
        error.kind,
        ErrorKind::NotSupported
            | ErrorKind::Required
            | ErrorKind::TooLong
            | ErrorKind::TooMany
            | ErrorKind::TypeInvalid
    )
}

impl Node {
    /// `validation` says the rules about values of `schema`; both are the same but within `allOf`.
    fn compile(validation: &Value, schema: &Value, declared: Option<&Declared>) -> Option<Node> {
        let found = items(validation, "x-kubernetes-validations");
        let scope = declared.filter(|_| !found.is_empty()).map(Scope::new);
        let rules: Vec<Rule> =
            scope.iter().flat_map(|s| found.iter().map(|r| Rule::compile(r, s, schema))).collect();
        let elements = declared.and_then(elements);
        let below = |name: &str| {
            let (validation, schema) = (object(validation, name)?, object(schema, name)?);
            Node::compile(validation, schema, elements).map(Box::new)
        };
        let mut properties = BTreeMap::new();
        for (name, validation) in members(validation, "properties") {
            let Some(own) = object(schema, "properties").and_then(|p| p.get(name)) else { continue };
            let Some(declared) = property(declared, name, own) else { continue };
            if let Some(node) = Node::compile(validation, own, Some(&declared)) {
                properties.insert(name.clone(), node);
            }
        }
        let all_of = items(validation, "allOf").iter();
        let node = Node {
            kind: text(schema, "type").to_owned(),
            broken: !found.is_empty() && scope.is_none(),
            rules,
            scope,
            keys: correlating_keys(schema),
            items: below("items"),
            additional: below("additionalProperties"),
            properties,
            all_of: all_of.filter_map(|part| Node::compile(part, schema, declared)).collect(),
        };
        (!node.is_empty()).then_some(node)
    }

    fn is_empty(&self) -> bool {
        self.rules.is_empty()
            && !self.broken
            && self.items.is_none()
            && self.additional.is_none()
            && self.properties.is_empty()
            && self.all_of.is_empty()
    }
}

/// Only elements of lists of type map are known again.
fn correlating_keys(schema: &Value) -> Vec<String> {
    if text(schema, "x-kubernetes-list-type") != "map" {
        return Vec::new();
    }
    let keys = items(schema, "x-kubernetes-list-map-keys").iter();
    keys.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whether a schema has rules anywhere.
fn has_rules(schema: &Value) -> bool {
    !items(schema, "x-kubernetes-validations").is_empty()
        || ["items", "additionalProperties"].iter().filter_map(|name| object(schema, name)).any(has_rules)
        || members(schema, "properties").any(|(_, property)| has_rules(property))
        || items(schema, "allOf").iter().any(has_rules)
}

/// What the elements of a list or the values of a map are declared as.
fn elements(declared: &Declared) -> Option<&Declared> {
    match &declared.shape {
        Shape::List(items, _) => Some(items),
        Shape::Map(values) => Some(values),
        _ => None,
    }
}

/// What a property is declared as. One without a type that expressions know is left out; one that they cannot name is
/// looked at by itself.
fn property(declared: Option<&Declared>, name: &str, schema: &Value) -> Option<Declared> {
    let Some(identifier) = escape(name) else {
        let embedded = schema.get("x-kubernetes-embedded-resource") == Some(&Value::Bool(true));
        return Declared::from_schema(SELF_TYPE, schema, embedded);
    };
    match &declared?.shape {
        Shape::Object(object) => Some(object.fields.get(&identifier)?.declared.clone()),
        _ => None,
    }
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn items<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn object<'v>(value: &'v Value, name: &str) -> Option<&'v Value> {
    value.get(name).filter(|found| found.is_object())
}

fn members<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    value.get(name).and_then(Value::as_object).into_iter().flatten()
}
