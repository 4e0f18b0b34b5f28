"""Just enough of a Kubernetes client: create, delete and watch, over the administrator's unix socket."""

import http.client
import json
import socket
import threading
import time


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Client:
    """One kept connection for requests, one for each watch."""

    def __init__(self, path):
        self.path = path
        self.connection = Connection(path)

    def request(self, method, path, body=None):
        """One request; returns the decoded answer."""
        headers = {"Content-Type": "application/json"}
        self.connection.request(method, path, body=None if body is None else json.dumps(body), headers=headers)
        answer = self.connection.getresponse()
        content = json.loads(answer.read())
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content.get('message')}")
        return content

    def watch(self, path):
        """Watch from now on."""
        version = self.request("GET", path)["metadata"]["resourceVersion"]
        connection = Connection(self.path)
        connection.request("GET", f"{path}?watch=true&resourceVersion={version}")
        return Watch(connection)


class Watch:
    """A running watch: when each object was first seen, first seen Ready, and seen gone."""

    def __init__(self, connection):
        self.connection = connection
        self.answer = connection.getresponse()
        self.changed = threading.Condition()
        self.added, self.ready, self.gone = {}, {}, {}
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            while line := self.answer.readline():
                when = time.monotonic()
                event = json.loads(line)
                name = event["object"]["metadata"]["name"]
                with self.changed:
                    self.added.setdefault(name, when)
                    if event["type"] == "DELETED":
                        self.gone[name] = when
                    elif is_ready(event["object"]):
                        self.ready.setdefault(name, when)
                    self.changed.notify_all()
        except (OSError, ValueError, http.client.HTTPException, AttributeError):
            return  # closed by stop()

    def until(self, condition, what, bound=120.0):
        """Wait until `condition(self)` holds."""
        with self.changed:
            if not self.changed.wait_for(lambda: condition(self), bound):
                raise RuntimeError(f"{what}: not within {bound:.0f} s")

    def stop(self):
        """End it."""
        if self.connection.sock is not None:
            self.connection.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(5)


def is_ready(pod):
    """Whether the pod's Ready condition is true."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def sleeping_pod(name, image):
    """A pod that does nothing, for long."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"containers": [{"name": "main", "image": image, "command": ["sleep", "3600"]}]},
    }
