//! Server-side apply against a second, slow and obvious implementation: an object is a map from paths to leaves, a
//! manager a set of paths. Random objects, random managers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use quickcheck::{QuickCheck, TestResult};
use sampan_api::apply::{Reset, Root, Set, Writer, apply, extract, track};
use sampan_api::kinds::Gvk;
use serde_json::{Map, Value, json};

const KIND: Gvk = Gvk { group: "x.io", version: "v1", kind: "Thing" };
const API_VERSION: &str = "x.io/v1";

fn root() -> Root {
    let text = json!({"type": "string"});
    let item = json!({"type": "object", "properties": {"id": text, "a": text, "b": text}});
    Root::structural(
        &json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "s": text, "n": {"type": "integer"},
            "labels": {"type": "object", "additionalProperties": text},
            "items": {"type": "array", "items": item, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["id"]},
            "tags": {"type": "array", "items": text, "x-kubernetes-list-type": "set"},
            "atom": {"type": "array", "items": text},
        }}}}),
        false,
    )
}

/// Choices out of random bytes; zeros when they are used up.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, most: u8) -> u8 {
        self.0.next().copied().unwrap_or_default() % most
    }

    fn text(&mut self) -> Value {
        format!("v{}", self.below(3)).into()
    }

    /// A spec that may have anything.
    fn spec(&mut self) -> Value {
        let mut spec = Map::new();
        for name in ["s", "n", "labels", "items", "tags", "atom"] {
            if self.below(2) == 0 {
                continue;
            }
            let value = match name {
                "s" => self.text(),
                "n" => self.below(3).into(),
                "labels" => {
                    let names: BTreeSet<u8> = (0..=self.below(3)).map(|_| self.below(4)).collect();
                    names.into_iter().map(|n| (format!("l{n}"), self.text())).collect::<Map<_, _>>().into()
                }
                "items" => {
                    let ids: BTreeSet<u8> = (0..=self.below(3)).map(|_| self.below(4)).collect();
                    ids.into_iter().map(|id| self.item(id)).collect::<Vec<_>>().into()
                }
                "tags" => {
                    let tags: BTreeSet<u8> = (0..=self.below(3)).map(|_| self.below(4)).collect();
                    tags.into_iter().map(|t| format!("t{t}")).collect::<Vec<_>>().into()
                }
                _ => (0..=self.below(2)).map(|_| self.text()).collect::<Vec<_>>().into(),
            };
            spec.insert(name.to_owned(), value);
        }
        spec.into()
    }

    fn item(&mut self, id: u8) -> Value {
        let mut item = json!({"id": format!("i{id}")});
        for name in ["a", "b"] {
            if self.below(2) == 1 {
                item[name] = self.text();
            }
        }
        item
    }
}

fn object(spec: Value) -> Value {
    json!({"apiVersion": API_VERSION, "kind": "Thing", "metadata": {"name": "x"}, "spec": spec})
}

/// Leaves, and list elements, by path.
type Flat = BTreeMap<String, Value>;

fn flat(object: &Value) -> Flat {
    let mut out = Flat::new();
    for (name, value) in object["spec"].as_object().into_iter().flatten() {
        let path = format!(".spec.{name}");
        match (name.as_str(), value) {
            ("labels", Value::Object(labels)) => {
                out.extend(labels.iter().map(|(k, v)| (format!("{path}.{k}"), v.clone())));
            }
            ("items", Value::Array(items)) => {
                for item in items {
                    let at = format!("{path}[id={}]", item["id"]);
                    out.extend(
                        item.as_object().unwrap().iter().map(|(k, v)| (format!("{at}.{k}"), v.clone())),
                    );
                    out.insert(at, Value::Null);
                }
            }
            ("tags", Value::Array(tags)) => {
                out.extend(tags.iter().map(|t| (format!("{path}[={t}]"), Value::Null)))
            }
            _ => {
                out.insert(path, value.clone());
            }
        }
    }
    out
}

/// The reference: what is there, and who owns it.
#[derive(Default, Clone, PartialEq, Debug)]
struct Model {
    flat: Flat,
    owners: BTreeMap<String, BTreeSet<String>>,
}

impl Model {
    fn changed(&self, new: &Flat) -> BTreeSet<String> {
        new.iter().filter(|(path, v)| self.flat.get(*path) != Some(v)).map(|(path, _)| path.clone()).collect()
    }

    /// Everybody but one loses what changed and what is gone.
    fn settle(&mut self, but: &str, changed: &BTreeSet<String>, new: Flat) {
        for (owner, paths) in &mut self.owners {
            paths.retain(|path| new.contains_key(path) && (owner == but || !changed.contains(path)));
        }
        self.owners.retain(|_, paths| !paths.is_empty());
        self.flat = new;
    }

    fn update(&mut self, manager: &str, new: Flat) {
        let changed = self.changed(&new);
        self.settle("", &changed, new);
        if !changed.is_empty() {
            self.owners.entry(manager.to_owned()).or_default().extend(changed);
        }
    }

    /// False when somebody else owns what would change.
    fn apply(&mut self, manager: &str, config: &Flat, force: bool) -> bool {
        let mut new = self.flat.clone();
        new.extend(config.clone());
        let last = self.owners.get(manager).cloned().unwrap_or_default();
        let others = || self.owners.iter().filter(|(owner, _)| *owner != manager);
        for path in last.iter().filter(|path| !config.contains_key(*path)) {
            if !others().any(|(_, paths)| paths.contains(path)) {
                // A list element takes along what it holds.
                new.retain(|own, _| own != path && !own.starts_with(&format!("{path}.")));
            }
        }
        let changed = self.changed(&new);
        if !force && others().any(|(_, paths)| !paths.is_disjoint(&changed)) {
            return false;
        }
        self.owners.insert(manager.to_owned(), config.keys().cloned().collect());
        self.settle(manager, &changed, new);
        true
    }
}

/// The real thing.
#[derive(Clone)]
struct Real {
    root: Root,
    live: Option<Value>,
    clock: u32,
}

impl Real {
    fn new() -> Real {
        Real { root: root(), live: None, clock: 0 }
    }

    fn write<T>(&mut self, manager: &str, f: impl FnOnce(&Real, &Writer<'_>) -> T) -> T {
        self.clock += 1;
        let now = format!("2026-01-01T00:{:02}:{:02}Z", self.clock / 60 % 60, self.clock % 60);
        f(self, &Writer { manager, api_version: API_VERSION, subresource: "", now: &now })
    }

    fn update(&mut self, manager: &str, spec: Value) {
        let new = self.write(manager, |real, writer| {
            let mut new = object(spec);
            track(&real.root, real.live.as_ref(), &mut new, writer, &Reset::custom("", false));
            new
        });
        self.live = Some(new);
    }

    fn tried(&mut self, manager: &str, spec: Value, force: bool) -> bool {
        let (before, clock) = (self.live.clone(), self.clock);
        let done = self.write(manager, |real, writer| {
            let reset = Reset::custom("", false);
            apply(&real.root, &KIND, real.live.as_ref(), &object(spec), writer, force, &reset)
        });
        match done {
            Ok(new) => {
                self.live = Some(new);
                true
            }
            Err(status) => {
                assert_eq!(status.code, 409, "{}", status.message);
                (self.live, self.clock) = (before, clock);
                false
            }
        }
    }

    /// The same in the reference's terms: maps and lists are there through what they hold.
    fn model(&self) -> Model {
        let live = self.live.clone().unwrap_or_default();
        let mut flat = flat(&live);
        flat.retain(|_, v| *v != json!({}) && *v != json!([]));
        let mut owners = BTreeMap::new();
        for entry in live["metadata"]["managedFields"].as_array().into_iter().flatten() {
            let name =
                format!("{}/{}", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap());
            let paths = Set::from_fields(&entry["fieldsV1"]).unwrap().paths();
            let holds = [".spec", ".spec.labels", ".spec.items", ".spec.tags"];
            let paths = paths.iter().map(ToString::to_string).filter(|p| !holds.contains(&p.as_str()));
            let paths: BTreeSet<String> = paths.collect();
            if !paths.is_empty() {
                owners.insert(name, paths);
            }
        }
        Model { flat, owners }
    }
}

fn rounds(bytes: &[u8]) -> usize {
    2 + bytes.len() % 5
}

fn follows_the_reference(bytes: Vec<u8>) -> TestResult {
    let mut choices = Choices(bytes.iter());
    let (mut real, mut model) = (Real::new(), Model::default());
    let spec = choices.spec();
    real.update("u0", spec.clone());
    model.update("u0/Update", flat(&object(spec)));
    assert_eq!(real.model(), model);
    for _ in 0..rounds(&bytes) {
        let manager = format!("m{}", choices.below(3));
        let before = (real.model(), real.live.clone());
        let spec = choices.spec();
        let what = choices.below(3);
        if what == 0 {
            real.update(&manager, spec.clone());
            model.update(&format!("{manager}/Update"), flat(&object(spec.clone())));
        } else {
            let force = what == 2;
            let done = real.tried(&manager, spec.clone(), force);
            let wanted = model.apply(&format!("{manager}/Apply"), &flat(&object(spec.clone())), force);
            assert_eq!(done, wanted, "{manager} {spec} over {before:?}");
        }
        assert_eq!(real.model(), model, "{what} {manager} {spec} over {before:?}");
    }
    TestResult::passed()
}

fn again_is_nothing(bytes: Vec<u8>) -> bool {
    let mut choices = Choices(bytes.iter());
    let mut real = Real::new();
    real.update("u", choices.spec());
    for manager in ["a", "b"] {
        let spec = choices.spec();
        real.tried(manager, spec.clone(), true);
        let before = real.live.clone();
        assert!(real.tried(manager, spec.clone(), false), "what was applied does not conflict");
        assert_eq!(real.live, before, "{spec}");
        let config = extract(&real.root, real.live.as_ref().unwrap(), manager, "");
        let config = config.unwrap_or_else(|| object(json!({})));
        assert_eq!(flat(&config), flat(&object(spec)), "what was applied can be taken out again");
    }
    true
}

fn the_disjoint_commute(bytes: Vec<u8>) -> TestResult {
    let mut choices = Choices(bytes.iter());
    let (base, one, two) = (choices.spec(), choices.spec(), choices.spec());
    let paths = |spec: &Value| flat(&object(spec.clone())).into_keys().collect::<BTreeSet<_>>();
    if !paths(&one).is_disjoint(&paths(&two)) {
        return TestResult::discard();
    }
    let run = |first: (&str, &Value), second: (&str, &Value)| {
        let mut real = Real::new();
        real.update("u", base.clone());
        for (manager, spec) in [first, second] {
            real.tried(manager, spec.clone(), true);
        }
        real.model()
    };
    assert_eq!(run(("a", &one), ("b", &two)), run(("b", &two), ("a", &one)));
    TestResult::passed()
}

#[test]
fn applies_and_updates_follow_the_reference() {
    QuickCheck::new().tests(1_500).quickcheck(follows_the_reference as fn(Vec<u8>) -> TestResult);
}

#[test]
fn applying_again_changes_nothing() {
    QuickCheck::new().tests(1_000).quickcheck(again_is_nothing as fn(Vec<u8>) -> bool);
}

#[test]
fn appliers_of_other_fields_commute() {
    QuickCheck::new()
        .tests(1_000)
        .max_tests(100_000)
        .quickcheck(the_disjoint_commute as fn(Vec<u8>) -> TestResult);
}
