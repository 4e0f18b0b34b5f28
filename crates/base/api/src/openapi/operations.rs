//! One operation at a path: parameters, bodies, answers, and the extensions by which kubectl finds it.

use serde_json::{Map, Value, json};

use super::Dialect;
use super::schemas::{list_name_of, name_of, reference};
use crate::kinds::{self, Gvk, Resource, Subresource};

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    List,
    Post,
    DeleteCollection,
    Get,
    Put,
    Patch,
    Delete,
    Connect,
}

/// An operation of a resource or of its subresource.
#[derive(Clone, Copy)]
pub(super) struct Operation {
    pub(super) resource: &'static Resource,
    pub(super) sub: Option<&'static Subresource>,
    pub(super) action: Action,
    /// A list over all namespaces.
    pub(super) everywhere: bool,
}

type Parameters = &'static [(&'static str, &'static str)];

const LIST: Parameters = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: Parameters = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: Parameters =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: Parameters = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const DELETE_COLLECTION: Parameters = &[
    ("continue", "string"),
    ("dryRun", "string"),
    ("fieldSelector", "string"),
    ("gracePeriodSeconds", "integer"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("timeoutSeconds", "integer"),
];
const LOG: Parameters = &[
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];
const STREAMS: Parameters = &[
    ("command", "string"),
    ("container", "string"),
    ("stderr", "boolean"),
    ("stdin", "boolean"),
    ("stdout", "boolean"),
    ("tty", "boolean"),
];
const PORTS: Parameters = &[("ports", "integer")];

const PATCH_TYPES: [&str; 4] = [
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    // Custom kinds do without the last: clients choose by what is listed here.
    "application/strategic-merge-patch+json",
];

/// What each parameter is for, whatever the operation.
const MEANINGS: &[(&str, &str)] = &[
    (
        "allowWatchBookmarks",
        "Let a watch also send BOOKMARK events, which carry nothing but a resource version.",
    ),
    ("command", "Program to run, and its arguments, one parameter each. No shell is involved."),
    ("container", "Container of the pod. The only one, or the default one, when absent."),
    ("continue", "Token from the chunk before: the list of returned objects goes on after its last."),
    ("dryRun", "With All, every step is taken but the last: nothing is stored."),
    ("fieldManager", "Who changes the object, as managed fields name it."),
    ("fieldSelector", "Restricts the list of returned objects by their fields. Everything by default."),
    ("fieldValidation", "What unknown and duplicate fields do: Ignore, Warn (the default) or Strict."),
    ("follow", "Go on with what the container writes from now on."),
    ("force", "Take over fields that other managers own. Only for apply patches."),
    ("gracePeriodSeconds", "Seconds that the object has to end in; 0 ends it at once."),
    ("insecureSkipTLSVerifyBackend", "Take the log from the node without verifying its certificate."),
    ("labelSelector", "Restricts the list of returned objects by their labels. Everything by default."),
    ("limit", "How many objects a chunk of the list has at most."),
    ("limitBytes", "Bytes of the log after which it ends."),
    ("name", "Name of the object."),
    ("namespace", "Namespace of the object."),
    ("orphanDependents", "Deprecated: say propagationPolicy."),
    ("ports", "Ports of the pod to forward."),
    ("pretty", "Indent the answer."),
    ("previous", "The log of the container that ran before."),
    ("propagationPolicy", "What becomes of dependents: Orphan, Background or Foreground."),
    (
        "resourceVersion",
        "The version of the whole that is asked for; resourceVersionMatch says how it is meant.",
    ),
    ("resourceVersionMatch", "How resourceVersion is meant: Exact or NotOlderThan."),
    ("sendInitialEvents", "Let a watch begin with what there is, and mark the end of it with a bookmark."),
    ("sinceSeconds", "Only what was written in the last so many seconds."),
    ("stderr", "Connect the standard error of the program."),
    ("stdin", "Connect the standard input of the program."),
    ("stdout", "Connect the standard output of the program."),
    ("stream", "Which of the two streams of the log: All, Stdout or Stderr."),
    ("tailLines", "Only so many of the last lines."),
    ("timeoutSeconds", "Seconds after which a list fails, or a watch ends."),
    ("timestamps", "Begin each line with the time when it was written."),
    ("tty", "Give the program a terminal."),
    (
        "watch",
        "Watch for changes to the described resources from resourceVersion on instead of listing them.",
    ),
];

/// A parameter in the dialect.
pub(super) fn parameter(name: &str, place: &str, kind: &str, dialect: Dialect) -> Value {
    let mut out = match dialect {
        Dialect::V2 => json!({ "name": name, "in": place, "type": kind, "uniqueItems": true }),
        Dialect::V3 => json!({ "name": name, "in": place, "schema": { "type": kind, "uniqueItems": true } }),
    };
    if let Some((_, meaning)) = MEANINGS.iter().find(|(known, _)| *known == name) {
        out["description"] = (*meaning).into();
    }
    out
}

impl Operation {
    fn consumes(self) -> &'static [&'static str] {
        let custom =
            !self.resource.group.is_empty() && !kinds::serves(self.resource.group, self.resource.version);
        match self.action {
            Action::Patch if custom => &PATCH_TYPES[..PATCH_TYPES.len() - 1],
            Action::Patch => &PATCH_TYPES,
            _ => &["*/*"],
        }
    }

    pub(super) fn to_value(self, dialect: Dialect) -> Value {
        let kind = self.sub.map_or(self.resource.gvk(), Subresource::gvk);
        let mut parameters: Vec<Value> =
            self.parameters().iter().map(|(name, kind)| parameter(name, "query", kind, dialect)).collect();
        let mut out = Map::new();
        out.insert("tags".into(), json!([self.tag()]));
        out.insert("operationId".into(), self.id().into());
        if let Some((name, required)) = self.body(&kind) {
            match dialect {
                Dialect::V2 => parameters.push(json!({
                    "name": "body", "in": "body", "required": required, "schema": reference(&name, dialect),
                })),
                Dialect::V3 => {
                    let content = self
                        .consumes()
                        .iter()
                        .map(|t| ((*t).to_owned(), json!({ "schema": reference(&name, dialect) })));
                    let content: Map<String, Value> = content.collect();
                    out.insert("requestBody".into(), json!({ "content": content, "required": required }));
                }
            }
        }
        if dialect == Dialect::V2 {
            out.insert("consumes".into(), json!(self.consumes()));
            out.insert("produces".into(), json!(["application/json"]));
            out.insert("schemes".into(), json!(["https"]));
        }
        if !parameters.is_empty() {
            out.insert("parameters".into(), parameters.into());
        }
        out.insert("responses".into(), self.responses(&kind, dialect));
        out.insert("x-kubernetes-action".into(), self.action.name().into());
        let gvk = json!({ "group": kind.group, "version": kind.version, "kind": kind.kind });
        out.insert("x-kubernetes-group-version-kind".into(), gvk);
        Value::Object(out)
    }

    fn parameters(self) -> Parameters {
        match (self.action, self.sub.map(|s| s.name)) {
            (Action::List, _) => LIST,
            (Action::Post | Action::Put, _) => WRITE,
            (Action::Patch, _) => PATCH,
            (Action::Delete, _) => DELETE,
            (Action::DeleteCollection, _) => DELETE_COLLECTION,
            (Action::Get, Some("log")) => LOG,
            (Action::Get, _) => &[],
            (Action::Connect, Some("portforward")) => PORTS,
            (Action::Connect, _) => STREAMS,
        }
    }

    /// The type of the request's body, and whether it must be there.
    fn body(self, kind: &Gvk) -> Option<(String, bool)> {
        match self.action {
            Action::Post | Action::Put => name_of(kind).map(|name| (name, true)),
            Action::Patch => Some(("io.k8s.apimachinery.pkg.apis.meta.v1.Patch".to_owned(), true)),
            Action::Delete | Action::DeleteCollection => {
                name_of(&Gvk { group: "", version: "v1", kind: "DeleteOptions" }).map(|name| (name, false))
            }
            Action::List | Action::Get | Action::Connect => None,
        }
    }

    fn responses(self, kind: &Gvk, dialect: Dialect) -> Value {
        let name = match self.action {
            Action::List => list_name_of(self.resource),
            Action::Delete | Action::DeleteCollection => {
                name_of(&Gvk { group: "", version: "v1", kind: "Status" })
            }
            Action::Connect => None,
            Action::Get if self.sub.is_some_and(|s| s.name == "log") => None,
            _ => name_of(kind),
        };
        let schema = name.map_or(json!({ "type": "string" }), |name| reference(&name, dialect));
        let answer = |text: &str| match dialect {
            Dialect::V2 => json!({ "description": text, "schema": schema }),
            Dialect::V3 => {
                json!({ "description": text, "content": { "application/json": { "schema": schema } } })
            }
        };
        let mut out = Map::new();
        out.insert("200".into(), answer("OK"));
        match self.action {
            Action::Post => {
                out.insert("201".into(), answer("Created"));
                out.insert("202".into(), answer("Accepted"));
            }
            Action::Put | Action::Patch => {
                out.insert("201".into(), answer("Created"));
            }
            Action::Delete => {
                out.insert("202".into(), answer("Accepted"));
            }
            _ => {}
        }
        out.insert("401".into(), json!({ "description": "Unauthorized" }));
        Value::Object(out)
    }

    /// `apps_v1`.
    fn tag(self) -> String {
        let group = self.resource.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
        format!("{group}_{}", self.resource.version)
    }

    /// `readAppsV1NamespacedDeploymentStatus`.
    fn id(self) -> String {
        let verb = match self.action {
            Action::List => "list",
            Action::Post => "create",
            Action::DeleteCollection => "deleteCollection",
            Action::Get => "read",
            Action::Put => "replace",
            Action::Patch => "patch",
            Action::Delete => "delete",
            Action::Connect => "connect",
        };
        let (group, version) = (self.tag(), self.resource.version);
        let group = capital(group.split('_').next().unwrap_or_default());
        let namespaced = if self.resource.namespaced && !self.everywhere { "Namespaced" } else { "" };
        let sub = self.sub.map(|s| capital(s.name)).unwrap_or_default();
        let everywhere = if self.everywhere { "ForAllNamespaces" } else { "" };
        format!("{verb}{group}{}{namespaced}{}{sub}{everywhere}", capital(version), self.resource.kind)
    }
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Action::List => "list",
            Action::Post => "post",
            Action::DeleteCollection => "deletecollection",
            Action::Get => "get",
            Action::Put => "put",
            Action::Patch => "patch",
            Action::Delete => "delete",
            Action::Connect => "connect",
        }
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
}
