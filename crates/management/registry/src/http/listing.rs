//! Listings: `/v2/_catalog`, `/v2/<name>/tags/list`, `/v2/<name>/referrers/<digest>`.

use std::collections::HashSet;

use http::{Method, StatusCode, header};
use sampan_store::prefix_end;
use serde_json::{Value, json};

use super::{Answer, Ask, json_response, only, query::encode, set};
use crate::{
    auth::{Action, Caller},
    digest::Digest,
    error::{ApiError, ApiResult},
    manifest::OCI_INDEX,
    meta::{Manifest, decode, keys},
    name::project_of,
};

fn page(ask: &Ask) -> ApiResult<usize> {
    let invalid =
        || ApiError::new(StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID", "n must be a number");
    ask.query.page(ask.core.options.limits.page).map_err(|()| invalid())
}

/// The next page is where the last name ends.
fn answer(path: &str, value: &Value, n: usize, last: Option<&str>) -> Answer {
    let mut response = json_response(StatusCode::OK, value);
    if let Some(last) = last {
        let link = format!("<{path}?n={n}&last={}>; rel=\"next\"", encode(last));
        set(&mut response, header::LINK, &link);
    }
    Ok(response)
}

/// Repositories that the caller may pull from.
pub(super) async fn catalog(ask: &Ask) -> Answer {
    only(ask, &[Method::GET])?;
    if ask.caller.is_anonymous() && !matches!(ask.caller, Caller::Token { .. }) {
        return Err(crate::auth::unauthorized("authentication required (hint: log in)"));
    }
    let n = page(ask)?;
    let mut last = ask.query.get("last").unwrap_or_default().to_owned();
    let mut names: Vec<String> = Vec::new();
    let mut more = false;
    let mut project = (String::new(), None);
    'pages: loop {
        if n == 0 {
            break;
        }
        let found = ask.core.meta.repositories(&last, n + 1).await?;
        let ended = found.len() <= n;
        for (name, repository) in found {
            last.clone_from(&name);
            if project_of(&name) != project.0 {
                let record = ask.core.meta.project(project_of(&name)).await?;
                project = (project_of(&name).to_owned(), record.map(|(project, _)| project));
            }
            // What a token says is about repositories; the catalog is about its subject.
            let subject = if let Caller::Token { subject, .. } = &ask.caller { subject } else { &ask.caller };
            let visible = subject.may(Action::Pull, &name, project.1.as_ref());
            if !visible || ask.core.meta.is_empty_repository(repository.id).await? {
                continue;
            }
            if names.len() == n {
                more = true;
                break 'pages;
            }
            names.push(name);
        }
        if ended {
            break;
        }
    }
    let last = names.last().cloned().filter(|_| more);
    answer("/v2/_catalog", &json!({ "repositories": names }), n, last.as_deref())
}

/// Tags in lexical order.
pub(super) async fn tags(ask: &Ask, name: &str) -> Answer {
    only(ask, &[Method::GET])?;
    let access = ask.access(name, Action::Pull).await?;
    let n = page(ask)?;
    if access.project.proxy.is_some() {
        let tags = ask.core.proxy_tags(&access, ask.parts.uri.query()).await?;
        if let Some(tags) = tags {
            return Ok(json_response(StatusCode::OK, &tags));
        }
    }
    let repo = ask.core.repo(name).await?;
    let last = ask.query.get("last").unwrap_or_default();
    let mut tags: Vec<String> = if n == 0 {
        Vec::new()
    } else {
        ask.core.meta.tags(repo, last, n + 1).await?.into_iter().map(|(tag, _)| tag).collect()
    };
    let more = tags.len() > n;
    tags.truncate(n);
    let last = tags.last().cloned().filter(|_| more);
    answer(&format!("/v2/{name}/tags/list"), &json!({ "name": name, "tags": tags }), n, last.as_deref())
}

/// An index of what refers to a manifest; always there, also for a manifest that is not.
pub(super) async fn referrers(ask: &Ask, name: &str, digest: &str) -> Answer {
    only(ask, &[Method::GET])?;
    let access = ask.access(name, Action::Pull).await?;
    let subject: Digest = digest.parse().map_err(|()| ApiError::digest_invalid(digest))?;
    let wanted = ask.query.get("artifactType").filter(|wanted| !wanted.is_empty());
    let (mut list, mut bytes) = (Vec::new(), 0);
    // The row that was looked at last, and where the next page begins behind.
    let (mut seen, mut more): (Option<Digest>, Option<Digest>) = (None, None);
    if let Some(repository) = ask.core.meta.repository(&access.repository).await? {
        let prefix = keys::referrers(repository.id, &subject);
        let (length, end) = (prefix.len(), prefix_end(&prefix).to_vec());
        let mut start = prefix;
        if let Some(last) = ask.query.get("last").and_then(|last| last.parse::<Digest>().ok()) {
            start.extend_from_slice(&last.key());
            start.push(0);
        }
        let page = ask.core.options.limits.page;
        let rows = ask.core.meta.range(start, end, page + 1).await?;
        let beyond = rows.len() > page;
        for kv in rows.into_iter().take(page) {
            let Some((digest, _)) = Digest::from_key(&kv.key[length..]) else { continue };
            let before = seen.replace(digest.clone());
            let Some(found) = ask.core.meta.get(keys::manifest(repository.id, &digest)).await? else {
                continue;
            };
            // Annotations may be long: a page ends where it has as many bytes as a manifest may have.
            bytes += found.value.len();
            if !list.is_empty() && bytes > ask.core.options.limits.manifest_bytes {
                more = before;
                break;
            }
            let manifest: Manifest = decode(&found)?;
            list.push(descriptor(&digest, &manifest));
        }
        if beyond && more.is_none() {
            more = seen;
        }
        if more.is_none() {
            add_fallback(ask, repository.id, &subject, &mut list).await?;
        }
    }
    if let Some(wanted) = wanted {
        list.retain(|found| found["artifactType"] == *wanted);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list });
    let mut response = json_response(StatusCode::OK, &index);
    set(&mut response, header::CONTENT_TYPE, OCI_INDEX);
    if let Some(last) = more {
        let filter = wanted.map(|wanted| format!("&artifactType={}", encode(wanted))).unwrap_or_default();
        let link = format!(
            "</v2/{name}/referrers/{subject}?last={}{filter}>; rel=\"next\"",
            encode(&last.to_string())
        );
        set(&mut response, header::LINK, &link);
    }
    if wanted.is_some() {
        set(&mut response, "oci-filters-applied", "artifactType");
    }
    Ok(response)
}

fn descriptor(digest: &Digest, manifest: &Manifest) -> Value {
    let mut value = json!({ "mediaType": manifest.media_type, "digest": digest, "size": manifest.size });
    if !manifest.artifact_type.is_empty() {
        value["artifactType"] = json!(manifest.artifact_type);
    }
    if !manifest.annotations.is_empty() {
        value["annotations"] = json!(manifest.annotations);
    }
    value
}

/// Clients that do not know this API keep the list under [`Digest::referrers_tag`]; it counts too.
async fn add_fallback(ask: &Ask, repo: u32, subject: &Digest, list: &mut Vec<Value>) -> ApiResult<()> {
    let Some((tag, _)) = ask.core.meta.tag(repo, &subject.referrers_tag()).await? else { return Ok(()) };
    let index: Value =
        serde_json::from_slice(&ask.core.manifest_bytes(&tag.digest).await?).unwrap_or_default();
    let mut known = HashSet::new();
    for found in index["manifests"].as_array().into_iter().flatten() {
        // Only what is really here and on no page yet; and each once.
        let digest = found["digest"].as_str().and_then(|digest| digest.parse::<Digest>().ok());
        let Some(digest) = digest else { continue };
        let other = known.insert(digest.clone())
            && ask.core.meta.get(keys::referrer(repo, subject, &digest)).await?.is_none();
        if other && ask.core.meta.manifest(repo, &digest).await?.is_some() {
            list.push(found.clone());
        }
    }
    Ok(())
}
