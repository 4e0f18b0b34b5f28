"""Sampan as a contender."""

import json
import os
import signal
import subprocess
import time

from . import accounting, image, kube
from .place import run


class Sampan:
    """One instance in a namespace and a data directory of its own."""

    name = "Sampan"

    def __init__(self, binary, place):
        self.binary, self.place = binary, place
        unique = place.unique("sampan")
        self.enter = place.namespace(unique)
        self.data = place.dir / unique
        self.server_group = place.group(f"{unique}/server")
        self.client_group = place.group(f"{unique}/client")
        self.other_group = place.group(f"{unique}/other")
        self.identity, self.pods_group = None, None
        self.log = place.dir / "sampan.out"
        place.at_end.append(self.purge)

    def version(self):
        """What it says of itself."""
        return subprocess.run([self.binary, "version"], capture_output=True, text=True, check=True).stdout.strip()

    def command(self, *words):
        """The words of a command on this instance."""
        return [self.binary, "--data-dir", self.data, *words]

    def up(self):
        """Start the service; returns milliseconds until the node was Ready."""
        words = [*self.enter, *self.command("up", "--detach", "--api-port", "0")]
        took = run(words, self.server_group, output=self.log)
        accounting.leave_groups()
        self.identity = json.loads((self.data / "instance.json").read_text())["id"]
        self.pods_group = accounting.Group(f"sampan-{self.identity}")
        return took

    def import_image(self, tar):
        """Make the image known."""
        run([*self.enter, *self.command("image", "import", tar, image.NAME)], self.client_group, output=self.log)
        accounting.leave_groups()

    def run_once(self):
        """`sampan run --rm IMAGE true`; returns milliseconds."""
        return run(self.command("run", "--rm", image.NAME, "true"), self.client_group, output=self.log)

    def kubectl(self, *words):
        """Run the real kubectl against it."""
        environment = {"KUBECONFIG": str(self.data / "kubeconfig"), "HOME": str(self.place.dir)}
        return run([*self.enter, "kubectl", *words], self.client_group, environment, self.log)

    def client(self):
        """A client on the administrator's socket."""
        return kube.Client(f"/run/sampan/{self.identity}/api.sock")

    def settle(self):
        """Wait until nothing of ended pods is left."""
        accounting.wait_until(lambda: not self.pods_group.children(), "pods are taken apart", step=0.01)
        time.sleep(0.5)

    def cpu_ms(self):
        """Processor time of everything involved so far."""
        groups = [self.server_group, self.client_group, *([self.pods_group] if self.pods_group else [])]
        return sum(group.cpu_ms() for group in groups)

    def service_processes(self):
        """Server and zygote; with pods also their shims."""
        return self.server_group.processes()

    def shims(self):
        """The pods' shims."""
        return [pid for pid in self.service_processes() if accounting.name_of(pid) == "sampan-shim"]

    def down(self):
        """Stop it; the data stays."""
        run([*self.enter, *self.command("down")], self.other_group, output=self.log)
        accounting.leave_groups()

    def purge(self):
        """Stop it and remove the data."""
        if not (self.data / "instance.json").exists():
            return
        subprocess.run([*self.enter, *map(str, self.command("down", "--purge"))], capture_output=True, check=False)
        for pid in self.server_group.processes():
            os.kill(pid, signal.SIGKILL)
        accounting.wait_until(lambda: not self.server_group.processes(), "the service ends", bound=10)
