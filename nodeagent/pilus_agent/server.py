"""The agent's socket: the CNI plugin's requests, and the questions of `pilus`.

In: bytes of whoever could open the socket (root alone), hostile until parsed. Out: bytes. Never: what a request means.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from pilus_api.errors import PilusError

_log = structlog.get_logger(__name__)
_LIMIT = 1 << 20
_HEADER_SECONDS = 10.0

Answer = dict[str, Any]


def _peer(writer: asyncio.StreamWriter) -> int:
    """The user id of the other side (SO_PEERCRED: pid, uid, gid)."""
    held: socket.socket = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", held.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


class Server:
    """`cni` answers the plugin's bytes with bytes; `ask` answers one question with `item` or `items`."""

    def __init__(self, path: Path, cni: Callable[[bytes], Awaitable[bytes]], ask: Callable[[Mapping[str, Any]], Answer]) -> None:
        self._path = path
        self._cni = cni
        self._ask = ask
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        self._path.unlink(missing_ok=True)
        held = socket.socket(socket.AF_UNIX)
        held.bind(str(self._path))
        self._path.chmod(0o600)
        self._server = await asyncio.start_unix_server(self._serve, sock=held, limit=_LIMIT)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 2)
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if _peer(writer) == 0:
                async with asyncio.timeout(_HEADER_SECONDS):
                    first = await reader.readline()
                    rest = await self._rest(reader) if first.startswith(b"CNI ") else b""
                writer.write(await self._cni(first + rest) if first.startswith(b"CNI ") else self._answer(first))
                await writer.drain()
        except (TimeoutError, ConnectionError, ValueError, asyncio.LimitOverrunError) as error:
            _log.debug("a request came to nothing", error=repr(error))
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _rest(self, reader: asyncio.StreamReader) -> bytes:
        parts: list[bytes] = []
        size = 0
        while chunk := await reader.read(65536):
            size += len(chunk)
            if size > _LIMIT:
                raise ValueError("a request of more than a megabyte")
            parts.append(chunk)
        return b"".join(parts)

    def _answer(self, line: bytes) -> bytes:
        try:
            asked = json.loads(line)
            if not isinstance(asked, dict):
                raise PilusError("a request is an object")
            answer: Answer = {"ok": True, **self._ask(asked)}
        except (ValueError, RecursionError):
            answer = {"ok": False, "error": "the request is no JSON", "action": "send one line of JSON"}
        except PilusError as error:
            answer = {"ok": False, "error": str(error), "action": "see docs/agent-api.md for what can be asked"}
        return json.dumps(answer).encode() + b"\n"
