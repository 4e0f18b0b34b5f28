//! Rules at work: on the way down an object, each on the values that its schema is about.

use std::collections::HashMap;

use sampan_api::status::{FieldError, FieldPath};
use sampan_cel::{Bindings, EvalError, Program, Value as Cel, limits::MAX_MESSAGE_BYTES};
use serde_json::{Map, Value};

use super::{
    Node,
    rule::{Rule, Scope},
};

/// Errors told of one object at most.
const MAX_ERRORS: usize = 100;

/// Where a value stands; written out only when there is something to tell.
pub(super) enum Place<'a> {
    /// The path of the whole; empty for an object.
    Root(&'a str),
    Member(&'a Place<'a>, &'a str),
    Key(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn path(&self) -> FieldPath {
        match self {
            Place::Root("") => FieldPath::default(),
            Place::Root(path) => FieldPath::new(path),
            Place::Member(parent, name) => parent.path().child(name),
            Place::Key(parent, name) => parent.path().key(name),
            Place::Item(parent, index) => parent.path().index(*index),
        }
    }

    fn field(&self, below: &str) -> String {
        let path = self.path();
        let path = if below.is_empty() { path } else { path.child(below) };
        if path.as_str().is_empty() { "<nil>".to_owned() } else { path.to_string() }
    }
}

type Pair<'v> = (&'v Value, &'v Value);

/// A value and what it was before, where that is known; and the same for the nearest value above of which it is known.
#[derive(Clone, Copy, Default)]
pub(super) struct Link<'v> {
    pub(super) own: Option<Pair<'v>>,
    pub(super) near: Option<Pair<'v>>,
}

impl<'v> Link<'v> {
    fn is_unchanged(&self) -> bool {
        self.own.or(self.near).is_some_and(|(new, old)| new == old)
    }

    fn key(self, name: &str) -> Link<'v> {
        match self.own {
            None => self,
            // Both are made the same version before: a change would not be seen.
            Some(_) if self.near.is_none() && matches!(name, "apiVersion" | "kind") => Link::default(),
            Some((new, old)) => Link { own: new.get(name).zip(old.get(name)), near: self.own },
        }
    }

    fn item(self, new: &'v Value, old: Option<&'v Value>) -> Link<'v> {
        if self.own.is_none() {
            return self;
        }
        Link { own: old.map(|old| (new, old)), near: self.own }
    }
}

/// What came out so far.
pub(super) struct Run {
    pub(super) errors: Vec<FieldError>,
    pub(super) warnings: Vec<String>,
    budget: u64,
    stopped: bool,
}

impl Run {
    pub(super) fn new(budget: u64) -> Run {
        Run { errors: Vec::new(), warnings: Vec::new(), budget, stopped: false }
    }

    fn add(&mut self, error: FieldError) {
        self.errors.push(error);
        self.stopped |= self.errors.len() >= MAX_ERRORS;
    }

    fn stop(&mut self, error: FieldError) {
        self.errors.push(error);
        self.stopped = true;
    }
}

impl Node {
    /// Runs the rules here and below.
    pub(super) fn visit<'v>(
        &'v self,
        value: &'v Value,
        old: Option<&'v Value>,
        link: Link<'v>,
        place: &Place<'_>,
        run: &mut Run,
    ) {
        if value.is_null() || run.stopped {
            return;
        }
        let old = old.filter(|old| !old.is_null());
        self.apply(value, old, link, place, run);
        for part in &self.all_of {
            // As for the schema itself, only what is unchanged further up excuses an alternative.
            part.visit(value, old, Link { own: None, near: link.near }, place, run);
        }
        match value {
            Value::Array(list) => self.list(list, old.and_then(Value::as_array), link, place, run),
            Value::Object(map) => self.map(map, old.and_then(Value::as_object), link, place, run),
            _ => {}
        }
    }

    fn map<'v>(
        &'v self,
        map: &'v Map<String, Value>,
        old: Option<&'v Map<String, Value>>,
        link: Link<'v>,
        place: &Place<'_>,
        run: &mut Run,
    ) {
        for (name, value) in map {
            let before = || old.and_then(|old| old.get(name));
            if let Some(additional) = &self.additional {
                additional.visit(value, before(), link.key(name), &Place::Key(place, name), run);
            }
            if let Some(property) = self.properties.get(name) {
                property.visit(value, before(), link.key(name), &Place::Member(place, name), run);
            }
        }
    }

    fn list<'v>(
        &'v self,
        list: &'v [Value],
        old: Option<&'v Vec<Value>>,
        link: Link<'v>,
        place: &Place<'_>,
        run: &mut Run,
    ) {
        let Some(node) = &self.items else { return };
        let mut before: HashMap<String, &'v Value> = HashMap::new();
        if !self.keys.is_empty() {
            for item in old.into_iter().flatten() {
                before.entry(self.key_of(item)).or_insert(item);
            }
        }
        for (index, item) in list.iter().enumerate() {
            let old = (!before.is_empty()).then(|| before.get(&self.key_of(item)).copied()).flatten();
            node.visit(item, old, link.item(item, old), &Place::Item(place, index), run);
        }
    }

    /// The same text for elements that are the same one.
    fn key_of(&self, item: &Value) -> String {
        let values = self.keys.iter().map(|key| item.get(key).cloned().unwrap_or_default());
        Value::Array(values.collect()).to_string()
    }

    fn apply<'v>(
        &'v self,
        value: &'v Value,
        old: Option<&'v Value>,
        link: Link<'v>,
        place: &Place<'_>,
        run: &mut Run,
    ) {
        if self.broken {
            let why =
                "rule compiler initialization error: failed to convert to declType for CEL validation rules";
            run.add(FieldError::invalid(place.field(""), self.kind.as_str(), why));
            return;
        }
        let Some(scope) = self.scope.as_ref().filter(|_| !self.rules.is_empty()) else { return };
        if run.budget == 0 {
            let why = EvalError::Budget.to_string();
            return run.stop(FieldError::invalid(place.field(""), self.kind.as_str(), why));
        }
        let plain = bind(scope, value, old, false);
        let optional = self.rules.iter().any(|rule| rule.optional).then(|| bind(scope, value, old, true));
        for rule in &self.rules {
            if run.stopped {
                return;
            }
            if rule.uses_old && old.is_none() && !rule.optional {
                continue;
            }
            let bindings = optional.as_ref().filter(|_| rule.optional).unwrap_or(&plain);
            let at = At { node: self, rule, value, place, unchanged: !rule.uses_old && link.is_unchanged() };
            at.evaluate(bindings, run);
        }
    }
}

fn bind<'v>(scope: &'v Scope, value: &'v Value, old: Option<&'v Value>, optional: bool) -> Bindings<'v> {
    let mut bindings = Bindings::new(if optional { &scope.optional } else { &scope.plain });
    bindings.json("self", value);
    match old {
        _ if optional => {
            let old = old.map(|old| Cel::read(old, &scope.declared).unwrap_or(Cel::Null));
            bindings.value("oldSelf", Cel::optional(old));
        }
        Some(old) => drop(bindings.json("oldSelf", old)),
        None => {}
    }
    bindings
}

/// A rule at a value.
struct At<'p, 'v> {
    node: &'v Node,
    rule: &'v Rule,
    value: &'v Value,
    place: &'p Place<'p>,
    /// A failure was there before.
    unchanged: bool,
}

impl<'v> At<'_, 'v> {
    fn error(&self, why: impl Into<String>) -> FieldError {
        FieldError::invalid(self.place.field(""), self.node.kind.as_str(), why)
    }

    fn evaluate(&self, bindings: &Bindings<'v>, run: &mut Run) {
        let program = match &self.rule.program {
            None => return,
            Some(Err(why)) => return run.add(self.error(format!("rule compile error: {why}"))),
            Some(Ok(program)) => program,
        };
        let name = self.rule.name();
        match hold(program, bindings, run) {
            Ok(true) => {}
            Ok(false) => self.failed(bindings, run),
            Err(error @ EvalError::Budget) => run.stop(self.error(error.to_string())),
            Err(error @ EvalError::CostLimit) => run.stop(self.error(format!(
                "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {name}"
            ))),
            Err(EvalError::Failed(why)) if why.starts_with("no such overload") => {
                run.add(self.error(format!(
                    "'{why}': call arguments did not match a supported operator, function or macro signature for \
                     rule: {name}"
                )));
            }
            Err(EvalError::Failed(why)) => run.add(self.error(format!("{why} evaluating rule: {name}"))),
        }
    }

    fn failed(&self, bindings: &Bindings<'v>, run: &mut Run) {
        let field = self.place.field(&self.rule.field);
        let mut detail = self.rule.message();
        if let Some(Ok(program)) = &self.rule.message_program {
            match message(program, bindings, run) {
                Ok(Some(better)) => detail = better,
                Ok(None) => {}
                Err(why) => {
                    self.tell(FieldError::invalid(field, self.node.kind.as_str(), why), run);
                    run.stopped = true;
                    return;
                }
            }
        }
        let whole = matches!(self.node.kind.as_str(), "object" | "array");
        let error = match self.rule.reason.as_str() {
            "FieldValueForbidden" => FieldError::forbidden(field, detail),
            "FieldValueRequired" => FieldError::required(field, detail),
            "FieldValueDuplicate" if whole => FieldError::duplicate(field, Value::Null),
            "FieldValueDuplicate" => FieldError::duplicate(field, self.value.clone()),
            _ if whole => FieldError::invalid_unshown(field, detail),
            _ => FieldError::invalid(field, self.value.clone(), detail),
        };
        self.tell(error, run);
    }

    fn tell(&self, error: FieldError, run: &mut Run) {
        if !self.unchanged {
            run.add(error);
        } else if run.warnings.len() < MAX_ERRORS {
            run.warnings.push(error.to_string());
        }
    }
}

fn hold<'v>(program: &'v Program, bindings: &Bindings<'v>, run: &mut Run) -> Result<bool, EvalError> {
    match program.evaluate(bindings, &mut run.budget, None)? {
        Cel::Bool(value) => Ok(value),
        _ => Ok(false),
    }
}

/// What a messageExpression yields, if that can be shown. An error ends everything.
fn message<'v>(
    program: &'v Program,
    bindings: &Bindings<'v>,
    run: &mut Run,
) -> Result<Option<String>, String> {
    let found = match program.evaluate(bindings, &mut run.budget, None) {
        Ok(found) => found,
        Err(EvalError::Budget) => {
            let why = "messageExpression evaluation failed due to running out of cost budget, no further validation \
                       rules will be run";
            return Err(why.to_owned());
        }
        Err(EvalError::CostLimit) => {
            let why = "no further validation rules will be run due to call cost exceeds limit for messageExpression";
            return Err(why.to_owned());
        }
        Err(EvalError::Failed(_)) => return Ok(None),
    };
    let text = found.as_str().unwrap_or_default().trim();
    let fits = !text.is_empty() && text.len() <= MAX_MESSAGE_BYTES && !text.contains('\n');
    Ok(fits.then(|| text.to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::custom::rules::Rules;

    fn run(schema: &Value, new: &Value, old: Option<&Value>, budget: u64) -> (Vec<String>, Vec<String>) {
        let Rules(node) = Rules::compile(schema).unwrap();
        let mut run = Run::new(budget);
        let link = Link { own: old.map(|old| (new, old)), near: None };
        node.visit(new, old, link, &Place::Root(""), &mut run);
        (run.errors.iter().map(ToString::to_string).collect(), run.warnings)
    }

    fn errors(schema: &Value, new: &Value) -> Vec<String> {
        run(schema, new, None, 10_000_000).0
    }

    /// An object whose member `x` has this schema, with these rules of its own.
    fn member(mut schema: Value, rules: &[&str]) -> Value {
        let rules: Vec<Value> = rules.iter().map(|rule| json!({ "rule": rule })).collect();
        schema["x-kubernetes-validations"] = rules.into();
        json!({"type": "object", "properties": {"x": schema}})
    }

    #[test]
    fn budgets_end_it() {
        let integer = || json!({"type": "integer"});
        let two = member(integer(), &["self > 1", "self > 2"]);
        let spent = "x: Invalid value: \"integer\": validation failed due to running out of cost budget, no further \
                     validation rules will be run";
        assert_eq!(
            run(&two, &json!({"x": 0}), None, 3).0,
            ["x: Invalid value: 0: failed rule: self > 1", spent]
        );
        assert_eq!(run(&two, &json!({"x": 9}), None, 1).0, [spent]);
        let list = json!({"type": "array", "items": {"type": "integer"}});
        let dear = member(list, &["self.all(a, self.all(b, self.all(c, a + b + c > 0)))", "false"]);
        let found = errors(&dear, &json!({"x": vec![1; 200]}));
        assert_eq!(found.len(), 1);
        let why = "x: Invalid value: \"array\": 'operation cancelled: actual cost limit exceeded': no further validation \
                   rules will be run due to call cost exceeds limit for rule: ";
        assert!(found[0].starts_with(why), "{found:?}");
    }

    #[test]
    fn errors_say_what_went_wrong() {
        let map = json!({"type": "object", "additionalProperties": {"type": "integer"}});
        let key = member(map.clone(), &["self['a'] > 1"]);
        assert_eq!(
            errors(&key, &json!({"x": {}})),
            ["x: Invalid value: \"object\": no such key: a evaluating rule: self['a'] > 1"]
        );
        assert_eq!(errors(&key, &json!({"x": {"a": 1}})), ["x: Invalid value: failed rule: self['a'] > 1"]);
        let either = member(json!({"x-kubernetes-int-or-string": true}), &["self + 1 > 2"]);
        let why = "x: Invalid value: \"\": 'no such overload': call arguments did not match a supported operator, \
                   function or macro signature for rule: self + 1 > 2";
        assert_eq!(errors(&either, &json!({"x": "text"})), [why]);
        let none: [&str; 0] = [];
        assert_eq!(errors(&either, &json!({"x": null})), none, "null is no value");
        let mut deep = json!({"type": "object", "properties": {"a.b": {"type": "object", "properties": {
            "n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 3"}]}}}}});
        let found = errors(&deep, &json!({"a.b": {"n": 4}}));
        assert_eq!(found, ["a.b.n: Invalid value: 4: failed rule: self < 3"]);
        deep["x-kubernetes-validations"] =
            json!([{"rule": "self.a__dot__b.n < 9 && self.metadata.name.startsWith('x')"}]);
        assert_eq!(errors(&deep, &json!({"metadata": {"name": "xy"}, "a.b": {"n": 1}})), none);
    }

    #[test]
    fn what_is_unchanged_is_excused() {
        let schema = json!({"type": "object", "properties": {
            "x": {"type": "object", "properties": {
                "list": {"type": "array", "items": {"type": "integer",
                    "x-kubernetes-validations": [{"rule": "self > 0"}]}},
                "n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]},
                "old": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > oldSelf"}]},
            }},
        }});
        let old = json!({"x": {"list": [-1], "n": -1, "old": 1}});
        let (errors, warnings) =
            run(&schema, &json!({"x": {"list": [-1], "n": -1, "old": 1}}), Some(&old), 1000);
        assert_eq!(
            errors,
            ["x.old: Invalid value: 1: failed rule: self > oldSelf"],
            "transitions are not excused"
        );
        let mut told = warnings;
        told.sort();
        let one = |path: &str| format!("{path}: Invalid value: -1: failed rule: self > 0");
        assert_eq!(told, [one("x.list[0]"), one("x.n")]);
        let (errors, warnings) = run(&schema, &json!({"x": {"list": [-1, 2], "n": -1}}), Some(&old), 1000);
        assert_eq!(errors, [one("x.list[0]")], "elements of such a list are not known again");
        assert_eq!(warnings, [one("x.n")]);
        let (errors, _) = run(&schema, &json!({"x": {"old": 1}}), Some(&json!({"x": {}})), 1000);
        assert!(errors.is_empty(), "nothing old, nothing to compare: {errors:?}");
    }

    #[test]
    fn rules_in_alternatives_count() {
        let schema = json!({"type": "object", "properties": {"x": {
            "type": "object", "properties": {"n": {"type": "integer"}},
            "allOf": [{"properties": {"n": {"x-kubernetes-validations": [{"rule": "self > 0"}]}}}],
        }}});
        assert_eq!(
            errors(&schema, &json!({"x": {"n": 0}})),
            ["x.n: Invalid value: 0: failed rule: self > 0"]
        );
    }
}
