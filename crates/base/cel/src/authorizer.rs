//! The question that expressions may ask about authorization.

/// Answers checks of `authorizer` variables, on behalf of the request's user.
pub trait Authorizer {
    /// Decides one check. A service account stands in for the request's user where the expression named one.
    fn decide(&self, account: Option<&ServiceAccount>, check: &Check) -> Decision;
}

/// A service account for which an expression asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A verb on a path that is no resource.
    Path {
        /// The path.
        path: String,
        /// The HTTP verb, lower case.
        verb: String,
    },
    /// A verb on a resource; what is empty was not named.
    Resource {
        /// The API group.
        group: String,
        /// The plural.
        resource: String,
        /// The subresource.
        subresource: String,
        /// The namespace.
        namespace: String,
        /// The object.
        name: String,
        /// The text of a field selector.
        field_selector: String,
        /// The text of a label selector.
        label_selector: String,
        /// The API verb.
        verb: String,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong while deciding.
    pub error: Option<String>,
}
