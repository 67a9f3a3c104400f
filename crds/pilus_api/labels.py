"""Labels: who a pod is, apart from where it runs.

In: pods and namespaces as the API server has them. Out: label sets, canonical and hashable. Never: numbers (identities.py).
A label has a source (`k8s`, `reserved`, `cidr`, ...), a key and a value; its text form is `source:key=value`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
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


DEFAULT_INCLUDED = (
    "reserved:.*", r"io\.kubernetes\.pod\.namespace", r"io\.cilium\.k8s\.namespace\.labels", r"app\.kubernetes\.io",
    r"io\.cilium\.k8s\.policy\.cluster",
)  # fmt: skip
DEFAULT_IGNORED = (
    r"io\.kubernetes", r"kubernetes\.io", r"statefulset\.kubernetes\.io/pod-name", r"apps\.kubernetes\.io/pod-index",
    r"batch\.kubernetes\.io/job-completion-index", r"batch\.kubernetes\.io/controller-uid", r".*beta\.kubernetes\.io", r"k8s\.io",
    "pod-template-generation", "pod-template-hash", "controller-revision-hash", "controller-uid", "annotation.*", "etcd_node",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LabelPrefix:
    """An entry of the filter: labels of a source whose keys begin so count, or (`ignore`) don't."""

    source: str  # "" matches every source
    key: re.Pattern[str]
    ignore: bool

    def matched(self, label: Label) -> int:
        """How many characters of the label's key the entry matches; -1: none."""
        if self.source and self.source != label.source:
            return -1
        match = self.key.match(label.key)
        return match.end() if match else -1


def label_prefix(source: str, pattern: str, setting: str, *, ignore: bool) -> LabelPrefix:
    """Raises InvalidError, for `setting`, if `pattern` is no regular expression."""
    try:
        return LabelPrefix("" if source == SOURCE_ANY else source, re.compile(pattern), ignore)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidError(f"{pattern!r} is not a regular expression: {error}", setting) from error


def _entry(text: str, setting: str, *, ignore: bool = False) -> LabelPrefix:
    """`source:regex` or `regex`; a `!` before the regex makes it an ignored one. Raises InvalidError."""
    source, colon, pattern = text.partition(":")
    if not colon:
        source, pattern = "", text
    return label_prefix(source, pattern.removeprefix("!"), setting, ignore=ignore or pattern.startswith("!"))


class IdentityFilter:
    """Decides which labels make an identity. The longest matching include against the shortest matching ignore.

    `extra` is the option `labels`: entries `source:regex`. `base` stands in place of the entries that are built in. One
    include of either turns the filter into an allow list.
    """

    setting = "labels"
    included: tuple[str, ...] = DEFAULT_INCLUDED
    ignored: tuple[str, ...] = DEFAULT_IGNORED

    def __init__(self, extra: Iterable[str] = (), base: Iterable[LabelPrefix] | None = None) -> None:
        user = [*(base or ()), *(_entry(text, self.setting) for text in extra)]
        entries = [*(self._built_in() if base is None else ()), *user]
        self._included = [entry for entry in entries if not entry.ignore]
        self._ignored = [entry for entry in entries if entry.ignore]
        self._listed_only = any(not entry.ignore for entry in user)

    def _built_in(self) -> Iterator[LabelPrefix]:
        yield from (_entry(text, self.setting) for text in self.included)
        yield from (_entry(text, self.setting, ignore=True) for text in self.ignored)

    def relevant(self, label: Label) -> bool:
        included = max((entry.matched(label) for entry in self._included), default=-1)
        ignored = min((length for entry in self._ignored if (length := entry.matched(label)) >= 0), default=0)
        if included > ignored:
            return True
        return not self._listed_only and ignored == 0 and included <= 0

    def __call__(self, labels: Labels) -> Labels:
        return tuple(label for label in labels if self.relevant(label))


class NodeFilter(IdentityFilter):
    """The same for a node's labels, with the option `node-labels`; without it every label counts."""

    setting = "node-labels"
    included = ()
    ignored = ()
