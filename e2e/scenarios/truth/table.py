"""Who reaches whom, all at once: every pod and the outside to every other, each port, protocol and family.

In: network namespaces and addresses. Out: the set of what was reached. TCP is a whole handshake, UDP an answer, SCTP (which this
kernel need not know) an INIT that arrives at the other side. The sockets are made inside the namespaces and looked at together, so
what is denied costs one short wait for the whole table.
"""

import contextlib
import itertools
import os
import select
import socket
import struct
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, NamedTuple

from scapy.layers.sctp import crc32c

from pilus_lab.probe import within

PORTS: Final = (80, 81)
SPACES: Final = ("x", "y", "z")
NODE: Final = "n"  # where nodes "live": n/1 and n/2
OUTSIDE: Final = "w"  # where those do who are neither: w/a and w/b
FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_SCTP: Final = 132
_INIT: Final = 1
_HELLO: Final = b"hostname"  # agnhost's netexec answers that
_NEVER_LINGER: Final = struct.pack("ii", 1, 0)


class Ask(NamedTuple):
    """By whom, to whom: `namespace/name`. The protocol in capitals."""

    by: str
    to: str
    port: int
    protocol: str
    family: int

    @property
    def by_ns(self) -> str:
        return self.by[: self.by.index("/")]

    @property
    def to_ns(self) -> str:
        return self.to[: self.to.index("/")]

    @property
    def by_is_pod(self) -> bool:
        return self.by_ns in SPACES

    @property
    def to_is_pod(self) -> bool:
        return self.to_ns in SPACES

    @property
    def by_pod(self) -> str:
        return self.by[self.by.index("/") + 1 :]

    @property
    def to_pod(self) -> str:
        return self.to[self.to.index("/") + 1 :]

    def __str__(self) -> str:
        return f"{self.by}>{self.to}:{self.port}/{self.protocol}/IPv{self.family}"


def questions(sources: Collection[str], targets: Collection[str]) -> Iterator[Ask]:
    """From pods and nodes to all others; SCTP to pods alone, for others it does not leave (Pilus does not masquerade it)."""
    for by, to, protocol, port, family in itertools.product(sources, targets, ("TCP", "UDP", "SCTP"), PORTS, FAMILIES):
        ask = Ask(by, to, port, protocol, family)
        if by != to and (ask.to_is_pod or (ask.by_is_pod and protocol != "SCTP")):
            yield ask


def _init(source_port: int, port: int, tag: int) -> bytes:
    """An SCTP INIT: the tag is the sender's, so it says whose it is."""
    chunk = struct.pack("!BBHIIHHI", _INIT, 0, 20, tag, 65536, 1, 1, 1)
    head = struct.pack("!HHI", source_port, port, 0)
    checksum: int = crc32c(head + b"\0\0\0\0" + chunk)
    return head + struct.pack("!I", checksum) + chunk


def _sockets(kinds: Iterable[tuple[int, int]]) -> list[socket.socket]:
    return [socket.socket(*kind) for kind in kinds]


def _tag_of(packet: bytes, family: int) -> int:
    """Of an INIT as a raw socket gives it: in IPv4 with its header. 0 of anything else."""
    sctp = packet[(packet[0] & 15) * 4 :] if family == 4 else packet
    return int.from_bytes(sctp[16:20], "big") if len(sctp) >= 32 and sctp[12] == _INIT else 0


class Table:
    """Asks, and listens where INITs arrive. `serve` has servers where no pod is."""

    def __init__(self, namespaces: Mapping[str, int], addresses: Mapping[str, Mapping[int, str]]) -> None:
        self.namespaces = namespaces
        self.addresses = addresses
        self.asked = 0.0  # when the last of the last round was asked
        self._raw: dict[tuple[str, int], socket.socket] = {}
        self._servers: list[socket.socket] = []
        self._tags = itertools.count(1)
        self._source_ports = itertools.cycle(range(20000, 60000))
        for name, namespace in namespaces.items():
            for family, kind in FAMILIES.items():
                made = within(namespace, partial(socket.socket, kind, socket.SOCK_RAW, _SCTP))
                made.setblocking(False)
                self._raw[name, family] = made

    def serve(self, name: str) -> None:
        """TCP and UDP servers on all addresses and ports of somebody who is no pod."""

        def made() -> list[socket.socket]:
            return [
                socket.socket(FAMILIES[family], kind)
                for family, _ in itertools.product(self.addresses[name], PORTS)
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)
            ]

        wanted = [(self.addresses[name][family], port) for family, port in itertools.product(self.addresses[name], PORTS)]
        for one, bound in zip(within(self.namespaces[name], made), (at for at in wanted for _ in range(2)), strict=True):
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(bound)
            if one.type == socket.SOCK_STREAM:
                one.listen(1024)
            self._servers.append(one)

    def close(self) -> None:
        for one in (*self._raw.values(), *self._servers):
            one.close()

    def reached(self, asks: Collection[Ask], expected: Collection[Ask] = (), grace: float = 0.15, limit: float = 1.5) -> set[Ask]:
        """Which of them are reached. Returns when all that is expected is, and `grace` seconds have brought no more; after `limit`
        seconds in any case."""
        with contextlib.ExitStack() as held:
            return _Round(self, held, asks, set(expected)).run(grace, limit)

    # -- of a round ------------------------------------------------------------------------------------------------------

    def sockets(self, asks: Iterable[Ask]) -> Iterator[tuple[Ask, socket.socket]]:
        """For those of TCP and UDP, made in their namespaces."""
        by_source: dict[str, list[Ask]] = {}
        for ask in asks:
            by_source.setdefault(ask.by, []).append(ask)
        for source, its in by_source.items():
            kinds = [
                (FAMILIES[ask.family], (socket.SOCK_DGRAM if ask.protocol == "UDP" else socket.SOCK_STREAM) | socket.SOCK_NONBLOCK)
                for ask in its
            ]
            made = within(self.namespaces[source], partial(_sockets, kinds))
            yield from zip(its, made, strict=True)

    def send_init(self, ask: Ask) -> int:
        """Returns its tag."""
        tag = next(self._tags)
        with contextlib.suppress(OSError):  # the kernel may tell at once that it goes nowhere
            self._raw[ask.by, ask.family].sendto(
                _init(next(self._source_ports), ask.port, tag), (self.addresses[ask.to][ask.family], 0)
            )
        return tag

    @property
    def listening(self) -> dict[int, tuple[socket.socket, int]]:
        """By number: raw sockets with their families, servers with 0."""
        raw = {one.fileno(): (one, family) for (_, family), one in self._raw.items()}
        return raw | {one.fileno(): (one, 0) for one in self._servers}


class _Round:
    def __init__(self, table: Table, held: contextlib.ExitStack, asks: Collection[Ask], expected: set[Ask]) -> None:
        self._table, self._missing = table, expected
        self._found: set[Ask] = set()
        self._waiting: dict[int, tuple[Ask, socket.socket]] = {}
        self._tags: dict[int, Ask] = {}
        self._poll = held.enter_context(contextlib.closing(select.epoll()))
        self._listening = table.listening
        for number in self._listening:
            self._poll.register(number, select.EPOLLIN)
        for ask, made in table.sockets(ask for ask in asks if ask.protocol != "SCTP"):
            held.callback(made.close)
            if ask.protocol == "TCP":
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NEVER_LINGER)
            self._waiting[made.fileno()] = ask, made
        self._asks = asks

    def run(self, grace: float, limit: float) -> set[Ask]:
        # Datagrams first: their answers take a server's turn, a handshake takes its kernel's.
        for number, (ask, made) in sorted(self._waiting.items(), key=lambda held: held[1][0].protocol, reverse=True):
            made.connect_ex((self._table.addresses[ask.to][ask.family], ask.port))
            if ask.protocol == "UDP":
                with contextlib.suppress(OSError):
                    made.send(_HELLO)
            self._poll.register(number, select.EPOLLIN if ask.protocol == "UDP" else select.EPOLLOUT)
        for ask in self._asks:
            if ask.protocol == "SCTP":
                self._tags[self._table.send_init(ask)] = ask
        self._table.asked = begun = last = time.monotonic()
        while (now := time.monotonic()) < begun + limit and (self._missing or now < last + grace):
            for number, _ in self._poll.poll(0.01):
                if number in self._listening:
                    self._hear(*self._listening[number])
                else:
                    self._answered(number)
                last = time.monotonic()
        return self._found

    def _reached(self, ask: Ask) -> None:
        self._found.add(ask)
        self._missing.discard(ask)

    def _answered(self, number: int) -> None:
        ask, made = self._waiting[number]
        self._poll.unregister(number)
        if ask.protocol == "TCP":
            good = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        else:
            try:
                good = bool(made.recv(1500))
            except OSError:
                good = False
        if good:
            self._reached(ask)

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
                elif (tag := _tag_of(data, family)) in self._tags:
                    self._reached(self._tags[tag])


def told(asks: Collection[Ask]) -> str:
    """The first of them, and how many there are."""
    shown = ", ".join(str(ask) for ask in sorted(asks)[:8])
    return f"{len(asks)}: {shown}{', ...' if len(asks) > 8 else ''}" if asks else "none"


def namespace_of_process(process: int) -> int:
    """A descriptor."""
    return os.open(f"/proc/{process}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
