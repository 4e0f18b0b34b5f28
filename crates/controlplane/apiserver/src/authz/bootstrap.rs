//! The roles and bindings that every cluster has from the start: Kubernetes' own, and those of our components.
//!
//! What is missing is written in one transaction; what is there is completed, never cut, and left alone where
//! `rbac.authorization.kubernetes.io/autoupdate` is `"false"`.

mod table;

use std::collections::HashMap;

use bytes::Bytes;
use sampan_api::status::Status;
use sampan_store::{Compare, KeyValue, Op, Range, Txn, prefix_end};
use serde_json::{Map, Value, json};

use self::table::Wanted;
use super::{policy::PREFIX, rule::Rule};
use crate::{core::Core, encode, endpoint::Endpoint, storage::store_error};

pub(crate) use self::table::rules_of;

const GROUP: &str = "rbac.authorization.k8s.io";

/// The steps that make what is missing.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn plan(core: &Core) -> Result<Txn, Status> {
    let wanted = table::wanted();
    let range = Range { start: PREFIX.into(), end: prefix_end(PREFIX.as_bytes()), ..Range::default() };
    let stored = core.store().range(range).await.map_err(|error| store_error(&error))?;
    let stored: HashMap<Bytes, KeyValue> = stored.kvs.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
    let now = sampan_daemon::clock::rfc3339(sampan_daemon::clock::now());
    let mut txn = Txn::default();
    for want in &wanted {
        let endpoint = &*core.endpoint(GROUP, "v1", want.plural)?;
        let key = endpoint.key(want.namespace, &want.name);
        let (revision, object) = match stored.get(&key) {
            None => (0, Some(stamped(endpoint, want, &now))),
            Some(kv) => (kv.mod_revision, completed(endpoint, want, kv)?),
        };
        let Some(object) = object else { continue };
        txn.compare.push(Compare::ModRevision(key.clone(), revision));
        let value = encode::canonical(endpoint, &object)?;
        txn.ops.push(Op::Put { key, value, lease: 0 });
    }
    Ok(txn)
}

fn stamped(endpoint: &Endpoint, want: &Wanted, now: &str) -> Value {
    let mut object = want.object.clone();
    object["apiVersion"] = endpoint.resource.api_version().into();
    object["kind"] = endpoint.resource.kind.into();
    object["metadata"]["uid"] = uuid::Uuid::new_v4().to_string().into();
    object["metadata"]["creationTimestamp"] = now.into();
    object
}

/// What is stored with what it lacks; nothing when it lacks nothing.
fn completed(endpoint: &Endpoint, want: &Wanted, kv: &KeyValue) -> Result<Option<Value>, Status> {
    let stored = encode::parse(endpoint, &kv.value, kv.mod_revision)?;
    let automatic = stored.pointer("/metadata/annotations/rbac.authorization.kubernetes.io~1autoupdate");
    if automatic.is_some_and(|value| value == "false") {
        return Ok(None);
    }
    let mut object = stored.clone();
    for part in ["labels", "annotations"] {
        let own = object["metadata"].as_object_mut().map(|m| m.entry(part).or_insert_with(|| json!({})));
        let own = own.and_then(Value::as_object_mut);
        let lacking = want.object["metadata"][part].as_object().into_iter().flatten();
        if let Some(own) = own {
            for (key, value) in lacking {
                own.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    if let Some(reference) = want.object.get("roleRef") {
        if object["roleRef"]["kind"] != reference["kind"] || object["roleRef"]["name"] != reference["name"] {
            object["roleRef"] = reference.clone();
        }
        add_lacking(&mut object, &want.object, "subjects");
    } else if want.object.get("aggregationRule").is_some() {
        // The rules of such a role are put together by a controller.
        if let Some(fields) = object.as_object_mut() {
            fields.entry("aggregationRule").or_insert_with(|| want.object["aggregationRule"].clone());
        }
    } else {
        let own: Vec<Rule> = object
            .get("rules")
            .and_then(|rules| serde_json::from_value(rules.clone()).ok())
            .unwrap_or_default();
        let covered = |rule: &Value| {
            serde_json::from_value::<Rule>(rule.clone())
                .is_ok_and(|rule| rule.atoms().iter().all(|atom| own.iter().any(|own| own.covers(atom))))
        };
        let lacking: Vec<Value> = want.object["rules"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|rule| !covered(rule))
            .cloned()
            .collect();
        if !lacking.is_empty() {
            list(&mut object, "rules").extend(lacking);
        }
    }
    Ok((object != stored).then_some(object))
}

fn list<'a>(object: &'a mut Value, name: &str) -> &'a mut Vec<Value> {
    if !object.get(name).is_some_and(Value::is_array) {
        object[name] = json!([]);
    }
    match &mut object[name] {
        Value::Array(items) => items,
        _ => unreachable!("it was made an array"),
    }
}

fn add_lacking(object: &mut Value, wanted: &Value, name: &str) {
    for item in wanted[name].as_array().into_iter().flatten() {
        let same = |own: &Value| {
            let fields = ["kind", "name", "namespace"];
            fields.iter().all(|field| own.get(*field) == item.get(*field))
        };
        if !object[name].as_array().is_some_and(|own| own.iter().any(same)) {
            list(object, name).push(item.clone());
        }
    }
}

/// An object of string values.
fn strings(pairs: &[(&str, &str)]) -> Value {
    let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value)));
    Value::Object(pairs.collect::<Map<_, _>>())
}
