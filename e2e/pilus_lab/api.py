"""Requests to the lab's API server that cost milliseconds: through one `kubectl proxy`, whose socket is a file.

In: objects as mappings. Out: what the server says. Raises LabError where it refuses.
"""

import http.client
import json
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pilus_lab.lab import Lab, LabError, wait_for

Object = dict[str, Any]


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Api:
    def __init__(self, lab: Lab) -> None:
        self._path = lab.spec.folder / "proxy.sock"
        self._command = [*lab.kubectl_command(), "proxy", f"--unix-socket={self._path}"]

    def __enter__(self) -> Self:
        # An earlier proxy's: whoever waits for the file would find it, and nobody behind it.
        self._path.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self._connection = _Connection(self._path)
        wait_for("kubectl proxy", self._answers, 30)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._connection.close()
        self._process.terminate()
        self._process.wait(20)

    def _answers(self) -> bool:
        try:
            self._connection.connect()
        except OSError:
            self._connection.close()
            return False
        return True

    def ask(self, method: str, path: str, body: Object | None = None, kind: str = "application/json") -> Object:
        text = None if body is None else json.dumps(body)
        self._connection.request(method, path, text, {"Content-Type": kind})
        answer = self._connection.getresponse()
        said: Object = json.loads(answer.read())
        if answer.status >= 300:
            raise LabError(f"{method} {path}: {said.get('message', said)}")
        return said

    def apply(self, held: Object) -> Object:
        """Made or changed; as the server holds it."""
        return self.ask("PATCH", f"{path_of(held)}?fieldManager=lab&force=true", held, "application/apply-patch+yaml")

    def remove(self, held: Object) -> None:
        self.ask("DELETE", path_of(held))

    def label(self, path: str, labels: Mapping[str, str | None]) -> None:
        self.ask("PATCH", path, {"metadata": {"labels": dict(labels)}}, "application/merge-patch+json")


def path_of(held: Object) -> str:
    version, kind, metadata = held["apiVersion"], held["kind"].lower(), held["metadata"]
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    space = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"/{'apis/' if '/' in version else 'api/'}{version}{space}/{plural}/{metadata['name']}"
