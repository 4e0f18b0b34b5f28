//! `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1): profiles, extenders, back-off.
//!
//! Everything that is wrong is reported at once, each with the place in the file. What has no meaning here because all
//! nodes are always scored in no time (`parallelism`, `percentageOfNodesToScore`) is checked and otherwise ignored.

use k8s_openapi::api::core::v1::{NodeAffinity as ApiAffinity, PodSpec, TopologySpreadConstraint};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::affinity::NodeAffinity;
use super::load::LoadAware;
use super::numa::ZoneScoring;
use super::pack::Packing;
use super::profile::{FilterSet, Profile, Strategy, Weighted, Weights};
use super::queue::Patience;
use super::spread::Constraint;
use crate::packing::Measure;
use crate::selector::Labels;

/// What the file says.
#[derive(Debug, Clone)]
pub struct Config {
    /// The profiles, at least one.
    pub profiles: Vec<Profile>,
    /// Webhooks to ask.
    pub extenders: Vec<Extender>,
    /// When pods are tried again.
    pub patience: Patience,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::new("default-scheduler")],
            extenders: Vec::new(),
            patience: Patience::default(),
        }
    }
}

/// A webhook that has a say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Extender {
    /// Where it is.
    pub url_prefix: String,
    /// The verb that filters nodes.
    #[serde(default)]
    pub filter_verb: String,
    /// The verb that has a say in preemption.
    #[serde(default)]
    pub preempt_verb: String,
    /// The verb that scores nodes.
    #[serde(default)]
    pub prioritize_verb: String,
    /// The verb that binds.
    #[serde(default)]
    pub bind_verb: String,
    /// What its scores weigh.
    #[serde(default)]
    pub weight: i64,
    /// Whether to speak TLS.
    #[serde(default, rename = "enableHTTPS")]
    pub enable_https: bool,
    /// How.
    #[serde(default)]
    pub tls_config: Option<ExtenderTls>,
    /// How long to wait, as `5s`.
    #[serde(default, rename = "httpTimeout")]
    pub http_timeout: Option<String>,
    /// Whether it wants names of nodes in place of nodes.
    #[serde(default)]
    pub node_cache_capable: bool,
    /// It is asked only about pods that request one of these.
    #[serde(default)]
    pub managed_resources: Vec<ManagedResource>,
    /// Whether pods are placed without it when it fails.
    #[serde(default)]
    pub ignorable: bool,
}

/// How to speak TLS with an extender.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtenderTls {
    /// Whether any certificate will do.
    #[serde(default)]
    pub insecure: bool,
    /// The name to expect.
    #[serde(default)]
    pub server_name: String,
    /// A client certificate.
    #[serde(default)]
    pub cert_file: String,
    /// Its key.
    #[serde(default)]
    pub key_file: String,
    /// Who signs servers.
    #[serde(default)]
    pub ca_file: String,
    /// The same, base64 of PEM.
    #[serde(default)]
    pub ca_data: String,
    /// The same, base64 of PEM.
    #[serde(default)]
    pub cert_data: String,
    /// The same, base64 of PEM.
    #[serde(default)]
    pub key_data: String,
}

/// A resource that an extender looks after.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ManagedResource {
    /// Its name.
    pub name: String,
    /// Whether it alone checks it.
    #[serde(default)]
    pub ignored_by_scheduler: bool,
}

impl Extender {
    /// Whether it is asked about pods that request these.
    pub fn is_interested(&self, requests: &super::Resources) -> bool {
        self.managed_resources.is_empty() || self.managed_resources.iter().any(|r| requests.get(&r.name) > 0)
    }

    /// Whether TLS is spoken with it.
    pub fn is_secure(&self) -> bool {
        self.enable_https || self.url_prefix.starts_with("https://")
    }

    /// How long to wait for it, in milliseconds.
    pub fn timeout_millis(&self) -> u64 {
        self.http_timeout.as_deref().and_then(duration_millis).unwrap_or(5_000)
    }
}

/// A Go duration: `1m30s`, `500ms`.
fn duration_millis(text: &str) -> Option<u64> {
    let (mut total, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ms" => 1.0,
                "s" => 1e3,
                "m" => 6e4,
                "h" => 3.6e6,
                "us" | "µs" => 1e-3,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (total > 0.0).then_some(total as u64)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    parallelism: Option<i64>,
    #[serde(default, rename = "leaderElection")]
    _leader_election: Option<Value>,
    #[serde(default, rename = "clientConnection")]
    _client_connection: Option<Value>,
    #[serde(default, rename = "enableProfiling")]
    _enable_profiling: Option<bool>,
    #[serde(default, rename = "enableContentionProfiling")]
    _enable_contention_profiling: Option<bool>,
    #[serde(default, rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Option<bool>,
    #[serde(default)]
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    pod_initial_backoff_seconds: Option<i64>,
    #[serde(default)]
    pod_max_backoff_seconds: Option<i64>,
    #[serde(default)]
    profiles: Vec<Value>,
    #[serde(default)]
    extenders: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileFile {
    #[serde(default)]
    scheduler_name: Option<String>,
    #[serde(default)]
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    plugins: Map<String, Value>,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginSet {
    #[serde(default)]
    enabled: Vec<Plugin>,
    #[serde(default)]
    disabled: Vec<Plugin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    name: String,
    #[serde(default)]
    weight: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

const POINTS: [&str; 13] = [
    "multiPoint",
    "preEnqueue",
    "queueSort",
    "preFilter",
    "filter",
    "postFilter",
    "preScore",
    "score",
    "reserve",
    "permit",
    "preBind",
    "bind",
    "postBind",
];

const PLUGINS: [&str; 24] = [
    "SchedulingGates",
    "PrioritySort",
    "NodeUnschedulable",
    "NodeName",
    "TaintToleration",
    "NodeAffinity",
    "NodePorts",
    "NodeResourcesFit",
    "VolumeRestrictions",
    "NodeVolumeLimits",
    "VolumeBinding",
    "VolumeZone",
    "PodTopologySpread",
    "InterPodAffinity",
    "DefaultPreemption",
    "NodeResourcesBalancedAllocation",
    "ImageLocality",
    "DefaultBinder",
    "DynamicResources",
    "GangScheduling",
    "NodeDeclaredFeatures",
    "Fragmentation",
    "LoadAware",
    "NodeResourceTopologyMatch",
];

/// Collects everything that is wrong.
pub(super) struct Errors(Vec<String>);

impl Errors {
    pub(super) fn at(&mut self, path: &str, problem: impl std::fmt::Display) {
        self.0.push(format!("{path}: {problem}"));
    }

    pub(super) fn read<T: DeserializeOwned>(&mut self, path: &str, value: Value) -> Option<T> {
        match serde_json::from_value(value) {
            Ok(read) => Some(read),
            Err(error) => {
                self.at(path, error);
                None
            }
        }
    }
}

impl Config {
    /// Reads a configuration; otherwise everything that is wrong with it, each with its place.
    pub fn parse(value: Value) -> Result<Self, Vec<String>> {
        let mut errors = Errors(Vec::new());
        let Some(file) = errors.read::<File>("configuration", value) else { return Err(errors.0) };
        if file.api_version != "kubescheduler.config.k8s.io/v1" || file.kind != "KubeSchedulerConfiguration" {
            let want = "kubescheduler.config.k8s.io/v1 KubeSchedulerConfiguration";
            errors.at("apiVersion, kind", format!("is {} {}; hint: use {want}", file.api_version, file.kind));
        }
        if file.parallelism.is_some_and(|p| p <= 0) {
            errors.at("parallelism", "must be greater than 0");
        }
        check_percentage(&mut errors, "percentageOfNodesToScore", file.percentage_of_nodes_to_score);
        let first = file.pod_initial_backoff_seconds.unwrap_or(1);
        let last = file.pod_max_backoff_seconds.unwrap_or(10);
        if first <= 0 {
            errors.at("podInitialBackoffSeconds", "must be greater than 0");
        }
        if last < first {
            errors.at("podMaxBackoffSeconds", "must not be less than podInitialBackoffSeconds");
        }
        let seconds = |s: i64| u64::try_from(s).unwrap_or(1).saturating_mul(1000);
        let patience =
            Patience { first_backoff: seconds(first), last_backoff: seconds(last), ..Patience::default() };
        let mut profiles: Vec<Profile> = Vec::new();
        for (at, value) in file.profiles.into_iter().enumerate() {
            let path = format!("profiles[{at}]");
            let Some(profile) = profile(&mut errors, &path, value) else { continue };
            if profiles.iter().any(|p| p.name == profile.name) {
                errors.at(&format!("{path}.schedulerName"), format!("{:?} is there twice", profile.name));
            }
            profiles.push(profile);
        }
        if profiles.is_empty() {
            profiles.push(Profile::new("default-scheduler"));
        }
        let extenders = extenders(&mut errors, file.extenders);
        for ignored in extenders.iter().flat_map(|e| &e.managed_resources).filter(|r| r.ignored_by_scheduler)
        {
            for profile in &mut profiles {
                profile.ignored_resources.insert(ignored.name.clone());
            }
        }
        if errors.0.is_empty() { Ok(Self { profiles, extenders, patience }) } else { Err(errors.0) }
    }
}

fn check_percentage(errors: &mut Errors, path: &str, value: Option<i64>) {
    if value.is_some_and(|p| !(0..=100).contains(&p)) {
        errors.at(path, "must be between 0 and 100");
    }
}

fn extenders(errors: &mut Errors, values: Vec<Value>) -> Vec<Extender> {
    let mut extenders: Vec<Extender> = Vec::new();
    for (at, value) in values.into_iter().enumerate() {
        let path = format!("extenders[{at}]");
        let Some(extender) = errors.read::<Extender>(&path, value) else { continue };
        if !extender.url_prefix.starts_with("http://") && !extender.url_prefix.starts_with("https://") {
            errors.at(&format!("{path}.urlPrefix"), "must begin with http:// or https://");
        }
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            errors.at(&format!("{path}.weight"), "must be greater than 0 where there is a prioritizeVerb");
        }
        if extender.http_timeout.as_deref().is_some_and(|t| duration_millis(t).is_none()) {
            errors.at(&format!("{path}.httpTimeout"), "is no duration; hint: write 5s or 500ms");
        }
        let tls = extender.tls_config.clone().unwrap_or_default();
        if tls.insecure {
            let text = "servers are always verified; hint: name who signed the server in caFile or caData";
            errors.at(&format!("{path}.tlsConfig.insecure"), text);
        } else if extender.is_secure() && tls.ca_file.is_empty() && tls.ca_data.is_empty() {
            errors.at(&format!("{path}.tlsConfig"), "caFile or caData must name who signed the server");
        }
        if !extender.bind_verb.is_empty() && extenders.iter().any(|e| !e.bind_verb.is_empty()) {
            errors.at(&format!("{path}.bindVerb"), "only one extender can bind");
        }
        extenders.push(extender);
    }
    extenders
}

fn profile(errors: &mut Errors, path: &str, value: Value) -> Option<Profile> {
    let file: ProfileFile = errors.read(path, value)?;
    let mut profile = Profile::new(file.scheduler_name.as_deref().unwrap_or("default-scheduler"));
    check_percentage(errors, &format!("{path}.percentageOfNodesToScore"), file.percentage_of_nodes_to_score);
    let mut sets: Vec<(String, PluginSet)> = Vec::new();
    for (point, value) in file.plugins {
        let path = format!("{path}.plugins.{point}");
        if !POINTS.contains(&point.as_str()) {
            errors.at(&path, format!("no such extension point; hint: there are {}", POINTS.join(", ")));
            continue;
        }
        let Some(set) = errors.read::<PluginSet>(&path, value) else { continue };
        for (list, plugins) in [("enabled", &set.enabled), ("disabled", &set.disabled)] {
            for (at, plugin) in plugins.iter().enumerate() {
                let star = list == "disabled" && plugin.name == "*";
                if !star && !PLUGINS.contains(&plugin.name.as_str()) {
                    let hint = format!("hint: there are {}", PLUGINS.join(", "));
                    errors.at(
                        &format!("{path}.{list}[{at}].name"),
                        format!("unknown plugin {:?}; {hint}", plugin.name),
                    );
                }
                if plugin.weight.is_some_and(|w| !(0..=100).contains(&w)) {
                    errors.at(&format!("{path}.{list}[{at}].weight"), "must be between 0 and 100");
                }
            }
        }
        sets.push((point, set));
    }
    let set = |point: &str| sets.iter().find(|(p, _)| p == point).map(|(_, set)| set);
    for plugin in PLUGINS {
        switch(&mut profile, plugin, set("multiPoint"), set("filter"), set("score"), set("postFilter"));
    }
    for (at, config) in file.plugin_config.into_iter().enumerate() {
        arguments(errors, &format!("{path}.pluginConfig[{at}]"), &mut profile, config);
    }
    Some(profile)
}

/// Whether a set of plugins changes if one takes part: switched off, or on with a weight (0 for its default).
fn verdict(set: Option<&PluginSet>, plugin: &str) -> Option<(bool, i64)> {
    let set = set?;
    if let Some(enabled) = set.enabled.iter().find(|p| p.name == plugin) {
        return Some((true, enabled.weight.unwrap_or(0)));
    }
    set.disabled.iter().any(|p| p.name == plugin || p.name == "*").then_some((false, 0))
}

fn switch(
    profile: &mut Profile,
    plugin: &str,
    everywhere: Option<&PluginSet>,
    filter: Option<&PluginSet>,
    score: Option<&PluginSet>,
    post: Option<&PluginSet>,
) {
    let everywhere = verdict(everywhere, plugin);
    let at = |set| verdict(set, plugin).or(everywhere);
    if let Some((on, _)) = at(filter)
        && let Some(slot) = filter_slot(&mut profile.filters, plugin)
    {
        *slot = on;
    }
    if let Some((on, weight)) = at(score)
        && let Some((slot, default)) = weight_slot(&mut profile.weights, plugin)
    {
        *slot = match (on, weight) {
            (false, _) => 0,
            (true, 0) => default,
            (true, weight) => weight,
        };
    }
    if plugin == "Fragmentation" && at(score).is_some_and(|(on, _)| on) {
        profile.pack(Packing::By(Measure::Prices));
    }
    if plugin == "DefaultPreemption"
        && let Some((on, _)) = at(post)
    {
        profile.preemption = on;
    }
}

fn filter_slot<'a>(filters: &'a mut FilterSet, plugin: &str) -> Option<&'a mut bool> {
    Some(match plugin {
        "NodeUnschedulable" => &mut filters.unschedulable,
        "NodeName" => &mut filters.node_name,
        "TaintToleration" => &mut filters.taint_toleration,
        "NodeAffinity" => &mut filters.node_affinity,
        "NodePorts" => &mut filters.node_ports,
        "NodeResourcesFit" => &mut filters.resources_fit,
        "VolumeRestrictions" => &mut filters.volume_restrictions,
        "NodeVolumeLimits" => &mut filters.volume_limits,
        "VolumeBinding" => &mut filters.volume_binding,
        "VolumeZone" => &mut filters.volume_zone,
        "PodTopologySpread" => &mut filters.topology_spread,
        "InterPodAffinity" => &mut filters.inter_pod_affinity,
        "LoadAware" => &mut filters.load_aware,
        "NodeResourceTopologyMatch" => &mut filters.zones,
        _ => return None,
    })
}

pub(super) fn weight_slot<'a>(weights: &'a mut Weights, plugin: &str) -> Option<(&'a mut i64, i64)> {
    let default = Weights::default();
    Some(match plugin {
        "TaintToleration" => (&mut weights.taint_toleration, default.taint_toleration),
        "NodeAffinity" => (&mut weights.node_affinity, default.node_affinity),
        "NodeResourcesFit" => (&mut weights.resources_fit, default.resources_fit),
        "PodTopologySpread" => (&mut weights.topology_spread, default.topology_spread),
        "InterPodAffinity" => (&mut weights.inter_pod_affinity, default.inter_pod_affinity),
        "NodeResourcesBalancedAllocation" => (&mut weights.balanced_allocation, default.balanced_allocation),
        "ImageLocality" => (&mut weights.image_locality, default.image_locality),
        "LoadAware" => (&mut weights.load_aware, 1),
        "NodeResourceTopologyMatch" => (&mut weights.zones, 1),
        _ => return None,
    })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FitArgs {
    #[serde(default)]
    scoring_strategy: Option<ScoringStrategy>,
    #[serde(default)]
    ignored_resources: Vec<String>,
    #[serde(default)]
    ignored_resource_groups: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScoringStrategy {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    resources: Vec<ResourceSpec>,
    #[serde(default)]
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceSpec {
    name: String,
    #[serde(default)]
    weight: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ratio {
    shape: Vec<Point>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    utilization: i64,
    score: i64,
}

#[derive(Debug, Deserialize)]
struct BalancedArgs {
    #[serde(default)]
    resources: Vec<ResourceSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct InterPodArgs {
    #[serde(default)]
    hard_pod_affinity_weight: Option<i64>,
    #[serde(default)]
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AffinityArgs {
    #[serde(default)]
    added_affinity: Option<ApiAffinity>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpreadArgs {
    #[serde(default)]
    default_constraints: Vec<TopologySpreadConstraint>,
    #[serde(default)]
    defaulting_type: Option<String>,
}

fn arguments(errors: &mut Errors, path: &str, profile: &mut Profile, config: PluginConfig) {
    let args = if config.args.is_null() { Value::Object(Map::new()) } else { config.args };
    let path = format!("{path}.args");
    match config.name.as_str() {
        "NodeResourcesFit" => {
            let Some(args) = errors.read::<FitArgs>(&path, args) else { return };
            profile.ignored_resources.extend(args.ignored_resources);
            profile.ignored_groups.extend(args.ignored_resource_groups);
            if let Some(strategy) = args.scoring_strategy {
                fit_strategy(errors, &format!("{path}.scoringStrategy"), profile, strategy);
            }
        }
        "NodeResourcesBalancedAllocation" => {
            let Some(args) = errors.read::<BalancedArgs>(&path, args) else { return };
            if !args.resources.is_empty() {
                profile.balanced = args.resources.into_iter().map(|r| r.name).collect();
            }
        }
        "InterPodAffinity" => {
            let Some(args) = errors.read::<InterPodArgs>(&path, args) else { return };
            let weight = args.hard_pod_affinity_weight.unwrap_or(1);
            if !(0..=100).contains(&weight) {
                errors.at(&format!("{path}.hardPodAffinityWeight"), "must be between 0 and 100");
            }
            profile.hard_pod_affinity_weight = weight;
            profile.ignore_preferred_of_existing = args.ignore_preferred_terms_of_existing_pods;
        }
        "NodeAffinity" => {
            let Some(args) = errors.read::<AffinityArgs>(&path, args) else { return };
            let affinity = k8s_openapi::api::core::v1::Affinity {
                node_affinity: args.added_affinity,
                ..Default::default()
            };
            let spec = PodSpec { affinity: Some(affinity), ..PodSpec::default() };
            profile.added_affinity = NodeAffinity::new(&spec);
        }
        "PodTopologySpread" => {
            let Some(args) = errors.read::<SpreadArgs>(&path, args) else { return };
            spread_defaults(errors, &path, profile, args);
        }
        "LoadAware" => profile.load = LoadAware::parse(errors, &path, args).unwrap_or_default(),
        "NodeResourceTopologyMatch" => {
            profile.zones = ZoneScoring::parse(errors, &path, args).unwrap_or_default();
        }
        "DefaultPreemption" | "VolumeBinding" | "DynamicResources" | "GangScheduling" => {}
        other => errors.at(&path, format!("plugin {other:?} takes no arguments")),
    }
}

fn fit_strategy(errors: &mut Errors, path: &str, profile: &mut Profile, strategy: ScoringStrategy) {
    profile.strategy = match strategy.kind.as_deref().unwrap_or("LeastAllocated") {
        "LeastAllocated" => Strategy::LeastAllocated,
        "MostAllocated" => Strategy::MostAllocated,
        "RequestedToCapacityRatio" => {
            let shape = strategy.requested_to_capacity_ratio.map(|r| r.shape).unwrap_or_default();
            let path = format!("{path}.requestedToCapacityRatio.shape");
            if shape.is_empty() {
                errors.at(&path, "at least one point must be given");
            }
            for (at, point) in shape.iter().enumerate() {
                if !(0..=100).contains(&point.utilization) || !(0..=10).contains(&point.score) {
                    errors.at(&format!("{path}[{at}]"), "utilization must be 0 to 100, score 0 to 10");
                }
                if at > 0 && point.utilization <= shape[at - 1].utilization {
                    errors.at(&format!("{path}[{at}].utilization"), "values must increase");
                }
            }
            Strategy::RequestedToCapacityRatio(shape.iter().map(|p| (p.utilization, p.score)).collect())
        }
        other => {
            let hint = "hint: there are LeastAllocated, MostAllocated and RequestedToCapacityRatio";
            errors.at(&format!("{path}.type"), format!("unknown strategy {other:?}; {hint}"));
            return;
        }
    };
    for (at, resource) in strategy.resources.iter().enumerate() {
        if resource.weight.is_some_and(|w| !(1..=100).contains(&w)) {
            errors.at(&format!("{path}.resources[{at}].weight"), "must be between 1 and 100");
        }
    }
    if !strategy.resources.is_empty() {
        let weighted = |r: ResourceSpec| Weighted { name: r.name, weight: r.weight.unwrap_or(1) };
        profile.resources = strategy.resources.into_iter().map(weighted).collect();
    }
}

fn spread_defaults(errors: &mut Errors, path: &str, profile: &mut Profile, args: SpreadArgs) {
    match args.defaulting_type.as_deref().unwrap_or("System") {
        "System" if args.default_constraints.is_empty() => {}
        "System" => errors.at(
            &format!("{path}.defaultConstraints"),
            "must be empty where defaultingType is System; hint: set defaultingType to List",
        ),
        "List" => {
            for (at, constraint) in args.default_constraints.iter().enumerate() {
                if constraint.label_selector.is_some() {
                    let path = format!("{path}.defaultConstraints[{at}].labelSelector");
                    errors.at(&path, "must not be set: a default counts the pods of the same owner");
                }
            }
            let no_labels = Labels::new();
            let read = |c: &TopologySpreadConstraint| Constraint::new(c, &no_labels).of_siblings();
            profile.default_spread = args.default_constraints.iter().map(read).collect();
            profile.system_spread = false;
        }
        other => {
            let text = format!("unknown type {other:?}; hint: there are System and List");
            errors.at(&format!("{path}.defaultingType"), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file(profile: Value) -> Value {
        json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration", "profiles": [profile]})
    }

    #[test]
    fn plugins_are_switched_as_upstream_switches_them() {
        let config = Config::parse(file(json!({
            "schedulerName": "packer",
            "plugins": {
                "multiPoint": {"enabled": [{"name": "NodeAffinity", "weight": 7}], "disabled": [{"name": "ImageLocality"}]},
                "score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourcesFit", "weight": 5}, {"name": "TaintToleration"}]},
                "filter": {"disabled": [{"name": "NodePorts"}]},
                "postFilter": {"disabled": [{"name": "*"}]},
            },
            "pluginConfig": [
                {"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "MostAllocated",
                    "resources": [{"name": "example.com/gpu", "weight": 3}]}}},
                {"name": "PodTopologySpread", "args": {"defaultingType": "List"}},
            ],
        })))
        .unwrap();
        let profile = &config.profiles[0];
        assert_eq!((profile.name.as_str(), profile.preemption), ("packer", false));
        let weights = Weights {
            taint_toleration: 3,
            resources_fit: 5,
            node_affinity: 0,
            topology_spread: 0,
            inter_pod_affinity: 0,
            balanced_allocation: 0,
            image_locality: 0,
            load_aware: 0,
            zones: 0,
        };
        assert_eq!(profile.weights, weights);
        assert_eq!(profile.filters, FilterSet { node_ports: false, ..FilterSet::default() });
        assert_eq!(profile.strategy, Strategy::MostAllocated);
        assert_eq!(profile.resources, [Weighted { name: "example.com/gpu".into(), weight: 3 }]);
        assert!(profile.default_spread.is_empty());
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        let mut bad = file(json!({
            "plugins": {"score": {"enabled": [{"name": "Nope", "weight": 500}]}, "later": {}},
            "pluginConfig": [
                {"name": "NodeResourcesFit", "args": {"scoringStrategy": {"type": "Best"}}},
                {"name": "InterPodAffinity", "args": {"hardPodAffinityWeight": 101}},
                {"name": "NodeName", "args": {}},
            ],
        }));
        bad["podInitialBackoffSeconds"] = 0.into();
        bad["extenders"] = json!([{"urlPrefix": "ftp://x", "prioritizeVerb": "p", "httpTimeout": "soon"}]);
        let errors = Config::parse(bad).unwrap_err();
        for place in [
            "podInitialBackoffSeconds: ",
            "profiles[0].plugins.score.enabled[0].name: unknown plugin \"Nope\"",
            "profiles[0].plugins.score.enabled[0].weight: ",
            "profiles[0].plugins.later: ",
            "profiles[0].pluginConfig[0].args.scoringStrategy.type: ",
            "profiles[0].pluginConfig[1].args.hardPodAffinityWeight: ",
            "profiles[0].pluginConfig[2].args: ",
            "extenders[0].urlPrefix: ",
            "extenders[0].weight: ",
            "extenders[0].httpTimeout: ",
        ] {
            assert!(errors.iter().any(|e| e.starts_with(place)), "{place} is not among {errors:#?}");
        }
        assert_eq!(errors.len(), 10, "{errors:#?}");
        let unknown = Config::parse(json!({"apiVersion": "v1", "kind": "List", "profile": []})).unwrap_err();
        assert!(unknown[0].contains("unknown field `profile`"), "{unknown:?}");
    }

    #[test]
    fn durations_as_go_writes_them() {
        for (text, want) in
            [("5s", Some(5_000)), ("1m30s", Some(90_000)), ("500ms", Some(500)), ("5", None), ("", None)]
        {
            assert_eq!(duration_millis(text), want, "{text}");
        }
    }
}
