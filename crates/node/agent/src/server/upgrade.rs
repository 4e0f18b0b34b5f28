//! Turning a request into a stream: WebSocket or SPDY, with the sub-protocol that both sides speak.

use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::{Body, text};
use crate::streams::websocket;

/// How the streams are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// WebSocket messages.
    WebSocket,
    /// SPDY/3.1 frames.
    Spdy,
}

/// An accepted upgrade.
pub struct Upgrade {
    /// How.
    pub carrier: Carrier,
    /// The sub-protocol; empty when the client named none.
    pub protocol: String,
    /// What becomes the connection once the response is sent.
    pub on: OnUpgrade,
    /// The response to send.
    pub response: Response<Body>,
}

const SPDY_VERSION: &str = "x-stream-protocol-version";

fn values(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> Vec<String> {
    let all = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(','))
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
        .collect()
}

/// Answer an upgrade request. `websocket` and `spdy` are the sub-protocols that we speak, best first.
pub fn accept(
    request: &mut Request<Incoming>,
    websocket: &[&str],
    spdy: &[&str],
) -> Result<Upgrade, Box<Response<Body>>> {
    let wanted = values(request.headers(), UPGRADE);
    let is = |name: &str| wanted.iter().any(|value| value.eq_ignore_ascii_case(name));
    let (carrier, offered, spoken) = if is("websocket") {
        (Carrier::WebSocket, values(request.headers(), SEC_WEBSOCKET_PROTOCOL), websocket)
    } else if is("SPDY/3.1") {
        (Carrier::Spdy, values(request.headers(), SPDY_VERSION), spdy)
    } else {
        let message = "unable to upgrade: missing upgrade headers in request";
        return Err(Box::new(text(StatusCode::BAD_REQUEST, message)));
    };
    let chosen = spoken.iter().find(|spoken| offered.iter().any(|offered| offered == *spoken));
    let Some(chosen) = chosen else {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {spoken:?}"
        );
        return Err(Box::new(text(StatusCode::FORBIDDEN, message)));
    };
    let mut response = Response::new(Empty::new().boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let key =
        request.headers().get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).map(websocket::accept_key);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let protocol = HeaderValue::from_str(chosen).unwrap_or_else(|_| HeaderValue::from_static(""));
    match carrier {
        Carrier::WebSocket => {
            let accept = key.and_then(|key| HeaderValue::from_str(&key).ok());
            let Some(accept) = accept else {
                return Err(Box::new(text(StatusCode::BAD_REQUEST, "missing Sec-WebSocket-Key header")));
            };
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        Carrier::Spdy => {
            headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
            headers.insert(SPDY_VERSION, protocol);
        }
    }
    let on = hyper::upgrade::on(request);
    Ok(Upgrade { carrier, protocol: (*chosen).to_owned(), on, response })
}

/// The connection, once the response has been sent.
pub async fn connection(on: OnUpgrade) -> Option<TokioIo<Upgraded>> {
    match on.await {
        Ok(upgraded) => Some(TokioIo::new(upgraded)),
        Err(error) => {
            tracing::debug!(%error, "connection was not upgraded");
            None
        }
    }
}
