"""Who reaches whom: connections made from inside a pod's network namespace, without a process in the pod.

In: pods of a lab. Out: whether a connection came about. A probe costs a millisecond where one by `kubectl exec` costs two hundred,
so whole tables of who-to-whom can be looked at.
"""

import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from pilus_lab.lab import Lab, LabError

T = TypeVar("T")
Protocol = Literal["tcp", "udp"]

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Probe(NamedTuple):
    """From a pod (`namespace/name`) to an address and port."""

    source: str
    address: str
    port: int
    protocol: Protocol = "tcp"


def network_namespace(uid: str) -> int:
    """A descriptor of the network namespace of the pod with this uid. Raises LabError if no process of it runs."""
    marks = (f"pod{uid}", f"pod{uid.replace('-', '_')}")
    own = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116  # a magic link
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if not any(mark in (process / "cgroup").read_text() for mark in marks):
                continue
            fd = os.open(process / "ns" / "net", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue  # ended while we looked
        if os.fstat(fd).st_ino != own:
            return fd
        os.close(fd)
    raise LabError(f"no process of pod {uid} runs")


def within(namespace: int, work: Callable[[], T]) -> T:
    """Do something in a network namespace, in a thread of its own: a thread that fails to leave must not be used again."""
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            if _libc.setns(namespace, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            found.append(work())
        except BaseException as error:  # noqa: BLE001  # handed to whoever asked
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def reaches(address: str, port: int, protocol: Protocol = "tcp", limit: float = 1.0) -> bool:
    """A whole TCP handshake; for UDP the answer of agnhost's `netexec` to `hostname`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as made:
        made.settimeout(limit)
        try:
            made.connect((address, port))
            if protocol == "udp":
                made.send(b"hostname")
                return bool(made.recv(1500))
        except OSError:
            return False
        return True


class Prober:
    """Probes from the pods of one lab; knows each pod's network namespace after the first probe."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._namespaces: dict[str, int] = {}

    def __enter__(self) -> "Prober":
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._namespaces.values():
            os.close(fd)
        self._namespaces.clear()

    def namespace_of(self, pod: str) -> int:
        if pod not in self._namespaces:
            space, _, name = pod.partition("/")
            uid = self._lab.get("pod", name, f"--namespace={space}")[0]["metadata"]["uid"]
            self._namespaces[pod] = network_namespace(uid)
        return self._namespaces[pod]

    def reaches(self, probe: Probe, limit: float = 1.0) -> bool:
        return within(self.namespace_of(probe.source), lambda: reaches(probe.address, probe.port, probe.protocol, limit))

    def table(self, probes: Iterable[Probe], limit: float = 1.0) -> dict[Probe, bool]:
        """All of them at once."""
        wanted = list(probes)
        for probe in wanted:
            self.namespace_of(probe.source)
        with ThreadPoolExecutor(32) as pool:
            return dict(zip(wanted, pool.map(lambda probe: self.reaches(probe, limit), wanted), strict=True))
