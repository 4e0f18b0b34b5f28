"""An operator as people write them: mans boats, keeps a log for each, and says farewell."""

import kopf
from kubernetes import client, config

config.load_kube_config()
core = client.CoreV1Api()


@kopf.on.startup()
def settle(settings: kopf.OperatorSettings, **_):
    settings.posting.enabled = True
    settings.networking.request_timeout = 30


@kopf.on.create("harbour.example", "v1", "boats")
def man(spec, name, namespace, patch, **_):
    log = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"{name}-log"}, "data": {"crew": str(spec["crew"])}}
    kopf.adopt(log)
    core.create_namespaced_config_map(namespace, log)
    patch.status["state"] = f"manned by {spec['crew']}"


@kopf.on.update("harbour.example", "v1", "boats", field="spec.crew")
def relieve(new, name, namespace, patch, **_):
    core.patch_namespaced_config_map(f"{name}-log", namespace, {"data": {"crew": str(new)}})
    patch.status["state"] = f"manned by {new}"


@kopf.on.delete("harbour.example", "v1", "boats")
def farewell(name, namespace, **_):
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "farewell"}, "data": {"boat": name}})
