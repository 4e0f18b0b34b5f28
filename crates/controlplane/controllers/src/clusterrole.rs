//! ClusterRoles with an `aggregationRule` have the rules of all roles that it selects.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Client;
use kube::api::{Patch, PatchParams};
use sampan_planner::selector::Selector;
use serde_json::json;

use crate::apis;
use crate::cache::Caches;
use crate::error::{Context, Result, gone_is_fine};
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;

/// The controller of aggregated roles. Its keys are ClusterRoles.
pub(crate) struct ClusterRoles {
    client: Client,
    caches: Arc<Caches>,
    queue: Queue<Key>,
}

fn selectors(role: &ClusterRole) -> Vec<Selector> {
    let rule = role.aggregation_rule.as_ref();
    let selectors = rule.and_then(|rule| rule.cluster_role_selectors.as_ref());
    selectors.into_iter().flatten().map(|selector| Selector::new(Some(selector))).collect()
}

impl ClusterRoles {
    pub fn new(client: Client, caches: Arc<Caches>) -> Arc<Self> {
        let this = Arc::new(Self { client, caches, queue: Queue::new() });
        let own = this.clone();
        this.caches.cluster_roles.on(move |change| own.changed(change));
        this
    }

    /// Whoever gathers the role, before or after the change, gathers anew; and the role itself when it gathers.
    fn changed(&self, change: &Change<'_, ClusterRole>) {
        let (now, before) = (change.object(), change.old());
        let stays = !matches!(change, Change::Deleted(_));
        let same = stays
            && before.is_some_and(|before| {
                before.rules == now.rules
                    && before.metadata.labels == now.metadata.labels
                    && before.aggregation_rule == now.aggregation_rule
            });
        if same {
            return;
        }
        for role in self.caches.cluster_roles.all() {
            let gathers = selectors(&role).iter().any(|selector| {
                selector.matches(now.metadata.labels.as_ref())
                    || before.is_some_and(|before| selector.matches(before.metadata.labels.as_ref()))
            });
            let itself = role.metadata.name == now.metadata.name && role.aggregation_rule.is_some();
            if gathers || itself {
                self.queue.add(Key::of(&role.metadata));
            }
        }
    }

    /// The rules of all roles that are selected, in the order of the selectors and of the roles' names, each once.
    fn gathered(&self, role: &ClusterRole) -> Vec<PolicyRule> {
        let mut all = self.caches.cluster_roles.all();
        all.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let mut rules: Vec<PolicyRule> = Vec::new();
        for selector in selectors(role) {
            let chosen = all.iter().filter(|other| {
                other.metadata.name != role.metadata.name && selector.matches(other.metadata.labels.as_ref())
            });
            for rule in chosen.flat_map(|other| other.rules.iter().flatten()) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        rules
    }
}

impl Reconciler for ClusterRoles {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(role) = self.caches.cluster_roles.get(key) else { return Ok(None) };
        if role.aggregation_rule.is_none() {
            return Ok(None);
        }
        let rules = self.gathered(&role);
        let own = role.rules.as_deref().unwrap_or_default();
        // In another order they allow the same.
        if own.len() == rules.len() && rules.iter().all(|rule| own.contains(rule)) {
            return Ok(None);
        }
        let patch = json!({"rules": rules});
        let api = apis::cluster::<ClusterRole>(&self.client);
        let result = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Ok(patched) = &result {
            self.caches.cluster_roles.absorb(patched.clone());
        }
        gone_is_fine(result).during(|| format!("aggregating ClusterRole {}", key.name))?;
        Ok(None)
    }
}
