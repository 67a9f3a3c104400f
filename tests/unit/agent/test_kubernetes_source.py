"""Objects of the API server to facts: what makes no sense is left out and said, and the others go on."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.fakes import PATIENCE

from pilus_agent.facts import AllocatedIdentity, Namespace, Node, Pod, RemoteEndpoint, Slice
from pilus_agent.sources import kubernetes as source
from pilus_agent.sources.kubernetes import (
    KINDS,
    Kind,
    PolicyObject,
    address_of,
    follow,
    follow_all,
    identity_of,
    namespace_of,
    node_of,
    pod_of,
    policy_of,
    slice_of,
)
from pilus_api.connection import Access, Connection
from pilus_api.errors import PilusError
from pilus_api.identities import Identity
from pilus_api.labels import Label

Object = dict[str, Any]
BY_NAME = {kind.name: kind for kind in KINDS}


def metadata(name: str, **more: Any) -> Object:
    return {"metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": "7"} | more}


# -- what makes sense ----------------------------------------------------------------------------------------------------------

POD: Object = metadata("web", labels={"b": "2", "a": "1"}) | {
    "spec": {
        "serviceAccountName": "robot",
        "containers": [
            {"ports": [{"name": "http", "containerPort": 80}, {"name": "dns", "protocol": "UDP", "containerPort": 53}]},
            {"ports": [{"containerPort": 9}]},
            {},
        ],
        "initContainers": [
            {"restartPolicy": "Always", "ports": [{"name": "proxy", "containerPort": 15001}]},
            {"ports": [{"name": "first", "containerPort": 1}]},
        ],
    },
    "status": {"phase": "Running"},
}
NODE: Object = metadata("n2") | {
    "spec": {
        "addresses": [
            {"type": "InternalIP", "ip": "192.0.2.2"}, {"type": "CiliumInternalIP", "ip": "10.0.2.1"},
            {"type": "ExternalIP", "ip": "2001:db8::2"}, {"type": "Hostname", "ip": "192.0.2.9"},
            {"type": "InternalIP", "ip": "no"},
        ],
        "ipam": {"podCIDRs": ["10.0.2.0/24", "fd00:2::/64"]},
    }
}  # fmt: skip
SLICE: Object = metadata("s") | {
    "namespace": "shop",
    "endpoints": [
        {"name": "web", "id": 300, "networking": {"node": "192.0.2.2", "addressing": [{"ipv4": "10.0.2.5", "ipv6": "fd00:2::5"}]}},
        {
            "name": "new",
            "networking": {"addressing": [{"ipv4": "10.0.2.6"}, {"ipv4": ""}, {}]},
            "named-ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        },
        {"name": "none", "id": 4, "networking": {}},
    ],
}


def test_a_pod() -> None:
    assert pod_of(POD) == Pod(
        "default", "web", "uid-web", (("a", "1"), ("b", "2")), "robot", host_network=False, ended=False,
        ports=frozenset({("http", 6, 80), ("dns", 17, 53), ("proxy", 6, 15001)}),
    )  # fmt: skip
    assert pod_of(metadata("p")) == Pod("default", "p", "uid-p")
    assert pod_of(metadata("p") | {"spec": {"hostNetwork": True}, "status": {"phase": "Failed"}}) == Pod(
        "default", "p", "uid-p", host_network=True, ended=True
    )


def test_a_node() -> None:
    assert node_of(NODE) == Node(
        "n2", (ip_address("192.0.2.2"), ip_address("2001:db8::2")), (ip_address("10.0.2.1"),),
        (ip_network("10.0.2.0/24"), ip_network("fd00:2::/64")),
    )  # fmt: skip
    assert node_of(metadata("n9")) == Node("n9")


def test_a_range_too_small_for_a_router_and_a_pod_is_none(logs: list[dict[str, object]]) -> None:
    raw = metadata("n1") | {"spec": {"ipam": {"podCIDRs": ["10.0.1.0/31", "10.0.1.7", "fd00::/127", "10.0.3.0/24", "word", 5]}}}
    assert node_of(raw).ranges == (ip_network("10.0.3.0/24"),)
    assert [one["range"] for one in logs] == ["10.0.1.0/31", "10.0.1.7", "fd00::/127", "word", "5"]


def test_a_namespace_and_an_identity() -> None:
    assert namespace_of(metadata("d", labels={"b": "2", "a": "1"})) == Namespace((("a", "1"), ("b", "2")))
    assert namespace_of(metadata("d", annotations={"pilus.io/mode": "audit"})) == Namespace((), "audit")
    raw = metadata("300") | {"security-labels": {"k8s:app": "web", "k8s:a": ""}}
    assert identity_of(raw) == AllocatedIdentity(Identity(300), (Label("k8s", "a", ""), Label("k8s", "app", "web")))


@pytest.mark.parametrize("name", ["0", "16777216", "16777217", "33554433", "0300", "+300"])
def test_an_object_names_no_number_that_is_a_nodes_own(name: str) -> None:
    """2^24 and above mean something on one node alone, 0 nothing; and a number has one writing."""
    with pytest.raises(ValueError, match=r"is no identity|is another writing"):
        identity_of(metadata(name) | {"security-labels": {"k8s:app": "web"}})
    if not name.startswith(("0", "+")):
        with pytest.raises(ValueError, match="is no identity"):
            slice_of(SLICE | {"endpoints": [{**SLICE["endpoints"][0], "id": int(name)}]})


def test_a_slice() -> None:
    found = slice_of(SLICE)
    node = ip_address("192.0.2.2")
    assert found == Slice(
        "s",
        (
            RemoteEndpoint(ip_address("10.0.2.5"), Identity(300), node, "shop/web"),
            RemoteEndpoint(ip_address("fd00:2::5"), Identity(300), node, "shop/web"),
            RemoteEndpoint(ip_address("10.0.2.6"), Identity(0), None, "shop/new", frozenset({("http", 6, 80), ("dns", 17, 53)})),
        ),
    )


def test_a_policy_is_kept_as_written() -> None:
    raw = metadata("p", generation=3) | {"spec": {"anything": [1]}}
    found = policy_of(raw | {"status": {"enforced": "1/2"}})
    assert (found.uid, found.generation, found.raw["spec"]) == ("uid-p", 3, {"anything": [1]})
    told = raw | {"metadata": raw["metadata"] | {"resourceVersion": "8", "managedFields": [{}]}, "status": {"enforced": "2/2"}}
    assert policy_of(told) == found, "what is said about it is not what it says"
    assert policy_of(metadata("p")).generation == 0


@pytest.mark.parametrize("text", [None, "", "x", "10.0.0.256", "10.0.0.0/8", 5, True, ["10.0.0.1"], "10.0.0.1 ", "fe80::1%eth0"])
def test_what_is_no_address(text: object) -> None:
    assert address_of(text) is None


# -- what makes none -----------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, str, Object]] = [
    ("pods", "labels as a list", metadata("p", labels=["a"])),
    ("pods", "a label as a number", metadata("p", labels={"a": 1})),
    ("pods", "a label as a list", metadata("p", labels={"a": ["b"]})),
    ("pods", "a label as null", metadata("p", labels={"a": None})),
    ("pods", "no uid", {"metadata": {"name": "p", "namespace": "d"}}),
    ("pods", "a uid as a number", metadata("p", uid=7)),
    ("pods", "a spec as a list", metadata("p") | {"spec": [1]}),
    ("pods", "a service account as a list", metadata("p") | {"spec": {"serviceAccountName": ["a"]}}),
    ("pods", "containers as a text", metadata("p") | {"spec": {"containers": "abc"}}),
    ("pods", "a port as a word", metadata("p") | {"spec": {"containers": [{"ports": [{"name": "a", "containerPort": "http"}]}]}}),
    ("pods", "port 70000", metadata("p") | {"spec": {"containers": [{"ports": [{"name": "a", "containerPort": 70000}]}]}}),
    ("pods", "port -1", metadata("p") | {"spec": {"containers": [{"ports": [{"name": "a", "containerPort": -1}]}]}}),
    ("pods", "no port", metadata("p") | {"spec": {"containers": [{"ports": [{"name": "a"}]}]}}),
    ("pods", "a protocol as a list", metadata("p") | {"spec": {"containers": [{"ports": [{"name": "a", "protocol": []}]}]}}),
    ("pods", "a status as a text", metadata("p") | {"status": "Running"}),
    ("pods", "a phase as a list", metadata("p") | {"status": {"phase": ["Failed"]}}),
    ("namespaces", "labels as a text", metadata("p", labels="a")),
    ("namespaces", "a label as an object", metadata("p", labels={"a": {}})),
    ("nodes", "a spec as a text", metadata("p") | {"spec": "a"}),
    ("nodes", "addresses as an object", metadata("p") | {"spec": {"addresses": {"a": 1}}}),
    ("nodes", "an address as a text", metadata("p") | {"spec": {"addresses": ["192.0.2.1"]}}),
    ("nodes", "ipam as a list", metadata("p") | {"spec": {"ipam": ["10.0.0.0/24"]}}),
    ("identities", "a name that is no number", metadata("abc") | {"security-labels": {"k8s:a": "b"}}),
    ("identities", "a name with a sign", metadata("-5") | {"security-labels": {"k8s:a": "b"}}),
    ("identities", "another writing of a number", metadata("0300") | {"security-labels": {"k8s:a": "b"}}),
    ("identities", "a number that no identity has", metadata("16777216") | {"security-labels": {"k8s:a": "b"}}),
    ("identities", "number 0", metadata("0") | {"security-labels": {"k8s:a": "b"}}),
    ("identities", "labels as a list", metadata("300") | {"security-labels": ["k8s:a"]}),
    ("identities", "a value as a list", metadata("300") | {"security-labels": {"k8s:a": ["b"]}}),
    ("identities", "a label without a key", metadata("300") | {"security-labels": {"k8s:": "b"}}),
    ("slices", "endpoints as an object", metadata("s") | {"endpoints": {"a": 1}}),
    ("slices", "an endpoint as a text", metadata("s") | {"endpoints": ["web"]}),
    ("slices", "networking as a list", metadata("s") | {"endpoints": [{"networking": [1]}]}),
    ("slices", "addressing as a text", metadata("s") | {"endpoints": [{"networking": {"addressing": "ipv4"}}]}),
    ("slices", "a port that is none", metadata("s") | {"endpoints": [{"named-ports": [{"name": "http", "port": 0}]}]}),
    ("slices", "an identity as a word", metadata("s") | {"endpoints": [
        {"id": "web", "networking": {"addressing": [{"ipv4": "10.0.2.5"}]}}]}),
    ("slices", "a negative identity", metadata("s") | {"endpoints": [
        {"id": -1, "networking": {"addressing": [{"ipv4": "10.0.2.5"}]}}]}),
    ("slices", "an identity of 33 bits", metadata("s") | {"endpoints": [
        {"id": 1 << 32, "networking": {"addressing": [{"ipv4": "10.0.2.5"}]}}]}),
    ("slices", "an endless identity", metadata("s") | {"endpoints": [
        {"id": float("inf"), "networking": {"addressing": [{"ipv4": "10.0.2.5"}]}}]}),
    ("cnp", "no uid", {"metadata": {"name": "p", "namespace": "d"}}),
    ("cnp", "a generation as a list", metadata("p", generation=[1])),
    ("knp", "a generation as a word", metadata("p", generation="x")),
    # The API server's own format takes some of these.
    *(("cidrgroups", f"the prefix {text!r}", metadata("g") | {"spec": {"externalCIDRs": ["192.0.2.0/24", text]}})
      for text in ("010.0.0.0/8", "10.0.0.0/08", "10.0.0.1", "fe80::%1/64", "", 8, None)),
    ("cidrgroups", "prefixes as a text", metadata("g") | {"spec": {"externalCIDRs": "192.0.2.0/24"}}),
    ("cidrgroups", "prefixes as an empty text", metadata("g") | {"spec": {"externalCIDRs": ""}}),
    ("cidrgroups", "prefixes as an object", metadata("g") | {"spec": {"externalCIDRs": {}}}),
    ("cidrgroups", "no prefixes", metadata("g") | {"spec": {}}),
]  # fmt: skip


class Sink:
    def __init__(self) -> None:
        self.facts: dict[tuple[str, str], Any] = {}
        self.told: set[str] = set()
        self.puts = 0
        self.changed = asyncio.Event()

    def put(self, kind: str, key: str, fact: Any) -> None:
        self.puts += 1
        if fact is None:
            del self.facts[kind, key]
        else:
            self.facts[kind, key] = fact
        self.changed.set()

    def synced(self, kind: str) -> None:
        self.told.add(kind)
        self.changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class _Content:
    def __init__(self, stream: "asyncio.Queue[bytes]") -> None:
        self._stream = stream

    async def iter_any(self) -> AsyncIterator[bytes]:
        while True:
            yield await self._stream.get()


class _Answer:
    def __init__(self, body: bytes, stream: "asyncio.Queue[bytes]") -> None:
        self._body, self.content = body, _Content(stream)

    async def read(self) -> bytes:
        return self._body


class FakeApi(Connection):
    """Lists what it has, then streams what is put into `changes`."""

    def __init__(self, items: dict[str, list[Object]]) -> None:
        super().__init__(Access("https://nowhere"))
        self.items = items
        self.changes: dict[str, asyncio.Queue[bytes]] = {}
        self.asked: dict[str, Any] = {}
        self.accepted: dict[str, list[str]] = {}

    def change(self, path: str, kind: str, raw: Object, version: str = "9") -> None:
        found = raw | {"metadata": raw["metadata"] | {"resourceVersion": version}}
        self.changes[path].put_nowait(json.dumps({"type": kind, "object": found}).encode() + b"\n")

    @asynccontextmanager
    async def open(self, method: str, path: str, **options: Any) -> AsyncIterator[Any]:  # noqa: ARG002
        self.asked[path] = options["params"]
        self.accepted.setdefault(path, []).append(options["accept"])
        body = json.dumps({"metadata": {"resourceVersion": "8"}, "items": self.items.get(path, [])}).encode()
        yield _Answer(body, self.changes.setdefault(path, asyncio.Queue()))


@asynccontextmanager
async def following(kind: Kind, *items: Object) -> AsyncIterator[tuple[FakeApi, Sink]]:
    api, sink = FakeApi({kind.path: list(items)}), Sink()
    task = asyncio.create_task(follow(api, kind, "n1", sink))
    try:
        await sink.until(lambda: kind.name in sink.told or task.done())
        yield api, sink
        if task.done():
            task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


GOOD = {
    "pods": POD, "namespaces": metadata("good"), "nodes": NODE, "identities": metadata("301") | {"security-labels": {"k8s:a": "b"}},
    "slices": SLICE, "cnp": metadata("good"), "ccnp": metadata("good"), "knp": metadata("good"),
    "cidrgroups": metadata("good") | {"spec": {"externalCIDRs": ["192.0.2.0/24", "2001:db8::/32"]}},
}  # fmt: skip


@pytest.mark.parametrize(("kind", "raw"), [case[::2] for case in REFUSED], ids=[" ".join(case[:2]) for case in REFUSED])
async def test_one_broken_object_does_not_stop_the_others(kind: str, raw: Object, logs: list[dict[str, object]]) -> None:
    raw = {"metadata": {"resourceVersion": "7"} | raw["metadata"]} | {
        name: part for name, part in raw.items() if name != "metadata"
    }
    async with following(BY_NAME[kind], raw, GOOD[kind]) as (_, sink):
        assert list(sink.facts.values()) == [BY_NAME[kind].read(GOOD[kind])]
    left = [one for one in logs if one["event"] == "object makes no sense, left out"]
    assert [(one["kind"], one["name"]) for one in left] == [(kind, raw["metadata"]["name"])]


async def test_a_good_object_that_breaks_is_gone_and_comes_back() -> None:
    kind = BY_NAME["pods"]
    async with following(kind, POD) as (api, sink):
        assert list(sink.facts) == [("pods", "default/web")]
        api.change(kind.path, "MODIFIED", metadata("web", labels=5), "9")
        await sink.until(lambda: not sink.facts)
        api.change(kind.path, "MODIFIED", POD, "10")
        await sink.until(lambda: sink.facts)
        api.change(kind.path, "DELETED", POD, "11")
        await sink.until(lambda: not sink.facts)


async def test_a_group_of_which_one_prefix_can_not_be_read_is_gone_whole() -> None:
    """Without that prefix alone, a rule that denies the group would deny less than is written."""
    kind, good = BY_NAME["cidrgroups"], GOOD["cidrgroups"]
    whole = (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"))
    async with following(kind, good) as (api, sink):
        assert list(sink.facts.values()) == [whole]
        api.change(kind.path, "MODIFIED", good | {"spec": {"externalCIDRs": ["192.0.2.0/24", "010.0.0.0/8"]}}, "9")
        await sink.until(lambda: not sink.facts)
        api.change(kind.path, "MODIFIED", good, "10")
        await sink.until(lambda: list(sink.facts.values()) == [whole])


async def test_of_nodes_labels_alone_are_asked_for_and_told_when_they_change() -> None:
    """A Node changes with every heartbeat of its kubelet."""
    kind = BY_NAME["nodelabels"]
    node = {"metadata": {"name": "n2", "labels": {"rack": "blue"}}}
    async with following(kind, node) as (api, sink):
        assert sink.facts == {("nodelabels", "n2"): (("rack", "blue"),)}
        before = sink.puts
        api.change(kind.path, "MODIFIED", node, "9")
        api.change(kind.path, "MODIFIED", {"metadata": {"name": "n2", "labels": {"rack": "red"}}}, "10")
        await sink.until(lambda: sink.facts == {("nodelabels", "n2"): (("rack", "red"),)})
        assert sink.puts == before + 1
        api.change(kind.path, "DELETED", node, "11")
        await sink.until(lambda: not sink.facts)
        api.change(kind.path, "ADDED", {"metadata": {"name": "n2", "labels": {"rack": "red"}}}, "12")
        await sink.until(lambda: sink.facts)
        assert [text.partition(";g=")[0] for text in api.accepted[kind.path]] == [
            "application/json;as=PartialObjectMetadataList", "application/json;as=PartialObjectMetadata",
        ]  # fmt: skip


async def test_everything_is_followed_and_of_pods_our_own() -> None:
    api, sink = FakeApi({BY_NAME[name].path: [raw] for name, raw in GOOD.items()}), Sink()
    task = asyncio.create_task(follow_all(api, "n1", sink))
    try:
        await sink.until(lambda: sink.told == set(BY_NAME))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert {(kind, key) for kind, key in sink.facts} == {
        ("pods", "default/web"), ("namespaces", "default/good"), ("nodes", "default/n2"), ("identities", "default/301"),
        ("slices", "default/s"), ("cnp", "default/good"), ("ccnp", "default/good"), ("knp", "default/good"),
        ("cidrgroups", "default/good"),
    }  # fmt: skip
    assert api.asked["/api/v1/pods"]["fieldSelector"] == "spec.nodeName=n1"
    assert not any("fieldSelector" in asked for path, asked in api.asked.items() if path != "/api/v1/pods")


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["10.0.2.5", "10.0.2.0/24", "80"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def places(raw: Any, road: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in an object, but where the watch itself looks."""
    found = [road] if road and road not in (("metadata",), ("metadata", "name"), ("metadata", "namespace")) else []
    pairs = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    return found + [place for key, one in pairs for place in places(one, (*road, key))]


EXAMPLES = [(kind, raw, place) for kind, raw in GOOD.items() for place in places(raw)]
_REFUSALS = (PilusError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError)


@given(st.sampled_from(EXAMPLES), anything)
def test_whatever_stands_anywhere_is_read_or_refused(example: tuple[str, Object, tuple[Any, ...]], value: object) -> None:
    """And what is read can be hashed, compared and written into the kernel's rows."""
    kind, raw, (*road, last) = example
    changed = json.loads(json.dumps(raw))
    inner = changed
    for step in road:
        inner = inner[step]
    inner[last] = value
    try:
        fact = BY_NAME[kind].read(changed)
    except _REFUSALS:
        return
    if isinstance(fact, PolicyObject):
        return
    hash(fact)
    match fact:
        case Slice(endpoints=endpoints):
            assert all(0 <= one.identity < 1 << 24 for one in endpoints)
        case AllocatedIdentity(number=number, labels=labels):
            assert 0 < number < 1 << 24
            assert all(isinstance(part, str) for label in labels for part in label)
        case Pod(labels=pairs, ports=ports):
            assert all(isinstance(part, str) for pair in pairs for part in pair)
            assert all(0 < port < 1 << 16 for _, _, port in ports)
            assert all(isinstance(text, str) for text in (fact.uid, fact.service_account))
        case Node(ranges=ranges):
            assert all(network.num_addresses >= 4 for network in ranges)
        case tuple() if kind == "cidrgroups":
            assert all(isinstance(one, IPv4Network | IPv6Network) for one in fact)
        case tuple():
            assert all(isinstance(part, str) for pair in fact for part in pair)


def test_kinds_have_their_own_names() -> None:
    assert len({kind.name for kind in KINDS}) == len({kind.path for kind in KINDS}) == len(KINDS)
    assert source.KINDS is KINDS
