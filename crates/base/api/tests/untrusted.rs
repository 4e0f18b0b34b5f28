//! Whatever comes in, nothing panics, recurses without end or takes long: random bytes, random JSON, mutated manifests.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use quickcheck::{Arbitrary, Gen, QuickCheck};
use sampan_api::decode::{self, FieldValidation, Format};
use sampan_api::kinds::{self, Resource};
use sampan_api::quantity::Quantity;
use sampan_api::selector::{FieldSelector, LabelSelector};
use sampan_api::{openapi, patch};
use serde_json::{Map, Value, json};

/// JSON made of names and values that occur in manifests and patches, so that it reaches deep.
#[derive(Clone, Debug)]
struct Wild(Value);

const NAMES: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "labels",
    "annotations",
    "finalizers",
    "containers",
    "ports",
    "containerPort",
    "env",
    "value",
    "template",
    "replicas",
    "selector",
    "matchLabels",
    "volumes",
    "emptyDir",
    "resources",
    "limits",
    "cpu",
    "tolerations",
    "strategy",
    "rollingUpdate",
    "maxSurge",
    "data",
    "type",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$setElementOrder/finalizers",
    "$deleteFromPrimitiveList/finalizers",
    "kind",
    "apiVersion",
    "creationTimestamp",
    "",
    "ä",
];
const TEXTS: &[&str] =
    &["", "a", "b", "web", "delete", "replace", "merge", "100m", "1Gi", "2026-01-02T03:04:05Z", "QQ==", "x"];

fn wild(g: &mut Gen, depth: usize) -> Value {
    let pick = if depth == 0 { u8::arbitrary(g) % 5 } else { u8::arbitrary(g) % 9 };
    match pick {
        0 => Value::Null,
        1 => json!(bool::arbitrary(g)),
        2 => json!(i64::arbitrary(g)),
        3 => json!(f64::from(i32::arbitrary(g)) / 8.0),
        4 => json!(*g.choose(TEXTS).unwrap()),
        5 | 6 => (0..u8::arbitrary(g) % 4).map(|_| wild(g, depth - 1)).collect(),
        _ => {
            let members = (0..u8::arbitrary(g) % 6)
                .map(|_| ((*g.choose(NAMES).unwrap()).to_owned(), wild(g, depth - 1)));
            Value::Object(members.collect::<Map<_, _>>())
        }
    }
}

impl Arbitrary for Wild {
    fn arbitrary(g: &mut Gen) -> Self {
        let mut object = wild(g, 6);
        if let Value::Object(members) = &mut object {
            for name in ["metadata", "spec"] {
                let inner = wild(g, 5);
                members.insert(name.to_owned(), inner);
            }
        }
        Wild(object)
    }
}

fn resources() -> impl Iterator<Item = &'static Resource> {
    kinds::resources().iter()
}

fn check(tests: u64) -> QuickCheck {
    QuickCheck::new().tests(tests).max_tests(tests * 10)
}

#[test]
fn bytes_never_panic() {
    fn holds(bytes: Vec<u8>) -> bool {
        let pods = kinds::by_path("", "v1", "pods").unwrap();
        let _ = decode::body(pods, Format::Json, &bytes, FieldValidation::Strict);
        let _ = decode::body(pods, Format::Yaml, &bytes, FieldValidation::Strict);
        let _ = patch::json(&json!({}), &bytes);
        let _ = patch::parse(&bytes);
        true
    }
    check(2000).quickcheck(holds as fn(Vec<u8>) -> bool);
}

#[test]
fn texts_never_panic() {
    fn holds(text: String) -> bool {
        let _ = Quantity::parse(&text).map(|q| (q.canonical(), q.to_milli(), q.to_units()));
        let _ = LabelSelector::parse(&text);
        for resource in resources() {
            let _ = FieldSelector::parse(resource, &text);
        }
        let _ = openapi::v3(&text).is_some();
        true
    }
    check(3000).quickcheck(holds as fn(String) -> bool);
}

#[test]
fn what_decodes_decodes_again_to_the_same() {
    fn holds(object: Wild) -> bool {
        resources().all(|resource| {
            let Ok((once, _)) = decode::decode(resource, object.0.clone(), FieldValidation::Warn) else {
                return true;
            };
            decode::decode(resource, once.clone(), FieldValidation::Strict)
                .is_ok_and(|(twice, _)| twice == once)
        })
    }
    check(1500).quickcheck(holds as fn(Wild) -> bool);
}

#[test]
fn patches_never_panic() {
    fn holds(object: Wild, change: Wild) -> bool {
        for resource in resources() {
            let _ = patch::strategic(resource, &object.0, &change.0).map(|patched| {
                patch::checked(resource.gvk(), patched, Vec::new(), b"{}", FieldValidation::Strict)
            });
        }
        let _ = patch::merge(&object.0, &change.0);
        let operations = json!([
            {"op": "add", "path": "/spec", "value": change.0},
            {"op": "copy", "from": "/spec", "path": "/metadata"},
            {"op": "move", "from": "/metadata/name", "path": "/spec/-"},
        ]);
        let _ = patch::json(&object.0, operations.to_string().as_bytes());
        true
    }
    check(1000).quickcheck(holds as fn(Wild, Wild) -> bool);
}

#[test]
fn quantities_survive_their_own_form() {
    fn holds(milli: i64, exponent: u8) -> bool {
        const SUFFIXES: [&str; 15] =
            ["n", "u", "m", "", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "e3"];
        let text =
            format!("{}.{:03}{}", milli / 1000, (milli % 1000).abs(), SUFFIXES[usize::from(exponent) % 15]);
        let one = Quantity::parse(&text).unwrap();
        let two = Quantity::parse(&one.canonical()).unwrap();
        one == two && one.canonical() == two.canonical() && (one + two) - one == two
            || one.to_f64().abs() > 4e18
    }
    check(5000).quickcheck(holds as fn(i64, u8) -> bool);
}

#[test]
fn deep_input_is_refused_not_followed() {
    let pods = kinds::by_path("", "v1", "pods").unwrap();
    for text in
        ["[".repeat(1_000_000), "{\"a\":".repeat(1_000_000), "- ".repeat(1_000_000), "? ".repeat(100_000)]
    {
        for format in [Format::Json, Format::Yaml] {
            assert!(decode::body(pods, format, text.as_bytes(), FieldValidation::Ignore).is_err());
        }
    }
    let selector = format!("a in ({})", "x,".repeat(100_000));
    assert_eq!(LabelSelector::parse(&selector).unwrap_err().code, 400);
    assert_eq!(LabelSelector::parse(&"!".repeat(1_000_000)).unwrap_err().code, 400);
}
