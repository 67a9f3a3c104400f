"""The reserved identities, as flow tools and other clusters know them."""

import pytest

from pilus_api.identities import FIRST_ALLOCATED, LAST_ALLOCATED, RESERVED, reserved_name
from pilus_api.labels import from_security_labels, security_labels


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
