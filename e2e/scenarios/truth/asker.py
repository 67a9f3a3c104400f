"""The process that asks from where a pod is, and hears what arrives there.

In: orders of a Table, over a pipe. Out: news of what was reached. TCP is a whole handshake, UDP an answer, SCTP (which this kernel
need not know) an INIT that arrives at the other side. It is in the pod's network namespace and, where there is one, in its cgroup
of the unified hierarchy, so that the socket programs of its node see it as they see the pod. It ends when the pipe does.
"""

import contextlib
import itertools
import select
import socket
import struct
import time
from collections.abc import Collection, Sequence
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

from e2e.scenarios.truth import sctp
from e2e.scenarios.truth.ask import PORTS

from pilus_lab import cgroups
from pilus_lab.probe import enter, namespace_of_process

_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_HELLO: Final = b"hostname"  # agnhost's netexec answers that
_NEVER_LINGER: Final = struct.pack("ii", 1, 0)


class Order(NamedTuple):
    """One question. `number` is the asker's name for it; the INIT is empty unless the protocol is SCTP."""

    number: int
    address: str
    port: int
    protocol: str
    family: int
    init: bytes = b""


class News(NamedTuple):
    """Numbers that were reached, tags of the INITs that arrived, when the last of all orders was asked (on the monotonic clock),
    and whether this was all of a round."""

    reached: Sequence[int] = ()
    heard: Sequence[int] = ()
    asked: float | None = None
    ended: bool = False


def serve(orders: Connection, process: int, servers: Collection[str]) -> None:
    """The whole work of a process: beside this one, with servers on all ports of these addresses."""
    cgroups.join(cgroups.folders_of(process, (cgroups.UNIFIED,)))
    enter(namespace_of_process(process))
    asker = _Asker(orders)
    for address, port in itertools.product(servers, PORTS):
        asker.listen(address, port)
    orders.send(News())
    with contextlib.suppress(EOFError):
        asker.run()


class _Asker:
    def __init__(self, orders: Connection) -> None:
        self._orders = orders
        self._poll = select.epoll()
        self._poll.register(orders.fileno(), select.EPOLLIN)
        self._raw: dict[int, socket.socket] = {}  # by family
        self._listening: dict[int, socket.socket] = {}  # by descriptor, as what follows
        self._families: dict[int, int] = {}  # of raw sockets
        self._waiting: dict[int, tuple[Order, socket.socket]] = {}
        self._reached: list[int] = []
        self._heard: list[int] = []
        for family, kind in _FAMILIES.items():
            made = self._raw[family] = socket.socket(kind, socket.SOCK_RAW | socket.SOCK_NONBLOCK, sctp.PROTOCOL)
            self._families[made.fileno()] = family
            self._hear_at(made)

    def listen(self, address: str, port: int) -> None:
        """A TCP and a UDP server."""
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            made = socket.socket(_FAMILIES[6 if ":" in address else 4], kind | socket.SOCK_NONBLOCK)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address, port))
            if kind == socket.SOCK_STREAM:
                made.listen(1024)
            self._hear_at(made)

    def _hear_at(self, made: socket.socket) -> None:
        self._listening[made.fileno()] = made
        self._poll.register(made.fileno(), select.EPOLLIN)

    def run(self) -> None:
        """Until the pipe ends: EOFError."""
        while True:
            for number, _ in self._poll.poll():
                if number == self._orders.fileno():
                    self._obey(self._orders.recv())
                elif number in self._listening:
                    self._hear(self._listening[number], self._families.get(number, 0))
                elif number in self._waiting:
                    self._answered(*self._waiting[number])
            if self._reached or self._heard:
                self._tell()

    def _tell(self, asked: float | None = None, *, ended: bool = False) -> None:
        self._orders.send(News(self._reached, self._heard, asked, ended))
        self._reached, self._heard = [], []

    def _obey(self, orders: Sequence[Order]) -> None:
        """Ask these; if there are none, the round has ended."""
        if orders:
            self._ask(orders)
            self._tell(time.monotonic())
            return
        for _, made in self._waiting.values():
            made.close()
        self._waiting.clear()
        self._tell(ended=True)

    def _ask(self, orders: Sequence[Order]) -> None:
        # Datagrams first: their answers take a server's turn, a handshake takes its kernel's.
        for order in sorted(orders, key=lambda order: order.protocol, reverse=True):
            match order.protocol:
                case "SCTP":
                    with contextlib.suppress(OSError):  # the kernel may tell at once that it goes nowhere
                        self._raw[order.family].sendto(order.init, (order.address, 0))
                case "UDP":
                    made = self._connect(order, socket.SOCK_DGRAM, select.EPOLLIN)
                    with contextlib.suppress(OSError):
                        made.send(_HELLO)
                case "TCP":
                    self._connect(order, socket.SOCK_STREAM, select.EPOLLOUT)

    def _connect(self, order: Order, kind: int, event: int) -> socket.socket:
        made = socket.socket(_FAMILIES[order.family], kind | socket.SOCK_NONBLOCK)
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NEVER_LINGER)
        made.connect_ex((order.address, order.port))
        self._waiting[made.fileno()] = order, made
        self._poll.register(made.fileno(), event)
        return made

    def _answered(self, order: Order, made: socket.socket) -> None:
        self._poll.unregister(made.fileno())
        if order.protocol == "TCP":
            good = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        else:
            try:
                good = bool(made.recv(1500))
            except OSError:
                good = False
        if good:
            self._reached.append(order.number)

    def _hear(self, one: socket.socket, family: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                if one.type == socket.SOCK_STREAM:
                    one.accept()[0].close()
                    continue
                data, sender = one.recvfrom(2048)
                if one.type == socket.SOCK_DGRAM:
                    with contextlib.suppress(OSError):
                        one.sendto(data, sender)
                elif tag := sctp.tag_of(data, family):
                    self._heard.append(tag)
