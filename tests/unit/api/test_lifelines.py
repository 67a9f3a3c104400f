"""Lifelines: what they allow, and what cuts them."""

from collections.abc import Iterable

import pytest

from pilus_api.errors import InvalidError
from pilus_api.lifelines import CUT_ANNOTATION, LIFELINES, Surroundings, custom, cut_by, lifeline
from pilus_api.rules import AddressGroup, AddressPeer, Direction, Rule, Tier
from pilus_api.selectors import EVERYTHING, Selector
from pilus_api.settings import Settings, parse

AROUND = Surroundings(8472, frozenset({8443}), frozenset({"https://192.0.2.10:7443"}))


def ports(rules: Iterable[Rule]) -> list[str]:
    return [f"{port.protocol}/{port.low}" for rule in rules for port in rule.ports or ()]


@pytest.mark.parametrize(
    ("name", "into", "out"),
    [
        ("kubelet", ["6/10250"], ["6/10250"]),
        ("apiserver", ["6/6443", "6/8443"], ["6/0", "6/7443"]),
        ("etcd", ["6/2379", "6/2380"], ["6/2379", "6/2380"]),
        ("ssh", ["6/22"], []),
        ("tunnel", ["17/8472"], ["17/8472"]),
        ("dhcp", ["17/68", "17/546"], ["17/67", "17/547"]),
        ("tcp/2222", ["6/2222"], []),
        ("udp/9000-9010", ["17/9000"], []),
    ],
)
def test_what_a_lifeline_allows(name: str, into: list[str], out: list[str]) -> None:
    held = lifeline(name, AROUND)
    assert (held.host, held.default_deny, held.subject) == (True, (False, False), EVERYTHING)
    assert all(rule.tier is Tier.ADMIN and not rule.deny and not rule.passes for rule in held.rules)
    found = {side: ports(rule for rule in held.rules if rule.direction is side) for side in Direction}
    assert (found[Direction.INGRESS], found[Direction.EGRESS]) == (into, out)
    assert {str(rule.origin).rpartition(" ")[0] for rule in held.rules} == {f"Lifeline {name}"}


def test_who_a_lifeline_is_for() -> None:
    """The kubelet's port and etcd's are the cluster's, not everybody's."""
    for name in ("kubelet", "etcd"):
        (into,) = [rule for rule in lifeline(name, AROUND).rules if rule.direction is Direction.INGRESS]
        assert {type(peer) for peer in into.peers or ()} == {Selector, AddressGroup}
    (named,) = [peer for rule in lifeline("apiserver", AROUND).rules for peer in rule.peers or () if isinstance(peer, AddressPeer)]
    assert str(named.prefix) == "192.0.2.10/32"
    assert all(rule.peers is None for rule in lifeline("ssh", AROUND).rules)


def test_an_api_server_by_name_may_be_anywhere() -> None:
    """And somebody has to be asked where."""
    around = Surroundings(0, frozenset(), frozenset({"https://api.example.org"}))
    out = [rule for rule in lifeline("apiserver", around).rules if rule.direction is Direction.EGRESS and rule.peers is None]
    assert ports(out) == ["6/443", "6/53", "17/53"]


def test_without_a_tunnel_it_has_no_lifeline() -> None:
    assert lifeline("tunnel", Surroundings()).rules == ()


@pytest.mark.parametrize("name", ["tcp/0", "tcp/70000", "tcp/5-4", "tcp/", "icmp/8", "ssh2", "", "tcp/22-"])
def test_what_is_no_lifeline(name: str) -> None:
    assert custom(name) is None
    if name:
        with pytest.raises(InvalidError):
            parse({"host-firewall-lifelines": f"ssh {name}"})


def test_all_of_them_are_the_default() -> None:
    assert Settings().host_firewall_lifelines == LIFELINES
    assert parse({"host-firewall-lifelines": "ssh, tcp/2222"}).host_firewall_lifelines == ("ssh", "tcp/2222")
    assert parse({"host-firewall-lifelines": ""}).host_firewall_lifelines == ()


@pytest.mark.parametrize(
    ("said", "cut", "wrong"),
    [
        (None, set(), ""),
        ("", set(), ""),
        ("ssh, etcd", {"ssh", "etcd"}, ""),
        ("all", {"all"}, ""),
        ("shh ssh", {"ssh"}, "'shh'"),
        (7, set(), "'7'"),
    ],
)
def test_what_an_annotation_cuts(said: object, cut: set[str], wrong: str) -> None:
    """A mistyped word cuts nothing, and is told."""
    annotations = {} if said is None else {CUT_ANNOTATION: said}
    found, trouble = cut_by({"metadata": {"name": "p", "annotations": annotations}})
    assert found == cut
    assert wrong in trouble
    assert bool(trouble) == bool(wrong)
