"""Records of the ring as events."""

from typing import Any

import pytest

from pilus_maps.layout import Layout
from pilus_observer.events import Decoder, End

ALICE, BOB = bytes([10, 0, 0, 1]) + bytes(12), bytes([10, 0, 0, 2]) + bytes(12)
BASE: dict[str, Any] = {
    "time": 5_250_000_000, "reason": 133, "suppressed": 3, "source_identity": 300, "destination_identity": 301, "endpoint": 7,
    "rule": 12, "hook": 0, "family": 4, "protocol": 6, "path": 0, "direction": 1, "source_port": 4000, "destination_port": 80,
    "source": ALICE, "destination": BOB,
}  # fmt: skip


def raw(description: dict[str, Any], **changed: Any) -> bytes:
    return Layout(description["maps"]["events"]["value"]).encode(BASE | changed)


def test_a_drop(description: dict[str, Any]) -> None:
    event = Decoder(description).decode(raw(description), 1000.0)
    named = event.named(lambda end: End(end.address, end.port, end.identity, ("k8s:a=b",), "d/pod"), {12: "kind/d/p e"}.get)
    end = {"identity": 300, "labels": ["k8s:a=b"], "name": "d/pod"}
    assert named.item() == {
        "time": 1005.25, "verdict": "DROPPED", "reason": "Policy denied", "reason_number": 133, "direction": "egress",
        "hook": "pod_from", "family": 4, "protocol": "TCP", "source": {"address": "10.0.0.1", "port": 4000, **end},
        "destination": {"address": "10.0.0.2", "port": 80, **end, "identity": 301}, "endpoint": 7, "rule": "kind/d/p e",
            "nearest": None, "suppressed": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"reason": 0}, {"verdict": "FORWARDED", "reason": None, "reason_number": 0}),
        ({"endpoint": 0, "rule": 0}, {"endpoint": None, "rule": None}),
        ({"family": 0}, {"family": None}),
        ({"reason": 132, "direction": 0}, {"direction": "egress", "reason": "Invalid source ip"}),
        ({"protocol": 47}, {"protocol": "47"}),
    ],
)
def test_fields(description: dict[str, Any], changed: dict[str, Any], expected: dict[str, Any]) -> None:
    item = Decoder(description).decode(raw(description, **changed), 0.0).item()
    assert {key: item[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("changed", "address", "port"),
    [
        ({"protocol": 17}, "10.0.0.1", 4000),
        ({"protocol": 132}, "10.0.0.1", 4000),
        ({"protocol": 1}, "10.0.0.1", None),  # an identifier, no port
        ({"protocol": 58, "family": 6, "source": bytes(15) + b"\1"}, "::1", None),
        ({"protocol": 47}, "10.0.0.1", None),
        ({"family": 0}, None, None),
    ],
)
def test_ends(description: dict[str, Any], changed: dict[str, Any], address: str | None, port: int | None) -> None:
    source = Decoder(description).decode(raw(description, **changed), 0.0).source
    assert (source.address, source.port) == (address, port)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [({"protocol": 1}, 8), ({"protocol": 58, "family": 6}, 8), ({}, None), ({"protocol": 1, "family": 0}, None)],
)
def test_the_type_of_icmp(description: dict[str, Any], changed: dict[str, Any], expected: int | None) -> None:
    assert Decoder(description).decode(raw(description, icmp_type=8, **changed), 0.0).icmp_type == expected


def test_a_record_of_a_newer_or_older_kernel_side(description: dict[str, Any]) -> None:
    decoder, whole = Decoder(description), raw(description)
    assert decoder.decode(whole + bytes(8), 0.0) == decoder.decode(whole, 0.0)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match="expected"):
            decoder.decode(whole[:length], 0.0)
