//! Kubernetes' rules about CustomResourceDefinitions: names, versions, conversion, columns, and (in [`schema`]) schemas.

mod schema;

use std::collections::HashSet;

use serde_json::Value;

use super::formats::Format;
use super::schema::Compiler;
use super::{Definition, JsonPath};
use crate::status::{FieldError, FieldPath};
use crate::validation::names;

type Errors = Vec<FieldError>;

/// Selectable fields of a version at most.
const MAX_SELECTABLE: usize = 8;

fn get<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&Value::Null)
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    get(value, name).as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    get(value, name).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Checks a definition that is created.
pub(crate) fn create(out: &mut Errors, object: &Value) {
    let name = text(get(object, "metadata"), "name");
    let spec = get(object, "spec");
    let required = format!("{}.{}", text(get(spec, "names"), "plural"), text(spec, "group"));
    if !name.is_empty() && name != required {
        let sentence = "must be spec.names.plural+\".\"+spec.group";
        out.push(FieldError::invalid("metadata.name", name, sentence));
    }
    whole(out, object, None);
}

/// Checks an update of a definition.
pub(crate) fn update(out: &mut Errors, new: &Value, old: &Value) {
    whole(out, new, Some(old));
    let (now, before) = (get(new, "spec"), get(old, "spec"));
    let path = FieldPath::new("spec");
    let mut immutable = |path: FieldPath, now: &Value, before: &Value| {
        if now != before {
            out.push(FieldError::invalid(&path, now.clone(), "field is immutable"));
        }
    };
    let (names, names_before) = (get(now, "names"), get(before, "names"));
    if is_established(old) {
        immutable(path.child("scope"), get(now, "scope"), get(before, "scope"));
        immutable(path.child("names.kind"), get(names, "kind"), get(names_before, "kind"));
    }
    immutable(path.child("group"), get(now, "group"), get(before, "group"));
    immutable(path.child("names.plural"), get(names, "plural"), get(names_before, "plural"));
}

/// Checks an update of the status.
pub(crate) fn update_status(out: &mut Errors, new: &Value) {
    let accepted = get(get(new, "status"), "acceptedNames");
    check_names(out, accepted, &FieldPath::new("status.acceptedNames"));
    stored_versions(out, new);
}

fn is_established(object: &Value) -> bool {
    list(get(object, "status"), "conditions")
        .iter()
        .any(|c| text(c, "type") == "Established" && text(c, "status") == "True")
}

fn whole(out: &mut Errors, object: &Value, old: Option<&Value>) {
    let spec = get(object, "spec");
    let path = FieldPath::new("spec");
    group(out, spec, &path);
    one_of(out, &path.child("scope"), text(spec, "scope"), &["Cluster", "Namespaced"]);
    versions(out, spec, old.map(|old| get(old, "spec")), &path);
    let own = get(spec, "names");
    let at = path.child("names");
    for name in ["plural", "singular", "kind", "listKind"] {
        if text(own, name).is_empty() {
            out.push(FieldError::required(at.child(name), ""));
        }
    }
    check_names(out, own, &at);
    conversion(out, get(spec, "conversion"), &path.child("conversion"));
    check_names(out, get(get(object, "status"), "acceptedNames"), &FieldPath::new("status.acceptedNames"));
    stored_versions(out, object);
    approval(out, object, old);
    let was = old.is_some_and(|old| get(get(old, "spec"), "preserveUnknownFields") == &Value::Bool(true));
    if get(spec, "preserveUnknownFields") == &Value::Bool(true) && !was {
        let sentence = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        out.push(FieldError::invalid(path.child("preserveUnknownFields"), true, sentence));
    }
    if out.is_empty()
        && let Err(error) = Definition::compile(object)
    {
        out.push(FieldError::invalid(path.child("versions"), "", error.to_string()));
    }
}

fn group(out: &mut Errors, spec: &Value, path: &FieldPath) {
    let (group, path) = (text(spec, "group"), path.child("group"));
    if group.is_empty() {
        out.push(FieldError::required(path, ""));
        return;
    }
    let errors = names::dns1123_subdomain(group);
    if !errors.is_empty() {
        out.push(FieldError::invalid(path, group, errors.join(",")));
    } else if !group.contains('.') {
        out.push(FieldError::invalid(path, group, "should be a domain with at least one dot"));
    }
}

fn one_of(out: &mut Errors, path: &FieldPath, value: &str, known: &[&str]) {
    if value.is_empty() {
        out.push(FieldError::required(path, ""));
    } else if !known.contains(&value) {
        out.push(FieldError::not_supported(path, value, known));
    }
}

/// Upstream keeps what all versions have alike once, and names it by that place.
fn place(versions: &[Value], field: &str, alike: &str, path: &FieldPath, index: usize) -> FieldPath {
    let first = versions.first().map(|v| get(v, field)).unwrap_or(&Value::Null);
    if versions.iter().all(|v| get(v, field) == first) {
        path.child(alike)
    } else {
        path.child("versions").index(index).child(field)
    }
}

fn versions(out: &mut Errors, spec: &Value, old: Option<&Value>, path: &FieldPath) {
    let all = list(spec, "versions");
    let at = path.child("versions");
    let (mut seen, mut unique, mut storage) = (HashSet::new(), true, 0);
    for (i, version) in all.iter().enumerate() {
        let schema = get(get(version, "schema"), "openAPIV3Schema");
        if schema.is_null() {
            out.push(FieldError::required(at.index(i).child("schema.openAPIV3Schema"), ""));
        }
    }
    for (i, version) in all.iter().enumerate() {
        let name = text(version, "name");
        unique &= seen.insert(name);
        storage += usize::from(get(version, "storage") == &Value::Bool(true));
        let errors = names::dns1035_label(name);
        if !errors.is_empty() {
            out.push(FieldError::invalid(at.index(i).child("name"), name, errors.join(",")));
        }
        deprecation(out, version, &at.index(i));
        let alike = |field: &str, name: &str| {
            let place = place(all, field, name, path, i);
            let first = i == 0 || place.as_str().starts_with("spec.versions");
            first.then_some(place)
        };
        let has_status = !get(get(version, "subresources"), "status").is_null();
        let schema = get(get(version, "schema"), "openAPIV3Schema");
        if let Some(place) = alike("schema", "validation").filter(|_| schema.is_object()) {
            let before = old.map(|old| list(old, "versions")).unwrap_or_default();
            let before = before.iter().find(|v| text(v, "name") == name);
            let unchanged = before.is_some_and(|v| get(v, "schema") == get(version, "schema"));
            schema::root(out, schema, has_status, unchanged, &place.child("openAPIV3Schema"));
        }
        if let Some(place) = alike("subresources", "subresources") {
            subresources(out, get(version, "subresources"), &place);
        }
        if let Some(place) = alike("additionalPrinterColumns", "additionalPrinterColumns") {
            for (n, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
                check_column(out, column, &place.index(n));
            }
        }
        if let Some(place) = alike("selectableFields", "selectableFields") {
            selectable(out, list(version, "selectableFields"), schema, &place);
        }
    }
    let shown = || get(spec, "versions").clone();
    if !unique {
        out.push(FieldError::invalid(&at, shown(), "must contain unique version names"));
    }
    if storage != 1 {
        let sentence = "must have exactly one version marked as storage version";
        out.push(FieldError::invalid(&at, shown(), sentence));
    }
}

fn deprecation(out: &mut Errors, version: &Value, path: &FieldPath) {
    let Some(warning) = get(version, "deprecationWarning").as_str() else { return };
    let path = path.child("deprecationWarning");
    let mut bad = |sentence: String| out.push(FieldError::invalid(&path, warning, sentence));
    if get(version, "deprecated") != &Value::Bool(true) {
        bad("can only be set for deprecated versions".to_owned());
        return;
    }
    if warning.len() > 256 {
        bad("must be <= 256 characters long".to_owned());
    }
    if warning.is_empty() {
        bad("must not be an empty string".to_owned());
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, c)| c.is_control()) {
        bad(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        ));
    }
}

fn check_names(out: &mut Errors, own: &Value, path: &FieldPath) {
    let mut label = |path: FieldPath, name: &str, prefix: &str, checked: &str| {
        let errors = names::dns1035_label(checked);
        if !errors.is_empty() {
            out.push(FieldError::invalid(path, name, format!("{prefix}{}", errors.join(","))));
        }
    };
    for name in ["plural", "singular"] {
        let value = text(own, name);
        if !value.is_empty() {
            label(path.child(name), value, "", value);
        }
    }
    for name in ["kind", "listKind"] {
        let value = text(own, name);
        if !value.is_empty() {
            let prefix = "may have mixed case, but should otherwise match: ";
            label(path.child(name), value, prefix, &value.to_lowercase());
        }
    }
    for field in ["shortNames", "categories"] {
        for (i, value) in list(own, field).iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            label(path.child(field).index(i), value, "", value);
        }
    }
    let (kind, list_kind) = (text(own, "kind"), text(own, "listKind"));
    if !kind.is_empty() && kind == list_kind {
        let sentence = "kind and listKind may not be the same";
        out.push(FieldError::invalid(path.child("listKind"), list_kind, sentence));
    }
}

/// A path of plain names: `.spec.replicas`.
fn simple_path(out: &mut Errors, path: &FieldPath, value: &str) -> bool {
    let before = out.len();
    let name = |part: &str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
            && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
    };
    // Brackets are allowed where a whole path may be given; there the path has to be readable.
    if !value.starts_with('.') {
        out.push(FieldError::invalid(path, value, "must be a simple json path starting with ."));
    } else if value != "." && !value[1..].split('.').all(name) && JsonPath::parse(value).is_none() {
        out.push(FieldError::invalid(path, value, "must be a json path in the dot notation"));
    }
    out.len() == before
}

fn subresources(out: &mut Errors, from: &Value, path: &FieldPath) {
    let scale = get(from, "scale");
    if scale.is_null() {
        return;
    }
    for (name, prefix) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let (value, path) = (text(scale, name), path.child("scale").child(name));
        if value.is_empty() {
            out.push(FieldError::required(path, ""));
        } else if simple_path(out, &path, value) && !value.starts_with(prefix) {
            let sentence = format!("should be a json path under {}", prefix.trim_end_matches('.'));
            out.push(FieldError::invalid(path, value, sentence));
        }
    }
    let (value, path) = (text(scale, "labelSelectorPath"), path.child("scale.labelSelectorPath"));
    if !value.is_empty()
        && simple_path(out, &path, value)
        && !value.starts_with(".spec.")
        && !value.starts_with(".status.")
    {
        out.push(FieldError::invalid(path, value, "should be a json path under either .spec or .status"));
    }
}

fn check_column(out: &mut Errors, column: &Value, path: &FieldPath) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 9] =
        ["byte", "date", "date-time", "double", "float", "int32", "int64", "password", "name"];
    if text(column, "name").is_empty() {
        out.push(FieldError::required(path.child("name"), ""));
    }
    let (kind, known) = (text(column, "type"), format!("must be one of {}", TYPES.join(",")));
    if kind.is_empty() {
        out.push(FieldError::required(path.child("type"), known));
    } else if !TYPES.contains(&kind) {
        out.push(FieldError::invalid(path.child("type"), kind, known));
    }
    let format = text(column, "format");
    if !format.is_empty() && !FORMATS.contains(&format) {
        let mut sorted = FORMATS;
        sorted.sort_unstable();
        let sentence = format!("must be one of {}", sorted.join(","));
        out.push(FieldError::invalid(path.child("format"), format, sentence));
    }
    let (value, path) = (text(column, "jsonPath"), path.child("JSONPath"));
    if value.is_empty() {
        out.push(FieldError::required(path, ""));
    } else {
        simple_path(out, &path, value);
    }
}

fn selectable(out: &mut Errors, fields: &[Value], schema: &Value, path: &FieldPath) {
    let mut seen = HashSet::new();
    for (i, field) in fields.iter().enumerate() {
        let (value, path) = (text(field, "jsonPath"), path.index(i).child("jsonPath"));
        if value.is_empty() {
            out.push(FieldError::required(path, ""));
            continue;
        }
        let parsed = JsonPath::parse(value).filter(|_| value.starts_with('.'));
        let Some(names) = parsed.as_ref().and_then(JsonPath::fields) else {
            out.push(FieldError::invalid(
                &path,
                value,
                "is an invalid path: does not refer to a valid field",
            ));
            continue;
        };
        let mut at = schema;
        for name in &names {
            at = match get(get(at, "properties"), name) {
                Value::Null => get(at, "additionalProperties"),
                property => property,
            };
        }
        if at.is_null() {
            out.push(FieldError::invalid(
                &path,
                value,
                "is an invalid path: does not refer to a valid field",
            ));
            continue;
        }
        if names.first() == Some(&"metadata") {
            out.push(FieldError::invalid(&path, value, "must not point to fields in metadata"));
        }
        if !matches!(text(at, "type"), "string" | "boolean" | "integer") {
            let sentence = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            out.push(FieldError::invalid(&path, value, sentence));
        }
        if !seen.insert(names.join(".")) {
            out.push(FieldError::duplicate(&path, value));
        }
    }
    if seen.len() > MAX_SELECTABLE {
        out.push(FieldError::too_many(path, seen.len(), MAX_SELECTABLE));
    }
}

fn conversion(out: &mut Errors, from: &Value, path: &FieldPath) {
    if from.is_null() {
        return;
    }
    one_of(out, &path.child("strategy"), text(from, "strategy"), &["None", "Webhook"]);
    let webhook = get(from, "webhook");
    let (at, reviews_at) = (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    let (client, reviews) = (get(webhook, "clientConfig"), list(webhook, "conversionReviewVersions"));
    if text(from, "strategy") != "Webhook" {
        let sentence = "should not be set when strategy is not set to Webhook";
        if !client.is_null() {
            out.push(FieldError::forbidden(&at, sentence));
        }
        if !reviews.is_empty() {
            out.push(FieldError::forbidden(&reviews_at, sentence));
        }
        return;
    }
    if client.is_null() {
        out.push(FieldError::required(&at, "required when strategy is set to Webhook"));
    } else {
        client_config(out, client, &at);
    }
    if reviews.is_empty() {
        out.push(FieldError::required(&reviews_at, ""));
        return;
    }
    let mut seen = HashSet::new();
    for (i, version) in reviews.iter().enumerate() {
        let version = version.as_str().unwrap_or_default();
        if !seen.insert(version) {
            out.push(FieldError::invalid(reviews_at.index(i), version, "duplicate version"));
            continue;
        }
        let errors = names::dns1035_label(version);
        out.extend(errors.into_iter().map(|e| FieldError::invalid(reviews_at.index(i), version, e)));
    }
    if !seen.contains("v1") && !seen.contains("v1beta1") {
        let sentence = "must include at least one of v1, v1beta1";
        out.push(FieldError::invalid(&reviews_at, Value::from(reviews.to_vec()), sentence));
    }
}

fn client_config(out: &mut Errors, client: &Value, path: &FieldPath) {
    let (url, service) = (get(client, "url"), get(client, "service"));
    if url.is_null() == service.is_null() {
        out.push(FieldError::required(path, "exactly one of url or service is required"));
        return;
    }
    if let Some(url) = url.as_str() {
        let path = path.child("url");
        let form = "; desired format: https://host[/path]";
        match url.split_once("://") {
            Some(("https", rest)) if !rest.starts_with('/') && !rest.is_empty() => {
                let (host, query) = (rest.split('/').next().unwrap_or_default(), rest.contains('?'));
                if host.contains('@') {
                    out.push(FieldError::invalid(&path, url, "user information is not permitted in the URL"));
                }
                if rest.contains('#') {
                    out.push(FieldError::invalid(&path, url, "fragments are not permitted in the URL"));
                }
                if query {
                    out.push(FieldError::invalid(
                        &path,
                        url,
                        "query parameters are not permitted in the URL",
                    ));
                }
            }
            Some(("https", _)) => {
                out.push(FieldError::invalid(&path, "", format!("host must be specified{form}")));
            }
            Some((scheme, _)) => {
                out.push(FieldError::invalid(
                    &path,
                    scheme,
                    format!("'https' is the only allowed URL scheme{form}"),
                ));
            }
            None => {
                out.push(FieldError::invalid(
                    &path,
                    "",
                    format!("'https' is the only allowed URL scheme{form}"),
                ));
            }
        }
        return;
    }
    let path = path.child("service");
    for (name, sentence) in
        [("name", "service name is required"), ("namespace", "service namespace is required")]
    {
        if text(service, name).is_empty() {
            out.push(FieldError::required(path.child(name), sentence));
        }
    }
    let port = get(service, "port").as_i64().unwrap_or(443);
    if !(1..=65535).contains(&port) {
        let sentence = "port is not valid: must be between 1 and 65535, inclusive";
        out.push(FieldError::invalid(path.child("port"), port, sentence));
    }
    if let Some(value) = get(service, "path").as_str().filter(|p| !p.starts_with('/')) {
        out.push(FieldError::invalid(path.child("path"), value, "must start with a '/'"));
    }
}

fn stored_versions(out: &mut Errors, object: &Value) {
    let path = FieldPath::new("status.storedVersions");
    let stored = list(get(object, "status"), "storedVersions");
    let shown = || Value::from(stored.to_vec());
    if stored.is_empty() {
        out.push(FieldError::invalid(&path, shown(), "must have at least one stored version"));
        return;
    }
    let versions = list(get(object, "spec"), "versions");
    for version in versions {
        let is_stored = stored.contains(get(version, "name"));
        if get(version, "storage") == &Value::Bool(true) && !is_stored {
            let sentence = format!("must have the storage version {}", text(version, "name"));
            out.push(FieldError::invalid(&path, shown(), sentence));
        }
    }
    for (i, name) in stored.iter().enumerate() {
        if !versions.iter().any(|v| get(v, "name") == name) {
            let name = name.as_str().unwrap_or_default();
            let sentence = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            out.push(FieldError::invalid(path.index(i), name, sentence));
        }
    }
}

/// Groups of Kubernetes itself say who approved them.
fn approval(out: &mut Errors, object: &Value, old: Option<&Value>) {
    const NAME: &str = "api-approved.kubernetes.io";
    let group = text(get(object, "spec"), "group");
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|g| group == *g || group.strip_suffix(g).is_some_and(|rest| rest.ends_with('.')));
    let annotation = |object: &Value| text(get(get(object, "metadata"), "annotations"), NAME).to_owned();
    let value = annotation(object);
    let fine = |value: &str| value.starts_with("unapproved") || value.starts_with("https://");
    if !protected || fine(&value) || old.is_some_and(|old| annotation(old) == value) {
        return;
    }
    let path = FieldPath::new("metadata.annotations").key(NAME);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    if value.is_empty() {
        let sentence = format!("protected groups must have approval annotation \"{NAME}\", {see}");
        out.push(FieldError::required(path, sentence));
    } else {
        let sentence = format!(
            "protected groups must have approval annotation \"{NAME}\" with either a URL or a reason starting with \
             \"unapproved\", {see}"
        );
        out.push(FieldError::invalid(path, value, sentence));
    }
}

/// What a client is told of formats that nothing checks.
pub(crate) fn warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let formats = |object: &Value| {
        let mut found = Vec::new();
        for version in list(get(object, "spec"), "versions") {
            schema::formats(get(get(version, "schema"), "openAPIV3Schema"), &mut found);
        }
        found
    };
    let known = old.map(formats).unwrap_or_default();
    let mut new = formats(object);
    new.retain(|format| !known.contains(format));
    new.into_iter().map(|format| format!("unrecognized format \"{format}\"")).collect()
}

/// Whether a format is one that is checked.
fn is_known_format(kind: &str, format: &str) -> bool {
    let kind = super::schema::Type::parse(kind);
    Format::of(kind, format).is_some()
}

/// A schema compiled for a look at defaults.
fn compiled(schema: &Value) -> Option<super::schema::Schema> {
    Compiler::default().schema(schema).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition() -> Value {
        json!({
            "metadata": {"name": "things.example.com"},
            "spec": {
                "group": "example.com", "scope": "Namespaced",
                "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"spec": {"type": "object"}},
                }}}],
                "conversion": {"strategy": "None"},
            },
            "status": {"storedVersions": ["v1"]},
        })
    }

    fn errors(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = definition();
        change(&mut object);
        let mut out = Vec::new();
        create(&mut out, &object);
        out.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn definitions_are_checked_in_upstreams_words() {
        let none: [&str; 0] = [];
        assert_eq!(errors(|_| {}), none);
        assert_eq!(
            errors(|d| d["metadata"]["name"] = "x.example.com".into()),
            [r#"metadata.name: Invalid value: "x.example.com": must be spec.names.plural+"."+spec.group"#]
        );
        assert_eq!(
            errors(|d| d["spec"]["scope"] = "Galaxy".into()),
            [r#"spec.scope: Unsupported value: "Galaxy": supported values: "Cluster", "Namespaced""#]
        );
        assert_eq!(
            errors(|d| {
                d["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = json!({});
            }),
            [
                "spec.validation.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified \
              object fields"
            ]
        );
        assert_eq!(
            errors(
                |d| d["spec"]["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": ".x.y"}})
            ),
            [
                r#"spec.subresources.scale.specReplicasPath: Invalid value: ".x.y": should be a json path under .spec"#,
                "spec.subresources.scale.statusReplicasPath: Required value",
            ]
        );
    }

    #[test]
    fn names_and_storage_stay() {
        let mut old = definition();
        old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        let mut new = old.clone();
        new["spec"]["names"]["kind"] = "Other".into();
        new["spec"]["versions"][0]["name"] = "v2".into();
        new["status"]["storedVersions"] = json!(["v1", "v2"]);
        let mut out = Vec::new();
        update(&mut out, &new, &old);
        let texts: Vec<String> = out.iter().map(ToString::to_string).collect();
        assert!(
            texts[0]
                .starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions;")
        );
        assert_eq!(texts[1], "spec.names.kind: Invalid value: \"Other\": field is immutable");
    }
}
