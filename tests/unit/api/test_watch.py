"""The connection and the lister-watcher, against an API server that has bad days."""

import asyncio
import base64
import contextlib
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pilus_api.connection import (
    Access,
    AlreadyExists,
    ApiError,
    Conflict,
    Connection,
    Expired,
    Forbidden,
    NotFound,
    Object,
    Unavailable,
    error_from,
    read_kubeconfig,
)
from pilus_api.errors import InvalidError, TemporaryError
from pilus_api.watch import Backoff, Gone, InSync, Key, Lines, Upsert, watch

PATH = "/api/v1/pods"
Send = Callable[[bytes], Awaitable[None]]
# What the server does with one watch: it may send, fail or simply end.
Script = Callable[[Send], Awaitable[None]]


def pod(name: str, version: int, **spec: object) -> Object:
    return {"metadata": {"name": name, "namespace": "d", "resourceVersion": str(version)}, "spec": spec}


def change(kind: str, name: str, version: int) -> bytes:
    return json.dumps({"type": kind, "object": pod(name, version)}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    return json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(version)}}}).encode() + b"\n"


EXPIRED = json.dumps({"type": "ERROR", "object": {"code": 410, "reason": "Expired", "message": "too old"}}).encode() + b"\n"


@contextlib.asynccontextmanager
async def serving(
    handle: Callable[[web.Request], Awaitable[web.StreamResponse]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """A server of this one handler; yields its url."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"{'https' if tls else 'http'}://{host}:{port}"
    finally:
        await runner.cleanup()


class Server:
    """Answers lists from `items`, in pages, and watches from `scripts`, one each; then it stays silent."""

    def __init__(self) -> None:
        self.items: list[Object] = []
        self.version = 1
        self.scripts: list[Script] = []
        self.lists: list[dict[str, str]] = []
        self.watches: list[dict[str, str]] = []
        self.failures: list[int] = []  # statuses of the next answers
        self.page_delay = 0.0
        self.expire_page = False
        self.url = ""
        self._over = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        (self.watches if "watch" in query else self.lists).append(query)
        if self.failures:
            status = self.failures.pop(0)
            return web.json_response({"message": "not today", "reason": "Expired" if status == 410 else ""}, status=status)
        if "watch" in query:
            return await self._watch(request)
        start, limit = int(query.get("continue", 0)), int(query["limit"])
        if start and self.expire_page:
            self.expire_page = False
            return web.json_response({"reason": "Expired", "message": "continue token is too old"}, status=410)
        await asyncio.sleep(self.page_delay)
        metadata: dict[str, Any] = {"resourceVersion": str(self.version)}
        if start + limit < len(self.items):
            metadata["continue"] = str(start + limit)
        return web.json_response({"metadata": metadata, "items": self.items[start : start + limit]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)

        async def send(data: bytes) -> None:
            await answer.write(data)
            await asyncio.sleep(0.01)

        if self.scripts:
            try:
                await self.scripts.pop(0)(send)
            except ConnectionError:
                assert request.transport is not None
                request.transport.abort()
        else:
            await self._over.wait()
        return answer

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        async with serving(self.handle) as self.url:
            try:
                yield
            finally:
                self._over.set()


def sends(*data: bytes, cut: bool = False) -> Script:
    async def script(send: Send) -> None:
        for part in data:
            await send(part)
        if cut:
            raise ConnectionError

    return script


async def told(server: Server, syncs: int = 1, extra: int = 0, **options: Any) -> list[str]:
    """Events up to the given number of InSyncs and `extra` more, as text."""
    found: list[str] = []
    async with server.serving(), Connection(Access(server.url)) as connection, asyncio.timeout(20):
        stream = watch(connection, PATH, backoff=Backoff(0.01, 0.05), **options)
        async with contextlib.aclosing(stream):
            async for event in stream:
                match event:
                    case Upsert(key, _):
                        found.append(f"+{key.name}")
                    case Gone(key):
                        found.append(f"-{key.name}")
                    case InSync():
                        found.append("sync")
                if found.count("sync") >= syncs:
                    rest = len(found) - 1 - [i for i, text in enumerate(found) if text == "sync"][syncs - 1]
                    if rest >= extra:
                        return found
    raise AssertionError


async def test_what_exists_then_what_changes() -> None:
    server = Server()
    server.items, server.version = [pod("a", 1), pod("b", 2)], 5
    server.scripts = [sends(change("ADDED", "c", 6), change("MODIFIED", "a", 7), change("DELETED", "b", 8), bookmark(9)),
                      sends(change("ADDED", "d", 10))]  # fmt: skip
    assert await told(server, extra=4) == ["+a", "+b", "sync", "+c", "+a", "-b", "+d"]
    assert [query["resourceVersion"] for query in server.watches] == ["5", "9"]
    assert server.watches[0]["allowWatchBookmarks"] == "true"
    assert len(server.lists) == 1


async def test_pages_are_put_together_however_slow() -> None:
    server = Server()
    server.items, server.page_delay = [pod(f"p{number}", number) for number in range(7)], 0.05
    assert await told(server, page=3) == [*(f"+p{number}" for number in range(7)), "sync"]
    assert [query.get("continue") for query in server.lists] == [None, "3", "6"]


async def test_a_relist_finds_what_vanished_and_is_silent_about_what_did_not_change() -> None:
    server = Server()
    server.items = [pod("a", 1), pod("b", 2), pod("c", 3)]

    async def forget(send: Send) -> None:
        server.items = [pod("a", 1), pod("c", 9), pod("d", 10)]
        await send(EXPIRED)

    server.scripts = [forget]
    assert await told(server, syncs=2) == ["+a", "+b", "+c", "sync", "+c", "+d", "-b", "sync"]


async def test_a_410_as_the_answer_s_status_is_a_relist_too() -> None:
    server = Server()
    server.items = [pod("a", 1)]

    async def then_refuse(send: Send) -> None:
        server.failures = [410]
        server.items = []

    server.scripts = [then_refuse]
    assert await told(server, syncs=2) == ["+a", "sync", "-a", "sync"]


async def test_a_list_that_expires_between_pages_begins_again() -> None:
    server = Server()
    server.items, server.expire_page = [pod(f"p{number}", number + 1) for number in range(4)], True
    assert await told(server, page=2) == ["+p0", "+p1", "+p2", "+p3", "sync"]


async def test_doubled_events_are_told_once() -> None:
    server = Server()
    server.items = [pod("a", 1)]
    server.scripts = [sends(change("ADDED", "a", 1), change("ADDED", "b", 2), change("ADDED", "b", 2), change("DELETED", "x", 3),
                            change("DELETED", "b", 4), change("DELETED", "b", 4), change("ADDED", "c", 5))]  # fmt: skip
    assert await told(server, extra=3) == ["+a", "sync", "+b", "-b", "+c"]


async def test_a_connection_cut_in_the_middle_of_a_line_goes_on_where_it_was() -> None:
    server = Server()
    server.version = 5
    server.scripts = [sends(change("ADDED", "a", 6), change("ADDED", "b", 7)[:25], cut=True), sends(change("ADDED", "b", 7))]
    assert await told(server, extra=2) == ["sync", "+a", "+b"]
    assert [query["resourceVersion"] for query in server.watches] == ["5", "6"]
    assert len(server.lists) == 1


async def test_a_line_in_many_pieces_is_one_line() -> None:
    server = Server()
    server.scripts = [sends(*(change("ADDED", "a", 6)[i : i + 9] for i in range(0, 200, 9)))]
    assert await told(server, extra=1) == ["sync", "+a"]


@pytest.mark.parametrize(
    "broken", [b"{nonsense\n", b'{"type": "ADDED"}\n', b"[]\n", b'{"type": "ADDED", "object": {"metadata": {}}}\n']
)
async def test_a_broken_line_is_watched_again_and_then_listed(broken: bytes) -> None:
    server = Server()
    server.scripts = [sends(change("ADDED", "a", 6), broken), sends(broken)]
    server.items = [pod("a", 6), pod("b", 7)]
    assert await told(server, syncs=2) == ["+a", "+b", "sync", "sync"]
    assert [query["resourceVersion"] for query in server.watches] == ["1", "6"]


async def test_cve_2023_41332_an_object_nested_without_end_is_an_object() -> None:
    """Whoever may write a Service also writes its metadata.managedFields, up to 10,000 levels deep: RecursionError ended the
    agent, every agent of the cluster."""
    deep = b'{"f:a":' * 9000 + b"{}" + b"}" * 9000
    line = change("ADDED", "deep", 6).replace(b'"namespace"', b'"managedFields": [{"fieldsV1": ' + deep + b'}], "namespace"')
    server = Server()
    server.scripts = [sends(line, change("ADDED", "next", 7))]
    assert await told(server, extra=2) == ["sync", "+deep", "+next"]
    assert len(server.lists) == 1


async def test_refusals_and_outages_are_waited_out() -> None:
    server = Server()
    server.items, server.failures = [pod("a", 1)], [403, 404, 500, 503, 429, 401]
    assert await told(server) == ["+a", "sync"]
    assert len(server.lists) == 7


async def test_a_kind_that_need_not_exist_is_empty_until_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """And an outage is no absence: nothing is in sync then."""
    monkeypatch.setattr("pilus_api.watch.ABSENT_SECONDS", 0.01)
    server = Server()
    server.items, server.failures = [pod("a", 1)], [404, 404]
    assert await told(server, syncs=3, optional=True) == ["sync", "sync", "+a", "sync"]
    server = Server()
    server.items, server.failures = [pod("a", 1)], [503, 403]
    assert await told(server, optional=True) == ["+a", "sync"]


async def test_a_server_that_answers_every_watch_with_410_is_not_hurried() -> None:
    server = Server()
    server.scripts = [sends(EXPIRED) for _ in range(6)]
    begun = asyncio.get_running_loop().time()
    await told(server, syncs=7)
    assert asyncio.get_running_loop().time() - begun > 0.1


async def test_an_error_in_the_stream_goes_on_without_a_list() -> None:
    server = Server()
    error = json.dumps({"type": "ERROR", "object": {"code": 500, "message": "etcd is away"}}).encode() + b"\n"
    server.scripts = [sends(error), sends(change("ADDED", "a", 2))]
    assert await told(server, extra=1) == ["sync", "+a"]
    assert len(server.lists) == 1


async def test_pruned_objects_are_what_is_told_and_unwanted_ones_are_gone() -> None:
    server = Server()
    server.items = [pod("a", 1, node="n1"), pod("b", 2)]
    moved = json.dumps({"type": "MODIFIED", "object": pod("a", 3)}).encode() + b"\n"
    server.scripts = [sends(moved)]
    found: list[object] = []
    async with server.serving(), Connection(Access(server.url)) as connection, asyncio.timeout(10):
        stream = watch(connection, PATH, prune=lambda raw: raw["spec"].get("node"), field_selector="x=y", label_selector="a")
        async with contextlib.aclosing(stream):
            async for event in stream:
                found.append(event)
                if len(found) == 3:
                    break
    assert found == [Upsert(Key("d", "a"), "n1"), InSync(), Gone(Key("d", "a"))]
    for query in (server.lists[0], server.watches[0]):
        assert (query["fieldSelector"], query["labelSelector"]) == ("x=y", "a")


def test_lines_come_whole_however_they_are_cut() -> None:
    data = b'{"a": 1}\n\n{"b": 2}\n{"c"'
    for size in range(1, len(data) + 1):
        lines = Lines()
        assert [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])] == [b'{"a": 1}', b'{"b": 2}']


def test_pauses_grow_are_spread_and_end() -> None:
    backoff = Backoff(1, 8)
    pauses = [backoff.delay() for _ in range(40)]
    for number, pause in enumerate(pauses):
        whole = min(2**number, 8)
        assert whole / 2 <= pause <= whole
    assert backoff.delay(at_least=60) == 60
    backoff.reset()
    assert backoff.delay() <= 1


# -- the connection ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason", "leaf"),
    [
        (401, "Unauthorized", Forbidden),
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (410, "Expired", Expired),
        (422, "Invalid", ApiError),
        (429, "TooManyRequests", Unavailable),
        (500, "InternalError", Unavailable),
    ],
)
def test_each_refusal_has_its_error(status: int, reason: str, leaf: type[ApiError]) -> None:
    error = error_from(status, {"reason": reason, "message": "because"}, "GET /x", "7")
    assert type(error) is leaf
    assert (str(error), error.status, error.reason) == ("GET /x: because", status, reason)
    if isinstance(error, Unavailable):
        assert error.retry_after == 7
        assert isinstance(error, TemporaryError)


async def test_json_goes_in_and_out_with_the_token_and_the_right_type() -> None:
    seen: list[tuple[str, str | None, str | None, bytes]] = []

    async def echo(request: web.Request) -> web.Response:
        seen.append(
            (request.method, request.headers.get("Authorization"), request.headers.get("Content-Type"), await request.read())
        )
        return web.json_response({"made": request.query_string})

    async with serving(echo) as url, Connection(Access(url, token="secret")) as connection:  # noqa: S106
        assert await connection.post("/x", {"a": 1}, {"dryRun": "All"}) == {"made": "dryRun=All"}
        await connection.patch("/x", {"a": None})
        await connection.delete("/x", uid="u", resource_version="7")
        await connection.get("/x")
    assert seen[0] == ("POST", "Bearer secret", "application/json", b'{"a": 1}')
    assert seen[1][2] == "application/merge-patch+json"
    assert json.loads(seen[2][3])["preconditions"] == {"uid": "u", "resourceVersion": "7"}
    assert seen[3][3] == b""


async def test_what_is_no_json_and_what_is_not_there_is_unavailable() -> None:
    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(body=b"<html>")

    async with serving(nonsense) as url, Connection(Access(url)) as connection:
        with pytest.raises(Unavailable, match="no JSON"):
            await connection.get("/x")
    async with Connection(Access(url)) as connection:
        with pytest.raises(Unavailable):
            await connection.get("/x")
    with pytest.raises(RuntimeError, match="async with"):
        await connection.get("/x")


async def test_a_token_s_file_is_read_and_after_a_401_read_again(tmp_path: Path) -> None:
    path, tokens = tmp_path / "token", []
    path.write_text("one\n")

    async def check(request: web.Request) -> web.Response:
        tokens.append(request.headers["Authorization"])
        return web.json_response({}, status=401 if len(tokens) == 1 else 200)

    async with serving(check) as url, Connection(Access(url, token_file=path)) as connection:
        with pytest.raises(Forbidden):
            await connection.get("/x")
        path.write_text("two")
        await connection.get("/x")
        path.write_text("three")
        await connection.get("/x")
        assert tokens == ["Bearer one", "Bearer two", "Bearer two"]
        path.unlink()
        connection._token_read = float("-inf")
        with pytest.raises(Unavailable, match="token"):
            await connection.get("/x")


KUBECONFIG = """
current-context: a
clusters: [{name: c, cluster: {server: 'SERVER', certificate-authority: ca.crt}}, {name: plain, cluster: {server: 'http://x'}}]
users: [{name: u, user: {token: t}}, {name: cert, user: {client-certificate-data: 'CERT', client-key: key.pem}}]
contexts: [{name: a, context: {cluster: c, user: u}}, {name: b, context: {cluster: plain, user: u}},
  {name: d, context: {cluster: c, user: cert}}, {name: e, context: {cluster: c, user: nobody}}]
"""


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem", "-out", tmp_path / "ca.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    path = tmp_path / "config"
    held = base64.b64encode((tmp_path / "ca.crt").read_bytes()).decode()
    path.write_text(KUBECONFIG.replace("CERT", held).replace("SERVER", "https://127.0.0.1:1"))
    return path


def point(kubeconfig: Path, url: str) -> None:
    kubeconfig.write_text(kubeconfig.read_text().replace("https://127.0.0.1:1", url))


def test_a_kubeconfig_s_contexts(kubeconfig: Path) -> None:
    first = read_kubeconfig(kubeconfig)
    assert (first.server, first.token) == ("https://127.0.0.1:1", "t")
    assert first.tls is not None
    assert len(first.tls.get_ca_certs()) == 1
    plain = read_kubeconfig(kubeconfig, "b")
    assert (plain.server, plain.tls) == ("http://x", None)
    assert read_kubeconfig(kubeconfig, "d").token == ""
    assert "secret" not in repr(Access("x", token="secret"))  # noqa: S106


@pytest.mark.parametrize(("context", "said"), [("nobody-has-it", "no context 'nobody-has-it'"), ("e", "no user 'nobody'")])
def test_a_kubeconfig_that_names_what_is_not_there(kubeconfig: Path, context: str, said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        read_kubeconfig(kubeconfig, context)


@pytest.mark.parametrize("text", ["[", "3", "clusters: 3", ""])
def test_a_kubeconfig_that_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(InvalidError):
        read_kubeconfig(path)
    with pytest.raises(InvalidError):
        read_kubeconfig(tmp_path / "absent")


async def test_tls_is_checked_against_the_kubeconfig_s_authority(kubeconfig: Path, tmp_path: Path) -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.json_response({"hello": 1})

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "ca.crt", tmp_path / "key.pem")
    async with serving(hello, context) as url:
        point(kubeconfig, url)
        async with Connection.from_kubeconfig(kubeconfig) as connection:
            assert await connection.get("/x") == {"hello": 1}
        async with Connection(Access(url)) as connection:
            with pytest.raises(Unavailable):
                await connection.get("/x")


def test_outside_a_pod_there_is_no_service_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(InvalidError, match="kubeconfig"):
        Connection.in_cluster()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    with pytest.raises(InvalidError, match="service account"):
        Connection.in_cluster()
