"""Where Prometheus asks: GET /metrics over HTTP.

In: an address, and who makes the text. A port that is taken is said once and tried again: whether somebody can scrape must not
decide whether the process does its work.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from pilus_api.errors import InvalidError, PilusError

DEFAULT = ":9965"  # of the observer
_RETRY = 5.0

_log = structlog.get_logger(__name__)


def address(text: str) -> tuple[str | None, int]:
    """`:9965`, `127.0.0.1:9965`, `[::1]:9965`; no host means every address. Raises InvalidError."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise InvalidError(f"{text!r} is no address to listen at; write it as {DEFAULT} or 127.0.0.1{DEFAULT}")
    return host.strip("[]") or None, int(port)


class Listener:
    def __init__(self, where: str, text: Callable[[], Awaitable[bytes]], retry: float = _RETRY) -> None:
        """Raises InvalidError."""
        self._where = where
        self._host, self._port = address(where)
        self._text = text
        self._retry = retry
        self.port = 0  # that it listens at, once it does

    async def _answer(self, _: web.Request) -> web.Response:
        try:
            body = await self._text()
        except PilusError as error:
            return web.Response(status=503, text=f"{error}\n")
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def run(self) -> None:
        """For ever."""
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
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
                        _log.warning("can't serve metrics yet, trying again", address=self._where, error=str(error))
                    refused = True
                    await asyncio.sleep(self._retry)
            self.port = runner.addresses[0][1]
            _log.info("serving metrics", address=self._where)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()
