"""The writers against an API server that keeps what it is given, refuses stale writes, and is raced by others."""

import asyncio
import itertools
from collections.abc import Iterable, Mapping
from functools import partial
from ipaddress import ip_address
from typing import Any

import pytest

from pilus_api.connection import (
    MERGE_PATCH,
    Access,
    AlreadyExists,
    Conflict,
    Connection,
    Forbidden,
    NotFound,
    Object,
    Parameters,
    Unavailable,
)
from pilus_api.errors import InvalidError
from pilus_api.label_filters import IdentityFilter
from pilus_api.settings import Settings, parse
from pilus_api.watch import Key
from pilus_operator import facts
from pilus_operator.checks import check_policy
from pilus_operator.identity_writer import IDENTITIES, IdentityWriter
from pilus_operator.metrics import Metrics
from pilus_operator.policy_writer import PolicyWriter
from pilus_operator.range_writer import CILIUM_NODES, CLAIMS, NODES, RangeWriter
from pilus_operator.slice_writer import SLICES, Budget, SliceWriter
from pilus_operator.wiring import Term


def merged(held: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, Mapping):
        return patch
    found = dict(held) if isinstance(held, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            found.pop(key, None)
        else:
            found[key] = merged(found.get(key), value)
    return found


class Store(Connection):
    """Objects by path. `calls` is what was asked; `refuse` are paths that are forbidden."""

    def __init__(self) -> None:
        super().__init__(Access("http://nowhere"))
        self.objects: dict[str, Object] = {}
        self.calls: list[str] = []
        self.refuse: set[str] = set()
        self._versions = itertools.count(1)

    def keep(self, path: str, body: Object) -> Object:
        metadata = {"uid": f"uid-{path}", **body["metadata"], "resourceVersion": str(next(self._versions))}
        self.objects[path] = {**body, "metadata": metadata}
        return self.objects[path]

    def _find(self, method: str, path: str, version: str = "") -> Object:
        self.calls.append(f"{method} {path.rsplit('/', 1)[-1]}")
        if path in self.refuse:
            raise Forbidden(path)
        if path not in self.objects:
            raise NotFound(path)
        held = self.objects[path]
        if version and held["metadata"]["resourceVersion"] != version:
            raise Conflict(path)
        return held

    async def get(self, path: str, params: Parameters | None = None) -> Object:  # noqa: ARG002
        return self._find("get", path)

    async def post(self, path: str, body: Object, params: Parameters | None = None) -> Object:  # noqa: ARG002
        name = f"{path}/{body['metadata']['name']}"
        self.calls.append(f"post {body['metadata']['name']}")
        if path in self.refuse:
            raise Forbidden(path)
        if name in self.objects:
            raise AlreadyExists(name)
        return self.keep(name, body)

    async def put(self, path: str, body: Object, params: Parameters | None = None) -> Object:  # noqa: ARG002
        self._find("put", path, body["metadata"].get("resourceVersion", ""))
        return self.keep(path, body)

    async def patch(self, path: str, body: Any, params: Parameters | None = None, content: str = MERGE_PATCH) -> Object:  # noqa: ARG002
        path = path.removesuffix("/status")
        held = self._find("patch", path, body["metadata"].get("resourceVersion", ""))
        return self.keep(path, merged(held, body))

    async def delete(self, path: str, *, uid: str = "", resource_version: str = "") -> Object:
        held = self._find("delete", path, resource_version)
        if uid and held["metadata"]["uid"] != uid:
            raise Conflict(path)
        return self.objects.pop(path)

    def names(self, path: str) -> list[str]:
        return sorted(held.removeprefix(f"{path}/") for held in self.objects if held.startswith(f"{path}/"))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def pod(app: str = "web", node: str = "", uid: str = "u") -> facts.Pod:
    return facts.Pod(uid, (("app", app),), "", node, False, False)


class World:
    """All writers over one store."""

    def __init__(self, **settings: object) -> None:
        self.store, self.clock, self.metrics = Store(), Clock(), Metrics()
        self.settings: Settings = parse({"identity-heartbeat-timeout": "60s", "cluster-pool-ipv4-cidr": "10.44.0.0/16"} | settings)
        self.identities = IdentityWriter(self.store, self.settings, self.metrics, clock=self.clock)
        self.identities.in_sync = True
        self.identities.namespace("ns", ())
        self.ranges = RangeWriter(self.store, self.settings, self.metrics, clock=self.clock)
        names = itertools.count(1)
        self.slices = SliceWriter(
            self.store, self.identities, self.ranges.ranges, self.metrics, clock=self.clock, new_name=lambda: f"ces-{next(names)}"
        )

    async def allocate(self) -> None:
        def changed(keys: Iterable[Key]) -> None:
            self.slices.changed(keys)

        await self.identities.allocate(changed)


A, B = Key("ns", "a"), Key("ns", "b")


async def test_identities_are_created_once_for_equal_labels() -> None:
    world = World()
    world.identities.pod(A, pod())
    world.identities.pod(B, pod(uid="v"))
    world.identities.pod(Key("ns", "c"), pod("other"))
    await world.allocate()
    assert world.store.names(IDENTITIES) == ["256", "257"]
    assert world.identities.identity_of(A) == world.identities.identity_of(B) == 256
    assert world.store.objects[f"{IDENTITIES}/256"]["security-labels"]["k8s:app"] == "web"


async def test_identities_are_of_the_labels_that_the_process_has_been_told() -> None:
    """The filter that it read when it began, whatever the setting `labels` alone would say."""
    store, settings = Store(), parse({"labels": "k8s:tier"})
    term = Term(store, settings, Metrics(), None, {}, IdentityFilter(["k8s:app"]))
    identities = term._identities
    identities.in_sync = True
    identities.namespace("ns", ())
    identities.pod(A, facts.Pod("u", (("app", "web"), ("tier", "front")), "", "", False, False))
    await identities.allocate(lambda _: None)
    (path,) = store.names(IDENTITIES)
    found = store.objects[f"{IDENTITIES}/{path}"]["security-labels"]
    assert (found["k8s:app"], "k8s:tier" in found) == ("web", False)


async def test_nothing_is_created_before_what_exists_is_known() -> None:
    world = World()
    world.identities.in_sync = False
    world.identities.pod(A, pod())
    await world.allocate()
    assert world.store.calls == []


async def test_a_number_that_somebody_took_in_between_is_passed_over() -> None:
    world = World()
    world.store.keep(f"{IDENTITIES}/256", {"metadata": {"name": "256"}, "security-labels": {}})
    world.identities.pod(A, pod())
    await world.allocate()
    assert world.identities.identity_of(A) == 257


async def test_what_could_not_be_created_is_tried_again() -> None:
    world = World()
    world.store.refuse.add(IDENTITIES)
    world.identities.pod(A, pod())
    with pytest.raises(Forbidden):
        await world.allocate()
    world.store.refuse.clear()
    await world.allocate()
    assert world.identities.identity_of(A) is not None


async def test_an_identity_that_vanishes_though_it_is_needed_comes_back_with_another_number() -> None:
    world = World()
    world.identities.pod(A, pod())
    await world.allocate()
    del world.store.objects[f"{IDENTITIES}/256"]
    assert list(world.identities.identity("256", None)) == [A]
    await world.allocate()
    assert world.identities.identity_of(A) == 257


async def test_collection_marks_waits_and_deletes() -> None:
    world = World()
    world.identities.pod(A, pod())
    await world.allocate()
    world.identities.pod(A, None)
    path = f"{IDENTITIES}/256"
    await world.identities.collect(frozenset({256}))
    assert facts.UNUSED_SINCE not in world.store.objects[path]["metadata"].get("annotations", {}), "an endpoint still carries it"
    await world.identities.collect(frozenset())
    assert facts.UNUSED_SINCE in world.store.objects[path]["metadata"]["annotations"]
    world.clock.now += 59
    await world.identities.collect(frozenset())
    assert path in world.store.objects
    world.clock.now += 1
    await world.identities.collect(frozenset())
    assert world.store.names(IDENTITIES) == []
    world.identities.pod(A, pod())
    await world.allocate()
    assert world.identities.identity_of(A) == 257, "256 rests"


async def test_a_marked_identity_that_is_needed_again_is_unmarked() -> None:
    world = World()
    world.identities.pod(A, pod())
    await world.allocate()
    world.identities.pod(A, None)
    await world.identities.collect(frozenset())
    world.clock.now += 100
    world.identities.pod(A, pod())
    await world.identities.collect(frozenset())
    assert not world.store.objects[f"{IDENTITIES}/256"]["metadata"]["annotations"]
    assert world.identities.identity_of(A) == 256


async def test_an_identity_that_was_written_in_between_is_not_deleted() -> None:
    world = World()
    world.identities.pod(A, pod())
    await world.allocate()
    world.identities.pod(A, None)
    await world.identities.collect(frozenset())
    world.clock.now += 100
    world.store.keep(f"{IDENTITIES}/256", world.store.objects[f"{IDENTITIES}/256"])
    await world.identities.collect(frozenset())
    assert world.store.names(IDENTITIES) == ["256"]


async def test_a_node_gets_claims_and_then_its_ranges() -> None:
    world = World(**{"enable-ipv6": True, "cluster-pool-ipv6-cidr": "fd00:44::/48", "cluster-pool-ipv6-mask-size": 64})
    world.ranges.node("n1", facts.Node("u", "192.0.2.1"))
    assert await world.ranges.write() is None
    assert world.store.names(CLAIMS) == ["10-44-0-0-24", "fd00-44---64"]
    written = world.store.objects[f"{CILIUM_NODES}/n1"]
    assert written["spec"]["ipam"]["podCIDRs"] == ["10.44.0.0/24", "fd00:44::/64"]
    assert world.store.calls.index("post fd00-44---64") < world.store.calls.index("patch n1")
    world.store.calls.clear()
    await world.ranges.write()
    assert world.store.calls == []


async def test_a_range_that_a_former_leader_claimed_meanwhile_goes_to_nobody_else() -> None:
    world = World()
    claim = {"metadata": {"name": "10-44-0-0-24"}, "spec": {"node": "other", "range": "10.44.0.0/24"}}
    world.store.keep(f"{CLAIMS}/10-44-0-0-24", claim)
    world.ranges.node("n1", facts.Node("u", ""))
    world.ranges.node("other", facts.Node("v", ""))
    await world.ranges.write()
    found = {name: world.store.objects[f"{CILIUM_NODES}/{name}"]["spec"]["ipam"]["podCIDRs"] for name in ("n1", "other")}
    assert found["other"] == ["10.44.0.0/24"]
    assert found["n1"] != found["other"]


class Stopped(Store):
    """Stops before its nth request that changes something, until it is told to go on (as SIGSTOP does), on another's objects."""

    def __init__(self, shared: Store, before: int) -> None:
        super().__init__()
        self.objects, self._versions = shared.objects, shared._versions
        self._left = before
        self.stopped, self.go_on = asyncio.Event(), asyncio.Event()

    async def _maybe(self) -> None:
        self._left -= 1
        if self._left < 0:
            self.stopped.set()
            await self.go_on.wait()

    async def post(self, path: str, body: Object, params: Parameters | None = None) -> Object:
        await self._maybe()
        return await super().post(path, body, params)

    async def patch(self, path: str, body: Any, params: Parameters | None = None, content: str = MERGE_PATCH) -> Object:
        await self._maybe()
        return await super().patch(path, body, params, content)


@pytest.mark.parametrize("before", range(5))
async def test_a_leader_that_was_stopped_between_choosing_a_range_and_writing_it(before: int) -> None:
    """Another took over meanwhile and gave ranges to nodes in another order; the first goes on where it stood. The agents refuse
    what nobody has claimed for them; here, when all is done, no two nodes have one range."""
    world = World()
    slow = Stopped(world.store, before)
    first = RangeWriter(slow, world.settings, Metrics(), clock=world.clock)
    names = ("n1", "n2")
    for name in names:
        first.node(name, facts.Node(f"u-{name}", ""))
    writing = asyncio.create_task(first.write())
    done = asyncio.create_task(slow.stopped.wait())
    await asyncio.wait({writing, done}, return_when=asyncio.FIRST_COMPLETED)
    done.cancel()
    for name in world.store.names(CLAIMS):
        world.ranges.claim(name, facts.claim(world.store.objects[f"{CLAIMS}/{name}"]))
    for name in world.store.names(CILIUM_NODES):
        world.ranges.cilium_node(name, facts.cilium_node(world.store.objects[f"{CILIUM_NODES}/{name}"]))
    for name in (*reversed(names), "n0"):
        world.ranges.node(name, facts.Node(f"u-{name}", ""))
    await world.ranges.write()
    slow.go_on.set()
    await writing
    claims = {world.store.objects[f"{CLAIMS}/{one}"]["spec"]["range"]: world.store.objects[f"{CLAIMS}/{one}"]["spec"]["node"]
              for one in world.store.names(CLAIMS)}  # fmt: skip
    nodes = world.store.names(CILIUM_NODES)
    assert nodes == ["n0", "n1", "n2"]
    written = [(text, name) for name in nodes for text in world.store.objects[f"{CILIUM_NODES}/{name}"]["spec"]["ipam"]["podCIDRs"]]
    assert len({text for text, _ in written}) == len(written)
    assert all(claims[text] == name for text, name in written)


async def test_a_claim_under_another_name_claims_nothing() -> None:
    world = World()
    world.ranges.claim("forged", facts.claim({"metadata": {}, "spec": {"node": "n1", "range": "10.44.0.0/24"}}))
    assert world.ranges.ranges.claims == {}


async def test_what_a_gone_node_had_is_released_only_if_the_api_server_says_so_too() -> None:
    world = World()
    world.ranges.node("n1", facts.Node("u", ""))
    await world.ranges.write()
    world.store.keep(f"{NODES}/n1", {"metadata": {"name": "n1"}})
    world.ranges.node("n1", None)
    assert await world.ranges.write() == pytest.approx(30)
    world.clock.now += 30
    await world.ranges.write()
    assert world.store.names(CILIUM_NODES) == ["n1"]
    del world.store.objects[f"{NODES}/n1"]
    await world.ranges.write()
    assert (world.store.names(CILIUM_NODES), world.store.names(CLAIMS)) == ([], [])


async def sliced() -> World:
    world = World()
    world.ranges.node("n1", facts.Node("u", "192.0.2.1"))
    await world.ranges.write()
    world.identities.pod(A, pod(node="n1"))
    await world.allocate()
    return world


def endpoint(*addresses: str) -> facts.EndpointObject:
    return facts.EndpointObject(999, "u", tuple(map(ip_address, addresses)), (), 0)


def members(world: World) -> list[list[str]]:
    return [[entry["name"] for entry in held["endpoints"]] for path, held in world.store.objects.items() if path.startswith(SLICES)]


async def test_an_endpoint_s_slice_is_written_changed_and_deleted() -> None:
    world = await sliced()
    world.slices.endpoint(A, endpoint("10.44.0.5", "10.99.0.5"))
    assert await world.slices.write() is None
    (entry,) = world.store.objects[f"{SLICES}/ces-1"]["endpoints"]
    assert (entry["id"], entry["networking"]["addressing"]) == (256, [{"ipv4": "10.44.0.5"}])
    assert b"pilus_operator_refused_addresses 1.0" in await world.metrics.text()
    world.identities.pod(B, pod("other", node="n1"))
    world.slices.endpoint(B, endpoint("10.44.0.6"))
    await world.allocate()
    assert await world.slices.write() == pytest.approx(0.5)
    world.clock.now += 0.5
    await world.slices.write()
    assert members(world) == [["a", "b"]]
    for key in (A, B):
        world.slices.endpoint(key, None)
    world.clock.now += 1
    await world.slices.write()
    assert members(world) == []


async def test_an_identity_that_comes_later_than_the_endpoint_is_waited_for() -> None:
    world = await sliced()
    world.identities.pod(B, pod("late", node="n1"))
    world.slices.endpoint(B, endpoint("10.44.0.6"))
    await world.slices.write()
    assert members(world) == []
    await world.allocate()
    await world.slices.write()
    assert members(world) == [["b"]]


async def test_a_slice_that_somebody_wrote_is_written_over() -> None:
    world = await sliced()
    world.slices.endpoint(A, endpoint("10.44.0.5"))
    await world.slices.write()
    forged = {**world.store.objects[f"{SLICES}/ces-1"], "endpoints": [{"name": "forged"}]}
    world.store.keep(f"{SLICES}/ces-1", forged)
    world.slices.endpoint(A, endpoint("10.44.0.7"))
    for _ in range(2):  # the first is refused, and learns the version
        world.clock.now += 1
        await world.slices.write()
    assert members(world) == [["a"]]
    del world.store.objects[f"{SLICES}/ces-1"]
    world.slices.endpoint(A, endpoint("10.44.0.8"))
    for _ in range(2):
        world.clock.now += 1
        await world.slices.write()
    assert members(world) == [["a"]]


async def test_what_an_earlier_leader_left_of_gone_endpoints_goes() -> None:
    world = await sliced()
    left = world.store.keep(
        f"{SLICES}/old", {"metadata": {"name": "old"}, "namespace": "ns", "endpoints": [{"name": "gone", "id": 1}]}
    )
    world.slices.slice("old", facts.endpoint_slice(left))
    await world.slices.write()
    assert members(world) == []


async def test_a_node_that_gets_an_address_brings_its_endpoints() -> None:
    world = await sliced()
    world.ranges.node("n1", facts.Node("u", ""))
    world.slices.endpoint(A, endpoint("10.44.0.5"))
    await world.slices.write()
    assert members(world) == []
    world.ranges.node("n1", facts.Node("u", "192.0.2.1"))
    world.slices.node_changed("n1")
    await world.slices.write()
    assert members(world) == [["a"]]


@pytest.mark.parametrize(("nodes", "first", "later"), [(1, 200, 20), (100, 50, 5), (100000, 2, 0)])
def test_the_budget_shrinks_with_the_number_of_nodes(nodes: int, first: int, later: int) -> None:
    budget = Budget(0.0)
    assert [budget.take(10000, nodes, now) for now in (0.0, 0.1)] == [first, later]


POLICIES = "/apis/cilium.io/v2/ciliumnetworkpolicies"
POLICY = "/apis/cilium.io/v2/namespaces/ns/ciliumnetworkpolicies/p"
P = Key("ns", "p")


async def test_a_policy_s_status_is_written_when_it_differs() -> None:
    world = World()
    wrong: list[str] = []

    def check(_: Object) -> None:
        if wrong:
            raise InvalidError(wrong[0])

    writer = PolicyWriter(world.store, check, pause=0)
    held = world.store.keep(POLICY, {"metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1}})
    writer.node("n1", present=True)
    writer.policy(POLICIES, P, held)
    await writer.write()
    assert world.store.objects[POLICY]["status"]["enforced"] == "0/1"
    writer.policy(POLICIES, P, world.store.objects[POLICY])
    writer.said("n1", {"u": facts.Realised(1, True, "")})
    await writer.write()
    assert world.store.objects[POLICY]["status"]["enforced"] == "1/1"
    world.store.calls.clear()
    writer.policy(POLICIES, P, world.store.objects[POLICY])
    await writer.write()
    assert world.store.calls == []
    wrong.append("no")
    writer.policy(POLICIES, P, world.store.objects[POLICY])
    await writer.write()
    (condition,) = world.store.objects[POLICY]["status"]["conditions"]
    assert (condition["status"], condition["message"]) == ("False", "no")
    del world.store.objects[POLICY]
    wrong.clear()
    writer.policy(POLICIES, P, held)
    assert await writer.write() is None
    writer.policy(POLICIES, P, None)
    assert await writer.write() is None


async def test_another_policy_of_the_same_name_is_another() -> None:
    """Deleted and made again while nobody watched: what nodes said of the first one is not the second one's."""
    world = World()
    writer = PolicyWriter(world.store, lambda _: None, pause=0)
    writer.node("n1", present=True)
    for uid, enforced in (("u", "1/1"), ("v", "0/1")):
        held = world.store.keep(POLICY, {"metadata": {"name": "p", "namespace": "ns", "uid": uid, "generation": 1}})
        writer.policy(POLICIES, P, held)
        writer.said("n1", {"u": facts.Realised(1, True, "")})
        await writer.write()
        assert world.store.objects[POLICY]["status"]["enforced"] == enforced


def pods_told(world: World) -> list[tuple[str, str]]:
    """Whom Events are about, and what they say."""
    held = [one for path, one in world.store.objects.items() if "/events/" in path]
    return sorted((one["involvedObject"]["name"], one["message"]) for one in held if one["involvedObject"]["kind"] == "Pod")


async def test_pods_are_told_of_a_policy_that_is_not_in_force_for_them() -> None:
    """Each once, whichever node speaks first, and by an operator that starts anew as well; and again of what is missing now."""
    world = World()
    raw = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1}}
    missing = "not in force as it is written, and what it would allow by that is denied"
    text = f"CiliumNetworkPolicy ns/p, which governs this pod: {missing}: spec.a"

    def said(pod: str, *fields: str, generation: int = 1) -> dict[str, facts.Realised]:
        return {"u": facts.Realised(generation, True, "", unenforced=fields, pods=(("ns", pod, f"uid-{pod}"),))}

    for _ in range(2):
        writer = PolicyWriter(world.store, lambda _: None, pause=0)
        writer.policy(POLICIES, P, world.store.keep(POLICY, raw))
        for node, pod in (("n1", "web"), ("n2", "api"), ("n3", "web")):
            writer.node(node, present=True)
            writer.said(node, said(pod, "spec.a"))
            await writer.write()
        assert pods_told(world) == [("api", text), ("web", text)]
    writer.said("n1", said("web", "spec.a", "spec.b"))
    await writer.write()
    assert pods_told(world)[2:] == [("web", f"{text}, spec.b")]
    for node in ("n1", "n2", "n3"):
        writer.said(node, said("web"))
    await writer.write()
    assert len(pods_told(world)) == 3


NETWORK_POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"


def events_of(world: World, kind: str) -> list[tuple[str, str, str]]:
    """Of objects of that kind: who, why, and what is said."""
    held = [one for path, one in world.store.objects.items() if path.startswith("/api/v1/namespaces/ns/events/")]
    about = [(one["involvedObject"], one) for one in held if one["involvedObject"]["kind"] == kind]
    return sorted((who["name"], one["reason"], one["message"]) for who, one in about)


async def test_of_a_network_policy_events_tell_and_nothing_is_written_into_it() -> None:
    """As a list brings it, without a kind: what nodes say of it, on itself and on its pods, in the words of other kinds."""
    world = World()
    raw: Object = {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    misspelt = "annotation pilus.io/mode is 'adit', and not enforce or audit: it is enforced"
    pods = (("ns", "web", "uid-web"),)
    for _ in range(2):  # the second is an operator that starts anew
        writer = PolicyWriter(world.store, partial(check_policy, cluster="default"), pause=0)
        writer.policy(NETWORK_POLICIES, P, raw)
        for node in ("n1", "n2"):
            writer.node(node, present=True)
        writer.said("n2", {"u": facts.Realised(1, True, "")})
        assert await writer.write() is None
        writer.said("n1", {"u": facts.Realised(1, False, "", unenforced=(misspelt,), pods=pods)})
        await writer.write()
        assert events_of(world, "NetworkPolicy") == [("p", "NotInForce", misspelt)]
        assert events_of(world, "Pod") == [("web", "PolicyNotInForce", f"NetworkPolicy ns/p, which governs this pod: {misspelt}")]
    (event,) = (one for one in world.store.objects.values() if one["involvedObject"]["kind"] == "NetworkPolicy")
    assert event["involvedObject"] == {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "name": "p", "namespace": "ns", "uid": "u"
    }  # fmt: skip
    writer.said("n1", {"u": facts.Realised(1, False, "too large: 20000 rows", pods=pods)})
    writer.policy(NETWORK_POLICIES, P, raw)
    await writer.write()
    assert [message for *_, message in events_of(world, "NetworkPolicy")] == [misspelt, "n1: too large: 20000 rows"]
    invalid = raw | {"spec": {"podSelector": {}, "ingress": [{"from": [{}]}]}}
    writer.policy(NETWORK_POLICIES, P, invalid | {"metadata": raw["metadata"] | {"generation": 2}})
    await writer.write()
    ((_, _, refused),) = [one for one in events_of(world, "NetworkPolicy") if one[1] == "NotValid"]
    assert "spec.ingress[0].from[0]" in refused
    assert all(call.startswith("post ") for call in world.store.calls), "the policy itself was written"
    writer.policy(NETWORK_POLICIES, P, None)
    assert await writer.write() is None


async def test_an_event_of_a_network_policy_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no condition that would say it instead. What nobody may write is not waited for."""
    world = World()
    post = world.store.post

    async def away(path: str, body: Object, params: Parameters | None = None) -> Object:
        raise Unavailable(path)

    writer = PolicyWriter(world.store, lambda _: None, pause=0)
    writer.policy(NETWORK_POLICIES, P, {"metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1}})
    writer.node("n1", present=True)
    writer.said("n1", {"u": facts.Realised(1, False, "too large")})
    monkeypatch.setattr(world.store, "post", away)
    for _ in range(2):
        assert await writer.write() == 0, "it is tried again, and nothing of other kinds waits for it"
    monkeypatch.setattr(world.store, "post", post)
    await writer.write()
    assert events_of(world, "NetworkPolicy") == [("p", "NotInForce", "n1: too large")]
    world.store.refuse.add("/api/v1/namespaces/ns/events")
    writer.said("n1", {"u": facts.Realised(1, False, "larger")})
    assert await writer.write() is None


async def test_a_status_does_not_wait_for_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()

    async def away(path: str, body: Object, params: Parameters | None = None) -> Object:
        raise Unavailable(path)

    monkeypatch.setattr(world.store, "post", away)
    writer = PolicyWriter(world.store, lambda _: None, pause=0)
    raw = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1}}
    writer.policy(POLICIES, P, world.store.keep(POLICY, raw))
    writer.node("n1", present=True)
    writer.said("n1", {"u": facts.Realised(1, False, "too large", pods=(("ns", "web", "uid-web"),))})
    assert await writer.write() is None
    assert world.store.objects[POLICY]["status"]["conditions"][-1]["message"] == "n1: too large"


@pytest.mark.parametrize("read", [True, False])
def test_network_policies_are_followed_where_nodes_read_them(read: bool) -> None:
    settings = parse({"enable-k8s-networkpolicy": str(read).lower()})
    term = Term(Store(), settings, Metrics(), None, {})
    assert (NETWORK_POLICIES in {kind.path for kind in term._kinds}) == read


async def test_of_many_pods_some_are_told() -> None:
    world = World()
    writer = PolicyWriter(world.store, lambda _: None, pause=0)
    raw = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1}}
    writer.policy(POLICIES, P, world.store.keep(POLICY, raw))
    for node in range(10):
        writer.node(f"n{node}", present=True)
        pods = tuple(("ns", f"pod-{node}-{number}", f"uid-{node}-{number}") for number in range(16))
        writer.said(f"n{node}", {"u": facts.Realised(1, False, "too large", pods=pods)})
    await writer.write()
    assert len(pods_told(world)) == 32
