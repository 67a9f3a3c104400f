"""The nearest miss: what is told holds, by everything that decides for the peer it is told of."""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

import pytest

from pilus_agent.desired.policy.compiler import compile_policies
from pilus_agent.desired.policy.tables import Endpoint
from pilus_agent.judgement import Packet
from pilus_agent.nearest import nearest_miss
from pilus_api.identities import HOST, RESERVED, WORLD, Identity
from pilus_api.labels import Label, Labels, canonical
from pilus_api.rules import AddressPeer, Direction, Origin, Peer, Policy, Ports, Rule, Scope, Tier
from pilus_api.selectors import Operator, Requirement, Selector, equals, exists, selector

TCP, UDP = 6, 17
IN, OUT = Direction.INGRESS, Direction.EGRESS


def labelled(**labels: str) -> Labels:
    return canonical(Label("k8s", key, value) for key, value in labels.items())


IDENTITIES: Mapping[Identity, Labels] = dict(RESERVED) | {
    Identity(300): labelled(app="api", env="test", team="red"),
    Identity(301): labelled(app="shop", env="prod", team="red"),
    Identity(302): labelled(app="api", env="prod", team="red"),
    Identity(303): labelled(app="api", env="prod"),
    Identity(304): labelled(team="red"),
}
ANYWHERE = selector()
ENTITY_WORLD = selector(exists("reserved", "world"))


def is_(**labels: str) -> Selector:
    return selector(*(equals("k8s", key, value) for key, value in labels.items()))


def tcp(low: int, high: int = 0) -> Ports:
    return Ports(TCP, low, high or low)


def net(text: str, *excepted: str, scope: Scope = Scope.OUTSIDE) -> AddressPeer:
    return AddressPeer(ip_network(text), tuple(map(ip_network, excepted)), scope)


def allow(path: str, peers: tuple[Peer, ...] | None, *ports: Ports, direction: Direction = IN, deny: bool = False) -> Rule:
    return Rule(Origin("CiliumNetworkPolicy", "ns", "p", "uid", path), direction, deny, peers, ports or None)


def deny(path: str, peers: tuple[Peer, ...] | None, *ports: Ports) -> Rule:
    return allow(path, peers, *ports, deny=True)


def admin(path: str, *ports: Ports, passes: bool, place: int) -> Rule:
    origin = Origin("AdminNetworkPolicy", "", "admin", "uid-admin", path)
    return Rule(origin, IN, False, (ANYWHERE,), ports or None, tier=Tier.ADMIN, place=place, passes=passes)


def miss(
    *rules: Rule,
    port: int,
    protocol: int = TCP,
    identity: int = 304,
    address: str = "",
    bits: int | None = None,
    outside: bool | None = None,
    direction: Direction = IN,
    short: bool = True,
) -> str:
    """In short: without the kind and the name of the policy, nor what was asked."""
    origin = Origin("CiliumNetworkPolicy", "ns", "p", "uid")
    (policy,) = compile_policies(
        [Policy(origin, ANYWHERE, (True, True), rules)], IDENTITIES, {"pod": Endpoint(labelled(app="me"), {})}
    ).policies.values()
    where = ip_address(address) if address else None
    packet = Packet(direction, Identity(identity), where, identity == WORLD if outside is None else outside, protocol, port, bits)
    told = nearest_miss(policy, packet, IDENTITIES)
    return told.replace("CiliumNetworkPolicy ns/p ", "").partition("; this is")[0] if short else told


A, B = allow("a", (ANYWHERE,), tcp(8080, 8082)), allow("b", (ANYWHERE,), tcp(8084, 8087))


@pytest.mark.parametrize(
    ("rules", "port", "told"),
    [
        # Rows are of prefixes: 8083 may be the one that is told otherwise within a longer stretch.
        ((A, B), 8083, "TCP 8080-8082 is allowed by a"),
        ((A, B), 8088, "TCP 8084-8087 is allowed by b"),
        ((allow("a", (ANYWHERE,), tcp(8080, 8082), tcp(8084, 8087)),), 8083, "TCP 8080-8082 is allowed by a"),
        ((allow("a", (ANYWHERE,), tcp(1, 65535)),), 0, "TCP 1-65535 is allowed by a"),
        ((allow("a", (ANYWHERE,), tcp(80, 90)), deny("b", (ANYWHERE,), tcp(84, 85))), 91, "TCP 86-90 is allowed by a"),
        ((allow("a", (ANYWHERE,), tcp(80, 90)), deny("b", (ANYWHERE,), tcp(81, 90))), 91, "TCP 80 is allowed by a"),
        ((allow("a", (ANYWHERE,), tcp(80, 90)), deny("b", (ANYWHERE,), tcp(80, 90))), 91, ""),
        # Of two rules one is the reason, and the other one of what it has besides.
        ((allow("a", (ANYWHERE,), tcp(85)), allow("b", (ANYWHERE,), tcp(80, 90))), 91, "TCP 86-90 is allowed by b"),
        ((allow("a", (ANYWHERE,), Ports(TCP, 0, 65535)),), 53, "TCP, every port is allowed by a"),
    ],
)
def test_the_ports_told_are_all_allowed_and_by_that_rule(rules: tuple[Rule, ...], port: int, told: str) -> None:
    assert miss(*rules, port=port, protocol=UDP if port == 53 else TCP) == told


def test_the_same_protocol_is_nearer_than_any_other() -> None:
    rules = allow("a", (ANYWHERE,), Ports(UDP, 443, 443)), allow("b", (ANYWHERE,), tcp(9000))
    assert miss(*rules, port=443) == "TCP 9000 is allowed by b"
    assert miss(*rules, port=9001, protocol=UDP) == "UDP 443 is allowed by a"
    assert miss(*rules, port=80, protocol=132) == "UDP 443 is allowed by a"


def test_what_is_passed_on_leaves_the_rest_of_what_another_rule_allows() -> None:
    """The rule about all protocols is told by the ports of one."""
    everything = admin("all", passes=False, place=1)
    told = miss(admin("but", tcp(80), passes=True, place=0), everything, port=80, short=False)
    assert told == "TCP 0-79 is allowed by AdminNetworkPolicy admin all; this is TCP 80"
    assert miss(admin("but", Ports(TCP, 0, 65535), passes=True, place=0), everything, port=80) == ""
    beside = allow("a", (ANYWHERE,), tcp(443))
    assert miss(admin("but", Ports(TCP, 0, 65535), passes=True, place=0), everything, beside, port=80) == "TCP 443 is allowed by a"


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_one_of_two_tables_allows_and_the_other_denies_is_not_allowed(mirrored: bool) -> None:
    """Who the peer is and where it is both have a say."""
    entity, place = (ENTITY_WORLD,), (net("8.8.8.8/32"),)
    if mirrored:
        entity, place = place, entity  # type: ignore[assignment]
    denied = allow("a", entity, tcp(443)), deny("b", place, tcp(443))
    asked = {"port": 8443, "identity": WORLD, "address": "8.8.8.8"}
    assert miss(*denied, **asked) == ""  # type: ignore[arg-type]
    more = allow("c", place, tcp(80))
    assert miss(*denied, more, **asked) == "TCP 80 is allowed by c"  # type: ignore[arg-type]


def test_a_rule_of_the_other_table_cuts_into_a_span() -> None:
    rules = allow("a", (ENTITY_WORLD,), tcp(400, 500)), deny("b", (net("8.0.0.0/8"),), tcp(440, 450))
    assert miss(*rules, port=399, identity=WORLD, address="8.8.8.8") == "TCP 400-439 is allowed by a"
    assert miss(*rules, port=399, identity=WORLD, address="9.9.9.9") == "TCP 400-500 is allowed by a"


def test_what_the_other_table_denies_at_large_it_denies_at_every_port() -> None:
    rules = allow("a", (ENTITY_WORLD,), tcp(80), tcp(2000)), deny("b", (net("8.0.0.0/8"),), Ports(TCP, 0, 1023))
    assert miss(*rules, port=1024, identity=WORLD, address="8.8.8.8") == "TCP 2000 is allowed by a"


def test_what_is_allowed_or_denied_by_a_rule_has_no_miss() -> None:
    """The rules may have changed since it was refused."""
    assert miss(A, B, port=8081) == ""
    assert miss(A, deny("b", (ANYWHERE,), tcp(22)), port=22) == ""
    assert miss(A, port=22, identity=HOST) == ""


# -- another peer --------------------------------------------------------------------------------------------------------------

SSH = tcp(22)


def test_the_other_peer_is_the_one_that_shares_the_most_labels() -> None:
    prod = allow("a", (is_(env="prod"),), SSH)
    assert miss(prod, port=22, identity=300) == "a allows it from identity 302, which has k8s:env=prod; this peer has not"
    assert miss(prod, port=22, identity=304) == (
        "a allows it from identity 301, which has k8s:app=shop, k8s:env=prod; this peer has not"
    )


def test_labels_that_are_in_the_way_are_told_where_none_are_lacking() -> None:
    rules = allow("a", (selector(Requirement("k8s", "team", Operator.DOES_NOT_EXIST)),), SSH)
    told = "a allows it from identity 303, which has not k8s:team=red; this peer has"
    assert miss(rules, port=22, identity=302) == told


def test_of_a_peer_that_nobody_knows_no_labels_are_told() -> None:
    assert miss(allow("a", (is_(team="red", app="shop"),), SSH), port=22, identity=9999) == (
        "a allows it from identity 301, which has k8s:app=shop, k8s:env=prod, k8s:team=red"
    )


@pytest.mark.parametrize(("direction", "told"), [(IN, ""), (OUT, "a allows it to identity 1, which has reserved:host")])
def test_the_host_is_let_in_by_no_rule(direction: Direction, told: str) -> None:
    rule = allow("a", (selector(exists("reserved", "host")),), SSH, direction=direction)
    assert miss(rule, port=22, identity=300, direction=direction).partition("; this peer")[0] == told
    assert IDENTITIES[HOST]


def test_another_peer_that_its_address_may_shut_out_is_not_told() -> None:
    """Which address it has is not known; what no pod has does not matter to pods."""
    to_pods = allow("a", (is_(app="shop"),), SSH)
    outside, anywhere = deny("b", (net("0.0.0.0/0"),), SSH), deny("b", (net("10.0.0.0/8", scope=Scope.ANY),), SSH)
    assert miss(to_pods, outside, port=22, identity=300).startswith("a allows it from identity 301")
    assert miss(to_pods, anywhere, port=22, identity=300) == ""
    to_world = allow("a", (ENTITY_WORLD,), SSH)
    assert miss(to_world, port=22, identity=300).startswith("a allows it from identity 2, ")
    assert miss(to_world, deny("b", (net("8.8.8.8/32"),), SSH), port=22, identity=300) == ""


def test_another_peer_is_not_this_one() -> None:
    """Whom its identity lets pass, and its address does not."""
    passed = Rule(
        Origin("AdminNetworkPolicy", "", "admin", "uid-admin", "but"), IN, False, (net("8.0.0.0/8"),), None,
        tier=Tier.ADMIN, passes=True,
    )  # fmt: skip
    told = miss(admin("all", passes=False, place=1), passed, port=22, identity=302, address="8.8.8.8", outside=True)
    assert told == "AdminNetworkPolicy admin all allows it from identity 300, which has k8s:env=test; this peer has not"


@pytest.mark.parametrize(
    ("peers", "address", "told"),
    [
        ([net("10.0.0.0/8")], "8.8.8.8", "10.0.0.0/8"),
        ([net("10.0.0.0/8", "10.1.0.0/16")], "8.8.8.8", "10.0.0.0/8 without 10.1.0.0/16"),
        ([net("10.0.0.0/8", "10.1.0.0/16")], "10.1.2.3", "10.0.0.0/8 without 10.1.0.0/16"),
        # Nothing of the larger one is left.
        ([net("10.0.0.0/8", "10.0.0.0/9", "10.128.0.0/9"), net("10.1.2.0/24")], "8.8.8.8", "10.1.2.0/24"),
        ([net("10.0.0.0/8", "10.1.0.0/16"), net("10.1.2.0/24")], "8.8.8.8", "10.0.0.0/8 without 10.1.0.0/16"),
        ([net("10.0.0.0/8", "10.1.0.0/16"), net("10.1.2.0/24")], "10.1.3.9", "10.1.2.0/24"),
        ([net("10.0.0.0/8"), net("192.168.0.0/16")], "192.169.0.1", "192.168.0.0/16"),
        ([net("fd00::/8"), net("10.0.0.0/8")], "8.8.8.8", "10.0.0.0/8"),
        ([net("10.0.0.0/8"), net("fd00::/8")], "2001:db8::1", "fd00::/8"),
        ([net("fd00::/8")], "8.8.8.8", "fd00::/8"),
        (
            [net("10.0.0.0/8", *(f"10.{number}.0.0/16" for number in range(1, 6)))], "10.5.9.9",
            "10.0.0.0/8 without 10.5.0.0/16, 10.1.0.0/16, 10.2.0.0/16 and 2 more",
        ),
    ],
)  # fmt: skip
def test_the_addresses_told_are_all_allowed(peers: list[AddressPeer], address: str, told: str) -> None:
    assert miss(allow("a", tuple(peers), SSH), port=22, identity=WORLD, address=address) == f"a allows it from {told}"


def test_a_denial_inside_is_an_exception() -> None:
    rules = allow("a", (net("10.0.0.0/8"),), SSH), deny("b", (net("10.1.0.0/16"),), SSH), allow("c", (net("10.2.0.0/16"),), tcp(80))
    assert miss(*rules, port=22, identity=WORLD, address="8.8.8.8") == "a allows it from 10.0.0.0/8 without 10.1.0.0/16"
    assert miss(*rules[:2], deny("d", (ENTITY_WORLD,), SSH), port=22, identity=300) == ""
    nested = deny("e", (net("10.1.2.0/24"),), tcp(22, 23))
    assert miss(*rules, nested, port=22, identity=WORLD, address="8.8.8.8") == "a allows it from 10.0.0.0/8 without 10.1.0.0/16"


def test_what_is_around_a_network_or_of_another_family_is_no_exception() -> None:
    around = allow("a", (net("10.0.0.0/24"),), SSH), allow("b", (net("10.0.0.0/8"),), tcp(80))
    assert miss(*around, port=22, identity=WORLD, address="8.8.8.8") == "a allows it from 10.0.0.0/24"
    beside = allow("a", (net("::/0"),), SSH), allow("b", (net("10.0.0.0/8"),), tcp(80))
    assert miss(*beside, port=22, identity=WORLD, address="8.8.8.8") == "a allows it from ::/0"


def test_addresses_outside_are_no_pods() -> None:
    outside = allow("a", (net("10.0.0.0/8"),), SSH)
    told = miss(outside, port=22, identity=300, address="10.1.2.3")
    assert told == "a allows it from 10.0.0.0/8; address rules mean what is outside the cluster"
    block = allow("b", (net("10.2.0.0/16", scope=Scope.ANY),), SSH)
    assert miss(outside, block, port=22, identity=300, address="10.1.2.3") == "b allows it from 10.2.0.0/16"


def test_the_world_is_no_narrower_rule_s() -> None:
    rules = allow("a", (net("0.0.0.0/0"),), tcp(53)), allow("b", (net("0.0.0.0/8"),), tcp(80))
    assert miss(*rules, port=81, identity=WORLD, address="0.0.0.0", bits=0) == "TCP 53 is allowed by a"
    assert miss(*rules, port=81, identity=WORLD, address="0.0.0.0") == "TCP 80 is allowed by b"
    wide = allow("a", (net("10.0.0.0/8"),), tcp(22)), allow("b", (net("128.0.0.0/4"),), tcp(22))
    assert miss(*wide, port=22, identity=WORLD, address="0.0.0.0", bits=0) == "b allows it from 128.0.0.0/4"
