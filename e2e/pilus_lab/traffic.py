"""Traffic between pods while bad things happen: open connections that never pause, and packets that must never arrive.

In: descriptors of network namespaces, who talks to whom. Out: how long the longest stall of each connection was, how many forbidden
packets came through, and, so that "none" means something, how many permitted ones. `Traffic` is what a scenario uses; the packets
are made by a process of its own, so that neither the test's work nor this module's own threads make a stall.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pilus_lab.probe import enter

_TALK_SECONDS = 0.002  # each connection: a question every 2 ms, as long as it is answered
_DATAGRAM_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Way:
    """From a network namespace (a descriptor) to an address and port that is listened at in another one."""

    name: str
    source: int
    target: int
    address: str
    port: int


@dataclass(slots=True)
class Told:
    """What came of it. Stalls in seconds: of a connection, the longest time that a question waited for its answer, and when it
    began on the monotonic clock."""

    seconds: float = 0.0
    answers: dict[str, int] = field(default_factory=dict)
    stalls: dict[str, float] = field(default_factory=dict)
    stalled_at: dict[str, float] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    arrived: dict[str, int] = field(default_factory=dict)
    pause: float = 0.0  # the longest that this process itself did nothing

    @property
    def longest(self) -> float:
        return max(self.stalls.values(), default=0.0)


def _made(namespace: int, address: str, kind: int) -> socket.socket:
    """A socket in a namespace; this thread comes back."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(namespace)
        return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    finally:
        try:
            enter(own)
        except OSError:
            os._exit(3)  # in a pod's namespace nothing else may be done
        os.close(own)


class _Connection:
    """One open TCP connection: a question is asked as soon as the last one was answered and its time has come."""

    def __init__(self, way: Way) -> None:
        self.way = way
        with _made(way.target, way.address, socket.SOCK_STREAM) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("", way.port))
            listening.listen(1)
            self.client = _made(way.source, way.address, socket.SOCK_STREAM)
            self.client.settimeout(10)
            self.client.connect((way.address, way.port))
            listening.settimeout(10)
            self.server, _ = listening.accept()
        for end in (self.client, self.server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.asked = 0.0
        self.due = time.monotonic()
        self.waiting = False

    def ask(self, now: float) -> None:
        if not self.waiting and now >= self.due:
            self.client.send(b"?")
            self.asked, self.due, self.waiting = now, now + _TALK_SECONDS, True

    def note(self, told: Told, now: float) -> None:
        """Of a question that is answered, or still waits."""
        if self.waiting and now - self.asked > told.stalls.get(self.way.name, 0.0):
            told.stalls[self.way.name], told.stalled_at[self.way.name] = now - self.asked, self.asked


class _Datagrams:
    """Datagrams one way, counted where they arrive."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.receiver = _made(way.target, way.address, socket.SOCK_DGRAM)
        self.receiver.bind(("", way.port))
        self.receiver.setblocking(False)
        self.sender = _made(way.source, way.address, socket.SOCK_DGRAM)
        self.sender.setblocking(False)
        self.sent = 0
        self.arrived = 0

    def send(self) -> None:
        try:
            self.sender.sendto(b"!", (self.way.address, self.way.port))
        except OSError:
            return  # the link is down: nothing was sent
        self.sent += 1

    def receive(self) -> None:
        while True:
            try:
                self.receiver.recv(64)
            except (BlockingIOError, ConnectionRefusedError):
                return
            self.arrived += 1


class _Load:
    """All of it, in one thread."""

    def __init__(self, talks: Sequence[Way], datagrams: Sequence[Way]) -> None:
        self._told = Told()
        self._connections = [_Connection(way) for way in talks]
        self._flows = [_Datagrams(way) for way in datagrams]
        self._ends = {end.fileno(): (one, end) for one in self._connections for end in (one.client, one.server)}
        self._poll = select.epoll()
        for number in self._ends:
            self._poll.register(number, select.EPOLLIN)

    def run(self, stop: Sequence[int]) -> Told:
        """Until something is in `stop`."""
        told = self._told
        started = before = due = time.monotonic()
        while not stop:
            now = time.monotonic()
            told.pause, before = max(told.pause, now - before), now
            if now >= due:
                due = max(due + _DATAGRAM_SECONDS, now - 1)
                for flow in self._flows:
                    flow.send()
                    flow.receive()
            for one in self._connections:
                if one.way.name not in told.broken:
                    one.ask(now)
            for number, _ in self._poll.poll(0.0005):
                self._hear(number)
        now = time.monotonic()
        for one in self._connections:
            one.note(told, now)
        time.sleep(0.05)  # what is on its way
        for flow in self._flows:
            flow.receive()
            told.sent[flow.way.name], told.arrived[flow.way.name] = flow.sent, flow.arrived
        told.seconds = now - started
        return told

    def _hear(self, number: int) -> None:
        one, end = self._ends[number]
        name = one.way.name
        try:
            data = end.recv(64)
            if not data:
                raise ConnectionResetError("closed")
            if end is one.server:
                end.send(data)
                return
            one.note(self._told, time.monotonic())
            one.waiting = False
            self._told.answers[name] = self._told.answers.get(name, 0) + 1
        except BlockingIOError:
            return
        except OSError as error:
            self._told.broken[name] = str(error)
            self._poll.unregister(number)


class Traffic:
    """As a context manager: inside, every way of `talks` is an open connection, and a datagram goes every millisecond along every
    way of `datagrams`. `told` is there afterwards."""

    def __init__(self, talks: Sequence[Way], datagrams: Sequence[Way] = ()) -> None:
        wanted = {"talks": [asdict(way) for way in talks], "datagrams": [asdict(way) for way in datagrams]}
        self._command = [sys.executable, "-m", "pilus_lab.traffic", json.dumps(wanted)]
        self._namespaces = sorted({fd for way in (*talks, *datagrams) for fd in (way.source, way.target)})
        self.told = Told()

    def __enter__(self) -> Self:
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                                         pass_fds=self._namespaces, env=os.environ | {"PYTHONPATH": path})  # fmt: skip
        self._said = self._process.stdout or sys.stdin
        if self._said.readline() != "ready\n":
            raise RuntimeError(f"traffic could not begin: status {self._process.wait(10)}")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        said = self._said.read()
        self._process.wait(10)
        self._said.close()
        if said:
            self.told = Told(**json.loads(said))


def main() -> None:
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    # A machine that is busy with something else is no stall of a connection.
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    load = _Load([Way(**way) for way in wanted["talks"]], [Way(**way) for way in wanted["datagrams"]])
    print("ready", flush=True)
    print(json.dumps(asdict(load.run(stop))))


if __name__ == "__main__":
    main()
