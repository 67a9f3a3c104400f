"""One thing to GET over HTTP: metrics, or whether a process is well.

In: an address, a path, and who makes the answer. A port that is taken is said once and tried again: whether somebody can ask
must not decide whether the process does its work.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pilus_api.errors import InvalidError, PilusError

_RETRY = 5.0

# Status, body, content type.
Answer = tuple[int, bytes, str]

_log = structlog.get_logger(__name__)


def address(text: str) -> tuple[str | None, int]:
    """`:9965`, `127.0.0.1:9965`, `[::1]:9965`; no host means every address. Raises InvalidError."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidError(f"{text!r} is no address to listen at; write it as :9965 or 127.0.0.1:9965")
    return host.strip("[]") or None, int(port)


class Listener:
    """GET `path` at `where`. An answer that can't be made now, a PilusError, is a 503 with its text."""

    def __init__(self, where: str, path: str, answer: Callable[[], Awaitable[Answer]], retry: float = _RETRY) -> None:
        """Raises InvalidError."""
        self._where = where
        self._host, self._port = address(where)
        self._answers = {path: answer}
        self._retry = retry
        self.port = 0  # that it listens at, once it does

    def also(self, path: str, answer: Callable[[], Awaitable[Answer]]) -> Self:
        """Another thing to GET at the same address."""
        self._answers[path] = answer
        return self

    async def _respond(self, request: web.Request) -> web.Response:
        try:
            status, body, content = await self._answers[request.path]()
        except PilusError as error:
            return web.Response(status=503, text=f"{error}\n")
        return web.Response(status=status, body=body, headers={"Content-Type": content})

    async def run(self) -> None:
        """For ever."""
        app = web.Application()
        for path in self._answers:
            app.router.add_get(path, self._respond)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        refused = False
        try:
            while True:
                try:
                    await web.TCPSite(runner, self._host, self._port).start()
                    break
                except OSError as error:
                    if not refused:
                        _log.warning("can't listen yet, trying again", address=self._where, error=str(error))
                    refused = True
                    await asyncio.sleep(self._retry)
            self.port = runner.addresses[0][1]
            _log.info("listening", address=self._where)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


def metrics_listener(where: str, text: Callable[[], Awaitable[bytes]], retry: float = _RETRY) -> Listener:
    """Prometheus' text at /metrics. Raises InvalidError."""

    async def answer() -> Answer:
        return 200, await text(), CONTENT_TYPE_LATEST

    return Listener(where, "/metrics", answer, retry)


def health_listener(where: str, well: Callable[[], str], retry: float = _RETRY) -> Listener:
    """`well` says what is wrong, or "" for nothing; at /healthz. Raises InvalidError."""
    return Listener(where, "/healthz", verdict(well), retry)


def verdict(well: Callable[[], str]) -> Callable[[], Awaitable[Answer]]:
    """What is wrong as an answer for a probe."""

    async def answer() -> Answer:
        wrong = well()
        return (500 if wrong else 200), (wrong or "ok").encode(), "text/plain; charset=utf-8"

    return answer
