"""Which number a label set has, and which label set a pod has. Pure.

Two objects for one label set are legal: the lowest number wins, on every node alike.
"""

from collections.abc import Mapping

from pilus_agent.facts import Pod
from pilus_api.identities import RESERVED, Identity
from pilus_api.labels import IdentityFilter, Labels, pod_labels


class IdentityIndex:
    """label set <-> number, reserved ones included."""

    def __init__(self) -> None:
        self.labels: dict[Identity, Labels] = dict(RESERVED)
        self._numbers: dict[Labels, set[Identity]] = {}

    def upsert(self, number: Identity, labels: Labels) -> None:
        """A reserved number is never given away, whatever an object says."""
        if number in RESERVED or self.labels.get(number) == labels:
            return
        self.gone(number)
        self.labels[number] = labels
        self._numbers.setdefault(labels, set()).add(number)

    def relabel(self, number: Identity, labels: Labels) -> None:
        """What a reserved number stands for on this node: 1 is an API server's too, where one runs here."""
        self.labels[number] = labels

    def gone(self, number: Identity) -> None:
        if number in RESERVED:
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
    return relevant(pod_labels(dict(pod.labels), pod.namespace, dict(held), pod.service_account, cluster))
