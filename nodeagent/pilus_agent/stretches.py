"""Stretches: which ports a peer is answered alike on, by the tables that decide for it together.

In: the table of who it is, and the one of where it is. Out: of each protocol that a row names, its ports from first to last, cut
where the answer changes. Pure. A row alone does not say that: it holds where no longer one within it does, and what one rule
allows is several rows, or part of one that stands for more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from pilus_agent.desired.policy.answers import DEFAULT_DENY, Answer, Layers, combine
from pilus_agent.desired.policy.porttable import ANY_PROTOCOL, PORTS, PortTable


@dataclass(frozen=True, slots=True)
class Stretch:
    """Ports `low` to `high`, all of them with this answer, and the ports beside them with another one."""

    protocol: int
    low: int
    high: int
    answer: Answer


def stretches(who: PortTable, where: PortTable | None) -> Iterator[Stretch]:
    """In order; `where` None when no address row matched. The cost is that of the rows, however many ports they mean."""
    tables = (who, where) if where else (who,)
    for protocol in sorted({row.protocol for table in tables for row in table.rows if row.length != ANY_PROTOCOL}):
        one, other = _begins(who, protocol), _begins(where, protocol) if where else {}
        found: list[tuple[int, Answer]] = []
        by_who, by_where = one[0], other.get(0)
        for port in sorted(one.keys() | other.keys()):
            by_who, by_where = one.get(port, by_who), other.get(port, by_where)
            answer = combine(by_who, by_where)
            if not found or found[-1][1] != answer:
                found.append((port, answer))
        for (low, answer), (end, _) in pairwise([*found, (PORTS, DEFAULT_DENY)]):
            yield Stretch(protocol, low, end - 1, answer)


def _begins(table: PortTable, protocol: int) -> dict[int, Layers]:
    """From which port on a table says what; from the first one, and in order."""
    around = [(PORTS, Layers(DEFAULT_DENY))]  # the rows that a port is within, each with the port after its last
    for row in table.rows:
        if row.length == ANY_PROTOCOL:
            around = [(PORTS, Layers(row.answer, row.above))]
    found = {0: around[0][1]}

    def leave(port: int) -> None:
        while len(around) > 1 and around[-1][0] <= port:
            end, _ = around.pop()
            if end < PORTS:
                found[end] = around[-1][1]

    # In a table's order a row comes after all that contain it, so that of two at one port the longer one is left standing.
    for row in table.rows:
        if row.protocol == protocol:
            low, high = row.span
            leave(low)
            around.append((high + 1, Layers(row.answer, row.above)))
            found[low] = around[-1][1]
    leave(PORTS)
    return found
