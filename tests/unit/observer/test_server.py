"""The socket: who is answered, how, and what a hostile client gets."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pilus_api.errors import TemporaryError
from pilus_observer.request import LIMIT, Request
from pilus_observer.server import Lines, Server

from .make import until

UID = os.getuid()


class Answers:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.ended = asyncio.Event()

    async def events(self, request: Request) -> Lines:
        try:
            yield [{"last": request.last}, {"text": "\udcff\x1b"}]
            while request.follow:
                yield [await self.queue.get()]
        finally:
            self.ended.set()

    async def flows(self, _: Request) -> Lines:
        for _count in range(200):
            yield [{"padding": "x" * 1000}] * 100

    async def counters(self, request: Request) -> Lines:
        if request.last == 100:
            raise TemporaryError("no datapath")
        yield []

    async def broken(self, _: Request) -> Lines:
        yield [{"first": 1}]
        raise ZeroDivisionError


@asynccontextmanager
async def serving(path: Path, answers: Answers, uid: int = UID, **limits: Any) -> AsyncIterator[Server]:
    named = {"events": answers.events, "flows": answers.flows, "counters": answers.counters}
    server = Server(path, named, uid, **limits)
    await server.start()
    try:
        yield server
    finally:
        async with asyncio.timeout(5):
            await server.close()


async def ask(path: Path, line: bytes) -> list[dict[str, Any]]:
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
    writer.write(line)
    lines = []
    async with asyncio.timeout(5):
        try:
            while found := await reader.readline():
                lines.append(json.loads(found))
        except ConnectionResetError:  # it did not read all that was said
            pass
    writer.close()
    return lines


async def test_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("left by another")
    async with serving(path, Answers()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await ask(path, b'{"get": "events", "last": 3}\n') == [{"last": 3}, {"text": "\udcff\x1b"}]
    assert not path.exists()


async def test_a_long_answer_comes_whole(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", Answers()):
        assert len(await ask(tmp_path / "s", b'{"get": "flows"}\n')) == 20_000


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"nonsense\n", "not a line of JSON"),
        (b'{"get": "x"}\n', "none of counters, events, flows"),
        (b"x" * (LIMIT + 10), "longer than 65536"),
        (b" " * (LIMIT + 10) + b"\n", "longer than 65536"),
        (b'{"get": "counters"}\n', "no datapath"),
        (b'{"get": "eve', "no request within"),
        (b"", "no request within"),
    ],
)
async def test_a_refusal(tmp_path: Path, line: bytes, error: str) -> None:
    async with serving(tmp_path / "s", Answers(), patience=0.05):
        [refusal] = await ask(tmp_path / "s", line)
    assert refusal["ok"] is False
    assert error in refusal["error"]
    assert refusal["action"]


async def test_another_user_is_refused_whatever_it_says(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", Answers(), uid=UID + 1):
        for line in (b'{"get": "events"}\n', b"nonsense\n", b"x" * (LIMIT + 10)):
            [refusal] = await ask(tmp_path / "s", line)
            assert refusal["error"] == f"only user id {UID + 1} is answered"


async def test_an_answer_that_fails_is_said_and_others_go_on(tmp_path: Path) -> None:
    answers = Answers()
    server = Server(tmp_path / "s", {"events": answers.broken, "flows": answers.events}, UID)
    await server.start()
    assert [line.get("ok") for line in await ask(tmp_path / "s", b'{"get": "events"}\n')] == [None, False]
    assert len(await ask(tmp_path / "s", b'{"get": "flows"}\n')) == 2
    await server.close()


async def test_follow_streams_and_ends_with_the_client(tmp_path: Path) -> None:
    answers = Answers()
    async with serving(tmp_path / "s", answers), asyncio.timeout(5):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b'{"get": "events", "follow": true}\nand more that nobody asked for\n')
        await reader.readline()
        await reader.readline()
        for number in range(3):
            answers.queue.put_nowait({"number": number})
            assert json.loads(await reader.readline()) == {"number": number}
        writer.close()
        await answers.ended.wait()


async def test_closing_ends_those_who_follow(tmp_path: Path) -> None:
    answers = Answers()
    async with serving(tmp_path / "s", answers):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b'{"get": "events", "follow": true}\n')
        await reader.readline()
    await asyncio.wait_for(answers.ended.wait(), 5)
    writer.close()


async def test_a_client_that_takes_nothing_is_let_go(tmp_path: Path) -> None:
    async with serving(tmp_path / "s", Answers(), stall=0.05) as server, asyncio.timeout(5):
        _, writer = await asyncio.open_unix_connection(tmp_path / "s", limit=1024)
        writer.write(b'{"get": "flows"}\n')
        await writer.drain()
        await until(lambda: server._running)
        await until(lambda: not server._running)
        writer.close()


async def test_not_too_many_at_once(tmp_path: Path) -> None:
    answers = Answers()
    async with serving(tmp_path / "s", answers, clients=1):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
        writer.write(b'{"get": "events", "follow": true}\n')
        await reader.readline()
        [refusal] = await ask(tmp_path / "s", b'{"get": "events"}\n')
        assert refusal["error"] == "too many ask at once"
        writer.close()
        await asyncio.wait_for(answers.ended.wait(), 5)
