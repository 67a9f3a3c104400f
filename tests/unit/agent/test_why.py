"""Why a packet passes, or does not: answered from the rows in the kernel."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.agent.fakes import FakeDatapath, FakeKernel, World, allow_from, attachment, pod, policy, quicken, remote

from pilus_agent.facts import EndpointSlice, Service, ServiceEndpoint, ServicePort
from pilus_agent.views import Views
from pilus_api.errors import PilusError

WEB, API, OTHER = pod("web", app="web"), pod("api", app="api"), pod("other", app="other")


@pytest.fixture
async def world(datapath: FakeDatapath, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    quicken(monkeypatch)
    found = World(FakeKernel(datapath))
    found.begin()
    for number, of in ((300, WEB), (301, API), (302, OTHER)):
        found.identity(number, of)
    found.pod(2, WEB)
    found.pod(3, OTHER)
    found.wiring.put("slices", "s", remote("far", 301, "10.0.2.7"))
    found.wiring.put("cnp", "default/a", policy("a", allow_from("web", "api", port=80)))
    found.sync()
    async with found.running():
        await found.realise()
        yield found


def why(world: World, source: str, destination: str, port: int = 80, protocol: str = "TCP") -> Any:
    asked = {"get": "why", "source": source, "destination": destination, "port": port, "protocol": protocol}
    answer = Views(world.wiring, "1.0", time.monotonic()).answer(asked)["item"]
    assert json.loads(json.dumps(answer))  # it goes through the socket
    return answer


def step(answer: Any, direction: str) -> Any:
    ((found,),) = [[one for one in way["steps"] if one["direction"] == direction] for way in answer["ways"]]
    return found


@pytest.mark.parametrize("source", ["default/far", "far", "10.0.2.7", "k8s:app=api"])
@pytest.mark.parametrize("destination", ["default/web", "web", "10.0.1.12", "2"])
async def test_what_a_rule_allows(world: World, source: str, destination: str) -> None:
    answer = why(world, source, destination)
    (way,) = answer["ways"]
    assert way["allowed"]
    found = step(answer, "ingress")
    assert (found["verdict"], found["rule"]) == ("allow", "CiliumNetworkPolicy default/a spec.ingress[0]")
    assert not way["decided"], "the other node decides what its pod may send"


async def test_another_port_names_the_default_deny_and_the_port_that_was_meant(world: World) -> None:
    found = step(why(world, "far", "web", 8080), "ingress")
    assert found["verdict"] == "deny"
    assert found["rule"] == "default deny of CiliumNetworkPolicy default/a"
    assert found["nearest"] == "TCP 80 is allowed by CiliumNetworkPolicy default/a spec.ingress[0]; this is TCP 8080"


PING: dict[str, Any] = {
    "endpointSelector": {"matchLabels": {"app": "web"}},
    "ingress": [
        {"fromEndpoints": [{"matchLabels": {"app": "api"}}], "icmps": [{"fields": [{"type": 8}, {"type": 128, "family": "IPv6"}]}]}
    ],
}


async def test_of_icmp_the_type_stands_where_a_port_does(world: World) -> None:
    """Also where the policy lets nothing but ports through."""
    found = step(why(world, "far", "web", 8, "ICMP"), "ingress")
    assert (found["verdict"], found["rule"]) == ("deny", "default deny of CiliumNetworkPolicy default/a")
    assert found["nearest"] == "TCP 80 is allowed by CiliumNetworkPolicy default/a spec.ingress[0]; this is ICMP type 8"
    world.wiring.put("cnp", "default/b", policy("b", PING))
    await world.realise()
    assert step(why(world, "far", "web", 8, "ICMP"), "ingress")["verdict"] == "allow"
    found = step(why(world, "far", "web", 13, "ICMP"), "ingress")
    assert found["nearest"] == "ICMP type 8 is allowed by CiliumNetworkPolicy default/b spec.ingress[0]; this is ICMP type 13"
    found = step(why(world, "other", "web", 8, "ICMP"), "ingress")
    assert found["nearest"].startswith("CiliumNetworkPolicy default/b spec.ingress[0] allows it from identity 301")


async def test_another_peer_names_who_was_meant(world: World) -> None:
    answer = why(world, "other", "web")
    assert answer["ways"][0]["decided"]
    assert step(answer, "egress")["reason"] == "no policy restricts its egress"
    found = step(answer, "ingress")
    assert found["verdict"] == "deny"
    assert found["nearest"].startswith(
        "CiliumNetworkPolicy default/a spec.ingress[0] allows it from identity 301, which has k8s:app=api"
    )


async def test_the_world_and_the_host(world: World) -> None:
    assert step(why(world, "world", "web"), "ingress")["verdict"] == "deny"
    assert step(why(world, "192.0.9.9", "web"), "ingress")["verdict"] == "deny"
    assert step(why(world, "host", "web"), "ingress")["reason"].startswith("a node's own stack")
    answer = why(world, "web", "192.0.9.9", 443)
    assert answer["ways"][0]["allowed"]
    assert answer["ways"][0]["decided"]


def from_outside(*elements: dict[str, Any]) -> dict[str, Any]:
    return {"endpointSelector": {"matchLabels": {"app": "other"}}, "ingress": list(elements)}


def dual(world: World) -> None:
    """`other` has an address of each family."""
    made = attachment("other", 3)
    world.pod(3, OTHER, replace(made, addresses=(*made.addresses, ip_address("fd00::13"))))


def told(answer: Any) -> list[tuple[str, str, str | None]]:
    steps = [(way["source"]["words"], *way["steps"]) for way in answer["ways"]]
    return [(words, step["verdict"], step["rule"]) for words, step in steps]


@pytest.mark.parametrize("source", ["world", "reserved:world"])
async def test_the_world_is_an_outside_address_that_no_narrower_rule_names(world: World, source: str) -> None:
    """Not the addresses that a rule happens to name, and not a pod's."""
    rule = "CiliumNetworkPolicy default/b spec.ingress[1]"
    world.wiring.put("cnp", "default/b", policy("b", from_outside({"fromEntities": ["host"]}, {"fromCIDR": ["0.0.0.0/0"]})))
    await world.realise()
    answer = why(world, source, "other")
    assert told(answer) == [(source, "allow", rule)]
    assert step(answer, "ingress")["reason"] == "a rule allows it, by address"
    assert step(why(world, "198.51.100.1", "other"), "ingress")["rule"] == rule
    # Of 0.0.0.0 itself a narrower rule may speak, and the world is not that.
    world.wiring.put("cnp", "default/b", policy("b", from_outside({"fromCIDR": ["0.0.0.0/8"]})))
    await world.realise()
    found = step(why(world, source, "other"), "ingress")
    assert (found["verdict"], found["rule"]) == ("deny", "default deny of CiliumNetworkPolicy default/b")
    assert found["reason"] == "no rule means it; it depends on the address: 0.0.0.0/8 is allowed"
    # ipBlock means the outside too; what it says of pods beside is nothing of the world's.
    peer = {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}
    block = {"podSelector": {"matchLabels": {"app": "other"}}, "ingress": [{"from": [peer]}]}
    world.wiring.put("cnp", "default/b", None)
    world.wiring.put("knp", "default/b", policy("b", block))
    await world.realise()
    answer = why(world, source, "other")
    assert told(answer) == [(source, "allow", "NetworkPolicy default/b spec.ingress[0]")]
    assert step(answer, "ingress")["reason"].endswith("it depends on the address: 10.0.0.0/8 is denied")


async def test_each_family_of_the_world_is_told_where_they_differ(world: World) -> None:
    dual(world)
    four, six = {"fromCIDR": ["0.0.0.0/0"]}, {"fromCIDR": ["::/0"]}
    name = "CiliumNetworkPolicy default/b"
    world.wiring.put("cnp", "default/b", policy("b", from_outside(four)))
    await world.realise()
    denied = ("world (IPv6)", "deny", f"default deny of {name}")
    assert told(why(world, "world", "other")) == [("world (IPv4)", "allow", f"{name} spec.ingress[0]"), denied]
    assert told(why(world, "world", "fd00::13")) == [("world", "deny", f"default deny of {name}")]
    assert told(why(world, "world", "10.0.1.13")) == [("world", "allow", f"{name} spec.ingress[0]")]
    world.wiring.put("cnp", "default/b", policy("b", from_outside(four, six)))
    await world.realise()
    assert [rule for _, _, rule in told(why(world, "world", "other"))] == [f"{name} spec.ingress[0]", f"{name} spec.ingress[1]"]
    world.wiring.put("cnp", "default/b", policy("b", from_outside({"fromEntities": ["world"]})))
    await world.realise()
    assert told(why(world, "world", "other")) == [("world", "allow", f"{name} spec.ingress[0]")]


async def test_which_part_of_the_world_fares_otherwise_is_named(world: World) -> None:
    """Some of it, and only what decides otherwise for this port; in audit mode as well."""
    but = [f"198.51.{number}.0/24" for number in range(5)]
    spec = from_outside(
        {"fromCIDRSet": [{"cidr": "0.0.0.0/0", "except": but}]},
        {"fromCIDR": ["198.51.0.0/24"], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]},
    )
    world.wiring.put("cnp", "default/b", policy("b", spec))
    await world.realise()
    found = step(why(world, "world", "other", 443), "ingress")
    assert found["verdict"] == "allow"
    some = "198.51.0.0/24, 198.51.1.0/24, 198.51.2.0/24 and 2 more are denied"
    assert found["reason"] == f"a rule allows it, by address; it depends on the address: {some}"
    assert "depends on the address: 198.51.1.0/24," in step(why(world, "world", "other", 80), "ingress")["reason"]
    assert "depends" not in step(why(world, "198.52.0.1", "other", 443), "ingress")["reason"]
    audited = policy("b", from_outside({"fromCIDR": ["198.51.0.0/24"]}))
    audited.raw["metadata"]["annotations"] = {"pilus.io/mode": "audit"}
    world.wiring.put("cnp", "default/b", audited)
    await world.realise()
    found = step(why(world, "world", "other", 443), "ingress")
    assert found["reason"] == "no policy restricts its ingress"
    assert found["audit"]["reason"] == "no rule means it; it depends on the address: 198.51.0.0/24 is allowed"


async def test_the_way_to_the_world(world: World) -> None:
    spec = {"endpointSelector": {"matchLabels": {"app": "other"}}, "egress": [{"toCIDR": ["::/0", "192.0.9.0/24"]}]}
    dual(world)
    world.wiring.put("cnp", "default/b", policy("b", spec))
    await world.realise()
    four, six = why(world, "other", "world")["ways"]
    assert (four["destination"]["words"], four["allowed"]) == ("world (IPv4)", False)
    assert four["steps"][0]["reason"].endswith("it depends on the address: 192.0.9.0/24 is allowed")
    assert (six["destination"]["words"], six["source"]["address"], six["allowed"]) == ("world (IPv6)", "fd00::13", True)


async def test_the_world_asks_a_service_in_its_family_alone(world: World) -> None:
    """Although the pod behind it has an address of the other one, and is closed there."""
    dual(world)
    world.wiring.put("cnp", "default/b", policy("b", from_outside({"fromCIDR": ["0.0.0.0/0"]})))
    http = ServicePort("http", 6, 80)
    world.wiring.put("services", "default/shop", Service("default", "shop", addresses=(ip_address("10.96.0.7"),), ports=(http,)))
    behind = ServiceEndpoint(ip_address("10.0.1.13"))
    world.wiring.put("endpointslices", "default/shop-1", EndpointSlice("default/shop", (http,), (behind,)))
    await world.realise()
    answer = why(world, "world", "default/shop")
    assert answer["service"] == "default/shop"
    assert told(answer) == [("world", "allow", "CiliumNetworkPolicy default/b spec.ingress[0]")]


async def test_the_nearest_miss_of_the_world_is_no_narrower_rule_s(world: World) -> None:
    """The port that 0.0.0.0/8 may use is none that the world may."""
    http = {"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}
    dns = {"toPorts": [{"ports": [{"port": "53", "protocol": "TCP"}]}]}
    world.wiring.put(
        "cnp", "default/b", policy("b", from_outside({"fromCIDR": ["0.0.0.0/0"]} | dns, {"fromCIDR": ["0.0.0.0/8"]} | http))
    )
    await world.realise()
    found = step(why(world, "world", "other", 81), "ingress")
    assert found["nearest"] == "TCP 53 is allowed by CiliumNetworkPolicy default/b spec.ingress[0]; this is TCP 81"


async def test_what_is_denied_by_a_rule_is_told_with_it(world: World) -> None:
    denied = {
        "endpointSelector": {"matchLabels": {"app": "web"}},
        "ingressDeny": [{"fromEndpoints": [{"matchLabels": {"app": "api"}}]}],
    }
    world.wiring.put("cnp", "default/b", policy("b", denied))
    await world.realise()
    found = step(why(world, "far", "web"), "ingress")
    assert (found["verdict"], found["rule"]) == ("deny", "CiliumNetworkPolicy default/b spec.ingressDeny[0]")
    assert found["nearest"] is None


async def test_what_policies_in_audit_mode_would_do_is_told_beside(world: World) -> None:
    audited = policy(
        "b", {"endpointSelector": {"matchLabels": {"app": "other"}}, "ingress": []} | {"ingress": [{"fromEntities": ["host"]}]}
    )
    audited.raw["metadata"]["annotations"] = {"pilus.io/mode": "audit"}
    world.wiring.put("cnp", "default/b", audited)
    await world.realise()
    answer = why(world, "web", "other")
    assert answer["ways"][0]["allowed"]
    found = step(answer, "ingress")
    assert not found["enforced"]
    assert found["audit"]["verdict"] == "deny"
    assert found["audit"]["rule"] == "default deny of CiliumNetworkPolicy default/b"


async def test_what_would_be_refused_has_a_nearest_miss_too(world: World) -> None:
    """In `why`, and in events, which know the audited policy by its number."""
    audited = policy("b", allow_from("other", "api", port=80))
    audited.raw["metadata"]["annotations"] = {"pilus.io/mode": "audit"}
    world.wiring.put("cnp", "default/b", audited)
    await world.realise()
    row = world.endpoint("10.0.1.13")
    assert row is not None
    refusal = {"policy": row["audit"], "direction": 0, "identity": 301, "address": "10.0.2.7"}
    rule = "CiliumNetworkPolicy default/b spec.ingress[0]"
    for port, protocol, number in ((8080, "TCP", 6), (8, "ICMP", 1)):
        asked = f"{protocol} {'type ' if protocol == 'ICMP' else ''}{port}"
        found = step(why(world, "far", "other", port, protocol), "ingress")
        assert (found["verdict"], found["nearest"]) == ("allow", None)
        assert found["audit"]["verdict"] == "deny"
        assert found["audit"]["nearest"] == f"TCP 80 is allowed by {rule}; this is {asked}"
        assert nearest(world, refusal | {"protocol": number, "port": port}) == [found["audit"]["nearest"]]
    found = step(why(world, "web", "other"), "ingress")
    assert found["audit"]["nearest"].startswith(f"{rule} allows it from identity 301")


@pytest.mark.parametrize(
    ("source", "destination", "port", "protocol"),
    [
        ("nobody", "web", 80, "TCP"), ("web", "nobody", 80, "TCP"), ("web", "other", 70000, "TCP"), ("web", "other", 80, "GRE"),
        ("far", "10.0.2.7", 80, "TCP"), ("k8s:app=none", "web", 80, "TCP"), ("", "web", 80, "TCP"), ("10.0.2.99", "web", 80, "TCP"),
        ("k8s:io.kubernetes.pod.namespace=default", "web", 80, "TCP"),
    ],
)  # fmt: skip
async def test_what_can_not_be_answered(world: World, source: str, destination: str, port: int, protocol: str) -> None:
    with pytest.raises(PilusError):
        why(world, source, destination, port, protocol)


@pytest.mark.parametrize(("mode", "verdict"), [((), "deny"), (("nodes",), "allow")])
async def test_another_nodes_address_by_its_labels_and_by_address(
    datapath: FakeDatapath, monkeypatch: pytest.MonkeyPatch, mode: tuple[str, ...], verdict: str
) -> None:
    """As the kernel has it: a rule by labels means it, a rule by address if the settings say so."""
    quicken(monkeypatch)
    found = World(FakeKernel(datapath), enable_node_selector_labels=True, policy_cidr_match_mode=mode)
    found.begin()
    for number, of in ((300, WEB), (301, API)):
        found.identity(number, of)
    found.pod(2, WEB)
    found.pod(3, API)
    found.wiring.put("nodelabels", "n2", (("rack", "blue"),))

    def only(peers: dict[str, Any], app: str) -> dict[str, Any]:
        return {"endpointSelector": {"matchLabels": {"app": app}}, "egress": [peers]}

    found.wiring.put("cnp", "default/a", policy("a", only({"toNodes": [{"matchLabels": {"rack": "blue"}}]}, "web")))
    found.wiring.put("cnp", "default/b", policy("b", only({"toCIDR": ["192.0.2.0/24"]}, "api")))
    found.sync()
    async with found.running():
        await found.realise()
        answer = why(found, "web", "192.0.2.2")
        assert step(answer, "egress")["verdict"] == "allow"
        (way,) = answer["ways"]
        assert way["decided"], "nobody decides at a node's own stack"
        assert way["destination"]["labels"] == ["node:rack=blue", "reserved:remote-node"]
        assert step(why(found, "api", "192.0.2.2"), "egress")["verdict"] == verdict
        assert step(why(found, "api", "192.0.2.1"), "egress")["verdict"] == "deny", "this node is the host"


def nearest(world: World, *refusals: Any) -> Any:
    items = Views(world.wiring, "1.0", time.monotonic()).answer({"get": "nearest", "refusals": list(refusals)})["items"]
    return [one["nearest"] for one in items]


async def test_the_nearest_miss_of_what_was_refused(world: World) -> None:
    """As events have it: by the policy's number in the kernel."""
    policy = world.endpoint("10.0.1.12")
    assert policy is not None
    refusal = {"policy": policy["policy"], "direction": 0, "identity": 301, "address": "10.0.2.7", "protocol": 6, "port": 8080}
    port, peer, gone = nearest(
        world, refusal, refusal | {"identity": 302, "address": "10.0.1.13", "port": 80}, refusal | {"policy": 65000}
    )
    assert port == "TCP 80 is allowed by CiliumNetworkPolicy default/a spec.ingress[0]; this is TCP 8080"
    assert peer.startswith("CiliumNetworkPolicy default/a spec.ingress[0] allows it from identity 301")
    assert gone is None
    assert nearest(world) == []
    for wrong in ([{"policy": "x"}], [refusal | {"direction": 2}], "x", [refusal] * 65):
        with pytest.raises(PilusError):
            Views(world.wiring, "1.0", time.monotonic()).answer({"get": "nearest", "refusals": wrong})


async def test_refusals_that_take_too_long_have_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that looks for them does nothing else meanwhile, and pods make as many as they like."""
    now = [0.0]

    def slow(*_: object) -> str:
        now[0] += 0.02
        return "near"

    monkeypatch.setattr("pilus_agent.why.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("pilus_agent.why.nearest_miss", slow)
    policy = world.endpoint("10.0.1.12")
    assert policy is not None
    refusal = {"policy": policy["policy"], "direction": 0, "identity": 301, "address": "10.0.2.7", "protocol": 6, "port": 8080}
    assert nearest(world, *[refusal] * 5) == ["near"] * 3 + [None] * 2


async def test_the_nearest_miss_of_a_ping_is_that_of_why(world: World) -> None:
    world.wiring.put("cnp", "default/b", policy("b", PING))
    await world.realise()
    row = world.endpoint("10.0.1.12")
    assert row is not None
    refusal = {"policy": row["policy"], "direction": 0, "identity": 301, "address": "10.0.2.7"}
    rule = "CiliumNetworkPolicy default/b spec.ingress[0]"
    for name, number, allowed, asked in (("ICMP", 1, 8, 13), ("ICMPv6", 58, 128, 129)):
        (found,) = nearest(world, refusal | {"protocol": number, "port": asked})
        assert found == f"{name} type {allowed} is allowed by {rule}; this is {name} type {asked}"
        assert found == step(why(world, "k8s:app=api", "web", asked, name), "ingress")["nearest"]
