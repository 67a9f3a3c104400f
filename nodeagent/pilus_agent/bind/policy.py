"""Numbers for policies, port tables and classes: names of content to what the kernel's keys hold.

In: the names wanted, and the numbers that the kernel holds. Out: a number for every name. Never: writes, or what is behind a name.
A name keeps its number for as long as the kernel has it. A number that was given is not given again before the counter wraps,
so a packet that reads a row while it is replaced finds the old content or none, never another's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pilus_agent.desired.policy.porttable import PortRow, port_table

LAST_NUMBER: Final = 0xFFFF_FFFF  # u32; 0 means none


@dataclass(frozen=True, slots=True)
class Numbers:
    """`last`: the number given last, which the next call needs."""

    by_name: Mapping[bytes, int]
    last: int


def number(wanted: Iterable[bytes], held: Mapping[bytes, int], last: int = 0) -> Numbers:
    """A number for each name, new ones in the order of their names.

    `held` is all that the kernel has, names on their way out included. `last` 0: not known, after a restart; then numbering goes
    on after the highest held.
    """
    names = set(wanted)
    found = {name: held[name] for name in names & held.keys()}
    taken = set(held.values())
    last = last or max(taken, default=0)
    for name in sorted(names - held.keys()):
        last = _following(last, taken)
        taken.add(last)
        found[name] = last
    return Numbers(found, last)


def _following(last: int, taken: set[int]) -> int:
    """The next number that the kernel does not hold. Maps are far smaller than the numbers are many: there is always one."""
    candidate = last % LAST_NUMBER + 1
    while candidate in taken:
        candidate = candidate % LAST_NUMBER + 1
    return candidate


def recognise_tables(rows: Mapping[int, Iterable[PortRow]]) -> dict[bytes, int]:
    """The port tables that the kernel holds, by name, from rows read back; of two that are equal the lower number holds."""
    found: dict[bytes, int] = {}
    for table in sorted(rows):
        found.setdefault(port_table(rows[table]).name, table)
    return found
