"""Rules: what policies of every kind mean, in one form.

In: nothing; these are the words. `policies.py` turns objects into them, the agent compiles them. A rule grants or denies
one direction's traffic between its subject and its peers. Everything in it is resolved: namespaces are in the selectors,
entities are selectors, an absent field is not an empty one. What a policy does to the rules of others that govern the same endpoint
(`demands`, `closing`) is said there, and done by `policy_together.together`.
"""

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from pilus_api.selectors import Selector

Network = IPv4Network | IPv6Network


class Direction(IntEnum):
    """As in bpf/abi.h, enum pilus_direction."""

    INGRESS = 0
    EGRESS = 1


class Scope(IntEnum):
    """Which addresses a rule by address may mean; enum pilus_cidr_scope."""

    ANY = 0  # ipBlock of a Kubernetes NetworkPolicy: pods too
    OUTSIDE = 1  # fromCIDR and toCIDR: what is outside the cluster


class Tier(IntEnum):
    """Asked one after the other. Where the one in the middle denies by default, nothing gets to the last."""

    ADMIN = 0  # AdminNetworkPolicy, ClusterNetworkPolicy of tier Admin
    NETWORK_POLICY = 1  # NetworkPolicy, CiliumNetworkPolicy, CiliumClusterwideNetworkPolicy
    BASELINE = 2  # BaselineAdminNetworkPolicy, ClusterNetworkPolicy of tier Baseline


# Places of rules in an ordered tier: 1,001 priorities with 128 rules each.
RULES_OF_A_PRIORITY: Final = 128
PLACES: Final = 1001 * RULES_OF_A_PRIORITY


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Where a rule is written; `path` is the field, such as `spec.ingress[0]`."""

    kind: str
    namespace: str
    name: str
    uid: str
    path: str = ""

    @property
    def written_in(self) -> tuple[str, str, str]:
        """The object: its kind, namespace and name."""
        return self.kind, self.namespace, self.name

    def __str__(self) -> str:
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {name}" + (f" {self.path}" if self.path else "")


@dataclass(frozen=True, slots=True)
class AddressPeer:
    """Addresses inside `prefix` and outside every one of `excepted`.

    `by_label`: it stands for those outside whom a selector means. So it means no node, also where policy-cidr-match-mode has other
    rules by address mean nodes; it must be resolved then.
    """

    prefix: Network
    excepted: tuple[Network, ...]
    scope: Scope
    by_label: bool = False


# Every address that is outside the cluster.
OUTSIDE: Final = tuple(AddressPeer(ip_network(text), (), Scope.OUTSIDE) for text in ("0.0.0.0/0", "::/0"))


@dataclass(frozen=True, slots=True)
class Services:
    """Services without a selector: somebody writes the addresses behind them by hand. "" and None: any."""

    namespace: str
    name: str = ""
    labels: Selector | None = None

    def __str__(self) -> str:
        found = f"Service {self.namespace or '*'}/{self.name or '*'} without a selector"
        return f"{found} and with these labels" if self.labels else found


@dataclass(frozen=True, slots=True)
class CidrGroup:
    """A CiliumCIDRGroup."""

    name: str

    def __str__(self) -> str:
        return f"CiliumCIDRGroup {self.name}"


@dataclass(frozen=True, slots=True)
class ApiServers:
    """The API servers' addresses, of which those on no node have no identity."""

    def __str__(self) -> str:
        return "kube-apiserver"


@dataclass(frozen=True, slots=True)
class OtherNodes:
    """Other nodes' addresses and their routers', where rules by address mean them (policy-cidr-match-mode)."""

    def __str__(self) -> str:
        return "nodes"


GroupName = Services | CidrGroup | ApiServers | OtherNodes


@dataclass(frozen=True, slots=True)
class AddressGroup:
    """Addresses outside the cluster that go by a name, and change, without those of `excepted`; or with `others` all that don't. It
    must be resolved before it is compiled. `path` is the field that speaks of it. `by_label`: as of an AddressPeer.
    """

    name: GroupName
    path: str
    excepted: tuple[Network, ...] = ()
    others: bool = False
    by_label: bool = False


# Who: an identity that the selector selects. Where: an address.
Peer = Selector | AddressPeer | AddressGroup


@dataclass(frozen=True, slots=True, order=True)
class Ports:
    """Destination ports `low` to `high` of `protocol` (IPPROTO_*); ICMP: the type, with `low` == `high`.

    `protocol` 0: every protocol, with 0 to 65535. A named port stands as `name` with 0 to 0, and matches what the
    destination calls so; it must be resolved before it is compiled.
    """

    protocol: int
    low: int
    high: int
    name: str = ""


class Closing(IntEnum):
    """Where an allowing rule that is not in force closes what others allow: its own peers and ports."""

    NOTHING = 0
    UNLESS_PLAIN = 1  # but those peers whom a rule without anything else allows that very port
    ALWAYS = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """One element of a policy.

    peers: None is anybody; an empty tuple is nobody. ports: None is everything; an empty tuple is nothing.
    A rule whose `unenforced` is not empty restricts further in a way that is not enforced yet: an allowing rule with it
    grants nothing, a denying one denies as it stands. `closing`: what the traffic that it means would be restricted by is not in
    force, so it is denied, whoever allows it.

    `endpoints`: of the peers those that are meant as endpoints, as they are written: what others demand binds them.

    In the middle tier a denying rule holds against all that allow. In the others the one with the lowest `place` (0 to PLACES - 1)
    holds, and one that `passes` leaves the packet to the tiers after its own.
    """

    origin: Origin
    direction: Direction
    deny: bool
    peers: tuple[Peer, ...] | None
    ports: tuple[Ports, ...] | None
    unenforced: tuple[str, ...] = ()
    tier: Tier = Tier.NETWORK_POLICY
    place: int = 0
    passes: bool = False
    endpoints: tuple[Selector, ...] = ()
    closing: Closing = Closing.NOTHING

    @property
    def denies(self) -> bool:
        """Whether it denies in the end: then whoever may be one of its peers is."""
        return self.deny or self.closing is not Closing.NOTHING


@dataclass(frozen=True, slots=True)
class Demand:
    """What every endpoint peer of a direction's allowing, or denying, rules must be as well: fromRequires and toRequires."""

    direction: Direction
    deny: bool
    peer: Selector


@dataclass(frozen=True, slots=True)
class Policy:
    """One `spec` of an object: whom it governs, whether a direction becomes default deny, and its rules.

    In audit mode it takes part in no decision; what it would change is found out beside. `host`: its subjects are nodes themselves,
    and no pod; without it pods, and no node.

    `demands` bind the rules of every policy that governs the same endpoint. `known`: the addresses of groups that they may bring
    in.
    """

    origin: Origin
    subject: Selector
    default_deny: tuple[bool, bool]  # by Direction
    rules: tuple[Rule, ...]
    unenforced: tuple[str, ...] = ()  # fields of the whole policy that are not in force
    audit: bool = False
    host: bool = False
    demands: tuple[Demand, ...] = ()
    known: tuple[tuple[GroupName, tuple[Network, ...]], ...] = ()
