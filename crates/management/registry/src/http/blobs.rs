//! `/v2/<name>/blobs/<digest>`.

use std::{ops::Range, sync::atomic::Ordering};

use futures::TryStreamExt;
use http::{Method, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};

use super::{Answer, Ask, Body, direct, empty, full, only, set};
use crate::{
    auth::Action,
    digest::Digest,
    error::{ApiError, ApiResult},
    objects::ByteStream,
};

/// Smaller ones are sent with their head, in one write.
const DIRECT: u64 = 16 << 10;

pub(super) async fn answer(ask: &Ask, name: &str, digest: &str) -> Answer {
    only(ask, &[Method::GET, Method::HEAD, Method::DELETE])?;
    if ask.parts.method == Method::DELETE {
        let access = ask.access(name, Action::Delete).await?;
        let digest: Digest = digest.parse().map_err(|()| ApiError::digest_invalid(digest))?;
        ask.core.delete_blob(&access, &digest).await?;
        return Ok(empty(StatusCode::ACCEPTED));
    }
    let access = ask.access(name, Action::Pull).await?;
    let digest: Digest = digest.parse().map_err(|()| ApiError::digest_invalid(digest))?;
    let size = match ask.core.blob(&access, &digest).await {
        Err(error) if error.code == "BLOB_UNKNOWN" && access.project.proxy.is_some() => {
            if ask.parts.method == Method::HEAD {
                return Ok(head(&digest, Some(ask.core.proxy_blob_size(&access, &digest).await?)));
            }
            if ask.header(header::RANGE).is_none() {
                let (size, stream) = ask.core.proxy_blob(&access, &digest).await?;
                return Ok(head(&digest, size).map(|_| body(stream)));
            }
            ask.core.proxy_complete(&access, &digest).await?;
            ask.core.blob(&access, &digest).await?
        }
        found => found?,
    };
    let range = range(ask, size)?;
    let (status, part) = match &range {
        Some(part) => (StatusCode::PARTIAL_CONTENT, part.clone()),
        None => (StatusCode::OK, 0..size),
    };
    let length = part.end - part.start;
    let mut response = head(&digest, Some(length));
    if ask.parts.method == Method::GET {
        ask.core.contents.touch(&digest);
        let file = match &ask.notes {
            Some(notes) if length >= DIRECT => {
                ask.core.contents.file(&digest).await?.map(|file| (file, notes.clone()))
            }
            _ => None,
        };
        *response.body_mut() = if let Some((file, notes)) = file {
            direct::body(file, part.clone(), notes)
        } else {
            let stream = ask.core.contents.stream(&digest, part.clone()).await?;
            body(stream.ok_or_else(|| ApiError::blob_unknown(&digest))?)
        };
        ask.core.metrics.sent.fetch_add(length, Ordering::Relaxed);
    }
    *response.status_mut() = status;
    if range.is_some() {
        set(&mut response, header::CONTENT_RANGE, &format!("bytes {}-{}/{size}", part.start, part.end - 1));
    }
    Ok(response)
}

fn head(digest: &Digest, length: Option<u64>) -> Response<Body> {
    let mut response = Response::new(full(bytes::Bytes::new()));
    let digest = digest.to_string();
    set(&mut response, header::CONTENT_TYPE, "application/octet-stream");
    if let Some(length) = length {
        set(&mut response, header::CONTENT_LENGTH, &length.to_string());
    }
    set(&mut response, header::ACCEPT_RANGES, "bytes");
    set(&mut response, "docker-content-digest", &digest);
    set(&mut response, header::ETAG, &format!("\"{digest}\""));
    set(&mut response, header::CACHE_CONTROL, "max-age=31536000, immutable");
    response
}

fn body(stream: ByteStream) -> Body {
    StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync()
}

/// The one range that is asked for (RFC 9110, section 14); several are answered with everything.
fn range(ask: &Ask, size: u64) -> ApiResult<Option<Range<u64>>> {
    let Some(value) = ask.header(header::RANGE) else { return Ok(None) };
    let Some(spec) = value.trim().strip_prefix("bytes=").filter(|spec| !spec.contains(',')) else {
        return Ok(None);
    };
    let outside = || {
        ApiError::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "RANGE_INVALID",
            format!("the blob has {size} bytes"),
        )
        .with_header(header::CONTENT_RANGE, &format!("bytes */{size}"))
    };
    match parse_range(spec.trim(), size) {
        None => Ok(None),
        Some(range) if range.is_empty() => Err(outside()),
        Some(range) => Ok(Some(range)),
    }
}

/// Nothing when it is no range; an empty one when it lies outside.
fn parse_range(spec: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    if first.is_empty() {
        let count: u64 = last.parse().ok()?;
        return Some(size.saturating_sub(count)..size);
    }
    let first: u64 = first.parse().ok()?;
    let last = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
    if last < first {
        return None;
    }
    Some(first.min(size)..last.saturating_add(1).min(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("0-0", 10), Some(0..1));
        assert_eq!(parse_range("5-", 10), Some(5..10));
        assert_eq!(parse_range("-3", 10), Some(7..10));
        assert_eq!(parse_range("-30", 10), Some(0..10));
        assert_eq!(parse_range("2-900", 10), Some(2..10));
        assert!(parse_range("10-", 10).unwrap().is_empty());
        assert!(parse_range("-0", 10).unwrap().is_empty());
        assert_eq!((parse_range("5-2", 10), parse_range("x-", 10), parse_range("", 10)), (None, None, None));
    }
}
