//! What the server does with a CustomResourceDefinition itself on its way in.

use serde_json::{Value, json};

use crate::defaults::Object;
use crate::defaults::edit::{absent, child, each, ensure, ensure_path, set_text, text};

/// Fills in the defaults of a definition.
pub(crate) fn defaults(object: &mut Object) {
    let Some(spec) = ensure(object, "spec") else { return };
    if let Some(names) = ensure(spec, "names") {
        let kind = text(names, "kind").to_owned();
        if text(names, "singular").is_empty() && !kind.is_empty() {
            names.insert("singular".into(), kind.to_lowercase().into());
        }
        if text(names, "listKind").is_empty() && !kind.is_empty() {
            names.insert("listKind".into(), format!("{kind}List").into());
        }
    }
    if absent(spec, "conversion") {
        spec.insert("conversion".into(), json!({ "strategy": "None" }));
    }
    if let Some(conversion) = ensure(spec, "conversion") {
        set_text(conversion, "strategy", "None");
        let client = child(conversion, "webhook").and_then(|w| child(w, "clientConfig"));
        if let Some(service) = client.and_then(|c| child(c, "service"))
            && absent(service, "port")
        {
            service.insert("port".into(), 443.into());
        }
    }
    each(spec, "versions", |version| {
        let scale = child(version, "subresources").and_then(|s| child(s, "scale"));
        if let Some(scale) = scale
            && text(scale, "labelSelectorPath").is_empty()
        {
            scale.shift_remove("labelSelectorPath");
        }
    });
}

/// The first status of a definition: the versions that objects may be stored in.
pub(crate) fn prepare_create(object: &mut Object) {
    object.insert("status".into(), json!({}));
    note_storage(object);
}

/// Keeps the status, and adds the version that is stored in from now on.
pub(crate) fn prepare_update(object: &mut Object) {
    note_storage(object);
}

fn note_storage(object: &mut Object) {
    let versions = object.get("spec").and_then(|s| s.get("versions")).and_then(Value::as_array);
    let storage = versions.into_iter().flatten().find(|v| v.get("storage") == Some(&Value::Bool(true)));
    let Some(name) = storage.and_then(|v| v.get("name")).cloned() else { return };
    let Some(status) = ensure_path(object, &["status"]) else { return };
    let stored = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(stored) = stored.as_array_mut()
        && !stored.contains(&name)
    {
        stored.push(name);
    }
}
