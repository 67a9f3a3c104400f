"""LabelSelector, as the policies of cilium.io and of Kubernetes have it."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from pilus_api.resources.model import Model, refused_unless

LabelValue = Annotated[str, Field(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")]
# Ends with a name, as every key of Kubernetes does, so a source alone is none; what follows a `=` would not count as a part of it.
_NAMED: Final = "^[^=]*[A-Za-z0-9]$"
LabelKey = Annotated[str, Field(max_length=512, pattern=_NAMED)]
# Keys of a map have no pattern in a CustomResourceDefinition, and to look at each in CEL costs more than its budget. So the API
# server refuses these alone; the others are refused by whoever reads the policy.
_NAMELESS: Final = ("", "$", ":", "any:", "k8s:", "node:", "reserved:", "reserved.")


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

    schema_extra: ClassVar[Mapping[str, Any]] = {
        "not": {"properties": {"matchLabels": {"anyOf": [{"required": [key]} for key in _NAMELESS]}}, "required": ["matchLabels"]}
    }

    match_labels: Annotated[dict[Annotated[str, Field(max_length=512)], LabelValue], Field(default_factory=dict, max_length=100)]
    match_expressions: Annotated[Sequence[LabelSelectorRequirement], Field(max_length=100)] = ()

    @refused_unless("", "a label needs a key: a name, behind its source if it has one, and without `=`")
    def named(self) -> bool:
        return all(re.fullmatch(_NAMED, key) for key in self.match_labels)
