//! The EndpointSlices of a Service, changed as little as possible.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use sampan_planner::pods;

use super::backends::{Backend, Family};
use super::{CONTROLLER, HEADLESS, MANAGED_BY, SERVICE_NAME, is_headless};
use crate::apis;
use crate::cache::Caches;
use crate::claim::controller_reference;
use crate::error::{Context, Result};

/// The most endpoints in one slice.
pub(super) const MAX_ENDPOINTS: usize = 100;

/// What to write.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

impl Plan {
    /// Makes those that are missing.
    pub async fn create(&self, api: &Api<EndpointSlice>) -> kube::Result<()> {
        let params = PostParams::default();
        try_join_all(self.create.iter().map(|slice| api.create(&params, slice))).await.map(drop)
    }

    /// Brings the others in line, and takes away those that are too many.
    pub async fn settle(
        self,
        client: &Client,
        caches: &Caches,
        api: &Api<EndpointSlice>,
        what: impl FnOnce() -> String,
    ) -> Result<()> {
        let params = PostParams::default();
        let updates =
            self.update.iter().map(|slice| api.replace(pods::name(&slice.metadata), &params, slice));
        for updated in try_join_all(updates).await.during(what)? {
            caches.slices.absorb(updated);
        }
        for slice in self.delete {
            apis::delete(client, &*slice).await?;
        }
        Ok(())
    }
}

/// Compares what should be with the slices that are there.
pub(super) fn plan(
    service: &Service,
    backends: &[Backend],
    families: &[Family],
    existing: &[Arc<EndpointSlice>],
) -> Plan {
    let mut plan = Plan::default();
    for family in families {
        let theirs: Vec<&Backend> = backends.iter().filter(|b| b.family == *family).collect();
        let (have, _): (Vec<_>, Vec<_>) =
            existing.iter().cloned().partition(|s| s.address_type == family.address_type());
        plan_family(service, *family, &theirs, have, &mut plan);
    }
    let served = |s: &&Arc<EndpointSlice>| families.iter().all(|f| f.address_type() != s.address_type);
    plan.delete.extend(existing.iter().filter(served).cloned());
    plan
}

/// Ports in a comparable form, whatever their order.
pub(super) fn port_key(ports: &[EndpointPort]) -> Vec<(String, i32, String, String)> {
    let mut key: Vec<_> = ports
        .iter()
        .map(|p| {
            (
                p.name.clone().unwrap_or_default(),
                p.port.unwrap_or(0),
                p.protocol.clone().unwrap_or_default(),
                p.app_protocol.clone().unwrap_or_default(),
            )
        })
        .collect();
    key.sort();
    key
}

fn plan_family(
    service: &Service,
    family: Family,
    backends: &[&Backend],
    existing: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let mut groups: BTreeMap<_, (Vec<EndpointPort>, Vec<&Backend>)> = BTreeMap::new();
    for backend in backends {
        let group =
            groups.entry(port_key(&backend.ports)).or_insert_with(|| (backend.ports.clone(), Vec::new()));
        group.1.push(backend);
    }
    let mut slices: HashMap<_, Vec<Arc<EndpointSlice>>> = HashMap::new();
    for slice in existing {
        slices.entry(port_key(slice.ports.as_deref().unwrap_or_default())).or_default().push(slice);
    }
    if groups.is_empty() {
        // One empty slice says that there is nothing, rather than that nobody has looked yet.
        groups.insert(Vec::new(), (Vec::new(), Vec::new()));
    }
    for (key, (ports, members)) in groups {
        let have = slices.remove(&key).unwrap_or_default();
        plan_group(service, family, ports, &members, have, plan);
    }
    plan.delete.extend(slices.into_values().flatten());
}

fn plan_group(
    service: &Service,
    family: Family,
    ports: Vec<EndpointPort>,
    members: &[&Backend],
    existing: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let mut wanted: HashMap<&str, &Endpoint> =
        members.iter().map(|b| (uid(&b.endpoint), &b.endpoint)).collect();
    // Each endpoint stays in the slice that it is in.
    let mut slices: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = existing
        .into_iter()
        .map(|slice| {
            let kept =
                slice.endpoints.iter().flatten().filter_map(|e| wanted.remove(uid(e))).cloned().collect();
            (slice, kept)
        })
        .collect();
    let mut new: Vec<Endpoint> = members
        .iter()
        .filter(|b| wanted.contains_key(uid(&b.endpoint)))
        .map(|b| b.endpoint.clone())
        .collect();
    // What is new goes where the fewest slices change: into those that change anyway, then into the fullest.
    slices.sort_by_key(|(slice, kept)| {
        let changes = slice.endpoints.as_deref().unwrap_or_default() != kept.as_slice();
        (!changes, MAX_ENDPOINTS.saturating_sub(kept.len()))
    });
    for (_, kept) in &mut slices {
        let room = MAX_ENDPOINTS.saturating_sub(kept.len()).min(new.len());
        kept.extend(new.drain(..room));
    }
    let meta = metadata(service);
    let keep_one_empty = members.is_empty();
    let mut kept_one = false;
    for (slice, endpoints) in slices {
        if endpoints.is_empty() && (!keep_one_empty || kept_one) {
            plan.delete.push(slice);
            continue;
        }
        kept_one = true;
        if differs(&slice, &endpoints, &meta) {
            plan.update.push(updated(&slice, endpoints, &meta));
        }
    }
    let create = |endpoints: Vec<Endpoint>| EndpointSlice {
        metadata: meta.clone(),
        address_type: family.address_type().to_owned(),
        endpoints: Some(endpoints),
        ports: Some(ports.clone()),
    };
    while !new.is_empty() {
        let rest = new.split_off(new.len().min(MAX_ENDPOINTS));
        plan.create.push(create(std::mem::replace(&mut new, rest)));
        kept_one = true;
    }
    if keep_one_empty && !kept_one {
        plan.create.push(create(Vec::new()));
    }
}

fn uid(endpoint: &Endpoint) -> &str {
    endpoint.target_ref.as_ref().and_then(|r| r.uid.as_deref()).unwrap_or_default()
}

fn differs(slice: &EndpointSlice, endpoints: &[Endpoint], meta: &ObjectMeta) -> bool {
    slice.endpoints.as_deref().unwrap_or_default() != endpoints || slice.metadata.labels != meta.labels
}

fn updated(slice: &EndpointSlice, endpoints: Vec<Endpoint>, meta: &ObjectMeta) -> EndpointSlice {
    let mut slice = slice.clone();
    slice.metadata.labels.clone_from(&meta.labels);
    slice.endpoints = Some(endpoints);
    slice
}

fn metadata(service: &Service) -> ObjectMeta {
    let name = pods::name(&service.metadata);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.to_owned(), name.to_owned());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    if is_headless(service) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    ObjectMeta {
        namespace: service.metadata.namespace.clone(),
        generate_name: Some(format!("{name}-")),
        labels: Some(labels),
        owner_references: Some(vec![controller_reference(service)]),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::super::backends;
    use super::*;

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default", "uid": "s", "labels": {"team": "x"}},
            "spec": {"clusterIP": "10.43.0.9", "selector": {"app": "web"},
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}, {"name": "raw", "port": 9, "targetPort": 99}]},
        }))
        .unwrap()
    }

    fn pod(index: usize, ready: bool) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": format!("p{index}"), "namespace": "default", "uid": format!("u{index:04}")},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": format!("10.42.{}.{}", index / 250, index % 250 + 1),
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn step(pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> (Plan, Vec<Arc<EndpointSlice>>) {
        let service = service();
        let families = backends::families(&service);
        let backends = backends::of(&service, pods, &families, &HashMap::new());
        let plan = plan(&service, &backends, &families, existing);
        let gone = |s: &EndpointSlice| {
            let named = |o: &EndpointSlice| o.metadata.name == s.metadata.name;
            plan.delete.iter().any(|o| named(o)) || plan.update.iter().any(named)
        };
        let mut after: Vec<Arc<EndpointSlice>> = existing.iter().filter(|s| !gone(s)).cloned().collect();
        after.extend(plan.update.iter().cloned().map(Arc::new));
        for (index, mut slice) in plan.create.clone().into_iter().enumerate() {
            slice.metadata.name = Some(format!("web-{}-{index}", existing.len()));
            after.push(Arc::new(slice));
        }
        (plan, after)
    }

    fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
        let mut sizes: Vec<usize> = slices.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect();
        sizes.sort_unstable();
        sizes
    }

    #[test]
    fn empty_then_filled_then_split_at_a_hundred() {
        let (_, slices) = step(&[], &[]);
        assert_eq!(sizes(&slices), [0]);
        let pods: Vec<_> = (0..230).map(|i| pod(i, true)).collect();
        let (_, slices) = step(&pods, &slices);
        assert_eq!(sizes(&slices), [30, 100, 100]);
        let slice = slices.iter().find(|s| s.endpoints.as_ref().unwrap().len() == 30).unwrap();
        assert_eq!(slice.metadata.labels.as_ref().unwrap()["team"], "x");
        let ports: Vec<_> = slice.ports.as_ref().unwrap().iter().map(|p| p.port.unwrap()).collect();
        assert_eq!(ports, [8080, 99]);
        assert_eq!(slice.endpoints.as_ref().unwrap()[0].conditions.as_ref().unwrap().ready, Some(true));

        let (plan, same) = step(&pods, &slices);
        assert!(plan.create.is_empty() && plan.update.is_empty() && plan.delete.is_empty());

        // One pod more changes one slice; back to none leaves one empty slice.
        let more: Vec<_> = (0..231).map(|i| pod(i, true)).collect();
        let (plan, _) = step(&more, &same);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
        let (_, none) = step(&[], &same);
        assert_eq!(sizes(&none), [0]);
    }

    #[test]
    fn unready_and_terminating_pods_are_told_apart() {
        let mut going = (*pod(1, true)).clone();
        going.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let mut done = (*pod(2, true)).clone();
        done.status.as_mut().unwrap().phase = Some("Succeeded".into());
        let (_, slices) = step(&[pod(0, false), Arc::new(going), Arc::new(done)], &[]);
        let endpoints = slices[0].endpoints.as_ref().unwrap();
        let facts: Vec<_> = endpoints
            .iter()
            .map(|e| e.conditions.as_ref().unwrap())
            .map(|c| (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap()))
            .collect();
        assert_eq!(facts, [(false, false, false), (false, true, true)]);
    }
}
