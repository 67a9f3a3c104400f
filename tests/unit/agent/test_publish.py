"""What the agent writes into the API: whole objects, as often as they change, until they stand."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from tests.unit.agent.fakes import attachment, eventually

from pilus_agent.desired.endpoints import EGRESS_ENFORCED, INGRESS_ENFORCED, READY, Endpoint, State, mac
from pilus_agent.endpoint_objects import EndpointObjects
from pilus_agent.objects import cilium_endpoint, cilium_node, endpoint_path, node_path, node_status, routers_of
from pilus_agent.publish import Publisher
from pilus_api.connection import APPLY_PATCH, Access, Connection, NotFound, Object, Unavailable
from pilus_api.identities import Identity
from pilus_api.labels import Label


class FakeApi(Connection):
    def __init__(self) -> None:
        super().__init__(Access("https://nowhere"))
        self.written: list[tuple[str, Object | None]] = []
        self.fails: dict[str, Exception] = {}
        self.tried = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def _arrive(self, path: str) -> None:
        self.tried += 1
        await self.gate.wait()
        await asyncio.sleep(0)
        if path in self.fails:
            raise self.fails[path]

    async def patch(self, path: str, body: object, params: Any = None, content: str = "") -> Object:
        assert content == APPLY_PATCH
        assert params == {"fieldManager": "pilus-agent", "force": "true"}
        await self._arrive(path)
        assert isinstance(body, dict)
        self.written.append((path, body))
        return {}

    async def delete(self, path: str, *, uid: str = "", resource_version: str = "") -> Object:  # noqa: ARG002
        await self._arrive(path)
        self.written.append((path, None))
        return {}


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def publisher(api: FakeApi) -> AsyncIterator[Publisher]:
    found = Publisher(api, interval=0.001)
    task = asyncio.create_task(found.run())
    try:
        yield found
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_changes_is_written_and_what_does_not_is_not(api: FakeApi, publisher: Publisher) -> None:
    publisher.want("/a", {"x": 1})
    publisher.want("/b", {"x": 1})
    await eventually(lambda: len(api.written) == 2, "both")
    publisher.want("/a", {"x": 1})
    publisher.want("/b", {"x": 2})
    await eventually(lambda: len(api.written) == 3, "the change")
    publisher.want("/end", {})
    await eventually(lambda: api.written[-1][0] == "/end", "the end")
    assert api.written == [("/a", {"x": 1}), ("/b", {"x": 1}), ("/b", {"x": 2}), ("/end", {})]


async def test_of_many_changes_the_last(api: FakeApi) -> None:
    publisher = Publisher(api, interval=3600)
    task = asyncio.create_task(publisher.run())
    for number in range(100):
        publisher.want("/a", {"x": number})
    await eventually(lambda: api.written, "the write")
    for number in range(100):
        publisher.want("/a", {"x": number})
    await asyncio.gather(*(asyncio.sleep(0) for _ in range(10)))
    assert api.written == [("/a", {"x": 99})]  # and no other before the interval is over
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_change_while_it_is_written_is_written_too(api: FakeApi, publisher: Publisher) -> None:
    api.gate.clear()
    publisher.want("/a", {"x": 1})
    await eventually(lambda: api.tried, "the first write")
    publisher.want("/a", {"x": 2})
    api.gate.set()
    await eventually(lambda: len(api.written) == 2, "the second write")
    assert api.written[-1] == ("/a", {"x": 2})


async def test_back_to_what_stands_while_it_is_written(api: FakeApi, publisher: Publisher) -> None:
    publisher.want("/a", {"x": 1})
    await eventually(lambda: api.written, "the first")
    api.gate.clear()
    publisher.want("/a", {"x": 2})
    await eventually(lambda: api.tried == 2, "the second write")
    publisher.want("/a", {"x": 1})
    api.gate.set()
    await eventually(lambda: len(api.written) == 3, "the third write")
    assert api.written[-1] == ("/a", {"x": 1})


async def test_a_failure_is_said_once_and_stops_nobody(api: FakeApi, publisher: Publisher, logs: list[dict[str, object]]) -> None:
    api.fails["/a"] = Unavailable("the API server is away", 503)
    publisher.want("/a", {"x": 1})
    publisher.want("/b", {"x": 1})
    await eventually(lambda: api.tried > 6, "some tries")
    assert api.written == [("/b", {"x": 1})]
    assert [one["event"] for one in logs] == ["can't write, trying again"]
    publisher.want("/a", {"x": 2})
    del api.fails["/a"]
    await eventually(lambda: len(api.written) == 2, "the write")
    assert api.written[-1] == ("/a", {"x": 2})
    await eventually(lambda: len(logs) == 2, "the log")
    assert logs[-1]["event"] == "written after all"


async def test_one_that_hangs_keeps_no_other(api: FakeApi, publisher: Publisher) -> None:
    api.gate.clear()
    publisher.want("/slow", {"x": 1})
    await eventually(lambda: api.tried, "the write that hangs")
    api.gate = asyncio.Event()
    api.gate.set()
    publisher.want("/a", {"x": 1})
    await eventually(lambda: api.written == [("/a", {"x": 1})], "the other write")


async def test_what_is_wanted_no_more(api: FakeApi, publisher: Publisher) -> None:
    publisher.want("/a", {"x": 1})
    await eventually(lambda: api.written, "the write")
    publisher.want("/a", None)
    await eventually(lambda: len(api.written) == 2, "the removal")
    publisher.want("/a", {"x": 1})
    await eventually(lambda: len(api.written) == 3, "once more")
    api.fails["/never"] = NotFound("gone", 404)
    publisher.want("/never", None)
    publisher.want("/end", {})
    await eventually(lambda: api.written[-1][0] == "/end", "the end")
    tried = api.tried
    publisher.want("/last", {})
    await eventually(lambda: api.written[-1][0] == "/last", "the end")
    assert api.tried == tried + 1  # deleting the absent was done


# -- the objects ---------------------------------------------------------------------------------------------------------------


def test_of_two_attachments_of_a_pod_the_later_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old sandbox's DEL may come long after the new one's ADD: its address is another pod's by then."""
    wanted: list[Object | None] = []
    publisher = Publisher(FakeApi())
    monkeypatch.setattr(publisher, "want", lambda _, body: wanted.append(body))
    objects = EndpointObjects(publisher, "n1", ip_address("192.0.2.1"))
    ports: frozenset[tuple[str, int, int]] = frozenset()

    def published(**now: Endpoint) -> list[int]:
        """The numbers of the attachments that are written."""
        wanted.clear()
        objects.want(now, lambda _: (Label("k8s", "app", "web"),), lambda _: ports)
        return [body["status"]["id"] for body in wanted if body]

    old, new, other = (Endpoint(attachment("web", number), Identity(number), b"", False, False) for number in (1, 2, 2))
    assert published(old=old) == [1]
    assert published(old=old, new=new) == [2]
    assert published(old=old, new=new) == []
    assert published(new=other) == [], "the same, in another object"
    assert published(new=replace(other, identity=Identity(3))) == [2]
    ports = frozenset({("http", 6, 80)})
    assert published(new=replace(other, identity=Identity(3))) == [2]
    assert published() == []
    assert published(new=new) == [2], "gone meanwhile, with its object"


def test_a_node() -> None:
    found = cilium_node("n1", "u", [ip_address("192.0.2.1")], routers_of([ip_network("10.0.1.0/24"), ip_network("fd00::/64")]))
    assert found["spec"]["addresses"] == [
        {"type": "InternalIP", "ip": "192.0.2.1"}, {"type": "CiliumInternalIP", "ip": "10.0.1.1"},
        {"type": "CiliumInternalIP", "ip": "fd00::1"},
    ]  # fmt: skip
    assert "ipam" not in found["spec"]  # the operator's
    assert found["metadata"]["ownerReferences"][0]["uid"] == "u"
    assert node_path("n1").endswith("/ciliumnodes/n1")


def test_an_endpoint() -> None:
    made = attachment("web", 7)
    endpoint = Endpoint(made, Identity(300), b"p", ingress_enforced=True, egress_enforced=False)
    ports = {("http", 6, 80), ("dns", 17, 53), ("sig", 132, 9)}
    found = cilium_endpoint(endpoint, (Label("k8s", "app", "web"),), ports, ip_address("192.0.2.1"), "n1")
    assert endpoint_path("default", "web").endswith("/namespaces/default/ciliumendpoints/web")
    assert found["metadata"]["name"] == "web"
    assert found["metadata"]["annotations"] == {"pilus.io/node": "n1"}  # by which admission knows whose it is
    assert found["metadata"]["ownerReferences"][0]["uid"] == "uid-web"
    status = found["status"]
    assert (status["id"], status["state"]) == (7, "ready")
    assert status["identity"] == {"id": 300, "labels": ["k8s:app=web"]}
    assert status["networking"] == {"addressing": [{"ipv4": "10.0.1.17"}], "node": "192.0.2.1"}
    assert status["policy"] == {"ingress": {"enforcing": True}, "egress": {"enforcing": False}}
    assert status["named-ports"] == [
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "http", "port": 80, "protocol": "TCP"},
        {"name": "sig", "port": 9, "protocol": "SCTP"},
    ]  # fmt: skip
    endpoint = Endpoint(made, None, b"", ingress_enforced=False, egress_enforced=False)
    waiting = cilium_endpoint(endpoint, (), (), None, "n1")["status"]
    assert waiting["state"] == "waiting-for-identity"
    assert "identity" not in waiting
    assert "named-ports" not in waiting
    assert "node" not in waiting["networking"]


def test_a_nodes_status() -> None:
    found = node_status("n1", "u", "1.0", ready=True, policies=[{"uid": "a"}])
    assert found["status"] == {"agent": {"version": "1.0", "ready": True}, "policies": [{"uid": "a"}]}


@pytest.mark.parametrize(
    ("identity", "ingress", "egress", "flags", "state"),
    [
        (None, False, False, 0, State.WAITING_FOR_IDENTITY),
        (None, True, True, 3, State.WAITING_FOR_IDENTITY),
        (300, False, False, READY, State.READY),
        (300, True, False, READY | INGRESS_ENFORCED, State.READY),
        (300, False, True, READY | EGRESS_ENFORCED, State.READY),
    ],
)
def test_flags_and_state(identity: int | None, ingress: bool, egress: bool, flags: int, state: State) -> None:
    number = None if identity is None else Identity(identity)
    endpoint = Endpoint(attachment("a", 1), number, b"", ingress, egress)
    assert (endpoint.flags, endpoint.state) == (flags, state)


def test_a_mac() -> None:
    assert mac("02:00:00:00:0a:ff") == bytes([2, 0, 0, 0, 10, 255])
