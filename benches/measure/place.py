"""A place to measure in: a directory, network namespaces and control groups of our own, all gone afterwards."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from . import accounting


class Place:
    """Use as a context manager; whatever happens inside, nothing stays behind."""

    def __init__(self, parent):
        self.dir = Path(tempfile.mkdtemp(prefix="sampan-bench-", dir=parent))
        self.group_name = f"sampan-bench-{os.getpid()}"
        self.names = 0
        self.at_end = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Whoever is impatient now would only leave things behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        accounting.leave_groups()
        for action in reversed(self.at_end):
            try:
                action()
            except Exception as error:  # the other steps must still be done
                print(f"warning: cleaning up: {error}")
        for point in self._mounts():
            subprocess.run(["umount", "--lazy", point], check=False)
        shutil.rmtree(self.dir, ignore_errors=True)
        accounting.remove_groups(self.group_name)

    def _mounts(self):
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return sorted((p for p in points if p.startswith(f"{self.dir}/")), key=len, reverse=True)

    def unique(self, name):
        """A name that was not used here before."""
        self.names += 1
        return f"{name}-{self.names}"

    def namespace(self, name):
        """A network namespace with nothing but loopback; returns the words that enter it."""
        path = self.dir / f"{name}.net"
        path.touch()
        subprocess.run(["unshare", f"--net={path}", "true"], check=True)
        # `ip netns exec` would hide /sys/fs/cgroup.
        enter = ["nsenter", f"--net={path}"]
        subprocess.run([*enter, "ip", "link", "set", "lo", "up"], check=True)
        return enter

    def group(self, name):
        """A control group of ours."""
        return accounting.Group(f"{self.group_name}/{name}").make()


def spawn(words, group, environment=None, output=None):
    """Start a program in `group`. As little as possible of our own work is charged to it: no shell, one vfork."""
    environment = {**os.environ, **(environment or {})}
    sink = os.open(output or "/dev/null", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        files = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, sink, 1),
                 (os.POSIX_SPAWN_DUP2, sink, 2)]
        group.enter()
        return os.posix_spawnp(words[0], [str(word) for word in words], environment, file_actions=files)
    finally:
        os.close(sink)


def finish(pid, words, output=None):
    """Wait for a program; anything but success ends the measurement."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        said = output.read_text()[-600:] if output else ""
        raise RuntimeError(f"{' '.join(str(word) for word in words)}: exit code {code}\n{said}")


def run(words, group, environment=None, output=None):
    """Run a program in `group`; returns the milliseconds it took."""
    begun = time.monotonic()
    finish(spawn(words, group, environment, output), words, output)
    return (time.monotonic() - begun) * 1000
