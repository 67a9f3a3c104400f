"""Who is who: an identity's labels and an address's name, as this node's agent knows them.

In: the agent's lists, asked for when a number turns up that nobody has heard of, at most once a second, and now and then while
names are used. Out: `End`s with labels and a name. Without an agent names are null and reserved identities still have theirs.
"""

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from pilus_api.errors import TemporaryError
from pilus_api.identities import FIRST_ALLOCATED, RESERVED, Identity, reserved_name
from pilus_observer.events import End, Event, Item

REST = 1.0  # seconds between two questions
STALE = 30.0  # seconds after which names that are used are asked for again
PATIENCE = 0.25  # seconds that an event waits for its names
_FORGET = 10.0  # seconds for which a number that the agent doesn't know either is not asked for again

_log = structlog.get_logger(__name__)

Ask = Callable[[str], Awaitable[list[Item]]]


@dataclass(frozen=True, slots=True)
class Directory:
    """What the agent knew at one moment."""

    labels: dict[int, tuple[str, ...]] = field(default_factory=dict)
    names: dict[str, tuple[int, str]] = field(default_factory=dict)  # address -> identity, name
    endpoints: frozenset[int] = frozenset()


_RESERVED_LABELS = {int(number): tuple(str(label) for label in labels) for number, labels in RESERVED.items()}


def _strings(held: Any) -> tuple[str, ...]:
    return tuple(text for text in held if isinstance(text, str)) if isinstance(held, list) else ()


def _host(prefix: Any) -> str | None:
    """The address that a prefix for one host stands for."""
    try:
        network = ipaddress.ip_network(prefix)
    except (ValueError, TypeError):
        return None
    return str(network.network_address) if network.num_addresses == 1 else None


def directory(identities: Iterable[Item], ipcache: Iterable[Item], endpoints: Iterable[Item]) -> Directory:
    """The agent's lists as tables. What can't be read is left out. Endpoints know best what their own addresses are called."""
    labels = {
        number: _strings(item.get("labels")) for item in identities if isinstance(number := item.get("identity"), int)
    }  # fmt: skip
    names: dict[str, tuple[int, str]] = {}
    for item in ipcache:
        address, number, name = _host(item.get("prefix")), item.get("identity"), item.get("name")
        if address and isinstance(number, int) and isinstance(name, str):
            names[address] = (number, name)
            labels.setdefault(number, _strings(item.get("labels")))
    numbers = set()
    for item in endpoints:
        number = item.get("identity")
        name = f"{item.get('namespace')}/{item.get('name')}"
        if not isinstance(number, int) or not isinstance(item.get("name"), str):
            continue
        labels.setdefault(number, _strings(item.get("labels")))
        for address in filter(None, (_host(item.get("ipv4")), _host(item.get("ipv6")))):
            names[address] = (number, name)
        if isinstance(item.get("number"), int):
            numbers.add(item["number"])
    return Directory(labels | _RESERVED_LABELS, names, frozenset(numbers))


Unknown = tuple[str, str]  # what it is, and which


def unknown(known: Directory, event: Event) -> set[Unknown]:
    """What an event mentions that the agent should be asked about. Only pods: the outside has no names to learn."""
    found: set[Unknown] = set()
    for end in (event.source, event.destination):
        if end.identity < FIRST_ALLOCATED:
            continue
        if end.identity not in known.labels:
            found.add(("identity", str(end.identity)))
        if end.address and known.names.get(end.address, (0, ""))[0] != end.identity:
            found.add(("address", end.address))
    if event.endpoint and event.endpoint not in known.endpoints:
        found.add(("endpoint", str(event.endpoint)))
    return found


def name(known: Directory, end: End) -> End:
    """The same end, with labels and a name."""
    owner, text = known.names.get(end.address or "", (0, None))
    if text is None or (end.identity and owner != end.identity):  # an address may have changed hands
        text = reserved_name(end.identity) if end.identity else None
    labels = known.labels.get(end.identity, _RESERVED_LABELS.get(Identity(end.identity), ()))
    return replace(end, labels=labels, name=text or None)


class Names:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self.known = Directory()
        self._wanted, self._settled = asyncio.Event(), asyncio.Event()
        self._resting = True  # until run() runs
        self._used = False
        self._in_vain: dict[Unknown, float] = {}
        self._failing = False

    def name(self, end: End) -> End:
        self._used = True
        return name(self.known, end)

    async def prepare(self, events: Iterable[Event]) -> None:
        """Ask about what nobody has heard of. Waits for the answer, but not long, and not if one has just been given."""
        now = time.monotonic()
        self._in_vain = {what: until for what, until in self._in_vain.items() if until > now}
        missing = {what for event in events for what in unknown(self.known, event)} - self._in_vain.keys()
        if not missing:
            return
        self._wanted.set()
        if self._resting:
            return
        self._settled.clear()
        try:
            async with asyncio.timeout(PATIENCE):
                await self._settled.wait()
        except TimeoutError:
            return
        if not self._failing:
            still = {what for event in events for what in unknown(self.known, event)}
            self._in_vain |= dict.fromkeys(still & missing, now + _FORGET)

    async def run(self) -> None:
        """For ever: ask when somebody wants to know."""
        while True:
            self._resting = False
            try:
                async with asyncio.timeout(STALE):
                    await self._wanted.wait()
            except TimeoutError:
                if not self._used:
                    continue
            self._wanted.clear()
            self._used = False
            await self.refresh()
            self._resting = True
            self._settled.set()
            await asyncio.sleep(REST)

    async def refresh(self) -> None:
        try:
            lists = [await self._ask(what) for what in ("identities", "ipcache", "endpoints")]
        except TemporaryError as error:
            if not self._failing:
                _log.warning("names are not known", error=str(error))
            self._failing = True
            return
        self.known = await asyncio.to_thread(directory, *lists)
        if self._failing:
            _log.info("names are known again")
        self._failing = False
