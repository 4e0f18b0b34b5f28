//! `/v2/<name>/blobs/uploads/`: pushing blobs, whole or in pieces.

use std::sync::atomic::Ordering;

use http::{Method, Response, StatusCode, header};
use hyper::body::{Body as _, Incoming};

use super::{Answer, Ask, Body, empty, only, set};
use crate::{
    auth::Action,
    core::Access,
    digest::{Algorithm, Digest},
    error::{ApiError, ApiResult},
    name::is_repository,
    upload::Upload,
};

/// `POST`.
pub(super) async fn begin(ask: &Ask, name: &str, body: Incoming) -> Answer {
    only(ask, &[Method::POST])?;
    let access = ask.access(name, Action::Push).await?;
    if let Some(mount) = ask.query.get("mount") {
        let digest: Digest = mount.parse().map_err(|()| ApiError::digest_invalid(mount))?;
        let source = ask.query.get("from").filter(|source| is_repository(source));
        if ask.core.mount(&access, source, &digest).await? {
            return Ok(created(name, &digest));
        }
    }
    let wanted = ask.query.get("digest-algorithm");
    let algorithm = match wanted {
        None => Algorithm::default(),
        Some(wanted) => Algorithm::named(wanted).ok_or_else(|| ApiError::digest_invalid(wanted))?,
    };
    let Some(digest) = ask.query.get("digest") else {
        let (id, _) = ask.core.uploads.begin(name, algorithm).await?;
        return Ok(progress(StatusCode::ACCEPTED, name, &id, 0));
    };
    let digest: Digest = digest.parse().map_err(|()| ApiError::digest_invalid(digest))?;
    let (id, upload) = ask.core.uploads.begin(name, digest.algorithm()).await?;
    let outcome = finish(ask, &access, &upload, &digest, None, body).await;
    // Nobody knows its number.
    ask.core.uploads.end(&id).await;
    outcome
}

/// Everything with a number.
pub(super) async fn answer(ask: &Ask, name: &str, id: &str, body: Incoming) -> Answer {
    let access = ask.access(name, Action::Push).await?;
    let upload = ask.core.uploads.get(id, name)?;
    match ask.parts.method {
        Method::GET | Method::HEAD => Ok(progress(StatusCode::NO_CONTENT, name, id, upload.progress().0)),
        Method::DELETE => {
            ask.core.uploads.end(id).await;
            Ok(empty(StatusCode::NO_CONTENT))
        }
        Method::PATCH => {
            let start = start(ask, &body)?;
            affordable(ask, &access, &upload, &body)?;
            let length =
                append(ask, &upload, start, body).await.map_err(|error| at(error, name, id, &upload))?;
            Ok(progress(StatusCode::ACCEPTED, name, id, length))
        }
        Method::PUT => {
            let digest = ask.query.get("digest").ok_or_else(|| ApiError::digest_invalid(""))?;
            let digest: Digest = digest.parse().map_err(|()| ApiError::digest_invalid(digest))?;
            let start = start(ask, &body)?;
            let answer = finish(ask, &access, &upload, &digest, start, body).await;
            let answer = answer.map_err(|error| at(error, name, id, &upload))?;
            ask.core.uploads.end(id).await;
            Ok(answer)
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

/// Whoever has to go on elsewhere is told where.
fn at(error: ApiError, name: &str, id: &str, upload: &Upload) -> ApiError {
    if error.status != StatusCode::RANGE_NOT_SATISFIABLE {
        return error;
    }
    error
        .with_header(header::LOCATION, &location(name, id))
        .with_header(header::RANGE, &received(upload.progress().0))
}

/// Where a piece begins: `Content-Range: <first>-<last>`.
fn start(ask: &Ask, body: &Incoming) -> ApiResult<Option<u64>> {
    let Some(value) = ask.header(header::CONTENT_RANGE) else { return Ok(None) };
    let spec = value.trim().trim_start_matches("bytes").trim_start_matches(['=', ' ']);
    let spec = spec.split('/').next().unwrap_or_default();
    let parsed = spec
        .split_once('-')
        .and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
    let Some((first, last)) = parsed.filter(|(first, last)| first <= last || *first == last.wrapping_add(1))
    else {
        return Err(ApiError::range_invalid(format!("Content-Range {value:.100?} is not <first>-<last>")));
    };
    if let Some(length) = body.size_hint().exact()
        && length != last.wrapping_sub(first).wrapping_add(1)
    {
        return Err(ApiError::size_invalid(format!(
            "Content-Range {value:.100?} and a body of {length} bytes"
        )));
    }
    Ok(Some(first))
}

async fn append(ask: &Ask, upload: &Upload, start: Option<u64>, body: Incoming) -> ApiResult<u64> {
    let before = upload.progress().0;
    let mut body = body;
    let outcome = ask.core.uploads.append(upload, start, &mut body).await;
    if outcome.as_ref().is_err_and(|error| error.status != StatusCode::REQUEST_TIMEOUT) {
        super::drain(&mut body).await;
    }
    let length = outcome?;
    ask.core.metrics.received.fetch_add(length.saturating_sub(before), Ordering::Relaxed);
    Ok(length)
}

/// Refused before it is received is what cannot be paid for. What the project has already costs nothing, which is known
/// only in the end: a quota that is not full lets one blob of any size that may be such come.
fn affordable(ask: &Ask, access: &Access, upload: &Upload, body: &Incoming) -> ApiResult<()> {
    let (quota, used) = (access.project.quota, ask.core.counts.usage(&access.project_name));
    let coming = upload.progress().0.saturating_add(body.size_hint().lower());
    if quota == 0 || (used < quota && coming <= quota) {
        return Ok(());
    }
    ask.core.counts.check(&access.project_name, coming.max(1), quota)
}

async fn finish(
    ask: &Ask,
    access: &Access,
    upload: &Upload,
    digest: &Digest,
    start: Option<u64>,
    body: Incoming,
) -> Answer {
    affordable(ask, access, upload, &body)?;
    append(ask, upload, start, body).await?;
    let finished = ask.core.uploads.finish(upload, digest).await?;
    // From here on it is not collected between two steps.
    let hold = ask.core.counts.hold(digest);
    ask.core.contents.adopt(digest, &finished.file, finished.size).await?;
    let size = finished.size;
    finished.taken();
    ask.core.add_link(access, digest, size).await?;
    drop(hold);
    Ok(created(&access.repository, digest))
}

fn created(name: &str, digest: &Digest) -> Response<Body> {
    let mut response = empty(StatusCode::CREATED);
    set(&mut response, header::LOCATION, &format!("/v2/{name}/blobs/{digest}"));
    set(&mut response, "docker-content-digest", &digest.to_string());
    response
}

fn location(name: &str, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

fn received(length: u64) -> String {
    format!("0-{}", length.saturating_sub(1))
}

fn progress(status: StatusCode, name: &str, id: &str, length: u64) -> Response<Body> {
    let mut response = empty(status);
    set(&mut response, header::LOCATION, &location(name, id));
    set(&mut response, header::RANGE, &received(length));
    set(&mut response, "docker-upload-uuid", id);
    if status == StatusCode::NO_CONTENT {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}
