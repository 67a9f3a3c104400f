"""Who reaches whom, all at once: one process for each who asks, and all of them ask together.

In: processes to ask beside, and addresses. Out: the set of what was reached. Within a process the questions wait together too, so
what is denied costs one short wait for the whole table.
"""

import itertools
import multiprocessing
import selectors
import time
from collections.abc import Collection, Mapping
from multiprocessing.connection import Connection
from typing import Any, Final

from e2e.scenarios.truth import asker, sctp
from e2e.scenarios.truth.ask import Ask
from e2e.scenarios.truth.asker import News, Order

_START_SECONDS: Final = 60.0


class Table:
    """Asks, and listens where INITs arrive. Whoever is in `servers` has servers of its own there, as pods have.

    `processes`: of each who asks or is asked, one that is in its network namespace. Raises RuntimeError if one that asks has ended.
    """

    def __init__(
        self, processes: Mapping[str, int], addresses: Mapping[str, Mapping[int, str]], servers: Collection[str] = ()
    ) -> None:
        self.addresses = addresses
        self.asked = 0.0  # when the last of the last round was asked
        self._tags = itertools.count(1)
        self._source_ports = itertools.cycle(range(20000, 60000))
        self._pipes: dict[str, Connection] = {}
        self._askers: list[Any] = []
        self._selector = selectors.DefaultSelector()
        spawn = multiprocessing.get_context("spawn")
        for name, process in processes.items():
            ours, its = spawn.Pipe()
            serves = list(addresses[name].values()) if name in servers else []
            one = spawn.Process(target=asker.serve, args=(its, process, serves), name=f"asks from {name}", daemon=True)
            one.start()
            its.close()
            self._askers.append(one)
            self._pipes[name] = ours
            self._selector.register(ours, selectors.EVENT_READ, name)
        for name, pipe in self._pipes.items():
            if not pipe.poll(_START_SECONDS):
                raise RuntimeError(f"nobody asks from {name} after {_START_SECONDS:.0f} s")
            self._news(name)

    def close(self) -> None:
        self._selector.close()
        for pipe in self._pipes.values():
            pipe.close()
        for one in self._askers:
            one.join(10)
            if one.exitcode is None:
                one.kill()

    def reached(self, asks: Collection[Ask], expected: Collection[Ask] = (), grace: float = 0.15, limit: float = 1.5) -> set[Ask]:
        """Which of them are reached. Returns when all that is expected is, and `grace` seconds have brought no more; after `limit`
        seconds in any case."""
        its = _Round(expected)
        orders: dict[str, list[Order]] = {}
        for ask in asks:
            orders.setdefault(ask.by, []).append(self._order(its, ask))
        its.unasked = set(orders)
        for name, held in orders.items():
            self._pipes[name].send(held)
        while its.unasked:
            self._hear(its)
        self.asked = its.asked or time.monotonic()
        while (now := time.monotonic()) < self.asked + limit and (its.missing or now < max(self.asked, its.last) + grace):
            self._hear(its)
        for name in orders:
            self._pipes[name].send([])
        while its.ended < set(orders):
            self._hear(its)
        return its.found

    def _order(self, its: "_Round", ask: Ask) -> Order:
        address = self.addresses[ask.to][ask.family]
        number = len(its.numbered)
        its.numbered.append(ask)
        if ask.protocol != "SCTP":
            return Order(number, address, ask.port, ask.protocol, ask.family)
        tag = next(self._tags)
        its.tags[tag] = ask
        return Order(number, address, ask.port, ask.protocol, ask.family, sctp.init(next(self._source_ports), ask.port, tag))

    def _hear(self, its: "_Round") -> None:
        """What comes within 10 ms."""
        for key, _ in self._selector.select(0.01):
            its.take(key.data, self._news(key.data))

    def _news(self, name: str) -> News:
        try:
            news: News = self._pipes[name].recv()
        except EOFError:
            raise RuntimeError(f"what asks from {name} has ended") from None
        return news


class _Round:
    """What is known of one round of questions."""

    def __init__(self, expected: Collection[Ask]) -> None:
        self.missing = set(expected)
        self.found: set[Ask] = set()
        self.numbered: list[Ask] = []
        self.tags: dict[int, Ask] = {}
        self.unasked: set[str] = set()  # who has not asked yet
        self.ended: set[str] = set()  # who has no more to say
        self.asked = 0.0  # the last of them, as `last`: when there was news
        self.last = 0.0

    def take(self, name: str, news: News) -> None:
        self.last = time.monotonic()
        if news.asked is not None:
            self.unasked.discard(name)
            self.asked = max(self.asked, news.asked)
        if news.ended:
            self.ended.add(name)
        seen = {self.numbered[number] for number in news.reached} | {self.tags[tag] for tag in news.heard if tag in self.tags}
        self.found |= seen
        self.missing -= seen
