"""(g) Moving a large image: loaded from an archive, pushed to a registry, and pulled from it, cold, until it can be run.

Each contender has registries of both kinds beside it in its own network namespace, fresh for each push. Processor time is that
of the contender alone: client, and daemon if it has one; the registry's stands in a row of its own.
"""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import tarfile
from collections import defaultdict

from measure import accounting
from measure.place import run, spawn
from measure.registry import docker_registry
from measure.report import Row

PORT = 5999
FILE = 2 << 20


def content(number):
    """A file of 2 MiB: half of it compresses well, half not at all, as programs and their data do."""
    rng = random.Random(number)
    words = [bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(500)]
    text = b" ".join(rng.choices(words, k=FILE // 12))[:FILE // 2]
    return text + rng.randbytes(FILE - len(text))


def add(tar, name, data):
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), 0o644
    tar.addfile(entry, io.BytesIO(data))


def archive(path, name, layers, files):
    """A docker archive with so many layers, of so many files in all."""
    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/data/0"]}, "rootfs": {"type": "layers", "diff_ids": []}}
    with tarfile.open(path, "w") as out:
        for layer in range(layers):
            part = path.with_suffix(".layer")
            with tarfile.open(part, "w") as tar:
                for number in range(layer * files // layers, (layer + 1) * files // layers):
                    add(tar, f"data/{number}", content(number))
            with open(part, "rb") as file:
                config["rootfs"]["diff_ids"].append(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
            out.add(part, f"{layer}/layer.tar")
            part.unlink()
        add(out, "config.json", json.dumps(config).encode())
        manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": [f"{layer}/layer.tar" for layer in range(layers)]}]
        add(out, "manifest.json", json.dumps(manifest).encode())


class Registry:
    """One on loopback of a contender's namespace, with nothing in it."""

    def __init__(self, kind, contender, binary, place):
        self.kind, self.group = kind, place.group(place.unique(f"registry-{kind}"))
        self.dir = place.dir / place.unique("registry")
        self.dir.mkdir()
        self.log = place.dir / f"registry-{kind}.out"
        if kind == "docker-registry":
            words = docker_registry(self.dir, PORT)
        else:
            words = [binary, "registry", "serve", "--listen", f"127.0.0.1:{PORT}", "--dir", self.dir, "--open", "--plain-http"]
        self.process = spawn([*contender.enter, *words], self.group, output=self.log)
        accounting.leave_groups()
        probe = [*contender.enter, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{PORT}"]
        accounting.wait_until(lambda: subprocess.run(probe, capture_output=True).returncode == 0, f"{kind} answers", step=0.05)

    def stop(self):
        os.kill(self.process, signal.SIGTERM)
        os.waitpid(self.process, 0)
        shutil.rmtree(self.dir)


class Mover:
    """What a contender says to do the same."""

    def __init__(self, contender, docker):
        self.contender, self.docker = contender, docker

    def words(self, *words):
        if self.docker:
            return self.contender.command(*words)
        return [*self.contender.enter, *self.contender.command("image", *words)]

    def timed(self, *words):
        """Milliseconds of wall time and of processor time."""
        cpu = self.contender.cpu_ms()
        took = run(self.words(*words), self.contender.client_group, output=self.contender.log)
        accounting.leave_groups()
        return took, self.contender.cpu_ms() - cpu

    def load(self, path):
        return self.timed("load", "-i", path) if self.docker else self.timed("load", path)

    def push(self, name, target):
        if self.docker:
            self.timed("tag", name, target)
            return self.timed("push", target)
        return self.timed("push", name, target, "--insecure-registry", target.split("/")[0])

    def pull(self, target):
        if self.docker:
            return self.timed("pull", target)
        return self.timed("pull", target, "--insecure-registry", target.split("/")[0])

    def forget(self, *names):
        """Nothing of the images is left."""
        if self.docker:
            self.timed("rmi", "--force", *names)
        else:
            self.timed("rm", *names)
            self.timed("prune")
        os.sync()


def measure(ours, rival, place, binary, rounds, wanted, megabytes):
    """Everything in turns: contenders, registries, images."""
    movers = [Mover(ours, False)] + ([Mover(rival, True)] if rival else [])
    kinds = [kind for kind in ["docker-registry", "sampan"] if kind == "sampan" or shutil.which(kind)]
    samples = defaultdict(lambda: [[], []])
    files = megabytes * 1_000_000 // FILE
    for layers in (1, 10):
        name, path = f"bench-large:{layers}", place.dir / f"large-{layers}.tar"
        archive(path, name, layers, files)
        for number in range(rounds):
            for index, mover in enumerate(movers):
                one_round(samples, index, mover, (name, path, layers), kinds, binary, place)
        path.unlink()
    rows = []
    for (case, layers, kind, what), (mine, theirs) in samples.items():
        if case not in wanted:
            continue
        where = f", {kind}" if kind else ""
        image = f"{megabytes} MB in {'one layer' if layers == 1 else 'ten layers'}"
        unit = "s" if what == "wall time" else "CPU-s"
        rows.append(Row(f"{case} of {image}{where}: {what}", unit, mine, theirs))
    return rows


def one_round(samples, index, mover, image, kinds, binary, place):
    """Load, and push to and pull from each kind of registry."""
    name, path, layers = image

    def note(case, kind, figures, registry_cpu=None):
        took, cpu = figures
        samples[case, layers, kind, "wall time"][index].append(took / 1000)
        samples[case, layers, kind, "processor time"][index].append(cpu / 1000)
        if registry_cpu is not None:
            samples[case, layers, kind, "the registry's processor time"][index].append(registry_cpu / 1000)

    for kind in kinds:
        # Loaded anew: what was compressed for one registry must not be there for the next.
        note("load", "", mover.load(path))
        registry = Registry(kind, mover.contender, binary, place)
        target = f"127.0.0.1:{PORT}/bench/large:{layers}"
        try:
            before = registry.group.cpu_ms()
            figures = mover.push(name, target)
            note("push", kind, figures, registry.group.cpu_ms() - before)
            names = (name, target) if mover.docker else (name,)
            mover.forget(*names)
            before = registry.group.cpu_ms()
            figures = mover.pull(target)
            note("pull", kind, figures, registry.group.cpu_ms() - before)
            mover.forget(target)
        finally:
            registry.stop()
