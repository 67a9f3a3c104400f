"""CiliumNode: a node's addresses and pod ranges, for the other nodes. Named after the node."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from pilus_api.resources.ciliumendpoint import AddressPair, Encryption
from pilus_api.resources.kind import AGE, CILIUM_GROUP, Column, Kind
from pilus_api.resources.model import Open, Resource
from pilus_api.resources.policypeers import Prefix

WIREGUARD_KEY = "network.cilium.io/wg-pub-key"


class NodeAddress(Open):
    type: Literal["Hostname", "ExternalIP", "InternalIP", "ExternalDNS", "InternalDNS", "CiliumInternalIP"] | None = None
    ip: Annotated[str | None, Field(alias="ip")] = None


class AllocatedAddress(Open):
    owner: str | None = None
    resource: str | None = None


class PoolNeeds(Open):
    ipv4_addrs: Annotated[int | None, Field(alias="ipv4-addrs")] = None
    ipv6_addrs: Annotated[int | None, Field(alias="ipv6-addrs")] = None


class RequestedPool(Open):
    pool: Annotated[str, Field(min_length=1)]
    needed: PoolNeeds | None = None


class AllocatedPool(Open):
    pool: Annotated[str, Field(min_length=1)]
    cidrs: Sequence[Prefix] | None = None


class Pools(Open):
    requested: Sequence[RequestedPool] | None = None
    allocated: Sequence[AllocatedPool] | None = None


class NodeIpam(Open):
    """Order of `podCIDRs`: first of IPv4, first of IPv6, further ones of IPv4, of IPv6."""

    pod_cidrs: Annotated[Sequence[Prefix] | None, Field(alias="podCIDRs")] = None
    pool: dict[str, AllocatedAddress] | None = None
    ipv6_pool: Annotated[dict[str, AllocatedAddress] | None, Field(alias="ipv6-pool")] = None
    pools: Pools | None = None


class NodeSpec(Open):
    addresses: Sequence[NodeAddress] | None = None
    health: AddressPair | None = None
    ingress: AddressPair | None = None
    encryption: Encryption | None = None
    nodeidentity: int | None = None
    bootid: str | None = None
    instance_id: Annotated[str | None, Field(alias="instance-id")] = None
    ipam: NodeIpam | None = None


class OperatorStatus(Open):
    error: str | None = None


class PodCidrStatus(Open):
    status: Literal["released", "depleted", "in-use"] | None = None


class NodeIpamStatus(Open):
    used: dict[str, AllocatedAddress] | None = None
    ipv6_used: Annotated[dict[str, AllocatedAddress] | None, Field(alias="ipv6-used")] = None
    pod_cidrs: Annotated[dict[str, PodCidrStatus] | None, Field(alias="pod-cidrs")] = None
    operator_status: Annotated[OperatorStatus | None, Field(alias="operator-status")] = None


class NodeStatus(Open):
    ipam: NodeIpamStatus | None = None


class CiliumNode(Resource):
    spec: NodeSpec
    status: NodeStatus | None = None


CILIUM_NODE = Kind(
    model=CiliumNode, group=CILIUM_GROUP, version="v2", name="CiliumNode", plural="ciliumnodes",
    short_names=("cn", "ciliumn"), status=True, categories=("cilium",),
    columns=(
        Column("CiliumInternalIP", "string", '.spec.addresses[?(@.type=="CiliumInternalIP")].ip'),
        Column("InternalIP", "string", '.spec.addresses[?(@.type=="InternalIP")].ip'),
        AGE,
    ),
)  # fmt: skip
