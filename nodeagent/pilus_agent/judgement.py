"""A packet judged from the rows that the kernel holds, as bpf/policy.h does it.

In: a way to look a row up, and what the slow path knows of a packet. Out: what comes of it, and by which rule of which policy.
Never asks what is wanted: where kernel and agent differ, this says what packets meet.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

from pilus_agent.desired.addresses import raw
from pilus_agent.desired.policy.answers import NOTHING_ABOVE, Answer, Decision, Layers, combine
from pilus_api.identities import Identity
from pilus_api.rules import Direction, Scope

Address = IPv4Address | IPv6Address
# A table's name and a key -> the row, None if there is none; LPM tables: the longest match.
Lookup = Callable[[str, Mapping[str, Any] | int], Mapping[str, Any] | None]

_FULL: Final = {4: 32, 6: 128}
_PORT_BITS: Final = 64
_CIDR_BITS: Final = 64


@dataclass(frozen=True, slots=True)
class Packet:
    """`identity` and `address` are the other side's, `outside`: the address is of no pod and no
    node, or of a node that counts as outside. `port`: the destination's.

    `bits`: so many of the address are given, and it stands for all that begin so and that no longer prefix names; None: it is one.
    """

    direction: Direction
    identity: Identity
    address: Address | None
    outside: bool
    protocol: int
    port: int
    bits: int | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """`rule` counts from 1 in the policy with this number; 0: no rule. `trouble`: why nobody could be asked, "" if it could.

    `by_address`: the rule is one for the address, not for who has it.
    """

    allowed: bool
    policy: int = 0
    rule: int = 0
    trouble: str = ""
    by_address: bool = False


def judge(lookup: Lookup, policy: int, packet: Packet) -> Judgement:
    """What the policy of this number says."""
    if lookup("identities", int(packet.identity)) is None:
        return Judgement(False, policy, trouble=f"identity {packet.identity} is not known here yet")
    held = lookup("policies", policy)
    if held is None or not held["complete"]:
        return Judgement(False, policy, trouble="the policy is not in the kernel as a whole")
    named = lookup("peers", {"policy": policy, "direction": int(packet.direction), "identity": int(packet.identity)})
    who = _ask(lookup, named["table"] if named else held["table"][packet.direction], packet)
    where = None
    if packet.address is not None and held["cidrs"][packet.direction]:
        scope = Scope.OUTSIDE if packet.outside else Scope.ANY
        bits = _FULL[packet.address.version] if packet.bits is None else packet.bits
        found = lookup("cidrs", {
            "length": _CIDR_BITS + bits, "policy": policy, "direction": int(packet.direction),
            "scope": int(scope), "family": packet.address.version, "address": raw(packet.address),
        })  # fmt: skip
        where = _ask(lookup, found["table"], packet) if found else None
    answer = combine(who, where)
    allowed = answer.decision is Decision.ALLOW
    return Judgement(allowed, policy, answer.rule, by_address=where is not None and combine(who, None) != answer)


def _ask(lookup: Lookup, table: int, packet: Packet) -> Layers:
    row = lookup("verdicts", {"length": _PORT_BITS, "table": table, "protocol": packet.protocol, "port": packet.port})
    if row is None:
        return Layers(NOTHING_ABOVE)
    above = Answer(Decision(row["above"]), row["above_precedence"], row["above_rule"])
    return Layers(Answer(Decision(row["decision"]), row["precedence"], row["rule"]), above)


@dataclass(frozen=True, slots=True)
class EndpointJudgement:
    """A direction of an endpoint. `enforced` False: nobody is asked. `audit`: what policies in audit mode would say, if any are."""

    enforced: bool
    judgement: Judgement
    audit: Judgement | None = None


_ENFORCED: Final = {Direction.INGRESS: 1, Direction.EGRESS: 2}
_READY: Final = 4
# The row by which programs know this host as an endpoint: family "by link", and link 0.
HOST_ROW: Final = {"family": 0, "address": bytes(16)}
# enum pilus_setting: this host has a policy; it is not asked for what it sends its pods, nor for the tunnel's own packets
HOST_FIREWALL, HOST_PROBES, HOST_TUNNEL = 32, 64, 128


def judge_endpoint(lookup: Lookup, address: Address, packet: Packet) -> EndpointJudgement | None:
    """What the policies of the local endpoint with this address say; None if the kernel has no such endpoint."""
    row = lookup("endpoints", {"family": address.version, "address": raw(address)})
    return None if row is None else _judge_row(lookup, row, packet)


def judge_host(lookup: Lookup, packet: Packet) -> EndpointJudgement | None:
    """What the policies about this node say of its own stack's traffic; None if it has none."""
    settings = lookup("settings", 0)
    row = lookup("endpoints", HOST_ROW) if settings and settings["flags"] & HOST_FIREWALL else None
    return None if row is None else _judge_row(lookup, row, packet)


def _judge_row(lookup: Lookup, row: Mapping[str, Any], packet: Packet) -> EndpointJudgement:
    enforced = bool(row["flags"] & _ENFORCED[packet.direction])
    found = judge(lookup, row["policy"], packet) if enforced else Judgement(True)
    if not row["flags"] & _READY:
        found = replace(found, allowed=False, trouble="the pod is not ready: it has no identity yet")
    audit = None
    if row["audit"] and found.allowed:
        held = lookup("policies", row["audit"])
        opens = held is not None and not held["closes"] & 1 << packet.direction
        audit = Judgement(True) if opens else judge(lookup, row["audit"], packet)
    return EndpointJudgement(enforced, found, audit)
