"""The wiring on a fake kernel: what reaches the tables, in which order, and what stays when something goes wrong."""

import asyncio
import errno
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from tests.unit.agent.fakes import (
    NAMESPACE,
    NAMESPACE_LABELS,
    OTHER,
    OWN,
    FakeDatapath,
    FakeKernel,
    Killed,
    Rows,
    World,
    Write,
    allow_from,
    attachment,
    decoded,
    eventually,
    no_cgroup,
    pod,
    policy,
    quicken,
    remote,
)

from pilus_agent import writer
from pilus_agent.datapath.links import LinkError
from pilus_agent.desired.endpoints import INGRESS_ENFORCED, READY, State
from pilus_agent.desired.nodes import LOCAL, NODE, POD
from pilus_agent.facts import EndpointSlice, Node, Service, ServiceEndpoint
from pilus_agent.wiring import NEEDED
from pilus_api.identities import HOST, INIT, KUBE_APISERVER, REMOTE_NODE, RESERVED

# Remove each with its repair: a strict mark fails as soon as the thing holds.
WEB, API, DATA = pod("web", app="web"), pod("api", app="api"), pod("data", app="data")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)


@pytest.fixture
def kernel(datapath: FakeDatapath) -> FakeKernel:
    return FakeKernel(datapath)


def populated(kernel: FakeKernel, *, synced: bool = True, **settings: Any) -> World:
    """Two nodes, two pods here, one there."""
    world = World(kernel, **settings)
    world.begin()
    for number, one in ((300, WEB), (301, API), (302, DATA)):
        world.identity(number, one)
    world.pod(1, WEB)
    world.pod(2, API)
    world.wiring.put("slices", "s", remote("data", 302, "10.0.2.7"))
    if synced:
        world.sync()
    return world


# -- what is in the kernel, and whether it makes sense -------------------------------------------------------------------------


def meaning(world: World, rows: Rows) -> dict[str, dict[str, Any]]:
    """Every endpoint with its policy by content: numbers may differ from one agent to the next."""
    tables = {table: decoded(world.tables, rows, table) for table in ("endpoints", "policies", "peers", "cidrs", "verdicts")}
    verdicts: dict[int, set[tuple[Any, ...]]] = {}
    for key, value in tables["verdicts"]:
        verdicts.setdefault(key["table"], set()).add(
            (key["length"], key["protocol"], key["port"], value["decision"], value["precedence"])
        )
    policies = {}
    for number, value in tables["policies"]:
        named = {(key["direction"], key["identity"]): one["table"] for key, one in tables["peers"] if key["policy"] == number}
        policies[number] = {
            "hash": value["hash"], "complete": value["complete"],
            "default": [frozenset(verdicts.get(table, ())) for table in value["table"]],
            "peers": {who: frozenset(verdicts.get(table, ())) for who, table in named.items()},
            "cidrs": [sum(key["policy"] == number and key["direction"] == side for key, _ in tables["cidrs"]) for side in (0, 1)],
            "declared": list(value["cidrs"]),
        }  # fmt: skip
    found = {}
    for key, value in tables["endpoints"]:
        held = {name: value[name] for name in ("identity", "flags", "number", "ifindex")}
        held["policy"] = policies.get(value["policy"], "MISSING") if value["policy"] else None
        found[".".join(map(str, key["address"][:4]))] = held
    return found


class Whole:
    """Checks prefixes: a policy that an endpoint points at is, in content, what its hash has been at the end of some pass."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.whole: dict[bytes, list[dict[str, Any]]] = {}

    def learn(self, rows: Rows) -> None:
        for held in meaning(self._world, rows).values():
            if held["policy"]:
                assert held["policy"] != "MISSING"
                self.whole.setdefault(held["policy"]["hash"], []).append(held["policy"])

    def check(self, rows: Rows) -> None:
        known = {key for key, _ in decoded(self._world.tables, rows, "identities")}
        for address, held in meaning(self._world, rows).items():
            enforced = held["flags"] & 3
            if not enforced and held["policy"] is None:
                continue
            assert held["policy"] not in (None, "MISSING"), f"{address} points at a policy that is not there"
            policy = held["policy"]
            assert policy["complete"] == 1
            assert policy["cidrs"] >= policy["declared"], f"{address}: address rules are missing"
            assert any(self._same(policy, whole, known) for whole in self.whole[policy["hash"]]), (
                f"{address} is judged by a policy of which rows are missing"
            )

    @staticmethod
    def _same(policy: dict[str, Any], whole: dict[str, Any], known: set[int]) -> bool:
        """The same to every identity that packets are judged for."""

        def answer(one: dict[str, Any], side: int, who: int) -> Any:
            return one["peers"].get((side, who), one["default"][side])

        return all(answer(policy, side, who) == answer(whole, side, who) for side in (0, 1) for who in known)


def prefixes(start: Rows, log: list[Write]) -> Iterator[Rows]:
    rows = deepcopy(start)
    yield rows
    for one in log:
        if one.value is None:
            del rows[one.table][one.key]
        else:
            rows[one.table][one.key] = one.value
        yield rows


# -- facts to rows -------------------------------------------------------------------------------------------------------------


async def test_a_pod_gets_its_rows(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
    row = world.endpoint("10.0.1.11")
    assert row is not None
    assert {name: row[name] for name in ("ifindex", "identity", "policy", "number", "flags", "slot")} == {
        "ifindex": 101, "identity": 300, "policy": 0, "number": 1, "flags": READY, "slot": 1,
    }  # fmt: skip
    assert (row["mac"].hex(), row["gateway_mac"].hex()) == ("020000000001", "020000000101")
    assert (world.known("10.0.1.11") or {})["flags"] == POD | LOCAL
    assert (world.known("10.0.1.11") or {})["identity"] == 300
    assert (world.known("10.0.2.7") or {})["identity"] == 302
    assert (world.known("192.0.2.1") or {})["flags"] == NODE | LOCAL
    assert {300, 301, 302, 1, 2, 6} <= {key for key, _ in world.rows("identities")}
    ((_, settings),) = world.rows("settings")
    assert settings["flags"] & 3 == 3
    assert settings["node_ipv4"][:4] == bytes([192, 0, 2, 1])
    assert settings["router_ipv4"][:4] == bytes([10, 0, 1, 1])
    assert settings["tunnel_ifindex"] == kernel.links.index("pilus_vxlan")
    assert kernel.links.routes == {ip_network("10.0.2.0/24")}
    assert world.wiring.endpoints["c-web/eth0"].state is State.READY
    assert world.wiring.trouble == {}
    assert world.wiring.ready
    assert world.wiring.settled("c-web/eth0")
    assert not world.wiring.settled("c-nobody/eth0")


@pytest.mark.parametrize("missing", sorted(NEEDED))
async def test_nothing_is_touched_before_everything_is_told(kernel: FakeKernel, missing: str) -> None:
    first = populated(kernel)
    async with first.running():
        await first.realise()
    before, kernel.log = deepcopy(kernel.rows), []
    second = World(kernel, NEEDED)
    async with second.running():
        for kind in NEEDED - {missing}:
            second.wiring.synced(kind)
        second.begin()
        assert not await second.wiring.realise(0.03)
        assert not second.wiring.in_sync
        assert not second.wiring.ready
    assert (kernel.rows, kernel.log, kernel.links.routes) == (before, [], {ip_network("10.0.2.0/24")})


async def test_a_new_agent_writes_nothing(kernel: FakeKernel) -> None:
    def told(world: World) -> None:
        for name, spec in (("a", allow_from("web", "api", "data")), ("b", allow_from("api", "web", port=443))):
            world.wiring.put("cnp", f"{NAMESPACE}/{name}", policy(name, spec))

    first = populated(kernel, synced=False)
    told(first)
    first.sync()
    async with first.running():
        await first.realise()
    assert (first.endpoint("10.0.1.11") or {})["policy"]
    kernel.log = []
    second = populated(kernel, synced=False)
    told(second)
    second.sync()
    async with second.running():
        await second.realise()
    assert kernel.log == []
    assert second.wiring.settled("c-web/eth0")


async def test_what_an_earlier_agent_left_goes(kernel: FakeKernel) -> None:
    first = populated(kernel)
    first.wiring.put("cnp", f"{NAMESPACE}/a", policy("a", allow_from("web", "api")))
    async with first.running():
        await first.realise()
    second = World(kernel)
    second.begin(OWN)
    second.sync()
    async with second.running():
        await second.realise()
        assert second.rows("endpoints") == []
        assert second.known("10.0.2.7") is None
        await eventually(
            lambda: not second.rows("policies") and not second.rows("peers") and not second.rows("verdicts"), "the sweep"
        )
    assert [key["length"] for key, _ in second.rows("pod_ranges")] == [32 + 24]


@pytest.mark.parametrize("kind", ["nodes", "pods", "namespaces", "identities", "slices", "attachments", "cnp"])
async def test_gone_twice_and_gone_before_it_came(kernel: FakeKernel, kind: str) -> None:
    world = populated(kernel)
    async with world.running():
        for _ in range(2):
            world.wiring.put(kind, "302" if kind == "identities" else "nobody", None)
        await world.realise()
    assert world.endpoint("10.0.1.11")
    with pytest.raises(KeyError):
        world.wiring.put("cats", "a", None)


async def test_the_road_does_not_matter(kernel: FakeKernel, datapath: FakeDatapath) -> None:
    """Other order, everything twice, a detour: the same rows."""
    straight = populated(kernel, synced=False)
    straight.wiring.put("cnp", f"{NAMESPACE}/a", policy("a", allow_from("web", "api")))
    straight.sync()
    async with straight.running():
        await straight.realise()
    other = World(FakeKernel(datapath))
    async with other.running():
        other.sync()
        other.wiring.put("slices", "s", remote("data", 302, "10.0.2.7", "10.0.2.8"))
        other.wiring.put("slices", "t", remote("data", 302, "10.0.2.9"))
        for _ in range(2):
            other.pod(2, API)
        other.begin()
        await other.realise()
        other.identity(300, API)
        other.pod(1, pod("web", app="other"))
        other.wiring.put("cnp", f"{NAMESPACE}/a", policy("a", allow_from("web", "data")))
        other.wiring.put("cnp", f"{NAMESPACE}/b", policy("b", allow_from("api", "data")))
        await other.realise()
        other.wiring.put("cnp", f"{NAMESPACE}/b", None)
        other.wiring.put("cnp", f"{NAMESPACE}/a", policy("a", allow_from("web", "api"), 2))
        for number, one in ((302, DATA), (301, API), (300, WEB), (300, WEB)):
            other.identity(number, one)
        other.pod(1, WEB)
        other.wiring.put("slices", "t", None)
        other.wiring.put("slices", "s", remote("data", 302, "10.0.2.7"))
        await other.realise()
        await eventually(lambda: all(one.settled for one in other.tables.trackers.values()), "the sweep")
    assert meaning(other, other.kernel.rows) == {
        address: held | {"ifindex": held["ifindex"]} for address, held in meaning(straight, kernel.rows).items()
    }
    for table in ("identities", "pod_ranges", "ipcache", "settings"):
        assert other.kernel.rows[table] == kernel.rows[table], table


# -- who a pod is --------------------------------------------------------------------------------------------------------------


async def test_a_pod_is_not_believed_about_itself(kernel: FakeKernel) -> None:
    world = populated(kernel)
    spoofed = {"app": "web", "io.cilium.k8s.policy.cluster": "other", "io.cilium.k8s.policy.serviceaccount": "admin",
               "io.cilium.k8s.namespace.labels.team": "root", "io.kubernetes.pod.namespace": "kube-system"}  # fmt: skip
    async with world.running():
        world.pod(3, pod("liar", **spoofed))
        await world.realise()
        assert (world.endpoint("10.0.1.13") or {})["identity"] == 300  # the same as any app=web of this namespace
    assert world.wiring.labels["c-liar/eth0"] == world.wiring.labels["c-web/eth0"]


async def test_without_identity_a_pod_waits_and_then_is_closed(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.pod(3, pod("new", app="new"))
        await world.realise()
        row = world.endpoint("10.0.1.13")
        assert row is not None
        assert (row["identity"], row["flags"] & READY) == (0, 0)
        assert world.known("10.0.1.13") is None
        assert world.wiring.endpoints["c-new/eth0"].state is State.WAITING_FOR_IDENTITY

        world.wiring.give_up("c-new/eth0")
        await world.realise()
        row = world.endpoint("10.0.1.13")
        assert row is not None
        assert (row["identity"], row["flags"] & READY) == (INIT, READY)

        world.identity(303, pod("new", app="new"))
        await world.realise()
        assert (world.endpoint("10.0.1.13") or {})["identity"] == 303
        assert (world.known("10.0.1.13") or {})["identity"] == 303

        # New labels whose number is not there yet: the old identity goes on.
        world.wiring.put("pods", f"{NAMESPACE}/new", pod("new", app="newer"))
        await world.realise()
        assert (world.endpoint("10.0.1.13") or {})["identity"] == 303
        # Its object goes before its DEL: it stays what it was.
        world.wiring.put("pods", f"{NAMESPACE}/new", None)
        await world.realise()
        assert (world.endpoint("10.0.1.13") or {})["identity"] == 303

        world.wiring.put("attachments", "c-new/eth0", None)
        await world.realise()
        assert world.endpoint("10.0.1.13") is None
        assert world.known("10.0.1.13") is None


async def test_of_two_numbers_the_lowest(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.identity(299, WEB)
        world.identity(400, WEB)
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["identity"] == 299
        world.wiring.put("identities", "299", None)
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["identity"] == 300


async def test_a_reserved_number_is_nobodys(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.identity(1, WEB)
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["identity"] == 300
        world.wiring.put("identities", "1", None)
        world.wiring.put("identities", "not-a-number", None)
        await world.realise()
        assert 1 in {key for key, _ in world.rows("identities")}


async def test_labels_of_a_namespace_move_its_pods(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
        world.wiring.put("namespaces", NAMESPACE, (*NAMESPACE_LABELS, ("team", "red")))
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["identity"] == 300  # none for the new set yet
        assert any(label.key.endswith(".team") for label in world.wiring.labels["c-web/eth0"])
        world.wiring.put("namespaces", NAMESPACE, None)
        await world.realise()
        assert world.endpoint("10.0.1.11")


# -- nodes and slices ----------------------------------------------------------------------------------------------------------


async def test_a_slice_before_its_node(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.wiring.put("slices", "far", remote("far", 302, "10.0.3.7", node="192.0.2.3"))
        await world.realise()
        assert world.known("10.0.3.7") is None
        world.wiring.put("nodes", "n3", Node("n3", (ip_address("192.0.2.3"),), (), (ip_network("10.0.3.0/24"),)))
        await world.realise()
        assert (world.known("10.0.3.7") or {})["tunnel"][:4] == bytes([192, 0, 2, 3])
        assert ip_network("10.0.3.0/24") in kernel.links.routes
        world.wiring.put("nodes", "n3", None)
        await world.realise()
        assert world.known("10.0.3.7") is None
        assert world.known("192.0.2.3") is None
        assert ip_network("10.0.3.0/24") not in kernel.links.routes


async def test_overlapping_ranges_do_not_move_anybodys_pods(kernel: FakeKernel, logs: list[dict[str, object]]) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
        before = deepcopy(kernel.rows)
        evil = Node("a", (ip_address("192.0.2.66"),), (), (ip_network("10.0.1.0/24"), ip_network("0.0.0.0/0")))
        world.wiring.put("nodes", "a", evil)
        world.wiring.put("slices", "evil", remote("evil", 1, "10.0.1.11", "10.0.2.7", node="192.0.2.66"))
        await world.realise()
    assert kernel.rows["pod_ranges"] == before["pod_ranges"]
    assert kernel.rows["endpoints"] == before["endpoints"]
    assert {key: value for key, value in kernel.rows["ipcache"].items() if key in before["ipcache"]} == before["ipcache"]
    refused = [one["range"] for one in logs if "not believed" in str(one["event"])]
    assert sorted(map(str, refused)) == ["0.0.0.0/0", "10.0.1.0/24"]


async def test_another_node_does_not_take_this_ones_address(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.wiring.put("nodes", "a", Node("a", (ip_address("192.0.2.1"),), (), (ip_network("10.0.9.0/24"),)))
        await world.realise()
        row = world.known("192.0.2.1")
        assert row is not None
        assert (row["identity"], row["flags"]) == (HOST, NODE | LOCAL)
        assert (world.known("192.0.2.2") or {})["identity"] == REMOTE_NODE


def api_server(address: str) -> EndpointSlice:
    return EndpointSlice("default/kubernetes", endpoints=(ServiceEndpoint(ip_address(address)),))


async def test_an_api_server_is_known_wherever_it_runs(kernel: FakeKernel) -> None:
    """On another node by identity 7, on this one as the host, outside by its address; a node that has lost it is a node again."""
    world = populated(kernel)
    async with world.running():
        world.wiring.put("endpointslices", "default/kubernetes", api_server("192.0.2.2"))
        await world.realise()
        assert (world.known("192.0.2.2") or {})["identity"] == KUBE_APISERVER
        assert (world.known("10.0.2.1") or {})["identity"] == KUBE_APISERVER, "by its router, through the tunnel"
        assert world.wiring.identities.labels[HOST] == RESERVED[HOST]
        world.wiring.put("endpointslices", "default/kubernetes", api_server("192.0.2.1"))
        await world.realise()
        assert (world.known("192.0.2.2") or {})["identity"] == REMOTE_NODE
        assert (world.known("10.0.2.1") or {})["identity"] == REMOTE_NODE
        assert (world.known("192.0.2.1") or {})["identity"] == HOST
        assert [label.key for label in world.wiring.identities.labels[HOST]] == ["host", "kube-apiserver"]
        world.wiring.put("endpointslices", "default/kubernetes", api_server("203.0.113.1"))
        await world.realise()
        assert world.known("203.0.113.1") is None, "it is of the world"
        assert world.wiring.identities.labels[HOST] == RESERVED[HOST]


async def test_an_api_server_outside_is_reached_by_its_address(kernel: FakeKernel) -> None:
    world = populated(kernel)
    spec = {"endpointSelector": {}, "egress": [{"toEntities": ["kube-apiserver"]}]}
    world.wiring.put("cnp", "default/let", policy("let", spec))
    async with world.running():
        await world.realise()
        assert world.rows("cidrs") == []
        for address in ("203.0.113.1", "203.0.113.2"):
            world.wiring.put("endpointslices", "default/kubernetes", api_server(address))
            await world.realise()
            used = {value["policy"] for _, value in world.rows("endpoints")}
            held = [key["address"][:4] for key, _ in world.rows("cidrs") if key["policy"] in used]
            assert held == [ip_address(address).packed]


async def test_a_policy_means_the_addresses_behind_a_service_without_selector(kernel: FakeKernel) -> None:
    """By its name; with a selector it means nobody, and the Service's own address is never meant."""
    world = populated(kernel)
    spec = {"endpointSelector": {}, "egress": [{"toServices": [{"k8sService": {"serviceName": "old", "namespace": "default"}}]}]}
    world.wiring.put("cnp", "default/let", policy("let", spec))

    def allowed() -> set[str]:
        used = {value["policy"] for _, value in world.rows("endpoints")}
        return {str(ip_address(key["address"][:4])) for key, _ in world.rows("cidrs") if key["policy"] in used}

    def behind(*addresses: str) -> EndpointSlice:
        return EndpointSlice("default/old", endpoints=tuple(ServiceEndpoint(ip_address(address)) for address in addresses))

    async with world.running():
        await world.realise()
        assert allowed() == set()
        assert "there is no Service default/old" in world.wiring.policy.acknowledgements("")[0]["unenforced"][0]
        world.wiring.put("services", "default/old", Service("default", "old", addresses=(ip_address("10.96.0.9"),), selects=False))
        world.wiring.put("endpointslices", "default/old-1", behind("203.0.113.1", "203.0.113.2"))
        await world.realise()
        assert allowed() == {"203.0.113.1", "203.0.113.2"}
        assert world.wiring.policy.acknowledgements("")[0]["unenforced"] == []
        world.wiring.put("endpointslices", "default/old-1", behind("203.0.113.2"))
        await world.realise()
        assert allowed() == {"203.0.113.2"}
        world.wiring.put("services", "default/old", Service("default", "old"))
        await world.realise()
        assert allowed() == set()


async def test_a_node_without_range_waits_for_it(kernel: FakeKernel) -> None:
    world = World(kernel)
    world.begin(Node("n1", OWN.addresses), OTHER)
    world.sync()
    async with world.running():
        assert not await world.wiring.realise(0.05)
        assert "no pod range" in world.wiring.trouble["links"].message
        assert not world.wiring.ready
        world.wiring.put("nodes", "n1", OWN)
        await world.realise()
        assert world.wiring.trouble == {}
        assert world.wiring.ready


async def test_links_that_can_not_be_made_are_tried_again(kernel: FakeKernel) -> None:
    world = populated(kernel)
    kernel.links.fail["uplink_of"] = LinkError("no link of this node has the address")
    async with world.running():
        await world.wiring.until(lambda: "links" in world.wiring.trouble, 5)
        assert "has the address" in world.wiring.trouble["links"].message
        await world.realise()
        assert world.wiring.trouble == {}
    assert world.endpoint("10.0.1.11")


async def test_what_came_with_a_failure_of_links_is_not_lost(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.wiring.put("slices", "far", remote("far", 302, "10.0.3.7", node="192.0.2.3"))
        await world.realise()
        kernel.links.fail["uplink_of"] = LinkError("not now")
        world.wiring.put("nodes", "n3", Node("n3", (ip_address("192.0.2.3"),), (), (ip_network("10.0.3.0/24"),)))
        await world.realise()
        assert world.known("10.0.3.7"), "the slice's address is believed since its node is known"


# -- the order of writes -------------------------------------------------------------------------------------------------------

STEPS: list[tuple[str, Any]] = [
    ("a policy", lambda world: world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))),
    ("another for the other", lambda world: world.wiring.put("cnp", "default/b", policy("b", allow_from("api", "web", "data")))),
    ("it changes", lambda world: world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "data", port=443), 2))),
    ("a pod more", lambda world: world.pod(3, pod("web2", app="web"))),
    ("an identity more, which a policy selects", lambda world: world.identity(310, pod("data2", app="data", tier="x"))),
    ("a pod becomes another", lambda world: world.wiring.put("pods", "default/web", pod("web", app="api"))),
    ("address rules", lambda world: world.wiring.put("cnp", "default/c", policy("c", {
        "endpointSelector": {"matchLabels": {"app": "web"}},
        "egress": [{"toCIDRSet": [{"cidr": "198.51.100.0/24", "except": ["198.51.100.8/29"]}]}],
    }))),
    ("fewer", lambda world: world.wiring.put("cnp", "default/b", None)),
    ("a pod less", lambda world: world.wiring.put("attachments", "c-web2/eth0", None)),
    ("none", lambda world: [world.wiring.put("cnp", f"default/{name}", None) for name in "ac"]),
]  # fmt: skip


async def test_no_packet_is_ever_judged_by_half_a_policy(kernel: FakeKernel) -> None:
    """Between any two rows that are written or removed, every policy that an endpoint points at is whole."""
    world = populated(kernel)
    whole = Whole(world)
    start = deepcopy(kernel.rows)
    async with world.running():
        await world.realise()
        for _, step in STEPS:
            step(world)
            await world.realise()
            whole.learn(kernel.rows)
            await eventually(lambda: all(one.settled for one in world.tables.trackers.values()), "the sweep")
            whole.learn(kernel.rows)
    assert len(whole.whole) >= 4
    count = 0
    for rows in prefixes(start, kernel.log):
        whole.check(rows)
        count += 1
    assert count > 60
    assert rows == kernel.rows


async def _life(world: World, steps: int, lives: int | None) -> bool:
    """Begins, goes the steps one by one; whether it lived through all."""
    world.kernel.lives = lives
    with no_cgroup():
        return await _lived(world, steps)


async def _lived(world: World, steps: int) -> bool:
    task = asyncio.create_task(world.wiring.run())
    try:
        for _, step in [("begin", lambda world: world.sync()), *STEPS[:steps]]:
            step(world)
            realised = asyncio.create_task(world.wiring.realise(20))
            await asyncio.wait({realised, task}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                realised.cancel()
                await asyncio.gather(realised, return_exceptions=True)
                with pytest.raises(BaseExceptionGroup) as died:
                    task.result()
                assert died.group_contains(Killed) if hasattr(died, "group_contains") else died.value.split(Killed)[0]
                return False
        return True
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_killed_between_any_two_writes(datapath: FakeDatapath) -> None:
    """A new agent finishes what the old one left in the middle, and on the way nothing is judged by half of it either."""
    steps = 7
    sample = populated(FakeKernel(datapath), synced=False)
    whole = Whole(sample)
    async with sample.running():
        sample.sync()
        await sample.realise()
        for _, step in STEPS[:steps]:
            step(sample)
            await sample.realise()
            whole.learn(sample.kernel.rows)
        await eventually(lambda: all(one.settled for one in sample.tables.trackers.values()), "the sweep")
    total = len(sample.kernel.log)
    wanted = meaning(sample, sample.kernel.rows)
    assert total > 40
    for lives in range(total):
        first = populated(FakeKernel(datapath), synced=False)
        if await _life(first, steps, lives):
            continue  # its sweep had not come by then
        rows = first.kernel.rows
        second = populated(FakeKernel(datapath, rows, first.kernel.links), synced=False)
        for _, step in STEPS[:steps]:
            step(second)
        start = deepcopy(rows)
        second.sync()
        async with second.running():
            await second.realise()
            await eventually(lambda world=second: all(one.settled for one in world.tables.trackers.values()), "the sweep")  # type: ignore[misc]
        assert meaning(second, rows) == wanted, f"killed after {lives} rows"
        for between in prefixes(start, second.kernel.log):
            whole.check(between)


async def test_rows_go_a_while_after_nothing_points_at_them(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_LINGER_SECONDS", 3600)
    world = populated(kernel)
    async with world.running():
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
        await world.realise()
        before = {table: dict(kernel.rows[table]) for table in ("policies", "peers", "verdicts")}
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "data", port=443), 2))
        await world.realise()
        for table, rows in before.items():
            assert rows.items() <= kernel.rows[table].items(), table  # a packet in flight may still read them


async def test_a_sweep_takes_nothing_that_is_still_pointed_at(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was scheduled for what was unwanted then; what a pass in its middle does not want yet is another matter."""
    monkeypatch.setattr(writer, "_LINGER_SECONDS", 0.05)
    world = populated(kernel)
    async with world.running():
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
        world.wiring.put("cnp", "default/b", policy("b", allow_from("api", "web")))
        await world.realise()
        world.wiring.put("cnp", "default/b", None)  # schedules a sweep
        await world.realise()
        held = world.endpoint("10.0.1.11")
        assert held is not None
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(2 * writer._LINGER_SECONDS, over.set)
        kernel.wait["endpoints"] = asyncio.Event()
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "data"), 2))
        await eventually(lambda: "endpoints" in kernel.waiting, "the pass stands before the switch")
        await over.wait()
        assert world.endpoint("10.0.1.11") == held
        policies = {key for key, _ in world.rows("policies")}
        kernel.wait["endpoints"].set()
        await world.realise()
        assert held["policy"] in policies, "the policy went before its endpoint was switched"


# -- full, refused, repaired ---------------------------------------------------------------------------------------------------


async def test_a_full_table_keeps_what_was_enforced_and_says_so(kernel: FakeKernel, logs: list[dict[str, object]]) -> None:
    world = populated(kernel)
    async with world.running():
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
        await world.realise()
        await eventually(lambda: all(one.settled for one in world.tables.trackers.values()), "the sweep")
        before = meaning(world, kernel.rows)
        kernel.room["peers"] = len(kernel.rows["peers"]) + 1
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api", "data"), 2))
        await world.wiring.until(lambda: "peers" in world.wiring.trouble, 5)
        assert "stays so" in world.wiring.trouble["peers"].message
        assert not await world.wiring.realise(0.05)
        assert meaning(world, kernel.rows) == before
        assert len([one for one in logs if one["event"] == "not as wanted, trying again"]) == 1  # at the change alone

        # What has nothing to do with it goes on.
        world.wiring.put("slices", "t", remote("data", 302, "10.0.2.9"))
        await eventually(lambda: world.known("10.0.2.9"), "the address")
        assert meaning(world, kernel.rows) == before

        del kernel.room["peers"]
        await world.realise()
        assert world.wiring.trouble == {}
        after = meaning(world, kernel.rows)["10.0.1.11"]["policy"]
        assert after["peers"][0, 302] == before["10.0.1.11"]["policy"]["peers"][0, 301]


async def test_full_endpoints_keep_the_others(kernel: FakeKernel) -> None:
    world = populated(kernel)
    kernel.room["endpoints"] = 4  # two pods, each by its address and by its link
    async with world.running():
        await world.realise()
        world.identity(303, pod("new", app="new"))
        world.pod(3, pod("new", app="new"))
        await world.wiring.until(lambda: "endpoints" in world.wiring.trouble, 5)
        assert world.endpoint("10.0.1.11")
        assert not world.wiring.settled("c-new/eth0")
        assert world.wiring.settled("c-web/eth0")
        world.wiring.put("attachments", "c-api/eth0", None)
        await world.realise()
        assert world.wiring.settled("c-new/eth0")
        assert world.wiring.trouble == {}


async def test_trouble_ends_when_what_did_not_fit_is_wanted_no_more(kernel: FakeKernel) -> None:
    world = populated(kernel)
    kernel.room["endpoints"] = 4  # two pods, each by its address and by its link
    async with world.running():
        await world.realise()
        world.identity(303, pod("new", app="new"))
        world.pod(3, pod("new", app="new"))
        await world.wiring.until(lambda: "endpoints" in world.wiring.trouble, 5)
        world.wiring.put("attachments", "c-new/eth0", None)
        await world.realise()
        assert world.wiring.trouble == {}


async def test_a_policy_that_did_not_fit_makes_room_for_one_that_does(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
        await world.realise()
        await eventually(lambda: all(one.settled for one in world.tables.trackers.values()), "the sweep")
        kernel.room["peers"] = len(kernel.rows["peers"]) + 2
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api", "data"), 2))
        await world.wiring.until(lambda: "peers" in world.wiring.trouble, 5)
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "data"), 3))  # fits once the half of the other has gone
        await world.realise()
        assert world.wiring.trouble == {}


@pytest.mark.parametrize("table", ["endpoints", "ipcache"])
async def test_rows_that_can_not_be_removed_are_tried_again(kernel: FakeKernel, table: str) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
        kernel.refuse[table] = errno.EPERM
        world.wiring.put("attachments", "c-web/eth0", None)
        await world.wiring.until(lambda: table in world.wiring.trouble, 5)
        assert "can't be removed" in world.wiring.trouble[table].message
        del kernel.refuse[table]
        await world.realise()
        assert world.endpoint("10.0.1.11") is None
        assert world.known("10.0.1.11") is None
        assert world.wiring.trouble == {}


async def test_a_filter_that_somebody_took_is_put_back(kernel: FakeKernel, logs: list[dict[str, object]]) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
        tunnel = kernel.links.links["pilus_vxlan"]
        wanted = dict(tunnel.filters)
        assert set(wanted) == {"ingress", "egress"}
        del tunnel.filters["ingress"]
        await eventually(lambda: tunnel.filters == wanted, "the audit")
        tunnel.filters["egress"] = "somebody-else"
        await eventually(lambda: tunnel.filters == wanted, "the audit")
        del kernel.links.links["pilus_vxlan"]
        await eventually(lambda: kernel.links.index("pilus_vxlan"), "the tunnel")
        index = kernel.links.index("pilus_vxlan")
        await eventually(lambda: world.rows("settings")[0][1]["tunnel_ifindex"] == index, "the settings")
    assert any(one["event"] == "filters were missing or old, put back" for one in logs)


async def test_an_audit_that_fails_goes_on(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
        kernel.links.links["pilus_vxlan"].filters.clear()
        kernel.links.fail["attach"] = LinkError("no buffer space")
        await eventually(lambda: "audit" in world.wiring.trouble, "the failure")
        await eventually(lambda: not world.wiring.trouble, "the next audit")
    assert kernel.links.links["pilus_vxlan"].filters


# -- waiting -------------------------------------------------------------------------------------------------------------------


async def test_waiting_ends_with_the_pass_that_brings_it(kernel: FakeKernel) -> None:
    world = populated(kernel)
    kernel.wait["settings"] = asyncio.Event()
    async with world.running():
        waiting = asyncio.create_task(world.wiring.realise(20))
        await eventually(lambda: "settings" in kernel.waiting, "the pass stands before its last table")
        assert not waiting.done()
        assert world.wiring.realised == 0
        kernel.wait["settings"].set()
        assert await waiting
        assert await world.wiring.realise(0)  # nothing new: at once
        assert not await world.wiring.until(lambda: False, 0.01)


async def test_what_comes_while_it_writes_is_in_the_next_pass(kernel: FakeKernel) -> None:
    world = populated(kernel)
    kernel.wait["endpoints"] = asyncio.Event()
    async with world.running():
        first = asyncio.create_task(world.wiring.realise(20))
        await eventually(lambda: "endpoints" in kernel.waiting, "the pass stands before the endpoints")
        world.pod(3, pod("web3", app="web"))
        second = asyncio.create_task(world.wiring.realise(20))
        kernel.wait["endpoints"].set()
        assert await first
        assert await second
        assert (world.endpoint("10.0.1.13") or {})["identity"] == 300


async def test_policy_is_enforced_where_it_selects(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        world.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api")))
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["flags"] == READY | INGRESS_ENFORCED
        assert (world.endpoint("10.0.1.12") or {})["flags"] == READY
        assert world.wiring.endpoints["c-web/eth0"].ingress_enforced
        world.wiring.put("cnp", "default/a", None)
        await world.realise()
        assert (world.endpoint("10.0.1.11") or {})["flags"] == READY


async def test_rows_of_pods_wait_for_the_earlier_agents_pods(kernel: FakeKernel) -> None:
    """Everything that Kubernetes says may be there before the files of the earlier agent's pods have been read."""
    first = populated(kernel)
    async with first.running():
        await first.realise()
    before, kernel.log = deepcopy(kernel.rows), []
    second = World(kernel)
    second.begin()
    for number, one in ((300, WEB), (301, API), (302, DATA)):
        second.identity(number, one)
        second.wiring.put("pods", f"{NAMESPACE}/{one.name}", one)
    second.wiring.put("slices", "s", remote("data", 302, "10.0.2.7"))
    async with second.running():
        for kind in NEEDED - {"attachments"}:
            second.wiring.synced(kind)
        await second.wiring.realise(0.05)
        assert kernel.rows["endpoints"] == before["endpoints"], "running pods lost their rows at a restart"
        second.wiring.put("attachments", "c-web/eth0", attachment("web", 1))
        second.wiring.put("attachments", "c-api/eth0", attachment("api", 2))
        second.sync()
        await second.realise()
    assert kernel.log == []


async def test_a_range_counts_for_the_node_alone_that_has_claimed_it(kernel: FakeKernel) -> None:
    world = World(kernel, NEEDED)
    world.wiring.put("nodes", "n1", Node("n1", (ip_address("192.0.2.1"),), (), (ip_network("10.0.1.0/24"),)))
    world.wiring.put(
        "nodes", "n2", Node("n2", (ip_address("192.0.2.2"),), (), (ip_network("10.0.2.0/24"), ip_network("10.0.3.0/24")))
    )
    world.wiring.put(
        "nodes", "evil", Node("evil", (ip_address("192.0.2.66"),), (), (ip_network("10.0.2.0/24"), ip_network("128.0.0.0/1")))
    )
    for name, claim in {"a": ("10.0.1.0/24", "n1"), "b": ("10.0.2.0/24", "n2")}.items():
        world.wiring.put("claims", name, claim)
    async with world.running():
        for kind in NEEDED:
            world.wiring.synced(kind)
        assert await world.wiring.realise()
        assert world.wiring.own_ranges == (ip_network("10.0.1.0/24"),)
        assert len(kernel.rows["pod_ranges"]) == 2, "10.0.3.0/24 and 128.0.0.0/1 are nobody's, 10.0.2.0/24 is not evil's"
        world.wiring.put("claims", "c", ("10.0.3.0/24", "n2"))
        assert await world.wiring.realise()
        assert len(kernel.rows["pod_ranges"]) == 3
        world.wiring.put("claims", "a", None)
        world.wiring.put("nodes", "evil", None)
        await world.wiring.until(lambda: not world.wiring.own_ranges, 5)
        assert not world.wiring.own_ranges


async def test_an_older_sandbox_does_not_become_the_new_pod_of_its_name(kernel: FakeKernel) -> None:
    world = populated(kernel)
    async with world.running():
        await world.realise()
        key, endpoint = next(iter(world.wiring.endpoints.items()))
        attachment, before = endpoint.attachment, endpoint.identity
        other = next(held.identity for held in world.wiring.endpoints.values() if held.identity != before)
        labels = next(
            pod.labels
            for pod in world.wiring.facts.pods.values()
            if (found := world.wiring.endpoints.get(f"c-{pod.name}/eth0")) is not None and found.identity == other
        )
        pod = world.wiring.facts.pods[f"{attachment.namespace}/{attachment.pod}"]
        world.wiring.put("pods", f"{pod.namespace}/{pod.name}", replace(pod, uid="another-uid", labels=labels))
        await world.realise()
        assert world.wiring.endpoints[key].identity == before
