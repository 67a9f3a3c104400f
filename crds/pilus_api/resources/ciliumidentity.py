"""CiliumIdentity: a label set and its number, the same on every node. The name is the number."""

from typing import Annotated

from pydantic import Field

from pilus_api.resources.kind import AGE, CILIUM_GROUP, Column, Kind
from pilus_api.resources.model import Resource


class CiliumIdentity(Resource):
    # `source:key` to value, at the object's top level.
    security_labels: Annotated[dict[str, str], Field(alias="security-labels")]


CILIUM_IDENTITY = Kind(
    model=CiliumIdentity, group=CILIUM_GROUP, version="v2", name="CiliumIdentity", plural="ciliumidentities",
    short_names=("ciliumid",), status=True, categories=("cilium",),
    columns=(Column("Namespace", "string", r".metadata.labels.io\.kubernetes\.pod\.namespace"), AGE),
)  # fmt: skip
