//! The documents have what kubectl looks for, and every reference leads somewhere.

use std::collections::HashSet;

use super::*;

fn parsed(document: &Document) -> Value {
    serde_json::from_slice(&document.bytes).unwrap()
}

fn references(value: &Value, found: &mut HashSet<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(target) if name == "$ref" => {
                        found.insert(target.to_owned());
                    }
                    _ => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn assert_whole(document: &Value) {
    let mut found = HashSet::new();
    references(document, &mut found);
    assert!(found.len() > 5);
    for target in found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
    }
}

#[test]
fn the_index_names_every_document_with_its_hash() {
    let index = parsed(v3_index());
    let paths = index["paths"].as_object().unwrap();
    assert_eq!(paths.len(), kinds::groups().iter().map(|(_, versions)| versions.len()).sum::<usize>());
    for (name, entry) in paths {
        let document = v3(name).unwrap();
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert_eq!(url, format!("/openapi/v3/{name}?hash={}", document.etag));
        assert_whole(&parsed(document));
    }
    assert!(v3("apis/none/v1").is_none());
}

#[test]
fn patch_operations_offer_field_validation() {
    let apps = parsed(v3("apis/apps/v1").unwrap());
    let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-action"], "patch");
    let gvk = json!({ "group": "apps", "version": "v1", "kind": "Deployment" });
    assert_eq!(patch["x-kubernetes-group-version-kind"], gvk);
    let parameters = patch["parameters"].as_array().unwrap();
    for name in ["fieldValidation", "dryRun", "fieldManager", "force"] {
        assert!(parameters.iter().any(|p| p["name"] == name && p["in"] == "query"), "{name}");
    }
    let list = &apps["paths"]["/apis/apps/v1/deployments"]["get"];
    assert_eq!(list["operationId"], "listAppsV1DeploymentForAllNamespaces");
}

#[test]
fn merge_keys_reach_the_documents() {
    let core = parsed(v3("api/v1").unwrap());
    let spec = &core["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"];
    let containers = &spec["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    assert_eq!(spec["properties"]["volumes"]["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert!(spec["required"].as_array().unwrap().contains(&json!("containers")));
    let pod = &core["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
    assert_eq!(
        pod["x-kubernetes-group-version-kind"],
        json!([{ "group": "", "kind": "Pod", "version": "v1" }])
    );
}

#[test]
fn operation_ids_are_distinct_and_version_2_is_whole() {
    let whole = parsed(v2());
    assert_whole(&whole);
    let mut ids = HashSet::new();
    for (path, item) in whole["paths"].as_object().unwrap() {
        let shared = item["parameters"].as_array().unwrap().iter();
        let operations = item.as_object().unwrap().values().filter(|o| o.is_object());
        let own = operations.clone().filter_map(|o| o["parameters"].as_array()).flatten();
        for parameter in shared.chain(own).filter(|parameter| parameter["in"] != "body") {
            assert!(parameter["description"].is_string(), "{path}: nothing says what {parameter} is for");
        }
        for operation in operations {
            let id = format!("{path} {}", operation["operationId"]);
            assert!(ids.insert(id.clone()) || operation["x-kubernetes-action"] == "connect", "{id}");
        }
    }
    assert!(whole["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
    let services = &whole["definitions"]["io.k8s.api.core.v1.ServiceList"]["properties"]["items"];
    assert_eq!(services["description"], "List of services.");
}

/// With descriptions built in, they are there.
#[cfg(feature = "descriptions")]
#[test]
fn descriptions_are_there() {
    let core = parsed(v3("api/v1").unwrap());
    let schemas = &core["components"]["schemas"];
    assert!(schemas["io.k8s.api.core.v1.Pod"]["description"].as_str().unwrap().starts_with("Pod is"));
    let field = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"]["description"];
    assert!(field.as_str().is_some_and(|text| text.len() > 20));
}

fn custom(schema: &Value) -> std::sync::Arc<crate::custom::Kind> {
    let definition = json!({
        "metadata": { "name": "waldos.example.com" },
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": { "plural": "waldos", "singular": "waldo", "kind": "Waldo", "listKind": "WaldoList" },
            "versions": [{
                "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema },
                "selectableFields": [{ "jsonPath": ".spec.colour" }],
            }],
        },
    });
    crate::custom::Definition::compile(&definition).unwrap().versions[0].kind.clone()
}

const WALDO: &str = "/definitions/com.example.v1.Waldo";

/// What version 2 shows of a schema's member `x`.
fn shown(x: &Value) -> Value {
    let schema = json!({ "type": "object", "properties": { "x": x, "spec": { "type": "object", "properties": { "colour": { "type": "string" } } } } });
    let kind = custom(&schema);
    let whole = parsed(&v2_with(&[&kind]));
    assert_whole(&whole);
    let object = whole.pointer(WALDO).unwrap();
    assert_eq!(object["x-kubernetes-selectable-fields"], json!([{ "fieldPath": "spec.colour" }]));
    assert_eq!(
        object["properties"]["metadata"]["$ref"],
        "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
    );
    object["properties"]["x"].clone()
}

#[test]
fn version_2_leaves_out_what_it_has_no_words_for() {
    let plain = json!({ "type": "object", "description": "d", "required": ["a"],
        "properties": { "a": { "type": "string", "enum": ["b"], "minLength": 1 } } });
    assert_eq!(shown(&plain), plain);
    let open = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true, "description": "d",
        "required": ["a"], "properties": { "a": { "type": "string" } } });
    assert_eq!(
        shown(&open),
        json!({ "x-kubernetes-preserve-unknown-fields": true, "description": "d", "required": ["a"] })
    );
    let nullable = json!({ "type": "object", "required": ["a", "b"], "properties": {
        "a": { "type": "array", "nullable": true, "items": { "type": "string" } }, "b": { "type": "string" } } });
    assert_eq!(
        shown(&nullable),
        json!({ "type": "object", "required": ["b"], "properties": { "a": {}, "b": { "type": "string" } } })
    );
    let junctors = json!({ "type": "object", "properties": { "a": { "type": "integer" } },
        "anyOf": [{ "required": ["a"] }], "not": { "required": ["b"] },
        "x-kubernetes-validations": [{ "rule": "has(self.a)" }] });
    let rest = json!({ "type": "object", "properties": { "a": { "type": "integer" } },
        "x-kubernetes-validations": [{ "rule": "has(self.a)" }] });
    assert_eq!(shown(&junctors), rest);
    let either = json!({ "x-kubernetes-int-or-string": true, "default": 1 });
    assert_eq!(shown(&either), json!({ "x-kubernetes-int-or-string": true }));
    let embedded =
        shown(&json!({ "type": "object", "x-kubernetes-embedded-resource": true, "properties": {} }));
    assert_eq!(embedded["required"], json!(["kind", "apiVersion"]));
    assert!(embedded["properties"]["metadata"]["$ref"].is_string());
}

#[test]
fn a_root_that_takes_anything_lists_nothing() {
    let open =
        custom(&json!({ "type": "object", "description": "d", "x-kubernetes-preserve-unknown-fields": true,
        "properties": { "spec": { "type": "object", "properties": { "colour": { "type": "string" } } } } }));
    let whole = parsed(&v2_with(&[&open]));
    let mut object = whole.pointer(WALDO).unwrap().as_object().unwrap().clone();
    object.retain(|name, _| !name.starts_with("x-kubernetes"));
    assert_eq!(Value::Object(object), json!({ "type": "object" }));
    let third = parsed(&v3_custom(&[&open]));
    let patch = &third["paths"]["/apis/example.com/v1/namespaces/{namespace}/waldos/{name}"]["patch"];
    let types: Vec<&String> = patch["requestBody"]["content"].as_object().unwrap().keys().collect();
    assert_eq!(
        types,
        ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"],
        "kubectl would send a strategic patch if it were listed"
    );
    let object = &third["components"]["schemas"]["com.example.v1.Waldo"];
    assert_eq!(object["description"], "d");
    assert!(object["properties"]["metadata"].is_object());
}
