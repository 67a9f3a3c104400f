"""Identities: label sets of pods, numbers of label sets, and collection."""

import pytest

from pilus_api.identities import Identity, fixed_identities
from pilus_api.label_filters import IdentityFilter
from pilus_api.watch import Key
from pilus_operator.facts import IdentityObject, Pod
from pilus_operator.identities import REST_SECONDS, Collection, Delete, Mark, Numbers, Pairs, PodIdentities

BASE = (
    ("k8s:io.cilium.k8s.namespace.labels.team", "t"),
    ("k8s:io.cilium.k8s.policy.cluster", "c"),
    ("k8s:io.cilium.k8s.policy.serviceaccount", "sa"),
    ("k8s:io.kubernetes.pod.namespace", "ns"),
)
KEY = Key("ns", "a")


def pod(*, host: bool = False, finished: bool = False, **labels: str) -> Pod:
    return Pod("u", tuple(sorted(labels.items())), "sa", "", host, finished)


def pods() -> PodIdentities:
    made = PodIdentities(IdentityFilter(), "c")
    made.set_namespace("ns", (("team", "t"),))
    return made


def held(*labels: tuple[str, str], since: str = "", version: str = "1") -> IdentityObject:
    return IdentityObject(tuple(labels), "uid", version, since)


def test_a_pod_has_a_label_set_before_it_is_scheduled() -> None:
    made = pods()
    made.set_pod(KEY, pod(app="web"))
    assert made.labels_of(KEY) == (("k8s:app", "web"), *BASE)
    assert made.users_of((("k8s:app", "web"), *BASE)) == {KEY}


@pytest.mark.parametrize("unwanted", [pod(host=True), pod(finished=True)])
def test_pods_of_the_host_s_network_and_finished_ones_have_none(unwanted: Pod) -> None:
    made = pods()
    made.set_pod(KEY, pod(app="web"))
    made.set_pod(KEY, unwanted)
    assert made.labels_of(KEY) is None
    assert not made.used


def test_labels_that_make_no_identity_do_not_part_pods() -> None:
    made = pods()
    made.set_pod(KEY, Pod("u", (("app", "web"), ("pod-template-hash", "1")), "sa", "", False, False))
    made.set_pod(Key("ns", "b"), Pod("v", (("app", "web"), ("pod-template-hash", "2")), "sa", "n1", False, False))
    assert len(made.used) == 1


def test_a_pod_waits_for_its_namespace_and_follows_its_labels() -> None:
    made = PodIdentities(IdentityFilter(), "c")
    made.set_pod(KEY, pod())
    assert made.labels_of(KEY) is None
    assert list(made.set_namespace("ns", (("team", "t"),))) == [KEY]
    assert made.labels_of(KEY) == BASE
    assert list(made.set_namespace("ns", (("team", "t"),))) == []
    made.set_namespace("ns", (("team", "u"),))
    assert made.labels_of(KEY) == (("k8s:io.cilium.k8s.namespace.labels.team", "u"), *BASE[1:])
    assert len(made.used) == 1


def test_a_namespace_that_goes_leaves_its_pods_what_they_have() -> None:
    made = pods()
    made.set_pod(KEY, pod())
    made.remove_namespace("ns")
    made.set_pod(KEY, pod())
    assert made.labels_of(KEY) == BASE
    made.remove_pod(KEY)
    made.remove_pod(KEY)
    assert not made.used


def test_the_lowest_number_of_a_label_set_counts() -> None:
    numbers = Numbers()
    for number in (300, 299, 301):
        numbers.set(Identity(number), held(("k8s:a", "b")))
    assert numbers.of((("k8s:a", "b"),)) == 299
    assert numbers.remove(Identity(299), 0) == (("k8s:a", "b"),)
    assert numbers.of((("k8s:a", "b"),)) == 300
    assert numbers.remove(Identity(299), 0) is None


def test_an_object_whose_labels_were_changed_stands_for_the_new_ones_alone() -> None:
    numbers = Numbers()
    numbers.set(Identity(300), held(("k8s:a", "b")))
    numbers.set(Identity(300), held(("k8s:a", "c")))
    assert numbers.of((("k8s:a", "b"),)) is None
    assert numbers.of((("k8s:a", "c"),)) == 300


def test_numbers_go_round_and_rest_an_hour() -> None:
    numbers = Numbers(cursor=65534)
    assert [numbers.next(0) for _ in range(3)] == [65534, 65535, 256]
    numbers.set(Identity(257), held())
    numbers.set(Identity(258), held(("k8s:x", "y")))
    numbers.remove(Identity(258), 0)
    assert numbers.next(1) == 259
    numbers.cursor = 256
    assert [numbers.next(REST_SECONDS - 1) for _ in range(2)] == [256, 259]
    numbers.cursor = 257
    assert numbers.next(REST_SECONDS) == 258


def test_when_every_number_is_taken_there_is_none_and_refused_ones_are_tried_again() -> None:
    numbers = Numbers()
    for number in range(256, 65536):
        numbers.refuse(Identity(number))
    assert numbers.next(0) is None
    assert numbers.next(0) == 256


@pytest.mark.parametrize(
    ("cluster", "first", "last"), [(0, 256, 65535), (3, 3 << 16, (3 << 16) + 65535), (255, 255 << 16, (1 << 24) - 1)]
)
def test_each_cluster_has_its_own_numbers(cluster: int, first: int, last: int) -> None:
    """Never one of 2^24 and above, which a node gives itself. Without an id it is 0's, which no mesh has."""
    numbers = Numbers(cluster, cursor=last)
    assert [numbers.next(0), numbers.next(0)] == [last, first]


LABELS: Pairs = (("k8s:a", "b"),)


@pytest.mark.parametrize(
    ("what", "found", "used", "carried", "marked", "action"),
    [
        ("used", held(*LABELS), {LABELS}, set(), {}, None),
        ("carried by an endpoint", held(*LABELS), set(), {300}, {}, None),
        ("unused", held(*LABELS), set(), set(), {}, Mark(Identity(300), unused=True)),
        ("used again", held(*LABELS, since="x"), {LABELS}, set(), {300: 0.0}, Mark(Identity(300), unused=False)),
        ("carried again", held(*LABELS, since="x"), set(), {300}, {300: 0.0}, Mark(Identity(300), unused=False)),
        ("marked, too early", held(*LABELS, since="x"), set(), set(), {300: 50.0}, None),
        ("marked, never seen by us", held(*LABELS, since="x"), set(), set(), {}, None),
        ("marked for long", held(*LABELS, since="x"), set(), set(), {300: 40.0}, Delete(Identity(300), "uid", "1")),
    ],
)
def test_one_round_of_collection(
    what: str, found: IdentityObject, used: set[Pairs], carried: set[int], marked: dict[Identity, float], action: object
) -> None:
    numbers = Numbers()
    numbers.set(Identity(300), found)
    collection = Collection(numbers, used, carried, marked, 60.0)
    assert collection.judge(Identity(300), 100.0) == action
    assert collection.plan(100.0) == ([action] if action else [])


def test_a_second_object_of_a_label_set_is_unused() -> None:
    numbers = Numbers()
    for number in (300, 301):
        numbers.set(Identity(number), held(*LABELS))
    assert Collection(numbers, {LABELS}, set(), {}, 60.0).plan(0.0) == [Mark(Identity(301), unused=True)]
    assert Collection(numbers, set(), set(), {}, 60.0).judge(Identity(999), 0.0) is None


def test_a_pod_that_asks_for_a_fixed_identity_gets_its_number_and_nobody_allocates_one() -> None:
    made = pods()
    numbers = Numbers(fixed=fixed_identities(["128=kv-store"]))
    for name, asked, expected in (("a", "kv-store", 128), ("b", "unknown", None)):
        key = Key("ns", name)
        made.set_pod(key, Pod("u", (("app", "web"), ("io.cilium.fixed-identity", asked)), "sa", "", False, False))
        labels = made.labels_of(key)
        assert labels is not None
        assert numbers.of(labels) == expected
        assert not numbers.lacks(labels)
    # Nor does an object that somebody has made give a name a number.
    numbers.set(Identity(300), held(("reserved:unknown", "")))
    assert numbers.of((("reserved:unknown", ""),)) is None
