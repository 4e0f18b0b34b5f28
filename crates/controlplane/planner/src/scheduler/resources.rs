//! Amounts of resources, and what a pod asks for.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::numa::{self, Kind};
use crate::quantity;

/// Amounts: CPU in thousandths of a core, the rest in bytes or pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of local scratch space.
    pub ephemeral: i64,
    /// Everything else (`example.com/gpu`, `hugepages-2Mi`), sorted by name.
    pub extended: Vec<(Box<str>, i64)>,
}

impl Resources {
    /// Reads a resource list; `pods` is not a resource here.
    pub fn new(list: Option<&BTreeMap<String, Quantity>>) -> Self {
        let mut amounts = Self::default();
        for (name, Quantity(text)) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => amounts.milli_cpu = quantity::milli(text).unwrap_or(0),
                "memory" => amounts.memory = quantity::value(text).unwrap_or(0),
                "ephemeral-storage" => amounts.ephemeral = quantity::value(text).unwrap_or(0),
                "pods" => {}
                other => *amounts.slot(other) = quantity::value(text).unwrap_or(0),
            }
        }
        amounts
    }

    /// The amount of an extended resource.
    pub fn get(&self, name: &str) -> i64 {
        self.extended.binary_search_by(|(n, _)| (**n).cmp(name)).map_or(0, |i| self.extended[i].1)
    }

    fn slot(&mut self, name: &str) -> &mut i64 {
        let at = match self.extended.binary_search_by(|(n, _)| (**n).cmp(name)) {
            Ok(at) => at,
            Err(at) => {
                self.extended.insert(at, (name.into(), 0));
                at
            }
        };
        &mut self.extended[at].1
    }

    /// Adds every amount of `other`.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_add(b));
    }

    /// Takes every amount of `other` away.
    pub fn sub(&mut self, other: &Self) {
        self.combine(other, |a, b| a.saturating_sub(b));
    }

    /// Raises every amount to that of `other`.
    pub fn max(&mut self, other: &Self) {
        self.combine(other, i64::max);
    }

    fn combine(&mut self, other: &Self, f: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = f(self.milli_cpu, other.milli_cpu);
        self.memory = f(self.memory, other.memory);
        self.ephemeral = f(self.ephemeral, other.ephemeral);
        for (name, amount) in &other.extended {
            let slot = self.slot(name);
            *slot = f(*slot, *amount);
        }
    }
}

fn requests(container: &Container) -> Resources {
    Resources::new(container.resources.as_ref().and_then(|r| r.requests.as_ref()))
}

/// What a pod needs on its node: the greater of what its containers (with sidecars) need together and what any
/// init container needs beside the sidecars before it, or the pod level requests, plus the overhead.
pub fn pod_requests(spec: &PodSpec) -> Resources {
    aggregate(spec, requests)
}

/// The requests that scoring counts: a container that asks for no CPU or memory is taken to use a little.
pub(super) fn nonzero_requests(spec: &PodSpec) -> (i64, i64) {
    let total = aggregate(spec, |container| {
        let list = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let mut amounts = Resources::new(list);
        if list.is_none_or(|l| !l.contains_key("cpu")) {
            amounts.milli_cpu = 100;
        }
        if list.is_none_or(|l| !l.contains_key("memory")) {
            amounts.memory = 200 << 20;
        }
        amounts
    });
    (total.milli_cpu, total.memory)
}

/// What containers ask for at the moment when that is the most; they come in the order in which they start.
pub(super) fn peak<'a>(containers: impl Iterator<Item = (Kind, Cow<'a, Resources>)>) -> Resources {
    let (mut beside, mut most) = (Resources::default(), Resources::default());
    for (kind, asked) in containers {
        if kind == Kind::Init {
            let mut both = asked.into_owned();
            both.add(&beside);
            most.max(&both);
        } else {
            beside.add(&asked);
        }
    }
    beside.max(&most);
    beside
}

fn aggregate(spec: &PodSpec, requests: impl Fn(&Container) -> Resources) -> Resources {
    let asked = numa::containers(spec).map(|(kind, container)| (kind, Cow::Owned(requests(container))));
    let mut total = peak(asked);
    if let Some(list) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        override_with(&mut total, list);
    }
    total.add(&Resources::new(spec.overhead.as_ref()));
    total
}

/// Pod level requests replace what the containers add up to, for the resources they name.
fn override_with(total: &mut Resources, list: &BTreeMap<String, Quantity>) {
    let level = Resources::new(Some(list));
    if list.contains_key("cpu") {
        total.milli_cpu = level.milli_cpu;
    }
    if list.contains_key("memory") {
        total.memory = level.memory;
    }
    for (name, amount) in level.extended {
        *total.slot(&name) = amount;
    }
}
