"""The loop and its writes at once; the two listeners."""

import asyncio
import socket
from collections.abc import Callable

import aiohttp
import pytest

from pilus_api.errors import InvalidError, TemporaryError
from pilus_api.listener import Answer, Listener, address, health_listener, metrics_listener
from pilus_operator.metrics import Metrics
from pilus_operator.reconcile import Loop, each


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.005)


async def test_a_step_runs_when_it_is_poked_and_when_it_wished_to() -> None:
    ran = 0
    again: float | None = None

    async def step() -> float | None:
        nonlocal ran
        ran += 1
        return again

    loop = Loop("x", step, Metrics())
    task = asyncio.create_task(loop.run())
    await until(lambda: ran == 1)
    await asyncio.sleep(0.05)
    assert ran == 1
    again = 0.01
    loop.poke()
    loop.poke()
    await until(lambda: ran >= 4)
    task.cancel()


async def test_a_step_that_fails_is_repeated_whatever_it_was() -> None:
    metrics = Metrics()
    errors: list[Exception] = [TemporaryError("later"), KeyError("a fault")]
    done = asyncio.Event()

    async def step() -> None:
        if errors:
            raise errors.pop(0)
        done.set()

    task = asyncio.create_task(Loop("x", step, metrics).run())
    async with asyncio.timeout(5):
        await done.wait()
    assert b'pilus_operator_failures_total{loop="x"} 2.0' in await metrics.text()
    task.cancel()


async def test_one_failure_keeps_no_other_item_and_is_told_at_the_end() -> None:
    done: list[int] = []
    running = most = 0

    async def do(item: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        if item in (2, 5):
            raise TemporaryError(f"not {item}")
        done.append(item)

    with pytest.raises(TemporaryError, match="not 2"):
        await each(range(9), do, parallel=3)
    assert (sorted(done), most) == ([0, 1, 3, 4, 6, 7, 8], 3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(":9963", (None, 9963)), ("127.0.0.1:9234", ("127.0.0.1", 9234)), ("[::1]:80", ("::1", 80))],
)
def test_addresses_to_listen_at(text: str, expected: object) -> None:
    assert address(text) == expected


@pytest.mark.parametrize("text", ["", "9963", "localhost:", "a:b", ":99999"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidError, match="no address"):
        address(text)


async def fetch(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, asyncio.timeout(5):
        while True:
            try:
                async with session.get(url) as answer:
                    return answer.status, await answer.text()
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


async def test_metrics_and_health_are_served() -> None:
    first, second, wrong = free_port(), free_port(), ""
    tasks = [
        asyncio.create_task(metrics_listener(f"127.0.0.1:{first}", Metrics().text).run()),
        asyncio.create_task(health_listener(f"127.0.0.1:{second}", lambda: wrong).run()),
    ]
    status, text = await fetch(f"http://127.0.0.1:{first}/metrics")
    assert status == 200
    assert "pilus_operator_leading 0.0" in text
    assert await fetch(f"http://127.0.0.1:{second}/healthz") == (200, "ok")
    wrong = "stuck"
    assert await fetch(f"http://127.0.0.1:{second}/healthz") == (500, "stuck")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_port_that_is_taken_is_waited_for() -> None:
    async def answer() -> Answer:
        return 200, b"ours", "text/plain"

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        task = asyncio.create_task(Listener(f"127.0.0.1:{port}", "/x", answer, retry=0.02).run())
        await asyncio.sleep(0.1)
        assert not task.done()
    assert await fetch(f"http://127.0.0.1:{port}/x") == (200, "ours")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
