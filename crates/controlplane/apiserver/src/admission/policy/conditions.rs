//! Conditions in CEL under which a webhook is asked.

use std::sync::Arc;

use sampan_api::kinds::{Gvk, Resource};
use sampan_cel::{Environment, Program};
use serde_json::Value;

use super::{
    Review,
    compile::{Compiler, Wrong, conditions, environment},
    input::{Asker, Input, hold},
    matching::Matched,
};
use crate::core::Core;

/// The match conditions of a webhook, compiled.
pub(crate) struct Conditions {
    environment: Arc<Environment>,
    programs: Vec<(String, Program)>,
    /// Why they cannot be evaluated at all.
    broken: Option<String>,
}

impl Conditions {
    /// Those of a webhook; nothing when it has none.
    pub(crate) fn compile(hook: &Value) -> Option<Conditions> {
        hook.get("matchConditions").and_then(Value::as_array).filter(|list| !list.is_empty())?;
        Some(Conditions::build(hook).0)
    }

    /// What does not compile.
    pub(super) fn wrong(hook: &Value) -> Vec<Wrong> {
        Conditions::build(hook).1
    }

    fn build(hook: &Value) -> (Conditions, Vec<Wrong>) {
        let mut compiler = Compiler::new(environment(false).share());
        let programs = conditions(&mut compiler, hook);
        let Compiler { environment, wrong } = compiler;
        let broken = wrong.first().map(|wrong| wrong.detail.clone());
        (Conditions { environment, programs, broken }, wrong)
    }

    /// Whether all hold for an object in the form that the webhook wants.
    ///
    /// # Errors
    /// A sentence: none is false, and one fails.
    pub(crate) fn hold(
        &self,
        core: &Core,
        review: &Review<'_>,
        resource: &'static Resource,
        kind: Gvk,
    ) -> Result<bool, String> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let matched = Matched { resource, kind };
        let input = Input::new(review, &matched, &review.object, review.old, &Value::Null);
        let bindings = input.bind_to(&self.environment, &Value::Null);
        hold(&self.programs, &bindings, &Asker { core, user: &review.call.user })
    }
}
