//! `reservations.sampan.io`, as the API serves it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::owners::Matcher;
use super::{MOST_SEATS, ReservationStatus, Terms};
use crate::fairness::seconds;
use crate::object::object;
use crate::scheduler::{PodInfo, patience};
use crate::{pods, quantity};

/// Taints of nodes that are out of order, perhaps for a moment.
const OUTAGES: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
/// Seconds.
const PATIENCE: u64 = 300;

/// Room that is held for pods to come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    #[serde(default = "api_version")]
    api_version: String,
    #[serde(default = "kind")]
    kind: String,
    /// Name and so on.
    pub metadata: ObjectMeta,
    /// What it should be.
    #[serde(default)]
    pub spec: ReservationSpec,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<ReservationStatus>,
}

object!(Reservation: "sampan.io", "v1alpha1", "Reservation", "reservations", NamespaceResourceScope);

/// Refuses amounts that are none: what is less than nothing would make room out of nothing.
fn check_amounts(spec: &PodSpec) -> Result<(), String> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let resources = containers.filter_map(|c| c.resources.as_ref()).chain(&spec.resources);
    let lists = resources.flat_map(|r| r.requests.iter().chain(&r.limits)).chain(&spec.overhead);
    for (name, Quantity(text)) in lists.flatten() {
        let read = if name == "cpu" { quantity::milli } else { quantity::value };
        if read(text).is_none_or(|amount| amount < 0) {
            return Err(format!("spec.template asks for {text:?} of {name} (hint: 500m, 2, 4Gi)"));
        }
    }
    Ok(())
}

/// When a seat on that node is lost because of its taints, if it is: as a pod with these tolerations would have to leave it.
pub fn leaves_at(tolerations: &[Toleration], node: &Node, now: Timestamp) -> Option<Timestamp> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let leaves = |taint: &Taint| {
        let since = taint.time_added.as_ref().map_or(now, |at| at.0);
        // As the API server has pods tolerate it.
        let untolerated = if OUTAGES.contains(&taint.key.as_str()) { PATIENCE } else { 0 };
        let seconds = patience(tolerations, taint, untolerated)?;
        since.checked_add(Duration::from_secs(seconds)).ok()
    };
    taints.filter(|taint| taint.effect == "NoExecute").filter_map(leaves).min()
}

/// What a reservation should be. Words that nobody knows are told in its conditions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReservationSpec {
    /// A pod template: each seat is as large as such a pod, and placed like one. Kept as it came: what is no template must
    /// not keep others from being read.
    pub template: Value,
    /// How many seats; 1 when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// All seats are placed together, or none.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all_or_nothing: bool,
    /// Whether a seat is for one owner only, which takes all of it; so it is when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocate_once: Option<bool>,
    /// Who may take what is held: any of these. With none of them pods that name the reservation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<Owner>,
    /// How long it holds from its creation on: `90s`, `2h`, `7d`; for ever when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// Until when it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// Pods that may take what is held: all that is said must hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// Pods with such labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<LabelSelector>,
    /// Pods that this made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<OwnerReference>,
    /// In another namespace than the reservation's; such pods must name the reservation, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What makes pods.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnerReference {
    /// `ReplicaSet`, `StatefulSet`, `Job`, or `Deployment` for its ReplicaSets.
    pub kind: String,
    /// Its name.
    pub name: String,
}

impl Reservation {
    /// A reservation of that name.
    pub fn new(namespace: &str, name: &str, spec: ReservationSpec) -> Self {
        let metadata = ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        };
        Self { api_version: api_version(), kind: kind(), metadata, spec, status: None }
    }

    /// The class of priority that its template names.
    pub fn priority_class(&self) -> Option<&str> {
        self.spec.template.pointer("/spec/priorityClassName")?.as_str().filter(|name| !name.is_empty())
    }

    /// What it asks for, with the priority that its class stands for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn terms(&self, priority: Option<i32>) -> Result<Terms, String> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (namespace, name) = (text(&self.metadata.namespace), text(&self.metadata.name));
        let count = self.spec.count.unwrap_or(1);
        if !(1..=MOST_SEATS).contains(&count) {
            return Err(format!("spec.count is {count} (hint: 1 to {MOST_SEATS})"));
        }
        self.expiry()?;
        let template = self.pod(&namespace, priority)?;
        let owners = self.spec.owners.iter().map(|owner| Matcher::new(owner, &namespace));
        Ok(Terms {
            uid: pods::uid(&self.metadata).into(),
            owners: owners.collect::<Result<_, _>>()?,
            namespace: namespace.into(),
            name: name.into(),
            template,
            count,
            gang: self.spec.all_or_nothing && count > 1,
            once: self.spec.allocate_once.unwrap_or(true),
        })
    }

    /// A pod of the template.
    fn pod(&self, namespace: &str, priority: Option<i32>) -> Result<PodInfo, String> {
        let template = &self.spec.template;
        let mut object = json!({"metadata": template["metadata"], "spec": template["spec"]});
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let mut pod: Pod = serde_json::from_value(object)
            .map_err(|error| format!("spec.template is no pod template: {error}"))?;
        pod.metadata.namespace = Some(namespace.to_owned());
        pod.metadata.owner_references = None;
        pod.metadata.annotations = None;
        let spec = pod.spec.get_or_insert_default();
        spec.volumes = None;
        spec.node_name = None;
        spec.scheduling_group = None;
        // Whoever wants to be important needs a class that says so, as for pods.
        spec.priority = priority;
        // A pod stays for a while where it tolerates a taint for a while; what is to stay is placed elsewhere.
        spec.tolerations.iter_mut().for_each(|all| all.retain(|t| t.toleration_seconds.is_none()));
        check_amounts(spec)?;
        if let Some(labels) = &mut pod.metadata.labels {
            labels.retain(|key, _| key != crate::scheduler::POD_GROUP);
        }
        let info = PodInfo::of(&pod);
        let asked = info.requests();
        let amounts = [asked.milli_cpu, asked.memory, asked.ephemeral];
        if amounts.iter().all(|amount| *amount <= 0) && asked.extended.iter().all(|(_, amount)| *amount <= 0)
        {
            let hint = "resources.requests of containers or of the pod";
            return Err(format!(
                "spec.template asks for nothing, so there is nothing to hold (hint: {hint})"
            ));
        }
        Ok(info)
    }

    /// When it ends by itself.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn expiry(&self) -> Result<Option<Timestamp>, String> {
        let mut ends = None;
        if let Some(text) = self.spec.ttl.as_deref().filter(|text| *text != "0") {
            let held = seconds(text).filter(|s| *s <= 1e9);
            let held = held.ok_or_else(|| format!("spec.ttl is {text:?} (hint: 90s, 2h, 7d)"))?;
            let held = SignedDuration::from_secs_f64(held);
            ends = pods::created(&self.metadata).checked_add(held).ok();
        }
        if let Some(text) = &self.spec.expires {
            let hint = "a time such as 2027-01-31T12:00:00Z";
            let at: Timestamp =
                text.parse().map_err(|_| format!("spec.expires is {text:?} (hint: {hint})"))?;
            ends = Some(ends.map_or(at, |end: Timestamp| end.min(at)));
        }
        Ok(ends)
    }

    /// The taints that a pod of the template tolerates.
    pub fn tolerations(&self) -> Vec<Toleration> {
        let tolerations = self.spec.template.pointer("/spec/tolerations").cloned().unwrap_or_default();
        serde_json::from_value(tolerations).unwrap_or_default()
    }

    /// By which a template is known again: seats of another one are not held any more.
    pub fn template_mark(&self) -> String {
        // FNV-1a: the same in every version.
        let text = self.spec.template.to_string();
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, mix))
    }
}
