"""Who reaches whom: connections made from inside a pod's network namespace, without a process in the pod. And frames: sent as
they are, seen as they arrive, counted where they were dropped.

In: pods of a lab. Out: whether a connection came about. A probe costs a millisecond where one by `kubectl exec` costs two hundred,
so whole tables of who-to-whom can be looked at.
"""

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from pilus_cli.client import ask
from pilus_lab.lab import Lab, LabError

T = TypeVar("T")
Protocol = Literal["tcp", "udp"]

_CLONE_NEWNET = 0x40000000
_EVERY_PROTOCOL = 3  # ETH_P_ALL
_libc = ctypes.CDLL(None, use_errno=True)


class Probe(NamedTuple):
    """From a pod (`namespace/name`) to an address and port."""

    source: str
    address: str
    port: int
    protocol: Protocol = "tcp"


def process_of(uid: str) -> int:
    """A process of the pod with this uid that is in its network namespace. Raises LabError if none runs."""
    marks = (f"pod{uid}", f"pod{uid.replace('-', '_')}")
    own = os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116  # a magic link
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended while we looked
            if any(mark in (process / "cgroup").read_text() for mark in marks) and (process / "ns" / "net").stat().st_ino != own:
                return int(process.name)
    raise LabError(f"no process of pod {uid} runs")


def network_namespace(uid: str) -> int:
    """A descriptor of the network namespace of the pod with this uid. Raises LabError if no process of it runs."""
    while True:
        with contextlib.suppress(FileNotFoundError):  # ended since it was found
            return namespace_of_process(process_of(uid))


def namespace_of_process(process: int) -> int:
    """A descriptor of its network namespace. Raises OSError if it has ended."""
    return os.open(f"/proc/{process}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace: int) -> None:
    """A network namespace, by its descriptor: this thread, from now on. Raises OSError."""
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def within(namespace: int, work: Callable[[], T]) -> T:
    """Do something in a network namespace, in a thread of its own: a thread that fails to leave must not be used again."""
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            enter(namespace)
            found.append(work())
        except BaseException as error:  # noqa: BLE001  # handed to whoever asked
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def within_process(process: int, work: Callable[[], T]) -> T:
    """The same in a process' network namespace. Raises OSError if it has ended."""
    namespace = namespace_of_process(process)
    try:
        return within(namespace, work)
    finally:
        os.close(namespace)


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

    def forget(self, pod: str) -> None:
        """Of a pod that was made anew: its network namespace is another."""
        if pod in self._namespaces:
            os.close(self._namespaces.pop(pod))

    def reaches(self, probe: Probe, limit: float = 1.0) -> bool:
        return within(self.namespace_of(probe.source), lambda: reaches(probe.address, probe.port, probe.protocol, limit))

    def table(self, probes: Iterable[Probe], limit: float = 1.0) -> dict[Probe, bool]:
        """All of them at once."""
        wanted = list(probes)
        for probe in wanted:
            self.namespace_of(probe.source)
        with ThreadPoolExecutor(32) as pool:
            return dict(zip(wanted, pool.map(lambda probe: self.reaches(probe, limit), wanted), strict=True))


def transmit(namespace: int, frames: Iterable[bytes], link: str = "eth0") -> None:
    """Send frames as they are. All from one CPU, so that on one way they arrive in this order. Raises OSError."""

    def send() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # of this thread alone
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as made:
            made.bind((link, 0))
            for frame in frames:
                made.send(frame)

    within(namespace, send)


class Capture:
    """Frames that arrive at a link, from the making of this on. What its own side sends is left out."""

    def __init__(self, namespace: int, link: str = "eth0") -> None:
        self._socket = within(namespace, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        self._socket.bind((link, _EVERY_PROTOCOL))
        self.mac: str = self._socket.getsockname()[4].hex(":")

    def frames(self) -> list[bytes]:
        """What has come since this was asked last."""
        found: list[bytes] = []
        while True:
            try:
                frame, sender = self._socket.recvfrom(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            if sender[2] != socket.PACKET_OUTGOING:
                found.append(frame)

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def drops(lab: Lab, node: str) -> dict[str, int]:
    """How many packets a node has dropped, by reason, as its observer tells. Raises AskError without one."""
    root = Path("/proc") / str(lab.node(node).orders.first_process()) / "root"
    answer = ask(root / "run/pilus/observer.sock", {"get": "counters"}, "observer")
    found: dict[str, int] = {}
    listed = answer["drops"]
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, dict):
            reason = str(one["reason"])
            found[reason] = found.get(reason, 0) + int(str(one["packets"]))
    return found
