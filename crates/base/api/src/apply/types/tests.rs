//! The graphs say what the schemas say.

use serde_json::json;

use super::*;

fn at<'a>(root: &'a Root, path: &[&str]) -> &'a Node {
    path.iter().fold(root.types.node(root.at), |node, name| {
        let inner = match (&node.map, &node.list) {
            (Some(map), _) => map.member(name),
            (_, Some(list)) => Some(list.element),
            _ => None,
        };
        root.types.node(inner.unwrap_or_else(|| panic!("no {name} in {path:?}")))
    })
}

#[test]
fn built_in_lists_are_told_apart_as_upstream_does() {
    let pod = Root::builtin("", "v1", "Pod").unwrap();
    let keys = |path: &[&str]| match &at(&pod, path).list.as_ref().unwrap().how {
        Elements::Keyed(keys) => keys.iter().map(|k| (k.name.to_string(), k.default.clone())).collect(),
        other => panic!("{other:?}"),
    };
    let ports: Vec<_> = keys(&["spec", "containers", "*", "ports"]);
    assert_eq!(ports[0], ("containerPort".to_owned(), Some(json!(0))));
    assert_eq!(ports[1], ("protocol".to_owned(), Some(json!("TCP"))));
    assert_eq!(keys(&["spec", "imagePullSecrets"])[0].1, Some(json!("")));
    let how = |path: &[&str]| at(&pod, path).list.as_ref().unwrap().how.clone();
    assert_eq!(how(&["metadata", "finalizers"]), Elements::Set);
    assert_eq!(how(&["spec", "containers", "*", "args"]), Elements::Atomic);
    assert_eq!(how(&["spec", "tolerations"]), Elements::Atomic);
    assert!(at(&pod, &["spec", "nodeSelector"]).map.as_ref().unwrap().atomic);
    assert!(!at(&pod, &["metadata", "labels"]).map.as_ref().unwrap().atomic);
    let standing =
        |path: &[&str], name: &str| at(&pod, path).map.as_ref().unwrap().field(name).unwrap().standing;
    assert!(standing(&["spec", "containers", "*"], "resources"));
    assert!(standing(&["spec"], "containers"));
    assert!(!standing(&["spec"], "volumes"));
}

#[test]
fn structural_schemas_compile() {
    let root = Root::structural(
        &json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
                "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
                    "items": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer", "default": 7}}}},
                "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
                "any": {"x-kubernetes-preserve-unknown-fields": true},
                "either": {"x-kubernetes-int-or-string": true},
                "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"x": {"type": "string"}}},
            }},
        }}),
        false,
    );
    assert_eq!(at(&root, &["spec", "set"]).list.as_ref().unwrap().how, Elements::Set);
    let Elements::Keyed(keys) = &at(&root, &["spec", "map"]).list.as_ref().unwrap().how else { panic!() };
    assert_eq!(keys[1], Key { name: "b".into(), default: Some(json!(7)) });
    assert!(at(&root, &["spec", "whole"]).map.as_ref().unwrap().atomic);
    assert!(at(&root, &["spec", "any"]).map.as_ref().unwrap().deduced);
    assert_eq!(at(&root, &["spec", "either"]).scalar, Some(Scalar::Untyped));
    assert!(at(&root, &["spec", "open"]).map.as_ref().unwrap().element.is_some());
    assert!(at(&root, &["spec"]).map.as_ref().unwrap().element.is_none());
    assert!(at(&root, &["metadata", "ownerReferences"]).list.is_some());
}
