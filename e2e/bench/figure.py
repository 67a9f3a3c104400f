"""A figure: what was measured, what it stands beside, and whether that is good enough. Pure arithmetic.

In: samples. Out: medians with their spread, ratios, judgements. Never measures.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Weather = Literal["quiet", "churn", "flood"]
Sense = Literal["at most", "at least"]
Judged = Literal["ratio", "value"]


@dataclass(frozen=True, slots=True)
class Samples:
    """Of one quantity, one a round; at least one. Raises ValueError without any."""

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("nothing was measured")

    @classmethod
    def of(cls, values: Iterable[float]) -> "Samples":
        return cls(tuple(values))

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The first and the third quartile; of fewer than four samples the least and the most."""
        if len(self.values) < 4:
            return min(self.values), max(self.values)
        first, _, third = statistics.quantiles(self.values, n=4, method="inclusive")
        return first, third

    @property
    def most(self) -> float:
        return max(self.values)

    @property
    def last_percent(self) -> float:
        """What 99 of 100 samples do not exceed."""
        return sorted(self.values)[math.ceil(0.99 * len(self.values)) - 1]

    def scaled(self, factor: float) -> "Samples":
        return Samples(tuple(value * factor for value in self.values))


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `baseline` is in the unit of `value`, and of the same run; `of` says what it is.

    `goal` bounds the ratio, or the value where `judged` says so (as it has to where there is no baseline). `unresolved`: the
    spread is wider than the difference that is asked for, so the figure says neither yes nor no.
    """

    name: str
    unit: str
    value: float
    weather: Weather = "quiet"
    spread: tuple[float, float] | None = None
    baseline: float | None = None
    of: str = ""
    goal: float | None = None
    sense: Sense = "at most"
    judged: Judged = "ratio"
    unresolved: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.value / self.baseline if self.baseline else None

    @property
    def met(self) -> bool | None:
        """None where there is no goal, or where it can't be said."""
        if self.goal is None or self.unresolved:
            return None
        ratio = self.ratio if self.judged == "ratio" else None
        held = self.value if ratio is None else ratio
        return held <= self.goal if self.sense == "at most" else held >= self.goal

    def record(self, group: str) -> dict[str, Any]:
        """As build/bench.json has it."""
        held = asdict(self)
        first = {key: held[key] for key in ("name", "weather", "value", "unit", "baseline")}
        rest = {key: held[key] for key in ("spread", "of", "sense", "judged", "unresolved", "note")}
        return {**first, "ratio": self.ratio, "goal": self.goal, "met": self.met, "group": group, **rest}


def figure_of(record: Mapping[str, Any]) -> Figure:
    """The figure that a record was made from."""
    known = {key: record[key] for key in Figure.__slots__ if key in record}
    if known.get("spread") is not None:
        known["spread"] = (known["spread"][0], known["spread"][1])
    return Figure(**known)


def measured(name: str, unit: str, samples: Samples, **more: Any) -> Figure:
    """The median of the samples, with their spread."""
    return Figure(name, unit, samples.median, spread=samples.spread, **more)


def apart(name: str, unit: str, held: Samples, quiet: Samples, weather: Weather, most: float, of: str = "quiet") -> Figure:
    """How far a weather (or a policy) is from quiet (or from none), for samples taken round by round in turn.

    `value` is the median; `baseline` is what makes the ratio the median of the rounds' own ratios. Unresolved where half of
    those ratios' spread is wider than `most`, or where a miss is no more than part of the spread. Raises ValueError for rounds
    that do not pair.
    """
    if len(held.values) != len(quiet.values):
        raise ValueError("rounds do not pair")
    ratios = Samples.of(one / other for one, other in zip(held.values, quiet.values, strict=True))
    low, high = ratios.spread
    baseline = held.median / ratios.median
    within = abs(ratios.median - 1) <= most
    unresolved = (high - low) / 2 > most or (not within and low - most <= 1 <= high + most)
    said = f"ratio by round {low:.3f} to {high:.3f}"
    return Figure(name, unit, held.median, weather, held.spread, baseline, f"{of}, round by round", 1 + most,
                  unresolved=unresolved, note=said)  # fmt: skip
