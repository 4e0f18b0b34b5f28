//! Flow schemas, compiled: which level and which flow a request belongs to.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use http::HeaderValue;
use serde::Deserialize;

use super::level::Level;
use crate::{authz::Attributes, user::UserInfo};

/// What tells the flows of a schema apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Nothing,
    User,
    Namespace,
}

/// A schema with its level.
pub(crate) struct Schema {
    pub(crate) name: Box<str>,
    pub(crate) precedence: i64,
    pub(crate) uid: HeaderValue,
    pub(crate) level_uid: HeaderValue,
    pub(crate) level: Arc<Level>,
    pub(crate) by: By,
    pub(crate) rules: Vec<Rule>,
}

/// A rule of a schema, as stored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Rule {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<PathRule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Subject {
    user: Option<Named>,
    group: Option<Named>,
    service_account: Option<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: Box<str>,
    namespace: Box<str>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ResourceRule {
    verbs: Vec<Box<str>>,
    api_groups: Vec<Box<str>>,
    resources: Vec<Box<str>>,
    cluster_scope: bool,
    namespaces: Vec<Box<str>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PathRule {
    verbs: Vec<Box<str>>,
    #[serde(rename = "nonResourceURLs")]
    urls: Vec<Box<str>>,
}

fn any_or(set: &[Box<str>], wanted: &str) -> bool {
    set.iter().any(|text| **text == *"*" || **text == *wanted)
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        if let Some(named) = &self.user {
            return *named.name == *"*" || *named.name == *user.name;
        }
        if let Some(named) = &self.group {
            return *named.name == *"*" || user.in_group(&named.name);
        }
        let Some(named) = &self.service_account else { return false };
        let account = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        account.is_some_and(|(namespace, name)| {
            *named.namespace == *namespace && (*named.name == *"*" || *named.name == *name)
        })
    }
}

impl Rule {
    fn matches(&self, user: &UserInfo, attributes: &Attributes<'_>) -> bool {
        self.subjects.iter().any(|subject| subject.is(user))
            && match attributes {
                Attributes::Path { verb, path } => self.non_resource_rules.iter().any(|rule| {
                    any_or(&rule.verbs, verb)
                        && rule.urls.iter().any(|url| {
                            **url == *"*"
                                || **url == **path
                                || (url.ends_with("/*") && path.starts_with(url.trim_end_matches('*')))
                        })
                }),
                Attributes::Resource { .. } => {
                    self.resource_rules.iter().any(|rule| rule.matches(attributes))
                }
            }
    }
}

impl ResourceRule {
    fn matches(&self, attributes: &Attributes<'_>) -> bool {
        let Attributes::Resource { verb, target, .. } = attributes else { return false };
        let named = |own: &str| match target.subresource.as_deref().filter(|sub| !sub.is_empty()) {
            None => own == target.resource,
            Some(sub) => own
                .strip_suffix(sub)
                .and_then(|rest| rest.strip_suffix('/'))
                .is_some_and(|parent| parent == target.resource),
        };
        any_or(&self.verbs, verb)
            && any_or(&self.api_groups, &target.group)
            && self.resources.iter().any(|own| **own == *"*" || named(own))
            && match attributes.namespace() {
                None => self.cluster_scope,
                Some(namespace) => any_or(&self.namespaces, namespace),
            }
    }
}

/// All schemas, the first that matches first.
#[derive(Default)]
pub(crate) struct Plan {
    schemas: Vec<Schema>,
    pub(crate) levels: Vec<Arc<Level>>,
    /// Seeded: nobody can choose whose queues his requests share.
    hasher: RandomState,
}

impl Plan {
    pub(crate) fn new(mut schemas: Vec<Schema>, levels: Vec<Arc<Level>>) -> Self {
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Self { schemas, levels, hasher: RandomState::new() }
    }

    /// The schema of a request; the last, which is the one for everything, when none matches.
    pub(crate) fn find(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Option<usize> {
        let matches = |schema: &Schema| schema.rules.iter().any(|rule| rule.matches(user, attributes));
        self.schemas.iter().position(matches).or_else(|| self.schemas.len().checked_sub(1))
    }

    pub(crate) fn schema(&self, at: usize) -> Option<&Schema> {
        self.schemas.get(at)
    }

    /// The flow of a request within its schema.
    pub(crate) fn flow(&self, schema: &Schema, user: &UserInfo, namespace: Option<&str>) -> u64 {
        let distinguisher = match schema.by {
            By::Nothing => "",
            By::User => &user.name,
            By::Namespace => namespace.unwrap_or_default(),
        };
        self.hasher.hash_one((&*schema.name, distinguisher))
    }
}
