"""The agent's socket: root alone, and bytes that are hostile until they are parsed."""

import asyncio
import json
import os
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent.fakes import eventually

from pilus_agent import server as module
from pilus_agent.server import Server
from pilus_api.errors import PilusError


class Agent:
    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.questions: list[Mapping[str, Any]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def cni(self, raw: bytes) -> bytes:
        self.requests.append(raw)
        await self.gate.wait()
        return b"0\n"

    def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        self.questions.append(asked)
        if asked.get("get") == "nonsense":
            raise PilusError("nothing is called 'nonsense'")
        return {"item": {"got": asked.get("get")}}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, and open to everybody: who may speak is the server's to say."""
    with tempfile.TemporaryDirectory(prefix="pilus-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def agent() -> Agent:
    return Agent()


@pytest.fixture
async def path(folder: Path, agent: Agent) -> AsyncIterator[Path]:
    server = Server(folder / "run/agent.sock", agent.cni, agent.ask)
    await server.start()
    try:
        yield folder / "run/agent.sock"
    finally:
        await server.close()
    assert not (folder / "run/agent.sock").exists()


async def send(path: Path, data: bytes, *, end: bool = True) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        writer.write(data)
        await writer.drain()
        if end:
            writer.write_eof()
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_a_question(path: Path, agent: Agent) -> None:
    answer = await send(path, b'{"get": "status"}\n', end=False)
    assert answer.endswith(b"\n")
    assert json.loads(answer) == {"ok": True, "item": {"got": "status"}}
    assert agent.questions == [{"get": "status"}]


async def test_a_request_of_the_plugin_is_whole_when_its_side_is_closed(path: Path, agent: Agent) -> None:
    body = b"CNI 1\nCNI_COMMAND=ADD\n\n" + b"x" * 200_000
    assert await send(path, body) == b"0\n"
    assert agent.requests == [body]


@pytest.mark.parametrize(
    "line",
    [b"\n", b"", b"{", b"null\n", b"[]\n", b"5\n", b'"get"\n', b"\xff\xfe\n", b'{"get"', b"CNI", b"CN 1\n", b"GET / HTTP/1.1\r\n",
     b"[" * 100_000 + b"\n", b'{"a":' * 50_000 + b"\n", b"\0" * 100 + b"\n"],
    ids=range(15),
)  # fmt: skip
async def test_hostile_lines_are_answered_and_nobody_else_suffers(path: Path, agent: Agent, line: bytes) -> None:
    answer = json.loads(await send(path, line))
    assert answer["ok"] is False
    assert answer["error"]
    assert answer["action"]
    assert (agent.requests, agent.questions) == ([], [])
    assert json.loads(await send(path, b'{"get": "x"}\n'))["ok"]


async def test_what_can_not_be_asked(path: Path) -> None:
    answer = json.loads(await send(path, b'{"get": "nonsense"}\n'))
    assert answer["ok"] is False
    assert "nonsense" in answer["error"]
    assert "agent-api.md" in answer["action"]


@pytest.mark.parametrize("head", [b"", b"CNI 1\n"])
async def test_too_long(path: Path, agent: Agent, head: bytes) -> None:
    assert await send(path, head + b"x" * (3 << 20)) == b""
    assert agent.requests == []
    assert json.loads(await send(path, b'{"get": "x"}\n'))["ok"]


@pytest.mark.parametrize("half", [b"", b'{"get": "sta', b"CNI 1\nCNI_COMMAND=ADD\n", b"CN"])
async def test_half_a_request_is_not_waited_for(path: Path, agent: Agent, half: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HEADER_SECONDS", 0.02)
    async with asyncio.timeout(5):
        assert await send(path, half, end=False) == b""
    assert (agent.requests, agent.questions) == ([], [])


async def test_one_that_says_nothing_keeps_nobody_waiting(path: Path) -> None:
    silent = [await asyncio.open_unix_connection(str(path)) for _ in range(20)]
    assert json.loads(await send(path, b'{"get": "x"}\n'))["ok"]
    for _, writer in silent:
        writer.close()


async def test_a_client_that_goes_away(path: Path, agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    agent.gate.clear()
    _, writer = await asyncio.open_unix_connection(str(path))
    writer.write(b"CNI 1\nCNI_COMMAND=ADD\n\n{}")
    writer.write_eof()
    await eventually(lambda: agent.requests, "the request")
    # At once, with a reset: what was sent it is never read.
    held: socket.socket = writer.get_extra_info("socket")
    held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    agent.gate.set()
    assert json.loads(await send(path, b'{"get": "x"}\n'))["ok"]
    await eventually(lambda: not [task for task in asyncio.all_tasks() if "Server._serve" in repr(task)], "the end of its task")
    assert caplog.records == []


def opened(path: Path) -> int:
    """Its mode until now; from now on anybody may connect, and still nobody but root is answered."""
    mode = path.stat().st_mode & 0o777
    path.chmod(0o666)
    return mode


async def test_root_alone(path: Path, agent: Agent) -> None:
    if os.geteuid():
        pytest.skip("needs root, to be somebody else")
    assert opened(path) == 0o600
    script = (
        'import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b\'{"get": "x"}\\n\');'
        "sys.stdout.buffer.write(b'connected ' + s.recv(100))"
    )
    said = {}
    for user in (65534, 0):
        process = await asyncio.create_subprocess_exec(
            "/usr/bin/python3",
            "-IS",
            "-c",
            script,
            str(path),
            user=user,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said[user], _ = await process.communicate()
    assert said[65534] in (b"connected ", b"")  # b"": reset because what it said was not read
    assert said[0].startswith(b'connected {"ok": true')
    assert agent.questions == [{"get": "x"}]


async def test_a_socket_that_an_earlier_agent_left(folder: Path, agent: Agent) -> None:
    (folder / "agent.sock").write_bytes(b"")
    server = Server(folder / "agent.sock", agent.cni, agent.ask)
    await server.start()
    assert json.loads(await send(folder / "agent.sock", b'{"get": "x"}\n'))["ok"]
    await server.close()
    await server.close()
    assert os.listdir(folder) == []  # noqa: PTH208
