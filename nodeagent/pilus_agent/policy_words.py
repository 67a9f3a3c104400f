"""Compiled policies in words: who may do what, and what of an object is not in force.

In: tables, what governs whom, and the labels of identities. Out: texts, and what `{"get": "policy"}` answers (docs/agent-api.md).
Pure; it answers from the tables, so it says what packets meet.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pilus_agent.desired.endpoints import Governed
from pilus_agent.desired.policy.answers import Decision, Layers
from pilus_agent.desired.policy.porttable import ANY_PORT, ANY_PROTOCOL, PortRow
from pilus_agent.desired.policy.tables import CompiledPolicy, PeerClass, PolicyName, TooLarge
from pilus_api.identities import Identity
from pilus_api.labels import Labels
from pilus_api.protocols import PROTOCOL_NAMES
from pilus_api.rules import Direction, Origin

Item = dict[str, Any]
Written = tuple[str, str, str]  # an object's kind, namespace and name


def classes_in_words(policy: CompiledPolicy, direction: Direction, identities: Mapping[Identity, Labels]) -> list[Item]:
    tables = policy.directions[direction]
    members: dict[bytes, list[str]] = {}
    classes: dict[bytes, PeerClass] = {}
    for identity, peer_class in tables.peers.items():
        classes[peer_class.name] = peer_class
        texts = " ".join(str(label) for label in identities.get(identity, ()))
        members.setdefault(peer_class.name, []).append(f"{identity} {texts}".strip())
    for cidr, peer_class in tables.cidrs.items():
        classes[peer_class.name] = peer_class
        members.setdefault(peer_class.name, []).append(f"{cidr.network} ({cidr.scope.name.lower()})")
    found = [{"peers": sorted(members[name]), "verdicts": _verdicts(policy, classes[name])} for name in classes]
    return [*found, {"peers": ["everybody else"], "verdicts": _verdicts(policy, tables.default)}]


def _verdicts(policy: CompiledPolicy, peer_class: PeerClass) -> list[Item]:
    rows = [_verdict(policy, row) for row in peer_class.table.rows]
    if not any(row.length == ANY_PROTOCOL for row in peer_class.table.rows):
        rows.append({"words": "everything else" if rows else "everything", "decision": "deny", "rule": None, "passed": None})
    return rows


def _verdict(policy: CompiledPolicy, row: PortRow) -> Item:
    layers = Layers(row.answer, row.above)
    answer, origin = layers.answer, policy.origin(layers.answer.rule)
    protocol = PROTOCOL_NAMES.get(row.protocol, str(row.protocol))
    low, high = row.span
    if row.length == ANY_PROTOCOL:
        words = "everything"
    elif row.length == ANY_PORT:
        words = f"{protocol}, every port"
    else:
        words = f"{protocol} {low}" + (f"-{high}" if high != low else "")
    return {
        "words": words,
        "decision": "allow" if answer.decision is Decision.ALLOW else "deny",
        "rule": str(origin) if origin else None,
        "passed": str(policy.origin(row.above.rule)) if row.above.decision is Decision.PASS else None,
    }


def unresolved(policies: Iterable[CompiledPolicy]) -> dict[Written, tuple[str, ...]]:
    """By the object: its elements that speak of a named port of an address. In one order, whatever came first."""
    found: dict[Written, set[str]] = {}
    for policy in policies:
        for one in policy.unresolved:
            told = f"{one.origin.path} (an address has no named port {one.port})"
            found.setdefault(one.origin.written_in, set()).add(told)
    return {each: tuple(sorted(told)) for each, told in found.items()}


def objects_in(large: TooLarge) -> frozenset[Origin]:
    """Those whose rules are in it; thousands may be one object's."""
    return frozenset(replace(origin, path="") for origin in large.origins)


def in_place(pods: Iterable[Governed], large: set[PolicyName], *, host_keeps: bool | None) -> list[str]:
    """What holds in place of policies of these names, which are too large: for each of the pods that they are for, and for the node
    itself. `host_keeps`: whether it has an earlier one; None: they are not for it."""
    governed = list(pods)
    closed = [held for held in governed if held.policy in large]
    found = []
    if host_keeps is not None:
        found.append(
            f"this node {'keeps the last version that was not' if host_keeps else 'has none to keep, but for its lifelines'}"
        )
    # How many is not said: it would be news, and an Event, with every pod that comes and goes.
    if len(governed) > len(closed):
        found.append("pods keep the last version that was not")
    if closed:
        ways = ("ingress", any(held.ingress_enforced for held in closed)), ("egress", any(held.egress_enforced for held in closed))
        shut = " and ".join(way for way, enforced in ways if enforced)
        who = "those that have none" if len(governed) > len(closed) else "pods have none to keep and"
        found.append(f"{who} are closed for {shut}" if shut else f"{who} are not restricted by it")
    return found
