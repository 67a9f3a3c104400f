"""The kernel's tables and links: what takes long in one thread of its own, a few rows at once.

In: rows as bytes. Out: what was written, or why not. Nothing else in the agent touches a map.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from pilus_agent.datapath.changes import Ledger
from pilus_agent.datapath.links import Netlink
from pilus_maps import Datapath

P = ParamSpec("P")
T = TypeVar("T")

_BATCH = 4096
# Rows that are written where they are decided: some microseconds in one system call, less than another thread's turn costs, which
# on a busy machine is a millisecond a table, and longer while the thread looks at links.
_FEW = 64
# A system call for each row is another matter: each lets the thread go on, for as long as the interpreter lets it.
CALL = 8


class Kernel:
    """Use `call` for anything that blocks: it runs in the one thread, in order. `few`: so many rows in one call do not."""

    few = _FEW

    def __init__(self, datapath: Datapath, ledger: Ledger | None = None) -> None:
        self.datapath = datapath
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="datapath")
        self._netlink: Netlink | None = None

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: function(*args, **kwargs))

    async def change(self, rows: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function` changes so many rows of a table at once, or a CALL-th of them one by one. Whoever changes tables does one
        thing after the other: nothing else keeps what is done here apart from what the thread does."""
        if rows <= self.few:
            return function(*args, **kwargs)
        return await self.call(function, *args, **kwargs)

    def netlink(self) -> Netlink:
        """Only inside `call`: a socket belongs to the thread that made it."""
        if self._netlink is None:
            self._netlink = Netlink(self._ledger)
        return self._netlink

    async def close(self) -> None:
        def end() -> None:
            if self._netlink is not None:
                self._netlink.close()
            self.datapath.close()

        await self.call(end)
        self._thread.shutdown()

    def lookup(self, table: str, key: Mapping[str, Any] | int) -> Mapping[str, Any] | None:
        """One row; of an LPM table the longest match. It takes microseconds, and may be asked from anywhere."""
        held: Mapping[str, Any] | None = self.datapath.map(table).lookup(key)
        return held

    # -- tables; inside `call` or `change` -------------------------------------------------------------------------------

    def read(self, table: str) -> dict[bytes, bytes]:
        return self.datapath.map(table).items_raw()

    def write(self, table: str, rows: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Write all. Raises KernelError; what was written before it is found by `read`."""
        keys = list(rows)
        held = self.datapath.map(table)
        for start in range(0, len(keys), _BATCH):
            held.update_raw({key: rows[key] for key in keys[start : start + _BATCH]})
        return dict(rows)

    def remove(self, table: str, keys: Iterable[bytes]) -> None:
        self.datapath.map(table).delete_raw(keys)

    def raise_generations(self, slots: Iterable[int]) -> None:
        """Nobody else writes the map, so reading and writing back loses nothing."""
        generation = self.datapath.map("generation")
        for slot in slots:
            generation.update(slot, (int(generation.lookup(slot) or 0) + 1) & 0xFFFF_FFFF)
