"""What has expired, what belongs together, and whose quota is how full."""

from typing import Any

import pytest

from pilus_maps.layout import Layout
from pilus_observer.sweep import TIMEOUTS, expired, other_direction, quota_writes, timeouts

SYN, ESTABLISHED, CLOSING, OTHER = range(4)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, (60, 8000, 10, 60)),
        ({}, TIMEOUTS),
        ({"timeout": (0, 0, 0, 0)}, TIMEOUTS),
        ({"timeout": (5, 0, 0, 0)}, (5, 8000, 10, 60)),
        ({"timeout": (1, 2, 3, 4)}, (1, 2, 3, 4)),
        ({"timeout": (1,)}, (1, 8000, 10, 60)),
    ],
)
def test_timeouts(settings: dict[str, Any] | None, expected: tuple[int, ...]) -> None:
    assert timeouts(settings) == expected


@pytest.mark.parametrize(
    ("state", "last_seen", "now", "void"),
    [
        (SYN, 100, 100, False),
        (SYN, 100, 160, False),  # valid within its time-out, the last second included
        (SYN, 100, 161, True),
        (SYN, 170, 161, False),  # written after the clock was read
        (ESTABLISHED, 0, 8000, False),
        (ESTABLISHED, 0, 8001, True),
        (CLOSING, 0, 11, True),
        (OTHER, 0, 60, False),
        (OTHER, 0, 61, True),
        (9, 0, 61, True),
    ],
)
def test_expired(state: int, last_seen: int, now: int, void: bool) -> None:
    assert expired(state, last_seen, TIMEOUTS, now) is void


def test_other_direction(description: dict[str, Any]) -> None:
    described = description["structs"]["pilus_flow_key"]
    layout, other = Layout(described), other_direction(described["fields"])
    alice, bob = bytes([10]) + bytes(15), bytes([11]) + bytes(15)

    def key(zone: int, source: bytes, source_port: int, destination: bytes, destination_port: int) -> bytes:
        return layout.encode(
            {"zone": zone, "family": 4, "protocol": 6, "source": source, "source_port": source_port,
             "destination": destination, "destination_port": destination_port}
        )  # fmt: skip

    assert other(key(1, alice, 4000, bob, 80), 3) == key(3, bob, 80, alice, 4000)
    assert other(key(3, bob, 80, alice, 4000), 1) == key(1, alice, 4000, bob, 80)


@pytest.mark.parametrize(
    ("counted", "held", "writes"),
    [
        ({}, {}, {}),
        ({1: 5}, {}, {1: 5}),
        ({1: 5}, {1: 5}, {}),
        ({1: 5, 2: 1}, {1: 9, 2: 1}, {1: 5}),
        ({}, {3: 0, 1: 9}, {1: 0}),
        ({2: 2}, {1: 9}, {1: 0, 2: 2}),
        ({0: 7}, {}, {0: 7}),  # of this host's own stack
    ],
)
def test_quota_writes(counted: dict[int, int], held: dict[int, int], writes: dict[int, int]) -> None:
    assert quota_writes(counted, held) == writes
