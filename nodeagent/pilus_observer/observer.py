"""The observer, put together: pins -> ring -> events -> history, metrics, API; counters and flows beside it; the sweep.

In: paths and settings. Out: a running process until it is told to stop. Decides nothing itself.
"""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pilus_api.errors import PilusError, TemporaryError
from pilus_api.listener import metrics_listener
from pilus_maps.datapath import DESCRIPTION
from pilus_observer import agent, counters, sweep
from pilus_observer.answers import Answers
from pilus_observer.history import History
from pilus_observer.kernel import Kernel
from pilus_observer.metrics import Metrics
from pilus_observer.names import Names
from pilus_observer.nearest import Nearest
from pilus_observer.reader import POLL, Reader
from pilus_observer.rules import RULES, Rules
from pilus_observer.server import SOCKET, Server
from pilus_observer.tasks import Tasks


@dataclass(frozen=True, slots=True)
class Places:
    """Where everything is on this node. `metrics` "" serves none."""

    description: Path = DESCRIPTION
    socket: Path = SOCKET
    agent: Path = agent.AGENT
    rules: Path = RULES
    metrics: str = ""


@contextmanager
def alone(socket: Path) -> Iterator[None]:
    """Only one reader may take from the ring: raises PilusError if another observer lives."""
    socket.parent.mkdir(parents=True, exist_ok=True)
    held = os.open(socket.with_name(f".{socket.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PilusError(f"another observer serves {socket}: stop it first") from None
        yield
    finally:
        os.close(held)


class Observer:
    def __init__(self, places: Places) -> None:
        """Raises InvalidError for an address of metrics that is none."""
        self._kernel = Kernel(places.description)
        self._history = History()
        self._metrics = Metrics(self._history)
        self._names = Names(partial(agent.listed, places.agent))
        nearest = Nearest(partial(agent.asked, places.agent))
        self._reader = Reader(self._kernel, self._names, Rules(places.rules), nearest, self._history, self._metrics)
        answers = Answers(self._kernel, self._history, self._names)
        self._server = Server(places.socket, answers.by_name())
        self._listener = metrics_listener(places.metrics, self._exposition) if places.metrics else None

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set."""
        tasks = Tasks()
        await self._server.start()
        try:
            tasks.start("pins", self._reader.follow_pins)
            tasks.start("events", self._reader.poll, POLL)
            tasks.start("names", self._names.run)
            tasks.start("sweep", self._sweep, sweep.EVERY)
            if self._listener is not None:
                tasks.start("metrics", self._listener.run)
            await stop.wait()
        finally:
            await tasks.stop()
            await self._server.close()
            self._reader.close()
            await self._kernel.close()

    async def _sweep(self) -> None:
        try:
            done = await self._kernel.run(sweep.sweep)
        except TemporaryError:  # nothing is loaded yet
            return
        for swept in done:
            self._metrics.swept.labels(swept.table).inc(swept.entries)

    async def _exposition(self) -> bytes:
        try:
            found = await self._kernel.run(counters.read)
        except TemporaryError:  # nothing is loaded yet: then nothing was counted
            found = []
        return self._metrics.text(found)
