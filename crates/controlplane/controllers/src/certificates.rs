//! Requests for certificates: those of kubelets are approved when their senders may have them, approved ones are signed
//! by the install's CA, and old ones are cleaned away.

mod serving;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use sampan_daemon::{clock, tls};
use sampan_planner::pods;
use serde_json::json;

use crate::apis;
use crate::cache::{Caches, at_address, of_service};
use crate::error::{Context, Error, Result, gone_is_fine};
use crate::informer::{Change, Key};
use crate::queue::Queue;
use crate::worker::Reconciler;
use serving::Taken;

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// The longest life of a certificate that is signed here.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// The shortest, whatever is asked.
const SHORTEST: Duration = Duration::from_secs(600);
/// How long a request that is dealt with is kept.
const DONE: SignedDuration = SignedDuration::from_hours(1);
/// How long a request is kept that nobody deals with.
const PENDING: SignedDuration = SignedDuration::from_hours(24);

/// The controller of requests for certificates. Its keys are their names.
pub(crate) struct Certificates {
    client: Client,
    caches: Arc<Caches>,
    ca: Option<Arc<tls::Ca>>,
    /// Names and addresses of the API server.
    server_names: Vec<String>,
    queue: Queue<Key>,
}

impl Certificates {
    pub fn new(
        client: Client,
        caches: Arc<Caches>,
        ca: Option<Arc<tls::Ca>>,
        server_names: Vec<String>,
    ) -> Arc<Self> {
        let this = Arc::new(Self { client, caches, ca, server_names, queue: Queue::new() });
        let own = this.clone();
        this.caches.certificate_requests.on(move |change| own.queue.add(Key::of(&change.object().metadata)));
        // The address of a node that is gone is free for the next.
        let own = this.clone();
        this.caches.nodes.on(move |change| {
            if let Change::Deleted(_) = change {
                let all = own.caches.certificate_requests.all();
                let open = all.iter().filter(|csr| !has(csr, "Approved") && !has(csr, "Denied"));
                open.for_each(|csr| own.queue.add(Key::of(&csr.metadata)));
            }
        });
        this
    }

    fn api(&self) -> Api<CertificateSigningRequest> {
        apis::cluster(&self.client)
    }

    /// Approves what a kubelet asks for itself, or what a node that joins asks for, when it may.
    async fn approve(&self, csr: &CertificateSigningRequest) -> Result<()> {
        if csr.spec.signer_name == KUBELET_SERVING {
            return self.approve_serving(csr).await;
        }
        if csr.spec.signer_name != KUBELET_CLIENT {
            return Ok(());
        }
        let Ok(request) = tls::Request::parse(&csr.spec.request.0) else { return Ok(()) };
        if kubelet_client(&request, &csr.spec).is_err() {
            return Ok(());
        }
        let own = csr.spec.username.as_deref() == Some(request.common_name.as_str());
        let ways = [
            ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
            ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
        ];
        for (subresource, message) in ways.into_iter().skip(usize::from(!own)) {
            if self.may(csr, subresource).await? {
                let condition = CertificateSigningRequestCondition {
                    type_: "Approved".into(),
                    status: "True".into(),
                    reason: Some("AutoApproved".into()),
                    message: Some(message.into()),
                    ..CertificateSigningRequestCondition::default()
                };
                return self.condition(csr, "approval", condition).await;
            }
        }
        Ok(())
    }

    /// Approves the serving certificate of a node under its own name and address, as far as they are nobody else's.
    /// (Upstream leaves this to the administrator or an add-on.)
    async fn approve_serving(&self, csr: &CertificateSigningRequest) -> Result<()> {
        let Ok(request) = tls::Request::parse(&csr.spec.request.0) else { return Ok(()) };
        let own = csr.spec.username.as_deref() == Some(request.common_name.as_str());
        let Some(name) = request.common_name.strip_prefix("system:node:").filter(|_| own) else {
            return Ok(());
        };
        if kubelet_serving(&request, &csr.spec).is_err() {
            return Ok(());
        }
        // Read, not looked up: the node may have come a moment ago.
        let node = apis::cluster::<Node>(&self.client).get_opt(name).await;
        let Some(node) = node.during(|| format!("reading node {name}"))? else { return Ok(()) };
        if let Some(foreign) = self.taken(name, &request).refusal(&request, &node) {
            tracing::warn!(node = name, "asks for a certificate as {foreign}: left to you");
            return Ok(());
        }
        let condition = CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("AutoApproved".into()),
            message: Some("Auto approving kubelet serving certificate: all names are the node's own.".into()),
            ..CertificateSigningRequestCondition::default()
        };
        self.condition(csr, "approval", condition).await
    }

    /// What belongs to others than this node, of what is asked for.
    fn taken(&self, node: &str, request: &tls::Request) -> Taken {
        let mut taken = Taken::default();
        taken.servers(self.server_names.iter().map(String::as_str));
        for slice in self.caches.slices.indexed(&of_service("default", "kubernetes")) {
            let all = slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses);
            taken.servers(all.map(String::as_str));
        }
        for entry in request.ips.iter().map(|ip| at_address(*ip)) {
            self.caches.services.indexed(&entry).iter().for_each(|service| taken.service(service));
            let nodes = self.caches.nodes.indexed(&entry);
            nodes
                .iter()
                .filter(|other| pods::name(&other.metadata) != node)
                .for_each(|other| taken.node(other));
        }
        taken
    }

    async fn may(&self, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool> {
        let text = |text: &str| Some(text.to_owned());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: csr.spec.username.clone(),
                uid: csr.spec.uid.clone(),
                groups: csr.spec.groups.clone(),
                extra: csr.spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: text("certificates.k8s.io"),
                    resource: text("certificatesigningrequests"),
                    verb: text("create"),
                    subresource: text(subresource),
                    version: text("*"),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = apis::cluster(&self.client);
        let answer = api.create(&PostParams::default(), &review).await;
        let answer =
            answer.during(|| format!("asking whether the sender of {} may", pods::name(&csr.metadata)))?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    /// Signs an approved request, or says why it is not signed.
    async fn sign(&self, csr: &CertificateSigningRequest) -> Result<()> {
        let Some(ca) = &self.ca else { return Ok(()) };
        let name = pods::name(&csr.metadata);
        let failed = |reason: &str, message: String| CertificateSigningRequestCondition {
            type_: "Failed".into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message),
            ..CertificateSigningRequestCondition::default()
        };
        let request = tls::Request::parse(&csr.spec.request.0).map_err(|problem| Error::Object {
            object: format!("CertificateSigningRequest {name}"),
            problem,
        })?;
        let recognized = match csr.spec.signer_name.as_str() {
            KUBELET_SERVING => kubelet_serving(&request, &csr.spec),
            KUBELET_CLIENT => kubelet_client(&request, &csr.spec),
            CLIENT => client(&csr.spec),
            LEGACY => Ok(()),
            _ => return Ok(()),
        };
        if let Err(why) = recognized {
            return self.condition(csr, "status", failed("SignerValidationFailure", why)).await;
        }
        let asked = csr.spec.expiration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let life = asked.map_or(LIFE, |seconds| Duration::from_secs(seconds).clamp(SHORTEST, LIFE));
        let usages = csr.spec.usages.clone().unwrap_or_default();
        let pem = match ca.sign_request(&request, &usages, life) {
            Ok(pem) => pem,
            Err(why) => return self.condition(csr, "status", failed("SigningError", why.to_string())).await,
        };
        let patch = json!({
            "metadata": {"resourceVersion": csr.metadata.resource_version},
            "status": {"certificate": k8s_openapi::ByteString(pem.into_bytes())},
        });
        self.patch(csr, "status", &patch).await
    }

    /// Adds a condition through a subresource.
    async fn condition(
        &self,
        csr: &CertificateSigningRequest,
        subresource: &str,
        condition: CertificateSigningRequestCondition,
    ) -> Result<()> {
        let mut conditions = status(csr).conditions.unwrap_or_default();
        conditions.push(condition);
        let patch = json!({
            "metadata": {"resourceVersion": csr.metadata.resource_version},
            "status": {"conditions": conditions},
        });
        self.patch(csr, subresource, &patch).await
    }

    async fn patch(
        &self,
        csr: &CertificateSigningRequest,
        subresource: &str,
        patch: &serde_json::Value,
    ) -> Result<()> {
        let name = pods::name(&csr.metadata);
        let parameters = PatchParams::default();
        let patched =
            self.api().patch_subresource(subresource, name, &parameters, &Patch::Merge(patch)).await;
        patched.map(drop).during(|| format!("patching {subresource} of CertificateSigningRequest {name}"))
    }

    async fn delete(&self, csr: &CertificateSigningRequest) -> Result<()> {
        let name = pods::name(&csr.metadata);
        let preconditions = Preconditions { uid: csr.metadata.uid.clone(), resource_version: None };
        let result = self.api().delete(name, &DeleteParams::background().preconditions(preconditions)).await;
        gone_is_fine(result).during(|| format!("deleting CertificateSigningRequest {name}"))
    }
}

impl Reconciler for Certificates {
    type Key = Key;

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>> {
        let Some(csr) = self.caches.certificate_requests.get(key) else { return Ok(None) };
        let now = clock::now();
        let end = end_of(&csr);
        if end.is_some_and(|end| end <= now) {
            self.delete(&csr).await?;
            return Ok(None);
        }
        let issued = status(&csr).certificate.is_some_and(|pem| !pem.0.is_empty());
        let decided = has(&csr, "Approved") || has(&csr, "Denied");
        if !issued && !decided {
            self.approve(&csr).await?;
        } else if !issued && has(&csr, "Approved") && !has(&csr, "Denied") && !has(&csr, "Failed") {
            self.sign(&csr).await?;
        }
        let left = end.and_then(|end| Duration::try_from(end.duration_since(now)).ok());
        Ok(left.map(|left| left + Duration::from_secs(1)))
    }
}

fn status(csr: &CertificateSigningRequest) -> CertificateSigningRequestStatus {
    csr.status.clone().unwrap_or_default()
}

fn has(csr: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = csr.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == kind && condition.status == "True")
}

/// When a request has been kept long enough.
fn end_of(csr: &CertificateSigningRequest) -> Option<Timestamp> {
    let status = status(csr);
    let conditions = status.conditions.unwrap_or_default();
    let issued = status.certificate.filter(|pem| !pem.0.is_empty());
    let created = csr.metadata.creation_timestamp.as_ref().map(|at| at.0);
    let after = |at: Option<Timestamp>, wait: SignedDuration| at.and_then(|at| at.checked_add(wait).ok());
    if conditions.is_empty() {
        return after(created, PENDING);
    }
    let mut ends: Vec<Timestamp> = Vec::new();
    for condition in &conditions {
        let updated = condition.last_update_time.as_ref().map(|at| at.0);
        ends.extend(match condition.type_.as_str() {
            "Denied" | "Failed" => after(updated, DONE),
            "Approved" if issued.is_some() => after(updated, DONE),
            "Approved" => after(updated, PENDING),
            _ => None,
        });
    }
    let approved = conditions.iter().any(|condition| condition.type_ == "Approved");
    if let Some(pem) = issued.filter(|_| approved) {
        let facts = tls::Facts::of(&String::from_utf8_lossy(&pem.0)).ok();
        ends.extend(facts.map(|facts| facts.not_after));
    }
    ends.into_iter().min()
}

fn usages(spec: &CertificateSigningRequestSpec) -> BTreeSet<&str> {
    spec.usages.iter().flatten().map(String::as_str).collect()
}

/// What a kubelet may ask for: a node's name in the nodes' group, these usages, with key encipherment or without.
fn node(request: &tls::Request, spec: &CertificateSigningRequestSpec, auth: &str) -> Result<(), String> {
    let with = BTreeSet::from(["digital signature", "key encipherment", auth]);
    let mut without = with.clone();
    without.remove("key encipherment");
    let asked = usages(spec);
    if asked != with && asked != without {
        let list: Vec<&str> = with.into_iter().collect();
        return Err(format!("usages did not match [{}]", list.join(" ")));
    }
    if !request.common_name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".to_owned());
    }
    Ok(())
}

fn kubelet_client(request: &tls::Request, spec: &CertificateSigningRequestSpec) -> Result<(), String> {
    let refuse = |why: &str| Err(why.to_owned());
    if request.organizations != ["system:nodes"] {
        return refuse("subject organization is not system:nodes");
    }
    if !request.dns.is_empty() {
        return refuse("DNS subjectAltNames are not allowed");
    }
    if !request.emails.is_empty() {
        return refuse("Email subjectAltNames are not allowed");
    }
    if !request.ips.is_empty() {
        return refuse("IP subjectAltNames are not allowed");
    }
    if !request.uris.is_empty() {
        return refuse("URI subjectAltNames are not allowed");
    }
    node(request, spec, "client auth")
}

fn kubelet_serving(request: &tls::Request, spec: &CertificateSigningRequestSpec) -> Result<(), String> {
    let refuse = |why: &str| Err(why.to_owned());
    if request.organizations != ["system:nodes"] {
        return refuse("subject organization is not system:nodes");
    }
    if request.dns.is_empty() && request.ips.is_empty() {
        return refuse("DNS or IP subjectAltName is required");
    }
    if !request.emails.is_empty() {
        return refuse("Email subjectAltNames are not allowed");
    }
    if !request.uris.is_empty() {
        return refuse("URI subjectAltNames are not allowed");
    }
    node(request, spec, "server auth")
}

fn client(spec: &CertificateSigningRequestSpec) -> Result<(), String> {
    let asked = usages(spec);
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(other) = asked.iter().find(|usage| !known.contains(usage)) {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if asked.contains("client auth") {
        Ok(())
    } else {
        Err("missing required usage for client certificate: client auth".to_owned())
    }
}
