"""(b) One short container, image present: `run --rm IMAGE true`. Engines alone as the floor."""

import json
import os
import shutil
import subprocess
import tarfile

from measure import accounting
from measure.place import run
from measure.report import Row


def measure(contenders, rounds, times):
    """`times` runs in a row for each contender, `rounds` times, taking turns."""
    for contender in contenders:
        contender.run_once()  # first-time work is not what is compared
        contender.settle()
    cpu, wall, machine = ([[], []] for _ in range(3))
    for _ in range(rounds):
        for index, contender in enumerate(contenders):
            busy, before = accounting.machine_ms(), contender.cpu_ms()
            wall[index] += [contender.run_once() for _ in range(times)]
            accounting.leave_groups()
            contender.settle()
            cpu[index].append((contender.cpu_ms() - before) / times)
            machine[index].append((accounting.machine_ms() - busy) / times)
    return [
        Row("run --rm IMAGE true: processor time of everything involved", "CPU-ms", *cpu, aim=25),
        Row("run --rm IMAGE true: wall time", "ms", *wall),
        Row("run --rm IMAGE true: whole machine by /proc/stat, a check", "CPU-ms", *machine),
    ]


def measure_floor(place, tar, rounds, times):
    """What an OCI runtime alone takes: no image, no network, no API. One row for each that is installed."""
    rows = []
    for engine in filter(shutil.which, ["crun", "runc"]):
        group = place.group(f"floor-{engine}")
        loop = engine_loop(place, tar, engine, times)
        cpu, wall = [], []
        for _ in range(rounds):
            before = group.cpu_ms()
            wall.append(run(loop, group, output=place.dir / "floor.out") / times)
            accounting.leave_groups()
            cpu.append((group.cpu_ms() - before) / times)
        rows.append(Row(f"floor: {engine} run, processor time", "CPU-ms", [], cpu))
        rows.append(Row(f"floor: {engine} run, wall time", "ms", [], wall))
    return rows


def engine_loop(place, tar, engine, times):
    """The words of a program that runs a bundle `times` times."""
    bundle = place.dir / f"bundle-{engine}"
    rootfs = bundle / "rootfs"
    os.makedirs(rootfs)
    with tarfile.open(tar) as archive:
        archive.extractall(rootfs)
    subprocess.run([engine, "spec"], cwd=bundle, check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"].update(args=["true"], terminal=False)
    config["linux"]["cgroupsPath"] = f"/{place.group_name}/floor-{engine}/container"
    (bundle / "config.json").write_text(json.dumps(config))
    # crun refuses a hierarchy of version 2 beside those of version 1.
    hide = "umount /sys/fs/cgroup/unified 2>/dev/null; "
    again = f'i=0; while [ $i -lt {times} ]; do i=$((i+1)); {engine} --root {place.dir}/{engine} run bench-$i || exit 1; done'
    return ["unshare", "--mount", "sh", "-c", f"{hide}cd {bundle}; {again}"]
