//! Which endpoints there are: a snapshot that is replaced as a whole when custom kinds come, change or go.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use sampan_api::kinds::{self, Resource};
use serde_json::Value;
use tokio::sync::watch;

use super::{Endpoint, documents::Documents};
use crate::discovery::Fixed;

/// What is served at one moment.
pub(crate) struct Served {
    /// In the order of discovery: built-in resources first, by group, then custom ones.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    /// Every group with its versions, the preferred first; the core group is the empty name.
    pub(crate) groups: Vec<(String, Vec<String>)>,
    /// By plural, which nearly always names one resource.
    by_plural: HashMap<&'static str, Vec<Arc<Endpoint>>>,
    /// The documents of aggregated discovery, made when first asked for.
    pub(crate) documents: [OnceLock<Fixed>; 4],
    /// OpenAPI.
    pub(super) openapi: Documents,
    /// What extension servers have.
    pub(crate) remote: Arc<[RemoteVersion]>,
}

/// A group and version that an extension server has.
#[derive(Clone)]
pub(crate) struct RemoteVersion {
    pub(crate) group: String,
    pub(crate) version: String,
    /// Higher ones come first in their group.
    pub(crate) priority: i64,
    /// The `resources` of its discovery document.
    pub(crate) resources: Arc<Value>,
    /// It answered when it was last asked.
    pub(crate) fresh: bool,
}

impl Served {
    fn new(
        endpoints: Vec<Arc<Endpoint>>,
        mut groups: Vec<(String, Vec<String>)>,
        remote: Arc<[RemoteVersion]>,
    ) -> Self {
        for version in remote.iter() {
            add(&mut groups, &version.group, std::slice::from_ref(&version.version));
        }
        let mut by_plural: HashMap<&'static str, Vec<Arc<Endpoint>>> = HashMap::new();
        for endpoint in &endpoints {
            by_plural.entry(endpoint.resource.plural).or_default().push(endpoint.clone());
        }
        let (documents, openapi) = Default::default();
        Self { endpoints, groups, by_plural, documents, openapi, remote }
    }

    /// A resource by its path.
    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Endpoint>> {
        let named = |e: &&Arc<Endpoint>| e.resource.group == group && e.resource.version == version;
        self.by_plural.get(plural)?.iter().find(named)
    }

    /// The resource of a kind.
    pub(crate) fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Endpoint>> {
        let named = |r: &Resource| r.group == group && r.version == version && r.kind == kind;
        self.endpoints.iter().find(|e| named(e.resource))
    }

    /// The resources of a version.
    pub(crate) fn of_version<'a>(
        &'a self,
        group: &'a str,
        version: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Endpoint>> {
        self.endpoints.iter().filter(move |e| e.resource.group == group && e.resource.version == version)
    }

    /// Whether the group and version are served, if only with nothing in them.
    pub(crate) fn serves(&self, group: &str, version: &str) -> bool {
        self.groups.iter().any(|(name, versions)| name == group && versions.iter().any(|v| v == version))
    }
}

#[derive(Default)]
struct Parts {
    custom: Vec<Arc<Endpoint>>,
    groups: Vec<(String, Vec<String>)>,
    remote: Option<Arc<[RemoteVersion]>>,
}

/// Adds versions to a group that may be there already.
fn add(groups: &mut Vec<(String, Vec<String>)>, name: &str, versions: &[String]) {
    let index = groups.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
        groups.push((name.to_owned(), Vec::new()));
        groups.len() - 1
    });
    for version in versions {
        if !groups[index].1.contains(version) {
            groups[index].1.push(version.clone());
        }
    }
}

/// All served resources.
pub(crate) struct Endpoints {
    built_in: Vec<Arc<Endpoint>>,
    /// Custom endpoints with their groups, and what extension servers have.
    parts: Mutex<Parts>,
    now: RwLock<Arc<Served>>,
    changed: watch::Sender<u64>,
}

impl Endpoints {
    pub(crate) fn new() -> Self {
        let built_in: Vec<_> =
            kinds::resources().iter().map(|resource| Arc::new(Endpoint::new(resource))).collect();
        let served = Served::new(built_in.clone(), built_in_groups(), Arc::new([]));
        Self {
            built_in,
            parts: Mutex::default(),
            now: RwLock::new(Arc::new(served)),
            changed: watch::Sender::new(0),
        }
    }

    /// What is served now.
    pub(crate) fn served(&self) -> Arc<Served> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A resource by its path.
    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<Arc<Endpoint>> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).get(group, version, plural).cloned()
    }

    /// Whether a built-in resource lies under the same path or in the same place.
    pub(crate) fn is_built_in(&self, endpoint: &Endpoint) -> bool {
        self.built_in.iter().any(|e| e.prefix == endpoint.prefix)
    }

    /// Tells when other resources are served; what is served now counts as told.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Serves these custom kinds from now on, and no others. Watches of endpoints that are no more end.
    pub(crate) fn set_custom(&self, custom: Vec<Arc<Endpoint>>, groups: Vec<(String, Vec<String>)>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let same = parts.custom.len() == custom.len()
            && parts.custom.iter().zip(&custom).all(|(old, new)| Arc::ptr_eq(old, new));
        if same && parts.groups == groups {
            return;
        }
        (parts.custom, parts.groups) = (custom, groups);
        self.publish(&parts);
    }

    /// Shows what extension servers have from now on.
    pub(crate) fn set_remote(&self, remote: Vec<RemoteVersion>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |old: &[RemoteVersion]| {
            old.len() == remote.len()
                && old.iter().zip(&remote).all(|(a, b)| {
                    (&a.group, &a.version, a.priority, a.fresh) == (&b.group, &b.version, b.priority, b.fresh)
                        && a.resources == b.resources
                })
        };
        if same(parts.remote.as_deref().unwrap_or_default()) {
            return;
        }
        parts.remote = Some(remote.into());
        self.publish(&parts);
    }

    fn publish(&self, parts: &Parts) {
        let mut all = built_in_groups();
        for (name, versions) in &parts.groups {
            add(&mut all, name, versions);
        }
        let endpoints = self.built_in.iter().chain(&parts.custom).cloned().collect();
        let remote = parts.remote.clone().unwrap_or_else(|| Arc::new([]));
        let next = Arc::new(Served::new(endpoints, all, remote));
        let before = {
            let mut now = self.now.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *now, next.clone())
        };
        self.changed.send_modify(|n| *n += 1);
        for old in before.endpoints.iter().filter(|e| e.custom.is_some()) {
            if !next.endpoints.iter().any(|e| Arc::ptr_eq(e, old)) {
                old.retired.cancel();
            }
        }
    }
}

fn built_in_groups() -> Vec<(String, Vec<String>)> {
    let owned = |versions: &[&str]| versions.iter().map(|v| (*v).to_owned()).collect();
    kinds::groups().iter().map(|(name, versions)| ((*name).to_owned(), owned(versions))).collect()
}
