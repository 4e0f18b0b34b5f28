//! `/v2/<name>/manifests/<reference>`.

use std::sync::atomic::Ordering;

use http::{Method, Response, StatusCode, header};
use hyper::body::Incoming;

use super::{Answer, Ask, empty, full, only, set, whole};
use crate::{
    auth::Action,
    error::ApiError,
    events::{Event, Kind},
    name::Selector,
};

pub(super) async fn answer(ask: &Ask, name: &str, reference: &str, body: Incoming) -> Answer {
    only(ask, &[Method::GET, Method::HEAD, Method::PUT, Method::DELETE])?;
    match ask.parts.method {
        Method::PUT => put(ask, name, reference, body).await,
        Method::DELETE => {
            let access = ask.access(name, Action::Delete).await?;
            ask.core.delete_manifest(&access, &Selector::parse(reference)?).await?;
            Ok(empty(StatusCode::ACCEPTED))
        }
        _ => get(ask, name, reference).await,
    }
}

async fn get(ask: &Ask, name: &str, reference: &str) -> Answer {
    let core = &ask.core;
    let access = ask.access(name, Action::Pull).await?;
    let selector = Selector::parse(reference).map_err(|error| {
        // A reference that cannot exist does not exist.
        if error.code == "MANIFEST_INVALID" { ApiError::manifest_unknown(reference) } else { error }
    })?;
    let found = if access.project.proxy.is_some() {
        core.proxy_manifest(&access, &selector).await?
    } else {
        core.resolve(&access, &selector).await?
    };
    let mut response = if ask.parts.method == Method::HEAD {
        Response::new(full(bytes::Bytes::new()))
    } else {
        let bytes = core.manifest_bytes(&found.digest).await?;
        core.metrics.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let tag = if let Selector::Tag(tag) = &selector { tag.as_str() } else { "" };
        if core.options.audit_pulls {
            core.audit.record(&access.caller, access.from, "pull", name, &format!("{tag}@{}", found.digest));
        }
        core.events.send(Event::new(Kind::Pull, &access, tag, Some(&found.digest)));
        Response::new(full(bytes))
    };
    let digest = found.digest.to_string();
    set(&mut response, header::CONTENT_TYPE, &found.media_type);
    set(&mut response, header::CONTENT_LENGTH, &found.size.to_string());
    set(&mut response, "docker-content-digest", &digest);
    set(&mut response, header::ETAG, &format!("\"{digest}\""));
    Ok(response)
}

async fn put(ask: &Ask, name: &str, reference: &str, body: Incoming) -> Answer {
    let access = ask.access(name, Action::Push).await?;
    let selector = Selector::parse(reference)?;
    let limit = ask.core.options.limits.manifest_bytes;
    let bytes = whole(ask, body, limit, ApiError::manifest_invalid).await?;
    let content_type = ask.header(header::CONTENT_TYPE).unwrap_or_default();
    let (digest, subject) = ask.core.put_manifest(&access, &selector, content_type, bytes).await?;
    let mut response = empty(StatusCode::CREATED);
    set(&mut response, header::LOCATION, &format!("/v2/{name}/manifests/{digest}"));
    set(&mut response, "docker-content-digest", &digest.to_string());
    if let Some(subject) = subject {
        set(&mut response, "oci-subject", &subject.to_string());
    }
    Ok(response)
}
