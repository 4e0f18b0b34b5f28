//! What can go wrong, and which of it is only a race lost.

/// A controller could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused or could not be reached.
    #[error("{what}: {}", said(source))]
    Api {
        /// What was tried, with the object.
        what: String,
        /// The answer.
        source: Box<kube::Error>,
    },
    /// Something in an object makes no sense.
    #[error("{object}: {problem}")]
    Object {
        /// Kind, namespace and name.
        object: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn code(&self) -> u16 {
        match self {
            Self::Api { source, .. } => code(source),
            Self::Object { .. } => 0,
        }
    }

    /// Somebody else was faster: the cache will tell, and the next try will see it.
    pub fn is_race(&self) -> bool {
        matches!(self.code(), 404 | 409)
    }

    /// The namespace goes, and its objects with it: nobody has to hear of it.
    pub fn is_end_of_namespace(&self) -> bool {
        matches!(self, Self::Api { source, .. } if namespace_ends(source))
    }

    /// What the API said, or what is wrong with the object: for conditions and Events.
    pub fn said(&self) -> String {
        match self {
            Self::Api { source, .. } => said(source),
            Self::Object { problem, .. } => problem.clone(),
        }
    }

    /// The object is gone.
    pub fn is_gone(&self) -> bool {
        self.code() == 404
    }
}

/// What the API said, without its structure.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The HTTP status of an answer, 0 when there was none.
pub(crate) fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// Whether nothing can be created in the namespace any more: there is no use in trying again.
pub(crate) fn namespace_ends(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403
        && (causes.any(|cause| cause.reason == "NamespaceTerminating")
            || status.message.contains("because it is being terminated"))
}

/// Names what was tried.
pub(crate) trait Context<T> {
    /// Wraps the error with what was tried.
    fn during(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for Result<T, kube::Error> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Api { what: what(), source: Box::new(source) })
    }
}

/// An object that is gone already is as good as done.
pub(crate) fn gone_is_fine<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(error) if code(&error) == 404 => Ok(()),
        other => other.map(drop),
    }
}
