"""What the agent says of itself in the API: objects as wanted, applied whole, again and again until they stand.

In: objects by path. Out: server-side apply, at most one write per object and second, some objects at a time; one that did not
change is not written, and one that can't be written waits longer each time. Never: reading back to decide anything.
"""

import asyncio
import contextlib
from collections.abc import Collection

import structlog

from pilus_api.connection import APPLY_PATCH, ApiError, Connection, NotFound, Object
from pilus_api.watch import Backoff

_log = structlog.get_logger(__name__)
_PARALLEL = 8
_LONGEST_PAUSE = 8.0  # seconds: an API server that is back is told soon
_PARAMETERS = {"fieldManager": "pilus-agent", "force": "true"}


class Publisher:
    """`want` says what shall stand at a path, or that nothing shall; `run` makes it so."""

    def __init__(self, connection: Connection, interval: float = 1.0) -> None:
        self._connection = connection
        self._interval = interval
        self._wanted: dict[str, Object | None] = {}
        self._written: dict[str, Object] = {}
        self._changed = asyncio.Event()
        self._failing: set[str] = set()
        self._writing: set[str] = set()
        self._pauses: dict[str, Backoff] = {}
        self._room = asyncio.Semaphore(_PARALLEL)

    def want(self, path: str, body: Object | None) -> None:
        if body is not None and self._written.get(path) == body and path not in self._wanted:
            return
        self._wanted[path] = body
        self._changed.set()

    def keep(self, prefix: str, paths: Collection[str]) -> None:
        """Of what begins with `prefix`, only these are ours any more: the rest is neither written nor remembered."""
        for held in (self._wanted, self._written):
            for path in [path for path in held if path.startswith(prefix) and path not in paths]:
                del held[path]
        self._failing = {path for path in self._failing if not path.startswith(prefix) or path in paths}
        self._pauses = {path: pause for path, pause in self._pauses.items() if not path.startswith(prefix) or path in paths}

    def again(self) -> None:
        """Write everything anew: somebody may have deleted or changed it meanwhile."""
        self._wanted = {**self._written, **self._wanted}
        self._written.clear()
        self._changed.set()

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._changed.wait()
                self._changed.clear()
                for path in [path for path in self._wanted if path not in self._writing]:
                    self._writing.add(path)
                    tasks.create_task(self._settle(path), name=f"write {path}")
                await asyncio.sleep(self._interval)

    async def _settle(self, path: str) -> None:
        """Write what is wanted at a path once. One that hangs or fails keeps no other from being written."""
        async with self._room:
            body = self._wanted.get(path)
            done = path not in self._wanted or await self._write(path, body)
        if done:
            self._pauses.pop(path, None)
            if path in self._wanted and self._wanted[path] is body:
                del self._wanted[path]
        else:
            await asyncio.sleep(self._pauses.setdefault(path, Backoff(self._interval, _LONGEST_PAUSE)).delay())
        self._writing.discard(path)
        if path in self._wanted:
            self._changed.set()

    async def _write(self, path: str, body: Object | None) -> bool:
        try:
            if body is None:
                with contextlib.suppress(NotFound):
                    await self._connection.delete(path)
                self._written.pop(path, None)
            elif self._written.get(path) != body:
                await self._connection.patch(path, body, params=_PARAMETERS, content=APPLY_PATCH)
                self._written[path] = body
        except ApiError as error:
            if path not in self._failing:
                self._failing.add(path)
                _log.warning("can't write, trying again", path=path, error=str(error))
            return False
        if path in self._failing:
            self._failing.discard(path)
            _log.info("written after all", path=path)
        return True
