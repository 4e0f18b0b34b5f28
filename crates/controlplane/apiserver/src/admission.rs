//! What is decided about a request that would change something, once it is known to be well-formed and permitted.
//!
//! [`mutate`] completes the object, [`validate`] refuses it; between the two the caller prepares and checks what
//! came out, so that nothing that a plugin adds goes unchecked. [`quota::charge`] comes last and inside the loop that
//! stores, because what it decides is part of the transaction. The order is that of Kubernetes' plugins
//! (`pkg/kubeapiserver/options/plugins.go`). Nothing is copied or parsed for a plugin that has nothing to say.

pub(crate) mod account;
mod certificates;
mod classes;
pub(crate) mod events;
mod instances;
mod limits;
pub(crate) mod namespace;
mod nodes;
mod podsecurity;
pub(crate) mod policy;
mod priority;
pub(crate) mod quota;
mod runtime;
mod seats;
pub(crate) mod state;
pub(crate) mod webhook;

use std::sync::Arc;

use sampan_api::{
    kinds::{Gvk, Resource},
    status::Status,
    strategy,
};
use sampan_store::Compare;
use serde_json::Value;

use crate::{
    authz::escalation,
    call::{Call, text},
    core::Core,
};

/// What a request would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Make an object, or act through a subresource that takes a POST.
    Create,
    /// Change an object or a part of it.
    Update,
    /// Remove an object.
    Delete,
    /// Open a stream to what an object stands for.
    Connect,
}

impl Operation {
    /// The word of `AdmissionReview`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// One object on its way in (or out), with what is known of the request.
pub(crate) struct Review<'a> {
    /// Who asks, how, and where warnings and audit annotations go.
    pub(crate) call: &'a Call,
    /// What is about to happen.
    pub(crate) operation: Operation,
    /// The resource that the path names.
    pub(crate) resource: &'static Resource,
    /// The subresource that the path names; empty for the object itself.
    pub(crate) subresource: &'a str,
    /// The kind of `object`: a subresource may have its own.
    pub(crate) kind: Gvk,
    /// The object as it would be; `null` for a delete.
    pub(crate) object: Value,
    /// The object as it is stored, for an update or a delete.
    pub(crate) old: Option<&'a Value>,
    /// Nothing is to be changed in earnest.
    pub(crate) dry_run: bool,
    /// What the transaction has to demand for the decision to hold.
    pub(crate) guard: namespace::Guard,
    /// A policy or a webhook changed what plugins, policies and other webhooks have seen.
    pub(crate) again: bool,
    /// What mutating policies have done so far.
    pub(crate) policies: policy::Progress,
    /// What webhooks have done so far.
    pub(crate) hooks: webhook::Progress,
}

impl<'a> Review<'a> {
    /// The request with the object it carries.
    pub(crate) fn new(call: &'a Call, operation: Operation, object: Value, dry_run: bool) -> Self {
        Self {
            call,
            operation,
            resource: call.endpoint.resource,
            subresource: call.target.subresource.as_deref().unwrap_or_default(),
            kind: call.body_kind(),
            object,
            old: None,
            dry_run,
            guard: None,
            again: false,
            policies: policy::Progress::default(),
            hooks: webhook::Progress::default(),
        }
    }

    /// The same, of an object that is there already.
    #[must_use]
    pub(crate) fn over(mut self, old: &'a Value) -> Self {
        self.old = Some(old);
        self
    }

    /// The namespace; for a namespace itself its own name, as everywhere in admission.
    pub(crate) fn namespace(&self) -> Option<&str> {
        if self.is("", "namespaces") {
            return Some(self.name()).filter(|name| !name.is_empty());
        }
        self.call.namespace().filter(|_| self.resource.namespaced)
    }

    /// The object's name; empty while it is still to be generated.
    pub(crate) fn name(&self) -> &str {
        let named = self.call.name();
        if !named.is_empty() {
            return named;
        }
        match self.old {
            // One of many that are deleted together.
            Some(old) => text(old, "/metadata/name"),
            None => text(&self.object, "/metadata/name"),
        }
    }

    /// Whether the request is about this resource.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.plural == plural && self.resource.group == group
    }

    /// Whether the request is about objects of this resource, not about a part of one.
    pub(crate) fn is_main(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty() && self.is(group, plural)
    }

    /// 403 as plugins word it.
    pub(crate) fn forbidden(&self, why: impl std::fmt::Display) -> Status {
        let generated = text(&self.object, "/metadata/generateName");
        let name = [self.name(), generated].into_iter().find(|name| !name.is_empty());
        Status::forbidden(self.resource, name.unwrap_or("Unknown"), why)
    }
}

/// Completes the object; a refusal is final.
pub(crate) async fn mutate(core: &Arc<Core>, review: &mut Review<'_>) -> Result<(), Status> {
    plugins(core, review).await?;
    policy::mutate(core, review, 0).await?;
    webhook::mutate(core, review).await?;
    if std::mem::take(&mut review.again) {
        // What was changed may be for the plugins, and for those that came before, to complete.
        plugins(core, review).await?;
        policy::mutate(core, review, 1).await?;
        webhook::mutate_again(core, review).await?;
    }
    escalation::check(core, review)
}

/// The mutating plugins, in order.
async fn plugins(core: &Arc<Core>, review: &mut Review<'_>) -> Result<(), Status> {
    namespace::admit(core, review).await?;
    if !review.resource.group.is_empty() || review.operation == Operation::Connect {
        return match (review.resource.group, review.resource.plural) {
            ("networking.k8s.io", "ingresses") => classes::default_ingress(core, review).await,
            ("storage.k8s.io", "volumeattributesclasses") => Ok(()),
            _ => nodes::restrict(core, review).await,
        };
    }
    match review.resource.plural {
        "pods" => {
            // First, so that defaults of a namespace are for what the type leaves open.
            instances::complete(core, review).await?;
            limits::complete(core, review).await?;
            if review.operation == Operation::Create && review.subresource.is_empty() {
                account::pod(core, review).await?;
            }
            nodes::restrict(core, review).await?;
            priority::complete(core, review).await?;
            if review.subresource.is_empty() && review.operation != Operation::Delete {
                strategy::add_default_tolerations(&mut review.object);
            }
            runtime::complete(core, review).await?;
            nodes::topology_labels(core, review).await
        }
        "nodes" => {
            nodes::restrict(core, review).await?;
            nodes::taint(review);
            Ok(())
        }
        "events" => {
            nodes::restrict(core, review).await?;
            events::limit(core, review)
        }
        "persistentvolumeclaims" => {
            nodes::restrict(core, review).await?;
            classes::default_storage(core, review).await?;
            classes::protect(review, "kubernetes.io/pvc-protection")
        }
        "persistentvolumes" => {
            nodes::restrict(core, review).await?;
            classes::protect(review, "kubernetes.io/pv-protection")
        }
        _ => nodes::restrict(core, review).await,
    }
}

/// Refuses an object that is complete and well-formed.
pub(crate) async fn validate(core: &Arc<Core>, review: &mut Review<'_>) -> Result<(), Status> {
    match (review.resource.group, review.resource.plural) {
        ("", "pods") => {
            seats::check(review)?;
            limits::check(core, review).await?;
            podsecurity::check(core, review).await?;
            runtime::check(core, review).await?;
        }
        ("", "persistentvolumeclaims") => {
            limits::check(core, review).await?;
            classes::resize(core, review).await?;
        }
        ("", "namespaces" | "replicationcontrollers" | "podtemplates") | ("apps" | "batch", _) => {
            podsecurity::check(core, review).await?;
        }
        ("scheduling.k8s.io", "priorityclasses") => priority::check(core, review).await?,
        ("certificates.k8s.io", _) => certificates::check(core, review)?,
        _ => {}
    }
    policy::validate(core, review).await?;
    webhook::validate(core, review).await
}

/// [`mutate`] and [`validate`] for what is not stored or has nothing to check in between.
pub(crate) async fn decide(core: &Arc<Core>, review: &mut Review<'_>) -> Result<(), Status> {
    mutate(core, review).await?;
    validate(core, review).await
}

/// What a transaction has to demand besides, for admission's decisions to hold.
pub(crate) fn conditions(review: &Review<'_>, charges: &quota::Charges) -> Vec<Compare> {
    review.guard.iter().chain(&charges.compare).cloned().collect()
}
