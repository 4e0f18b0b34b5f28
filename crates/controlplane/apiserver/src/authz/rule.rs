//! One rule of a role: what it allows, whether it covers another, and how it is written in a refusal.
//!
//! The semantics are those of `rbac.authorization.k8s.io/v1` PolicyRule
//! (<https://kubernetes.io/docs/reference/kubernetes-api/authorization-resources/role-v1/>).

use std::fmt;

use sampan_api::status::go_quote;
use serde::{Deserialize, Deserializer};

use super::Attributes;

/// The verbs that requests to resources have; a rule keeps those it names as bits.
const VERBS: [&str; 16] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
    "impersonate",
    "bind",
    "escalate",
    "approve",
    "sign",
    "attest",
    "post",
    "put",
];

/// Texts of a rule; `null` is none.
type Texts = Vec<Box<str>>;

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Texts, D::Error> {
    Ok(Option::<Texts>::deserialize(from)?.unwrap_or_default())
}

/// A `PolicyRule`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rule {
    #[serde(deserialize_with = "texts")]
    pub(crate) verbs: Texts,
    #[serde(deserialize_with = "texts")]
    pub(crate) api_groups: Texts,
    #[serde(deserialize_with = "texts")]
    pub(crate) resources: Texts,
    #[serde(deserialize_with = "texts")]
    pub(crate) resource_names: Texts,
    #[serde(rename = "nonResourceURLs", deserialize_with = "texts")]
    pub(crate) urls: Texts,
    /// The verbs as bits of [`VERBS`]; all of them for `*`. Set by [`Rule::compile`].
    #[serde(skip)]
    mask: u32,
}

/// The bit of a verb; none for one that is rare.
pub(crate) fn verb_bit(verb: &str) -> u32 {
    VERBS.iter().position(|known| *known == verb).map_or(0, |n| 1 << n)
}

fn has(set: &[Box<str>], wanted: &str) -> bool {
    set.iter().any(|text| **text == *wanted)
}

fn any_or(set: &[Box<str>], wanted: &str) -> bool {
    set.iter().any(|text| **text == *wanted || **text == *"*")
}

/// Whether a rule's URL, which may end with `*`, takes the path in.
fn url_covers(own: &str, path: &str) -> bool {
    own == path || (own.ends_with('*') && path.starts_with(own.trim_end_matches('*')))
}

impl Rule {
    /// Prepares the rule for [`Rule::allows`].
    pub(crate) fn compile(mut self) -> Self {
        self.mask = if has(&self.verbs, "*") {
            u32::MAX
        } else {
            self.verbs.iter().fold(0, |mask, verb| mask | verb_bit(verb))
        };
        self
    }

    /// A rule about everything of the kind that has `resources` and verbs.
    pub(crate) fn everything() -> [Self; 2] {
        let all = || vec!["*".into()];
        [
            Self { verbs: all(), api_groups: all(), resources: all(), ..Self::default() }.compile(),
            Self { verbs: all(), urls: all(), ..Self::default() }.compile(),
        ]
    }

    /// Whether the rule allows the request; `bit` is its verb's.
    pub(crate) fn allows(&self, attributes: &Attributes<'_>, bit: u32) -> bool {
        if bit == 0 {
            if self.mask != u32::MAX && !has(&self.verbs, attributes.verb()) {
                return false;
            }
        } else if self.mask & bit == 0 {
            return false;
        }
        match attributes {
            Attributes::Path { path, .. } => {
                self.urls.iter().any(|own| **own == *"*" || url_covers(own, path))
            }
            Attributes::Resource { target, .. } => {
                any_or(&self.api_groups, &target.group)
                    && self
                        .names_resource(&target.resource, target.subresource.as_deref().unwrap_or_default())
                    && (self.resource_names.is_empty()
                        || has(&self.resource_names, target.name.as_deref().unwrap_or_default()))
            }
        }
    }

    fn names_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|own| {
            if **own == *"*" {
                return true;
            }
            if subresource.is_empty() {
                return **own == *resource;
            }
            own.strip_suffix(subresource)
                .and_then(|rest| rest.strip_suffix('/'))
                .is_some_and(|parent| parent == "*" || parent == resource)
        })
    }

    /// The rule taken apart: one verb with one resource and at most one name, or one verb with one URL.
    pub(crate) fn atoms(&self) -> Vec<Self> {
        let mut atoms = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let atom = Self {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.resource_names.is_empty() {
                        atoms.push(atom);
                        continue;
                    }
                    for name in &self.resource_names {
                        atoms.push(Self { resource_names: vec![name.clone()], ..atom.clone() });
                    }
                }
            }
        }
        for url in &self.urls {
            for verb in &self.verbs {
                atoms.push(Self { verbs: vec![verb.clone()], urls: vec![url.clone()], ..Self::default() });
            }
        }
        atoms
    }

    /// Whether whoever has this rule may do all that the atom allows.
    pub(crate) fn covers(&self, atom: &Self) -> bool {
        let all = |own: &[Box<str>], asked: &[Box<str>]| asked.iter().all(|text| has(own, text));
        (has(&self.verbs, "*") || all(&self.verbs, &atom.verbs))
            && (has(&self.api_groups, "*") || all(&self.api_groups, &atom.api_groups))
            && self.covers_resources(&atom.resources)
            && atom.urls.iter().all(|path| self.urls.iter().any(|own| url_covers(own, path)))
            && (self.resource_names.is_empty()
                || (!atom.resource_names.is_empty() && all(&self.resource_names, &atom.resource_names)))
    }

    fn covers_resources(&self, asked: &[Box<str>]) -> bool {
        has(&self.resources, "*")
            || asked.iter().all(|path| {
                has(&self.resources, path)
                    || path.split_once('/').is_some_and(|(_, sub)| has(&self.resources, &format!("*/{sub}")))
            })
    }
}

/// Go's `%q` of a list.
struct Quoted<'a>(&'a [Box<str>]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.0.iter().map(|text| go_quote(text).to_string()).collect();
        write!(f, "[{}]", texts.join(" "))
    }
}

impl fmt::Display for Rule {
    /// `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`, as refusals of escalation list rules.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(_, texts)| !texts.is_empty())
            .map(|(name, texts)| format!("{name}:{}", Quoted(texts)))
            .collect();
        write!(f, "{{{}}}", parts.join(", "))
    }
}
