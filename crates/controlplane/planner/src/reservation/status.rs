//! How a reservation stands, as its status tells.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::Timestamp;
use sampan_api::quantity::Quantity as Amount;
use serde::{Deserialize, Serialize};

use super::Reservation;
use crate::object::Condition;
use crate::scheduler::{Resources, SeatView, gpu};

/// How a reservation stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReservationStatus {
    /// `Pending`, `Available`, `Succeeded`, `Expired` or `Failed`.
    pub phase: String,
    /// How many seats have their room, of how many, as `2/3`.
    pub held: String,
    /// How many pods took something.
    pub consumers: i64,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// The number that its priority class stood for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// Of which template the seats are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Of which spec.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Each seat.
    pub seats: Vec<SeatStatus>,
    /// What is right and wrong.
    pub conditions: Vec<Condition>,
}

/// One seat.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeatStatus {
    /// Which.
    pub index: u32,
    /// `Pending`, `Available`, `Allocated` (nothing is left of it), or `Succeeded` (it is held no more).
    pub phase: String,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The devices that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<String>,
    /// What it still holds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left: BTreeMap<String, Quantity>,
    /// Who took something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub owners: Vec<SeatOwner>,
}

/// A pod that took something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeatOwner {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

/// What a status is made of.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The seats as they are.
    pub seats: Vec<SeatView>,
    /// The number that its priority class stands for.
    pub priority: Option<i32>,
    /// Why seats have no room.
    pub waiting: Option<String>,
    /// What is wrong with it.
    pub problem: Option<String>,
    /// Its time is over.
    pub expired: bool,
}

/// Amounts as users write them.
fn amounts(resources: &Resources) -> BTreeMap<String, Quantity> {
    let plain = [
        ("cpu", Amount::from_milli(resources.milli_cpu)),
        ("memory", Amount::from_bytes(resources.memory)),
        ("ephemeral-storage", Amount::from_bytes(resources.ephemeral)),
    ];
    let extended = resources.extended.iter().map(|(name, amount)| (&**name, Amount::from_units(*amount)));
    let some = plain.into_iter().chain(extended).filter(|(_, amount)| !amount.is_zero());
    some.map(|(name, amount)| (name.to_owned(), Quantity(amount.canonical()))).collect()
}

impl ReservationStatus {
    /// Whether seats are held, or looked for: what is over, or used up, holds nothing.
    pub fn holds(&self) -> bool {
        matches!(self.phase.as_str(), "Pending" | "Available")
    }
}

fn seat(view: &SeatView, before: Option<&SeatStatus>) -> SeatStatus {
    let owner = |pod: &crate::scheduler::PodInfo| SeatOwner {
        namespace: pod.namespace().to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
    };
    let mut owners: Vec<SeatOwner> = view.consumers.iter().map(|pod| owner(pod)).collect();
    owners.sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
    if view.done && owners.is_empty() {
        // Whoever took it may have ended since.
        owners = before.map(|seat| seat.owners.clone()).unwrap_or_default();
    }
    let phase = match (&view.node, &view.left) {
        _ if view.done => "Succeeded",
        (None, _) => "Pending",
        (Some(_), Some(_)) => "Available",
        (Some(_), None) => "Allocated",
    };
    SeatStatus {
        index: view.index,
        phase: phase.to_owned(),
        node: view.node.as_deref().map(ToOwned::to_owned),
        devices: (!view.devices.is_empty()).then(|| gpu::format_devices(&view.devices)),
        left: view.left.as_ref().filter(|_| !view.done).map(amounts).unwrap_or_default(),
        owners,
    }
}

impl Reservation {
    /// The status that says so; `None` when the object says so already.
    pub fn status_for(&self, facts: &Facts, now: Timestamp) -> Option<ReservationStatus> {
        let old = self.status.clone().unwrap_or_default();
        let before = |index: u32| old.seats.iter().find(|seat| seat.index == index);
        let seats: Vec<SeatStatus> = facts.seats.iter().map(|view| seat(view, before(view.index))).collect();
        let in_phase = |phase: &str| seats.iter().filter(|seat| seat.phase == phase).count();
        let (pending, succeeded) = (in_phase("Pending"), in_phase("Succeeded"));
        let held = seats.len() - pending - succeeded;
        let phase = match () {
            () if facts.problem.is_some() => "Failed",
            () if facts.expired => "Expired",
            () if !seats.is_empty() && succeeded == seats.len() => "Succeeded",
            () if seats.is_empty() || pending > 0 => "Pending",
            () => "Available",
        };
        let ready = match (phase, &facts.problem, &facts.waiting) {
            (_, Some(problem), _) => (false, "Invalid", problem.clone()),
            ("Pending", _, Some(why)) => (false, "Unschedulable", why.clone()),
            ("Pending", ..) => (false, "Scheduling", String::new()),
            ("Expired", ..) => (false, "Expired", "its time is over".to_owned()),
            ("Succeeded", ..) => (true, "Succeeded", String::new()),
            _ => (true, "Held", String::new()),
        };
        let consumers: usize = seats.iter().map(|seat| seat.owners.len()).sum();
        let expiry = self.expiry().ok().flatten();
        let new = ReservationStatus {
            phase: phase.to_owned(),
            held: format!("{held}/{}", seats.len()),
            consumers: i64::try_from(consumers).unwrap_or(i64::MAX),
            expires_at: expiry.map(|at| at.to_string()),
            priority: facts.priority,
            template: Some(self.template_mark()),
            observed_generation: self.metadata.generation,
            conditions: vec![Condition::after(&old.conditions, "Scheduled", ready, now)],
            seats,
        };
        (self.status.as_ref() != Some(&new)).then_some(new)
    }

    /// What is known of its seats from before.
    pub fn known_seats(&self) -> Vec<SeatView> {
        let Some(status) = &self.status else { return Vec::new() };
        if status.template.as_deref() != Some(&*self.template_mark()) {
            return Vec::new();
        }
        let view = |seat: &SeatStatus| SeatView {
            index: seat.index,
            node: seat.node.as_deref().map(Into::into),
            done: seat.phase == "Succeeded",
            devices: seat.devices.as_deref().map(gpu::parse_devices).unwrap_or_default().into(),
            left: None,
            consumers: Vec::new(),
        };
        status.seats.iter().map(view).collect()
    }
}
