"""Labels: who a pod is, apart from where it runs.

In: pods and namespaces as the API server has them. Out: label sets, canonical and hashable. Never: numbers (identities.py).
A label has a source (`k8s`, `reserved`, `cidr`, ...), a key and a value; its text form is `source:key=value`.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pilus_api.errors import InvalidError

SOURCE_KUBERNETES = "k8s"
SOURCE_RESERVED = "reserved"
SOURCE_NODE = "node"  # a Node object's labels
SOURCE_ANY = "any"  # each of the others but `node`: whoever labels a node can't make it one of the pods that a policy means

NAMESPACE_KEY = "io.kubernetes.pod.namespace"
NAMESPACE_LABELS_KEY = "io.cilium.k8s.namespace.labels"
SERVICE_ACCOUNT_KEY = "io.cilium.k8s.policy.serviceaccount"
CLUSTER_KEY = "io.cilium.k8s.policy.cluster"

# Keys under this prefix are derived, so a pod that carries one is not believed.
DERIVED_PREFIX = "io.cilium.k8s"


class Label(NamedTuple):
    """One label. Sorts by source, key, value."""

    source: str
    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.source}:{self.key}={self.value}" if self.value else f"{self.source}:{self.key}"


# Sorted, and at most one label for each (source, key).
Labels = tuple[Label, ...]


def canonical(labels: Iterable[Label]) -> Labels:
    """The label set in its only form: sorted; of two labels with one source and key the last given holds."""
    return tuple(sorted({(label.source, label.key): label for label in labels}.values()))


def parse_label(text: str) -> Label:
    """`source:key=value`, `source:key`, `key=value` (source `any`), `reserved.x` and `$x`. Raises InvalidError without a key."""
    if text.startswith("$") and text != "$":
        return Label(SOURCE_RESERVED, text[1:], "")
    name, _, value = text.partition("=")
    source, colon, key = name.partition(":")
    if not colon:
        source, key = SOURCE_ANY, name
        if name.startswith("reserved."):
            source, key = SOURCE_RESERVED, name.removeprefix("reserved.")
    if key in ("", "$"):
        raise InvalidError(f"a label needs a key: {text!r}")
    return Label(source, key, value)


def reserved_labels(*names: str) -> Labels:
    return canonical(Label(SOURCE_RESERVED, name, "") for name in names)


def from_security_labels(labels: Mapping[str, str]) -> Labels:
    """The map of CiliumIdentity's `security-labels`, `source:key` to value. Raises InvalidError without a key.

    A key is what stands behind the first colon, whatever it is: taken for `key=value`, one that ends with `=` would be another's.
    """
    return canonical(_security_label(name, value) for name, value in labels.items())


def _security_label(name: str, value: str) -> Label:
    source, colon, key = name.partition(":")
    if not colon:
        return parse_label(name)._replace(value=value)
    if not key:
        raise InvalidError(f"a label needs a key: {name!r}")
    return Label(source, key, value)


def security_labels(labels: Labels) -> dict[str, str]:
    """The inverse: what a CiliumIdentity carries."""
    return {f"{label.source}:{label.key}": label.value for label in labels}


def pod_labels(
    labels: Mapping[str, str], namespace: str, namespace_labels: Mapping[str, str], service_account: str, cluster: str
) -> Labels:
    """Every label of a pod, derived ones included, before the filter (seams: pod to labels)."""
    found = [Label(SOURCE_KUBERNETES, key, value) for key, value in labels.items() if not key.startswith(DERIVED_PREFIX)]
    found += [Label(SOURCE_KUBERNETES, f"{NAMESPACE_LABELS_KEY}.{key}", value) for key, value in namespace_labels.items()]
    found.append(Label(SOURCE_KUBERNETES, NAMESPACE_KEY, namespace))
    found.append(Label(SOURCE_KUBERNETES, CLUSTER_KEY, cluster))
    if service_account:
        found.append(Label(SOURCE_KUBERNETES, SERVICE_ACCOUNT_KEY, service_account))
    return canonical(found)
