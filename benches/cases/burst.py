"""(c) Fifty at once: from one `kubectl apply` to all Ready and all gone, against fifty `docker run -d` and one `rm`."""

import json
import time

from measure import accounting, image
from measure.kube import sleeping_pod
from measure.report import Row

PODS = "/api/v1/namespaces/default/pods"


def measure(ours, rival, rounds, count):
    """Both take turns. Everything is counted, the clients kubectl and docker too."""
    names = [f"burst-{number}" for number in range(count)]
    manifest = ours.place.dir / "burst.yaml"
    # JSON is YAML, and a stream of documents begins with a separator.
    manifest.write_text("".join(f"---\n{json.dumps(sleeping_pod(name, image.NAME))}\n" for name in names))
    keys = ["cpu", "client", "up", "down"]
    samples = {key: ([], []) for key in keys}
    for _ in range(rounds):
        for index, one in enumerate([lambda: burst_ours(ours, manifest, names), lambda: burst_rival(rival, names)]):
            if index == 0 or rival is not None:
                for key, value in one().items():
                    samples[key][index].append(value)
    # A tenth of what docker 20.10 took on the machine that the aim was set on.
    return [
        Row(f"{count} at once: processor time, made to gone, clients too", "CPU-s", *samples["cpu"], aim=3.5 * count / 50),
        Row(f"{count} at once: of which the clients (kubectl, docker)", "CPU-s", *samples["client"]),
        Row(f"{count} at once: wall time until all are Ready (rival: started)", "s", *samples["up"]),
        Row(f"{count} at once: wall time until all are gone", "s", *samples["down"]),
    ]


def burst_ours(ours, manifest, names):
    """One round of Sampan."""
    watch = ours.client().watch(PODS)
    cpu, client = ours.cpu_ms(), ours.client_group.cpu_ms()
    begun = time.monotonic()
    ours.kubectl("apply", "-f", manifest)
    accounting.leave_groups()
    watch.until(lambda w: all(name in w.ready for name in names), "all pods are Ready")
    up = max(watch.ready[name] for name in names) - begun
    begun = time.monotonic()
    # kubectl's own waiting asks for five pods a second.
    ours.kubectl("delete", "-f", manifest, "--force", "--grace-period=0", "--wait=false")
    accounting.leave_groups()
    accounting.wait_until(lambda: not ours.pods_group.children(), "all pods are taken apart", step=0.02)
    down = time.monotonic() - begun
    watch.stop()
    ours.settle()
    client = (ours.client_group.cpu_ms() - client) / 1000
    return {"cpu": (ours.cpu_ms() - cpu) / 1000, "client": client, "up": up, "down": down}


def burst_rival(rival, names):
    """One round of Docker."""
    cpu, client = rival.cpu_ms(), rival.client_group.cpu_ms()
    begun = time.monotonic()
    rival.start_many(names)
    up = time.monotonic() - begun
    begun = time.monotonic()
    rival.remove_many(names)
    accounting.leave_groups()
    down = time.monotonic() - begun
    rival.settle()
    client = (rival.client_group.cpu_ms() - client) / 1000
    return {"cpu": (rival.cpu_ms() - cpu) / 1000, "client": client, "up": up, "down": down}
