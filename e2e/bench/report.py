"""Figures, for people and for programs.

In: records of figures (build/bench.json), the machine. Out: a table for a terminal, the same as Markdown. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
_HEAD = ("figure", "weather", "value", "spread", "unit", "baseline", "ratio", "goal", "met")


def number(value: float | None) -> str:
    """With as many digits as mean something."""
    if value is None:
        return ""
    if value == 0 or (float(value).is_integer() and abs(value) < 1e6):
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def verdict(record: Record) -> str:
    if record["unresolved"]:
        return "not resolvable here"
    return {True: "yes", False: "NO", None: ""}[record["met"]]


def goal(record: Record) -> str:
    if record["goal"] is None:
        return ""
    sign = "<=" if record["sense"] == "at most" else ">="
    times = "x" if record["judged"] == "ratio" and record["ratio"] is not None else ""
    return f"{sign} {times}{number(record['goal'])}"


def row(record: Record) -> tuple[str, ...]:
    spread = record["spread"]
    baseline = f"{number(record['baseline'])} ({record['of']})" if record["baseline"] is not None else ""
    ratio = f"x{record['ratio']:.2f}" if record["ratio"] is not None else ""
    between = f"{number(spread[0])}-{number(spread[1])}" if spread else ""
    return (str(record["name"]), str(record["weather"]), number(record["value"]), between, str(record["unit"]), baseline, ratio,
            goal(record), verdict(record))  # fmt: skip


def groups(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(str(record["group"]), []).append(record)
    return found


def table(records: Sequence[Record]) -> str:
    """For a terminal, group by group."""
    rows = [row(record) for record in records]
    widths = [max(len(one[column]) for one in (_HEAD, *rows)) for column in range(len(_HEAD))]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    lines = [line(_HEAD)]
    for name, held in groups(records).items():
        lines += ["", f"-- {name}", *(line(row(record)) for record in held)]
    return "\n".join(lines)


def summary(records: Sequence[Record], failed: Mapping[str, str]) -> str:
    judged = [record for record in records if record["met"] is not None]
    missed = [record["name"] for record in judged if not record["met"]]
    unresolved = sum(bool(record["unresolved"]) for record in records)
    text = f"{len(records)} figures; of {len(judged)} with a goal {len(judged) - len(missed)} are met, {len(missed)} are missed"
    if unresolved:
        text += f"; {unresolved} can't be resolved here"
    for name, why in failed.items():
        text += f"\ngroup {name} failed: {why}"
    return text


def markdown(records: Sequence[Record], machine: Mapping[str, str], failed: Mapping[str, str]) -> str:
    """The part of docs/figures.md that a run fills in."""
    lines = ["| the machine | |", "|---|---|", *(f"| {name} | {_cell(text)} |" for name, text in machine.items()), ""]
    lines += [summary(records, failed), "", "![every figure with a goal, and what stands beside it](figures.svg)", ""]
    for name, held in groups(records).items():
        lines += [f"### {name}", "", f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}"]
        lines += [f"| {' | '.join(_cell(cell) for cell in row(record))} |" for record in held]
        notes = [f"- {record['name']} ({record['weather']}): {record['note']}" for record in held if record["note"]]
        lines += ["", *notes, ""] if notes else [""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
