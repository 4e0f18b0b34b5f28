//! `pods/binding`, `pods/ephemeralcontainers`.

use serde_json::Value;

use crate::status::{FieldError, FieldPath, go_quote};
use crate::strategy::compare::same;
use crate::validation::meta;
use crate::validation::read::{Errors, get, list, text};

use super::metadata_and_spec;
use super::update::is_mirror;

/// The body of `pods/NAME/binding`.
pub(in crate::validation) fn binding(out: &mut Errors, binding: &Value) {
    let target = get(binding, "target");
    let (kind, name) = (text(target, "kind"), text(target, "name"));
    if !matches!(kind, "" | "Node") {
        out.push(FieldError::not_supported("target.kind", kind, &["Node", "<empty>"]));
    }
    if name.is_empty() {
        out.push(FieldError::required("target.name", ""));
    }
}

/// Ephemeral containers may be added, never changed nor removed.
pub(in crate::validation) fn ephemeral_containers(out: &mut Errors, new: &Value, old: &Value) {
    meta::update(out, new, old);
    metadata_and_spec(out, new);
    if is_mirror(old) {
        *out = vec![FieldError::forbidden("[]", "static pods do not support ephemeral containers")];
        return;
    }
    let path = FieldPath::new("spec.ephemeralContainers");
    let now = list(get(new, "spec"), "ephemeralContainers");
    for before in list(get(old, "spec"), "ephemeralContainers") {
        let name = text(before, "name");
        let what = match now.iter().find(|c| text(c, "name") == name) {
            None => "removed\n",
            Some(now) if !same(now, before) => "changed\n",
            Some(_) => continue,
        };
        let sentence = format!("existing ephemeral containers {} may not be {what}", go_quote(name));
        out.push(FieldError::forbidden(&path, sentence));
    }
}
