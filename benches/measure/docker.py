"""Docker as a contender: Debian's docker.io with containerd and runc."""

import http.client
import os
import shutil
import signal
import subprocess
import time

from . import accounting, image
from .kube import Connection
from .place import finish, run, spawn

# The client of the same package: another one on the PATH may be of another version.
CLIENT = "/usr/bin/docker"


class Docker:
    """One daemon, with its own containerd, in a namespace and directories of its own.

    In a network namespace of its own it changes nobody else's FORWARD policy, which it sets to DROP.
    """

    name = "Docker"

    def __init__(self, place):
        self.place = place
        unique = place.unique("docker")
        self.enter = place.namespace(unique)
        self.dir = place.dir / unique
        self.dir.mkdir()
        self.socket = self.dir / "api.sock"
        self.server_group = place.group(f"{unique}/server")
        self.client_group = place.group(f"{unique}/client")
        self.pods_group = place.group(f"{unique}/containers")
        self.log = place.dir / "docker.out"
        self.daemon = None
        place.at_end.append(self.purge)

    @staticmethod
    def missing():
        """What is not installed, if anything."""
        needed = ["dockerd", "containerd", "containerd-shim-runc-v2", "runc", CLIENT]
        return [name for name in needed if shutil.which(name) is None]

    @staticmethod
    def version():
        """What it says of itself."""
        asked = [["dockerd", "--version"], ["containerd", "--version"], ["runc", "--version"]]
        answers = [subprocess.run(words, capture_output=True, text=True, check=True).stdout for words in asked]
        return "; ".join(answer.splitlines()[0].strip() for answer in answers)

    def up(self):
        """Start the daemon; returns milliseconds until its API answered."""
        words = [
            *self.enter, "dockerd", "--host", f"unix://{self.socket}", "--data-root", self.dir / "data",
            "--exec-root", self.dir / "exec", "--pidfile", self.dir / "pid",
            "--exec-opt", "native.cgroupdriver=cgroupfs",
            "--cgroup-parent", f"/{self.pods_group.path.relative_to(accounting.BASE)}",
        ]
        begun = time.monotonic()
        self.daemon = spawn(words, self.server_group, output=self.log)
        accounting.leave_groups()
        accounting.wait_until(self._answers, "dockerd answers")
        return (time.monotonic() - begun) * 1000

    def _answers(self):
        if os.waitpid(self.daemon, os.WNOHANG)[0]:
            self.daemon = None
            raise RuntimeError(f"dockerd ended (hint: see {self.log})")
        connection = Connection(self.socket)
        try:
            connection.request("GET", "/_ping")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def command(self, *words):
        """The words of a command on this daemon."""
        return [CLIENT, "--host", f"unix://{self.socket}", *words]

    def import_image(self, tar):
        """Make the image known."""
        run(self.command("import", tar, image.NAME), self.client_group, output=self.log)
        accounting.leave_groups()

    def run_once(self):
        """`docker run --rm IMAGE true`; returns milliseconds."""
        return run(self.command("run", "--rm", image.NAME, "true"), self.client_group, output=self.log)

    def start_many(self, names):
        """`docker run -d` for each name, all at once."""
        started = []
        for name in names:
            words = self.command("run", "--detach", "--name", name, image.NAME, "sleep", "3600")
            started.append((spawn(words, self.client_group, output=self.log), words))
        for pid, words in started:
            finish(pid, words, self.log)

    def remove_many(self, names):
        """`docker rm --force` of all, in one command, which does them at once."""
        run(self.command("rm", "--force", *names), self.client_group, output=self.log)

    def settle(self):
        """Wait until nothing of ended containers is left."""
        accounting.wait_until(lambda: not self.shims() and not self.pods_group.children(), "containers are gone", step=0.01)
        time.sleep(0.5)

    def cpu_ms(self):
        """Processor time of everything involved so far."""
        return sum(group.cpu_ms() for group in (self.server_group, self.client_group, self.pods_group))

    def service_processes(self):
        """dockerd and containerd; with containers also their shims."""
        return self.server_group.processes()

    def shims(self):
        """The containers' shims."""
        return [pid for pid in self.service_processes() if accounting.name_of(pid).startswith("containerd-shim")]

    def down(self):
        """Stop it; the data stays."""
        if self.daemon is not None:
            os.kill(self.daemon, signal.SIGTERM)
            os.waitpid(self.daemon, 0)
            self.daemon = None
        accounting.wait_until(lambda: not self.server_group.processes(), "dockerd ends", bound=20)

    def purge(self):
        """Stop it; its directories go with the place."""
        try:
            self.down()
        finally:
            for pid in [*self.server_group.processes(), *self.pods_group.processes()]:
                os.kill(pid, signal.SIGKILL)
