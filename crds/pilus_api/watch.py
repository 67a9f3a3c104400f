"""The lister-watcher: everything of one kind, as it is now and as it changes, for as long as the caller listens.

In: a collection's path. Out: `Upsert`, `Gone`, `InSync`. An `Upsert` may come twice and versions may be skipped; what
vanished while nobody watched is `Gone` after the next list. It never ends by itself: whatever goes wrong, it says so once,
waits, and goes on where it was, or lists again. Objects are raw JSON, pruned on arrival so that the rest is freed at once.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar, overload

import aiohttp
import structlog

from pilus_api.connection import ApiError, Connection, Expired, NotFound, Object, Unavailable, error_from
from pilus_api.decode import decode

T = TypeVar("T")

PAGE = 500
WATCH_SECONDS = 300
# How long a kind that need not exist may have existed before somebody looks.
ABSENT_SECONDS = 10.0
# A page of 500 pods takes an API server under load some seconds.
_LIST_TIMEOUT = aiohttp.ClientTimeout(total=60)

# What the caller does with a page of 500 may take a tenth of a second; a Lease has to be renewed meanwhile.
_YIELD_EVERY = 25

_log = structlog.get_logger(__name__)


class Key(NamedTuple):
    """`namespace` is "" for a cluster-scoped kind."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Upsert(Generic[T]):
    """There is such an object, and this is what `prune` kept of it."""

    key: Key
    object: T


@dataclass(frozen=True, slots=True)
class Gone:
    """There is no such object any more, or `prune` wants none of it."""

    key: Key


@dataclass(frozen=True, slots=True)
class InSync:
    """Everything that existed when the last list began has been told. Comes again after every relist."""


Event = Upsert[T] | Gone | InSync


class BrokenStreamError(Exception):
    """A watch sent what is no event."""


def key_of(raw: Object) -> Key:
    metadata = raw["metadata"]
    return Key(metadata.get("namespace", ""), metadata["name"])


class Lines:
    """Bytes in, whole lines out. A line that was cut off is never handed out."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            self._parts.append(line)
            joined = b"".join(self._parts)
            self._parts.clear()
            if joined.strip():
                yield joined
        if rest:
            self._parts.append(rest)


class Backoff:
    """Half a second, doubling to half a minute; each delay is a random half to whole of it, so that watchers spread out."""

    def __init__(self, first: float = 0.5, most: float = 30.0) -> None:
        self._first, self._most = first, most
        self.failures = 0

    def delay(self, at_least: float = 0.0) -> float:
        whole = min(self._first * 2.0 ** min(self.failures, 16), self._most)
        self.failures += 1
        return max(at_least, whole * (0.5 + random.random() / 2))  # noqa: S311  # spreads load, keeps no secret

    def jitter(self) -> float:
        """A short pause that is no punishment."""
        return self._first * (0.1 + random.random() / 5)  # noqa: S311

    def reset(self) -> None:
        self.failures = 0


class _Watcher(Generic[T]):
    """One collection: what is known of it (a resourceVersion per key), and how far the watch has come."""

    def __init__(
        self, connection: Connection, path: str, prune: Callable[[Object], T | None], selectors: dict[str, str], page: int,
        optional: bool, metadata_only: bool,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._path = path
        self._prune = prune
        self._selectors = selectors
        self._page = page
        self._optional = optional
        self._metadata_only = metadata_only
        self._known: dict[Key, str] = {}
        self.version = ""
        self.progressed = False

    def _open(
        self, params: dict[str, str | int], partial: str, limits: aiohttp.ClientTimeout
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        accept = f"application/json;as={partial};g=meta.k8s.io;v=v1" if self._metadata_only else "application/json"
        return self._connection.open("GET", self._path, params=params, limits=limits, accept=accept)

    def _upsert(self, raw: Object, key: Key) -> Iterator[Upsert[T] | Gone]:
        version = raw["metadata"].get("resourceVersion", "")
        if version and self._known.get(key) == version:
            return
        kept = self._prune(raw)
        if kept is not None:
            self._known[key] = version
            yield Upsert(key, kept)
        elif self._known.pop(key, None) is not None:
            yield Gone(key)

    async def list(self) -> AsyncGenerator[Event[T], None]:
        """Tell everything, then what is gone. Raises ApiError; then nothing was forgotten, and it is called again.

        A kind that need not exist is empty until it does.
        """
        while True:
            try:
                async for event in self._pages():
                    yield event
            except NotFound:
                if not self._optional:
                    raise
            else:
                return
            for event in self._only(set()):
                yield event
            await asyncio.sleep(ABSENT_SECONDS)

    async def _pages(self) -> AsyncGenerator[Event[T], None]:
        seen: set[Key] = set()
        params: dict[str, str | int] = {**self._selectors, "limit": self._page}
        while True:
            async with self._open(params, "PartialObjectMetadataList", _LIST_TIMEOUT) as answer:
                raw = await answer.read()
            try:
                page = decode(raw)
                metadata, items = page["metadata"], [(key_of(item), item) for item in page.get("items") or ()]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise Unavailable(f"GET {self._path}: the list makes no sense: {error!r}") from error
            del page, raw
            for index, (key, item) in enumerate(items):
                if index % _YIELD_EVERY == 0:
                    await asyncio.sleep(0)
                seen.add(key)
                for event in self._upsert(item, key):
                    yield event
            if not metadata.get("continue"):
                break
            params["continue"] = metadata["continue"]
        for rest in self._only(seen):
            yield rest
        self.version = metadata.get("resourceVersion", "")

    def _only(self, seen: set[Key]) -> Iterator[Event[T]]:
        """Nothing is there but these."""
        for key in [key for key in self._known if key not in seen]:
            del self._known[key]
            yield Gone(key)
        yield InSync()

    async def watch(self) -> AsyncGenerator[Event[T], None]:
        """Tell changes until the server closes. Raises ApiError (Expired: list again) and BrokenStreamError."""
        # Spread, so that a thousand agents that started together do not come back together.
        length = int(WATCH_SECONDS * (1 + random.random()))  # noqa: S311
        params: dict[str, str | int] = {
            **self._selectors, "watch": 1, "allowWatchBookmarks": "true", "resourceVersion": self.version, "timeoutSeconds": length,
        }  # fmt: skip
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=length + 30)
        async with self._open(params, "PartialObjectMetadata", limits) as answer:
            lines = Lines()
            async for chunk in answer.content.iter_any():
                for line in lines.feed(chunk):
                    for event in self._digest(line):
                        yield event

    def _digest(self, line: bytes) -> Iterator[Event[T]]:
        try:
            change = decode(line)
            kind, raw = change["type"], change["object"]
            if kind == "ERROR":
                raise error_from(int(raw.get("code") or 500), raw, f"watch {self._path}")
            version = raw["metadata"]["resourceVersion"]
            if kind != "BOOKMARK":
                key = key_of(raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenStreamError(f"watch {self._path}: {line[:80]!r} is no event") from error
        if kind == "DELETED":
            if self._known.pop(key, None) is not None:
                yield Gone(key)
        elif kind in ("ADDED", "MODIFIED"):
            yield from self._upsert(raw, key)
        self.version = version
        self.progressed = True


@overload
def watch(
    connection: Connection, path: str, *, label_selector: str = "", field_selector: str = "", backoff: Backoff | None = None,
    page: int = PAGE, optional: bool = False, metadata_only: bool = False,
) -> AsyncGenerator[Event[Object], None]: ...  # fmt: skip
@overload
def watch(
    connection: Connection, path: str, *, prune: Callable[[Object], T | None], label_selector: str = "", field_selector: str = "",
    backoff: Backoff | None = None, page: int = PAGE, optional: bool = False, metadata_only: bool = False,
) -> AsyncGenerator[Event[T], None]: ...  # fmt: skip
async def watch(
    connection: Connection,
    path: str,
    *,
    prune: Callable[[Object], Any] = lambda raw: raw,
    label_selector: str = "",
    field_selector: str = "",
    backoff: Backoff | None = None,
    page: int = PAGE,
    optional: bool = False,
    metadata_only: bool = False,
) -> AsyncGenerator[Event[Any], None]:
    """Everything in a collection (such as `/api/v1/pods`), for ever.

    `prune` turns an object into what is kept, or into None: then it does not exist for the caller. It must not raise.
    `optional`: the kind need not exist, and is empty as long as it does not. `metadata_only`: nothing else of an object is sent.
    Raises nothing but what `prune` does; leave it with `contextlib.aclosing`, or by cancelling the task.
    """
    given = {"labelSelector": label_selector, "fieldSelector": field_selector}
    watcher = _Watcher(connection, path, prune, {name: text for name, text in given.items() if text}, page, optional, metadata_only)
    pause = backoff or Backoff()
    listed = troubled = False
    while True:
        watcher.progressed = False
        trouble: Exception | None = None
        try:
            stream = watcher.watch() if listed else watcher.list()
            async with contextlib.aclosing(stream):
                async for event in stream:
                    if watcher.progressed:
                        pause.reset()
                    if troubled and (watcher.progressed or isinstance(event, InSync)):
                        troubled = False
                        _log.info("watching again", path=path)
                    yield event
            if listed:
                pause.reset()
                if not watcher.progressed:
                    # A server that closes at once without a word must not be asked in a tight loop.
                    await asyncio.sleep(pause.jitter())
            listed = True
        except Expired as error:
            # The place is lost, not the server: list at once the first time, with growing pauses if that does not help.
            listed = False
            if pause.failures:
                trouble = error
            pause.failures += 1
        except (ApiError, BrokenStreamError) as error:
            trouble = error
            # A line that breaks the stream again and again stands at this very version: only a list leads past it.
            if isinstance(error, BrokenStreamError) and not watcher.progressed:
                listed = False
        if trouble is not None:
            if not troubled:
                troubled = True
                _log.warning("watch interrupted, trying again", path=path, error=str(trouble))
            at_least = trouble.retry_after if isinstance(trouble, Unavailable) else 0.0
            await asyncio.sleep(pause.delay(at_least))
