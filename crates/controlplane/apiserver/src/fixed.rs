//! Paths that are no resources: health, version, metrics, OpenAPI, the issuer's keys.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use sampan_api::status::Status;
use serde_json::json;

use crate::{body::Body, core::Core, discovery, request::Query, respond};

/// The version that is served.
pub const GIT_VERSION: &str = "v1.37.0+sampan";

const JSON: &str = "application/json";
const V2_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+json";
const V2_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// `/version`.
pub(crate) fn version() -> Response<Body> {
    let platform = format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    let body = json!({
        "major": "1",
        "minor": "37",
        "emulationMajor": "1",
        "emulationMinor": "37",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "36",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": platform,
    });
    respond::json_value(StatusCode::OK, &body)
}

/// `/healthz`, `/livez`, `/readyz`: `ok`, or the checks one by one.
pub(crate) async fn health(core: &Core, which: &'static str, query: &Query) -> Response<Body> {
    let namespaces = core.endpoint("", "v1", "namespaces");
    let store = match namespaces {
        Ok(endpoint) => core.fetch(&endpoint, None, "default").await.is_ok(),
        Err(_) => false,
    };
    let mut checks = vec![("ping", true), ("store", store)];
    if which == "readyz" {
        checks.push(("bootstrap", core.is_ready()));
        checks.push(("shutdown", !core.closing.is_cancelled()));
    }
    let good = checks.iter().all(|(_, good)| *good);
    let mut text = String::new();
    if query.flag("verbose").is_some() || !good {
        for (name, good) in &checks {
            text.push_str(&if *good { format!("[+]{name} ok\n") } else { format!("[-]{name} failed\n") });
        }
        text.push_str(&format!("{which} check {}\n", if good { "passed" } else { "failed" }));
    } else {
        text.push_str("ok");
    }
    let code = if good { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    respond::typed(code, "text/plain; charset=utf-8", text)
}

/// `/metrics`.
pub(crate) fn metrics(core: &Core) -> Response<Body> {
    let limits = &core.options.limits;
    let executing = usize::try_from(core.fairness.executing()).unwrap_or_default();
    let mut text = core.metrics.text(executing, limits.long_running - core.long_running.available_permits());
    core.fairness.metrics(&mut text);
    text.extend(core.audit.as_ref().map(|audit| audit.metrics()));
    respond::typed(StatusCode::OK, "text/plain; version=0.0.4", text)
}

/// `/openapi/v2`, in JSON or in protobuf, which older clients want.
pub(crate) fn openapi_v2(core: &Core, headers: &HeaderMap) -> Response<Body> {
    let served = core.endpoints.served();
    let kind = v2_type(headers);
    let document = if kind == V2_PROTOBUF_TYPE { served.openapi_v2_protobuf() } else { served.openapi_v2() };
    discovery::with_tag(headers, kind, document.bytes.clone(), &document.etag)
}

/// The first form that is accepted; JSON when none is.
fn v2_type(headers: &HeaderMap) -> &'static str {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let each = accept.split(',').map(|clause| clause.split(';').next().unwrap_or_default().trim());
    let known = |clause: &str| match clause.strip_prefix("application/")? {
        "com.github.proto-openapi.spec.v2.v1.0+protobuf"
        | "com.github.proto-openapi.spec.v2@v1.0+protobuf" => Some(V2_PROTOBUF_TYPE),
        "com.github.proto-openapi.spec.v2.v1.0+json" => Some(V2_TYPE),
        "json" | "*" => Some(JSON),
        _ => None,
    };
    each.map(|clause| if clause == "*/*" { Some(JSON) } else { known(clause) })
        .find_map(|kind| kind)
        .unwrap_or(JSON)
}

/// `/openapi/v3`.
pub(crate) fn openapi_v3_index(core: &Core, headers: &HeaderMap) -> Response<Body> {
    let served = core.endpoints.served();
    let document = served.openapi_v3_index();
    discovery::with_tag(headers, "application/json", document.bytes.clone(), &document.etag)
}

/// `/openapi/v3/…`; with the right `hash` it may be kept for ever, with a wrong one the client is sent to the right.
pub(crate) fn openapi_v3(
    core: &Core,
    headers: &HeaderMap,
    query: &Query,
    path: &str,
) -> Result<Response<Body>, Status> {
    let served = core.endpoints.served();
    let Some(document) = served.openapi_v3(path) else { return Err(Status::no_such_resource()) };
    if let Some(hash) = query.get("hash")
        && hash != document.etag
    {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        if let Ok(value) = HeaderValue::from_str(&format!("/openapi/v3/{path}?hash={}", document.etag)) {
            response.headers_mut().insert(header::LOCATION, value);
        }
        return Ok(response);
    }
    let mut response =
        discovery::with_tag(headers, "application/json", document.bytes.clone(), &document.etag);
    if query.get("hash").is_some() {
        let forever = HeaderValue::from_static("public, immutable");
        response.headers_mut().insert(header::CACHE_CONTROL, forever);
    }
    Ok(response)
}

/// `/.well-known/openid-configuration`.
pub(crate) fn oidc(core: &Core) -> Response<Body> {
    let issuer = &core.options.issuer;
    let body = json!({
        "issuer": issuer,
        "jwks_uri": format!("{}/openid/v1/jwks", issuer.trim_end_matches('/')),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": core.options.signing_key.algorithms(),
    });
    respond::json_value(StatusCode::OK, &body)
}

/// `/openid/v1/jwks`.
pub(crate) fn jwks(core: &Core) -> Response<Body> {
    respond::typed(StatusCode::OK, "application/jwk-set+json", core.options.signing_key.jwks().to_string())
}

/// `/`: where to go from here.
pub(crate) fn root(core: &Core) -> Response<Body> {
    let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    for (group, versions) in core.endpoints.served().groups.iter().filter(|(name, _)| !name.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    let rest = [
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    paths.extend(rest.into_iter().map(str::to_owned));
    respond::json_value(StatusCode::OK, &json!({"paths": paths}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openapi_v2_comes_in_the_first_form_that_is_accepted() {
        let ask = |accept: &'static str| {
            v2_type(&HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(accept))]))
        };
        assert_eq!(ask("application/com.github.proto-openapi.spec.v2@v1.0+protobuf"), V2_PROTOBUF_TYPE);
        let both = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf;q=1, */*";
        assert_eq!(ask(both), V2_PROTOBUF_TYPE);
        assert_eq!(ask("application/json, application/com.github.proto-openapi.spec.v2.v1.0+protobuf"), JSON);
        assert_eq!(ask(V2_TYPE), V2_TYPE);
        assert_eq!(v2_type(&HeaderMap::new()), JSON);
    }
}
