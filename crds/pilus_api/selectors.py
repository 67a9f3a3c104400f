"""Selectors: which label sets are meant.

A selector is a conjunction of requirements; the empty one selects everything. A key without a source, or with `any`, is
looked up in every source but `node`.
"""

from collections.abc import Container
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pilus_api.labels import SOURCE_ANY, SOURCE_NODE, Labels


class Operator(StrEnum):
    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


# What is met by a label that is there; the others are met without one as well.
POSITIVE: Final = (Operator.IN, Operator.EXISTS)


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """`source` `any` means every source but `node`. `values` is sorted, and empty for the two operators of existence."""

    source: str
    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def means(self, source: str) -> bool:
        """Whether labels of this source are looked at."""
        return self.source == source or (self.source == SOURCE_ANY and source != SOURCE_NODE)

    def matches(self, labels: Labels) -> bool:
        values = [label.value for label in labels if label.key == self.key and self.means(label.source)]
        if self.operator is Operator.EXISTS:
            return bool(values)
        if self.operator is Operator.DOES_NOT_EXIST:
            return not values
        found = any(value in self.values for value in values)
        return found if self.operator is Operator.IN else not found


@dataclass(frozen=True, slots=True, order=True)
class Selector:
    """All of `requirements`, sorted and without doubles (see `selector`)."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)

    def names(self, source: str, keys: Container[str]) -> bool:
        """Whether it wants a label of this source with one of these keys."""
        return any(each.source == source and each.key in keys and each.operator in POSITIVE for each in self.requirements)

    def and_(self, other: "Selector") -> "Selector":
        return selector(*self.requirements, *other.requirements)


EVERYTHING = Selector()


def selector(*requirements: Requirement) -> Selector:
    return Selector(tuple(sorted(set(requirements))))


def equals(source: str, key: str, value: str) -> Requirement:
    return Requirement(source, key, Operator.IN, (value,))


def exists(source: str, key: str) -> Requirement:
    return Requirement(source, key, Operator.EXISTS)
