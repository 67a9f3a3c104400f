"""The benchmark's arithmetic: medians, spreads, ratios, and what counts as met."""

import pytest

from bench.figure import Figure, Judged, Samples, Sense, apart, figure_of, measured


def test_median_and_spread() -> None:
    held = Samples.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert (held.median, held.spread, held.most) == (3.0, (2.0, 4.0), 5.0)


def test_of_few_samples_the_spread_is_all_of_them() -> None:
    assert Samples.of([3.0, 1.0]).spread == (1.0, 3.0)


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Samples.of([])


@pytest.mark.parametrize(
    ("value", "baseline", "goal", "sense", "judged", "met"),
    [
        (11.0, 10.0, 1.15, "at most", "ratio", True),
        (12.0, 10.0, 1.15, "at most", "ratio", False),
        (11.5, 10.0, 1.15, "at most", "ratio", True),
        (9.0, 10.0, 0.92, "at least", "ratio", False),
        (9.5, 10.0, 0.92, "at least", "ratio", True),
        (19.0, 5.0, 20.0, "at most", "value", True),  # beside a baseline, and judged by itself all the same
        (21.0, 5.0, 20.0, "at most", "value", False),
        (19.0, None, 20.0, "at most", "ratio", True),  # no baseline: only the value can be judged
        (1.0, None, None, "at most", "value", None),
        (0.0, None, 0.0, "at most", "value", True),
    ],
)
def test_met(value: float, baseline: float | None, goal: float | None, sense: Sense, judged: Judged, met: bool | None) -> None:
    assert Figure("f", "us", value, baseline=baseline, goal=goal, sense=sense, judged=judged).met is met


def test_no_ratio_without_a_baseline() -> None:
    assert Figure("f", "us", 3.0).ratio is None
    assert Figure("f", "us", 3.0, baseline=2.0).ratio == 1.5


def test_unresolved_is_neither_met_nor_missed() -> None:
    assert Figure("f", "us", 3.0, goal=1.0, unresolved=True).met is None


def weather(held: list[float], quiet: list[float]) -> Figure:
    return apart("f", "ns", Samples.of(held), Samples.of(quiet), "churn", 0.03)


def test_weathers_that_are_alike() -> None:
    found = weather([101.0, 100.0, 102.0, 101.0], [100.0, 100.0, 101.0, 100.0])
    assert found.met is True
    assert found.ratio == pytest.approx(1.01, abs=1e-3)


def test_weathers_that_are_apart() -> None:
    assert weather([110.0, 111.0, 110.0, 110.0], [100.0, 100.0, 100.0, 100.0]).met is False


def test_rounds_are_compared_one_by_one_so_drift_is_in_neither() -> None:
    found = weather([100.0, 200.0, 300.0, 400.0], [100.0, 200.0, 300.0, 400.0])
    assert found.met is True
    assert found.ratio == pytest.approx(1.0)


def test_a_spread_wider_than_the_question_resolves_nothing() -> None:
    found = weather([90.0, 112.0, 95.0, 108.0], [100.0, 100.0, 100.0, 100.0])
    assert found.unresolved
    assert found.met is None


def test_rounds_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        weather([1.0], [1.0, 2.0])


def test_a_record_has_what_is_promised_and_can_be_read_back() -> None:
    figure = measured("f", "us", Samples.of([1.0, 2.0, 3.0]), baseline=4.0, of="loopback", goal=1.2)
    record = figure.record("g")
    assert list(record)[:8] == ["name", "weather", "value", "unit", "baseline", "ratio", "goal", "met"]
    assert (record["ratio"], record["met"], record["group"]) == (0.5, True, "g")
    assert figure_of(record) == figure


@pytest.mark.parametrize(("count", "expected"), [(1, 0), (50, 49), (100, 98), (200, 197)])
def test_what_99_of_100_do_not_exceed(count: int, expected: int) -> None:
    assert Samples.of(reversed(range(count))).last_percent == expected
