"""The difference between what is wanted and what the kernel holds, written in order: DIFF's doing end.

In: trackers with updates and deletes. Out: written tables, raised generations, and trouble in words for what could not be written.
What was enforced stays enforced whatever fails here: rows are written before anything points at them, and go a second after
nothing does.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from pilus_agent.datapath.kernel import CALL, Kernel
from pilus_agent.diff.generations import EVERYTHING, raised
from pilus_agent.diff.order import REMOVE_AT_ONCE, REMOVE_LATER, WRITE_ORDER, allowed
from pilus_agent.tables import Tables
from pilus_maps import KernelError

_log = structlog.get_logger(__name__)

# Rows that a packet in flight may still read go this long after nothing points at them.
_LINGER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is not as wanted, for `status`."""

    what: str
    message: str


class Troubles:
    """What is not as wanted now; said at the first time and when it is over."""

    def __init__(self) -> None:
        self.held: dict[str, Trouble] = {}

    def report(self, what: str, message: str) -> None:
        if what not in self.held or self.held[what].message != message:
            _log.error("not as wanted, trying again", what=what, error=message)
        self.held[what] = Trouble(what, message)

    def resolve(self, what: str) -> None:
        if self.held.pop(what, None):
            _log.info("as wanted again", what=what)


class Writer:
    """`swept` is called when nothing is left that is not wanted; `wake` asks for another `write`."""

    def __init__(
        self, kernel: Kernel, tables: Tables, troubles: Troubles, swept: Callable[[], None], wake: Callable[[], None]
    ) -> None:
        self._kernel = kernel
        self._tables = tables
        self._troubles = troubles
        self._swept = swept
        self._wake = wake
        # After a start everything counts as moved: an earlier agent may have died between writing and raising.
        self._to_raise: set[int] = {EVERYTHING}
        # What nothing points at for a second, once the timer has run; removed by `write`, so that nobody writes beside it.
        self._condemned: dict[str, set[bytes]] = {}
        self._due = False
        self._timer: asyncio.TimerHandle | None = None

    async def hold(self) -> None:
        """Read what the kernel has."""
        for table in WRITE_ORDER:
            self._tables.trackers[table].hold_all(await self._kernel.call(self._kernel.read, table))

    async def write(self) -> bool:
        """Everything that differs; whether all of it could be written."""
        failed: set[str] = set()
        for table in WRITE_ORDER:
            tracker = self._tables.trackers[table]
            if not tracker.updates:
                continue
            if not allowed(table, frozenset(failed)):
                failed.add(table)
                continue
            rows = _old_rows_first(tracker.updates, tracker.held)
            self._note_raised(table, rows, rows)
            try:
                tracker.wrote(await self._kernel.change(len(rows), self._kernel.write, table, rows))
            except KernelError as error:
                failed.add(table)
                self._troubles.report(table, f"the table {table} can't be written: {error}; what was enforced stays so")
                tracker.hold_all(await self._kernel.call(self._kernel.read, table))
                continue
        for table in REMOVE_AT_ONCE:
            await self._remove(table, self._tables.trackers[table].deletes, failed)
        if not await self._raise_generations():
            failed.add("generation")
        await self._sweep(failed)
        for table in WRITE_ORDER:  # also one that has nothing to be written any more
            if table not in failed:
                self._troubles.resolve(table)
        return not failed

    async def _sweep(self, failed: set[str]) -> None:
        """Remove what was condemned a second ago and still is unwanted; condemn what is unwanted since. After a failure nothing
        that the kernel still points at: but what a policy that did not fit has left must make room for one that does."""
        if self._due:
            self._due, self._timer = False, None
            for table in REMOVE_LATER:
                unwanted = self._condemned.get(table, set()) & self._tables.trackers[table].deletes
                if failed and unwanted:
                    unwanted -= self._pointed_at(table, unwanted)
                await self._remove(table, unwanted, failed)
            self._condemned = {}
            if not any(self._tables.trackers[table].deletes for table in REMOVE_LATER):
                self._swept()
        if self._timer is None and any(self._tables.trackers[table].deletes for table in REMOVE_LATER):
            self._condemned = {table: set(self._tables.trackers[table].deletes) for table in REMOVE_LATER}
            self._timer = asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._ring)

    def _pointed_at(self, table: str, keys: Iterable[bytes]) -> set[bytes]:
        """Those of the rows that others, as the kernel holds them, point at. Decodes whole tables: only after a failure."""

        def values(name: str, field: str) -> set[Any]:
            layout = self._tables.layouts[name].value
            return {layout.decode(row)[field] for row in self._tables.trackers[name].held.values()}

        layout = self._tables.layouts[table].key
        match table:
            case "policies" | "peers" | "cidrs":
                pointed, field = values("endpoints", "policy"), "" if table == "policies" else "policy"
            case "verdicts":
                pointed = {number for pair in values("policies", "table") for number in pair}
                pointed, field = pointed | values("peers", "table") | values("cidrs", "table"), "table"
            case _:
                pointed, field = values("services", "set"), "set"
        return {key for key in keys if (layout.decode(key)[field] if field else layout.decode(key)) in pointed}

    def _ring(self) -> None:
        self._due = True
        self._wake()

    async def _remove(self, table: str, unwanted: Iterable[bytes], failed: set[str]) -> None:
        keys = list(unwanted)
        if not keys:
            return
        self._note_raised(table, keys, {})
        try:
            await self._kernel.change(CALL * len(keys), self._kernel.remove, table, keys)
            self._tables.trackers[table].removed(keys)
        except KernelError as error:
            failed.add(table)
            self._troubles.report(table, f"rows of the table {table} can't be removed: {error}")

    def _note_raised(self, table: str, keys: Iterable[bytes], rows: Mapping[bytes, bytes]) -> None:
        """Remember the generations that these rows raise, with what is held of them still the old."""
        layout, tracker = self._tables.layouts[table], self._tables.trackers[table]
        if table == "peers":
            self._raise_policies(keys)
            return
        for key in keys:
            values = [layout.value.decode(row) for row in (tracker.held.get(key), rows.get(key)) if row is not None]
            where = {} if layout.key.bare else layout.key.decode(key)
            self._to_raise |= raised(table, where, values)

    def _raise_policies(self, keys: Iterable[bytes]) -> None:
        """A class that changes within a policy: every endpoint that has the policy decides anew. A new row of an identity
        that was not known changes no flow: it was dropped."""
        layout, held = self._tables.layouts["peers"].key, self._tables.trackers["peers"].held
        known, identity = self._tables.trackers["identities"].held, self._tables.layouts["identities"].key
        decoded = ((key, layout.decode(key)) for key in keys)
        numbers = {row["policy"] for key, row in decoded if key in held or identity.encode(row["identity"]) in known}
        if not numbers:
            return
        endpoints = self._tables.layouts["endpoints"].value
        for row in self._tables.trackers["endpoints"].wanted.values():
            value = endpoints.decode(row)
            if value["policy"] in numbers:
                self._to_raise.add(value["slot"])

    async def _raise_generations(self) -> bool:
        """Flows decide anew where something has moved. After a start everything counts as moved: an earlier agent may have died
        between writing and raising."""
        slots = sorted(self._to_raise)
        if not slots:
            return True
        try:
            await self._kernel.change(CALL * len(slots), self._kernel.raise_generations, slots)
        except KernelError as error:
            self._troubles.report("generation", f"open connections can't be made to decide anew: {error}")
            return False
        self._to_raise.difference_update(slots)
        self._troubles.resolve("generation")
        return True


def _old_rows_first(updates: Mapping[bytes, bytes], held: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """What changes has its place in a full table; it must not wait behind what is new and finds none."""
    return {key: updates[key] for key in sorted(updates, key=lambda key: key not in held)}
