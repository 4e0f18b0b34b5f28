//! Strategic merge patch against a second, slow and obvious implementation: random objects, random patches.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use quickcheck::{Arbitrary, Gen, QuickCheck};
use sampan_api::kinds::by_path;
use sampan_api::patch;
use serde_json::{Map, Value, json};

/// How a list merges in the small part of Pod that these tests use: by that key, or as a set.
#[derive(Clone, Copy, PartialEq)]
enum How {
    ByKey(&'static str),
    Set,
    Replace,
}

fn how(name: &str) -> How {
    match name {
        "containers" | "volumes" | "env" => How::ByKey("name"),
        "ports" => How::ByKey("containerPort"),
        "finalizers" => How::Set,
        _ => How::Replace,
    }
}

/// The reference: follows the specification sentence by sentence, with lists searched one by one.
fn reference(original: &Map<String, Value>, patch: &Map<String, Value>) -> Map<String, Value> {
    match patch.get("$patch").and_then(Value::as_str) {
        Some("delete") => return Map::new(),
        Some("replace") => return without_nulls(patch),
        _ => {}
    }
    let mut out = original.clone();
    if let Some(kept) = patch.get("$retainKeys") {
        let kept: Vec<&str> = kept.as_array().unwrap().iter().map(|k| k.as_str().unwrap()).collect();
        out.retain(|name, _| kept.contains(&name.as_str()));
    }
    let mut names: Vec<String> = Vec::new();
    for name in patch.keys() {
        let name = name
            .strip_prefix("$setElementOrder/")
            .or(name.strip_prefix("$deleteFromPrimitiveList/"))
            .unwrap_or(name);
        if !name.starts_with('$') && !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    for name in names {
        let change = patch.get(&name);
        if change == Some(&Value::Null) {
            out.remove(&name);
            continue;
        }
        let old = out.get(&name).cloned();
        let order = patch.get(&format!("$setElementOrder/{name}")).and_then(Value::as_array);
        let gone = patch.get(&format!("$deleteFromPrimitiveList/{name}")).and_then(Value::as_array);
        let new = match (old, change) {
            (None, None) => continue,
            (Some(Value::Object(old)), Some(Value::Object(change))) => Value::Object(reference(&old, change)),
            (Some(Value::Array(old)), change @ (None | Some(Value::Array(_)))) => {
                let change = change.and_then(Value::as_array);
                Value::Array(list(how(&name), &old, change, order, gone))
            }
            (None, Some(Value::Array(change))) => {
                Value::Array(list(how(&name), &[], Some(change), order, gone))
            }
            (_, Some(Value::Object(change))) => Value::Object(without_nulls(change)),
            (_, Some(other)) => other.clone(),
            (Some(old), None) => old,
        };
        out.insert(name, new);
    }
    out
}

fn list(
    how: How,
    old: &[Value],
    change: Option<&Vec<Value>>,
    order: Option<&Vec<Value>>,
    gone: Option<&Vec<Value>>,
) -> Vec<Value> {
    if how == How::Replace {
        return change.cloned().unwrap_or_else(|| old.to_vec());
    }
    let id = |item: &Value| match how {
        How::ByKey(key) => item[key].clone(),
        _ => item.clone(),
    };
    let directive = |item: &Value| item.get("$patch").and_then(Value::as_str).map(str::to_owned);
    let mut merged = old.to_vec();
    let mut replaced = false;
    for item in change.into_iter().flatten() {
        match directive(item).as_deref() {
            Some("delete") => merged.retain(|m| id(m) != id(item)),
            Some("replace") => replaced = true,
            _ => {}
        }
    }
    if replaced {
        merged.clear();
    }
    let mut changed: Vec<Value> = Vec::new();
    let mut standing = merged.clone();
    for item in change.into_iter().flatten().filter(|i| directive(i).is_none()) {
        changed.push(id(item));
        match (merged.iter().position(|m| id(m) == id(item)), item) {
            (Some(at), Value::Object(item)) => {
                merged[at] = Value::Object(reference(merged[at].as_object().unwrap(), item));
            }
            (Some(_), _) => {}
            (None, Value::Object(item)) => merged.push(Value::Object(without_nulls(item))),
            (None, item) => merged.push(item.clone()),
        }
    }
    if replaced {
        standing = merged.clone();
        changed.clear();
    }
    if let Some(order) = order
        && (!old.is_empty() || change.is_some())
    {
        changed = order.iter().map(id).collect();
        standing = old.to_vec();
    }
    let mut out = arranged(merged, &changed, &standing.iter().map(id).collect::<Vec<_>>(), id);
    for item in gone.into_iter().flatten() {
        out.retain(|o| o != item);
    }
    out
}

/// Those that the patch names in its order; before each of them what stood before it on the server.
fn arranged(
    merged: Vec<Value>,
    wanted: &[Value],
    standing: &[Value],
    id: impl Fn(&Value) -> Value,
) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|l| *l == id(item));
    let (mut ours, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|m| place(wanted, m).is_some());
    ours.sort_by_key(|m| place(wanted, m));
    others.sort_by_key(|m| place(standing, m));
    let mut out = Vec::new();
    for item in ours {
        while let (Some(other), Some(own)) =
            (others.first().and_then(|o| place(standing, o)), place(standing, &item))
        {
            if other > own {
                break;
            }
            out.push(others.remove(0));
        }
        out.push(item);
    }
    out.extend(others);
    out
}

fn without_nulls(members: &Map<String, Value>) -> Map<String, Value> {
    let kept = members.iter().filter(|(name, value)| !name.starts_with('$') && !value.is_null());
    kept.map(|(name, value)| {
        let value = match value {
            Value::Object(inner) => Value::Object(without_nulls(inner)),
            Value::Array(items) => items
                .iter()
                .filter(|i| i.get("$patch").is_none())
                .map(|i| i.as_object().map_or_else(|| i.clone(), |o| Value::Object(without_nulls(o))))
                .collect(),
            other => other.clone(),
        };
        (name.clone(), value)
    })
    .collect()
}

/// A pod and a patch of it.
#[derive(Clone, Debug)]
struct Case {
    pod: Value,
    patch: Value,
}

const LETTERS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn some(g: &mut Gen) -> Vec<&'static str> {
    let mut out: Vec<&str> = LETTERS.into_iter().filter(|_| bool::arbitrary(g)).collect();
    for at in (1..out.len()).rev() {
        let to = usize::arbitrary(g) % (at + 1);
        out.swap(at, to);
    }
    out
}

fn container(g: &mut Gen, name: &str, patch: bool) -> Value {
    let mut out = Map::new();
    if patch && u8::arbitrary(g) % 5 == 0 {
        out.insert("$patch".into(), "delete".into());
    } else {
        if bool::arbitrary(g) {
            out.insert(
                "image".into(),
                if patch && bool::arbitrary(g) { Value::Null } else { json!(g.choose(&LETTERS)) },
            );
        }
        if bool::arbitrary(g) {
            let ports: Vec<Value> = some(g)
                .iter()
                .map(|l| json!({"containerPort": l.as_bytes()[0], "name": g.choose(&LETTERS)}))
                .collect();
            out.insert("ports".into(), ports.into());
        }
        if bool::arbitrary(g) {
            out.insert("args".into(), json!(some(g)));
        }
        if bool::arbitrary(g) {
            let env: Vec<Value> =
                some(g).iter().map(|l| json!({"name": l, "value": g.choose(&LETTERS)})).collect();
            out.insert("env".into(), env.into());
        }
    }
    out.insert("name".into(), name.into());
    Value::Object(out)
}

fn body(g: &mut Gen, patch: bool) -> Value {
    let (mut metadata, mut spec) = (Map::new(), Map::new());
    if bool::arbitrary(g) {
        let names = some(g);
        let list: Vec<Value> = names.iter().map(|n| container(g, n, patch)).collect();
        let kept: Vec<Value> =
            list.iter().filter(|c| c.get("$patch").is_none()).map(|c| json!({"name": c["name"]})).collect();
        if patch && bool::arbitrary(g) {
            spec.insert("$setElementOrder/containers".into(), kept.into());
        }
        spec.insert("containers".into(), list.into());
    }
    if patch && u8::arbitrary(g) % 10 == 0 {
        let replace = json!([{"$patch": "replace"}, {"name": "x"}]);
        spec.insert("containers".into(), replace);
        spec.remove("$setElementOrder/containers");
    }
    if bool::arbitrary(g) {
        let names = some(g);
        metadata.insert("finalizers".into(), json!(names));
        if patch && bool::arbitrary(g) {
            metadata.insert("$setElementOrder/finalizers".into(), json!(names));
        }
    }
    if patch && bool::arbitrary(g) {
        let gone: Vec<&str> = some(g).into_iter().filter(|_| bool::arbitrary(g)).collect();
        let absent = metadata
            .get("finalizers")
            .and_then(Value::as_array)
            .is_none_or(|f| !gone.iter().any(|x| f.contains(&json!(x))));
        if absent {
            metadata.insert("$deleteFromPrimitiveList/finalizers".into(), json!(gone));
        }
    }
    if bool::arbitrary(g) {
        let labels: Map<String, Value> = some(g)
            .into_iter()
            .map(|l| {
                (
                    l.to_owned(),
                    if patch && bool::arbitrary(g) { Value::Null } else { json!(g.choose(&LETTERS)) },
                )
            })
            .collect();
        metadata.insert("labels".into(), labels.into());
    }
    if bool::arbitrary(g) {
        spec.insert("tolerations".into(), some(g).iter().map(|l| json!({"key": l})).collect());
    }
    if patch && u8::arbitrary(g) % 8 == 0 {
        let kept: Vec<String> = spec.keys().filter(|k| !k.starts_with('$')).cloned().collect();
        spec.insert("$retainKeys".into(), json!(kept));
    }
    json!({ "metadata": metadata, "spec": spec })
}

impl Arbitrary for Case {
    fn arbitrary(g: &mut Gen) -> Self {
        Case { pod: body(g, false), patch: body(g, true) }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Self>> {
        let mut out = Vec::new();
        for part in ["metadata", "spec"] {
            for side in ["pod", "patch"] {
                let members = if side == "pod" { &self.pod[part] } else { &self.patch[part] };
                for name in members.as_object().unwrap().keys() {
                    let mut smaller = self.clone();
                    let target = if side == "pod" { &mut smaller.pod } else { &mut smaller.patch };
                    target[part].as_object_mut().unwrap().remove(name);
                    out.push(smaller);
                }
            }
        }
        Box::new(out.into_iter())
    }
}

#[test]
fn the_fast_and_the_obvious_one_agree() {
    fn holds(case: Case) -> bool {
        let pods = by_path("", "v1", "pods").unwrap();
        let Ok(fast) = patch::strategic(pods, &case.pod, &case.patch) else { return true };
        let slow = Value::Object(reference(case.pod.as_object().unwrap(), case.patch.as_object().unwrap()));
        if fast != slow {
            eprintln!("pod   {}\npatch {}\nfast  {fast}\nslow  {slow}", case.pod, case.patch);
        }
        fast == slow
    }
    QuickCheck::new().tests(20_000).quickcheck(holds as fn(Case) -> bool);
}

#[test]
fn most_cases_are_good_patches() {
    let pods = by_path("", "v1", "pods").unwrap();
    let mut g = Gen::new(30);
    let good = (0..1000).filter(|_| {
        let case = Case::arbitrary(&mut g);
        patch::strategic(pods, &case.pod, &case.patch).is_ok()
    });
    assert!(good.count() > 600, "the generator makes too many bad patches to test anything");
}

#[test]
fn a_patch_applied_twice_changes_nothing_more() {
    fn holds(case: Case) -> bool {
        let pods = by_path("", "v1", "pods").unwrap();
        let Ok(once) = patch::strategic(pods, &case.pod, &case.patch) else { return true };
        let twice = patch::strategic(pods, &once, &case.patch).unwrap();
        twice == once
    }
    QuickCheck::new().tests(5_000).quickcheck(holds as fn(Case) -> bool);
}
