//! Tells others what happened: one POST for each event and webhook, tried several times, from a bounded queue.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::Full;
use ring::hmac;
use sampan_daemon::Backoff;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::{
    connect::{box_body, cause},
    core::Core,
    digest::hex,
    events::{Event, Kind},
    meta::{self, Webhook},
};

/// Deliveries that wait; further ones are dropped and counted as failed.
const WAITING: usize = 1024;
/// Deliveries at a time.
const PARALLEL: usize = 8;
const ATTEMPTS: u32 = 5;
const PATIENCE: Duration = Duration::from_secs(10);

/// Seats of deliveries.
#[derive(Debug)]
pub(crate) struct Webhooks {
    waiting: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// Pause before the second attempt.
    pause: Duration,
}

impl Webhooks {
    pub(crate) fn new(pause: Duration) -> Self {
        Self {
            waiting: Arc::new(Semaphore::new(WAITING)),
            running: Arc::new(Semaphore::new(PARALLEL)),
            pause,
        }
    }
}

impl Webhook {
    fn wants(&self, event: &Event) -> bool {
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
    /// Everybody who wants to know of an event is told, in the background.
    pub(crate) async fn tell(
        self: &Arc<Self>,
        webhooks: &Webhooks,
        event: &Event,
    ) -> crate::error::ApiResult<()> {
        for (id, webhook) in self.meta.records::<Webhook>("w/").await? {
            if !webhook.wants(event) {
                continue;
            }
            let Ok(seat) = webhooks.waiting.clone().try_acquire_owned() else {
                self.metrics.webhook_failures.fetch_add(1, Relaxed);
                continue;
            };
            let (core, running) = (self.clone(), webhooks.running.clone());
            let body: Bytes = payload(event).to_string().into();
            let mut backoff = Backoff::new(webhooks.pause, Duration::from_secs(60));
            self.supervisor.spawn("webhook", async move {
                for attempt in 1..=ATTEMPTS {
                    let sent = match running.acquire().await {
                        Ok(_turn) => core.post(&webhook, &body).await,
                        Err(_) => return,
                    };
                    match sent {
                        Ok(()) => {
                            core.metrics.webhooks.fetch_add(1, Relaxed);
                            break;
                        }
                        Err(why) if attempt == ATTEMPTS => {
                            tracing::warn!("webhook {id} ({}) was given up: {why}", webhook.url);
                            core.metrics.webhook_failures.fetch_add(1, Relaxed);
                        }
                        Err(_) => tokio::time::sleep(backoff.next_delay()).await,
                    }
                }
                drop(seat);
            });
        }
        Ok(())
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
