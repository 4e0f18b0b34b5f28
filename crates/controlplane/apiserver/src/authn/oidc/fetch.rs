//! Asking an issuer for its keys: two small documents over TLS, within bounds of time and size.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::jose::PublicKey;

/// For both documents together.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of one document.
const MOST: usize = 1 << 20;

/// The keys that the issuer publishes.
pub(super) async fn keys(
    tls: &Arc<rustls::ClientConfig>,
    discovery: &str,
    issuer: &str,
) -> Result<Vec<(Option<String>, PublicKey)>, String> {
    let both = async {
        let about = get(tls, discovery).await?;
        if about["issuer"] != issuer {
            return Err(format!("issuer of {discovery} is {} and not {issuer:?}", about["issuer"]));
        }
        let place = about["jwks_uri"].as_str().ok_or_else(|| format!("{discovery} names no jwks_uri"))?;
        let set = get(tls, place).await?;
        let list = set["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
        let key = |jwk: &Value| Some((jwk["kid"].as_str().map(str::to_owned), PublicKey::from_jwk(jwk)?));
        Ok(list.iter().filter_map(key).collect())
    };
    tokio::time::timeout(TIMEOUT, both).await.map_err(|_| format!("{issuer} did not answer in time"))?
}

async fn get(tls: &Arc<rustls::ClientConfig>, url: &str) -> Result<Value, String> {
    let bad = |error: &dyn std::fmt::Display| format!("{url}: {error}");
    let uri: Uri = url.parse().map_err(|e| bad(&e))?;
    if uri.scheme_str() != Some("https") {
        return Err(bad(&"must be an https URL"));
    }
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let tcp =
        TcpStream::connect((bare.as_str(), uri.port_u16().unwrap_or(443))).await.map_err(|e| bad(&e))?;
    let name = ServerName::try_from(bare).map_err(|e| bad(&e))?;
    let stream = TlsConnector::from(tls.clone()).connect(name, tcp).await.map_err(|e| bad(&e))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| bad(&e))?;
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|e| bad(&e))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| bad(&e))?;
        if !response.status().is_success() {
            return Err(bad(&response.status()));
        }
        let body = Limited::new(response.into_body(), MOST).collect().await;
        let body = body.map_err(|error| format!("{url}: {error}"))?.to_bytes();
        serde_json::from_slice(&body).map_err(|e| bad(&e))
    };
    // The connection is driven here and ends with the answer.
    tokio::pin!(exchange);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => match ended {
            Ok(()) => exchange.await,
            Err(error) => Err(bad(&error)),
        },
    }
}
