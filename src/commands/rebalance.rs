//! `sampan rebalance`

use std::{collections::BTreeSet, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use sampan_planner::rebalance::{Aim, Bounds, Move, Plan, Snapshot};
use serde_json::json;

use crate::cli::{self, Rebalance};
use crate::{instance::Instance, local, scheduler_config, terminal};

/// How long a pod may take to leave its node before the next one is asked to.
const LEAVE_BOUND: Duration = Duration::from_secs(120);

/// Exit code 0 when every move was made, or none was needed; 1 when some were refused.
pub(crate) async fn run(data_dir: &Path, options: Rebalance) -> Result<ExitCode> {
    let client = local::client(&Instance::open(data_dir)?)?;
    let Some(every) = options.every else {
        let refused = once(&client, &options).await?;
        return Ok(if refused == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    };
    let mut timer = tokio::time::interval(Duration::from_secs(every));
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {
                // A server that is away for a moment is no reason to give up.
                if let Err(error) = once(&client, &options).await {
                    eprintln!("warning: {error:#}; trying again in {every} s");
                }
            }
            ended = tokio::signal::ctrl_c() => {
                ended?;
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}

/// Plans and, unless only asked to show, carries out; how many moves were refused.
async fn once(client: &Client, options: &Rebalance) -> Result<usize> {
    let plan = plan(client, options).await?;
    terminal::print(options.output.output, &plan, || text(&plan))?;
    if options.dry_run {
        return Ok(0);
    }
    for node in &plan.emptied {
        cordon(client, node).await?;
    }
    let mut refused = 0;
    for step in &plan.moves {
        if let Err(error) = carry_out(client, step).await {
            eprintln!("warning: {}/{} stays on {}: {error:#}", step.namespace, step.pod, step.from);
            refused += 1;
        }
    }
    Ok(refused)
}

async fn plan(client: &Client, options: &Rebalance) -> Result<Plan> {
    let all = ListParams::default();
    let namespaces = Api::<Namespace>::all(client.clone()).list(&all).await.context("list the namespaces")?;
    let nodes = Api::<Node>::all(client.clone()).list(&all).await.context("list the nodes")?;
    let pods = Api::<Pod>::all(client.clone()).list(&all).await.context("list the pods")?;
    let budgets =
        Api::<PodDisruptionBudget>::all(client.clone()).list(&all).await.context("list the budgets")?;
    let budgets: Vec<_> = budgets.iter().collect();
    let profiles = scheduler_config::read(options.scheduler_config.as_deref())?.profiles;
    let mut snapshot = Snapshot::new(profiles, &namespaces, &nodes, &pods, &budgets);
    let bounds = Bounds {
        moves: options.moves,
        cost: options.cost,
        least_gain: options.least_gain,
        tolerance: options.tolerance,
        now: jiff::Timestamp::now().as_second(),
    };
    let aim = match options.aim {
        cli::Aim::Even => Aim::Even,
        cli::Aim::Empty => Aim::Empty,
    };
    Ok(snapshot.plan(aim, bounds))
}

async fn cordon(client: &Client, node: &str) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    let patched = Api::<Node>::all(client.clone()).patch(node, &PatchParams::default(), &patch).await;
    patched.map(drop).with_context(|| format!("cordon node {node}"))
}

/// Evicts the pod, which keeps to its budgets, and waits until it has left.
async fn carry_out(client: &Client, step: &Move) -> Result<()> {
    let api = Api::<Pod>::namespaced(client.clone(), &step.namespace);
    let preconditions = Preconditions { uid: Some(step.uid.clone()), resource_version: None };
    let delete_options = Some(DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() });
    api.evict(&step.pod, &EvictParams { delete_options, ..EvictParams::default() }).await?;
    let gone = kube::runtime::wait::conditions::is_deleted(&step.uid);
    let left = kube::runtime::wait::await_condition(api, &step.pod, gone);
    match tokio::time::timeout(LEAVE_BOUND, left).await {
        Ok(left) => left.map(drop).context("wait until it has left"),
        Err(_) => bail!("it was asked to leave {} s ago and is still there", LEAVE_BOUND.as_secs()),
    }
}

fn text(plan: &Plan) -> String {
    if plan.moves.is_empty() {
        return format!(
            "Nothing to move; the fullest node is at {:.0} %.\n{}",
            plan.fullest_pct.0,
            kept(plan)
        );
    }
    let rows: Vec<Vec<String>> = plan.moves.iter().map(row).collect();
    let mut text = terminal::table(&["NAMESPACE", "POD", "FROM", "TO", "GAIN", "COST", "WHY"], &rows);
    let cost: f64 = plan.moves.iter().map(|step| step.cost).sum();
    let froms: BTreeSet<&str> = plan.moves.iter().map(|step| step.from.as_str()).collect();
    text += &format!("{} moves off {} nodes, cost {cost:.1}. ", plan.moves.len(), froms.len());
    text += &format!("Fullest node: {:.0} % now, {:.0} % then.\n", plan.fullest_pct.0, plan.fullest_pct.1);
    if !plan.emptied.is_empty() {
        text += &format!("Emptied: {}\n", plan.emptied.join(", "));
    }
    text + &kept(plan)
}

fn row(step: &Move) -> Vec<String> {
    let (gain, cost) = (format!("{:.1}", step.gain), format!("{:.1}", step.cost));
    vec![
        step.namespace.clone(),
        step.pod.clone(),
        step.from.clone(),
        step.to.clone(),
        gain,
        cost,
        step.why.clone(),
    ]
}

fn kept(plan: &Plan) -> String {
    plan.kept.iter().map(|(why, count)| format!("Kept {count}: {why}\n")).collect()
}
