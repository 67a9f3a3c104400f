"""The uplink in the wiring: what settings say to the kernel, which routes and ports are asked for, and what an audit puts back."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from tests.unit.agent.fakes import OTHER, OWN, FakeKernel, World, eventually, no_cgroup

from pilus_agent.desired.nodes import direct_routes
from pilus_agent.facts import Node

READY, TUNNEL, MASQUERADE_IPV4, MASQUERADE_IPV6 = 1, 2, 4, 8


pytestmark = pytest.mark.usefixtures("quick")


@pytest.mark.parametrize(
    ("settings", "flags", "row"),
    [
        ({}, READY | TUNNEL | MASQUERADE_IPV4, {"tunnel_port": 8472, "tunnel_mtu": 1450, "uplink_mtu": 1500}),
        ({"enable_ipv6": True}, READY | TUNNEL | MASQUERADE_IPV4 | MASQUERADE_IPV6, {"nat_first": 61000, "nat_last": 65535}),
        ({"enable_ipv6": True, "enable_ipv4_masquerade": False}, READY | TUNNEL | MASQUERADE_IPV6, {}),
        ({"enable_ipv4_masquerade": False}, READY | TUNNEL, {}),
        ({"routing_mode": "native"}, READY | MASQUERADE_IPV4, {"tunnel_port": 0, "tunnel_mtu": 0, "uplink_mtu": 1500}),
        ({"mtu": 9000, "tunnel_port": 4789}, READY | TUNNEL | MASQUERADE_IPV4,
         {"tunnel_port": 4789, "tunnel_mtu": 8950, "uplink_mtu": 9000}),
        ({"masquerade_port_range": "40000-50000"}, READY | TUNNEL | MASQUERADE_IPV4, {"nat_first": 40000, "nat_last": 50000}),
    ],
)  # fmt: skip
async def test_what_settings_say(kernel: FakeKernel, settings: dict[str, Any], flags: int, row: dict[str, int]) -> None:
    world = World(kernel, **settings)
    world.begin()
    world.sync()
    with no_cgroup():
        async with world.running():
            await world.realise()
            ((_, held),) = world.rows("settings")
    assert held["flags"] == flags
    assert {name: held[name] for name in row} == row
    masqueraded = flags & (MASQUERADE_IPV4 | MASQUERADE_IPV6)
    assert kernel.links.reserved == ((held["nat_first"], held["nat_last"]) if masqueraded else None)
    assert set(kernel.links.uplink.filters) == {"ingress", "egress"}


@pytest.mark.parametrize(
    ("settings", "routed"),
    [({}, False), ({"routing_mode": "native"}, False), ({"auto_direct_node_routes": True}, False),
     ({"routing_mode": "native", "auto_direct_node_routes": True}, True)],
)  # fmt: skip
async def test_routes_to_other_nodes(kernel: FakeKernel, settings: dict[str, Any], routed: bool) -> None:
    world = World(kernel, **settings)
    world.begin()
    world.sync()
    with no_cgroup():
        async with world.running():
            await world.realise()
            assert kernel.links.direct_routes == ({OTHER.ranges[0]: OTHER.addresses[0]} if routed else {})
            world.wiring.put("nodes", OTHER.name, None)
            await world.realise()
            assert kernel.links.direct_routes == {}


async def test_filters_that_are_gone_come_back(kernel: FakeKernel) -> None:
    world = World(kernel)
    world.begin()
    world.sync()
    with no_cgroup():
        async with world.running():
            await world.realise()
            before = dict(kernel.links.uplink.filters)
            kernel.links.uplink.filters = {}
            await eventually(lambda: kernel.links.uplink.filters == before, "the uplink's filters")


def test_a_range_is_routed_by_an_address_of_its_family() -> None:
    here = Node("n1", OWN.addresses, (), (ip_network("10.0.1.0/24"), ip_network("fd00:1::/64")))
    both = Node("n2", (ip_address("2001:db8::2"), ip_address("192.0.2.2"), ip_address("192.0.2.3")), (),
                (ip_network("10.0.2.0/24"), ip_network("fd00:2::/64")))  # fmt: skip
    one = Node("n3", (ip_address("192.0.2.4"),), (), (ip_network("10.0.3.0/24"), ip_network("fd00:3::/64")))
    nodes = {node.name: node for node in (here, both, one)}
    ranges = {network: node.name for node in nodes.values() for network in node.ranges}
    assert dict(direct_routes(ranges, nodes, "n1")) == {
        ip_network("10.0.2.0/24"): ip_address("192.0.2.2"),
        ip_network("fd00:2::/64"): ip_address("2001:db8::2"),
        ip_network("10.0.3.0/24"): ip_address("192.0.2.4"),
    }
