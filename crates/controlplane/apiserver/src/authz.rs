//! Who may do what. One seam, [`Core::authorize`], for every request: members of `system:masters` everything, nodes what
//! concerns them ([`node`]), everybody what roles grant ([`policy`]).

pub(crate) mod bootstrap;
pub(crate) mod escalation;
pub(crate) mod node;
pub(crate) mod policy;
pub(crate) mod rule;

use std::{
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use sampan_api::status::{Status, go_quote};
use sampan_daemon::{Backoff, Policy as Restart};
use sampan_store::Revision;
use tokio::sync::watch;

use self::{
    node::Nodes,
    policy::{PREFIX, Policy, Stored},
};
use crate::{core::Core, mirror::Mirror, request::Target, storage::store_error, user::UserInfo};

/// How long the answer to a change of a role or a binding waits until the change is in force.
const IN_FORCE: Duration = Duration::from_secs(2);

/// The group whose members may do everything.
const MASTERS: &str = "system:masters";

/// What a request wants to do, as an authorizer sees it.
#[derive(Clone, Debug)]
pub(crate) enum Attributes<'a> {
    /// Something with a resource.
    Resource {
        /// `get`, `list`, …
        verb: &'a str,
        /// Which.
        target: &'a Target,
        /// The field selector, for a request that has one.
        fields: Option<&'a str>,
    },
    /// A path that is no resource, discovery for example.
    Path {
        /// The method in lower case.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
}

impl<'a> Attributes<'a> {
    /// Something with a resource.
    pub(crate) fn resource(verb: &'a str, target: &'a Target) -> Self {
        Self::Resource { verb, target, fields: None }
    }

    pub(crate) fn verb(&self) -> &'a str {
        match self {
            Self::Resource { verb, .. } | Self::Path { verb, .. } => verb,
        }
    }

    pub(crate) fn namespace(&self) -> Option<&'a str> {
        match self {
            Self::Resource { target, .. } => {
                target.namespace.as_deref().filter(|namespace| !namespace.is_empty())
            }
            Self::Path { .. } => None,
        }
    }
}

/// A decision with its reason, which is empty where Kubernetes' own authorizers give none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    pub(crate) reason: String,
}

/// What decides.
pub(crate) struct Authorizer {
    policy: RwLock<Arc<Policy>>,
    /// Everything up to this revision is in force.
    compiled: watch::Sender<Revision>,
    mirror: OnceLock<Arc<Mirror<Stored>>>,
    pub(crate) nodes: Nodes,
}

impl Default for Authorizer {
    fn default() -> Self {
        Self {
            policy: RwLock::default(),
            compiled: watch::Sender::new(0),
            mirror: OnceLock::new(),
            nodes: Nodes::default(),
        }
    }
}

impl Authorizer {
    pub(crate) fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn install(&self, policy: Policy, revision: Revision) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
        self.compiled.send_replace(revision);
    }

    /// Whether the user may; the cheap way.
    pub(crate) fn allows(&self, user: &UserInfo, attributes: &Attributes<'_>) -> bool {
        user.in_group(MASTERS)
            || self.nodes.decide(user, attributes).is_some_and(|verdict| verdict.allowed)
            || self.policy.read().unwrap_or_else(PoisonError::into_inner).allows(user, attributes)
    }

    /// Whether the user may, and why.
    pub(crate) fn decide(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Verdict {
        if user.in_group(MASTERS) {
            return Verdict { allowed: true, reason: String::new() };
        }
        let node = self.nodes.decide(user, attributes);
        if let Some(verdict) = node.as_ref().filter(|verdict| verdict.allowed) {
            return verdict.clone();
        }
        let (allowed, reason) = self.policy().decide(user, attributes);
        if allowed {
            return Verdict { allowed, reason };
        }
        let reasons = [node.map(|verdict| verdict.reason).unwrap_or_default(), reason];
        let reasons: Vec<String> = reasons.into_iter().filter(|reason| !reason.is_empty()).collect();
        Verdict { allowed, reason: reasons.join("\n") }
    }

    /// A refusal may be owed to not knowing yet of a pod that was just bound to the asking node: waits until it is known.
    pub(crate) async fn second_thought(&self, user: &UserInfo) {
        if user.in_group("system:nodes") {
            self.nodes.settle().await;
        }
    }

    /// Waits until what this server changed is in force, so that whoever grants something can use it at once.
    pub(crate) async fn settle(&self) {
        let Some(mirror) = self.mirror.get() else { return };
        mirror.settle().await;
        let shown = *mirror.changes().borrow();
        let mut compiled = self.compiled.subscribe();
        // Late is not wrong: the change comes into force by itself.
        let _ = tokio::time::timeout(IN_FORCE, compiled.wait_for(|at| *at >= shown)).await;
    }
}

/// Reads roles and bindings, and follows them.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn start(core: &Arc<Core>) -> Result<(), Status> {
    let supervisor = &core.supervisor;
    let mirror = Mirror::open(PREFIX, core.options.store.clone(), supervisor, policy::parse)
        .await
        .map_err(|error| store_error(&error))?;
    core.written.register(&mirror);
    let _ = core.authz.mirror.set(mirror.clone());
    let changes = mirror.changes();
    let revision = *changes.borrow();
    core.authz.install(Policy::compile(&mirror.objects()), revision);
    let core = core.clone();
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    supervisor.supervise("rbac", Restart::Restart(backoff), move || {
        let (core, mirror, mut changes) = (core.clone(), mirror.clone(), changes.clone());
        async move {
            while changes.changed().await.is_ok() {
                let revision = *changes.borrow_and_update();
                core.authz.install(Policy::compile(&mirror.objects()), revision);
            }
            Ok::<(), std::convert::Infallible>(())
        }
    });
    Ok(())
}

impl Core {
    /// Lets pass what the user may do, and refuses the rest with Kubernetes' sentence.
    pub(crate) fn authorize(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Result<(), Status> {
        if self.authz.allows(user, attributes) {
            return Ok(());
        }
        Err(forbidden(user, attributes, &self.authz.decide(user, attributes).reason))
    }

    /// Whether the user may, and why.
    pub(crate) fn decide(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Verdict {
        self.authz.decide(user, attributes)
    }
}

/// Text as it may stand in a page: Kubernetes' API server escapes what a refusal repeats.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// 403 with Kubernetes' sentence.
pub(crate) fn forbidden(user: &UserInfo, attributes: &Attributes<'_>, reason: &str) -> Status {
    let because = |sentence: String| {
        let sentence = escape(&sentence);
        if reason.is_empty() { sentence } else { format!("{sentence}: {reason}") }
    };
    match attributes {
        Attributes::Path { verb, path } => {
            let sentence = format!("User {} cannot {verb} path {}", go_quote(&user.name), go_quote(path));
            Status::forbidden(("", ""), "", because(sentence))
        }
        Attributes::Resource { verb, target, .. } => {
            let resource = match &target.subresource {
                Some(sub) if !sub.is_empty() => format!("{}/{sub}", target.resource),
                _ => target.resource.clone(),
            };
            let scope = match attributes.namespace() {
                Some(namespace) => format!("in the namespace {}", go_quote(namespace)),
                None => "at the cluster scope".to_owned(),
            };
            let sentence = format!(
                "User {} cannot {verb} resource {} in API group {} {scope}",
                go_quote(&user.name),
                go_quote(&resource),
                go_quote(&target.group),
            );
            let name = target.name.as_deref().unwrap_or_default();
            Status::forbidden((target.group.as_str(), target.resource.as_str()), name, because(sentence))
        }
    }
}

#[cfg(test)]
mod tests;
