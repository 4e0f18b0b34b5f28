//! Custom kinds: definitions are compiled when they change, their names are weighed against each other, and what is
//! accepted is served from then on. A definition that goes takes its objects along.

mod cleanup;
mod convert;
mod names;
mod origin;
mod rules;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use sampan_api::{custom::Definition, kinds::Resource, status::Status};
use sampan_daemon::{Backoff, Policy};
use sampan_store::{Compare, KeyValue, Op, Revision, Txn, TxnResponse};
use serde_json::Value;

pub(crate) use self::{origin::Origin, rules::Rules};
use crate::{
    call::{self, text},
    core::Core,
    encode,
    endpoint::Endpoint,
    mirror::Mirror,
    storage::store_error,
    verbs::update::is_finished,
};

/// The group of definitions.
const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

/// Holds a definition until its objects are gone.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A definition as it lies in the store.
struct Stored {
    revision: Revision,
    value: Bytes,
    /// It is being deleted.
    leaving: bool,
}

/// A definition that was looked at.
struct Known {
    revision: Revision,
    object: Arc<Value>,
    /// What the endpoints were made of: as long as it stays, so do they.
    made_of: String,
    definition: Option<Arc<Definition>>,
    endpoints: Vec<Arc<Endpoint>>,
    /// Why it cannot be served.
    problem: Option<String>,
    /// Its objects are being deleted.
    cleaning: bool,
}

/// Reads every definition, serves those that are accepted, and follows them.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn start(core: &Arc<Core>) -> Result<(), Status> {
    let prefix = core.endpoint(GROUP, "v1", PLURAL)?.prefix.clone();
    let parse = |kv: &KeyValue| {
        let object: Value = serde_json::from_slice(&kv.value).ok()?;
        let leaving = !text(&object, "/metadata/deletionTimestamp").is_empty();
        Some(Stored { revision: kv.mod_revision, value: kv.value.clone(), leaving })
    };
    let mirror = Mirror::open(&prefix, core.options.store.clone(), &core.supervisor, parse).await;
    let mirror = mirror.map_err(|e| store_error(&e))?;
    core.written.register(&mirror);
    let mut changes = mirror.changes();
    let mut registry = Registry { core: core.clone(), mirror, known: HashMap::new() };
    // What was there is served before the first request.
    registry.look();
    registry.serve();
    let registry = Arc::new(tokio::sync::Mutex::new(registry));
    let policy = Policy::Restart(Backoff::new(Duration::from_millis(100), Duration::from_secs(10)));
    changes.mark_changed();
    core.supervisor.supervise("custom-kinds", policy, move || {
        let (registry, mut changes) = (registry.clone(), changes.clone());
        changes.mark_changed();
        async move {
            let mut registry = registry.lock().await;
            while changes.changed().await.is_ok() {
                registry.look();
                registry.serve();
                registry.settle().await?;
            }
            Ok::<(), Status>(())
        }
    });
    Ok(())
}

struct Registry {
    core: Arc<Core>,
    mirror: Arc<Mirror<Stored>>,
    known: HashMap<Bytes, Known>,
}

impl Registry {
    /// Takes note of what changed, and compiles what is new.
    fn look(&mut self) {
        let objects = self.mirror.objects();
        self.known.retain(|key, _| objects.contains_key(key));
        for (key, stored) in objects.iter() {
            if self.known.get(key).is_some_and(|known| known.revision == stored.revision) {
                continue;
            }
            let Ok(object) = serde_json::from_slice::<Value>(&stored.value) else { continue };
            let before = self.known.remove(key);
            self.known.insert(key.clone(), self.compile(key, object, stored.revision, before));
        }
    }

    fn compile(&self, key: &Bytes, object: Value, revision: Revision, before: Option<Known>) -> Known {
        let names = object.pointer("/status/acceptedNames").filter(|_| is_true(&object, "NamesAccepted"));
        let made_of = serde_json::json!([text(&object, "/metadata/uid"), object["spec"], names]).to_string();
        if let Some(mut known) = before.filter(|known| known.made_of == made_of) {
            (known.revision, known.object) = (revision, Arc::new(object));
            return known;
        }
        let (mut endpoints, mut problem, mut definition) = (Vec::new(), None, None);
        if is_true(&object, "NamesAccepted") {
            match Definition::compile(&object) {
                Ok(compiled) => {
                    let compiled = Arc::new(compiled);
                    for version in compiled.versions.iter().filter(|version| version.served) {
                        let origin = {
                            let (key, mirror) = (key.clone(), self.mirror.clone());
                            Origin::new(compiled.clone(), revision, key, mirror, &self.core)
                        };
                        endpoints.push(Arc::new(Endpoint::of_custom(version.kind.clone(), origin)));
                    }
                    definition = Some(compiled);
                }
                Err(error) => problem = Some(error.to_string()),
            }
        }
        let object = Arc::new(object);
        Known { revision, object, made_of, definition, endpoints, problem, cleaning: false }
    }

    /// Serves what is accepted now, and nothing else. A definition is served just before it says so.
    fn serve(&self) {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut endpoints = Vec::new();
        let mut all: Vec<&Known> = self.known.values().filter(|known| !known.endpoints.is_empty()).collect();
        all.sort_by_key(|known| text(&known.object, "/metadata/name").to_owned());
        for known in all {
            let built_in = known.endpoints.iter().any(|e| self.core.endpoints.is_built_in(e));
            if built_in {
                continue;
            }
            for endpoint in &known.endpoints {
                let versions = groups.entry(endpoint.resource.group.to_owned()).or_default();
                if !versions.iter().any(|version| version == endpoint.resource.version) {
                    versions.push(endpoint.resource.version.to_owned());
                }
                endpoints.push(endpoint.clone());
            }
        }
        for versions in groups.values_mut() {
            versions.sort_by(|a, b| sampan_api::kinds::compare_versions(a, b));
        }
        self.core.endpoints.set_custom(endpoints, groups.into_iter().collect());
    }

    /// Writes what each definition is to say of itself, and clears up after those that go.
    async fn settle(&mut self) -> Result<(), Status> {
        let mut keys: Vec<Bytes> = self.known.keys().cloned().collect();
        // Who came first keeps its names.
        keys.sort_by_key(|key| self.known.get(key).map_or(0, |known| known.revision));
        for key in keys {
            let Some(known) = self.known.get(&key) else { continue };
            let taken = names::taken(self.known.values().map(|k| &*k.object), &known.object);
            let problem = known.problem.clone();
            let name = text(&known.object, "/metadata/name").to_owned();
            let wanted = names::conditions(&known.object, &taken, problem.as_deref());
            if wanted != *known.object {
                let change = |found: &mut Value| {
                    *found = names::conditions(found, &taken, problem.as_deref());
                };
                self.core.edit_definition(&name, change).await?;
                // Its names count for the next at once.
                if let Some(known) = self.known.get_mut(&key) {
                    known.object = Arc::new(wanted);
                    known.revision = 0;
                }
            }
            self.clean(&key, &name);
        }
        Ok(())
    }

    fn clean(&mut self, key: &Bytes, name: &str) {
        let Some(known) = self.known.get_mut(key) else { return };
        let finalizers = known.object.pointer("/metadata/finalizers").and_then(Value::as_array);
        let held = finalizers.is_some_and(|list| list.iter().any(|f| f == FINALIZER));
        let leaving = !text(&known.object, "/metadata/deletionTimestamp").is_empty();
        if leaving && held && !known.cleaning {
            known.cleaning = true;
            cleanup::start(&self.core, name, known.definition.clone());
        }
    }
}

/// A definition that is deleted waits for its objects to go.
pub(crate) fn mark_definition(resource: &Resource, object: &mut Value) {
    if (resource.group, resource.plural) != (GROUP, PLURAL) {
        return;
    }
    if let Ok(metadata) = call::metadata(object) {
        let list = metadata.entry("finalizers").or_insert_with(|| Value::Array(Vec::new()));
        if let Some(list) = list.as_array_mut()
            && !list.iter().any(|f| f == FINALIZER)
        {
            list.push(FINALIZER.into());
        }
    }
    let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    names::condition(object, "Terminating", true, "InstanceDeletionPending", message);
}

/// Whether the condition of that type is true.
fn is_true(object: &Value, kind: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == kind && c["status"] == "True")
}

impl Core {
    /// Changes a stored definition, which goes when nothing holds it any more. One that is gone already stays so.
    async fn edit_definition(&self, name: &str, change: impl Fn(&mut Value)) -> Result<(), Status> {
        let endpoint = self.endpoint(GROUP, "v1", PLURAL)?;
        loop {
            let Some(kv) = self.fetch(&endpoint, None, name).await? else { return Ok(()) };
            let found = encode::parse(&endpoint, &kv.value, kv.mod_revision)?;
            let mut new = found.clone();
            change(&mut new);
            if new == found {
                return Ok(());
            }
            let op = if is_finished(&new) {
                Op::Delete { key: kv.key.clone() }
            } else {
                let value = encode::canonical(&endpoint, &new)?;
                Op::Put { key: kv.key.clone(), value, lease: kv.lease }
            };
            let compare = vec![Compare::ModRevision(kv.key, kv.mod_revision)];
            if let TxnResponse::Committed(_) = self.commit(Txn { compare, ops: vec![op] }).await? {
                return Ok(());
            }
        }
    }
}
