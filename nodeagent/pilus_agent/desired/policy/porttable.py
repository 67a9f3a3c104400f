"""Port tables: a class's answers by protocol and port, deny already resolved.

In: what the rules of one class say of ports. Out: rows for a longest-prefix lookup, the fewest that give the same answers,
named by their content. Two classes whose rules amount to the same share the table. Never: peers, names of ports.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Final

from pilus_agent.desired.policy.answers import (
    DEFAULT_ALLOW,
    DEFAULT_DENY,
    HOST_LET_IN,
    NOTHING_ABOVE,
    Answer,
    Layers,
    Precedence,
    decision,
)

# Key lengths of struct pilus_verdict_key: the table's number, then protocol and padding, then the port.
ANY_PROTOCOL: Final = 32
ANY_PORT: Final = 48
ONE_PORT: Final = 64
PORTS: Final = 65536

_ROW = struct.Struct(">BBHBII")
_ROW_OF_TWO = struct.Struct(">BBHBIIBII")


@dataclass(frozen=True, slots=True)
class Span:
    """Ports `low` to `high` of `protocol`; 0 is every protocol, and then every port."""

    protocol: int
    low: int
    high: int


EVERY_PORT: Final = Span(0, 0, PORTS - 1)


@dataclass(frozen=True, slots=True)
class Grant:
    """What one rule says: the spans it means, and with which precedence, which says what it decides."""

    rule: int
    precedence: int
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class PortRow:
    """A row of `verdicts`: `length` as in struct pilus_verdict_key, and its value."""

    length: int
    protocol: int
    port: int
    answer: Answer
    above: Answer = NOTHING_ABOVE

    def matches(self, protocol: int, port: int) -> bool:
        if self.length == ANY_PROTOCOL:
            return True
        return protocol == self.protocol and (port ^ self.port) >> (ONE_PORT - self.length) == 0

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last of its ports."""
        if self.length <= ANY_PORT:
            return 0, PORTS - 1
        return self.port, self.port + (1 << (ONE_PORT - self.length)) - 1


@dataclass(frozen=True, slots=True)
class PortTable:
    """Rows sorted by protocol, port and length; `name` is the hash of them."""

    name: bytes
    rows: tuple[PortRow, ...]

    def layers(self, protocol: int, port: int) -> Layers:
        """By the longest matching row, as the kernel does it; no row is the default deny."""
        found = max((row for row in self.rows if row.matches(protocol, port)), key=lambda row: row.length, default=None)
        return Layers(DEFAULT_DENY) if found is None else Layers(found.answer, found.above)

    def answer(self, protocol: int, port: int) -> Answer:
        """Of this table alone."""
        return self.layers(protocol, port).answer


def port_table(rows: Iterable[PortRow]) -> PortTable:
    """The table of these rows, in any order: also of rows read back from the kernel, to recognise it."""
    ordered = tuple(sorted(rows, key=lambda row: (row.protocol, row.port, row.length)))
    content = b"".join(
        _ROW.pack(row.length, row.protocol, row.port, row.answer.decision, row.answer.precedence, row.answer.rule)
        if row.above is NOTHING_ABOVE
        else _ROW_OF_TWO.pack(
            row.length, row.protocol, row.port, row.answer.decision, row.answer.precedence, row.answer.rule,
            row.above.decision, row.above.precedence, row.above.rule,
        )
        for row in ordered
    )  # fmt: skip
    return PortTable(blake2b(content, digest_size=16).digest(), ordered)


HOST_TABLE: Final = port_table([PortRow(ANY_PROTOCOL, 0, 0, DEFAULT_DENY, HOST_LET_IN)])


# While a table is built an answer is one number, precedence above rule, so that it is compared and hashed at no cost; that of the
# layer above stands above the other's.
_NO_RULE: Final = 0
_LAYER: Final = 64
_LOWER: Final = (1 << _LAYER) - 1

# Of a protocol: (first port, port after the last, code), the one that holds first.
_Spans = list[tuple[int, int, int]]


def build(grants: Iterable[Grant], default_deny: bool) -> PortTable:
    """The table of a class to which these rules apply. Among equals the rule with the lowest number answers."""
    ordered = sorted(grants, key=lambda grant: (-grant.precedence, grant.rule))
    cut = next((index for index, grant in enumerate(ordered) if grant.precedence < Precedence.ABOVE), len(ordered))
    base, by_protocol = _layer(ordered[cut:])
    painted = {protocol: _painted(spans) for protocol, spans in by_protocol.items()}
    if cut:
        base_above, above = _layer(ordered[:cut])
        painted = {
            protocol: _stacked(_painted(above.get(protocol, [(0, PORTS, base_above)])), painted.get(protocol, [(0, base)]))
            for protocol in above.keys() | painted.keys()
        }
        base |= base_above << _LAYER

    default = DEFAULT_DENY if default_deny else DEFAULT_ALLOW
    rows = []
    if base or default != DEFAULT_DENY:
        rows.append(_row(ANY_PROTOCOL, 0, 0, base, default))
    for protocol, stretches in painted.items():
        for port, bits, code in _shortest(stretches, base):
            rows.append(_row(ANY_PORT + bits, protocol, port, code, default))
    return port_table(rows)


def _layer(ordered: list[Grant]) -> tuple[int, dict[int, _Spans]]:
    """What holds for every protocol, and the spans of each that a rule names; `ordered`: what holds comes first."""
    by_protocol: dict[int, _Spans] = {}
    everywhere: list[int] = []
    for grant in ordered:
        code = grant.precedence << 32 | grant.rule
        for span in grant.spans:
            if span.protocol == 0:
                everywhere.append(code)
                for painted in by_protocol.values():
                    painted.append((0, PORTS, code))
            else:
                painted = by_protocol.setdefault(span.protocol, [(0, PORTS, earlier) for earlier in everywhere])
                painted.append((span.low, span.high + 1, code))
    return (everywhere[0] if everywhere else _NO_RULE), by_protocol


def _stacked(above: list[tuple[int, int]], below: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Two layers' stretches as one's: (first port, both codes)."""
    found: list[tuple[int, int]] = []
    upper = lower = 0
    for start, which, code in sorted([*((start, 1, code) for start, code in above), *((start, 0, code) for start, code in below)]):
        upper, lower = (code, lower) if which else (upper, code)
        both = upper << _LAYER | lower
        if found and found[-1][0] == start:
            found.pop()
        if not found or found[-1][1] != both:
            found.append((start, both))
    return found


def _row(length: int, protocol: int, port: int, code: int, default: Answer) -> PortRow:
    answer = _answer(code & _LOWER, default)
    return PortRow(length, protocol, port, answer, _answer(code >> _LAYER, NOTHING_ABOVE) if code > _LOWER else NOTHING_ABOVE)


def _answer(code: int, default: Answer) -> Answer:
    if code == _NO_RULE:
        return default
    precedence = code >> 32
    return Answer(decision(precedence), precedence, code & 0xFFFF_FFFF)


def _painted(spans: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Spans, the one that holds first, to (first port, code) of the stretches they make together; each runs to the next."""
    cuts = sorted({0, PORTS, *(low for low, _, _ in spans), *(end for _, end, _ in spans)})
    place = {cut: index for index, cut in enumerate(cuts)}
    codes = [_NO_RULE] * (len(cuts) - 1)
    following = list(range(len(cuts)))  # the first stretch from here on that nobody painted, with short cuts

    def unpainted(index: int) -> int:
        while following[index] != index:
            following[index] = following[following[index]]
            index = following[index]
        return index

    for low, end, code in spans:
        index = unpainted(place[low])
        while index < place[end]:
            codes[index] = code
            following[index] = index + 1
            index = unpainted(index)

    stretches: list[tuple[int, int]] = []
    for start, code in zip(cuts, codes, strict=False):
        if not stretches or stretches[-1][1] != code:
            stretches.append((start, code))
    return stretches


# A prefix of ports: (port, bits, answers of which any could stand on it at the least cost below, its two halves if they differ).
# Answers are bits of a set, the lowest the one preferred; a plain tuple, since a table has hundreds and few outlive it.
_Node = tuple[int, int, int, tuple["_Node", "_Node"] | None]


def _shortest(stretches: list[tuple[int, int]], inherited: int) -> Iterator[tuple[int, int, int]]:
    """The fewest (port, bits, code) by which the longest prefix answers as the stretches do, given what no row inherits.

    Optimal routing table construction (Draves et al., 1999): upwards what both halves could share, downwards only what differs.
    """

    starts = [start for start, _ in stretches]
    own = [index for index, (_, code) in enumerate(stretches) if code != inherited]
    ends = [*starts[1:], PORTS]
    if all(ends[index] - starts[index] == 1 for index in own) and all(two - one > 1 for one, two in pairwise(own)):
        # Single ports, none beside another: a row each is the fewest, since each has a sibling that answers otherwise.
        for index in own:
            yield starts[index], 16, stretches[index][1]
        return

    codes = sorted({code for _, code in stretches} | {inherited})
    bit = {code: 1 << index for index, code in enumerate(codes)}
    fitting = [bit[code] for _, code in stretches]

    def node(port: int, bits: int, first: int, last: int) -> _Node:
        if first == last:
            return port, bits, fitting[first], None
        middle = port + (PORTS >> (bits + 1))
        cut = bisect_left(starts, middle, first, last + 1)
        low = node(port, bits + 1, first, cut - 1)
        # A stretch that began in the lower half reaches into the upper one.
        begins = cut <= last and starts[cut] == middle
        high = node(middle, bits + 1, cut if begins else cut - 1, last)
        return port, bits, low[2] & high[2] or low[2] | high[2], (low, high)

    waiting = [(node(0, 0, 0, len(stretches) - 1), bit[inherited])]
    while waiting:
        (port, bits, fits, halves), above = waiting.pop()
        here = above if above & fits else fits & -fits
        if here != above:
            yield port, bits, codes[here.bit_length() - 1]
        if halves is not None:
            waiting += ((halves[0], here), (halves[1], here))
