"""LabelSelector, as the policies of cilium.io and of Kubernetes have it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pilus_api.resources.model import Model, refused_unless

LabelValue = Annotated[str, Field(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")]
LabelKey = Annotated[str, Field(min_length=1, max_length=512)]


class LabelSelectorRequirement(Model):
    """In and NotIn name values, Exists and DoesNotExist none."""

    # Said in the schema and not in CEL: there may be so many of them in a policy that CEL's cost budget would be spent.
    schema_extra: ClassVar[Mapping[str, Any]] = {
        "anyOf": [
            {"properties": {"operator": {"enum": ["In", "NotIn"]}, "values": {"minItems": 1}}, "required": ["values"]},
            {"properties": {"operator": {"enum": ["Exists", "DoesNotExist"]}, "values": {"maxItems": 0}}},
        ]
    }

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: Annotated[Sequence[LabelValue], Field(max_length=200)] = ()

    @refused_unless("", "operators In and NotIn need values, Exists and DoesNotExist take none")
    def fitting(self) -> bool:
        return bool(self.values) == (self.operator in ("In", "NotIn"))


class LabelSelector(Model):
    """All of both; the empty one selects everything."""

    match_labels: Annotated[dict[LabelKey, LabelValue], Field(default_factory=dict, max_length=100)]
    match_expressions: Annotated[Sequence[LabelSelectorRequirement], Field(max_length=100)] = ()
