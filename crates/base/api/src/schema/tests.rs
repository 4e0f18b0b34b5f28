//! The generated table is whole, and says what Kubernetes' OpenAPI says.

use super::*;
use crate::kinds;

fn field(kind: (&str, &str), path: &str) -> Field {
    let resource = kinds::by_kind(kind.0, "v1", kind.1).unwrap();
    let id = get().by_kind(&resource.gvk()).unwrap();
    get().lookup(id, path).unwrap_or_else(|| panic!("no {path}")).clone()
}

#[test]
fn the_whole_table_is_read() {
    let schema = parse::table(TABLE).unwrap();
    assert_eq!(schema.types.len(), TABLE.lines().filter(|l| l.starts_with("T ")).count());
    for (id, kind) in schema.types() {
        assert_eq!(schema.type_of(id).name, kind.name);
        assert!(kind.fields().is_sorted_by_key(|f| f.name), "{}", kind.name);
    }
}

#[test]
fn merge_keys_and_list_types_are_there() {
    let containers = field(("apps", "Deployment"), "spec.template.spec.containers");
    assert!(containers.patch_merge && containers.required);
    assert_eq!(containers.merge_key, Some("name"));
    assert_eq!(containers.list, ListType::Map(vec!["name"]));
    let ports = field(("", "Pod"), "spec.containers.ports");
    assert_eq!(
        (ports.merge_key, ports.list),
        (Some("containerPort"), ListType::Map(vec!["containerPort", "protocol"]))
    );
    let volumes = field(("", "Pod"), "spec.volumes");
    assert!(volumes.patch_merge && volumes.patch_retain_keys);
    assert!(field(("", "Pod"), "spec.nodeSelector").atomic);
    assert!(field(("apps", "Deployment"), "spec.strategy").patch_retain_keys);
    assert_eq!(field(("", "Pod"), "metadata.finalizers").list, ListType::Set);
}

#[test]
fn shapes_are_there() {
    assert_eq!(field(("apps", "Deployment"), "spec.replicas").shape, Shape::Int32);
    assert_eq!(field(("", "Secret"), "data").shape, Shape::Map(Box::new(Shape::Bytes)));
    assert_eq!(field(("", "Service"), "spec.ports.targetPort").shape, Shape::IntOrString);
    assert_eq!(field(("", "Pod"), "metadata.creationTimestamp").shape, Shape::Time);
    assert_eq!(field(("coordination.k8s.io", "Lease"), "spec.renewTime").shape, Shape::MicroTime);
    assert_eq!(
        field(("", "Pod"), "spec.containers.resources.limits").shape,
        Shape::Map(Box::new(Shape::Quantity))
    );
}
