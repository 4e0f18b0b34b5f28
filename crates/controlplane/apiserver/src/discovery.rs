//! What is served: `/api`, `/apis` and below, one by one or aggregated.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use sampan_api::{
    kinds::{self, Resource, Subresource},
    status::Status,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{body::Body, core::Core, endpoint::Served, negotiate, respond, usage};

/// An answer that only changes with what is served: bytes and their tag.
pub(crate) type Fixed = (Bytes, String);

fn tagged(bytes: Bytes) -> Fixed {
    let digest = Sha256::digest(&bytes);
    let tag = digest.iter().take(16).map(|byte| format!("{byte:02X}")).collect::<String>();
    (bytes, tag)
}

/// Answers with bytes that have a tag, or with 304 when the client has them.
pub(crate) fn with_tag(
    headers: &HeaderMap,
    content_type: &'static str,
    bytes: Bytes,
    tag: &str,
) -> Response<Body> {
    let quoted = format!("\"{tag}\"");
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.split(',').any(|part| part.trim() == quoted));
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::typed(StatusCode::OK, content_type, bytes)
    };
    if let Ok(value) = HeaderValue::from_str(&quoted) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    response
}

/// `/api`.
pub(crate) fn versions(core: &Core, headers: &HeaderMap, server: &str) -> Result<Response<Body>, Status> {
    if let Some(version) = negotiate::aggregated(headers) {
        return Ok(aggregated(core, headers, version, true));
    }
    respond::accepts_json(headers)?;
    let body = json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
    });
    Ok(respond::json_value(StatusCode::OK, &body))
}

/// `/apis`.
pub(crate) fn groups(core: &Core, headers: &HeaderMap) -> Result<Response<Body>, Status> {
    if let Some(version) = negotiate::aggregated(headers) {
        return Ok(aggregated(core, headers, version, false));
    }
    respond::accepts_json(headers)?;
    let served = core.endpoints.served();
    let list: Vec<Value> =
        named_groups(&served).map(|(name, versions)| group_value(name, versions)).collect();
    Ok(respond::json_value(
        StatusCode::OK,
        &json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": list}),
    ))
}

/// `/apis/{group}`.
pub(crate) fn group(core: &Core, headers: &HeaderMap, name: &str) -> Result<Response<Body>, Status> {
    respond::accepts_json(headers)?;
    let served = core.endpoints.served();
    let found = named_groups(&served).find(|(group, _)| group == name);
    let (name, versions) = found.ok_or_else(Status::no_such_resource)?;
    let mut value = json!({"kind": "APIGroup", "apiVersion": "v1"});
    if let (Some(out), Value::Object(facts)) = (value.as_object_mut(), group_value(name, versions)) {
        out.extend(facts);
    }
    Ok(respond::json_value(StatusCode::OK, &value))
}

/// `/api/v1` and `/apis/{group}/{version}`.
pub(crate) fn resources(
    core: &Core,
    headers: &HeaderMap,
    group: &str,
    version: &str,
) -> Result<Response<Body>, Status> {
    respond::accepts_json(headers)?;
    let served = core.endpoints.served();
    if !served.serves(group, version) {
        return Err(Status::no_such_resource());
    }
    let mut list = Vec::new();
    for endpoint in served.of_version(group, version) {
        let resource = endpoint.resource;
        list.push(resource_value(resource));
        list.extend(resource.subresources.iter().map(|sub| subresource_value(resource, sub)));
    }
    list.extend(usage::listed(&served.remote, group, version));
    let body = json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": kinds::api_version(group, version),
        "resources": list,
    });
    Ok(respond::json_value(StatusCode::OK, &body))
}

fn named_groups(served: &Served) -> impl Iterator<Item = &(String, Vec<String>)> {
    served.groups.iter().filter(|(name, _)| !name.is_empty())
}

fn group_value(name: &str, versions: &[String]) -> Value {
    let version = |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let all: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": name, "preferredVersion": all.first(), "versions": all})
}

fn resource_value(resource: &Resource) -> Value {
    let mut value = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        value["categories"] = json!(resource.categories);
    }
    if !resource.is_virtual() {
        value["storageVersionHash"] = storage_hash(resource).into();
    }
    value
}

/// A short name of the form in which objects are stored, for clients to notice a change.
fn storage_hash(resource: &Resource) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = format!("{}/{}/{}", resource.group, resource.version, resource.kind);
    STANDARD.encode(&Sha256::digest(text)[..8])
}

fn subresource_value(resource: &Resource, sub: &Subresource) -> Value {
    let mut value = json!({
        "name": format!("{}/{}", resource.plural, sub.name),
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if (sub.group, sub.version) != (resource.group, resource.version) {
        value["group"] = sub.group.into();
        value["version"] = sub.version.into();
    }
    value
}

fn aggregated(core: &Core, headers: &HeaderMap, version: &'static str, legacy: bool) -> Response<Body> {
    let beta = version == "v2beta1";
    let slot = usize::from(beta) * 2 + usize::from(legacy);
    let served = core.endpoints.served();
    let (bytes, tag) =
        served.documents[slot].get_or_init(|| tagged(aggregate(&served, version, legacy).to_string().into()));
    let content_type = if beta {
        "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
    } else {
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    };
    with_tag(headers, content_type, bytes.clone(), tag)
}

fn aggregate(served: &Served, version: &str, core: bool) -> Value {
    let groups = served.groups.iter().filter(|(name, _)| name.is_empty() == core);
    let items: Vec<Value> = groups
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions.iter().map(|v| aggregate_version(served, name, v)).collect();
            let metadata = if name.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": name, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn aggregate_version(served: &Served, group: &str, version: &str) -> Value {
    if let Some(remote) = served.remote.iter().find(|r| r.group == group && r.version == version) {
        let freshness = if remote.fresh { "Current" } else { "Stale" };
        let list = aggregate_remote(group, version, &remote.resources);
        return json!({"version": version, "resources": list, "freshness": freshness});
    }
    let list: Vec<Value> =
        served.of_version(group, version).map(|e| aggregate_resource(e.resource)).collect();
    json!({"version": version, "resources": list, "freshness": "Current"})
}

/// The resources that an extension server told of, in the form of aggregated discovery.
fn aggregate_remote(group: &str, version: &str, resources: &Value) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for resource in resources.as_array().into_iter().flatten() {
        let or = |name: &str, other: &str| resource[name].as_str().unwrap_or(other).to_owned();
        let kind = json!({
            "group": or("group", group), "version": or("version", version), "kind": resource["kind"],
        });
        let name = or("name", "");
        if let Some((parent, sub)) = name.split_once('/') {
            if let Some(parent) = out.iter_mut().find(|r| r["resource"] == parent) {
                let entry = json!({"subresource": sub, "responseKind": kind, "verbs": resource["verbs"]});
                match parent["subresources"].as_array_mut() {
                    Some(list) => list.push(entry),
                    None => parent["subresources"] = json!([entry]),
                }
            }
            continue;
        }
        let mut value = json!({
            "resource": name,
            "responseKind": kind,
            "scope": if resource["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": resource["singularName"],
            "verbs": resource["verbs"],
        });
        for list in ["shortNames", "categories"] {
            if resource[list].is_array() {
                value[list] = resource[list].clone();
            }
        }
        out.push(value);
    }
    out
}

fn aggregate_resource(resource: &Resource) -> Value {
    let kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut value = json!({
        "resource": resource.plural,
        "responseKind": kind(resource.group, resource.version, resource.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        value["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let sub = |sub: &Subresource| {
            json!({
                "subresource": sub.name,
                "responseKind": kind(sub.group, sub.version, sub.kind),
                "verbs": sub.verbs,
            })
        };
        value["subresources"] = resource.subresources.iter().map(sub).collect();
    }
    value
}
