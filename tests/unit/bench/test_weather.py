"""The churn: how many pods came and went, and how fast, with an API server that takes its time."""

# ruff: noqa: ARG002  (they take what the real ones take)

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bench import weather, weathers
from bench.api import Api
from bench.bench import Bench
from bench.clusters import Cluster
from bench.traffic import Traffic
from bench.weather import Churn, Weathers, come_and_go, reached
from pilus_api.connection import Connection, Object

RANGE = IPv4Network("10.0.2.0/24")


class Clock:
    """Time that passes where it is asked to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


class Server(Connection):
    """Holds what was posted. `pause`: what each request waits for. `writes`: of the slice, after which it is enough."""

    def __init__(self, pause: Callable[[], None] = lambda: None, churn: Churn | None = None, writes: int = 0) -> None:
        self.held: set[str] = set()
        self.pods: list[set[str]] = []
        self._pause, self._churn, self._writes = pause, churn, writes

    async def post(self, path: str, body: Object, params: Any = None) -> Object:
        self._pause()
        self.held.add(f"{path}/{body['metadata']['name']}")
        return {"metadata": {"resourceVersion": "1"}}

    async def put(self, path: str, body: Object, params: Any = None) -> Object:
        self._pause()
        self.pods.append({one["name"] for one in body["endpoints"]})
        if self._churn and len(self.pods) == self._writes:
            self._churn.enough.set()
        return {"metadata": {"resourceVersion": "1"}}

    async def delete(self, path: str, *, uid: str = "", resource_version: str = "") -> Object:
        self._pause()
        self.held.remove(path)
        return {}


async def churned(monkeypatch: pytest.MonkeyPatch, request: float, *, unique: bool, writes: int = 25) -> tuple[Churn, Server]:
    """`request`: seconds that each takes."""
    clock, churn = Clock(), Churn()
    monkeypatch.setattr(weather, "time", clock)
    monkeypatch.setattr(weather, "asyncio", clock)

    def pause() -> None:
        clock.now += request

    server = Server(pause, churn, writes)
    await come_and_go(server, RANGE, "192.0.2.2", 1000, unique, churn)
    return churn, server


@pytest.mark.parametrize("unique", [False, True])
async def test_an_api_server_that_keeps_up(monkeypatch: pytest.MonkeyPatch, unique: bool) -> None:
    churn, server = await churned(monkeypatch, 0.005, unique=unique)
    assert churn.pods == 400
    assert churn.seconds == pytest.approx(10.0)
    assert reached([churn]) == "40.0 pods a second came and went"
    # Four writes only bring pods, and what went with the fifth is where counting begins.
    gone = [len(before - after) for before, after in zip(server.pods, server.pods[1:], strict=False)]
    assert gone == [0] * 3 + [20] * 21
    assert sum(gone[4:]) == churn.pods


async def test_an_api_server_that_falls_behind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn of unique pods is 20 identities that come, 20 that go, and a write: 2.05 s instead of half a one."""
    churn, _ = await churned(monkeypatch, 0.05, unique=True)
    assert reached([churn]) == "9.8 pods a second came and went"


async def test_nothing_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    _, server = await churned(monkeypatch, 0.005, unique=True)
    assert server.held == set()


def test_the_rate_of_several_is_of_all_their_pods_and_time() -> None:
    slow, fast = Churn(), Churn()
    for churn, times in ((slow, (0.0, 1.0, 3.0, 7.0)), (fast, (50.0, 50.5, 51.0))):
        for gone, now in zip((0, 20, 20, 20), times, strict=False):
            churn.turned(gone, now)
    assert [(slow.pods, slow.seconds), (fast.pods, fast.seconds)] == [(40, 6.0), (20, 0.5)]
    assert reached([slow, fast]) == "9.2 pods a second came and went"


class Loop(Api):
    """A loop in a thread, and no cluster."""

    def __init__(self, server: Connection) -> None:
        self._server = server
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="api")
        self.thread.start()

    def start(self, work: Callable[[Connection], Coroutine[Any, Any, Any]]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(work(self._server), self.loop)

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, server: Server) -> Iterator[Weathers]:
    """Turns of 5 ms instead of half a second."""
    monkeypatch.setattr(weather, "_TURNS", 200)
    monkeypatch.setattr(weather, "PODS_A_SECOND", 4000)
    node = {"spec": {"ipam": {"podCIDRs": ["fd00::/64", str(RANGE)]}}}
    lab = SimpleNamespace(get=lambda *_: [node], spec=SimpleNamespace(nodes=[None, SimpleNamespace(ipv4="192.0.2.2")]))
    cluster = SimpleNamespace(lab=lab, place=lambda name: name, address=lambda name: name)
    loop = Loop(server)
    try:
        yield Weathers(cast("Cluster", cluster), loop, cast("Traffic", None))
    finally:
        loop.end()


def test_what_is_measured_is_measured_while_pods_go_as_well_as_come(made: Weathers, server: Server) -> None:
    for number in (1, 2):
        with made.weather("churn"):
            before, after = server.pods[-2:]
            assert before - after
            assert after - before
        assert server.held == set()
        assert len(made.churns) == number
        assert made.churns[-1].pods >= 20
    assert float(reached(made.churns).partition(" ")[0]) > 0


def test_a_churn_that_ends_by_itself_is_an_error(made: Weathers, server: Server) -> None:
    def refused() -> None:
        raise OSError("no API server")

    def within() -> None:
        with made.weather("churn"):
            server._pause = refused
            threading.Event().wait(0.05)

    with pytest.raises(OSError, match="no API server"):
        within()


class Alike:
    """Weathers that do nothing, after a churn of 39.8 pods a second."""

    def __init__(self) -> None:
        self.churns = [Churn()]
        self.churns[0].pods, self.churns[0].seconds = 398, 10.0

    @contextmanager
    def weather(self, _: str) -> Iterator[None]:
        yield


def test_figures_under_churn_say_how_many_pods_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weathers, "established", lambda *_: nullcontext(SimpleNamespace(ns=lambda _: 66.0)))
    cluster = SimpleNamespace(place=lambda name: name, address=lambda name: name)
    traffic = SimpleNamespace(run=lambda *_: {"p50": 5800.0})
    found = list(
        weathers._figures(Bench(True, tmp_path), cast("Cluster", cluster), cast("Traffic", traffic), cast("Weathers", Alike()))
    )
    said = "39.8 pods a second came and went"
    assert len(found) == 12
    assert {one.weather for one in found if said in one.note} == {"churn"}
    assert all(one.note == f"ratio by round 1.000 to 1.000; {said}" for one in found if one.weather == "churn")
