"""What becomes of this node's links, addresses, routes and filters, as the kernel tells it.

In: rtnetlink's multicast groups. Out: the indices of links that something has happened to; `EVERY` where the kernel could not tell
it all. Never looks at what it is now: whoever is told asks the kernel, and so what comes doubled, late or not at all does no harm.
"""

import asyncio
import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final, Protocol

import structlog

_log = structlog.get_logger(__name__)

EVERY: Final = 0

# linux/rtnetlink.h
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE = 16, 17, 20, 21, 24, 25
_DELQDISC, _DELFILTER = 37, 45
_GROUPS: Final = 1 | 8 | 0x10 | 0x40 | 0x100 | 0x400  # links; filters; IPv4 addresses and routes; IPv6 addresses and routes
_OF_A_LINK: Final = frozenset({_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _DELQDISC, _DELFILTER})  # whose index is in one place
_OIF = 4
_HEADER, _ROUTE = struct.Struct("=IHHII"), 12  # nlmsghdr; sizeof(struct rtmsg)
_ROOM: Final = 1 << 16
_TOGETHER_SECONDS: Final = 0.02  # a link that goes down takes a row of routes along


class Sink(Protocol):
    def links_moved(self, links: frozenset[int]) -> None: ...


def _aligned(size: int) -> int:
    return (size + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if not 4 <= size <= len(data):
            return
        yield kind & 0x3FFF, data[4:size]
        data = data[_aligned(size) :]


def links_of(data: bytes) -> frozenset[int]:
    """The links that one datagram of the kernel's is about; `EVERY` among them if a message can't be read."""
    found: set[int] = set()
    while data:
        if len(data) < _HEADER.size:
            return frozenset({*found, EVERY})
        size, kind, *_ = _HEADER.unpack_from(data)
        if not _HEADER.size <= size <= len(data):
            return frozenset({*found, EVERY})
        body, data = data[_HEADER.size : size], data[_aligned(size) :]
        if kind in _OF_A_LINK:
            found.add(struct.unpack_from("=i", body, 4)[0] if len(body) >= 8 else EVERY)
        elif kind in (_NEWROUTE, _DELROUTE):
            held = dict(_attributes(body[_ROUTE:]))
            found.add(int.from_bytes(held[_OIF], "little") if len(held.get(_OIF, b"")) == 4 else EVERY)
    return frozenset(found)


async def follow(sink: Sink) -> None:
    """For ever, in the network namespace that the caller is in."""
    loop = asyncio.get_running_loop()
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as made:
        made.bind((0, _GROUPS))
        # What happened before anybody listened.
        found = frozenset({EVERY})
        while True:
            sink.links_moved(found)
            moved = set(await _next(loop, made))
            await asyncio.sleep(_TOGETHER_SECONDS)
            while True:
                try:
                    moved |= links_of(made.recv(_ROOM))
                except BlockingIOError:
                    break
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    moved.add(EVERY)
            found = frozenset(moved)


async def _next(loop: asyncio.AbstractEventLoop, made: socket.socket) -> frozenset[int]:
    try:
        return links_of(await loop.sock_recv(made, _ROOM))
    except OSError as error:
        if error.errno != errno.ENOBUFS:  # more happened than fits: whatever it was
            raise
        _log.warning("the kernel told more of links and routes than could be read, everything is looked at")
        return frozenset({EVERY})
