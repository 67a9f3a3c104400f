"""The result: compiled policies, who they apply to, and everything named by content.

In: nothing; these are the words between the compiler and whoever numbers, writes or explains. Never mutated once published.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NewType

from pilus_agent.desired.policy.porttable import PortTable
from pilus_api.identities import Identity
from pilus_api.labels import Labels
from pilus_api.rules import Network, Origin, Scope

PolicyName = NewType("PolicyName", bytes)  # of a rule set, 16 bytes
ClassName = NewType("ClassName", bytes)

# A name that a pod gives to ports of its own: which protocols and ports it means.
NamedPorts = Mapping[str, frozenset[tuple[int, int]]]

ROW_BUDGET: Final = 16_384
# What is not even tried: a direction of a rule set whose tables would have more rows, or whose classes would have more rules
# altogether. Anybody may write ten thousand rules, and a class for each of many pods has all that mean it.
MOST_ROWS: Final = 4 * ROW_BUDGET
MOST_RULES: Final = 200_000


class TooMuchError(Exception):
    """The tables would be far beyond what a policy may have, so they are not made."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A pod of this node, or the node itself (`host`), as far as policy goes. `labels`: of the pod's identity, or of the Node."""

    labels: Labels
    named_ports: NamedPorts
    host: bool = False


@dataclass(frozen=True, slots=True)
class PeerClass:
    """Peers that exactly the same rules select. `rules` counts from 1 in the policy's origins."""

    name: ClassName
    rules: tuple[int, ...]
    table: PortTable


@dataclass(frozen=True, slots=True)
class CidrKey:
    """`network` in one of the two views of addresses; direction and policy are those of the table it is in."""

    scope: Scope
    network: Network


@dataclass(frozen=True, slots=True)
class DirectionTables:
    """One direction. `enforced`: the tables can refuse something, so that they must be asked."""

    default_deny: bool
    enforced: bool
    default: PeerClass
    peers: Mapping[Identity, PeerClass]
    cidrs: Mapping[CidrKey, PeerClass]


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A named port that nothing can be looked up for: the rule grants nothing by it, or denies every port of the protocol."""

    origin: Origin
    port: str


@dataclass(frozen=True, slots=True)
class CompiledPolicy:
    """What one set of rules amounts to. The name is that of the rules: new identities change rows, not the name."""

    name: PolicyName
    origins: tuple[Origin, ...]
    directions: tuple[DirectionTables, DirectionTables]  # by Direction
    rows: int  # of peers, cidrs and the port tables it uses
    unresolved: tuple[Unresolved, ...]
    closers: tuple[tuple[Origin, ...], tuple[Origin, ...]]  # by Direction: the policies that make it default deny

    def origin(self, rule: int) -> Origin | None:
        return self.origins[rule - 1] if rule else None

    def classes(self) -> dict[ClassName, PeerClass]:
        found: dict[ClassName, PeerClass] = {}
        for tables in self.directions:
            for peer_class in (tables.default, *tables.peers.values(), *tables.cidrs.values()):
                found[peer_class.name] = peer_class
        return found

    def tables(self) -> dict[bytes, PortTable]:
        return {peer_class.table.name: peer_class.table for peer_class in self.classes().values()}


@dataclass(frozen=True, slots=True)
class TooLarge:
    """A rule set whose tables go beyond the budget. Whoever asked keeps the last version that did not. `reason`: what else of it is
    too much, in place of rows.
    """

    name: PolicyName
    rows: int
    budget: int
    origins: tuple[Origin, ...]
    reason: str = ""

    def __str__(self) -> str:
        return self.reason or f"{self.rows} rows, and a policy may have {self.budget}"


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """`policy` None: no rules apply, everything passes. It may name a policy that is too large.

    `audit`: what would hold if no policy were in audit mode; None if none is that governs the endpoint.
    """

    policy: PolicyName | None
    ingress_enforced: bool
    egress_enforced: bool
    audit: PolicyName | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """All that is wanted now."""

    endpoints: Mapping[str, EndpointPolicy]
    policies: Mapping[PolicyName, CompiledPolicy]
    too_large: Mapping[PolicyName, TooLarge]

    def tables(self) -> dict[bytes, PortTable]:
        """Every port table in use, by its name."""
        return {name: table for policy in self.policies.values() for name, table in policy.tables().items()}
