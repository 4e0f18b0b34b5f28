//! Amounts of the resources that shares are made of.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::QueueSpec;
use crate::quantity;
use crate::scheduler::{GPU, GPU_MILLI, PodInfo, Resources};

/// Amounts by the number of the resource: CPU in thousandths of a core, GPUs in thousandths of a device, the rest in pieces.
pub(super) type Vector = Vec<i64>;

const CPU: usize = 0;
const MEMORY: usize = 1;
const DEVICES: usize = 2;
const NAMED: [&str; 3] = ["cpu", "memory", GPU];
const MILLI: i64 = 1000;

/// The resources, by number.
#[derive(Debug)]
pub(super) struct Dims(Vec<Box<str>>);

impl Default for Dims {
    fn default() -> Self {
        Self(NAMED.iter().map(|name| (*name).into()).collect())
    }
}

impl Dims {
    /// What queues speak of, and what nodes offer.
    pub fn new(specs: &BTreeMap<Box<str>, QueueSpec>, capacity: &Resources) -> Self {
        let mut this = Self::default();
        let spoken =
            specs.values().flat_map(|s| [&s.guaranteed, &s.limit]).flatten().flat_map(BTreeMap::keys);
        let offered = capacity.extended.iter().map(|(name, _)| &**name);
        for name in spoken.map(String::as_str).chain(offered) {
            // Shares of devices are parts of devices; how many pods there are is nobody's share.
            if name != GPU_MILLI && name != "pods" && !this.0.iter().any(|known| **known == *name) {
                this.0.push(name.into());
            }
        }
        this
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn name(&self, dim: usize) -> &str {
        &self.0[dim]
    }

    /// What a pod asks of each resource.
    pub fn each(&self, pod: &PodInfo, mut f: impl FnMut(usize, i64)) {
        let asked = pod.requests();
        f(CPU, asked.milli_cpu);
        f(MEMORY, asked.memory);
        f(DEVICES, i64::from(pod.gpu().total()));
        for (at, name) in self.0.iter().enumerate().skip(NAMED.len()) {
            f(at, if **name == *"ephemeral-storage" { asked.ephemeral } else { asked.get(name) });
        }
    }

    pub fn add(&self, vector: &mut Vector, pod: &PodInfo, sign: i64) {
        self.each(pod, |dim, amount| vector[dim] = vector[dim].saturating_add(sign * amount));
    }

    pub fn of_resources(&self, all: &Resources) -> Vector {
        let amount = |name: &str| match name {
            "cpu" => all.milli_cpu,
            "memory" => all.memory,
            "ephemeral-storage" => all.ephemeral,
            GPU => all.get(GPU).saturating_mul(MILLI).saturating_add(all.get(GPU_MILLI)),
            other => all.get(other),
        };
        self.0.iter().map(|name| amount(name)).collect()
    }

    /// What a queue says: of each resource an amount, or nothing. The error names what is no quantity.
    pub fn read(&self, list: Option<&BTreeMap<String, Quantity>>) -> Result<Vec<Option<i64>>, String> {
        let mut all = vec![None; self.len()];
        for (name, Quantity(text)) in list.into_iter().flatten() {
            let Some(dim) = self.0.iter().position(|known| **known == **name) else { continue };
            let amount =
                if dim == CPU || dim == DEVICES { quantity::milli(text) } else { quantity::value(text) };
            match amount.filter(|amount| *amount >= 0) {
                Some(amount) => all[dim] = Some(amount),
                None => return Err(format!("{name}: {text:?} is not an amount")),
            }
        }
        Ok(all)
    }

    /// As users write it.
    pub fn words(&self, dim: usize, amount: i64) -> String {
        if dim == CPU || dim == DEVICES {
            return quantity::of_milli(amount);
        }
        let binary = [("Gi", 1_i64 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
        match binary.iter().find(|(_, unit)| dim == MEMORY && amount > 0 && amount % unit == 0) {
            Some((suffix, unit)) => format!("{}{suffix}", amount / unit),
            None => amount.to_string(),
        }
    }

    /// What of it is not nothing, as users write it.
    pub fn list(&self, vector: &Vector) -> BTreeMap<String, Quantity> {
        let some = vector.iter().enumerate().filter(|(_, amount)| **amount != 0);
        some.map(|(dim, amount)| (self.name(dim).to_owned(), Quantity(self.words(dim, *amount)))).collect()
    }
}
