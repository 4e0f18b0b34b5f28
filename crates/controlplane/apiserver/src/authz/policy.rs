//! Roles and bindings, compiled: from a subject straight to the rules that are granted to it.
//!
//! Compiled anew when a role or a binding changes, never for a request; at 10,000 bindings that takes some ten
//! milliseconds, and changes that come together are compiled together.

use std::{collections::HashMap, sync::Arc};

use sampan_api::status::{aggregate, go_quote};
use sampan_store::KeyValue;
use serde::Deserialize;

use super::{
    Attributes,
    rule::{self, Rule},
};
use crate::{mirror::Objects, user::UserInfo};

/// All keys of the group begin with this.
pub(crate) const PREFIX: &str = "/registry/rbac.authorization.k8s.io/";

/// A role or a binding as stored, as far as permission goes.
#[derive(Debug)]
pub(crate) enum Stored {
    Role { namespace: Option<Box<str>>, name: Box<str>, rules: Arc<[Rule]> },
    Binding(Arc<Binding>),
}

/// A binding.
#[derive(Debug)]
pub(crate) struct Binding {
    namespace: Option<Box<str>>,
    name: Box<str>,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// What a binding grants.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct RoleRef {
    #[serde(default)]
    pub(crate) kind: Box<str>,
    #[serde(default)]
    pub(crate) name: Box<str>,
}

/// To whom a binding grants.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Subject {
    kind: Box<str>,
    name: Box<str>,
    namespace: Option<Box<str>>,
}

#[derive(Deserialize)]
struct StoredRole {
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredBinding {
    #[serde(default)]
    role_ref: RoleRef,
    subjects: Option<Vec<Subject>>,
}

/// A stored role or binding; nothing for what is damaged, which then grants nothing.
pub(crate) fn parse(kv: &KeyValue) -> Option<Stored> {
    let rest = std::str::from_utf8(kv.key.get(PREFIX.len()..)?).ok()?;
    let (plural, rest) = rest.split_once('/')?;
    let (namespace, name) = match plural {
        "roles" | "rolebindings" => rest.split_once('/').map(|(ns, name)| (Some(ns.into()), name.into()))?,
        _ => (None, rest.into()),
    };
    match plural {
        "roles" | "clusterroles" => {
            let stored: StoredRole = serde_json::from_slice(&kv.value).ok()?;
            let rules = stored.rules.unwrap_or_default().into_iter().map(Rule::compile).collect();
            Some(Stored::Role { namespace, name, rules })
        }
        "rolebindings" | "clusterrolebindings" => {
            let stored: StoredBinding = serde_json::from_slice(&kv.value).ok()?;
            let subjects = stored.subjects.unwrap_or_default();
            Some(Stored::Binding(Arc::new(Binding { namespace, name, role: stored.role_ref, subjects })))
        }
        _ => None,
    }
}

/// Rules that a subject has by a binding.
#[derive(Clone)]
struct Grant {
    binding: Arc<Binding>,
    /// Which of the binding's subjects it is.
    subject: usize,
    rules: Result<Arc<[Rule]>, Box<str>>,
}

impl Grant {
    /// Where a permission comes from, as reviews and the audit log tell it.
    fn describe(&self) -> String {
        let Binding { namespace, name, role, subjects } = &*self.binding;
        let (kind, source) = match namespace {
            Some(namespace) => ("RoleBinding", format!("{name}/{namespace}")),
            None => ("ClusterRoleBinding", name.to_string()),
        };
        let to = subjects.get(self.subject).map_or_else(String::new, |subject| {
            let of = subject.namespace.as_deref().or(namespace.as_deref()).unwrap_or_default();
            match &*subject.kind {
                "ServiceAccount" => format!("ServiceAccount {}", go_quote(&format!("{}/{of}", subject.name))),
                kind => format!("{kind} {}", go_quote(&subject.name)),
            }
        });
        format!("{kind} {} of {} {} to {to}", go_quote(&source), role.kind, go_quote(&role.name))
    }
}

/// The grants of one scope by subject.
#[derive(Default)]
struct Index {
    users: HashMap<Box<str>, Vec<Grant>>,
    groups: HashMap<Box<str>, Vec<Grant>>,
}

impl Index {
    fn add(&mut self, binding: &Arc<Binding>, rules: &Result<Arc<[Rule]>, Box<str>>) {
        for (at, subject) in binding.subjects.iter().enumerate() {
            let (map, name) = match &*subject.kind {
                "User" => (&mut self.users, subject.name.clone()),
                "Group" => (&mut self.groups, subject.name.clone()),
                "ServiceAccount" => {
                    let namespace = subject.namespace.as_ref().or(binding.namespace.as_ref());
                    let Some(namespace) = namespace.filter(|namespace| !namespace.is_empty()) else {
                        continue;
                    };
                    (&mut self.users, format!("system:serviceaccount:{namespace}:{}", subject.name).into())
                }
                _ => continue,
            };
            let grant = Grant { binding: binding.clone(), subject: at, rules: rules.clone() };
            map.entry(name).or_default().push(grant);
        }
    }

    fn of<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = &'a Grant> {
        let groups = user.groups.iter().filter_map(|group| self.groups.get(group.as_str()));
        self.users.get(user.name.as_str()).into_iter().chain(groups).flatten()
    }
}

/// Rules by the name of their role.
type Roles = HashMap<Box<str>, Arc<[Rule]>>;

/// Everything that roles and bindings say.
#[derive(Default)]
pub(crate) struct Policy {
    roles: HashMap<Box<str>, Roles>,
    cluster_roles: Roles,
    cluster: Index,
    namespaces: HashMap<Box<str>, Index>,
}

impl Policy {
    /// Compiles what is stored.
    pub(crate) fn compile(objects: &Objects<Stored>) -> Self {
        let mut policy = Self::default();
        for stored in objects.values() {
            let Stored::Role { namespace, name, rules } = &**stored else { continue };
            let roles = match namespace {
                Some(namespace) => policy.roles.entry(namespace.clone()).or_default(),
                None => &mut policy.cluster_roles,
            };
            roles.insert(name.clone(), rules.clone());
        }
        for stored in objects.values() {
            let Stored::Binding(binding) = &**stored else { continue };
            let rules = policy.rules_of(&binding.role, binding.namespace.as_deref());
            let rules = rules.map_err(String::into_boxed_str);
            let index = match &binding.namespace {
                Some(namespace) => policy.namespaces.entry(namespace.clone()).or_default(),
                None => &mut policy.cluster,
            };
            index.add(binding, &rules);
        }
        policy
    }

    /// The rules of the role that a binding names; the error says which role is missing.
    pub(crate) fn rules_of(&self, role: &RoleRef, namespace: Option<&str>) -> Result<Arc<[Rule]>, String> {
        let name = &*role.name;
        let (found, kind) = match &*role.kind {
            "ClusterRole" => (self.cluster_roles.get(name), "clusterrole"),
            "Role" => {
                (self.roles.get(namespace.unwrap_or_default()).and_then(|roles| roles.get(name)), "role")
            }
            other => return Err(format!("unsupported role reference kind: {}", go_quote(other))),
        };
        let missing = || format!("{kind}.rbac.authorization.k8s.io {} not found", go_quote(name));
        found.cloned().ok_or_else(missing)
    }

    fn grants<'a>(&'a self, user: &'a UserInfo, namespace: Option<&str>) -> impl Iterator<Item = &'a Grant> {
        let local = namespace.and_then(|namespace| self.namespaces.get(namespace));
        self.cluster.of(user).chain(local.into_iter().flat_map(move |index| index.of(user)))
    }

    fn allowing(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Option<&Grant> {
        let bit = rule::verb_bit(attributes.verb());
        // The iterator borrows the user; what it finds belongs to the policy.
        let local = attributes.namespace().and_then(|namespace| self.namespaces.get(namespace));
        for index in std::iter::once(&self.cluster).chain(local) {
            let groups = user.groups.iter().filter_map(|group| index.groups.get(group.as_str()));
            for grant in index.users.get(user.name.as_str()).into_iter().chain(groups).flatten() {
                let Ok(rules) = &grant.rules else { continue };
                if rules.iter().any(|rule| rule.allows(attributes, bit)) {
                    return Some(grant);
                }
            }
        }
        None
    }

    /// Whether a rule allows the request.
    pub(crate) fn allows(&self, user: &UserInfo, attributes: &Attributes<'_>) -> bool {
        self.allowing(user, attributes).is_some()
    }

    /// Whether a rule allows the request, and why: the binding, or the roles that bindings name in vain.
    pub(crate) fn decide(&self, user: &UserInfo, attributes: &Attributes<'_>) -> (bool, String) {
        if let Some(grant) = self.allowing(user, attributes) {
            return (true, format!("RBAC: allowed by {}", grant.describe()));
        }
        let missing = self.missing(user, attributes.namespace());
        if missing.is_empty() {
            return (false, String::new());
        }
        (false, format!("RBAC: {}", aggregate(missing)))
    }

    /// What is said of the roles that are bound to the user and do not exist.
    pub(crate) fn missing(&self, user: &UserInfo, namespace: Option<&str>) -> Vec<String> {
        let mut seen: Vec<*const Binding> = Vec::new();
        let mut missing = Vec::new();
        for grant in self.grants(user, namespace) {
            if let Err(why) = &grant.rules
                && !seen.contains(&Arc::as_ptr(&grant.binding))
            {
                seen.push(Arc::as_ptr(&grant.binding));
                missing.push(why.to_string());
            }
        }
        missing
    }

    /// All rules that the user has in the namespace, or in all of them; each binding once.
    pub(crate) fn rules_for(&self, user: &UserInfo, namespace: Option<&str>) -> Vec<Rule> {
        let mut seen: Vec<*const Binding> = Vec::new();
        let mut rules = Vec::new();
        for grant in self.grants(user, namespace) {
            if let Ok(granted) = &grant.rules
                && !seen.contains(&Arc::as_ptr(&grant.binding))
            {
                seen.push(Arc::as_ptr(&grant.binding));
                rules.extend(granted.iter().cloned());
            }
        }
        rules
    }
}
