"""The peers part of a policy element: whom it speaks of, in either direction."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from pilus_api.addresses import MAX_PREFIX_TEXT, Network, parse_address_or_prefix, parse_prefix
from pilus_api.errors import InvalidError
from pilus_api.resources.labelselector import LabelSelector
from pilus_api.resources.model import Model, refused_unless
from pilus_api.resources.policyports import FqdnSelector, IcmpRule, Name

Entity = Literal[
    "all", "world", "cluster", "host", "init", "ingress", "unmanaged", "remote-node", "health", "none", "kube-apiserver"
]  # fmt: skip

MAX_SELECTORS = 200
MAX_PREFIXES = 500
MAX_CIDR_SETS = 40
MAX_EXCEPT = 20


def _prefix(text: str) -> str:
    try:
        parse_prefix(text)
    except InvalidError as error:
        raise ValueError(str(error)) from error
    return text


def _address_or_prefix(text: str) -> str:
    try:
        parse_address_or_prefix(text)
    except InvalidError as error:
        raise ValueError(str(error)) from error
    return text


Prefix = Annotated[
    str,
    Field(max_length=MAX_PREFIX_TEXT),
    AfterValidator(_prefix),
    WithJsonSchema({"type": "string", "format": "cidr", "maxLength": MAX_PREFIX_TEXT}),
]
AddressOrPrefix = Annotated[
    str,
    Field(max_length=MAX_PREFIX_TEXT),
    AfterValidator(_address_or_prefix),
    WithJsonSchema(
        {"type": "string", "maxLength": MAX_PREFIX_TEXT, "anyOf": [{"format": "cidr"}, {"format": "ipv4"}, {"format": "ipv6"}]}
    ),
]


def within(prefix: Network, excepted: Network) -> bool:
    """Whether the base address of `excepted` lies in `prefix`."""
    return prefix.version == excepted.version and excepted.network_address in prefix


GroupName = Annotated[
    str, Field(max_length=253, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
]  # fmt: skip


class CidrRule(Model):
    """A prefix without some of its parts, or a group of prefixes."""

    cidr: Prefix | None = None
    cidr_group_ref: GroupName | None = None
    except_: Annotated[Sequence[Prefix], Field(max_length=MAX_EXCEPT)] | None = Field(default=None, alias="except")

    @refused_unless("has(self.cidr) != has(self.cidrGroupRef)", "give exactly one of cidr and cidrGroupRef")
    def one(self) -> bool:
        return (self.cidr is None) != (self.cidr_group_ref is None)

    @refused_unless(
        "!has(self.cidr) || !has(self.except) || [cidr(self.cidr)].all(c, self.except.all(e, c.containsIP(cidr(e).masked().ip())))",
        "each except must lie inside cidr",
    )
    def contained(self) -> bool:
        if self.cidr is None:
            return True
        prefix = parse_prefix(self.cidr)
        return all(within(prefix, parse_prefix(excepted)) for excepted in self.except_ or ())


class AwsGroup(Model):
    labels: dict[str, str] | None = None
    security_groups_ids: Annotated[Sequence[str], Field(max_length=200)] | None = None
    security_groups_names: Annotated[Sequence[str], Field(max_length=200)] | None = None
    region: Annotated[str, Field(max_length=253)] | None = None


class Groups(Model):
    aws: AwsGroup | None = None


class ServiceName(Model):
    service_name: Name | None = None
    namespace: Annotated[str, Field(max_length=253)] | None = None


class ServiceSelector(Model):
    selector: LabelSelector
    namespace: Annotated[str, Field(max_length=253)] | None = None


class Service(Model):
    k8s_service: Annotated[ServiceName | None, Field(alias="k8sService")] = None
    k8s_service_selector: Annotated[ServiceSelector | None, Field(alias="k8sServiceSelector")] = None


class Authentication(Model):
    mode: Literal["disabled", "required", "test-always-fail"]


Selectors = Annotated[Sequence[LabelSelector], Field(max_length=MAX_SELECTORS)]
Prefixes = Annotated[Sequence[AddressOrPrefix], Field(max_length=MAX_PREFIXES)]
CidrRules = Annotated[Sequence[CidrRule], Field(max_length=MAX_CIDR_SETS)]
Entities = Annotated[Sequence[Entity], Field(max_length=100)]
GroupList = Annotated[Sequence[Groups], Field(max_length=100)]
Icmps = Annotated[Sequence[IcmpRule], Field(max_length=20)]

_FROM = ("fromEndpoints", "fromCIDR", "fromCIDRSet", "fromEntities", "fromNodes", "fromGroups")
_TO = ("toEndpoints", "toCIDR", "toCIDRSet", "toEntities", "toNodes", "toGroups", "toServices", "toFQDNs")


def _at_most_one(names: Sequence[str]) -> str:
    return f"[{', '.join(f'has(self.{name})' for name in names)}].filter(given, given).size() <= 1"


class IngressPeers(Model):
    """Absent: no opinion about the peer. An empty list: nobody."""

    from_endpoints: Selectors | None = None
    from_requires: Selectors | None = None
    from_cidr: Annotated[Prefixes | None, Field(alias="fromCIDR")] = None
    from_cidr_set: Annotated[CidrRules | None, Field(alias="fromCIDRSet")] = None
    from_entities: Entities | None = None
    from_nodes: Selectors | None = None
    from_groups: GroupList | None = None
    icmps: Icmps | None = None

    @refused_unless(_at_most_one(_FROM), f"give at most one of {', '.join(_FROM)} in one element; more elements are an OR")
    def one_sort_of_peer(self) -> bool:
        held: tuple[Any, ...] = (
            self.from_endpoints, self.from_cidr, self.from_cidr_set, self.from_entities, self.from_nodes, self.from_groups,
        )  # fmt: skip
        return sum(peers is not None for peers in held) <= 1


class EgressDenyPeers(Model):
    """Absent: no opinion about the peer. An empty list: nobody."""

    to_endpoints: Selectors | None = None
    to_requires: Selectors | None = None
    to_cidr: Annotated[Prefixes | None, Field(alias="toCIDR")] = None
    to_cidr_set: Annotated[CidrRules | None, Field(alias="toCIDRSet")] = None
    to_entities: Entities | None = None
    to_nodes: Selectors | None = None
    to_groups: GroupList | None = None
    to_services: Annotated[Sequence[Service], Field(max_length=100)] | None = None
    icmps: Icmps | None = None

    @refused_unless(
        _at_most_one(_TO[:-1]), f"give at most one of {', '.join(_TO)} in one element; more elements are an OR"
    )  # fmt: skip
    def one_sort_of_peer(self) -> bool:
        return self.given() <= 1

    def given(self) -> int:
        held: tuple[Any, ...] = (
            self.to_endpoints, self.to_cidr, self.to_cidr_set, self.to_entities, self.to_nodes, self.to_groups, self.to_services,
        )  # fmt: skip
        return sum(peers is not None for peers in held)


class EgressPeers(EgressDenyPeers):
    to_fqdns: Annotated[Annotated[Sequence[FqdnSelector], Field(max_length=200)] | None, Field(alias="toFQDNs")] = None

    @refused_unless(_at_most_one(_TO), f"give at most one of {', '.join(_TO)} in one element; more elements are an OR")
    def one_sort_of_peer(self) -> bool:
        return self.given() + (self.to_fqdns is not None) <= 1
