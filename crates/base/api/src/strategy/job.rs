//! A Job's generated selector, which no other Job's pods match.

use serde_json::Value;

use crate::defaults::Object;
use crate::defaults::edit::{child, ensure_path, set, text};

/// Labels the template with the Job's name and UID and selects by the UID, unless the user does it by hand.
/// Labels that the user wrote stay; validation refuses those that contradict.
pub(super) fn generate_selector(job: &mut Object) {
    let Some(metadata) = child(job, "metadata") else { return };
    let (name, uid) = (text(metadata, "name").to_owned(), text(metadata, "uid").to_owned());
    let Some(spec) = child(job, "spec") else { return };
    if spec.get("manualSelector").and_then(Value::as_bool) == Some(true) {
        return;
    }
    if let Some(labels) = ensure_path(spec, &["template", "metadata", "labels"]) {
        set(labels, "batch.kubernetes.io/controller-uid", uid.clone());
        set(labels, "batch.kubernetes.io/job-name", name.clone());
        set(labels, "controller-uid", uid.clone());
        set(labels, "job-name", name);
    }
    if let Some(labels) = ensure_path(spec, &["selector", "matchLabels"]) {
        set(labels, "batch.kubernetes.io/controller-uid", uid);
    }
}
