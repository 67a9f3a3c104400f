"""The local API's socket: who may ask, how long, and how much (docs/observer-api.md).

In: one line of JSON from a peer with user id 0. Out: lines of JSON. What is asked for is answered by the functions it is given.
Bounded for each client: a line of 64 KiB, 5 s to say it, 30 s without taking an answer; and so many clients at once.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import structlog

from pilus_api.errors import PilusError
from pilus_observer.request import LIMIT, RefusedError, Request, parse

SOCKET = Path("/run/pilus/observer.sock")
CLIENTS = 64

_log = structlog.get_logger(__name__)

Lines = AsyncGenerator[list[dict[str, Any]], None]  # some at a time
Answer = Callable[[Request], Lines]


def peer_uid(connection: Any) -> int:
    """The user id of the process that connected (unix(7), SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])


class Server:
    def __init__(
        self, path: Path, answers: Mapping[str, Answer], uid: int = 0, *, clients: int = CLIENTS, patience: float = 5.0,
        stall: float = 30.0,
    ) -> None:  # fmt: skip
        self._path = path
        self._answers = answers
        self._uid = uid
        self._clients = clients
        self._patience, self._stall = patience, stall
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._closing = False

    async def start(self) -> None:
        """Listen. What another observer left there is replaced: the caller sees to it that no other is alive. Raises PilusError."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)  # the socket is born with mode 0600
        try:
            self._path.unlink(missing_ok=True)
            listening.bind(str(self._path))
        except OSError as error:
            listening.close()
            raise PilusError(f"can't listen at {self._path}: {error.strerror or error}") from error
        finally:
            os.umask(before)
        listening.setblocking(False)
        self._server = await asyncio.start_unix_server(self._serve, sock=listening, limit=LIMIT)

    async def close(self) -> None:
        self._closing = True
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine always runs in one
        task.set_name("client")
        self._running.add(task)
        try:
            await self._talk(reader, writer)
        except (OSError, asyncio.CancelledError):  # gone, or we are going: nobody awaits this task
            pass
        finally:
            await self._close(writer)
            self._running.discard(task)

    async def _close(self, writer: asyncio.StreamWriter) -> None:
        """What is still to be sent gets some time, but not while we are going."""
        writer.close()
        try:
            async with asyncio.timeout(0 if self._closing else self._stall):
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.CancelledError):
            writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await self._request(reader, writer)
            # A client that follows may be slow, its queue is bounded; but not be gone.
            if request.follow:
                await self._until_gone(reader, self._send(request, writer, None))
            else:
                await self._send(request, writer, self._stall)
        except RefusedError as refusal:
            await self._write(writer, [refusal.item()], self._stall)
        except PilusError as error:
            await self._write(writer, [RefusedError(str(error), "look at the observer's log").item()], self._stall)
        except Exception as error:  # noqa: BLE001  # the guard of this client: it gets an answer, the others are not disturbed
            _log.error("an answer failed", error=repr(error), exc_info=error)
            sorry = RefusedError("the observer failed to answer", "look at the observer's log")
            await self._write(writer, [sorry.item()], self._stall)

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
        crowded = len(self._running) > self._clients
        line: bytes | RefusedError
        try:
            async with asyncio.timeout(self._patience):
                line = await reader.readline()
        except TimeoutError:
            line = RefusedError(f"no request within {self._patience:.0f} s")
        except ValueError:  # longer than the limit
            line = RefusedError(f"the request is longer than {LIMIT} bytes")
        # Who is refused is heard first all the same: it would be cut off while it speaks, and never read why.
        if peer_uid(writer.get_extra_info("socket")) != self._uid:
            raise RefusedError(f"only user id {self._uid} is answered", "run this as root")
        if crowded:
            raise RefusedError("too many ask at once", "end another `pilus monitor`, or try again")
        if isinstance(line, RefusedError):
            raise line
        return parse(line)

    async def _send(self, request: Request, writer: asyncio.StreamWriter, stall: float | None) -> None:
        async with contextlib.aclosing(self._answers[request.get](request)) as lines:
            async for some in lines:
                await self._write(writer, some, stall)

    async def _write(self, writer: asyncio.StreamWriter, lines: list[dict[str, Any]], stall: float | None) -> None:
        writer.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        try:
            async with asyncio.timeout(stall):
                await writer.drain()
        except TimeoutError:
            raise ConnectionAbortedError("the client takes no answer") from None

    async def _until_gone(self, reader: asyncio.StreamReader, work: Coroutine[Any, Any, None]) -> None:
        """`work`, until the client closes its side. What it says meanwhile is of no interest."""

        async def gone() -> None:
            while await reader.read(LIMIT):
                pass

        tasks = [asyncio.create_task(work, name="follow"), asyncio.create_task(gone(), name="client gone")]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
