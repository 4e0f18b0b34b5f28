//! Tells others what happened: one POST for each event and webhook, tried several times.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use ring::hmac;
use sampan_daemon::Backoff;
use serde_json::{Value, json};

use crate::{
    connect::{box_body, cause},
    core::Core,
    digest::hex,
    events::{Event, Kind},
    meta::{self, Webhook, keys},
};

/// Over two minutes: a receiver may be restarted meanwhile.
const ATTEMPTS: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(10);

impl Webhook {
    pub(crate) fn wants(&self, event: &Event) -> bool {
        if !self.project.is_empty() && self.project != event.project {
            return false;
        }
        if self.events.is_empty() {
            event.kind != Kind::Pull
        } else {
            self.events.iter().any(|kind| kind == event.kind.name())
        }
    }
}

impl Core {
    /// Tell one webhook of one event, or give up.
    pub(crate) async fn deliver(&self, id: &str, event: &Event) {
        let body: Bytes = payload(event).to_string().into();
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for attempt in 1..=ATTEMPTS {
            // As it is now: who corrects an address wants what waits to go there.
            let why = match self.meta.record::<Webhook>(keys::named("w/", id)).await {
                Ok(None) => return,
                Err(error) => error.message,
                Ok(Some((webhook, _))) => match self.post(&webhook, &body).await {
                    Ok(()) => {
                        self.metrics.webhooks.fetch_add(1, Relaxed);
                        return;
                    }
                    Err(why) => format!("{}: {why}", webhook.url),
                },
            };
            if attempt == ATTEMPTS {
                tracing::warn!("webhook {id} was given up: {why}");
                self.metrics.webhook_failures.fetch_add(1, Relaxed);
            } else {
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }

    async fn post(&self, webhook: &Webhook, body: &Bytes) -> Result<(), String> {
        let mut request = Request::new(box_body(Full::new(body.clone())));
        *request.method_mut() = Method::POST;
        *request.uri_mut() =
            webhook.url.parse().map_err(|_| "its address cannot be understood".to_owned())?;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(value) = HeaderValue::try_from(&webhook.authorization)
            && !webhook.authorization.is_empty()
        {
            headers.insert(header::AUTHORIZATION, value);
        }
        if !webhook.secret.is_empty() {
            let key = hmac::Key::new(hmac::HMAC_SHA256, webhook.secret.as_bytes());
            let signature = hex(hmac::sign(&key, body).as_ref());
            headers.extend(
                HeaderValue::try_from(signature)
                    .ok()
                    .map(|value| (http::HeaderName::from_static("x-sampan-signature"), value)),
            );
        }
        let client = if webhook.trusted { &self.client } else { &self.guarded };
        let answer = tokio::time::timeout(PATIENCE, client.request(request)).await;
        let answer = answer.map_err(|_| "no answer in time".to_owned())?.map_err(|error| cause(&error))?;
        if answer.status().is_success() { Ok(()) } else { Err(format!("status {}", answer.status())) }
    }
}

fn payload(event: &Event) -> Value {
    json!({
        "type": event.kind.name(),
        "time": meta::time(event.time),
        "actor": event.actor,
        "project": event.project,
        "repository": event.repository,
        "tag": event.tag,
        "digest": event.digest,
    })
}
