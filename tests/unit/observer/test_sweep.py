"""What has expired, and whose quota is how full."""

from typing import Any

import pytest

from pilus_observer.sweep import Timeouts, expired, quota_writes, timeouts


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (None, Timeouts()),
        ({}, Timeouts(60, 8000, 10, 60)),
        ({"timeout_syn": 5, "event_rate": 9}, Timeouts(syn=5)),
        ({"timeout_syn": 0, "timeout_established": 2, "timeout_closing": 3, "timeout_other": 4}, Timeouts(60, 2, 3, 4)),
    ],
)
def test_timeouts(settings: dict[str, Any] | None, expected: Timeouts) -> None:
    assert timeouts(settings) == expected


@pytest.mark.parametrize(
    ("state", "seconds"), [("syn", 60), ("established", 8000), ("closing", 10), ("other", 60), ("of", 60), ("", 60)]
)
def test_timeout_of_a_state(state: str, seconds: int) -> None:
    assert Timeouts().of(state) == seconds


@pytest.mark.parametrize(
    ("last_seen", "timeout", "now", "void"),
    [
        (100, 60, 100, False),
        (100, 60, 160, False),  # valid within its time-out, the last second included
        (100, 60, 161, True),
        (170, 60, 161, False),  # written after the clock was read
        (0, 8000, 7999, False),
        (0, 10, 11, True),
    ],
)
def test_expired(last_seen: int, timeout: int, now: int, void: bool) -> None:
    assert expired(last_seen, timeout, now) is void


@pytest.mark.parametrize(
    ("counted", "held", "writes", "gone"),
    [
        ({}, {}, {}, []),
        ({1: 5}, {}, {1: 5}, []),
        ({1: 5}, {1: 5}, {}, []),
        ({1: 5, 2: 1}, {1: 9, 2: 1}, {1: 5}, []),
        ({}, {3: 0, 1: 9}, {}, [1, 3]),
        ({2: 2}, {1: 9}, {2: 2}, [1]),
    ],
)
def test_quota_writes(counted: dict[int, int], held: dict[int, int], writes: dict[int, int], gone: list[int]) -> None:
    assert quota_writes(counted, held) == (writes, gone)
