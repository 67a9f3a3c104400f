"""Which labels make an identity: what is built in, and what users have beside it or in its place."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.properties.conftest import WORLDS

from pilus_api.errors import InvalidError
from pilus_api.label_filters import DEFAULT_IGNORED, DEFAULT_INCLUDED, IdentityFilter, label_prefix
from pilus_api.labels import Label, canonical, pod_labels


def kept(filter_: IdentityFilter, *keys: str, source: str = "k8s") -> set[str]:
    return {label.key for label in filter_(canonical(Label(source, key, "v") for key in keys))}


RELEVANT = [
    "app", "app.kubernetes.io/name", "io.kubernetes.pod.namespace", "io.cilium.k8s.policy.cluster", "team", "k8s-app", "kubernetes",
    "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name", "io.cilium.k8s.policy.serviceaccount", "example.com/k8s.io",
    "statefulset.kubernetes.io", "my-controller-uid", "apps.kubernetes.io", "xetcd_node",
]  # fmt: skip
IRRELEVANT = [
    "io.kubernetes.container", "kubernetes.io/arch", "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index", "batch.kubernetes.io/controller-uid", "x.beta.kubernetes.io/y",
    "beta.kubernetes.io/os",
    "k8s.io/x", "pod-template-generation", "pod-template-hash", "pod-template-hash-2", "controller-revision-hash", "controller-uid",
    "annotation", "annotations.x", "etcd_node",
]  # fmt: skip


def test_the_defaults() -> None:
    assert kept(IdentityFilter(), *RELEVANT) == set(RELEVANT)
    assert kept(IdentityFilter(), *IRRELEVANT) == set()
    assert kept(IdentityFilter(), "host", "anything", source="reserved") == {"host", "anything"}


@pytest.mark.parametrize(
    ("extra", "keys", "wanted"),
    [
        (["k8s:team"], ["team", "team2", "app", "steam"], {"team", "team2"}),  # one include: an allow list
        (["team"], ["team", "app"], {"team"}),
        (["any:team"], ["team", "app"], {"team"}),
        (["cidr:team"], ["team", "app"], set()),
        (["!app"], ["team", "app", "apple", "snapp"], {"team", "snapp"}),  # one exclude is none
        (["k8s:!app"], ["team", "app"], {"team"}),
        (["cidr:!app"], ["team", "app"], {"team", "app"}),
        (["!app", "team"], ["team", "app", "other"], {"team"}),
        (["app", "!app.x"], ["app", "app.x", "app.xy"], {"app"}),  # the longer
        (["app.xy", "!app.x"], ["app.xy", "app.x"], {"app.xy"}),
        (["app", "!a", "!app.x"], ["app.x"], {"app.x"}),  # of the excludes the shortest
        (["k8s:pod-template-hash"], ["pod-template-hash"], set()),  # as long as the default's: not longer
        (["k8s:pod-template-hash.*"], ["pod-template-hash", "pod-template-hash-2"], {"pod-template-hash-2"}),
        (["team"], ["io.kubernetes.pod.namespace", "app.kubernetes.io/name"],
         {"io.kubernetes.pod.namespace", "app.kubernetes.io/name"}),  # the default includes stay
    ],
)  # fmt: skip
def test_the_users_entries(extra: list[str], keys: list[str], wanted: set[str]) -> None:
    assert kept(IdentityFilter(extra), *keys) == wanted


def test_one_include_of_the_users_drops_the_account() -> None:
    """And whatever else is in no include: the filter is an allow list then. What the user names again is kept."""
    held = pod_labels({"app": "web", "team": "red"}, "shop", {"tier": "a"}, "robot", "east")

    def keys(*extra: str) -> set[str]:
        return {label.key for label in IdentityFilter(extra)(held)}

    account, derived = "io.cilium.k8s.policy.serviceaccount", {
        "io.kubernetes.pod.namespace", "io.cilium.k8s.namespace.labels.tier", "io.cilium.k8s.policy.cluster",
    }  # fmt: skip
    assert keys() == {"app", "team", account} | derived
    assert keys("k8s:!team") == {"app", account} | derived
    assert keys("k8s:app") == {"app"} | derived
    assert keys("k8s:app", r"k8s:io\.cilium\.k8s\.policy\.serviceaccount") == {"app", account} | derived


def test_expressions_begin_at_the_beginning_and_the_longest_match_counts() -> None:
    """Not the order in which they stand, nor the length of the expression."""
    assert kept(IdentityFilter(["app"]), "app", "apple", "snap.app") == {"app", "apple"}
    for extra in (["app.*", "!app.secret"], ["!app.secret", "app.*"]):
        assert kept(IdentityFilter(extra), "app.secret", "app.secrets", "app.s") == {"app.s", "app.secrets"}
    assert kept(IdentityFilter(["[a][p]", "!appl"]), "apply", "apx") == {"apx"}


@pytest.mark.parametrize("pattern", ["(", "a{1001}", "(?=app)", "((a{100}){100}){100}", "app\ud800"])
def test_an_entry_that_is_no_expression(pattern: str) -> None:
    with pytest.raises(InvalidError, match=r"is not a regular expression: [a-z]"):
        IdentityFilter([f"k8s:{pattern}"])


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", "(.*)*=", "((a?){200})b", "(a*)*(a*)*(a*)*b"])
def test_an_expression_that_would_explode(pattern: str) -> None:
    """It is asked of a key that its pod's owner chose, as long as there are any: with a matcher that goes back it never ends."""
    key = "a" * 316 + "!"
    assert kept(IdentityFilter([f"!{pattern}"]), key, "team", "aaab=") == {key, "team"}


def test_the_syntax_is_that_of_go() -> None:
    assert kept(IdentityFilter([r"k8s:[[:alpha:]]+\d\z"]), "app1", "app", "app12", ":alpha1") == {"app1"}


def test_a_key_that_is_no_text() -> None:
    """JSON may hold one, whatever an API server takes."""
    assert kept(IdentityFilter(["!app"]), "app\ud800", "te\ud800am") == {"te\ud800am"}


def based(*base: str, extra: Sequence[str] = ()) -> IdentityFilter:
    """`base` in place of what is built in, `-` before what is ignored; with `labels`."""
    parts = [(*one.removeprefix("-").partition(":"), one.startswith("-")) for one in base]
    return IdentityFilter(extra, [label_prefix(source, pattern, "x", ignore=ignore) for source, _, pattern, ignore in parts])


def test_other_entries_stand_in_place_of_those_that_are_built_in() -> None:
    assert kept(based("-k8s:app"), "app", "apple", "team", "pod-template-hash") == {"team", "pod-template-hash"}
    assert kept(based("reserved:.*", "-reserved:h"), "host", "world", source="reserved") == {"host", "world"}
    assert kept(based("-any:a", "k8s:app"), "app", "a", "b") == {"app"}
    assert kept(based("-any:a", "cidr:app"), "app", "a", "b") == set()


def test_their_includes_are_an_allow_list_as_those_of_labels_are() -> None:
    base = ("reserved:.*", r"k8s:io\.kubernetes\.pod\.namespace")
    keys = ("io.kubernetes.pod.namespace", "io.cilium.k8s.policy.cluster", "app", "team")
    assert kept(based(*base), *keys) == {"io.kubernetes.pod.namespace"}
    assert kept(based(*base, extra=["k8s:app"]), *keys) == {"io.kubernetes.pod.namespace", "app"}, "not what was built in"


def by_the_rules(label: Label, extra: list[str]) -> bool:
    """The rules, word by word: the longest include I, the shortest ignore G; keep if I > G, or if no include is the user's and G
    is 0."""

    def split(text: str) -> tuple[str, bool, str]:
        source, colon, pattern = text.partition(":")
        source, pattern = (source, pattern) if colon else ("", source)
        return ("" if source == "any" else source), pattern.startswith("!"), pattern.removeprefix("!")

    includes, ignores = [split(text) for text in DEFAULT_INCLUDED], [("", True, text) for text in DEFAULT_IGNORED]
    users = [split(text) for text in extra]
    includes += [one for one in users if not one[1]]
    ignores += [one for one in users if one[1]]

    def lengths(entries: list[tuple[str, bool, str]]) -> list[int]:
        found = []
        for source, _, pattern in entries:
            match = re.match(f"^(?:{pattern})", label.key) if source in ("", label.source) else None
            if match:
                found.append(len(match[0]))
        return found

    included, ignored = max(lengths(includes), default=0), min(lengths(ignores), default=0)
    return included > ignored or (not any(not one[1] for one in users) and ignored == 0)


entries = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "k8s:", "any:", "cidr:"]),
    st.sampled_from(["", "!"]),
    st.sampled_from(["app", "app.*", "a", "team", "pod-template-hash.*", "k8s\\.io/x", "io.kubernetes", "(app|team)x"]),
)
keys = st.sampled_from([*RELEVANT, *IRRELEVANT, "appx", "teamx", "a", "b"])


@WORLDS
@given(st.lists(entries, max_size=4), st.lists(st.builds(Label, st.sampled_from(["k8s", "cidr", "reserved"]), keys, st.just("v"))))
def test_the_filter_against_the_rules(extra: list[str], labels: list[Label]) -> None:
    held = canonical(labels)
    assert IdentityFilter(extra)(held) == tuple(label for label in held if by_the_rules(label, extra))
