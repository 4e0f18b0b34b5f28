//! What a request asks for: its path taken apart, its query, its verb.

use http::Method;
use sampan_api::status::Status;

/// The query of a request, decoded.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(raw.unwrap_or_default().as_bytes());
        Self(pairs.map(|(k, v)| (k.into_owned(), v.into_owned())).collect())
    }

    /// The first value that is not empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, v)| k == key && !v.is_empty()).map(|(_, v)| v.as_str())
    }

    /// All values.
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A boolean as Go's conversion reads it: present and not `0` or `false` is true.
    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        let (_, value) = self.0.iter().find(|(k, _)| k == key)?;
        Some(!matches!(value.as_str(), "0" | "false" | "False" | "FALSE" | "f" | "F"))
    }

    /// Whether the answer is to be indented; none when the query does not say.
    pub(crate) fn pretty(&self) -> Option<bool> {
        self.get("pretty").map(|value| matches!(value, "1" | "t" | "T" | "TRUE" | "true" | "True"))
    }

    /// A whole number.
    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>, Status> {
        let Some(text) = self.get(key) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing \"{text}\": invalid syntax")))
    }

    /// Creates, updates and deletes with `dryRun=All` change nothing.
    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        let mut dry = false;
        for value in self.all("dryRun") {
            match value {
                "All" => dry = true,
                "" => {}
                other => {
                    let kind = ("meta.k8s.io", "CreateOptions");
                    let error = sampan_api::status::FieldError::not_supported("dryRun", other, &["All"]);
                    return Err(Status::invalid(kind, "", &[error]));
                }
            }
        }
        Ok(dry)
    }
}

/// A resource, or one object, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Root,
    Health(&'static str),
    Version,
    Metrics,
    Versions,
    Groups,
    Group(String),
    Resources(String, String),
    OpenApiV2,
    OpenApiV3,
    OpenApiV3Group(String, String),
    OidcConfig,
    Jwks,
    Object(Target),
    Unknown,
}

impl Route {
    /// Whether answers come in the form that the client accepts; other paths have one form.
    pub(crate) fn is_negotiated(&self) -> bool {
        matches!(
            self,
            Self::Versions
                | Self::Groups
                | Self::Group(_)
                | Self::Resources(..)
                | Self::Object(_)
                | Self::Version
        )
    }

    pub(crate) fn parse(path: &str) -> Self {
        let decoded: Option<Vec<String>> = path
            .split('/')
            .filter(|part| !part.is_empty())
            .map(|part| percent_encoding::percent_decode_str(part).decode_utf8().ok().map(Into::into))
            .collect();
        let Some(decoded) = decoded else { return Self::Unknown };
        let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
        match parts[..] {
            [] => Self::Root,
            ["healthz", ..] => Self::Health("healthz"),
            ["livez", ..] => Self::Health("livez"),
            ["readyz", ..] => Self::Health("readyz"),
            ["version"] => Self::Version,
            ["metrics"] => Self::Metrics,
            ["api"] => Self::Versions,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group(group.to_owned()),
            ["api", version] => Self::Resources(String::new(), version.to_owned()),
            ["apis", group, version] => Self::Resources(group.to_owned(), version.to_owned()),
            ["openapi", "v2"] => Self::OpenApiV2,
            ["openapi", "v3"] => Self::OpenApiV3,
            ["openapi", "v3", "api", version] => Self::OpenApiV3Group(String::new(), version.to_owned()),
            ["openapi", "v3", "apis", group, version] => {
                Self::OpenApiV3Group(group.to_owned(), version.to_owned())
            }
            [".well-known", "openid-configuration"] => Self::OidcConfig,
            ["openid", "v1", "jwks"] => Self::Jwks,
            ["api", version, ref rest @ ..] => Target::parse("", version, rest),
            ["apis", group, version, ref rest @ ..] => Target::parse(group, version, rest),
            _ => Self::Unknown,
        }
    }
}

impl Target {
    fn parse(group: &str, version: &str, rest: &[&str]) -> Route {
        let owned = |text: &str| Some(text.to_owned());
        let mut target = Self { group: group.to_owned(), version: version.to_owned(), ..Self::default() };
        let rest = match *rest {
            // A namespace's own subresources look like a resource inside it.
            ["namespaces", name, sub @ ("status" | "finalize")] if group.is_empty() => {
                target.subresource = owned(sub);
                target.resource = "namespaces".to_owned();
                target.name = owned(name);
                target.namespace = None;
                return Route::Object(target);
            }
            ["namespaces", namespace, ref inner @ ..] if !inner.is_empty() => {
                target.namespace = owned(namespace);
                inner.to_vec()
            }
            _ => rest.to_vec(),
        };
        match rest[..] {
            [resource] => target.resource = resource.to_owned(),
            [resource, name] => {
                target.resource = resource.to_owned();
                target.name = owned(name);
            }
            // What follows is the backend's path.
            [resource, name, subresource @ "proxy", ..] | [resource, name, subresource] => {
                target.resource = resource.to_owned();
                target.name = owned(name);
                target.subresource = owned(subresource);
            }
            _ => return Route::Unknown,
        }
        Route::Object(target)
    }
}

/// The API verb of a request to a resource, as authorization and metrics name it.
pub(crate) fn verb(method: &Method, target: &Target, query: &Query) -> Option<&'static str> {
    Some(match *method {
        Method::GET | Method::HEAD => match (&target.name, query.flag("watch")) {
            (None, Some(true)) => "watch",
            (None, _) => "list",
            (Some(_), Some(true)) if target.subresource.is_none() => "watch",
            (Some(_), _) => "get",
        },
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if target.name.is_none() => "deletecollection",
        Method::DELETE => "delete",
        // Whoever may read through a proxy may ask what else there is.
        Method::OPTIONS if target.subresource.as_deref() == Some("proxy") => "get",
        _ => return None,
    })
}

/// The target with the name that a list or watch is limited to by `metadata.name=…`, as authorization sees it.
pub(crate) fn named(verb: &str, target: &Target, fields: &str) -> Option<Target> {
    if !matches!(verb, "list" | "watch") || target.name.is_some() {
        return None;
    }
    let value = fields.split(',').find_map(|term| {
        let value = term.trim().strip_prefix("metadata.name=")?;
        Some(value.strip_prefix('=').unwrap_or(value))
    })?;
    let plain = !value.is_empty() && value != "." && value != ".." && !value.contains(['/', '%', '\\']);
    plain.then(|| Target { name: Some(value.to_owned()), ..target.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Target {
        match Route::parse(path) {
            Route::Object(target) => target,
            other => panic!("{path} gave {other:?}"),
        }
    }

    #[test]
    fn paths_are_taken_apart() {
        let t = target("/api/v1/namespaces/a/pods/b/log");
        assert_eq!((t.resource.as_str(), t.subresource.as_deref()), ("pods", Some("log")));
        assert_eq!((t.namespace.as_deref(), t.name.as_deref()), (Some("a"), Some("b")));
        let t = target("/api/v1/namespaces/a");
        assert_eq!((t.resource.as_str(), t.name.as_deref(), t.namespace), ("namespaces", Some("a"), None));
        let t = target("/api/v1/namespaces/a/finalize");
        assert_eq!((t.resource.as_str(), t.subresource.as_deref()), ("namespaces", Some("finalize")));
        let t = target("/apis/apps/v1/deployments");
        assert_eq!((t.group.as_str(), t.resource.as_str(), t.name), ("apps", "deployments", None));
        let t = target("/api/v1/namespaces/a/pods/b/proxy/x/y/z");
        assert_eq!((t.name.as_deref(), t.subresource.as_deref()), (Some("b"), Some("proxy")));
        assert_eq!(Route::parse("/api/v1/namespaces/a/pods/b/log/x"), Route::Unknown);
        assert_eq!(Route::parse("/nowhere"), Route::Unknown);
        assert_eq!(Route::parse("/api/%ff"), Route::Unknown);
    }
}
