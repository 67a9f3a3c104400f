"""What the local API answers: events, flows, counters.

In: a request. Out: lines, some at a time. Never: sockets (server.py) or maps by hand (counters.py, flows.py).
"""

import asyncio
from functools import partial

from pilus_observer import counters, flows
from pilus_observer.history import History
from pilus_observer.kernel import Kernel
from pilus_observer.names import Names
from pilus_observer.request import Request
from pilus_observer.server import Answer, Lines

_CHUNK = 256


class Answers:
    def __init__(self, kernel: Kernel, history: History, names: Names) -> None:
        self._kernel, self._history, self._names = kernel, history, names

    def by_name(self) -> dict[str, Answer]:
        return {"events": self.events, "flows": self.flows, "counters": self.counters}

    async def events(self, request: Request) -> Lines:
        with self._history.subscribe() as subscription:  # before the past is read: nothing falls in between
            past = self._history.last(request.last)
            for start in range(0, len(past), _CHUNK):
                yield [event.item() for event in past[start : start + _CHUNK]]
            while request.follow:
                yield [(await subscription.next()).item()]

    async def counters(self, request: Request) -> Lines:  # noqa: ARG002
        yield [counters.item(await self._kernel.run(counters.read), self._history.lost)]

    async def flows(self, request: Request) -> Lines:  # noqa: ARG002
        for table in flows.TABLES:
            snapshot = await self._kernel.run(partial(flows.snapshot, table=table, now=flows.clock()))
            for start in range(0, len(snapshot.rows), _CHUNK):
                yield await asyncio.to_thread(snapshot.items, start, start + _CHUNK, self._names.name)
