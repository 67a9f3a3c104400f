"""The way to the agent."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pilus_api.errors import TemporaryError
from pilus_observer import agent

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"ok": true, "items": [{"a": 1}, 5, null]}', [{"a": 1}]),
        (b'{"ok": true, "items": []}', []),
        (b'{"ok": false, "error": "no such thing"}', "no such thing"),
        (b'{"ok": true, "items": {}}', "lists nothing"),
        (b"[]", "lists nothing"),
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_parse(raw: bytes, expected: list[dict[str, int]] | str) -> None:
    if isinstance(expected, str):
        with pytest.raises(TemporaryError, match=expected):
            agent.parse(raw)
    else:
        assert agent.parse(raw) == expected


async def asked(path: Path, talk: Talk, patience: float = 5.0) -> object:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    try:
        return await agent.listed(path, "identities", patience)
    finally:
        server.close()


async def test_an_answer_in_pieces(tmp_path: Path) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.readline() == b'{"get": "identities"}\n'
        for piece in (b'{"ok": true, "it', b'ems": [{"identity": 5', b"}]}\n"):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    assert await asked(tmp_path / "s", talk) == [{"identity": 5}]


async def test_silence(tmp_path: Path) -> None:
    over = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()

    with pytest.raises(TemporaryError, match="did not answer within"):
        await asked(tmp_path / "s", talk, 0.01)
    over.set()


async def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(TemporaryError, match="does not answer at"):
        await agent.listed(tmp_path / "s", "identities")
