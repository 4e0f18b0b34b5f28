//! The node authorizer: a node may read what its own pods need, and write what is its own.
//!
//! Reasons are those of Kubernetes' node authorizer
//! (<https://kubernetes.io/docs/reference/access-authn-authz/node/>). What a pod refers to is known from a mirror of the
//! pods; until it is filled, which at 100,000 pods takes a moment after the start, nodes are refused and try again.

mod relations;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use sampan_api::status::go_quote;
use sampan_daemon::{Backoff, Policy as Restart};
use sampan_store::{Revision, Store};

use self::relations::{Attached, Interner, Needed, Pod, Volume};
use super::{
    Attributes, Verdict,
    rule::{self, Rule},
};
use crate::{core::Core, mirror::Mirror, request::Target, user::UserInfo};

const PODS: &str = "/registry/core/pods/";
const VOLUMES: &str = "/registry/core/persistentvolumes/";
const ATTACHMENTS: &str = "/registry/storage.k8s.io/volumeattachments/";
const SLICES: &str = "/registry/resource.k8s.io/resourceslices/";

/// The mirrors, once they are filled.
struct Graph {
    pods: Arc<Mirror<Pod>>,
    volumes: Arc<Mirror<Volume>>,
    attachments: Arc<Mirror<Attached>>,
    slices: Arc<Mirror<Attached>>,
}

/// Decides for nodes.
#[derive(Default)]
pub(crate) struct Nodes {
    graph: OnceLock<Graph>,
}

fn yes() -> Verdict {
    Verdict { allowed: true, reason: String::new() }
}

fn no(reason: impl Into<String>) -> Verdict {
    Verdict { allowed: false, reason: reason.into() }
}

/// A node's request to a resource.
struct Ask<'a> {
    node: &'a str,
    verb: &'a str,
    target: &'a Target,
    fields: Option<&'a str>,
}

impl<'a> Ask<'a> {
    fn sub(&self) -> &'a str {
        self.target.subresource.as_deref().unwrap_or_default()
    }

    fn name(&self) -> &'a str {
        self.target.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &'a str {
        self.target.namespace.as_deref().unwrap_or_default()
    }

    /// Whether the field selector asks for this node's objects only.
    fn selects(&self, field: &str) -> bool {
        let terms = self.fields.unwrap_or_default().split(',').map(str::trim);
        terms.filter(|term| !term.contains("!=")).any(|term| {
            term.split_once('=').is_some_and(|(name, value)| {
                name.trim() == field && value.strip_prefix('=').unwrap_or(value).trim() == self.node
            })
        })
    }
}

impl Nodes {
    /// Waits until what this server wrote of pods and volumes is known.
    pub(crate) async fn settle(&self) {
        if let Some(graph) = self.graph.get() {
            graph.pods.settle().await;
            graph.volumes.settle().await;
        }
    }

    /// The keys below `prefix` of the pods that were on a node at a revision after every write that this server has
    /// answered. None while that is not known.
    pub(crate) async fn pods_on(&self, node: &str, prefix: &[u8]) -> Option<(Vec<Bytes>, Revision)> {
        let pods = &self.graph.get()?.pods;
        if pods.settle().await { pods.keys_of(node, prefix) } else { None }
    }

    /// What is decided about a node's request; nothing for anybody else.
    pub(crate) fn decide(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Option<Verdict> {
        let node = user.name.strip_prefix("system:node:")?;
        if !user.in_group("system:nodes") {
            return None;
        }
        if node.is_empty() {
            return Some(no(format!("unknown node for user {}", go_quote(&user.name))));
        }
        let Attributes::Resource { verb, target, fields } = attributes else {
            return Some(uniform(attributes));
        };
        let ask = Ask { node, verb, target, fields: *fields };
        Some(match (target.group.as_str(), target.resource.as_str()) {
            ("", "secrets") => self.read(&ask, |graph| graph.secret(&ask)),
            ("", "configmaps") => self.read(&ask, |graph| graph.needed(&ask, Needed::ConfigMap)),
            ("", "persistentvolumeclaims") if ask.sub() == "status" => match ask.verb {
                "update" | "patch" => self.related(&ask, |graph| graph.needed(&ask, Needed::Claim)),
                _ => no("can only get/update/patch this type"),
            },
            ("", "persistentvolumeclaims") => self.get(&ask, |graph| graph.needed(&ask, Needed::Claim)),
            ("", "persistentvolumes") => self.get(&ask, |graph| graph.volume(&ask)),
            ("resource.k8s.io", "resourceclaims") => {
                self.get(&ask, |graph| graph.needed(&ask, Needed::ResourceClaim))
            }
            ("storage.k8s.io", "volumeattachments") => {
                self.get(&ask, |graph| graph.attached(&graph.attachments, ATTACHMENTS, &ask))
            }
            ("", "serviceaccounts") => self.account(&ask),
            ("coordination.k8s.io", "leases") => lease(&ask),
            ("storage.k8s.io", "csinodes") => csi_node(&ask),
            ("topology.node.k8s.io", "noderesourcetopologies") => topology(&ask),
            ("resource.k8s.io", "resourceslices") => self.slice(&ask),
            ("", "nodes") => own_node(&ask),
            ("", "pods") => self.pod(&ask),
            _ => uniform(attributes),
        })
    }

    fn related(&self, ask: &Ask<'_>, related: impl Fn(&Graph) -> bool) -> Verdict {
        if ask.name().is_empty() {
            return no("No Object name found");
        }
        if self.graph.get().is_some_and(related) {
            return yes();
        }
        no(format!("no relationship found between node '{}' and this object", ask.node))
    }

    fn read(&self, ask: &Ask<'_>, related: impl Fn(&Graph) -> bool) -> Verdict {
        if !matches!(ask.verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !ask.sub().is_empty() {
            return no("cannot read subresource");
        }
        if ask.namespace().is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(ask, related)
    }

    fn get(&self, ask: &Ask<'_>, related: impl Fn(&Graph) -> bool) -> Verdict {
        if ask.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !ask.sub().is_empty() {
            return no("cannot get subresource");
        }
        self.related(ask, related)
    }

    fn account(&self, ask: &Ask<'_>) -> Verdict {
        let related = |graph: &Graph| graph.needed(ask, Needed::ServiceAccount);
        if ask.verb == "get" && ask.sub().is_empty() {
            return self.read(ask, related);
        }
        if ask.verb != "create" || ask.name().is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if ask.sub() != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(ask, related)
    }

    fn slice(&self, ask: &Ask<'_>) -> Verdict {
        if !ask.sub().is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match ask.verb {
            "create" => yes(),
            "get" | "update" | "patch" | "delete" => {
                self.related(ask, |graph| graph.attached(&graph.slices, SLICES, ask))
            }
            "watch" | "list" | "deletecollection" if ask.selects("spec.nodeName") => yes(),
            "watch" | "list" | "deletecollection" => {
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn pod(&self, ask: &Ask<'_>) -> Verdict {
        let bound = |graph: &Graph| graph.pod(ask);
        match (ask.sub(), ask.verb) {
            ("", "get") => self.get(ask, bound),
            ("", "list" | "watch") if ask.selects("spec.nodeName") => yes(),
            ("", "list" | "watch") if !ask.name().is_empty() => self.related(ask, bound),
            ("", "list" | "watch") => no("can only list/watch pods with spec.nodeName field selector"),
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => yes(),
            _ => no(""),
        }
    }
}

fn lease(ask: &Ask<'_>) -> Verdict {
    if !matches!(ask.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if ask.namespace() != "kube-node-lease" {
        return no("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if ask.verb != "create" && ask.name() != ask.node {
        return no("can only access node lease with the same name as the requesting node");
    }
    yes()
}

fn csi_node(ask: &Ask<'_>) -> Verdict {
    if !matches!(ask.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !ask.sub().is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if ask.verb != "create" && ask.name() != ask.node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    yes()
}

/// Not of Kubernetes: what a node says of its own zones.
fn topology(ask: &Ask<'_>) -> Verdict {
    if !matches!(ask.verb, "get" | "create" | "update" | "patch" | "delete") || !ask.sub().is_empty() {
        return no("can only get, create, update, patch, or delete a NodeResourceTopology");
    }
    if ask.verb != "create" && ask.name() != ask.node {
        return no("can only access NodeResourceTopology with the same name as the requesting node");
    }
    yes()
}

fn own_node(ask: &Ask<'_>) -> Verdict {
    match (ask.sub(), ask.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
        ("", "get" | "list" | "watch") => match ask.name() {
            name if name == ask.node => yes(),
            "" => no(format!("node '{}' cannot read all nodes, only its own Node object", ask.node)),
            name => no(format!("node '{}' cannot read '{name}', only its own Node object", ask.node)),
        },
        _ => no(""),
    }
}

/// What is the same for all nodes: the rules of the role `system:node`.
fn uniform(attributes: &Attributes<'_>) -> Verdict {
    static RULES: OnceLock<Vec<Rule>> = OnceLock::new();
    let rules = RULES.get_or_init(|| super::bootstrap::rules_of("system:node"));
    let bit = rule::verb_bit(attributes.verb());
    if rules.iter().any(|rule| rule.allows(attributes, bit)) { yes() } else { no("") }
}

impl Graph {
    async fn open(core: &Core, store: &Arc<dyn Store>) -> sampan_store::Result<Self> {
        let interner = Interner::default();
        let supervisor = &core.supervisor;
        let graph = Self {
            volumes: Mirror::open(VOLUMES, store.clone(), supervisor, relations::volume).await?,
            attachments: Mirror::open(ATTACHMENTS, store.clone(), supervisor, relations::attached).await?,
            slices: Mirror::open(SLICES, store.clone(), supervisor, relations::attached).await?,
            pods: Mirror::open_grouped(
                PODS,
                store.clone(),
                supervisor,
                move |kv| interner.pod(kv),
                |pod: &Pod| &pod.node,
            )
            .await?,
        };
        core.written.register(&graph.pods);
        core.written.register(&graph.volumes);
        Ok(graph)
    }

    /// Whether a pod of the node needs the object. Looks through the node's pods of one namespace, without copying.
    fn any_pod(&self, node: &str, namespace: &str, kind: Needed, name: &str) -> bool {
        let prefix = format!("{PODS}{namespace}/");
        self.pods.any_of(node, prefix.as_bytes(), |pod| pod.needs(kind, name))
    }

    fn needed(&self, ask: &Ask<'_>, kind: Needed) -> bool {
        self.any_pod(ask.node, ask.namespace(), kind, ask.name())
    }

    fn secret(&self, ask: &Ask<'_>) -> bool {
        self.needed(ask, Needed::Secret)
            || self.volumes.any(VOLUMES.as_bytes(), |volume| {
                volume.secrets.iter().any(|(ns, name)| **ns == *ask.namespace() && **name == *ask.name())
                    && self.any_pod(ask.node, &volume.claim.0, Needed::Claim, &volume.claim.1)
            })
    }

    fn volume(&self, ask: &Ask<'_>) -> bool {
        let volume = self.volumes.get(format!("{VOLUMES}{}", ask.name()).as_bytes());
        volume.is_some_and(|volume| self.any_pod(ask.node, &volume.claim.0, Needed::Claim, &volume.claim.1))
    }

    fn pod(&self, ask: &Ask<'_>) -> bool {
        let pod = self.pods.get(format!("{PODS}{}/{}", ask.namespace(), ask.name()).as_bytes());
        pod.is_some_and(|pod| *pod.node == *ask.node)
    }

    fn attached(&self, mirror: &Mirror<Attached>, prefix: &str, ask: &Ask<'_>) -> bool {
        let object = mirror.get(format!("{prefix}{}", ask.name()).as_bytes());
        object.is_some_and(|object| *object.node == *ask.node)
    }
}

/// Fills the mirrors, beside the start.
pub(crate) fn start(core: &Arc<Core>) {
    let task = core.clone();
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    core.supervisor.supervise("node-authorizer", Restart::Restart(backoff), move || {
        let core = task.clone();
        async move {
            if core.authz.nodes.graph.get().is_none() {
                let graph = Graph::open(&core, &core.options.store).await?;
                let _ = core.authz.nodes.graph.set(graph);
            }
            sampan_store::Result::<()>::Ok(())
        }
    });
}

#[cfg(test)]
mod tests;
