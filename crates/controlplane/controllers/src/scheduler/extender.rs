//! Extenders: webhooks that have a say about nodes, as `extenders` of a KubeSchedulerConfiguration name them.
//!
//! What is asked and answered is `k8s.io/kube-scheduler/extender/v1`. Each question has a connection of its own and a bound
//! on time and size.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node, Pod};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use sampan_daemon::tls::{self, Issued};
use sampan_planner::pods;
use sampan_planner::scheduler::config::Extender as Settings;
use sampan_planner::scheduler::{PodInfo, Preemption};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A longer reply is no reply: that is 15,000 nodes with 4 KiB each.
const MAX_REPLY: usize = 64 << 20;
/// Upstream's scale: extenders score from 0 to 10, plugins from 0 to 100.
const SCALE: i64 = 10;

/// A webhook.
pub(super) struct Extender {
    pub settings: Settings,
    tls: Option<Result<Arc<ClientConfig>, String>>,
}

/// What extenders make of the nodes that can take a pod.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Those that are left; all when nobody filters.
    allowed: Option<HashSet<String>>,
    /// Why others are not: also those that no pod's leaving would help.
    refused: BTreeMap<String, String>,
    hopeless: HashSet<String>,
    scores: BTreeMap<String, i64>,
}

impl Verdict {
    /// Whether the node is left; the reason when it is not.
    pub fn allow(&self, node: &str) -> Result<(), String> {
        match &self.allowed {
            Some(allowed) if !allowed.contains(node) => Err(match self.refused.get(node) {
                Some(why) => why.clone(),
                None => "node(s) didn't pass an extender's filter".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether pods that leave the node may help.
    pub fn may_preempt(&self, node: &str) -> Result<(), String> {
        if self.hopeless.contains(node) { self.allow(node) } else { Ok(()) }
    }

    /// What extenders add to the score of a node.
    pub fn bonus(&self, node: &str) -> i64 {
        self.scores.get(node).copied().unwrap_or(0)
    }
}

impl Extender {
    pub fn new(settings: Settings) -> Self {
        let tls = settings.is_secure().then(|| configure(&settings));
        Self { settings, tls }
    }

    pub fn is_interested(&self, pod: &PodInfo) -> bool {
        self.settings.is_interested(pod.requests())
    }

    /// Filters the nodes; those that are left go into the verdict, with the reasons of the others.
    pub async fn filter(&self, pod: &Pod, nodes: &[Arc<Node>], verdict: &mut Verdict) -> Result<(), String> {
        let answer = self.ask(&self.settings.filter_verb, &self.about(pod, nodes)).await?;
        let answer = fields(answer)?;
        if let Some(error) = answer.get("error").and_then(Value::as_str).filter(|e| !e.is_empty()) {
            return Err(error.to_owned());
        }
        let mut left = HashSet::new();
        for name in answer.get("nodenames").and_then(Value::as_array).into_iter().flatten() {
            left.extend(name.as_str().map(ToOwned::to_owned));
        }
        let items = answer.get("nodes").and_then(|list| list.get("items")).and_then(Value::as_array);
        for node in items.into_iter().flatten() {
            left.extend(node.pointer("/metadata/name").and_then(Value::as_str).map(ToOwned::to_owned));
        }
        // It can only take nodes away.
        let asked: HashSet<&str> = nodes.iter().map(|node| pods::name(&node.metadata)).collect();
        left.retain(|name: &String| asked.contains(name.as_str()));
        for (key, hopeless) in [("failednodes", false), ("failedandunresolvablenodes", true)] {
            for (node, why) in answer.get(key).and_then(Value::as_object).into_iter().flatten() {
                verdict.refused.insert(node.clone(), why.as_str().unwrap_or_default().to_owned());
                if hopeless {
                    verdict.hopeless.insert(node.clone());
                }
            }
        }
        verdict.allowed = Some(left);
        Ok(())
    }

    /// Scores the nodes, by its weight.
    pub async fn prioritize(
        &self,
        pod: &Pod,
        nodes: &[Arc<Node>],
        verdict: &mut Verdict,
    ) -> Result<(), String> {
        let answer = self.ask(&self.settings.prioritize_verb, &self.about(pod, nodes)).await?;
        let Value::Array(all) = answer else { return Err("its answer is no list of scores".to_owned()) };
        for one in all {
            let one = fields(one)?;
            let host = one.get("host").and_then(Value::as_str);
            let score = one.get("score").and_then(Value::as_i64).unwrap_or(0).clamp(0, SCALE);
            if let Some(host) = host {
                let add = score * self.settings.weight.clamp(0, i64::from(u32::MAX)) * (100 / SCALE);
                *verdict.scores.entry(host.to_owned()).or_default() += add;
            }
        }
        Ok(())
    }

    /// Binds the pod in the scheduler's place.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), String> {
        let question = json!({
            "PodName": pod.name(), "PodNamespace": pod.namespace(), "PodUID": pod.uid(), "Node": node,
        });
        let answer = fields(self.ask(&self.settings.bind_verb, &question).await?)?;
        match answer.get("error").and_then(Value::as_str).filter(|e| !e.is_empty()) {
            Some(error) => Err(error.to_owned()),
            None => Ok(()),
        }
    }

    /// Whether the plan may be carried out; only with these victims, when it says so.
    pub async fn preempt(
        &self,
        pod: &Pod,
        plan: &mut Preemption,
        victims: &[Arc<Pod>],
    ) -> Result<bool, String> {
        let violations = plan.violations;
        let question = if self.settings.node_cache_capable {
            let uids: Vec<Value> = plan.victims.iter().map(|v| json!({"UID": v.uid()})).collect();
            json!({"Pod": pod, "NodeNameToMetaVictims": {&plan.node: {"Pods": uids, "NumPDBViolations": violations}}})
        } else {
            let victims: Vec<&Pod> = victims.iter().map(AsRef::as_ref).collect();
            json!({"Pod": pod, "NodeNameToVictims": {&plan.node: {"Pods": victims, "NumPDBViolations": violations}}})
        };
        let answer = fields(self.ask(&self.settings.preempt_verb, &question).await?)?;
        let Some(chosen) = answer.get("nodenametometavictims").and_then(|all| all.get(&plan.node)) else {
            return Ok(false);
        };
        let chosen = fields(chosen.clone())?;
        let mut uids = HashSet::new();
        for victim in chosen.get("pods").and_then(Value::as_array).into_iter().flatten() {
            let victim = fields(victim.clone())?;
            uids.extend(victim.get("uid").and_then(Value::as_str).map(ToOwned::to_owned));
        }
        plan.victims.retain(|victim| uids.contains(victim.uid()));
        Ok(true)
    }

    fn about(&self, pod: &Pod, nodes: &[Arc<Node>]) -> Value {
        if self.settings.node_cache_capable {
            let names: Vec<&str> = nodes.iter().map(|node| pods::name(&node.metadata)).collect();
            return json!({"Pod": pod, "Nodes": null, "NodeNames": names});
        }
        let items: Vec<&Node> = nodes.iter().map(AsRef::as_ref).collect();
        json!({"Pod": pod, "Nodes": {"metadata": {}, "items": items}, "NodeNames": null})
    }

    async fn ask(&self, verb: &str, question: &Value) -> Result<Value, String> {
        let url = format!("{}/{verb}", self.settings.url_prefix.trim_end_matches('/'));
        let bound = Duration::from_millis(self.settings.timeout_millis());
        let asked = tokio::time::timeout(bound, self.exchange(&url, question)).await;
        let late = || Err(format!("no answer within {} ms", bound.as_millis()));
        asked.unwrap_or_else(|_| late()).map_err(|why| format!("extender {url}: {why}"))
    }

    async fn exchange(&self, url: &str, question: &Value) -> Result<Value, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(|error| error.to_string())?;
        let body = Bytes::from(question.to_string());
        let Some(config) = &self.tls else { return send(tcp, &uri, body).await };
        let config = config.as_ref().map_err(Clone::clone)?;
        let given = self.settings.tls_config.as_ref().map(|tls| tls.server_name.clone());
        let name = given.filter(|name| !name.is_empty()).unwrap_or(host);
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        let tls = TlsConnector::from(config.clone()).connect(name, tcp).await;
        send(tls.map_err(|error| format!("TLS: {error}"))?, &uri, body).await
    }
}

async fn send(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
    body: Bytes,
) -> Result<Value, String> {
    let failed = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(failed)?;
    let path = uri.path_and_query().map_or("/", |both| both.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(body))
        .map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let read = Limited::new(response.into_body(), MAX_REPLY).collect().await;
        let bytes = read.map_err(|error| format!("reading the reply: {error}"))?.to_bytes();
        if status != StatusCode::OK {
            let said = String::from_utf8_lossy(&bytes[..bytes.len().min(256)]).trim().to_owned();
            return Err(format!("{status} {said}"));
        }
        serde_json::from_slice(&bytes).map_err(|error| format!("its answer is no JSON: {error}"))
    };
    // The connection is driven here and ends with the answer.
    tokio::pin!(answer, connection);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended.map_err(failed)?;
            answer.await
        }
    }
}

/// The fields of an object, their names in small letters: Go's decoder does not mind either.
fn fields(value: Value) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(object) => {
            Ok(object.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect())
        }
        Value::Null => Ok(Map::new()),
        _ => Err("its answer is no object".to_owned()),
    }
}

fn configure(settings: &Settings) -> Result<Arc<ClientConfig>, String> {
    let given = settings.tls_config.clone().unwrap_or_default();
    let pem = |data: &str, what: &str| -> Result<String, String> {
        let bytes = STANDARD.decode(data.trim()).map_err(|error| format!("{what}: {error}"))?;
        String::from_utf8(bytes).map_err(|error| format!("{what}: {error}"))
    };
    let ca = pem(&given.ca_data, "caData")?;
    let identity = if given.cert_data.is_empty() {
        None
    } else {
        let (cert_pem, key_pem) = (pem(&given.cert_data, "certData")?, pem(&given.key_data, "keyData")?);
        Some(Issued { cert_pem, key_pem })
    };
    tls::client_config(&ca, identity.as_ref()).map_err(|error| error.to_string())
}
