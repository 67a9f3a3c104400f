"""The loop that makes the world as a core wants it: woken by changes, patient with failures, never ending.

In: a step that does what is to be done now. Out: nothing. A step that fails is repeated with growing pauses; it says so at its
first failure and at its recovery.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import structlog

from pilus_api.errors import PilusError
from pilus_api.watch import Backoff
from pilus_operator.metrics import Metrics

T = TypeVar("T")

# How many writes of one kind are on their way at once.
PARALLEL = 20

_log = structlog.get_logger(__name__)


class Loop:
    """`step` returns after how many seconds it wants to be called again though nothing happens; None: not at all."""

    def __init__(self, name: str, step: Callable[[], Awaitable[float | None]], metrics: Metrics) -> None:
        self.name = name
        self._step = step
        self._metrics = metrics
        self._wanted = asyncio.Event()
        self._backoff = Backoff(0.2, 30.0)

    def poke(self) -> None:
        """Something has changed: the step has work."""
        self._wanted.set()

    async def run(self) -> None:
        while True:
            self._wanted.clear()
            try:
                again = await self._step()
            except Exception as error:  # noqa: BLE001  # one of the two places: whatever it was, the next round may do better
                await self._failed(error)
                continue
            if self._backoff.failures:
                self._backoff.reset()
                _log.info("works again", loop=self.name)
            try:
                await asyncio.wait_for(self._wanted.wait(), again)
            except TimeoutError:
                continue

    async def _failed(self, error: Exception) -> None:
        self._metrics.failures.labels(self.name).inc()
        if not self._backoff.failures:
            # Ours are made to be read by people; any other is a fault in the program, and its place is of use.
            trace = not isinstance(error, PilusError)
            _log.warning("does not work, trying again", loop=self.name, error=str(error) or repr(error), exc_info=trace)
        await asyncio.sleep(self._backoff.delay())


async def each(items: Iterable[T], do: Callable[[T], Awaitable[None]], parallel: int = PARALLEL) -> None:
    """Do it for every item, some at a time. One item's failure keeps none of the others; the first is raised at the end."""
    waiting = iter(list(items))
    failed: list[Exception] = []

    async def work() -> None:
        for item in waiting:
            try:
                await do(item)
            except PilusError as error:
                failed.append(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(parallel):
            group.create_task(work())
    if failed:
        raise failed[0]
