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
        for operation in item.as_object().unwrap().values().filter(|o| o.is_object()) {
            let id = format!("{path} {}", operation["operationId"]);
            assert!(ids.insert(id.clone()) || operation["x-kubernetes-action"] == "connect", "{id}");
        }
    }
    assert!(whole["definitions"]["io.k8s.api.core.v1.Pod"].is_object());
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
