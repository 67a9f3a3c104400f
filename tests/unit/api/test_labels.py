"""Label sets: their texts, their one form, and what a pod may not claim."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilus_api.errors import InvalidError
from pilus_api.labels import (
    Label,
    canonical,
    from_security_labels,
    parse_label,
    pod_labels,
    security_labels,
)

parts = st.text("ab.:/=", max_size=4)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("k8s:app=web", Label("k8s", "app", "web")),
        ("k8s:app", Label("k8s", "app", "")),
        ("app=web", Label("any", "app", "web")),
        ("app", Label("any", "app", "")),
        ("any:app", Label("any", "app", "")),
        ("reserved:host", Label("reserved", "host", "")),
        ("reserved.host", Label("reserved", "host", "")),
        ("$host", Label("reserved", "host", "")),
        ("k8s:a=b:c=d", Label("k8s", "a", "b:c=d")),
        ("k8s:a=", Label("k8s", "a", "")),
        ("a=b:c", Label("any", "a", "b:c")),
        ("k8s:io.kubernetes.pod.namespace=d", Label("k8s", "io.kubernetes.pod.namespace", "d")),
        (":a", Label("", "a", "")),
    ],
)
def test_texts(text: str, label: Label) -> None:
    assert parse_label(text) == label


@pytest.mark.parametrize("text", ["", "=", "=web", "k8s:", "k8s:=web", ":", "reserved.", "$"])
def test_a_label_needs_a_key(text: str) -> None:
    with pytest.raises(InvalidError, match="needs a key"):
        parse_label(text)


@given(st.sampled_from(["k8s", "reserved", "cidr"]), st.text("ab./-", min_size=1, max_size=5), parts)
def test_texts_are_read_as_they_were_written(source: str, key: str, value: str) -> None:
    assert parse_label(str(Label(source, key, value))) == Label(source, key, value)


@given(st.lists(st.builds(Label, st.sampled_from("xy"), st.sampled_from("ab"), parts), unique_by=lambda one: one[:2]), st.randoms())
def test_one_form_for_a_set(labels: list[Label], chance: object) -> None:
    before = canonical(labels)
    chance.shuffle(labels)  # type: ignore[attr-defined]
    assert canonical(labels) == canonical([*labels, *labels]) == before == tuple(sorted(labels))
    assert from_security_labels(security_labels(before)) == before


def test_of_one_key_the_last_holds() -> None:
    assert canonical([Label("k8s", "a", "1"), Label("x", "a", "2"), Label("k8s", "a", "3")]) == (
        Label("k8s", "a", "3"), Label("x", "a", "2"),
    )  # fmt: skip


def test_a_pods_labels() -> None:
    found = {label.key: label.value for label in pod_labels({"app": "web"}, "shop", {"team": "red"}, "robot", "east")}
    assert found == {
        "app": "web",
        "io.cilium.k8s.namespace.labels.team": "red",
        "io.kubernetes.pod.namespace": "shop",
        "io.cilium.k8s.policy.cluster": "east",
        "io.cilium.k8s.policy.serviceaccount": "robot",
    }
    assert all(label.source == "k8s" for label in pod_labels({"app": "web"}, "shop", {"team": "red"}, "robot", "east"))
    assert not any("serviceaccount" in label.key for label in pod_labels({}, "shop", {}, "", "east"))


def test_derived_labels_can_not_be_spoofed() -> None:
    lies = {
        "io.cilium.k8s.policy.cluster": "west", "io.cilium.k8s.policy.serviceaccount": "admin",
        "io.cilium.k8s.namespace.labels.team": "root", "io.cilium.k8sx": "x", "io.kubernetes.pod.namespace": "kube-system",
    }  # fmt: skip
    assert pod_labels(lies, "shop", {"team": "red"}, "", "east") == pod_labels({}, "shop", {"team": "red"}, "", "east")
    # A namespace's own labels are the namespace's.
    found = pod_labels({}, "shop", {"io.cilium.k8s.policy.cluster": "west"}, "", "east")
    assert Label("k8s", "io.cilium.k8s.policy.cluster", "east") in found
