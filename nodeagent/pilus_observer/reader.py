"""The reader of the event ring: polls, gives events their names, and tells history and metrics.

In: a ring and the decoder of its datapath, which change when the agent loads again. Out: named events, in order. Polling costs
less than a wake-up for each event would cost the programs.
"""

import asyncio
import time
from dataclasses import replace

import structlog

from pilus_maps import Datapath
from pilus_maps.ring import Ring
from pilus_observer.events import Decoder, Event
from pilus_observer.history import History
from pilus_observer.kernel import Kernel
from pilus_observer.metrics import Metrics
from pilus_observer.names import Names
from pilus_observer.nearest import Nearest
from pilus_observer.rules import Rules

POLL = 0.05
_BATCH = 512

_log = structlog.get_logger(__name__)


def open_ring(datapath: Datapath) -> tuple[Ring, Decoder]:
    """Raises KernelError. The ring outlives the map's descriptor."""
    held = datapath.map("events")
    return Ring(held.fd, held.max_entries), Decoder(datapath.description)


def boot_time() -> float:
    """When this machine started, by the clock as it is set now."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


class Reader:
    def __init__(self, kernel: Kernel, names: Names, rules: Rules, nearest: Nearest, history: History, metrics: Metrics) -> None:
        self._kernel, self._names, self._rules, self._nearest = kernel, names, rules, nearest
        self._history, self._metrics = history, metrics
        self._ring: Ring | None = None
        self._decoder: Decoder | None = None
        self._generation = 0
        self._broken = False

    async def follow_pins(self) -> None:
        """Once: open the ring anew if the datapath is another one."""
        await self._kernel.refresh()
        generation = self._kernel.generation
        if generation == self._generation:
            return
        ring, decoder = await self._kernel.run(open_ring)
        self.close()
        self._ring, self._decoder, self._generation = ring, decoder, generation

    def close(self) -> None:
        if self._ring is not None:
            self._ring.close()
        self._ring = self._decoder = None

    async def poll(self) -> None:
        """Once: everything that is in the ring now."""
        while self._ring is not None:
            events, count = self._read(self._ring)
            if events:
                await self._rules.refresh()
                await asyncio.gather(self._names.prepare(events), self._nearest.prepare(events))
                self._history.publish(self._named(event) for event in events)
            if count < _BATCH:
                return
            await asyncio.sleep(0)

    def _named(self, event: Event) -> Event:
        return replace(event.named(self._names.name, self._rules.text), nearest=self._nearest.text(event))

    def _read(self, ring: Ring) -> tuple[list[Event], int]:
        """Events, and how many records they came out of."""
        decoder, boot = self._decoder, boot_time()
        assert decoder is not None  # noqa: S101  # comes and goes with the ring
        events, count = [], 0
        for raw in ring.read(_BATCH):
            count += 1
            try:
                event = decoder.decode(raw, boot)
            except ValueError as error:
                if not self._broken:
                    _log.error("a record that is no event", error=str(error))
                self._broken = True
                self._metrics.broken()
                continue
            self._metrics.count(event, decoder.words.flow_reason(event.reason_number) if event.reason_number else "")
            events.append(event)
        return events, count
