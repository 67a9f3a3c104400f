"""The last events, and who wants to hear of the next ones.

In: events, in order. Out: the last so many, and a queue for each subscriber. Bounded everywhere: who is slow loses events,
which are counted, and holds up nobody.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pilus_observer.events import Event

CAPACITY = 4096
QUEUE = 1024


class Subscription:
    """One listener's queue. `lost` counts what did not fit."""

    def __init__(self, size: int) -> None:
        self._queue: asyncio.Queue[Event] = asyncio.Queue(size)
        self.lost = 0

    def offer(self, event: Event) -> bool:
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self.lost += 1
            return False
        return True

    async def next(self) -> Event:
        return await self._queue.get()


class History:
    def __init__(self, capacity: int = CAPACITY, queue: int = QUEUE) -> None:
        self._events: deque[Event] = deque(maxlen=capacity)
        self._queue = queue
        self._subscriptions: set[Subscription] = set()
        self.lost = 0  # by all subscribers, for ever

    def publish(self, events: Iterable[Event]) -> None:
        for event in events:
            self._events.append(event)
            for subscription in self._subscriptions:
                if not subscription.offer(event):
                    self.lost += 1

    def last(self, count: int) -> list[Event]:
        """At most `count`, oldest first."""
        held = len(self._events)
        skipped = max(held - count, 0)
        return [event for index, event in enumerate(self._events) if index >= skipped]

    @contextmanager
    def subscribe(self) -> Iterator[Subscription]:
        """Every event published from now on."""
        subscription = Subscription(self._queue)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
