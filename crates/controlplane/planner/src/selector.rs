//! Label selectors and node selector requirements, compiled once and matched often.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeSelectorRequirement;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels as objects carry them.
pub type Labels = BTreeMap<String, String>;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
    /// An operator that nobody knows: it matches nothing.
    Never,
}

/// One requirement on one key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    key: Box<str>,
    operator: Operator,
    values: Box<[Box<str>]>,
}

impl Requirement {
    fn new(key: &str, operator: &str, values: &[String]) -> Self {
        let operator = match operator {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            _ => Operator::Never,
        };
        Self { key: key.into(), operator, values: values.iter().map(|v| v.as_str().into()).collect() }
    }

    /// A requirement that `key` has exactly `value`.
    pub fn equals(key: &str, value: &str) -> Self {
        Self { key: key.into(), operator: Operator::In, values: Box::new([value.into()]) }
    }

    /// A requirement that `key` does not have exactly `value`.
    pub fn differs(key: &str, value: &str) -> Self {
        Self { key: key.into(), operator: Operator::NotIn, values: Box::new([value.into()]) }
    }

    /// A requirement of a node selector.
    pub fn of_node(requirement: &NodeSelectorRequirement) -> Self {
        Self::new(&requirement.key, &requirement.operator, requirement.values.as_deref().unwrap_or_default())
    }

    /// The key that is compared.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it compares, and with what.
    pub(crate) fn parts(&self) -> (Operator, &[Box<str>]) {
        (self.operator, &self.values)
    }

    /// The values of an `In` requirement, `None` for every other operator.
    pub fn in_values(&self) -> Option<&[Box<str>]> {
        (self.operator == Operator::In).then_some(&*self.values)
    }

    /// Whether the value under the key (or its absence) satisfies this requirement.
    pub fn matches_value(&self, value: Option<&str>) -> bool {
        let listed = |value: &str| self.values.iter().any(|v| **v == *value);
        match self.operator {
            Operator::In => value.is_some_and(listed),
            Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => self.compare(value, |have, limit| have > limit),
            Operator::Lt => self.compare(value, |have, limit| have < limit),
            Operator::Never => false,
        }
    }

    fn compare(&self, value: Option<&str>, test: impl Fn(i64, i64) -> bool) -> bool {
        let number = |text: &str| text.parse::<i64>().ok();
        match (value.and_then(number), self.values.first().and_then(|limit| number(limit))) {
            (Some(have), Some(limit)) => test(have, limit),
            _ => false,
        }
    }

    /// Whether the labels satisfy this requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matches_value(labels.get(&*self.key).map(String::as_str))
    }
}

/// A compiled label selector.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Selector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Selector {
    /// A selector without requirements: everything matches.
    pub fn everything() -> Self {
        Self::default()
    }

    /// A selector that matches nothing, as an absent one does.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), nothing: true }
    }

    /// Compiles a `metav1.LabelSelector`; `None` matches nothing, an empty one everything.
    pub fn new(selector: Option<&LabelSelector>) -> Self {
        let Some(selector) = selector else { return Self::nothing() };
        let mut compiled = Self::from_map(selector.match_labels.as_ref());
        for expression in selector.match_expressions.iter().flatten() {
            compiled.requirements.push(Requirement::new(
                &expression.key,
                &expression.operator,
                expression.values.as_deref().unwrap_or_default(),
            ));
        }
        compiled
    }

    /// A selector of equalities, as Services have.
    pub fn from_map(labels: Option<&Labels>) -> Self {
        let requirements = labels.into_iter().flatten().map(|(k, v)| Requirement::equals(k, v)).collect();
        Self { requirements, nothing: false }
    }

    /// Adds a requirement.
    pub fn require(&mut self, requirement: Requirement) {
        self.requirements.push(requirement);
    }

    /// Adds a requirement unless it is there already.
    pub fn require_once(&mut self, requirement: Requirement) {
        if !self.requirements.contains(&requirement) {
            self.requirements.push(requirement);
        }
    }

    /// Whether it has no requirement at all and so matches everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// The keys that it reads.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.requirements.iter().map(Requirement::key)
    }

    /// Whether the labels match.
    pub fn matches(&self, labels: Option<&Labels>) -> bool {
        if self.nothing {
            return false;
        }
        match labels {
            Some(labels) => self.requirements.iter().all(|r| r.matches(labels)),
            None => self.requirements.iter().all(|r| r.matches_value(None)),
        }
    }
}

/// A selector as a query carries it: `app=web,tier in (a,b),!old`.
pub fn query(selector: &LabelSelector) -> String {
    let equal = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let others = selector.match_expressions.iter().flatten().map(|requirement| {
        let (key, values) = (&requirement.key, requirement.values.as_deref().unwrap_or_default().join(","));
        match requirement.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        }
    });
    equal.chain(others).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(operator: &str, values: &[&str]) -> Requirement {
        Requirement::new("k", operator, &values.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn operators() {
        for (operator, values, value, want) in [
            ("In", &["a", "b"][..], Some("b"), true),
            ("In", &["a"], None, false),
            ("NotIn", &["a"], None, true),
            ("NotIn", &["a"], Some("a"), false),
            ("Exists", &[], Some(""), true),
            ("DoesNotExist", &[], None, true),
            ("Gt", &["5"], Some("6"), true),
            ("Gt", &["5"], Some("5"), false),
            ("Gt", &["5"], Some("x"), false),
            ("Lt", &["5"], Some("-1"), true),
            ("Lt", &["5"], None, false),
            ("Like", &["5"], Some("5"), false),
        ] {
            assert_eq!(
                requirement(operator, values).matches_value(value),
                want,
                "{operator} {values:?} {value:?}"
            );
        }
    }

    #[test]
    fn absent_matches_nothing_and_empty_everything() {
        assert!(!Selector::new(None).matches(None));
        assert!(Selector::new(Some(&LabelSelector::default())).matches(None));
    }
}
