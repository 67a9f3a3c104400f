"""LabelSelector, as the policies of cilium.io and of cluster administrators have it, and as Kubernetes' own have it: stricter.

What Kubernetes takes for a name, a label's key and a label's value is said here too. Source: the Go module k8s.io/apimachinery,
pkg/util/validation.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pilus_api.resources.model import Model, refused_unless

_DNS_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NAME: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"


def dns_label(text: str) -> bool:
    """Of RFC 1123, in lower case: such as the name of a namespace."""
    return len(text) <= 63 and re.fullmatch(_DNS_LABEL, text) is not None


def dns_subdomain(text: str) -> bool:
    """Labels with dots between them, each as long as it likes: such as the name of a policy."""
    return len(text) <= 253 and re.fullmatch(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*", text) is not None


def label_value(text: str) -> bool:
    return len(text) <= 63 and re.fullmatch(f"({_NAME})?", text) is not None


def qualified(text: str) -> bool:
    """A label's key: a name, behind a DNS name and a `/` if it has one."""
    prefix, slash, name = text.rpartition("/")
    return len(name) <= 63 and re.fullmatch(_NAME, name) is not None and (not slash or dns_subdomain(prefix))


LabelValue = Annotated[str, Field(max_length=63, pattern=f"^({_NAME})?$")]
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


def _qualified(text: str) -> str:
    if not qualified(text):
        raise ValueError(
            f"{text!r:.100} is no label's key: that is a name of up to 63 letters, digits, `-`, `_` and `.`, behind a DNS name"
            " and `/` if it has one"
        )
    return text


def _text(value: object) -> object:
    """As Go decodes a null."""
    return "" if value is None else value


QualifiedName = Annotated[str, AfterValidator(_qualified)]


class KubernetesRequirement(LabelSelectorRequirement):
    key: QualifiedName


class KubernetesLabelSelector(LabelSelector):
    """Of Kubernetes' own kinds, whose keys have no sources."""

    match_labels: Annotated[
        dict[QualifiedName, Annotated[LabelValue, BeforeValidator(_text)]], Field(default_factory=dict, max_length=100)
    ]
    match_expressions: Annotated[Sequence[KubernetesRequirement], Field(max_length=100)] = ()
