//! Who may do what. One seam, [`authorize`], for every request.

use sampan_api::status::{Status, go_quote};

use crate::{request::Target, user::UserInfo};

/// What a request wants to do, as an authorizer sees it.
#[derive(Clone, Debug)]
pub(crate) enum Attributes<'a> {
    /// Something with a resource.
    Resource {
        /// `get`, `list`, …
        verb: &'a str,
        /// Which.
        target: &'a Target,
    },
    /// A path that is no resource, discovery for example.
    Path {
        /// The method in lower case.
        verb: &'a str,
        /// The path.
        path: &'a str,
    },
}

/// Whether the user may; the reason is empty where Kubernetes' own authorizer gives none.
pub(crate) fn allowed(user: &UserInfo, attributes: &Attributes<'_>) -> bool {
    if user.in_group("system:masters") || user.in_group("system:nodes") || is_component(&user.name) {
        return true;
    }
    if !user.in_group("system:authenticated") {
        return false;
    }
    match attributes {
        Attributes::Path { verb, path } => *verb == "get" && is_discovery(path),
        Attributes::Resource { verb, target } => {
            *verb == "create"
                && matches!(
                    (target.group.as_str(), target.resource.as_str()),
                    ("authentication.k8s.io", "selfsubjectreviews")
                        | ("authorization.k8s.io", "selfsubjectaccessreviews" | "selfsubjectrulesreviews")
                )
        }
    }
}

/// Refuses with Kubernetes' sentence.
pub(crate) fn authorize(user: &UserInfo, attributes: &Attributes<'_>) -> Result<(), Status> {
    if allowed(user, attributes) { Ok(()) } else { Err(forbidden(user, attributes)) }
}

fn is_component(name: &str) -> bool {
    name.starts_with("system:kube-") || name == "system:apiserver"
}

fn is_discovery(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    matches!(
        first,
        "api"
            | "apis"
            | "openapi"
            | "version"
            | "healthz"
            | "livez"
            | "readyz"
            | ".well-known"
            | "openid"
            | ""
    )
}

fn forbidden(user: &UserInfo, attributes: &Attributes<'_>) -> Status {
    match attributes {
        Attributes::Path { verb, path } => Status::forbidden(
            ("", ""),
            "",
            format!("User {} cannot {verb} path {}", go_quote(&user.name), go_quote(path)),
        ),
        Attributes::Resource { verb, target } => {
            let resource = match &target.subresource {
                Some(sub) => format!("{}/{sub}", target.resource),
                None => target.resource.clone(),
            };
            let scope = match &target.namespace {
                Some(namespace) => format!("in the namespace {}", go_quote(namespace)),
                None => "at the cluster scope".to_owned(),
            };
            let why = format!(
                "User {} cannot {verb} resource {} in API group {} {scope}",
                go_quote(&user.name),
                go_quote(&resource),
                go_quote(&target.group),
            );
            let name = target.name.as_deref().unwrap_or_default();
            Status::forbidden((target.group.as_str(), target.resource.as_str()), name, why)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_in_kubernetes() {
        let user = UserInfo::new("jane", &[]);
        let target = Target {
            version: "v1".into(),
            resource: "pods".into(),
            namespace: Some("a".into()),
            ..Target::default()
        };
        let status = authorize(&user, &Attributes::Resource { verb: "list", target: &target }).unwrap_err();
        assert_eq!(
            status.message,
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" in the namespace "a""#
        );
        assert_eq!(status.code, 403);
        assert!(
            authorize(&UserInfo::admin("x"), &Attributes::Resource { verb: "list", target: &target }).is_ok()
        );
        assert!(authorize(&user, &Attributes::Path { verb: "get", path: "/apis" }).is_ok());
        let status = authorize(&user, &Attributes::Path { verb: "get", path: "/metrics" }).unwrap_err();
        assert_eq!(status.message, r#"forbidden: User "jane" cannot get path "/metrics""#);
    }
}
