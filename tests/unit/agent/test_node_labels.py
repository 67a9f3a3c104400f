"""The wiring on a fake kernel: other nodes known by their labels, and what policies make of that."""

from collections.abc import Iterable
from copy import deepcopy
from ipaddress import ip_address, ip_network

import pytest
from tests.unit.agent.fakes import OTHER, FakeKernel, World, decoded, policy, remote
from tests.unit.agent.populated import populated, prefixes

from pilus_agent.desired.node_identities import NodeIdentities, node_labels, remote_labels
from pilus_agent.facts import EndpointSlice, Node, ServiceEndpoint
from pilus_api.identities import HOST, KUBE_APISERVER, REMOTE_NODE, REMOTE_NODE_SCOPE, RESERVED, SCOPE_SHIFT, Identity
from pilus_api.label_filters import NodeFilter
from pilus_api.labels import Labels
from pilus_api.rules import AddressPeer

pytestmark = pytest.mark.usefixtures("quick")
ON = {"enable_node_selector_labels": True}
BLUE, RED = (("rack", "blue"),), (("rack", "red"),)
THIRD = Node("n3", (ip_address("192.0.2.3"),), (), (ip_network("10.0.3.0/24"),))
FROM_BLUE = {"endpointSelector": {}, "ingress": [{"fromNodes": [{"matchLabels": {"rack": "blue"}}]}]}
TO_IPV4 = {"matchLabels": {"reserved:world-ipv4": ""}}
TO_BLUE = {"endpointSelector": {}, "egress": [{"toNodes": [{"matchLabels": {"rack": "blue"}}]}]}


def label_sets(*racks: str) -> list[Labels]:
    return [remote_labels(node_labels([("rack", rack)], NodeFilter()), api_server=False) for rack in racks]


def settled(held: NodeIdentities, sets: Iterable[Labels], *, clean: bool = True) -> None:
    """The kernel has nothing of them."""
    held.settle({each: frozenset() for each in sets}, clean=clean)


# -- numbers -----------------------------------------------------------------------------------------------------------------


def test_a_label_set_has_one_number_of_the_scope_whatever_the_order() -> None:
    sets = label_sets(*map(str, range(200)))
    one, other = NodeIdentities(), NodeIdentities()
    settled(one, sets)
    for each in reversed(sets):
        settled(other, [*other.labels.values(), each])
    assert one.labels == other.labels
    assert len(one.labels) == 200
    assert all(number >> SCOPE_SHIFT == REMOTE_NODE_SCOPE for number in one.labels)


def test_what_goes_and_comes_again_is_the_same() -> None:
    held = NodeIdentities()
    a, b = label_sets("a", "b")
    fresh, gone = held.settle({a: frozenset(), b: frozenset()}, clean=True)
    assert sorted(fresh.values()) == sorted([a, b])
    assert not gone
    number = held[a]
    assert held.settle({b: frozenset()}, clean=False) == ({}, {number})
    assert held.settle({a: frozenset(), b: frozenset()}, clean=False) == ({number: a}, set())


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sets whose hashes meet: all do."""
    monkeypatch.setattr(
        "pilus_agent.desired.node_identities._numbers",
        lambda _: (Identity(REMOTE_NODE_SCOPE << SCOPE_SHIFT | one) for one in range(1, 100)),
    )


@pytest.mark.usefixtures("narrow")
def test_a_number_is_no_other_sets_as_long_as_the_kernel_may_hold_it() -> None:
    held = NodeIdentities()
    a, b, c = label_sets("a", "b", "c")
    settled(held, [a, b])
    given = held[a], held[b]
    assert len(set(given)) == 2
    settled(held, [b], clean=False)
    settled(held, [b, c], clean=False)
    assert held[c] not in given
    settled(held, [b])
    settled(held, [b, a], clean=False)
    assert held[a] == given[0], "nobody remembers it any more"


@pytest.mark.usefixtures("narrow")
def test_after_a_restart_each_gets_what_the_kernel_has_for_it() -> None:
    a, b, c = label_sets("a", "b", "c")
    first = NodeIdentities()
    settled(first, [c])
    settled(first, [c, b])
    settled(first, [c, b, a])
    second = NodeIdentities()
    second.settle({each: frozenset({first[each]}) for each in (a, b, c)}, clean=False)
    assert second.labels == first.labels
    assert first[c] < first[b] < first[a], "not the order of their names"


# -- identities in the kernel ----------------------------------------------------------------------------------------------


def of(world: World, address: str) -> int:
    row = world.known(address)
    assert row is not None
    return int(row["identity"])


def identities(world: World) -> set[int]:
    return {number for number, _ in world.rows("identities")}


async def test_another_node_is_known_by_its_labels(kernel: FakeKernel) -> None:
    """By all its addresses and its routers; a node with the same labels is the same, one whose labels nobody has told a node."""
    world = populated(kernel, **ON)
    world.wiring.put("nodes", "n3", THIRD)
    async with world.running():
        await world.realise()
        assert of(world, "192.0.2.2") == of(world, "192.0.2.3") == REMOTE_NODE
        world.wiring.put("nodelabels", "n2", BLUE)
        await world.realise()
        blue = of(world, "192.0.2.2")
        assert blue >> SCOPE_SHIFT == REMOTE_NODE_SCOPE
        assert of(world, "10.0.2.1") == blue, "its router"
        assert of(world, "192.0.2.3") == REMOTE_NODE
        assert list(map(str, world.wiring.identities.labels[Identity(blue)])) == ["node:rack=blue", "reserved:remote-node"]
        world.wiring.put("nodelabels", "n3", BLUE)
        await world.realise()
        assert of(world, "192.0.2.3") == blue
        world.wiring.put("nodelabels", "n3", RED)
        world.wiring.put("nodelabels", "n2", None)
        await world.realise()
        assert of(world, "192.0.2.2") == REMOTE_NODE
        red = of(world, "192.0.2.3")
        assert red not in (blue, REMOTE_NODE)
        assert {red} == {number for number in identities(world) if number >> SCOPE_SHIFT}
        world.wiring.put("nodes", "n3", None)
        await world.realise()
        assert not {number for number in identities(world) if number >> SCOPE_SHIFT}


async def test_without_the_setting_a_node_is_a_node(kernel: FakeKernel) -> None:
    world = populated(kernel)
    world.wiring.put("nodelabels", "n2", BLUE)
    world.wiring.put("nodelabels", "n1", BLUE)
    world.wiring.put("cnp", "default/blue", policy("blue", FROM_BLUE))
    async with world.running():
        await world.realise()
        assert of(world, "192.0.2.2") == REMOTE_NODE
        assert world.wiring.identities.labels[HOST] == RESERVED[HOST]
        (told,) = world.wiring.policy.acknowledgements("")
        assert told["unenforced"] == ["spec.ingress[0].fromNodes"]


async def test_only_the_labels_that_count(kernel: FakeKernel) -> None:
    world = populated(kernel, **ON, node_labels=("node:rack",))
    world.wiring.put("nodes", "n3", THIRD)
    world.wiring.put("nodelabels", "n2", (("kubernetes.io/hostname", "n2"), *BLUE))
    world.wiring.put("nodelabels", "n3", (("kubernetes.io/hostname", "n3"), *BLUE))
    async with world.running():
        await world.realise()
        assert of(world, "192.0.2.2") == of(world, "192.0.2.3") != REMOTE_NODE


async def test_this_node_has_its_labels_too_and_stays_the_host(kernel: FakeKernel) -> None:
    world = populated(kernel, **ON)
    world.wiring.put("nodelabels", "n1", BLUE)
    async with world.running():
        await world.realise()
        assert of(world, "192.0.2.1") == HOST
        assert list(map(str, world.wiring.identities.labels[HOST])) == ["node:rack=blue", "reserved:host"]
        world.wiring.put("nodelabels", "n1", None)
        await world.realise()
        assert world.wiring.identities.labels[HOST] == RESERVED[HOST]


async def test_an_api_servers_node_is_an_api_server_with_labels(kernel: FakeKernel) -> None:
    """At the address that is asked, and by its routers; at others it is a node."""
    world = populated(kernel, **ON)
    both = Node("n2", (ip_address("192.0.2.2"), ip_address("fd00::2")), OTHER.routers, OTHER.ranges)
    world.wiring.put("nodes", "n2", both)
    world.wiring.put("nodelabels", "n2", BLUE)
    asked = EndpointSlice("default/kubernetes", endpoints=(ServiceEndpoint(ip_address("192.0.2.2")),))
    world.wiring.put("endpointslices", "default/kubernetes", asked)
    async with world.running():
        await world.realise()
        server, plain = of(world, "192.0.2.2"), of(world, "fd00::2")
        assert of(world, "10.0.2.1") == server
        assert [str(label) for label in world.wiring.identities.labels[Identity(server)]] == [
            "node:rack=blue", *map(str, RESERVED[KUBE_APISERVER]),
        ]  # fmt: skip
        assert world.wiring.identities.labels[Identity(plain)] == label_sets("blue")[0]


async def test_a_new_agent_gives_the_same_numbers(kernel: FakeKernel) -> None:
    first = populated(kernel, **ON)
    first.wiring.put("nodelabels", "n2", BLUE)
    first.wiring.put("cnp", "default/blue", policy("blue", FROM_BLUE))
    async with first.running():
        await first.realise()
        blue = of(first, "192.0.2.2")
    kernel.log.clear()
    second = populated(kernel, synced=False, **ON)
    second.wiring.put("nodelabels", "n2", BLUE)
    second.wiring.put("cnp", "default/blue", policy("blue", FROM_BLUE))
    second.sync()
    async with second.running():
        await second.realise()
        assert of(second, "192.0.2.2") == blue
    assert [one for one in kernel.log if one.table in ("identities", "ipcache", "peers")] == []


async def test_an_identity_is_known_before_an_address_has_it(kernel: FakeKernel) -> None:
    """In every state between two writes: whoever an address is said to be is known, and compiled into the policy."""
    world = populated(kernel, **ON)
    world.wiring.put("cnp", "default/blue", policy("blue", FROM_BLUE))
    async with world.running():
        world.wiring.put("nodelabels", "n2", RED)
        await world.realise()
        start = deepcopy(kernel.rows)
        kernel.log.clear()
        world.wiring.put("nodelabels", "n2", BLUE)
        await world.realise()
        blue = of(world, "192.0.2.2")
        seen = set()
        for rows in prefixes(start, kernel.log):
            known = {number for number, _ in decoded(world.tables, rows, "identities")}
            named = {key["identity"] for key, _ in decoded(world.tables, rows, "peers")}
            used = {value["identity"] for _, value in decoded(world.tables, rows, "ipcache")}
            assert used <= known
            assert blue not in known or blue in named, "known, and not in the policy's rows"
            seen |= used
        assert blue in seen


async def test_an_object_of_such_a_name_takes_nothing_away(kernel: FakeKernel) -> None:
    world = populated(kernel, **ON)
    world.wiring.put("nodelabels", "n2", BLUE)
    async with world.running():
        await world.realise()
        blue = of(world, "192.0.2.2")
        world.wiring.put("identities", str(blue), None)
        await world.realise()
        assert blue in identities(world)
        assert Identity(blue) in world.wiring.identities.labels


# -- policies ----------------------------------------------------------------------------------------------------------------


def peers(world: World, direction: int) -> set[int]:
    used = {value["policy"] for _, value in world.rows("endpoints")}
    return {key["identity"] for key, _ in world.rows("peers") if key["policy"] in used and key["direction"] == direction}


async def test_policies_mean_the_nodes_with_these_labels(kernel: FakeKernel) -> None:
    world = populated(kernel, **ON)
    world.wiring.put("nodes", "n3", THIRD)
    world.wiring.put("nodelabels", "n2", BLUE)
    world.wiring.put("nodelabels", "n3", RED)
    world.wiring.put("cnp", "default/in", policy("in", FROM_BLUE))
    world.wiring.put("cnp", "default/out", policy("out", TO_BLUE))
    async with world.running():
        await world.realise()
        assert all(told["unenforced"] == [] for told in world.wiring.policy.acknowledgements(""))
        assert peers(world, 0) == {HOST, of(world, "192.0.2.2")}, "the node's own stack is always let in"
        assert peers(world, 1) == {of(world, "192.0.2.2")}
        world.wiring.put("nodelabels", "n2", RED)
        world.wiring.put("nodelabels", "n1", BLUE)
        await world.realise()
        await world.wiring.until(lambda: peers(world, 1) == set(), 5)
        assert (peers(world, 0), peers(world, 1)) == ({HOST}, set()), "its own node is none of the others"


async def test_cve_2025_30163_a_pod_is_no_node_and_a_node_no_pod(kernel: FakeKernel) -> None:
    """Whatever labels they bear: a pod those of a node, a node those of a pod and of its namespace."""
    world = populated(kernel, **ON)
    world.wiring.put("nodelabels", "n2", (("app", "api"), ("io.kubernetes.pod.namespace", "default")))
    world.wiring.put("slices", "far", remote("far", 301, "10.0.2.9"))
    of_nodes = {"endpointSelector": {}, "ingress": [{"fromNodes": [{"matchLabels": {"app": "api"}}]}]}
    of_pods = {
        "endpointSelector": {},
        "egress": [{"toEndpoints": [{"matchLabels": {"app": "api", "io.kubernetes.pod.namespace": "default"}}]}],
    }
    world.wiring.put("cnp", "default/in", policy("in", of_nodes))
    world.wiring.put("cnp", "default/out", policy("out", of_pods))
    async with world.running():
        await world.realise()
        assert peers(world, 0) == {HOST, of(world, "192.0.2.2")}
        assert peers(world, 1) == {301}


# -- address rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "bit"), [((), 0), (("nodes",), 16)])
async def test_address_rules_mean_nodes_if_the_settings_say_so(kernel: FakeKernel, mode: tuple[str, ...], bit: int) -> None:
    world = populated(kernel, policy_cidr_match_mode=mode)
    async with world.running():
        await world.realise()
        ((_, row),) = world.rows("settings")
        assert row["flags"] & 16 == bit


@pytest.mark.parametrize("mode", [(), ("nodes",)])
async def test_a_selector_of_a_family_means_no_node_by_its_address(kernel: FakeKernel, mode: tuple[str, ...]) -> None:
    """Whatever the settings say of address rules; and when nodes come, it is put together anew."""
    world = populated(kernel, policy_cidr_match_mode=mode)
    world.wiring.put("cnp", "default/out", policy("out", {"endpointSelector": {}, "egress": [{"toEndpoints": [TO_IPV4]}]}))

    def excepted() -> set[str]:
        ((found,),) = (each.rules for each in world.wiring.desired.policy.objects.policies["cnp/default/out"])
        ((peer,),) = (found.peers or (),)
        assert isinstance(peer, AddressPeer)
        return {str(network) for network in peer.excepted}

    async with world.running():
        await world.realise()
        assert excepted() == ({"192.0.2.2/32", "10.0.2.1/32"} if mode else set())
        world.wiring.put("nodes", "n3", THIRD)
        await world.realise()
        assert excepted() == ({"192.0.2.2/32", "192.0.2.3/32", "10.0.2.1/32"} if mode else set())
