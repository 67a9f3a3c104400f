"""The policies of cluster administrators: AdminNetworkPolicy, BaselineAdminNetworkPolicy and ClusterNetworkPolicy.

Fields and limits as in the Go module sigs.k8s.io/network-policy-api v0.3.0: apis/v1alpha1 (the first two) and apis/v1beta1. A peer
or a port in which nothing is set is accepted: it came from a newer definition whose field was pruned, and the rule fails closed.
"""

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pilus_api.addresses import parse_prefix
from pilus_api.resources.kind import AGE, NETWORK_POLICY_GROUP, Column, Kind
from pilus_api.resources.labelselector import LabelSelector
from pilus_api.resources.model import Model, Open, Refusal, Resource, refused_unless
from pilus_api.resources.networkpolicy import PortNumber
from pilus_api.resources.policypeers import Prefix

MOST_RULES = 100  # in each direction; of ClusterNetworkPolicy 25
MOST_CLUSTER_RULES = 25

Name = Annotated[str, Field(max_length=100)]
Protocol = Literal["TCP", "UDP", "SCTP"]
_DNS_LABEL = "[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?"
DomainName = Annotated[str, Field(max_length=255, pattern=rf"^(\*\.)?({_DNS_LABEL}\.)+{_DNS_LABEL}\.?$")]


def _masked(text: str) -> bool:
    return parse_prefix(text).network_address == ip_address(text.partition("/")[0])


MaskedPrefix = Annotated[Prefix, Refusal("cidr(self) == cidr(self).masked()", "a network has no bits behind its prefix", _masked)]


class NamespacedPod(Model):
    namespace_selector: LabelSelector
    pod_selector: LabelSelector


class ClusterNamespacedPod(NamespacedPod):
    """Of v1beta1, where no namespaceSelector is every namespace."""

    namespace_selector: LabelSelector = LabelSelector()


class Subject(Model):
    """Pods: those of the selected namespaces, or the selected ones in them."""

    schema_extra: ClassVar[dict[str, Any]] = {"minProperties": 1, "maxProperties": 1}

    namespaces: LabelSelector | None = None
    pods: NamespacedPod | None = None

    @refused_unless("", "a subject is either namespaces or pods")
    def one(self) -> bool:
        return (self.namespaces is None) != (self.pods is None)


class IngressPeer(Model):
    schema_extra: ClassVar[dict[str, Any]] = {"maxProperties": 1}

    namespaces: LabelSelector | None = None
    pods: NamespacedPod | None = None

    def given(self) -> int:
        return sum(getattr(self, name) is not None for name in type(self).model_fields)

    @refused_unless("", "a peer is of one sort")
    def at_most_one(self) -> bool:
        return self.given() <= 1


class BaselineEgressPeer(IngressPeer):
    nodes: LabelSelector | None = None
    networks: Annotated[Sequence[MaskedPrefix], Field(min_length=1, max_length=25)] | None = None


class EgressPeer(BaselineEgressPeer):
    domain_names: Annotated[Sequence[DomainName], Field(min_length=1, max_length=25)] | None = None


class Port(Model):
    protocol: Protocol = "TCP"
    port: PortNumber


class PortRange(Model):
    protocol: Protocol = "TCP"
    start: PortNumber
    end: PortNumber

    @refused_unless("self.start < self.end", "start must be less than end")
    def ordered(self) -> bool:
        return self.start < self.end


class AdminPort(Model):
    schema_extra: ClassVar[dict[str, Any]] = {"maxProperties": 1}

    port_number: Port | None = None
    named_port: Annotated[str, Field(min_length=1, max_length=63)] | None = None
    port_range: PortRange | None = None

    @refused_unless("", "a port is a number, a name or a range")
    def at_most_one(self) -> bool:
        return sum(held is not None for held in (self.port_number, self.named_port, self.port_range)) <= 1


Ports = Annotated[Sequence[AdminPort], Field(max_length=100)]


class IngressRule(Model):
    name: Name = ""
    action: Literal["Allow", "Deny", "Pass"]
    from_: Annotated[Sequence[IngressPeer], Field(alias="from", min_length=1, max_length=100)]
    ports: Ports | None = None


class EgressRule(Model):
    name: Name = ""
    action: Literal["Allow", "Deny", "Pass"]
    to: Annotated[Sequence[EgressPeer], Field(min_length=1, max_length=100)]
    ports: Ports | None = None

    @refused_unless("self.action == 'Allow' || !self.to.exists(p, has(p.domainNames))", "domainNames are for rules that allow")
    def names_allow(self) -> bool:
        return self.action == "Allow" or all(peer.domain_names is None for peer in self.to)


class AdminNetworkPolicySpec(Model):
    priority: Annotated[int, Field(ge=0, le=1000)]
    subject: Subject
    ingress: Annotated[Sequence[IngressRule], Field(max_length=MOST_RULES)] = ()
    egress: Annotated[Sequence[EgressRule], Field(max_length=MOST_RULES)] = ()


class AdminNetworkPolicy(Resource):
    spec: AdminNetworkPolicySpec
    status: Open | None = None


class BaselineIngressRule(Model):
    name: Name = ""
    action: Literal["Allow", "Deny"]
    from_: Annotated[Sequence[IngressPeer], Field(alias="from", min_length=1, max_length=100)]
    ports: Ports | None = None


class BaselineEgressRule(Model):
    name: Name = ""
    action: Literal["Allow", "Deny"]
    to: Annotated[Sequence[BaselineEgressPeer], Field(min_length=1, max_length=100)]
    ports: Ports | None = None


class BaselineAdminNetworkPolicySpec(Model):
    subject: Subject
    ingress: Annotated[Sequence[BaselineIngressRule], Field(max_length=MOST_RULES)] = ()
    egress: Annotated[Sequence[BaselineEgressRule], Field(max_length=MOST_RULES)] = ()


class BaselineAdminNetworkPolicy(Resource):
    """There is one."""

    spec: BaselineAdminNetworkPolicySpec
    status: Open | None = None

    @refused_unless("self.metadata.name == 'default'", "the one baseline of a cluster is named default")
    def one(self) -> bool:
        return self.metadata.name == "default"


class ClusterSubject(Subject):
    pods: ClusterNamespacedPod | None = None


class ClusterIngressPeer(IngressPeer):
    pods: ClusterNamespacedPod | None = None


class ClusterEgressPeer(EgressPeer):
    pods: ClusterNamespacedPod | None = None


class DestinationRange(Model):
    start: PortNumber
    end: PortNumber

    @refused_unless("self.start < self.end", "start must be less than end")
    def ordered(self) -> bool:
        return self.start < self.end


class DestinationPort(Model):
    schema_extra: ClassVar[dict[str, Any]] = {"maxProperties": 1}

    number: PortNumber | None = None
    range: DestinationRange | None = None

    @refused_unless("", "a port is a number or a range")
    def at_most_one(self) -> bool:
        return self.number is None or self.range is None


class Transport(Model):
    destination_port: DestinationPort | None = None


class ClusterProtocol(Model):
    schema_extra: ClassVar[dict[str, Any]] = {"maxProperties": 1}

    tcp: Transport | None = None
    udp: Transport | None = None
    sctp: Transport | None = None
    destination_named_port: Annotated[str, Field(min_length=1, max_length=63)] | None = None

    @refused_unless("", "an entry is of one protocol, or a name")
    def at_most_one(self) -> bool:
        return sum(held is not None for held in (self.tcp, self.udp, self.sctp, self.destination_named_port)) <= 1


Protocols = Annotated[Sequence[ClusterProtocol], Field(min_length=1, max_length=25)]


class ClusterIngressRule(Model):
    name: Name = ""
    action: Literal["Accept", "Deny", "Pass"]
    from_: Annotated[Sequence[ClusterIngressPeer], Field(alias="from", min_length=1, max_length=25)]
    protocols: Protocols | None = None


class ClusterEgressRule(Model):
    name: Name = ""
    action: Literal["Accept", "Deny", "Pass"]
    to: Annotated[Sequence[ClusterEgressPeer], Field(min_length=1, max_length=25)]
    protocols: Protocols | None = None

    @refused_unless("self.action == 'Accept' || !self.to.exists(p, has(p.domainNames))", "domainNames are for rules that accept")
    def names_accept(self) -> bool:
        return self.action == "Accept" or all(peer.domain_names is None for peer in self.to)


class ClusterNetworkPolicySpec(Model):
    tier: Literal["Admin", "Baseline"]
    priority: Annotated[int, Field(ge=0, le=1000)]
    subject: ClusterSubject
    ingress: Annotated[Sequence[ClusterIngressRule], Field(max_length=MOST_CLUSTER_RULES)] = ()
    egress: Annotated[Sequence[ClusterEgressRule], Field(max_length=MOST_CLUSTER_RULES)] = ()


class ClusterNetworkPolicy(Resource):
    spec: ClusterNetworkPolicySpec
    status: Open | None = None


_PRIORITY = Column("Priority", "string", ".spec.priority")

ADMIN_NETWORK_POLICY = Kind(
    model=AdminNetworkPolicy, group=NETWORK_POLICY_GROUP, version="v1alpha1", name="AdminNetworkPolicy",
    plural="adminnetworkpolicies", short_names=("anp",), status=True, columns=(_PRIORITY, AGE),
)  # fmt: skip
BASELINE_ADMIN_NETWORK_POLICY = Kind(
    model=BaselineAdminNetworkPolicy, group=NETWORK_POLICY_GROUP, version="v1alpha1", name="BaselineAdminNetworkPolicy",
    plural="baselineadminnetworkpolicies", short_names=("banp",), status=True, columns=(AGE,),
)  # fmt: skip
# Upstream's short name, cnp, is CiliumNetworkPolicy's here.
CLUSTER_NETWORK_POLICY = Kind(
    model=ClusterNetworkPolicy, group=NETWORK_POLICY_GROUP, version="v1beta1", name="ClusterNetworkPolicy",
    plural="clusternetworkpolicies", status=True, columns=(Column("Tier", "string", ".spec.tier"), _PRIORITY, AGE),
)  # fmt: skip
