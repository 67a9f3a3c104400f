"""What the kernel's messages about links, addresses and routes are about."""

import asyncio
import struct

import pytest
from tests.unit.agent.fakes import eventually

from pilus_agent.sources.netlink import EVERY, follow, links_of

NEWLINK, DELLINK, NEWADDR, NEWROUTE, DELROUTE, NEWNEIGH, DELQDISC = 16, 17, 20, 24, 25, 28, 37


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def link(index: int, kind: int = NEWLINK) -> bytes:
    return message(kind, struct.pack("=BxHiII", 0, 1, index, 1, 1))


def route(*attributes: tuple[int, bytes], kind: int = NEWROUTE) -> bytes:
    packed = b"".join(
        struct.pack("=HH", 4 + len(value), number) + value.ljust((len(value) + 3) & ~3, b"\0") for number, value in attributes
    )
    return message(kind, struct.pack("=8BI", 2, 24, 0, 0, 254, 3, 0, 1, 0) + packed)


OIF = (4, struct.pack("=I", 7))


@pytest.mark.parametrize(
    ("data", "links"),
    [
        (b"", set()),
        (link(3), {3}),
        (link(3) + link(9, DELLINK), {3, 9}),
        (message(NEWADDR, struct.pack("=BBBBI", 2, 24, 0, 0, 5)), {5}),
        (route((1, b"\n\0\2\0"), OIF), {7}),
        (route(OIF, kind=DELROUTE), {7}),
        (route((9, b"\x10\0\0\0\7\0\0\0")), {EVERY}),  # several ways: which, is not looked up
        (route(), {EVERY}),
        (message(NEWNEIGH, bytes(12)), set()),
        (link(3)[:-4] + b"x", {EVERY}),
        (link(3) + b"\0" * 5, {3, EVERY}),
        (message(NEWLINK, b"\0\0"), {EVERY}),
        (route((4, b"\7")), {EVERY}),
        (route((0, b""))[:-4] + b"\3\0\4\0", {EVERY}),
        (message(DELQDISC, struct.pack("=BxHiIII", 0, 0, 8, 0, 0, 0)), {8}),
    ],
)
def test_links_of(data: bytes, links: set[int]) -> None:
    assert links_of(data) == links


def test_whatever_comes_is_read() -> None:
    whole = link(3) + route((1, b"\n\0\2\0"), OIF)
    for size in range(len(whole)):
        links_of(whole[:size])
    for at in range(len(whole)):
        links_of(whole[:at] + b"\xff" + whole[at + 1 :])


async def test_it_says_that_anything_may_have_happened_before() -> None:
    class Told:
        def __init__(self) -> None:
            self.links: list[frozenset[int]] = []

        def links_moved(self, links: frozenset[int]) -> None:
            self.links.append(links)

    told = Told()
    task = asyncio.create_task(follow(told))
    await eventually(lambda: told.links, "the first")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert told.links == [{EVERY}]
