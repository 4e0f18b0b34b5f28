//! Which kinds the API serves, in two requests. A group whose server does not answer is told of, and the others count.

use std::collections::BTreeMap;

use kube::Client;
use kube::api::ApiResource;
use kube::client::APIGroupDiscovery;

/// A served resource.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    pub resource: ApiResource,
    pub namespaced: bool,
    /// Of several versions it is the one that is asked for.
    pub preferred: bool,
    verbs: Vec<String>,
}

impl Served {
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|known| known == verb)
    }
}

/// What is served.
#[derive(Debug, Clone, Default)]
pub(crate) struct Discovered {
    pub served: Vec<Served>,
    /// Group versions of which nobody knows what they serve, with the reason.
    pub failed: BTreeMap<String, String>,
}

impl Discovered {
    /// Asks the API.
    pub async fn ask(client: &Client) -> Result<Self, kube::Error> {
        let (core, groups) = futures::future::try_join(
            client.list_core_api_versions_aggregated(),
            client.list_api_groups_aggregated(),
        )
        .await?;
        let mut all = Self::default();
        for group in core.items.into_iter().chain(groups.items) {
            all.add(group);
        }
        Ok(all)
    }

    fn add(&mut self, group: APIGroupDiscovery) {
        let name = group.metadata.and_then(|meta| meta.name).unwrap_or_default();
        let mut seen: Vec<String> = Vec::new();
        for version in group.versions {
            let number = version.version.unwrap_or_default();
            let api_version = if name.is_empty() { number.clone() } else { format!("{name}/{number}") };
            if version.freshness.as_deref() == Some("Stale") {
                self.failed
                    .insert(api_version.clone(), format!("stale GroupVersion discovery: {api_version}"));
                continue;
            }
            for resource in version.resources {
                let (Some(plural), Some(kind)) = (resource.resource, resource.response_kind) else {
                    continue;
                };
                let preferred = !seen.contains(&plural);
                if preferred {
                    seen.push(plural.clone());
                }
                self.served.push(Served {
                    resource: ApiResource {
                        group: name.clone(),
                        version: number.clone(),
                        api_version: api_version.clone(),
                        kind: kind.kind.unwrap_or_default(),
                        plural,
                    },
                    namespaced: resource.scope.as_deref() == Some("Namespaced"),
                    preferred,
                    verbs: resource.verbs,
                });
            }
        }
    }

    /// Whether it cannot be said what the group serves.
    pub fn is_unsure_of(&self, group: &str) -> bool {
        self.failed.keys().any(|version| version.split_once('/').map_or("", |(name, _)| name) == group)
    }

    /// The failures as one sentence, in Kubernetes' words.
    pub fn failure(&self) -> Option<String> {
        if self.failed.is_empty() {
            return None;
        }
        let each: Vec<String> =
            self.failed.iter().map(|(version, why)| format!("{version}: {why}")).collect();
        Some(format!(
            "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
            each.len(),
            each.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_is_told_and_the_first_version_counts() {
        let resource = json!({"resource": "things", "responseKind": {"group": "", "version": "", "kind": "Thing"},
            "scope": "Namespaced", "verbs": ["list", "delete"]});
        let mut all = Discovered::default();
        let versions = json!([{"version": "v2", "freshness": "Current", "resources": [resource]},
            {"version": "v1", "freshness": "Current", "resources": [resource]}]);
        all.add(serde_json::from_value(json!({"metadata": {"name": "a.io"}, "versions": versions})).unwrap());
        let stale = json!([{"version": "v1", "freshness": "Stale", "resources": []}]);
        all.add(serde_json::from_value(json!({"metadata": {"name": "b.io"}, "versions": stale})).unwrap());
        let told: Vec<_> =
            all.served.iter().map(|s| (s.resource.api_version.as_str(), s.preferred)).collect();
        assert_eq!(told, [("a.io/v2", true), ("a.io/v1", false)]);
        assert!(all.served[0].can("list") && !all.served[0].can("watch") && all.served[0].namespaced);
        assert!(all.is_unsure_of("b.io") && !all.is_unsure_of("a.io"));
        assert!(all.failure().unwrap().contains("b.io/v1: stale GroupVersion discovery: b.io/v1"));
    }
}
