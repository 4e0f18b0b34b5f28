//! `sampan rebalance`

use std::{collections::BTreeSet, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Event, EventSource, Namespace, Node, ObjectReference, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource};
use sampan_planner::pods;
use sampan_planner::rebalance::{Aim, Bounds, Move, Plan, Snapshot};
use sampan_planner::reservation::Reservation;
use serde_json::json;

use crate::cli::{self, Continuous, Rebalance};
use crate::{instance::Instance, local, metrics, scheduler_config, terminal};

/// How long a pod may take to leave its node before the next one is asked to.
const LEAVE_BOUND: Duration = Duration::from_secs(120);

/// What moves pods all the time, when that is switched on.
pub(super) fn continuous(options: &Continuous) -> Option<sampan_controllers::Rebalance> {
    let aims: Vec<Aim> = options.rebalance.iter().map(|aim| aim_of(*aim)).collect();
    if aims.is_empty() {
        return None;
    }
    let mut settings = sampan_controllers::Rebalance::new(aims);
    settings.every = Duration::from_secs(options.rebalance_every);
    settings.per_minute = options.rebalance_moves;
    settings.cool_down = Duration::from_secs(options.rebalance_cool_down);
    settings.bounds.hot = (options.hot.hot_cpu, options.hot.hot_memory);
    Some(settings)
}

fn aim_of(aim: cli::Aim) -> Aim {
    match aim {
        cli::Aim::Even => Aim::Even,
        cli::Aim::Empty => Aim::Empty,
        cli::Aim::Cool => Aim::Cool,
    }
}

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
    if options.dry_run || options.consolidate {
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
    let by_use = profiles.iter().any(|profile| profile.reads_usage());
    let mut snapshot = Snapshot::new(profiles, &namespaces, &nodes, &pods, &budgets);
    let groups = Api::<PodGroup>::all(client.clone()).list(&all).await;
    match groups {
        Ok(groups) => groups.iter().for_each(|group| snapshot.group(group)),
        // Other servers may not have them.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => return Err(error).context("list the pod groups"),
    }
    // Beside an API server that does not know our kinds there are none.
    let reservations = Api::<Reservation>::all(client.clone()).list(&all).await.map(|list| list.items);
    reservations.iter().flatten().for_each(|reservation| snapshot.reserve(reservation));
    let (moves, cost) = match options.consolidate {
        true => (usize::MAX, f64::INFINITY),
        false => (options.moves, options.cost),
    };
    let bounds = Bounds {
        moves,
        cost,
        hot: (options.hot.hot_cpu, options.hot.hot_memory),
        least_gain: options.least_gain,
        tolerance: options.tolerance,
        now: jiff::Timestamp::now().as_second(),
        ..Bounds::default()
    };
    let aim = if options.consolidate { Aim::Empty } else { aim_of(options.aim) };
    if aim == Aim::Cool || by_use {
        let (of_nodes, of_pods) = metrics::read(client, &pods.items).await?;
        snapshot.observe(&of_nodes, of_pods);
    }
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
    let pod = api.get(&step.pod).await?;
    let preconditions = Preconditions { uid: Some(step.uid.clone()), resource_version: None };
    let delete_options = Some(DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() });
    api.evict(&step.pod, &EvictParams { delete_options, ..EvictParams::default() }).await?;
    // It moves all the same.
    if let Err(error) = tell(client, step, &pod).await {
        eprintln!("warning: {}/{}: {error:#}", step.namespace, step.pod);
    }
    let gone = kube::runtime::wait::conditions::is_deleted(&step.uid);
    let left = kube::runtime::wait::await_condition(api, &step.pod, gone);
    match tokio::time::timeout(LEAVE_BOUND, left).await {
        Ok(left) => left.map(drop).context("wait until it has left"),
        Err(_) => bail!("it was asked to leave {} s ago and is still there", LEAVE_BOUND.as_secs()),
    }
}

/// Says why, in Events about the pod and about what makes it anew.
async fn tell(client: &Client, step: &Move, pod: &Pod) -> Result<()> {
    let api = Api::<Event>::namespaced(client.clone(), &step.namespace);
    let now = Some(Time(jiff::Timestamp::now()));
    let own = pod.object_ref(&());
    let owner = pods::controller(&pod.metadata).map(|owner| ObjectReference {
        api_version: Some(owner.api_version.clone()),
        kind: Some(owner.kind.clone()),
        name: Some(owner.name.clone()),
        namespace: Some(step.namespace.clone()),
        uid: Some(owner.uid.clone()),
        ..ObjectReference::default()
    });
    let told = [(Some(own), step.words()), (owner, format!("Pod {}: {}", step.pod, step.words()))];
    for (about, message) in told.into_iter().filter_map(|(about, message)| Some((about?, message))) {
        let event = Event {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}.", about.name.as_deref().unwrap_or_default())),
                namespace: Some(step.namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: about,
            reason: Some("Rebalanced".to_owned()),
            message: Some(message),
            type_: Some("Normal".to_owned()),
            count: Some(1),
            first_timestamp: now.clone(),
            last_timestamp: now.clone(),
            source: Some(EventSource { component: Some("sampan-rebalance".to_owned()), host: None }),
            ..Event::default()
        };
        api.create(&PostParams::default(), &event).await.context("record why it is moved")?;
    }
    Ok(())
}

fn text(plan: &Plan) -> String {
    let mut text = if plan.moves.is_empty() {
        format!("Nothing to move; the fullest node is at {:.0} %.\n", plan.fullest_pct.0)
    } else {
        let rows: Vec<Vec<String>> = plan.moves.iter().map(row).collect();
        let mut text = terminal::table(&["NAMESPACE", "POD", "FROM", "TO", "GAIN", "COST", "WHY"], &rows);
        let cost: f64 = plan.moves.iter().map(|step| step.cost).sum();
        let froms: BTreeSet<&str> = plan.moves.iter().map(|step| step.from.as_str()).collect();
        text += &format!("{} moves off {} nodes, cost {cost:.1}. ", plan.moves.len(), froms.len());
        text +=
            &format!("Fullest node: {:.0} % now, {:.0} % then.\n", plan.fullest_pct.0, plan.fullest_pct.1);
        text
    };
    if !plan.emptied.is_empty() {
        text += &format!("Emptied: {}\n", plan.emptied.join(", "));
    }
    for stays in &plan.stays {
        text += &format!("In use stays {}, with {} pods: {}\n", stays.node, stays.pods, stays.why);
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
