"""Eternal tasks: named, referenced, and guarded, so that an error in one is said and the others go on."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

PAUSE = 1.0

_log = structlog.get_logger(__name__)


async def forever(name: str, work: Callable[[], Awaitable[None]], pause: float = PAUSE) -> None:
    """Run `work`, again if it ends or fails; speak at the first failure and at another one."""
    said = ""
    while True:
        try:
            await work()
            said = ""
        except Exception as error:  # noqa: BLE001  # the guard of eternal tasks
            if repr(error) != said:
                _log.error("task failed, going on", task=name, error=repr(error), exc_info=error)
            said = repr(error)
        await asyncio.sleep(pause)


class Tasks:
    def __init__(self) -> None:
        self._running: list[asyncio.Task[None]] = []

    def start(self, name: str, work: Callable[[], Awaitable[None]], pause: float = PAUSE) -> None:
        self._running.append(asyncio.create_task(forever(name, work, pause), name=name))

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()
