"""The nearest miss of a refusal: what would have been let pass, as the agent reads it out of its policies.

In: events of refusals that no rule decided. Out: one sentence for each, where the agent has one. Asked together, at most twice a
second, and not again for a while: a flood of refusals is a flood of the same ones. Without an agent there is none, and no event
waits long for it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from pilus_api.errors import TemporaryError
from pilus_api.rule_numbers import split_default_deny
from pilus_api.rules import Direction
from pilus_observer.events import Event, Item

REST: Final = 0.5  # seconds between two questions
PATIENCE: Final = 0.25  # seconds that events wait for an answer
_FRESH: Final = 30.0  # seconds for which an answer holds: rows of a policy change under its number
_MOST_ASKED: Final = 64
_MOST_KEPT: Final = 4096

Ask = Callable[[Item], Awaitable[list[Item]]]
# policy, direction, the peer's identity and address, protocol, port (of ICMP the type)
Refusal = tuple[int, int, int, str, int, int]


def refusal_of(event: Event) -> Refusal | None:
    """What the agent is to be asked about an event; None where a rule decided, or no policy did, and for what answers to a
    connection that ended: it is not the one who asked. A policy in audit mode is asked about what it would refuse."""
    held = split_default_deny(event.rule_number)
    port = event.destination.port if event.icmp_type is None else event.icmp_type
    if held is None or port is None or event.reply:
        return None
    policy, direction = held
    peer = event.source if direction == Direction.INGRESS else event.destination
    return policy, direction, peer.identity, peer.address or "", event.protocol, port


class Nearest:
    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._known: dict[Refusal, tuple[str | None, float]] = {}
        self._next = 0.0

    def text(self, event: Event) -> str | None:
        refusal = refusal_of(event)
        return self._known.get(refusal, (None, 0.0))[0] if refusal else None

    async def prepare(self, events: Iterable[Event]) -> None:
        """Ask about what is not known, if it is time."""
        now = time.monotonic()
        wanted = {refusal for event in events if (refusal := refusal_of(event))}
        asked = [refusal for refusal in wanted if self._known.get(refusal, (None, 0.0))[1] <= now][:_MOST_ASKED]
        if not asked or now < self._next:
            return
        self._next = now + REST
        names = ("policy", "direction", "identity", "address", "protocol", "port")
        try:
            async with asyncio.timeout(PATIENCE):
                found = await self._ask({"get": "nearest", "refusals": [dict(zip(names, one, strict=True)) for one in asked]})
        except (TemporaryError, TimeoutError):
            return
        if len(self._known) > _MOST_KEPT:
            self._known = {}
        for refusal, item in zip(asked, found, strict=False):
            said = item.get("nearest")
            self._known[refusal] = (said if isinstance(said, str) else None), now + _FRESH
