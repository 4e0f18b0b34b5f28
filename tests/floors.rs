//! Who may import whom. The floors of the house are in ARCHITECTURE.md; this fails on any other arrow.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::{collections::BTreeMap, process::Command};

/// What each crate may depend on, among ours.
const FLOORS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("daemon", &[]),
    ("fuzz", &[]),
    ("cel", &["api"]),
    ("store", &["daemon"]),
    ("planner", &["api"]),
    ("apiserver", &["api", "cel", "daemon", "store"]),
    ("controllers", &["api", "daemon", "planner"]),
    ("container", &["daemon"]),
    ("image", &["daemon"]),
    ("network", &["daemon"]),
    ("agent", &["api", "daemon", "planner", "container", "image", "network"]),
    ("registry", &["daemon", "store"]),
    ("hollow", &["daemon"]),
];

#[test]
fn every_arrow_points_down_an_allowed_floor() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let floors: BTreeMap<&str, &[&str]> = FLOORS.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for package in metadata["packages"].as_array().unwrap() {
        // The root binary alone may know everything.
        let Some(name) = package["name"].as_str().unwrap().strip_prefix("sampan-") else { continue };
        seen += 1;
        let Some(allowed) = floors.get(name) else {
            wrong.push(format!("sampan-{name} has no floor (hint: add it to FLOORS and to ARCHITECTURE.md)"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let Some(other) = dependency["name"].as_str().unwrap().strip_prefix("sampan-") else { continue };
            // Tests may stand on whatever they test against; what ships may not.
            if dependency["kind"] != "dev" && !allowed.contains(&other) {
                wrong.push(format!("sampan-{name} -> sampan-{other}"));
            }
        }
    }
    assert_eq!(seen, FLOORS.len(), "a crate of FLOORS does not exist");
    assert!(wrong.is_empty(), "forbidden arrows:\n  {}", wrong.join("\n  "));
}
