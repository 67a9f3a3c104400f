"""Settings that follow their file while a process runs.

In: the file or folder that the process was started with. Out: new settings, as far as the process can take them over; the names
of the keys that wait for a restart. A file that makes no sense changes nothing, and is said once.
"""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import structlog

from pilus_api.errors import InvalidError
from pilus_api.settings import KEYS, LIVE, Settings, Written, changed, read, written

_SECONDS = 1.0

_log = structlog.get_logger(__name__)


def set_debug(debug: bool) -> None:
    """How much is logged from here on."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.INFO))


class LiveSettings:
    """`settings`: what this process works with. `waiting`: the keys whose change needs a restart. `problem`: why the file, as it
    is now, is not followed. `apply` takes new settings over; `reads`: the keys that mean something to this process."""

    def __init__(
        self, path: Path, settings: Settings, apply: Callable[[Settings], None], reads: frozenset[str] = frozenset(KEYS)
    ) -> None:
        self._path = path
        self._apply = apply
        self._reads = reads
        self._written: Written | None = None  # as of the last look
        self.settings = settings
        self.waiting: tuple[str, ...] = ()
        self.problem = ""

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Once: read the file, take over what can be, say what can't."""
        before, self._written = self._written, None
        try:
            self._written = await asyncio.to_thread(written, self._path)
            if self._written == before:
                return
            found = read(self._written, self._path)
        except InvalidError as error:
            if str(error) != self.problem:
                _log.error("the changed settings are not followed", error=str(error))
            self.problem = str(error)
            return
        self.problem = ""
        different = changed(self.settings, found) & self._reads
        waiting = tuple(sorted(different - LIVE))
        if waiting != self.waiting:
            self.waiting = waiting
            if waiting:
                _log.warning("changed settings wait for a restart", keys=waiting)
        fresh = different & LIVE
        if not fresh:
            return
        names = [key.replace("-", "_") for key in fresh]
        self.settings = self.settings.model_copy(update={name: getattr(found, name) for name in names})
        if "debug" in fresh:
            set_debug(self.settings.debug)
        self._apply(self.settings)
        _log.info("settings taken over", keys=sorted(fresh))
