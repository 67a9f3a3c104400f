"""The reserved identities, as flow tools and other clusters know them."""

import pytest

from pilus_api.errors import InvalidError
from pilus_api.identities import (
    FIRST_ALLOCATED,
    LAST_ALLOCATED,
    RESERVED,
    fixed_identities,
    identity_labels,
    is_fixed,
    reserved_name,
)
from pilus_api.labels import from_security_labels, security_labels
from pilus_api.settings import parse


@pytest.mark.parametrize(
    ("number", "texts"),
    [
        (1, ["reserved:host"]), (2, ["reserved:world"]), (3, ["reserved:unmanaged"]), (4, ["reserved:health"]),
        (5, ["reserved:init"]),
        (6, ["reserved:remote-node"]), (7, ["reserved:kube-apiserver", "reserved:remote-node"]), (8, ["reserved:ingress"]),
        (9, ["reserved:world-ipv4"]), (10, ["reserved:world-ipv6"]),
    ],
)  # fmt: skip
def test_numbers_and_labels(number: int, texts: list[str]) -> None:
    labels = {int(held): labels for held, labels in RESERVED.items()}[number]
    assert [str(label) for label in labels] == texts
    assert from_security_labels(security_labels(labels)) == labels
    assert reserved_name(number) == texts[0].removeprefix("reserved:")


def test_there_are_no_others() -> None:
    assert set(RESERVED) == set(range(1, 11))
    assert len(set(RESERVED.values())) == 10
    assert reserved_name(0) == "unknown"
    assert reserved_name(300) == reserved_name(-1) == ""
    assert max(RESERVED) < FIRST_ALLOCATED <= LAST_ALLOCATED == 65535


def test_settings_give_numbers_to_names() -> None:
    found = fixed_identities(["128=kv-store", "255=other"])
    assert {int(number): [str(label) for label in labels] for number, labels in found.items()} == {
        128: ["reserved:kv-store"],
        255: ["reserved:other"],
    }
    assert all(is_fixed(labels) for labels in found.values())
    assert not any(is_fixed(labels) for labels in RESERVED.values())


@pytest.mark.parametrize(
    "entries", [["127=a"], ["256=a"], ["a=128"], ["128"], ["128="], ["128=host"], ["128=a", "129=a"], ["128=a", "128=b"], ["-1=a"]]
)
def test_a_mapping_that_makes_no_sense_is_refused(entries: list[str]) -> None:
    with pytest.raises(InvalidError):
        fixed_identities(entries)
    with pytest.raises(InvalidError):
        parse({"fixed-identity-mapping": " ".join(entries)})


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("kv-store", "reserved:kv-store"),
        ("host", "reserved:no-identity"),
        ("remote-node", "reserved:no-identity"),
        ("", "reserved:no-identity"),
    ],
)
def test_a_pod_asks_by_a_label_and_is_never_one_of_ours(asked: str, expected: str) -> None:
    labels = {"app": "web", "io.cilium.fixed-identity": asked}
    found = identity_labels(labels, "ns", {"team": "t"}, "sa", "c")
    assert [str(label) for label in found] == [expected]
    assert is_fixed(found)
