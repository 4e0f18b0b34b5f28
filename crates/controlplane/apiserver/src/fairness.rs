//! Priority and fairness: which requests go now, which wait, which are refused
//! (<https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>).
//!
//! A request belongs to the first [`plan::Schema`] that matches it and through that to a [`level::Level`], which has a
//! share of [`crate::Limits::in_flight`]. Levels lend what they do not need: at once, not at intervals, and a level takes
//! its own share back without waiting for the borrowers to end, so that as many requests more than the limit may run for
//! a moment as were lent. A watch has a seat until its answer begins; logs and other streams need none: they are
//! bounded by [`crate::Limits::long_running`] alone.

mod bootstrap;
mod level;
mod plan;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use sampan_api::status::Status;
use sampan_daemon::{Backoff, Policy as Restart};
use sampan_store::{KeyValue, TxnResponse};
use serde_json::Value;

use self::{
    level::{Level, Pool, Queuing, Refusal, Seat, Share},
    plan::{By, Plan, Schema},
};
use crate::{
    authz::Attributes, call::text, core::Core, mirror::Mirror, storage::store_error, user::UserInfo,
};

pub(crate) use self::bootstrap::plan as wanted;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// All keys of the group begin with this.
const PREFIX: &str = "/registry/flowcontrol.apiserver.k8s.io/";

/// How long a request may wait for a seat.
const PATIENCE: Duration = Duration::from_secs(15);

/// Objects in a list for one seat, and the most seats of a list.
const OBJECTS_PER_SEAT: usize = 100;
const MOST_SEATS: i64 = 10;

/// What a request is told when the server has enough to do.
pub(crate) const BUSY: &str = "Too many requests, please try again later.";

static SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
static LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// A schema or a level as stored.
struct Stored(Value);

/// Decides which requests go.
pub(crate) struct Fairness {
    plan: RwLock<Arc<Plan>>,
    pool: Arc<Pool>,
    /// Levels by name: they keep their queues when their configuration changes.
    levels: Mutex<HashMap<Box<str>, Arc<Level>>>,
    /// Requests at once, over all levels.
    total: usize,
    mirror: OnceLock<Arc<Mirror<Stored>>>,
}

/// Where a request belongs.
pub(crate) struct Place {
    plan: Arc<Plan>,
    at: usize,
}

impl Place {
    /// Says in the answer where the request belonged.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        if let Some(schema) = self.plan.schema(self.at) {
            headers.insert(SCHEMA_UID.clone(), schema.uid.clone());
            headers.insert(LEVEL_UID.clone(), schema.level_uid.clone());
        }
    }

    /// Waits for a seat, or says 429. None where no schema is known yet.
    pub(crate) async fn enter(
        &self,
        user: &UserInfo,
        namespace: Option<&str>,
        width: i64,
    ) -> Result<Option<Seat>, Status> {
        let Some(schema) = self.plan.schema(self.at) else { return Ok(None) };
        let flow = || self.plan.flow(schema, user, namespace);
        match Level::enter(&schema.level, width, PATIENCE, flow).await {
            Ok(seat) => Ok(Some(seat)),
            Err(why) => {
                let reason = match why {
                    Refusal::QueueFull => "queue-full",
                    Refusal::ConcurrencyLimit => "concurrency-limit",
                    Refusal::TimeOut => "time-out",
                };
                tracing::debug!(user = user.name, schema = &*schema.name, reason, "refused for load");
                Err(Status::too_many_requests(BUSY, 1))
            }
        }
    }
}

/// How many seats a request for a list takes.
pub(crate) fn list_width(objects: usize, limit: Option<usize>) -> i64 {
    let objects = limit.map_or(objects, |limit| objects.min(limit));
    i64::try_from(objects.div_ceil(OBJECTS_PER_SEAT)).map_or(MOST_SEATS, |seats| seats.clamp(1, MOST_SEATS))
}

impl Fairness {
    pub(crate) fn new(total: usize) -> Self {
        Self {
            plan: RwLock::default(),
            pool: Arc::default(),
            levels: Mutex::default(),
            total,
            mirror: OnceLock::new(),
        }
    }

    /// Where a request belongs.
    pub(crate) fn place(&self, user: &UserInfo, attributes: &Attributes<'_>) -> Place {
        let plan = self.plan.read().unwrap_or_else(PoisonError::into_inner).clone();
        let at = plan.find(user, attributes).unwrap_or_default();
        Place { plan, at }
    }

    /// Requests that are carried out now.
    pub(crate) fn executing(&self) -> i64 {
        let plan = self.plan.read().unwrap_or_else(PoisonError::into_inner).clone();
        plan.levels.iter().map(|level| level.executing()).sum()
    }

    /// What is measured of the levels.
    pub(crate) fn metrics(&self, out: &mut String) {
        let plan = self.plan.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut series = |name: &str, kind: &str, of: &dyn Fn(&Level) -> i64| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# TYPE apiserver_flowcontrol_{name} {kind}");
            for level in &plan.levels {
                let labels = format!("{{priority_level=\"{}\"}}", level.name);
                let _ = writeln!(out, "apiserver_flowcontrol_{name}{labels} {}", of(level));
            }
        };
        let count = |counter: &std::sync::atomic::AtomicU64| {
            i64::try_from(counter.load(std::sync::atomic::Ordering::Relaxed)).unwrap_or(i64::MAX)
        };
        series("current_executing_seats", "gauge", &|level| level.executing());
        series("current_inqueue_requests", "gauge", &|level| level.queued());
        series("dispatched_requests_total", "counter", &|level| count(&level.dispatched));
        series("rejected_requests_total", "counter", &|level| count(&level.refused));
    }

    /// Compiles what is stored; what every cluster has is there even before it is stored.
    fn install<'a>(&self, stored: impl Iterator<Item = &'a Value>) {
        let mut schemas: BTreeMap<String, Value> = BTreeMap::new();
        let mut levels: BTreeMap<String, Value> = BTreeMap::new();
        for want in bootstrap::wanted() {
            let map = if want.plural == "flowschemas" { &mut schemas } else { &mut levels };
            let object = serde_json::json!({"metadata": {"name": want.name}, "spec": want.spec});
            map.insert(want.name.to_owned(), object);
        }
        let mut found_any = false;
        for object in stored {
            if !found_any {
                // The cluster has its own; only the two that cannot go stay.
                schemas.retain(|name, _| matches!(name.as_str(), "exempt" | "catch-all"));
                levels.retain(|name, _| matches!(name.as_str(), "exempt" | "catch-all"));
                found_any = true;
            }
            let map = if object["kind"] == "FlowSchema" { &mut schemas } else { &mut levels };
            map.insert(text(object, "/metadata/name").to_owned(), object.clone());
        }
        let levels_now = self.configure(&levels);
        let schemas = schemas.iter().filter_map(|(name, object)| {
            let level_name = text(object, "/spec/priorityLevelConfiguration/name");
            let level = levels_now.get(level_name)?;
            let uid = |object: &Value| {
                HeaderValue::from_str(text(object, "/metadata/uid")).unwrap_or(HeaderValue::from_static(""))
            };
            let rules = object.pointer("/spec/rules").cloned().unwrap_or_default();
            Some(Schema {
                name: name.as_str().into(),
                precedence: object
                    .pointer("/spec/matchingPrecedence")
                    .and_then(Value::as_i64)
                    .unwrap_or(1000),
                uid: uid(object),
                level_uid: levels.get(level_name).map_or(HeaderValue::from_static(""), uid),
                level: level.clone(),
                by: match text(object, "/spec/distinguisherMethod/type") {
                    "ByUser" => By::User,
                    "ByNamespace" => By::Namespace,
                    _ => By::Nothing,
                },
                rules: serde_json::from_value(rules).unwrap_or_default(),
            })
        });
        let plan = Plan::new(schemas.collect(), levels_now.values().cloned().collect());
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
    }

    /// Gives each level its share of the total.
    fn configure(&self, objects: &BTreeMap<String, Value>) -> BTreeMap<String, Arc<Level>> {
        let number = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_i64);
        let shares = |object: &Value| {
            let kind = if text(object, "/spec/type") == "Exempt" { "exempt" } else { "limited" };
            number(object, &format!("/spec/{kind}/nominalConcurrencyShares")).unwrap_or(0).max(0)
        };
        let all: i64 = objects.values().map(shares).sum::<i64>().max(1);
        let total = i64::try_from(self.total).unwrap_or(i64::MAX / 1_000_000);
        let mut known = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut now = BTreeMap::new();
        for (name, object) in objects {
            // Shares are 32 bits in the API, so this does not overflow.
            let nominal = (total * shares(object) + all - 1) / all;
            let percent = |field: &str| number(object, &format!("/spec/limited/{field}"));
            let lendable = (nominal * percent("lendablePercent").unwrap_or(0) + 50) / 100;
            let queuing = object.pointer("/spec/limited/limitResponse/queuing");
            let size = |field: &str, otherwise: u32| {
                let size = queuing.and_then(|queuing| queuing.get(field)).and_then(Value::as_u64);
                size.and_then(|size| u32::try_from(size).ok()).unwrap_or(otherwise).max(1)
            };
            let share = Share {
                exempt: text(object, "/spec/type") == "Exempt",
                nominal,
                lendable,
                borrowing: percent("borrowingLimitPercent").map_or(total, |limit| nominal * limit / 100),
                queuing: queuing.filter(|queuing| queuing.is_object()).map(|_| Queuing {
                    queues: size("queues", 64),
                    hand: size("handSize", 8),
                    length: size("queueLengthLimit", 50) as usize,
                }),
            };
            let level = known
                .entry(name.as_str().into())
                .or_insert_with(|| Level::new(name, &self.pool, share))
                .clone();
            Level::configure(&level, share);
            now.insert(name.clone(), level);
        }
        known.retain(|name, _| now.contains_key(&**name));
        let all: Vec<Arc<Level>> = now.values().cloned().collect();
        self.pool.set(&all);
        now
    }
}

fn parse(kv: &KeyValue) -> Option<Stored> {
    serde_json::from_slice(&kv.value).ok().map(Stored)
}

/// Reads schemas and levels, and follows them.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn start(core: &Arc<Core>) -> Result<(), Status> {
    let mirror = Mirror::open(PREFIX, core.options.store.clone(), &core.supervisor, parse)
        .await
        .map_err(|error| store_error(&error))?;
    core.written.register(&mirror);
    core.fairness.install(mirror.objects().values().map(|stored| &stored.0));
    let _ = core.fairness.mirror.set(mirror.clone());
    let changes = mirror.changes();
    let task = core.clone();
    let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
    core.supervisor.supervise("fairness", Restart::Restart(backoff), move || {
        let (core, mirror, mut changes) = (task.clone(), mirror.clone(), changes.clone());
        async move {
            while changes.changed().await.is_ok() {
                core.fairness.install(mirror.objects().values().map(|stored| &stored.0));
                keep(&core).await?;
            }
            Ok::<(), Status>(())
        }
    });
    Ok(())
}

/// Keeps true what the server promises of schemas and levels. Somebody else's change in between brings it here again.
async fn keep(core: &Core) -> Result<(), Status> {
    let txn = bootstrap::plan(core).await?;
    if !txn.ops.is_empty()
        && let TxnResponse::Conflict(revision, _) = core.commit(txn).await?
    {
        tracing::debug!(revision, "flow control changed meanwhile");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
