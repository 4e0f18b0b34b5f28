//! What plugins have at hand of other objects: kept parsed, made ready when it changes and not when it is needed.

use std::sync::Arc;

use sampan_api::{instancetype::Shape, status::Status};
use sampan_store::{KeyValue, Revision};
use serde_json::Value;

use super::{
    events::Buckets,
    instances,
    limits::{self, Limit},
    podsecurity,
    policy::{self, Policies},
    quota::{Tracked, Turns},
    webhook::{self, Configuration},
};
use crate::{call::text, core::Core, mirror::Mirror, storage::store_error};

const REGISTRATION: &str = "admissionregistration.k8s.io";

/// What admission looks at.
pub(crate) struct State {
    namespaces: Arc<Mirror<Namespace>>,
    /// What containers, pods and claims of a namespace may ask for.
    pub(crate) limits: Arc<Mirror<Vec<Limit>>>,
    pub(crate) priorities: Arc<Mirror<Value>>,
    pub(crate) storage_classes: Arc<Mirror<Value>>,
    pub(crate) ingress_classes: Arc<Mirror<Value>>,
    pub(crate) runtime_classes: Arc<Mirror<Value>>,
    /// The shapes that pods may ask for.
    pub(crate) instance_types: Arc<Mirror<Shape>>,
    /// Webhooks, compiled.
    pub(crate) mutating: Arc<Mirror<Configuration>>,
    pub(crate) validating: Arc<Mirror<Configuration>>,
    /// Policies in CEL, compiled.
    pub(crate) policies: Policies,
    /// How many events each source may write.
    pub(crate) events: Buckets,
    /// Which quotas there are, and what they are about.
    pub(crate) quotas: Arc<Mirror<Tracked>>,
    /// Whose turn it is to charge them.
    pub(crate) turns: Turns,
}

/// A namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// The revision of this state of it.
    pub(crate) revision: Revision,
    /// It is going away.
    pub(crate) terminating: bool,
    /// The namespace, without what only its writers need.
    pub(crate) as_object: Value,
    /// What its pods may do.
    pub(crate) policy: podsecurity::Policy,
}

impl Namespace {
    fn parse(kv: &KeyValue) -> Option<Self> {
        let object: Value = serde_json::from_slice(&kv.value).ok()?;
        let terminating = !text(&object, "/metadata/deletionTimestamp").is_empty()
            || text(&object, "/status/phase") == "Terminating";
        let none = Value::Null;
        let policy = podsecurity::Policy::of(object.pointer("/metadata/labels").unwrap_or(&none));
        let mut as_object = object;
        if let Some(metadata) = as_object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("managedFields");
        }
        Some(Self { revision: kv.mod_revision, terminating, as_object, policy })
    }
}

impl State {
    /// Reads what there is and follows it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) async fn open(core: &Core) -> Result<Self, Status> {
        Ok(Self {
            namespaces: mirror(core, "", "namespaces", Namespace::parse).await?,
            limits: mirror(core, "", "limitranges", limits::parse).await?,
            priorities: mirror(core, "scheduling.k8s.io", "priorityclasses", whole).await?,
            storage_classes: mirror(core, "storage.k8s.io", "storageclasses", whole).await?,
            ingress_classes: mirror(core, "networking.k8s.io", "ingressclasses", whole).await?,
            runtime_classes: mirror(core, "node.k8s.io", "runtimeclasses", whole).await?,
            instance_types: below(core, instances::PREFIX, instances::parse).await?,
            mutating: mirror(core, REGISTRATION, "mutatingwebhookconfigurations", webhook::parse).await?,
            validating: mirror(core, REGISTRATION, "validatingwebhookconfigurations", webhook::parse).await?,
            policies: Policies {
                validating: mirror(
                    core,
                    REGISTRATION,
                    "validatingadmissionpolicies",
                    policy::parse(policy::Kind::Validating),
                )
                .await?,
                validating_bindings: mirror(
                    core,
                    REGISTRATION,
                    "validatingadmissionpolicybindings",
                    policy::parse_binding,
                )
                .await?,
                mutating: mirror(
                    core,
                    REGISTRATION,
                    "mutatingadmissionpolicies",
                    policy::parse(policy::Kind::Mutating),
                )
                .await?,
                mutating_bindings: mirror(
                    core,
                    REGISTRATION,
                    "mutatingadmissionpolicybindings",
                    policy::parse_binding,
                )
                .await?,
            },
            events: Buckets::default(),
            quotas: mirror(core, "", "resourcequotas", Tracked::parse).await?,
            turns: Turns::default(),
        })
    }
}

/// Small objects that are looked at one at a time are kept as they are.
fn whole(kv: &KeyValue) -> Option<Value> {
    serde_json::from_slice(&kv.value).ok()
}

/// A mirror of a built-in resource that shows every write which this server has answered.
async fn mirror<T: Send + Sync + 'static>(
    core: &Core,
    group: &str,
    plural: &str,
    parse: impl Fn(&KeyValue) -> Option<T> + Send + Sync + 'static,
) -> Result<Arc<Mirror<T>>, Status> {
    below(core, &core.endpoint(group, "v1", plural)?.prefix, parse).await
}

/// The same of what lies there.
async fn below<T: Send + Sync + 'static>(
    core: &Core,
    prefix: &str,
    parse: impl Fn(&KeyValue) -> Option<T> + Send + Sync + 'static,
) -> Result<Arc<Mirror<T>>, Status> {
    let opened = Mirror::open(prefix, core.options.store.clone(), &core.supervisor, parse).await;
    let mirror = opened.map_err(|e| store_error(&e))?;
    core.written.register(&mirror);
    Ok(mirror)
}

impl Core {
    /// A namespace; `anew` looks into the store, for when what is kept was found to be behind.
    pub(crate) async fn namespace(&self, name: &str, anew: bool) -> Result<Option<Arc<Namespace>>, Status> {
        let endpoint = self.endpoint("", "v1", "namespaces")?;
        if let Some(state) = self.admission.get().filter(|_| !anew) {
            state.namespaces.settle().await;
            if let Some(found) = state.namespaces.get(&endpoint.key(None, name)) {
                return Ok(Some(found));
            }
        }
        // Another server may have made it a moment ago.
        Ok(self.fetch(&endpoint, None, name).await?.and_then(|kv| Namespace::parse(&kv)).map(Arc::new))
    }
}

/// An object of a mirrored class by its name; one that another server made a moment ago is found in the store.
pub(crate) async fn named(
    core: &Core,
    mirror: &Mirror<Value>,
    (group, plural): (&str, &str),
    name: &str,
) -> Result<Option<Arc<Value>>, Status> {
    let endpoint = core.endpoint(group, "v1", plural)?;
    mirror.settle().await;
    if let Some(found) = mirror.get(&endpoint.key(None, name)) {
        return Ok(Some(found));
    }
    Ok(core.look_up(group, "v1", plural, None, name).await?.map(Arc::new))
}
