//! Who owns whom: of each object no more than that.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::{FOREGROUND, ORPHAN};

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub api_version: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Option<Arc<str>>,
    pub name: Box<str>,
    pub uid: Arc<str>,
}

impl Identity {
    pub fn of_owner(owner: &OwnerReference, namespace: Option<&str>) -> Self {
        Self {
            api_version: owner.api_version.as_str().into(),
            kind: owner.kind.as_str().into(),
            namespace: namespace.map(Into::into),
            name: owner.name.as_str().into(),
            uid: owner.uid.as_str().into(),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.as_deref().map(|n| format!("{n}/")).unwrap_or_default();
        write!(f, "{} {namespace}{} ({})", self.kind, self.name, self.uid)
    }
}

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Work {
    /// See whether this object is garbage, or how far the deletion of its dependents has come.
    Collect(String),
    /// Let the dependents of this object go on without it.
    Orphan(String),
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Collect(uid) => write!(f, "collect {uid}"),
            Self::Orphan(uid) => write!(f, "orphan the dependents of {uid}"),
        }
    }
}

/// One object.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub id: Identity,
    /// Owners with whether they wait for this object.
    pub owners: Vec<(Arc<str>, bool)>,
    /// Named by somebody as owner, not seen itself.
    pub is_virtual: bool,
    pub deleting: bool,
    /// In foreground deletion.
    pub deletes_dependents: bool,
    orphans: bool,
    /// The resourceVersion, where it is a number.
    version: Option<u64>,
    /// It has a finalizer that says what is to become of its dependents.
    finalizes: bool,
}

impl Node {
    /// Whether this is a seen object of a namespace that is not the dependent's: it cannot own that one.
    pub fn is_elsewhere(&self, dependent: &Self) -> bool {
        !self.is_virtual && self.id.namespace.is_some() && self.id.namespace != dependent.id.namespace
    }
}

/// All objects that own or are owned, and all others, too, since each may come to be.
#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Arc<str>, Node>,
    dependents: HashMap<Arc<str>, HashSet<Arc<str>>>,
    /// Owners that went lately: nobody has to ask the API about each of them again.
    gone: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

/// So many of the owners that are gone are remembered.
const REMEMBERED: usize = 4096;

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub fn has_dependents(&self, uid: &str) -> bool {
        self.dependents.get(uid).is_some_and(|d| !d.is_empty())
    }

    fn dependent_nodes(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.nodes.get(uid))
    }

    /// What the object owns.
    pub fn dependents(&self, uid: &str) -> Vec<Identity> {
        self.dependent_nodes(uid).map(|n| n.id.clone()).collect()
    }

    /// What must be gone before the object may go: how many, and those of them that nobody deletes yet.
    pub fn blocking(&self, uid: &str) -> (usize, Vec<String>) {
        let blocks = |n: &&Node| n.owners.iter().any(|(owner, blocks)| &**owner == uid && *blocks);
        let (mut count, mut idle) = (0, Vec::new());
        for node in self.dependent_nodes(uid).filter(blocks) {
            count += 1;
            if !node.deleting {
                idle.push(node.id.uid.to_string());
            }
        }
        (count, idle)
    }

    /// The resourceVersion at which the object is garbage for certain: all of its owners are known to be gone, and nothing
    /// else is to be considered. Most garbage is such: it need not be read before it is deleted.
    pub fn certain_garbage(&self, node: &Node) -> Option<u64> {
        let absent = |(owner, _): &(Arc<str>, bool)| {
            self.is_gone(owner) && self.nodes.get(owner).is_none_or(|known| known.is_virtual)
        };
        let certain = node.id.namespace.is_some()
            && !(node.deleting || node.finalizes || node.owners.is_empty())
            && node.owners.iter().all(absent);
        node.version.filter(|_| certain)
    }

    /// Dependents that wait for dependents of their own.
    pub fn deleting_dependents_of(&self, uid: &str) -> Vec<Identity> {
        self.dependent_nodes(uid).filter(|n| n.deletes_dependents).map(|n| n.id.clone()).collect()
    }

    /// The uids of all seen objects of a kind.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Vec<Arc<str>> {
        let same = |n: &&Node| !n.is_virtual && &*n.id.api_version == api_version && &*n.id.kind == kind;
        self.nodes.values().filter(same).map(|n| n.id.uid.clone()).collect()
    }

    /// Nothing that counts here changed of an object but its version.
    pub fn renewed(&mut self, meta: &ObjectMeta) {
        if let Some(node) = meta.uid.as_deref().and_then(|uid| self.nodes.get_mut(uid)) {
            node.version = version_of(meta);
        }
    }

    /// Takes in the state of an object; returns what is to be looked at.
    pub fn observe(&mut self, id: Identity, meta: &ObjectMeta) -> Vec<Work> {
        let mut work = Vec::new();
        let uid = id.uid.clone();
        let references = meta.owner_references.as_deref().unwrap_or_default();
        let owners: Vec<(Arc<str>, bool)> = references
            .iter()
            .map(|r| (r.uid.as_str().into(), r.block_owner_deletion == Some(true)))
            .collect();
        let has = |finalizer: &str| meta.finalizers.iter().flatten().any(|f| f == finalizer);
        let deleting = meta.deletion_timestamp.is_some();
        let node = Node {
            owners: owners.clone(),
            is_virtual: false,
            deleting,
            deletes_dependents: deleting && has(FOREGROUND),
            orphans: deleting && has(ORPHAN),
            version: version_of(meta),
            finalizes: has(FOREGROUND) || has(ORPHAN),
            id,
        };
        let old = self.nodes.insert(uid.clone(), node.clone());
        let old_owners = old.as_ref().map(|n| n.owners.clone()).unwrap_or_default();
        for (owner, _) in old_owners.iter().filter(|(o, _)| owners.iter().all(|(n, _)| n != o)) {
            work.extend(self.unlink(owner, &uid));
        }
        for reference in references {
            work.extend(self.link(reference, &node));
        }
        // An owner that waits may wait no longer when a dependent has stopped to block it.
        for (owner, _) in old_owners.iter().filter(|(_, blocks)| *blocks) {
            if owners.iter().any(|(o, blocks)| o == owner && !blocks) {
                work.extend(self.wake_waiting(owner));
            }
        }
        let before = old.filter(|n| !n.is_virtual);
        if before.is_none() {
            // Seen at last, and not where they took it to be.
            let wrong = self.dependent_nodes(&uid).filter(|dependent| node.is_elsewhere(dependent));
            work.extend(wrong.map(|dependent| Work::Collect(dependent.id.uid.to_string())));
        }
        if node.orphans && before.as_ref().is_none_or(|n| !n.orphans) {
            work.push(Work::Orphan(uid.to_string()));
        }
        if node.deletes_dependents && before.as_ref().is_none_or(|n| !n.deletes_dependents) {
            let all = self.dependents.get(&uid).into_iter().flatten();
            work.extend(all.map(|d| Work::Collect(d.to_string())));
            work.push(Work::Collect(uid.to_string()));
        }
        work
    }

    /// Whether the object is known to be gone for good.
    pub fn is_gone(&self, uid: &str) -> bool {
        self.gone.contains(uid)
    }

    fn remember(&mut self, uid: Arc<str>) {
        if self.gone.insert(uid.clone()) {
            self.order.push_back(uid);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }

    /// An object is gone; returns what is to be looked at.
    pub fn gone(&mut self, uid: &str) -> Vec<Work> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        if self.has_dependents(uid) {
            self.remember(node.id.uid.clone());
        }
        let mut work: Vec<Work> =
            self.dependents.get(uid).into_iter().flatten().map(|d| Work::Collect(d.to_string())).collect();
        for (owner, _) in &node.owners {
            work.extend(self.unlink(owner, uid));
        }
        work
    }

    fn link(&mut self, owner: &OwnerReference, node: &Node) -> Option<Work> {
        let uid: Arc<str> = owner.uid.as_str().into();
        let is_new = self.dependents.entry(uid.clone()).or_default().insert(node.id.uid.clone());
        match self.nodes.get(&uid) {
            None => {
                let id = Identity::of_owner(owner, node.id.namespace.as_deref());
                let absent = Node {
                    id,
                    owners: Vec::new(),
                    is_virtual: true,
                    deleting: false,
                    deletes_dependents: false,
                    orphans: false,
                    version: None,
                    finalizes: false,
                };
                self.nodes.insert(uid, absent);
                Some(Work::Collect(owner.uid.clone()))
            }
            // Born to an owner that is going away.
            Some(known) if is_new && (known.deletes_dependents || known.is_elsewhere(node)) => {
                Some(Work::Collect(node.id.uid.to_string()))
            }
            Some(_) => None,
        }
    }

    fn unlink(&mut self, owner: &str, uid: &str) -> Option<Work> {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(uid);
            if dependents.is_empty() {
                self.dependents.remove(owner);
                if self.nodes.get(owner).is_some_and(|n| n.is_virtual) {
                    self.nodes.remove(owner);
                }
            }
        }
        self.wake_waiting(owner)
    }

    fn wake_waiting(&self, owner: &str) -> Option<Work> {
        let waits = self.nodes.get(owner).is_some_and(|n| n.deletes_dependents);
        waits.then(|| Work::Collect(owner.to_owned()))
    }
}

/// The version of an object, by which it can be deleted as it is.
fn version_of(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn id(uid: &str) -> Identity {
        Identity {
            api_version: "v1".into(),
            kind: "Thing".into(),
            namespace: Some("ns".into()),
            name: uid.into(),
            uid: uid.into(),
        }
    }

    fn observe(graph: &mut Graph, uid: &str, meta: Value) -> Vec<String> {
        let meta = serde_json::from_value(meta).unwrap();
        words(graph.observe(id(uid), &meta))
    }

    fn words(work: Vec<Work>) -> Vec<String> {
        let mut words: Vec<String> = work.iter().map(ToString::to_string).collect();
        words.sort();
        words
    }

    fn owned_by(owner: &str) -> Value {
        json!({"ownerReferences": [
            {"apiVersion": "v1", "kind": "Thing", "name": owner, "uid": owner, "blockOwnerDeletion": true}]})
    }

    #[test]
    fn an_owner_never_seen_is_checked_once() {
        let mut graph = Graph::default();
        assert_eq!(observe(&mut graph, "child", owned_by("owner")), ["collect owner"]);
        assert_eq!(observe(&mut graph, "child2", owned_by("owner")), [""; 0]);
        assert!(graph.get("owner").unwrap().is_virtual);
        assert_eq!(observe(&mut graph, "owner", json!({})), [""; 0]);
        assert_eq!(words(graph.gone("owner")), ["collect child", "collect child2"]);
        assert_eq!(words(graph.gone("child")), [""; 0]);
    }

    #[test]
    fn an_owner_in_another_namespace_is_looked_into_whoever_comes_first() {
        let elsewhere = || Identity { namespace: Some("other".into()), ..id("owner") };
        let mut graph = Graph::default();
        graph.observe(elsewhere(), &ObjectMeta::default());
        assert_eq!(observe(&mut graph, "child", owned_by("owner")), ["collect child"]);
        let mut graph = Graph::default();
        assert_eq!(observe(&mut graph, "child", owned_by("owner")), ["collect owner"]);
        assert_eq!(words(graph.observe(elsewhere(), &ObjectMeta::default())), ["collect child"]);
    }

    #[test]
    fn foreground_waits_for_what_blocks() {
        let mut graph = Graph::default();
        observe(&mut graph, "owner", json!({}));
        observe(&mut graph, "child", owned_by("owner"));
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FOREGROUND]});
        assert_eq!(observe(&mut graph, "owner", going), ["collect child", "collect owner"]);
        assert_eq!(graph.blocking("owner"), (1, vec!["child".to_owned()]));
        let mut child = owned_by("owner");
        child["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        observe(&mut graph, "child", child);
        assert_eq!(graph.blocking("owner"), (1, Vec::new()), "it is going already");
        assert_eq!(words(graph.gone("child")), ["collect owner"]);
        assert_eq!(graph.blocking("owner").0, 0);
    }

    #[test]
    fn garbage_is_certain_only_when_every_owner_is_gone_and_nothing_else_counts() {
        let mut graph = Graph::default();
        observe(&mut graph, "owner", json!({}));
        observe(&mut graph, "other", json!({}));
        let mut child = owned_by("owner");
        child["resourceVersion"] = "7".into();
        observe(&mut graph, "child", child.clone());
        let certain = |graph: &Graph| graph.certain_garbage(graph.get("child").unwrap());
        assert_eq!(certain(&graph), None);
        graph.gone("owner");
        assert_eq!(certain(&graph), Some(7));
        let mut shared = child.clone();
        let references = shared["ownerReferences"].as_array_mut().unwrap();
        references.push(owned_by("other")["ownerReferences"][0].clone());
        observe(&mut graph, "child", shared);
        assert_eq!(certain(&graph), None, "the other owner is there");
        child["finalizers"] = json!([ORPHAN]);
        observe(&mut graph, "child", child);
        assert_eq!(certain(&graph), None, "its dependents are to be orphaned");
    }

    #[test]
    fn orphaning_is_asked_for_once() {
        let mut graph = Graph::default();
        observe(&mut graph, "owner", json!({}));
        observe(&mut graph, "child", owned_by("owner"));
        let going = json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [ORPHAN]});
        assert_eq!(observe(&mut graph, "owner", going.clone()), ["orphan the dependents of owner"]);
        assert_eq!(observe(&mut graph, "owner", going), [""; 0]);
        assert_eq!(observe(&mut graph, "child", json!({})), [""; 0]);
        assert!(!graph.has_dependents("owner"));
    }
}
