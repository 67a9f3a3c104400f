"""CiliumCIDRGroup: prefixes under one name, which policies refer to (`cidrGroupRef`), so that they change in one place."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from pilus_api.resources.kind import AGE, CILIUM_GROUP, Kind
from pilus_api.resources.model import Model, Resource
from pilus_api.resources.policypeers import Prefix

MAX_GROUP = 10_000  # prefixes; a policy's rows are limited anyway


class CidrGroupSpec(Model):
    external_cidrs: Annotated[Sequence[Prefix], Field(alias="externalCIDRs", max_length=MAX_GROUP)]


class CiliumCIDRGroup(Resource):
    spec: CidrGroupSpec


CILIUM_CIDR_GROUP = Kind(
    model=CiliumCIDRGroup, group=CILIUM_GROUP, version="v2alpha1", name="CiliumCIDRGroup", plural="ciliumcidrgroups",
    short_names=("ccg",), categories=("cilium",), columns=(AGE,),
)  # fmt: skip
