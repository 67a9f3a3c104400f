"""The Kubernetes NetworkPolicy, for sources that no API server has checked. It has no CustomResourceDefinition of ours.

What is refused is what Kubernetes refuses (pkg/apis/networking/validation).
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from pilus_api.addresses import parse_prefix
from pilus_api.resources.labelselector import KubernetesLabelSelector
from pilus_api.resources.model import Model, Resource, refused_unless
from pilus_api.resources.policypeers import Prefix, within

PortName = Annotated[str, Field(min_length=1, max_length=15, pattern="^([a-z0-9]-?)*[a-z](-?[a-z0-9])*$")]
PortNumber = Annotated[int, Field(ge=1, le=65535)]


class IpBlock(Model):
    cidr: Prefix
    except_: Annotated[Sequence[Prefix], Field(alias="except")] = ()

    @refused_unless("", "each except must lie inside cidr, and be a part of it only")
    def contained(self) -> bool:
        prefix, parts = parse_prefix(self.cidr), [parse_prefix(excepted) for excepted in self.except_]
        return all(within(prefix, part) and part.prefixlen > prefix.prefixlen for part in parts)


class Peer(Model):
    pod_selector: KubernetesLabelSelector | None = None
    namespace_selector: KubernetesLabelSelector | None = None
    ip_block: Annotated[IpBlock | None, Field(alias="ipBlock")] = None

    @refused_unless("", "a peer is an ipBlock, or a podSelector, a namespaceSelector or both")
    def one_sort(self) -> bool:
        by_label = self.pod_selector is not None or self.namespace_selector is not None
        return by_label != (self.ip_block is not None)


class Port(Model):
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    port: PortNumber | PortName | None = None
    end_port: PortNumber | None = None

    @refused_unless("", "endPort needs a numbered port that is not larger")
    def ordered(self) -> bool:
        return self.end_port is None or (isinstance(self.port, int) and self.port <= self.end_port)


class IngressRule(Model):
    from_: Annotated[Sequence[Peer], Field(alias="from")] = ()
    ports: Sequence[Port] = ()


class EgressRule(Model):
    to: Sequence[Peer] = ()
    ports: Sequence[Port] = ()


class NetworkPolicySpec(Model):
    pod_selector: KubernetesLabelSelector = KubernetesLabelSelector()
    ingress: Sequence[IngressRule] = ()
    egress: Sequence[EgressRule] = ()
    policy_types: Annotated[Sequence[Literal["Ingress", "Egress"]], Field(max_length=2)] = ()


class NetworkPolicy(Resource):
    spec: NetworkPolicySpec = NetworkPolicySpec()
