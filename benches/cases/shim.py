"""(e) The process that stays beside each pod: pages that it alone has."""

from measure import accounting, image
from measure.kube import sleeping_pod
from measure.report import Row

PODS = "/api/v1/namespaces/default/pods"


def measure(ours, rival, count):
    """`count` pods and containers, all shims of each."""
    names = [f"shim-{number}" for number in range(count)]
    client = ours.client()
    watch = client.watch(PODS)
    for name in names:
        client.request("POST", PODS, sleeping_pod(name, image.NAME))
    watch.until(lambda w: all(name in w.ready for name in names), "all pods are Ready")
    watch.stop()
    samples = {"private": ([], []), "pss": ([], []), "rss": ([], [])}
    take(ours, count, samples, 0)
    for name in names:
        client.request("DELETE", f"{PODS}/{name}", {"gracePeriodSeconds": 0})
    ours.settle()
    if rival is not None:
        rival.start_many(names)
        accounting.leave_groups()
        take(rival, count, samples, 1)
        rival.remove_many(names)
        accounting.leave_groups()
        rival.settle()
    return [
        Row("shim of one pod: private memory", "MiB", *samples["private"], aim=0.7),
        Row("shim of one pod: proportional set (Pss)", "MiB", *samples["pss"]),
        Row("shim of one pod: resident set (Rss)", "MiB", *samples["rss"]),
    ]


def take(contender, count, samples, index):
    """Read the memory of all its shims."""
    shims = contender.shims()
    if len(shims) < count:
        raise RuntimeError(f"{contender.name}: {len(shims)} shims for {count} pods")
    for pid in shims:
        for name, value in accounting.memory([pid]).items():
            samples[name][index].append(value)
