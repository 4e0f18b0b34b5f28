//! What nodes and pods really use, as against what was asked for.
//!
//! [`Measured`] is one answer of `metrics.k8s.io`. A [`Ledger`] remembers such answers: of each node a histogram whose
//! samples fade, so that its peaks are known, and the last few looks, so that what lasts can be told from what flickers.
//! [`NodeUsage`] is what decisions read. It has a seat for a forecast: whoever can tell what a node will need at most
//! writes it into the annotation [`FORECAST`] of the node, as `cpu=1500m,memory=3Gi`.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use crate::scheduler::Resources;
use crate::{pods, quantity};

/// The annotation of a node that holds the peak that is expected.
pub const FORECAST: &str = "sampan.io/forecast-peak";
/// How long a sample of a node's use takes to lose half of its weight in the histogram, in seconds.
const HALF_LIFE: f64 = 3600.0;
/// Looks that must agree before use counts as lasting.
const LOOKS: usize = 3;
/// What was measured so long ago says nothing any more.
const EXPIRY: SignedDuration = SignedDuration::from_secs(180);
/// A pod that started so short a time ago may not have begun to work.
const YOUNG: SignedDuration = SignedDuration::from_secs(60);

/// CPU in thousandths of a core and memory in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// Thousandths of a CPU.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
}

impl Amount {
    /// So much of both.
    pub const fn new(milli_cpu: i64, memory: i64) -> Self {
        Self { milli_cpu, memory }
    }

    /// Each of the two made of the two of both.
    #[must_use]
    pub fn with(self, other: Self, f: impl Fn(i64, i64) -> i64) -> Self {
        Self { milli_cpu: f(self.milli_cpu, other.milli_cpu), memory: f(self.memory, other.memory) }
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.with(other, i64::saturating_add)
    }

    /// The difference.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.with(other, i64::saturating_sub)
    }

    /// The greater of each.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        self.with(other, i64::max)
    }

    /// So many hundredths of each.
    #[must_use]
    pub fn percent(self, of: Self) -> Self {
        let part = |whole: i64, percent: i64| {
            i64::try_from(i128::from(whole) * i128::from(percent) / 100).unwrap_or(i64::MAX)
        };
        self.with(of, part)
    }

    /// How full something of that size is, by the scarcer of the two, in hundredths.
    pub fn fullness(self, have: Self) -> f64 {
        let part = |used: i64, have: i64| if have > 0 { 100.0 * used as f64 / have as f64 } else { 0.0 };
        part(self.milli_cpu, have.milli_cpu).max(part(self.memory, have.memory))
    }

    /// Reads `cpu=1500m,memory=3Gi`; what is missing is nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let mut amount = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=')? {
                ("cpu", value) => amount.milli_cpu = quantity::milli(value)?,
                ("memory", value) => amount.memory = quantity::value(value)?,
                _ => return None,
            }
        }
        Some(amount)
    }
}

impl From<&Resources> for Amount {
    fn from(resources: &Resources) -> Self {
        Self { milli_cpu: resources.milli_cpu, memory: resources.memory }
    }
}

/// What is measured of one node or pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// How much.
    pub used: Amount,
    /// When.
    pub at: Timestamp,
    /// Over how long.
    pub window: SignedDuration,
}

/// One look at everything.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// By the name of the node.
    pub nodes: HashMap<String, Reading>,
    /// By namespace and name of the pod.
    pub pods: HashMap<(String, String), Reading>,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    metadata: Meta<'a>,
    #[serde(borrow, default)]
    timestamp: Cow<'a, str>,
    #[serde(borrow, default)]
    window: Cow<'a, str>,
    #[serde(borrow, default)]
    usage: Option<Used<'a>>,
    #[serde(borrow, default)]
    containers: Vec<Container<'a>>,
}

#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Container<'a> {
    #[serde(borrow)]
    usage: Used<'a>,
}

#[derive(Deserialize)]
struct Used<'a> {
    #[serde(borrow, default)]
    cpu: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    memory: Option<Cow<'a, str>>,
}

impl Used<'_> {
    fn amount(&self) -> Option<Amount> {
        let (cpu, memory) = (self.cpu.as_deref()?, self.memory.as_deref()?);
        Some(Amount::new(quantity::milli(cpu)?, quantity::value(memory)?))
    }
}

impl Item<'_> {
    fn reading(&self) -> Option<Reading> {
        let used = match &self.usage {
            Some(used) => used.amount()?,
            // A pod of which one container is not measured yet is not measured.
            None if self.containers.is_empty() => return None,
            None => self
                .containers
                .iter()
                .try_fold(Amount::default(), |sum, c| c.usage.amount().map(|amount| sum.plus(amount)))?,
        };
        let window = self.window.parse().unwrap_or(SignedDuration::ZERO);
        Some(Reading { used, at: self.timestamp.parse().ok()?, window })
    }
}

impl Measured {
    /// Reads a NodeMetricsList and a PodMetricsList as JSON. What lacks an amount or a time is left out.
    pub fn parse(nodes: &[u8], pods: &[u8]) -> Result<Self, String> {
        let read = |kind: &str, bytes: &[u8]| {
            format!("the list of {kind} metrics cannot be read ({} bytes)", bytes.len())
        };
        let nodes: List<'_> =
            serde_json::from_slice(nodes).map_err(|e| format!("{}: {e}", read("node", nodes)))?;
        let pods: List<'_> =
            serde_json::from_slice(pods).map_err(|e| format!("{}: {e}", read("pod", pods)))?;
        let of_node = |item: &Item<'_>| Some((item.metadata.name.to_string(), item.reading()?));
        let of_pod = |item: &Item<'_>| {
            Some(((item.metadata.namespace.to_string(), item.metadata.name.to_string()), item.reading()?))
        };
        Ok(Self {
            nodes: nodes.items.iter().filter_map(of_node).collect(),
            pods: pods.items.iter().filter_map(of_pod).collect(),
        })
    }

    /// What a pod uses, when this was measured of it and not of a namesake before it.
    pub fn of_pod(&self, pod: &k8s_openapi::api::core::v1::Pod) -> Option<PodUsage> {
        let meta = &pod.metadata;
        let key = (meta.namespace.clone().unwrap_or_default(), pods::name(meta).to_owned());
        let reading = self.pods.get(&key)?;
        let started = pod.status.as_ref()?.start_time.as_ref()?.0;
        if reading.at < started {
            return None;
        }
        let age = reading.at.duration_since(started);
        Some(PodUsage { used: reading.used, young: age < YOUNG })
    }
}

/// What a pod uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PodUsage {
    /// How much.
    pub used: Amount,
    /// It has just started: it may come to use what it asked for.
    pub young: bool,
}

/// Which of a node's use counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Basis {
    /// The last measurement.
    #[default]
    Last,
    /// The highest of this percentile of the last hours and the last measurement.
    Peak(Percentile),
}

/// The percentiles that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Percentile {
    /// The median.
    P50,
    /// Nine of ten.
    P90,
    /// Nineteen of twenty.
    P95,
    /// All but one of a hundred.
    P99,
}

impl Percentile {
    const ALL: [(Self, f64); 4] = [(Self::P50, 0.5), (Self::P90, 0.9), (Self::P95, 0.95), (Self::P99, 0.99)];

    /// By its usual name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "p50" => Self::P50,
            "p90" => Self::P90,
            "p95" => Self::P95,
            "p99" => Self::P99,
            _ => return None,
        })
    }
}

/// What a node uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeUsage {
    /// At the last look.
    pub last: Amount,
    /// The least of the last looks, once there were enough of them: what is no mere moment.
    pub sustained: Option<Amount>,
    /// By percentile.
    pub peaks: [Amount; 4],
    /// What somebody expects at most.
    pub forecast: Option<Amount>,
}

impl NodeUsage {
    /// Just measured, with no past.
    pub fn now(last: Amount) -> Self {
        Self { last, sustained: Some(last), peaks: [last; 4], forecast: None }
    }

    /// What counts. A forecast can only raise it.
    pub fn on(&self, basis: Basis) -> Amount {
        let peak = match basis {
            Basis::Last => self.last,
            Basis::Peak(percentile) => self.last.max(self.peaks[percentile as usize]),
        };
        self.forecast.map_or(peak, |forecast| peak.max(forecast))
    }
}

/// How often a node used which part of what it has, recent times counting more. One step is a hundredth.
#[derive(Debug, Clone)]
struct Histogram {
    weights: [f32; 129],
    total: f32,
    /// To this time weights are as they are.
    at: Timestamp,
}

impl Histogram {
    fn new(at: Timestamp) -> Self {
        Self { weights: [0.0; 129], total: 0.0, at }
    }

    fn add(&mut self, used: i64, have: i64, at: Timestamp) {
        let passed = at.duration_since(self.at).as_secs_f64().max(0.0);
        let keep = (-passed / HALF_LIFE).exp2() as f32;
        self.at = self.at.max(at);
        self.weights.iter_mut().for_each(|weight| *weight *= keep);
        let part = if have > 0 { (used.max(0) as f64 * 100.0 / have as f64).ceil().min(128.0) } else { 0.0 };
        self.weights[part as usize] += 1.0;
        self.total = self.weights.iter().sum();
    }

    /// The use that was not exceeded in that share of the time.
    fn percentile(&self, share: f64, have: i64) -> i64 {
        let enough = f64::from(self.total) * share - 1e-6;
        let mut sum = 0.0;
        for (part, weight) in self.weights.iter().enumerate() {
            sum += f64::from(*weight);
            if sum >= enough && sum > 0.0 {
                return (have as f64 * part as f64 / 100.0) as i64;
            }
        }
        have
    }
}

/// What is remembered of one node.
#[derive(Debug, Clone)]
struct Past {
    have: Amount,
    cpu: Histogram,
    memory: Histogram,
    looks: Vec<Amount>,
    at: Timestamp,
    seen: bool,
}

impl Past {
    fn new(have: Amount, at: Timestamp) -> Self {
        let fresh = || Histogram::new(at);
        Self { have, cpu: fresh(), memory: fresh(), looks: Vec::new(), at, seen: false }
    }

    fn usage(&self, forecast: Option<Amount>) -> NodeUsage {
        let peaks = Percentile::ALL.map(|(_, share)| Amount {
            milli_cpu: self.cpu.percentile(share, self.have.milli_cpu),
            memory: self.memory.percentile(share, self.have.memory),
        });
        let last = self.looks.last().copied().unwrap_or_default();
        let enough = self.looks.len() >= LOOKS;
        let least = self.looks.iter().copied().reduce(|a, b| a.with(b, i64::min));
        NodeUsage { last, sustained: least.filter(|_| enough), peaks, forecast }
    }
}

/// What nodes used before.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    nodes: HashMap<String, Past>,
}

impl Ledger {
    /// Takes a measurement in and gives what counts of each node by now. A node that has not been measured for three
    /// minutes is forgotten. A measurement that came before counts once.
    pub fn take<'a>(
        &mut self,
        nodes: impl IntoIterator<Item = &'a Node>,
        measured: impl Fn(&str) -> Option<Reading>,
        now: Timestamp,
    ) -> BTreeMap<String, NodeUsage> {
        self.nodes.values_mut().for_each(|past| past.seen = false);
        let mut usages = BTreeMap::new();
        for node in nodes {
            let name = pods::name(&node.metadata);
            let have = allocatable(node);
            let reading = measured(name).filter(|reading| now.duration_since(reading.at) < EXPIRY);
            if let Some(reading) = reading {
                let past = self.nodes.entry(name.to_owned()).or_insert_with(|| Past::new(have, reading.at));
                if past.have != have {
                    *past = Past::new(have, reading.at);
                }
                if reading.at > past.at || past.looks.is_empty() {
                    past.at = reading.at;
                    past.cpu.add(reading.used.milli_cpu, have.milli_cpu, reading.at);
                    past.memory.add(reading.used.memory, have.memory, reading.at);
                    if past.looks.len() == LOOKS {
                        past.looks.remove(0);
                    }
                    past.looks.push(reading.used);
                }
            }
            let Some(past) = self.nodes.get_mut(name) else { continue };
            past.seen = now.duration_since(past.at) < EXPIRY;
            if past.seen {
                let forecast = pods::annotation(&node.metadata, FORECAST).and_then(Amount::parse);
                usages.insert(name.to_owned(), past.usage(forecast));
            }
        }
        self.nodes.retain(|_, past| past.seen);
        usages
    }
}

/// What a node has to give.
pub fn allocatable(node: &Node) -> Amount {
    let status = node.status.as_ref();
    let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
    let of = |name: &str| list.and_then(|list| list.get(name));
    Amount {
        milli_cpu: of("cpu").and_then(|q| quantity::milli(&q.0)).unwrap_or(0),
        memory: of("memory").and_then(|q| quantity::value(&q.0)).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn node(name: &str, annotations: serde_json::Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "annotations": annotations},
            "status": {"allocatable": {"cpu": "10", "memory": "100Gi"}},
        }))
        .unwrap()
    }

    fn reading(milli_cpu: i64, seconds: i64) -> Reading {
        Reading {
            used: Amount::new(milli_cpu, 1 << 30),
            at: at(seconds),
            window: SignedDuration::from_secs(10),
        }
    }

    #[test]
    fn lists_are_read_and_what_is_not_measured_is_left_out() {
        let nodes = json!({"items": [
            {"metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:10Z", "window": "10s", "usage": {"cpu": "1500u", "memory": "2Ki"}},
            {"metadata": {"name": "b"}, "timestamp": "2026-01-01T00:00:10Z", "usage": {"cpu": "1"}},
        ]});
        let pods = json!({"items": [
            {"metadata": {"name": "p", "namespace": "n"}, "timestamp": "2026-01-01T00:00:10Z", "window": "10s",
             "containers": [{"name": "x", "usage": {"cpu": "100m", "memory": "1"}}, {"name": "y", "usage": {"cpu": "1", "memory": "2"}}]},
            {"metadata": {"name": "q", "namespace": "n"}, "timestamp": "2026-01-01T00:00:10Z", "containers": []},
        ]});
        let measured = Measured::parse(nodes.to_string().as_bytes(), pods.to_string().as_bytes()).unwrap();
        assert_eq!(measured.nodes.len(), 1);
        assert_eq!(measured.nodes["a"].used, Amount::new(2, 2048));
        let key = ("n".to_owned(), "p".to_owned());
        assert_eq!((measured.pods.len(), measured.pods[&key].used), (1, Amount::new(1100, 3)));
        assert!(Measured::parse(b"[", b"{}").unwrap_err().contains("node metrics"));

        let pod = |started: &str| {
            serde_json::from_value(
                json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"startTime": started}}),
            )
            .unwrap()
        };
        assert_eq!(measured.of_pod(&pod("2026-01-01T00:00:11Z")), None, "its namesake was measured");
        assert!(measured.of_pod(&pod("2026-01-01T00:00:00Z")).unwrap().young);
        assert!(!measured.of_pod(&pod("2025-12-31T23:59:00Z")).unwrap().young);
    }

    #[test]
    fn peaks_are_remembered_and_fade() {
        let mut ledger = Ledger::default();
        let nodes = [node("a", json!({}))];
        let mut look = |milli: i64, seconds: i64| {
            ledger.take(&nodes, |_| Some(reading(milli, seconds)), at(seconds)).remove("a").unwrap()
        };
        for second in 0..90 {
            look(1000, second * 15);
        }
        for second in 90..100 {
            look(9000, second * 15);
        }
        let usage = look(1000, 1500);
        assert_eq!(usage.last.milli_cpu, 1000);
        assert_eq!(usage.on(Basis::Peak(Percentile::P95)).milli_cpu, 9000);
        assert_eq!(usage.on(Basis::Peak(Percentile::P50)).milli_cpu, 1000);
        assert_eq!(usage.sustained.unwrap().milli_cpu, 1000);
        // Eight hours of calm later nothing is left of it.
        let mut usage = usage;
        for minute in 0..480 {
            usage = look(1000, 1560 + minute * 60);
        }
        assert_eq!(usage.on(Basis::Peak(Percentile::P99)).milli_cpu, 1000);
    }

    #[test]
    fn a_look_counts_once_and_is_forgotten_when_it_is_old() {
        let mut ledger = Ledger::default();
        let nodes = [node("a", json!({FORECAST: "cpu=4,memory=1Gi"})), node("b", json!({FORECAST: "much"}))];
        let of_a = |name: &str| (name == "a").then(|| reading(1000, 0));
        for _ in 0..5 {
            let usages = ledger.take(&nodes, of_a, at(1));
            assert_eq!(usages.keys().collect::<Vec<_>>(), ["a"]);
            assert_eq!(usages["a"].sustained, None, "the same measurement again is no further look");
            assert_eq!(usages["a"].on(Basis::Last), Amount::new(4000, 1 << 30));
        }
        assert_eq!(ledger.take(&nodes, |_| None, at(100)).len(), 1);
        assert!(ledger.take(&nodes, of_a, at(181)).is_empty());
        assert!(ledger.nodes.is_empty());
    }
}
