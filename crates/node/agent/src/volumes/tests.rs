//! Volumes on a real directory, as root where tmpfs is needed.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde_json::json;

use super::*;
use crate::pod::env::{Facts, Objects};

struct Fixed {
    map: ConfigMap,
    secret: Secret,
}

impl Objects for Fixed {
    fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        (name == "cm").then_some(&self.map)
    }
    fn secret(&self, name: &str) -> Option<&Secret> {
        (name == "s").then_some(&self.secret)
    }
}

fn fixed(value: &str) -> Fixed {
    Fixed {
        map: serde_json::from_value(json!({"data": {"a": value, "b": "2"}})).unwrap(),
        secret: serde_json::from_value(json!({"data": {"k": "djE="}})).unwrap(),
    }
}

fn pod(volumes: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "labels": {"x": "y"}},
        "spec": {"containers": [{"name": "c"}], "volumes": volumes}}))
    .unwrap()
}

fn plans(pod: &Pod, objects: &Fixed) -> Result<Vec<Plan>, VolumeError> {
    let tokens = HashMap::from([(TokenKey { audience: String::new(), seconds: 3607 }, "tok".to_owned())]);
    plan(
        pod,
        &Sources { objects, facts: &Facts::default(), tokens: &tokens, images: &HashMap::new() },
        &Claims::new(),
    )
}

#[test]
fn files_are_swapped_at_once_and_stale_ones_go() {
    let dir = tempfile::tempdir().unwrap();
    let spec = json!([{"name": "v", "configMap": {"name": "cm", "items": [{"key": "a", "path": "d/a", "mode": 0o600}]}}]);
    make(dir.path(), plans(&pod(spec), &fixed("1")).unwrap()).unwrap();
    let root = volume_dir(dir.path(), "v");
    assert_eq!(std::fs::read_to_string(root.join("d/a")).unwrap(), "1");
    assert_eq!(std::fs::metadata(root.join("d/a")).unwrap().permissions().mode() & 0o777, 0o600);
    let all = json!([{"name": "v", "configMap": {"name": "cm"}}]);
    make(dir.path(), plans(&pod(all.clone()), &fixed("3")).unwrap()).unwrap();
    assert_eq!(std::fs::read_to_string(root.join("a")).unwrap(), "3");
    assert!(!root.join("d").exists(), "stale link removed");
    let hidden = std::fs::read_dir(&root)
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with("..2"));
    assert_eq!(hidden.count(), 1, "old data directory removed");
    let before = std::fs::read_link(root.join("..data")).unwrap();
    make(dir.path(), plans(&pod(all), &fixed("3")).unwrap()).unwrap();
    assert_eq!(std::fs::read_link(root.join("..data")).unwrap(), before, "nothing to do");
    remove(dir.path()).unwrap();
}

#[test]
fn projected_volume_with_token_in_memory() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let spec = json!([
        {"name": "p", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}},
        {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}]);
    let pod = pod(spec);
    let ready = make(dir.path(), plans(&pod, &fixed("ca")).unwrap()).unwrap();
    assert_eq!(std::fs::read_to_string(ready["p"].path.join("token")).unwrap(), "tok");
    assert_eq!(std::fs::read_to_string(ready["p"].path.join("labels")).unwrap(), "x=\"y\"");
    assert!(is_mount(&ready["p"].path).unwrap() && is_mount(&ready["m"].path).unwrap());
    assert!(std::fs::write(ready["m"].path.join("big"), vec![0; 2 << 20]).is_err(), "sizeLimit holds");
    make(dir.path(), plans(&pod, &fixed("ca")).unwrap()).unwrap();
    remove(dir.path()).unwrap();
    assert!(!dir.path().exists());
}

#[test]
fn missing_objects_and_bad_paths_are_told() {
    let error =
        |volume: serde_json::Value| plans(&pod(json!([volume])), &fixed("1")).unwrap_err().to_string();
    assert_eq!(
        error(json!({"name": "v", "configMap": {"name": "zz"}})),
        "MountVolume.SetUp failed for volume \"v\" : configmap \"zz\" not found"
    );
    assert_eq!(
        error(json!({"name": "v", "secret": {"secretName": "s", "items": [{"key": "q", "path": "q"}]}})),
        "MountVolume.SetUp failed for volume \"v\" : secret references non-existent config key: q"
    );
    assert!(
        error(json!({"name": "v", "configMap": {"name": "cm", "items": [{"key": "a", "path": "../x"}]}}))
            .contains("invalid path")
    );
    let dir = tempfile::tempdir().unwrap();
    let plan = plans(
        &pod(json!([{"name": "h", "hostPath": {"path": "/proc/none", "type": "Directory"}}])),
        &fixed("1"),
    );
    let error = make(dir.path(), plan.unwrap()).unwrap_err().to_string();
    assert!(error.contains("hostPath type check failed: /proc/none is not a directory"), "{error}");
}

#[test]
fn sub_paths_stay_inside() {
    let dir = tempfile::tempdir().unwrap();
    subpath::ensure(dir.path(), Path::new("a/b")).unwrap();
    assert!(dir.path().join("a/b").is_dir());
    std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
    assert!(subpath::ensure(dir.path(), Path::new("out/evil")).is_err());
    assert!(subpath::ensure(dir.path(), Path::new("../x")).is_err());
}
