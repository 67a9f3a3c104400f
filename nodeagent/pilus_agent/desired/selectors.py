"""Selectors answered from an index: which members (identities, endpoints) a selector means.

In: members with their label sets, one by one, in any order. Out: sets of members as integers, one bit a member. Never: what
a selector means (pilus_api.selectors says that). A member's bit is a matter of this index alone; it is reused when it is gone.

Cost: a selector asked for the first time is a few ANDs of bit sets; a member put or gone touches the labels it has, and of the
selectors only those that one of its labels may satisfy.
"""

from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from pilus_api.labels import SOURCE_ANY, SOURCE_NODE, Label, Labels
from pilus_api.selectors import POSITIVE, Operator, Requirement, Selector

Member = TypeVar("Member", bound=Hashable)

# (source, key, None): the key is there; (source, key, value): with that value. The source is the label's, and also `any`, but
# for a label of a node.
_Token = tuple[str, str, str | None]


def bits_of(numbers: int) -> Iterator[int]:
    """The numbers of the bits that are set, ascending."""
    while numbers:
        low = numbers & -numbers
        yield low.bit_length() - 1
        numbers ^= low


def _tokens(label: Label) -> Iterator[_Token]:
    for source in {label.source, SOURCE_NODE if label.source == SOURCE_NODE else SOURCE_ANY}:
        yield source, label.key, None
        yield source, label.key, label.value


def _wanted(requirement: Requirement) -> list[_Token]:
    """Tokens of which one must be there (a positive requirement) or none may be (a negative one)."""
    if requirement.operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
        return [(requirement.source, requirement.key, None)]
    return [(requirement.source, requirement.key, value) for value in requirement.values]


class SelectorIndex(Generic[Member]):
    """Label sets by member, and for every selector ever asked (and not forgotten) its members, kept up to date."""

    def __init__(self) -> None:
        self._labels: dict[Member, Labels] = {}
        self._bit: dict[Member, int] = {}
        self._member: list[Member | None] = []
        self._free: list[int] = []
        self._all = 0
        self._having: dict[_Token, int] = {}
        self._selected: dict[Selector, int] = {}
        self._anchored: dict[_Token, set[Selector]] = {}
        self._floating: set[Selector] = set()
        self._anchor: dict[Selector, list[_Token] | None] = {}

    def __len__(self) -> int:
        return len(self._labels)

    def __contains__(self, member: object) -> bool:
        return member in self._labels

    def __iter__(self) -> Iterator[Member]:
        return iter(self._labels)

    def labels(self, member: Member) -> Labels | None:
        return self._labels.get(member)

    def put(self, member: Member, labels: Labels) -> bool:
        """A member is there with these labels. False: nothing new."""
        if self._labels.get(member) == labels:
            return False
        self.remove(member)
        if self._free:
            number = self._free.pop()
            self._member[number] = member
        else:
            number = len(self._member)
            self._member.append(member)
        self._labels[member] = labels
        self._bit[member] = number
        bit = 1 << number
        self._all |= bit
        for label in labels:
            for token in _tokens(label):
                self._having[token] = self._having.get(token, 0) | bit
        for selector in self.selectors_of(member):
            self._selected[selector] |= bit
        return True

    def remove(self, member: Member) -> bool:
        """A member is gone. False: it was not there."""
        if member not in self._labels:
            return False
        number = self._bit[member]
        bit = 1 << number
        for selector in self.selectors_of(member):
            self._selected[selector] ^= bit
        for label in self._labels[member]:
            for token in _tokens(label):
                left = self._having.get(token, 0) & ~bit
                if left:
                    self._having[token] = left
                else:
                    self._having.pop(token, None)
        self._all ^= bit
        self._member[number] = None
        self._free.append(number)
        del self._labels[member], self._bit[member]
        return True

    def select(self, selector: Selector) -> int:
        """The members it selects, and from now on kept up to date until `forget`."""
        found = self._selected.get(selector)
        if found is None:
            found = self._evaluate(selector)
            self._selected[selector] = found
            self._drop_anchor(selector)
        return found

    def forget(self, selector: Selector) -> None:
        if self._selected.pop(selector, None) is None:
            return
        anchor = self._anchor.pop(selector)
        if anchor is None:
            self._floating.discard(selector)
            return
        for token in anchor:
            waiting = self._anchored[token]
            waiting.discard(selector)
            if not waiting:
                del self._anchored[token]

    def members(self, bits: int) -> list[Member]:
        """The members of a set that `select` gave, in the order of their bits."""
        found = (self._member[number] for number in bits_of(bits))
        return [member for member in found if member is not None]

    def bit(self, member: Member) -> int:
        """The set of this one alone; of nobody for one that is not there."""
        return 1 << self._bit[member] if member in self._bit else 0

    def member(self, number: int) -> Member:
        """Who has this bit. Raises LookupError when nobody has."""
        found = self._member[number]
        if found is None:
            raise LookupError(number)
        return found

    def selectors_of(self, member: Member) -> list[Selector]:
        """Of the selectors asked so far, those that select the member; [] for one that is not there."""
        labels = self._labels.get(member)
        if labels is None:
            return []
        candidates = set(self._floating)
        for label in labels:
            for token in _tokens(label):
                candidates |= self._anchored.get(token, set())
        return [selector for selector in candidates if selector.matches(labels)]

    def _evaluate(self, selector: Selector) -> int:
        found = self._all
        for requirement in selector.requirements:
            having = 0
            for token in _wanted(requirement):
                having |= self._having.get(token, 0)
            found &= having if requirement.operator in POSITIVE else ~having
        return found

    def _drop_anchor(self, selector: Selector) -> None:
        """Hang the selector under the tokens of its rarest positive requirement: who has none of them is not selected."""
        rarest: tuple[int, list[_Token]] | None = None
        for requirement in selector.requirements:
            if requirement.operator not in POSITIVE:
                continue
            tokens = _wanted(requirement)
            count = sum(self._having.get(token, 0).bit_count() for token in tokens)
            if rarest is None or count < rarest[0]:
                rarest = count, tokens
        self._anchor[selector] = None if rarest is None else rarest[1]
        if rarest is None:
            self._floating.add(selector)
            return
        for token in rarest[1]:
            self._anchored.setdefault(token, set()).add(selector)
