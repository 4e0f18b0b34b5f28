//! The annotation of client-side apply: it lets `kubectl apply --server-side` take over what `kubectl apply` owned,
//! and is kept up to date for who goes back.

use serde_json::Value;

use super::check::check;
use super::compare::compare;
use super::fields::fields;
use super::set::Set;
use super::types::Root;
use crate::kinds::Gvk;

/// The manager whose applies look at the annotation. Others are left alone.
pub(super) const KUBECTL: &str = "kubectl";

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The largest sum of an object's annotations, in bytes.
const MAX_ANNOTATIONS: usize = 256 << 10;

fn annotation(object: &Value) -> Option<&str> {
    let annotations = object.get("metadata")?.get("annotations")?;
    annotations.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

/// What client-side apply set and nobody has changed since: no conflict for kubectl.
pub(super) fn allowed(root: &Root, kind: &Gvk, live: &Value) -> Option<Set> {
    let last: Value = serde_json::from_str(annotation(live)?).ok()?;
    if last.get("apiVersion")?.as_str()? != kind.api_version() || last.get("kind")?.as_str()?.is_empty() {
        return None;
    }
    let (types, at) = (&*root.types, root.at);
    if !check(types, at, live, false).is_empty() || !check(types, at, &last, false).is_empty() {
        return None;
    }
    let (_, set) = fields(types, at, &last).ok()?;
    let found = compare(types, at, &last, live, None).ok()?;
    Some(set.difference(&found.changed).difference(&found.removed))
}

/// Writes the annotation anew where there is one.
pub(super) fn renew(object: &mut Value, config: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.shift_remove(ANNOTATION);
    }
    let mut text = String::new();
    write(&config, &mut text);
    text.push('\n');
    let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return;
    };
    annotations.insert(ANNOTATION.to_owned(), text.into());
    let size: usize = annotations.iter().map(|(name, v)| name.len() + v.as_str().map_or(0, str::len)).sum();
    if size > MAX_ANNOTATIONS {
        annotations.shift_remove(ANNOTATION);
    }
}

/// JSON as Go writes maps: sorted, with `<`, `>`, `&` escaped.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (index, (name, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                super::set::quote(name, out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::String(text) => super::set::quote(text, out),
        other => out.push_str(&other.to_string()),
    }
}
