"""The pins of this node, opened by the loader's description, and opened anew when the agent has loaded again.

In: the description's path. Out: answers of functions that are given the open `Datapath`. All of them run in one thread of their
own: system calls never block the loop, and no map is closed while somebody reads it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from pilus_api.errors import PilusError, TemporaryError
from pilus_maps import Datapath

T = TypeVar("T")
Stamp = tuple[int, int]

_log = structlog.get_logger(__name__)


class Kernel:
    def __init__(self, description: Path) -> None:
        self._path = description
        self._thread = ThreadPoolExecutor(1, "kernel")
        self._open: Datapath | None = None
        self._stamp: Stamp | None = None
        self._said = ""
        self.generation = 0  # how often pins have been opened

    async def run(self, work: Callable[[Datapath], T]) -> T:
        """Raises TemporaryError while no datapath is loaded, and whatever `work` raises."""

        def inside() -> T:
            if self._open is None:
                raise TemporaryError("no datapath is loaded on this node: is the agent running?")
            return work(self._open)

        return await asyncio.get_running_loop().run_in_executor(self._thread, inside)

    async def refresh(self) -> None:
        """Open the pins if the description is another one than last time: `generation` has moved then.

        The agent writes it at every load; the same hash does not mean the same maps, so every new file counts.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._reopen)

    def _reopen(self) -> None:
        try:
            held = self._path.stat()
        except OSError:
            self._say("waiting for the datapath's description")
            return  # what is open stays: pins outlive the file
        stamp = (held.st_mtime_ns, held.st_ino)
        if stamp == self._stamp:
            return
        try:
            datapath = Datapath.open(self._path)
            try:
                for name in ("events", "counters"):
                    datapath.map(name)
            except BaseException:
                datapath.close()
                raise
        except (PilusError, OSError, KeyError, TypeError, AttributeError) as error:
            self._say(f"can't open the datapath: {error}")
            return
        if self._open is not None:
            self._open.close()
        self._open, self._stamp = datapath, stamp
        self._said = ""
        self.generation += 1
        _log.info("datapath opened", hash=datapath.hash)

    def _say(self, text: str) -> None:
        """Once, until something else is to be said."""
        if text != self._said:
            _log.info(text, description=str(self._path))
        self._said = text

    async def close(self) -> None:
        def inside() -> None:
            if self._open is not None:
                self._open.close()
                self._open = None

        await asyncio.get_running_loop().run_in_executor(self._thread, inside)
        self._thread.shutdown(wait=False)
