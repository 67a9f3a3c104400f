"""Events: one record of the kernel's ring as a value with words in it.

In: the bytes of a struct pilus_event, by the layout that the loader described. Out: `Event`, and the object that the API shows.
Never: names of pods and rules, which the caller brings (names.py, rules.py).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pilus_api.protocols import PROTOCOL_NAMES
from pilus_maps.layout import Layout
from pilus_observer import words
from pilus_observer.words import Words

Item = dict[str, Any]

_NANOSECONDS = 1e9


@dataclass(frozen=True, slots=True)
class End:
    """One side of a packet. `name` and `labels` are what was known when it was seen."""

    address: str | None
    port: int | None
    identity: int
    labels: tuple[str, ...] = ()
    name: str | None = None

    def item(self) -> Item:
        return {
            "address": self.address,
            "port": self.port,
            "identity": self.identity,
            "labels": list(self.labels),
            "name": self.name,
        }


@dataclass(frozen=True, slots=True)
class Event:
    time: float  # seconds since the epoch
    hook: str
    path: str
    reason_number: int  # 0: it passed
    reason: str | None
    direction: str | None
    family: int  # 4, 6, or 0 for neither
    protocol: int
    source: End
    destination: End
    endpoint: int  # 0: none
    rule_number: int  # the policy's number times 65,536 plus the rule's in it; 0: none
    suppressed: int
    audited: bool = False  # it passed, and a policy in audit mode would refuse it
    reply: bool = False  # of a connection that the destination began
    rule: str | None = None
    nearest: str | None = None  # of what no rule decided: what would have been let pass
    icmp_type: int | None = None  # None: it is no ICMP

    @property
    def verdict(self) -> str:
        if self.reason_number:
            return words.DROPPED
        return words.AUDIT if self.audited else words.FORWARDED

    def item(self) -> Item:
        """As docs/observer-api.md states it."""
        return {
            "time": self.time,
            "verdict": self.verdict,
            "reason": self.reason,
            "reason_number": self.reason_number,
            "direction": self.direction,
            "hook": self.hook,
            "family": self.family or None,
            "protocol": words.protocol(self.protocol),
            "source": self.source.item(),
            "destination": self.destination.item(),
            "endpoint": self.endpoint or None,
            "rule": self.rule,
            "nearest": self.nearest,
            "suppressed": self.suppressed,
        }

    def named(self, name: Callable[[End], End], rule: Callable[[int], str | None]) -> "Event":
        return replace(self, source=name(self.source), destination=name(self.destination), rule=rule(self.rule_number))


class Decoder:
    """The records of one datapath."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.words = Words(description)
        self._layout = Layout(description["maps"]["events"]["value"])

    def decode(self, raw: bytes, boot: float) -> Event:
        """`boot`: when this machine started, in seconds since the epoch. Raises ValueError for a record that is too short."""
        if len(raw) < self._layout.size:
            raise ValueError(f"an event of {len(raw)} bytes, {self._layout.size} expected")
        record = self._layout.decode(raw[: self._layout.size])
        family, number, reason = record["family"], record["protocol"], record["reason"]
        portless = number in words.ICMP or family == 0

        def end(side: str) -> End:
            port = None if portless or number not in PROTOCOL_NAMES else record[f"{side}_port"]
            return End(words.address(family, record[side]), port, record[f"{side}_identity"])

        return Event(
            time=boot + record["time"] / _NANOSECONDS,
            hook=self.words.hook(record["hook"]),
            path=self.words.path(record["path"]),
            reason_number=reason,
            reason=self.words.reason(reason) if reason else None,
            direction=self.words.direction(record["hook"], reason, record["direction"], record["rule"], record["audited"]),
            family=family,
            protocol=number,
            source=end("source"),
            destination=end("destination"),
            endpoint=record["endpoint"],
            rule_number=self.words.rule_number(record),
            suppressed=record["suppressed"],
            audited=bool(record["audited"]),
            reply=bool(record["reply"]),
            icmp_type=record["icmp_type"] if family and number in words.ICMP else None,
        )
