//! `sampan simulate`: the scheduler's own code under a virtual clock.

use std::{fs, path::Path, process::ExitCode, thread};

use anyhow::{Context, Result, bail};
use sampan_planner::scheduler::{Patience, Profile};
use sampan_planner::simulator::{self, Arrival, Change, Outcome, Scenario, Trace, TraceOutcome};
use serde::Serialize;

use crate::cli::{Format, Plot, Simulate, SimulateOpenb, SimulateRun};
use crate::plot::{self, Chart};
use crate::{instance::Instance, scheduler_config, terminal};

mod live;
mod manifests;

/// More lines than this nobody can tell apart.
const DRAWN: usize = 12;

/// Runs it.
pub(crate) async fn run(data_dir: &Path, command: Simulate) -> Result<ExitCode> {
    match command {
        Simulate::Openb(options) if options.by_time => by_time(&options)?,
        Simulate::Openb(options) => openb(&options)?,
        Simulate::Run(options) => scenario(data_dir, &options).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A profile by the name it ships with.
fn profile(name: &str) -> Result<Profile> {
    Profile::shipped(name)
        .with_context(|| format!("there is no profile {name} (hint: one of {})", Profile::SHIPPED.join(", ")))
}

/// By what is decided, and when pods are tried again.
type Rules = (Vec<Profile>, Patience);

fn rules(names: &[String], config: Option<&Path>) -> Result<Vec<(String, Rules)>> {
    let mut profiles = Vec::new();
    if let Some(path) = config {
        let config = scheduler_config::read(Some(path))?;
        profiles.push((path.display().to_string(), (config.profiles, config.patience)));
    }
    for name in names {
        profiles.push((name.clone(), (vec![profile(name)?], Patience::default())));
    }
    if profiles.is_empty() {
        profiles.push(("default".to_owned(), (vec![profile("default")?], Patience::default())));
    }
    Ok(profiles)
}

fn read(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).context("standard input");
    }
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn trace(options: &SimulateOpenb) -> Result<Trace> {
    let located = |path: &Path, error| anyhow::anyhow!("{}, {error}", path.display());
    let nodes = Trace::read_nodes(&read(&options.nodes)?).map_err(|e| located(&options.nodes, e))?;
    let pods = Trace::read_pods(&read(&options.pods)?).map_err(|e| located(&options.pods, e))?;
    if nodes.is_empty() || pods.is_empty() {
        bail!("a trace needs at least one node and one pod");
    }
    Ok(Trace { nodes, pods })
}

/// Mean and standard deviation over the seeds, as the traces' authors publish them.
#[derive(Clone, Copy, Debug, Serialize)]
struct Spread {
    mean: f64,
    sd: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Self {
        let count = values.len().max(1) as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let fold = |f: fn(f64, f64) -> f64, start| values.iter().copied().fold(start, f);
        Self {
            mean: rounded(mean),
            sd: rounded((squares / count).sqrt()),
            min: rounded(fold(f64::min, f64::INFINITY)),
            max: rounded(fold(f64::max, f64::NEG_INFINITY)),
        }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// What one profile did to a trace. Percent of all devices, when the demand that came equals 100 % of them.
#[derive(Serialize)]
struct Filled {
    profile: String,
    seeds: u64,
    nodes: usize,
    pods: usize,
    gpu_alloc_pct: Spread,
    gpu_alloc_pct_at: Vec<At>,
    frag_pct_at: Vec<At>,
    frag_of_free_pct_at: Vec<At>,
    failed_pods_at: Vec<At>,
}

#[derive(Serialize)]
struct At {
    arrived_pct: u32,
    #[serde(flatten)]
    value: Spread,
}

fn openb(options: &SimulateOpenb) -> Result<()> {
    let trace = trace(options)?;
    let mut all = Vec::new();
    for name in options.profile.iter() {
        let outcomes = fill(&trace, &profile(name)?, options.first_seed, options.seeds);
        all.push(filled(name, &trace, &outcomes));
    }
    let charts = || {
        vec![
            chart("Devices given away, % of all", &all, |f| &f.gpu_alloc_pct_at),
            chart("Devices free but useless to a usual pod, % of all", &all, |f| &f.frag_pct_at),
            chart("Pods that did not fit", &all, |f| &f.failed_pods_at),
        ]
    };
    draw(&options.plot, charts)?;
    match all.as_slice() {
        [one] => terminal::print(options.output.output, one, || table(&all)),
        _ => terminal::print(options.output.output, &all, || table(&all)),
    }
}

/// The seeds, on as many threads as there are processors.
fn fill(trace: &Trace, profile: &Profile, first: u64, seeds: u64) -> Vec<TraceOutcome> {
    let seeds: Vec<u64> = (first..first.saturating_add(seeds)).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let part = seeds.len().div_ceil(threads).max(1);
    thread::scope(|scope| {
        let start = |seeds: &[u64]| {
            let seeds = seeds.to_vec();
            scope.spawn(move || seeds.into_iter().map(|s| trace.fill(profile, s)).collect::<Vec<_>>())
        };
        let running: Vec<_> = seeds.chunks(part).map(start).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    })
}

fn filled(name: &str, trace: &Trace, outcomes: &[TraceOutcome]) -> Filled {
    let at = |value: &dyn Fn(&TraceOutcome, u32) -> Option<f64>| -> Vec<At> {
        let loads = outcomes.iter().flat_map(|o| o.gpu_alloc_pct.keys().copied());
        let loads: std::collections::BTreeSet<u32> = loads.collect();
        let spread = |load| Spread::of(&outcomes.iter().filter_map(|o| value(o, load)).collect::<Vec<_>>());
        loads.into_iter().map(|load| At { arrived_pct: load, value: spread(load) }).collect()
    };
    let full: Vec<f64> = outcomes.iter().filter_map(|o| o.gpu_alloc_pct.get(&100).copied()).collect();
    Filled {
        profile: name.to_owned(),
        seeds: outcomes.len() as u64,
        nodes: trace.nodes.len(),
        pods: trace.pods.len(),
        gpu_alloc_pct: Spread::of(&full),
        gpu_alloc_pct_at: at(&|o, load| o.gpu_alloc_pct.get(&load).copied()),
        frag_pct_at: at(&|o, load| o.frag_pct.get(&load).copied()),
        frag_of_free_pct_at: at(&|o, load| o.frag_of_free_pct.get(&load).copied()),
        failed_pods_at: at(&|o, load| o.failed.get(&load).map(|failed| *failed as f64)),
    }
}

fn chart(title: &str, all: &[Filled], values: fn(&Filled) -> &Vec<At>) -> Chart {
    let points = |filled: &Filled| {
        values(filled).iter().map(|at| (f64::from(at.arrived_pct), at.value.mean)).collect()
    };
    Chart {
        title: title.to_owned(),
        x: "demand that has come, % of all devices".to_owned(),
        lines: all.iter().map(|filled| (filled.profile.clone(), points(filled))).collect(),
    }
}

fn draw(plot: &Plot, charts: impl Fn() -> Vec<Chart>) -> Result<()> {
    for path in &plot.plot {
        let bytes = match path.extension() {
            Some(extension) if extension == "png" => plot::png(&charts())?,
            _ => plot::svg(&charts()).into_bytes(),
        };
        fs::write(path, bytes).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn table(all: &[Filled]) -> String {
    let header =
        ["PROFILE", "ARRIVED %", "GPU ALLOCATED %", "SD", "FRAGMENTED %", "OF FREE %", "FAILED PODS"];
    let mut rows = Vec::new();
    for filled in all {
        let columns =
            filled.gpu_alloc_pct_at.iter().zip(&filled.frag_pct_at).zip(&filled.frag_of_free_pct_at);
        for (((alloc, frag), free), failed) in columns.zip(&filled.failed_pods_at) {
            rows.push(vec![
                filled.profile.clone(),
                alloc.arrived_pct.to_string(),
                format!("{:.2}", alloc.value.mean),
                format!("{:.2}", alloc.value.sd),
                format!("{:.2}", frag.value.mean),
                format!("{:.2}", free.value.mean),
                format!("{:.1}", failed.value.mean),
            ]);
        }
    }
    terminal::table(&header, &rows)
}

/// The trace as it happened: pods come and go when they did.
fn by_time(options: &SimulateOpenb) -> Result<()> {
    let trace = trace(options)?;
    let arrivals = trace.pods.iter().filter_map(|pod| {
        let (from, to) = pod.life?;
        Some(Arrival { at: from, pod: pod.object(), lasts: (to > from).then_some(to - from) })
    });
    let scenario = Scenario {
        nodes: trace.nodes.iter().map(sampan_planner::simulator::TraceNode::object).collect(),
        arrivals: arrivals.collect(),
        ..Scenario::default()
    };
    if scenario.arrivals.is_empty() {
        bail!("{} has no creation_time and deletion_time", options.pods.display());
    }
    let mut played = Vec::new();
    for name in &options.profile {
        let play = play(
            &scenario,
            (vec![profile(name)?], Patience::default()),
            options.first_seed,
            options.every,
            None,
        );
        played.push(Played::of(name, play, options.samples));
    }
    show(&played, options.output.output, &options.plot)
}

fn play(scenario: &Scenario, rules: Rules, seed: u64, every: f64, until: Option<f64>) -> Outcome {
    let (profiles, patience) = rules;
    simulator::run(scenario, &simulator::Options { profiles, patience, seed, every, until })
}

/// What became of a scenario.
#[derive(Serialize)]
struct Played {
    name: String,
    arrived: usize,
    placed: usize,
    displaced: usize,
    reclaimed: usize,
    seats_placed: usize,
    seats_used: usize,
    waiting: usize,
    waiting_reasons: std::collections::BTreeMap<String, usize>,
    wait_seconds: WaitSeconds,
    mean: Means,
    end_seconds: f64,
    tenants: std::collections::BTreeMap<String, Tenant>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    samples: Vec<simulator::Sample>,
    #[serde(skip)]
    drawn: Vec<simulator::Sample>,
}

#[derive(Serialize)]
struct WaitSeconds {
    mean: f64,
    p50: f64,
    p99: f64,
    max: f64,
}

/// What a tenant had: a queue, or a namespace where there are no queues. Shares are percent of all there is.
#[derive(Serialize)]
struct Tenant {
    mean_share_pct: f64,
    mean_fair_share_pct: f64,
    placed: usize,
    displaced: usize,
    wait_seconds_mean: f64,
    wait_seconds_p99: f64,
    longest_starving_seconds: f64,
}

impl Tenant {
    fn of(tenant: &simulator::TenantOutcome) -> Self {
        Self {
            mean_share_pct: rounded(100.0 * tenant.mean_share),
            mean_fair_share_pct: rounded(100.0 * tenant.mean_fair_share),
            placed: tenant.placed,
            displaced: tenant.displaced,
            wait_seconds_mean: rounded(tenant.waits.mean()),
            wait_seconds_p99: rounded(tenant.waits.quantile(0.99)),
            longest_starving_seconds: rounded(tenant.longest_starving),
        }
    }
}

/// Means over the time that passed.
#[derive(Serialize)]
struct Means {
    cpu_pct: f64,
    memory_pct: f64,
    gpu_pct: f64,
    gpu_frag_pct: f64,
    empty_nodes: f64,
    fairness: f64,
}

impl Played {
    fn of(name: &str, outcome: Outcome, samples: bool) -> Self {
        let mean = |value: fn(&simulator::Sample) -> f64| {
            let spans = outcome.samples.windows(2).map(|two| (two[1].time - two[0].time, value(&two[0])));
            let (time, sum) = spans.fold((0.0, 0.0), |(t, s), (span, value)| (t + span, s + span * value));
            rounded(if time > 0.0 { sum / time } else { outcome.samples.last().map_or(0.0, value) })
        };
        let quantile = |part| rounded(outcome.waits.quantile(part));
        Self {
            name: name.to_owned(),
            arrived: outcome.arrived,
            placed: outcome.placed,
            displaced: outcome.displaced,
            reclaimed: outcome.reclaimed,
            seats_placed: outcome.seats_placed,
            seats_used: outcome.seats_used,
            tenants: outcome
                .tenants
                .iter()
                .map(|(name, tenant)| (name.clone(), Tenant::of(tenant)))
                .collect(),
            waiting: outcome.waiting.values().sum(),
            wait_seconds: WaitSeconds {
                mean: rounded(outcome.waits.mean()),
                p50: quantile(0.5),
                p99: quantile(0.99),
                max: quantile(1.0),
            },
            mean: Means {
                cpu_pct: mean(|s| s.cpu_pct),
                memory_pct: mean(|s| s.memory_pct),
                gpu_pct: mean(|s| s.gpu_pct),
                gpu_frag_pct: mean(|s| s.gpu_frag_pct),
                empty_nodes: mean(|s| s.empty_nodes as f64),
                fairness: mean(|s| s.fairness),
            },
            end_seconds: rounded(outcome.end),
            waiting_reasons: outcome.waiting,
            samples: if samples { outcome.samples.clone() } else { Vec::new() },
            drawn: outcome.samples,
        }
    }
}

fn show(played: &[Played], format: Format, plot: &Plot) -> Result<()> {
    let line = |p: &Played, value: fn(&simulator::Sample) -> f64| {
        p.drawn.iter().map(|s| (s.time, value(s))).collect()
    };
    let chart = |title: &str, value: fn(&simulator::Sample) -> f64| Chart {
        title: title.to_owned(),
        x: "seconds".to_owned(),
        lines: played.iter().map(|p| (p.name.clone(), line(p, value))).collect(),
    };
    draw(plot, || {
        let mut charts = vec![
            chart("CPU promised, %", |s| s.cpu_pct),
            chart("Memory promised, %", |s| s.memory_pct),
            chart("Pods that wait", |s| s.waiting as f64),
            chart("Fairness between tenants (Jain)", |s| s.fairness),
        ];
        charts.extend(played.iter().filter_map(shares));
        if played.iter().flat_map(|p| &p.drawn).any(|s| s.gpu_pct + s.gpu_frag_pct > 0.0) {
            charts.push(chart("Devices promised, %", |s| s.gpu_pct));
            charts.push(chart("Devices free but useless, %", |s| s.gpu_frag_pct));
        }
        charts
    })?;
    terminal::print(format, &played, || text(played))
}

/// What each tenant had over time; nothing where there are none or too many to see anything.
fn shares(played: &Played) -> Option<Chart> {
    let names: std::collections::BTreeSet<&String> =
        played.drawn.iter().flat_map(|s| s.tenants.keys()).collect();
    if !(2..=DRAWN).contains(&names.len()) {
        return None;
    }
    let line = |name: &String| {
        let points =
            played.drawn.iter().map(|s| (s.time, s.tenants.get(name).map_or(0.0, |t| 100.0 * t.share)));
        (name.clone(), points.collect())
    };
    Some(Chart {
        title: format!("Dominant share of each tenant, % ({})", played.name),
        x: "seconds".to_owned(),
        lines: names.into_iter().map(line).collect(),
    })
}

fn tenants(played: &[Played]) -> String {
    let header = [
        "",
        "TENANT",
        "SHARE %",
        "FAIR SHARE %",
        "PLACED",
        "DISPLACED",
        "WAIT MEAN",
        "WAIT P99",
        "LONGEST STARVING",
    ];
    let mut rows = Vec::new();
    for p in played {
        for (name, tenant) in p.tenants.iter().filter(|_| p.tenants.len() > 1) {
            rows.push(vec![
                p.name.clone(),
                if name.is_empty() { "(no queue)".to_owned() } else { name.clone() },
                format!("{:.1}", tenant.mean_share_pct),
                format!("{:.1}", tenant.mean_fair_share_pct),
                tenant.placed.to_string(),
                tenant.displaced.to_string(),
                format!("{:.1}s", tenant.wait_seconds_mean),
                format!("{:.1}s", tenant.wait_seconds_p99),
                format!("{:.1}s", tenant.longest_starving_seconds),
            ]);
        }
    }
    if rows.is_empty() { String::new() } else { format!("\n{}", terminal::table(&header, &rows)) }
}

fn text(played: &[Played]) -> String {
    let header = [
        "",
        "ARRIVED",
        "PLACED",
        "DISPLACED",
        "WAITING",
        "WAIT MEAN",
        "WAIT P99",
        "CPU %",
        "MEMORY %",
        "GPU %",
        "FAIRNESS",
        "EMPTY NODES",
    ];
    let mut rows = Vec::new();
    for p in played {
        rows.push(vec![
            p.name.clone(),
            p.arrived.to_string(),
            p.placed.to_string(),
            p.displaced.to_string(),
            p.waiting.to_string(),
            format!("{:.1}s", p.wait_seconds.mean),
            format!("{:.1}s", p.wait_seconds.p99),
            format!("{:.1}", p.mean.cpu_pct),
            format!("{:.1}", p.mean.memory_pct),
            format!("{:.1}", p.mean.gpu_pct),
            format!("{:.3}", p.mean.fairness),
            format!("{:.1}", p.mean.empty_nodes),
        ]);
    }
    let mut text = terminal::table(&header, &rows);
    text.push_str(&tenants(played));
    for p in played {
        for (reason, count) in &p.waiting_reasons {
            text.push_str(&format!("{}: {count} wait: {reason}\n", p.name));
        }
    }
    text
}

async fn scenario(data_dir: &Path, options: &SimulateRun) -> Result<()> {
    let mut scenario = Scenario::default();
    if options.from_cluster {
        live::add(&Instance::open(data_dir)?, &mut scenario).await?;
    }
    for path in &options.file {
        manifests::add(&read(path)?, &mut scenario).with_context(|| path.display().to_string())?;
    }
    if scenario.nodes.is_empty() {
        bail!("there are no nodes (hint: -f a file with Node objects, or --from-cluster)");
    }
    scenario.settle().map_err(anyhow::Error::msg)?;
    let changed = what_if(&scenario, options)?;
    let mut played = Vec::new();
    for (name, (profiles, patience)) in rules(&options.profile, options.scheduler_config.as_deref())? {
        let mut one = |label: String, scenario: &Scenario, profiles: Vec<Profile>| {
            let outcome = play(scenario, (profiles, patience), options.seed, options.every, options.until);
            played.push(Played::of(&label, outcome, options.samples));
        };
        one(name.clone(), &scenario, profiles.clone());
        if let Some(changed) = &changed {
            one(format!("{name}, what if"), changed, weighted(profiles, &options.weight)?);
        }
    }
    show(&played, options.output.output, &options.plot)
}

fn weighted(mut profiles: Vec<Profile>, weights: &[(String, String)]) -> Result<Vec<Profile>> {
    for (plugin, weight) in weights {
        let weight = weight.parse().with_context(|| format!("the weight of {plugin} is {weight:?}"))?;
        for profile in &mut profiles {
            if !profile.set_weight(plugin, weight) {
                bail!("there is no score {plugin} (hint: a plugin's name, such as NodeResourcesFit)");
            }
        }
    }
    Ok(profiles)
}

/// The scenario with what is asked about; nothing when nothing is.
fn what_if(scenario: &Scenario, options: &SimulateRun) -> Result<Option<Scenario>> {
    if options.lose.is_empty() && options.add_nodes.is_empty() && options.weight.is_empty() {
        return Ok(None);
    }
    let mut changed = scenario.clone();
    for lost in &options.lose {
        let change = match lost.split_once('=') {
            Some((key, value)) => {
                let has = |labels: &std::collections::BTreeMap<String, String>| {
                    labels.get(key).is_some_and(|v| v == value)
                };
                if !scenario.nodes.iter().any(|node| node.metadata.labels.as_ref().is_some_and(has)) {
                    bail!("no node is labelled {lost}");
                }
                Change::LoseLabelled(key.to_owned(), value.to_owned())
            }
            None if scenario.nodes.iter().any(|n| n.metadata.name.as_deref() == Some(lost)) => {
                Change::Lose(lost.clone())
            }
            None => bail!("there is no node {lost} (hint: a node's name, or LABEL=VALUE)"),
        };
        changed.changes.push((options.at, change));
    }
    for (count, like) in &options.add_nodes {
        let model = scenario.nodes.iter().find(|n| n.metadata.name.as_deref() == Some(like));
        let model = model.with_context(|| format!("there is no node {like} to copy"))?;
        for at in 1..=*count {
            let mut node = model.clone();
            let name = format!("{like}-copy-{at}");
            if let Some(host) =
                node.metadata.labels.as_mut().and_then(|l| l.get_mut("kubernetes.io/hostname"))
            {
                host.clone_from(&name);
            }
            node.metadata.name = Some(name);
            changed.changes.push((options.at, Change::Join(Box::new(node))));
        }
    }
    Ok(Some(changed))
}
