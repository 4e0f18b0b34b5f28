//! What an expression may refer to.

use std::sync::Arc;

use crate::declare::Declared;

/// The variables that are declared, by name; a name may be qualified (`authorizer.requestResource`).
#[derive(Debug, Clone, Default)]
pub struct Environment {
    variables: Vec<(String, Declared)>,
    patches: bool,
}

impl Environment {
    /// Without variables, with Kubernetes' whole library.
    pub fn new() -> Environment {
        Environment::default()
    }

    /// Declares a variable more. Those declared before keep their place, so that [`crate::Bindings`] for the larger
    /// environment serve programs of the smaller one.
    #[must_use]
    pub fn with(mut self, name: &str, declared: Declared) -> Environment {
        self.variables.push((name.to_owned(), declared));
        self
    }

    /// Allows the types of mutations: `Object{...}` and what is below it, `JSONPatch{...}`, jsonpatch.escapeKey.
    #[must_use]
    pub fn with_patches(mut self) -> Environment {
        self.patches = true;
        self
    }

    /// The same, for many programs.
    pub fn share(self) -> Arc<Environment> {
        Arc::new(self)
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.variables.iter().rposition(|(variable, _)| variable == name)
    }

    pub(crate) fn variable(&self, slot: usize) -> Option<&(String, Declared)> {
        self.variables.get(slot)
    }

    pub(crate) fn len(&self) -> usize {
        self.variables.len()
    }

    pub(crate) fn patches(&self) -> bool {
        self.patches
    }
}
