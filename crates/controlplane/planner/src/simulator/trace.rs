//! Traces in the openb format: a cluster with shared GPUs, filled until the demand that has come passes a load.
//!
//! The method is that of Weng et al., "Beware of Fragmentation", USENIX ATC 2023, section 6: pods are drawn from the
//! trace in random order, none ever leaves, and one that does not fit is gone.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde::Serialize;
use serde_json::json;

use super::sample::room;
use crate::packing::{Demand, Models, Workload, fragments};
use crate::random::Random;
use crate::scheduler::{Cluster, GPU, GPU_MILLI, GPU_MODEL, NodeView, PodInfo, Profile};

/// Loads at which is measured: percent of all devices that the pods that came have asked for.
const LOADS: [u32; 8] = [50, 80, 90, 95, 100, 110, 120, 130];
/// The number of models that no node has, and of those beyond the first.
const OTHER_MODEL: u8 = 63;
/// Pods that one node may run: the trace knows no such limit.
const MAX_PODS: u32 = 100_000;

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct TraceError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// A node of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceNode {
    /// Its name.
    pub name: String,
    /// Thousandths of a core.
    pub cpu: i64,
    /// MiB.
    pub memory: i64,
    /// Devices.
    pub gpus: u16,
    /// Their model.
    pub model: String,
}

/// A pod of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct TracePod {
    /// Its name.
    pub name: String,
    /// Thousandths of a core.
    pub cpu: i64,
    /// MiB.
    pub memory: i64,
    /// Devices.
    pub gpus: u16,
    /// Of each so many thousandths.
    pub milli: u16,
    /// Models that will do; empty for any.
    pub models: Vec<String>,
    /// When it came and when it went, in seconds, where the trace says so.
    pub life: Option<(f64, f64)>,
}

/// A trace.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The nodes.
    pub nodes: Vec<TraceNode>,
    /// The pods.
    pub pods: Vec<TracePod>,
}

/// What came of filling a cluster: percent of all devices, at each load (percent of all devices asked for).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct TraceOutcome {
    /// Devices given away.
    pub gpu_alloc_pct: BTreeMap<u32, f64>,
    /// Devices free but useless to a usual pod, of all devices.
    pub frag_pct: BTreeMap<u32, f64>,
    /// The same, of all free devices.
    pub frag_of_free_pct: BTreeMap<u32, f64>,
    /// Pods that did not fit until then.
    pub failed: BTreeMap<u32, usize>,
    /// Processor time is not measured here; this many decisions were taken.
    pub decisions: usize,
}

/// The table behind a header line.
struct Table<'a> {
    columns: HashMap<&'a str, usize>,
    rows: Vec<(usize, Vec<&'a str>)>,
}

impl<'a> Table<'a> {
    fn read(text: &'a str, needed: &[&str]) -> Result<Self, TraceError> {
        let mut lines =
            text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())).filter(|(_, l)| !l.is_empty());
        let header = lines.next().map_or("", |(_, line)| line);
        let columns: HashMap<&str, usize> =
            header.split(',').enumerate().map(|(at, name)| (name.trim(), at)).collect();
        for name in needed {
            if !columns.contains_key(name) {
                let what = format!(
                    "there is no column {name} (hint: the first line names the columns, with commas)"
                );
                return Err(TraceError { line: 1, what });
            }
        }
        let rows = lines.map(|(at, line)| (at, line.split(',').map(str::trim).collect())).collect();
        Ok(Self { columns, rows })
    }

    fn text(&self, row: &[&'a str], column: &str) -> &'a str {
        self.columns.get(column).and_then(|at| row.get(*at)).copied().unwrap_or_default()
    }

    /// A number, or `absent` where nothing stands.
    fn number<T: std::str::FromStr>(
        &self,
        (line, row): &(usize, Vec<&str>),
        column: &str,
        absent: T,
    ) -> Result<T, TraceError> {
        match self.text(row, column) {
            "" => Ok(absent),
            text => text.parse().map_err(|_| {
                let what = format!("{column} is {text:?}, which is not a number that fits there");
                TraceError { line: *line, what }
            }),
        }
    }
}

impl Trace {
    /// Reads a node list: `sn,cpu_milli,memory_mib,gpu,model`.
    pub fn read_nodes(text: &str) -> Result<Vec<TraceNode>, TraceError> {
        let table = Table::read(text, &["sn", "cpu_milli", "memory_mib", "gpu"])?;
        let read = |row: &(usize, Vec<&str>)| {
            Ok(TraceNode {
                name: table.text(&row.1, "sn").to_owned(),
                cpu: table.number(row, "cpu_milli", 0)?,
                memory: table.number(row, "memory_mib", 0)?,
                gpus: table.number(row, "gpu", 0)?,
                model: table.text(&row.1, "model").to_owned(),
            })
        };
        table.rows.iter().map(read).collect()
    }

    /// Reads a pod list: `name,cpu_milli,memory_mib,num_gpu,gpu_milli` and, where known,
    /// `gpu_spec,creation_time,deletion_time`.
    pub fn read_pods(text: &str) -> Result<Vec<TracePod>, TraceError> {
        let table = Table::read(text, &["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"])?;
        let read = |row: &(usize, Vec<&str>)| {
            let gpus: u16 = table.number(row, "num_gpu", 0)?;
            let milli: u16 = table.number(row, "gpu_milli", 1000)?;
            if gpus > 0 && (milli == 0 || milli > 1000) {
                let what = format!("gpu_milli is {milli}; it must be 1 to 1000");
                return Err(TraceError { line: row.0, what });
            }
            let models = table.text(&row.1, "gpu_spec").split('|').filter(|model| !model.is_empty());
            let life = match (table.text(&row.1, "creation_time"), table.text(&row.1, "deletion_time")) {
                ("", _) | (_, "") => None,
                _ => {
                    Some((table.number(row, "creation_time", 0.0)?, table.number(row, "deletion_time", 0.0)?))
                }
            };
            Ok(TracePod {
                name: table.text(&row.1, "name").to_owned(),
                cpu: table.number(row, "cpu_milli", 0)?,
                memory: table.number(row, "memory_mib", 0)?,
                gpus,
                // Several devices are whole ones.
                milli: if gpus > 1 { 1000 } else { milli },
                models: models.map(str::to_owned).collect(),
                life,
            })
        };
        table.rows.iter().map(read).collect()
    }

    /// Fills the cluster from a seed until 130 % of its devices were asked for.
    pub fn fill(&self, profile: &Profile, seed: u64) -> TraceOutcome {
        let mut cluster = Cluster::with_profiles(vec![profile.clone()]);
        for node in &self.nodes {
            cluster.upsert_node(&node.object());
        }
        let infos: Vec<PodInfo> = self.pods.iter().map(|pod| PodInfo::of(&pod.object())).collect();
        cluster.expect(infos.iter());
        let models = self.models();
        let usual = self.pods.iter().map(|pod| demand(pod, &models)).collect::<Workload>().usual();
        let capacity = 1000.0 * self.nodes.iter().map(|node| f64::from(node.gpus)).sum::<f64>();
        let mut random = Random::new(seed);
        let mut outcome = TraceOutcome::default();
        let (mut asked, mut given, mut failed, mut loads) = (0.0, 0.0, 0, LOADS.iter().peekable());
        while let Some(load) = loads.peek() {
            if asked >= capacity * f64::from(**load) / 100.0 {
                let percent = |part: f64, all: f64| if all > 0.0 { 100.0 * part / all } else { 0.0 };
                let useless = useless(&cluster, &models, &usual);
                outcome.gpu_alloc_pct.insert(**load, percent(given, capacity));
                outcome.frag_pct.insert(**load, percent(useless, capacity));
                outcome.frag_of_free_pct.insert(**load, percent(useless, capacity - given));
                outcome.failed.insert(**load, failed);
                loads.next();
                continue;
            }
            let drawn = random.below(infos.len());
            let Some(pod) = infos.get(drawn) else { break };
            let pod = pod.clone().again(outcome.decisions);
            outcome.decisions += 1;
            let total = f64::from(pod.gpu().total());
            asked += total;
            match cluster.schedule(&pod, random.bits()) {
                Ok(placement) => {
                    given += total;
                    cluster.assume_placed(pod, &placement);
                }
                Err(_) => failed += 1,
            }
            // Nothing would ever be asked for.
            if outcome.decisions > 1_000 * infos.len() {
                break;
            }
        }
        outcome
    }

    /// The models by name.
    fn models(&self) -> BTreeMap<&str, u8> {
        let names: std::collections::BTreeSet<&str> =
            self.nodes.iter().map(|node| node.model.as_str()).collect();
        names.into_iter().zip(0..OTHER_MODEL).collect()
    }
}

/// Thousandths of devices that are free but useless to a usual pod.
fn useless(cluster: &Cluster, models: &BTreeMap<&str, u8>, usual: &[(Demand, f64)]) -> f64 {
    let of = |node: NodeView<'_>| {
        let model = node.labels().get(GPU_MODEL).and_then(|model| models.get(model.as_str()));
        fragments(&room(&node, model.copied().unwrap_or(OTHER_MODEL)), usual)
    };
    cluster.nodes().map(of).sum()
}

fn demand(pod: &TracePod, models: &BTreeMap<&str, u8>) -> Demand {
    let bit = |model: &String| 1_u64 << models.get(model.as_str()).copied().unwrap_or(OTHER_MODEL);
    let models = Models(pod.models.iter().map(bit).fold(0, |all, bit| all | bit));
    let milli = if pod.gpus == 0 { 0 } else { pod.milli };
    Demand { cpu: pod.cpu, memory: pod.memory, count: pod.gpus, milli, models }
}

impl TraceNode {
    /// The node as an API object.
    pub fn object(&self) -> Node {
        let mut amounts = json!({
            "cpu": format!("{}m", self.cpu), "memory": format!("{}Mi", self.memory), "pods": MAX_PODS.to_string(),
        });
        let mut labels = json!({"kubernetes.io/hostname": self.name});
        if self.gpus > 0 {
            amounts[GPU] = self.gpus.to_string().into();
            labels[GPU_MODEL] = self.model.clone().into();
        }
        from_json(json!({
            "metadata": {"name": self.name, "labels": labels},
            "status": {"allocatable": amounts},
        }))
    }
}

impl TracePod {
    /// The pod as an API object.
    pub fn object(&self) -> Pod {
        let mut requests = json!({"cpu": format!("{}m", self.cpu), "memory": format!("{}Mi", self.memory)});
        match (self.gpus, self.milli) {
            (0, _) => {}
            (1, milli) if milli < 1000 => requests[GPU_MILLI] = milli.to_string().into(),
            (gpus, _) => requests[GPU] = gpus.to_string().into(),
        }
        let mut spec = json!({"containers": [{"name": "main", "resources": {"requests": requests}}]});
        if !self.models.is_empty() {
            let expression = json!({"key": GPU_MODEL, "operator": "In", "values": self.models});
            spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
                json!({"nodeSelectorTerms": [{"matchExpressions": [expression]}]});
        }
        from_json(json!({
            "metadata": {"name": self.name, "namespace": "default", "uid": self.name},
            "spec": spec,
        }))
    }
}

/// What is put together here is valid; were it not, an empty object would show at once.
fn from_json<T: serde::de::DeserializeOwned + Default>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap_or_default()
}
