"""Which number another node has on this one, by its labels. Pure.

A number comes from the label set's own hash, so that it is the same after a restart, and another set's only where two hashes
meet. Such a set takes its next one; and as long as the kernel may hold a number, it is given to no other set.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from pilus_api.identities import KUBE_APISERVER, LAST_OF_CLUSTERS, REMOTE_NODE, REMOTE_NODE_SCOPE, RESERVED, SCOPE_SHIFT, Identity
from pilus_api.label_filters import NodeFilter
from pilus_api.labels import SOURCE_NODE, Label, Labels, canonical

# How many of a set's numbers are searched for one that the kernel has.
_SEARCHED: Final = 4


def all_labels(labels: Iterable[tuple[str, str]]) -> Labels:
    """Those of a Node object."""
    return canonical(Label(SOURCE_NODE, key, value) for key, value in labels)


def node_labels(labels: Iterable[tuple[str, str]], relevant: NodeFilter) -> Labels:
    """Those of a Node object that count for its identity."""
    return relevant(all_labels(labels))


def remote_labels(labels: Labels, *, api_server: bool) -> Labels:
    """What another node is, with these labels of its own."""
    return canonical((*RESERVED[KUBE_APISERVER if api_server else REMOTE_NODE], *labels))


def _numbers(labels: Labels) -> Iterator[Identity]:
    """Those that the set may have, the first of them first."""
    text = "\n".join(map(str, labels)).encode()
    for attempt in range(1 << SCOPE_SHIFT):
        digest = hashlib.sha256(attempt.to_bytes(4, "big") + text).digest()
        if found := int.from_bytes(digest[:4], "big") & LAST_OF_CLUSTERS:
            yield Identity(REMOTE_NODE_SCOPE << SCOPE_SHIFT | found)


class NodeIdentities:
    """`labels`: every number in use, with what it means."""

    def __init__(self) -> None:
        self.labels: dict[Identity, Labels] = {}
        self._numbers: dict[Labels, Identity] = {}
        self._given_up: dict[Identity, Labels] = {}  # meant something, and the kernel may still hold it

    def __getitem__(self, labels: Labels) -> Identity:
        return self._numbers[labels]

    def __contains__(self, labels: object) -> bool:
        return labels in self._numbers

    def settle(self, wanted: Mapping[Labels, frozenset[Identity]], *, clean: bool) -> tuple[dict[Identity, Labels], set[Identity]]:
        """These label sets and no others. What is new, and which numbers mean nothing any more.

        wanted: with the numbers that the kernel has for addresses of those nodes. clean: nothing that was given up is left in it.
        """
        if clean:
            self._given_up = {}
        gone = {number for labels, number in self._numbers.items() if labels not in wanted}
        for number in gone:
            labels = self.labels.pop(number)
            del self._numbers[labels]
            self._given_up[number] = labels
        fresh = {}
        # Those first that the kernel knows already: after a restart each gets back what it had.
        for labels in sorted(wanted.keys() - self._numbers.keys(), key=lambda one: (not wanted[one], one)):
            number = self._choose(labels, wanted[labels])
            fresh[number] = self.labels[number] = labels
            self._numbers[labels] = number
            self._given_up.pop(number, None)
        return fresh, gone

    def _choose(self, labels: Labels, held: frozenset[Identity]) -> Identity:
        free: Identity | None = None
        for place, number in enumerate(_numbers(labels)):
            if number in self.labels or self._given_up.get(number, labels) != labels:
                continue
            if number in held:
                return number
            free = free or number
            if place + 1 >= _SEARCHED:
                break
        assert free is not None  # noqa: S101  # for the type: there are sixteen million
        return free
