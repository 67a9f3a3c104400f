"""PilusRangeClaim: a pod range belongs to a node. Creating the object is the claim, for a name exists only once."""

from typing import Annotated

from pydantic import Field

from pilus_api.addresses import parse_prefix
from pilus_api.resources.kind import AGE, PILUS_GROUP, Column, Kind
from pilus_api.resources.model import Model, Refusal, Resource, refused_unless
from pilus_api.resources.policypeers import Prefix

CanonicalPrefix = Annotated[
    Prefix,
    Refusal(
        "string(cidr(self).masked()) == self",
        "range must be a prefix in its shortest form, without bits behind its length",
        lambda text: str(parse_prefix(text)) == text,
    ),
]


class RangeClaimSpec(Model):
    node: Annotated[str, Field(min_length=1, max_length=253)]
    range: CanonicalPrefix


def claim_name(text: str) -> str:
    """The name of a range's claim."""
    return text.replace(".", "-").replace(":", "-").replace("/", "-")


class PilusRangeClaim(Resource):
    spec: RangeClaimSpec

    @refused_unless(
        "self.metadata.name == self.spec.range.replace('.', '-').replace(':', '-').replace('/', '-')",
        "the name must be the range with '.', ':' and '/' as '-', so that a range is claimed once",
    )
    def named(self) -> bool:
        return self.metadata.name == claim_name(self.spec.range)

    @refused_unless("self.spec == oldSelf.spec", "a claim does not change; delete it and make another")
    def unchanged(self) -> bool:
        return True  # only a store knows what was there before


PILUS_RANGE_CLAIM = Kind(
    model=PilusRangeClaim, group=PILUS_GROUP, version="v1alpha1", name="PilusRangeClaim", plural="pilusrangeclaims",
    short_names=("prc",), categories=("pilus",),
    columns=(Column("Node", "string", ".spec.node"), Column("Range", "string", ".spec.range"), AGE),
)  # fmt: skip
