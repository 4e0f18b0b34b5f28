//! Which requests a policy or a binding is about.

use std::sync::Arc;

use sampan_api::{
    kinds::{Gvk, Resource},
    selector::LabelSelector,
    status::Status,
};
use serde_json::Value;

use super::Review;
use crate::{
    admission::webhook::{
        equivalents,
        rules::{Rule, namespace_selected, object_selected, selector},
    },
    call::text,
    core::Core,
};

/// `MatchResources`.
pub(super) struct Constraints {
    rules: Vec<Rule>,
    excludes: Vec<Rule>,
    /// Requests to equivalent resources count too.
    equivalent: bool,
    namespaces: LabelSelector,
    objects: LabelSelector,
}

/// The resource as which a request matched, and the kind that its object has there.
#[derive(Clone, Copy)]
pub(super) struct Matched {
    pub(super) resource: &'static Resource,
    pub(super) kind: Gvk,
}

impl Constraints {
    /// Nothing when there are none, or a selector is wrong.
    pub(super) fn parse(value: Option<&Value>) -> Option<Constraints> {
        let value = value.filter(|value| value.is_object())?;
        let rules = |key: &str| {
            let rules = value.get(key).and_then(Value::as_array).into_iter().flatten();
            rules.map(Rule::parse).collect::<Vec<_>>()
        };
        Some(Constraints {
            rules: rules("resourceRules"),
            excludes: rules("excludeResourceRules"),
            equivalent: text(value, "/matchPolicy") != "Exact",
            namespaces: selector(value.get("namespaceSelector"))?,
            objects: selector(value.get("objectSelector"))?,
        })
    }

    fn find(&self, core: &Core, review: &Review<'_>, rules: &[Rule]) -> Option<&'static Resource> {
        let matches = |resource: &'static Resource| rules.iter().any(|rule| rule.matches(review, resource));
        if matches(review.resource) {
            return Some(review.resource);
        }
        if !self.equivalent || rules.is_empty() {
            return None;
        }
        equivalents(core, review.resource).find(|other| matches(other))
    }

    /// Whether the request matches, and as what.
    pub(super) async fn matches(
        &self,
        core: &Arc<Core>,
        review: &Review<'_>,
    ) -> Result<Option<Matched>, Status> {
        if self.find(core, review, &self.excludes).is_some() {
            return Ok(None);
        }
        let found =
            if self.rules.is_empty() { Some(review.resource) } else { self.find(core, review, &self.rules) };
        let Some(resource) = found else { return Ok(None) };
        if !object_selected(&self.objects, review)
            || !namespace_selected(core, &self.namespaces, review).await?
        {
            return Ok(None);
        }
        let kind = if review.kind == review.resource.gvk() { resource.gvk() } else { review.kind };
        Ok(Some(Matched { resource, kind }))
    }
}
