"""What the API answers, out of a history and without a kernel."""

import asyncio
from pathlib import Path

import pytest

from pilus_api.errors import TemporaryError
from pilus_observer.answers import Answers
from pilus_observer.history import History
from pilus_observer.kernel import Kernel
from pilus_observer.names import Names
from pilus_observer.request import Request

from .make import event


async def nobody(what: str) -> list[dict[str, object]]:
    raise TemporaryError("no agent")


@pytest.mark.parametrize(("published", "last", "expected"), [(0, 5, 0), (10, 0, 0), (10, 3, 3), (1000, 2000, 1000)])
async def test_past_events(tmp_path: Path, published: int, last: int, expected: int) -> None:
    history = History()
    history.publish(event(time=number) for number in range(published))
    kernel = Kernel(tmp_path / "none")
    answers = Answers(kernel, history, Names(nobody))
    found = [line["time"] async for lines in answers.events(Request("events", last)) for line in lines]
    assert found == list(range(published - expected, published))
    await kernel.close()


async def test_follow_leaves_nothing_out_and_tells_nothing_twice(tmp_path: Path) -> None:
    history = History()
    history.publish([event(time=0)])
    kernel = Kernel(tmp_path / "none")
    lines = Answers(kernel, history, Names(nobody)).events(Request("events", 10, follow=True))
    async with asyncio.timeout(5):
        assert [line["time"] for line in await anext(lines)] == [0]
        history.publish([event(time=1), event(time=2)])
        assert [(await anext(lines))[0]["time"] for _ in range(2)] == [1, 2]
    await lines.aclose()
    history.publish([event()] * 5000)
    assert history.lost == 0  # nobody listens any more
    await kernel.close()


@pytest.mark.parametrize("get", ["flows", "counters"])
async def test_without_a_datapath(tmp_path: Path, get: str) -> None:
    kernel = Kernel(tmp_path / "none")
    lines = Answers(kernel, History(), Names(nobody)).by_name()[get](Request(get))
    with pytest.raises(TemporaryError):
        await anext(lines)
    await kernel.close()
