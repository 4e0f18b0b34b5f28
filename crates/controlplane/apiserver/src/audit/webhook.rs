//! The audit webhook: events go in batches, as `audit.k8s.io/v1` EventLists, to whoever a kubeconfig names.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use sampan_api::decode;
use sampan_daemon::tls::{self, Issued};
use serde_json::Value;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::Audit;
use crate::{admission::webhook::client::Remote, core::Core};

/// Events that wait to be sent; more are dropped and counted, so that a slow receiver holds up no request.
const QUEUE: usize = 10_000;
/// Events of one request.
const BATCH: usize = 400;
/// Bytes of events of one request, about.
const BATCH_BYTES: usize = 4 << 20;
/// How long an event waits for others to go with it.
const GATHER: Duration = Duration::from_secs(30);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The same when the server ends.
const LAST_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a batch is sent before it is lost, and how much longer each wait is than the one before.
const TRIES: u32 = 5;
const STRETCH: f64 = 1.5;

/// Where audit events are sent.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    url: String,
    ca: String,
    identity: Option<Issued>,
    token: Option<String>,
    /// How long to wait before a batch that could not be sent is sent again.
    pub initial_backoff: Duration,
    /// How long an event waits for others to go with it.
    pub max_wait: Duration,
}

impl WebhookOptions {
    /// Reads a kubeconfig, whose current context says where to and as whom; `read` gives the files that it names.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub fn parse(kubeconfig: &[u8], read: impl Fn(&str) -> io::Result<Vec<u8>>) -> Result<Self, String> {
        let config = decode::parse_yaml(kubeconfig).map_err(|status| status.message)?.value;
        let named = |list: &str, what: &str, name: &Value| {
            let mut all = config[list].as_array().into_iter().flatten();
            let found = all.find(|one| one["name"] == *name).map(|one| one[what].clone());
            found.ok_or_else(|| format!("{list} has none that is named {name}"))
        };
        let context = match &config["current-context"] {
            Value::String(name) if !name.is_empty() => named("contexts", "context", &name.as_str().into())?,
            _ => return Err("it has no current-context".to_owned()),
        };
        let cluster = named("clusters", "cluster", &context["cluster"])?;
        let user = match &context["user"] {
            Value::Null => Value::Null,
            name => named("users", "user", name)?,
        };
        let material = |of: &Value, name: &str| -> Result<Option<String>, String> {
            let bytes = match (&of[format!("{name}-data")], &of[name]) {
                (Value::String(data), _) => {
                    STANDARD.decode(data.trim()).map_err(|error| format!("{name}-data: {error}"))?
                }
                (_, Value::String(path)) => read(path).map_err(|error| format!("{name}: {path}: {error}"))?,
                _ => return Ok(None),
            };
            String::from_utf8(bytes).map(Some).map_err(|error| format!("{name}: {error}"))
        };
        let url = cluster["server"].as_str().unwrap_or_default().to_owned();
        if !url.starts_with("https://") {
            return Err(format!("the server {url:?} is no https:// address"));
        }
        let ca = material(&cluster, "certificate-authority")?;
        let ca =
            ca.ok_or("the cluster has no certificate-authority (hint: or certificate-authority-data)")?;
        let identity = match (material(&user, "client-certificate")?, material(&user, "client-key")?) {
            (Some(cert_pem), Some(key_pem)) => Some(Issued { cert_pem, key_pem }),
            (None, None) => None,
            _ => return Err("client-certificate and client-key belong together".to_owned()),
        };
        let token = match (&user["token"], &user["tokenFile"]) {
            (Value::String(token), _) => Some(token.clone()),
            (_, Value::String(path)) => {
                let bytes = read(path).map_err(|error| format!("tokenFile: {path}: {error}"))?;
                Some(String::from_utf8_lossy(&bytes).trim().to_owned())
            }
            _ => None,
        };
        tls::client_config(&ca, identity.as_ref()).map_err(|error| error.to_string())?;
        let initial_backoff = Duration::from_secs(10);
        Ok(Self { url, ca, identity, token, initial_backoff, max_wait: GATHER })
    }
}

/// The end that requests hold.
pub(super) struct Webhook {
    queue: Sender<Bytes>,
    /// What the task that sends is made of, until it is started.
    unstarted: Mutex<Option<(WebhookOptions, Receiver<Bytes>)>>,
}

impl Webhook {
    pub(super) fn new(options: WebhookOptions) -> Self {
        let (queue, events) = channel(QUEUE);
        Self { queue, unstarted: Mutex::new(Some((options, events))) }
    }

    /// Queues an event; false when there is no room.
    pub(super) fn push(&self, event: Bytes) -> bool {
        self.queue.try_send(event).is_ok()
    }

    /// Starts to send.
    pub(super) fn start(&self, core: &Arc<Core>, audit: &Arc<Audit>) {
        let taken = self.unstarted.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((options, events)) = taken else { return };
        let (task, audit) = (core.clone(), audit.clone());
        core.supervisor.spawn("audit-webhook", async move {
            let remote =
                Remote::fixed(&options.url, &options.ca, options.identity.as_ref(), options.token.as_deref());
            Posting { core: task, audit, options, remote }.run(events).await;
        });
    }
}

/// The task that sends.
struct Posting {
    core: Arc<Core>,
    audit: Arc<Audit>,
    options: WebhookOptions,
    remote: Remote,
}

impl Posting {
    async fn run(&self, mut events: Receiver<Bytes>) {
        let stop = self.core.supervisor.token();
        loop {
            let first = tokio::select! {
                event = events.recv() => event,
                () = stop.cancelled() => events.try_recv().ok(),
            };
            let Some(first) = first else { return };
            let batch = self.gather(first, &mut events).await;
            self.deliver(batch).await;
        }
    }

    /// What else comes soon, or is there when the server ends.
    async fn gather(&self, first: Bytes, events: &mut Receiver<Bytes>) -> Vec<Bytes> {
        let mut bytes = first.len();
        let mut batch = vec![first];
        let over = tokio::time::sleep(self.options.max_wait);
        tokio::pin!(over);
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            let next = tokio::select! {
                event = events.recv() => event,
                () = &mut over => None,
                () = self.core.closing.cancelled() => events.try_recv().ok(),
            };
            let Some(next) = next else { break };
            bytes += next.len();
            batch.push(next);
        }
        batch
    }

    /// Sends a batch, again and again if need be. When the server ends, once.
    async fn deliver(&self, batch: Vec<Bytes>) {
        let body = list(&batch);
        let mut wait = self.options.initial_backoff;
        for left in (0..TRIES).rev() {
            let closing = self.core.closing.is_cancelled();
            let timeout = if closing { LAST_TIMEOUT } else { TIMEOUT };
            let Err(why) = self.remote.post(&self.core, body.clone(), timeout).await else { return };
            if left == 0 || closing {
                self.audit.lost_by_webhook.fetch_add(batch.len() as u64, Ordering::Relaxed);
                tracing::error!(events = batch.len(), "audit events could not be sent and are lost: {why}");
                return;
            }
            tracing::warn!("audit events could not be sent, and will be again: {why}");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.core.closing.cancelled() => {}
            }
            wait = wait.mul_f64(STRETCH);
        }
    }
}

/// The events as one object.
fn list(batch: &[Bytes]) -> Bytes {
    let size: usize = batch.iter().map(|event| event.len() + 1).sum();
    let mut out = Vec::with_capacity(size + 128);
    out.extend_from_slice(br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#);
    for (at, event) in batch.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(event);
    }
    out.extend_from_slice(b"]}");
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<WebhookOptions, String> {
        WebhookOptions::parse(text.as_bytes(), |path| match path {
            "/token" => Ok(b"from a file\n".to_vec()),
            other => Err(io::Error::new(io::ErrorKind::NotFound, format!("no {other}"))),
        })
    }

    #[test]
    fn what_is_wrong_with_a_kubeconfig_is_said() {
        let whole = |server: &str, authority: &str, user: &str| {
            format!(
                "{{current-context: a, contexts: [{{name: a, context: {{cluster: b, user: c}}}}], \
                 clusters: [{{name: b, cluster: {{server: \"{server}\"{authority}}}}}], users: [{{name: c, user: {user}}}]}}"
            )
        };
        let ca = ", certificate-authority-data: \"\"";
        for (text, wanted) in [
            ("{}".to_owned(), "no current-context"),
            ("{current-context: a, contexts: []}".to_owned(), "contexts has none that is named \"a\""),
            (whole("http://x", ca, "{}"), "no https:// address"),
            (whole("https://x", "", "{}"), "no certificate-authority"),
            (whole("https://x", ", certificate-authority: /no", "{}"), "certificate-authority: /no"),
            (whole("https://x", ca, "{client-key-data: \"\"}"), "belong together"),
            (whole("https://x", ca, "{tokenFile: /no}"), "tokenFile: /no"),
        ] {
            let why = parse(&text).unwrap_err();
            assert!(why.contains(wanted), "{text}: {why}");
        }
        let options = parse(&whole("https://x/y", ca, "{tokenFile: /token}")).unwrap();
        assert_eq!((options.url.as_str(), options.token.as_deref()), ("https://x/y", Some("from a file")));
    }

    #[test]
    fn a_batch_is_one_list() {
        let batch = [Bytes::from_static(b"{\"a\":1}"), Bytes::from_static(b"{\"b\":2}")];
        let value: Value = serde_json::from_slice(&list(&batch)).unwrap();
        assert_eq!(value["kind"], "EventList");
        assert_eq!(value["items"], serde_json::json!([{"a": 1}, {"b": 2}]));
    }
}
