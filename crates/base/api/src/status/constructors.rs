//! One constructor for each refusal that Kubernetes knows, with its code, reason and sentence.

use std::fmt::Display;

use super::{Cause, Details, FieldError, GroupKind, GroupResource, Status, aggregate, go_quote};

/// Said when the object changed between the client's read and its write.
const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

fn details(resource: &GroupResource<'_>, name: &str) -> Details {
    Details {
        name: name.to_owned(),
        group: resource.group.to_string(),
        kind: resource.resource.to_string(),
        ..Details::default()
    }
}

/// What is there already or not there.
impl Status {
    /// 404 `NotFound`: `pods "x" not found`.
    pub fn not_found<'a>(resource: impl Into<GroupResource<'a>>, name: &str) -> Status {
        let resource = resource.into();
        Status::new(404, "NotFound", format!("{resource} {} not found", go_quote(name)))
            .with_details(details(&resource, name))
    }

    /// 404 `NotFound` for a path that no resource serves.
    pub fn no_such_resource() -> Status {
        Status::new(404, "NotFound", "the server could not find the requested resource")
            .with_details(Details::default())
    }

    /// 409 `AlreadyExists`.
    pub fn already_exists<'a>(resource: impl Into<GroupResource<'a>>, name: &str) -> Status {
        let resource = resource.into();
        Status::new(409, "AlreadyExists", format!("{resource} {} already exists", go_quote(name)))
            .with_details(details(&resource, name))
    }

    /// 409 `AlreadyExists` for a generated name that was taken each time; says to try again after a second.
    pub fn generate_name_conflict<'a>(resource: impl Into<GroupResource<'a>>, name: &str) -> Status {
        let resource = resource.into();
        let message = format!(
            "{resource} {} already exists, the server was not able to generate a unique name for the object",
            go_quote(name)
        );
        Status::new(409, "AlreadyExists", message).with_details(details(&resource, name)).with_retry_after(1)
    }

    /// 409 `Conflict`: `Operation cannot be fulfilled on pods "x": <why>`.
    pub fn conflict_because<'a>(
        resource: impl Into<GroupResource<'a>>,
        name: &str,
        why: impl Display,
    ) -> Status {
        let resource = resource.into();
        let message = format!("Operation cannot be fulfilled on {resource} {}: {why}", go_quote(name));
        Status::new(409, "Conflict", message).with_details(details(&resource, name))
    }

    /// 409 `Conflict` for a write based on an old resourceVersion.
    pub fn conflict<'a>(resource: impl Into<GroupResource<'a>>, name: &str) -> Status {
        Status::conflict_because(resource, name, MODIFIED)
    }

    /// 409 `Conflict` for `preconditions.uid`.
    pub fn uid_precondition<'a>(
        resource: impl Into<GroupResource<'a>>,
        name: &str,
        wanted: &str,
        found: &str,
    ) -> Status {
        let why = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({found}). \
             The object might have been deleted and then recreated"
        );
        Status::conflict_because(resource, name, why)
    }

    /// 409 `Conflict` for `preconditions.resourceVersion`.
    pub fn resource_version_precondition<'a>(
        resource: impl Into<GroupResource<'a>>,
        name: &str,
        wanted: &str,
        found: &str,
    ) -> Status {
        let why = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record \
             ({found}). The object might have been modified"
        );
        Status::conflict_because(resource, name, why)
    }

    /// 409 `Conflict` for a write whose body carries another object's UID.
    pub fn uid_mismatch<'a>(
        resource: impl Into<GroupResource<'a>>,
        name: &str,
        wanted: &str,
        found: &str,
    ) -> Status {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
        Status::conflict_because(resource, name, why)
    }

    /// 409 `Conflict` of server-side apply, with one cause (`FieldManagerConflict`) a field.
    pub fn apply_conflict(causes: Vec<Cause>, message: impl Into<String>) -> Status {
        Status::new(409, "Conflict", message).with_details(Details { causes, ..Details::default() })
    }
}

/// What the request says wrongly.
impl Status {
    /// 422 `Invalid` with a cause for each error.
    pub fn invalid<'a>(kind: impl Into<GroupKind<'a>>, name: &str, errors: &[FieldError]) -> Status {
        let kind = kind.into();
        let mut message = format!("{kind} {} is invalid", go_quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&aggregate(errors.iter().map(ToString::to_string)));
        }
        let details = Details {
            name: name.to_owned(),
            group: kind.group.into_owned(),
            kind: kind.kind.into_owned(),
            causes: errors.iter().map(FieldError::to_cause).collect(),
            ..Details::default()
        };
        Status::new(422, "Invalid", message).with_details(details)
    }

    /// 400 `BadRequest`.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, "BadRequest", message)
    }

    /// 405 `MethodNotAllowed`: `delete is not supported on resources of kind "pods"`.
    pub fn method_not_supported<'a>(resource: impl Into<GroupResource<'a>>, action: &str) -> Status {
        let resource = resource.into();
        let message =
            format!("{action} is not supported on resources of kind {}", go_quote(&resource.to_string()));
        Status::new(405, "MethodNotAllowed", message).with_details(details(&resource, ""))
    }

    /// 405 `MethodNotAllowed` without naming a resource.
    pub fn method_not_allowed() -> Status {
        let message = "the server does not allow this method on the requested resource";
        Status::new(405, "MethodNotAllowed", message).with_details(Details::default())
    }

    /// 406 `NotAcceptable`; `accepted` are the media types that could be had.
    pub fn not_acceptable(accepted: &[&str]) -> Status {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Status::new(406, "NotAcceptable", message)
    }

    /// 415 `UnsupportedMediaType`; `accepted` are the media types that a body may have.
    pub fn unsupported_media_type(accepted: &[&str]) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Status::new(415, "UnsupportedMediaType", message)
    }

    /// 413 `RequestEntityTooLarge`: `Request entity too large: limit is 3145728`.
    pub fn too_large(limit: usize) -> Status {
        Status::request_entity_too_large(format!("limit is {limit}"))
    }

    /// 413 `RequestEntityTooLarge` with a sentence of one's own.
    pub fn request_entity_too_large(message: impl Display) -> Status {
        Status::new(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }
}

/// Who may not.
impl Status {
    /// 401 `Unauthorized`; with an empty reason it says `Unauthorized`, as the API server's filter does.
    pub fn unauthorized(why: &str) -> Status {
        Status::new(401, "Unauthorized", if why.is_empty() { "Unauthorized" } else { why })
    }

    /// 403 `Forbidden`: `pods "x" is forbidden: <why>`.
    pub fn forbidden<'a>(resource: impl Into<GroupResource<'a>>, name: &str, why: impl Display) -> Status {
        let resource = resource.into();
        let message = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{resource} is forbidden: {why}"),
            (false, false) => format!("{resource} {} is forbidden: {why}", go_quote(name)),
        };
        Status::new(403, "Forbidden", message).with_details(details(&resource, name))
    }

    /// 403 `Forbidden` for a create into a namespace that is being deleted.
    pub fn namespace_terminating<'a>(
        resource: impl Into<GroupResource<'a>>,
        name: &str,
        namespace: &str,
    ) -> Status {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        let cause = format!("namespace {namespace} is being terminated");
        Status::forbidden(resource, name, why).with_cause(
            "NamespaceTerminating",
            &cause,
            "metadata.namespace",
        )
    }
}

/// What is gone.
impl Status {
    /// 410 `Gone`.
    pub fn gone(message: impl Into<String>) -> Status {
        Status::new(410, "Gone", message)
    }

    /// 410 `Expired`.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::new(410, "Expired", message)
    }

    /// 410 `Expired` for a list that can only be begun anew.
    pub fn expired_continue() -> Status {
        Status::expired(
            "The provided continue parameter is too old to display a consistent list result. \
             You must start a new list without the continue parameter.",
        )
    }

    /// 410 `Expired` for a list that may go on, inconsistently, with the token given.
    pub fn expired_continue_with(token: impl Into<String>) -> Status {
        let mut status = Status::expired(
            "The provided continue parameter is too old to display a consistent list result. \
             You can start a new list without the continue parameter, or use the continue token in this \
             response to retrieve the remainder of the results. Continuing with the provided token results \
             in an inconsistent list - objects that were created, modified, or deleted between the time the \
             first chunk was returned and now may show up in the list.",
        );
        status.continue_token = Some(token.into());
        status
    }

    /// 410 `Expired` for a list at a resourceVersion that was compacted.
    pub fn expired_list() -> Status {
        Status::expired("The resourceVersion for the provided list is too old.")
    }

    /// 410 `Expired` for a watch from a resourceVersion that was compacted.
    pub fn expired_watch(asked: u64, oldest: u64) -> Status {
        Status::expired(format!("too old resource version: {asked} ({oldest})"))
    }
}

/// What the server cannot do now.
impl Status {
    /// 429 `TooManyRequests`.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i32) -> Status {
        Status::new(429, "TooManyRequests", message).with_retry_after(retry_after_seconds)
    }

    /// 500 `InternalError`: `Internal error occurred: <why>`.
    pub fn internal(why: impl Display) -> Status {
        let why = why.to_string();
        Status::new(500, "InternalError", format!("Internal error occurred: {why}")).with_cause("", &why, "")
    }

    /// 500 `ServerTimeout`: the operation was not done and may be tried again.
    pub fn server_timeout<'a>(
        resource: impl Into<GroupResource<'a>>,
        operation: &str,
        retry_after_seconds: i32,
    ) -> Status {
        let resource = resource.into();
        let message = format!(
            "The {operation} operation against {resource} could not be completed at this time, please try again."
        );
        let details = details(&resource, operation);
        Status::new(500, "ServerTimeout", message).with_details(details).with_retry_after(retry_after_seconds)
    }

    /// 503 `ServiceUnavailable`.
    pub fn service_unavailable(why: impl Into<String>) -> Status {
        Status::new(503, "ServiceUnavailable", why)
    }

    /// 504 `Timeout`: `Timeout: <message>`.
    pub fn timeout(message: impl Display, retry_after_seconds: i32) -> Status {
        Status::new(504, "Timeout", format!("Timeout: {message}")).with_retry_after(retry_after_seconds)
    }

    /// 504 `Timeout` for a resourceVersion that the server has not reached yet.
    pub fn too_large_resource_version(asked: u64, current: u64) -> Status {
        let message = format!("Too large resource version: {asked}, current: {current}");
        Status::timeout(message, 1).with_cause("ResourceVersionTooLarge", "Too large resource version", "")
    }
}
