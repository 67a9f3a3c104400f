"""When packets began to obey a policy, from datagrams and their answers."""

import math
import struct
from pathlib import Path

from bench.enforcement import figures, moment, read
from bench.figure import Samples

MS = 1_000_000


def pulses(*fates: bool) -> list[tuple[int, bool]]:
    return [(number * MS, fate) for number, fate in enumerate(fates)]


def test_the_first_of_many_unanswered() -> None:
    assert moment(pulses(*[True] * 10, *[False] * 30), 5 * MS, False) == 5.0


def test_one_that_is_lost_is_no_policy() -> None:
    assert moment(pulses(*[True] * 10, False, *[True] * 5, *[False] * 30), 5 * MS, False) == 11.0


def test_what_was_so_before_the_request_does_not_count() -> None:
    assert moment(pulses(*[False] * 30, *[True] * 30), 10 * MS, True) == 20.0


def test_never() -> None:
    assert moment(pulses(*[True] * 50), 0, False) == math.inf


def test_a_record_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "pulse"
    path.write_bytes(struct.pack("=qqqq", 5, 9, 6, -1))
    assert read(path) == [(5, True), (6, False)]


def test_figures_under_churn_say_how_many_pods_it_was() -> None:
    taken = Samples.of([5.0, 6.0])
    said = "39.8 pods a second came and went"
    assert [one.note for one in figures("f", "of 2", "churn", taken, taken, (None, None), said)] == [
        said,
        f"at most 6.0 ms; {said}",
    ]
    assert [one.note for one in figures("f", "of 2", "quiet", taken, taken, (None, None), "")] == ["", "at most 6.0 ms"]
