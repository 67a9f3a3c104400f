"""A picture of what stands beside what: ratios of every figure with a goal, and round trips of every system.

In: records. Out: an SVG file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MET, _MISSED, _OPEN, _OTHERS = "#2f7d5b", "#c0492f", "#b9a13a", "#8a94a6"
_TRIPS = ("request/response", "connect/request/response", "the same through a ClusterIP", "one TCP stream")


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Writes `path`. Nothing is shown, no display is needed."""
    import matplotlib as mpl  # noqa: PLC0415  # half a second, which no other part needs

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "pilus"
    mpl.rcParams["svg.fonttype"] = "none"  # text as text: a tenth of the size
    import matplotlib.pyplot as plt  # noqa: PLC0415

    trips = [record for record in records if record["group"] == "roundtrips" and str(record["name"]).startswith(_TRIPS)
             and record["ratio"] is not None]  # fmt: skip
    others = [record for record in records if record["goal"] and record not in trips]
    rows = max(len(trips), 1) + max(len(others), 1)
    figure, axes = plt.subplots(2, 1, figsize=(11, 1.6 + 0.23 * rows),
                                gridspec_kw={"height_ratios": [max(len(trips), 1), max(len(others), 1)]})  # fmt: skip
    _bars(axes[0], trips, [float(record["ratio"]) for record in trips], "over loopback (a stream: of loopback)")
    shares = [_of_goal(record) for record in others]
    _bars(axes[1], others, shares, "share of the goal: up to 1 is met")
    axes[1].axvline(1.0, color="black", linewidth=0.8)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def _of_goal(record: Mapping[str, Any]) -> float:
    ratio = record["ratio"] if record["judged"] == "ratio" else None
    held = float(record["value"] if ratio is None else ratio)
    wanted = float(record["goal"])
    return held / wanted if record["sense"] == "at most" else wanted / max(held, 1e-9)


def _bars(axis: Any, records: Sequence[Mapping[str, Any]], values: Sequence[float], title: str) -> None:
    names = [f"{record['name']}{'' if record['weather'] == 'quiet' else ', ' + record['weather']}" for record in records]
    colours = [_OPEN if record["unresolved"] else {True: _MET, False: _MISSED, None: _OTHERS}[record["met"]] for record in records]
    shown = [min(value, 3.2) for value in values]
    axis.barh(range(len(records)), shown, color=colours, height=0.7)
    for number, (record, value) in enumerate(zip(records, values, strict=True)):
        axis.text(min(value, 3.2) + 0.02, number, f"{value:.2f}", va="center", fontsize=7)
        if record["goal"] is not None and title.startswith("over"):
            axis.plot([record["goal"]] * 2, [number - 0.4, number + 0.4], color="black", linewidth=1.2)
    axis.set_yticks(range(len(records)), names, fontsize=7)
    axis.set_ylim(len(records) - 0.4, -0.6)
    axis.set_title(title, fontsize=9, loc="left")
    axis.tick_params(axis="x", labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
