"""CiliumEndpoint: a pod as its node's agent sees it. Named after the pod; all of it is status."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from pilus_api.resources.kind import CILIUM_GROUP, Column, Kind
from pilus_api.resources.model import Open, Resource

State = Literal[
    "creating", "waiting-for-identity", "not-ready", "waiting-to-regenerate", "regenerating", "restoring", "ready",
    "disconnecting", "disconnected", "invalid",
]  # fmt: skip


class AddressPair(Open):
    ipv4: Annotated[str | None, Field(alias="ipv4")] = None
    ipv6: Annotated[str | None, Field(alias="ipv6")] = None


class Networking(Open):
    """`node`: the address that packets to the pod are tunnelled to."""

    addressing: Sequence[AddressPair]
    node: str | None = None


class NamedPort(Open):
    name: str | None = None
    port: int | None = None
    protocol: str | None = None


class Encryption(Open):
    key: int | None = None


class EndpointIdentity(Open):
    id: int | None = None
    labels: Sequence[str] | None = None


class ExternalIdentifiers(Open):
    cni_attachment_id: Annotated[str | None, Field(alias="cni-attachment-id")] = None
    container_id: Annotated[str | None, Field(alias="container-id")] = None
    container_name: Annotated[str | None, Field(alias="container-name")] = None
    k8s_namespace: Annotated[str | None, Field(alias="k8s-namespace")] = None
    k8s_pod_name: Annotated[str | None, Field(alias="k8s-pod-name")] = None
    pod_name: Annotated[str | None, Field(alias="pod-name")] = None


class AllowedIdentity(Open):
    identity: int | None = None
    identity_labels: Annotated[dict[str, str] | None, Field(alias="identity-labels")] = None
    dest_port: Annotated[int | None, Field(alias="dest-port")] = None
    protocol: int | None = None


class DirectionState(Open):
    enforcing: bool
    state: str | None = None
    allowed: Sequence[AllowedIdentity] | None = None
    denied: Sequence[AllowedIdentity] | None = None
    adding: Sequence[AllowedIdentity] | None = None
    removing: Sequence[AllowedIdentity] | None = None


class EndpointPolicy(Open):
    ingress: DirectionState | None = None
    egress: DirectionState | None = None


class EndpointStatus(Open):
    id: int | None = None
    state: State | None = None
    identity: EndpointIdentity | None = None
    networking: Networking | None = None
    named_ports: Annotated[Sequence[NamedPort] | None, Field(alias="named-ports")] = None
    encryption: Encryption | None = None
    external_identifiers: Annotated[ExternalIdentifiers | None, Field(alias="external-identifiers")] = None
    policy: EndpointPolicy | None = None
    visibility_policy_status: Annotated[str | None, Field(alias="visibility-policy-status")] = None


class CiliumEndpoint(Resource):
    status: EndpointStatus | None = None


CILIUM_ENDPOINT = Kind(
    model=CiliumEndpoint, group=CILIUM_GROUP, version="v2", name="CiliumEndpoint", plural="ciliumendpoints",
    short_names=("cep", "ciliumep"), namespaced=True, categories=("cilium",),
    columns=(
        Column("Security Identity", "integer", ".status.identity.id"),
        Column("Ingress Enforcement", "string", ".status.policy.ingress.state", 1),
        Column("Egress Enforcement", "string", ".status.policy.egress.state", 1),
        Column("Visibility Policy", "string", ".status.visibility-policy-status", 1),
        Column("Endpoint State", "string", ".status.state"),
        Column("IPv4", "string", ".status.networking.addressing[0].ipv4"),
        Column("IPv6", "string", ".status.networking.addressing[0].ipv6"),
    ),
)  # fmt: skip
