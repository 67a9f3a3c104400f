"""Who is who."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pilus_api.errors import TemporaryError
from pilus_observer import names
from pilus_observer.events import End, Event
from pilus_observer.names import Directory, Names, directory, name, unknown

from .make import event, until

LISTS: dict[str, list[dict[str, Any]]] = {
    "identities": [{"identity": 300, "labels": ["k8s:app=web"]}, {"identity": "x"}, {}, {"identity": 301, "labels": 5}],
    "ipcache": [
        {"prefix": "10.0.0.9/32", "identity": 300, "labels": ["k8s:app=web"], "name": "far/web"},
        {"prefix": "10.0.0.1/32", "identity": 300, "labels": [], "name": "stale/web"},
        {"prefix": "10.9.0.0/16", "identity": 302, "labels": [], "name": "a/range"},
        {"prefix": "fd00::9/128", "identity": 303, "labels": ["k8s:app=six"], "name": "far/six"},
        {"prefix": "nonsense", "identity": 300, "name": "x/y"},
        {"prefix": "10.0.0.8/32", "identity": 300, "name": None},
        {},
    ],
    "endpoints": [
        {"number": 7, "namespace": "d", "name": "web", "identity": 300, "labels": [], "ipv4": "10.0.0.1", "ipv6": "fd00::1"},
        {"number": 8, "namespace": "d", "name": None, "identity": 300},
        {"number": None, "namespace": "d", "name": "odd", "identity": 300, "ipv4": ["10.0.0.1"], "ipv6": ""},
    ],
}
KNOWN = directory(LISTS["identities"], LISTS["ipcache"], LISTS["endpoints"])


@pytest.mark.parametrize(
    ("address", "identity", "text", "labels"),
    [
        ("10.0.0.1", 300, "d/web", ("k8s:app=web",)),
        ("fd00::1", 300, "d/web", ("k8s:app=web",)),
        ("10.0.0.9", 300, "far/web", ("k8s:app=web",)),
        ("fd00::9", 303, "far/six", ("k8s:app=six",)),
        ("10.0.0.1", 301, None, ()),  # the address has changed hands
        ("10.0.0.1", 0, "d/web", ()),  # dropped before anybody knew who it was
        ("10.0.0.77", 300, None, ("k8s:app=web",)),
        ("10.9.0.1", 302, None, ()),
        ("8.8.8.8", 2, "world", ("reserved:world",)),
        (None, 1, "host", ("reserved:host",)),
        ("8.8.8.8", 0, None, ()),
        ("8.8.8.8", 77777, None, ()),
    ],
)
def test_name(address: str | None, identity: int, text: str | None, labels: tuple[str, ...]) -> None:
    assert name(KNOWN, End(address, 80, identity)) == End(address, 80, identity, labels, text)


def test_reserved_identities_need_no_agent() -> None:
    assert name(Directory(), End("192.0.2.1", None, 6)) == End("192.0.2.1", None, 6, ("reserved:remote-node",), "remote-node")


@pytest.mark.parametrize(
    ("source", "endpoint", "expected"),
    [
        (End("10.0.0.1", 1, 300), 7, set()),
        (End("10.0.0.1", 1, 305), 0, {("identity", "305"), ("address", "10.0.0.1")}),
        (End("10.0.0.77", 1, 300), 0, {("address", "10.0.0.77")}),
        (End("10.0.0.1", 1, 300), 9, {("endpoint", "9")}),
        (End("198.51.100.7", 1, 2), 0, set()),  # the outside has no names to learn
        (End("10.0.0.77", 1, 0), 0, set()),
        (End(None, None, 300), 0, set()),
    ],
)
def test_unknown(source: End, endpoint: int, expected: set[tuple[str, str]]) -> None:
    assert unknown(KNOWN, event(source, endpoint=endpoint)) == expected


class Agent:
    def __init__(self) -> None:
        self.asked = 0
        self.fails = False
        self.hangs = False

    async def __call__(self, what: str) -> list[dict[str, Any]]:
        self.asked += what == "identities"
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise TemporaryError("not today")
        return LISTS[what]


@asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[Names]:
    held = Names(agent)
    task = asyncio.create_task(held.run())
    await asyncio.sleep(0)  # it waits for somebody who wants to know
    yield held
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "REST", 0.02)
    monkeypatch.setattr(names, "PATIENCE", 0.2)


STRANGER: Event = event(End("10.0.0.1", 1, 300))


async def test_an_event_waits_for_its_names() -> None:
    agent = Agent()
    async with running(agent) as held:
        await held.prepare([STRANGER])
        assert held.name(STRANGER.source).name == "d/web"
        await held.prepare([STRANGER])
        assert agent.asked == 1


async def test_without_an_agent_events_have_no_names_and_it_is_asked_again() -> None:
    agent = Agent()
    agent.fails = True
    async with running(agent) as held:
        await held.prepare([STRANGER])
        assert held.name(STRANGER.source).name is None
        agent.fails = False
        await held.prepare([STRANGER])
        await until(lambda: held.name(STRANGER.source).name == "d/web")


async def test_an_agent_that_hangs_holds_up_an_event_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "PATIENCE", 0.01)
    agent = Agent()
    agent.hangs = True
    async with running(agent) as held:
        async with asyncio.timeout(1):
            await held.prepare([STRANGER])
        assert held.name(STRANGER.source).name is None


async def test_what_the_agent_does_not_know_either_is_not_asked_for_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "REST", 0.02)
    agent = Agent()
    nobody = event(End("10.0.0.55", 1, 999))
    async with running(agent) as held:
        await held.prepare([nobody])
        await until(lambda: bool(held._in_vain))  # the answer has been taken in
        await held.prepare([nobody])
        asked = agent.asked
        for _ in range(5):
            await held.prepare([nobody])
            await asyncio.sleep(0.02)
        assert agent.asked == asked
        await held.prepare([event(End("10.0.0.56", 1, 999))])
        await until(lambda: agent.asked > asked)


async def test_not_more_often_than_once_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "REST", 60.0)
    agent = Agent()
    async with running(agent) as held:
        for number in range(20):
            await held.prepare([event(End(f"10.0.1.{number}", 1, 1000 + number))])
        assert agent.asked == 1


async def test_names_that_are_used_do_not_grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "STALE", 0.01)
    agent = Agent()
    async with running(agent) as held:
        held.name(STRANGER.source)
        await until(lambda: agent.asked == 1)
