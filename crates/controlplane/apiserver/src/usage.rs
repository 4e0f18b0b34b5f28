//! `metrics.k8s.io`: what nodes and pods use, in versions v1 and v1beta1, which are one in form.
//!
//! Nothing is collected: a request asks the nodes that it concerns, and what a node says is good for some seconds (see
//! [`nodes`]). A node that does not answer in time is left out. Whoever registers an APIService for the group replaces
//! all of this; what is served here has no APIService of its own, so that such a registration meets nothing that is
//! there already.

mod nodes;
mod objects;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use http::{Method, Response, StatusCode};
use sampan_api::status::Status;
use serde_json::{Value, json};
use tokio::time::Instant;

pub(crate) use self::nodes::Nodes;
use self::{
    nodes::Summary,
    objects::{Kind, Measured},
};
use crate::{
    body::Body,
    core::Core,
    encode::Form,
    endpoint::{Endpoint, RemoteVersion},
    negotiate::{self, Accepted, Asked},
    request::{self, Query, Route, Target},
    respond,
    select::{Selection, visible},
    user::UserInfo,
    verbs::list::{self, Page},
};

pub(crate) const GROUP: &str = "metrics.k8s.io";

/// The preferred one first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Nodes that are asked at a time, for one request.
const AT_ONCE: usize = 32;

/// What a request waits for nodes at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// The state of the metrics API.
pub(crate) struct State {
    nodes: Nodes,
    /// Nobody else serves the group.
    active: AtomicBool,
}

impl Default for State {
    fn default() -> Self {
        Self { nodes: Nodes::default(), active: AtomicBool::new(true) }
    }
}

impl State {
    /// Adds the versions of the group to what extension servers have, unless one of them has the group.
    pub(crate) fn publish(&self, remote: &mut Vec<RemoteVersion>) {
        let active = !remote.iter().any(|version| version.group == GROUP);
        self.active.store(active, Ordering::Release);
        if !active {
            return;
        }
        let resources = Arc::new(objects::resources());
        remote.extend(VERSIONS.map(|version| RemoteVersion {
            group: GROUP.to_owned(),
            version: version.to_owned(),
            priority: 100,
            resources: resources.clone(),
            fresh: true,
        }));
    }

    /// Whether requests for the group and version are answered here.
    fn serves(&self, group: &str, version: &str) -> bool {
        group == GROUP && VERSIONS.contains(&version) && self.active.load(Ordering::Acquire)
    }
}

/// In which forms an answer can be had that is not of a known resource.
pub(crate) fn asked(route: &Route) -> Asked {
    match route {
        Route::Object(target) if target.group == GROUP => Asked::Custom,
        _ => Asked::Other,
    }
}

/// Of a request, what an answer needs.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a Method,
    pub(crate) query: &'a Query,
    pub(crate) accepted: Option<Accepted>,
    pub(crate) target: &'a Target,
    pub(crate) user: &'a UserInfo,
}

impl Core {
    /// Whether a request is for the metrics of this server.
    pub(crate) fn measures(&self, target: &Target) -> bool {
        self.usage.serves(&target.group, &target.version)
    }

    /// Answers a request for metrics.
    pub(crate) async fn usage_of(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Response<Body>, Status> {
        let Some(verb) = request::verb(ask.method, ask.target, ask.query) else {
            return Err(Status::method_not_allowed());
        };
        self.permit(ask.user, verb, ask.target, ask.query).await?;
        let kind = Kind::of(&ask.target.resource).ok_or_else(Status::no_such_resource)?;
        let (namespace, name) = (ask.target.namespace.as_deref(), ask.target.name.as_deref());
        if ask.target.subresource.is_some()
            || (kind == Kind::Node && namespace.is_some())
            || (kind == Kind::Pod && namespace.is_none() && name.is_some())
        {
            return Err(Status::no_such_resource());
        }
        if !matches!(verb, "get" | "list") {
            return Err(Status::method_not_supported((GROUP, kind.plural()), verb));
        }
        let accepted = ask.accepted.ok_or_else(|| negotiate::refusal(Asked::Custom))?;
        let form = accepted.form(ask.query)?;
        let mut all = match kind {
            Kind::Node => self.nodes_used(ask).await?,
            Kind::Pod => self.pods_used(ask).await?,
        };
        let Some(name) = name else {
            return Ok(respond::json_value(StatusCode::OK, &kind.list(&ask.target.version, &all, form)));
        };
        let Some(one) = all.pop() else {
            let full = namespace.map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"));
            return Err(Status::not_found((GROUP, kind.plural()), &full));
        };
        let object = match form {
            Form::Table(_) => kind.list(&ask.target.version, &[one], form),
            _ => one.object(kind, &ask.target.version, form),
        };
        Ok(respond::json_value(StatusCode::OK, &object))
    }

    /// Those of the resource behind that are meant, as far as selectors see them.
    async fn meant(&self, plural: &str, ask: &Ask<'_>) -> Result<Vec<Value>, Status> {
        let endpoint: Arc<Endpoint> = self.endpoint("", "v1", plural)?;
        let (namespace, name) = (ask.target.namespace.as_deref(), ask.target.name.as_deref());
        if let Some(name) = name {
            let found = self.fetch(&endpoint, namespace, name).await?;
            return Ok(found.and_then(|kv| visible(&endpoint, &kv.value)).into_iter().collect());
        }
        let selection = Selection::parse(&endpoint, ask.target, ask.query)?;
        let listed = list::read(self, &endpoint, namespace, &selection, &Page::default()).await?;
        Ok(listed.items.iter().filter_map(|kv| visible(&endpoint, &kv.value)).collect())
    }

    async fn nodes_used(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Vec<Measured>, Status> {
        let nodes = self.meant("nodes", ask).await?;
        let names = nodes.iter().filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned));
        let summaries = self.summaries(names.collect()).await;
        let measured = nodes.iter().filter_map(|node| {
            let summary = summaries.get(node["metadata"]["name"].as_str()?)?;
            Measured::of_node(node, summary.node.as_ref()?)
        });
        Ok(measured.collect())
    }

    async fn pods_used(self: &Arc<Self>, ask: &Ask<'_>) -> Result<Vec<Measured>, Status> {
        let mut pods = self.meant("pods", ask).await?;
        // Others have nothing that could be measured.
        pods.retain(|pod| pod["status"]["phase"] == "Running" && pod["spec"]["nodeName"].is_string());
        let node = |pod: &Value| pod["spec"]["nodeName"].as_str().map(str::to_owned);
        let summaries = self.summaries(pods.iter().filter_map(node).collect()).await;
        let measured = pods.iter().filter_map(|pod| {
            let summary = summaries.get(pod["spec"]["nodeName"].as_str()?)?;
            let name = (pod["metadata"]["namespace"].as_str()?, pod["metadata"]["name"].as_str()?);
            Measured::of_pod(pod, summary.pods.get(&(name.0.to_owned(), name.1.to_owned()))?)
        });
        Ok(measured.collect())
    }

    /// What these nodes say; of those that do not answer, nothing.
    async fn summaries(self: &Arc<Self>, names: BTreeSet<String>) -> HashMap<String, Arc<Summary>> {
        let end = Instant::now() + PATIENCE;
        let asked = futures::stream::iter(names).map(|name| async move {
            let summary = tokio::time::timeout_at(end, self.usage.nodes.ask(self, &name)).await.ok()??;
            Some((name, summary))
        });
        asked.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }
}

/// The document that tells of the resources of a version.
pub(crate) fn listed(served: &[RemoteVersion], group: &str, version: &str) -> Vec<Value> {
    let found = served.iter().find(|remote| remote.group == group && remote.version == version);
    found.and_then(|remote| remote.resources.as_array().cloned()).unwrap_or_default()
}

/// An empty object of a list.
fn list_of(kind: &str, version: &str, items: &[Value]) -> Value {
    json!({"kind": kind, "apiVersion": format!("{GROUP}/{version}"), "metadata": {}, "items": items})
}
