"""The nearest miss of what no rule decided: what is told holds, and nothing of its sort is nearer."""

import random
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from tests.properties.conftest import WORLDS
from tests.properties.oracle import World
from tests.properties.worlds import (
    ADDRESSES,
    NETWORKS,
    PORTS,
    address_peers,
    label_sets,
    probe,
    reserved_selectors,
    selectors,
    worlds,
)

from pilus_agent.desired.policy.answers import Decision
from pilus_agent.desired.policy.compiler import compile_policies
from pilus_agent.desired.policy.explain import Explanation, explain
from pilus_agent.desired.policy.tables import CompiledPolicy, Endpoint
from pilus_agent.judgement import Packet
from pilus_agent.nearest import OtherAddress, OtherIdentity, OtherPort, find_miss
from pilus_api.identities import FIRST_FIXED, RESERVED, WORLD, Identity
from pilus_api.rules import Direction, Network, Origin, Policy, Ports, Rule, Scope, Tier
from pilus_api.selectors import Selector

PROBES = 40
# Such that spans overlap, and take several rows each.
CUTS = (0, 1, 2, 3, 5, 8, 79, 80, 81, 83, 90, 443, 32768, 65534, 65535)
# Where an answer may change, and those beside.
EDGES = sorted({cut + beside for cut in (*CUTS, *PORTS) for beside in (-1, 0, 1)} & set(range(65536)))
TCP, UDP = 6, 17
SORTS = (
    *[(Tier.NETWORK_POLICY, "allow")] * 4,
    (Tier.NETWORK_POLICY, "deny"),
    (Tier.ADMIN, "pass"),
    (Tier.ADMIN, "allow"),
    (Tier.ADMIN, "deny"),
)
# Every prefix that rules name begins at one of these or ends before it, and so does each part between two of them.
CORNERS: tuple[IPv4Address | IPv6Address, ...] = (
    *ADDRESSES,
    *(network.network_address for network in NETWORKS),
    *(network.broadcast_address for network in NETWORKS),
    *(network.broadcast_address + 1 for network in NETWORKS if int(network.broadcast_address) + 1 < 1 << network.max_prefixlen),
    *(network.network_address - 1 for network in NETWORKS if int(network.network_address)),
)


spans = st.builds(
    lambda protocol, ends: Ports(protocol, min(ends), max(ends)),
    st.sampled_from((TCP, TCP, TCP, UDP)),
    st.tuples(st.sampled_from(CUTS), st.sampled_from(CUTS)),
)
someone = st.one_of(st.just(Selector()), reserved_selectors, reserved_selectors, address_peers(), address_peers(), selectors)


@st.composite
def narrow_worlds(draw: st.DrawFn) -> World:
    """One endpoint that denies by default, and rules about few of its ports: most packets are refused, and by no rule."""
    rules = []
    for index in range(draw(st.integers(1, 6))):
        tier, action = draw(st.sampled_from(SORTS))
        ports = draw(st.one_of(*[st.lists(spans, min_size=1, max_size=3).map(tuple)] * 7, st.none()))
        rules.append(
            Rule(
                Origin("CiliumNetworkPolicy", "ns", "p", "uid", f"spec.rules[{index}]"),
                Direction.INGRESS,
                action == "deny",
                draw(st.lists(someone, min_size=1, max_size=2).map(tuple)),
                ports,
                tier=tier,
                place=index if tier is Tier.ADMIN else 0,
                passes=action == "pass",
            )
        )
    identities = dict(RESERVED) | {
        Identity(256 + number): labels for number, labels in enumerate(draw(st.lists(label_sets, max_size=4)))
    }
    policy = Policy(Origin("CiliumNetworkPolicy", "ns", "p", "uid"), Selector(), (True, True), tuple(rules))
    return World((policy,), identities, {}, {"pod": Endpoint((), {})})


class Asked:
    """Answers as packets meet them, of what is asked for but one thing that is another."""

    def __init__(self, policy: CompiledPolicy, packet: Packet) -> None:
        self._policy = policy
        self._packet = packet

    def at(self, protocol: int, port: int) -> Explanation:
        held = self._packet
        return explain(self._policy, held.direction, held.identity, held.address, not held.outside, protocol, port)

    def of(self, identity: Identity, address: IPv4Address | IPv6Address | None, *, outside: bool) -> Explanation:
        held = self._packet
        return explain(self._policy, held.direction, identity, address, not outside, held.protocol, held.port)

    def allows(self, found: Explanation, rule: int) -> bool:
        return found.decision is Decision.ALLOW and found.rule is not None and found.rule == self._policy.origin(rule)


def refused(policy: CompiledPolicy, world: World, chance: random.Random) -> Iterator[Packet]:
    for _ in range(PROBES):
        one = probe(world, chance)
        protocol, port = chance.choice(((one.protocol, one.port), (TCP, chance.choice(EDGES)), (UDP, chance.choice(EDGES))))
        packet = Packet(one.direction, one.identity, one.address, not one.inside, protocol, port)
        found = Asked(policy, packet).at(packet.protocol, packet.port)
        if found.decision is Decision.DENY and found.rule is None:
            yield packet
        else:
            assert find_miss(policy, packet, world.identities) is None


def holds(policy: CompiledPolicy, world: World, packet: Packet) -> None:
    asked = Asked(policy, packet)
    beside = [port for port in EDGES if (found := asked.at(packet.protocol, port)).decision is Decision.ALLOW and found.rule]
    match find_miss(policy, packet, world.identities):
        case OtherPort(protocol, low, high, rule):
            told = {low, high, *(port for port in EDGES if low <= port <= high)}
            around = {max(low - 1, 0), min(high + 1, 65535)} - told
            assert all(asked.allows(asked.at(protocol, port), rule) for port in told)
            assert not any(asked.allows(asked.at(protocol, port), rule) for port in around)
            assert protocol != packet.protocol or not low <= packet.port <= high
            if beside:
                assert protocol == packet.protocol
                distance = max(low - packet.port, packet.port - high)
                assert distance == min(abs(port - packet.port) for port in beside)
            return
        case OtherIdentity(identity, rule):
            assert identity != packet.identity
            scopes = (False,) if identity >= FIRST_FIXED else (False, True)
            assert asked.allows(asked.of(identity, None, outside=False), rule)
            assert all(asked.allows(asked.of(identity, each, outside=outside), rule) for each in CORNERS for outside in scopes)
        case OtherAddress(network, excepted, scope, identity, rule):
            assert identity == packet.identity or (identity, packet.outside, scope) == (WORLD, False, Scope.OUTSIDE)
            inside = [each for each in CORNERS if in_rest(each, network, excepted)]
            assert inside
            outside = scope is Scope.OUTSIDE
            assert all(asked.allows(asked.of(identity, each, outside=outside), rule) for each in inside)
        case None:
            pass
    assert not beside, "the peer's own ports come first"


def in_rest(address: IPv4Address | IPv6Address, network: Network, excepted: tuple[Network, ...]) -> bool:
    return address in network and not any(address in one for one in excepted)


@WORLDS
@given(world=st.one_of(narrow_worlds(), narrow_worlds(), worlds()), seed=st.integers(0, 2**16))
def test_what_is_told_holds(world: World, seed: int) -> None:
    compiled = compile_policies(world.policies, world.identities, world.endpoints, world.named_ports)
    chance = random.Random(seed)  # noqa: S311 - probes, not a secret
    for policy in compiled.policies.values():
        for packet in refused(policy, world, chance):
            holds(policy, world, packet)
