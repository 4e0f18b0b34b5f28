"""Processor time by control group, memory by process.

Processor time is read from the kernel's own accounting of a control group before and after the work, so everything that
was charged to a process in it counts: system calls, page faults, exits, and children that lived for a millisecond.
"""

import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
# Version 1 has a hierarchy for accounting; on a machine with version 2 alone `cpu.stat` says the same.
VERSION_1 = (ROOT / "cpuacct/cpuacct.usage").exists()
BASE = ROOT / "cpuacct" if VERSION_1 else ROOT
TICK = os.sysconf("SC_CLK_TCK")


class Group:
    """A control group used for accounting only; it limits nothing."""

    def __init__(self, name):
        self.path = BASE / name.strip("/")

    def make(self):
        self.path.mkdir(parents=True, exist_ok=True)
        return self

    def enter(self):
        """Move this process there; what it starts from now on is accounted there too."""
        (self.path / "cgroup.procs").write_text("0")

    def cpu_ms(self):
        """Milliseconds of processor time that this group and those below it have used so far."""
        try:
            if VERSION_1:
                return int((self.path / "cpuacct.usage").read_text()) / 1e6
            lines = (self.path / "cpu.stat").read_text().splitlines()
            return int(dict(line.split() for line in lines)["usage_usec"]) / 1e3
        except FileNotFoundError:
            return 0.0

    def processes(self):
        """Everything that runs in this group and those below it."""
        found = []
        for procs in self.path.rglob("cgroup.procs"):
            try:
                found += [int(line) for line in procs.read_text().split()]
            except OSError:
                continue  # the group went away while we looked
        return found

    def children(self):
        """Names of the groups right below."""
        return [entry.name for entry in self.path.iterdir() if entry.is_dir()] if self.path.exists() else []


def remove_groups(name):
    """Remove a group, and those below it, from every hierarchy."""
    for hierarchy in [ROOT, *(entry for entry in ROOT.iterdir() if entry.is_dir() and not entry.is_symlink())]:
        top = hierarchy / name.strip("/")
        for directory, _, _ in os.walk(top, topdown=False):
            try:
                os.rmdir(directory)
            except OSError as error:
                print(f"warning: {directory} stays behind: {error.strerror}")


def leave_groups():
    """Back to the top, where this process began."""
    (BASE / "cgroup.procs").write_text("0")


def machine_ms():
    """Milliseconds that the whole machine has been busy, by /proc/stat: also what no group is charged for."""
    fields = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _wait, irq, softirq, _steal = fields
    return (user + nice + system + irq + softirq) * 1000 / TICK


def memory(processes):
    """Sums over processes, in MiB: proportional set, resident set, private pages."""
    total = {"pss": 0, "rss": 0, "private": 0}
    names = {"Pss:": "pss", "Rss:": "rss", "Private_Clean:": "private", "Private_Dirty:": "private"}
    for pid in processes:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        except OSError:
            continue  # ended, or about to
        for line in lines:
            words = line.split()
            if words[0] in names:
                total[names[words[0]]] += int(words[1])
    return {name: kib / 1024 for name, kib in total.items()}


def name_of(pid):
    """The command name of a process; empty when it ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def wait_until(condition, what, bound=60.0, step=0.002):
    """Poll: the watcher is not part of what is measured."""
    end = time.monotonic() + bound
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {bound:.0f} s")
        time.sleep(step)
