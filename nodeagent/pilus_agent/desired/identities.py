"""Which number a label set has, and which label set a pod has. Pure.

Two objects for one label set are legal: the lowest number wins, on every node alike.
"""

from collections.abc import Mapping

from pilus_agent.facts import Pod
from pilus_api.identities import FIRST_ALLOCATED, RESERVED, Identity, identity_labels
from pilus_api.label_filters import IdentityFilter
from pilus_api.labels import Labels


class IdentityIndex:
    """label set <-> number, reserved ones included. `fixed`: numbers that settings give to names."""

    def __init__(self, fixed: Mapping[Identity, Labels] | None = None) -> None:
        self.labels: dict[Identity, Labels] = dict(RESERVED) | dict(fixed or {})
        self._numbers: dict[Labels, set[Identity]] = {labels: {number} for number, labels in (fixed or {}).items()}

    def upsert(self, number: Identity, labels: Labels) -> None:
        """A reserved number is never given away, whatever an object says."""
        if number < FIRST_ALLOCATED or self.labels.get(number) == labels:
            return
        self.gone(number)
        self.labels[number] = labels
        self._numbers.setdefault(labels, set()).add(number)

    def relabel(self, number: Identity, labels: Labels) -> None:
        """What a reserved number stands for on this node: 1 is an API server's too, where one runs here."""
        self.labels[number] = labels

    def gone(self, number: Identity) -> None:
        if number < FIRST_ALLOCATED:
            return
        labels = self.labels.pop(number, None)
        if labels is None:
            return
        numbers = self._numbers[labels]
        numbers.discard(number)
        if not numbers:
            del self._numbers[labels]

    def number_of(self, labels: Labels) -> Identity | None:
        numbers = self._numbers.get(labels)
        return min(numbers) if numbers else None


def labels_of(
    pod: Pod, namespaces: Mapping[str, tuple[tuple[str, str], ...]], relevant: IdentityFilter, cluster: str
) -> Labels | None:
    """The label set that makes a pod's identity; None while its namespace has not been seen."""
    held = namespaces.get(pod.namespace)
    if held is None:
        return None
    return relevant(identity_labels(dict(pod.labels), pod.namespace, dict(held), pod.service_account, cluster))
