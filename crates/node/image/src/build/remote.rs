//! `ADD` of something on the web.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use http::{Uri, header};
use tokio_util::sync::CancellationToken;

use super::copying::set_mode;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::layers::meta;
use crate::registry::{Client, Registry};
use crate::service::Images;
use crate::store::lease::Lease;

/// Refuse what is not fetched.
pub(super) fn check(url: &str) -> Result<(), String> {
    match url.parse::<Uri>() {
        Ok(uri) if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() => Ok(()),
        _ => Err(format!("{url:?} cannot be fetched (hint: http://… or https://…)")),
    }
}

/// `sha256:<hex>`.
pub(super) fn checksum(text: &str) -> Result<Digest, String> {
    text.parse().map_err(|_| format!("--checksum={text} is no checksum (hint: sha256:<64 hex digits>)"))
}

/// What a file from there is called.
pub(super) fn file_name(url: &str) -> String {
    let path = url.split_once("://").map_or(url, |(_, rest)| rest);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let name = path.split_once('/').and_then(|(_, path)| path.rsplit('/').next()).unwrap_or_default();
    if matches!(name, "." | "..") { String::new() } else { name.to_owned() }
}

/// Fetch it into a directory of its own.
pub(super) async fn fetch(
    images: &Images,
    lease: &Arc<Lease>,
    url: &str,
    wanted: Option<Digest>,
    cancel: &CancellationToken,
) -> Result<PathBuf> {
    let fetched = download(images, lease, url, wanted);
    tokio::select! {
        fetched = fetched => fetched,
        () = cancel.cancelled() => Err(Error::Cancelled { what: "the build".into() }),
    }
}

async fn download(images: &Images, lease: &Arc<Lease>, url: &str, wanted: Option<Digest>) -> Result<PathBuf> {
    let options = &images.inner.store.options;
    let uri: Uri = url.parse().map_err(|_| Error::archive(url, "not an address"))?;
    let client = Arc::new(Client::new(&options.registries, &options.limits, uri.host().unwrap_or_default())?);
    let site = Registry::site(&client, &uri);
    let action = format!("fetching {url}");
    let response = site.open(&uri, &action).await?;
    let modified = response.headers().get(header::LAST_MODIFIED).and_then(|value| {
        jiff::fmt::rfc2822::parse(value.to_str().ok()?).ok().map(|time| time.timestamp().as_second())
    });
    let dir = lease.scratch_dir("fetched")?;
    let name = file_name(url);
    let path = dir.join(if name.is_empty() { "index" } else { &name });
    let mut file = std::fs::File::create_new(&path).map_err(Error::io("create", &path))?;
    let (limit, mut hasher) = (options.limits.layer_bytes, Hasher::default());
    let mut body = response.into_body();
    while let Some(chunk) = site.chunk(&mut body, &action).await? {
        hasher.update(&chunk);
        if hasher.bytes() > limit {
            return Err(Error::Limit { what: url.to_owned(), limit, unit: "bytes" });
        }
        file = images
            .blocking({
                let path = path.clone();
                move |_| file.write_all(&chunk).map(|()| file).map_err(Error::io("write", &path))
            })
            .await?;
    }
    let actual = hasher.finish();
    if let Some(expected) = wanted
        && expected != actual
    {
        return Err(Error::DigestMismatch { what: url.to_owned(), expected, actual });
    }
    set_mode(&path, 0o600)?;
    // What does not say when it was made is as old as time.
    meta::set_mtime(&path, (modified.unwrap_or(0), 0)).map_err(Error::io("set time of", &path))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (url, name) in [
            ("https://h/a/b.tar.gz?x=/y#z", "b.tar.gz"),
            ("http://h:1/", ""),
            ("http://h", ""),
            ("http://h/a/..", ""),
        ] {
            assert_eq!(file_name(url), name, "{url}");
            check(url).unwrap();
        }
        for bad in ["ftp://h/x", "file:///etc/passwd", "http://"] {
            assert!(check(bad).unwrap_err().contains("hint"), "{bad}");
        }
        assert!(checksum("sha256:12").is_err() && checksum("md5:x").is_err());
    }
}
