//! ControllerRevisions: the templates that StatefulSets and DaemonSets had.

use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::PostParams;
use kube::{Client, Resource};
use sampan_planner::pods;
use sampan_planner::rollout::hash;
use sampan_planner::rollout::statefulset::REVISION;
use sampan_planner::selector::{Labels, Selector};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::apis;
use crate::cache::Caches;
use crate::claim::{Rules, claim, controller_reference};
use crate::error::{Context, Result, code};
use crate::informer::Key;

/// The revisions of one object, the newest last.
pub(crate) struct Revisions {
    pub all: Vec<Arc<ControllerRevision>>,
    /// The one of the template as it is now.
    pub update: Arc<ControllerRevision>,
    /// How often a name was taken already.
    pub collisions: Option<i32>,
}

fn data(template: &PodTemplateSpec) -> Value {
    let mut template = json!(template);
    template["$patch"] = "replace".into();
    let mut data = json!({"spec": {"template": template}});
    // Clients compare the bytes with what they make of the object, with every name in its place.
    data.sort_all_objects();
    data
}

/// The template that a revision holds.
pub(crate) fn template(revision: &ControllerRevision) -> PodTemplateSpec {
    let template = revision.data.0.pointer("/spec/template");
    // From text, as everything else is read: see `whole`.
    template.and_then(|t| serde_json::from_str(&t.to_string()).ok()).unwrap_or_default()
}

/// The hash by which pods are told apart.
pub(crate) fn hash_of(revision: &ControllerRevision) -> &str {
    let label = revision.metadata.labels.as_ref().and_then(|l| l.get(REVISION));
    label.map(String::as_str).unwrap_or_default()
}

fn number(revision: &ControllerRevision) -> i64 {
    revision.revision.unwrap_or(0)
}

/// Finds or creates the revision of the template, and makes it the newest.
pub(crate) async fn sync<O>(
    client: &Client,
    caches: &Caches,
    owner: &O,
    selector: &Selector,
    current: &PodTemplateSpec,
    mut collisions: Option<i32>,
) -> Result<Revisions>
where
    O: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut all = claim(client, owner, selector, &caches.revisions, Rules::PLAIN).await?;
    all.sort_by_key(|r| (number(r), pods::created(&r.metadata)));
    let wanted = data(current);
    let newest = all.last().map_or(0, |r| number(r));
    let same = all.iter().rposition(|r| r.data.0 == wanted);
    let update = match same {
        Some(at) if at + 1 == all.len() => all[at].clone(),
        Some(at) => {
            // An earlier template is back: it becomes the newest.
            let key = Key::of(&all.remove(at).metadata);
            let patch = json!({"revision": newest.saturating_add(1)});
            let revision = Arc::new(apis::merge(client, &caches.revisions, &key, &patch).await?);
            all.push(revision.clone());
            revision
        }
        None => {
            let labels = current.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
            let revision = Arc::new(
                create(client, owner, wanted, labels, newest.saturating_add(1), &mut collisions).await?,
            );
            all.push(revision.clone());
            revision
        }
    };
    Ok(Revisions { all, update, collisions })
}

async fn create<O>(
    client: &Client,
    owner: &O,
    data: Value,
    mut labels: Labels,
    revision: i64,
    collisions: &mut Option<i32>,
) -> Result<ControllerRevision>
where
    O: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    let key = Key::of(owner.meta());
    let api = apis::namespaced::<ControllerRevision>(client, &key.namespace);
    loop {
        let hash = hash::of(&data, *collisions);
        let name = format!("{}-{hash}", key.name);
        labels.insert(REVISION.to_owned(), hash);
        let wanted = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(key.namespace.clone()),
                labels: Some(labels.clone()),
                // `kubectl rollout history` finds the cause of the change there.
                annotations: owner.meta().annotations.clone(),
                owner_references: Some(vec![controller_reference(owner)]),
                ..ObjectMeta::default()
            },
            data: RawExtension(data.clone()),
            revision: Some(revision),
        };
        match api.create(&PostParams::default(), &wanted).await {
            Err(error) if code(&error) == 409 => {
                let existing =
                    api.get_opt(&name).await.during(|| format!("reading ControllerRevision {name}"))?;
                match existing {
                    Some(existing) if existing.data.0 == data => return Ok(existing),
                    _ => *collisions = Some(collisions.unwrap_or(0).saturating_add(1)),
                }
            }
            other => return other.during(|| format!("creating ControllerRevision {}/{name}", key.namespace)),
        }
    }
}

/// What the limit of a history is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum History {
    /// Revisions that nothing uses, as StatefulSets have it.
    Idle,
    /// All but the present one, as DaemonSets have it.
    Past,
}

/// Deletes the oldest revisions beyond the limit that neither the object nor any of its pods uses.
pub(crate) async fn truncate(
    client: &Client,
    revisions: &Revisions,
    used: &[&str],
    history: History,
    limit: i32,
) -> Result<()> {
    let idle = |r: &&Arc<ControllerRevision>| {
        let name = pods::name(&r.metadata);
        !used.contains(&name) && !used.contains(&hash_of(r)) && name != pods::name(&revisions.update.metadata)
    };
    let idle: Vec<_> = revisions.all.iter().filter(idle).collect();
    let counted = match history {
        History::Idle => idle.len(),
        History::Past => revisions.all.len().saturating_sub(1),
    };
    let excess = counted.saturating_sub(usize::try_from(limit).unwrap_or(0));
    for revision in idle.into_iter().take(excess) {
        apis::delete(client, &**revision).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_what_clients_make_of_the_object() {
        let template: PodTemplateSpec = serde_json::from_value(json!({
            "spec": {"containers": [{"name": "c", "image": "i", "args": ["a"]}], "dnsPolicy": "Default"},
            "metadata": {"labels": {"b": "2", "a": "1"}},
        }))
        .unwrap();
        let expected = r#"{"spec":{"template":{"$patch":"replace","metadata":{"labels":{"a":"1","b":"2"}},"spec":{"containers":[{"args":["a"],"image":"i","name":"c"}],"dnsPolicy":"Default"}}}}"#;
        assert_eq!(data(&template).to_string(), expected);
    }
}
