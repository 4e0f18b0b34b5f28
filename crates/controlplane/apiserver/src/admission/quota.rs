//! ResourceQuota: what objects use of their namespace's quotas is written in the transaction that stores them.
//!
//! So it is exact: two creates that both would fit, but not together, cannot both happen, and nothing is charged for what
//! was not stored. Charges of one namespace wait for each other here rather than fail on each other in the store; what
//! else changes a quota (its controller, another server) is met by the comparison and a new round. What is given back
//! when objects go is the controller's to count.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use sampan_api::{
    kinds::Resource,
    quota::{self, Amounts, Scopes},
    status::Status,
};
use sampan_store::{Compare, KeyValue, Op, Range, prefix_end};
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::{Operation, Review};
use crate::{
    call::{Call, text},
    core::Core,
    encode,
    storage::store_error,
};

/// Namespaces whose turns are kept at once; those nobody waits in are forgotten beyond it.
const TURNS: usize = 1024;

/// What a change costs: steps for the same transaction that stores the object.
#[derive(Default)]
pub(crate) struct Charges {
    /// The quotas as they were when this was decided.
    pub(crate) compare: Vec<Compare>,
    /// The quotas with the use added.
    pub(crate) ops: Vec<Op>,
    /// The next one waits until this transaction is done.
    _turn: Option<OwnedMutexGuard<()>>,
}

/// Who may charge a namespace's quotas.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    async fn take(&self, namespace: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if turns.len() >= TURNS {
                turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            turns.entry(namespace.to_owned()).or_default().clone()
        };
        turn.lock_owned().await
    }
}

/// What is kept of a quota to see at once whether it may concern an object.
pub(crate) struct Tracked {
    names: Vec<String>,
}

impl Tracked {
    pub(crate) fn parse(kv: &KeyValue) -> Option<Self> {
        let object: Value = serde_json::from_slice(&kv.value).ok()?;
        let names = quota::amounts(object.pointer("/status/hard")).into_keys().collect();
        Some(Self { names })
    }
}

/// Something that may be charged.
struct Asked<'a> {
    resource: &'static Resource,
    namespace: &'a str,
    name: &'a str,
    new: &'a Value,
    old: Option<&'a Value>,
    dry_run: bool,
    /// What is reported is charged, but not refused.
    report: bool,
}

/// Charges the namespace's quotas for a new object. To be called anew when the transaction meets a conflict.
pub(crate) async fn charge(core: &Arc<Core>, review: &Review<'_>) -> Result<Charges, Status> {
    let Some(namespace) = review.call.namespace().filter(|_| review.operation == Operation::Create) else {
        return Ok(Charges::default());
    };
    let asked = Asked {
        resource: review.resource,
        namespace,
        name: text(&review.object, "/metadata/name"),
        new: &review.object,
        old: None,
        dry_run: review.dry_run,
        report: false,
    };
    asked.charge(core).await
}

/// The same for a change of a stored object: only what it needs more is charged.
pub(crate) async fn charge_update(
    core: &Arc<Core>,
    call: &Call,
    dry_run: bool,
    new: &Value,
    old: &Value,
) -> Result<Charges, Status> {
    let resource = call.endpoint.resource;
    let Some(namespace) = call.namespace() else { return Ok(Charges::default()) };
    let handled = match (resource.group, resource.plural, call.target.subresource.as_deref()) {
        ("", "pods", None) => quota::is_terminating(new) != quota::is_terminating(old),
        ("", "pods", Some("resize")) | ("", "persistentvolumeclaims", None | Some("status")) => true,
        ("", "services", None) => true,
        _ => false,
    };
    if !handled {
        return Ok(Charges::default());
    }
    let report = call.target.subresource.as_deref() == Some("status");
    let asked = Asked { resource, namespace, name: call.name(), new, old: Some(old), dry_run, report };
    asked.charge(core).await
}

impl Asked<'_> {
    async fn charge(&self, core: &Arc<Core>) -> Result<Charges, Status> {
        let Some(state) = core.admission.get().filter(|_| !quota::is_ignored(self.resource)) else {
            return Ok(Charges::default());
        };
        let endpoint = core.endpoint("", "v1", "resourcequotas")?;
        let scope = endpoint.scope(Some(self.namespace));
        state.quotas.settle().await;
        let concerned = state
            .quotas
            .objects()
            .range(scope.clone()..prefix_end(&scope))
            .any(|(_, quota)| quota.names.iter().any(|name| quota::tracks(self.resource, name)));
        if !concerned {
            return Ok(Charges::default());
        }
        let turn = state.turns.take(self.namespace).await;
        let range = Range { end: prefix_end(&scope), start: scope, ..Range::default() };
        let found = core.store().range(range).await.map_err(|e| store_error(&e))?;
        let mut charges = Charges { _turn: Some(turn), ..Charges::default() };
        for kv in &found.kvs {
            let quota = encode::parse(&endpoint, &kv.value, kv.mod_revision)?;
            let Some(used) = self.weigh(&quota)? else { continue };
            charges.compare.push(Compare::ModRevision(kv.key.clone(), kv.mod_revision));
            if !self.dry_run {
                let value = encode::canonical(&endpoint, &with_used(quota, &used))?;
                charges.ops.push(Op::Put { key: Bytes::clone(&kv.key), value, lease: 0 });
            }
        }
        Ok(charges)
    }

    /// What one quota would have used; none when it is not concerned.
    fn weigh(&self, quota: &Value) -> Result<Option<Amounts>, Status> {
        let name = text(quota, "/metadata/name");
        let hard = quota::amounts(quota.pointer("/status/hard"));
        let names: Vec<&str> =
            hard.keys().map(String::as_str).filter(|name| quota::tracks(self.resource, name)).collect();
        let scopes = Scopes::of(quota);
        if names.is_empty() || !scopes.hold(self.resource, self.new) {
            return Ok(None);
        }
        if self.resource.group.is_empty() && self.resource.plural == "pods" {
            quota::constraints(self.new, names.iter().copied())
                .map_err(|why| self.refuse(format!("failed quota: {name}: {why}")))?;
        }
        let mut used = quota::amounts(quota.pointer("/status/used"));
        if names.iter().any(|name| !used.contains_key(*name)) {
            let why = format!("status unknown for quota: {name}, resources: {}", names.join(","));
            return Err(self.refuse(why));
        }
        let asked = self.more(&scopes)?;
        let asked: Amounts =
            asked.into_iter().filter(|(name, more)| !more.is_zero() && hard.contains_key(name)).collect();
        if asked.is_empty() {
            return Ok(None);
        }
        let before = used.clone();
        quota::add(&mut used, &asked);
        let over = |name: &String| used.get(name).zip(hard.get(name)).is_some_and(|(used, hard)| used > hard);
        let exceeded: Vec<&String> = asked.keys().filter(|name| over(name)).collect();
        if !exceeded.is_empty() && !self.report {
            let only = |amounts: &Amounts| {
                let kept = amounts.iter().filter(|(name, _)| exceeded.contains(name));
                quota::print(&kept.map(|(name, amount)| (name.clone(), *amount)).collect())
            };
            return Err(self.refuse(format!(
                "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                only(&asked),
                only(&before),
                only(&hard)
            )));
        }
        Ok(Some(used))
    }

    /// What is used more than before, as far as this quota looks at the object.
    fn more(&self, scopes: &Scopes) -> Result<Amounts, Status> {
        let now = sampan_daemon::clock::now().as_second();
        let mut usage = quota::usage(self.resource, self.new, now);
        let negative: Vec<&str> =
            usage.iter().filter(|(_, amount)| amount.sign() < 0).map(|(name, _)| name.as_str()).collect();
        if !negative.is_empty() {
            let why = format!("quota usage is negative for resource(s): {}", negative.join(","));
            return Err(self.refuse(why));
        }
        if let Some(old) = self.old.filter(|old| scopes.hold(self.resource, old)) {
            let before = quota::usage(self.resource, old, now);
            usage.retain(|name, amount| {
                if let Some(before) = before.get(name) {
                    *amount -= *before;
                }
                amount.sign() > 0
            });
        }
        Ok(usage)
    }

    fn refuse(&self, why: String) -> Status {
        Status::forbidden(self.resource, self.name, why)
    }
}

/// The quota with another use.
fn with_used(mut quota: Value, used: &Amounts) -> Value {
    let used = used.iter().map(|(name, amount)| (name.clone(), amount.canonical().into())).collect();
    if !quota["status"].is_object() {
        quota["status"] = json!({});
    }
    quota["status"]["used"] = Value::Object(used);
    quota
}
