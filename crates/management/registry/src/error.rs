//! What a client is told when something cannot be done, with the codes of the distribution specification.

use std::io;

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::{Value, json};

/// An answer that is a refusal. Its body is `{"errors": [{"code", "message", "detail"}]}`.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
    pub(crate) detail: Value,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Result of a request.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), detail: Value::Null, headers: Vec::new() }
    }

    pub(crate) fn with_detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    pub(crate) fn with_header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::try_from(value) {
            self.headers.push((name, value));
        }
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "CONFLICT", message)
    }

    pub(crate) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "the operation is not supported here")
    }

    pub(crate) fn name_invalid(name: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "NAME_INVALID", format!("invalid repository name {name:.300?}"))
    }

    pub(crate) fn name_unknown(name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NAME_UNKNOWN",
            format!("repository {name} not known to this registry"),
        )
    }

    pub(crate) fn digest_invalid(digest: &str) -> Self {
        let message = format!("{digest:.160?} is no digest this registry knows (hint: sha256 or sha512)");
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
    }

    pub(crate) fn digest_mismatch(asked: &impl ToString, got: &impl ToString) -> Self {
        let (asked, got) = (asked.to_string(), got.to_string());
        let message = format!("provided digest {asked} did not match uploaded content {got}");
        Self::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
            .with_detail(json!({ "asked": asked, "got": got }))
    }

    pub(crate) fn blob_unknown(digest: &impl ToString) -> Self {
        let digest = digest.to_string();
        Self::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", format!("blob {digest} unknown to this repository"))
            .with_detail(json!({ "digest": digest }))
    }

    pub(crate) fn upload_unknown() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "BLOB_UPLOAD_UNKNOWN",
            "blob upload unknown to registry (hint: begin again)",
        )
    }

    pub(crate) fn upload_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", message)
    }

    pub(crate) fn size_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "SIZE_INVALID", message)
    }

    pub(crate) fn range_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", message)
    }

    pub(crate) fn manifest_unknown(selector: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", format!("manifest {selector} unknown"))
    }

    pub(crate) fn manifest_invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message)
    }

    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "DENIED", message)
    }

    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message)
            .with_header(http::header::RETRY_AFTER, "5")
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message)
            .with_header(http::header::RETRY_AFTER, "5")
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", message)
    }

    fn no_space() -> Self {
        let message =
            "no space left in the registry (hint: free disk space; nothing is lost, send it again then)";
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "UNKNOWN", message)
    }

    pub(crate) fn body(&self) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if !self.detail.is_null() {
            error["detail"] = self.detail.clone();
        }
        json!({ "errors": [error] })
    }
}

impl From<io::Error> for ApiError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::no_space(),
            _ => Self::internal(format!("storage: {error}")),
        }
    }
}

impl From<sampan_store::Error> for ApiError {
    fn from(error: sampan_store::Error) -> Self {
        match error {
            sampan_store::Error::NoSpace(_) => Self::no_space(),
            other => Self::unavailable(other.to_string()),
        }
    }
}

impl From<object_store::Error> for ApiError {
    fn from(error: object_store::Error) -> Self {
        Self::unavailable(format!("the bucket does not answer: {error}"))
    }
}

impl From<ApiError> for io::Error {
    fn from(error: ApiError) -> Self {
        io::Error::other(error.message)
    }
}

/// Why a registry cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or socket.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// The metadata.
    #[error("registry metadata: {0}")]
    Store(#[from] sampan_store::Error),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] sampan_daemon::tls::Error),
    /// The bucket.
    #[error("bucket: {0}")]
    Bucket(String),
    /// An option.
    #[error("{0}")]
    Option(String),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
