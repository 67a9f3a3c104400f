"""CiliumEndpointSlice: up to 100 endpoints of one namespace, for the agents of other nodes."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from pilus_api.resources.ciliumendpoint import Encryption, NamedPort, Networking
from pilus_api.resources.kind import CILIUM_GROUP, Kind
from pilus_api.resources.model import Open, Resource


class CoreEndpoint(Open):
    """`id` is the identity; the name is the pod's."""

    name: str | None = None
    id: int | None = None
    networking: Networking | None = None
    encryption: Encryption | None = None
    named_ports: Annotated[Sequence[NamedPort] | None, Field(alias="named-ports")] = None


class CiliumEndpointSlice(Resource):
    namespace: str | None = None
    endpoints: Sequence[CoreEndpoint]


CILIUM_ENDPOINT_SLICE = Kind(
    model=CiliumEndpointSlice, group=CILIUM_GROUP, version="v2alpha1", name="CiliumEndpointSlice",
    plural="ciliumendpointslices", short_names=("ces",), categories=("cilium",),
)  # fmt: skip
