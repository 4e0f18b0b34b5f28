"""The Python client: objects, lists, patches, watches, logs, exec, custom kinds, server-side apply."""

import time

import yaml
from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()
NS = "default"


def until(what, check, bound=60):
    end = time.monotonic() + bound
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.05)
    raise SystemExit(f"not so within {bound} s: {what}")


assert client.VersionApi().get_code().git_version.startswith("v1.")

# Objects, typed.
made = core.create_namespaced_config_map(NS, client.V1ConfigMap(metadata={"name": "py", "labels": {"a": "b"}}, data={"k": "v"}))
assert made.metadata.uid and made.data == {"k": "v"}
try:
    core.create_namespaced_config_map(NS, client.V1ConfigMap(metadata={"name": "py"}))
    raise SystemExit("the same name twice")
except ApiException as refused:
    assert refused.status == 409 and '"AlreadyExists"' in refused.body, refused
core.patch_namespaced_config_map("py", NS, {"data": {"more": "2"}})
core.patch_namespaced_config_map("py", NS, [{"op": "remove", "path": "/data/k"}])
assert core.read_namespaced_config_map("py", NS).data == {"more": "2"}
assert [m.metadata.name for m in core.list_namespaced_config_map(NS, label_selector="a=b").items] == ["py"]

# Lists in pages, from one revision.
for i in range(25):
    core.create_namespaced_config_map(NS, client.V1ConfigMap(metadata={"name": f"page-{i:02}", "labels": {"page": "x"}}))
seen, token = [], None
while True:
    page = core.list_namespaced_config_map(NS, label_selector="page", limit=10, _continue=token)
    seen += [m.metadata.name for m in page.items]
    token = page.metadata._continue
    if not token:
        break
assert seen == [f"page-{i:02}" for i in range(25)], seen
core.delete_collection_namespaced_config_map(NS, label_selector="page")
assert not core.list_namespaced_config_map(NS, label_selector="page").items

# A deployment, watched until it is there.
template = {
    "metadata": {"labels": {"app": "py"}},
    "spec": {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "main", "image": "busybox:1", "command": ["sh", "-c", "echo hello; sleep 1000"]}],
    },
}
apps.create_namespaced_deployment(
    NS,
    {"metadata": {"name": "py"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "py"}}, "template": template}},
)
for event in watch.Watch().stream(apps.list_namespaced_deployment, NS, timeout_seconds=60):
    if (event["object"].status.ready_replicas or 0) == 2:
        break
else:
    raise SystemExit("the deployment is not ready")
pod = core.list_namespaced_pod(NS, label_selector="app=py").items[0].metadata.name
assert until("a log line", lambda: core.read_namespaced_pod_log(pod, NS)) == "hello\n"
told = stream(
    core.connect_get_namespaced_pod_exec, pod, NS, command=["sh", "-c", "echo out; echo err >&2; exit 3"],
    stdout=True, stderr=True, stdin=False, tty=False, _preload_content=False,
)
told.run_forever(timeout=30)
assert told.read_stdout() == "out\n" and told.read_stderr() == "err\n" and told.returncode == 3
apps.patch_namespaced_deployment_scale("py", NS, {"spec": {"replicas": 0}})
until("no pod is left", lambda: not core.list_namespaced_pod(NS, label_selector="app=py").items)

# A kind of our own through the dynamic client, and server-side apply with its conflicts.
crd = yaml.safe_load("""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: oars.harbour.example}
spec:
  group: harbour.example
  scope: Namespaced
  names: {plural: oars, singular: oar, kind: Oar}
  versions:
    - name: v1
      served: true
      storage: true
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec: {type: object, properties: {length: {type: integer, maximum: 9}, wood: {type: string, default: ash}}}
""")
client.ApiextensionsV1Api().create_custom_resource_definition(crd)


def dynamic_client():
    # What it remembers of a server lies beside the test: others use the same address.
    return dynamic.DynamicClient(client.ApiClient(), cache_file="discovery.json")


dyn = dynamic_client()


def oars():
    try:
        return dynamic_client().resources.get(api_version="harbour.example/v1", kind="Oar")
    except dynamic.exceptions.ResourceNotFoundError:
        return None


oar = until("the new kind is served", oars)


def body(length):
    return {"apiVersion": "harbour.example/v1", "kind": "Oar", "metadata": {"name": "left"}, "spec": {"length": length}}


first = dyn.server_side_apply(oar, body=body(3), namespace=NS, field_manager="smith")
assert first.spec.wood == "ash" and first.metadata.managedFields[0].manager == "smith"
try:
    dyn.server_side_apply(oar, body=body(4), namespace=NS, field_manager="cook")
    raise SystemExit("no conflict")
except dynamic.exceptions.ConflictError as refused:
    assert "smith" in str(refused.body) and "FieldManagerConflict" in str(refused.body), refused.body
assert dyn.server_side_apply(oar, body=body(4), namespace=NS, field_manager="cook", force_conflicts=True).spec.length == 4
try:
    oar.create(namespace=NS, body=body(10) | {"metadata": {"name": "right"}})
    raise SystemExit("longer than the schema allows")
except dynamic.exceptions.UnprocessibleEntityError as refused:
    assert "should be less than or equal to 9" in str(refused.body), refused.body
assert [o.metadata.name for o in oar.get(namespace=NS).items] == ["left"]
print("all went well")
