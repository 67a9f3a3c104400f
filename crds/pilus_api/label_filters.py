"""Which labels count: what is left of a pod's (or a node's) is its identity.

In: label sets, and entries as users have them. Out: smaller label sets. Raises InvalidError for what is no entry.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from pilus_api.expressions import Expression
from pilus_api.labels import SOURCE_ANY, Label, Labels

DEFAULT_INCLUDED = (
    "reserved:.*", r"io\.kubernetes\.pod\.namespace", r"io\.cilium\.k8s\.namespace\.labels", r"app\.kubernetes\.io",
    r"io\.cilium\.k8s\.policy\.cluster",
)  # fmt: skip
DEFAULT_IGNORED = (
    r"io\.kubernetes", r"kubernetes\.io", r"statefulset\.kubernetes\.io/pod-name", r"apps\.kubernetes\.io/pod-index",
    r"batch\.kubernetes\.io/job-completion-index", r"batch\.kubernetes\.io/controller-uid", r".*beta\.kubernetes\.io", r"k8s\.io",
    "pod-template-generation", "pod-template-hash", "controller-revision-hash", "controller-uid", "annotation.*", "etcd_node",
)  # fmt: skip


class _Matcher(Protocol):
    def matched(self, text: str) -> int: ...


@dataclass(frozen=True, slots=True)
class LabelPrefix:
    """An entry of the filter: labels of a source whose keys begin so count, or (`ignore`) don't."""

    source: str  # "" matches every source
    key: _Matcher
    ignore: bool

    def matched(self, label: Label) -> int:
        """How much of the label's key, which is ASCII, the entry matches; -1: none."""
        if self.source and self.source != label.source:
            return -1
        return self.key.matched(label.key)


class _BuiltIn:
    """One of our own: these are simple, and Python's matcher takes a tenth of the time."""

    def __init__(self, pattern: str) -> None:
        self._compiled = re.compile(pattern)

    def matched(self, text: str) -> int:
        found = self._compiled.match(text)
        return found.end() if found else -1


def label_prefix(source: str, pattern: str, setting: str, *, ignore: bool) -> LabelPrefix:
    """Raises InvalidError, for `setting`, if `pattern` is no regular expression."""
    return LabelPrefix("" if source == SOURCE_ANY else source, Expression(pattern, setting), ignore)


def _entry(text: str) -> tuple[str, str]:
    """Source and regex of `source:regex` or `regex`."""
    source, colon, pattern = text.partition(":")
    return (source, pattern) if colon else ("", text)


def _built_in(text: str, *, ignore: bool) -> LabelPrefix:
    source, pattern = _entry(text)
    return LabelPrefix(source, _BuiltIn(pattern), ignore)


def _users(text: str, setting: str) -> LabelPrefix:
    """A `!` before the regex makes it an ignored one. Raises InvalidError."""
    source, pattern = _entry(text)
    return label_prefix(source, pattern.removeprefix("!"), setting, ignore=pattern.startswith("!"))


class IdentityFilter:
    """Decides which labels make an identity. The longest matching include against the shortest matching ignore.

    `extra` is the option `labels`: entries `source:regex`. `base` stands in place of the entries that are built in. One
    include of either turns the filter into an allow list.
    """

    setting = "labels"
    included: tuple[str, ...] = DEFAULT_INCLUDED
    ignored: tuple[str, ...] = DEFAULT_IGNORED

    def __init__(self, extra: Iterable[str] = (), base: Iterable[LabelPrefix] | None = None) -> None:
        user = [*(base or ()), *(_users(text, self.setting) for text in extra)]
        entries = [*(self._built_in() if base is None else ()), *user]
        self._included = [entry for entry in entries if not entry.ignore]
        self._ignored = [entry for entry in entries if entry.ignore]
        self._listed_only = any(not entry.ignore for entry in user)

    def _built_in(self) -> Iterator[LabelPrefix]:
        yield from (_built_in(text, ignore=False) for text in self.included)
        yield from (_built_in(text, ignore=True) for text in self.ignored)

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
