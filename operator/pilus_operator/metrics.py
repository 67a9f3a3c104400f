"""What the operator counts, in the names that dashboards know, and its two listeners.

In: counts from the writers. Out: Prometheus text, and whether we are alive. Two operators may share a host (and its ports): the one
that comes too late keeps trying, because whether it can be scraped must not decide whether it works.
"""

import asyncio
from collections.abc import Callable

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pilus_api.errors import InvalidError

_log = structlog.get_logger(__name__)


class Metrics:
    """One registry of an operator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.leading = Gauge("pilus_operator_leading", "1 while this operator is the active one", registry=self.registry)
        self.failures = Counter("pilus_operator_failures", "Failed rounds", ["loop"], registry=self.registry)
        self.identities = Gauge("pilus_operator_identities", "CiliumIdentity objects", registry=self.registry)
        self.allocated = Counter("pilus_operator_identities_allocated", "Identities created", registry=self.registry)
        self.collected = Gauge(
            "cilium_operator_identity_gc_entries", "Identities in the last collection", ["status"], registry=self.registry
        )
        self.collections = Counter(
            "cilium_operator_identity_gc_runs", "Collections of identities", ["outcome"], registry=self.registry
        )
        self.ranges = Gauge("pilus_operator_ranges", "Claimed pod ranges", ["family"], registry=self.registry)
        self.refused_addresses = Gauge(
            "pilus_operator_refused_addresses", "Endpoints' addresses outside their node's ranges", registry=self.registry
        )
        self.slice_sizes = Histogram(
            "cilium_operator_number_of_ceps_per_ces", "Endpoints in a written slice", registry=self.registry,
            buckets=(1, 10, 25, 50, 100),
        )  # fmt: skip
        self.slice_writes = Counter("cilium_operator_ces_sync", "Writes of slices", ["outcome"], registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)


def address(text: str) -> tuple[str | None, int]:
    """`:9963`, `127.0.0.1:9234`, `[::1]:80`; no host means every address. Raises InvalidError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise InvalidError(f"{text!r} is no address to listen at; write it as 127.0.0.1:9234")
    return host.strip("[]") or None, int(port)


class Listener:
    """GET `path` at `address`, for ever."""

    def __init__(self, where: str, path: str, answer: Callable[[], tuple[int, bytes, str]], retry: float = 2.0) -> None:
        self._where = where
        self._host, self._port = address(where)
        self._retry = retry
        app = web.Application()

        async def handle(_: web.Request) -> web.Response:
            status, body, content = answer()
            return web.Response(status=status, body=body, headers={"Content-Type": content})

        app.router.add_get(path, handle)
        self._runner = web.AppRunner(app, access_log=None)

    async def run(self) -> None:
        await self._runner.setup()
        refused = False
        try:
            while True:
                try:
                    await web.TCPSite(self._runner, self._host, self._port).start()
                    break
                except OSError as error:
                    if not refused:
                        _log.warning("can't listen yet, trying again", address=self._where, error=error.strerror)
                    refused = True
                    await asyncio.sleep(self._retry)
            _log.info("listening", address=self._where)
            await asyncio.Event().wait()
        finally:
            await self._runner.cleanup()


def metrics_listener(where: str, metrics: Metrics) -> Listener:
    return Listener(where, "/metrics", lambda: (200, metrics.text(), CONTENT_TYPE_LATEST))


def health_listener(where: str, well: Callable[[], str]) -> Listener:
    """`well` says what is wrong, or "" for nothing."""

    def answer() -> tuple[int, bytes, str]:
        wrong = well()
        return (500 if wrong else 200), (wrong or "ok").encode(), "text/plain; charset=utf-8"

    return Listener(where, "/healthz", answer)
