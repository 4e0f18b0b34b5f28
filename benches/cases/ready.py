"""(d) From the request that creates a pod to its Ready condition as a watch sees it, one pod after the other."""

import time

from measure import image
from measure.kube import sleeping_pod
from measure.report import Row, percentile

PODS = "/api/v1/namespaces/default/pods"


def measure(ours, count):
    """`count` pods; each is gone before the next is made."""
    client = ours.client()
    watch = client.watch(PODS)
    latencies, cpu = [], ours.cpu_ms()
    for number in range(count):
        name = f"ready-{number}"
        begun = time.monotonic()
        client.request("POST", PODS, sleeping_pod(name, image.NAME))
        watch.until(lambda w: name in w.ready, f"{name} is Ready")
        latencies.append((watch.ready[name] - begun) * 1000)
        client.request("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})
        watch.until(lambda w: name in w.gone, f"{name} is gone")
        ours.settle()
    watch.stop()
    note = "1180 ms, quoted: kubelet 1.36 with containerd, a machine of this kind"
    return [
        Row(f"pod created to Ready, median of {count}", "ms", latencies, aim=100, note=note),
        Row(f"pod created to Ready, 95th percentile of {count}", "ms", [percentile(latencies, 0.95)]),
        Row("pod created to Ready and deleted: processor time", "CPU-ms", [(ours.cpu_ms() - cpu) / count]),
    ]
