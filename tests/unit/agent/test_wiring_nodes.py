"""The wiring on a fake kernel: other nodes, their pods, API servers, and what is outside."""

from copy import deepcopy
from ipaddress import ip_address, ip_network

import pytest
from tests.unit.agent.fakes import (
    OTHER,
    OWN,
    FakeKernel,
    World,
    policy,
    remote,
)
from tests.unit.agent.populated import populated

from pilus_agent.datapath.links import LinkError
from pilus_agent.desired.nodes import LOCAL, NODE
from pilus_agent.facts import EndpointSlice, Node, Service, ServiceEndpoint
from pilus_agent.wiring import NEEDED
from pilus_api.identities import HOST, KUBE_APISERVER, REMOTE_NODE, RESERVED

pytestmark = pytest.mark.usefixtures("quick")


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


async def test_a_policy_that_means_pods_by_address_is_noted(kernel: FakeKernel) -> None:
    """Pods of any node; what covers none is not noted, nor is what a node no longer has."""
    world = populated(kernel)
    spec = {"endpointSelector": {}, "egress": [{"toCIDR": ["10.0.3.9"]}, {"toCIDR": ["203.0.113.0/24"]}]}
    world.wiring.put("cnp", "default/let", policy("let", spec))

    def notes() -> list[str]:
        return [note.partition(":")[0] for note in world.wiring.policy.acknowledgements("")[0]["notes"]]

    async with world.running():
        await world.realise()
        assert notes() == []
        world.wiring.put("nodes", "n3", Node("n3", (ip_address("192.0.2.3"),), (), (ip_network("10.0.3.0/24"),)))
        await world.realise()
        assert notes() == ["spec.egress[0]"]
        world.wiring.put("nodes", "n3", None)
        await world.realise()
        assert notes() == []


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
