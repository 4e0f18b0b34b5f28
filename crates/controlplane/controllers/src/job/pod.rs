//! A pod of a Job, by its template.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod, PodTemplateSpec};
use sampan_planner::pods;
use sampan_planner::rollout::job::{FAILURES, IGNORED_FAILURES, INDEX, Replica, TRACKING};

use super::CONTROLLER_UID;
use crate::claim::controller_reference;
use crate::create;

const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The longest beginning of a name that is made up.
const LONGEST_PREFIX: usize = 58;

/// The pod.
pub(super) fn new(job: &Job, namespace: &str, replica: Replica) -> Pod {
    let mut template: PodTemplateSpec = job.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let name = pods::name(&job.metadata);
    let meta = template.metadata.get_or_insert_default();
    let finalizers = meta.finalizers.get_or_insert_default();
    if finalizers.iter().all(|f| f != TRACKING) {
        finalizers.push(TRACKING.to_owned());
    }
    let labels = meta.labels.get_or_insert_default();
    let uid = pods::uid(&job.metadata);
    for (key, value) in [(CONTROLLER_UID, uid), (JOB_NAME, name), ("controller-uid", uid), ("job-name", name)]
    {
        labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }
    let Some(index) = replica.index else {
        return create::pod(&template, namespace, controller_reference(job));
    };
    labels.insert(INDEX.to_owned(), index.to_string());
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some((counted, ignored)) = replica.failures {
        annotations.insert(FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED_FAILURES.to_owned(), ignored.to_string());
        }
    }
    tell_index(&mut template, name, index);
    let mut pod = create::pod(&template, namespace, controller_reference(job));
    pod.metadata.generate_name = Some(prefix(name, index));
    pod
}

/// `job-3-`, cut in the name of the Job when it is too long.
fn prefix(name: &str, index: i32) -> String {
    let end = format!("-{index}-");
    let kept = name.get(..LONGEST_PREFIX - end.len()).unwrap_or(name);
    format!("{kept}{end}")
}

/// Tells containers their index, and gives the pod a host name that others can know.
fn tell_index(template: &mut PodTemplateSpec, name: &str, index: i32) {
    let Some(spec) = &mut template.spec else { return };
    spec.hostname = Some(format!("{name}-{index}"));
    let variable = EnvVar {
        name: "JOB_COMPLETION_INDEX".into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.labels['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let variables = container.env.get_or_insert_default();
        if variables.iter().all(|v| v.name != variable.name) {
            variables.push(variable.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn indexed_pods_know_their_place() {
        let job: Job =
            serde_json::from_value(json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {
            "metadata": {"finalizers": [TRACKING], "labels": {"job-name": "mine"}},
            "spec": {"hostname": "other", "initContainers": [{"name": "i"}],
                "containers": [{"name": "c", "env": [{"name": "JOB_COMPLETION_INDEX", "value": "x"}]}]}}}}))
            .unwrap();
        let pod = new(&job, "ns", Replica { index: Some(7), failures: Some((2, 0)) });
        let meta = &pod.metadata;
        assert_eq!(meta.generate_name.as_deref(), Some("j-7-"));
        assert_eq!(meta.finalizers.as_ref().unwrap().len(), 1);
        let labels = meta.labels.as_ref().unwrap();
        assert_eq!(
            (labels[INDEX].as_str(), labels["job-name"].as_str(), labels[JOB_NAME].as_str()),
            ("7", "mine", "j")
        );
        let annotations = meta.annotations.as_ref().unwrap();
        assert_eq!((annotations[INDEX].as_str(), annotations[FAILURES].as_str()), ("7", "2"));
        assert!(!annotations.contains_key(IGNORED_FAILURES));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("j-7"));
        assert_eq!(
            spec.containers[0].env.as_ref().unwrap()[0].value.as_deref(),
            Some("x"),
            "the user's stays"
        );
        assert!(spec.init_containers.unwrap()[0].env.as_ref().unwrap()[0].value_from.is_some());
        let long = "n".repeat(63);
        assert_eq!(prefix(&long, 12).len(), LONGEST_PREFIX);
    }
}
