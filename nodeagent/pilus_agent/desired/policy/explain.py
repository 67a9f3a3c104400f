"""Explaining: one packet answered from the tables, as the kernel does it.

In: a compiled policy and what the slow path knows of a packet. Out: decision, precedence, and the rule that decided. Never asks
the rules themselves: what it says is what the tables do, right or wrong.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from pilus_agent.desired.policy.addresses import longest
from pilus_agent.desired.policy.answers import Decision, combine
from pilus_agent.desired.policy.tables import CompiledPolicy
from pilus_api.identities import Identity
from pilus_api.rules import Direction, Origin, Scope


@dataclass(frozen=True, slots=True)
class Explanation:
    """`rule` None: no rule matched, or (precedence HOST) the node's own stack is let in."""

    decision: Decision
    precedence: int
    rule: Origin | None


def explain(
    policy: CompiledPolicy,
    direction: Direction,
    identity: Identity,
    address: IPv4Address | IPv6Address | None,
    inside_cluster: bool,
    protocol: int,
    port: int,
) -> Explanation:
    """`identity` and `address` are the other side's; `port` is the destination's, or the ICMP type."""
    tables = policy.directions[direction]
    who = tables.peers.get(identity, tables.default).table.layers(protocol, port)
    where = None
    if address is not None:
        scope = Scope.ANY if inside_cluster else Scope.OUTSIDE
        key = longest(tables.cidrs, scope, address.version, int(address))
        if key is not None:
            where = tables.cidrs[key].table.layers(protocol, port)
    answer = combine(who, where)
    return Explanation(answer.decision, answer.precedence, policy.origin(answer.rule))
